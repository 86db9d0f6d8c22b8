//! Gathers frames into chunks without making anyone wait for them.

use std::time::Duration;

use futures_util::{FutureExt as _, StreamExt as _};

use super::{
    BoxError, ByteStream,
    chunk::{Chunk, GATHERED, Gathered},
};

/// Data in chunks. Unlike in an upload, a chunk does not wait until it is large: it has what has arrived.
pub(crate) struct PromptChunks {
    data: ByteStream,
    /// The limit of the wait for the next frame.
    timeout: Duration,
    gathered: Gathered,
    /// What came after the gathered frames: the end, or an error.
    last: Option<Option<BoxError>>,
}

impl PromptChunks {
    /// `timeout` is the limit of the wait for each frame.
    pub(crate) fn new(data: ByteStream, timeout: Duration) -> Self {
        Self { data, timeout, gathered: Gathered::default(), last: None }
    }

    /// The next chunk; `None` at the end of the data.
    ///
    /// # Errors
    /// The error of the source, or a timeout.
    pub(crate) async fn next(&mut self) -> Result<Option<Chunk>, BoxError> {
        while self.last.is_none() && self.gathered.len < GATHERED {
            let ready = self.data.next().now_or_never();
            let frame = match ready {
                Some(frame) => frame,
                None if self.gathered.len > 0 => break,
                None => match tokio::time::timeout(self.timeout, self.data.next()).await {
                    Ok(frame) => frame,
                    Err(elapsed) => Some(Err(elapsed.into())),
                },
            };
            match frame {
                Some(Ok(frame)) => self.gathered.push(frame),
                Some(Err(error)) => self.last = Some(Some(error)),
                None => self.last = Some(None),
            }
        }
        if self.gathered.len > 0 {
            return Ok(Some(self.gathered.take()));
        }
        match self.last.replace(None).flatten() {
            Some(error) => Err(error),
            None => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::stream::fixture::stream;

    #[tokio::test]
    async fn what_has_arrived_is_passed_on_before_an_error() {
        let frames = vec![Ok(Bytes::from_static(b"abc")), Ok(Bytes::from_static(b"def")), Err("torn".into())];
        let mut chunks = PromptChunks::new(stream(frames), Duration::from_secs(5));
        assert_eq!(chunks.next().await.unwrap().unwrap().len, 6);
        assert_eq!(chunks.next().await.unwrap_err().to_string(), "torn");
        assert!(chunks.next().await.unwrap().is_none());
    }

    #[tokio::test]
    async fn a_chunk_does_not_wait_for_a_slow_source() {
        let slow = stream(vec![Ok(Bytes::from_static(b"abc"))]).chain(futures_util::stream::pending());
        let mut chunks = PromptChunks::new(Box::pin(slow), Duration::from_millis(50));
        assert_eq!(chunks.next().await.unwrap().unwrap().len, 3);
        assert!(chunks.next().await.is_err());
    }
}
