//! The directory of the cache, with Glance's layout: `<image>` is a complete file, and `incomplete`, `invalid` and `queue` are
//! directories. Either program can use a directory that the other one has filled.
//!
//! A fill writes `incomplete/<image>.glimpse`, with a lock of the operating system on it. The lock ends with its process, so the file
//! that a dead process left is recognised at once. A Glance that uses the directory at the same time writes `incomplete/<image>`
//! without a lock: two fills never write to the same file. All functions block.

use std::{
    collections::HashSet,
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustix::{
    fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_OMIT, XattrFlags},
    io::Errno,
};

use crate::{
    error::{Error, Result},
    lock_file::{self, is_at},
    model::ImageId,
};

/// The end of the name of a file that is being filled.
const UNFINISHED: &str = ".glimpse";
/// The attribute with the digest that a file was verified with: the algorithm, a colon, and hexadecimal digits.
const DIGEST: &str = "user.glimpse.digest";
/// Glance's attribute with the number of hits, for its driver `xattr`.
const HITS: &str = "user.hits";
/// The maximum length of the value of an attribute in bytes.
const MAX_VALUE: usize = 256;

/// The directory of the cache.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    dir: PathBuf,
}

/// A complete file.
#[derive(Debug, Clone)]
pub(super) struct CachedFile {
    /// Its image.
    pub(super) image_id: ImageId,
    /// Its size in bytes.
    pub(super) size: u64,
    /// The seconds since 1970 when it was last read, as far as the file system records it.
    pub(super) accessed: f64,
    /// The seconds since 1970 when it was written.
    pub(super) modified: f64,
}

