//! The `rbd` driver: an image in a pool of a Ceph cluster, with the image's id as its name, and a protected snapshot `snap`.
//!
//! An upload writes an RBD image with a name of its own, makes the snapshot, and renames the image at the end. So no reader sees an
//! incomplete image, and two uploads never write the same one. The image carries the upload's id as metadata: what an interrupted
//! upload has left at the final name is distinguished from everything else, and needs no hold.
//!
//! Data is written and read by several asynchronous operations at a time. Other calls of Ceph's libraries block. They run on blocking
//! threads, a limited number of them, and are abandoned when they take too long.

mod librbd;

use std::{
    collections::VecDeque,
    ops::Range,
    path::PathBuf,
    pin::Pin,
    sync::{Arc, LazyLock, OnceLock},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{
    StreamExt as _,
    stream::{FuturesUnordered, try_unfold},
};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use rustix::io::Errno;
use serde_json::{Map, Value};
use tokio::{
    sync::{Mutex, OwnedSemaphorePermit, Semaphore, SemaphorePermit, oneshot},
    time::timeout,
};

use self::librbd::{CephError, Cluster, Image, Pool, Steps};
use super::{Blob, Driver, Environment, Error, Hold, Leftovers, Object, Result, Stored};
use crate::{
    config::RbdStore,
    model::LocationUrl,
    stream::{BoxError, Chunks, Cut},
};

const MIB: u64 = 1 << 20;
/// The name of the snapshot that clones are made of.
const SNAPSHOT: &str = "snap";
/// The prefix of the name of an image that is being uploaded; the ids of the image and of the upload follow.
const UNFINISHED_PREFIX: &str = ".glimpse-upload.";
/// The key of an image's metadata whose value is the id of the upload that has written it.
const UPLOAD_KEY: &str = "glimpse_upload";
/// The size of a write and of a read in bytes.
const PIECE: u64 = MIB;
/// The maximum number of writes of an upload, and of reads of a download, at a time.
const IN_FLIGHT: usize = 8;
/// The limit for data in memory that is being written, of all uploads together, in pieces: more processors compute more digests.
static FREE_TO_WRITE: LazyLock<Semaphore> = LazyLock::new(|| Semaphore::new(4 * processors()));
/// The limit for data in memory that was read before it is needed, of all downloads together, in pieces.
static FREE_TO_READ: LazyLock<Semaphore> = LazyLock::new(|| Semaphore::new(16 * processors()));
/// The maximum number of blocking calls to a cluster at a time. Calls that were abandoned count until they end.
const BLOCKING: usize = 32;
/// How much longer than its timeout a call may take before it is abandoned.
const GRACE: Duration = Duration::from_secs(5);
/// By how much an image of unknown size grows at most, in bytes, as in Glance.
const MAX_GROWTH: u64 = 8 << 30;
/// The characters that Python's `quote` leaves alone.
const QUOTED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'_').remove(b'.').remove(b'-').remove(b'~');

/// The number of processors, within limits.
fn processors() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from).clamp(2, 16)
}

/// A store in one pool.
pub(super) struct RbdDriver {
    /// The store's name, if it has one. It is written into the location's metadata, as in Glance.
    name: Option<String>,
    is_thin: bool,
    chunk_size: u64,
    pool: Arc<PoolAccess>,
}

/// The way to a pool, and what failed uploads may have left there.
struct PoolAccess {
    pool: String,
    user: Option<String>,
    config: Option<PathBuf>,
    timeout: Option<Duration>,
    /// The connection, which is made when it is needed, and again after it was lost.
    cluster: Mutex<Option<Arc<Cluster>>>,
    /// The cluster's id, once it is known.
    fsid: OnceLock<String>,
    blocking: Arc<Semaphore>,
    /// Uploads whose image could not be removed, or may be at its final name although `place` failed.
    leftovers: Leftovers,
}

