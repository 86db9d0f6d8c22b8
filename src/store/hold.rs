//! A hold on an image's place in a store of files, against other processes and other machines.
//!
//! It is the system's lock on a file of its own, which whoever holds it removes at the end. The lock ends with its process, and
//! stays with one that stalls, for as long as what that does with the place may still take effect.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Once,
    time::Duration,
};

/// The pause before a lock that somebody has is asked for again; it doubles each time.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
/// The longest such pause.
const LAST_PAUSE: Duration = Duration::from_millis(500);

/// Keeps others from an image's place until it is dropped, which may wait for a disk: see [`Hold::release`].
#[derive(Debug)]
pub(crate) struct Hold {
    held: Option<Held>,
}

#[derive(Debug)]
struct Held {
    /// The lock ends when it is closed.
    file: File,
    path: PathBuf,
}

impl Hold {
    /// Of a store in which nobody can be kept from a place.
    pub(super) fn none() -> Self {
        Self { held: None }
    }

    /// Waits for the lock on the file of this path. It asks again and again: somebody who stalls may have it for ever, and
    /// a thread that waits in the system for that could not be called off.
    pub(super) async fn take(path: PathBuf) -> io::Result<Self> {
        let mut pause = FIRST_PAUSE;
        loop {
            let path = path.clone();
            let asked = tokio::task::spawn_blocking(move || Self::try_take(path)).await;
            if let Some(hold) = asked.map_err(io::Error::other)?? {
                return Ok(hold);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LAST_PAUSE);
        }
    }

    /// Takes the lock on the file of this path, unless somebody has it.
    fn try_take(path: PathBuf) -> io::Result<Option<Self>> {
        loop {
            let file = OpenOptions::new().write(true).create(true).truncate(false).open(&path)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(error)) if is_unsupported(&error) => tell_unsupported(&error),
                Err(TryLockError::Error(error)) => return Err(error),
            }
            // Whoever had it before us has removed the file that we opened.
            if is_at(&file, &path)? {
                return Ok(Some(Self { held: Some(Held { file, path }) }));
            }
        }
    }

    /// Removes the file of this path if it was left by a process that was killed.
    pub(super) fn tidy(path: PathBuf) -> io::Result<()> {
        let file = OpenOptions::new().write(true).open(&path)?;
        if file.try_lock().is_ok() && is_at(&file, &path)? {
            drop(Self { held: Some(Held { file, path }) });
        }
        Ok(())
    }

    /// Ends it where a disk may be waited for.
    pub(crate) async fn release(self) {
        // It fails by a panic alone, which has been told.
        let _ = tokio::task::spawn_blocking(move || drop(self)).await;
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let Some(Held { file, path }) = self.held.take() else { return };
        if let Err(error) = fs::remove_file(&path) {
            tracing::warn!(%error, path = %path.display(), "the file of a lock cannot be removed");
        }
        // Only now may others have it.
        drop(file);
    }
}

/// Whether this open file is the one at the path.
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let ours = file.metadata()?;
    match fs::metadata(path) {
        Ok(there) => Ok((there.dev(), there.ino()) == (ours.dev(), ours.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn is_unsupported(error: &io::Error) -> bool {
    let no_locks = rustix::io::Errno::NOLCK.raw_os_error();
    error.kind() == io::ErrorKind::Unsupported || error.raw_os_error() == Some(no_locks)
}

fn tell_unsupported(error: &io::Error) {
    static TOLD: Once = Once::new();
    TOLD.call_once(|| {
        tracing::warn!(
            %error,
            "the store's file system has no locks: an upload that stalls for long may meet a later one of its image"
        );
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_holds_it_at_a_time_and_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hold");
        let most = std::sync::atomic::AtomicI32::new(0);
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
                        assert_eq!(most.fetch_add(1, std::sync::atomic::Ordering::SeqCst), 0);
                        Hold::tidy(path.clone()).unwrap();
                        most.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
                        drop(hold);
                    }
                });
            }
        });
        assert!(!path.exists());
        // What a killed process leaves.
        fs::write(&path, "").unwrap();
        Hold::tidy(path.clone()).unwrap();
        assert!(!path.exists());
    }
}
