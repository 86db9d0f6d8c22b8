//! The `s3` driver: an object in a bucket, with the image's id as its key.
//!
//! Data that is larger than a part is stored by a multipart upload, several parts at a time. No client can read the parts before
//! the server joins them. A part is kept until the server has stored it, so that it can be retried: in memory, for which all uploads
//! of the process share one limit. While others, such as slow clients, occupy all of it, parts are kept in temporary files.
//!
//! An interrupted multipart upload stays on the server, invisible to readers. It is identified by the image's id only, so it cannot
//! be distinguished from an upload by a Glance that shares the bucket. Therefore the driver aborts such uploads only for images
//! whose upload is known to have been interrupted.

mod client;
mod credentials;
mod payload;
mod signature;

use std::{
    collections::HashMap,
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use reqwest::{Response, StatusCode, header};
use serde_json::{Map, Value};
use tokio::{
    sync::{AcquireError, Semaphore, SemaphorePermit},
    task::JoinSet,
};

use self::{
    client::{Client, ObjectPath, S3Error, UploadedPart},
    payload::{Payload, PayloadBuilder},
};
use super::{
    Blob, Driver, Environment, Error, Hold, Leftovers, Object, Result, Stored, location,
    object_server::{Body, OpenedObject, Source, check_range, content_length, pause_before_retry, read_object},
};
use crate::{
    config::S3Store,
    model::LocationUrl,
    stream::{BoxError, Chunks},
};

const MIB: u64 = 1 << 20;
/// The server, as messages name it.
const SERVER: &str = "the S3 server";
/// The limit for parts in memory, of all uploads together, in MiB. A part that is larger counts as this many.
const MAX_MEMORY: u32 = 112;
static FREE_MEMORY: Semaphore = Semaphore::const_new(MAX_MEMORY as usize);
/// The limit for parts in temporary files, of all uploads together, in MiB. A part that is larger counts as this many.
const MAX_FILES: u32 = 2048;
static FREE_FILES: Semaphore = Semaphore::const_new(MAX_FILES as usize);
/// How long an upload waits for memory before it uses a temporary file.
const MEMORY_WAIT: Duration = Duration::from_secs(1);
/// The maximum number of parts of an object.
const MAX_PARTS: u64 = 10_000;
/// If the size of an object is unknown, its parts grow by the size of the first part after each this many parts. So the maximum
/// number of parts suffices for 1 TiB.
const GROW_EVERY: u64 = 500;
/// How long an upload that failed waits for its parts in flight before it is aborted, and for the server to abort it.
const ABORT_TIMEOUT: Duration = Duration::from_secs(10);
/// The maximum size of a part in bytes.
const MAX_PART: u64 = 5 << 30;

/// A store in one bucket.
pub(super) struct S3Driver {
    /// The store's name, if it has one. It is written into the location's metadata, as in Glance.
    name: Option<String>,
    /// The start of the URLs of its objects.
    prefix: String,
    bucket: String,
    create_bucket: bool,
    large_object_size: u64,
    chunk_size: u64,
    max_in_flight: usize,
    client: Result<Arc<Client>, String>,
    /// Uploads that could not be aborted on the server, and uploads whose object may be there although `place` failed.
    leftovers: Leftovers,
    /// The objects that were stored but not placed yet, by the ids of their uploads.
    pending: Mutex<HashMap<String, Pending>>,
}

/// An object that is not visible to readers yet.
enum Pending {
    /// An object in one piece, with its permit for the space that it occupies.
    Whole(Payload, SemaphorePermit<'static>),
    /// A multipart upload whose parts are all on the server, with their total size in bytes.
    Parts { unfinished: Unfinished, may_have_duplicate: bool, parts: Vec<UploadedPart>, size: u64 },
}

impl S3Driver {
    fn keep_pending(&self, object: &Object, pending: Pending) {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner).insert(object.upload_id.clone(), pending);
    }

    fn take_pending(&self, object: &Object) -> Option<Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner).remove(&object.upload_id)
    }

    fn client(&self) -> Result<&Arc<Client>> {
        self.client.as_ref().map_err(|_| Error::NoStore)
    }

    fn path_of_image(&self, image_id: &str) -> ObjectPath {
        ObjectPath { bucket: self.bucket.clone(), key: image_id.to_owned() }
    }

    /// Runs work that needs the bucket. If the bucket is missing and the configuration allows it, creates the bucket and retries.
    async fn in_bucket<T, F: Future<Output = client::Result<T>>>(&self, work: impl Fn() -> F) -> Result<T> {
        let client = self.client()?;
        match work().await {
            Err(error) if error.has_code("NoSuchBucket") => {
                if !self.create_bucket {
                    tracing::error!(
                        bucket = self.bucket,
                        "the bucket does not exist; create it or set s3_store_create_bucket_on_put"
                    );
                    return Err(Error::Unavailable(error.into()));
                }
                client.create_bucket(&self.bucket).await.map_err(cannot_write)?;
                work().await.map_err(cannot_write)
            }
            done => done.map_err(cannot_write),
        }
    }

    async fn reserve(&self, bytes: u64) -> Result<Part> {
        Part::reserve(bytes, self.client()?.sends_checksums).await
    }

    /// The size in bytes of the part with this number, counted from 0. `size` is the size of the object, or 0 if it is unknown.
    fn part_size(&self, number: u64, size: u64) -> u64 {
        let part = match size {
            0 => self.chunk_size.saturating_mul(1 + number / GROW_EVERY),
            size => self.chunk_size.max(size.div_ceil(MAX_PARTS)),
        };
        part.min(MAX_PART)
    }

    /// Stores an object by a multipart upload, beginning with its first part. The upload is not completed yet.
    async fn put_parts(&self, object: &Object, source: &mut Source, first: Part, size: u64) -> Result<()> {
        let (client, path) = (self.client()?, self.path_of_image(&object.image_id));
        let multipart = self.in_bucket(|| client.create_multipart(&path)).await?;
        let may_have_duplicate = multipart.may_have_duplicate;
        let unfinished = Unfinished { client: Arc::clone(client), path: Some(path.clone()), id: multipart.upload_id };
        let mut sender = PartSender::new(Arc::clone(client), path, unfinished.id.clone(), self.max_in_flight);
        let sent = async {
            sender.send(first).await?;
            while sender.wait_for(source.has_more()).await?? {
                let wanted = self.part_size(sender.count, size);
                let remaining = if size == 0 { wanted } else { size.saturating_sub(source.taken).max(1) };
                let mut part = sender.wait_for(source.unless_cut(self.reserve(wanted.min(remaining)))).await???;
                while part.payload.len() < wanted && sender.wait_for(source.has_more()).await?? {
                    part.fill(source, wanted).await?;
                }
                sender.send(part).await?;
            }
            sender.finish().await
        };
        let sent = sent.await;
        if sent.is_err() {
            // A part that arrives after the abort would stay on the server.
            let ended = async { while sender.tasks.join_next().await.is_some() {} };
            let _ = tokio::time::timeout(ABORT_TIMEOUT, ended).await;
        }
        sender.tasks.shutdown().await;
        match sent {
            Ok(parts) => {
                self.keep_pending(object, Pending::Parts { unfinished, may_have_duplicate, parts, size: source.taken });
                Ok(())
            }
            Err(error) => {
                self.abort(object, unfinished, may_have_duplicate).await;
                Err(error)
            }
        }
    }

    /// Notes that the server may have stored the object, unless the server rejected it.
    fn note_leftover(&self, object: &Object, error: &Error) {
        if matches!(error, Error::Unavailable(_)) {
            self.leftovers.note(object);
        }
    }

    /// Aborts a multipart upload, which removes its parts.
    async fn abort(&self, object: &Object, mut unfinished: Unfinished, may_have_duplicate: bool) {
        let Some(path) = unfinished.path.take() else { return };
        let aborted = match may_have_duplicate {
            true => unfinished.client.abort_all_multiparts(&path).await,
            false => unfinished.client.abort_multipart(&path, &unfinished.id).await,
        };
        if let Err(error) = aborted {
            tracing::error!(%error, image = object.image_id, "cannot abort a multipart upload now");
            self.leftovers.note(object);
        }
    }
}

