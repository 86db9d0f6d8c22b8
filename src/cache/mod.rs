//! The image cache: complete files of images' data on this node, in Glance's layout and with Glance's records.
//!
//! A download that finds a complete file reads it. Otherwise it joins the fill of the image, or begins one ([`Turn`]): one read of the
//! store fills the file, and all downloads of the image follow the writer. A file counts only once its hash is verified. The cache is
//! never needed: whatever fails in it, a download goes on from the store.

mod attributes;
mod central;
mod fill;
mod follower;
mod index;
mod layout;
mod record;
mod sqlite;
mod verify;

use std::{
    collections::{HashMap, HashSet},
    fs::File,
    ops::Range,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use chrono::{DateTime, Utc};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub(crate) use self::{
    fill::{Expected, Failure},
    follower::{Follower, Resume},
    record::Record,
};
use self::{
    fill::{Fill, Live},
    index::Index,
    layout::{CachedFile, Layout, blocking},
    record::Hits,
};
use crate::{
    config::{CacheDriver, Config, HashAlgorithm},
    db::Db,
    error::Result,
    model::{Image, ImageId},
    stream::{self, BoxError, ByteStream},
};

/// The number of queued images that are fetched concurrently.
pub(crate) const PREFETCHES: usize = 4;

/// The cache of this node.
pub(crate) struct Cache {
    layout: Layout,
    index: Index,
    max_size: u64,
    stall_time: Duration,
    clock: fn() -> DateTime<Utc>,
    /// The fills in progress.
    fills: Mutex<HashMap<ImageId, Arc<Fill>>>,
    /// The downloads that are not recorded yet.
    hits: Mutex<HashMap<ImageId, Hits>>,
    /// Held while a file gets or loses its final name.
    naming: Mutex<()>,
    prefetches: Semaphore,
    /// Whether the last attempt to cache an image failed. Then it was logged, and the next failures are not.
    is_failing: AtomicBool,
}

/// A complete file of an image.
pub(crate) struct Hit {
    file: File,
    image: String,
    /// The size of the data in bytes.
    pub(crate) size: u64,
}

impl Hit {
    /// The bytes of the range. If the file fails, `resume` goes on from the store.
    pub(crate) fn into_stream(self, range: Range<u64>, resume: Resume) -> ByteStream {
        follower::read_file(self.file, range, self.image, resume)
    }
}

/// What a download of an image that is not cached does.
pub(crate) enum Turn {
    /// It opens the data, and begins the fill.
    Lead(Lead),
    /// It waits for the fill of another one.
    Follow(Follower),
    /// A fill with other data is in progress: it reads the store.
    Apart,
}

/// The right to begin the fill of an image. If it is dropped, another download gets it.
pub(crate) struct Lead {
    cache: Arc<Cache>,
    image_id: ImageId,
    fill: Arc<Fill>,
    is_over: bool,
}

/// What was removed to make the cache small enough.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Pruned {
    /// The number of files.
    pub(crate) files: u64,
    /// Their size in bytes.
    pub(crate) bytes: u64,
}

impl Cache {
    /// Opens the cache; `None` if the configuration has none.
    ///
    /// # Errors
    /// What the operator must know: the directory cannot be used, or the node has no URL.
    pub(crate) async fn open(
        config: &Config,
        db: &Db,
        clock: fn() -> DateTime<Utc>,
    ) -> Result<Option<Arc<Self>>, String> {
        let options = &config.default;
        let Some(dir) = &options.image_cache_dir else { return Ok(None) };
        let has_url = options.worker_self_reference_url.as_ref().is_some_and(|url| !url.is_empty());
        if config.filters.cache && options.image_cache_driver == CacheDriver::CentralizedDb && !has_url {
            return Err(
                "'worker_self_reference_url' needs to be set if `centralized_db` is defined as cache driver for \
                 image_cache_driver config option."
                    .to_owned(),
            );
        }
        let error = |error: &dyn std::fmt::Display| format!("image_cache_dir {}: {error}", dir.display());
        let layout = Layout::open(dir).map_err(|source| error(&source))?;
        let index = Index::open(options, &layout, db).await.map_err(|source| error(&source))?;
        Ok(Some(Arc::new(Self {
            layout,
            index,
            max_size: options.image_cache_max_size,
            stall_time: Duration::from_secs(options.image_cache_stall_time),
            clock,
            fills: Mutex::default(),
            hits: Mutex::default(),
            naming: Mutex::default(),
            prefetches: Semaphore::new(PREFETCHES),
            is_failing: AtomicBool::new(false),
        })))
    }

