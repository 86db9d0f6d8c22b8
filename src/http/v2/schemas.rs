//! `/v2/schemas/…`

use axum::{extract::State, response::Response};

use crate::http::{SharedApp, extract::NoBody, json};

pub(super) async fn image(State(app): State<SharedApp>, _: NoBody) -> Response {
    json::response(&app.schemas.image)
}

pub(super) async fn images(State(app): State<SharedApp>, _: NoBody) -> Response {
    json::response(&app.schemas.images)
}