/// Why a call to the cluster has failed.
#[derive(Debug, thiserror::Error)]
enum Failure {
    /// The cluster's answer, or a timeout.
    #[error(transparent)]
    Ceph(#[from] CephError),
    /// The pool cannot be reached.
    #[error("{0}")]
    Away(String),
    /// The call took too long, and was abandoned.
    #[error("Ceph does not respond")]
    Abandoned,
}

impl From<tokio::time::error::Elapsed> for Failure {
    fn from(_: tokio::time::error::Elapsed) -> Self {
        Self::Abandoned
    }
}

impl Failure {
    fn errno(&self) -> Option<Errno> {
        match self {
            Self::Ceph(error) => Some(error.errno),
            Self::Away(_) | Self::Abandoned => None,
        }
    }

    /// Whether the connection may be of no use any more. The libraries themselves wait for daemons that do not respond.
    fn is_of_connection(&self) -> bool {
        // A client that the cluster has blocked gets SHUTDOWN.
        matches!(self, Self::Abandoned) || matches!(self.errno(), Some(Errno::SHUTDOWN | Errno::NOTCONN))
    }
}

impl PoolAccess {
    /// The connection to the cluster.
    async fn cluster(&self) -> Result<Arc<Cluster>, Failure> {
        let mut kept = self.cluster.lock().await;
        if let Some(cluster) = &*kept {
            return Ok(Arc::clone(cluster));
        }
        let (user, config, timeout) = (self.user.clone(), self.config.clone(), self.timeout);
        let permit = self.permit().await?;
        let connecting = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            Cluster::connect(user.as_deref(), config.as_deref(), timeout)
        });
        let connected = connecting.await.map_err(|error| Failure::Away(error.to_string()))?;
        let cluster = connected.map_err(|error| Failure::Away(format!("cannot connect to Ceph: {error}")))?;
        let fsid = self.fsid.get_or_init(|| cluster.fsid.clone());
        if *fsid != cluster.fsid {
            return Err(Failure::Away("this is another Ceph cluster than before".to_owned()));
        }
        Ok(Arc::clone(kept.insert(Arc::new(cluster))))
    }

    async fn permit(&self) -> Result<OwnedSemaphorePermit, Failure> {
        let permit = Arc::clone(&self.blocking).acquire_owned().await;
        permit.map_err(|error| Failure::Away(error.to_string()))
    }

    /// How long a call may wait.
    fn patience(&self) -> Duration {
        self.timeout.unwrap_or(librbd::TIMEOUT) + GRACE
    }

    /// Makes another connection for the next call.
    async fn forget(&self, lost: &Arc<Cluster>) {
        let mut kept = self.cluster.lock().await;
        if kept.as_ref().is_some_and(|cluster| Arc::ptr_eq(cluster, lost)) {
            *kept = None;
        }
    }

    /// Runs work that blocks, on a pool: on this store's, if no other one is named. Gives it up if it takes longer than the timeout
    /// without having counted a step.
    async fn call<T: Send + 'static>(
        self: &Arc<Self>,
        pool: Option<&str>,
        work: impl FnOnce(&Arc<Pool>, &Steps) -> librbd::Result<T> + Send + 'static,
    ) -> Result<T, Failure> {
        let cluster = timeout(self.patience(), self.cluster()).await??;
        let permit = timeout(self.patience(), self.permit()).await??;
        let (steps, name) = (Arc::new(Steps::default()), pool.unwrap_or(&self.pool).to_owned());
        let mut task = {
            let (steps, cluster) = (Arc::clone(&steps), Arc::clone(&cluster));
            tokio::task::spawn_blocking(move || {
                let _permit = permit;
                let pool = Pool::open(&cluster, &name).map_err(|error| match error.errno {
                    Errno::NOENT => Failure::Away(format!("there is no pool {name}")),
                    _ => error.into(),
                })?;
                work(&pool, &steps).map_err(Failure::from)
            })
        };
        let mut seen = 0;
        let done = loop {
            match timeout(cluster.timeout + GRACE, &mut task).await {
                Ok(done) => break done.unwrap_or_else(|error| Err(Failure::Away(error.to_string()))),
                Err(_) if steps.count() != seen => seen = steps.count(),
                Err(_) => break Err(Failure::Abandoned),
            }
        };
        if done.as_ref().is_err_and(Failure::is_of_connection) {
            self.forget(&cluster).await;
        }
        done
    }

    /// Removes the image that an upload has written, unless it is at its final name.
    async fn remove_unfinished(self: &Arc<Self>, object: &Object) -> Result<(), Failure> {
        let name = unfinished_name(object);
        self.call_to_remove(move |pool, steps| remove_with_snapshot(pool, &name, steps)).await
    }

    /// As [`Self::call`], for work that removes what an upload has left.
    async fn call_to_remove(
        self: &Arc<Self>,
        work: impl FnOnce(&Arc<Pool>, &Steps) -> librbd::Result<()> + Send + 'static,
    ) -> Result<(), Failure> {
        let removed = self.call(None, work).await;
        if removed.as_ref().is_err_and(|error| error.errno() == Some(Errno::BUSY)) {
            // If the cluster did not respond when the upload closed its image, this connection still has the image's lock, and only
            // another connection can break it.
            self.cluster.lock().await.take();
        }
        removed
    }

    /// Like [`Self::remove_unfinished`]. If that is not possible now, recovery will do it.
    async fn remove_or_note(self: &Arc<Self>, object: &Object) {
        if let Err(error) = self.remove_unfinished(object).await {
            tracing::error!(%error, image = object.image_id, "cannot remove an unfinished RBD image now");
            self.leftovers.note(object);
        }
    }
}

