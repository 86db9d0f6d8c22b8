//! `/v2/images/{image_id}/import` and `/v2/info/import`: begins imports, and lists their methods.

use axum::{
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse as _, Response},
};
use serde_json::json;

use crate::{
    app::SharedApp,
    context::Context,
    data::other_node::Incoming,
    error::Result,
    http::{
        error::EMPTY_TYPE,
        extract::{ImagePath, JsonObject, NoBody},
        json,
    },
    import::{self, ImportRequest},
};

pub(super) async fn begin(
    State(app): State<SharedApp>,
    context: Context,
    ImagePath(id): ImagePath,
    incoming: Incoming,
    JsonObject(body): JsonObject,
) -> Result<Response> {
    let request = ImportRequest::parse(&app, body)?;
    import::begin(&app, &context, &id, &request, &incoming).await?;
    Ok((StatusCode::ACCEPTED, [(header::CONTENT_TYPE, EMPTY_TYPE)]).into_response())
}

pub(super) async fn methods(State(app): State<SharedApp>, _: NoBody) -> Response {
    let methods = json!({
        "description": "Import methods available.",
        "type": "array",
        "value": import::methods(&app),
    });
    json::response(&json!({ "import-methods": methods }))
}
