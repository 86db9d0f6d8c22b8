//! What handlers take out of a request: bounded, checked, and refused with our error bodies.

use std::{convert::Infallible, fmt, time::Duration};

use axum::{
    body::Body,
    extract::{FromRequest, FromRequestParts, RawPathParams, Request},
    http::{HeaderName, HeaderValue, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use futures_util::TryStreamExt;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::Body as _;
use serde::de::{self, DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::{error::Refusal, linger::Lingering, middleware::limits::Hurry};
use crate::{
    app::{App, SharedApp},
    context::Context,
    data::{range::RangeRequest, upload::NewData},
    error::Error,
    model::{RequestedId, Tag},
};

/// Bytes of a JSON body at the most. It takes some forty times of that in memory once it is read.
const MAX_JSON: usize = 1024 * 1024;

/// The caller. There is one behind the authentication middleware only.
impl FromRequestParts<SharedApp> for Context {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &SharedApp) -> Result<Self, Error> {
        parts.extensions.get::<Self>().cloned().ok_or(Error::Unauthenticated)
    }
}

/// The variables of the path, in its order, percent-decoded.
pub(super) struct PathVariables<const N: usize>(pub(super) [String; N]);

impl<const N: usize> FromRequestParts<SharedApp> for PathVariables<N> {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, app: &SharedApp) -> Result<Self, Response> {
        let variables = RawPathParams::from_request_parts(parts, app).await.map_err(|_| {
            Error::Invalid("The URL contains bytes that are not UTF-8 text.".to_owned()).into_response()
        })?;
        let values: Vec<String> = variables.iter().map(|(_, value)| value.to_owned()).collect();
        values.try_into().map(Self).map_err(|_| Refusal::not_found().into_response())
    }
}

/// The image that the path names.
pub(super) struct ImagePath(pub(super) RequestedId);

impl FromRequestParts<SharedApp> for ImagePath {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, app: &SharedApp) -> Result<Self, Response> {
        let PathVariables([id]) = PathVariables::from_request_parts(parts, app).await?;
        Ok(Self(id.into()))
    }
}

/// The image and the tag that the path names.
pub(super) struct TagPath(pub(super) RequestedId, pub(super) Tag);

impl FromRequestParts<SharedApp> for TagPath {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, app: &SharedApp) -> Result<Self, Response> {
        let PathVariables([id, tag]) = PathVariables::from_request_parts(parts, app).await?;
        let tag = Tag::parse(&tag, app.config.glimpse.forbid_equals_in_tags).map_err(Error::into_response)?;
        Ok(Self(id.into(), tag))
    }
}

/// The image and the member that the path names.
pub(super) struct MemberPath(pub(super) RequestedId, pub(super) String);

impl FromRequestParts<SharedApp> for MemberPath {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, app: &SharedApp) -> Result<Self, Response> {
        let PathVariables([id, member]) = PathVariables::from_request_parts(parts, app).await?;
        Ok(Self(id.into(), member))
    }
}

/// The query string's pairs, in order, decoded.
pub(super) struct Query(pub(super) Vec<(String, String)>);

impl FromRequestParts<SharedApp> for Query {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &SharedApp) -> Result<Self, Error> {
        let query = parts.uri.query().unwrap_or_default();
        let decode = |text: &str| {
            let text = text.replace('+', " ");
            let decoded = percent_encoding::percent_decode_str(&text).decode_utf8();
            decoded
                .map(|text| text.into_owned())
                .map_err(|_| Error::Invalid("The query string contains bytes that are not UTF-8 text.".to_owned()))
        };
        let pairs = query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Ok((decode(name)?, decode(value)?))
        });
        pairs.collect::<Result<_, _>>().map(Self)
    }
}

/// Nothing: a request that must not have a body, and has none.
pub(super) struct NoBody;

impl FromRequest<SharedApp> for NoBody {
    type Rejection = Error;

    async fn from_request(request: Request, _: &SharedApp) -> Result<Self, Error> {
        let mut body = request.into_body();
        // A chunked body may turn out to be empty.
        while !body.is_end_stream() {
            match body.frame().await {
                None => break,
                Some(Ok(frame)) if frame.data_ref().is_some_and(|data| data.is_empty()) || frame.is_trailers() => {}
                Some(_) => return Err(Error::Invalid("A body is not expected with this request.".to_owned())),
            }
        }
        Ok(Self)
    }
}

/// An image's data as the request's body. From here on, the request may take as long as its data needs.
pub(super) struct ImageData(pub(super) NewData);

