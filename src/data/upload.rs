//! Upload of an image's data.

use std::{pin::pin, sync::Arc, time::Duration};

use super::{
    acls,
    ingest::{Ingested, Source, ingest, too_large},
    placement,
    transfer::{Transfer, image_gone, with_timeout},
};
use crate::{
    access,
    app::App,
    context::Context,
    db::{self, uploads},
    error::{Error, Result},
    limits::{Admission, Resource, StorageLeft, over_quota},
    model::{DataFacts, Image, ImageId, RequestedId, Status, check_described, may_become},
    policy::rule,
    store::{Store, Stored},
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
        let transfer = Transfer::new(&self.app, &self.id, &self.store, Status::Saving);
        // Until this is dropped, recovery does not take the upload for an abandoned one.
        let _active = self.app.process.begin_upload(transfer.id());
        let image = with_timeout(&self.app, self.begin_after_cleanup(&transfer.record, announced)).await?;
        let Ingested { stored, facts } = match self.receive(&transfer, &image, announced, data).await {
            Ok(ingested) => ingested,
            Err(error) => return Err(transfer.abort(error).await?),
        };
        let facts = async {
            let facts = facts.finish().await?;
            // Check the quota again, before the data is moved to its path: uploads that began later may be complete.
            self.check_storage_quota(u64::try_from(facts.size).ok()).await?;
            Ok(facts)
        };
        match facts.await {
            Ok(facts) => self.finish(&transfer, &stored, &facts).await,
            Err(error) => Err(transfer.discard_and_abort(error).await?),
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
    async fn receive(
        &self,
        transfer: &Transfer,
        image: &Image,
        announced: Option<i64>,
        data: Demand,
    ) -> Result<Ingested> {
        // The image is `saving`, so it is among the counted ones already.
        self.app.limits.enforce(&self.app.db, &self.context, Resource::CountUploading, 0).await?;
        let size = announced.and_then(|size| u64::try_from(size).ok()).filter(|size| *size > 0);
        let left = self.check_storage_quota(size).await?;
        let timeout = self.app.config.glimpse.client_timeout;
        let source = Source { data, size: announced, left, timeout };
        ingest(&self.app, image, &transfer.object, &self.store, source).await
    }

    /// Moves the data to the image's path and makes the image active. Five statements.
    async fn finish(&self, transfer: &Transfer, stored: &Stored, facts: &DataFacts) -> Result<()> {
        let hold = match transfer.place(stored).await {
            Ok(hold) => hold,
            Err(error) => return Err(transfer.discard_and_abort(error).await?),
        };
        let activated = with_timeout(&self.app, self.activate(&transfer.record, stored, facts)).await;
        hold.release().await;
        let Err(error) = activated else {
            acls::apply_to_new(&self.app, &self.id).await;
            return Ok(());
        };
        if transfer.has_completed().await && self.is_active(stored, facts).await { Ok(()) } else { Err(error) }
    }

    /// Makes the image active, if this upload still owns it, and if the project may have the data: concurrent uploads may each fit
    /// into a quota, but not all of them. Three statements, and two more with a quota.
    async fn activate(&self, record: &uploads::Upload, stored: &Stored, facts: &DataFacts) -> Result<()> {
        self.app
            .db
            .transaction(|mut tx| async move {
                let now = self.app.now();
                // The image's row comes first, because it is the image's lock.
                let is_saving = db::images::activate(&mut tx, &record.image_id, facts, now).await?;
                if !is_saving || !uploads::end(&mut tx, record).await? {
                    return Err(image_gone(&self.id));
                }
                let size = u64::try_from(facts.size).unwrap_or_default();
                self.admission.enforce(&mut tx, Some(&record.image_id), size).await?;
                db::locations::insert(&mut tx, &record.image_id, &[(&stored.url, &stored.metadata)], now).await?;
                Ok((tx, ()))
            })
            .await
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
