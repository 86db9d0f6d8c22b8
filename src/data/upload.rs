//! Upload of an image's data.

use std::{pin::pin, sync::Arc, time::Duration};

use uuid::Uuid;

use super::{
    ingest::{Ingested, Source, ingest, store_error, too_large},
    placement, recovery,
};
use crate::{
    access,
    app::App,
    context::Context,
    db::{self, in_time, uploads},
    error::{Error, Result},
    limits::{Admission, Resource, StorageLeft, over_quota},
    model::{DataFacts, Image, ImageId, RequestedId, Status, check_described, may_become},
    policy::rule,
    store::{Hold, Object, Store, Stored},
    stream::{self, ByteStream, Demand},
};

/// The pause between two attempts to begin an upload to an image that is being cleaned up.
const CLEANUP_PAUSE: Duration = Duration::from_millis(50);

/// The input of an upload.
pub(crate) struct NewData {
    /// The store, if the client chose one.
    pub(crate) store: Option<String>,
    /// The size that the client announced. As in Glance, 0 means that it is unknown.
    pub(crate) size: Option<i64>,
    /// The data.
    pub(crate) data: ByteStream,
}

/// Uploads an image's data. The upload completes or is rolled back even if the caller disconnects. Twelve statements.
///
/// # Errors
/// `Invalid`, `NotFound`, `Forbidden`, `Conflict` when the image does not accept data, `LimitExceeded`, `Gone` when the image was
/// deleted concurrently, `StoreUnavailable`.
pub(crate) async fn upload(app: &Arc<App>, context: &Context, id: &RequestedId, new: NewData) -> Result<()> {
    let mebibytes = new.size.and_then(|size| u64::try_from(size).ok()).unwrap_or_default() >> 20;
    let admission = app.limits.data_admission(context, mebibytes).await?;
    admission.check_early(&app.db).await?;
    let store = placement::choose_store(app, new.store.as_deref())?;
    let requested = id.clone();
    let id = requested.id().ok_or_else(|| Error::image_not_found(&requested))?;
    let upload = Upload { app: Arc::clone(app), context: context.clone(), requested, id, store, admission };
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
    /// The check of the project's limits when the image becomes active.
    admission: Admission,
}

impl Upload {
    async fn run(self, announced: Option<i64>, data: Demand) -> Result<()> {
        let record = uploads::Upload {
            image_id: self.id.clone(),
            upload_id: Uuid::new_v4().to_string(),
            process_id: self.app.process.id.clone(),
            store: self.store.id.clone(),
        };
        // Until this is dropped, recovery does not take the upload for an abandoned one.
        let _active = self.app.process.begin_upload(&record.upload_id);
        let image = with_timeout(&self.app, self.begin_after_cleanup(&record, announced)).await?;
        let object = Object { image_id: image.id.to_string(), upload_id: record.upload_id.clone() };
        let Ingested { stored, size, observers } = match self.transfer(&image, &object, announced, data).await {
            Ok(ingested) => ingested,
            Err(error) => {
                // After a failure the store keeps data only if it could not be reached for the cleanup.
                let has_leftovers = self.store.take_leftovers(&object);
                self.roll_back(&record, has_leftovers).await.or_else(log_failed_rollback)?;
                return Err(error);
            }
        };
        let facts = async {
            let facts = observers.finish(size).await?;
            // Check the quota again, before the data is moved to its path: uploads that began later may be complete.
            self.check_storage_quota(Some(size)).await?;
            Ok(facts)
        };
        match facts.await {
            Ok(facts) => self.finish(&object, &record, &stored, &facts).await,
            Err(error) => {
                let has_leftovers = self.discard(&object).await;
                self.roll_back(&record, has_leftovers).await.or_else(log_failed_rollback)?;
                Err(error)
            }
        }
    }