impl Driver for RbdDriver {
    type Options = RbdStore;

    /// Connects in the background. Without Ceph's libraries, the store cannot be used.
    fn open(name: Option<&str>, options: &RbdStore, environment: &Environment<'_>) -> (Option<Self>, Option<String>) {
        if let Err(error) = librbd::check() {
            let fault = format!("it cannot be used: Ceph's libraries librados2 and librbd1 are needed: {error}");
            return (None, Some(fault));
        }
        let config = options.rbd_store_ceph_conf.clone().filter(|path| !path.as_os_str().is_empty());
        let unreadable = config.as_ref().and_then(|path| Some((path, std::fs::File::open(path).err()?)));
        let fault = unreadable.map(|(path, error)| format!("it cannot be used: {}: {error}", path.display()));
        let pool = Arc::new(PoolAccess {
            pool: options.rbd_store_pool.clone(),
            user: options.rbd_store_user.clone().filter(|user| !user.is_empty()),
            config,
            timeout: u64::try_from(options.rados_connect_timeout).ok().filter(|s| *s > 0).map(Duration::from_secs),
            cluster: Mutex::default(),
            fsid: OnceLock::new(),
            blocking: Arc::new(Semaphore::new(BLOCKING)),
            leftovers: Leftovers::default(),
        });
        if environment.creates_dirs
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let pool = Arc::clone(&pool);
            runtime.spawn(async move {
                if let Err(error) = pool.call(None, |_, _| Ok(())).await {
                    tracing::error!(%error, pool = pool.pool, "a store in Ceph cannot be used now");
                }
            });
        }
        let driver = Self {
            name: name.map(str::to_owned),
            is_thin: options.rbd_thin_provisioning,
            chunk_size: u64::from(options.rbd_store_chunk_size) * MIB,
            pool,
        };
        (Some(driver), fault)
    }

    /// Until the cluster has responded, only the pool counts.
    fn owns(&self, url: &LocationUrl) -> bool {
        let Ok(Location { whole: Some((fsid, pool, _)), .. }) = Location::parse(url) else { return false };
        pool == self.pool.pool && self.pool.fsid.get().is_none_or(|known| *known == fsid)
    }

    fn key<'u>(&self, url: &'u LocationUrl) -> Option<&'u str> {
        let image = url.expose().rsplit('/').nth(1).filter(|_| self.owns(url))?;
        // An escaped name could be that of any image.
        (!image.contains('%')).then_some(image)
    }

    fn properties(&self) -> Map<String, Value> {
        let mut properties = Map::new();
        properties.insert("chunk_size".to_owned(), self.chunk_size.into());
        properties.insert("pool".to_owned(), self.pool.pool.clone().into());
        properties.insert("thin_provisioning".to_owned(), self.is_thin.into());
        properties.insert("fsid".to_owned(), self.pool.fsid.get().cloned().into());
        properties
    }

    async fn put(&self, object: &Object, data: Chunks, size: u64) -> Result<Stored> {
        let cluster = timeout(self.pool.patience(), self.pool.cluster()).await;
        let cluster = cluster.unwrap_or(Err(Failure::Abandoned)).map_err(cannot_write)?;
        let parts = [&cluster.fsid, &self.pool.pool, &object.image_id, SNAPSHOT];
        let url = format!("rbd://{}", parts.map(|part| utf8_percent_encode(part, QUOTED).to_string()).join("/"));
        let upload = Upload {
            unfinished: Unfinished { pool: Arc::clone(&self.pool), object: Some(object.clone()) },
            features: cluster.features,
            limit: cluster.timeout + GRACE,
            chunk_size: self.chunk_size,
            is_thin: self.is_thin,
            size,
        };
        // The upload is a task of its own, because it has to end its calls and to close its image before it can be removed. When this
        // future is dropped, so is `_end`, and the upload ends.
        let (_end, ended) = oneshot::channel();
        let mut unfinished = tokio::spawn(upload.run(object.clone(), data, ended)).await??;
        unfinished.object = None;
        let mut metadata = Map::new();
        if let Some(name) = &self.name {
            metadata.insert("store".to_owned(), name.clone().into());
        }
        Ok(Stored { url: url.into(), metadata })
    }

    async fn place(&self, object: &Object, _: &Stored, hold: Hold) -> Result<Hold> {
        let (name, to) = (unfinished_name(object), object.image_id.clone());
        let renamed = self.pool.call(None, move |pool, _| pool.rename(&name, &to)).await;
        match renamed {
            Ok(()) => Ok(hold),
            Err(error) if error.errno() == Some(Errno::EXIST) => Err(duplicate(&object.image_id)),
            Err(error) => {
                self.pool.leftovers.note(object);
                Err(cannot_write(error))
            }
        }
    }

    async fn get(&self, url: &LocationUrl, range: Option<Range<u64>>) -> Result<Blob> {
        let Location { whole, image } = Location::parse(url)?;
        let (pool, snapshot) = whole.map(|(_, pool, snapshot)| (pool, snapshot)).unzip();
        let opened = self.pool.call(pool.as_deref(), move |pool, _| {
            let image = Image::open_to_read(pool, &image, snapshot.as_deref())?;
            let size = image.size()?;
            Ok((image, size, pool.cluster.timeout + GRACE))
        });
        let (image, size, limit) = opened.await.map_err(cannot_read)?;
        let unread = range.unwrap_or(0..size);
        let reader = Reader { image, limit, next: unread.start, end: unread.end.min(size), reads: VecDeque::new() };
        let data = try_unfold(reader, |mut reader| async move {
            let bytes = reader.next().await?;
            Ok::<_, BoxError>(bytes.map(|bytes| (bytes, reader)))
        });
        Ok(Blob { size: Some(size), data: data.boxed() })
    }

    async fn delete(&self, url: &LocationUrl) -> Result<()> {
        let Location { whole, image } = Location::parse(url)?;
        let (pool, snapshot) = whole.map(|(_, pool, snapshot)| (pool, snapshot)).unzip();
        let deleted =
            self.pool.call(pool.as_deref(), move |pool, steps| delete(pool, &image, snapshot.as_deref(), steps));
        deleted.await.map_err(|error| match error.errno() {
            Some(Errno::BUSY) => Error::InUse,
            Some(Errno::ACCESS | Errno::PERM | Errno::ROFS) => {
                tracing::error!(%error, "Ceph denied the deletion of an image");
                Error::DeleteDenied("You cannot delete the image's data in its Ceph pool".to_owned())
            }
            _ => cannot_read(error),
        })
    }

    async fn size(&self, url: &LocationUrl) -> Result<u64> {
        let Location { whole, image } = Location::parse(url)?;
        let (pool, snapshot) = whole.map(|(_, pool, snapshot)| (pool, snapshot)).unzip();
        let size = self
            .pool
            .call(pool.as_deref(), move |pool, _| Image::open_to_read(pool, &image, snapshot.as_deref())?.size());
        size.await.map_err(cannot_read)
    }

    async fn unfinished(&self, quiet: Duration) -> Result<Vec<Object>> {
        let listed = self.pool.call(None, move |pool, _| {
            let mut found = Vec::new();
            for name in pool.list()? {
                let ids = name.strip_prefix(UNFINISHED_PREFIX).and_then(|ids| ids.split_once('.'));
                let Some((image_id, upload_id)) = ids else { continue };
                // An image that has disappeared belonged to an upload that finished.
                let modified = Image::open_to_read(pool, &name, None).and_then(|image| image.modified()).ok();
                if modified.and_then(|modified| modified.elapsed().ok()).is_some_and(|age| age >= quiet) {
                    found.push(Object { image_id: image_id.to_owned(), upload_id: upload_id.to_owned() });
                }
            }
            Ok(found)
        });
        listed.await.map_err(cannot_read)
    }

    async fn discard(&self, object: &Object, hold: Option<Hold>) -> Result<()> {
        let (name, to, upload_id) = (unfinished_name(object), object.image_id.clone(), object.upload_id.clone());
        let with_final = hold.is_some();
        let discarded = self.pool.call_to_remove(move |pool, steps| {
            // The unfinished image goes first: once it is removed, no process can rename it.
            remove_with_snapshot(pool, &name, steps)?;
            if !with_final {
                return Ok(());
            }
            match Image::open_to_read(pool, &to, None) {
                Ok(image) => {
                    let is_ours = image.metadata(UPLOAD_KEY)?.as_ref() == Some(&upload_id);
                    close(image);
                    if is_ours { remove_with_snapshot(pool, &to, steps) } else { Ok(()) }
                }
                // The name may be left of a renaming that was interrupted.
                Err(error) if error.errno == Errno::NOENT => remove_with_snapshot(pool, &to, steps),
                Err(error) => Err(error),
            }
        });
        let discarded = discarded.await.map_err(cannot_write);
        if let Some(hold) = hold {
            hold.release().await;
        }
        discarded
    }

    async fn probe(&self, object: &Object) -> Result<()> {
        let name = object.image_id.clone();
        let opened = self.pool.call(None, move |pool, _| Image::open_to_read(pool, &name, None).map(close)).await;
        match opened.map_err(cannot_read) {
            Err(Error::NotFound) => Ok(()),
            opened => opened,
        }
    }

    fn take_leftovers(&self, object: &Object) -> bool {
        self.pool.leftovers.take(object)
    }
}

