//! `/healthcheck`: reports whether a load balancer should send requests here. Requires no authentication, and queries neither the
//! database nor other services.

use std::path::Path;

use axum::{
    extract::State,
    http::{HeaderValue, Method, StatusCode, header},
    response::{IntoResponse, Response},
};

use crate::app::SharedApp;

pub(super) async fn check(State(app): State<SharedApp>, method: Method) -> Response {
    let content_type = [(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=UTF-8"))];
    if app.is_draining() {
        return (StatusCode::SERVICE_UNAVAILABLE, [(header::CONNECTION, "close")], content_type, "DRAINING")
            .into_response();
    }
    if app.config.healthcheck.disable_by_file_path.as_deref().is_some_and(Path::exists) {
        return (StatusCode::SERVICE_UNAVAILABLE, content_type, "DISABLED BY FILE").into_response();
    }
    if method == Method::HEAD {
        return StatusCode::NO_CONTENT.into_response();
    }
    (StatusCode::OK, content_type, "OK").into_response()
}
