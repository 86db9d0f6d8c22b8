//! Rollback of an interrupted upload, and removal of what it has left in a store that was away.

use std::sync::Arc;

use uuid::Uuid;

use crate::{
    app::App,
    db::{self, uploads::Upload},
    error::{Error, Result},
    model::{Image, Location, Status},
    store::{self, Object, STAGING, Store},
};

/// The status of an image while this upload, or its cleanup, owns it.
fn owned_status(upload: &Upload) -> Status {
    if upload.store == STAGING { Status::Uploading } else { Status::Saving }
}

fn is_in_store(app: &App, location: &Location, store: &str) -> bool {
    app.stores.find(&location.url, &location.metadata).is_ok_and(|found| found.id == store)
}

/// Rolls back an upload: takes over its row, removes its data from the given stores, and sets its image to `queued` again. Returns
/// `false` if the upload has completed, or another process rolls it back. Seven statements.
///
/// If the store fails, the image is `queued` nevertheless, so that the client can retry, and the data is recorded as left.
pub(crate) async fn roll_back(app: &App, upload: &Upload, stores: &[Arc<Store>]) -> Result<bool> {
    // If this process dies, the next one must still know that it is a transfer of a job.
    let upload_id = if upload.is_of_job() { Upload::new_job_id() } else { Uuid::new_v4().to_string() };
    let ours = Upload { upload_id, process_id: app.process.id.clone(), ..upload.clone() };
    let _active = app.process.begin_upload(&ours.upload_id);
    let ours_ref = &ours;
    let taken = app
        .db
        .transaction(|mut tx| async move {
            let taken = db::uploads::take_over(&mut tx, upload, ours_ref).await?;
            Ok((tx, taken))
        })
        .await?;
    if taken { undo(app, upload, &ours, stores).await } else { Ok(false) }
}

/// The next step for what a failed upload has left.
enum Cleanup {
    /// The image is `saving`, or `uploading` for staged data, for the cleanup. Everything is removed.
    Owned,
    /// The image does not exist any more. Everything is removed.
    Deleted,
    /// The image has newer data at its path. Only other data is removed.
    Replaced,
    /// An upload is in progress, or the image has its data in another store. Nothing can be removed now.
    Later,
}

/// Removes what a failed upload has left in its store, if the image allows that now. It owns a `queued` image meanwhile, as an
/// upload would: the image's next upload waits until it has ended. Nine statements.
///
/// # Errors
/// `Unavailable`: the store still fails.
pub(crate) async fn remove_leftover(app: &App, left: &Upload, store: &Arc<Store>) -> Result<()> {
    let object = Object { image_id: left.image_id.to_string(), upload_id: left.upload_id.clone() };
    // While the store is away, the image stays `queued`.
    store.probe(&object).await.map_err(Error::store_failed)?;
    let ours = Upload::cleanup_of(left, &app.process.id);
    let _active = app.process.begin_upload(&ours.upload_id);
    let ours_ref = &ours;
    let cleanup = app.db.transaction(|mut tx| async move {
        let cleanup = match db::images::get_locked(&mut tx, &left.image_id).await? {
            None => Cleanup::Deleted,
            Some(image) if image.status == Status::Queued => {
                let is_ours = db::leftovers::remove(&mut tx, left).await?
                    && db::images::set_status(&mut tx, &image, owned_status(left), app.now()).await?;
                if is_ours {
                    db::uploads::begin(&mut tx, ours_ref).await?;
                }
                if is_ours { Cleanup::Owned } else { Cleanup::Later }
            }
            Some(image) if matches!(image.status, Status::Active | Status::Deactivated) => {
                let locations = db::locations::list(&mut tx, &left.image_id).await?;
                if locations.iter().any(|location| is_in_store(app, location, &left.store)) {
                    Cleanup::Replaced
                } else {
                    Cleanup::Later
                }
            }
            Some(_) => Cleanup::Later,
        };
        Ok((tx, cleanup))
    });
    match cleanup.await? {
        Cleanup::Owned => return undo(app, left, &ours, std::slice::from_ref(store)).await.map(drop),
        Cleanup::Deleted => {
            let hold = store.hold(&object).await.map_err(Error::store_failed)?;
            store.discard(&object, Some(hold)).await.map_err(Error::store_failed)?;
        }
        Cleanup::Replaced => store.discard_parts(&object).await.map_err(Error::store_failed)?,
        Cleanup::Later => return Ok(()),
    }
    let forgotten = app.db.transaction(|mut tx| async move {
        db::leftovers::remove(&mut tx, left).await?;
        Ok((tx, ()))
    });
    forgotten.await
}

