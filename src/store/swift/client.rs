//! A Swift client over HTTP. Requests have a timeout, are retried after errors that can be transient, and are sent with a new token if
//! Swift rejects the current one.

use std::{ops::Range, sync::Arc, time::Duration};

use bytes::Bytes;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::{
    Method, Response, StatusCode,
    header::{self, HeaderValue},
};
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::{
    super::object_server::{Body, READ_TIMEOUT, content_length, pause_before_retry, read_body, timeout_of},
    account::{Account, Session},
    error::{Result, SwiftError},
};
use crate::stream::BoxError;

/// The number of names in a page of a listing.
const PAGE: usize = 1000;
/// The number of frames of a body that wait for the connection.
const QUEUE: usize = 2;
/// The characters that are percent-encoded in a path and in a query.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~').remove(b'/');

/// The path of a container in an account, or of an object in it.
#[derive(Clone)]
pub(super) struct SwiftPath {
    pub(super) account: Arc<Account>,
    pub(super) container: String,
    /// Empty for the container itself.
    pub(super) object: String,
}

impl SwiftPath {
    /// Another object in the same container.
    pub(super) fn with_object(&self, object: impl Into<String>) -> Self {
        Self { object: object.into(), ..self.clone() }
    }

    /// The container.
    pub(super) fn container(&self) -> Self {
        self.with_object("")
    }
}

/// A request that was not sent yet.
struct Call<'c> {
    method: Method,
    path: &'c SwiftPath,
    /// The query, encoded.
    query: String,
    headers: Vec<(&'static str, String)>,
    body: Body,
}

impl<'c> Call<'c> {
    fn new(method: Method, path: &'c SwiftPath) -> Self {
        Self { method, path, query: String::new(), headers: Vec::new(), body: Body::default() }
    }

    fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

/// An object, as a listing of its container describes it.
#[derive(Debug, Deserialize)]
pub(super) struct Listed {
    pub(super) name: String,
    /// The time of its last change, such as `2026-01-31T12:00:00.000000`, in UTC.
    pub(super) last_modified: String,
}

/// The description of an object.
pub(super) struct Head {
    pub(super) size: Option<u64>,
    /// The value of `X-Object-Manifest`, if it is a dynamic large object: a container, and the start of its segments' names.
    pub(super) manifest: Option<(String, String)>,
    /// Whether it is a static large object.
    pub(super) is_static: bool,
}

/// A client of Swift.
#[derive(Clone)]
pub(super) struct Client {
    http: reqwest::Client,
}

impl Client {
    pub(super) fn new(http: reqwest::Client) -> Self {
        Self { http }
    }

    fn request(&self, call: &Call<'_>, session: &Session) -> reqwest::RequestBuilder {
        let mut url = format!("{}/{}", session.url, utf8_percent_encode(&call.path.container, ENCODED));
        if !call.path.object.is_empty() {
            url = format!("{url}/{}", utf8_percent_encode(&call.path.object, ENCODED));
        }
        if !call.query.is_empty() {
            url = format!("{url}?{}", call.query);
        }
        let mut request = self.http.request(call.method.clone(), url).header("X-Auth-Token", session.token.clone());
        for (name, value) in &call.headers {
            request = request.header(*name, value);
        }
        request
    }

    async fn send_once(&self, call: &Call<'_>, session: &Session) -> Result<Response> {
        let mut request = self.request(call, session);
        if matches!(call.method, Method::PUT | Method::POST) {
            request = request.header(header::CONTENT_LENGTH, call.body.len()).body(call.body.to_http());
        }
        answer_of(request, timeout_of(call.body.len())).await
    }

    /// Sends a request, retries it after transient errors, and renews a rejected token once.
    async fn send(&self, call: &Call<'_>) -> Result<Response> {
        let mut session = session(call.path, None).await?;
        let (mut retries, mut may_renew) = (0, true);
        loop {
            match self.send_once(call, &session).await {
                Err(SwiftError::Answer(StatusCode::UNAUTHORIZED)) if may_renew => {
                    may_renew = false;
                    session = self::session(call.path, Some(&session.token)).await?;
                }
                Err(error) if error.is_transient() && pause_before_retry(retries).await => {
                    tracing::warn!(%error, method = %call.method, "a request to Swift failed; retrying");
                    retries += 1;
                }
                sent => return sent,
            }
        }
    }

