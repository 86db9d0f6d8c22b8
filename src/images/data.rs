//! An image's data: in and out.
//!
//! An upload holds its image by a row of its own (`db::uploads`). What it has begun is undone by whoever takes that row: by
//! itself when something goes wrong, by another process when this one was killed. What is in an image's place in a store is
//! changed only by who has a hold on the place (`store::Hold`), and found the row their own since they have it: so an
//! active image's data is the one that it became active with, however long somebody stalls.

use std::{ops::Range, pin::pin, sync::Arc};

use bytes::Bytes;
use futures_util::StreamExt as _;
use uuid::Uuid;

use super::{facts::Observers, range::Asked};
use crate::policy::rule;
use crate::{
    access,
    app::App,
    context::Context,
    db::{self, uploads},
    error::{Error, Result, with_causes},
    limits::{Resource, StorageLeft},
    model::{DataFacts, Image, ImageId, Location, LocationStatus, RequestedId, Status, check_described, may_become},
    store::{self, Hold, Object, Store, Stored},
    stream::{self, Broken, ByteStream, Demand},
};

/// Data that somebody sends.
pub(crate) struct NewData {
    /// The store that they chose.
    pub(crate) store: Option<String>,
    /// The size that they say it has. Glance takes 0 for not saying.
    pub(crate) size: Option<i64>,
    /// The bytes.
    pub(crate) data: ByteStream,
}

/// Takes an image's data in. It goes on to its good or bad end also when the caller stops waiting for it. Twelve
/// statements.
///
/// # Errors
/// `Invalid`, `NotFound`, `Forbidden`, `Conflict` when the image does not wait for data, `LimitExceeded`, `Gone` when the
/// image was deleted meanwhile, `StoreUnavailable`.
pub(crate) async fn upload(app: &Arc<App>, context: &Context, id: &RequestedId, new: NewData) -> Result<()> {
    let mebibytes = new.size.and_then(|size| u64::try_from(size).ok()).unwrap_or_default() >> 20;
    app.limits.enforce(&app.db, context, Resource::SizeTotal, mebibytes).await?;
    let store = chosen_store(app, new.store.as_deref())?;
    let requested = id.clone();
    let id = requested.id().ok_or_else(|| not_found(&requested))?;
    let upload = Upload { app: Arc::clone(app), context: context.clone(), requested, id, store };
    let span = tracing::Span::current();
    let (supply, demand) = stream::apart(new.data);
    let mut work = app.work.spawn(tracing::Instrument::instrument(upload.run(new.size, demand), span));
    let ended = tokio::select! {
        ended = &mut work => ended,
        () = supply.send() => work.await,
    };
    ended.map_err(|error| Error::Internal(error.into()))?
}

/// The store that the client chose, where stores have names; else the one for uploads.
fn chosen_store(app: &App, chosen: Option<&str>) -> Result<Arc<Store>> {
    match chosen.filter(|_| app.stores.are_named) {
        None => Ok(app.stores.default()),
        Some(id) => app.stores.named(id).ok_or_else(|| Error::Invalid(format!("Store for identifier {id} not found"))),
    }
}

struct Upload {
    app: Arc<App>,
    context: Context,
    requested: RequestedId,
    id: ImageId,
    store: Arc<Store>,
}

impl Upload {
    async fn run(self, said: Option<i64>, data: Demand) -> Result<()> {
        let record = uploads::Upload {
            image_id: self.id.clone(),
            upload_id: Uuid::new_v4().to_string(),
            process_id: self.app.process.id.clone(),
            store: self.store.id.clone(),
        };
        // While this lives, the upload is not taken for one that was cut off.
        let _alive = self.app.process.is_busy_with(&record.upload_id);
        let image = bounded(&self.app, self.begin(&record, said)).await?;
        let object = Object { image_id: image.id.to_string(), upload_id: record.upload_id.clone() };
        let (stored, size, observers) = match self.transfer(&image, &object, said, data).await {
            Ok(done) => done,
            Err(error) => {
                // The store keeps nothing of what failed, unless it cannot be reached.
                let is_left = self.store.take_left(&object);
                self.undo(&record, is_left).await.or_else(later)?;
                return Err(error);
            }
        };
        let facts = async {
            let facts = observers.facts(size).await?;
            // Of two uploads that fit alone, both may not.
            self.admit(Some(size)).await?;
            Ok(facts)
        };
        match facts.await {
            Ok(facts) => self.finish(&object, &record, &stored, &facts).await,
            Err(error) => {
                let is_left = self.discard(&object).await;
                self.undo(&record, is_left).await.or_else(later)?;
                Err(error)
            }
        }
    }

