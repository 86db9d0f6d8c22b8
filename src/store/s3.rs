//! The driver `s3`: an object in a bucket, with the image's id as its key.
//!
//! What is larger than a part is stored in parts, several at a time; nobody can read them before they are joined. Each part is
//! in memory until the server has it, so that it can be sent again; all uploads together have a bound for that, and take turns.
//!
//! An upload in parts that was cut off stays on the server, out of sight, and carries the image's id alone: it cannot be told
//! from one of a Glance beside us. So it is looked for where an upload is known to have been cut off, and nowhere else.

mod client;
mod signature;

use std::{
    collections::{HashMap, VecDeque},
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use futures_util::StreamExt as _;
use reqwest::{Response, StatusCode, header};
use serde_json::{Map, Value};
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    task::JoinSet,
};

use self::client::{Client, Gathering, PATIENCE, Payload, Place, S3Error};
use super::{Blob, Driver, Error, Hold, Left, Object, Result, Stored, location};
use crate::{
    config::S3Store,
    model::LocationUrl,
    stream::{BoxError, Chunks, Cut},
};

const MIB: u64 = 1 << 20;
/// MiB of parts that are in memory at a time, of all uploads together. A part above that counts as so many.
const MEMORY: u32 = 112;
static MEMORY_LEFT: Semaphore = Semaphore::const_new(MEMORY as usize);
/// Parts of an object at the most.
const MAX_PARTS: u64 = 10_000;
/// Parts after which the parts of an object of unknown size grow by the size of the first: so they are enough for 1 TiB.
const GROW_EVERY: u64 = 500;
/// How long parts on their way are waited for, when their upload is given up.
const LAST_PARTS: Duration = Duration::from_secs(10);
/// Bytes of a part at the most.
const MAX_PART: u64 = 5 << 30;

/// A bucket.
pub(super) struct S3Driver {
    /// The store's name, where it has one: Glance writes it into the location's metadata.
    name: Option<String>,
    /// How the URLs of its objects begin.
    prefix: String,
    bucket: String,
    create_bucket: bool,
    large_object_size: u64,
    chunk_size: u64,
    at_a_time: usize,
    client: Result<Arc<Client>, String>,
    /// Uploads that could not be given up on the server, or whose object may be there although that failed.
    left: Left,
    /// What was stored and is not in its place yet, by the uploads' ids.
    waiting: Mutex<HashMap<String, Waiting>>,
}

/// An object that nobody can read yet.
enum Waiting {
    /// In memory, which is counted.
    Whole(Payload, SemaphorePermit<'static>),
    /// On the server, in parts with these entity tags and so many bytes.
    Parts { unfinished: Unfinished, may_be_twice: bool, etags: Vec<String>, size: u64 },
}

impl S3Driver {
    /// What is wrong with the options is kept: Glance's other stores go on, too.
    pub(super) fn open(name: Option<&str>, options: &S3Store) -> Self {
        let host = options.s3_store_host.as_deref().unwrap_or_default();
        let (scheme, host) = match (host.strip_prefix("https://"), host.strip_prefix("http://")) {
            (Some(host), _) => ("s3+https", host),
            (None, host_alone) => ("s3", host_alone.unwrap_or(host)),
        };
        let bucket = options.s3_store_bucket.clone().unwrap_or_default();
        Self {
            name: name.map(str::to_owned),
            prefix: format!("{scheme}://{}/{bucket}/", host.trim_matches('/')),
            bucket,
            create_bucket: options.s3_store_create_bucket_on_put,
            large_object_size: u64::from(options.s3_store_large_object_size) * MIB,
            chunk_size: u64::from(options.s3_store_large_object_chunk_size) * MIB,
            at_a_time: usize::try_from(options.s3_store_thread_pools).unwrap_or(usize::MAX),
            client: Client::open(options).map(Arc::new),
            left: Left::default(),
            waiting: Mutex::default(),
        }
    }

    /// Why it cannot be used, if it cannot.
    pub(super) fn fault(&self) -> Option<&str> {
        self.client.as_ref().err().map(String::as_str)
    }

    /// How the URLs of its locations begin, by which Glance finds the store of a location that names none.
    pub(super) fn owns(&self, url: &LocationUrl) -> bool {
        url.expose().starts_with(&self.prefix)
    }

    /// What an admin is shown of it.
    pub(super) fn properties(&self) -> Map<String, Value> {
        let mut properties = Map::new();
        properties.insert("s3_store_large_object_size".to_owned(), self.large_object_size.into());
        properties.insert("s3_store_large_object_chunk_size".to_owned(), self.chunk_size.into());
        properties.insert("s3_store_thread_pools".to_owned(), self.at_a_time.into());
        properties
    }