impl Layout {
    /// Opens the directory, and creates what is missing of it.
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        let layout = Self { dir: dir.to_owned() };
        for dir in [layout.incomplete_dir(), layout.invalid_dir(), layout.queue_dir()] {
            fs::create_dir_all(dir)?;
        }
        Ok(layout)
    }

    /// The path of a file in the directory.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn incomplete_dir(&self) -> PathBuf {
        self.dir.join("incomplete")
    }

    fn invalid_dir(&self) -> PathBuf {
        self.dir.join("invalid")
    }

    fn queue_dir(&self) -> PathBuf {
        self.dir.join("queue")
    }

    fn incomplete(&self, id: &ImageId) -> PathBuf {
        self.incomplete_dir().join(format!("{id}{UNFINISHED}"))
    }

    fn queued_path(&self, id: &str) -> PathBuf {
        self.queue_dir().join(id)
    }

    /// Opens the complete file of an image, if there is one.
    pub(super) fn open_cached(&self, id: &ImageId) -> io::Result<Option<File>> {
        match File::open(self.path(id)) {
            Ok(file) if file.metadata()?.is_file() => Ok(Some(file)),
            Ok(_) => Err(io::Error::other("it is not a regular file")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether there is a complete file of the image.
    pub(super) fn is_cached(&self, id: &str) -> bool {
        self.path(id).exists()
    }

    /// Begins a file. Returns `None` if another process fills it.
    ///
    /// # Errors
    /// `StorageFull` if the file system has not enough space for `size` bytes.
    pub(super) fn begin(&self, id: &ImageId, size: Option<u64>) -> io::Result<Option<File>> {
        let path = self.incomplete(id);
        let Some(file) = lock_file::open(&path, Err)? else { return Ok(None) };
        // Another process may have completed the file since this one looked for it.
        if self.is_cached(id) {
            fs::remove_file(&path)?;
            return Ok(None);
        }
        file.set_len(0)?;
        let space = rustix::fs::fstatvfs(&file)?;
        // A file system that does not know its size reports zeros.
        let is_known = space.f_blocks > 0;
        if is_known && size.is_some_and(|size| size > space.f_bavail.saturating_mul(space.f_frsize)) {
            fs::remove_file(&path)?;
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(Some(file))
    }

    /// Syncs a filled file, so that it is complete after a power failure, and notes the digest that it was verified with.
    pub(super) fn sync(file: &File, digest: Option<&str>) -> io::Result<()> {
        if let Some(digest) = digest {
            // Without the attribute, a hit is checked by its size alone, as in Glance.
            let _ = rustix::fs::fsetxattr(file, DIGEST, digest.as_bytes(), XattrFlags::empty());
        }
        file.sync_data()
    }

    /// The digest that a file was verified with, if it was noted.
    pub(super) fn digest(file: &File) -> Option<String> {
        let mut value = [0; MAX_VALUE];
        let length = rustix::fs::fgetxattr(file, DIGEST, &mut value).ok()?;
        String::from_utf8(value[..length].to_vec()).ok()
    }

    /// Makes a filled file the cached one, and removes the image from the queue.
    pub(super) fn complete(&self, id: &ImageId, file: &File) -> io::Result<()> {
        let path = self.incomplete(id);
        if !is_at(file, &path)? {
            return Err(io::Error::other("the incomplete file was removed"));
        }
        fs::rename(path, self.path(id))?;
        self.dequeue(id)
    }

    /// Moves an incomplete file to the invalid ones.
    pub(super) fn invalidate(&self, id: &ImageId) -> io::Result<()> {
        fs::rename(self.incomplete(id), self.invalid_dir().join(id.as_str()))
    }

    /// Moves the cached file of an image to the invalid ones.
    pub(super) fn reject(&self, id: &ImageId) -> io::Result<()> {
        fs::rename(self.path(id), self.invalid_dir().join(id.as_str()))
    }

    /// Removes an incomplete file.
    pub(super) fn abandon(&self, id: &ImageId) -> io::Result<()> {
        remove_if_present(&self.incomplete(id)).map(drop)
    }

    /// Removes the cached file of an image. Returns `false` if there is none.
    pub(super) fn remove(&self, id: &str) -> io::Result<bool> {
        remove_if_present(&self.path(id))
    }

    /// The complete files.
    pub(super) fn files(&self) -> io::Result<Vec<CachedFile>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            let Some(image_id) = entry.file_name().to_str().and_then(ImageId::parse) else { continue };
            // A file that has disappeared was removed concurrently.
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.is_file() {
                files.push(CachedFile {
                    image_id,
                    size: metadata.len(),
                    accessed: seconds(metadata.atime(), metadata.atime_nsec()),
                    modified: seconds(metadata.mtime(), metadata.mtime_nsec()),
                });
            }
        }
        Ok(files)
    }

    /// Adds an image to the queue. Returns `false` if it is queued or cached.
    pub(super) fn queue(&self, id: &str) -> io::Result<bool> {
        if self.is_cached(id) {
            return Ok(false);
        }
        match OpenOptions::new().write(true).create_new(true).open(self.queued_path(id)) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Removes an image from the queue.
    pub(super) fn dequeue(&self, id: &str) -> io::Result<()> {
        remove_if_present(&self.queued_path(id)).map(drop)
    }

    /// The queued images, in the order in which they were queued.
    pub(super) fn queued(&self) -> io::Result<Vec<String>> {
        let mut queued = Vec::new();
        for entry in fs::read_dir(self.queue_dir())? {
            let entry = entry?;
            let (Ok(name), Ok(metadata)) = (entry.file_name().into_string(), entry.metadata()) else { continue };
            if metadata.is_file() && !name.ends_with(".db") {
                queued.push(((metadata.mtime(), metadata.mtime_nsec()), name));
            }
        }
        queued.sort();
        Ok(queued.into_iter().map(|(_, name)| name).collect())
    }

    /// Removes the invalid files, the incomplete ones that nothing has written to for `stall`, and those of processes that died.
    /// Returns the paths of the removed files.
    pub(super) fn clean(&self, stall: Duration) -> io::Result<Vec<PathBuf>> {
        let mut removed = HashSet::new();
        for entry in fs::read_dir(self.invalid_dir())? {
            let path = entry?.path();
            if path.is_file() && remove_if_present(&path)? {
                removed.insert(path);
            }
        }
        for entry in fs::read_dir(self.incomplete_dir())? {
            let entry = entry?;
            let Ok(metadata) = entry.metadata() else { continue };
            if !metadata.is_file() {
                continue;
            }
            let age = metadata.modified()?.elapsed().unwrap_or_default();
            let path = entry.path();
            if (age > stall || is_of_dead_process(&path)) && remove_if_present(&path)? {
                removed.insert(path);
            }
        }
        Ok(removed.into_iter().collect())
    }

    /// Whether the file system has user attributes, which the driver `xattr` needs.
    pub(super) fn has_attributes(&self) -> io::Result<bool> {
        let path = self.incomplete_dir().join("attributes.glimpse");
        fs::write(&path, "")?;
        let set = rustix::fs::setxattr(&path, HITS, b"1", XattrFlags::empty());
        remove_if_present(&path)?;
        match set {
            Ok(()) => Ok(true),
            Err(Errno::OPNOTSUPP) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// The number of hits in a file's attribute.
    pub(super) fn hits(&self, id: &str) -> i64 {
        let mut value = [0; MAX_VALUE];
        let read = rustix::fs::getxattr(self.path(id), HITS, &mut value);
        let text = read.ok().and_then(|length| std::str::from_utf8(&value[..length]).ok());
        text.and_then(|text| text.trim().parse().ok()).unwrap_or_default()
    }

    /// Writes the number of hits into the attribute of a file. Without a file, nothing happens.
    pub(super) fn set_hits(&self, id: &str, hits: i64) -> io::Result<()> {
        match rustix::fs::setxattr(self.path(id), HITS, hits.to_string().as_bytes(), XattrFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Sets the time when a file was last read: file systems record it late, or not at all.
    pub(super) fn set_accessed(&self, id: &str, accessed: SystemTime) -> io::Result<()> {
        let since = accessed.duration_since(UNIX_EPOCH).unwrap_or_default();
        let seconds = i64::try_from(since.as_secs()).unwrap_or_default();
        let times = Timestamps {
            last_access: Timespec { tv_sec: seconds, tv_nsec: since.subsec_nanos().into() },
            last_modification: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        };
        match rustix::fs::utimensat(CWD, self.path(id), &times, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

fn seconds(whole: i64, nanoseconds: i64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a time of day needs fewer digits than a double has")]
    let (whole, fraction) = (whole as f64, nanoseconds as f64 / 1e9);
    whole + fraction
}

/// Whether this is the file of a fill whose process died: no process has the lock.
fn is_of_dead_process(path: &Path) -> bool {
    path.to_string_lossy().ends_with(UNFINISHED) && File::open(path).is_ok_and(|file| file.try_lock().is_ok())
}

/// Removes a file. Returns `false` if there is none.
fn remove_if_present(path: &Path) -> io::Result<bool> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Runs work in the directory on a blocking thread.
///
/// # Errors
/// `Unavailable`
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(io::Error::other(error)));
    done.map_err(|source| Error::Unavailable { service: "the image cache", source: source.into() })
}