impl Driver for S3Driver {
    type Options = S3Store;

    /// An invalid option is a fault of the store, so that the other stores work, as in Glance.
    fn open(name: Option<&str>, options: &S3Store, _: &Environment<'_>) -> (Option<Self>, Option<String>) {
        let host = options.s3_store_host.as_deref().unwrap_or_default();
        let (scheme, host) = match (host.strip_prefix("https://"), host.strip_prefix("http://")) {
            (Some(host), _) => ("s3+https", host),
            (None, host_alone) => ("s3", host_alone.unwrap_or(host)),
        };
        let bucket = options.s3_store_bucket.clone().unwrap_or_default();
        let client = Client::open(options).map(Arc::new);
        let fault = client.as_ref().err().map(|fault| format!("it cannot be used: {fault}"));
        let driver = Self {
            name: name.map(str::to_owned),
            prefix: format!("{scheme}://{}/{bucket}/", host.trim_matches('/')),
            bucket,
            create_bucket: options.s3_store_create_bucket_on_put,
            large_object_size: u64::from(options.s3_store_large_object_size) * MIB,
            chunk_size: u64::from(options.s3_store_large_object_chunk_size) * MIB,
            max_in_flight: usize::try_from(options.s3_store_thread_pools).unwrap_or(usize::MAX),
            client,
            leftovers: Leftovers::default(),
            pending: Mutex::default(),
        };
        (Some(driver), fault)
    }

