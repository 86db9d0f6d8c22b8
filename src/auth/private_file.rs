//! Files with secrets in the data directory. Only their owner can read them, and they are replaced as a whole.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, fchown},
    path::{Path, PathBuf},
};

/// Locks a file against other processes that change it, until the returned handle is dropped. The folder is the lock: it stays,
/// while the file is replaced.
pub(super) fn lock(path: &Path) -> io::Result<File> {
    let lock = File::open(folder(path))?;
    lock.lock()?;
    Ok(lock)
}

/// Replaces a file. The owner stays the same, and a new file gets the owner of its folder: a command that root runs must not take
/// the file away from the server.
pub(super) fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let dir = folder(path);
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let temporary = PathBuf::from(temporary);
    let write = || {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        let owner = fs::metadata(path).or_else(|_| fs::metadata(dir))?;
        if file.metadata()?.uid() != owner.uid() {
            fchown(&file, Some(owner.uid()), Some(owner.gid()))?;
        }
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        File::open(dir)?.sync_all()
    };
    let written = write();
    if written.is_err() {
        // The first error is the one to report.
        let _ = fs::remove_file(&temporary);
    }
    written
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
