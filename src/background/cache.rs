//! The housekeeping of the image cache of this node.

use std::sync::Arc;

use crate::{app::App, cache::Cache, data::prefetch, db, error::Result};

/// The number of images that are looked up in one statement.
const PAGE: usize = 500;

/// Removes what is not needed any more, fetches queued images, and prunes the cache.
///
/// # Errors
/// `Unavailable`
pub(super) async fn tidy(app: &Arc<App>, cache: &Arc<Cache>) -> Result<()> {
    cache.clean().await?;
    remove_deleted(app, cache).await?;
    prefetch::fetch_queued(app).await?;
    cache.prune().await?;
    Ok(())
}

/// Removes images that were deleted through another node. One statement if there are cached images.
async fn remove_deleted(app: &App, cache: &Arc<Cache>) -> Result<()> {
    let cached = cache.cached().await?;
    for page in cached.chunks(PAGE) {
        let ids: Vec<&str> = page.iter().map(|id| id.as_str()).collect();
        let live = db::images::all(&mut app.db.acquire().await?, &ids).await?;
        for id in page.iter().filter(|id| live.iter().all(|image| image.id != **id)) {
            cache.remove(id).await?;
            tracing::info!(image = id.as_str(), "a deleted image was removed from the cache");
        }
    }
    Ok(())
}
