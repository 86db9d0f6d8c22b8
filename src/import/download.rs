//! The download of an image's data from a web server.
//!
//! Every URL, including those of redirects, is checked by the egress filter, and only the addresses that were checked are connected to.
//! A download that is interrupted is resumed where it stopped, if the server has identified its data. Large data is requested in parts,
//! several at a time, if the server supports that: see ADR 22.

use std::{ops::Range, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt as _, stream};
use reqwest::{
    Response, StatusCode,
    header::{self, HeaderValue},
    redirect,
};
use url::{Origin, Url};

use crate::{
    app::App,
    egress::{self, EgressFilter, Refused, Strictness},
    error::{Error, Result, with_causes},
    stream::{BoxError, ByteStream},
};

/// The maximum number of redirects that are followed.
const MAX_REDIRECTS: usize = 10;
/// The timeout of connecting, and of each read.
const TIMEOUT: Duration = Duration::from_secs(60);
/// The maximum number of consecutive attempts to resume that bring no data.
const MAX_FAILURES: u32 = 5;
/// The pause before the first attempt to resume; it doubles with each attempt.
const PAUSE: Duration = Duration::from_millis(500);
/// The longest time without data: all attempts to resume, with their pauses and timeouts.
pub(super) const PATIENCE: Duration = Duration::from_secs(600);

/// The minimum size in bytes of data that is requested in parts.
const MIN_IN_PARTS: u64 = 16 << 20;
/// The size of a part in bytes.
const PART: u64 = 1 << 20;
/// The maximum number of parts that are requested at the same time, and that are in memory.
const PARTS: usize = 4;

/// What is downloaded.
pub(super) struct Source<'s> {
    pub(super) uri: &'s str,
    /// The project for which it is downloaded.
    pub(super) project: Option<&'s str>,
    /// A token that the server gets. A server to which it redirects gets it only if it is the same one.
    pub(super) token: Option<HeaderValue>,
}

/// Opens a URL. Also returns the size of its data in bytes, if the server reports it.
///
/// # Errors
/// `Invalid` if another attempt would fail as well, otherwise `StoreUnavailable`.
pub(super) async fn open(app: &App, source: Source<'_>) -> Result<(Option<u64>, ByteStream)> {
    let server = Arc::new(Server::new(app, source)?);
    let response = server.request(None).await?;
    if response.status() == StatusCode::PARTIAL_CONTENT {
        return Err(Error::Invalid("The web server sends only a part of the data.".to_owned()));
    }
    let (size, validator) = (length(&response), validator(&response));
    let mut download =
        Download { server, size, received: 0, validator, parts: None, body: None, attempts: Attempts::default() };
    match whole_if_divisible(&download.server, &response) {
        Some(whole) => download.parts = Some(whole.into_parts(&download.server)),
        None => download.body = Some(body(response)),
    }
    Ok((size, Box::pin(stream::try_unfold(download, Download::next))))
}

/// Reads a document of at most `max` bytes.
///
/// # Errors
/// `Invalid` if another attempt would fail as well, otherwise `StoreUnavailable`.
pub(super) async fn read(app: &App, source: Source<'_>, max: usize) -> Result<Vec<u8>> {
    let mut data = body(Server::new(app, source)?.request(None).await?);
    let mut bytes = Vec::new();
    while let Some(part) = data.next().await {
        let interrupted = |_| Error::StoreUnavailable("The web server's answer was interrupted.".to_owned());
        let part = part.map_err(interrupted)?;
        if bytes.len() + part.len() > max {
            return Err(Error::Invalid("The web server's answer is too long.".to_owned()));
        }
        bytes.extend_from_slice(&part);
    }
    Ok(bytes)
}

/// Where the data comes from.
struct Server {
    client: reqwest::Client,
    filter: Arc<EgressFilter>,
    project: Option<String>,
    uri: String,
    token: Option<(Origin, HeaderValue)>,
}

/// A part of the data that is requested.
#[derive(Clone, Copy)]
struct Part<'v> {
    /// The position of its first byte.
    first: u64,
    /// The position of its last byte, if it is not the last one of the data.
    last: Option<u64>,
    /// What identifies the data, for `If-Range`.
    validator: &'v str,
}

/// Data that is requested in parts.
struct Whole {
    size: u64,
    /// What identifies the data, for `If-Range`.
    validator: String,
}

struct Download {
    server: Arc<Server>,
    size: Option<u64>,
    received: u64,
    /// What identifies the data, for `If-Range`.
    validator: Option<String>,
    /// Parts of the data, in their order, which are requested several at a time.
    parts: Option<ByteStream>,
    /// The rest of the data.
    body: Option<ByteStream>,
    attempts: Attempts,
}

/// The consecutive attempts to resume that brought no data.
#[derive(Default)]
struct Attempts(u32);

