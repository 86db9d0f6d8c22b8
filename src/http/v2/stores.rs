//! `/v2/info/stores`, `/v2/info/stores/detail` and `/v2/stores/{store_id}/{image_id}`: lists stores, and removes an image's data
//! from one.

use axum::{extract::State, response::Response};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::{
    app::{App, SharedApp},
    context::Context,
    error::Result,
    http::{
        extract::{NoBody, PathVariables},
        json,
        no_content::NoContent,
    },
    images::stores,
};

/// A store. As in Glance, booleans are strings here, and false ones are left out.
#[derive(Serialize)]
struct StoreBody<'s> {
    id: &'s str,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<&'s str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    default: Option<&'static str>,
    #[serde(rename = "read-only", skip_serializing_if = "Option::is_none")]
    read_only: Option<&'static str>,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    detail: Option<Detail<'s>>,
}

/// The attributes that only `/v2/info/stores/detail` shows.
#[derive(Serialize)]
struct Detail<'s> {
    #[serde(rename = "type")]
    kind: &'s str,
    properties: Map<String, Value>,
    weight: i64,
}

#[derive(Serialize)]
struct StoresBody<'s> {
    stores: Vec<StoreBody<'s>>,
}

fn body(app: &App, detailed: bool) -> Response {
    let default = app.stores.default();
    let flag = |value: bool| value.then_some("true");
    let stores = stores::all(app).map(|store| StoreBody {
        id: &store.id,
        description: store.description.as_deref(),
        default: flag(store.id == default.id),
        read_only: flag(store.is_read_only()),
        detail: detailed.then(|| Detail { kind: &store.kind, properties: store.properties(), weight: store.weight }),
    });
    json::response(&StoresBody { stores: stores.collect() })
}

pub(super) async fn list(State(app): State<SharedApp>, _: NoBody) -> Result<Response> {
    stores::check_named(&app)?;
    Ok(body(&app, false))
}

pub(super) async fn detail(State(app): State<SharedApp>, context: Context, _: NoBody) -> Result<Response> {
    stores::authorise_detail(&app, &context)?;
    Ok(body(&app, true))
}

pub(super) async fn remove_data(
    State(app): State<SharedApp>,
    context: Context,
    PathVariables([store, image]): PathVariables<2>,
    _: NoBody,
) -> Result<NoContent> {
    stores::remove_data(&app, &context, &store, &image.into()).await?;
    Ok(NoContent)
}