fn unfinished_name(object: &Object) -> String {
    format!("{UNFINISHED_PREFIX}{}.{}", object.image_id, object.upload_id)
}

/// An image that was not placed yet. It is removed when this is dropped, unless the object was taken out of it.
struct Unfinished {
    pool: Arc<PoolAccess>,
    object: Option<Object>,
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        let (Some(object), Ok(runtime)) = (self.object.take(), tokio::runtime::Handle::try_current()) else { return };
        let pool = Arc::clone(&self.pool);
        runtime.spawn(async move { pool.remove_or_note(&object).await });
    }
}

/// An upload in progress.
struct Upload {
    unfinished: Unfinished,
    features: u64,
    /// The timeout of a write.
    limit: Duration,
    chunk_size: u64,
    is_thin: bool,
    /// The size of the data in bytes, or 0 if it is unknown.
    size: u64,
}

impl Upload {
    /// Writes the image, until it is complete, or until the caller ends it.
    async fn run(mut self, object: Object, data: Chunks, mut ended: oneshot::Receiver<()>) -> Result<Unfinished> {
        let image = match self.create(&object).await {
            Ok(image) => image,
            Err(error) => {
                if let Error::Duplicate(_) | Error::WriteDenied = error {
                    self.unfinished.object = None;
                }
                return Err(error);
            }
        };
        let written = tokio::select! {
            written = self.write(&image, data) => written,
            _ = &mut ended => Err(Cut.into()),
        };
        let finished = match written {
            Ok(length) => self.finish(&image, length).await,
            Err(error) => Err(error),
        };
        // An image that is open cannot be renamed or removed. It is closed after the last write in progress.
        let closed = image.close();
        match finished {
            Ok(()) => {
                let _ = timeout(self.limit, closed).await;
                Ok(self.unfinished)
            }
            // The client does not wait for more timeouts. Recovery removes the image.
            Err(error) if is_timeout(&error) => {
                self.unfinished.object = None;
                self.unfinished.pool.leftovers.note(&object);
                Err(error)
            }
            Err(error) => {
                let _ = timeout(self.limit, closed).await;
                self.unfinished.object = None;
                self.unfinished.pool.remove_or_note(&object).await;
                Err(error)
            }
        }
    }

