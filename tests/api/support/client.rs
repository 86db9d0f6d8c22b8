//! A client with one identity, and the responses that it receives.

use std::time::Duration;

use reqwest::{
    Method, RequestBuilder, StatusCode,
    header::{HeaderMap, HeaderName},
};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// A caller with one identity.
#[derive(Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    base: String,
    identity: HeaderMap,
}

/// A response.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) request: String,
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

impl Client {
    pub(crate) fn new(base: &str, token: Option<&str>) -> Self {
        let http = http().redirect(reqwest::redirect::Policy::none()).timeout(Duration::from_secs(60)).build().unwrap();
        let client = Self { http, base: base.to_owned(), identity: HeaderMap::new() };
        match token {
            Some(token) => client.with_headers(&[("X-Auth-Token", token)]),
            None => client,
        }
    }

    /// Returns this client with more headers on every request.
    pub(crate) fn with_headers(mut self, headers: &[(&'static str, &str)]) -> Self {
        for (name, value) in headers {
            self.identity.insert(HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
        }
        self
    }

    /// Returns this client for another server, or for one that was restarted.
    pub(crate) fn at(mut self, base: &str) -> Self {
        base.clone_into(&mut self.base);
        self
    }

    /// Starts a request with this client's identity.
    pub(crate) fn request(&self, method: &str, path: &str) -> RequestBuilder {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        self.http.request(method, format!("{}{path}", self.base)).headers(self.identity.clone())
    }

    pub(crate) async fn send(&self, request: RequestBuilder) -> Answer {
        self.try_send(request).await.unwrap()
    }

    pub(crate) async fn try_send(&self, request: RequestBuilder) -> reqwest::Result<Answer> {
        let request = request.build()?;
        let description = format!("{} {}", request.method(), request.url());
        let response = self.http.execute(request).await?;
        Ok(Answer {
            request: description,
            status: response.status(),
            headers: response.headers().clone(),
            text: response.text().await?,
        })
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(self.request("GET", path)).await
    }

    pub(crate) async fn put(&self, path: &str) -> Answer {
        self.send(self.request("PUT", path)).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        self.send(self.request("DELETE", path)).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send(self.request("POST", path).json(body)).await
    }

    /// Creates an image and returns its path.
    pub(crate) async fn create_image(&self, body: &Value) -> String {
        let answer = self.post("/v2/images", body).await.expect(201);
        format!("/v2/images/{}", answer.json()["id"].as_str().unwrap())
    }

    /// The tags of an image, in the order of the response.
    pub(crate) async fn tags(&self, image: &str) -> Vec<String> {
        let body = self.get(image).await.expect(200).json();
        body["tags"].as_array().unwrap().iter().map(|tag| tag.as_str().unwrap().to_owned()).collect()
    }
}

impl Answer {
    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Self {
        assert_eq!(self.status.as_u16(), status, "{}: {}", self.request, self.text);
        self
    }

    /// Checks that the body contains this text, in any format.
    #[track_caller]
    pub(crate) fn says(self, text: &str) -> Self {
        assert!(self.text.contains(text), "{}: {text:?} is not in {:?}", self.request, self.text);
        self
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {:?}", self.text))
    }

    #[track_caller]
    pub(crate) fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name).unwrap_or_else(|| panic!("{}: no header {name}", self.request));
        value.to_str().unwrap()
    }
}

/// Builds a client of servers on loopback, without TLS. It uses one connection per request: a server may close an idle connection
/// just when the next request is sent.
pub(super) fn http() -> reqwest::ClientBuilder {
    // The provider is installed once per process; another client may have done so.
    let _ = rustls::crypto::ring::default_provider().install_default();
    // The system's certificates, which no test needs, take longer to read than most requests take.
    reqwest::Client::builder().tls_certs_only([]).no_proxy().pool_max_idle_per_host(0)
}

/// Sends raw bytes, and reads until the server closes the connection or sends nothing for two seconds.
pub(crate) async fn raw(base: &str, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(base.trim_start_matches("http://")).await.unwrap();
    // The server may respond and close the connection before it has read everything.
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(2), stream.read_to_end(&mut answer)).await;
    String::from_utf8_lossy(&answer).into_owned()
}

/// The status of a raw response.
pub(crate) fn raw_status(answer: &str) -> u16 {
    answer.get(9..12).and_then(|status| status.parse().ok()).unwrap_or_else(|| panic!("no status in {answer:?}"))
}
