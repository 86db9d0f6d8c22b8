//! An S3 server for one test, and a proxy in front of it that injects faults.

use std::{
    ffi::OsStr,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Request, State},
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use futures_util::StreamExt as _;
use tempfile::TempDir;
use tokio::sync::watch;

use super::{
    client::http,
    database::free_port,
    keystone::{Keystone, script, script_at_the_end, try_script},
};

/// A running Swift with its S3 API, which is killed at the end of the test.
pub(crate) struct S3 {
    dir: TempDir,
    port: u16,
    pub(super) http: reqwest::Client,
    /// The URL of the Keystone whose users log in, instead of those of TempAuth.
    keystone: Option<String>,
    running: bool,
}

impl S3 {
    /// Starts a server with a bucket `images`.
    pub(crate) async fn start() -> Self {
        let s3 = Self::start_with(None).await;
        s3.make_bucket("images").await;
        s3
    }

    /// Starts a server without a bucket. With a Keystone, it has no S3 API.
    pub(super) async fn start_with(keystone: Option<&Keystone>) -> Self {
        let http = http().build().unwrap();
        let dir = TempDir::with_prefix("glimpse-s3-").unwrap();
        let mut s3 = Self { dir, port: free_port(), http, keystone: keystone.map(Keystone::url), running: false };
        // Another process may take the port in the meantime.
        for _ in 0..2 {
            if s3.try_start().await {
                break;
            }
            s3.port = free_port();
        }
        s3
    }

    async fn try_start(&mut self) -> bool {
        let (folder, port) = (self.folder(), self.port.to_string());
        let mut arguments: Vec<&OsStr> = vec!["start".as_ref(), folder.as_os_str(), port.as_ref()];
        arguments.extend(self.keystone.as_deref().map(OsStr::new));
        self.running = try_script("s3", &arguments).await;
        self.running
    }

    /// Restarts the server with the data that it had when it was killed.
    pub(crate) async fn start_again(&mut self) {
        assert!(self.try_start().await, "tests/s3 start");
    }

    /// `kill -9`
    pub(crate) async fn kill(&mut self) {
        script("s3", &["kill".as_ref(), self.folder().as_os_str()]).await;
        self.running = false;
    }

    fn folder(&self) -> PathBuf {
        self.dir.path().join("s3")
    }

    /// `http://127.0.0.1:<port>`
    pub(crate) fn base(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub(crate) async fn make_bucket(&self, bucket: &str) {
        let made = self.http.put(format!("{}/bucket/{bucket}", self.base())).send().await.unwrap();
        assert!(made.status().is_success(), "{}", made.status());
    }

    async fn list(&self, container: &str) -> Vec<String> {
        let listed = self.http.get(format!("{}/bucket/{container}", self.base())).send().await.unwrap();
        if listed.status() == 404 {
            return Vec::new();
        }
        listed.error_for_status().unwrap().text().await.unwrap().lines().map(str::to_owned).collect()
    }

    /// The keys in the bucket `images`.
    pub(crate) async fn objects(&self) -> Vec<String> {
        self.list("images").await
    }

    /// The parts of objects in the bucket `images`, and the multipart uploads in progress.
    pub(crate) async fn parts(&self) -> Vec<String> {
        self.list("images+segments").await
    }

    /// The options of a store on this server, or on a proxy in front of it. The parts have the minimum size.
    pub(crate) fn options(&self, host: &str) -> Vec<(&'static str, &'static str, String)> {
        let options = [
            ("DEFAULT", "enabled_backends", "s3:s3"),
            ("glance_store", "default_backend", "s3"),
            ("s3", "s3_store_host", host),
            ("s3", "s3_store_access_key", "test:glance"),
            ("s3", "s3_store_secret_key", "secret"),
            ("s3", "s3_store_bucket", "images"),
            ("s3", "s3_store_large_object_size", "5"),
            ("s3", "s3_store_large_object_chunk_size", "5"),
            ("s3", "s3_store_thread_pools", "3"),
        ];
        options.map(|(group, name, value)| (group, name, value.to_owned())).into()
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        if self.running {
            script_at_the_end("s3", &["kill".as_ref(), self.folder().as_os_str()]);
        }
    }
}

/// A fault that is injected into a request.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Fault {
    /// The request is answered 503, and not forwarded.
    SlowDown,
    /// The request is answered 403, and not forwarded.
    Denied,
    /// The request is answered 401, and not forwarded.
    Unauthorized,
    /// The connection is closed without a response, before the request is forwarded.
    Lost,
    /// The connection is closed without a response, after the request was forwarded and carried out.
    AnswerLost,
    /// The connection is closed after N bytes of the response.
    Cut(usize),
    /// The response reports this CRC-32 of the object.
    Checksum(u32),
}

struct Passing {
    to: String,
    http: reqwest::Client,
    /// Faults for requests with this method, each used once.
    faults: Mutex<Vec<(&'static str, Fault)>>,
    passed: Mutex<Vec<String>>,
    /// The method whose requests are held.
    held: watch::Sender<Option<&'static str>>,
    /// The number of bytes after which the responses to downloads stall.
    stalled: watch::Sender<usize>,
}

/// The maximum size in bytes of the pieces in which the proxy passes responses on.
const PIECE: usize = 64 << 10;

/// A proxy in front of an S3 server. It is also an HTTP proxy, for requests to other hosts.
pub(crate) struct FaultyProxy {
    pub(crate) base: String,
    state: Arc<Passing>,
}

impl FaultyProxy {
    pub(crate) async fn start(s3: &S3) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(Passing {
            to: s3.base(),
            http: s3.http.clone(),
            faults: Mutex::default(),
            passed: Mutex::default(),
            held: watch::Sender::new(None),
            stalled: watch::Sender::new(usize::MAX),
        });
        let router = Router::new().fallback(pass).with_state(Arc::clone(&state));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { base, state }
    }

