//! Reads a request's body to its end, even after the response is known, so that the client receives the response.

use std::{
    pin::Pin,
    task::{self, Poll, ready},
    time::Duration,
};

use axum::{
    body::{BodyDataStream, Bytes},
    extract::Request,
    http::header,
};
use futures_util::{Stream, StreamExt as _};
use tokio::{runtime::Handle, time::timeout};

/// The maximum time for reading the rest of a body.
const LINGER: Duration = Duration::from_secs(600);

/// A body whose rest is read and discarded when it is dropped. Most clients read the response only after they have sent the whole
/// body. If the server closed the connection earlier, they would report a broken connection in place of the response.
pub(super) struct Lingering {
    /// `None` after the end of the body.
    data: Option<BodyDataStream>,
    lingers: bool,
    /// The timeout for each chunk.
    timeout: Duration,
}

impl Lingering {
    /// The body of a request.
    pub(super) fn new(request: Request, timeout: Duration) -> Self {
        // With `Expect: 100-continue`, reading would make the client send the body.
        let lingers = !request.headers().contains_key(header::EXPECT);
        Self { data: Some(request.into_body().into_data_stream()), lingers, timeout }
    }
}

impl Stream for Lingering {
    type Item = Result<Bytes, axum::Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<Option<Self::Item>> {
        self.lingers = true;
        let Some(data) = &mut self.data else { return Poll::Ready(None) };
        let next = ready!(data.poll_next_unpin(cx));
        if !matches!(next, Some(Ok(_))) {
            self.data = None;
        }
        Poll::Ready(next)
    }
}

impl Drop for Lingering {
    fn drop(&mut self) {
        if let (true, Some(mut data), Ok(runtime)) = (self.lingers, self.data.take(), Handle::try_current()) {
            let chunk_timeout = self.timeout;
            let rest = async move { while let Ok(Some(Ok(_))) = timeout(chunk_timeout, data.next()).await {} };
            runtime.spawn(timeout(LINGER, rest));
        }
    }
}