impl FromRequest<SharedApp> for ImageData {
    type Rejection = Response;

    async fn from_request(request: Request, app: &SharedApp) -> Result<Self, Response> {
        let text = |name: &str| request.headers().get(name).map(|value| value.to_str().unwrap_or_default().to_owned());
        let content_type = text("content-type");
        let essence = content_type.as_deref().map(|text| text.split(';').next().unwrap_or_default().trim());
        if essence != Some("application/octet-stream") {
            let reason = format!("Invalid content type {}", essence.unwrap_or("None"));
            return Err(
                Refusal::media_type(content_type.as_deref().unwrap_or("${CONTENT_TYPE}"), &reason).into_response()
            );
        }
        let size = match (text("x-openstack-image-size"), text("content-length")) {
            (Some(said), _) => Some(whole_number(&said).ok_or_else(|| {
                Error::Invalid("Invalid or missing image size in request headers.".to_owned()).into_response()
            })?),
            (None, length) => length.as_deref().and_then(whole_number),
        };
        let store = text("x-image-meta-store");
        if let Some(hurry) = request.extensions().get::<Hurry>() {
            hurry.lift();
        }
        let data = Lingering::new(request, app.config.glimpse.client_timeout);
        let data = TryStreamExt::map_err(data, Box::<dyn std::error::Error + Send + Sync>::from);
        Ok(Self(NewData { store, size, data: Box::pin(data) }))
    }
}

/// A number as Python reads it.
fn whole_number(text: &str) -> Option<i64> {
    let text = text.trim();
    let lone = text.starts_with('_') || text.ends_with('_') || text.contains("__");
    if lone { None } else { text.replace('_', "").parse().ok() }
}

/// The part of an image's data that is asked for.
pub(super) struct AskedRange(pub(super) RangeRequest);

impl FromRequestParts<SharedApp> for AskedRange {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &SharedApp) -> Result<Self, Infallible> {
        // What is no text is no range either.
        let text = |name| parts.headers.get(name).map(|value| value.to_str().unwrap_or("no text").to_owned());
        Ok(Self(RangeRequest { range: text(header::RANGE), content_range: text(header::CONTENT_RANGE) }))
    }
}

/// A JSON object or list as the request's body: what is said of a list is the handler's business.
pub(super) struct Json(pub(super) Value);

impl FromRequest<SharedApp> for Json {
    type Rejection = Response;

    async fn from_request(request: Request, app: &SharedApp) -> Result<Self, Response> {
        if !speaks_json(&request) {
            let explanation = "The request media type is not supported by this server: application/json is expected.";
            return Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, explanation).into_response());
        }
        read_json(request.into_body(), app).await.map(Self)
    }
}

/// A JSON object as the request's body.
pub(super) struct JsonObject(pub(super) Map<String, Value>);

impl FromRequest<SharedApp> for JsonObject {
    type Rejection = Response;

    async fn from_request(request: Request, app: &SharedApp) -> Result<Self, Response> {
        match Json::from_request(request, app).await? {
            Json(Value::Object(object)) => Ok(Self(object)),
            Json(_) => Err(invalid("Unexpected body type. Expected a JSON object.")),
        }
    }
}

/// How the operations of a patch are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PatchDialect {
    /// `{"add": "/name", "value": …}`, as the fourth draft of JSON Patch had it.
    V20,
    /// `{"op": "add", "path": "/name", "value": …}`, as the tenth had it.
    V21,
}

impl PatchDialect {
    /// By their media types.
    const ALL: [(&str, Self); 2] = [
        ("application/openstack-images-v2.0-json-patch", Self::V20),
        ("application/openstack-images-v2.1-json-patch", Self::V21),
    ];
}

/// A list of operations as the request's body, and the dialect that they are in.
pub(super) struct JsonPatch(pub(super) PatchDialect, pub(super) Vec<Value>);

impl FromRequest<SharedApp> for JsonPatch {
    type Rejection = Response;

    async fn from_request(request: Request, app: &SharedApp) -> Result<Self, Response> {
        let content_type = media_type(&request);
        let Some((_, dialect)) = PatchDialect::ALL.into_iter().find(|(name, _)| *name == content_type) else {
            return Err(not_a_patch(&request));
        };
        match read_json(request.into_body(), app).await? {
            Value::Array(operations) => Ok(Self(dialect, operations)),
            _ => Err(invalid("Request body must be a JSON array of operation objects.")),
        }
    }
}