    /// The driver in use.
    pub(crate) fn driver(&self) -> CacheDriver {
        self.index.driver()
    }

    /// Opens the complete file of an image, and counts a hit. Returns `None` if there is none that is right for the image: one with
    /// another size, or that was verified with another hash, is moved to the invalid ones.
    pub(crate) async fn find(&self, image: &Image) -> Option<Hit> {
        let (layout, expected, id) = (self.layout.clone(), image.clone(), image.id.clone());
        let opened = blocking(move || {
            let Some(file) = layout.open_cached(&expected.id)? else { return Ok(None) };
            let size = file.metadata()?.len();
            let is_right = is_size(&expected, size) && is_digest(&expected, Layout::digest(&file).as_deref());
            if !is_right {
                layout.reject(&expected.id)?;
            }
            Ok(Some((file, size, is_right)))
        });
        match opened.await {
            Ok(Some((file, size, true))) => {
                self.count_hit(&id);
                Some(Hit { file, image: id.to_string(), size })
            }
            Ok(Some((_, size, false))) => {
                tracing::warn!(
                    image = id.as_str(),
                    size,
                    "a cached file does not have the image's size or hash; it is not used"
                );
                self.forget(&id).await;
                None
            }
            Ok(None) => None,
            Err(error) => {
                self.note_failure(&id, &error);
                None
            }
        }
    }

    /// Whether there is a complete file of the image.
    ///
    /// # Errors
    /// `Unavailable`
    pub(crate) async fn has(&self, id: &ImageId) -> Result<bool> {
        let (layout, id) = (self.layout.clone(), id.clone());
        blocking(move || Ok(layout.is_cached(&id))).await
    }

