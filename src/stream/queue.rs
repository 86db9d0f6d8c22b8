//! The bounded queue of chunks from [`feed`](super::feed::feed) to a store.

use std::ops::ControlFlow;

use tokio::{sync::watch, task::JoinError};

use super::{blocking, chunk::Chunk};

/// Maximum number of chunks that wait for the store. It is small, so that an upload to a stalled store uses little memory.
pub(super) const STORE_QUEUE: usize = 1;

/// The data ended before it was complete.
#[derive(Debug, thiserror::Error)]
#[error("the data ended too early")]
pub(crate) struct Cut;

/// The receiving end of the queue, which a store reads.
pub(crate) struct Chunks {
    chunks: flume::Receiver<Chunk>,
    ended: watch::Receiver<bool>,
}

impl Chunks {
    /// Receives the next chunk, or `None` once the data is complete.
    pub(crate) async fn next(&mut self) -> Result<Option<Chunk>, Cut> {
        match self.chunks.recv_async().await {
            Ok(chunk) => Ok(Some(chunk)),
            Err(_) => self.end().await.map(|()| None),
        }
    }

    /// Waits until the sender is done.
    ///
    /// # Errors
    /// [`Cut`] if the data is not complete.
    pub(crate) async fn end(&mut self) -> Result<(), Cut> {
        // A sender that is dropped without having set `ended` was aborted.
        self.ended.wait_for(|ended| *ended).await.map(|_| ()).map_err(|_| Cut)
    }

    /// Passes each chunk to `take`, on blocking threads, and returns the worker once the data is complete.
    ///
    /// # Errors
    /// The errors of `take`, and [`Cut`].
    pub(crate) async fn work_off<W, E>(mut self, worker: W, take: fn(&mut W, &Chunk) -> Result<(), E>) -> Result<W, E>
    where
        W: Send + 'static,
        E: From<Cut> + From<JoinError> + Send + 'static,
    {
        let take = move |worker: &mut W, chunk: &Chunk| take(worker, chunk).map(ControlFlow::Continue);
        let worker = blocking::work_off(self.chunks.clone(), worker, take).await?;
        self.end().await?;
        Ok(worker)
    }
}

/// The sending end of the queue.
pub(crate) struct Feed {
    pub(super) chunks: flume::Sender<Chunk>,
    /// Set to `true` once all of the data has been sent.
    pub(super) ended: watch::Sender<bool>,
}

/// Creates a queue from [`feed`](super::feed::feed) to a store.
pub(crate) fn channel() -> (Feed, Chunks) {
    let (sender, receiver) = flume::bounded(STORE_QUEUE);
    let (end, ended) = watch::channel(false);
    (Feed { chunks: sender, ended: end }, Chunks { chunks: receiver, ended })
}