fn not_a_patch(request: &Request) -> Response {
    let known = PatchDialect::ALL.map(|(name, _)| name).join(", ");
    let content_type = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let detail = format!("Image PATCH expects Content-Type one of: {known}");
    let mut response = Refusal::media_type(content_type.unwrap_or_default(), &detail).into_response();
    if let Ok(known) = HeaderValue::from_str(&known) {
        response.headers_mut().insert(HeaderName::from_static("accept-patch"), known);
    }
    response
}

/// The request's media type, without its parameters.
fn media_type(request: &Request) -> String {
    let content_type = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    content_type.unwrap_or_default().split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

fn invalid(message: &str) -> Response {
    Error::Invalid(message.to_owned()).into_response()
}

async fn read_json(body: Body, app: &App) -> Result<Value, Response> {
    let bytes = read(body, app.config.glimpse.client_timeout).await?;
    if bytes.is_empty() {
        return Err(invalid("Body expected in request."));
    }
    match parse(&bytes).map_err(|message| invalid(&message))? {
        value @ (Value::Object(_) | Value::Array(_)) => Ok(value),
        _ => Err(invalid("Unexpected body type. Expected list/dict.")),
    }
}

/// Whether the body may be read as JSON. Glance reads any body so; we refuse what plainly is something else, and take
/// what curl calls it where nobody said.
fn speaks_json(request: &Request) -> bool {
    matches!(media_type(request).as_str(), "" | "application/json" | "application/x-www-form-urlencoded")
}

/// Reads a body whole, with a bound on its size and on the wait for each of its parts.
async fn read(body: Body, patience: Duration) -> Result<Vec<u8>, Response> {
    let mut body = Limited::new(body, MAX_JSON);
    let mut bytes = Vec::new();
    loop {
        let frame = match tokio::time::timeout(patience, body.frame()).await {
            Ok(None) => return Ok(bytes),
            Ok(Some(Ok(frame))) => frame,
            Ok(Some(Err(error))) if error.is::<LengthLimitError>() => {
                let explanation = format!("The request body is larger than {MAX_JSON} bytes.");
                return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, explanation).into_response());
            }
            Ok(Some(Err(_))) => {
                return Err(Error::Invalid("The request body ended too early.".to_owned()).into_response());
            }
            Err(_) => {
                let explanation = "The client took too long to send the request body.";
                return Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, explanation).into_response());
            }
        };
        if let Ok(data) = frame.into_data() {
            bytes.extend_from_slice(&data);
        }
    }
}

/// Reads JSON strictly: each key of an object once, and no deeper than serde_json's bound of 128 levels.
fn parse(bytes: &[u8]) -> Result<Value, String> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let value = Strict.deserialize(&mut reader).and_then(|value| reader.end().map(|()| value));
    value.map_err(|error| {
        let text = error.to_string();
        // Our own message carries a place that means nothing to a client.
        match text.split_once(DUPLICATE) {
            Some((_, rest)) => {
                let name = rest.rsplit_once(" at line").map_or(rest, |(name, _)| name);
                format!("The request body has the key{name} twice.")
            }
            None => format!("Malformed JSON in request body. ({text})"),
        }
    })
}

const DUPLICATE: &str = "duplicate key";

/// Builds a [`Value`], refusing an object that has a key twice: readers differ on which of the two counts.
struct Strict;

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;

    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = items.next_element_seed(Strict)? {
            values.push(value);
        }
        Ok(values.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(name) = entries.next_key::<String>()? {
            if object.contains_key(&name) {
                return Err(de::Error::custom(format!("{DUPLICATE} '{name}'")));
            }
            object.insert(name, entries.next_value_seed(Strict)?);
        }
        Ok(object.into())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::parse;

    #[test]
    fn a_repeated_key_is_named() {
        assert_eq!(parse(b"{\"a\": {\"b\": 1, \"b\": 2}}").unwrap_err(), "The request body has the key 'b' twice.");
    }

    #[test]
    fn deep_nesting_ends_in_an_error() {
        let deep = [vec![b'['; 1 << 20], vec![b']'; 1 << 20]].concat();
        assert!(parse(&deep).unwrap_err().contains("recursion limit"));
    }

    proptest! {
        #[test]
        fn what_serde_json_writes_is_read_back(name in any::<String>(), text in any::<String>(), n in any::<i64>()) {
            let value = json!({ name: [text, n, null, true, { "x": n }] });
            prop_assert_eq!(parse(value.to_string().as_bytes()), Ok(value));
        }

        #[test]
        fn no_body_makes_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
            let _ = parse(&bytes);
        }
    }
}
