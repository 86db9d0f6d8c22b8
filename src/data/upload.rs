//! Uploading an image's data.

use std::{pin::pin, sync::Arc};

use uuid::Uuid;

use super::{
    ingest::{Ingested, Source, cannot_store, ingest, over_quota, too_large},
    placement, recovery,
};
use crate::{
    access,
    app::App,
    context::Context,
    db::{self, in_time, uploads},
    error::{Error, Result},
    limits::{Resource, StorageLeft},
    model::{DataFacts, Image, ImageId, RequestedId, Status, check_described, may_become},
    policy::rule,
    store::{Hold, Object, Store, Stored},
    stream::{self, ByteStream, Demand},
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
    let store = placement::chosen(app, new.store.as_deref())?;
    let requested = id.clone();
    let id = requested.id().ok_or_else(|| not_found(&requested))?;
    let upload = Upload { app: Arc::clone(app), context: context.clone(), requested, id, store };
    let (supply, demand) = stream::apart(new.data);
    let mut work = pin!(app.outlive(upload.run(new.size, demand)));
    tokio::select! {
        ended = &mut work => ended,
        () = supply.send() => work.await,
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
        let Ingested { stored, size, observers } = match self.transfer(&image, &object, said, data).await {
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
                if !db::locations::list(&mut tx, &image.id).await?.is_empty() {
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

    /// Moves the data into the store.
    async fn transfer(&self, image: &Image, object: &Object, said: Option<i64>, data: Demand) -> Result<Ingested> {
        // The image counts already.
        self.app.limits.enforce(&self.app.db, &self.context, Resource::CountUploading, 0).await?;
        let size = said.and_then(|size| u64::try_from(size).ok()).filter(|size| *size > 0);
        let left = self.admit(size).await?;
        ingest(&self.app, image, object, &self.store, Source { data, size: said, left }).await
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
        bounded(&self.app, recovery::undo(&self.app, record, store)).await
    }

    /// Whether the image has this data, where we put it.
    async fn is_active(&self, stored: &Stored, facts: &DataFacts) -> bool {
        let id = self.id.as_str();
        let read = async {
            let mut conn = self.app.db.acquire().await?;
            let image = db::images::get(&mut conn, &self.id).await?;
            Ok((image, db::locations::list(&mut conn, id).await?))
        };
        let Ok((Some(image), locations)) = bounded(&self.app, read).await else { return false };
        image.status == Status::Active
            && (image.size, image.os_hash_value.as_ref()) == (Some(facts.size), Some(&facts.os_hash_value))
            && locations.iter().any(|location| location.url == stored.url)
    }
}

/// Bounds what is done beside the data: the bound on a request's time is lifted for an upload.
async fn bounded<T>(app: &App, work: impl Future<Output = Result<T>>) -> Result<T> {
    in_time(app.config.glimpse.request_timeout, work).await
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

pub(super) fn not_found(id: &RequestedId) -> Error {
    Error::NotFound(format!("No image found with ID {id}"))
}

fn transition(from: Status) -> String {
    format!("Image status transition from {} to saving is not allowed", from.as_str())
}
