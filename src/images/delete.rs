//! Deleting an image, with its data.

use std::{sync::Arc, time::Duration};

use axum::http::Method;
use tokio::time::{Instant, sleep};

use crate::{
    access,
    app::App,
    context::Context,
    data::{
        other_node::{self, Incoming},
        removal::{self, RemovalOutcome},
    },
    db::{self, Tx},
    error::{Error, Result},
    model::{Image, Location, RequestedId, Status, may_become},
    policy::rule,
};

/// How long a request waits for the end of a deletion that another one has taken over.
const TAKEOVER_WAIT: Duration = Duration::from_secs(5);
/// The pause between two checks of such a deletion.
const POLL_PAUSE: Duration = Duration::from_millis(100);

/// Deletes an image and its data. The image's row stays, as the tombstone of its id. Seven statements; with data, one more, and two
/// for each location.
///
/// Data is removed only after a transaction that holds the image's lock has set the image to `pending_delete`. If a store refuses
/// to remove it, the image gets its previous status back, unless another request has begun to delete it as well. If a process dies
/// in between, or data may have been removed, the image stays `pending_delete`: a client can delete it again, and housekeeping
/// resumes the deletion in any case. The deletion runs to its end even if the caller disconnects.
///
/// # Errors
/// `NotFound`, `Forbidden` (also when it is protected), `Conflict` when its status changed concurrently, `StoreUnavailable`, also
/// when another request has taken over the deletion, `OtherNode` if the node with the image's staged data refuses.
pub(crate) async fn delete(app: &Arc<App>, context: &Context, id: &RequestedId, incoming: &Incoming) -> Result<()> {
    let (own, context, id, incoming) = (Arc::clone(app), context.clone(), id.clone(), incoming.clone());
    app.outlive(async move {
        delete_image(&own, &context, &id, &incoming).await?;
        remove_from_cache(&own, &id.to_string()).await;
        Ok(())
    })
    .await
}

/// Removes a deleted image from the cache of this node. Other nodes' housekeeping finds it.
async fn remove_from_cache(app: &App, id: &str) {
    if let Some(cache) = &app.cache
        && let Err(error) = cache.remove(id).await
    {
        tracing::warn!(image = id, %error, "a deleted image stays in the cache for now; the next cleanup removes it");
    }
}

/// How a deletion goes on.
enum Begun {
    /// The image is deleted.
    Deleted,
    /// The data must be removed from these locations. The status is the one before.
    WithData(Box<Image>, Status, Vec<Location>),
    /// The data is staged on the node with this URL.
    StagedElsewhere(String),
}

async fn delete_image(app: &App, context: &Context, id: &RequestedId, incoming: &Incoming) -> Result<()> {
    let begun = match begin(app, context, id, true).await? {
        Begun::StagedElsewhere(host) => {
            match other_node::forward(&host, incoming, Method::DELETE, &format!("/v2/images/{id}"), None).await {
                // As in Glance, the image is deleted nevertheless. That node's housekeeping removes the staged data.
                Err(error) if other_node::is_failure(&error) => begin(app, context, id, false).await?,
                done => return done,
            }
        }
        begun => begun,
    };
    let with_data = match begun {
        Begun::WithData(image, before, locations) => Some((*image, before, locations)),
        Begun::Deleted | Begun::StagedElsewhere(_) => None,
    };
    finish(app, id, with_data).await
}

/// Begins a deletion, and completes that of an image without data.
async fn begin(app: &App, context: &Context, id: &RequestedId, may_forward: bool) -> Result<Begun> {
    app.db
        .transaction(|mut tx| async move {
            let image = access::find_locked(app, &mut tx, context, id).await?;
            let image = image.ok_or_else(|| Error::deleted_image_not_found(id))?;
            access::authorise(app, context, &image, rule::DELETE_IMAGE)?;
            if may_forward
                && image.status == Status::Uploading
                && let Some(host) = other_node::host_of_staged(app, &mut tx, &image.id).await?
            {
                return Ok((tx, Begun::StagedElsewhere(host)));
            }
            if image.protected {
                return Err(Error::Forbidden(format!("Image {id} is protected and cannot be deleted.")));
            }
            // If the policy allows a deletion that Glance's code reserves for the owner, Glance answers 404.
            access::check_mutable(context, &image).map_err(|_| Error::deleted_image_not_found(id))?;
            let locations = db::locations::list(&mut tx, &image.id).await?;
            if locations.is_empty() || app.config.default.delayed_delete {
                mark_deleted(app, &mut tx, &image, locations.is_empty()).await?;
                return Ok((tx, Begun::Deleted));
            }
            check_transition(image.status, Status::Deleted)?;
            let begun = db::images::begin_deletion(&mut tx, &image, app.now()).await?;
            let begun = begun.ok_or_else(|| Error::image_changed(id))?;
            Ok((tx, Begun::WithData(begun.into(), image.status, locations)))
        })
        .await
}

