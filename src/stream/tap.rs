//! Observers of data, which run concurrently with the store.

use std::ops::ControlFlow;

use tokio::task::JoinHandle;

use super::{BoxError, blocking, chunk::Chunk};

/// Maximum number of chunks that wait for an observer. Observers share them.
const QUEUE: usize = 2;

/// An observer of data.
pub(crate) trait Observer: Send + 'static {
    /// Inspects the next bytes. `Break` aborts the transfer.
    fn observe(&mut self, bytes: &[u8]) -> Result<ControlFlow<()>, BoxError>;
}

/// The first observer sees each piece of data first.
impl<A: Observer, B: Observer> Observer for (A, B) {
    fn observe(&mut self, bytes: &[u8]) -> Result<ControlFlow<()>, BoxError> {
        let first = self.0.observe(bytes)?;
        if first.is_break() { Ok(first) } else { self.1.observe(bytes) }
    }
}

/// A running observer with its queue.
pub(crate) struct Tap<L> {
    to: flume::Sender<Chunk>,
    done: JoinHandle<Result<L, BoxError>>,
}

impl<L: Observer> Tap<L> {
    /// Starts the observer. It gets the chunks that are sent to [`Tap::end`].
    pub(crate) fn start(observer: L) -> Self {
        let (to, from) = flume::bounded(QUEUE);
        let observe = |observer: &mut L, chunk: &Chunk| {
            for frame in chunk.frames() {
                if observer.observe(frame)?.is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
            Ok(ControlFlow::Continue(()))
        };
        Self { to, done: tokio::spawn(blocking::work_off(from, observer, observe)) }
    }

    /// Returns the sending end of the observer's queue.
    pub(crate) fn end(&self) -> flume::Sender<Chunk> {
        self.to.clone()
    }

    /// Waits until the observer has seen all of the data, or has aborted the transfer, and returns it.
    ///
    /// # Errors
    /// The observer's error.
    pub(crate) async fn finish(self) -> Result<L, BoxError> {
        drop(self.to);
        self.done.await?
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::stream::{Incomplete, channel, chunk::GATHERED, feed, fixture::limits};

    /// Aborts immediately.
    struct Sated;

    impl Observer for Sated {
        fn observe(&mut self, _: &[u8]) -> Result<ControlFlow<()>, BoxError> {
            Ok(ControlFlow::Break(()))
        }
    }

    #[tokio::test]
    async fn an_observer_can_abort_the_transfer() {
        let sated = Tap::start(Sated);
        let (to, mut chunks) = channel();
        let endless = futures_util::stream::repeat_with(|| Ok(Bytes::from_static(&[1; GATHERED])));
        let feeding = feed(Box::pin(endless), limits(u64::MAX, None), vec![sated.end()], to);
        let taking = async { while let Ok(Some(_)) = chunks.next().await {} };
        assert_eq!(tokio::join!(feeding, taking).0, Err(Incomplete::ObserverClosed));
        sated.finish().await.unwrap();
    }
}
