//! The image cache as its administrators see it: what is cached and queued, and commands to change that.

use std::sync::Arc;

use crate::{
    access,
    app::App,
    cache::{Cache, Pruned, Record},
    config::CacheDriver,
    context::Context,
    data::prefetch,
    db,
    error::{Error, Result},
    model::{RequestedId, Status},
    policy::{Target, rule},
};

/// What a request removes everything of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cleared {
    /// Cached images and queued ones.
    Everything,
    /// Cached images.
    Cached,
    /// Queued images.
    Queued,
}

/// Checks that a policy rule allows something that concerns no image. Returns the cache.
///
/// # Errors
/// `Forbidden`; `NotFound` if there is no cache.
fn authorise<'a>(app: &'a App, context: &Context, rule: &str) -> Result<&'a Arc<Cache>> {
    if !app.policy.allows(&context.identity, rule, &Target::default()) {
        return Err(Error::policy_denied(rule));
    }
    cache_of(app)
}

fn cache_of(app: &App) -> Result<&Arc<Cache>> {
    app.cache.as_ref().ok_or_else(|| Error::NotFound("Caching via API is not supported at this site.".to_owned()))
}

/// Lists the cached images, and the ids of the queued ones.
///
/// # Errors
/// `Forbidden`, `NotFound` if there is no cache, `Unavailable`
pub(crate) async fn state(app: &App, context: &Context) -> Result<(CacheDriver, Vec<Record>, Vec<String>)> {
    let cache = authorise(app, context, rule::CACHE_LIST)?;
    Ok((cache.driver(), cache.list().await?, cache.queued().await?))
}

/// Queues an image, and begins to fetch it. One or two statements.
///
/// # Errors
/// `NotFound`, `Forbidden`, `Invalid` if the image is not active, `Unavailable`
pub(crate) async fn queue(app: &Arc<App>, context: &Context, id: &RequestedId) -> Result<()> {
    let image = access::find(app, &mut app.db.acquire().await?, context, id).await?;
    let image = image.ok_or_else(|| Error::parent_image_not_found(id))?;
    if !access::allows(app, context, &image, rule::CACHE_IMAGE) {
        return Err(Error::policy_denied(rule::CACHE_IMAGE));
    }
    let cache = cache_of(app)?;
    if image.status != Status::Active {
        return Err(Error::Invalid("Only images with status active can be targeted for queueing".to_owned()));
    }
    cache.queue(&image.id).await?;
    let (own, id) = (Arc::clone(app), image.image.id);
    app.work.spawn(async move {
        prefetch::fetch(&own, &id).await;
    });
    Ok(())
}

/// Removes an image from the cache and from the queue. One or two statements, and one that removes the record.
///
/// # Errors
/// `NotFound`, `Forbidden`, `Unavailable`
pub(crate) async fn remove(app: &App, context: &Context, id: &RequestedId) -> Result<()> {
    let image = access::find(app, &mut app.db.acquire().await?, context, id).await?;
    let text = id.to_string();
    let is_allowed = match &image {
        Some(image) => access::allows(app, context, image, rule::CACHE_DELETE),
        // An image that the caller does not see can be in the cache nevertheless.
        None => {
            let missing = || Error::parent_image_not_found(id);
            let cache = app.cache.as_ref().ok_or_else(missing)?;
            let is_there = cache.queued().await?.contains(&text)
                || cache.list().await?.iter().any(|record| record.image_id == text);
            if !is_there {
                return Err(missing());
            }
            app.policy.allows(&context.identity, rule::CACHE_DELETE, &Target::default())
        }
    };
    if !is_allowed {
        return Err(Error::policy_denied(rule::CACHE_DELETE));
    }
    let cache = cache_of(app)?;
    cache.remove(&text).await?;
    cache.dequeue(&text).await
}

/// Removes all images from the cache, from the queue, or from both.
///
/// # Errors
/// `Forbidden`, `NotFound` if there is no cache, `Invalid` if `cleared` is, `Unavailable`
pub(crate) async fn clear(app: &App, context: &Context, cleared: Option<Cleared>) -> Result<()> {
    let cache = authorise(app, context, rule::CACHE_DELETE)?;
    let message = "If provided 'x-image-cache-clear-target' must be 'cache', 'queue' or empty string.";
    let cleared = cleared.ok_or_else(|| Error::Invalid(message.to_owned()))?;
    if cleared != Cleared::Queued {
        cache.clear().await?;
    }
    if cleared != Cleared::Cached {
        cache.clear_queue().await?;
    }
    Ok(())
}

/// The URLs of the nodes that have the image in their caches. Two or three statements.
///
/// # Errors
/// `Forbidden`, `NotFound` if there is no cache or no image, `Conflict` if the nodes do not share their records, `Unavailable`
pub(crate) async fn nodes(app: &App, context: &Context, id: &RequestedId) -> Result<Vec<String>> {
    authorise(app, context, rule::LIST_CACHED_NODES)?;
    if app.config.default.image_cache_driver != CacheDriver::CentralizedDb {
        return Err(Error::Conflict("Centralized caching is not enabled".to_owned()));
    }
    let mut conn = app.db.acquire().await?;
    let image = access::find(app, &mut conn, context, id).await?;
    let image = image.ok_or_else(|| Error::parent_image_not_found(id))?;
    Ok(db::cached_images::nodes(&mut conn, &image.id).await?)
}

/// Removes invalid and stalled files.
///
/// # Errors
/// `Forbidden`, `NotFound` if there is no cache, `Unavailable`
pub(crate) async fn clean(app: &App, context: &Context) -> Result<()> {
    authorise(app, context, rule::CACHE_CLEAN)?.clean().await
}

/// Removes images until the cache is small enough.
///
/// # Errors
/// `Forbidden`, `NotFound` if there is no cache, `Unavailable`
pub(crate) async fn prune(app: &App, context: &Context) -> Result<Pruned> {
    authorise(app, context, rule::CACHE_PRUNE)?.prune().await
}

/// The cache, for the calls of `glance-cache-manage`.
///
/// # Errors
/// `Forbidden`, `NotFound` if there is no cache
pub(crate) fn managed<'a>(app: &'a App, context: &Context) -> Result<&'a Arc<Cache>> {
    authorise(app, context, rule::MANAGE_IMAGE_CACHE)
}
