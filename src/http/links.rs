//! Absolute URLs of this service, as the client reaches it.

use axum::http::{HeaderMap, Uri, header};

use crate::app::App;

/// Where the service is: the configured public endpoint, or the host that the request names. Without a slash at its end.
pub(super) fn base(app: &App, headers: &HeaderMap, uri: &Uri) -> String {
    if let Some(endpoint) = &app.config.default.public_endpoint {
        return endpoint.trim_end_matches('/').to_owned();
    }
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let host = host.or_else(|| uri.authority().map(|authority| authority.as_str())).filter(|host| is_host(host));
    format!("http://{}", host.unwrap_or("localhost"))
}

/// Whether the text can stand in a URL as its host and port, and nothing else.
fn is_host(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_:[]".contains(&b))
}
