//! The `file` driver: an object is a file that is named after the image's id.
//!
//! An upload writes a temporary file in the same directory, syncs it, and then renames it to its final path. So no reader sees an
//! incomplete file, and the file is complete after a power failure. Only the holder of a hold (`super::hold`) changes a final path,
//! except that the deletion of an image's data needs no hold. Each file system call runs on a blocking thread.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{self, IoSlice, Seek as _, Write as _},
    ops::Range,
    os::unix::fs::PermissionsExt as _,
    path::{Component, Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use futures_util::StreamExt as _;
use rustix::io::Errno;
use serde_json::{Map, Value};

use super::{Blob, Driver, Environment, Error, Hold, Leftovers, Object, Result, Stored, location};
use crate::{
    config::FileStore,
    model::{ImageId, LocationUrl},
    stream::{self, Chunk, Chunks, FileReader, READ_SIZE},
};

/// The number of bytes that the kernel copies in one call. Between two calls, the copy can be cancelled.
const COPY_SIZE: usize = 16 * 1024 * 1024;
/// The number of bytes after which a write starts a sync in the background, so that the final sync is short.
const SYNC_EVERY: u64 = 64 * 1024 * 1024;
/// The prefix of a temporary file's name; the ids of the image and of the upload follow.
const UNFINISHED_PREFIX: &str = ".glimpse-upload.";
/// The prefix of a lock file's name; the id of the image follows.
const HOLD_PREFIX: &str = ".glimpse-hold.";

/// The prefix of the name of staged data that an import has changed; the ids of the image and of the version follow.
const VERSION_PREFIX: &str = ".glimpse-import.";

/// A store in one or more directories.
pub(super) struct FileDriver {
    /// The store's name, if it has one. It is written into the location's metadata, as in Glance.
    name: Option<String>,
    /// The directories, from the highest priority to the lowest.
    dirs: Arc<[Dir]>,
    permissions: Option<u32>,
    metadata: Vec<Map<String, Value>>,
    /// With thin provisioning: the number of zero bytes that are skipped as a hole instead of being written.
    hole: Option<usize>,
    timeout: Option<u32>,
    /// What is wrong with the configuration. A store with a fault can be read but not written.
    fault: Option<String>,
    chunk_size: u32,
    /// Whether the directories are created when they are needed, and not at start.
    is_created_late: bool,
    /// Uploads whose file may be at its final path although `place` failed.
    leftovers: Leftovers,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Dir {
    /// The path exactly as it is configured, because URLs start with it.
    path: String,
    priority: i64,
}

impl FileDriver {
    /// The store of data that is staged for imports. As in Glance, its directory is created when it is needed.
    pub(super) fn staging(options: &FileStore, default_dir: &Path) -> Self {
        Self { is_created_late: true, ..Self::with_dirs(None, options, configured_dirs(options, default_dir)) }
    }

    fn with_dirs(name: Option<&str>, options: &FileStore, dirs: Result<Vec<Dir>, String>) -> Self {
        let (dirs, fault) = match dirs {
            Ok(dirs) => (dirs, None),
            Err(fault) => (Vec::new(), Some(fault)),
        };
        let (metadata, bad_metadata) = match options.filesystem_store_metadata_file.as_deref().map(read_metadata_file) {
            None => (Vec::new(), None),
            Some(Ok(metadata)) => (metadata, None),
            Some(Err(fault)) => (Vec::new(), Some(fault)),
        };
        let (permissions, bad_permissions) = match permissions(options.filesystem_store_file_perm) {
            Ok(permissions) => (permissions, None),
            Err(fault) => (None, Some(fault)),
        };
        let chunk = usize::try_from(options.filesystem_store_chunk_size).unwrap_or(READ_SIZE);
        Self {
            name: name.map(str::to_owned),
            dirs: dirs.into(),
            permissions,
            metadata,
            hole: options.filesystem_thin_provisioning.then_some(chunk),
            timeout: Some(options.filesystem_store_timeout).filter(|seconds| *seconds > 0),
            fault: fault.or(bad_metadata).or(bad_permissions),
            chunk_size: options.filesystem_store_chunk_size,
            is_created_late: false,
            leftovers: Leftovers::default(),
        }
    }

    /// The directory for an object of `size` bytes: of those with enough free space, the one with the highest priority, and of
    /// several such directories the one with the most free space.
    fn choose_dir(dirs: &[Dir], size: u64) -> Result<&Dir> {
        if let [dir] = dirs {
            return Ok(dir);
        }
        let mut best: Option<(&Dir, u64)> = None;
        for dir in dirs {
            if best.is_some_and(|(best, _)| best.priority > dir.priority) {
                break;
            }
            let space = rustix::fs::statvfs(dir.path.as_str()).map_err(|error| from_io(error.into()))?;
            let free = space.f_bavail.saturating_mul(space.f_frsize);
            if free >= size && free > best.map_or(0, |(_, free)| free) {
                best = Some((dir, free));
            }
        }
        best.map(|(dir, _)| dir).ok_or(Error::Full)
    }

    /// The metadata of a file's location, as Glance writes it.
    fn metadata_of(&self, path: &str) -> Map<String, Value> {
        let mount = self.metadata.iter().find(|mount| {
            let point = mount.get("mountpoint").and_then(Value::as_str);
            point.is_some_and(|point| path.starts_with(point))
        });
        if mount.is_none() && !self.metadata.is_empty() {
            tracing::error!(path, "filesystem_store_metadata_file has no mount point for the file");
        }
        let mut metadata = mount.cloned().unwrap_or_default();
        if let Some(name) = &self.name {
            metadata.insert("store".to_owned(), name.clone().into());
        }
        metadata
    }

    /// Runs work on a blocking thread, with the configured timeout. The timeout applies to the same calls as in Glance: not to
    /// writing data. Work that timed out may still take effect.
    async fn with_timeout<T: Send + 'static>(&self, work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
        match self.timeout {
            None => blocking(work).await,
            Some(seconds) => {
                let timeout = Duration::from_secs(seconds.into());
                let done = tokio::time::timeout(timeout, blocking(work)).await;
                done.unwrap_or(Err(Error::TimedOut(seconds)))
            }
        }
    }

    /// Creates the directories, if that was not done at start.
    async fn create_dirs(&self) -> Result<()> {
        if !self.is_created_late {
            return Ok(());
        }
        let dirs = Arc::clone(&self.dirs);
        blocking(move || dirs.iter().try_for_each(|dir| fs::create_dir_all(&dir.path)).map_err(from_io)).await
    }

    /// Begins to copy an object of another file store, without passing its bytes through this process. Returns `None` if the file
    /// systems do not support it.
    pub(super) async fn begin_copy(&self, object: &Object, from: &Self, url: &LocationUrl) -> Result<Option<FileCopy>> {
        if self.fault.is_some() {
            return Err(Error::ReadOnly);
        }
        self.create_dirs().await?;
        let (theirs, url, dirs) = (Arc::clone(&from.dirs), url.clone(), Arc::clone(&self.dirs));
        let opened = self.with_timeout(move || {
            let from = File::open(path_of(&theirs, &url)?).map_err(from_io)?;
            let original = from.metadata().map_err(from_io)?;
            let modified = original.modified().map_err(from_io)?;
            Ok((from, original.len(), modified, Self::choose_dir(&dirs, original.len())?.clone()))
        });
        let (from, size, modified, dir) = opened.await?;
        let (path, unfinished) = (join(&dir.path, &object.image_id), unfinished_path(&dir.path, object));
        let stored = Stored { url: format!("file://{path}").into(), metadata: self.metadata_of(&path) };
        let (hole, permissions) = (self.hole, self.permissions);
        blocking(move || {
            let to = Unfinished::create(unfinished, hole).map_err(from_io)?;
            let mut copy = FileCopy { from, to, size, modified, stored, permissions };
            let is_begun = copy.share().map_err(from_io)? || copy.begin().map_err(from_io)?;
            Ok(is_begun.then_some(copy))
        })
        .await
    }

    /// Lists the images whose object nothing has written to for at least `quiet`.
    pub(super) async fn staged(&self, quiet: Duration) -> Result<Vec<ImageId>> {
        let dirs = Arc::clone(&self.dirs);
        blocking(move || {
            let mut found = Vec::new();
            for dir in dirs.iter() {
                let entries = match fs::read_dir(&dir.path) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    entries => entries.map_err(from_io)?,
                };
                for entry in entries {
                    let entry = entry.map_err(from_io)?;
                    let Some(image) = entry.file_name().to_str().and_then(image_of_staged) else { continue };
                    let modified = entry.metadata().and_then(|metadata| metadata.modified()).ok();
                    if modified.and_then(|modified| modified.elapsed().ok()).is_some_and(|age| age >= quiet) {
                        found.push(image);
                    }
                }
            }
            Ok(found)
        })
        .await
    }

    /// The path of the data that is staged for an image, or of a version of it.
    pub(super) fn staged_path(&self, image_id: &str, version: Option<&str>) -> Result<String> {
        let dir = self.dirs.first().ok_or(Error::NotFound)?;
        Ok(match version {
            None => join(&dir.path, image_id),
            Some(version) => join(&dir.path, &format!("{VERSION_PREFIX}{image_id}.{version}")),
        })
    }

    /// Removes the data that is staged for an image, with all its versions except the one at the path `kept`.
    pub(super) async fn discard_staged(&self, image_id: &str, kept: Option<String>) -> Result<()> {
        let (dirs, image_id) = (Arc::clone(&self.dirs), image_id.to_owned());
        blocking(move || {
            let prefix = format!("{VERSION_PREFIX}{image_id}.");
            for dir in dirs.iter() {
                let mut paths = vec![join(&dir.path, &image_id)];
                match fs::read_dir(&dir.path) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    Err(error) => return Err(from_io(error)),
                    Ok(entries) => {
                        for entry in entries {
                            let name = entry.map_err(from_io)?.file_name();
                            let version = name.to_str().filter(|name| name.starts_with(&prefix));
                            paths.extend(version.map(|name| join(&dir.path, name)));
                        }
                    }
                }
                let unneeded = paths.iter().filter(|path| Some(*path) != kept.as_ref());
                unneeded.into_iter().try_for_each(remove_if_present).map_err(from_io)?;
            }
            Ok(())
        })
        .await
    }
}

