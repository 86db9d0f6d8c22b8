//! The stores as clients see them, and an image's data in one of them.

use crate::{
    access,
    app::App,
    context::Context,
    db::{self, locations::Removal},
    error::{Error, Result},
    model::{Location, RequestedId, Status},
    policy::{Target, rule},
    store::{self, Store},
};

/// Checks that there are stores with names to speak of.
///
/// # Errors
/// `NotFound`
pub(crate) fn check_named(app: &App) -> Result<()> {
    if app.stores.are_named {
        return Ok(());
    }
    Err(Error::NotFound("Multi backend is not supported at this site.".to_owned()))
}

/// Checks that the caller may see how stores are configured.
///
/// # Errors
/// `NotFound`, `Forbidden`
pub(crate) fn authorise_detail(app: &App, context: &Context) -> Result<()> {
    check_named(app)?;
    if app.policy.allows(&context.identity, rule::STORES_INFO_DETAIL, &Target::default()) {
        return Ok(());
    }
    Err(Error::policy_denied(rule::STORES_INFO_DETAIL))
}

/// The name of the store that a location is in, where stores have names.
pub(crate) fn name_of<'a>(app: &'a App, location: &'a Location) -> Option<&'a str> {
    let written = location.metadata.get("store").and_then(|name| name.as_str());
    match app.stores.of(&location.url, &location.metadata) {
        Ok(store) => Some(&store.id),
        Err(_) => written,
    }
}

/// The first of the locations in the stores of the highest weight.
pub(crate) fn heaviest<'l>(app: &App, locations: &'l [Location]) -> Option<&'l Location> {
    // Of several, the last one counts as the greatest.
    locations.iter().rev().max_by_key(|location| weight_of(app, location))
}

/// The weight of the store that a location is in: the heaviest is read first.
pub(super) fn weight_of(app: &App, location: &Location) -> i64 {
    app.stores.of(&location.url, &location.metadata).map_or(0, |store| store.weight)
}

/// Removes an image's data from one of several stores that it is in. Six statements.
///
/// # Errors
/// `NotFound`, `Conflict` when there is no such store or the image is not active, `Forbidden` also when it is the only
/// store that the image is in.
pub(crate) async fn remove_data(app: &App, context: &Context, store: &str, id: &RequestedId) -> Result<()> {
    if !app.stores.are_named {
        return Err(Error::NotFound(access::NOT_FOUND.to_owned()));
    }
    if app.stores.named(store).is_none() {
        return Err(Error::Conflict(format!("The selected store {store} is not available on this node.")));
    }
    let location = app
        .db
        .transaction(|mut tx| async move {
            let image = access::find_locked(app, &mut tx, context, id).await?;
            let image = image.ok_or_else(|| Error::NotFound(format!("Failed to find image {id}")))?;
            access::authorise(app, context, &image, rule::GET_IMAGE_LOCATION)?;
            access::authorise(app, context, &image, rule::DELETE_IMAGE_LOCATION)?;
            if image.status != Status::Active {
                let message = "It's not allowed to remove image data from store if image status is not 'active'";
                return Err(Error::Conflict(message.to_owned()));
            }
            let now = app.now();
            if !db::images::touch(&mut tx, &image.id, now).await? {
                return Err(Error::NotFound(format!("Failed to find image {id}")));
            }
            let locations = db::locations::of(&mut tx, &image.id).await?;
            if locations.len() == 1 {
                let message = "Cannot delete image data from the only store containing it. Consider deleting the image \
                     instead.";
                return Err(Error::Forbidden(message.to_owned()));
            }
            let location = locations.into_iter().find(|location| name_of(app, location) == Some(store));
            let location =
                location.ok_or_else(|| Error::NotFound(format!("Image {id} is not stored in store {store}.")))?;
            // It is the image's no more; as long as its data is there, that is noted.
            db::locations::release(&mut tx, location.id, now).await?;
            Ok((tx, location))
        })
        .await?;
    finish_removal(app, &location).await
}

/// Removes the data of a location that was released, unless that is left to `glance-scrubber`. The location is the image's again
/// where its store does not let the data go. One statement; two more where it refuses.
///
/// # Errors
/// As deletion of an image.
pub(super) async fn finish_removal(app: &App, location: &Location) -> Result<()> {
    if app.config.default.delayed_delete {
        return Ok(());
    }
    let Err(error) = remove_released(app, location).await else { return Ok(()) };
    // Where the data may be gone, the removal stays noted, and is tried again.
    if !super::delete::may_be_gone(&error) {
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
    Err(super::delete::cannot_delete(&location.image_id, error))
}

/// Removes the data of a location that is an image's no more.
async fn remove_released(app: &App, location: &Location) -> store::Result<()> {
    match app.stores.of(&location.url, &location.metadata)?.delete(&location.url).await {
        Ok(()) => {}
        Err(error @ (store::Error::NotFound | store::Error::NoDelete | store::Error::BadLocation(_))) => {
            tracing::warn!(image = location.image_id.as_str(), location = location.id, %error, "no data is removed");
        }
        Err(error) => return Err(error),
    }
    let marked = app.db.transaction(|mut tx| async move {
        db::locations::delete(&mut tx, location.id, app.now()).await?;
        Ok((tx, ()))
    });
    if let Err(error) = marked.await {
        tracing::warn!(location = location.id, %error, "data that is removed cannot be noted as removed now");
    }
    Ok(())
}

/// Resumes an interrupted removal; `false` where another process resumes it, or has ended it. Four statements.
///
/// The data may have been removed, and the image copied to the same place again: that copy stays.
///
/// # Errors
/// `StoreUnavailable`, `Unavailable`, `Forbidden` where the store refuses.
pub(super) async fn resume_removal(app: &App, removal: &Removal) -> Result<bool> {
    let ours = app.db.transaction(|mut tx| async move {
        let (location, now) = (&removal.location, app.now());
        db::images::get_locked(&mut tx, &location.image_id).await?;
        let ours = db::locations::resume(&mut tx, removal, now).await?;
        let others = db::locations::of(&mut tx, &location.image_id).await?;
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
    removed.map_err(|error| super::delete::cannot_delete(&removal.location.image_id, error))
}

/// The stores, in the configuration's order.
pub(crate) fn all(app: &App) -> impl Iterator<Item = &Store> {
    app.stores.iter().map(|store| &**store)
}
