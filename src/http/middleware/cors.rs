//! Cross-origin resource sharing (CORS), as in oslo.middleware. It never refuses a request; it only leaves out the headers without
//! which a browser denies the response to a web page.

use axum::{
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::Response,
};

use crate::{app::SharedApp, config::Cors};

/// Headers that a page is always allowed to send.
const SIMPLE_HEADERS: [&str; 8] = [
    "Accept",
    "Accept-Language",
    "Content-Type",
    "Cache-Control",
    "Content-Language",
    "Expires",
    "Last-Modified",
    "Pragma",
];

pub(in crate::http) async fn decorate(State(app): State<SharedApp>, request: Request, next: Next) -> Response {
    // Health checks come from load balancers, not from web pages.
    if request.uri().path().trim_end_matches('/') == "/healthcheck" {
        return next.run(request).await;
    }
    let cors = &app.config.cors;
    if request.method() == Method::OPTIONS {
        let asked = request.headers().clone();
        let mut response = next.run(request).await;
        if !response.status().is_success() {
            response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::OK;
        }
        response.headers_mut().extend(preflight(cors, &asked).unwrap_or_default());
        return response;
    }
    let origin = request.headers().get(header::ORIGIN).and_then(|origin| allowed_origin(cors, origin));
    let mut response = next.run(request).await;
    if let Some(origin) = origin {
        let headers = response.headers_mut();
        headers.append(header::VARY, HeaderValue::from_static("Origin"));
        permit(cors, origin, headers);
        insert(headers, header::ACCESS_CONTROL_EXPOSE_HEADERS, &cors.expose_headers.join(","));
    }
    response
}

/// The headers of a response to a preflight request; `None` if anything that it asks for is not allowed.
fn preflight(cors: &Cors, asked: &HeaderMap) -> Option<HeaderMap> {
    let origin = allowed_origin(cors, asked.get(header::ORIGIN)?)?;
    let method = asked.get(header::ACCESS_CONTROL_REQUEST_METHOD)?.to_str().ok()?;
    if !cors.allow_methods.iter().any(|allowed| allowed == method) {
        return None;
    }
    let names = asked.get(header::ACCESS_CONTROL_REQUEST_HEADERS).map_or(Ok(""), HeaderValue::to_str).ok()?;
    let names: Vec<_> = names.split(',').map(str::trim).filter(|name| !name.is_empty()).collect();
    let may_be_sent = |name: &&str| {
        let allowed = cors.allow_headers.iter().map(String::as_str).chain(SIMPLE_HEADERS);
        allowed.into_iter().any(|allowed| allowed.eq_ignore_ascii_case(name))
    };
    if !names.iter().all(may_be_sent) {
        return None;
    }
    let mut headers = HeaderMap::new();
    insert(&mut headers, header::VARY, "Origin");
    permit(cors, origin, &mut headers);
    if cors.max_age != 0 {
        insert(&mut headers, header::ACCESS_CONTROL_MAX_AGE, &cors.max_age.to_string());
    }
    insert(&mut headers, header::ACCESS_CONTROL_ALLOW_METHODS, method);
    insert(&mut headers, header::ACCESS_CONTROL_ALLOW_HEADERS, &names.join(","));
    Some(headers)
}

/// The value of `Access-Control-Allow-Origin` for an origin, if it is allowed: the origin itself, or `*`.
fn allowed_origin(cors: &Cors, origin: &HeaderValue) -> Option<HeaderValue> {
    let is = |text: &str| cors.allowed_origin.iter().any(|allowed| allowed == text);
    if origin.to_str().is_ok_and(is) {
        return Some(origin.clone());
    }
    is("*").then_some(HeaderValue::from_static("*"))
}

fn permit(cors: &Cors, origin: HeaderValue, headers: &mut HeaderMap) {
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    if cors.allow_credentials {
        headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
    }
}

/// Inserts a header, unless its value is empty.
fn insert(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Some(value) = HeaderValue::from_str(value).ok().filter(|_| !value.is_empty()) {
        headers.insert(name, value);
    }
}
