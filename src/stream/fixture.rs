//! A pipeline for the tests of this folder.

use std::time::Duration;

use bytes::Bytes;

use super::{BoxError, ByteStream, Digest, Incomplete, Limits, Tap, channel, feed};
use crate::config::HashAlgorithm;

pub(super) fn stream(frames: Vec<Result<Bytes, BoxError>>) -> ByteStream {
    Box::pin(futures_util::stream::iter(frames))
}

/// Limits with a generous timeout.
pub(super) fn limits(max_size: u64, expected: Option<i64>) -> Limits {
    Limits { timeout: Duration::from_secs(60), max_size, expected }
}

/// [`pass`] for these frames.
pub(super) async fn passed(
    frames: Vec<Result<Bytes, BoxError>>,
    limits: Limits,
) -> (Result<u64, Incomplete>, Vec<usize>, bool) {
    pass(stream(frames), limits).await
}

/// Sends data through a whole pipeline with a digest. Returns the result of [`feed()`], the sizes of the chunks, and whether the
/// store saw the data as complete.
pub(super) async fn pass(data: ByteStream, limits: Limits) -> (Result<u64, Incomplete>, Vec<usize>, bool) {
    let (to, mut chunks) = channel();
    let md5 = Tap::start(Digest::new(HashAlgorithm::Md5).unwrap());
    let feeding = feed(data, limits, vec![md5.end()], to);
    let taking = async {
        let mut sizes = Vec::new();
        loop {
            match chunks.next().await {
                Ok(Some(chunk)) => sizes.push(chunk.len),
                end => return (sizes, end.is_ok()),
            }
        }
    };
    let (fed, (sizes, good)) = tokio::join!(feeding, taking);
    md5.finish().await.unwrap();
    (fed, sizes, good)
}