    async fn create(&self, object: &Object) -> Result<Arc<Image>> {
        let (name, to, upload_id) = (unfinished_name(object), object.image_id.clone(), object.upload_id.clone());
        let (size, features, order) = (self.size, self.features, self.chunk_size.ilog2().cast_signed());
        let created = self.unfinished.pool.call(None, move |pool, _| {
            match Image::open_to_read(pool, &to, None) {
                Ok(_) => return Ok(None),
                Err(error) if error.errno == Errno::NOENT => {}
                Err(error) => return Err(error),
            }
            pool.create(&name, size, features, order)?;
            let image = Image::open(pool, &name)?;
            image.set_metadata(UPLOAD_KEY, &upload_id)?;
            Ok(Some(image))
        });
        created.await.map_err(cannot_write)?.ok_or_else(|| duplicate(&object.image_id))
    }

    /// Writes all data, several pieces at a time. Returns its length in bytes.
    async fn write(&self, image: &Arc<Image>, mut data: Chunks) -> Result<u64> {
        let mut writer = Writer {
            upload: self,
            image,
            writes: FuturesUnordered::new(),
            piece: Vec::new(),
            length: 0,
            offset: 0,
            size: self.size,
            growth: self.chunk_size,
        };
        loop {
            tokio::select! {
                Some(written) = writer.writes.next() => written?,
                next = data.next(), if writer.writes.len() < IN_FLIGHT => match next? {
                    None => break,
                    Some(chunk) => {
                        for frame in chunk.shared() {
                            writer.push(frame).await?;
                        }
                    }
                },
            }
        }
        writer.write_piece().await?;
        while let Some(written) = writer.writes.next().await {
            written?;
        }
        Ok(writer.offset)
    }

