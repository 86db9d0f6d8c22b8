//! Writes the access log: one line per request, once its whole response has been sent or the client has disconnected.

use std::{
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
    time::Instant,
};

use axum::{
    Error,
    body::{Body, Bytes},
    extract::{ConnectInfo, Request},
    http::{Method, StatusCode},
    middleware::Next,
    response::Response,
};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tracing::Span;

/// The span of a request, in the extensions of its response: it holds the request's id and caller.
#[derive(Clone)]
pub(super) struct RequestSpan(pub(super) Span);

/// Middleware: logs the response when its body is dropped.
pub(in crate::http) async fn write(request: Request, next: Next) -> Response {
    let start = Instant::now();
    let client = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|info| info.0);
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let mut response = next.run(request).await;
    let span = response.extensions_mut().remove().map_or_else(Span::none, |RequestSpan(span)| span);
    let line = Line { start, span, client, method, path, status: response.status(), bytes: 0 };
    response.map(|body| Body::new(LoggedBody { body, line }))
}

/// A line of the access log. It is written when it is dropped.
struct Line {
    start: Instant,
    span: Span,
    client: Option<SocketAddr>,
    method: Method,
    path: String,
    status: StatusCode,
    bytes: u64,
}

impl Drop for Line {
    fn drop(&mut self) {
        let _in_span = self.span.enter();
        tracing::info!(
            method = %self.method,
            path = self.path,
            status = self.status.as_u16(),
            bytes = self.bytes,
            // Three digits behind the point.
            ms = (self.start.elapsed().as_secs_f64() * 1e6).round() / 1e3,
            client = self.client.map(tracing::field::display),
            "answered"
        );
    }
}

/// The body of a response, whose bytes are counted while they are sent.
struct LoggedBody {
    body: Body,
    line: Line,
}

impl HttpBody for LoggedBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        if let Poll::Ready(Some(Ok(frame))) = &frame {
            self.line.bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
