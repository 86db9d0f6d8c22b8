//! A proxy on loopback in front of a real server. It records requests, and can return other responses.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::{Body, Bytes, to_bytes},
    extract::{Request, State},
    http::{HeaderMap, Method, StatusCode},
    response::{IntoResponse as _, Response},
};

use super::client::http;

/// A running proxy, which ends with the test.
#[derive(Clone)]
pub(crate) struct Proxy {
    /// The proxy's URL, with the path of the server behind it.
    pub(crate) url: String,
    state: Arc<Passing>,
}

/// A request that passed.
#[derive(Debug, Clone)]
pub(crate) struct Passed {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
}

struct Passing {
    to: String,
    http: reqwest::Client,
    passed: Mutex<Vec<Passed>>,
    /// Responses to return instead of the server's, each used once.
    instead: Mutex<VecDeque<(StatusCode, Bytes)>>,
}

impl Proxy {
    /// Starts a proxy in front of `http://host:port/path`.
    pub(crate) async fn start(url: &str) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (server, path) = url.strip_prefix("http://").unwrap().split_once('/').unwrap();
        let state = Arc::new(Passing {
            to: format!("http://{server}"),
            http: http().build().unwrap(),
            passed: Mutex::default(),
            instead: Mutex::default(),
        });
        let url = format!("http://{}/{path}", listener.local_addr().unwrap());
        let router = Router::new().fallback(pass).with_state(Arc::clone(&state));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { url, state }
    }

    /// Answers the next request that no earlier such response was used for with this response.
    pub(crate) fn say_once(&self, status: u16, body: impl Into<Bytes>) {
        self.state.instead.lock().unwrap().push_back((StatusCode::from_u16(status).unwrap(), body.into()));
    }

    /// The requests so far, including those that the proxy answered itself.
    pub(crate) fn passed(&self) -> Vec<Passed> {
        self.state.passed.lock().unwrap().clone()
    }
}

async fn pass(State(state): State<Arc<Passing>>, request: Request<Body>) -> Response {
    let (head, body) = request.into_parts();
    let path = head.uri.path_and_query().unwrap().to_string();
    let passed = Passed { method: head.method.clone(), path: path.clone(), headers: head.headers.clone() };
    state.passed.lock().unwrap().push(passed);
    if let Some(instead) = state.instead.lock().unwrap().pop_front() {
        return instead.into_response();
    }
    let mut headers = head.headers;
    headers.remove("host");
    let body = to_bytes(body, usize::MAX).await.unwrap();
    let sent = state.http.request(head.method, format!("{}{path}", state.to)).headers(headers).body(body).send().await;
    let Ok(answer) = sent else { return StatusCode::BAD_GATEWAY.into_response() };
    let (status, mut headers) = (answer.status(), answer.headers().clone());
    for hop in ["transfer-encoding", "content-length", "connection"] {
        headers.remove(hop);
    }
    (status, headers, answer.bytes().await.unwrap()).into_response()
}