    /// Takes the image for this upload. Five statements.
    async fn begin(&self, record: &uploads::Upload, size: Option<i64>) -> Result<Image> {
        let (app, id) = (&*self.app, &self.requested);
        app.db
            .transaction(|mut tx| async move {
                let image = access::find_locked(app, &mut tx, &self.context, id).await?;
                let image = image.ok_or_else(|| not_found(id))?;
                access::authorise(app, &self.context, &image, rule::UPLOAD_IMAGE)?;
                access::check_mutable(&self.context, &image)?;
                check_waits(&image)?;
                let cap = app.config.default.image_size_cap;
                if size.and_then(|size| u64::try_from(size).ok()).is_some_and(|size| size > cap) {
                    return Err(too_large());
                }
                if !db::locations::of(&mut tx, &image.id).await?.is_empty() {
                    return Err(Error::Conflict(format!("Image {id} has data already.")));
                }
                if !db::images::set_status(&mut tx, &image, Status::Saving, app.now()).await? {
                    return Err(Error::Conflict(transition(Status::Saving)));
                }
                uploads::begin(&mut tx, record).await?;
                Ok((tx, image.image))
            })
            .await
    }

    /// Checks that the project may store so many bytes, and says how many it may store at the most.
    async fn admit(&self, size: Option<u64>) -> Result<StorageLeft> {
        let left = self.app.limits.storage_left(&self.app.db, &self.context, &self.id).await?;
        left.admits(size).map_err(over_quota)?;
        Ok(left)
    }

    /// Moves the data into the store, past those who find out what it is. Returns its size, too.
    async fn transfer(
        &self,
        image: &Image,
        object: &Object,
        said: Option<i64>,
        data: Demand,
    ) -> Result<(Stored, u64, Observers)> {
        let options = &self.app.config;
        // The image counts already.
        self.app.limits.enforce(&self.app.db, &self.context, Resource::CountUploading, 0).await?;
        let size = said.and_then(|size| u64::try_from(size).ok()).filter(|size| *size > 0);
        let left = self.admit(size).await?;
        let cap = options.default.image_size_cap;
        let observers = Observers::start(&self.app, image)?;
        let expected = said.filter(|size| *size != 0);
        let limits = stream::Limits {
            patience: options.glimpse.client_timeout,
            most: left.bound().map_or(cap, |left| left.min(cap)),
            expected,
        };
        let (feed, chunks) = stream::channel();
        let mut feeding = pin!(data.feed(limits, observers.ends(), feed));
        let mut putting = pin!(self.store.put(object, chunks, size.unwrap_or(0)));
        let (fed, stored) = tokio::select! {
            stored = &mut putting => match stored {
                Ok(_) | Err(store::Error::Cut(_)) => (feeding.await, stored),
                // The client may go on sending for hours.
                Err(error) => return Err(cannot_store(error)),
            },
            fed = &mut feeding => (fed, putting.await),
        };
        match (fed, stored) {
            (Err(Broken::Unwanted), _) => Err(observers.objection().await),
            (Err(Broken::Refused) | Ok(_), Err(error)) => Err(cannot_store(error)),
            (Err(Broken::TooMuch(came)), _) if came <= cap => {
                Err(left.admits(Some(came)).map_or_else(over_quota, |()| too_large()))
            }
            (Err(broken), _) => Err(broke_off(broken, said)),
            (Ok(size), Ok(stored)) => Ok((stored, size, observers)),
        }
    }

