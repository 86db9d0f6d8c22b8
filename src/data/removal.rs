//! Removing data from its stores.
//!
//! Data is removed only once the database says so: its image is `pending_delete`, or its location is released.

use crate::{
    app::App,
    db::{self, locations::Removal},
    error::{Error, Result},
    model::{Location, Status},
    store::{self},
};

/// Removes the data at a location. `false` where the store has none there, or never removes any.
///
/// # Errors
/// What the store says.
async fn remove(app: &App, location: &Location) -> store::Result<bool> {
    match app.stores.find(&location.url, &location.metadata)?.delete(&location.url).await {
        Ok(()) => Ok(true),
        Err(error @ (store::Error::NotFound | store::Error::NoDelete | store::Error::BadLocation(_))) => {
            tracing::warn!(image = location.image_id.as_str(), location = location.id, %error, "no data is removed");
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

/// What became of an image's data.
pub(crate) struct Removed {
    /// Whether some of it is gone, or may be.
    pub(crate) touched: bool,
    /// `Ok(false)` where some of it is in stores that only Glance knows.
    pub(crate) done: Result<bool>,
}

/// Removes all the data of an image that is `pending_delete`. One statement for each location.
pub(crate) async fn remove_all(app: &App, locations: &[Location]) -> Removed {
    let (mut touched, mut all) = (false, true);
    for location in locations {
        let image = location.image_id.as_str();
        let removed = match remove(app, location).await {
            Ok(removed) => {
                touched |= removed;
                mark_deleted(app, location).await
            }
            Err(store::Error::NoStore) => {
                tracing::warn!(image, location = location.id, "the data is left to glance-scrubber");
                all = false;
                Ok(())
            }
            Err(error) => {
                touched |= may_be_gone(&error);
                Err(cannot_delete(image, error))
            }
        };
        if let Err(error) = removed {
            return Removed { touched, done: Err(error) };
        }
    }
    Removed { touched, done: Ok(all) }
}

/// Removes the data of a location that was released, unless that is left to `glance-scrubber`. The location is the image's again
/// where its store does not let the data go. One statement; two more where it refuses.
///
/// # Errors
/// As deletion of an image.
pub(crate) async fn finish_removal(app: &App, location: &Location) -> Result<()> {
    if app.config.default.delayed_delete {
        return Ok(());
    }
    let Err(error) = remove_released(app, location).await else { return Ok(()) };
    // Where the data may be gone, the removal stays noted, and is tried again.
    if !may_be_gone(&error) {
        app.db
            .transaction(|mut tx| async move {
                // The data of an image that is deleted meanwhile is no image's, and its removal goes on.
                let image = db::images::get_locked(&mut tx, &location.image_id).await?;
                if image.is_some_and(|image| image.status != Status::PendingDelete) {
                    db::locations::restore(&mut tx, location.id, app.now()).await?;
                }
                Ok((tx, ()))
            })
            .await?;
    }
    Err(cannot_delete(&location.image_id, error))
}

/// Removes the data of a location that is no longer an image's.
async fn remove_released(app: &App, location: &Location) -> store::Result<()> {
    remove(app, location).await?;
    if let Err(error) = mark_deleted(app, location).await {
        tracing::warn!(location = location.id, %error, "the data is removed, and its location cannot be marked as deleted now");
    }
    Ok(())
}

/// Resumes an interrupted removal; `false` where another process resumes it, or has ended it. Four statements.
///
/// The data may have been removed, and the image copied to the same place again: that copy stays.
///
/// # Errors
/// `StoreUnavailable`, `Unavailable`, `Forbidden` where the store refuses.
pub(crate) async fn resume_removal(app: &App, removal: &Removal) -> Result<bool> {
    let ours = app.db.transaction(|mut tx| async move {
        let (location, now) = (&removal.location, app.now());
        db::images::get_locked(&mut tx, &location.image_id).await?;
        let ours = db::locations::resume(&mut tx, removal, now).await?;
        let others = db::locations::list(&mut tx, &location.image_id).await?;
        let is_in_use = others.iter().any(|other| other.url == location.url);
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
    removed.map_err(|error| cannot_delete(&removal.location.image_id, error))
}

/// Whether data that was not removed may go all the same, or have gone: only a refusal is certain.
fn may_be_gone(error: &store::Error) -> bool {
    !matches!(error, store::Error::DeleteDenied(_) | store::Error::NoStore)
}

/// What it means to the client that a store does not let data go.
fn cannot_delete(image: &str, error: store::Error) -> Error {
    match error {
        store::Error::DeleteDenied(message) => Error::Forbidden(message),
        store::Error::TimedOut(_) => Error::StoreUnavailable(format!(
            "Image {image} could not be deleted because the filesystem store operation timed out: {error}"
        )),
        error => Error::Unavailable { service: "the image's store", source: error.into() },
    }
}
