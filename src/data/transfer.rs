//! A transfer of data into a store on behalf of an image. It owns the image through its row (`db::uploads`) until it ends.
//!
//! The caller begins the row in its own transaction, moves the data into the store, [places](Transfer::place) it, and ends the row in
//! the transaction that publishes the data. If any of this fails, the caller aborts the transfer, which removes the data.

use std::sync::Arc;

use uuid::Uuid;

use super::{ingest::store_error, recovery};
use crate::{
    app::App,
    db::{self, in_time, uploads},
    error::{Error, Result},
    model::{ImageId, Status},
    store::{Hold, Object, Store, Stored},
};

pub(crate) struct Transfer {
    app: Arc<App>,
    /// The row of the transfer.
    pub(crate) record: uploads::Upload,
    /// The data's identity in the store.
    pub(crate) object: Object,
    store: Arc<Store>,
    /// The statuses that the image can have while the transfer owns it.
    statuses: Vec<Status>,
}

impl Transfer {
    pub(crate) fn new(app: &Arc<App>, image: &ImageId, store: &Arc<Store>, status: Status) -> Self {
        Self::with_id(app, image, store, vec![status], Uuid::new_v4().to_string())
    }

    /// A transfer of a job, with [an id](uploads::Upload::new_job_id) of its own. `status` is the image's status, which it does not
    /// change.
    pub(crate) fn for_job(app: &Arc<App>, image: &ImageId, store: &Arc<Store>, status: Status, id: &str) -> Self {
        Self::with_id(app, image, store, vec![status], id.to_owned())
    }

    /// A part of a transfer to several stores at once, whose row is `record`. The image can become active before the part ends.
    pub(crate) fn for_part(
        app: &Arc<App>,
        record: &uploads::Upload,
        part: &uploads::Upload,
        store: &Arc<Store>,
    ) -> Self {
        let statuses = vec![Status::Importing, Status::Active, Status::Deactivated];
        let transfer = Self::with_id(app, &part.image_id, store, statuses, part.upload_id.clone());
        Self { record: record.clone(), ..transfer }
    }

    fn with_id(app: &Arc<App>, image: &ImageId, store: &Arc<Store>, statuses: Vec<Status>, upload_id: String) -> Self {
        Self {
            app: Arc::clone(app),
            object: Object { image_id: image.to_string(), upload_id: upload_id.clone() },
            record: uploads::Upload {
                image_id: image.clone(),
                upload_id,
                process_id: app.process.id.clone(),
                store: store.id.clone(),
            },
            store: Arc::clone(store),
            statuses,
        }
    }

    /// The id of the transfer, for [`crate::process::Process::begin_upload`].
    pub(crate) fn id(&self) -> &str {
        &self.record.upload_id
    }

    /// Moves the data to the image's path, if this transfer still owns the image. Two statements.
    pub(crate) async fn place(&self, stored: &Stored) -> Result<Hold> {
        let app = &*self.app;
        // The wait has a timeout: the process that has the hold may be stalled.
        let hold = async { self.store.hold(&self.object).await.map_err(store_error) };
        let hold = with_timeout(app, hold).await?;
        // A process that takes over the row from now on waits for the end of this hold before it removes data at the path.
        let ours = async {
            let mut conn = app.db.acquire().await?;
            let image = db::images::get(&mut conn, &self.record.image_id).await?;
            // If an operator has reset the image's status, and a Glance has uploaded to it since, the data at the path belongs to
            // the Glance's upload.
            let is_ours = image.is_some_and(|image| self.statuses.contains(&image.status));
            Ok(is_ours && uploads::holds(&mut conn, &self.record).await?)
        };
        if !with_timeout(app, ours).await? {
            hold.release().await;
            return Err(image_gone(&self.record.image_id));
        }
        self.store.place(&self.object, stored, hold).await.map_err(store_error)
    }

    /// Ends a transfer whose data did not arrive in the store. Returns the error that the caller should return.
    ///
    /// # Errors
    /// The rollback's error, unless recovery retries it.
    pub(crate) async fn abort(&self, error: Error) -> Result<Error> {
        // After a failure the store keeps data only if it could not be reached for the cleanup.
        let has_leftovers = self.store.take_leftovers(&self.object);
        self.roll_back(has_leftovers).await.or_else(log_failed_rollback)?;
        Ok(error)
    }

    /// Like [`Self::abort`], for data that is in the store, but not at the image's path.
    pub(crate) async fn discard_and_abort(&self, error: Error) -> Result<Error> {
        let has_leftovers = self.discard().await;
        self.roll_back(has_leftovers).await.or_else(log_failed_rollback)?;
        Ok(error)
    }

    /// After an error of the transaction that ends the transfer: returns whether it was committed nevertheless. If it was, the row no
    /// longer exists, and the rollback removes nothing. Otherwise the data at the image's path is removed.
    pub(crate) async fn has_completed(&self) -> bool {
        let rolled_back = self.roll_back(true).await;
        rolled_back.or_else(log_failed_rollback).is_ok_and(|rolled_back| !rolled_back)
    }

    /// Removes data that is not at the image's path yet, which needs no hold. Returns whether the store may still have some of it.
    async fn discard(&self) -> bool {
        let discarded = self.store.discard(&self.object, None).await;
        if let Err(error) = &discarded {
            let image = self.record.image_id.as_str();
            tracing::error!(image, %error, "cannot remove the data of a failed upload now; recovery will retry");
        }
        self.store.take_leftovers(&self.object) || discarded.is_err()
    }

    /// Whether a failed call may have left data in the store. Returns `true` once.
    pub(crate) fn take_leftovers(&self) -> bool {
        self.store.take_leftovers(&self.object)
    }

    /// The store that receives the data.
    pub(crate) fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// Removes what a [part](Self::for_part) that failed has left, including the data at the image's path. Returns whether the store may
    /// still have some of it.
    pub(crate) async fn discard_part(&self) -> bool {
        let discard = async {
            let hold = self.store.hold(&self.object).await?;
            self.store.discard(&self.object, Some(hold)).await
        };
        let discarded = with_timeout(&self.app, async { discard.await.map_err(store_error) }).await;
        if let Err(error) = &discarded {
            let (image, store) = (self.record.image_id.as_str(), &self.store.id);
            tracing::error!(image, store, %error, "cannot remove the data of a failed import now; recovery will retry");
        }
        self.store.take_leftovers(&self.object) || discarded.is_err()
    }

    /// Rolls back the transfer. Removes its data from the store only if the store may have some.
    async fn roll_back(&self, has_leftovers: bool) -> Result<bool> {
        let stores = if has_leftovers { std::slice::from_ref(&self.store) } else { &[] };
        with_timeout(&self.app, recovery::roll_back(&self.app, &self.record, stores)).await
    }
}

pub(crate) fn image_gone(id: &ImageId) -> Error {
    Error::Gone(format!(
        "Image {id} could not be found after upload. The image may have been deleted during the upload, cleaning up the chunks \
         uploaded."
    ))
}

/// Applies the request timeout to a step that moves no data. A transfer as a whole has no timeout.
pub(crate) async fn with_timeout<T>(app: &App, work: impl Future<Output = Result<T>>) -> Result<T> {
    in_time(app.config.glimpse.request_timeout, work).await
}

/// Logs a failed rollback. Recovery retries it, because the upload is no longer in progress in any process.
fn log_failed_rollback(error: Error) -> Result<bool> {
    tracing::error!(%error, "cannot roll back an upload now; recovery will retry");
    Ok(true)
}
