//! 204 as Glance sends it.

use axum::{
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};

use super::error::EMPTY_TYPE;

/// A response without a body. Glance's has a media type nevertheless. Its `Content-Length: 0` is invalid in HTTP, and hyper does
/// not send it.
pub(super) struct NoContent;

impl IntoResponse for NoContent {
    fn into_response(self) -> Response {
        (StatusCode::NO_CONTENT, [(header::CONTENT_TYPE, EMPTY_TYPE)]).into_response()
    }
}
