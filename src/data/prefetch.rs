//! Fetches queued images into the cache.

use std::sync::Arc;

use futures_util::StreamExt as _;

use super::download;
use crate::{
    app::App,
    cache::PREFETCHES,
    db,
    error::{Error, Result},
    model::{Image, ImageId, Status},
};

/// Fetches the queued images, in the order in which they were queued. Returns the number of images that were in the queue, and the
/// number of those that are cached now.
///
/// # Errors
/// `Unavailable` if the queue cannot be read.
pub(crate) async fn fetch_queued(app: &Arc<App>) -> Result<(usize, usize)> {
    let Some(cache) = &app.cache else { return Ok((0, 0)) };
    let queued = cache.queued().await?;
    let fetched = futures_util::stream::iter(&queued).map(async |id| match ImageId::parse(id) {
        Some(id) => fetch(app, &id).await,
        None => false,
    });
    let fetched: Vec<bool> = fetched.buffer_unordered(PREFETCHES).collect().await;
    Ok((queued.len(), fetched.into_iter().filter(|is_cached| *is_cached).count()))
}

/// Fetches an image into the cache. Returns whether it is there. The reason why not is logged.
pub(crate) async fn fetch(app: &Arc<App>, id: &ImageId) -> bool {
    let image = id.as_str();
    match try_fetch(app, id).await {
        Ok(()) => true,
        Err(error) => {
            tracing::warn!(image, %error, "a queued image cannot be cached; it stays in the queue");
            false
        }
    }
}

async fn try_fetch(app: &Arc<App>, id: &ImageId) -> Result<()> {
    let Some(cache) = &app.cache else { return Ok(()) };
    let _slot = cache.prefetch_slot().await;
    let found: Option<Image> = db::images::get(&mut app.db.acquire().await?, id).await?;
    let image = found.ok_or_else(|| Error::image_not_found(id))?;
    if image.status != Status::Active {
        return Err(Error::Invalid("it is not active".to_owned()));
    }
    download::fill_cache(app, cache, image).await?;
    cache.dequeue(id).await
}