/// The image whose staged data, or a version of it, has this file name.
fn image_of_staged(name: &str) -> Option<ImageId> {
    let version = name.strip_prefix(VERSION_PREFIX).and_then(|ids| ids.split_once('.'));
    ImageId::parse(version.map_or(name, |(image, _)| image))
}

/// The path of a location whose URL is in one of the directories, without asking the file system.
fn path_within(dirs: &[Dir], url: &LocationUrl) -> Option<PathBuf> {
    let is_within = |path: &PathBuf| {
        // The path must not leave the directory through `..`.
        let below = dirs.iter().find_map(|dir| path.strip_prefix(&dir.path).ok());
        below.is_some_and(|below| {
            below.file_name().is_some() && below.components().all(|part| matches!(part, Component::Normal(_)))
        })
    };
    let parsed = location::path(url).ok().filter(is_within);
    // The name of a directory may contain `?` or `#`. Glance writes such URLs unescaped, and then cannot read them.
    parsed.or_else(|| location::whole_path(url).ok().map(PathBuf::from).filter(is_within))
}

/// The path of a location. It must be in one of the directories: a client may have written the URL, and must not reach other files.
/// The URL may refer to a directory by another path, through symbolic links.
fn path_of(dirs: &[Dir], url: &LocationUrl) -> Result<PathBuf> {
    let path = location::path(url)?;
    if let Some(path) = path_within(dirs, url) {
        return Ok(path);
    }
    let real = path.parent().and_then(|dir| fs::canonicalize(dir).ok());
    let contains_real = |dir: &Dir| match (&real, fs::canonicalize(&dir.path)) {
        (Some(real), Ok(dir)) => real.starts_with(dir),
        _ => false,
    };
    match path.file_name().is_some() && dirs.iter().any(contains_real) {
        true => Ok(path),
        false => Err(Error::BadLocation("The location is outside of the store's directories")),
    }
}

