//! A fill: one read of the store writes a file of the cache, and any number of downloads read that file behind the writer
//! (`follower.rs`).
//!
//! The downloads share nothing but the file and the number of bytes that are written. So a slow client costs no memory and slows
//! nobody down, and a client that leaves stops nothing. The first one also gets the chunks, as long as it is fast. The digest is one
//! more reader of the file (`verify.rs`): no download waits for it, and the file counts once it is right.

use std::{
    fs::File,
    ops::ControlFlow,
    os::unix::fs::FileExt as _,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::sync::watch;

use super::verify::{Written, verify};
use crate::{
    config::HashAlgorithm,
    stream::{self, BoxError, ByteStream, Chunk, Observer, PromptChunks, Tap},
};

/// How many chunks wait for the first download before it gets no more of them.
const LIVE: usize = 4;

/// Why a fill has no complete file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The request that was to begin it has ended.
    Released,
    /// The file cannot be written or read, or another process fills it. The store's data is all right, as far as is known.
    Uncached,
    /// The data is wrong, or ended early.
    Source,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Opening,
    Filling,
    /// All of the data is written. It may not be verified yet.
    Written,
    Verified,
    Failed(Failure),
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Progress {
    /// The number of bytes that are written.
    pub(super) written: u64,
    pub(super) phase: Phase,
    /// Whether the fill's task has ended: the file has its final name, or is removed.
    pub(super) is_ended: bool,
}

impl Progress {
    /// Whether nothing more is written.
    pub(super) fn is_over(self) -> bool {
        matches!(self.phase, Phase::Written | Phase::Verified | Phase::Failed(_))
    }
}

/// What the data must be.
#[derive(Debug, Clone, PartialEq, Eq)]
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

/// Passes the chunks to the download that has begun the fill, so that it need not read them from the file.
pub(super) struct Live(Option<flume::Sender<Chunk>>);

impl Live {
    pub(super) fn channel() -> (Self, flume::Receiver<Chunk>) {
        let (to, chunks) = flume::bounded(LIVE);
        (Self(Some(to)), chunks)
    }

    /// A download that is too slow gets no more, so that it delays nobody.
    fn send(&mut self, chunk: &Chunk) {
        if self.0.as_ref().is_some_and(|to| to.try_send(chunk.clone()).is_err()) {
            self.0 = None;
        }
    }
}

/// A fill, shared by its task and the downloads that follow it.
pub(super) struct Fill {
    /// What the image's record says. An image that has lost its data can get other data.
    expected: Expected,
    progress: watch::Sender<Progress>,
    /// The file, and the size of the whole data if it is known.
    file: OnceLock<(Arc<File>, Option<u64>)>,
    /// Whether the image was removed meanwhile: the file must not be kept.
    is_discarded: AtomicBool,
}

impl Fill {
    pub(super) fn new(expected: Expected) -> Arc<Self> {
        let progress = watch::Sender::new(Progress { written: 0, phase: Phase::Opening, is_ended: false });
        Arc::new(Self { expected, progress, file: OnceLock::new(), is_discarded: AtomicBool::new(false) })
    }

    /// Whether it is a fill with this data.
    pub(super) fn is_of(&self, expected: &Expected) -> bool {
        self.expected == *expected
    }

    /// Its progress. Who has a receiver follows it.
    pub(super) fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    /// The number of downloads that follow it.
    pub(super) fn followers(&self) -> usize {
        self.progress.receiver_count()
    }

    /// The file, and the size of the whole data if it is known, once the fill has begun.
    pub(super) fn file(&self) -> Option<&(Arc<File>, Option<u64>)> {
        self.file.get()
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
            if !matches!(progress.phase, Phase::Verified | Phase::Failed(_)) {
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

    /// Writes the data into the file, and verifies what is in it. Returns its size in bytes. `live` gets the data too. `timeout` is the
    /// limit of the wait for each part.
    ///
    /// # Errors
    /// What failed, and why.
    pub(super) async fn write(
        self: &Arc<Self>,
        file: &Arc<File>,
        data: ByteStream,
        live: Live,
        expected: &Expected,
        timeout: Duration,
    ) -> Result<u64, (Failure, BoxError)> {
        let (written, to_verify) = watch::channel(Written::default());
        let writer = Writer { file: Arc::clone(file), written: written.clone(), fill: Arc::clone(self) };
        let chunks = PromptChunks::new(data, timeout);
        let copied = async {
            let size = self.copy(chunks, writer, live, expected.size).await?;
            written.send_modify(|written| written.is_complete = true);
            Ok(size)
        };
        let verified = async {
            let Some((algorithm, hex)) = &expected.digest else { return Ok(()) };
            match verify(file, to_verify, *algorithm, hex).await {
                Ok(true) => Ok(()),
                Ok(false) => Err((Failure::Source, "what was written does not have the image's hash".into())),
                Err(error) => Err((Failure::Uncached, error)),
            }
        };
        let (size, ()) = tokio::try_join!(copied, verified)?;
        self.set_phase(Phase::Verified);
        Ok(size)
    }

    async fn copy(
        &self,
        mut chunks: PromptChunks,
        writer: Writer,
        mut live: Live,
        size: Option<u64>,
    ) -> Result<u64, (Failure, BoxError)> {
        let source = |error: BoxError| (Failure::Source, error);
        let size_error = |size| source(format!("the data is not the {size} bytes that it should be").into());
        let writer = Tap::start(writer);
        let to_writer = writer.end();
        let mut received = 0;
        while let Some(chunk) = chunks.next().await.map_err(source)? {
            received += chunk.len as u64;
            if let Some(size) = size.filter(|size| received > *size) {
                return Err(size_error(size));
            }
            live.send(&chunk);
            if to_writer.send_async(chunk).await.is_err() {
                // The writer has failed, and says why.
                break;
            }
        }
        drop(to_writer);
        writer.finish().await.map_err(|error| (Failure::Uncached, error))?;
        if let Some(size) = size.filter(|size| received != *size) {
            return Err(size_error(size));
        }
        self.set_phase(Phase::Written);
        Ok(received)
    }
}

/// Writes the file, and publishes how far it is.
struct Writer {
    file: Arc<File>,
    /// For the digest, which is not one of the downloads.
    written: watch::Sender<Written>,
    fill: Arc<Fill>,
}

impl Observer for Writer {
    fn observe(&mut self, bytes: &[u8]) -> Result<ControlFlow<()>, BoxError> {
        let at = self.written.borrow().bytes;
        // Written into a file that was truncated, the data would follow a hole, which downloads would take for zeros.
        if self.file.metadata()?.len() != at {
            return Err("another program has changed the file".into());
        }
        self.file.write_all_at(bytes, at)?;
        let written = at + bytes.len() as u64;
        self.fill.progress.send_modify(|progress| progress.written = written);
        self.written.send_modify(|now| now.bytes = written);
        Ok(ControlFlow::Continue(()))
    }
}
