//! Error responses: the only place where an [`Error`] becomes a status and a body.
//!
//! A handler's error becomes an extension of the response; [`render`] writes its body in the format that the client accepts. The
//! bodies are byte for byte those of webob, because clients parse them.

use std::{any::Any, borrow::Cow};

use axum::{
    body::Body,
    extract::Request,
    http::{HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use hyper::ext::ReasonPhrase;
use serde_json::json;

use super::accept::{self, Form};
use crate::error::{Error, RESOURCE_NOT_FOUND};

/// The number of seconds after which a client should retry.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("5");

/// webob's media type of a response without a body.
pub(super) const EMPTY_TYPE: HeaderValue = HeaderValue::from_static("text/html; charset=UTF-8");

/// The maximum length of an explanation in characters. An explanation can repeat a part of the request, which may be long. The
/// limit leaves space for Glance's message about an invalid image, which contains the whole schema.
const MAX_EXPLANATION: usize = 16 * 1024;

const FORBIDDEN: &str = "Access was denied to this resource.";
const CONFLICT: &str = "There was a conflict when trying to complete your request.";
const UNAVAILABLE: &str = "The server is currently unavailable. Please try again at a later time.";
const INTERNAL: &str = "The server has either erred or is incapable of performing the requested operation.";
const UNAUTHORIZED: &str = "This server could not verify that you are authorized to access the document you requested. \
     Either you supplied the wrong credentials (e.g., bad password), or your browser does not understand how to supply \
     the credentials required.";

/// An error response: its status, and the texts of its body. `explanation` is a sentence, `detail` the reason for it.
#[derive(Debug, Clone)]
pub(super) struct ErrorResponse {
    status: StatusCode,
    explanation: Cow<'static, str>,
    detail: String,
    shape: Shape,
}

/// The template of the body. webob has special ones for some statuses.
#[derive(Debug, Clone)]
enum Shape {
    /// The explanation, then the detail.
    Usual,
    /// The explanation alone.
    Bare,
    /// The method that is not allowed or not implemented.
    Method(Method),
    /// The media type that is not supported, then the detail.
    MediaType(String),
}

impl ErrorResponse {
    pub(super) fn new(status: StatusCode, explanation: impl Into<Cow<'static, str>>) -> Self {
        let mut explanation = explanation.into();
        if let Some((end, _)) = explanation.char_indices().nth(MAX_EXPLANATION) {
            explanation = format!("{}…", &explanation[..end]).into();
        }
        Self { status, explanation, detail: String::new(), shape: Shape::Usual }
    }

    /// Adds the reason for the explanation.
    pub(super) fn with_detail(self, detail: &str) -> Self {
        let detail = Self::new(self.status, detail.to_owned()).explanation.into_owned();
        Self { detail, ..self }
    }

    /// Like [`Self::new`], but with nothing after the explanation.
    pub(super) fn bare(status: StatusCode, explanation: &'static str) -> Self {
        Self { shape: Shape::Bare, ..Self::new(status, explanation) }
    }

    /// The sentence that explains the error.
    pub(super) fn explanation(&self) -> &str {
        &self.explanation
    }

    /// 404 with a general text: there is no such route or object, or the caller must not learn whether there is.
    pub(super) fn not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, RESOURCE_NOT_FOUND)
    }

    /// 405: the route does not support the method; or 501: no route does.
    pub(super) fn method(status: StatusCode, method: Method) -> Self {
        Self { shape: Shape::Method(method), ..Self::new(status, "") }
    }

    /// 415: the route does not support the media type of the request.
    pub(super) fn media_type(content_type: &str, detail: &str) -> Self {
        let shape = Shape::MediaType(content_type.to_owned());
        Self { shape, ..Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "") }.with_detail(detail)
    }

    /// The body of webob's HTML template, with its variable parts escaped by `escape`.
    fn body(&self, escape: impl Fn(&str) -> String) -> String {
        match &self.shape {
            Shape::Method(method) if self.status == StatusCode::NOT_IMPLEMENTED => {
                format!(
                    "\nThe request method {} is not implemented for this server. <br /><br />\n",
                    escape(method.as_str())
                )
            }
            Shape::Method(method) => {
                format!("The method {} is not allowed for this resource. <br /><br />\n", escape(method.as_str()))
            }
            Shape::MediaType(name) => format!(
                "The request media type {} is not supported by this server.\n<br /><br />\n{}",
                escape(name),
                escape(&self.detail)
            ),
            Shape::Bare => escape(&self.explanation),
            Shape::Usual => format!("{}<br /><br />\n{}\n\n", escape(&self.explanation), escape(&self.detail)),
        }
    }

    fn render(&self, form: Form) -> (HeaderValue, String) {
        let title = title(self.status);
        let status = format!("{} {title}", self.status.as_u16());
        match form {
            Form::Html => (
                HeaderValue::from_static("text/html; charset=UTF-8"),
                format!(
                    "<html>\n <head>\n  <title>{status}</title>\n </head>\n <body>\n  <h1>{status}</h1>\n  {}\n </body>\n\
                     </html>",
                    self.body(escape_html)
                ),
            ),
            Form::Json => (
                HeaderValue::from_static("application/json"),
                super::json::ascii(&json!({ "message": self.body(str::to_owned), "code": status, "title": title })),
            ),
            Form::Plain => (
                HeaderValue::from_static("text/plain; charset=UTF-8"),
                format!("{status}\n\n{}", strip_tags(&self.body(str::to_owned))),
            ),
        }
    }
}