    /// Whether the URL, without credentials, starts like the URLs of this store. Glance uses the same rule for locations that name
    /// no store.
    fn owns(&self, url: &LocationUrl) -> bool {
        let url = url.redacted();
        let is_prefix_of =
            |rest: &str| self.prefix.strip_prefix("s3://").is_some_and(|prefix| rest.starts_with(prefix));
        // Glance reads `s3+http` as well, and writes `s3`.
        url.starts_with(&self.prefix) || url.strip_prefix("s3+http://").is_some_and(is_prefix_of)
    }

    fn key<'u>(&self, url: &'u LocationUrl) -> Option<&'u str> {
        let (bucket, key) = location::bucket_and_key(url).ok().filter(|_| self.owns(url))?;
        // The host in a URL can contain slashes, so the start of the URL does not decide on the bucket.
        (bucket == self.bucket).then_some(key)
    }

    fn properties(&self) -> Map<String, Value> {
        let mut properties = Map::new();
        properties.insert("s3_store_large_object_size".to_owned(), self.large_object_size.into());
        properties.insert("s3_store_large_object_chunk_size".to_owned(), self.chunk_size.into());
        properties.insert("s3_store_thread_pools".to_owned(), self.max_in_flight.into());
        properties
    }

    async fn put(&self, object: &Object, data: Chunks, size: u64) -> Result<Stored> {
        self.client().map_err(|_| Error::ReadOnly)?;
        let mut source = Source::new(data);
        let wanted = self.part_size(0, size);
        let mut part = source.unless_cut(self.reserve(if size == 0 { wanted } else { wanted.min(size) })).await??;
        while part.payload.len() < wanted && source.has_more().await? {
            part.fill(&mut source, wanted).await?;
        }
        let is_whole = !source.has_more().await?;
        // A multipart upload needs at least one byte.
        if is_whole && (part.payload.len() < self.large_object_size || part.payload.len() == 0) {
            let (payload, space) = part.finish();
            self.keep_pending(object, Pending::Whole(payload, space));
        } else {
            self.put_parts(object, &mut source, part, size).await?;
        }
        let mut metadata = Map::new();
        if let Some(name) = &self.name {
            metadata.insert("store".to_owned(), name.clone().into());
        }
        Ok(Stored { url: format!("{}{}", self.prefix, object.image_id).into(), metadata })
    }

    /// Fails if another process considered the upload dead and has aborted it.
    async fn place(&self, object: &Object, _: &Stored, hold: Hold) -> Result<Hold> {
        let (client, path) = (self.client()?, self.path_of_image(&object.image_id));
        match self.take_pending(object) {
            None => {}
            Some(Pending::Whole(payload, _space)) => {
                let put = self.in_bucket(|| client.put(&path, payload.clone())).await;
                put.inspect_err(|error| self.note_leftover(object, error))?;
            }
            Some(Pending::Parts { mut unfinished, may_have_duplicate, parts, size }) => {
                if let Err(error) = client.complete_multipart(&path, &unfinished.id, &parts, size).await {
                    self.abort(object, unfinished, may_have_duplicate).await;
                    let error = cannot_write(error);
                    self.note_leftover(object, &error);
                    return Err(error);
                }
                unfinished.path = None;
                if may_have_duplicate && let Err(error) = client.abort_all_multiparts(&path).await {
                    tracing::error!(%error, image = object.image_id, "cannot abort a multipart upload now");
                }
            }
        }
        Ok(hold)
    }

    async fn get(&self, url: &LocationUrl, range: Option<Range<u64>>) -> Result<Blob> {
        let (client, path) = (self.client()?, path_of_url(url)?);
        if range.as_ref().is_some_and(Range::is_empty) {
            let size = client.head(&path).await.map_err(cannot_read)?;
            return Ok(Blob { size: Some(size), data: Box::pin(futures_util::stream::empty()) });
        }
        let response = client.get(&path, range.as_ref(), None).await.map_err(cannot_read)?;
        let (size, range) = match range {
            None => (content_length(&response), content_length(&response).map(|size| 0..size)),
            Some(range) => (Some(check_range(SERVER, &response, &range)?), Some(range)),
        };
        let object = OpenedS3Object {
            client: Arc::clone(client),
            path,
            etag: response.headers().get(header::ETAG).cloned(),
            retries: 0,
            crc32: client::crc32(&response).map(|expected| (crc32fast::Hasher::new(), expected)),
        };
        Ok(Blob { size, data: read_object(object, response, range) })
    }

    async fn delete(&self, url: &LocationUrl) -> Result<()> {
        let (client, path) = (self.client()?, path_of_url(url)?);
        // The response to a deletion does not show whether there was an object.
        let deleted = match client.head(&path).await {
            Ok(_) => client.delete(&path).await,
            Err(error) => Err(error),
        };
        deleted.map_err(|error| match error.status() {
            Some(StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED) => {
                tracing::error!(%error, "the S3 server denied the deletion of an object");
                Error::DeleteDenied("You cannot delete the image's object in its S3 store".to_owned())
            }
            _ => cannot_read(error),
        })
    }

    async fn size(&self, url: &LocationUrl) -> Result<u64> {
        self.client()?.head(&path_of_url(url)?).await.map_err(cannot_read)
    }

    async fn unfinished(&self, _: Duration) -> Result<Vec<Object>> {
        Ok(Vec::new())
    }

    async fn discard(&self, object: &Object, hold: Option<Hold>) -> Result<()> {
        if let Some(Pending::Parts { unfinished, may_have_duplicate, .. }) = self.take_pending(object) {
            self.abort(object, unfinished, may_have_duplicate).await;
        }
        // Without a hold, other multipart uploads of the image are left alone: they can belong to its next upload.
        let Some(hold) = hold else { return Ok(()) };
        let (client, path) = (self.client()?, self.path_of_image(&object.image_id));
        let discarded = async {
            self.discard_parts(object).await?;
            match client.delete(&path).await {
                Err(error) if error.has_code("NoSuchBucket") => Ok(()),
                deleted => deleted.map_err(cannot_write),
            }
        };
        let discarded = discarded.await;
        hold.release().await;
        discarded
    }

    async fn probe(&self, object: &Object) -> Result<()> {
        let head = self.client()?.head(&self.path_of_image(&object.image_id)).await.map_err(cannot_read);
        match head {
            Err(Error::NotFound) => Ok(()),
            head => head.map(drop),
        }
    }

    async fn discard_parts(&self, object: &Object) -> Result<()> {
        let (client, path) = (self.client()?, self.path_of_image(&object.image_id));
        let aborted = tokio::time::timeout(ABORT_TIMEOUT, client.abort_all_multiparts(&path)).await;
        match aborted.map_err(|_| Error::Unavailable("the S3 server takes too long".into()))? {
            Err(error) if error.has_code("NoSuchBucket") => Ok(()),
            aborted => aborted.map_err(cannot_write),
        }
    }

    fn take_leftovers(&self, object: &Object) -> bool {
        self.leftovers.take(object)
    }
}

