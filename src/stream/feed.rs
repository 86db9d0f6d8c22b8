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
pub(crate) enum Broken {
    /// The sender disconnected.
    Lost,
    /// The sender paused for longer than the timeout.
    Silent,
    /// The data exceeds the size limit. Holds the number of bytes received.
    TooMuch(u64),
    /// The data exceeds the announced size. Holds the number of bytes received.
    MoreThanSaid(u64),
    /// The data ended before the announced size. Holds the number of bytes received.
    NotAsSaid(u64),
    /// The store stopped reading. Its own error says why.
    Refused,
    /// An observer stopped reading. Its own error says why.
    Unwanted,
}

/// Limits on the data.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Timeout for each frame.
    pub(crate) patience: Duration,
    /// Maximum number of bytes.
    pub(crate) most: u64,
    /// The announced number of bytes, if there is one. No data matches a negative number.
    pub(crate) expected: Option<i64>,
}

/// Sends the data to the observers and to the store's queue. Returns the number of bytes.
pub(crate) async fn feed(
    mut data: ByteStream,
    limits: Limits,
    taps: Vec<flume::Sender<Chunk>>,
    to: Feed,
) -> Result<u64, Broken> {
    let mut came = 0;
    let mut gathered = Gathered::default();
    loop {
        let frame = match tokio::time::timeout(limits.patience, data.next()).await {
            Err(_) => return Err(Broken::Silent),
            Ok(Some(Err(error))) => {
                tracing::debug!(%error, "reading the data failed, it is treated as incomplete");
                return Err(Broken::Lost);
            }
            Ok(frame) => frame.and_then(Result::ok),
        };
        let ended = frame.is_none();
        if let Some(frame) = frame {
            came += frame.len() as u64;
            if came > limits.most {
                return Err(Broken::TooMuch(came));
            }
            if limits.expected.is_some_and(|expected| i128::from(came) > expected.into()) {
                return Err(Broken::MoreThanSaid(came));
            }
            gathered.push(frame);
        } else if limits.expected.is_some_and(|expected| i128::from(came) != expected.into()) {
            return Err(Broken::NotAsSaid(came));
        }
        if gathered.len >= GATHERED || (ended && gathered.len > 0) {
            let chunk = gathered.take();
            for tap in &taps {
                tap.send_async(chunk.clone()).await.map_err(|_| Broken::Unwanted)?;
            }
            to.chunks.send_async(chunk).await.map_err(|_| Broken::Refused)?;
        }
        if ended {
            // The end is not signalled through the queue: the queue delivers an item even if its sender is dropped while it
            // waits for a slot.
            to.ended.send(true).map_err(|_| Broken::Refused)?;
            return Ok(came);
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
        let broken = || vec![Ok(Bytes::from_static(b"abc")), Err("gone".into())];
        assert_eq!(passed(broken(), limits(9, None)).await, (Err(Broken::Lost), vec![], false));
        let frames = || vec![Ok(Bytes::from_static(b"abc")), Ok(Bytes::from_static(b"def"))];
        for (limits, broken) in [
            (limits(5, None), Broken::TooMuch(6)),
            (limits(9, Some(5)), Broken::MoreThanSaid(6)),
            (limits(9, Some(7)), Broken::NotAsSaid(6)),
            (limits(9, Some(-1)), Broken::MoreThanSaid(3)),
        ] {
            assert_eq!(passed(frames(), limits).await, (Err(broken), vec![], false));
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
