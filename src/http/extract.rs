//! Extractors: the parts of a request that handlers need, validated and limited in size, with Glance's error bodies.

use std::convert::Infallible;

use axum::{
    extract::{FromRequest, FromRequestParts, RawPathParams, Request},
    http::{HeaderName, HeaderValue, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use futures_util::TryStreamExt;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::Body as _;
use serde_json::{Map, Value};

use super::{
    error::ErrorResponse,
    middleware::{
        limits::Deadline,
        memory::{self, Charge},
        request_id::RequestId,
    },
};
use crate::{
    app::{App, SharedApp},
    auth::Credentials,
    context::Context,
    data::{
        other_node::{FORWARDED, Incoming},
        range::RangeRequest,
        upload::NewData,
    },
    error::Error,
    model::{RequestedId, Tag},
    python,
};

/// The maximum size of a JSON body in bytes. Parsed, it takes up to about forty times as much memory.
const MAX_JSON: usize = 1024 * 1024;

/// The caller. It is available only behind the authentication middleware.
impl FromRequestParts<SharedApp> for Context {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &SharedApp) -> Result<Self, Error> {
        parts.extensions.get::<Self>().cloned().ok_or(Error::Unauthenticated)
    }
}

/// The variables of the path, in the path's order, percent-decoded.
pub(super) struct PathVariables<const N: usize>(pub(super) [String; N]);

impl<const N: usize> FromRequestParts<SharedApp> for PathVariables<N> {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, app: &SharedApp) -> Result<Self, Response> {
        let variables = RawPathParams::from_request_parts(parts, app).await.map_err(|_| {
            Error::Invalid("The URL contains bytes that are not UTF-8 text.".to_owned()).into_response()
        })?;
        let values: Vec<String> = variables.iter().map(|(_, value)| value.to_owned()).collect();
        values.try_into().map(Self).map_err(|_| ErrorResponse::not_found().into_response())
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

/// What another node needs of the request.
impl FromRequestParts<SharedApp> for Incoming {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &SharedApp) -> Result<Self, Infallible> {
        let headers = &parts.headers;
        let request_id = parts.extensions.get::<RequestId>();
        Ok(Self {
            credentials: Credentials::of(headers),
            request_id: request_id.map(|RequestId(id)| id.clone()).unwrap_or_default(),
            store: headers.get("x-image-meta-store").cloned(),
            is_forwarded: headers.contains_key(FORWARDED),
        })
    }
}

/// The image that the path names, and the tag, which the schema of an image allows.
pub(super) struct NewTagPath(pub(super) RequestedId, pub(super) Tag);

impl FromRequestParts<SharedApp> for NewTagPath {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, app: &SharedApp) -> Result<Self, Response> {
        let TagPath(id, tag) = TagPath::from_request_parts(parts, app).await?;
        let image = Map::from_iter([("tags".to_owned(), Value::from_iter([tag.as_str()]))]);
        app.schemas.check_image(&image).map_err(Error::into_response)?;
        Ok(Self(id, tag))
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

/// The name-value pairs of the query string, in order, decoded. As in Glance, a semicolon separates them as well.
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
        let pairs = query.split(['&', ';']).filter(|pair| !pair.is_empty()).map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Ok((decode(name)?, decode(value)?))
        });
        pairs.collect::<Result<_, _>>().map(Self)
    }
}

/// Requires that the request has no body.
pub(super) struct NoBody;

impl FromRequest<SharedApp> for NoBody {
    type Rejection = Error;

    async fn from_request(request: Request, app: &SharedApp) -> Result<Self, Error> {
        let timeout = app.config.glimpse.client_timeout;
        let unexpected = || Err(Error::Invalid("A body is not expected with this request.".to_owned()));
        let mut body = request.into_body();
        // The length is announced: there is nothing to wait for.
        if body.size_hint().lower() > 0 {
            return unexpected();
        }
        // A chunked body can be empty.
        while !body.is_end_stream() {
            match tokio::time::timeout(timeout, body.frame()).await {
                Err(_) => return Err(Error::SlowClient),
                Ok(None) => break,
                Ok(Some(Ok(frame))) if frame.data_ref().is_some_and(|data| data.is_empty()) || frame.is_trailers() => {}
                Ok(Some(_)) => return unexpected(),
            }
        }
        Ok(Self)
    }
}