impl Attempts {
    /// Waits before the next attempt. Returns false if there were too many.
    async fn wait(&mut self) -> bool {
        if self.0 >= MAX_FAILURES {
            return false;
        }
        tokio::time::sleep(PAUSE * 2_u32.pow(self.0)).await;
        self.0 += 1;
        true
    }
}

impl Server {
    fn new(app: &App, source: Source<'_>) -> Result<Self> {
        let client = reqwest::Client::builder()
            .dns_resolver(app.egress.resolver(Strictness::New, &[]))
            .redirect(redirect::Policy::none())
            .no_proxy()
            .connect_timeout(TIMEOUT)
            .read_timeout(TIMEOUT)
            .build();
        let origin = Url::parse(source.uri).ok().map(|url| url.origin());
        Ok(Self {
            client: client.map_err(|error| Error::Internal(error.into()))?,
            filter: Arc::clone(&app.egress),
            project: source.project.map(str::to_owned),
            uri: source.uri.to_owned(),
            token: origin.zip(source.token),
        })
    }

    /// Sends a request, for a part of the data if one is given, and follows redirects.
    async fn request(&self, part: Option<Part<'_>>) -> Result<Response> {
        let mut text = self.uri.clone();
        for _ in 0..=MAX_REDIRECTS {
            let refused = |error: Refused| Error::Invalid(error.to_string());
            let url = self.filter.check(&text, Strictness::New).map_err(refused)?;
            if !matches!(url.scheme(), "http" | "https") {
                return Err(Error::Invalid("The scheme of the URL is not supported.".to_owned()));
            }
            let mut request = self.client.get(url.clone());
            if let Some((_, token)) = self.token.as_ref().filter(|(origin, _)| *origin == url.origin()) {
                request = request.header("X-Auth-Token", token.clone());
            }
            if let Some(Part { first, last, validator }) = part {
                let last = last.map(|last| last.to_string()).unwrap_or_default();
                request = request.header(header::RANGE, format!("bytes={first}-{last}"));
                request = request.header(header::IF_RANGE, validator);
            }
            let sent = egress::on_behalf_of(self.project.as_deref(), request.send()).await;
            let response = sent.map_err(|error| match Refused::cause_of(&error) {
                Some(refused) => Error::Invalid(refused.to_string()),
                None => {
                    let cause = with_causes(&error.without_url());
                    tracing::warn!(cause, "the web server of an import cannot be reached");
                    Error::StoreUnavailable("The web server cannot be reached.".to_owned())
                }
            })?;
            let status = response.status();
            match status {
                StatusCode::MOVED_PERMANENTLY
                | StatusCode::FOUND
                | StatusCode::SEE_OTHER
                | StatusCode::TEMPORARY_REDIRECT
                | StatusCode::PERMANENT_REDIRECT => {
                    let to = response.headers().get(header::LOCATION).and_then(|to| to.to_str().ok());
                    let nowhere = || Error::Invalid("The web server redirects nowhere.".to_owned());
                    let to = to.ok_or_else(nowhere)?;
                    // An absolute URL is kept verbatim, because the filter also checks its spelling.
                    let is_absolute = Url::parse(to).is_ok();
                    text = if is_absolute { to.to_owned() } else { url.join(to).map_err(|_| nowhere())?.into() };
                }
                StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => return Err(unavailable(status)),
                _ if status.is_success() => return Ok(response),
                _ if status.is_server_error() => return Err(unavailable(status)),
                _ => return Err(Error::Invalid(format!("The web server answers with {status}."))),
            }
        }
        Err(Error::Invalid(format!("The web server redirects more than {MAX_REDIRECTS} times.")))
    }
}

impl Whole {
    /// Requests the data in parts, several at a time. Returns them in their order.
    fn into_parts(self, server: &Arc<Server>) -> ByteStream {
        let (server, whole) = (Arc::clone(server), Arc::new(self));
        let starts = (0..whole.size.div_ceil(PART)).map(|number| number * PART);
        let parts = stream::iter(starts).map(move |start| {
            let (server, whole) = (Arc::clone(&server), Arc::clone(&whole));
            async move { whole.read(&server, start..whole.size.min(start + PART)).await }
        });
        Box::pin(parts.buffered(PARTS))
    }

