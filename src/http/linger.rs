//! Bodies that are taken to their end, so that whoever sends one hears the answer.

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

/// How long the rest of a body is taken that nobody wants.
const LINGER: Duration = Duration::from_secs(600);

/// A body whose rest is still taken when nobody wants it any more: most clients listen only once they have sent everything,
/// and would find a broken connection in place of the answer.
pub(super) struct Lingering {
    /// None after its end.
    data: Option<BodyDataStream>,
    lingers: bool,
    /// How long each part of it may take.
    patience: Duration,
}

impl Lingering {
    /// The body of a request.
    pub(super) fn new(request: Request, patience: Duration) -> Self {
        // Reading asks for the data of who waits to be asked.
        let lingers = !request.headers().contains_key(header::EXPECT);
        Self { data: Some(request.into_body().into_data_stream()), lingers, patience }
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
            let patience = self.patience;
            let rest = async move { while let Ok(Some(Ok(_))) = timeout(patience, data.next()).await {} };
            runtime.spawn(timeout(LINGER, rest));
        }
    }
}