    /// Makes the snapshot, after all data was written.
    async fn finish(&self, image: &Arc<Image>, length: u64) -> Result<()> {
        let (image, is_trimmed) = (Arc::clone(image), self.size == 0);
        let finished = self.unfinished.pool.call(None, move |_, steps| {
            image.flush()?;
            if is_trimmed {
                image.resize(length, steps)?;
            }
            image.create_snapshot(SNAPSHOT)?;
            image.protect_snapshot(SNAPSHOT)
        });
        finished.await.map_err(cannot_write)
    }
}

type Write = Pin<Box<dyn Future<Output = Result<()>> + Send>>;

/// Writes the data of an upload in pieces.
struct Writer<'u> {
    upload: &'u Upload,
    image: &'u Arc<Image>,
    writes: FuturesUnordered<Write>,
    /// The next piece, and its length.
    piece: Vec<Bytes>,
    length: u64,
    /// Where the next piece begins.
    offset: u64,
    /// The size of the image.
    size: u64,
    /// By how much an image of unknown size has grown the last time.
    growth: u64,
}

impl Writer<'_> {
    async fn push(&mut self, mut frame: Bytes) -> Result<()> {
        while !frame.is_empty() {
            let missing = usize::try_from(PIECE - self.length).unwrap_or(usize::MAX);
            let part = frame.split_to(missing.min(frame.len()));
            self.length += part.len() as u64;
            self.piece.push(part);
            if self.length == PIECE {
                self.write_piece().await?;
            }
        }
        Ok(())
    }

    async fn write_piece(&mut self) -> Result<()> {
        let (frames, length) = (std::mem::take(&mut self.piece), std::mem::take(&mut self.length));
        let offset = self.offset;
        self.offset += length;
        if self.upload.size == 0 && self.offset > self.size {
            self.growth = (self.growth * 2).min(MAX_GROWTH);
            self.size += self.growth;
            let (image, size) = (Arc::clone(self.image), self.size);
            let resized = self.upload.unfinished.pool.call(None, move |_, steps| image.resize(size, steps));
            resized.await.map_err(cannot_write)?;
        }
        if length == 0 || (self.upload.is_thin && frames.iter().all(|frame| is_zero(frame))) {
            return Ok(());
        }
        let memory = self.reserve().await?;
        let (write, limit) = (self.image.write(offset, frames), self.upload.limit);
        self.writes.push(Box::pin(async move {
            let _memory = memory;
            let written = async { Ok::<_, Failure>(timeout(limit, write).await??) };
            written.await.map_err(cannot_write)
        }));
        Ok(())
    }

    /// Waits until there is memory for a piece. Meanwhile, writes end.
    async fn reserve(&mut self) -> Result<SemaphorePermit<'static>> {
        loop {
            tokio::select! {
                memory = FREE_TO_WRITE.acquire() => return memory.map_err(|error| Error::Unavailable(error.into())),
                Some(written) = self.writes.next() => written?,
            }
        }
    }
}