/// Runs work on a blocking thread.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await?
}

/// Removes a file; succeeds if there is none.
fn remove_if_present(path: impl AsRef<Path>) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

impl Driver for FileDriver {
    type Options = FileStore;

    /// A directory that cannot be used is a fault: a store that cannot be written can still be read.
    fn open(name: Option<&str>, options: &FileStore, environment: &Environment<'_>) -> (Option<Self>, Option<String>) {
        let driver = Self::with_dirs(name, options, configured_dirs(options, environment.default_dir));
        let unusable = driver.dirs.iter().find_map(|dir| {
            let path = Path::new(&dir.path);
            if environment.creates_dirs { prepare(path, options).err() } else { inspect_dir(path).err() }
        });
        let driver = Self { fault: driver.fault.clone().or(unusable), ..driver };
        let fault = driver.fault.as_ref().map(|fault| format!("nothing can be added to the store: {fault}"));
        (Some(driver), fault)
    }

    /// Does not access the file system.
    fn owns(&self, url: &LocationUrl) -> bool {
        path_within(&self.dirs, url).is_some()
    }

    fn properties(&self) -> Map<String, Value> {
        let mut properties = Map::new();
        if let [dir] = &*self.dirs {
            properties.insert("data_dir".to_owned(), dir.path.clone().into());
        }
        properties.insert("chunk_size".to_owned(), self.chunk_size.into());
        properties.insert("thin_provisioning".to_owned(), self.hole.is_some().into());
        properties
    }