    /// Reads a part. After an interruption, resumes it.
    async fn read(&self, server: &Server, range: Range<u64>) -> Result<Bytes, BoxError> {
        let length = usize::try_from(range.end - range.start)?;
        let (mut data, mut attempts) = (BytesMut::with_capacity(length), Attempts::default());
        loop {
            let first = range.start + data.len() as u64;
            let part = Part { first, last: Some(range.end - 1), validator: &self.validator };
            let reason = match server.request(Some(part)).await {
                Ok(response) => {
                    let answer = format!("bytes {first}-{}/{}", range.end - 1, self.size);
                    if response.status() != StatusCode::PARTIAL_CONTENT
                        || content_range(&response) != Some(answer.as_str())
                    {
                        return Err("the web server does not send the part that was requested".into());
                    }
                    let mut body = body(response);
                    let end = loop {
                        match body.next().await {
                            Some(Ok(bytes)) if data.len() + bytes.len() <= length => {
                                data.extend_from_slice(&bytes);
                                attempts = Attempts::default();
                            }
                            Some(Ok(_)) => return Err("the web server sends more than was requested".into()),
                            Some(Err(error)) => break error,
                            None => break "the part ended early".into(),
                        }
                    };
                    if data.len() == length {
                        return Ok(data.freeze());
                    }
                    end
                }
                Err(error @ Error::StoreUnavailable(_)) => error.into(),
                Err(error) => return Err(error.into()),
            };
            tracing::debug!(error = %reason, first, "a part of a download was interrupted");
            if !attempts.wait().await {
                return Err(reason);
            }
        }
    }
}

impl Download {
    /// Returns the next part of the data. After an interruption, resumes the download.
    async fn next(mut self) -> Result<Option<(Bytes, Self)>, BoxError> {
        loop {
            if let Some(parts) = &mut self.parts {
                match parts.next().await {
                    None => return Ok(None),
                    Some(Ok(part)) => {
                        self.received += part.len() as u64;
                        return Ok(Some((part, self)));
                    }
                    Some(Err(error)) => {
                        let received = self.received;
                        tracing::info!(%error, received, "the rest of a download is requested as a whole");
                        self.parts = None;
                    }
                }
            }
            let Some(body) = &mut self.body else {
                self.resume().await?;
                continue;
            };
            match body.next().await {
                Some(Ok(part)) if part.is_empty() => {}
                Some(Ok(part)) => {
                    self.received += part.len() as u64;
                    self.attempts = Attempts::default();
                    return Ok(Some((part, self)));
                }
                None if self.size.is_none_or(|size| self.received >= size) => return Ok(None),
                None => self.body = None,
                Some(Err(error)) => {
                    tracing::info!(%error, received = self.received, "a download was interrupted");
                    self.body = None;
                }
            }
        }
    }

    /// Requests the rest of the data. If the server is unavailable, there is no body afterwards.
    ///
    /// # Errors
    /// The data is another one by now, the server does not support it, or too many attempts have failed.
    async fn resume(&mut self) -> Result<(), BoxError> {
        let Some(validator) = &self.validator else { return Err("the download cannot be resumed".into()) };
        if !self.attempts.wait().await {
            return Err("the download was interrupted too often".into());
        }
        let rest = Part { first: self.received, last: None, validator };
        match self.server.request(Some(rest)).await {
            Ok(response) if response.status() == StatusCode::PARTIAL_CONTENT => {
                if !content_range(&response)
                    .is_some_and(|range| range.starts_with(&format!("bytes {}-", self.received)))
                {
                    return Err("the web server sends another range".into());
                }
                self.body = Some(body(response));
            }
            // The server does not send parts after all.
            Ok(response) if self.received == 0 && length(&response) == self.size => self.body = Some(body(response)),
            Ok(_) => return Err("the data has changed, or the web server does not send parts of it".into()),
            Err(Error::StoreUnavailable(_)) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }
}

fn unavailable(status: StatusCode) -> Error {
    Error::StoreUnavailable(format!("The web server answers with {status}."))
}

fn body(response: Response) -> ByteStream {
    Box::pin(response.bytes_stream().map(|part| part.map_err(|error| error.without_url().into())))
}

/// Returns what is needed to request the data in parts, if that is worthwhile and the server supports it. Another region's image service,
/// which gets a token, would check each of many requests.
fn whole_if_divisible(server: &Server, response: &Response) -> Option<Whole> {
    let text = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
    let accepts_ranges = text(header::ACCEPT_RANGES).is_some_and(|units| units.eq_ignore_ascii_case("bytes"));
    let size = length(response).filter(|size| accepts_ranges && server.token.is_none() && *size >= MIN_IN_PARTS)?;
    // The time of a modification may be too coarse to identify the data.
    let validator = validator(response).filter(|validator| validator.starts_with('"'))?;
    Some(Whole { size, validator })
}

fn content_range(response: &Response) -> Option<&str> {
    response.headers().get(header::CONTENT_RANGE)?.to_str().ok()
}

fn length(response: &Response) -> Option<u64> {
    response.headers().get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// A strong validator of the data, as RFC 9110 requires for `If-Range`.
fn validator(response: &Response) -> Option<String> {
    let text = |name| response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    text(header::ETAG).filter(|tag| tag.starts_with('"')).or_else(|| text(header::LAST_MODIFIED))
}
