//! An S3 server, asked over HTTP: requests are signed, bounded in time, and sent again where the server may answer better.

use std::{
    fs,
    ops::Range,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures_util::StreamExt as _;
use openssl::sha::{Sha256, sha256};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::{Method, Response, StatusCode, header};
use serde::{Deserialize, de::DeserializeOwned};
use url::Url;

use super::signature::{self, Keys, Signed};
use crate::config::{BucketUrlFormat, S3Store};

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(10);
/// How long the server may say nothing.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);
/// How long it may take to put parts together.
const JOINING: Duration = Duration::from_secs(300);
/// Bytes that a server takes in a second at the least: one that is slower is away.
const SLOWEST: u64 = 100_000;
/// How long to wait before a request is sent again. Each wait is up to twice as long, so that requests do not come all at once.
const PAUSES: [Duration; 4] =
    [Duration::from_millis(100), Duration::from_millis(300), Duration::from_millis(900), Duration::from_millis(1800)];
/// Bytes of an answer that is not data, at the most.
const MAX_ANSWER: usize = 8 << 20;
/// The region where nothing says another.
const DEFAULT_REGION: &str = "us-east-1";
/// What is written as it is in a path and in a query.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// Why the server did not do what was asked. It can be logged: there is no URL in it, nor what the server says in its own words.
#[derive(Debug, thiserror::Error)]
pub(super) enum S3Error {
    /// It answers so.
    #[error("the S3 server answers {status} {code}")]
    Answer { status: StatusCode, code: String },
    /// It cannot be reached, or breaks off.
    #[error("the S3 server cannot be reached")]
    Connection(#[source] reqwest::Error),
    /// It says nothing.
    #[error("the S3 server does not answer in time")]
    Silent,
    /// It answers something else.
    #[error("the S3 server's answer is not understood: {0}")]
    Odd(&'static str),
    /// The request cannot be signed.
    #[error("the request cannot be signed")]
    Signature(#[from] openssl::error::ErrorStack),
}

impl S3Error {
    fn of(error: reqwest::Error) -> Self {
        Self::Connection(error.without_url())
    }

    pub(super) fn status(&self) -> Option<StatusCode> {
        match self {
            Self::Answer { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// Whether it answers with this code.
    pub(super) fn is(&self, wanted: &str) -> bool {
        matches!(self, Self::Answer { code, .. } if code == wanted)
    }

    /// Whether the same request may be answered better a moment later.
    fn may_pass(&self) -> bool {
        match self {
            Self::Answer { status, code } => {
                let passing = ["RequestTimeout", "SlowDown", "InternalError", "OperationAborted", "ServiceUnavailable"];
                matches!(status.as_u16(), 408 | 429 | 500 | 502 | 503 | 504) || passing.contains(&code.as_str())
            }
            Self::Connection(_) => true,
            Self::Silent | Self::Odd(_) | Self::Signature(_) => false,
        }
    }
}

/// The result of a request.
pub(super) type Result<T, E = S3Error> = std::result::Result<T, E>;

/// What is sent along with a request: it can be sent again.
#[derive(Clone)]
pub(super) struct Payload {
    frames: Vec<Bytes>,
    pub(super) len: u64,
    sha256: String,
}

impl Payload {
    pub(super) fn nothing() -> Self {
        Self { frames: Vec::new(), len: 0, sha256: signature::hex(&sha256(b"")) }
    }

    fn text(text: String) -> Self {
        let sha256 = signature::hex(&sha256(text.as_bytes()));
        Self { len: text.len() as u64, frames: vec![text.into()], sha256 }
    }
}

/// A payload that is gathered and hashed little by little.
pub(super) struct Gathering {
    frames: Vec<Bytes>,
    pub(super) len: u64,
    hash: Sha256,
}

impl Gathering {
    pub(super) fn new() -> Self {
        Self { frames: Vec::new(), len: 0, hash: Sha256::new() }
    }

    pub(super) fn push(&mut self, frame: Bytes) {
        self.hash.update(&frame);
        self.len += frame.len() as u64;
        self.frames.push(frame);
    }

    pub(super) fn finish(self) -> Payload {
        Payload { frames: self.frames, len: self.len, sha256: signature::hex(&self.hash.finish()) }
    }
}

/// An object's place on the server, or a bucket's where there is no key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) bucket: String,
    pub(super) key: String,
}

/// A request.
struct Call<'c> {
    method: Method,
    place: &'c Place,
    /// In the order of names.
    query: &'c [(&'c str, &'c str)],
    headers: Vec<(header::HeaderName, String)>,
    payload: Payload,
    patience: Duration,
}

impl<'c> Call<'c> {
    fn new(method: Method, place: &'c Place, query: &'c [(&'c str, &'c str)]) -> Self {
        Self { method, place, query, headers: Vec::new(), payload: Payload::nothing(), patience: PATIENCE }
    }

    fn with(self, payload: Payload) -> Self {
        let patience = PATIENCE + Duration::from_secs(payload.len / SLOWEST);
        Self { payload, patience, ..self }
    }
}

/// An upload in parts that was begun.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Multipart {
    pub(super) upload_id: String,
    /// Whether there may be another one that we do not know of, because the answer was lost.
    #[serde(skip)]
    pub(super) may_be_twice: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Multiparts {
    #[serde(default)]
    upload: Vec<Listed>,
    #[serde(default)]
    is_truncated: bool,
    #[serde(default)]
    next_key_marker: String,
    #[serde(default)]
    next_upload_id_marker: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Listed {
    key: String,
    upload_id: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Refusal {
    code: String,
}

/// A server, and who we are to it.
pub(super) struct Client {
    http: reqwest::Client,
    endpoint: Url,
    /// Whether buckets are names of hosts.
    virtual_hosts: bool,
    keys: Keys,
    /// Where new buckets are to be, if that is said.
    constraint: Option<String>,
}

impl Client {
    /// # Errors
    /// What is wrong with the options, with an option's name.
    pub(super) fn open(options: &S3Store) -> Result<Self, String> {
        let missing = |name: &str| format!("{name} is missing");
        let host = options.s3_store_host.as_deref().ok_or_else(|| missing("s3_store_host"))?;
        let access = options.s3_store_access_key.clone().ok_or_else(|| missing("s3_store_access_key"))?;
        let secret = options.s3_store_secret_key.clone().ok_or_else(|| missing("s3_store_secret_key"))?;
        let bucket = options.s3_store_bucket.as_deref().ok_or_else(|| missing("s3_store_bucket"))?;
        if !access.expose().chars().all(|c| c.is_ascii_graphic()) {
            return Err("s3_store_access_key: letters, digits and marks are wanted".to_owned());
        }
        let endpoint = if host.contains("://") { host.to_owned() } else { format!("http://{host}") };
        let endpoint = Url::parse(&endpoint).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
        let endpoint = endpoint.filter(|url| url.username().is_empty() && url.password().is_none());
        let endpoint = endpoint.ok_or("s3_store_host: a host is wanted, or http:// or https:// and a host")?;
        let is_name = is_host_name(bucket);
        let virtual_hosts = match options.s3_store_bucket_url_format {
            BucketUrlFormat::Path => false,
            BucketUrlFormat::Virtual if !is_name => {
                return Err(
                    "s3_store_bucket_url_format: the bucket's name cannot be a host's, as virtual wants".to_owned()
                );
            }
            BucketUrlFormat::Virtual => true,
            // No certificate is good for a name with more points in it.
            BucketUrlFormat::Auto => is_name && !bucket.contains('.') && is_amazons(&endpoint),
        };
        let constraint = options.s3_store_region_name.clone().or_else(|| region_of(&endpoint));
        let region = constraint.clone().unwrap_or_else(|| DEFAULT_REGION.to_owned());
        if !region.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)) {
            return Err("s3_store_region_name: letters, digits and dashes are wanted".to_owned());
        }
        let mut http = reqwest::Client::builder().connect_timeout(CONNECT).redirect(reqwest::redirect::Policy::none());
        if let Some(file) = &options.s3_store_cacert {
            let wrong = |error: &dyn std::fmt::Display| format!("s3_store_cacert {}: {error}", file.display());
            let pem = fs::read(file).map_err(|error| wrong(&error))?;
            let certificates = reqwest::Certificate::from_pem_bundle(&pem).map_err(|error| wrong(&error))?;
            http = http.tls_certs_only(certificates);
        }
        let http = http.build().map_err(|error| error.to_string())?;
        Ok(Self { http, endpoint, virtual_hosts, keys: Keys { access, secret, region }, constraint })
    }

    /// The request's URL: the path and the query as they are signed.
    fn url(&self, call: &Call<'_>) -> Result<Url> {
        let encode = |text: &str| utf8_percent_encode(text, ENCODED).to_string();
        let Place { bucket, key } = call.place;
        let mut url = self.endpoint.clone();
        let base = url.path().trim_end_matches('/').to_owned();
        if self.virtual_hosts && is_host_name(bucket) {
            let host = format!("{bucket}.{}", url.host_str().unwrap_or_default());
            url.set_host(Some(&host)).map_err(|_| S3Error::Odd("its name and the bucket's make no host's"))?;
            url.set_path(&format!("{base}/{}", encode(key)));
        } else if key.is_empty() {
            url.set_path(&format!("{base}/{}", encode(bucket)));
        } else {
            url.set_path(&format!("{base}/{}/{}", encode(bucket), encode(key)));
        }
        let pairs: Vec<String> =
            call.query.iter().map(|(name, value)| format!("{}={}", encode(name), encode(value))).collect();
        url.set_query(Some(pairs.join("&").as_str()).filter(|query| !query.is_empty()));
        Ok(url)
    }

    async fn send_once(&self, call: &Call<'_>) -> Result<Response> {
        let url = self.url(call)?;
        let host = &url[url::Position::BeforeHost..url::Position::AfterPort];
        let payload = &call.payload;
        // The server's clock is compared with the real time, whatever a test says.
        let now = DateTime::<Utc>::from(SystemTime::now());
        let signed = Signed {
            method: call.method.as_str(),
            host,
            path: url.path(),
            query: url.query().unwrap_or_default(),
            payload: &payload.sha256,
        };
        let authorization = signature::authorization(&self.keys, &signed, now)?;
        let mut request = self
            .http
            .request(call.method.clone(), url.clone())
            .header("x-amz-content-sha256", &payload.sha256)
            .header("x-amz-date", signature::date(now))
            .header(header::AUTHORIZATION, authorization);
        for (name, value) in &call.headers {
            request = request.header(name, value);
        }
        if matches!(call.method, Method::PUT | Method::POST) {
            let frames = payload.frames.clone().into_iter().map(Ok::<_, std::convert::Infallible>);
            let body = reqwest::Body::wrap_stream(futures_util::stream::iter(frames));
            request = request.header(header::CONTENT_LENGTH, payload.len).body(body);
        }
        let sent = tokio::time::timeout(call.patience, request.send()).await;
        let response = sent.map_err(|_| S3Error::Silent)?.map_err(S3Error::of)?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let code = match read(response).await {
            Ok(body) => parse::<Refusal>(&body).map(|refusal| refusal.code).unwrap_or_default(),
            Err(_) => String::new(),
        };
        let code: String = code.chars().filter(char::is_ascii_alphanumeric).take(64).collect();
        Err(S3Error::Answer { status, code })
    }

    /// Sends a request, and again where that may help.
    async fn send(&self, call: &Call<'_>) -> Result<Response> {
        self.send_counting(call, &mut 0).await
    }

    /// The same; `sent` says how often it was sent.
    async fn send_counting(&self, call: &Call<'_>, sent: &mut usize) -> Result<Response> {
        loop {
            let result = self.send_once(call).await;
            *sent += 1;
            match result {
                Err(error) if error.may_pass() && pause(*sent - 1).await => {
                    tracing::warn!(%error, method = %call.method, "the S3 server is asked again");
                }
                result => return result,
            }
        }
    }

    /// The size of an object.
    pub(super) async fn head(&self, place: &Place) -> Result<u64> {
        let response = self.send(&Call::new(Method::HEAD, place, &[])).await?;
        length(&response).ok_or(S3Error::Odd("an object without a length"))
    }

    /// Opens an object, or a part of it: of the version of that entity tag, where one is given.
    pub(super) async fn get(
        &self,
        place: &Place,
        range: Option<&Range<u64>>,
        etag: Option<&header::HeaderValue>,
    ) -> Result<Response> {
        let mut call = Call::new(Method::GET, place, &[]);
        if let Some(range) = range {
            let bytes = format!("bytes={}-{}", range.start, range.end.saturating_sub(1));
            call.headers.push((header::RANGE, bytes));
        }
        if let Some(etag) = etag.and_then(|etag| etag.to_str().ok()) {
            call.headers.push((header::IF_MATCH, etag.to_owned()));
        }
        self.send(&call).await
    }

    /// Stores a whole object.
    pub(super) async fn put(&self, place: &Place, payload: Payload) -> Result<()> {
        self.send(&Call::new(Method::PUT, place, &[]).with(payload)).await.map(|_| ())
    }

    /// Removes an object; one that is not there is removed, too.
    pub(super) async fn delete(&self, place: &Place) -> Result<()> {
        match self.send(&Call::new(Method::DELETE, place, &[])).await {
            Err(error) if error.status() == Some(StatusCode::NOT_FOUND) => Ok(()),
            sent => sent.map(|_| ()),
        }
    }

    /// Makes a bucket.
    pub(super) async fn create_bucket(&self, bucket: &str) -> Result<()> {
        let place = Place { bucket: bucket.to_owned(), key: String::new() };
        let mut call = Call::new(Method::PUT, &place, &[]);
        // The first region's name may not be written here.
        if let Some(region) = self.constraint.as_deref().filter(|region| *region != DEFAULT_REGION) {
            call = call.with(Payload::text(format!(
                "<CreateBucketConfiguration xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><LocationConstraint>{region}\
                 </LocationConstraint></CreateBucketConfiguration>"
            )));
        }
        match self.send(&call).await {
            // Somebody was faster.
            Err(error) if error.status() == Some(StatusCode::CONFLICT) => Ok(()),
            sent => sent.map(|_| ()),
        }
    }

    /// Begins an upload in parts.
    pub(super) async fn begin(&self, place: &Place) -> Result<Multipart> {
        let mut sent = 0;
        let response = self.send_counting(&Call::new(Method::POST, place, &[("uploads", "")]), &mut sent).await?;
        let begun: Multipart = parse(&read(response).await?)?;
        Ok(Multipart { may_be_twice: sent > 1, ..begun })
    }

    /// Stores one of the parts, and returns its entity tag.
    pub(super) async fn put_part(
        &self,
        place: &Place,
        upload_id: &str,
        number: usize,
        part: Payload,
    ) -> Result<String> {
        let number = number.to_string();
        let query = [("partNumber", number.as_str()), ("uploadId", upload_id)];
        let response = self.send(&Call::new(Method::PUT, place, &query).with(part)).await?;
        let etag = response.headers().get(header::ETAG).and_then(|etag| etag.to_str().ok());
        etag.map(str::to_owned).ok_or(S3Error::Odd("a part without an entity tag"))
    }

    /// Makes one object of the parts, of this size.
    pub(super) async fn join(&self, place: &Place, upload_id: &str, etags: &[String], size: u64) -> Result<()> {
        let mut parts = String::from("<CompleteMultipartUpload>");
        for (number, etag) in (1..).zip(etags) {
            let etag = quick_xml::escape::escape(etag);
            parts += &format!("<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>");
        }
        parts += "</CompleteMultipartUpload>";
        let query = [("uploadId", upload_id)];
        let mut call = Call::new(Method::POST, place, &query).with(Payload::text(parts));
        call.patience = JOINING;
        let mut sent = 0;
        loop {
            match self.try_join(&call, &mut sent).await {
                // It was done, and the answer was lost.
                Err(error) if error.is("NoSuchUpload") && sent > 1 => {
                    return if self.head(place).await? == size { Ok(()) } else { Err(error) };
                }
                Err(error) if error.status() == Some(StatusCode::OK) && error.may_pass() && pause(sent - 1).await => {}
                joined => return joined,
            }
        }
    }

    /// An answer that is good at its beginning may be bad at its end.
    async fn try_join(&self, call: &Call<'_>, sent: &mut usize) -> Result<()> {
        let response = self.send_counting(call, sent).await?;
        let status = response.status();
        let body = tokio::time::timeout(JOINING, read(response)).await.map_err(|_| S3Error::Silent)??;
        match parse::<Refusal>(&body) {
            Ok(Refusal { code }) => Err(S3Error::Answer { status, code }),
            Err(_) => Ok(()),
        }
    }

    /// Gives an upload in parts up; one that is not there is given up, too.
    pub(super) async fn abort(&self, place: &Place, upload_id: &str) -> Result<()> {
        let query = [("uploadId", upload_id)];
        match self.send(&Call::new(Method::DELETE, place, &query)).await {
            Err(error) if error.status() == Some(StatusCode::NOT_FOUND) => Ok(()),
            sent => sent.map(|_| ()),
        }
    }

    /// Gives up every upload of an object in parts.
    pub(super) async fn abort_all(&self, place: &Place) -> Result<()> {
        let bucket = Place { key: String::new(), ..place.clone() };
        let (mut key_marker, mut upload_marker) = (String::new(), String::new());
        loop {
            let mut query = vec![("prefix", place.key.as_str()), ("uploads", "")];
            if !key_marker.is_empty() {
                query.insert(0, ("key-marker", key_marker.as_str()));
                query.insert(2, ("upload-id-marker", upload_marker.as_str()));
            }
            let response = self.send(&Call::new(Method::GET, &bucket, &query)).await?;
            let found: Multiparts = parse(&read(response).await?)?;
            for upload in found.upload.iter().filter(|upload| upload.key == place.key) {
                self.abort(place, &upload.upload_id).await?;
            }
            let further = found.next_key_marker != key_marker || found.next_upload_id_marker != upload_marker;
            if !found.is_truncated || !further {
                return Ok(());
            }
            (key_marker, upload_marker) = (found.next_key_marker, found.next_upload_id_marker);
        }
    }
}

/// Waits before what was broken off is tried again; `false` when it was tried often enough.
pub(super) async fn pause(tries: usize) -> bool {
    let Some(pause) = PAUSES.get(tries) else { return false };
    tokio::time::sleep(pause.mul_f64(1.0 + rand::random::<f64>())).await;
    true
}

/// Bytes that the answer has.
pub(super) fn length(response: &Response) -> Option<u64> {
    response.headers().get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// All of an answer that is not data.
async fn read(response: Response) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    let mut parts = response.bytes_stream();
    while let Some(part) = tokio::time::timeout(PATIENCE, parts.next()).await.map_err(|_| S3Error::Silent)? {
        body.extend_from_slice(&part.map_err(S3Error::of)?);
        if body.len() > MAX_ANSWER {
            return Err(S3Error::Odd("it is too long"));
        }
    }
    Ok(body)
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T> {
    quick_xml::de::from_reader(body.trim_ascii_start()).map_err(|_| S3Error::Odd("it is not the XML that is wanted"))
}

/// Whether a bucket's name can be the first part of a host's.
fn is_host_name(bucket: &str) -> bool {
    let is_label = |label: &str| {
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        !label.is_empty() && label.chars().all(allowed) && !label.starts_with('-') && !label.ends_with('-')
    };
    (3..=63).contains(&bucket.len()) && bucket.split('.').all(is_label) && bucket.parse::<std::net::Ipv4Addr>().is_err()
}

fn is_amazons(endpoint: &Url) -> bool {
    let host = endpoint.host_str().unwrap_or_default();
    [".amazonaws.com", ".amazonaws.com.cn"].iter().any(|domain| host.ends_with(domain))
}

/// The region that Amazon's host is in.
fn region_of(endpoint: &Url) -> Option<String> {
    let host = endpoint.host_str()?;
    let rest = host.strip_suffix(".cn").unwrap_or(host).strip_suffix(".amazonaws.com")?;
    rest.strip_prefix("s3-").or_else(|| rest.strip_prefix("s3.")).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;

    fn client(host: &str, bucket: &str, format: BucketUrlFormat) -> Result<Client, String> {
        let _ = rustls::crypto::ring::default_provider().install_default();
        Client::open(&S3Store {
            s3_store_host: Some(host.to_owned()),
            s3_store_access_key: Some(Secret::new("key")),
            s3_store_secret_key: Some(Secret::new("secret")),
            s3_store_bucket: Some(bucket.to_owned()),
            s3_store_bucket_url_format: format,
            ..S3Store::default()
        })
    }

    #[test]
    fn an_objects_url_is_botos() {
        use BucketUrlFormat::{Auto, Path, Virtual};
        for (host, bucket, format, url) in [
            ("s3.example.com", "images", Auto, "http://s3.example.com/images/a%2Fb?uploads="),
            ("https://s3.example.com:8443/", "images", Path, "https://s3.example.com:8443/images/a%2Fb?uploads="),
            ("https://s3.example.com/base", "My_Images", Auto, "https://s3.example.com/base/My_Images/a%2Fb?uploads="),
            ("http://s3.test:80", "images", Virtual, "http://images.s3.test/a%2Fb?uploads="),
            ("https://s3.amazonaws.com", "images", Auto, "https://images.s3.amazonaws.com/a%2Fb?uploads="),
            ("https://s3.amazonaws.com", "my.images", Auto, "https://s3.amazonaws.com/my.images/a%2Fb?uploads="),
            (
                "https://s3.eu-west-1.amazonaws.com",
                "images",
                Path,
                "https://s3.eu-west-1.amazonaws.com/images/a%2Fb?uploads=",
            ),
        ] {
            let place = Place { bucket: bucket.to_owned(), key: "a/b".to_owned() };
            let call = Call::new(Method::POST, &place, &[("uploads", "")]);
            assert_eq!(client(host, bucket, format).unwrap().url(&call).unwrap().as_str(), url);
        }
    }

    #[test]
    fn the_region_is_the_hosts() {
        for (host, region) in [
            ("s3-eu-west-1.amazonaws.com", "eu-west-1"),
            ("https://s3.cn-north-1.amazonaws.com.cn", "cn-north-1"),
            ("https://s3.amazonaws.com", "us-east-1"),
            ("s3.example.com", "us-east-1"),
        ] {
            assert_eq!(client(host, "images", BucketUrlFormat::Auto).unwrap().keys.region, region);
        }
    }

    #[test]
    fn wrong_options_are_named() {
        let named = |host, bucket, format| client(host, bucket, format).err().unwrap();
        assert!(named("ftp://host", "images", BucketUrlFormat::Auto).starts_with("s3_store_host"));
        assert!(named("http://user:s3cret@host", "images", BucketUrlFormat::Auto).starts_with("s3_store_host"));
        let wrong = named("host", "My_Images", BucketUrlFormat::Virtual);
        assert!(wrong.starts_with("s3_store_bucket_url_format"), "{wrong}");
        assert_eq!(Client::open(&S3Store::default()).err().unwrap(), "s3_store_host is missing");
    }

    #[test]
    fn answers_are_read() {
        let found: Multiparts = parse(
            b"<?xml version='1.0'?><ListMultipartUploadsResult xmlns=\"x\"><Bucket>b</Bucket><NextKeyMarker>k</NextKeyMarker>\
              <IsTruncated>true</IsTruncated><Upload><Key>k</Key><UploadId>1</UploadId><Owner><ID>o</ID></Owner></Upload>\
              <Upload><Key>k</Key><UploadId>2</UploadId></Upload></ListMultipartUploadsResult>",
        )
        .unwrap();
        assert_eq!(found.upload.iter().map(|upload| upload.upload_id.as_str()).collect::<Vec<_>>(), ["1", "2"]);
        assert!(found.is_truncated && found.next_key_marker == "k" && found.next_upload_id_marker.is_empty());
        let none = parse::<Multiparts>(b"<ListMultipartUploadsResult></ListMultipartUploadsResult>").unwrap();
        assert!(none.upload.is_empty() && !none.is_truncated);
        assert!(
            parse::<Refusal>(b"<CompleteMultipartUploadResult><ETag>e</ETag></CompleteMultipartUploadResult>").is_err()
        );
        assert_eq!(
            parse::<Refusal>(b"  <?xml version='1.0'?><Error><Code>SlowDown</Code></Error>").unwrap().code,
            "SlowDown"
        );
    }
}
