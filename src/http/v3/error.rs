//! Error responses as Keystone writes them.

use axum::{
    body::Body,
    extract::{Request, State},
    http::{HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use serde_json::json;

use crate::{
    app::SharedApp,
    error::{Error, Result},
    http::{error::ErrorResponse, json, links},
};

/// The ways to log in.
pub(super) const METHODS: [&str; 2] = ["password", "token"];
/// The message of a 401. It does not say what was wrong.
const UNAUTHENTICATED: &str = "The request you have made requires authentication.";
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// Middleware: writes the body of an error response, and the headers that every response has. A shared cache must not store any of
/// them.
pub(super) async fn render(State(app): State<SharedApp>, request: Request, next: Next) -> Response {
    let base = links::base(&app, request.headers(), request.uri());
    let is_head = request.method() == Method::HEAD;
    let mut response = next.run(request).await;
    if let Some(error_response) = response.extensions_mut().remove::<ErrorResponse>() {
        let status = response.status();
        let message = if status == StatusCode::UNAUTHORIZED { UNAUTHENTICATED } else { error_response.explanation() };
        let title = status.canonical_reason().unwrap_or("Error");
        let mut error = json!({ "error": { "code": status.as_u16(), "message": message, "title": title } });
        if response.extensions_mut().remove::<UnsupportedMethod>().is_some() {
            let title = error["error"]["title"].take();
            error["error"] = json!({
                "code": status.as_u16(),
                "identity": { "methods": METHODS },
                "message": "Attempted to authenticate with an unsupported method.",
                "title": title,
            });
        }
        let body = if is_head { String::new() } else { format!("{}\n", json::compact_ascii(&error)) };
        response.headers_mut().insert(header::CONTENT_TYPE, JSON);
        if status == StatusCode::UNAUTHORIZED {
            // A host with other characters is not used in links.
            let challenge = HeaderValue::from_str(&format!("Keystone uri=\"{base}/v3\""));
            let challenge = challenge.unwrap_or(HeaderValue::from_static("Keystone"));
            response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
        }
        *response.body_mut() = Body::from(body);
    }
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("X-Auth-Token"));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Marks a 401 that [`unsupported_method`] made.
#[derive(Clone)]
struct UnsupportedMethod;

/// 401: the client asks for a way to log in that does not exist here, such as an application credential.
pub(super) fn unsupported_method() -> Response {
    let mut response = Error::Unauthenticated.into_response();
    response.extensions_mut().insert(UnsupportedMethod);
    response
}

/// A path that the Identity API does not have here.
pub(super) async fn no_route() -> Error {
    Error::resource_not_found()
}

/// A method that the path does not have.
pub(super) async fn method_not_allowed() -> Response {
    let body = json!({ "message": "The method is not allowed for the requested URL." });
    (StatusCode::METHOD_NOT_ALLOWED, json::response(&body)).into_response()
}

/// 400: a part of the request is missing, or has the wrong type. The sentence is Keystone's.
pub(super) fn expected<T>(part: &str, place: &str) -> Result<T> {
    Err(Error::Invalid(format!(
        "Expecting to find {part} in {place}. The server could not comply with the request since it is either malformed or otherwise \
         incorrect. The client is assumed to be in error."
    )))
}
