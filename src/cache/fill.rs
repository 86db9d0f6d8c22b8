//! A fill: one read of the store writes a file of the cache, and any number of downloads read that file behind the writer.
//!
//! The downloads share nothing but the file and the number of bytes that are written. So a slow client costs no memory and slows
//! nobody down, and a client that leaves stops nothing. A download gets the last byte only after the whole file was verified.

use std::{
    fs::File,
    io,
    ops::{ControlFlow, Range},
    os::unix::fs::FileExt as _,
    pin::Pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream::try_unfold};
use tokio::sync::watch;

use crate::{
    config::HashAlgorithm,
    stream::{self, BoxError, ByteStream, Digest, FileReader, Observer, PromptChunks, Tap},
};

/// The size of a read behind the writer, in bytes. It is small, because there can be many downloads of one image at once.
const PART: usize = 64 * 1024;
/// How long a download waits for more bytes when a few are there: a read of a few bytes costs as much as one of many.
const COALESCE: Duration = Duration::from_millis(5);

/// Opens the data of the store from a position, to go on with a download that the cache cannot complete.
pub(crate) type Resume =
    Box<dyn FnOnce(u64) -> Pin<Box<dyn Future<Output = Result<ByteStream, BoxError>> + Send>> + Send>;

/// Why a fill has no complete file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The request that was to begin it has ended.
    Released,
    /// The file cannot be written, or another process fills it. The store's data is all right, as far as is known.
    Uncached,
    /// The store's data is wrong, or ended early.
    Source,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Opening,
    Filling,
    Verified,
    Failed(Failure),
}

#[derive(Debug, Clone, Copy)]
struct Progress {
    /// The number of bytes that are written.
    written: u64,
    phase: Phase,
    /// Whether the fill's task has ended: the file has its final name, or is removed.
    is_ended: bool,
}

impl Progress {
    /// The number of bytes that downloads get. The last byte is kept back until the data is verified, because a client that got
    /// all bytes takes them for good.
    fn available(self) -> u64 {
        if self.phase == Phase::Verified { self.written } else { self.written.saturating_sub(1) }
    }

    fn is_over(self) -> bool {
        matches!(self.phase, Phase::Verified | Phase::Failed(_))
    }
}

/// What the data must be.
#[derive(Debug, Clone)]
pub(crate) struct Expected {
    /// Its size in bytes, if it is known.
    pub(crate) size: Option<u64>,
    /// Its digest: the algorithm, and hexadecimal digits.
    pub(crate) digest: Option<(HashAlgorithm, String)>,
}

impl Expected {
    /// The digest as it is noted beside a file.
    pub(super) fn note(&self) -> Option<String> {
        self.digest.as_ref().map(|(algorithm, hex)| format!("{}:{hex}", stream::name(*algorithm)))
    }
}

/// A fill, shared by its task and the downloads that follow it.
pub(super) struct Fill {
    progress: watch::Sender<Progress>,
    /// The file, and the size of the whole data if it is known.
    file: OnceLock<(Arc<File>, Option<u64>)>,
    /// Whether the image was removed meanwhile: the file must not be kept.
    is_discarded: AtomicBool,
}

impl Fill {
    pub(super) fn new() -> Arc<Self> {
        let progress = watch::Sender::new(Progress { written: 0, phase: Phase::Opening, is_ended: false });
        Arc::new(Self { progress, file: OnceLock::new(), is_discarded: AtomicBool::new(false) })
    }

    /// A download that follows it.
    pub(super) fn follow(self: &Arc<Self>) -> Follower {
        Follower { progress: self.progress.subscribe(), fill: Arc::clone(self) }
    }

    pub(super) fn discard(&self) {
        self.is_discarded.store(true, Ordering::SeqCst);
    }

    pub(super) fn is_discarded(&self) -> bool {
        self.is_discarded.load(Ordering::SeqCst)
    }

    fn set_phase(&self, phase: Phase) {
        self.progress.send_modify(|progress| progress.phase = phase);
    }

    pub(super) fn fail(&self, failure: Failure) {
        self.set_phase(Phase::Failed(failure));
    }

    /// Tells the followers that the fill's task has ended. If it ended before its time, the file cannot be used.
    pub(super) fn end(&self) {
        self.progress.send_modify(|progress| {
            progress.is_ended = true;
            if !progress.is_over() {
                progress.phase = Phase::Failed(Failure::Uncached);
            }
        });
    }

    /// Makes the file available to downloads.
    pub(super) fn begin(&self, file: &Arc<File>, size: Option<u64>) {
        // It is set once: there is one leader.
        let _ = self.file.set((Arc::clone(file), size));
        self.set_phase(Phase::Filling);
    }

    /// Waits until no download follows it any more.
    pub(super) async fn unfollowed(&self) {
        self.progress.closed().await;
    }

