//! Reads a request's body to its end, even after the response is known, so that the client receives the response.

use std::{
    pin::Pin,
    task::{self, Poll, ready},
    time::Duration,
};

use axum::{
    body::{Body, Bytes},
    extract::{Request, State},
    http::header,
    middleware::Next,
    response::Response,
};
use http_body_util::BodyExt as _;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::{runtime::Handle, time::timeout};

use crate::app::SharedApp;

/// The maximum time for reading the rest of a body.
const LINGER: Duration = Duration::from_secs(600);

/// Middleware: whatever the response is, the rest of the request's body is read and discarded. Most clients read the response only
/// after they have sent the whole body. If the server closed the connection earlier, they would report a broken connection in
/// place of the response.
pub(super) async fn read_rest(State(app): State<SharedApp>, request: Request, next: Next) -> Response {
    // With `Expect: 100-continue`, reading would make the client send the body.
    let lingers = !request.headers().contains_key(header::EXPECT);
    let timeout = app.config.glimpse.client_timeout;
    let wrap = |body: Body| match body.is_end_stream() {
        true => body,
        false => Body::new(Lingering { body: Some(body), lingers, timeout }),
    };
    next.run(request.map(wrap)).await
}

/// A body whose rest is read and discarded when it is dropped.
struct Lingering {
    /// `None` after the end of the body.
    body: Option<Body>,
    lingers: bool,
    /// The timeout for each chunk.
    timeout: Duration,
}

impl HttpBody for Lingering {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut task::Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        self.lingers = true;
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let next = ready!(Pin::new(body).poll_frame(cx));
        if !matches!(next, Some(Ok(_))) {
            self.body = None;
        }
        Poll::Ready(next)
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), HttpBody::size_hint)
    }
}

impl Drop for Lingering {
    fn drop(&mut self) {
        let unread = self.body.take().filter(|body| self.lingers && !body.is_end_stream());
        if let (Some(mut body), Ok(runtime)) = (unread, Handle::try_current()) {
            let chunk_timeout = self.timeout;
            let rest = async move { while let Ok(Some(Ok(_))) = timeout(chunk_timeout, body.frame()).await {} };
            runtime.spawn(timeout(LINGER, rest));
        }
    }
}