/// The request's body as image data. Lifts the deadline of the request.
pub(super) struct ImageData(pub(super) NewData);

impl FromRequest<SharedApp> for ImageData {
    type Rejection = Response;

    async fn from_request(request: Request, _: &SharedApp) -> Result<Self, Response> {
        let text = |name: &str| request.headers().get(name).map(|value| value.to_str().unwrap_or_default().to_owned());
        let content_type = text("content-type");
        let essence = content_type.as_deref().map(|text| text.split(';').next().unwrap_or_default().trim());
        if essence != Some("application/octet-stream") {
            let reason = format!("Invalid content type {}", essence.unwrap_or("None"));
            return Err(ErrorResponse::media_type(content_type.as_deref().unwrap_or("${CONTENT_TYPE}"), &reason)
                .into_response());
        }
        let integer = |text: &str| i64::try_from(python::parse_int(text)?).ok();
        let size = match (text("x-openstack-image-size"), text("content-length")) {
            (Some(said), _) => Some(integer(&said).ok_or_else(|| {
                Error::Invalid("Invalid or missing image size in request headers.".to_owned()).into_response()
            })?),
            (None, length) => length.as_deref().and_then(integer),
        };
        let store = text("x-image-meta-store");
        if let Some(deadline) = request.extensions().get::<Deadline>() {
            deadline.lift();
        }
        let data = request.into_body().into_data_stream();
        let data = TryStreamExt::map_err(data, Box::<dyn std::error::Error + Send + Sync>::from);
        Ok(Self(NewData { store, size, data: Box::pin(data) }))
    }
}

/// The part of an image's data that the client requests.
pub(super) struct RequestedRange(pub(super) RangeRequest);

impl FromRequestParts<SharedApp> for RequestedRange {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &SharedApp) -> Result<Self, Infallible> {
        // A header that is not text is an invalid range.
        let text = |name| parts.headers.get(name).map(|value| value.to_str().unwrap_or("no text").to_owned());
        Ok(Self(RangeRequest { range: text(header::RANGE), content_range: text(header::CONTENT_RANGE) }))
    }
}

/// The request's body as a JSON object or list. The handler decides how to refuse a list.
pub(super) struct Json(pub(super) Value);

impl FromRequest<SharedApp> for Json {
    type Rejection = Response;

    async fn from_request(request: Request, app: &SharedApp) -> Result<Self, Response> {
        if !accepts_as_json(&request) {
            let explanation = "The request media type is not supported by this server: application/json is expected.";
            return Err(ErrorResponse::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, explanation).into_response());
        }
        read_json(request, app).await.map(Self)
    }
}

/// The request's body as a JSON object.
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

/// The dialect of a patch's operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PatchDialect {
    /// `{"add": "/name", "value": …}`, as in the fourth draft of JSON Patch.
    V20,
    /// `{"op": "add", "path": "/name", "value": …}`, as in the tenth draft.
    V21,
}

impl PatchDialect {
    /// The dialects with their media types.
    const ALL: [(&str, Self); 2] = [
        ("application/openstack-images-v2.0-json-patch", Self::V20),
        ("application/openstack-images-v2.1-json-patch", Self::V21),
    ];
}

/// The request's body as a list of patch operations, and their dialect.
pub(super) struct JsonPatch(pub(super) PatchDialect, pub(super) Vec<Value>);

impl FromRequest<SharedApp> for JsonPatch {
    type Rejection = Response;

    async fn from_request(request: Request, app: &SharedApp) -> Result<Self, Response> {
        let content_type = media_type(&request);
        let Some((_, dialect)) = PatchDialect::ALL.into_iter().find(|(name, _)| *name == content_type) else {
            return Err(not_a_patch(&request));
        };
        match read_json(request, app).await? {
            Value::Array(operations) => Ok(Self(dialect, operations)),
            _ => Err(invalid("Request body must be a JSON array of operation objects.")),
        }
    }
}