    /// Waits for a slot to fetch a queued image.
    pub(crate) async fn prefetch_slot(&self) -> Option<SemaphorePermit<'_>> {
        // It is never closed.
        self.prefetches.acquire().await.ok()
    }

    fn count_hit(&self, id: &ImageId) {
        let now = self.now();
        let mut hits = lock(&self.hits);
        let hit = hits.entry(id.clone()).or_insert(Hits { count: 0, last: now });
        hit.count = hit.count.saturating_add(1);
        hit.last = now;
    }

    fn now(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "Python computes with the same precision")]
        let micros = (self.clock)().timestamp_micros() as f64;
        micros / 1e6
    }

    /// Joins the fill of an image, or gets the right to begin it.
    pub(crate) fn join(self: &Arc<Self>, image: &Image) -> Turn {
        let (id, expected) = (&image.id, expected(image));
        let mut fills = lock(&self.fills);
        match fills.get(id) {
            Some(fill) if fill.is_of(&expected) => return Turn::Follow(Follower::new(fill, None)),
            Some(_) => return Turn::Apart,
            None => {}
        }
        let fill = Fill::new(expected);
        fills.insert(id.clone(), Arc::clone(&fill));
        Turn::Lead(Lead { cache: Arc::clone(self), image_id: id.clone(), fill, is_over: false })
    }

    /// Ends a fill: the next download of the image finds its file, or begins another fill.
    fn end(&self, id: &ImageId, fill: &Arc<Fill>) {
        let mut fills = lock(&self.fills);
        if fills.get(id).is_some_and(|current| Arc::ptr_eq(current, fill)) {
            fills.remove(id);
        }
    }

    /// Logs that an image cannot be cached, once until it works again.
    fn note_failure(&self, id: &ImageId, error: &dyn std::fmt::Display) {
        let image = id.as_str();
        if self.is_failing.swap(true, Ordering::Relaxed) {
            tracing::debug!(image, %error, "the image cache failed again");
        } else {
            tracing::warn!(image, %error, "the image cache cannot be used, images are read from their stores until it works again");
        }
    }

    /// Removes the record and the hits of an image whose file is not there any more.
    async fn forget(&self, id: &str) {
        if let Some(id) = ImageId::parse(id) {
            lock(&self.hits).remove(&id);
        }
        if let Err(error) = self.index.remove(id).await {
            tracing::warn!(image = id, %error, "the record of a cached image cannot be removed; the next cleanup tries again");
        }
    }

    /// Records a file.
    async fn record(&self, id: &str, size: u64, accessed: f64, modified: f64) -> Result<()> {
        let record = Record {
            row: None,
            image_id: id.to_owned(),
            last_accessed: accessed,
            last_modified: modified,
            size: i64::try_from(size).unwrap_or(i64::MAX),
            hits: 0,
            checksum: None,
        };
        self.index.put(&record).await
    }

    /// Records the hits since the last call.
    ///
    /// # Errors
    /// `Unavailable`: they are recorded later.
    pub(crate) async fn record_hits(&self) -> Result<()> {
        // An image that is being filled is recorded first.
        let filling: HashSet<ImageId> = lock(&self.fills).keys().cloned().collect();
        let taken: Vec<_> = lock(&self.hits).extract_if(|id, _| !filling.contains(id)).collect();
        let mut taken = taken.into_iter();
        while let Some((id, hit)) = taken.next() {
            if let Err(error) = self.index.add_hits(&id, hit).await {
                let mut hits = lock(&self.hits);
                for (id, hit) in taken.chain([(id, hit)]) {
                    let newer = hits.entry(id).or_insert(Hits { count: 0, last: hit.last });
                    newer.count = newer.count.saturating_add(hit.count);
                }
                return Err(error);
            }
        }
        Ok(())
    }

    /// The records of the cached images, in the driver's order.
    ///
    /// # Errors
    /// `Unavailable`
    pub(crate) async fn list(&self) -> Result<Vec<Record>> {
        self.record_hits().await?;
        self.index.list().await
    }

    /// Removes an image from the cache. A fill in progress does not bring it back.
    ///
    /// # Errors
    /// `Unavailable`
    pub(crate) async fn remove(self: &Arc<Self>, id: &str) -> Result<()> {
        self.remove_file(id).await?;
        self.forget(id).await;
        Ok(())
    }

    async fn remove_file(self: &Arc<Self>, id: &str) -> Result<bool> {
        let Some(id) = ImageId::parse(id) else { return Ok(false) };
        let cache = Arc::clone(self);
        blocking(move || {
            let _naming = lock(&cache.naming);
            let fill = lock(&cache.fills).get(&id).cloned();
            if let Some(fill) = fill {
                fill.discard();
            }
            cache.layout.remove(&id)
        })
        .await
    }

    /// Removes all images from the cache. Returns their number.
    ///
    /// # Errors
    /// `Unavailable`
    pub(crate) async fn clear(self: &Arc<Self>) -> Result<u64> {
        let mut removed = 0;
        for file in self.files().await? {
            removed += u64::from(self.remove_file(&file.image_id).await?);
        }
        lock(&self.hits).clear();
        self.index.clear().await?;
        Ok(removed)
    }

    async fn files(&self) -> Result<Vec<CachedFile>> {
        let layout = self.layout.clone();
        blocking(move || layout.files()).await
    }

    /// Adds an image to the queue of images that are to be cached.
    ///
    /// # Errors
    /// `Unavailable`
    pub(crate) async fn queue(&self, id: &ImageId) -> Result<()> {
        if lock(&self.fills).contains_key(id) {
            return Ok(());
        }
        let (layout, id) = (self.layout.clone(), id.clone());
        blocking(move || layout.queue(&id).map(drop)).await
    }

    /// The queued images, in the order in which they were queued. A Glance may have queued any text.
    ///
    /// # Errors
    /// `Unavailable`
    pub(crate) async fn queued(&self) -> Result<Vec<String>> {
        let layout = self.layout.clone();
        blocking(move || layout.queued()).await
    }

    /// Removes an image from the queue.
    ///
    /// # Errors
    /// `Unavailable`
    pub(crate) async fn dequeue(&self, id: &str) -> Result<()> {
        let (layout, id) = (self.layout.clone(), id.to_owned());
        blocking(move || match layout.queued()?.contains(&id) {
            true => layout.dequeue(&id),
            false => Ok(()),
        })
        .await
    }

    /// Removes all images from the queue. Returns their number.
    ///
    /// # Errors
    /// `Unavailable`
    pub(crate) async fn clear_queue(&self) -> Result<u64> {
        let layout = self.layout.clone();
        blocking(move || {
            let queued = layout.queued()?;
            queued.iter().try_for_each(|id| layout.dequeue(id))?;
            Ok(queued.len() as u64)
        })
        .await
    }

    /// Removes the images that were not downloaded for the longest time, until the cache is at most `image_cache_max_size` large.
    ///
    /// # Errors
    /// `Unavailable`
    pub(crate) async fn prune(self: &Arc<Self>) -> Result<Pruned> {
        let mut files = self.files().await?;
        let mut size: u64 = files.iter().map(|file| file.size).sum();
        let mut pruned = Pruned::default();
        if size <= self.max_size {
            return Ok(pruned);
        }
        let records = self.list().await?;
        let records: HashMap<&str, f64> =
            records.iter().map(|record| (record.image_id.as_str(), record.last_accessed)).collect();
        let accessed = |file: &CachedFile| records.get(file.image_id.as_str()).copied().unwrap_or(file.modified);
        files.sort_by(|a, b| accessed(a).total_cmp(&accessed(b)));
        for file in files {
            if size <= self.max_size {
                break;
            }
            self.remove(&file.image_id).await?;
            size -= file.size;
            pruned = Pruned { files: pruned.files + 1, bytes: pruned.bytes + file.size };
        }
        tracing::info!(files = pruned.files, bytes = pruned.bytes, "the image cache was pruned");
        Ok(pruned)
    }

    /// Removes invalid files, stalled ones, and those of processes that died. Then makes the records match the files: a process may
    /// have died between writing a file and its record, and the driver may have changed.
    ///
    /// # Errors
    /// `Unavailable`
    pub(crate) async fn clean(&self) -> Result<()> {
        let (layout, stall_time) = (self.layout.clone(), self.stall_time);
        for path in blocking(move || layout.clean(stall_time)).await? {
            tracing::info!(path = %path.display(), "an invalid or stalled file of the image cache was removed");
        }
        self.reconcile().await
    }

    async fn reconcile(&self) -> Result<()> {
        // The records are read first: a file that is cached meanwhile has both, or only the file.
        let (records, files) = (self.list().await?, self.files().await?);
        let with_file: HashSet<&str> = files.iter().map(|file| file.image_id.as_str()).collect();
        for record in records.iter().filter(|record| !with_file.contains(record.image_id.as_str())) {
            self.forget(&record.image_id).await;
        }
        let with_record: HashSet<&str> = records.iter().map(|record| record.image_id.as_str()).collect();
        for file in files.iter().filter(|file| !with_record.contains(file.image_id.as_str())) {
            self.record(&file.image_id, file.size, file.modified, file.modified).await?;
        }
        Ok(())
    }

    /// The images with a complete file.
    ///
    /// # Errors
    /// `Unavailable`
    pub(crate) async fn cached(&self) -> Result<Vec<ImageId>> {
        Ok(self.files().await?.into_iter().map(|file| file.image_id).collect())
    }
}

