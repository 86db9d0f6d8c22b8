//! Staging: data that a client uploads for a later import.

use std::{pin::pin, sync::Arc, time::Duration};

use uuid::Uuid;

use super::{
    ingest::{Interrupted, Source, ingest_raw, too_large},
    transfer::{Transfer, image_gone, with_timeout},
    upload::NewData,
};
use crate::{
    access,
    app::App,
    context::Context,
    db::{self, uploads},
    error::{Error, Result},
    limits::{Admission, Resource, over_quota},
    model::{IMPORT_TASK, ImageId, RequestedId, STAGE_HOST, Status, may_become},
    policy::rule,
    store::{Object, Stored},
    stream::{self, Demand},
};

/// The only import method whose data clients stage.
const METHOD: &str = "glance-direct";

/// Checks that clients can stage data.
///
/// # Errors
/// `NotFound`
pub(crate) fn check_available(app: &App) -> Result<()> {
    if app.config.default.enabled_import_methods.0.iter().any(|method| method == METHOD) {
        return Ok(());
    }
    Err(Error::NotFound(format!("'{METHOD}' method is not available at this site.")))
}

/// Stages data for an import of the image. As in Glance, only the import inspects it. It completes or is rolled back even if the
/// caller disconnects. Ten statements.
///
/// # Errors
/// `NotFound`, `Forbidden`, `Conflict` when the image does not accept data, `LimitExceeded`, `Gone` when the image was deleted
/// concurrently, `StoreUnavailable`.
pub(crate) async fn stage(app: &Arc<App>, context: &Context, id: &RequestedId, new: NewData) -> Result<()> {
    let mebibytes = new.size.and_then(|size| u64::try_from(size).ok()).unwrap_or_default() >> 20;
    let admission = app.limits.admission(context, Resource::StageTotal, mebibytes).await?;
    admission.check_early(&app.db).await?;
    let requested = id.clone();
    let id = requested.id().ok_or_else(|| Error::image_not_found(&requested))?;
    let staging = Staging { app: Arc::clone(app), context: context.clone(), requested, id, admission };
    let (supply, demand) = stream::apart(new.data);
    let mut work = pin!(app.outlive(staging.run(new.size, demand)));
    tokio::select! {
        ended = &mut work => ended,
        () = supply.send() => work.await,
    }
}

/// Removes staged data that nothing has written to for at least `quiet`, and that no image needs. Three statements for each.
///
/// # Errors
/// `Unavailable`
pub(crate) async fn remove_stale(app: &App, quiet: Duration) -> Result<()> {
    let store = app.stores.staging();
    for image in app.stores.staged(quiet).await.map_err(Error::store_failed)? {
        let object = Object { image_id: image.to_string(), upload_id: Uuid::new_v4().to_string() };
        // The wait has a timeout: the process that has the hold may be stalled. With the hold, no transfer replaces the data.
        let hold = async { store.hold(&object).await.map_err(Error::store_failed) };
        let hold = with_timeout(app, hold).await?;
        let is_needed = is_needed(app, &image).await;
        let removed = match is_needed {
            Ok(false) => app.stores.discard_staged(&image).await.map_err(Error::store_failed).map(|()| true),
            kept => kept.map(|_| false),
        };
        hold.release().await;
        if removed? {
            tracing::warn!(image = image.as_str(), "staged data that no image needs was removed");
        }
    }
    Ok(())
}

/// Whether staged data of the image may be needed: it waits for an import, or an import is in progress, perhaps one of Glance.
async fn is_needed(app: &App, id: &ImageId) -> Result<bool> {
    let read = async {
        let mut conn = app.db.acquire().await?;
        let Some(image) = db::images::get(&mut conn, id).await? else { return Ok(false) };
        // A task of the type `import` has staged data of an image that is `saving`.
        if matches!(image.status, Status::Uploading | Status::Importing | Status::Saving) {
            return Ok(true);
        }
        let is_locked = db::properties::list(&mut conn, id).await?.iter().any(|property| property.name == IMPORT_TASK);
        Ok(is_locked || uploads::all(&mut conn).await?.iter().any(|upload| upload.image_id == *id))
    };
    with_timeout(app, read).await
}

struct Staging {
    app: Arc<App>,
    context: Context,
    requested: RequestedId,
    id: ImageId,
    /// The check of the project's limits when the data is staged.
    admission: Admission,
}

