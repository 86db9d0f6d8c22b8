//! What the drivers of S3 and Swift share: clients of a server that keeps objects and speaks HTTP.

mod body;

use std::{collections::VecDeque, fs, ops::Range, path::Path, time::Duration};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream::try_unfold};
use reqwest::{Response, StatusCode, header};

pub(super) use self::body::Body;
use super::{Error, Result};
use crate::stream::{BoxError, ByteStream, Chunks, Cut};

/// The timeout of connecting.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The timeout of a response's head, and of each part of a body.
pub(super) const READ_TIMEOUT: Duration = Duration::from_secs(60);
/// The minimum upload rate in bytes per second. A slower server counts as unreachable.
const MIN_RATE: u64 = 100_000;
/// The minimum pauses before the retries of a request. Random jitter up to doubles them, so that clients do not retry in step.
const PAUSES: [Duration; 4] =
    [Duration::from_millis(100), Duration::from_millis(300), Duration::from_millis(900), Duration::from_millis(1800)];
/// The maximum size in bytes of a response that is not an object's data.
const MAX_RESPONSE: usize = 8 << 20;

/// An HTTP client that follows no redirects. With a file of certificate authorities, only these are trusted.
///
/// # Errors
/// What is wrong with that file, starting with the name of its option.
pub(super) fn http_client(option: &str, cacert: Option<&Path>, insecure: bool) -> Result<reqwest::Client, String> {
    let mut http =
        reqwest::Client::builder().connect_timeout(CONNECT_TIMEOUT).redirect(reqwest::redirect::Policy::none());
    if insecure {
        http = http.tls_danger_accept_invalid_certs(true);
    } else if let Some(file) = cacert {
        let invalid = |error: &dyn std::fmt::Display| format!("{option} {}: {error}", file.display());
        let pem = fs::read(file).map_err(|error| invalid(&error))?;
        let certificates = reqwest::Certificate::from_pem_bundle(&pem).map_err(|error| invalid(&error))?;
        http = http.tls_certs_only(certificates);
    }
    http.build().map_err(|error| error.to_string())
}

/// The timeout of a request with a body of `length` bytes, until the head of its response.
pub(super) fn timeout_of(length: u64) -> Duration {
    READ_TIMEOUT + Duration::from_secs(length / MIN_RATE)
}

/// Waits before a retry. Returns `false` if there were enough retries already.
pub(super) async fn pause_before_retry(retries: usize) -> bool {
    let Some(pause) = PAUSES.get(retries) else { return false };
    tokio::time::sleep(pause.mul_f64(1.0 + rand::random::<f64>())).await;
    true
}