impl Lead {
    /// Begins the fill with the store's data. The fill runs to its end whoever leaves; when the server stops, it ends with its last
    /// download. Returns a download that follows it.
    ///
    /// # Errors
    /// The data, if the cache cannot take it: it has not been read yet.
    pub(crate) async fn begin(
        mut self,
        expected: Expected,
        data: ByteStream,
        timeout: Duration,
        work: &TaskTracker,
        stopping: CancellationToken,
    ) -> Result<Follower, ByteStream> {
        let (layout, id, size) = (self.cache.layout.clone(), self.image_id.clone(), expected.size);
        let file = match blocking(move || layout.begin(&id, size)).await {
            Ok(Some(file)) => Arc::new(file),
            begun => {
                if let Err(error) = begun {
                    self.cache.note_failure(&self.image_id, &error);
                }
                self.give_up(Failure::Uncached);
                return Err(data);
            }
        };
        let (live, chunks) = Live::channel();
        let follower = Follower::new(&self.fill, Some(chunks));
        self.fill.begin(&file, size);
        self.is_over = true;
        let running =
            Running { cache: Arc::clone(&self.cache), id: self.image_id.clone(), fill: Arc::clone(&self.fill) };
        work.spawn(async move {
            let Running { cache, id, fill } = &running;
            let stop = async {
                stopping.cancelled().await;
                fill.unfollowed().await;
            };
            tokio::select! {
                written = fill.write(&file, data, live, &expected, timeout) => cache.finish(id, fill, file, written, &expected).await,
                () = stop => {
                    fill.fail(Failure::Uncached);
                    cache.remove_incomplete(id).await;
                }
            }
        });
        Ok(follower)
    }

    /// The store's data cannot be opened: the other downloads try it themselves.
    pub(crate) fn fail(mut self) {
        self.give_up(Failure::Uncached);
    }

    fn give_up(&mut self, failure: Failure) {
        self.is_over = true;
        // First, so that a download that sees the failure does not join it again.
        self.cache.end(&self.image_id, &self.fill);
        self.fill.fail(failure);
    }
}