impl Staging {
    async fn run(self, announced: Option<i64>, data: Demand) -> Result<()> {
        let store = self.app.stores.staging();
        let transfer = Transfer::new(&self.app, &self.id, &store, Status::Uploading);
        // Until this is dropped, recovery does not take the transfer for an abandoned one.
        let _active = self.app.process.begin_upload(transfer.id());
        with_timeout(&self.app, self.begin(&transfer.record, announced)).await?;
        let (stored, size) = match self.receive(&transfer, announced, data).await {
            Ok(received) => received,
            Err(error) => return Err(transfer.abort(error).await?),
        };
        let hold = match transfer.place(&stored).await {
            Ok(hold) => hold,
            Err(error) => return Err(transfer.discard_and_abort(error).await?),
        };
        let completed = with_timeout(&self.app, self.complete(&transfer.record, size)).await;
        hold.release().await;
        let Err(error) = completed else { return Ok(()) };
        if transfer.has_completed().await && self.is_staged(size).await { Ok(()) } else { Err(error) }
    }

    /// Sets the image to `uploading`, and makes this transfer its owner. Four statements.
    async fn begin(&self, record: &uploads::Upload, size: Option<i64>) -> Result<()> {
        let (app, id) = (&*self.app, &self.requested);
        app.db
            .transaction(|mut tx| async move {
                let image = access::find_locked(app, &mut tx, &self.context, id).await?;
                let image = image.ok_or_else(|| Error::image_not_found(id))?;
                access::authorise(app, &self.context, &image, rule::MODIFY_IMAGE)?;
                access::check_mutable(&self.context, &image)?;
                let forbidden = |from: Status| Error::conflicting_transition(from.as_str(), Status::Uploading.as_str());
                if !may_become(image.status, Status::Uploading) {
                    return Err(forbidden(image.status));
                }
                let cap = app.config.default.image_size_cap;
                if size.and_then(|size| u64::try_from(size).ok()).is_some_and(|size| size > cap) {
                    return Err(too_large());
                }
                if !db::images::set_status(&mut tx, &image, Status::Uploading, app.now()).await? {
                    return Err(forbidden(Status::Uploading));
                }
                uploads::begin(&mut tx, record).await?;
                Ok((tx, ()))
            })
            .await
    }

    /// Moves the data into the staging store.
    async fn receive(&self, transfer: &Transfer, announced: Option<i64>, data: Demand) -> Result<(Stored, u64)> {
        let app = &*self.app;
        // The image is `uploading`, so it is among the counted ones already.
        app.limits.enforce(&app.db, &self.context, Resource::CountUploading, 0).await?;
        let left = app.limits.storage_left(&app.db, &self.context, &self.id).await?;
        let size = announced.and_then(|size| u64::try_from(size).ok()).filter(|size| *size > 0);
        left.admits(size).map_err(over_quota)?;
        let source = Source { data, size: announced, left, timeout: app.config.glimpse.client_timeout };
        let received = ingest_raw(app, &transfer.object, &app.stores.staging(), source, Vec::new()).await;
        received.map_err(|interrupted| match interrupted {
            Interrupted::Because(error) => error,
            Interrupted::ByObserver => Error::Internal("there is no observer".into()),
        })
    }

    /// Records the size of the staged data, if this transfer still owns the image. Three statements, one more with the URL of this
    /// process, and two more with a limit.
    async fn complete(&self, record: &uploads::Upload, size: u64) -> Result<()> {
        let app = &*self.app;
        let bytes = i64::try_from(size).map_err(|error| Error::Internal(error.into()))?;
        app.db
            .transaction(|mut tx| async move {
                let now = app.now();
                // The image's row comes first, because it is the image's lock.
                let is_uploading = db::images::set_staged(&mut tx, &self.id, bytes, now).await?;
                if !is_uploading || !uploads::end(&mut tx, record).await? {
                    return Err(image_gone(&self.id));
                }
                // The image's own size counts as usage by now.
                self.admission.enforce_reached(&mut tx).await?;
                if let Some(url) = app.config.default.self_reference() {
                    db::properties::delete(&mut tx, &self.id, &[STAGE_HOST]).await?;
                    let host = [(STAGE_HOST.to_owned(), url.to_owned())];
                    db::properties::insert(&mut tx, &self.id, &host, now).await?;
                }
                Ok((tx, ()))
            })
            .await
    }

    /// Whether the image has staged data of this size.
    async fn is_staged(&self, size: u64) -> bool {
        let read = async { Ok(db::images::get(&mut self.app.db.acquire().await?, &self.id).await?) };
        let Ok(Some(image)) = with_timeout(&self.app, read).await else { return false };
        image.status == Status::Uploading && image.size.and_then(|size| u64::try_from(size).ok()) == Some(size)
    }
}