    fn wait(&self, object: &Object, waiting: Waiting) {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).insert(object.upload_id.clone(), waiting);
    }

    fn waiting(&self, object: &Object) -> Option<Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&object.upload_id)
    }

    fn client(&self) -> Result<&Arc<Client>> {
        self.client.as_ref().map_err(|_| Error::NoStore)
    }

    fn place_of(&self, image_id: &str) -> Place {
        Place { bucket: self.bucket.clone(), key: image_id.to_owned() }
    }

    /// Does what needs the bucket; where it is missing, and may be made, makes it first.
    async fn in_bucket<T, F: Future<Output = client::Result<T>>>(&self, work: impl Fn() -> F) -> Result<T> {
        let client = self.client()?;
        match work().await {
            Err(error) if error.is("NoSuchBucket") => {
                if !self.create_bucket {
                    tracing::error!(
                        bucket = self.bucket,
                        "the bucket is missing, and s3_store_create_bucket_on_put is off"
                    );
                    return Err(Error::Unavailable(error.into()));
                }
                client.create_bucket(&self.bucket).await.map_err(cannot_write)?;
                work().await.map_err(cannot_write)
            }
            done => done.map_err(cannot_write),
        }
    }

    /// Bytes of the part with this number, from 0.
    fn part_size(&self, number: u64, size: u64) -> u64 {
        let part = match size {
            0 => self.chunk_size.saturating_mul(1 + number / GROW_EVERY),
            size => self.chunk_size.max(size.div_ceil(MAX_PARTS)),
        };
        part.min(MAX_PART)
    }

    /// Stores an object whose first part is there already, in parts, which are not joined yet.
    async fn put_parts(&self, object: &Object, source: &mut Source, first: Part, size: u64) -> Result<()> {
        let (client, place) = (self.client()?, self.place_of(&object.image_id));
        let multipart = self.in_bucket(|| client.begin(&place)).await?;
        let may_be_twice = multipart.may_be_twice;
        let unfinished = Unfinished { client: Arc::clone(client), place: Some(place.clone()), id: multipart.upload_id };
        let mut sending = Sending::start(Arc::clone(client), place, unfinished.id.clone(), self.at_a_time);
        let sent = async {
            sending.send(first).await?;
            while sending.beside(source.has_more()).await?? {
                let wanted = self.part_size(sending.number, size);
                let left = if size == 0 { wanted } else { size.saturating_sub(source.taken).max(1) };
                let mut part = sending.beside(source.unless_cut(Part::reserve(wanted.min(left)))).await???;
                while part.gathering.len < wanted && sending.beside(source.has_more()).await?? {
                    source.pour(&mut part, wanted);
                }
                sending.send(part).await?;
            }
            sending.finish().await
        };
        let sent = sent.await;
        if sent.is_err() {
            // A part that arrives after its upload was given up stays on the server.
            let ended = async { while sending.tasks.join_next().await.is_some() {} };
            let _ = tokio::time::timeout(LAST_PARTS, ended).await;
        }
        sending.tasks.shutdown().await;
        match sent {
            Ok(etags) => {
                self.wait(object, Waiting::Parts { unfinished, may_be_twice, etags, size: source.taken });
                Ok(())
            }
            Err(error) => {
                self.give_up(object, unfinished, may_be_twice).await;
                Err(error)
            }
        }
    }

    /// What the server did not refuse, it may have.
    fn note_left(&self, object: &Object, error: &Error) {
        if matches!(error, Error::Unavailable(_)) {
            self.left.note(object);
        }
    }

    /// Removes the parts of an upload.
    async fn give_up(&self, object: &Object, mut unfinished: Unfinished, may_be_twice: bool) {
        let Some(place) = unfinished.place.take() else { return };
        // Where the answer to its begin was lost, there is another one.
        let given_up = match may_be_twice {
            true => unfinished.client.abort_all(&place).await,
            false => unfinished.client.abort(&place, &unfinished.id).await,
        };
        if let Err(error) = given_up {
            tracing::error!(%error, image = object.image_id, "parts of an upload cannot be removed now");
            self.left.note(object);
        }
    }
}