/// The length of the response's body in bytes, if the server reports it.
pub(super) fn content_length(response: &Response) -> Option<u64> {
    response.headers().get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Why the body of a response cannot be read.
pub(super) enum BodyError {
    Connection(reqwest::Error),
    TimedOut,
    TooLong,
}

/// Reads the whole body of a response that is not an object's data.
pub(super) async fn read_body(response: Response) -> Result<Vec<u8>, BodyError> {
    let mut body = Vec::new();
    let mut parts = response.bytes_stream();
    while let Some(part) = tokio::time::timeout(READ_TIMEOUT, parts.next()).await.map_err(|_| BodyError::TimedOut)? {
        body.extend_from_slice(&part.map_err(BodyError::Connection)?);
        if body.len() > MAX_RESPONSE {
            return Err(BodyError::TooLong);
        }
    }
    Ok(body)
}

/// The incoming data of an object, with the bytes that were received but not taken yet.
pub(super) struct Source {
    data: Chunks,
    received: VecDeque<Bytes>,
    has_ended: bool,
    /// The number of bytes that were taken.
    pub(super) taken: u64,
}

impl Source {
    pub(super) fn new(data: Chunks) -> Self {
        Self { data, received: VecDeque::new(), has_ended: false, taken: 0 }
    }

    /// Waits until there is more data; returns `false` at its end. Cancel-safe.
    pub(super) async fn has_more(&mut self) -> Result<bool, Cut> {
        while self.received.is_empty() && !self.has_ended {
            match self.data.next().await? {
                Some(chunk) => self.received.extend(chunk.shared().filter(|frame| !frame.is_empty())),
                None => self.has_ended = true,
            }
        }
        Ok(!self.received.is_empty())
    }

    /// Takes at most `limit` of the bytes that were received.
    pub(super) fn take(&mut self, limit: u64) -> Option<Bytes> {
        let mut frame = self.received.pop_front()?;
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        if frame.len() > limit {
            self.received.push_front(frame.split_off(limit));
        }
        self.taken += frame.len() as u64;
        Some(frame)
    }

    /// Waits for the next bytes, and takes at most `limit` of them; `None` at the end of the data.
    pub(super) async fn next(&mut self, limit: u64) -> Result<Option<Bytes>, Cut> {
        self.has_more().await?;
        Ok(self.take(limit))
    }

    /// Waits for other work, and fails if the data is interrupted meanwhile.
    pub(super) async fn unless_cut<T>(&mut self, work: impl Future<Output = T>) -> Result<T, Cut> {
        let mut work = std::pin::pin!(work);
        tokio::select! {
            done = &mut work => return Ok(done),
            end = self.data.end() => end?,
        }
        Ok(work.await)
    }
}

/// An object on a server, which can be opened again while it is read.
pub(super) trait OpenedObject: Sized + Send {
    /// The server, as messages name it.
    const SERVER: &'static str;

    /// The object's name.
    fn name(&self) -> &str;
    /// Whether the object is to be opened again after an interruption. Waits until then.
    fn may_reopen(&mut self) -> impl Future<Output = bool> + Send;
    /// Opens the bytes that were not read yet. Fails if they are not those of the same object.
    fn reopen(&mut self, unread: &Range<u64>) -> impl Future<Output = Result<Response, BoxError>> + Send;
    /// Sees bytes before the reader does, which does not get them if this fails.
    fn observe(&mut self, _: &[u8], _is_last: bool) -> Result<(), BoxError> {
        Ok(())
    }
}

/// The bytes of an object, from the response to the request for them. If the connection is interrupted, another request resumes from the
/// same byte. `range` has the requested bytes; without their size, the object ends with the response, and cannot be resumed.
pub(super) fn read_object(
    object: impl OpenedObject + 'static,
    response: Response,
    range: Option<Range<u64>>,
) -> ByteStream {
    let has_known_size = range.is_some();
    let reader =
        ObjectReader { object, unread: range.unwrap_or(0..u64::MAX), has_known_size, response: Some(response) };
    Box::pin(try_unfold(reader, |mut reader| async move {
        let bytes = reader.next().await?;
        Ok(bytes.map(|bytes| (bytes, reader)))
    }))
}

struct ObjectReader<O> {
    object: O,
    /// The bytes that were not read yet.
    unread: Range<u64>,
    has_known_size: bool,
    response: Option<Response>,
}

impl<O: OpenedObject> ObjectReader<O> {
    async fn next(&mut self) -> Result<Option<Bytes>, BoxError> {
        let server = O::SERVER;
        loop {
            if self.unread.is_empty() {
                return Ok(None);
            }
            let read = match &mut self.response {
                Some(response) => match tokio::time::timeout(READ_TIMEOUT, response.chunk()).await {
                    Ok(read) => read.map_err(|error| error.without_url().into()),
                    Err(_) => Err(format!("{server} sends no data").into()),
                },
                None => Err(format!("the response of {server} was interrupted").into()),
            };
            let error: BoxError = match read {
                Ok(Some(bytes)) if bytes.len() as u64 <= self.unread.end - self.unread.start => {
                    self.unread.start += bytes.len() as u64;
                    self.object.observe(&bytes, self.unread.is_empty())?;
                    return Ok(Some(bytes));
                }
                Ok(Some(_)) => return Err(format!("{server} sends more data than requested").into()),
                Ok(None) if !self.has_known_size => return Ok(None),
                Ok(None) => format!("{server} sends less data than requested").into(),
                Err(error) => error,
            };
            if !self.has_known_size || !self.object.may_reopen().await {
                tracing::error!(%error, image = self.object.name(), "a download is truncated: cannot read the object");
                return Err(error);
            }
            tracing::warn!(%error, image = self.object.name(), from = self.unread.start, "reading an object failed, resuming");
            self.response = None;
            self.response = Some(self.object.reopen(&self.unread).await?);
        }
    }
}

/// Checks that the response contains the requested range, and returns the size of the whole object.
pub(super) fn check_range(server: &str, response: &Response, requested: &Range<u64>) -> Result<u64> {
    let wrong_range = || Error::Unavailable(format!("{server} sends another range than requested").into());
    if response.status() != StatusCode::PARTIAL_CONTENT {
        return Err(wrong_range());
    }
    let value = response.headers().get(header::CONTENT_RANGE).and_then(|value| value.to_str().ok());
    let (part, size) = value.and_then(|value| value.strip_prefix("bytes ")?.split_once('/')).ok_or_else(wrong_range)?;
    if part != format!("{}-{}", requested.start, requested.end - 1) {
        return Err(wrong_range());
    }
    size.parse().map_err(|_| wrong_range())
}