    /// Puts the data into its place and makes the image active. Five statements.
    async fn finish(
        &self,
        object: &Object,
        record: &uploads::Upload,
        stored: &Stored,
        facts: &DataFacts,
    ) -> Result<()> {
        let hold = match self.place(object, record, stored).await {
            Ok(hold) => hold,
            Err(error) => {
                let is_left = self.discard(object).await;
                self.undo(record, is_left).await.or_else(later)?;
                return Err(error);
            }
        };
        let done = bounded(&self.app, self.activate(object, record, stored, facts)).await;
        hold.release().await;
        let Err(error) = done else { return Ok(()) };
        // Whether it was committed may be unknown; the row tells, and without the row nothing is removed.
        let undone = self.undo(record, true).await;
        let ended = undone.or_else(later).is_ok_and(|undone| !undone);
        if ended && self.is_active(stored, facts).await { Ok(()) } else { Err(error) }
    }

    /// Puts the data into its place, if the image is still this upload's. Two statements.
    async fn place(&self, object: &Object, record: &uploads::Upload, stored: &Stored) -> Result<Hold> {
        let app = &*self.app;
        // Whoever has it may have been stopped.
        let hold = async { self.store.hold(object).await.map_err(cannot_store) };
        let hold = bounded(app, hold).await?;
        // Whoever takes the row from now on waits for the end of the hold before they remove what is in place.
        let ours = async {
            let mut conn = app.db.acquire().await?;
            let image = db::images::get(&mut conn, &self.id).await?;
            // Somebody may have set its status by hand, and uploaded by a Glance: what is in place is not ours then.
            let is_saving = image.is_some_and(|image| image.status == Status::Saving);
            Ok(is_saving && uploads::holds(&mut conn, record).await?)
        };
        if !bounded(app, ours).await? {
            hold.release().await;
            return Err(self.gone());
        }
        self.store.place(object, stored, hold).await.map_err(cannot_store)
    }

    /// Makes the image active, if it is still this upload's. Three statements.
    async fn activate(
        &self,
        object: &Object,
        record: &uploads::Upload,
        stored: &Stored,
        facts: &DataFacts,
    ) -> Result<()> {
        self.app
            .db
            .transaction(|mut tx| async move {
                let now = self.app.now();
                // The image's row first: it is its lock.
                let is_saving = db::images::activate(&mut tx, &object.image_id, facts, now).await?;
                if !is_saving || !uploads::end(&mut tx, record).await? {
                    return Err(self.gone());
                }
                db::locations::insert(&mut tx, &object.image_id, &[(&stored.url, &stored.metadata)], now).await?;
                Ok((tx, ()))
            })
            .await
    }

    fn gone(&self) -> Error {
        Error::Gone(format!(
            "Image {} could not be found after upload. The image may have been deleted during the upload, cleaning up \
             the chunks uploaded.",
            self.id
        ))
    }

    /// Removes what is not in its place yet, for which nobody needs to be asked. Tells whether something may be left.
    async fn discard(&self, object: &Object) -> bool {
        let discarded = self.store.discard(object, None).await;
        if let Err(error) = &discarded {
            tracing::error!(%error, "what an upload has left cannot be removed now; it is tried again later");
        }
        self.store.take_left(object) || discarded.is_err()
    }

    /// Undoes the upload, also in the store where something may be left there.
    async fn undo(&self, record: &uploads::Upload, is_left: bool) -> Result<bool> {
        let store = is_left.then_some(&*self.store);
        bounded(&self.app, super::uploads::undo(&self.app, record, store)).await
    }

    /// Whether the image has this data, where we put it.
    async fn is_active(&self, stored: &Stored, facts: &DataFacts) -> bool {
        let id = self.id.as_str();
        let read = async {
            let mut conn = self.app.db.acquire().await?;
            let image = db::images::get(&mut conn, &self.id).await?;
            Ok((image, db::locations::of(&mut conn, id).await?))
        };
        let Ok((Some(image), locations)) = bounded(&self.app, read).await else { return false };
        image.status == Status::Active
            && (image.size, image.os_hash_value.as_ref()) == (Some(facts.size), Some(&facts.os_hash_value))
            && locations.iter().any(|location| location.url == stored.url)
    }
}

/// Bounds what is done beside the data: the bound on a request's time is lifted for an upload.
async fn bounded<T>(app: &App, work: impl Future<Output = Result<T>>) -> Result<T> {
    super::in_time(app.config.glimpse.request_timeout, work).await
}

/// What cannot be undone now is, once nobody is busy with it any more.
fn later(error: Error) -> Result<bool> {
    tracing::error!(%error, "an upload cannot be undone now; it is tried again later");
    Ok(true)
}