    /// Injects a fault into the next request of this method. Several faults apply to consecutive requests.
    pub(crate) fn fail(&self, method: &'static str, fault: Fault) {
        self.state.faults.lock().unwrap().push((method, fault));
    }

    /// Holds requests of this method from now on, or none.
    pub(crate) fn hold(&self, method: Option<&'static str>) {
        self.state.held.send_replace(method);
    }

    /// Lets each response pass only this number of bytes from now on, and then stall until the number grows.
    pub(crate) fn stall_after(&self, bytes: usize) {
        self.state.stalled.send_replace(bytes);
    }

    /// The number of faults not used yet.
    pub(crate) fn faults_left(&self) -> usize {
        self.state.faults.lock().unwrap().len()
    }

    /// The methods and `Range` headers of the requests so far, with `+crc32` if their data had a checksum.
    pub(crate) fn passed(&self) -> Vec<String> {
        self.state.passed.lock().unwrap().clone()
    }
}

/// Splits a part of a response into pieces, so that little more passes than the limit.
fn pieces(part: reqwest::Result<Bytes>) -> Vec<reqwest::Result<Bytes>> {
    match part {
        Ok(part) => part.chunks(PIECE).map(|piece| Ok(part.slice_ref(piece))).collect(),
        Err(error) => vec![Err(error)],
    }
}

async fn pass(State(state): State<Arc<Passing>>, request: Request<Body>) -> Response {
    let (head, body) = request.into_parts();
    let range = head.headers.get("range").map_or("", |range| range.to_str().unwrap());
    let query = head.uri.query().unwrap_or_default();
    let query = query.split('=').next().unwrap_or_default();
    let checksum = if head.headers.contains_key("x-amz-checksum-crc32") { " +crc32" } else { "" };
    state.passed.lock().unwrap().push(format!("{} {query}{range}{checksum}", head.method).trim_end().to_owned());
    let is_free = |held: &Option<&str>| *held != Some(head.method.as_str());
    state.held.subscribe().wait_for(is_free).await.unwrap();
    let fault = {
        let mut faults = state.faults.lock().unwrap();
        let at = faults.iter().position(|(method, _)| head.method.as_str() == *method);
        at.map(|at| faults.remove(at).1)
    };
    match fault {
        Some(Fault::SlowDown) => {
            return (StatusCode::SERVICE_UNAVAILABLE, "<Error><Code>SlowDown</Code></Error>").into_response();
        }
        Some(Fault::Denied) => {
            return (StatusCode::FORBIDDEN, "<Error><Code>AccessDenied</Code></Error>").into_response();
        }
        Some(Fault::Unauthorized) => return StatusCode::UNAUTHORIZED.into_response(),
        // Ending the connection's task closes the connection.
        Some(Fault::Lost) => std::panic::resume_unwind(Box::new(())),
        _ => {}
    }
    let path = head.uri.path_and_query().unwrap();
    let mut sent = state.http.request(head.method.clone(), format!("{}{path}", state.to)).headers(head.headers);
    if head.method != "GET" && head.method != "HEAD" {
        sent = sent.body(reqwest::Body::wrap_stream(body.into_data_stream()));
    }
    let Ok(answer) = sent.send().await else { return StatusCode::BAD_GATEWAY.into_response() };
    if fault == Some(Fault::AnswerLost) {
        let _ = answer.bytes().await;
        std::panic::resume_unwind(Box::new(()));
    }
    let (status, mut headers) = (answer.status(), answer.headers().clone());
    for hop in ["transfer-encoding", "connection"] {
        headers.remove(hop);
    }
    if let Some(Fault::Checksum(crc32)) = fault {
        headers.insert("x-amz-checksum-crc32", BASE64.encode(crc32.to_be_bytes()).parse().unwrap());
    }
    let mut left = match fault {
        Some(Fault::Cut(after)) => after,
        _ => usize::MAX,
    };
    let (mut sent, stalled) = (0, state.stalled.clone());
    let pieces = answer.bytes_stream().flat_map(|part| futures_util::stream::iter(pieces(part)));
    let parts = pieces.then(move |part| {
        let mut stalled = stalled.subscribe();
        let at = sent;
        sent += part.as_ref().map_or(0, Bytes::len);
        async move {
            stalled.wait_for(|stalled| *stalled > at).await.unwrap();
            part
        }
    });
    let data = parts.then(move |part| {
        let is_cut = left == 0;
        let part = part.map_err(std::io::Error::other).map(|mut part: Bytes| {
            part.truncate(left);
            left -= part.len();
            part
        });
        async move {
            if is_cut {
                // With the error, what was not sent yet would be lost.
                tokio::time::sleep(Duration::from_millis(100)).await;
                return Err(std::io::Error::other("cut"));
            }
            part
        }
    });
    (status, headers, Body::from_stream(data)).into_response()
}