    async fn put(&self, object: &Object, data: Chunks, size: u64) -> Result<Stored> {
        if self.fault.is_some() {
            return Err(Error::ReadOnly);
        }
        self.create_dirs().await?;
        let dirs = Arc::clone(&self.dirs);
        let dir = self.with_timeout(move || Self::choose_dir(&dirs, size).cloned()).await?;
        let (path, unfinished) = (join(&dir.path, &object.image_id), unfinished_path(&dir.path, object));
        let hole = self.hole;
        let file = blocking(move || Unfinished::create(unfinished, hole).map_err(from_io)).await?;
        let file = data.work_off(file, |file, chunk| file.write(chunk).map_err(from_io)).await?;
        let permissions = self.permissions;
        blocking(move || file.finish(permissions).map_err(from_io)).await?;
        Ok(Stored { url: format!("file://{path}").into(), metadata: self.metadata_of(&path) })
    }

    async fn hold(&self, object: &Object) -> Result<Hold> {
        self.create_dirs().await?;
        // One lock for all directories, in a directory that does not depend on their priorities.
        let first = self.dirs.iter().map(|dir| &dir.path).min().ok_or(Error::ReadOnly)?;
        let path = join(first, &format!("{HOLD_PREFIX}{}", object.image_id));
        Hold::take(path.into()).await.map_err(from_io)
    }

    async fn place(&self, object: &Object, stored: &Stored, hold: Hold) -> Result<Hold> {
        let (dirs, url, unfinished) = (Arc::clone(&self.dirs), stored.url.clone(), unfinished_name(object));
        let placed = blocking(move || {
            let path = path_of(&dirs, &url)?;
            let dir = path.parent().unwrap_or(Path::new("/"));
            if path.exists() {
                tracing::warn!(path = %path.display(), "the file of an interrupted upload is replaced");
            }
            let placed = fs::rename(dir.join(unfinished), &path).and_then(|()| File::open(dir)?.sync_all());
            placed.map_err(from_io).map(|()| hold)
        });
        placed.await.inspect_err(|_| self.leftovers.note(object))
    }

    async fn probe(&self, _: &Object) -> Result<()> {
        self.create_dirs().await?;
        let dirs = Arc::clone(&self.dirs);
        let is_writable = |dir: &Dir| rustix::fs::access(join(&dir.path, "."), rustix::fs::Access::WRITE_OK);
        blocking(move || dirs.iter().try_for_each(is_writable).map_err(|error| from_io(error.into()))).await
    }

    async fn get(&self, url: &LocationUrl, range: Option<Range<u64>>) -> Result<Blob> {
        let (dirs, url) = (Arc::clone(&self.dirs), url.clone());
        let (file, size) = self
            .with_timeout(move || {
                let file = File::open(path_of(&dirs, &url)?).map_err(from_io)?;
                let metadata = file.metadata().map_err(from_io)?;
                if !metadata.is_file() {
                    return Err(Error::NotFound);
                }
                Ok((file, metadata.len()))
            })
            .await?;
        let range = range.unwrap_or(0..size);
        let parts = stream::read_ahead(FileReader::new(Arc::new(file), range)).map(|part| {
            part.map_err(|error| {
                tracing::error!(
                    %error,
                    "a download is truncated: the image's file cannot be read or has become shorter"
                );
                error.into()
            })
        });
        Ok(Blob { size: Some(size), data: Box::pin(parts) })
    }

    async fn delete(&self, url: &LocationUrl) -> Result<()> {
        let (dirs, url) = (Arc::clone(&self.dirs), url.clone());
        self.with_timeout(move || {
            let path = path_of(&dirs, &url)?;
            fs::remove_file(&path).map_err(|error| cannot_delete(error, &path))
        })
        .await
    }

    async fn size(&self, url: &LocationUrl) -> Result<u64> {
        let (dirs, url) = (Arc::clone(&self.dirs), url.clone());
        let size = move || Ok(fs::metadata(path_of(&dirs, &url)?).map_err(from_io)?.len());
        self.with_timeout(size).await
    }

