//! Requests about data that is staged on another node: they are sent on to that node, as Glance does.
//!
//! A node that stages data writes its `worker_self_reference_url` to the image. With a folder that all nodes share, the data is here
//! as well, and no request is sent on.

use std::time::Duration;

use axum::http::{HeaderValue, Method};
use serde_json::{Map, Value};

use crate::{
    app::App,
    auth::Credentials,
    db::{self, Session},
    error::{Error, Result, with_causes},
    model::{ImageId, STAGE_HOST},
};

/// How long the other node is given, as in Glance.
const TIMEOUT: Duration = Duration::from_secs(60);
/// The maximum length of an answer in bytes. The rest is not read.
const MAX_ANSWER: usize = 64 * 1024;
/// Marks a request that a node has sent on. It is not sent on again: a node whose `worker_self_reference_url` was changed would send
/// requests to itself.
pub(crate) const FORWARDED: &str = "x-glimpse-forwarded";
const UNAVAILABLE: &str = "Stage host is unavailable";

/// What another node needs of a request.
#[derive(Debug, Clone)]
pub(crate) struct Incoming {
    /// The caller's credentials.
    pub(crate) credentials: Credentials,
    /// The id of the request.
    pub(crate) request_id: String,
    /// `X-Image-Meta-Store`
    pub(crate) store: Option<HeaderValue>,
    /// Whether another node has sent it on.
    pub(crate) is_forwarded: bool,
}

impl Incoming {
    /// The store that the request names.
    pub(crate) fn store(&self) -> Option<&str> {
        self.store.as_ref()?.to_str().ok()
    }
}

/// The URL of the node that has the image's staged data, if that is another one. One statement.
pub(crate) async fn host_of_staged(app: &App, s: &mut impl Session, image: &ImageId) -> Result<Option<String>> {
    let properties = db::properties::list(s, image).await?;
    let host = properties.into_iter().find(|property| property.name == STAGE_HOST).and_then(|property| property.value);
    let host = host.filter(|host| !host.is_empty() && Some(host.as_str()) != app.config.default.self_reference());
    match host {
        Some(_) if app.stores.has_staged(image, None).await => Ok(None),
        host => Ok(host),
    }
}

/// Sends a request on to another node.
///
/// # Errors
/// `OtherNode`: the node cannot be reached, or has answered with an error.
pub(crate) async fn forward(
    host: &str,
    incoming: &Incoming,
    method: Method,
    path: &str,
    body: Option<&Map<String, Value>>,
) -> Result<()> {
    let url = format!("{}{path}", host.trim_end_matches('/'));
    if incoming.is_forwarded {
        tracing::error!(url, "a request was sent on to this node, whose worker_self_reference_url is another one");
        return Err(unavailable(502));
    }
    tracing::info!(%method, url, "the image's data is staged on another node; the request is sent on");
    let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).no_proxy().timeout(TIMEOUT);
    let client = client.build().map_err(|error| Error::Internal(error.into()))?;
    let mut request = client.request(method, &url).headers(incoming.credentials.headers());
    request = request.header("Accept", "application/json").header("X-OpenStack-Request-ID", &incoming.request_id);
    request = request.header(FORWARDED, "1");
    if let Some(store) = &incoming.store {
        request = request.header("X-Image-Meta-Store", store.clone());
    }
    if let Some(body) = body {
        request = request.json(body);
    }
    let mut response = request.send().await.map_err(|error| {
        let status = if error.is_connect() { 504 } else { 502 };
        let cause = with_causes(&error.without_url());
        tracing::error!(url, cause, "the node that has the image's staged data cannot be reached");
        unavailable(status)
    })?;
    let status = response.status();
    if status.is_success() {
        return Ok(());
    }
    let mut text = Vec::new();
    while let Ok(Some(part)) = response.chunk().await {
        text.extend_from_slice(&part);
        if text.len() > MAX_ANSWER {
            break;
        }
    }
    Err(Error::OtherNode { status: status.as_u16(), message: explanation(&text) })
}

fn unavailable(status: u16) -> Error {
    Error::OtherNode { status, message: UNAVAILABLE.to_owned() }
}

/// The sentence in the body of an error: Glance puts it before its template's line break.
fn explanation(body: &[u8]) -> String {
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    let message = body["message"].as_str().unwrap_or_default();
    message.split("<br />").next().unwrap_or_default().trim().to_owned()
}

/// Whether the other node has failed, so that it did not do what it was asked for.
pub(crate) fn is_failure(error: &Error) -> bool {
    matches!(error, Error::OtherNode { status: 500.., .. })
}

#[cfg(test)]
mod tests {
    use super::explanation;

    #[test]
    fn the_explanation_of_another_node_is_kept() {
        let body =
            br#"{"message": "Image has active task<br /><br />\n\n\n", "code": "409 Conflict", "title": "Conflict"}"#;
        assert_eq!(explanation(body), "Image has active task");
        assert_eq!(explanation(b"<html>"), "");
    }
}