/// webob's title of a status, which sometimes differs from the standard's reason phrase.
fn title(status: StatusCode) -> &'static str {
    match status {
        StatusCode::PAYLOAD_TOO_LARGE => "Request Entity Too Large",
        StatusCode::RANGE_NOT_SATISFIABLE => "Request Range Not Satisfiable",
        other => other.canonical_reason().unwrap_or("Error"),
    }
}

impl From<&Error> for ErrorResponse {
    fn from(error: &Error) -> Self {
        match error {
            Error::Invalid(message) => Self::new(StatusCode::BAD_REQUEST, message.clone()),
            Error::Unauthenticated => Self::new(StatusCode::UNAUTHORIZED, UNAUTHORIZED),
            Error::Forbidden(message) => Self::new(StatusCode::FORBIDDEN, message.clone()),
            Error::NotPermitted(reason) => Self::new(StatusCode::FORBIDDEN, FORBIDDEN).with_detail(reason),
            Error::NotFound(message) => Self::new(StatusCode::NOT_FOUND, message.clone()),
            Error::Conflict(message) => Self::new(StatusCode::CONFLICT, message.clone()),
            Error::PropertyConflict(reason) => Self::new(StatusCode::CONFLICT, CONFLICT).with_detail(reason),
            Error::LimitExceeded(message) => Self::new(StatusCode::PAYLOAD_TOO_LARGE, message.clone()),
            Error::Gone(message) => Self::new(StatusCode::GONE, message.clone()),
            // The media type of all image data.
            Error::UnfitData(reason) => Self::media_type("application/octet-stream", reason),
            Error::NoSuchRange(reason) => {
                Self::new(StatusCode::RANGE_NOT_SATISFIABLE, "The Range requested is not available.")
                    .with_detail(reason)
            }
            Error::SlowClient => Self::new(StatusCode::REQUEST_TIMEOUT, error.to_string()),
            Error::OtherNode { status, message } => {
                Self::new(StatusCode::from_u16(*status).unwrap_or(StatusCode::BAD_GATEWAY), message.clone())
            }
            Error::StoreUnavailable(message) => Self::new(StatusCode::SERVICE_UNAVAILABLE, message.clone()),
            Error::Unavailable { .. } | Error::Contended(_) => Self::new(StatusCode::SERVICE_UNAVAILABLE, UNAVAILABLE),
            Error::Internal(_) => Self::new(StatusCode::INTERNAL_SERVER_ERROR, INTERNAL),
        }
    }
}

impl IntoResponse for ErrorResponse {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = self.status;
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(header::RETRY_AFTER, RETRY_AFTER);
        }
        if Some(title(self.status)) != self.status.canonical_reason() {
            // Clients display the reason phrase, so it must be webob's.
            response.extensions_mut().insert(ReasonPhrase::from_static(title(self.status).as_bytes()));
        }
        response.extensions_mut().insert(self);
        response
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        match &self {
            Self::Unavailable { service, source } => {
                tracing::error!(error = %source, "{service} is unavailable")
            }
            Self::Contended(source) => tracing::error!(error = %source, "the database is unavailable"),
            Self::Internal(source) => tracing::error!(error = %source, "internal error"),
            error => tracing::debug!(reason = %error, "request refused"),
        }
        ErrorResponse::from(&self).into_response()
    }
}

/// The response if a handler panicked. The message of the panic is only logged.
pub(super) fn panicked(_panic: Box<dyn Any + Send>) -> Response {
    ErrorResponse::new(StatusCode::INTERNAL_SERVER_ERROR, INTERNAL).into_response()
}

/// Middleware: writes the body of an error response. As webob does, a response to HEAD has no body, and the media type of an empty
/// one.
pub(super) async fn render(request: Request, next: Next) -> Response {
    let form = accept::negotiate(request.headers());
    let is_head = request.method() == Method::HEAD;
    let mut response = next.run(request).await;
    if let Some(error) = response.extensions_mut().remove::<ErrorResponse>() {
        let (content_type, body) = match is_head {
            true => (EMPTY_TYPE, String::new()),
            false => error.render(form),
        };
        response.headers_mut().insert(header::CONTENT_TYPE, content_type);
        response.headers_mut().remove(header::CONTENT_LENGTH);
        if is_head {
            // hyper does not announce the length of an empty body here.
            response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(0));
        }
        *response.body_mut() = Body::from(body);
    }
    response
}

