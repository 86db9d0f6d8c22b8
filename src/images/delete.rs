//! Deleting an image, with its data.

use std::{fmt::Display, sync::Arc};

use crate::{
    access,
    app::App,
    context::Context,
    data::removal::{self, Removed},
    db::{self, Tx},
    error::{Error, Result},
    model::{Image, Location, RequestedId, Status, may_become},
    policy::rule,
};

/// Deletes an image and its data: its row stays, as the tombstone of its id. Seven statements; with data, one more, and one for
/// each location.
///
/// Data is removed only after a transaction that held the image's lock has set the image to `pending_delete`. Where a store refuses
/// to remove it, the image becomes what it was before, unless another request has begun to delete it, too. An image that a killed
/// process left in that state, or whose data may be gone, can be deleted again, and housekeeping does so in any case. The deletion
/// goes on to its end also when the caller stops waiting for it.
///
/// # Errors
/// `NotFound`, `Forbidden` (also when it is protected), `Conflict` when its status changed meanwhile, `StoreUnavailable`.
pub(crate) async fn delete(app: &Arc<App>, context: &Context, id: &RequestedId) -> Result<()> {
    let (own, context, id) = (Arc::clone(app), context.clone(), id.clone());
    app.outlive(async move { run(&own, &context, &id).await }).await
}

async fn run(app: &App, context: &Context, id: &RequestedId) -> Result<()> {
    let with_data = app
        .db
        .transaction(|mut tx| async move {
            let image = access::find_locked(app, &mut tx, context, id).await?.ok_or_else(|| not_found(id))?;
            access::authorise(app, context, &image, rule::DELETE_IMAGE)?;
            if image.protected {
                return Err(Error::Forbidden(format!("Image {id} is protected and cannot be deleted.")));
            }
            // Where the policy lets them, and its owner alone may, Glance says so.
            access::check_mutable(context, &image).map_err(|_| not_found(id))?;
            let locations = db::locations::list(&mut tx, &image.id).await?;
            if locations.is_empty() || app.config.default.delayed_delete {
                mark(app, &mut tx, &image, locations.is_empty()).await?;
                return Ok((tx, None));
            }
            check_transition(image.status, Status::Deleted)?;
            let begun = db::images::begin_deletion(&mut tx, &image, app.now()).await?.ok_or_else(|| changed(id))?;
            Ok((tx, Some((begun, image.status, locations))))
        })
        .await?;
    match with_data {
        Some((image, before, locations)) => {
            let (touched, removed) = remove(app, &image, &locations).await;
            // An image that has, or may have, lost a part of its data must not be read again.
            if removed.is_err() && !touched {
                bring_back(app, &image, before).await;
            }
            removed
        }
        None => {
            discard_staged(app, &id.to_string()).await;
            Ok(())
        }
    }
}

/// Resumes an interrupted deletion of an image that is still as it was read; `false` where it is not, because another process
/// resumes it, or has ended it. Three statements, and those of the deletion. It sets the image's time first: a deletion that cannot
/// end waits behind all the others, whichever process tries them next.
///
/// It ends also where the image was protected meanwhile: data of it may be gone already.
///
/// # Errors
/// `StoreUnavailable`, `Unavailable`, `Forbidden` where the store refuses.
pub(crate) async fn resume(app: &App, image: &Image) -> Result<bool> {
    let ours = app.db.transaction(|mut tx| async move {
        let id = &image.id;
        if db::images::get_locked(&mut tx, id).await?.as_ref() != Some(image) {
            return Ok((tx, None));
        }
        // From here on, the request that began the deletion cannot take it back.
        let Some(begun) = db::images::begin_deletion(&mut tx, image, app.now()).await? else { return Ok((tx, None)) };
        let locations = db::locations::list(&mut tx, &begun.id).await?;
        Ok((tx, Some((begun, locations))))
    });
    let Some((image, locations)) = ours.await? else { return Ok(false) };
    let ended = match app.config.default.delayed_delete {
        true => end(app, &image, locations.is_empty()).await,
        false => remove(app, &image, &locations).await.1,
    };
    match ended {
        // A client has deleted it again meanwhile.
        Err(Error::NotFound(_) | Error::Conflict(_)) => Ok(false),
        ended => ended.map(|()| true),
    }
}

/// Removes an image's data, and marks the image as deleted. Returns whether some of the data is gone, or may be, too.
async fn remove(app: &App, image: &Image, locations: &[Location]) -> (bool, Result<()>) {
    let Removed { touched, done } = removal::remove_all(app, locations).await;
    match done {
        Ok(all) => (true, end(app, image, all).await),
        Err(error) => (touched, Err(error)),
    }
}

async fn end(app: &App, image: &Image, data_is_gone: bool) -> Result<()> {
    app.db
        .transaction(|mut tx| async move {
            mark(app, &mut tx, image, data_is_gone).await?;
            Ok((tx, ()))
        })
        .await?;
    discard_staged(app, &image.id).await;
    Ok(())
}

async fn discard_staged(app: &App, image_id: &str) {
    if let Err(error) = app.stores.discard_staged(image_id).await {
        tracing::warn!(%error, "data that was staged for the image cannot be removed");
    }
}

fn not_found(id: impl Display) -> Error {
    Error::NotFound(format!("Failed to find image {id} to delete"))
}

fn changed(id: impl Display) -> Error {
    Error::Conflict(format!("Image {id} was changed by another request; try again."))
}

fn check_transition(from: Status, to: Status) -> Result<()> {
    if may_become(from, to) {
        return Ok(());
    }
    let (from, to) = (from.as_str(), to.as_str());
    Err(Error::Invalid(format!("Image status transition from {from} to {to} is not allowed")))
}

/// Marks an image as deleted; where its data is still there, for `glance-scrubber`.
async fn mark(app: &App, tx: &mut Tx, image: &Image, data_is_gone: bool) -> Result<()> {
    let to = if data_is_gone { Status::Deleted } else { Status::PendingDelete };
    if image.status != to {
        check_transition(image.status, to)?;
    }
    if !data_is_gone {
        db::images::release_data(tx, &image.id).await?;
    }
    let now = app.now();
    let id = image.id.clone();
    if !db::images::delete(tx, image, to, now).await? {
        // Somebody was faster: with its deletion, or with a change.
        return Err(match db::images::get(tx, &id).await? {
            None => not_found(&id),
            Some(_) => changed(&id),
        });
    }
    db::images::delete_children(tx, &image.id, now).await?;
    Ok(())
}

async fn bring_back(app: &App, image: &Image, to: Status) {
    let back = app
        .db
        .transaction(|mut tx| async move {
            db::images::set_status_of_unchanged(&mut tx, image, to, app.now()).await?;
            Ok((tx, ()))
        })
        .await;
    if let Err(error) = back {
        tracing::error!(image = image.id.as_str(), %error, "the image stays pending_delete; its deletion goes on later");
    }
}
