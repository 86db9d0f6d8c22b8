//! `/v2/info/usage`: the usage and limits of the caller's project.

use axum::{extract::State, response::Response};
use serde::{Serialize, Serializer};

use crate::{
    app::SharedApp,
    context::Context,
    error::Result,
    http::{extract::NoBody, json},
    limits::Usage,
};

#[derive(Serialize)]
struct UsageBody {
    #[serde(serialize_with = "by_resource")]
    usage: Vec<Usage>,
}

#[derive(Serialize)]
struct Numbers {
    usage: u128,
    limit: i64,
}

fn by_resource<S: Serializer>(usage: &[Usage], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(usage.iter().map(|one| (one.resource.name(), Numbers { usage: one.used, limit: one.limit })))
}

pub(super) async fn usage(State(app): State<SharedApp>, context: Context, _: NoBody) -> Result<Response> {
    let usage = app.limits.usage(&app.db, &context).await?;
    Ok(json::response(&UsageBody { usage }))
}
