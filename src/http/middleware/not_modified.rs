//! HTTP caching: `ETag`, `If-None-Match`, `Cache-Control` and `Vary`.
//!
//! The ETag is a hash of the JSON body. A cheaper one would have to cover everything that the body depends on: an image's
//! `updated_at` has a resolution of one second, and the body also depends on the caller, the policy, the configuration and, in a
//! listing, on every image of the page. Hashing a page takes some microseconds and no SQL statements; a match saves the transfer.
//! The ETag is weak: it promises the same image, not the same bytes, so a proxy can compress the body.

use axum::{
    body::Body,
    extract::Request,
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::Response,
};
use http_body_util::BodyExt as _;
use hyper::body::Body as _;

/// Shared caches must not store a response, and a client's own cache must revalidate it before each use, because the visibility of
/// an image can change at any time.
const CACHE_CONTROL: HeaderValue = HeaderValue::from_static("private, no-cache");
/// The header that identifies the caller.
const VARY: HeaderValue = HeaderValue::from_static("X-Auth-Token");
/// The length of an ETag in bytes. It distinguishes versions of one image, and is not a secret.
const TAG_BYTES: usize = 16;

/// Middleware: adds the caching headers to each response to a GET, and responds with 304 if the client has the current version.
pub(in crate::http) async fn revalidate(request: Request, next: Next) -> Response {
    if request.method() != Method::GET {
        return next.run(request).await;
    }
    let known: Vec<HeaderValue> = request.headers().get_all(header::IF_NONE_MATCH).iter().cloned().collect();
    let mut response = next.run(request).await;
    response.headers_mut().entry(header::CACHE_CONTROL).or_insert(CACHE_CONTROL);
    response.headers_mut().append(header::VARY, VARY);
    if response.status() == StatusCode::OK && is_json(response.headers()) {
        response = add_etag(response, &known).await;
    }
    response
}

/// Adds the ETag if the whole body is in memory, and removes the body if the client has it already.
async fn add_etag(response: Response, known: &[HeaderValue]) -> Response {
    let (mut head, body) = response.into_parts();
    if body.size_hint().exact().is_none() {
        return Response::from_parts(head, body);
    }
    let Ok(bytes) = body.collect().await.map(|collected| collected.to_bytes()) else {
        // Bodies in memory do not fail.
        head.status = StatusCode::INTERNAL_SERVER_ERROR;
        return Response::from_parts(head, Body::empty());
    };
    let hash = blake3::hash(&bytes).to_hex();
    let tag = &hash[..TAG_BYTES * 2];
    if let Ok(value) = HeaderValue::from_str(&format!("W/\"{tag}\"")) {
        head.headers.insert(header::ETAG, value);
    }
    if known.iter().any(|value| matches(value, tag)) {
        head.status = StatusCode::NOT_MODIFIED;
        head.headers.remove(header::CONTENT_TYPE);
        head.headers.remove(header::CONTENT_LENGTH);
        return Response::from_parts(head, Body::empty());
    }
    Response::from_parts(head, Body::from(bytes))
}

fn is_json(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|value| value == "application/json")
}

/// Whether a list of ETags contains this one, weak or strong. A malformed list contains none.
fn matches(list: &HeaderValue, tag: &str) -> bool {
    let Ok(mut rest) = list.to_str().map(str::trim) else {
        return false;
    };
    if rest == "*" {
        return true;
    }
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let quoted = rest.strip_prefix("W/").unwrap_or(rest).strip_prefix('"');
        // An ETag can contain commas, but no quotes.
        match quoted.and_then(|quoted| quoted.split_once('"')) {
            Some((one, _)) if one == tag => return true,
            Some((_, behind)) => rest = behind,
            None => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use proptest::prelude::*;

    use super::matches;

    fn has(list: &str) -> bool {
        matches(&HeaderValue::from_str(list).unwrap(), "a")
    }

    #[test]
    fn lists_of_etags_are_matched() {
        for list in ["*", " * ", "\"a\"", "W/\"a\"", "\"b\", W/\"c,d\",\"a\"", ",\"b\",,W/\"a\" "] {
            assert!(has(list), "{list}");
        }
        for list in ["", "a", "\"b\"", "W/\"A\"", "\"a", "w/\"a\"", "\"b,\"a\"", "*, \"b\"", "\"\""] {
            assert!(!has(list), "{list}");
        }
    }

    proptest! {
        #[test]
        fn no_list_causes_a_panic(list in "[ -~]*") {
            has(&list);
        }
    }
}
