//! `/healthcheck`: whether a load balancer should send requests here. Needs no authentication and asks nobody.

use axum::{
    extract::State,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};

use super::SharedApp;

pub(super) async fn show(State(app): State<SharedApp>) -> Response {
    let content_type = [(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=UTF-8"))];
    if app.is_draining() {
        return (StatusCode::SERVICE_UNAVAILABLE, [(header::CONNECTION, "close")], content_type, "DRAINING")
            .into_response();
    }
    (StatusCode::OK, content_type, "OK").into_response()
}
