//! `/v2/images/{image_id}/import` and `/v2/info/import`: begins imports, and lists their methods.

use axum::{
    Extension,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use serde_json::json;

use crate::{
    app::SharedApp,
    context::Context,
    error::Result,
    http::{
        error::EMPTY_TYPE,
        extract::{ImagePath, JsonObject, NoBody},
        json,
        middleware::request_id::RequestId,
    },
    import::{self, ImportRequest},
};

pub(super) async fn begin(
    State(app): State<SharedApp>,
    context: Context,
    ImagePath(id): ImagePath,
    Extension(RequestId(request_id)): Extension<RequestId>,
    headers: HeaderMap,
    JsonObject(body): JsonObject,
) -> Result<Response> {
    let request = ImportRequest::parse(&app, body)?;
    let store = headers.get("x-image-meta-store").and_then(|store| store.to_str().ok());
    import::begin(&app, &context, &id, &request, store, Some(&request_id)).await?;
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
