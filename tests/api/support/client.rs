//! A client with one identity, and the answers that it gets.

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

/// Somebody who sends requests.
#[derive(Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    base: String,
    identity: HeaderMap,
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) request: String,
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

impl Client {
    pub(crate) fn new(base: &str, token: Option<&str>) -> Self {
        // It is set up once for the whole process; another client may have done so.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none());
        // A connection a request: a server may close one that was idle just when the next request is sent.
        let http = http.timeout(Duration::from_secs(60)).pool_max_idle_per_host(0).build().unwrap();
        let client = Self { http, base: base.to_owned(), identity: HeaderMap::new() };
        match token {
            Some(token) => client.with_headers(&[("X-Auth-Token", token)]),
            None => client,
        }
    }

    /// The same, with more headers on every request.
    pub(crate) fn with_headers(mut self, headers: &[(&'static str, &str)]) -> Self {
        for (name, value) in headers {
            self.identity.insert(HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
        }
        self
    }

    /// The same somebody, at another server, or at one that was started again.
    pub(crate) fn at(mut self, base: &str) -> Self {
        base.clone_into(&mut self.base);
        self
    }

    /// A request with this client's identity, to be added to.
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

    /// An image's tags, as it shows them.
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

    /// Checks what the body says, whatever its form.
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

/// Sends bytes that no client library would, and reads until the server closes the connection or is silent.
pub(crate) async fn raw(base: &str, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(base.trim_start_matches("http://")).await.unwrap();
    // The server may answer and close before it has read everything.
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(2), stream.read_to_end(&mut answer)).await;
    String::from_utf8_lossy(&answer).into_owned()
}

/// The status of a raw answer.
pub(crate) fn raw_status(answer: &str) -> u16 {
    answer.get(9..12).and_then(|status| status.parse().ok()).unwrap_or_else(|| panic!("no status in {answer:?}"))
}