/// A fill in progress. When it is dropped, also by a panic, the next download finds its file, or begins another fill.
struct Running {
    cache: Arc<Cache>,
    id: ImageId,
    fill: Arc<Fill>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.cache.end(&self.id, &self.fill);
        self.fill.end();
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        if !self.is_over {
            self.give_up(Failure::Released);
        }
    }
}

impl Cache {
    /// Completes a fill that has written its file, or removes the file.
    async fn finish(
        self: &Arc<Self>,
        id: &ImageId,
        fill: &Arc<Fill>,
        file: Arc<File>,
        written: Result<u64, (Failure, BoxError)>,
        expected: &Expected,
    ) {
        let image = id.as_str();
        let size = match written {
            Ok(size) => size,
            Err((failure, error)) => {
                fill.fail(failure);
                match failure {
                    Failure::Source => {
                        tracing::error!(image, %error, "the data for the image cache is not what it should be; it was not cached");
                        let (layout, own) = (self.layout.clone(), id.clone());
                        if let Err(error) = blocking(move || layout.invalidate(&own)).await {
                            tracing::warn!(image, %error, "the data cannot be moved to the directory invalid of the cache");
                        }
                    }
                    // The incomplete file may be what fills the disk.
                    Failure::Released | Failure::Uncached => {
                        self.note_failure(id, &error);
                        self.remove_incomplete(id).await;
                    }
                }
                return;
            }
        };
        let (cache, own, theirs, digest) = (Arc::clone(self), id.clone(), Arc::clone(fill), expected.note());
        let named = blocking(move || {
            Layout::sync(&file, digest.as_deref())?;
            let _naming = lock(&cache.naming);
            if theirs.is_discarded() {
                return cache.layout.abandon(&own).map(|()| false);
            }
            // Before the file can be found, because a download of it can fail again.
            let was_failing = cache.is_failing.swap(false, Ordering::Relaxed);
            if let Err(error) = cache.layout.complete(&own, &file) {
                cache.is_failing.store(was_failing, Ordering::Relaxed);
                return Err(error);
            }
            if was_failing {
                tracing::info!("the image cache works again");
            }
            // Other processes can fill it from now on, if it is removed. Downloads may still have it open.
            file.unlock().map(|()| true)
        });
        match named.await {
            Ok(false) => return,
            Ok(true) => {}
            Err(error) => {
                // Downloads that follow it still have the file open, and it is verified.
                self.note_failure(id, &error);
                self.remove_incomplete(id).await;
                return;
            }
        }
        let now = self.now();
        if let Err(error) = self.record(id, size, now, now).await {
            tracing::warn!(image, %error, "a cached image cannot be recorded; the next cleanup tries again");
        }
        if fill.is_discarded() {
            self.forget(id).await;
        }
    }

    async fn remove_incomplete(&self, id: &ImageId) {
        let (layout, own) = (self.layout.clone(), id.clone());
        if let Err(error) = blocking(move || layout.abandon(&own)).await {
            let image = id.as_str();
            tracing::warn!(image, %error, "an incomplete file of the image cache cannot be removed; the next cleanup tries again");
        }
    }
}

/// What the data of an image must be, as far as its record says.
pub(crate) fn expected(image: &Image) -> Expected {
    // OpenSSL does not have every algorithm.
    let algorithm = image.os_hash_algo.as_deref().and_then(stream::algorithm);
    let secure =
        algorithm.filter(|algorithm| stream::hex_length(*algorithm).is_some()).zip(image.os_hash_value.clone());
    let md5 = image.checksum.clone().map(|checksum| (HashAlgorithm::Md5, checksum));
    Expected { size: image.size.and_then(|size| u64::try_from(size).ok()), digest: secure.or(md5) }
}

/// Whether a file can be the image's data by its size.
fn is_size(image: &Image, size: u64) -> bool {
    image.size.is_none_or(|expected| u64::try_from(expected) == Ok(size))
}

/// Whether a file that was verified with this digest can be the image's data. An image that has lost its data can get other data.
fn is_digest(image: &Image, noted: Option<&str>) -> bool {
    let Some((algorithm, hex)) = noted.and_then(|noted| noted.split_once(':')) else { return true };
    let expected = if image.os_hash_algo.as_deref() == Some(algorithm) {
        image.os_hash_value.as_deref()
    } else {
        image.checksum.as_deref().filter(|_| algorithm == "md5")
    };
    expected.is_none_or(|expected| expected.eq_ignore_ascii_case(hex))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
