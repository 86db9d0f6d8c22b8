//! Reads data from its source, enforces limits, and passes it on in chunks.

use std::time::Duration;

use futures_util::StreamExt as _;

use super::{
    ByteStream,
    chunk::{Chunk, GATHERED, Gathered},
    queue::Feed,
};

/// Why the data is not complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Incomplete {
    /// The sender disconnected.
    Disconnected,
    /// The sender paused for longer than the timeout.
    TimedOut,
    /// The data exceeds the size limit. Holds the number of bytes received.
    TooLarge(u64),
    /// The data exceeds the announced size. Holds the number of bytes received.
    LongerThanAnnounced(u64),
    /// The data ended before the announced size. Holds the number of bytes received.
    ShorterThanAnnounced(u64),
    /// The store stopped reading. Its own error says why.
    StoreClosed,
    /// An observer stopped reading. Its own error says why.
    ObserverClosed,
}

/// Limits on the data.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Timeout for each frame.
    pub(crate) timeout: Duration,
    /// Maximum number of bytes.
    pub(crate) max_size: u64,
    /// The announced number of bytes, if there is one. No data matches a negative number.
    pub(crate) expected: Option<i64>,
}

/// Sends the data to the observers and to the store's queue. Returns the number of bytes.
pub(crate) async fn feed(
    mut data: ByteStream,
    limits: Limits,
    taps: Vec<flume::Sender<Chunk>>,
    to: Feed,
) -> Result<u64, Incomplete> {
    let mut received = 0;
    let mut gathered = Gathered::default();
    loop {
        let frame = match tokio::time::timeout(limits.timeout, data.next()).await {
            Err(_) => return Err(Incomplete::TimedOut),
            Ok(Some(Err(error))) => {
                tracing::debug!(%error, "reading the data failed, it is treated as incomplete");
                return Err(Incomplete::Disconnected);
            }
            Ok(frame) => frame.and_then(Result::ok),
        };
        let ended = frame.is_none();
        if let Some(frame) = frame {
            received += frame.len() as u64;
            if received > limits.max_size {
                return Err(Incomplete::TooLarge(received));
            }
            if limits.expected.is_some_and(|expected| i128::from(received) > expected.into()) {
                return Err(Incomplete::LongerThanAnnounced(received));
            }
            gathered.push(frame);
        } else if limits.expected.is_some_and(|expected| i128::from(received) != expected.into()) {
            return Err(Incomplete::ShorterThanAnnounced(received));
        }
        if gathered.len >= GATHERED || (ended && gathered.len > 0) {
            let chunk = gathered.take();
            for tap in &taps {
                tap.send_async(chunk.clone()).await.map_err(|_| Incomplete::ObserverClosed)?;
            }
            to.chunks.send_async(chunk).await.map_err(|_| Incomplete::StoreClosed)?;
        }
        if ended {
            // The end is not signalled through the queue: the queue delivers an item even if its sender is dropped while it
            // waits for a slot.
            to.ended.send(true).map_err(|_| Incomplete::StoreClosed)?;
            return Ok(received);
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::stream::{
        channel,
        fixture::{limits, passed, stream},
        queue::STORE_QUEUE,
    };

    #[tokio::test]
    async fn frames_are_gathered_into_chunks_and_the_end_is_signalled() {
        let frames = (0..1000).map(|_| Ok(Bytes::from_static(&[1; 1000]))).collect();
        let (fed, sizes, good) = passed(frames, limits(1_000_000, None)).await;
        assert_eq!((fed, good), (Ok(1_000_000), true));
        assert!(sizes.len() == 4 && sizes[..3].iter().all(|size| *size >= GATHERED), "{sizes:?}");
        assert_eq!(passed(vec![], limits(0, None)).await, (Ok(0), vec![], true));
    }

    #[tokio::test]
    async fn data_that_fails_or_violates_a_limit_is_never_complete() {
        let incomplete = || vec![Ok(Bytes::from_static(b"abc")), Err("gone".into())];
        assert_eq!(passed(incomplete(), limits(9, None)).await, (Err(Incomplete::Disconnected), vec![], false));
        let frames = || vec![Ok(Bytes::from_static(b"abc")), Ok(Bytes::from_static(b"def"))];
        for (limits, incomplete) in [
            (limits(5, None), Incomplete::TooLarge(6)),
            (limits(9, Some(5)), Incomplete::LongerThanAnnounced(6)),
            (limits(9, Some(7)), Incomplete::ShorterThanAnnounced(6)),
            (limits(9, Some(-1)), Incomplete::LongerThanAnnounced(3)),
        ] {
            assert_eq!(passed(frames(), limits).await, (Err(incomplete), vec![], false));
        }
    }

    #[tokio::test]
    async fn data_is_not_complete_if_its_sender_is_dropped() {
        let (to, mut chunks) = channel();
        let frames = (0..=STORE_QUEUE).map(|_| Ok(Bytes::from_static(&[1; GATHERED]))).collect();
        let mut feeding = Box::pin(feed(stream(frames), limits(u64::MAX, None), vec![], to));
        assert!(futures_util::poll!(&mut feeding).is_pending());
        // The chunk that waits for a slot gets it.
        assert!(matches!(chunks.next().await, Ok(Some(_))));
        drop(feeding);
        while let Ok(next) = chunks.next().await {
            assert!(next.is_some());
        }
        assert!(chunks.end().await.is_err());
    }
}
