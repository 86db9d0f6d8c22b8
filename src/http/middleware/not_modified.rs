//! What a client may keep of an answer, and for how long it is still true: `ETag`, `If-None-Match`, `Cache-Control`, `Vary`.
//!
//! The tag is a hash of the JSON that the client would get. Anything cheaper would have to know what an answer is made of:
//! an image's `updated_at` has whole seconds, and what is shown depends on the caller, the policy, the configuration and,
//! in a listing, on every image of the page. Hashing costs some microseconds for a page and nothing in statements; what it
//! saves is the transfer. The tag is weak: the same image, not the same bytes, so that a proxy may compress it.

use axum::{
    body::Body,
    extract::Request,
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::Response,
};
use http_body_util::BodyExt as _;
use hyper::body::Body as _;

/// A cache that serves others keeps nothing, and a client's own asks before each use: who may see an image changes at any
/// time.
const CACHE_CONTROL: HeaderValue = HeaderValue::from_static("private, no-cache");
/// What tells callers apart.
const VARY: HeaderValue = HeaderValue::from_static("X-Auth-Token");
/// Bytes of a tag: it tells versions of one image apart, and keeps no secrets.
const TAG_BYTES: usize = 16;

/// Middleware: says of every answer to a GET what may be kept of it, and answers 304 to who has it already.
pub(in crate::http) async fn answer(request: Request, next: Next) -> Response {
    if request.method() != Method::GET {
        return next.run(request).await;
    }
    let known: Vec<HeaderValue> = request.headers().get_all(header::IF_NONE_MATCH).iter().cloned().collect();
    let mut response = next.run(request).await;
    response.headers_mut().entry(header::CACHE_CONTROL).or_insert(CACHE_CONTROL);
    response.headers_mut().append(header::VARY, VARY);
    if response.status() == StatusCode::OK && is_json(response.headers()) {
        response = tagged(response, &known).await;
    }
    response
}

/// Adds the tag of a body that is in memory as a whole.
async fn tagged(response: Response, known: &[HeaderValue]) -> Response {
    let (mut head, body) = response.into_parts();
    if body.size_hint().exact().is_none() {
        return Response::from_parts(head, body);
    }
    let Ok(bytes) = body.collect().await.map(|collected| collected.to_bytes()) else {
        // It was no text of ours, and the client's connection ends as it would have.
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

/// Whether a list of tags has this one, weak or strong. What is not a list of tags has none.
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
        // A tag may have commas in it, but no quote.
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
    fn lists_of_tags() {
        for list in ["*", " * ", "\"a\"", "W/\"a\"", "\"b\", W/\"c,d\",\"a\"", ",\"b\",,W/\"a\" "] {
            assert!(has(list), "{list}");
        }
        for list in ["", "a", "\"b\"", "W/\"A\"", "\"a", "w/\"a\"", "\"b,\"a\"", "*, \"b\"", "\"\""] {
            assert!(!has(list), "{list}");
        }
    }

    proptest! {
        #[test]
        fn no_list_makes_it_panic(list in "[ -~]*") {
            has(&list);
        }
    }
}