/// Removes the data of an image, and marks it as deleted.
async fn finish(app: &App, id: &RequestedId, with_data: Option<(Image, Status, Vec<Location>)>) -> Result<()> {
    match with_data {
        Some((image, before, locations)) => match removal::remove_all(app, &image, &locations).await {
            RemovalOutcome::Removed => complete(app, &image, true).await,
            RemovalOutcome::LeftToGlance => complete(app, &image, false).await,
            RemovalOutcome::Overtaken => Err(overtaken(app, &image).await?),
            RemovalOutcome::Failed { error, may_have_removed } => {
                // An image that has lost data, or may have, must not become readable again.
                // A deletion that another one began before cannot know whether that one has removed data.
                if !may_have_removed && before != Status::PendingDelete {
                    restore_status(app, &image, before).await;
                }
                Err(error)
            }
        },
        None => {
            discard_staged(app, &id.to_string()).await;
            Ok(())
        }
    }
}

/// Resumes the interrupted deletion of `image`. Returns `false` if the image has changed since it was read, because another process
/// resumes or has completed its deletion. Three statements, and those of the deletion.
///
/// It sets the image's `updated_at` first. So a deletion that keeps failing moves behind all others, for every process.
///
/// An image that was protected after its deletion began is deleted nevertheless: some of its data may be removed already.
///
/// # Errors
/// `StoreUnavailable`, `Unavailable`, `Forbidden` if the store refuses.
pub(crate) async fn resume(app: &App, image: &Image) -> Result<bool> {
    let ours = app.db.transaction(|mut tx| async move {
        let id = &image.id;
        if db::images::get_locked(&mut tx, id).await?.as_ref() != Some(image) {
            return Ok((tx, None));
        }
        // From here on, the request that began the deletion cannot restore the image's status.
        let Some(begun) = db::images::begin_deletion(&mut tx, image, app.now()).await? else { return Ok((tx, None)) };
        let locations = db::locations::list(&mut tx, &begun.id).await?;
        Ok((tx, Some((begun, locations))))
    });
    let Some((image, locations)) = ours.await? else { return Ok(false) };
    let ended = if app.config.default.delayed_delete {
        complete(app, &image, locations.is_empty()).await
    } else {
        match removal::remove_all(app, &image, &locations).await {
            RemovalOutcome::Removed => complete(app, &image, true).await,
            RemovalOutcome::LeftToGlance => complete(app, &image, false).await,
            RemovalOutcome::Overtaken => return Ok(false),
            RemovalOutcome::Failed { error, .. } => return Err(error),
        }
    };
    match ended {
        // A client has deleted the image concurrently.
        Err(Error::NotFound(_) | Error::Conflict(_)) => Ok(false),
        ended => ended.map(|()| true),
    }
}

/// Waits for the end of the deletion that has taken over the image, and returns the client's error. One statement per
/// [`POLL_PAUSE`].
async fn overtaken(app: &App, image: &Image) -> Result<Error> {
    let deadline = Instant::now() + TAKEOVER_WAIT;
    loop {
        let now = db::images::get(&mut app.db.acquire().await?, &image.id).await?;
        match now {
            None => return Ok(Error::deleted_image_not_found(&image.id)),
            Some(now) if now.status != Status::PendingDelete => return Ok(Error::image_changed(&image.id)),
            Some(_) if Instant::now() >= deadline => return Ok(Error::deletion_in_progress(&image.id)),
            Some(_) => sleep(POLL_PAUSE).await,
        }
    }
}

/// Marks an image as deleted, and removes its staged data.
async fn complete(app: &App, image: &Image, data_is_removed: bool) -> Result<()> {
    app.db
        .transaction(|mut tx| async move {
            mark_deleted(app, &mut tx, image, data_is_removed).await?;
            Ok((tx, ()))
        })
        .await?;
    discard_staged(app, &image.id).await;
    Ok(())
}

async fn discard_staged(app: &App, image_id: &str) {
    if let Err(error) = app.stores.discard_staged(image_id).await {
        tracing::warn!(image = image_id, %error, "cannot remove the staged data of a deleted image; its file stays");
    }
}

fn check_transition(from: Status, to: Status) -> Result<()> {
    if may_become(from, to) {
        return Ok(());
    }
    Err(Error::invalid_transition(from.as_str(), to.as_str()))
}

/// Marks an image as deleted, or as `pending_delete` for `glance-scrubber` if its data still exists.
async fn mark_deleted(app: &App, tx: &mut Tx, image: &Image, data_is_removed: bool) -> Result<()> {
    let to = if data_is_removed { Status::Deleted } else { Status::PendingDelete };
    if image.status != to {
        check_transition(image.status, to)?;
    }
    if !data_is_removed {
        db::images::release_data(tx, &image.id).await?;
    }
    let now = app.now();
    let id = image.id.clone();
    if !db::images::delete(tx, image, to, now).await? {
        // Another request has deleted or changed the image first.
        return Err(match db::images::get(tx, &id).await? {
            None => Error::deleted_image_not_found(&id),
            Some(_) => Error::image_changed(&id),
        });
    }
    db::images::delete_children(tx, &image.id, now).await?;
    Ok(())
}

async fn restore_status(app: &App, image: &Image, to: Status) {
    let back = app
        .db
        .transaction(|mut tx| async move {
            let restored = db::images::set_status_of_unchanged(&mut tx, image, to, app.now()).await?;
            Ok((tx, restored))
        })
        .await;
    let image = image.id.as_str();
    match back {
        Ok(true) => {}
        Ok(false) => tracing::warn!(image, "another request deletes the image too, it stays pending_delete"),
        Err(error) => tracing::error!(
            image,
            %error,
            "cannot restore the image's status, it stays pending_delete; its deletion will be resumed"
        ),
    }
}
