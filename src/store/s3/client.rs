//! An S3 client over HTTP. Requests are signed, have a timeout, and are retried after errors that can be transient.

use std::{
    ops::Range,
    sync::Arc,
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use chrono::{DateTime, Utc};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::{Method, Response, StatusCode, header};
use serde::{Deserialize, de::DeserializeOwned};
use url::Url;

use super::{
    super::object_server::{self, BodyError, READ_TIMEOUT, content_length, pause_before_retry, read_body},
    credentials::Credentials,
    payload::Payload,
    signature::{self, Signed},
};
use crate::config::{BucketUrlFormat, ChecksumUse, S3Store};

/// The timeout of completing a multipart upload, during which the server joins its parts.
const COMPLETE_TIMEOUT: Duration = Duration::from_secs(300);
/// The region if neither the configuration nor the host name specifies one.
const DEFAULT_REGION: &str = "us-east-1";
/// The header with the region of the bucket, also in an error response.
const BUCKET_REGION: &str = "x-amz-bucket-region";
/// The header with the CRC-32 of an object or part.
const CRC32: header::HeaderName = header::HeaderName::from_static("x-amz-checksum-crc32");
/// The characters that are percent-encoded in a path and in a query.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// The error of a request. It can be logged, because it contains neither a URL nor text from the server.
#[derive(Debug, thiserror::Error)]
pub(super) enum S3Error {
    /// The server returned an error.
    #[error("the S3 server returned {status} {code}")]
    Answer { status: StatusCode, code: String },
    /// The connection failed or was interrupted.
    #[error("the connection to the S3 server failed")]
    Connection(#[source] reqwest::Error),
    /// The response did not arrive in time.
    #[error("the S3 server does not respond in time")]
    TimedOut,
    /// The response is not a valid S3 response.
    #[error("the S3 server's response is invalid: {0}")]
    InvalidResponse(&'static str),
    /// The request cannot be signed.
    #[error("the request cannot be signed")]
    Signature(#[from] openssl::error::ErrorStack),
    /// The request was signed for another region than the bucket's, or with keys that have been replaced. A retry uses the right
    /// ones.
    #[error("the S3 server expects a signature for another region or with newer keys")]
    OutdatedSignature,
}

impl S3Error {
    fn from_connection(error: reqwest::Error) -> Self {
        Self::Connection(error.without_url())
    }

    pub(super) fn status(&self) -> Option<StatusCode> {
        match self {
            Self::Answer { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// Whether the server returned this error code.
    pub(super) fn has_code(&self, wanted: &str) -> bool {
        matches!(self, Self::Answer { code, .. } if code == wanted)
    }

    /// Whether a retry of the request may succeed.
    fn is_transient(&self) -> bool {
        match self {
            Self::Answer { status, code } => {
                let transient =
                    ["RequestTimeout", "SlowDown", "InternalError", "OperationAborted", "ServiceUnavailable"];
                matches!(status.as_u16(), 408 | 429 | 500 | 502 | 503 | 504) || transient.contains(&code.as_str())
            }
            Self::Connection(_) | Self::OutdatedSignature => true,
            Self::TimedOut | Self::InvalidResponse(_) | Self::Signature(_) => false,
        }
    }
}

impl From<BodyError> for S3Error {
    fn from(error: BodyError) -> Self {
        match error {
            BodyError::Connection(error) => Self::from_connection(error),
            BodyError::TimedOut => Self::TimedOut,
            BodyError::TooLong => Self::InvalidResponse("it is too long"),
        }
    }
}

/// The result of a request.
pub(super) type Result<T, E = S3Error> = std::result::Result<T, E>;

/// The bucket and the key of an object. An empty key means the bucket itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ObjectPath {
    pub(super) bucket: String,
    pub(super) key: String,
}

/// A request that was not sent yet.
struct Call<'c> {
    method: Method,
    path: &'c ObjectPath,
    /// The query's parameters, sorted by name as the signature requires.
    query: &'c [(&'c str, &'c str)],
    headers: Vec<(header::HeaderName, String)>,
    payload: Payload,
    timeout: Duration,
}

impl<'c> Call<'c> {
    fn new(method: Method, path: &'c ObjectPath, query: &'c [(&'c str, &'c str)]) -> Self {
        Self { method, path, query, headers: Vec::new(), payload: Payload::empty(), timeout: READ_TIMEOUT }
    }

    fn with_payload(self, payload: Payload) -> Self {
        let mut headers = self.headers;
        headers.extend(payload.crc32.map(|crc32| (CRC32, checksum(crc32))));
        Self { headers, timeout: object_server::timeout_of(payload.body.len()), payload, ..self }
    }
}

/// A multipart upload that was created.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Multipart {
    pub(super) upload_id: String,
    /// Whether the server may have created another, unknown one, because the response to an earlier attempt was lost.
    #[serde(skip)]
    pub(super) may_have_duplicate: bool,
}

/// A part that the server has.
#[derive(Debug, Clone)]
pub(super) struct UploadedPart {
    etag: String,
    crc32: Option<u32>,
}

/// The response to `ListMultipartUploads`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct MultipartList {
    #[serde(default)]
    upload: Vec<ListedMultipart>,
    #[serde(default)]
    is_truncated: bool,
    #[serde(default)]
    next_key_marker: String,
    #[serde(default)]
    next_upload_id_marker: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ListedMultipart {
    key: String,
    upload_id: String,
}

/// The body of an error response.
#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ErrorBody {
    code: String,
    /// The region of the bucket, if the request was signed for another one.
    #[serde(default)]
    region: Option<String>,
}

/// A client of one S3 server, with its credentials.
pub(super) struct Client {
    http: reqwest::Client,
    endpoint: Url,
    /// Whether a bucket's name is a part of the host name (virtual-hosted style) instead of the path.
    virtual_hosts: bool,
    credentials: Credentials,
    /// The region that requests are signed for.
    region: ArcSwap<String>,
    /// The region in which buckets are created, if it is known.
    constraint: Option<String>,
    /// Whether a checksum is sent with the data.
    pub(super) sends_checksums: bool,
    /// Whether the server is asked for the checksum of data.
    wants_checksums: bool,
}

impl Client {
    /// # Errors
    /// A description of the invalid option, which starts with its name.
    pub(super) fn open(options: &S3Store) -> Result<Self, String> {
        let missing = |name: &str| format!("{name} is missing");
        let host = options.s3_store_host.as_deref().ok_or_else(|| missing("s3_store_host"))?;
        let credentials = Credentials::open(options)?;
        let bucket = options.s3_store_bucket.as_deref().ok_or_else(|| missing("s3_store_bucket"))?;
        let endpoint = if host.contains("://") { host.to_owned() } else { format!("http://{host}") };
        let endpoint = Url::parse(&endpoint).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
        let endpoint = endpoint.filter(|url| url.username().is_empty() && url.password().is_none());
        let endpoint = endpoint.ok_or("s3_store_host: must be a host, or http:// or https:// and a host")?;
        let is_valid_host = is_host_name(bucket);
        let virtual_hosts = match options.s3_store_bucket_url_format {
            BucketUrlFormat::Path => false,
            BucketUrlFormat::Virtual if !is_valid_host => {
                return Err(
                    "s3_store_bucket_url_format: virtual requires a bucket whose name is a valid host name".to_owned()
                );
            }
            BucketUrlFormat::Virtual => true,
            // A wildcard certificate covers one label only, so a bucket's name must not contain dots.
            BucketUrlFormat::Auto => is_valid_host && !bucket.contains('.') && is_amazon(&endpoint),
        };
        let constraint = options.s3_store_region_name.clone().or_else(|| amazon_region(&endpoint));
        let region = constraint.clone().unwrap_or_else(|| DEFAULT_REGION.to_owned());
        if !is_region(&region) {
            return Err(
                "s3_store_region_name: only letters, digits, dashes, underscores and dots are allowed".to_owned()
            );
        }
        let http = object_server::http_client("s3_store_cacert", options.s3_store_cacert.as_deref(), false)?;
        let has_checksums =
            |used| options.s3_store_enable_data_integrity_protection && used == ChecksumUse::WhenSupported;
        Ok(Self {
            http,
            endpoint,
            virtual_hosts,
            credentials,
            region: ArcSwap::from_pointee(region),
            constraint,
            sends_checksums: has_checksums(options.s3_store_request_checksum_calculation),
            wants_checksums: has_checksums(options.s3_store_response_checksum_validation),
        })
    }

    /// The server for a region. Amazon has one for each region; they do not serve each other's buckets.
    fn endpoint(&self, region: &str) -> Url {
        let mut url = self.endpoint.clone();
        if is_amazon(&url) && amazon_region(&url).is_none_or(|named| named != region) && region != DEFAULT_REGION {
            let domain = if url.host_str().is_some_and(|host| host.ends_with(".cn")) { ".cn" } else { "" };
            // A host name with a region in it is valid.
            let _ = url.set_host(Some(&format!("s3.{region}.amazonaws.com{domain}")));
        }
        url
    }

    /// The request's URL, with the path and the query in the encoding that is signed.
    fn url(&self, call: &Call<'_>, region: &str) -> Result<Url> {
        let encode = |text: &str| utf8_percent_encode(text, ENCODED).to_string();
        let ObjectPath { bucket, key } = call.path;
        let mut url = self.endpoint(region);
        let base = url.path().trim_end_matches('/').to_owned();
        if self.virtual_hosts && is_host_name(bucket) {
            let host = format!("{bucket}.{}", url.host_str().unwrap_or_default());
            url.set_host(Some(&host))
                .map_err(|_| S3Error::InvalidResponse("the bucket and the host form no valid host name"))?;
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
        let (region, keys) = (self.region.load_full(), self.credentials.keys());
        let url = self.url(call, &region)?;
        let host = &url[url::Position::BeforeHost..url::Position::AfterPort];
        let payload = &call.payload;
        // The server compares this with its own clock, so it is the real time even in tests that set the time.
        let now = DateTime::<Utc>::from(SystemTime::now());
        let signed = Signed {
            method: call.method.as_str(),
            host,
            path: url.path(),
            query: url.query().unwrap_or_default(),
            payload: &payload.sha256,
        };
        let authorization = signature::authorization(&keys, &region, &signed, now)?;
        let mut request = self
            .http
            .request(call.method.clone(), url.clone())
            .header("x-amz-content-sha256", &payload.sha256)
            .header("x-amz-date", signature::format_date(now))
            .header(header::AUTHORIZATION, authorization);
        if let Some(token) = &keys.token {
            request = request.header("x-amz-security-token", token.expose());
        }
        for (name, value) in &call.headers {
            request = request.header(name, value);
        }
        if matches!(call.method, Method::PUT | Method::POST) {
            request = request.header(header::CONTENT_LENGTH, payload.body.len()).body(payload.body.to_http());
        }
        let sent = tokio::time::timeout(call.timeout, request.send()).await;
        let response = sent.map_err(|_| S3Error::TimedOut)?.map_err(S3Error::from_connection)?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let named = response.headers().get(BUCKET_REGION).and_then(|region| region.to_str().ok()).map(str::to_owned);
        let body = read_body(response).await.unwrap_or_default();
        let error = parse_xml::<ErrorBody>(&body).unwrap_or_default();
        if let Some(named) = named.or(error.region).filter(|named| *named != *region && is_region(named)) {
            tracing::info!(region = named, "the S3 server names another region as the bucket's");
            self.region.store(Arc::new(named));
            return Err(S3Error::OutdatedSignature);
        }
        let is_rejected = status == StatusCode::FORBIDDEN || error.code == "ExpiredToken";
        if is_rejected && self.credentials.renew(&keys) {
            return Err(S3Error::OutdatedSignature);
        }
        let code: String = error.code.chars().filter(char::is_ascii_alphanumeric).take(64).collect();
        Err(S3Error::Answer { status, code })
    }

    /// Sends a request, and retries it after transient errors.
    async fn send(&self, call: &Call<'_>) -> Result<Response> {
        self.send_counting(call, &mut 0).await
    }

    /// Like [`Client::send`]; adds the number of attempts to `attempts`.
    async fn send_counting(&self, call: &Call<'_>, attempts: &mut usize) -> Result<Response> {
        loop {
            let result = self.send_once(call).await;
            *attempts += 1;
            match result {
                Err(error) if error.is_transient() && pause_before_retry(*attempts - 1).await => {
                    tracing::warn!(%error, method = %call.method, "a request to the S3 server failed; retrying");
                }
                result => return result,
            }
        }
    }

    /// Reads the size of an object in bytes.
    pub(super) async fn head(&self, path: &ObjectPath) -> Result<u64> {
        let response = self.send(&Call::new(Method::HEAD, path, &[])).await?;
        content_length(&response).ok_or(S3Error::InvalidResponse("an object without a length"))
    }

    /// Opens an object or a range of its bytes. With an entity tag, opens that version only.
    pub(super) async fn get(
        &self,
        path: &ObjectPath,
        range: Option<&Range<u64>>,
        etag: Option<&header::HeaderValue>,
    ) -> Result<Response> {
        let mut call = Call::new(Method::GET, path, &[]);
        if self.wants_checksums && range.is_none() {
            call.headers.push((header::HeaderName::from_static("x-amz-checksum-mode"), "ENABLED".to_owned()));
        }
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
    pub(super) async fn put(&self, path: &ObjectPath, payload: Payload) -> Result<()> {
        self.send(&Call::new(Method::PUT, path, &[]).with_payload(payload)).await.map(|_| ())
    }

    /// Deletes an object; succeeds if there is none.
    pub(super) async fn delete(&self, path: &ObjectPath) -> Result<()> {
        match self.send(&Call::new(Method::DELETE, path, &[])).await {
            Err(error) if error.status() == Some(StatusCode::NOT_FOUND) => Ok(()),
            sent => sent.map(|_| ()),
        }
    }

    /// Creates a bucket; succeeds if it exists.
    pub(super) async fn create_bucket(&self, bucket: &str) -> Result<()> {
        let path = ObjectPath { bucket: bucket.to_owned(), key: String::new() };
        let mut call = Call::new(Method::PUT, &path, &[]);
        // S3 rejects the default region's name in this request.
        if let Some(region) = self.constraint.as_deref().filter(|region| *region != DEFAULT_REGION) {
            call = call.with_payload(Payload::from_text(format!(
                "<CreateBucketConfiguration xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><LocationConstraint>{region}\
                 </LocationConstraint></CreateBucketConfiguration>"
            )));
        }
        match self.send(&call).await {
            // Another process has created it.
            Err(error) if error.status() == Some(StatusCode::CONFLICT) => Ok(()),
            sent => sent.map(|_| ()),
        }
    }

    /// Creates a multipart upload.
    pub(super) async fn create_multipart(&self, path: &ObjectPath) -> Result<Multipart> {
        let mut attempts = 0;
        let mut call = Call::new(Method::POST, path, &[("uploads", "")]);
        if self.sends_checksums {
            call.headers.push((header::HeaderName::from_static("x-amz-checksum-algorithm"), "CRC32".to_owned()));
        }
        let response = self.send_counting(&call, &mut attempts).await?;
        let created: Multipart = parse_xml(&read_body(response).await?)?;
        Ok(Multipart { may_have_duplicate: attempts > 1, ..created })
    }

    /// Uploads a part.
    pub(super) async fn put_part(
        &self,
        path: &ObjectPath,
        upload_id: &str,
        number: usize,
        part: Payload,
    ) -> Result<UploadedPart> {
        let number = number.to_string();
        let query = [("partNumber", number.as_str()), ("uploadId", upload_id)];
        let crc32 = part.crc32;
        let response = self.send(&Call::new(Method::PUT, path, &query).with_payload(part)).await?;
        let etag = response.headers().get(header::ETAG).and_then(|etag| etag.to_str().ok());
        let etag = etag.ok_or(S3Error::InvalidResponse("a part without an entity tag"))?;
        Ok(UploadedPart { etag: etag.to_owned(), crc32 })
    }

    /// Completes a multipart upload: the server joins its parts to an object of `size` bytes.
    pub(super) async fn complete_multipart(
        &self,
        path: &ObjectPath,
        upload_id: &str,
        uploaded: &[UploadedPart],
        size: u64,
    ) -> Result<()> {
        let mut parts = String::from("<CompleteMultipartUpload>");
        for (number, part) in (1..).zip(uploaded) {
            let etag = quick_xml::escape::escape(&part.etag);
            parts += &format!("<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag>");
            if let Some(crc32) = part.crc32 {
                parts += &format!("<ChecksumCRC32>{}</ChecksumCRC32>", checksum(crc32));
            }
            parts += "</Part>";
        }
        parts += "</CompleteMultipartUpload>";
        let query = [("uploadId", upload_id)];
        let mut call = Call::new(Method::POST, path, &query).with_payload(Payload::from_text(parts));
        call.timeout = COMPLETE_TIMEOUT;
        let mut attempts = 0;
        loop {
            match self.try_complete(&call, &mut attempts).await {
                // An earlier attempt may have succeeded although its response was lost: the object's size shows it.
                Err(error) if error.has_code("NoSuchUpload") && attempts > 1 => {
                    return if self.head(path).await? == size { Ok(()) } else { Err(error) };
                }
                Err(error)
                    if error.status() == Some(StatusCode::OK)
                        && error.is_transient()
                        && pause_before_retry(attempts - 1).await => {}
                completed => return completed,
            }
        }
    }

    /// Tries once. The response can have the status 200 and still report an error in its body.
    async fn try_complete(&self, call: &Call<'_>, attempts: &mut usize) -> Result<()> {
        let response = self.send_counting(call, attempts).await?;
        let status = response.status();
        let body =
            tokio::time::timeout(COMPLETE_TIMEOUT, read_body(response)).await.map_err(|_| S3Error::TimedOut)??;
        match parse_xml::<ErrorBody>(&body) {
            Ok(ErrorBody { code, .. }) => Err(S3Error::Answer { status, code }),
            Err(_) => Ok(()),
        }
    }

    /// Aborts a multipart upload; succeeds if there is none.
    pub(super) async fn abort_multipart(&self, path: &ObjectPath, upload_id: &str) -> Result<()> {
        let query = [("uploadId", upload_id)];
        match self.send(&Call::new(Method::DELETE, path, &query)).await {
            Err(error) if error.status() == Some(StatusCode::NOT_FOUND) => Ok(()),
            sent => sent.map(|_| ()),
        }
    }

    /// Aborts all multipart uploads of an object.
    pub(super) async fn abort_all_multiparts(&self, path: &ObjectPath) -> Result<()> {
        let bucket = ObjectPath { key: String::new(), ..path.clone() };
        let (mut key_marker, mut upload_marker) = (String::new(), String::new());
        loop {
            let mut query = vec![("prefix", path.key.as_str()), ("uploads", "")];
            if !key_marker.is_empty() {
                query.insert(0, ("key-marker", key_marker.as_str()));
                query.insert(2, ("upload-id-marker", upload_marker.as_str()));
            }
            let response = self.send(&Call::new(Method::GET, &bucket, &query)).await?;
            let found: MultipartList = parse_xml(&read_body(response).await?)?;
            for upload in found.upload.iter().filter(|upload| upload.key == path.key) {
                self.abort_multipart(path, &upload.upload_id).await?;
            }
            let has_advanced = found.next_key_marker != key_marker || found.next_upload_id_marker != upload_marker;
            if !found.is_truncated || !has_advanced {
                return Ok(());
            }
            (key_marker, upload_marker) = (found.next_key_marker, found.next_upload_id_marker);
        }
    }
}

/// The CRC-32 of the whole object, if the server reports it. Of an object that was uploaded in parts, it reports one of their
/// checksums, which is marked by a dash.
pub(super) fn crc32(response: &Response) -> Option<u32> {
    let value = BASE64.decode(response.headers().get(CRC32)?).ok()?;
    Some(u32::from_be_bytes(value.try_into().ok()?))
}

/// A CRC-32 as S3 writes it.
fn checksum(crc32: u32) -> String {
    BASE64.encode(crc32.to_be_bytes())
}

fn parse_xml<T: DeserializeOwned>(body: &[u8]) -> Result<T> {
    quick_xml::de::from_reader(body.trim_ascii_start())
        .map_err(|_| S3Error::InvalidResponse("it is not the expected XML"))
}

/// Whether a bucket's name can be the first part of a host name.
fn is_host_name(bucket: &str) -> bool {
    let is_label = |label: &str| {
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        !label.is_empty() && label.chars().all(allowed) && !label.starts_with('-') && !label.ends_with('-')
    };
    (3..=63).contains(&bucket.len()) && bucket.split('.').all(is_label) && bucket.parse::<std::net::Ipv4Addr>().is_err()
}

fn is_amazon(endpoint: &Url) -> bool {
    let host = endpoint.host_str().unwrap_or_default();
    [".amazonaws.com", ".amazonaws.com.cn"].iter().any(|domain| host.ends_with(domain))
}

/// The region in the name of an Amazon host: a part of it like `eu-west-1`, with `s3-` in front of it in old names.
fn amazon_region(endpoint: &Url) -> Option<String> {
    let host = endpoint.host_str().filter(|_| is_amazon(endpoint))?;
    let is_numbered = |label: &&str| {
        let has_number =
            |(name, number): (&str, &str)| name.contains('-') && number.bytes().all(|b| b.is_ascii_digit());
        label.rsplit_once('-').is_some_and(has_number)
    };
    let labels = host.split('.').map(|label| label.strip_prefix("s3-").unwrap_or(label));
    labels.into_iter().find(is_numbered).map(str::to_owned)
}

/// Whether a text can be the name of a region. It becomes a part of a header, and of a host name.
fn is_region(text: &str) -> bool {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    (1..=64).contains(&text.len()) && text.chars().all(is_allowed)
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
    fn the_url_of_an_object_is_the_same_as_botos() {
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
            let path = ObjectPath { bucket: bucket.to_owned(), key: "a/b".to_owned() };
            let call = Call::new(Method::POST, &path, &[("uploads", "")]);
            assert_eq!(client(host, bucket, format).unwrap().url(&call, DEFAULT_REGION).unwrap().as_str(), url);
        }
    }

    #[test]
    fn the_region_comes_from_the_host_name() {
        for (host, region) in [
            ("s3-eu-west-1.amazonaws.com", "eu-west-1"),
            ("https://s3.cn-north-1.amazonaws.com.cn", "cn-north-1"),
            ("https://s3.dualstack.us-gov-west-1.amazonaws.com", "us-gov-west-1"),
            ("https://s3.amazonaws.com", "us-east-1"),
            ("s3.eu-west-1.example.com", "us-east-1"),
        ] {
            assert_eq!(**client(host, "images", BucketUrlFormat::Auto).unwrap().region.load(), region);
        }
    }

    #[test]
    fn a_bucket_in_another_region_of_amazon_has_another_host() {
        let path = ObjectPath { bucket: "images".to_owned(), key: "a".to_owned() };
        for (host, url) in [
            ("https://s3.amazonaws.com", "https://images.s3.eu-west-1.amazonaws.com/a"),
            ("https://s3.us-east-2.amazonaws.com", "https://images.s3.eu-west-1.amazonaws.com/a"),
            ("https://s3.dualstack.eu-west-1.amazonaws.com", "https://images.s3.dualstack.eu-west-1.amazonaws.com/a"),
            ("https://s3.example.com", "https://s3.example.com/images/a"),
        ] {
            let client = client(host, "images", BucketUrlFormat::Auto).unwrap();
            assert_eq!(client.url(&Call::new(Method::GET, &path, &[]), "eu-west-1").unwrap().as_str(), url);
        }
    }

    #[test]
    fn an_invalid_option_is_named_in_the_error() {
        let error_of = |host, bucket, format| client(host, bucket, format).err().unwrap();
        assert!(error_of("ftp://host", "images", BucketUrlFormat::Auto).starts_with("s3_store_host"));
        assert!(error_of("http://user:s3cret@host", "images", BucketUrlFormat::Auto).starts_with("s3_store_host"));
        let error = error_of("host", "My_Images", BucketUrlFormat::Virtual);
        assert!(error.starts_with("s3_store_bucket_url_format"), "{error}");
        assert_eq!(Client::open(&S3Store::default()).err().unwrap(), "s3_store_host is missing");
    }

    #[test]
    fn responses_are_parsed() {
        let found: MultipartList = parse_xml(
            b"<?xml version='1.0'?><ListMultipartUploadsResult xmlns=\"x\"><Bucket>b</Bucket><NextKeyMarker>k</NextKeyMarker>\
              <IsTruncated>true</IsTruncated><Upload><Key>k</Key><UploadId>1</UploadId><Owner><ID>o</ID></Owner></Upload>\
              <Upload><Key>k</Key><UploadId>2</UploadId></Upload></ListMultipartUploadsResult>",
        )
        .unwrap();
        assert_eq!(found.upload.iter().map(|upload| upload.upload_id.as_str()).collect::<Vec<_>>(), ["1", "2"]);
        assert!(found.is_truncated && found.next_key_marker == "k" && found.next_upload_id_marker.is_empty());
        let none = parse_xml::<MultipartList>(b"<ListMultipartUploadsResult></ListMultipartUploadsResult>").unwrap();
        assert!(none.upload.is_empty() && !none.is_truncated);
        assert!(
            parse_xml::<ErrorBody>(b"<CompleteMultipartUploadResult><ETag>e</ETag></CompleteMultipartUploadResult>")
                .is_err()
        );
        assert_eq!(
            parse_xml::<ErrorBody>(b"  <?xml version='1.0'?><Error><Code>SlowDown</Code></Error>").unwrap().code,
            "SlowDown"
        );
    }
}