    async fn unfinished(&self, quiet: Duration) -> Result<Vec<Object>> {
        let (dirs, is_created_late) = (Arc::clone(&self.dirs), self.is_created_late);
        blocking(move || {
            let mut found = Vec::new();
            for dir in dirs.iter() {
                let entries = match fs::read_dir(&dir.path) {
                    Err(error) if is_created_late && error.kind() == io::ErrorKind::NotFound => continue,
                    entries => entries.map_err(from_io)?,
                };
                for entry in entries {
                    let entry = entry.map_err(from_io)?;
                    let name = entry.file_name();
                    let Some(name) = name.to_str() else { continue };
                    let ids = name.strip_prefix(UNFINISHED_PREFIX).and_then(|ids| ids.split_once('.'));
                    let is_hold = name.starts_with(HOLD_PREFIX);
                    if ids.is_none() && !is_hold {
                        continue;
                    }
                    // An entry that has disappeared belonged to an upload that finished.
                    let modified = entry.metadata().and_then(|metadata| metadata.modified()).ok();
                    let age = modified.and_then(|modified| modified.elapsed().ok());
                    let is_idle = age.is_some_and(|age| age >= quiet);
                    match ids.filter(|_| is_idle) {
                        Some((image_id, upload_id)) => {
                            found.push(Object { image_id: image_id.to_owned(), upload_id: upload_id.to_owned() });
                        }
                        None if is_hold && is_idle => {
                            if let Err(error) = Hold::tidy(entry.path()) {
                                tracing::warn!(%error, name, "cannot remove a lock file; trying again later");
                            }
                        }
                        None => {}
                    }
                }
            }
            Ok(found)
        })
        .await
    }

    async fn discard(&self, object: &Object, hold: Option<Hold>) -> Result<()> {
        let (dirs, object) = (Arc::clone(&self.dirs), object.clone());
        blocking(move || {
            // The temporary file goes first: once it is removed, no process can rename it to the final path.
            let unfinished = dirs.iter().map(|dir| unfinished_path(&dir.path, &object));
            let placed = dirs.iter().filter(|_| hold.is_some()).map(|dir| join(&dir.path, &object.image_id));
            unfinished.chain(placed).try_for_each(remove_if_present).map_err(from_io)
        })
        .await
    }

    fn take_leftovers(&self, object: &Object) -> bool {
        self.leftovers.take(object)
    }
}

/// A temporary file that is being written. It is removed if it is dropped before [`Unfinished::finish`].
struct Unfinished {
    file: File,
    remover: RemoveOnDrop,
    written: u64,
    hole: Option<usize>,
    /// The sync in the background, and the number of bytes that were written when it started.
    syncing: Option<std::thread::JoinHandle<io::Result<()>>>,
    synced: u64,
}

/// Removes a file when it is dropped, unless the path was taken out of it.
struct RemoveOnDrop(Option<PathBuf>);

impl Drop for RemoveOnDrop {
    fn drop(&mut self) {
        let Some(path) = self.0.take() else { return };
        let remove = move || {
            if let Err(error) = remove_if_present(&path) {
                tracing::error!(
                    %error,
                    path = %path.display(),
                    "cannot remove an upload's temporary file; a later cleanup will try again"
                );
            }
        };
        // Removing a large file can take long, so it must not block the runtime.
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(remove)),
            Err(_) => remove(),
        }
    }
}

impl Unfinished {
    fn create(path: String, hole: Option<usize>) -> io::Result<Self> {
        let file = OpenOptions::new().write(true).create_new(true).open(&path)?;
        Ok(Self { file, remover: RemoveOnDrop(Some(path.into())), written: 0, hole, syncing: None, synced: 0 })
    }

    fn write(&mut self, chunk: &Chunk) -> io::Result<()> {
        match self.hole {
            None => write_all(&mut self.file, &mut chunk.frames().map(IoSlice::new).collect::<Vec<_>>())?,
            Some(length) => {
                for piece in chunk.frames().flat_map(|frame| frame.chunks(length)) {
                    if piece.iter().all(|byte| *byte == 0) {
                        self.file.seek_relative(i64::try_from(piece.len()).map_err(io::Error::other)?)?;
                    } else {
                        self.file.write_all(piece)?;
                    }
                }
            }
        }
        self.written += chunk.len as u64;
        self.sync_in_background()
    }

    /// Starts a sync if enough was written since the last one.
    fn sync_in_background(&mut self) -> io::Result<()> {
        if self.written - self.synced >= SYNC_EVERY && self.syncing.as_ref().is_none_or(|sync| sync.is_finished()) {
            if let Some(sync) = self.syncing.take() {
                join_thread(sync)?;
            }
            self.synced = self.written;
            let file = self.file.try_clone()?;
            self.syncing = Some(std::thread::spawn(move || file.sync_data()));
        }
        Ok(())
    }

    /// Syncs the file, so that it is complete after a power failure, and keeps it.
    fn finish(mut self, permissions: Option<u32>) -> io::Result<()> {
        if let Some(sync) = self.syncing.take() {
            join_thread(sync)?;
        }
        // A hole at the end does not extend the file by itself.
        if self.hole.is_some() {
            self.file.set_len(self.written)?;
        }
        if let Some(mode) = permissions
            && let Err(error) = self.file.set_permissions(Permissions::from_mode(mode))
        {
            tracing::warn!(%error, path = ?self.remover.0, "cannot set the file's permissions");
        }
        self.file.sync_all()?;
        self.remover.0 = None;
        Ok(())
    }
}