    /// Checks that a container or an object exists.
    pub(super) async fn check(&self, path: &SwiftPath) -> Result<()> {
        self.send(&Call::new(Method::HEAD, path)).await.map(drop)
    }

    /// Reads the description of an object.
    pub(super) async fn head(&self, path: &SwiftPath) -> Result<Head> {
        let response = self.send(&Call::new(Method::HEAD, path)).await?;
        let text = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
        let manifest = text("X-Object-Manifest").and_then(|manifest| {
            let (container, prefix) = manifest.split_once('/')?;
            let decode = |text: &str| percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned();
            Some((decode(container), decode(prefix)))
        });
        Ok(Head {
            size: content_length(&response),
            manifest,
            is_static: text("X-Static-Large-Object").is_some_and(|value| value.eq_ignore_ascii_case("true")),
        })
    }

    /// Opens an object or a range of its bytes.
    pub(super) async fn get(&self, path: &SwiftPath, range: Option<&Range<u64>>) -> Result<Response> {
        let mut call = Call::new(Method::GET, path);
        if let Some(range) = range {
            call = call.header("Range", format!("bytes={}-{}", range.start, range.end.saturating_sub(1)));
        }
        self.send(&call).await
    }

    /// Creates a container; succeeds if it exists.
    pub(super) async fn create_container(&self, path: &SwiftPath) -> Result<()> {
        self.send(&Call::new(Method::PUT, &path.container())).await.map(drop)
    }

    /// Stores an object.
    pub(super) async fn put(&self, path: &SwiftPath, body: Body) -> Result<()> {
        let call = Call { body, ..Call::new(Method::PUT, path) };
        self.send(&call).await.map(drop)
    }

    /// Stores the manifest of a dynamic large object, whose segments are in its container.
    pub(super) async fn put_manifest(&self, path: &SwiftPath, prefix: &str) -> Result<()> {
        let call = Call::new(Method::PUT, path).header("X-Object-Manifest", format!("{}/{prefix}", path.container));
        self.send(&call).await.map(drop)
    }

    /// Begins to store an object whose bytes follow. They cannot be sent again, so the request is not retried.
    pub(super) async fn open_put(&self, path: &SwiftPath, size: Option<u64>) -> Result<OpenPut> {
        let session = session(path, None).await?;
        let (sender, receiver) = mpsc::channel::<Frame>(QUEUE);
        let frames = futures_util::stream::unfold(receiver, |mut receiver| async move {
            match receiver.recv().await {
                Some(Frame::Data(bytes)) => Some((Ok(bytes), receiver)),
                Some(Frame::End) => None,
                // Without this error, the object would end here.
                None => Some((Err(BoxError::from("the upload was aborted")), receiver)),
            }
        });
        let mut request =
            self.request(&Call::new(Method::PUT, path), &session).body(reqwest::Body::wrap_stream(frames));
        if let Some(size) = size {
            request = request.header(header::CONTENT_LENGTH, size);
        }
        // The time between two frames is limited where they are sent.
        let sent = AbortOnDropHandle::new(tokio::spawn(answer_of(request, Duration::MAX)));
        Ok(OpenPut { frames: sender, sent })
    }

    /// Sets who can read and write the objects of a container.
    pub(super) async fn set_acls(&self, path: &SwiftPath, read: &str, write: &str) -> Result<()> {
        let container = path.container();
        let call = Call::new(Method::POST, &container);
        self.send(&call.header("X-Container-Read", read).header("X-Container-Write", write)).await.map(drop)
    }

    /// Deletes an object; succeeds if there is none.
    pub(super) async fn delete(&self, path: &SwiftPath) -> Result<()> {
        match self.delete_existing(path).await {
            Err(error) if error.is_not_found() => Ok(()),
            deleted => deleted,
        }
    }

    /// Deletes an object.
    pub(super) async fn delete_existing(&self, path: &SwiftPath) -> Result<()> {
        self.send(&Call::new(Method::DELETE, path)).await.map(drop)
    }