impl Driver for S3Driver {
    async fn put(&self, object: &Object, data: Chunks, size: u64) -> Result<Stored> {
        self.client().map_err(|_| Error::ReadOnly)?;
        let mut source = Source::new(data);
        let wanted = self.part_size(0, size);
        let mut part = source.unless_cut(Part::reserve(if size == 0 { wanted } else { wanted.min(size) })).await??;
        while part.gathering.len < wanted && source.has_more().await? {
            source.pour(&mut part, wanted);
        }
        let is_whole = !source.has_more().await?;
        // Without a byte there is no part.
        if is_whole && (part.gathering.len < self.large_object_size || part.gathering.len == 0) {
            let (payload, memory) = part.finish();
            self.wait(object, Waiting::Whole(payload, memory));
        } else {
            self.put_parts(object, &mut source, part, size).await?;
        }
        let mut metadata = Map::new();
        if let Some(name) = &self.name {
            metadata.insert("store".to_owned(), name.clone().into());
        }
        Ok(Stored { url: format!("{}{}", self.prefix, object.image_id).into(), metadata })
    }

    /// Parts that were removed meanwhile, because the upload was taken for dead, cannot be joined.
    async fn place(&self, object: &Object, _: &Stored, hold: Hold) -> Result<Hold> {
        let (client, place) = (self.client()?, self.place_of(&object.image_id));
        match self.waiting(object) {
            None => {}
            Some(Waiting::Whole(payload, _memory)) => {
                let put = self.in_bucket(|| client.put(&place, payload.clone())).await;
                put.inspect_err(|error| self.note_left(object, error))?;
            }
            Some(Waiting::Parts { mut unfinished, may_be_twice, etags, size }) => {
                if let Err(error) = client.join(&place, &unfinished.id, &etags, size).await {
                    self.give_up(object, unfinished, may_be_twice).await;
                    let error = cannot_write(error);
                    self.note_left(object, &error);
                    return Err(error);
                }
                unfinished.place = None;
                if may_be_twice && let Err(error) = client.abort_all(&place).await {
                    tracing::error!(%error, image = object.image_id, "parts of an upload cannot be removed now");
                }
            }
        }
        Ok(hold)
    }

    async fn get(&self, url: &LocationUrl, range: Option<Range<u64>>) -> Result<Blob> {
        let (client, place) = (self.client()?, place_of(url)?);
        if range.as_ref().is_some_and(Range::is_empty) {
            let size = client.head(&place).await.map_err(cannot_read)?;
            return Ok(Blob { size: Some(size), data: Box::pin(futures_util::stream::empty()) });
        }
        let response = client.get(&place, range.as_ref(), None).await.map_err(cannot_read)?;
        let etag = response.headers().get(header::ETAG).cloned();
        let (size, range) = match range {
            None => (client::length(&response), 0..client::length(&response).unwrap_or(u64::MAX)),
            Some(range) => (Some(check_range(&response, &range)?), range),
        };
        let reading =
            Reading { client: Arc::clone(client), place, etag, left: range, response: Some(response), tries: 0 };
        let known = size.is_some();
        let data = futures_util::stream::try_unfold(reading, move |mut reading| async move {
            let part = reading.next(known).await?;
            Ok::<_, BoxError>(part.map(|part| (part, reading)))
        });
        Ok(Blob { size, data: data.boxed() })
    }

    async fn delete(&self, url: &LocationUrl) -> Result<()> {
        let (client, place) = (self.client()?, place_of(url)?);
        // The answer to a removal does not tell whether there was something.
        let removed = match client.head(&place).await {
            Ok(_) => client.delete(&place).await,
            Err(error) => Err(error),
        };
        removed.map_err(|error| match error.status() {
            Some(StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED) => {
                tracing::error!(%error, "an object may not be removed");
                Error::DeleteDenied("You cannot delete the image's object in its S3 store".to_owned())
            }
            _ => cannot_read(error),
        })
    }

    async fn size(&self, url: &LocationUrl) -> Result<u64> {
        self.client()?.head(&place_of(url)?).await.map_err(cannot_read)
    }

    async fn unfinished(&self, _: Duration) -> Result<Vec<Object>> {
        Ok(Vec::new())
    }

    async fn discard(&self, object: &Object, hold: Option<Hold>) -> Result<()> {
        if let Some(Waiting::Parts { unfinished, may_be_twice, .. }) = self.waiting(object) {
            self.give_up(object, unfinished, may_be_twice).await;
        }
        // Other parts that are there may be those of the image's next upload, unless it is held.
        let Some(hold) = hold else { return Ok(()) };
        let (client, place) = (self.client()?, self.place_of(&object.image_id));
        let discarded = async {
            client.abort_all(&place).await?;
            client.delete(&place).await
        };
        let discarded = discarded.await;
        hold.release().await;
        match discarded {
            Err(error) if error.is("NoSuchBucket") => Ok(()),
            discarded => discarded.map_err(cannot_write),
        }
    }