    /// Like [`Self::begin`]. While the image is `saving` only because a cleanup removes what an earlier upload has left, waits.
    async fn begin_after_cleanup(&self, record: &uploads::Upload, size: Option<i64>) -> Result<Image> {
        loop {
            let begun = self.begin(record, size).await;
            if !matches!(begun, Err(Error::Conflict(_))) {
                return begun;
            }
            let mut conn = self.app.db.acquire().await?;
            if !uploads::is_cleanup(&mut conn, &self.id).await? {
                return begun;
            }
            drop(conn);
            tokio::time::sleep(CLEANUP_PAUSE).await;
        }
    }

    /// Sets the image to `saving`, and makes this upload its owner. Five statements.
    async fn begin(&self, record: &uploads::Upload, size: Option<i64>) -> Result<Image> {
        let (app, id) = (&*self.app, &self.requested);
        app.db
            .transaction(|mut tx| async move {
                let image = access::find_locked(app, &mut tx, &self.context, id).await?;
                let image = image.ok_or_else(|| Error::image_not_found(id))?;
                access::authorise(app, &self.context, &image, rule::UPLOAD_IMAGE)?;
                access::check_mutable(&self.context, &image)?;
                check_accepts_data(&image)?;
                let cap = app.config.default.image_size_cap;
                if size.and_then(|size| u64::try_from(size).ok()).is_some_and(|size| size > cap) {
                    return Err(too_large());
                }
                if !db::locations::list(&mut tx, &image.id).await?.is_empty() {
                    return Err(Error::Conflict(format!("Image {id} has data already.")));
                }
                if !db::images::set_status(&mut tx, &image, Status::Saving, app.now()).await? {
                    return Err(forbidden_transition(Status::Saving));
                }
                uploads::begin(&mut tx, record).await?;
                Ok((tx, image.image))
            })
            .await
    }

    /// Checks that the project's storage quota admits data of this size, and returns the rest of the quota.
    async fn check_storage_quota(&self, size: Option<u64>) -> Result<StorageLeft> {
        let left = self.app.limits.storage_left(&self.app.db, &self.context, &self.id).await?;
        left.admits(size).map_err(over_quota)?;
        Ok(left)
    }

    /// Moves the data into the store.
    async fn transfer(&self, image: &Image, object: &Object, announced: Option<i64>, data: Demand) -> Result<Ingested> {
        // The image is `saving`, so it is among the counted ones already.
        self.app.limits.enforce(&self.app.db, &self.context, Resource::CountUploading, 0).await?;
        let size = announced.and_then(|size| u64::try_from(size).ok()).filter(|size| *size > 0);
        let left = self.check_storage_quota(size).await?;
        ingest(&self.app, image, object, &self.store, Source { data, size: announced, left }).await
    }

    /// Moves the data to the image's path and makes the image active. Five statements.
    async fn finish(
        &self,
        object: &Object,
        record: &uploads::Upload,
        stored: &Stored,
        facts: &DataFacts,
    ) -> Result<()> {
        let hold = match self.move_to_path(object, record, stored).await {
            Ok(hold) => hold,
            Err(error) => {
                let has_leftovers = self.discard(object).await;
                self.roll_back(record, has_leftovers).await.or_else(log_failed_rollback)?;
                return Err(error);
            }
        };
        let activated = with_timeout(&self.app, self.activate(object, record, stored, facts)).await;
        hold.release().await;
        let Err(error) = activated else { return Ok(()) };
        // The commit may have succeeded despite the error. If it did, the upload's row no longer exists, and the rollback removes
        // nothing.
        let rolled_back = self.roll_back(record, true).await;
        let has_completed = rolled_back.or_else(log_failed_rollback).is_ok_and(|rolled_back| !rolled_back);
        if has_completed && self.is_active(stored, facts).await { Ok(()) } else { Err(error) }
    }