/// A copy of a file in progress. The kernel moves its bytes, or lets both files share them.
pub(crate) struct FileCopy {
    from: File,
    to: Unfinished,
    /// The size of the original in bytes.
    size: u64,
    /// When the original was last modified.
    modified: SystemTime,
    stored: Stored,
    permissions: Option<u32>,
}

impl FileCopy {
    /// The size of the original in bytes.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Copies the rest, adds the number of bytes to `moved`, and syncs the file. If this is dropped, the file is removed.
    ///
    /// # Errors
    /// `Full`, `Unavailable`, also if the original has changed meanwhile
    pub(crate) async fn complete(mut self, moved: &AtomicU64) -> Result<Stored> {
        moved.fetch_add(self.to.written, Ordering::Relaxed);
        while self.to.written < self.size {
            let before = self.to.written;
            self = blocking(move || self.copy_part(COPY_SIZE).map(|_| self).map_err(from_io)).await?;
            moved.fetch_add(self.to.written - before, Ordering::Relaxed);
        }
        blocking(move || self.finish().map_err(from_io)).await
    }

    fn finish(self) -> io::Result<Stored> {
        let Self { from, to, size, modified, stored, permissions } = self;
        let after = from.metadata()?;
        if (after.len(), after.modified()?) != (size, modified) || to.written != size {
            return Err(io::Error::other("the original of a copy has changed meanwhile"));
        }
        to.finish(permissions)?;
        Ok(stored)
    }

    /// Lets the copy share the original's bytes on the disk (a reflink). Returns `false` if the file system does not support it.
    fn share(&mut self) -> io::Result<bool> {
        if rustix::fs::ioctl_ficlone(&self.to.file, &self.from).is_err() {
            return Ok(false);
        }
        self.to.written = self.to.file.metadata()?.len();
        Ok(true)
    }

    /// Copies the first part. Returns `false` if the file systems do not support that. With thin provisioning, the file is written by
    /// this process instead, which finds the zeros.
    fn begin(&mut self) -> io::Result<bool> {
        if self.to.hole.is_some() {
            return Ok(false);
        }
        match self.copy_part(READ_SIZE) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(self.size == 0),
            Err(error) => match rustix::io::Errno::from_io_error(&error) {
                Some(Errno::XDEV | Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS | Errno::PERM) => Ok(false),
                _ => Err(error),
            },
        }
    }

    /// Copies at most this number of bytes.
    fn copy_part(&mut self, length: usize) -> io::Result<()> {
        let (mut read, mut written) = (self.to.written, self.to.written);
        let copied = loop {
            match rustix::fs::copy_file_range(&self.from, Some(&mut read), &self.to.file, Some(&mut written), length) {
                Err(Errno::INTR) => {}
                copied => break copied?,
            }
        };
        if copied == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.to.written += copied as u64;
        self.to.sync_in_background()
    }
}