/// A multipart upload in progress. It is aborted when it is dropped, unless its path was taken out of it.
struct Unfinished {
    client: Arc<Client>,
    path: Option<ObjectPath>,
    id: String,
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        let (Some(path), Ok(runtime)) = (self.path.take(), tokio::runtime::Handle::try_current()) else { return };
        let (client, id) = (Arc::clone(&self.client), std::mem::take(&mut self.id));
        runtime.spawn(async move {
            if let Err(error) = client.abort_multipart(&path, &id).await {
                tracing::error!(%error, image = path.key, "cannot abort a multipart upload now");
            }
        });
    }
}

/// A part that is being filled, with its permit for the space that all uploads share.
struct Part {
    payload: PayloadBuilder,
    space: SemaphorePermit<'static>,
}

impl Part {
    /// Waits until there is space for a part of `bytes` bytes: in memory, or after a while in a temporary file.
    async fn reserve(bytes: u64, has_checksum: bool) -> Result<Self> {
        let mebibytes = |limit: u32| u32::try_from(bytes.div_ceil(MIB)).unwrap_or(limit).clamp(1, limit);
        let no_permit = |error: AcquireError| Error::Unavailable(error.into());
        let mut memory = std::pin::pin!(FREE_MEMORY.acquire_many(mebibytes(MAX_MEMORY)));
        let in_memory = |space: Result<_, _>| {
            Ok(Self { payload: PayloadBuilder::new(Body::default(), has_checksum), space: space.map_err(no_permit)? })
        };
        if let Ok(space) = tokio::time::timeout(MEMORY_WAIT, &mut memory).await {
            return in_memory(space);
        }
        let space = tokio::select! {
            biased;
            space = &mut memory => return in_memory(space),
            space = FREE_FILES.acquire_many(mebibytes(MAX_FILES)) => space.map_err(no_permit)?,
        };
        let folder = std::env::temp_dir();
        match Body::in_file(&folder).await {
            Ok(body) => Ok(Self { payload: PayloadBuilder::new(body, has_checksum), space }),
            Err(error) => {
                tracing::warn!(%error, folder = %folder.display(), "cannot create a temporary file; waiting for memory");
                in_memory(memory.await)
            }
        }
    }

