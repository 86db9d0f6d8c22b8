//! `/v2/schemas/…`: the JSON schemas of the API.

use axum::{extract::State, response::Response};

use crate::{
    app::SharedApp,
    http::{extract::NoBody, json},
};

pub(super) async fn image(State(app): State<SharedApp>, _: NoBody) -> Response {
    json::ascii_response(app.schemas.image())
}

pub(super) async fn images(State(app): State<SharedApp>, _: NoBody) -> Response {
    json::ascii_response(&app.schemas.images)
}

pub(super) async fn member(State(app): State<SharedApp>, _: NoBody) -> Response {
    json::ascii_response(&app.schemas.member)
}

pub(super) async fn members(State(app): State<SharedApp>, _: NoBody) -> Response {
    json::ascii_response(&app.schemas.members)
}

pub(super) async fn task(State(app): State<SharedApp>, _: NoBody) -> Response {
    json::ascii_response(app.schemas.task())
}

pub(super) async fn tasks(State(app): State<SharedApp>, _: NoBody) -> Response {
    json::ascii_response(&app.schemas.tasks)
}