/// Removes the data of an upload whose image the row `ours` owns, and sets the image to `queued`. Returns `false` if another
/// process has taken over the row. Five statements for one store; one more for each that fails.
async fn undo(app: &App, upload: &Upload, ours: &Upload, stores: &[Arc<Store>]) -> Result<bool> {
    let mut left = Vec::new();
    for part in upload.parts() {
        let Some(store) = stores.iter().find(|store| store.id == part.store) else { continue };
        match discard_data(app, &part, ours, store).await? {
            Discarded::Yes => {}
            Discarded::NotOurs => return Ok(false),
            Discarded::Failed(error) => {
                let image = upload.image_id.as_str();
                tracing::error!(image, store = store.id, %error, "cannot remove the data of a failed upload now; will retry");
                left.push(Upload { process_id: app.process.id.clone(), ..part });
            }
        }
    }
    let left = &left;
    app.db
        .transaction(|mut tx| async move {
            db::images::get_locked(&mut tx, &upload.image_id).await?;
            if db::uploads::end(&mut tx, ours).await? {
                // The image of a job belongs to the job, which decides on its status.
                if !upload.is_of_job() {
                    db::images::requeue(&mut tx, &upload.image_id, owned_status(upload), app.now()).await?;
                }
                for left in left {
                    db::leftovers::insert(&mut tx, left).await?;
                }
            }
            Ok((tx, ()))
        })
        .await?;
    Ok(true)
}

/// The outcome of the removal of an upload's data.
enum Discarded {
    /// The data is removed, or cannot be removed by this process.
    Yes,
    /// Another process has taken over the row.
    NotOurs,
    /// The store failed.
    Failed(store::Error),
}

/// Removes the data of an upload whose row this process has taken over. Two statements.
async fn discard_data(app: &App, upload: &Upload, ours: &Upload, store: &Store) -> Result<Discarded> {
    let object = Object { image_id: upload.image_id.to_string(), upload_id: upload.upload_id.clone() };
    let hold = match store.hold(&object).await {
        Ok(hold) => hold,
        Err(error @ (store::Error::NoStore | store::Error::ReadOnly)) => {
            let image = upload.image_id.as_str();
            tracing::warn!(image, store = store.id, %error, "data of an interrupted upload may remain in the store");
            return Ok(Discarded::Yes);
        }
        Err(error) => return Ok(Discarded::Failed(error)),
    };
    // While this process waited for the hold, another one may have treated it as dead. Then the data at the path may belong to
    // another upload.
    let (still_ours, image) = {
        let mut conn = app.db.acquire().await?;
        let image = db::images::get(&mut conn, &upload.image_id).await?;
        (db::uploads::holds(&mut conn, ours).await?, image)
    };
    if !still_ours {
        hold.release().await;
        return Ok(Discarded::NotOurs);
    }
    // If an operator has reset the image's status, and a Glance has uploaded to it since, its data does not belong to this upload.
    let has_location = upload.is_of_job() && {
        let mut conn = app.db.acquire().await?;
        let locations = db::locations::list(&mut conn, &upload.image_id).await?;
        locations.iter().any(|location| is_in_store(app, location, &upload.store))
    };
    let is_without_data = |image: &Image| {
        // An import's image can be in other states, and have data in other stores.
        (upload.is_of_job() && !has_location) || image.status == Status::Queued || image.status == owned_status(upload)
    };
    let hold = match image.is_none_or(|image| is_without_data(&image)) {
        true => Some(hold),
        false => {
            tracing::warn!(
                image = upload.image_id.as_str(),
                "the image has other data by now; the data at its path is kept"
            );
            hold.release().await;
            None
        }
    };
    Ok(store.discard(&object, hold).await.map_or_else(Discarded::Failed, |()| Discarded::Yes))
}