    fn take_left(&self, object: &Object) -> bool {
        self.left.take(object)
    }
}

/// An upload in parts that is under way. Dropped before its end, it is given up.
struct Unfinished {
    client: Arc<Client>,
    place: Option<Place>,
    id: String,
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        let (Some(place), Ok(runtime)) = (self.place.take(), tokio::runtime::Handle::try_current()) else { return };
        let (client, id) = (Arc::clone(&self.client), std::mem::take(&mut self.id));
        runtime.spawn(async move {
            if let Err(error) = client.abort(&place, &id).await {
                tracing::error!(%error, image = place.key, "parts of an upload cannot be removed now");
            }
        });
    }
}

/// Data that comes, and what of it was not taken yet.
struct Source {
    data: Chunks,
    waiting: VecDeque<Bytes>,
    ended: bool,
    /// Bytes that were taken.
    taken: u64,
}

impl Source {
    fn new(data: Chunks) -> Self {
        Self { data, waiting: VecDeque::new(), ended: false, taken: 0 }
    }

    /// Waits for more. It may be dropped at any time.
    async fn has_more(&mut self) -> Result<bool, Cut> {
        while self.waiting.is_empty() && !self.ended {
            match self.data.next().await? {
                Some(chunk) => self.waiting.extend(chunk.shared()),
                None => self.ended = true,
            }
        }
        Ok(!self.waiting.is_empty())
    }

    /// Waits for something else, unless the data breaks off meanwhile.
    async fn unless_cut<T>(&mut self, work: impl Future<Output = T>) -> Result<T, Cut> {
        let mut work = std::pin::pin!(work);
        tokio::select! {
            done = &mut work => return Ok(done),
            end = self.data.end() => end?,
        }
        Ok(work.await)
    }

    /// Moves what is there into a part, up to so many bytes.
    fn pour(&mut self, part: &mut Part, wanted: u64) {
        while part.gathering.len < wanted
            && let Some(mut frame) = self.waiting.pop_front()
        {
            let room = usize::try_from(wanted - part.gathering.len).unwrap_or(usize::MAX);
            if frame.len() > room {
                self.waiting.push_front(frame.split_off(room));
            }
            self.taken += frame.len() as u64;
            part.gathering.push(frame);
        }
    }
}

/// A part that is gathered, in the memory that all uploads share.
struct Part {
    gathering: Gathering,
    memory: SemaphorePermit<'static>,
}

impl Part {
    /// Waits until there is room for so many bytes.
    async fn reserve(bytes: u64) -> Result<Self> {
        let mebibytes = u32::try_from(bytes.div_ceil(MIB)).unwrap_or(MEMORY).clamp(1, MEMORY);
        let memory = MEMORY_LEFT.acquire_many(mebibytes).await.map_err(|error| Error::Unavailable(error.into()))?;
        Ok(Self { gathering: Gathering::new(), memory })
    }

    fn finish(self) -> (Payload, SemaphorePermit<'static>) {
        (self.gathering.finish(), self.memory)
    }
}

/// Parts on their way, several at a time.
struct Sending {
    client: Arc<Client>,
    place: Place,
    upload_id: String,
    at_a_time: usize,
    tasks: JoinSet<(usize, client::Result<String>)>,
    /// The entity tags of those that are there.
    etags: Vec<Option<String>>,
    /// How many were sent or are on their way.
    number: u64,
}

impl Sending {
    fn start(client: Arc<Client>, place: Place, upload_id: String, at_a_time: usize) -> Self {
        Self { client, place, upload_id, at_a_time, tasks: JoinSet::new(), etags: Vec::new(), number: 0 }
    }

