//! The driver `file`: an object is a file with the image's id as its name.
//!
//! It is written under a name of its own beside its place, synced, and then renamed to its place: nobody reads a part of it, and
//! it is whole after a power cut. In that place, nothing is changed without a hold on it (`super::hold`), but for the
//! removal of an image for good. Each call to the file system runs on a blocking thread.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{self, IoSlice, Seek as _, Write as _},
    ops::Range,
    os::unix::fs::{FileExt as _, PermissionsExt as _},
    path::{Component, Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use futures_util::StreamExt as _;
use serde_json::{Map, Value};

use super::{Blob, Driver, Error, Hold, Left, Object, Result, Stored, location};
use crate::{
    config::FileStore,
    model::LocationUrl,
    stream::{self, Chunk, Chunks},
};

/// Bytes that are read at a time.
const READ: usize = 256 * 1024;
/// Bytes after which those before are sent to the disk, so that the last sync is short.
const SYNC_EVERY: u64 = 64 * 1024 * 1024;
/// How a file begins while it is written; its image's and its upload's ids follow.
const UNFINISHED: &str = ".glimpse-upload.";
/// How the file of a hold begins; its image's id follows.
const HOLD: &str = ".glimpse-hold.";

/// Folders of files.
pub(super) struct FileDriver {
    /// The store's name, where it has one: Glance writes it into the location's metadata.
    name: Option<String>,
    /// From the highest priority down.
    dirs: Arc<[Dir]>,
    permissions: Option<u32>,
    metadata: Vec<Map<String, Value>>,
    /// Bytes of zeros that make a hole, where holes are made.
    hole: Option<usize>,
    timeout: Option<u32>,
    /// What is wrong with its configuration: it can be read then, not written.
    fault: Option<String>,
    chunk_size: u32,
    /// Uploads whose file may be in its place although that failed.
    left: Left,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Dir {
    /// As it was written: it begins the URL.
    path: String,
    priority: i64,
}

impl FileDriver {
    /// Makes the folders where they are missing. What is wrong is kept: a store that cannot be written to can be read.
    pub(super) fn open(name: Option<&str>, options: &FileStore, default_dir: &Path) -> Self {
        let mut driver = Self::with_dirs(name, options, dirs(options, default_dir));
        let unfit = driver.dirs.iter().find_map(|dir| prepare(Path::new(&dir.path), options).err());
        driver.fault = driver.fault.or(unfit);
        driver
    }

    /// The folder in which a Glance stages data for imports, which is made by who needs it.
    pub(super) fn staging(options: &FileStore) -> Self {
        Self::with_dirs(None, options, dirs(options, Path::new("/")))
    }

    fn with_dirs(name: Option<&str>, options: &FileStore, dirs: Result<Vec<Dir>, String>) -> Self {
        let (dirs, fault) = match dirs {
            Ok(dirs) => (dirs, None),
            Err(fault) => (Vec::new(), Some(fault)),
        };
        let (metadata, bad_metadata) = match options.filesystem_store_metadata_file.as_deref().map(metadata) {
            None => (Vec::new(), None),
            Some(Ok(metadata)) => (metadata, None),
            Some(Err(fault)) => (Vec::new(), Some(fault)),
        };
        let (permissions, bad_permissions) = match permissions(options.filesystem_store_file_perm) {
            Ok(permissions) => (permissions, None),
            Err(fault) => (None, Some(fault)),
        };
        let chunk = usize::try_from(options.filesystem_store_chunk_size).unwrap_or(READ);
        Self {
            name: name.map(str::to_owned),
            dirs: dirs.into(),
            permissions,
            metadata,
            hole: options.filesystem_thin_provisioning.then_some(chunk),
            timeout: Some(options.filesystem_store_timeout).filter(|seconds| *seconds > 0),
            fault: fault.or(bad_metadata).or(bad_permissions),
            chunk_size: options.filesystem_store_chunk_size,
            left: Left::default(),
        }
    }

    /// Why it cannot be written to, if it cannot.
    pub(super) fn fault(&self) -> Option<&str> {
        self.fault.as_deref()
    }

    /// Whether a location is in one of the folders, by its URL alone.
    pub(super) fn owns(&self, url: &LocationUrl) -> bool {
        path_within(&self.dirs, url).is_some()
    }

    /// What an admin is shown of it.
    pub(super) fn properties(&self) -> Map<String, Value> {
        let mut properties = Map::new();
        if let [dir] = &*self.dirs {
            properties.insert("data_dir".to_owned(), dir.path.clone().into());
        }
        properties.insert("chunk_size".to_owned(), self.chunk_size.into());
        properties.insert("thin_provisioning".to_owned(), self.hole.is_some().into());
        properties
    }

    /// The folder for so many bytes: the one of the highest priority that has room, and of several the emptiest.
    fn choose(dirs: &[Dir], size: u64) -> Result<&Dir> {
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

    /// What Glance tells of a file of this path.
    fn metadata_of(&self, path: &str) -> Map<String, Value> {
        let mount = self.metadata.iter().find(|mount| {
            let point = mount.get("mountpoint").and_then(Value::as_str);
            point.is_some_and(|point| path.starts_with(point))
        });
        if mount.is_none() && !self.metadata.is_empty() {
            tracing::error!(path, "no mount point of filesystem_store_metadata_file is the file's");
        }
        let mut metadata = mount.cloned().unwrap_or_default();
        if let Some(name) = &self.name {
            metadata.insert("store".to_owned(), name.clone().into());
        }
        metadata
    }

    /// Runs work on a blocking thread for as long as the configuration lets it, which bounds what Glance bounds: not the writing
    /// of data. Work that is given up may still take effect.
    async fn in_time<T: Send + 'static>(&self, work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
        match self.timeout {
            None => blocking(work).await,
            Some(seconds) => {
                let patience = Duration::from_secs(seconds.into());
                let done = tokio::time::timeout(patience, blocking(work)).await;
                done.unwrap_or(Err(Error::TimedOut(seconds)))
            }
        }
    }

    /// Removes what a Glance has staged of an image.
    pub(super) async fn discard_staged(&self, image_id: &str) -> Result<()> {
        let paths: Vec<String> = self.dirs.iter().map(|dir| join(&dir.path, image_id)).collect();
        blocking(move || paths.iter().try_for_each(remove).map_err(from_io)).await
    }
}

/// The path of a location that is in one of the folders, by its URL alone.
fn path_within(dirs: &[Dir], url: &LocationUrl) -> Option<PathBuf> {
    let is_within = |path: &PathBuf| {
        // Down from the folder, and not back.
        let below = dirs.iter().find_map(|dir| path.strip_prefix(&dir.path).ok());
        below.is_some_and(|below| {
            below.file_name().is_some() && below.components().all(|part| matches!(part, Component::Normal(_)))
        })
    };
    let read = location::path(url).ok().filter(is_within);
    // A folder may have a mark in its name, which Glance writes as it is, and then cannot read.
    read.or_else(|| location::whole_path(url).ok().map(PathBuf::from).filter(is_within))
}

/// The path of a location, which must be in one of the folders: a location may be anybody's, and the other files are none of
/// theirs. A folder may have been written in another way, through links.
fn path_of(dirs: &[Dir], url: &LocationUrl) -> Result<PathBuf> {
    let path = location::path(url)?;
    if let Some(path) = path_within(dirs, url) {
        return Ok(path);
    }
    let real = path.parent().and_then(|folder| fs::canonicalize(folder).ok());
    let is_ours = |dir: &Dir| match (&real, fs::canonicalize(&dir.path)) {
        (Some(real), Ok(dir)) => real.starts_with(dir),
        _ => false,
    };
    match path.file_name().is_some() && dirs.iter().any(is_ours) {
        true => Ok(path),
        false => Err(Error::BadLocation("The location is outside of the store's folders")),
    }
}

/// Runs work on a blocking thread.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await?
}

/// Removes a file, if it is there.
fn remove(path: impl AsRef<Path>) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

impl Driver for FileDriver {
    async fn put(&self, object: &Object, data: Chunks, size: u64) -> Result<Stored> {
        if self.fault.is_some() {
            return Err(Error::ReadOnly);
        }
        let dirs = Arc::clone(&self.dirs);
        let dir = self.in_time(move || Self::choose(&dirs, size).cloned()).await?;
        let (path, unfinished) = (join(&dir.path, &object.image_id), unfinished_path(&dir.path, object));
        let hole = self.hole;
        let file = blocking(move || Unfinished::create(unfinished, hole).map_err(from_io)).await?;
        let file = data.work_off(file, |file, chunk| file.write(chunk).map_err(from_io)).await?;
        let permissions = self.permissions;
        blocking(move || file.finish(permissions).map_err(from_io)).await?;
        Ok(Stored { url: format!("file://{path}").into(), metadata: self.metadata_of(&path) })
    }

    async fn hold(&self, object: &Object) -> Result<Hold> {
        // One for all folders, the same whatever their priorities are.
        let first = self.dirs.iter().map(|dir| &dir.path).min().ok_or(Error::ReadOnly)?;
        let path = join(first, &format!("{HOLD}{}", object.image_id));
        Hold::take(path.into()).await.map_err(from_io)
    }

    async fn place(&self, object: &Object, stored: &Stored, hold: Hold) -> Result<Hold> {
        let (dirs, url, unfinished) = (Arc::clone(&self.dirs), stored.url.clone(), unfinished_name(object));
        let placed = blocking(move || {
            let path = path_of(&dirs, &url)?;
            let dir = path.parent().unwrap_or(Path::new("/"));
            if path.exists() {
                tracing::warn!(path = %path.display(), "what an upload that was cut off had left is replaced");
            }
            let placed = fs::rename(dir.join(unfinished), &path).and_then(|()| File::open(dir)?.sync_all());
            placed.map_err(from_io).map(|()| hold)
        });
        placed.await.inspect_err(|_| self.left.note(object))
    }

    async fn get(&self, url: &LocationUrl, range: Option<Range<u64>>) -> Result<Blob> {
        let (dirs, url) = (Arc::clone(&self.dirs), url.clone());
        let (file, size) = self
            .in_time(move || {
                let file = File::open(path_of(&dirs, &url)?).map_err(from_io)?;
                let metadata = file.metadata().map_err(from_io)?;
                if !metadata.is_file() {
                    return Err(Error::NotFound);
                }
                Ok((file, metadata.len()))
            })
            .await?;
        let range = range.unwrap_or(0..size);
        let reading = Reading { file, range, buffers: Buffers::default() };
        Ok(Blob { size: Some(size), data: Box::pin(stream::read_ahead(reading).map(|part| part.map_err(Into::into))) })
    }

    async fn delete(&self, url: &LocationUrl) -> Result<()> {
        let (dirs, url) = (Arc::clone(&self.dirs), url.clone());
        self.in_time(move || {
            let path = path_of(&dirs, &url)?;
            fs::remove_file(&path).map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => Error::NotFound,
                _ => Error::DeleteDenied(format!("You cannot delete file {}", path.display())),
            })
        })
        .await
    }

    async fn size(&self, url: &LocationUrl) -> Result<u64> {
        let (dirs, url) = (Arc::clone(&self.dirs), url.clone());
        let size = move || Ok(fs::metadata(path_of(&dirs, &url)?).map_err(from_io)?.len());
        self.in_time(size).await
    }

    async fn unfinished(&self, quiet: Duration) -> Result<Vec<Object>> {
        let dirs = Arc::clone(&self.dirs);
        blocking(move || {
            let mut found = Vec::new();
            for dir in dirs.iter() {
                for entry in fs::read_dir(&dir.path).map_err(from_io)? {
                    let entry = entry.map_err(from_io)?;
                    let name = entry.file_name();
                    let Some(name) = name.to_str() else { continue };
                    let ids = name.strip_prefix(UNFINISHED).and_then(|ids| ids.split_once('.'));
                    let is_hold = name.starts_with(HOLD);
                    if ids.is_none() && !is_hold {
                        continue;
                    }
                    // One that has gone meanwhile was finished.
                    let moved = entry.metadata().and_then(|metadata| metadata.modified()).ok();
                    let still = moved.and_then(|moved| moved.elapsed().ok()).is_some_and(|still| still >= quiet);
                    match ids.filter(|_| still) {
                        Some((image_id, upload_id)) => {
                            found.push(Object { image_id: image_id.to_owned(), upload_id: upload_id.to_owned() });
                        }
                        None if is_hold && still => {
                            if let Err(error) = Hold::tidy(entry.path()) {
                                tracing::warn!(%error, name, "the file of a lock cannot be removed");
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
            // In this order: what is gone cannot be moved into its place any more.
            let unfinished = dirs.iter().map(|dir| unfinished_path(&dir.path, &object));
            let placed = dirs.iter().filter(|_| hold.is_some()).map(|dir| join(&dir.path, &object.image_id));
            unfinished.chain(placed).try_for_each(remove).map_err(from_io)
        })
        .await
    }

    fn take_left(&self, object: &Object) -> bool {
        self.left.take(object)
    }
}

/// A file that is being written. Dropped before its end, it is removed.
struct Unfinished {
    file: File,
    remover: Remover,
    written: u64,
    hole: Option<usize>,
    /// What is sent to the disk meanwhile, up to which byte.
    syncing: Option<std::thread::JoinHandle<io::Result<()>>>,
    synced: u64,
}

/// Removes a file when it is dropped, unless that was called off.
struct Remover(Option<PathBuf>);

impl Drop for Remover {
    fn drop(&mut self) {
        let Some(path) = self.0.take() else { return };
        let remove = move || {
            if let Err(error) = remove(&path) {
                tracing::error!(%error, path = %path.display(), "an unfinished file cannot be removed");
            }
        };
        // Removing a large file takes long.
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(remove)),
            Err(_) => remove(),
        }
    }
}

impl Unfinished {
    fn create(path: String, hole: Option<usize>) -> io::Result<Self> {
        let file = OpenOptions::new().write(true).create_new(true).open(&path)?;
        Ok(Self { file, remover: Remover(Some(path.into())), written: 0, hole, syncing: None, synced: 0 })
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

    /// Makes it whole for good, so that it stays.
    fn finish(mut self, permissions: Option<u32>) -> io::Result<()> {
        if let Some(sync) = self.syncing.take() {
            join_thread(sync)?;
        }
        // A hole at the end has no length of its own.
        if self.hole.is_some() {
            self.file.set_len(self.written)?;
        }
        if let Some(mode) = permissions
            && let Err(error) = self.file.set_permissions(Permissions::from_mode(mode))
        {
            tracing::warn!(%error, path = ?self.remover.0, "the file's permissions cannot be set");
        }
        self.file.sync_all()?;
        self.remover.0 = None;
        Ok(())
    }
}

/// In one call, where the system takes all of it: so it is stored in larger pieces.
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
    thread.join().map_err(|_| io::Error::other("a sync panicked"))?
}

/// Memory that chunks of a file are read into, again and again: to take it anew for each chunk, and to clear it, costs as much
/// as to send it. There is as much of it as there are chunks between the file and the client.
#[derive(Clone, Default)]
struct Buffers(Arc<Mutex<Vec<Vec<u8>>>>);

impl Buffers {
    fn take(&self) -> Vec<u8> {
        self.lock().pop().unwrap_or_else(|| vec![0; READ])
    }

    /// What is there is whole whenever the lock is free.
    fn lock(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A chunk of a file. Its memory is read into again once it was sent.
struct Part {
    memory: Vec<u8>,
    length: usize,
    home: Buffers,
}

impl AsRef<[u8]> for Part {
    fn as_ref(&self) -> &[u8] {
        &self.memory[..self.length]
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.home.lock().push(std::mem::take(&mut self.memory));
    }
}

/// Reads a part of a file, chunk by chunk, until something fails.
struct Reading {
    file: File,
    /// What is left.
    range: Range<u64>,
    buffers: Buffers,
}

impl Iterator for Reading {
    type Item = io::Result<Bytes>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.range.is_empty() {
            return None;
        }
        let length = READ.min(usize::try_from(self.range.end - self.range.start).unwrap_or(READ));
        let mut part = Part { memory: self.buffers.take(), length, home: self.buffers.clone() };
        let read = self.file.read_exact_at(&mut part.memory[..length], self.range.start);
        if let Err(error) = &read {
            tracing::error!(%error, "an image's data is cut off: its file is shorter than it was, or cannot be read");
        }
        self.range.start = if read.is_ok() { self.range.start + length as u64 } else { self.range.end };
        Some(read.map(|()| Bytes::from_owner(part)))
    }
}

/// An object's path, as Glance joins it.
fn join(dir: &str, name: &str) -> String {
    if dir.ends_with('/') { format!("{dir}{name}") } else { format!("{dir}/{name}") }
}

fn unfinished_path(dir: &str, object: &Object) -> String {
    join(dir, &unfinished_name(object))
}

fn unfinished_name(object: &Object) -> String {
    format!("{UNFINISHED}{}.{}", object.image_id, object.upload_id)
}

/// The folders that the options name.
fn dirs(options: &FileStore, default_dir: &Path) -> Result<Vec<Dir>, String> {
    let text = |path: &Path| path.to_str().map(str::to_owned).ok_or("a folder's name is not UTF-8".to_owned());
    let several = &options.filesystem_store_datadirs.0;
    match (&options.filesystem_store_datadir, several.is_empty()) {
        (Some(_), false) => {
            Err("Specify either 'filesystem_store_datadir' or 'filesystem_store_datadirs' option".to_owned())
        }
        (dir, true) => Ok(vec![Dir { path: text(dir.as_deref().unwrap_or(default_dir))?, priority: 0 }]),
        (None, false) => {
            let mut dirs: Vec<Dir> = Vec::new();
            for entry in several {
                let (path, priority) = entry.rsplit_once(':').unwrap_or((entry, ""));
                let (path, priority) = (path.trim(), priority.trim());
                let priority = if priority.is_empty() { Ok(0) } else { priority.parse() };
                let priority = priority.map_err(|_| "a folder's priority is no number".to_owned())?;
                let dir = Dir { path: path.to_owned(), priority };
                if path.is_empty() {
                    return Err("Invalid directory specified in filesystem configuration".to_owned());
                }
                match dirs.iter().find(|other| other.path == path) {
                    Some(other) if *other != dir => return Err(format!("the folder {path} has two priorities")),
                    Some(_) => tracing::warn!("the folder {path} is written twice"),
                    None => dirs.push(dir),
                }
            }
            dirs.sort_by_key(|dir| std::cmp::Reverse(dir.priority));
            Ok(dirs)
        }
    }
}

/// Makes a folder where it is missing, and sees whether it can be written to.
fn prepare(dir: &Path, options: &FileStore) -> Result<(), String> {
    fs::create_dir_all(dir).map_err(|error| format!("cannot make {}: {error}", dir.display()))?;
    let denied = |error| format!("Permission to write in {} denied: {error}", dir.display());
    rustix::fs::access(dir, rustix::fs::Access::WRITE_OK).map_err(denied)?;
    let Ok(Some(mode)) = permissions(options.filesystem_store_file_perm) else { return Ok(()) };
    // Whoever may read the files must get through their folder.
    let through = (if mode & 0o007 > 0 { 0o001 } else { 0 }) | (if mode & 0o070 > 0 { 0o010 } else { 0 });
    let set = fs::metadata(dir).and_then(|metadata| {
        let mode = metadata.permissions().mode();
        if mode | through == mode { Ok(()) } else { fs::set_permissions(dir, Permissions::from_mode(mode | through)) }
    });
    if let Err(error) = set {
        tracing::warn!(%error, dir = %dir.display(), "the folder's permissions cannot be set");
    }
    Ok(())
}

/// The permissions that the option's digits write, where it writes any.
fn permissions(digits: i64) -> Result<Option<u32>, String> {
    if digits <= 0 {
        return Ok(None);
    }
    let mode = u32::from_str_radix(&digits.to_string(), 8).ok().filter(|mode| mode & 0o400 > 0 && *mode <= 0o7777);
    mode.map(Some).ok_or("Invalid 'filesystem_store_file_perm' option.".to_owned())
}

/// Reads what is told with each location: mount points with an id each.
fn metadata(path: &Path) -> Result<Vec<Map<String, Value>>, String> {
    let file = path.display();
    let text = fs::read_to_string(path).map_err(|error| format!("the metadata file {file}: {error}"))?;
    let value: Value = serde_json::from_str(&text).map_err(|error| format!("the metadata file {file}: {error}"))?;
    let list = match value {
        Value::Array(list) => list,
        other => vec![other],
    };
    let mount = |value| match value {
        Value::Object(map) if ["id", "mountpoint"].iter().all(|key| map.get(*key).is_some_and(Value::is_string)) => {
            Ok(map)
        }
        _ => Err(format!("the metadata file {file}: objects with the texts id and mountpoint are wanted")),
    };
    list.into_iter().map(mount).collect()
}

fn from_io(error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::NotFound => Error::NotFound,
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => Error::Full,
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => Error::WriteDenied,
        _ => Error::Unavailable(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::stream;

    fn driver(dir: &Path) -> FileDriver {
        let mut driver = FileDriver::open(None, &FileStore::default(), dir);
        driver.timeout = Some(1);
        driver
    }

    fn object(upload_id: &str) -> Object {
        Object { image_id: "image".to_owned(), upload_id: upload_id.to_owned() }
    }

    async fn put(driver: &FileDriver, object: &Object, data: &'static [u8]) -> Stored {
        let (feed, chunks) = stream::channel();
        let data = Box::pin(futures_util::stream::iter([Ok(Bytes::from_static(data))]));
        let limits = stream::Limits { patience: Duration::from_secs(5), most: 100, expected: None };
        let (fed, stored) = tokio::join!(stream::feed(data, limits, vec![], feed), driver.put(object, chunks, 0));
        fed.unwrap();
        stored.unwrap()
    }

    #[test]
    fn a_location_is_in_the_stores_folders_or_nobodys() {
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

    /// An upload that was taken for dead, and goes on once a later one has its file in place.
    #[tokio::test]
    async fn what_comes_late_touches_nothing() {
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

    /// What was undone cannot be put in place any more, and whoever undoes waits for who is about to put.
    #[tokio::test]
    async fn who_places_and_who_discards_wait_for_each_other() {
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
