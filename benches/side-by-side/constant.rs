//! Answers every request with the same response, by hyper alone: an upper bound for the speed of an image server.
//!
//! ```text
//! constant ADDRESS FILE      FILE contains the response: one header per line, an empty line, and the body
//! ```

#![expect(clippy::unwrap_used, reason = "a benchmark fails by panicking")]

use std::{convert::Infallible, env, fs};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Request, Response,
    body::Incoming,
    header::{HeaderName, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

fn read(answer: &[u8]) -> Response<Full<Bytes>> {
    let end = answer.windows(2).position(|two| two == b"\n\n").unwrap();
    let mut response = Response::new(Full::new(Bytes::copy_from_slice(&answer[end + 2..])));
    for line in std::str::from_utf8(&answer[..end]).unwrap().lines() {
        let (name, value) = line.split_once(": ").unwrap();
        let name = HeaderName::try_from(name).unwrap();
        response.headers_mut().append(name, HeaderValue::try_from(value).unwrap());
    }
    response
}

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = env::args().collect();
    let answer = read(&fs::read(&arguments[2]).unwrap());
    let listener = TcpListener::bind(&arguments[1]).await.unwrap();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        let answer = answer.clone();
        tokio::spawn(async move {
            let service = service_fn(|_: Request<Incoming>| {
                let answer = answer.clone();
                async move { Ok::<_, Infallible>(answer) }
            });
            // A client may disconnect at any time.
            drop(http1::Builder::new().serve_connection(TokioIo::new(stream), service).await);
        });
    }
}