    /// Waits for something while parts are on their way; ends when one of them fails.
    async fn beside<T>(&mut self, work: impl Future<Output = T>) -> Result<T> {
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return Ok(done),
                Some(sent) = self.tasks.join_next() => self.note(sent)?,
            }
        }
    }

    fn note(&mut self, sent: Result<(usize, client::Result<String>), tokio::task::JoinError>) -> Result<()> {
        let (at, etag) = sent.map_err(|error| Error::Unavailable(error.into()))?;
        self.etags[at] = Some(etag.map_err(cannot_write)?);
        Ok(())
    }

    async fn send(&mut self, part: Part) -> Result<()> {
        while self.tasks.len() >= self.at_a_time
            && let Some(sent) = self.tasks.join_next().await
        {
            self.note(sent)?;
        }
        let at = self.etags.len();
        self.etags.push(None);
        self.number += 1;
        let (client, place, id) = (Arc::clone(&self.client), self.place.clone(), self.upload_id.clone());
        self.tasks.spawn(async move {
            let (payload, _memory) = part.finish();
            (at, client.put_part(&place, &id, at + 1, payload).await)
        });
        Ok(())
    }

    /// Waits for the last ones, and returns all entity tags, in order.
    async fn finish(&mut self) -> Result<Vec<String>> {
        while let Some(sent) = self.tasks.join_next().await {
            self.note(sent)?;
        }
        let etags: Option<Vec<String>> = self.etags.drain(..).collect();
        etags.ok_or_else(|| Error::Unavailable("a part was not sent".into()))
    }
}

/// An object that is read. Where the connection breaks off, it goes on from there with another.
struct Reading {
    client: Arc<Client>,
    place: Place,
    etag: Option<header::HeaderValue>,
    /// The bytes that are still to come.
    left: Range<u64>,
    response: Option<Response>,
    /// How often it broke off since the last byte came.
    tries: usize,
}

impl Reading {
    /// The next bytes; `known` says whether the end is.
    async fn next(&mut self, known: bool) -> Result<Option<Bytes>, BoxError> {
        loop {
            if self.left.is_empty() {
                return Ok(None);
            }
            let read = match &mut self.response {
                Some(response) => match tokio::time::timeout(PATIENCE, response.chunk()).await {
                    Ok(read) => read.map_err(|error| error.without_url().into()),
                    Err(_) => Err(BoxError::from("the S3 server is silent")),
                },
                None => Err("the S3 server broke off".into()),
            };
            let error = match read {
                Ok(Some(bytes)) if bytes.len() as u64 <= self.left.end - self.left.start => {
                    self.left.start += bytes.len() as u64;
                    self.tries = 0;
                    return Ok(Some(bytes));
                }
                Ok(Some(_)) => return Err("the S3 server sends more than it should".into()),
                Ok(None) if !known => return Ok(None),
                Ok(None) => "the S3 server sends less than it should".into(),
                Err(error) => error,
            };
            // Another version of the object must not be taken for its end.
            if self.etag.is_none() || !known || !client::pause(self.tries).await {
                tracing::error!(%error, image = self.place.key, "an image's data is cut off");
                return Err(error);
            }
            self.tries += 1;
            tracing::warn!(%error, image = self.place.key, from = self.left.start, "an object is read on with another request");
            self.response = None;
            let response = self.client.get(&self.place, Some(&self.left), self.etag.as_ref()).await?;
            check_range(&response, &self.left)?;
            self.response = Some(response);
        }
    }
}

/// Checks that the answer is the part that was asked for, and returns the size of the whole.
fn check_range(response: &Response, asked: &Range<u64>) -> Result<u64> {
    let odd = || Error::Unavailable("the S3 server sends another part than it was asked for".into());
    if response.status() != StatusCode::PARTIAL_CONTENT {
        return Err(odd());
    }
    let value = response.headers().get(header::CONTENT_RANGE).and_then(|value| value.to_str().ok());
    let (part, size) = value.and_then(|value| value.strip_prefix("bytes ")?.split_once('/')).ok_or_else(odd)?;
    if part != format!("{}-{}", asked.start, asked.end - 1) {
        return Err(odd());
    }
    size.parse().map_err(|_| odd())
}

fn place_of(url: &LocationUrl) -> Result<Place> {
    let (bucket, key) = location::bucket_and_key(url)?;
    Ok(Place { bucket: bucket.to_owned(), key: key.to_owned() })
}

fn cannot_read(error: S3Error) -> Error {
    match error.status() {
        Some(StatusCode::NOT_FOUND) => Error::NotFound,
        _ => Error::Unavailable(error.into()),
    }
}

fn cannot_write(error: S3Error) -> Error {
    let is_full = ["QuotaExceeded", "EntityTooLarge", "XMinioStorageFull"].iter().any(|code| error.is(code));
    match error.status() {
        Some(StatusCode::INSUFFICIENT_STORAGE) => Error::Full,
        _ if is_full => Error::Full,
        Some(StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED) => {
            tracing::error!(%error, "an object may not be stored");
            Error::WriteDenied
        }
        _ => Error::Unavailable(error.into()),
    }
}