fn escape_html(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#x27;"),
            c if c.is_ascii() => out.push(c),
            c => out.push_str(&format!("&#{};", u32::from(c))),
        }
    }
    out
}

/// Converts HTML to text as webob does: `<br>` becomes a line break, a line end becomes a space, and other tags are removed.
fn strip_tags(html: &str) -> String {
    let text = html.replace('\n', " ").replace('\r', "");
    let text = replace_tags(&text, "<br", "\n").replace("<!--", "").replace("-->", "");
    replace_tags(&text, "<", "")
}

/// Replaces what begins with `start`, in any case, and ends with the next `>`.
fn replace_tags(text: &str, start: &str, with: &str) -> String {
    let lower = text.to_ascii_lowercase();
    let (mut out, mut position) = (String::with_capacity(text.len()), 0);
    while let Some(found) = lower[position..].find(start) {
        let tag = position + found;
        let Some(length) = text[tag..].find('>') else { break };
        out.push_str(&text[position..tag]);
        out.push_str(with);
        position = tag + length + 1;
    }
    out.push_str(&text[position..]);
    out
}

/// 503: the request cannot be served now.
pub(super) fn unavailable() -> Response {
    ErrorResponse::new(StatusCode::SERVICE_UNAVAILABLE, UNAVAILABLE).into_response()
}

/// 503 while the server drains. It closes the connection, so that the client connects to another server.
pub(super) fn draining() -> Response {
    let mut response = unavailable();
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

/// 401, with the authentication scheme that the client can use, and a hint for its user.
pub(super) fn unauthenticated(challenge: Option<HeaderValue>, hint: Option<&str>) -> Response {
    let mut response = match hint {
        Some(hint) => ErrorResponse::new(StatusCode::UNAUTHORIZED, UNAUTHORIZED).with_detail(hint).into_response(),
        None => Error::Unauthenticated.into_response(),
    };
    if let Some(challenge) = challenge {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
    }
    response
}

#[cfg(test)]
mod tests {
    use axum::http::{Method, StatusCode};
    use proptest::prelude::*;

    use super::{ErrorResponse, Form, strip_tags};

    fn body(error: &ErrorResponse, form: Form) -> String {
        error.render(form).1
    }

    /// Each of these was observed from a Glance 33.
    #[test]
    fn bodies_are_those_of_webob() {
        let error = ErrorResponse::new(StatusCode::NOT_FOUND, "No image found with ID <b>&'\"");
        assert_eq!(
            body(&error, Form::Html),
            "<html>\n <head>\n  <title>404 Not Found</title>\n </head>\n <body>\n  <h1>404 Not Found</h1>\n  \
             No image found with ID &lt;b&gt;&amp;&#x27;&quot;<br /><br />\n\n\n\n </body>\n</html>"
        );
        assert_eq!(
            body(&error, Form::Json),
            "{\"message\": \"No image found with ID <b>&'\\\"<br /><br />\\n\\n\\n\", \"code\": \"404 Not Found\", \
             \"title\": \"Not Found\"}"
        );
        assert_eq!(body(&error, Form::Plain), "404 Not Found\n\nNo image found with ID &'\"\n\n   ");
        let error = ErrorResponse::new(StatusCode::NOT_FOUND, "é😀");
        assert!(body(&error, Form::Html).contains("&#233;&#128512;<br />"), "{}", body(&error, Form::Html));
        for (html, text) in [
            ("a <b c", "a <b c"),
            ("a<!-- x -->b", "a x b"),
            ("<><1>a\r\n<BR\n/>b", "a \nb"),
            ("<br", "<br"),
            ("<b<br>>", ""),
        ] {
            assert_eq!(strip_tags(html), text, "{html}");
        }
        let error = ErrorResponse::method(StatusCode::METHOD_NOT_ALLOWED, Method::GET);
        assert_eq!(
            body(&error, Form::Plain),
            "405 Method Not Allowed\n\nThe method GET is not allowed for this resource. \n\n "
        );
    }

    #[tokio::test]
    async fn a_panic_becomes_an_internal_error_without_details() {
        use axum::{Router, body::Body, extract::Request, middleware::from_fn, routing::get};
        use http_body_util::BodyExt as _;
        use tower::ServiceExt as _;

        async fn broken() -> &'static str {
            panic!("the inside")
        }
        let layer = tower_http::catch_panic::CatchPanicLayer::custom(super::panicked);
        let router = Router::new().route("/", get(broken)).layer(layer).layer(from_fn(super::render));
        let response = router.oneshot(Request::new(Body::empty())).await.unwrap();
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, format!("500 Internal Server Error\n\n{}\n\n   ", super::INTERNAL));
    }

    proptest! {
        #[test]
        fn no_text_causes_a_panic(text in any::<String>()) {
            strip_tags(&text);
        }
    }
}