    /// Moves the data to the image's path, if this upload still owns the image. Two statements.
    async fn move_to_path(&self, object: &Object, record: &uploads::Upload, stored: &Stored) -> Result<Hold> {
        let app = &*self.app;
        // The wait has a timeout: the process that has the hold may be stalled.
        let hold = async { self.store.hold(object).await.map_err(store_error) };
        let hold = with_timeout(app, hold).await?;
        // A process that takes over the row from now on waits for the end of this hold before it removes data at the path.
        let ours = async {
            let mut conn = app.db.acquire().await?;
            let image = db::images::get(&mut conn, &self.id).await?;
            // If an operator has reset the image's status, and a Glance has uploaded to it since, the data at the path belongs to
            // the Glance's upload.
            let is_saving = image.is_some_and(|image| image.status == Status::Saving);
            Ok(is_saving && uploads::holds(&mut conn, record).await?)
        };
        if !with_timeout(app, ours).await? {
            hold.release().await;
            return Err(self.image_gone());
        }
        self.store.place(object, stored, hold).await.map_err(store_error)
    }

    /// Makes the image active, if this upload still owns it, and if the project may have the data: concurrent uploads may each fit
    /// into a quota, but not all of them. Three statements, and two more with a quota.
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
                // The image's row comes first, because it is the image's lock.
                let is_saving = db::images::activate(&mut tx, &object.image_id, facts, now).await?;
                if !is_saving || !uploads::end(&mut tx, record).await? {
                    return Err(self.image_gone());
                }
                let size = u64::try_from(facts.size).unwrap_or_default();
                self.admission.enforce(&mut tx, Some(&object.image_id), size).await?;
                db::locations::insert(&mut tx, &object.image_id, &[(&stored.url, &stored.metadata)], now).await?;
                Ok((tx, ()))
            })
            .await
    }

    fn image_gone(&self) -> Error {
        Error::Gone(format!(
            "Image {} could not be found after upload. The image may have been deleted during the upload, cleaning up \
             the chunks uploaded.",
            self.id
        ))
    }

    /// Removes data that is not at the image's path yet, which needs no hold. Returns whether the store may still have some of it.
    async fn discard(&self, object: &Object) -> bool {
        let discarded = self.store.discard(object, None).await;
        if let Err(error) = &discarded {
            let image = self.id.as_str();
            tracing::error!(image, %error, "cannot remove the data of a failed upload now; recovery will retry");
        }
        self.store.take_leftovers(object) || discarded.is_err()
    }

    /// Rolls back the upload. Removes its data from the store only if the store may have some.
    async fn roll_back(&self, record: &uploads::Upload, has_leftovers: bool) -> Result<bool> {
        let store = has_leftovers.then_some(&*self.store);
        with_timeout(&self.app, recovery::roll_back(&self.app, record, store)).await
    }

    /// Whether the image is active with this data at this location.
    async fn is_active(&self, stored: &Stored, facts: &DataFacts) -> bool {
        let id = self.id.as_str();
        let read = async {
            let mut conn = self.app.db.acquire().await?;
            let image = db::images::get(&mut conn, &self.id).await?;
            Ok((image, db::locations::list(&mut conn, id).await?))
        };
        let Ok((Some(image), locations)) = with_timeout(&self.app, read).await else { return false };
        image.status == Status::Active
            && (image.size, image.os_hash_value.as_ref()) == (Some(facts.size), Some(&facts.os_hash_value))
            && locations.iter().any(|location| location.url == stored.url)
    }
}

/// Applies the request timeout to a step that moves no data. The upload as a whole has no timeout.
async fn with_timeout<T>(app: &App, work: impl Future<Output = Result<T>>) -> Result<T> {
    in_time(app.config.glimpse.request_timeout, work).await
}

/// Logs a failed rollback. Recovery retries it, because the upload is no longer in progress in any process.
fn log_failed_rollback(error: Error) -> Result<bool> {
    tracing::error!(%error, "cannot roll back an upload now; recovery will retry");
    Ok(true)
}

/// Checks that the image accepts data, and that its formats are set.
fn check_accepts_data(image: &Image) -> Result<()> {
    if !may_become(image.status, Status::Saving) {
        return Err(forbidden_transition(image.status));
    }
    check_described(image)
}

fn forbidden_transition(from: Status) -> Error {
    Error::conflicting_transition(from.as_str(), Status::Saving.as_str())
}