fn not_a_patch(request: &Request) -> Response {
    let known = PatchDialect::ALL.map(|(name, _)| name).join(", ");
    let content_type = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let detail = format!("Image PATCH expects Content-Type one of: {known}");
    let mut response = ErrorResponse::media_type(content_type.unwrap_or_default(), &detail).into_response();
    if let Ok(known) = HeaderValue::from_str(&known) {
        response.headers_mut().insert(HeaderName::from_static("accept-patch"), known);
    }
    response
}

/// The request's media type, without its parameters.
pub(super) fn media_type(request: &Request) -> String {
    let content_type = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    content_type.unwrap_or_default().split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

fn invalid(message: &str) -> Response {
    Error::Invalid(message.to_owned()).into_response()
}

async fn read_json(request: Request, app: &App) -> Result<Value, Response> {
    let bytes = read_bytes(request, app, MAX_JSON).await?;
    if bytes.is_empty() {
        return Err(invalid("Body expected in request."));
    }
    match parse_json(&bytes).map_err(Error::into_response)? {
        value @ (Value::Object(_) | Value::Array(_)) => Ok(value),
        _ => Err(invalid("Unexpected body type. Expected list/dict.")),
    }
}

/// Whether the body is accepted as JSON. Glance accepts any media type. Glimpse accepts JSON, no media type, and
/// `application/x-www-form-urlencoded`, which curl sends by default.
fn accepts_as_json(request: &Request) -> bool {
    matches!(media_type(request).as_str(), "" | "application/json" | "application/x-www-form-urlencoded")
}

/// Reads a whole body, with limits on its size in bytes and on the memory of all bodies, and a timeout for each chunk.
pub(super) async fn read_bytes(request: Request, app: &App, max: usize) -> Result<Vec<u8>, Response> {
    let charge = request.extensions().get::<Charge>().cloned();
    let timeout = app.config.glimpse.client_timeout;
    let mut body = Limited::new(request.into_body(), max);
    let mut bytes = Vec::new();
    loop {
        let frame = match tokio::time::timeout(timeout, body.frame()).await {
            Ok(None) => return Ok(bytes),
            Ok(Some(Ok(frame))) => frame,
            Ok(Some(Err(error))) if error.is::<LengthLimitError>() => {
                let explanation = format!("The request body is larger than {max} bytes.");
                return Err(ErrorResponse::new(StatusCode::PAYLOAD_TOO_LARGE, explanation).into_response());
            }
            Ok(Some(Err(_))) => {
                return Err(Error::Invalid("The request body ended too early.".to_owned()).into_response());
            }
            Err(_) => return Err(Error::SlowClient.into_response()),
        };
        if let Ok(data) = frame.into_data() {
            charge.as_ref().map_or(Ok(()), |charge| charge.add(data.len())).map_err(|_| memory::exhausted())?;
            bytes.extend_from_slice(&data);
        }
    }
}

/// Parses JSON. As in Python, the last of equal keys counts. serde_json limits the nesting depth to 128.
fn parse_json(bytes: &[u8]) -> Result<Value, Error> {
    serde_json::from_slice(bytes).map_err(|error| {
        tracing::debug!(%error, "the request body is not JSON");
        Error::Invalid("Malformed JSON in request body.".to_owned())
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::parse_json;

    #[test]
    fn the_last_of_duplicate_keys_is_used_at_the_position_of_the_first() {
        let value = parse_json(b"{\"a\": {\"b\": 1, \"c\": 2, \"b\": 3}}").unwrap();
        assert_eq!(value.to_string(), "{\"a\":{\"b\":3,\"c\":2}}");
    }

    #[test]
    fn deep_nesting_is_rejected() {
        let deep = [vec![b'['; 1 << 20], vec![b']'; 1 << 20]].concat();
        assert!(parse_json(&deep).is_err());
    }

    proptest! {
        #[test]
        fn serialised_json_can_be_parsed(name in any::<String>(), text in any::<String>(), n in any::<i64>()) {
            let value = json!({ name: [text, n, null, true, { "x": n }] });
            prop_assert_eq!(parse_json(value.to_string().as_bytes()).unwrap(), value);
        }

        #[test]
        fn no_body_causes_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
            let _ = parse_json(&bytes);
        }
    }
}
