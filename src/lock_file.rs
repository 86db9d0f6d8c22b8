//! Files that processes lock, and that the holder of the lock removes or renames.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io,
    os::unix::fs::MetadataExt as _,
    path::Path,
};

/// Opens the file at a path, creates it if it is missing, and locks it. Returns `None` if another process has the lock. The lock ends
/// when the file is closed. `on_error` decides whether the file is returned unlocked if it cannot be locked. Blocks.
///
/// # Errors
/// The system's error, or that of `on_error`.
pub(crate) fn open(path: &Path, on_error: impl Fn(io::Error) -> io::Result<()>) -> io::Result<Option<File>> {
    loop {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => on_error(error)?,
        }
        // If not, the previous holder has removed or renamed the file that this call has opened.
        if is_at(&file, path)? {
            return Ok(Some(file));
        }
    }
}

/// Whether this open file is still the one at the path.
pub(crate) fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let ours = file.metadata()?;
    match fs::metadata(path) {
        Ok(there) => Ok((there.dev(), there.ino()) == (ours.dev(), ours.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}
