//! Removal of data from its stores.
//!
//! Data is removed only after a committed transaction has set its image to `pending_delete` or released its location.

use crate::{
    app::App,
    db::{self, locations::Removal},
    error::{Error, Result},
    model::{Image, Location, Status},
    store::{self},
};

/// Removes the data at a location. Returns `false` if the store has no data there, or does not support removal.
///
/// # Errors
/// The store's error.
async fn remove_data(app: &App, location: &Location) -> store::Result<bool> {
    match app.stores.find(&location.url, &location.metadata)?.delete(&location.url).await {
        Ok(()) => Ok(true),
        Err(error @ (store::Error::NotFound | store::Error::NoDelete | store::Error::BadLocation(_))) => {
            let image = location.image_id.as_str();
            tracing::warn!(image, location = location.id, %error, "the store removed no data");
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

async fn mark_deleted(app: &App, location: &Location) -> Result<()> {
    app.db
        .transaction(|mut tx| async move {
            db::locations::delete(&mut tx, location.id, app.now()).await?;
            Ok((tx, ()))
        })
        .await
}

/// The outcome of the removal of an image's data.
pub(crate) enum RemovalOutcome {
    /// The data at every location is removed.
    Removed,
    /// As `Removed`, except for data in stores that are configured for Glance only.
    LeftToGlance,
    /// The removal stopped, because the deletion no longer owns the image.
    Overtaken,
    /// The removal stopped at an error.
    Failed {
        /// What the client gets.
        error: Error,
        /// Whether data was removed, or may have been.
        may_have_removed: bool,
    },
}

/// Removes all data of an image whose deletion [began](db::images::begin_deletion) and returned `image`. Two statements for each
/// location.
///
/// Before it removes the data at a location, it checks that the deletion still owns the image. While a store was slow, another
/// deletion may have begun, or an operator may have restored the image.
pub(crate) async fn remove_all(app: &App, image: &Image, locations: &[Location]) -> RemovalOutcome {
    let (mut may_have_removed, mut is_complete) = (false, true);
    for location in locations {
        match owns_image(app, image).await {
            Ok(true) => {}
            Ok(false) => return RemovalOutcome::Overtaken,
            Err(error) => return RemovalOutcome::Failed { error, may_have_removed },
        }
        let id = image.id.as_str();
        let removed = match remove_data(app, location).await {
            Ok(removed) => {
                may_have_removed |= removed;
                mark_deleted(app, location).await
            }
            Err(store::Error::NoStore) => {
                tracing::warn!(
                    image = id,
                    location = location.id,
                    "no configured store has this location; its data is left to glance-scrubber"
                );
                is_complete = false;
                Ok(())
            }
            Err(error) => {
                may_have_removed |= is_uncertain(&error);
                Err(match error {
                    store::Error::InUse => {
                        Error::Conflict(format!("Image {id} could not be deleted because it is in use: {error}"))
                    }
                    error => removal_error(id, error),
                })
            }
        };
        if let Err(error) = removed {
            return RemovalOutcome::Failed { error, may_have_removed };
        }
    }
    if is_complete { RemovalOutcome::Removed } else { RemovalOutcome::LeftToGlance }
}

/// Whether the deletion that returned `image` still owns the image. One statement.
async fn owns_image(app: &App, image: &Image) -> Result<bool> {
    let mut conn = app.db.acquire().await?;
    Ok(db::images::is_deletion_current(&mut conn, image).await?)
}

/// Removes the data of a released location, unless the configuration leaves that to `glance-scrubber`. If the store refuses, the
/// location is restored to the image. One statement; two more if the store refuses.
///
/// # Errors
/// As deletion of an image.
pub(crate) async fn finish_removal(app: &App, location: &Location) -> Result<()> {
    if app.config.default.delayed_delete {
        return Ok(());
    }
    let Err(error) = remove_released(app, location).await else { return Ok(()) };
    // If the data may have been removed, the location stays released, and housekeeping retries the removal.
    if !is_uncertain(&error) {
        app.db
            .transaction(|mut tx| async move {
                // If the image was deleted concurrently, no image needs the data, and housekeeping resumes its removal.
                let image = db::images::get_locked(&mut tx, &location.image_id).await?;
                if image.is_some_and(|image| image.status != Status::PendingDelete) {
                    db::locations::restore(&mut tx, location.id, app.now()).await?;
                }
                Ok((tx, ()))
            })
            .await?;
    }
    Err(removal_error(&location.image_id, error))
}

/// Like [`finish_removal`], for locations that an import has added before it failed: they stay released if the store refuses, because
/// the image must not keep them. Failures are logged, and housekeeping retries the removal; so it does if the process dies meanwhile. One
/// statement for each location.
pub(crate) async fn remove_undone(app: &App, locations: &[Location]) {
    if app.config.default.delayed_delete {
        return;
    }
    for location in locations {
        if let Err(error) = remove_released(app, location).await {
            let error = removal_error(&location.image_id, error);
            tracing::warn!(%error, location = location.id, "data of a failed import cannot be removed now; will retry");
        }
    }
}

/// Removes the data of a released location.
async fn remove_released(app: &App, location: &Location) -> store::Result<()> {
    remove_data(app, location).await?;
    if let Err(error) = mark_deleted(app, location).await {
        tracing::warn!(
            location = location.id,
            %error,
            "the data is removed, but its location cannot be marked as deleted now; housekeeping will retry"
        );
    }
    Ok(())
}

/// Resumes an interrupted removal. Returns `false` if another process resumes it, or has completed it. Four statements.
///
/// If the image has another location with the same URL, its data was copied there after the removal, and is kept.
///
/// # Errors
/// `StoreUnavailable`, `Unavailable`, `Forbidden` if the store refuses.
pub(crate) async fn resume_removal(app: &App, removal: &Removal) -> Result<bool> {
    let ours = app.db.transaction(|mut tx| async move {
        let (location, now) = (&removal.location, app.now());
        db::images::get_locked(&mut tx, &location.image_id).await?;
        let ours = db::locations::resume(&mut tx, removal, now).await?;
        let others = db::locations::list(&mut tx, &location.image_id).await?;
        let is_in_use = others.iter().any(|other| other.url.is_same_data(&location.url));
        if ours && is_in_use {
            db::locations::delete(&mut tx, location.id, now).await?;
        }
        Ok((tx, (ours, is_in_use)))
    });
    match ours.await? {
        (false, _) => return Ok(false),
        (true, true) => return Ok(true),
        (true, false) => {}
    }
    let removed = remove_released(app, &removal.location).await.map(|()| true);
    removed.map_err(|error| removal_error(&removal.location.image_id, error))
}

/// Whether the data may have been removed, or may still be, despite the error. Only a refusal is certain.
fn is_uncertain(error: &store::Error) -> bool {
    !matches!(error, store::Error::DeleteDenied(_) | store::Error::InUse | store::Error::NoStore)
}

/// Turns a store's failure to remove data into the client's error.
fn removal_error(image: &str, error: store::Error) -> Error {
    match error {
        store::Error::DeleteDenied(message) => Error::Forbidden(message),
        store::Error::InUse => {
            Error::Conflict(format!("The data for Image {image} could not be deleted because it is in use: {error}"))
        }
        store::Error::TimedOut(_) => Error::StoreUnavailable(format!(
            "Image {image} could not be deleted because the filesystem store operation timed out: {error}"
        )),
        error => Error::store_failed(error),
    }
}
