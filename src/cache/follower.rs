//! Downloads of an image while the cache is filled with it, and of cached files. Whatever fails in the cache, they go on from the store.

use std::{fs::File, io, ops::Range, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{
    Stream, StreamExt as _, TryStreamExt as _,
    stream::{iter, try_unfold},
};
use tokio::sync::watch;

use super::fill::{Failure, Fill, Phase, Progress};
use crate::stream::{self, BoxError, ByteStream, Chunk, FileReader, READ_SIZE};

/// From this number of downloads on, each reads smaller parts of the file, of this size in bytes.
const CROWD: usize = 16;
const SMALL_PART: usize = 64 * 1024;
/// A download reads behind the writer once this number of bytes is there, or after this time: a few bytes cost as much as many.
const ENOUGH: u64 = 512 * 1024;
const COALESCE: Duration = Duration::from_millis(5);
/// How many bytes it reads before it looks at the progress again.
const ROUND: u64 = 4 * 1024 * 1024;

/// Opens the data of the store from a position, to go on with a download that the cache cannot complete.
pub(crate) type Resume =
    Box<dyn FnOnce(u64) -> Pin<Box<dyn Future<Output = Result<ByteStream, BoxError>> + Send>> + Send>;

/// A download that reads behind the writer of a fill.
pub(crate) struct Follower {
    fill: Arc<Fill>,
    progress: watch::Receiver<Progress>,
    /// The chunks themselves, until the download is too slow for them.
    live: Option<flume::Receiver<Chunk>>,
}

/// Why a part cannot be read.
enum Interrupted {
    /// The cache's file fails. The store has the data.
    ByCache(io::Error),
    BySource,
}

impl Follower {
    pub(super) fn new(fill: &Arc<Fill>, live: Option<flume::Receiver<Chunk>>) -> Self {
        Self { progress: fill.progress(), fill: Arc::clone(fill), live }
    }

    /// Waits until the fill has begun. Returns the size of the data in bytes, if it is known.
    ///
    /// # Errors
    /// The fill has failed already.
    pub(crate) async fn begun(&mut self) -> Result<Option<u64>, Failure> {
        let begun = self.progress.wait_for(|progress| progress.phase != Phase::Opening).await;
        match begun.map(|progress| progress.phase) {
            Ok(Phase::Failed(failure)) => Err(failure),
            Ok(_) => Ok(self.fill.file().and_then(|(_, size)| *size)),
            // The fill outlives its followers, which have it.
            Err(_) => Err(Failure::Uncached),
        }
    }

    /// Waits until the file has its final name.
    ///
    /// # Errors
    /// It will not get it.
    pub(crate) async fn ended(mut self) -> Result<(), Failure> {
        self.live = None;
        let ended = self.progress.wait_for(|now| now.is_ended || matches!(now.phase, Phase::Failed(_))).await;
        match ended.map(|progress| progress.phase) {
            Ok(Phase::Verified) => Ok(()),
            Ok(Phase::Failed(failure)) => Err(failure),
            Ok(_) | Err(_) => Err(Failure::Uncached),
        }
    }

    /// The data from its beginning, as it arrives. If the cache fails, `resume` goes on from the store.
    pub(crate) fn into_stream(self, image: String, resume: Resume) -> ByteStream {
        let Self { fill, progress, live } = self;
        let Some((file, _)) = fill.file() else { return Box::pin(futures_util::stream::empty()) };
        let part = if fill.followers() < CROWD { READ_SIZE } else { SMALL_PART };
        let reader = FileReader::in_parts(Arc::clone(file), 0..0, part);
        let rounds = try_unfold((0, progress, live), move |(at, mut progress, mut live)| {
            let (fill, reader) = (Arc::clone(&fill), reader.at(0..0));
            async move {
                // The fill lives as long as its followers.
                let _fill = fill;
                if let Some(chunks) = &live {
                    if let Ok(chunk) = chunks.recv_async().await {
                        let parts = iter(chunk.shared().map(Ok).collect::<Vec<_>>());
                        return Ok(Some((parts.left_stream(), (at + chunk.len as u64, progress, live))));
                    }
                    live = None;
                }
                let enough = progress.wait_for(|now| now.is_over() || now.written >= at + ENOUGH);
                let enough = tokio::time::timeout(COALESCE, enough).await.map(|now| now.map(|now| *now));
                let now = match enough {
                    Ok(now) => now,
                    Err(_) => progress.wait_for(|now| now.is_over() || now.written > at).await.map(|now| *now),
                };
                let now = now.map_err(|error| Interrupted::ByCache(io::Error::other(error)))?;
                match now.phase {
                    Phase::Failed(Failure::Source) => return Err(Interrupted::BySource),
                    Phase::Failed(_) => {
                        return Err(Interrupted::ByCache(io::Error::other("the fill was given up")));
                    }
                    Phase::Written | Phase::Verified if at >= now.written => return Ok(None),
                    Phase::Opening | Phase::Filling | Phase::Written | Phase::Verified => {}
                }
                let end = now.written.min(at + ROUND);
                let parts = stream::read_ahead(reader.at(at..end)).map(|part| part.map_err(Interrupted::ByCache));
                Ok(Some((parts.right_stream(), (end, progress, live))))
            }
        });
        resumable(Box::pin(rounds.try_flatten()), 0, image, resume)
    }
}

/// The bytes of a complete file. If the file fails, `resume` goes on from the store.
pub(super) fn read_file(file: File, range: Range<u64>, image: String, resume: Resume) -> ByteStream {
    let start = range.start;
    let parts =
        stream::read_ahead(FileReader::new(Arc::new(file), range)).map(|part| part.map_err(Interrupted::ByCache));
    resumable(Box::pin(parts), start, image, resume)
}

type Parts = Pin<Box<dyn Stream<Item = Result<Bytes, Interrupted>> + Send>>;

enum Origin {
    Cache(Parts, Resume),
    Store(ByteStream),
    Ended,
}

fn resumable(parts: Parts, start: u64, image: String, resume: Resume) -> ByteStream {
    let state = (Origin::Cache(parts, resume), start, image);
    Box::pin(try_unfold(state, |(mut origin, mut at, image)| async move {
        loop {
            match origin {
                Origin::Cache(mut parts, resume) => match parts.next().await {
                    Some(Ok(part)) => {
                        at += part.len() as u64;
                        return Ok(Some((part, (Origin::Cache(parts, resume), at, image))));
                    }
                    Some(Err(Interrupted::ByCache(error))) => {
                        tracing::debug!(image, %error, "a download from the cache goes on from the store");
                        drop(parts);
                        origin = Origin::Store(resume(at).await?);
                    }
                    Some(Err(Interrupted::BySource)) => return Err("the image's data cannot be read completely".into()),
                    None => origin = Origin::Ended,
                },
                Origin::Store(mut data) => {
                    return match data.next().await.transpose()? {
                        Some(part) => Ok(Some((part, (Origin::Store(data), at, image)))),
                        None => Ok(None),
                    };
                }
                Origin::Ended => return Ok(None),
            }
        }
    }))
}
