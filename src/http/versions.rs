//! Version discovery, and the version prefixes of URLs.

use std::borrow::Cow;

use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

use super::links;
use crate::{
    app::{App, SharedApp},
    python,
};

/// The minor versions in the order of Glance's list, the current one first. A version whose calls are missing is not among them,
/// because clients choose their calls by this list.
fn versions(app: &App) -> (Vec<&'static str>, &'static str) {
    let (current, newest): (_, &[&str]) = match app.cache {
        Some(_) => ("v2.18", &["v2.18", "v2.17", "v2.16", "v2.15", "v2.14"]),
        None => ("v2.17", &["v2.15"]),
    };
    let of_stores: &[&str] = match app.stores.are_named {
        true => &["v2.13", "v2.12", "v2.11", "v2.10", "v2.9", "v2.8"],
        false => &["v2.9"],
    };
    let late: &[&str] = if app.cache.is_some() { &[] } else { &["v2.17"] };
    let oldest: &[&str] = &["v2.7", "v2.6", "v2.5", "v2.4", "v2.3", "v2.2", "v2.1", "v2.0"];
    ([newest, of_stores, late, oldest].concat(), current)
}

/// The prefix of the `Accept` header with which a client can select a version instead of in the URL.
const MEDIA_TYPE: &str = "application/vnd.openstack.images-";

/// `/versions`: lists the versions, with status 200.
pub(super) async fn list(State(app): State<SharedApp>, uri: Uri, headers: HeaderMap) -> Response {
    document(&app, StatusCode::OK, &uri, &headers)
}

/// Every URL without a version: lists the versions, with status 300.
pub(super) async fn choices(State(app): State<SharedApp>, uri: Uri, headers: HeaderMap) -> Response {
    document(&app, StatusCode::MULTIPLE_CHOICES, &uri, &headers)
}

/// `/v2`: redirects to `/v2/`.
pub(super) async fn redirect(State(app): State<SharedApp>, uri: Uri, headers: HeaderMap) -> Response {
    let location = HeaderValue::from_str(&format!("{}/v2/", links::base(&app, &headers, &uri)));
    let content_type = (header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf8"));
    let location = (header::LOCATION, location.unwrap_or(HeaderValue::from_static("/v2/")));
    (StatusCode::FOUND, [content_type, location]).into_response()
}

fn document(app: &App, status: StatusCode, uri: &Uri, headers: &HeaderMap) -> Response {
    let href = format!("{}/v2/", links::base(app, headers, uri));
    let (ids, current) = versions(app);
    let versions = ids.into_iter().map(|id| {
        let status = if id == current { "CURRENT" } else { "SUPPORTED" };
        json!({ "id": id, "status": status, "links": [{ "rel": "self", "href": href }] })
    });
    let body = json!({ "versions": Value::from_iter(versions) });
    let content_type = [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))];
    (status, content_type, python::to_json(&body)).into_response()
}

/// Rewrites a URL with any version, or without a version but with its media type in `Accept`, to `/v2/…`. Repeated slashes are
/// collapsed, because endpoints are often configured with a trailing slash.
pub(super) fn normalise(app: &App, mut request: Request) -> Request {
    let accept = request.headers().get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    let path = without_empty_segments(request.uri().path());
    let path = path.strip_prefix('/').unwrap_or(&path);
    let (first, rest) = path.split_once('/').map_or((path, None), |(first, rest)| (first, Some(rest)));
    let rewritten = match accept.strip_prefix(MEDIA_TYPE) {
        Some(_) if first == "versions" => format!("/{path}"),
        Some(version) if is_version(app, version) => format!("/v2/{path}"),
        // An unknown version gets the list of versions.
        Some(_) => "/".to_owned(),
        None if is_version(app, first) => match rest {
            Some(rest) => format!("/v2/{rest}"),
            None => "/v2".to_owned(),
        },
        None => format!("/{path}"),
    };
    if rewritten == request.uri().path() {
        return request;
    }
    let query = request.uri().query().map(|query| format!("?{query}")).unwrap_or_default();
    if let Ok(uri) = format!("{rewritten}{query}").parse() {
        *request.uri_mut() = uri;
    }
    request
}

/// A path without repeated slashes.
fn without_empty_segments(path: &str) -> Cow<'_, str> {
    if !path.contains("//") {
        return path.into();
    }
    let mut collapsed = String::with_capacity(path.len());
    for c in path.chars() {
        if c != '/' || !collapsed.ends_with('/') {
            collapsed.push(c);
        }
    }
    collapsed.into()
}

fn is_version(app: &App, text: &str) -> bool {
    // Almost every request has this one.
    text == "v2" || versions(app).0.contains(&text)
}