/// Writes all frames, in one system call if the system accepts all of them. Larger writes are stored in larger extents.
fn write_all(file: &mut File, mut frames: &mut [IoSlice<'_>]) -> io::Result<()> {
    while !frames.is_empty() {
        match file.write_vectored(frames) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => IoSlice::advance_slices(&mut frames, written),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn join_thread(thread: std::thread::JoinHandle<io::Result<()>>) -> io::Result<()> {
    thread.join().map_err(|_| io::Error::other("the thread that syncs the file panicked"))?
}

/// Joins a directory and a file name in the same way as Glance, because the path is a part of the URL.
fn join(dir: &str, name: &str) -> String {
    if dir.ends_with('/') { format!("{dir}{name}") } else { format!("{dir}/{name}") }
}

fn unfinished_path(dir: &str, object: &Object) -> String {
    join(dir, &unfinished_name(object))
}

fn unfinished_name(object: &Object) -> String {
    format!("{UNFINISHED_PREFIX}{}.{}", object.image_id, object.upload_id)
}

/// The directories that the options configure.
fn configured_dirs(options: &FileStore, default_dir: &Path) -> Result<Vec<Dir>, String> {
    let to_text =
        |path: &Path| path.to_str().map(str::to_owned).ok_or("the path of a directory is not UTF-8".to_owned());
    let several = &options.filesystem_store_datadirs.0;
    match (&options.filesystem_store_datadir, several.is_empty()) {
        (Some(_), false) => {
            Err("Specify either 'filesystem_store_datadir' or 'filesystem_store_datadirs' option".to_owned())
        }
        (dir, true) => Ok(vec![Dir { path: to_text(dir.as_deref().unwrap_or(default_dir))?, priority: 0 }]),
        (None, false) => {
            let mut dirs: Vec<Dir> = Vec::new();
            for entry in several {
                let (path, priority) = entry.rsplit_once(':').unwrap_or((entry, ""));
                let (path, priority) = (path.trim(), priority.trim());
                let priority = if priority.is_empty() { Ok(0) } else { priority.parse() };
                let priority = priority.map_err(|_| "the priority of a directory is not a number".to_owned())?;
                let dir = Dir { path: path.to_owned(), priority };
                if path.is_empty() {
                    return Err("Invalid directory specified in filesystem configuration".to_owned());
                }
                match dirs.iter().find(|other| other.path == path) {
                    Some(other) if *other != dir => return Err(format!("the directory {path} has two priorities")),
                    Some(_) => tracing::warn!("the directory {path} is configured twice"),
                    None => dirs.push(dir),
                }
            }
            dirs.sort_by_key(|dir| std::cmp::Reverse(dir.priority));
            Ok(dirs)
        }
    }
}

/// Checks that a directory can be written, or created.
fn inspect_dir(dir: &Path) -> Result<(), String> {
    let existing = dir.ancestors().find(|dir| dir.as_os_str().is_empty() || dir.exists());
    let existing = existing.filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let denied = |error| format!("Permission to write in {} denied: {error}", existing.display());
    if !existing.is_dir() {
        return Err(format!("{} is not a directory", existing.display()));
    }
    rustix::fs::access(existing, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK).map_err(denied)
}

/// Creates a directory if it is missing, and checks that it can be written.
fn prepare(dir: &Path, options: &FileStore) -> Result<(), String> {
    fs::create_dir_all(dir).map_err(|error| format!("cannot create {}: {error}", dir.display()))?;
    let denied = |error| format!("Permission to write in {} denied: {error}", dir.display());
    rustix::fs::access(dir, rustix::fs::Access::WRITE_OK).map_err(denied)?;
    let Ok(Some(mode)) = permissions(options.filesystem_store_file_perm) else { return Ok(()) };
    // A user who is allowed to read the files must also be allowed to traverse their directory.
    let traversal = (if mode & 0o007 > 0 { 0o001 } else { 0 }) | (if mode & 0o070 > 0 { 0o010 } else { 0 });
    let set = fs::metadata(dir).and_then(|metadata| {
        let mode = metadata.permissions().mode();
        if mode | traversal == mode {
            Ok(())
        } else {
            fs::set_permissions(dir, Permissions::from_mode(mode | traversal))
        }
    });
    if let Err(error) = set {
        tracing::warn!(%error, dir = %dir.display(), "cannot set the directory's permissions");
    }
    Ok(())
}

/// The permissions that the option sets: its decimal digits are read as an octal mode. `None` if it sets none.
fn permissions(digits: i64) -> Result<Option<u32>, String> {
    if digits <= 0 {
        return Ok(None);
    }
    let mode = u32::from_str_radix(&digits.to_string(), 8).ok().filter(|mode| mode & 0o400 > 0 && *mode <= 0o7777);
    mode.map(Some).ok_or("Invalid 'filesystem_store_file_perm' option.".to_owned())
}

/// Reads the file of the option `filesystem_store_metadata_file`: a list of mount points, each with an id.
fn read_metadata_file(path: &Path) -> Result<Vec<Map<String, Value>>, String> {
    let file = path.display();
    let text = fs::read_to_string(path).map_err(|error| format!("the metadata file {file}: {error}"))?;
    let value: Value = serde_json::from_str(&text).map_err(|error| format!("the metadata file {file}: {error}"))?;
    let list = match value {
        Value::Array(list) => list,
        other => vec![other],
    };
    let parse_mount = |value| match value {
        Value::Object(map) if ["id", "mountpoint"].iter().all(|key| map.get(*key).is_some_and(Value::is_string)) => {
            Ok(map)
        }
        _ => Err(format!("the metadata file {file}: each entry must be an object with the strings id and mountpoint")),
    };
    list.into_iter().map(parse_mount).collect()
}

fn from_io(error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::NotFound => Error::NotFound,
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => Error::Full,
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => Error::WriteDenied,
        _ => Error::Unavailable(error.into()),
    }
}

/// Distinguishes a refusal, after which the file is certainly still there, from a failure of the file system, after which it may be
/// gone. Glance treats both as a refusal.
fn cannot_delete(error: io::Error, path: &Path) -> Error {
    match error.kind() {
        io::ErrorKind::NotFound => Error::NotFound,
        io::ErrorKind::PermissionDenied
        | io::ErrorKind::ReadOnlyFilesystem
        // A mount point.
        | io::ErrorKind::ResourceBusy
        // Linux returns this where POSIX says EPERM.
        | io::ErrorKind::IsADirectory => Error::DeleteDenied(format!("You cannot delete file {}", path.display())),
        _ => Error::Unavailable(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::stream;

    fn driver(dir: &Path) -> FileDriver {
        fs::create_dir_all(dir).unwrap();
        let options = FileStore::default();
        let mut driver = FileDriver::with_dirs(None, &options, configured_dirs(&options, dir));
        driver.timeout = Some(1);
        driver
    }

    fn object(upload_id: &str) -> Object {
        Object { image_id: "image".to_owned(), upload_id: upload_id.to_owned() }
    }

    async fn put(driver: &FileDriver, object: &Object, data: &'static [u8]) -> Stored {
        let (feed, chunks) = stream::channel();
        let data = Box::pin(futures_util::stream::iter([Ok(Bytes::from_static(data))]));
        let limits = stream::Limits { timeout: Duration::from_secs(5), max_size: 100, expected: None };
        let (fed, stored) = tokio::join!(stream::feed(data, limits, vec![], feed), driver.put(object, chunks, 0));
        fed.unwrap();
        stored.unwrap()
    }

    #[test]
    fn a_location_outside_of_the_directories_is_rejected() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("my #1 images?");
        let driver = driver(&folder);
        std::os::unix::fs::symlink(&folder, root.path().join("link")).unwrap();
        let (folder, root) = (folder.display(), root.path().display());
        let path = |url: String| path_of(&driver.dirs, &url.into()).ok().map(|path| path.display().to_string());
        for inside in [format!("{folder}/id"), format!("{root}/link/id"), format!("{folder}/a/id")] {
            assert_eq!(path(format!("file://{inside}")), Some(inside.clone()), "{inside}");
            assert_eq!(path(format!("filesystem://{inside}")), Some(inside.clone()), "{inside}");
        }
        assert_eq!(path(format!("file://{root}/link/id?x#y")), Some(format!("{root}/link/id")));
        for outside in [
            "file:///etc/passwd".to_owned(),
            format!("file://{folder}"),
            format!("file://{folder}/"),
            format!("file://{folder}/../id"),
            format!("file://{folder}/a/../../id"),
            format!("file://{folder}2/id"),
            format!("file://{root}/id"),
            format!("file://{root}/link/../id"),
            format!("file://{root}/link/.."),
            format!("FILE://{folder}/id"),
            format!("{folder}/id"),
            "file://".to_owned(),
        ] {
            assert_eq!(path(outside.clone()), None, "{outside}");
        }
    }

    /// The late upload was considered dead and rolled back; it continues after a newer upload has placed its file.
    #[tokio::test]
    async fn a_late_upload_does_not_overwrite_a_newer_one() {
        let dir = tempfile::tempdir().unwrap();
        let driver = driver(dir.path());
        let (late, later) = (object("late"), object("later"));
        let hold = driver.hold(&late).await.unwrap();
        driver.discard(&late, Some(hold)).await.unwrap();
        let stored = put(&driver, &later, b"later").await;
        let hold = driver.hold(&later).await.unwrap();
        driver.place(&later, &stored, hold).await.unwrap().release().await;
        assert_eq!(put(&driver, &late, b"late").await, stored);
        driver.discard(&late, None).await.unwrap();
        let names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["image"]);
        assert_eq!(fs::read(dir.path().join("image")).unwrap(), b"later");
    }

    /// A discarded upload cannot be placed any more, and a discard waits for a placement in progress.
    #[tokio::test]
    async fn placing_and_discarding_an_upload_exclude_each_other() {
        let dir = tempfile::tempdir().unwrap();
        let driver = driver(dir.path());
        let object = object("one");
        let stored = put(&driver, &object, b"data").await;
        let hold = driver.hold(&object).await.unwrap();
        let other = async {
            let hold = driver.hold(&object).await.unwrap();
            assert!(dir.path().join("image").exists());
            driver.discard(&object, Some(hold)).await.unwrap();
        };
        let placing = async { driver.place(&object, &stored, hold).await.unwrap().release().await };
        tokio::join!(placing, other);
        let hold = driver.hold(&object).await.unwrap();
        assert!(matches!(driver.place(&object, &stored, hold).await, Err(Error::NotFound)));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