    /// Moves received bytes into the part, until it has `wanted` bytes.
    async fn fill(&mut self, source: &mut Source, wanted: u64) -> Result<()> {
        while let left @ 1.. = wanted.saturating_sub(self.payload.len())
            && let Some(frame) = source.take(left)
        {
            self.payload.push(frame);
        }
        self.payload.flush().await.map_err(cannot_buffer)
    }

    fn finish(self) -> (Payload, SemaphorePermit<'static>) {
        (self.payload.finish(), self.space)
    }
}

/// Sends the parts of a multipart upload, several at a time.
struct PartSender {
    client: Arc<Client>,
    path: ObjectPath,
    upload_id: String,
    max_in_flight: usize,
    tasks: JoinSet<(usize, client::Result<UploadedPart>)>,
    /// The parts, `None` for one in flight.
    parts: Vec<Option<UploadedPart>>,
    /// The number of parts that were sent or are in flight.
    count: u64,
}

impl PartSender {
    fn new(client: Arc<Client>, path: ObjectPath, upload_id: String, max_in_flight: usize) -> Self {
        Self { client, path, upload_id, max_in_flight, tasks: JoinSet::new(), parts: Vec::new(), count: 0 }
    }

    /// Waits for other work while parts are in flight, and fails if one of them fails.
    async fn wait_for<T>(&mut self, work: impl Future<Output = T>) -> Result<T> {
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return Ok(done),
                Some(sent) = self.tasks.join_next() => self.record(sent)?,
            }
        }
    }

    fn record(&mut self, sent: Result<(usize, client::Result<UploadedPart>), tokio::task::JoinError>) -> Result<()> {
        let (at, part) = sent.map_err(|error| Error::Unavailable(error.into()))?;
        self.parts[at] = Some(part.map_err(cannot_write)?);
        Ok(())
    }

    async fn send(&mut self, part: Part) -> Result<()> {
        while self.tasks.len() >= self.max_in_flight
            && let Some(sent) = self.tasks.join_next().await
        {
            self.record(sent)?;
        }
        let at = self.parts.len();
        self.parts.push(None);
        self.count += 1;
        let (client, path, id) = (Arc::clone(&self.client), self.path.clone(), self.upload_id.clone());
        self.tasks.spawn(async move {
            let (payload, _space) = part.finish();
            (at, client.put_part(&path, &id, at + 1, payload).await)
        });
        Ok(())
    }

    /// Waits for the parts in flight, and returns all parts in order.
    async fn finish(&mut self) -> Result<Vec<UploadedPart>> {
        while let Some(sent) = self.tasks.join_next().await {
            self.record(sent)?;
        }
        let parts: Option<Vec<UploadedPart>> = self.parts.drain(..).collect();
        parts.ok_or_else(|| Error::Unavailable("a part was not sent".into()))
    }
}