/// Checks that the image waits for data and says what data.
fn check_waits(image: &Image) -> Result<()> {
    if !may_become(image.status, Status::Saving) {
        return Err(Error::Conflict(transition(image.status)));
    }
    check_described(image)
}

fn not_found(id: &RequestedId) -> Error {
    Error::NotFound(format!("No image found with ID {id}"))
}

fn transition(from: Status) -> String {
    format!("Image status transition from {} to saving is not allowed", from.as_str())
}

fn too_large() -> Error {
    Error::LimitExceeded("The incoming image is too large: The provided image is too large.".to_owned())
}

fn over_quota(why: String) -> Error {
    Error::LimitExceeded(format!("Image exceeds the storage quota: {why}"))
}

/// What it means to the client that their data did not come to its end.
fn broke_off(broken: Broken, expected: Option<i64>) -> Error {
    let expected = expected.unwrap_or_default();
    match broken {
        Broken::Lost => Error::Invalid("The request body ended too early.".to_owned()),
        Broken::Silent => Error::SlowClient,
        Broken::TooMuch(_) => too_large(),
        Broken::MoreThanSaid(came) => {
            Error::Invalid(format!("Size exceeds: expected {expected} bytes, got {came} bytes"))
        }
        Broken::NotAsSaid(came) => {
            Error::Invalid(format!("Size mismatch: expected {expected} bytes, got {came} bytes"))
        }
        Broken::Refused | Broken::Unwanted => Error::Internal("the data was not taken, and nobody said why".into()),
    }
}

/// What it means to the client that the store did not take their data.
fn cannot_store(error: store::Error) -> Error {
    match error {
        store::Error::Full => Error::LimitExceeded(format!("Image storage media is full: {error}")),
        store::Error::WriteDenied => {
            Error::StoreUnavailable(format!("Insufficient permissions on image storage media: {error}"))
        }
        store::Error::TimedOut(_) => Error::StoreUnavailable(error.to_string()),
        store::Error::ReadOnly => {
            Error::Gone("Error in store configuration. Adding images to store is disabled.".to_owned())
        }
        error => Error::Unavailable { service: "the image's store", source: error.into() },
    }
}

/// Data on its way out.
pub(crate) struct Download {
    /// Bytes of all of the data, where that is known.
    pub(crate) size: Option<u64>,
    /// The part that is sent, where a part was asked for.
    pub(crate) range: Option<Range<u64>>,
    /// The MD5 of all of the data.
    pub(crate) checksum: Option<String>,
    /// The bytes.
    pub(crate) data: ByteStream,
}

/// Hands an image's data out; `None` where it has none. Two statements; one more where the data cannot be read.
///
/// # Errors
/// `NotFound`, `Forbidden`, `NoSuchRange`, `Invalid`, `Unavailable` when the data cannot be had or is not as long as it
/// should be.
pub(crate) async fn download(
    app: &App,
    context: &Context,
    id: &RequestedId,
    asked: &Asked,
    prefer: &[String],
) -> Result<Option<Download>> {
    let mut conn = app.db.acquire().await?;
    let image = access::find(app, &mut conn, context, id).await?;
    let image = image.filter(|image| image.status != Status::PendingDelete).ok_or_else(|| not_found(id))?;
    if image.status == Status::Deactivated && !context.is_admin {
        let message = "The requested image has been deactivated. Image data download is forbidden.";
        return Err(Error::Forbidden(message.to_owned()));
    }
    access::authorise(app, context, &image, rule::DOWNLOAD_IMAGE)?;
    if !prefer.is_empty() {
        access::authorise(app, context, &image, rule::DOWNLOAD_FROM_STORE)?;
        check_preferred(app, prefer)?;
    }
    let mut locations = db::locations::of(&mut conn, &image.id).await?;
    drop(conn);
    // Without a size there is no data that a part could be of.
    let known = image.size.and_then(|size| u64::try_from(size).ok());
    let range = match known {
        Some(size) => asked.of(size)?,
        None => None,
    };
    let is_preferred = |location: &Location| {
        location.metadata.get("store").and_then(|store| store.as_str()).is_some_and(|id| prefer.iter().any(|p| p == id))
    };
    locations.retain(|location| location.status == LocationStatus::Active);
    let weight = |location: &Location| super::stores::weight_of(app, location);
    locations.sort_by_key(|location| (!is_preferred(location), std::cmp::Reverse(weight(location))));
    let mut failures = Vec::new();
    for location in &locations {
        match open(app, location, known, range.clone()).await {
            Ok((size, data)) => {
                failures.iter().for_each(Failure::log);
                return Ok(Some(Download { size, range, checksum: image.image.checksum, data }));
            }
            Err(failure) => failures.push(failure),
        }
    }
    // An image that is deleted concurrently has lost its locations or its data, and nothing is wrong.
    let had_data = !failures.is_empty() || matches!(image.status, Status::Active | Status::Deactivated);
    if had_data && is_deleted(app, context, id).await? {
        return Err(not_found(id));
    }
    failures.iter().for_each(Failure::log);
    failures.pop().map_or(Ok(None), |failure| Err(failure.error))
}

