//! Compresses responses for clients that accept gzip, if the paste pipeline has the filter `gzip`.

use std::io::{self, Write as _};

use axum::{
    body::{Body, Bytes},
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, header},
    middleware::Next,
    response::Response,
};
use flate2::{Compression, write::GzEncoder};
use futures_util::{StreamExt as _, stream::try_unfold};
use http_body_util::BodyExt as _;
use hyper::body::Body as _;

use crate::app::SharedApp;

/// Middleware: compresses the body of the response. The size of image data is not known before it is sent, so it is sent in chunks.
pub(in crate::http) async fn compress(State(app): State<SharedApp>, request: Request, next: Next) -> Response {
    let is_accepted = app.config.filters.gzip && accepts_gzip(request.headers());
    let response = next.run(request).await;
    let is_empty = response.body().is_end_stream() || response.body().size_hint().exact() == Some(0);
    if !is_accepted || is_empty || response.headers().contains_key(header::CONTENT_ENCODING) {
        return response;
    }
    let is_data = response.headers().get(header::CONTENT_TYPE).is_some_and(|media| media == "application/octet-stream");
    let (mut head, body) = response.into_parts();
    head.headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    head.headers.remove(header::CONTENT_LENGTH);
    let body = Body::new(body).into_data_stream().map(|part| part.map_err(io::Error::other));
    let compressed = try_unfold((Box::pin(body), Some(encoder())), |(mut body, encoder)| async move {
        let Some(mut encoder) = encoder else { return Ok::<_, io::Error>(None) };
        loop {
            let part = body.next().await.transpose()?;
            let compress = move || match part {
                Some(part) => {
                    encoder.write_all(&part)?;
                    let done = std::mem::take(encoder.get_mut());
                    io::Result::Ok((done, Some(encoder)))
                }
                None => Ok((encoder.finish()?, None)),
            };
            // Compression occupies a processor for milliseconds.
            let (done, rest) = tokio::task::spawn_blocking(compress).await.map_err(io::Error::other)??;
            match rest {
                Some(rest) if done.is_empty() => encoder = rest,
                rest => return Ok(Some((Bytes::from(done), (body, rest)))),
            }
        }
    });
    let body = Body::from_stream(compressed);
    if is_data {
        return Response::from_parts(head, body);
    }
    match body.collect().await {
        Ok(whole) => {
            let whole = whole.to_bytes();
            head.headers.insert(header::CONTENT_LENGTH, whole.len().into());
            Response::from_parts(head, Body::from(whole))
        }
        // The body fails in the same way for the client.
        Err(error) => {
            Response::from_parts(head, Body::from_stream(futures_util::stream::once(async { Err::<Bytes, _>(error) })))
        }
    }
}

fn encoder() -> GzEncoder<Vec<u8>> {
    GzEncoder::new(Vec::new(), Compression::default())
}

/// Whether `gzip` is a word of the header, as Glance looks for it: it does not read weights.
fn accepts_gzip(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    accepted.flat_map(|value| value.split(move |c| !is_word(c))).any(|word| word == "gzip")
}