/// An object that is read.
struct OpenedS3Object {
    client: Arc<Client>,
    path: ObjectPath,
    etag: Option<header::HeaderValue>,
    /// The number of retries since the last bytes were received.
    retries: usize,
    /// The checksum of the bytes that were read, and the one that the server reports for the whole object.
    crc32: Option<(crc32fast::Hasher, u32)>,
}

impl OpenedObject for OpenedS3Object {
    const SERVER: &'static str = SERVER;

    fn name(&self) -> &str {
        &self.path.key
    }

    /// Without an entity tag, another request could continue with a different version of the object.
    async fn may_reopen(&mut self) -> bool {
        let may_reopen = self.etag.is_some() && pause_before_retry(self.retries).await;
        self.retries += 1;
        may_reopen
    }

    async fn reopen(&mut self, unread: &Range<u64>) -> Result<Response, BoxError> {
        let response = self.client.get(&self.path, Some(unread), self.etag.as_ref()).await?;
        check_range(SERVER, &response, unread)?;
        Ok(response)
    }

    /// Adds the bytes to the checksum. The last bytes are not passed on if the checksum is wrong.
    fn observe(&mut self, bytes: &[u8], is_last: bool) -> Result<(), BoxError> {
        self.retries = 0;
        let Some((hash, expected)) = &mut self.crc32 else { return Ok(()) };
        hash.update(bytes);
        if is_last && hash.clone().finalize() != *expected {
            tracing::error!(image = self.path.key, "a download is truncated: the object does not have its checksum");
            return Err("the object does not have the checksum that the S3 server reports".into());
        }
        Ok(())
    }
}

fn path_of_url(url: &LocationUrl) -> Result<ObjectPath> {
    let (bucket, key) = location::bucket_and_key(url)?;
    Ok(ObjectPath { bucket: bucket.to_owned(), key: key.to_owned() })
}

fn cannot_buffer(error: std::io::Error) -> Error {
    tracing::error!(%error, folder = %std::env::temp_dir().display(), "cannot keep a part in a temporary file");
    Error::Unavailable(error.into())
}

fn cannot_read(error: S3Error) -> Error {
    match error.status() {
        Some(StatusCode::NOT_FOUND) => Error::NotFound,
        _ => Error::Unavailable(error.into()),
    }
}

fn cannot_write(error: S3Error) -> Error {
    let is_full = ["QuotaExceeded", "EntityTooLarge", "XMinioStorageFull"].iter().any(|code| error.has_code(code));
    match error.status() {
        Some(StatusCode::INSUFFICIENT_STORAGE) => Error::Full,
        _ if is_full => Error::Full,
        Some(StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED) => {
            tracing::error!(%error, "the S3 server denied the upload of an object");
            Error::WriteDenied
        }
        _ => Error::Unavailable(error.into()),
    }
}
