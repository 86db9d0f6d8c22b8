//! A hold: a lock on the final path of an image's object in a file store, against other processes and other machines.
//!
//! It is an operating system lock on a file of its own. The holder removes that file when it releases the lock. If the holder dies,
//! the system releases the lock. If the holder stalls, it keeps the lock: its pending changes to the path can still take effect.

use std::{
    fs::{self, File, OpenOptions},
    io,
    path::PathBuf,
    sync::Once,
    time::Duration,
};

use crate::lock_file::{self, is_at};

/// The first pause between two attempts to take a lock; it doubles with each attempt.
const MIN_PAUSE: Duration = Duration::from_millis(5);
/// The maximum of this pause.
const MAX_PAUSE: Duration = Duration::from_millis(500);

/// Keeps other processes from the final path of an image's object until it is dropped. Dropping it can block on a disk: see
/// [`Hold::release`].
#[derive(Debug)]
pub(crate) struct Hold {
    lock: Option<LockFile>,
}

#[derive(Debug)]
struct LockFile {
    /// Closing the file releases the lock.
    file: File,
    path: PathBuf,
}

impl Hold {
    /// A hold that locks nothing, for stores without locks.
    pub(super) fn none() -> Self {
        Self { lock: None }
    }

    /// Waits for the lock on the file at `path`. It polls: a holder that stalls can keep the lock for ever, and a thread that
    /// blocks in the system call could not be cancelled.
    pub(super) async fn take(path: PathBuf) -> io::Result<Self> {
        let mut pause = MIN_PAUSE;
        loop {
            let path = path.clone();
            let attempt = tokio::task::spawn_blocking(move || Self::try_take(path)).await;
            if let Some(hold) = attempt.map_err(io::Error::other)?? {
                return Ok(hold);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(MAX_PAUSE);
        }
    }

    /// Takes the lock on the file at `path`, unless another process has it.
    fn try_take(path: PathBuf) -> io::Result<Option<Self>> {
        let unless_unsupported = |error: io::Error| match is_unsupported(&error) {
            true => {
                warn_unsupported(&error);
                Ok(())
            }
            false => Err(error),
        };
        let file = lock_file::open(&path, unless_unsupported)?;
        Ok(file.map(|file| Self { lock: Some(LockFile { file, path }) }))
    }

    /// Removes the lock file at `path` if a process that was killed has left it.
    pub(super) fn tidy(path: PathBuf) -> io::Result<()> {
        let file = OpenOptions::new().write(true).open(&path)?;
        if file.try_lock().is_ok() && is_at(&file, &path)? {
            drop(Self { lock: Some(LockFile { file, path }) });
        }
        Ok(())
    }

    /// Releases the lock on a thread that is allowed to block.
    pub(crate) async fn release(self) {
        // This fails only if the drop panicked, and the panic was logged.
        let _ = tokio::task::spawn_blocking(move || drop(self)).await;
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let Some(LockFile { file, path }) = self.lock.take() else { return };
        if let Err(error) = fs::remove_file(&path) {
            tracing::warn!(%error, path = %path.display(), "cannot remove a lock file; trying again later");
        }
        // The lock is released last: until now, no other process could take it.
        drop(file);
    }
}

fn is_unsupported(error: &io::Error) -> bool {
    let no_locks = rustix::io::Errno::NOLCK.raw_os_error();
    error.kind() == io::ErrorKind::Unsupported || error.raw_os_error() == Some(no_locks)
}

fn warn_unsupported(error: &io::Error) {
    static WARNED: Once = Once::new();
    WARNED.call_once(|| {
        tracing::warn!(
            %error,
            "the store's file system does not support locks, an upload that stalls may conflict with a later one of its image"
        );
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_caller_holds_the_lock_and_no_file_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hold");
        let holders = std::sync::atomic::AtomicI32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        let hold = loop {
                            match Hold::try_take(path.clone()).unwrap() {
                                Some(hold) => break hold,
                                None => std::thread::yield_now(),
                            }
                        };
                        assert_eq!(holders.fetch_add(1, std::sync::atomic::Ordering::SeqCst), 0);
                        Hold::tidy(path.clone()).unwrap();
                        holders.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
                        drop(hold);
                    }
                });
            }
        });
        assert!(!path.exists());
        // The file that a killed process leaves.
        fs::write(&path, "").unwrap();
        Hold::tidy(path.clone()).unwrap();
        assert!(!path.exists());
    }
}