fn is_zero(bytes: &[u8]) -> bool {
    const ZEROS: &[u8] = &[0; 4096];
    bytes.chunks(ZEROS.len()).all(|part| *part == ZEROS[..part.len()])
}

type Read = Pin<Box<dyn Future<Output = Result<Bytes, Failure>> + Send>>;

/// Reads a range of an image, several pieces at a time.
struct Reader {
    image: Arc<Image>,
    /// The timeout of a read.
    limit: Duration,
    /// Where the next read begins.
    next: u64,
    end: u64,
    /// The reads in progress, their lengths, and the permits of those that are not needed yet.
    reads: VecDeque<(Read, u64, Option<SemaphorePermit<'static>>)>,
}

impl Reader {
    /// Returns the next bytes, and `None` at the end.
    async fn next(&mut self) -> Result<Option<Bytes>, BoxError> {
        while self.next < self.end && self.reads.len() < IN_FLIGHT {
            let memory = FREE_TO_READ.try_acquire().ok();
            if memory.is_none() && !self.reads.is_empty() {
                break;
            }
            // The following reads end where an object may end.
            let length = (PIECE - self.next % PIECE).min(self.end - self.next);
            let (read, limit) = (self.image.read(self.next, usize::try_from(length).unwrap_or(usize::MAX)), self.limit);
            let read = async move { Ok(timeout(limit, read).await??) };
            self.reads.push_back((Box::pin(read), length, memory));
            self.next += length;
        }
        let Some((read, length, _memory)) = self.reads.pop_front() else { return Ok(None) };
        let read = match read.await {
            Ok(bytes) if bytes.len() as u64 == length => Ok(Some(bytes)),
            Ok(_) => Err("the image is shorter than before".into()),
            Err(error) => Err(error.into()),
        };
        read.inspect_err(|error: &BoxError| {
            tracing::error!(%error, "a download is truncated: the RBD image cannot be read");
        })
    }
}

/// A location's URL: `rbd://fsid/pool/image/snapshot`, or `rbd://image` for an image in the store's pool.
struct Location {
    /// The cluster, the pool and the snapshot.
    whole: Option<(String, String, String)>,
    image: String,
}

impl Location {
    /// As Glance parses it: the parts of the short form are not unescaped.
    fn parse(url: &LocationUrl) -> Result<Self> {
        let wrong_scheme = Error::BadLocation("Location URI must start with one of the following schemas: rbd://");
        let parts: Vec<&str> = url.expose().strip_prefix("rbd://").ok_or(wrong_scheme)?.split('/').collect();
        let unescape = |part: &str| percent_decode_str(part).decode_utf8_lossy().into_owned();
        let location = match parts[..] {
            [image] => Self { whole: None, image: image.to_owned() },
            [fsid, pool, image, snapshot] => {
                Self { whole: Some((unescape(fsid), unescape(pool), unescape(snapshot))), image: unescape(image) }
            }
            _ => return Err(Error::BadLocation("URI must have exactly 1 or 4 components")),
        };
        match parts.iter().any(|part| part.is_empty()) {
            true => Err(Error::BadLocation("URI cannot contain empty components")),
            false => Ok(location),
        }
    }
}

/// Closes an image, and waits for that. Only for blocking threads.
fn close(image: Arc<Image>) {
    // It fails when the image is closed.
    let _ = image.close().blocking_recv();
}

/// Makes this error a success.
fn unless(result: librbd::Result<()>, errno: Errno) -> librbd::Result<()> {
    match result {
        Err(error) if error.errno == errno => Ok(()),
        result => result,
    }
}

/// Removes an image of an upload, with its snapshot. Succeeds if there is none.
fn remove_with_snapshot(pool: &Arc<Pool>, name: &str, steps: &Steps) -> librbd::Result<()> {
    match pool.remove(name, steps) {
        Err(error) if error.errno == Errno::NOTEMPTY => {
            let image = Image::open(pool, name)?;
            let removed = match image.unprotect_snapshot(SNAPSHOT) {
                // It is not protected yet.
                Err(error) if error.errno != Errno::INVAL => Err(error),
                _ => image.remove_snapshot(SNAPSHOT),
            };
            close(image);
            unless(removed, Errno::NOENT)?;
            unless(pool.remove(name, steps), Errno::NOENT)
        }
        removed => unless(removed, Errno::NOENT),
    }
}

/// Deletes an image as Glance does: without its snapshot, if the location has one. If other snapshots, or clones, are left, the image
/// goes into the trash, until the last one is gone.
///
/// # Errors
/// `BUSY`: the image is in use, and unchanged. `NOENT`.
fn delete(pool: &Arc<Pool>, name: &str, snapshot: Option<&str>, steps: &Steps) -> librbd::Result<()> {
    let mut has_lost_snapshot = false;
    if let Some(snapshot) = snapshot {
        let image = Image::open(pool, name).or_else(|error| {
            if error.errno == Errno::NOENT {
                // The name may be left of a deletion that was interrupted.
                unless(pool.remove(name, steps), Errno::NOENT)?;
            }
            Err(error)
        })?;
        let removed = match image.unprotect_snapshot(snapshot) {
            // An interrupted deletion has done this already.
            Err(error) if error.errno != Errno::INVAL => Err(error),
            _ => image.remove_snapshot(snapshot),
        };
        close(image);
        has_lost_snapshot = removed.is_ok();
        unless(removed, Errno::NOENT)?;
    }
    let removed = match pool.remove(name, steps) {
        Err(error) if error.errno == Errno::NOTEMPTY => pool.move_to_trash(name).inspect(|()| {
            tracing::warn!(image = name, "the RBD image has other snapshots or clones, and was moved into the trash");
        }),
        // In a full pool, the name of the image is left.
        Err(CephError { call, errno: Errno::NOENT }) if has_lost_snapshot => Err(CephError { call, errno: Errno::IO }),
        removed => removed,
    };
    if let (Err(CephError { errno: Errno::BUSY, .. }), true, Some(snapshot)) = (&removed, has_lost_snapshot, snapshot) {
        // Without its snapshot, the image could not be read any more.
        let image = Image::open(pool, name)?;
        image.create_snapshot(snapshot)?;
        image.protect_snapshot(snapshot)?;
        close(image);
    }
    removed
}

fn duplicate(image_id: &str) -> Error {
    Error::Duplicate(format!("RBD image {image_id} already exists"))
}

/// Whether the cluster does not respond.
fn is_timeout(error: &Error) -> bool {
    let Error::Unavailable(source) = error else { return false };
    let failure = source.downcast_ref::<Failure>();
    failure.is_some_and(|failure| matches!(failure, Failure::Abandoned) || failure.errno() == Some(Errno::TIMEDOUT))
}

fn cannot_read(error: Failure) -> Error {
    match error.errno() {
        Some(Errno::NOENT) => Error::NotFound,
        _ => Error::Unavailable(error.into()),
    }
}

fn cannot_write(error: Failure) -> Error {
    match error.errno() {
        Some(Errno::NOSPC | Errno::DQUOT) => Error::Full,
        Some(Errno::ACCESS | Errno::PERM) => {
            tracing::error!(%error, "Ceph denied the upload of an image");
            Error::WriteDenied
        }
        _ => Error::Unavailable(error.into()),
    }
}
