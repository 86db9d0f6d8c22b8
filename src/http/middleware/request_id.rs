//! Assigns an id to each request, which is in the response and in every log line about the request.

use axum::{
    extract::{Request, State},
    http::{HeaderName, HeaderValue, StatusCode},
    middleware::Next,
    response::{IntoResponse, Response},
};
use tracing::{Instrument as _, field::Empty};
use uuid::Uuid;

use super::access_log::RequestSpan;
use crate::{app::SharedApp, http::error::ErrorResponse};

const HEADER: HeaderName = HeaderName::from_static("x-openstack-request-id");

/// The id of a request, among its extensions.
#[derive(Clone)]
pub(in crate::http) struct RequestId(pub(in crate::http) String);

/// Middleware: uses the id that the client sent if it is valid, otherwise generates one.
pub(in crate::http) async fn assign(State(app): State<SharedApp>, mut request: Request, next: Next) -> Response {
    let limit = app.config.default.max_request_id_length as usize;
    let offered = request.headers().get(HEADER).map(|id| id.to_str().unwrap_or_default().to_owned());
    let too_long = limit > 0 && offered.as_ref().is_some_and(|id| id.len() > limit);
    let taken = offered.filter(|id| !too_long && is_id(id));
    let id = match taken {
        Some(id) if id.starts_with("req-") => id,
        Some(id) => format!("req-{id}"),
        None => format!("req-{}", Uuid::new_v4()),
    };
    request.extensions_mut().insert(RequestId(id.clone()));
    // The span has the highest level, so that every line has the request's id, whatever the log is filtered by.
    let span = tracing::error_span!("request", id, user = Empty, project = Empty);
    let kept = RequestSpan(span.clone());
    async move {
        let mut response = if too_long {
            let explanation = format!("x-openstack-request-id is too long, max size {limit}");
            ErrorResponse::new(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, explanation).into_response()
        } else {
            next.run(request).await
        };
        if let Ok(value) = HeaderValue::from_str(&id) {
            response.headers_mut().insert(HEADER, value);
        }
        response.extensions_mut().insert(kept);
        response
    }
    .instrument(span)
    .await
}

/// Whether the text can be used in a log line and a header.
fn is_id(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:".contains(&b))
}