    /// Writes the data into the file, and verifies it. Returns its size in bytes. `timeout` is the limit of the wait for each part.
    ///
    /// # Errors
    /// What failed, and why.
    pub(super) async fn write(
        self: &Arc<Self>,
        file: &Arc<File>,
        data: ByteStream,
        expected: &Expected,
        timeout: Duration,
    ) -> Result<u64, (Failure, BoxError)> {
        let source = |error: BoxError| (Failure::Source, error);
        let writer = Tap::start(Writer { file: Arc::clone(file), written: 0, fill: Arc::clone(self) });
        let digest = match &expected.digest {
            Some((algorithm, _)) => Some(Tap::start(Digest::new(*algorithm).map_err(source)?)),
            None => None,
        };
        let mut chunks = PromptChunks::new(data, timeout);
        let mut received = 0;
        let size_error = |size| source(format!("the data is not the {size} bytes that it should be").into());
        let (to_writer, to_digest) = (writer.end(), digest.as_ref().map(Tap::end));
        while let Some(chunk) = chunks.next().await.map_err(source)? {
            received += chunk.len as u64;
            if let Some(size) = expected.size.filter(|size| received > *size) {
                return Err(size_error(size));
            }
            if let Some(to) = &to_digest {
                to.send_async(chunk.clone()).await.map_err(|_| source("the digest failed".into()))?;
            }
            if to_writer.send_async(chunk).await.is_err() {
                // The writer has failed, and says why.
                break;
            }
        }
        drop((to_writer, to_digest));
        let written = writer.finish().await.map_err(|error| (Failure::Uncached, error))?.written;
        if let Some(size) = expected.size.filter(|size| received != *size) {
            return Err(size_error(size));
        }
        if let (Some(digest), Some((_, expected))) = (digest, &expected.digest) {
            let found = digest.finish().await.map_err(source)?.hex().map_err(source)?;
            if !found.eq_ignore_ascii_case(expected) {
                return Err(source("the data does not have the image's hash".into()));
            }
        }
        self.set_phase(Phase::Verified);
        Ok(written)
    }
}

/// Writes the file, and publishes how far it is.
struct Writer {
    file: Arc<File>,
    written: u64,
    fill: Arc<Fill>,
}

impl Observer for Writer {
    fn observe(&mut self, bytes: &[u8]) -> Result<ControlFlow<()>, BoxError> {
        self.file.write_all_at(bytes, self.written)?;
        self.written += bytes.len() as u64;
        self.fill.progress.send_modify(|progress| progress.written = self.written);
        Ok(ControlFlow::Continue(()))
    }
}

/// A download that reads behind the writer of a fill.
pub(crate) struct Follower {
    fill: Arc<Fill>,
    progress: watch::Receiver<Progress>,
}

/// Why a part cannot be read.
enum Interrupted {
    /// The cache's file fails. The store has the data.
    ByCache(io::Error),
    BySource,
}

impl Follower {
    /// Waits until the fill has begun. Returns the size of the data in bytes, if it is known.
    ///
    /// # Errors
    /// The fill has failed already.
    pub(crate) async fn begun(&mut self) -> Result<Option<u64>, Failure> {
        let begun = self.progress.wait_for(|progress| progress.phase != Phase::Opening).await;
        match begun.map(|progress| progress.phase) {
            Ok(Phase::Failed(failure)) => Err(failure),
            Ok(_) => Ok(self.fill.file.get().and_then(|(_, size)| *size)),
            // The fill outlives its followers, which have it.
            Err(_) => Err(Failure::Uncached),
        }
    }

    /// Waits until the file has its final name.
    ///
    /// # Errors
    /// It will not get it.
    pub(crate) async fn ended(mut self) -> Result<(), Failure> {
        let ended = self.progress.wait_for(|now| now.is_ended || matches!(now.phase, Phase::Failed(_))).await;
        match ended.map(|progress| progress.phase) {
            Ok(Phase::Verified) => Ok(()),
            Ok(Phase::Failed(failure)) => Err(failure),
            Ok(Phase::Opening | Phase::Filling) | Err(_) => Err(Failure::Uncached),
        }
    }

    /// The data from its beginning, as it arrives. If the cache fails, `resume` goes on from the store.
    pub(crate) fn into_stream(self, image: String, resume: Resume) -> ByteStream {
        let Self { fill, progress } = self;
        let Some((file, _)) = fill.file.get() else { return Box::pin(futures_util::stream::empty()) };
        let reader = FileReader::in_parts(Arc::clone(file), 0..u64::MAX, PART);
        let parts = try_unfold((reader, progress), move |(mut reader, mut progress)| {
            let fill = Arc::clone(&fill);
            async move {
                // The fill lives as long as its followers.
                let _fill = fill;
                let at = reader.position();
                let many = progress.wait_for(|now| now.is_over() || now.available() >= at + PART as u64);
                let many = tokio::time::timeout(COALESCE, many).await.map(|now| now.map(|now| *now));
                let now = match many {
                    Ok(now) => now,
                    Err(_) => progress.wait_for(|now| now.is_over() || now.available() > at).await.map(|now| *now),
                };
                let now = now.map_err(|error| Interrupted::ByCache(io::Error::other(error)))?;
                match now.phase {
                    Phase::Failed(Failure::Source) => return Err(Interrupted::BySource),
                    Phase::Failed(_) => {
                        return Err(Interrupted::ByCache(io::Error::other("the file cannot be written")));
                    }
                    Phase::Verified if at >= now.written => return Ok(None),
                    Phase::Opening | Phase::Filling | Phase::Verified => {}
                }
                let end = now.available();
                let read = tokio::task::spawn_blocking(move || (reader.read_until(end), reader)).await;
                let (part, reader) = read.map_err(|error| Interrupted::ByCache(io::Error::other(error)))?;
                Ok(Some((part.map_err(Interrupted::ByCache)?, (reader, progress))))
            }
        });
        resumable(Box::pin(parts), 0, image, resume)
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