    /// Deletes a static large object with its segments.
    pub(super) async fn delete_static(&self, path: &SwiftPath) -> Result<()> {
        let query = "multipart-manifest=delete".to_owned();
        let call = Call { query, ..Call::new(Method::DELETE, path) }.header("Accept", "application/json");
        let body = read_body(self.send(&call).await?).await?;
        // The response is 200 even if something was not deleted.
        let deleted: BulkDeleted = serde_json::from_slice(&body)
            .map_err(|_| SwiftError::InvalidResponse("it does not describe what was deleted"))?;
        match deleted.errors.is_empty() {
            true => Ok(()),
            false => Err(SwiftError::InvalidResponse("some segments were not deleted")),
        }
    }

    /// Lists the objects of a container whose names start with a prefix; an empty list if there is no such container.
    pub(super) async fn list(&self, container: &SwiftPath, prefix: &str) -> Result<Vec<Listed>> {
        let encode = |text: &str| utf8_percent_encode(text, ENCODED).to_string();
        let container = container.container();
        let mut found: Vec<Listed> = Vec::new();
        loop {
            let marker = found.last().map_or("", |listed| listed.name.as_str());
            let query = format!("format=json&limit={PAGE}&prefix={}&marker={}", encode(prefix), encode(marker));
            let response = match self.send(&Call { query, ..Call::new(Method::GET, &container) }).await {
                Err(error) if error.is_not_found() => return Ok(found),
                sent => sent?,
            };
            if response.status() == StatusCode::NO_CONTENT {
                return Ok(found);
            }
            let page: Vec<Listed> = serde_json::from_slice(&read_body(response).await?)
                .map_err(|_| SwiftError::InvalidResponse("it is not a listing"))?;
            let is_last = page.len() < PAGE;
            found.extend(page);
            if is_last {
                return Ok(found);
            }
        }
    }
}

/// The response to a deletion of several objects.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct BulkDeleted {
    #[serde(default)]
    errors: Vec<serde_json::Value>,
}

enum Frame {
    Data(Bytes),
    End,
}

/// A request that stores an object while its bytes arrive. If it is dropped before its end, Swift discards the bytes.
pub(super) struct OpenPut {
    frames: mpsc::Sender<Frame>,
    sent: AbortOnDropHandle<Result<Response>>,
}

impl OpenPut {
    /// Sends bytes.
    pub(super) async fn write(&mut self, bytes: Bytes) -> Result<()> {
        match tokio::time::timeout(READ_TIMEOUT, self.frames.send(Frame::Data(bytes))).await {
            Ok(Ok(())) => Ok(()),
            // The request has ended early; its response says why.
            Ok(Err(_)) => match (&mut self.sent).await? {
                Ok(_) => Err(SwiftError::InvalidResponse("it arrived before the end of the object")),
                Err(error) => Err(error),
            },
            Err(_) => Err(SwiftError::TimedOut),
        }
    }

    /// Ends the object. The returned future waits until Swift has stored it.
    pub(super) async fn end(self) -> Result<impl Future<Output = Result<()>> + Send + use<>> {
        let Self { frames, sent } = self;
        // If the size is known, the request can have ended with the last byte.
        let _ = tokio::time::timeout(READ_TIMEOUT, frames.send(Frame::End)).await.map_err(|_| SwiftError::TimedOut)?;
        Ok(async move {
            let stored = tokio::time::timeout(READ_TIMEOUT, sent).await;
            drop(frames);
            stored.map_err(|_| SwiftError::TimedOut)??.map(drop)
        })
    }
}

/// The session of the path's account, as in [`Account::session`](super::account::Account::session). A login that is needed for it is
/// retried after transient errors.
async fn session(path: &SwiftPath, rejected: Option<&HeaderValue>) -> Result<Session> {
    let mut retries = 0;
    loop {
        match path.account.session(rejected).await {
            Err(error) if error.is_transient() && pause_before_retry(retries).await => {
                tracing::warn!(%error, "a login to Swift failed; retrying");
                retries += 1;
            }
            session => return session,
        }
    }
}

/// Sends a request, and returns its response if it is a success.
async fn answer_of(request: reqwest::RequestBuilder, timeout: Duration) -> Result<Response> {
    let sent = tokio::time::timeout(timeout, request.send()).await;
    let response = sent.map_err(|_| SwiftError::TimedOut)?.map_err(SwiftError::from_connection)?;
    match response.status() {
        status if status.is_success() => Ok(response),
        status => Err(SwiftError::Answer(status)),
    }
}
