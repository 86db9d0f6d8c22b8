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
        // The folder may belong to a user whom this process must not trust: a link or a file that is there is not opened.
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn a_link_in_place_of_the_temporary_file_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (path, temporary, other) =
            (dir.path().join("secret"), dir.path().join("secret.new"), dir.path().join("other"));
        fs::write(&other, "other").unwrap();
        symlink(&other, &temporary).unwrap();
        replace(&path, b"first").unwrap();
        assert_eq!((fs::read(&path).unwrap(), fs::read(&other).unwrap()), (b"first".to_vec(), b"other".to_vec()));
        // Nor is what an interrupted command has left, whose permissions may be others.
        fs::write(&temporary, "a part").unwrap();
        fs::set_permissions(&temporary, fs::Permissions::from_mode(0o666)).unwrap();
        replace(&path, b"second").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"second");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert!(!temporary.exists());
    }
}
