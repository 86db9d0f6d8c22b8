//! Work that blocks for a long time, on a thread of its own.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use crate::error::{Error, Result};

/// The progress of a plugin, and whether it must stop.
#[derive(Debug)]
pub(crate) struct Progress {
    /// The number of bytes that were written.
    bytes: Arc<AtomicU64>,
    is_stopped: AtomicBool,
}

impl Progress {
    /// Progress that is recorded in `bytes`.
    pub(crate) fn counted_by(bytes: &Arc<AtomicU64>) -> Self {
        Self { bytes: Arc::clone(bytes), is_stopped: AtomicBool::new(false) }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Records the number of bytes that were written.
    ///
    /// # Errors
    /// The work must stop.
    pub(super) fn reached(&self, bytes: u64) -> Result<()> {
        self.bytes.store(bytes, Ordering::Relaxed);
        match self.is_stopped.load(Ordering::Relaxed) {
            true => Err(Error::Internal("the import was stopped".into())),
            false => Ok(()),
        }
    }
}

/// Stops the work when it is dropped.
struct Stopper(Arc<Progress>);

impl Drop for Stopper {
    fn drop(&mut self) {
        self.0.is_stopped.store(true, Ordering::Relaxed);
    }
}

/// Runs work on a thread of its own. If the future is dropped, the work must stop.
///
/// # Errors
/// Those of the work.
pub(super) async fn on_own_thread<T: Send + 'static>(
    progress: Arc<Progress>,
    work: impl FnOnce(&Progress) -> Result<T> + Send + 'static,
) -> Result<T> {
    let _stopper = Stopper(Arc::clone(&progress));
    let (done, result) = tokio::sync::oneshot::channel();
    let span = tracing::Span::current();
    let run = move || {
        // The receiver may have been dropped.
        let _ = done.send(span.in_scope(|| work(&progress)));
    };
    let started = std::thread::Builder::new().name("import-plugin".to_owned()).spawn(run);
    started.map_err(|error| Error::Internal(error.into()))?;
    result.await.map_err(|_| Error::Internal("a plugin panicked".into()))?
}