/// Why data cannot be read at a location.
struct Failure {
    location: i32,
    /// For the log.
    cause: String,
    error: Error,
}

impl Failure {
    fn log(&self) {
        tracing::error!(location = self.location, error = self.cause, "an image's data cannot be read there");
    }
}

/// Opens the data at a location. Returns the size of all of the data, where it is known, too.
async fn open(
    app: &App,
    location: &Location,
    known: Option<u64>,
    range: Option<Range<u64>>,
) -> Result<(Option<u64>, ByteStream), Failure> {
    let failure = |cause, error| Failure { location: location.id, cause, error };
    let blob = async { app.stores.of(&location.url, &location.metadata)?.get(&location.url, range).await };
    let blob = blob.await.map_err(|error| {
        let cause = with_causes(&error);
        let error = match error {
            store::Error::NoRange(_) => Error::Invalid(error.to_string()),
            store::Error::TimedOut(_) | store::Error::Unreachable(_) => Error::StoreUnavailable(error.to_string()),
            error => Error::Unavailable { service: "the image's store", source: error.into() },
        };
        failure(cause, error)
    })?;
    match (known, blob.size) {
        (Some(size), Some(found)) if size != found => {
            let cause = format!("the data has {found} bytes, and should have {size}");
            let source = cause.clone().into();
            Err(failure(cause, Error::Unavailable { service: "the image's store", source }))
        }
        (Some(size), None) => Ok((known, exactly(blob.data, size, location.id))),
        (size, found) => Ok((size.or(found), blob.data)),
    }
}

/// Whether the image is deleted, or is being deleted, by now. One statement.
async fn is_deleted(app: &App, context: &Context, id: &RequestedId) -> Result<bool> {
    let mut conn = app.db.acquire().await?;
    let image = access::find(app, &mut conn, context, id).await?;
    Ok(image.is_none_or(|image| image.status == Status::PendingDelete))
}

/// Data that ends with an error where it is longer or shorter than it should be. The last part is kept back until the end is
/// certain, for a client that has got as much as it was told takes it for whole.
fn exactly(data: ByteStream, size: u64, location: i32) -> ByteStream {
    let state = (data.fuse(), size, None::<Bytes>);
    Box::pin(futures_util::stream::try_unfold(state, move |(mut data, mut left, mut kept)| async move {
        loop {
            let part = data.next().await.transpose()?;
            let wrong = match &part {
                Some(part) => part.len() as u64 > left,
                None => left > 0,
            };
            if wrong {
                let error = format!("the data is not the {size} bytes that it should be");
                tracing::error!(location, error, "an image's data is cut off");
                return Err(error.into());
            }
            let Some(part) = part else { return Ok(kept.take().map(|last| (last, (data, left, None)))) };
            left -= part.len() as u64;
            if let Some(before) = kept.replace(part) {
                return Ok(Some((before, (data, left, kept))));
            }
        }
    }))
}

fn check_preferred(app: &App, prefer: &[String]) -> Result<()> {
    if !app.stores.are_named {
        let message = "Store selection for download is not available when multiple backends are not enabled.";
        return Err(Error::Invalid(message.to_owned()));
    }
    match prefer.iter().find(|id| app.stores.named(id).is_none()) {
        None => Ok(()),
        Some(id) => Err(Error::Invalid(format!("Store '{id}' is not configured."))),
    }
}
