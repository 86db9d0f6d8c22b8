//! Bounds on what a request may carry beside its body, which its reader bounds.

use axum::{
    extract::Request,
    http::StatusCode,
    middleware::Next,
    response::{IntoResponse, Response},
};

use crate::http::error::Refusal;

/// Bytes of a request's target and headers: a Keystone token with a large catalog fits. hyper's own bound is on its
/// buffer, which a fast client overruns.
const MAX_HEAD: usize = 64 * 1024;

pub(in crate::http) async fn refuse_large_head(request: Request, next: Next) -> Response {
    let headers = request.headers().iter().map(|(name, value)| name.as_str().len() + value.len()).sum::<usize>();
    let target = request.uri().path().len() + request.uri().query().map_or(0, str::len);
    if headers + target > MAX_HEAD {
        let explanation = format!("The request's target and headers are larger than {MAX_HEAD} bytes.");
        return Refusal::new(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, explanation).into_response();
    }
    next.run(request).await
}
