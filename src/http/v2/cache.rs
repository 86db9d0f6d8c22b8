//! `/v2/cache`, and the older `/v2/cached_images` and `/v2/queued_images`: the image cache of this node.

use axum::{
    Router,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse as _, Response},
    routing::MethodRouter,
};
use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    app::SharedApp,
    cache::Record,
    config::CacheDriver,
    context::Context,
    error::Result,
    http::{
        error::{EMPTY_TYPE, ErrorResponse},
        extract::{ImagePath, NoBody, PathVariables},
        json,
        no_content::NoContent,
    },
    images::cache::{self, Cleared},
    model::ImageId,
};

/// A response without content whose status is not 204.
fn empty(status: StatusCode) -> Response {
    (status, [(header::CONTENT_TYPE, EMPTY_TYPE)]).into_response()
}

/// A cached image with the members of its driver, in the driver's order.
fn body(driver: CacheDriver, record: &Record) -> Value {
    let Record { row, image_id, last_accessed, last_modified, size, hits, checksum } = record;
    #[expect(clippy::cast_possible_truncation, reason = "the driver's times are whole seconds")]
    let whole = |time: f64| time as i64;
    match driver {
        CacheDriver::CentralizedDb => json!({
            "id": row,
            "image_id": image_id,
            "last_accessed": last_accessed,
            "last_modified": last_modified,
            "size": size,
            "hits": hits,
            "checksum": checksum,
        }),
        CacheDriver::Sqlite => json!({
            "image_id": image_id,
            "hits": hits,
            "last_accessed": last_accessed,
            "last_modified": last_modified,
            "size": size,
        }),
        CacheDriver::Xattr => json!({
            "image_id": image_id,
            "last_modified": whole(*last_modified),
            "last_accessed": whole(*last_accessed),
            "size": size,
            "hits": hits,
        }),
    }
}

/// The cached images and the queued ones. A list that is left out is `None`.
#[derive(Serialize)]
struct Lists {
    #[serde(skip_serializing_if = "Option::is_none")]
    cached_images: Option<Vec<Value>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    queued_images: Option<Vec<String>>,
}

fn bodies(driver: CacheDriver, records: &[Record]) -> Vec<Value> {
    records.iter().map(|record| body(driver, record)).collect()
}

pub(super) async fn state(State(app): State<SharedApp>, context: Context, _: NoBody) -> Result<Response> {
    let (driver, records, queued) = cache::state(&app, &context).await?;
    let lists = Lists { cached_images: Some(bodies(driver, &records)), queued_images: Some(queued) };
    Ok(json::response(&lists))
}

pub(super) async fn clear(State(app): State<SharedApp>, context: Context, headers: HeaderMap) -> Result<NoContent> {
    let target = headers.get("x-image-cache-clear-target").map_or(Ok(""), |target| target.to_str());
    let target = match target.map(str::to_lowercase).as_deref() {
        Ok("") => Some(Cleared::Everything),
        Ok("cache") => Some(Cleared::Cached),
        Ok("queue") => Some(Cleared::Queued),
        _ => None,
    };
    cache::clear(&app, &context, target).await?;
    Ok(NoContent)
}

pub(super) async fn queue(
    State(app): State<SharedApp>,
    context: Context,
    ImagePath(id): ImagePath,
) -> Result<Response> {
    cache::queue(&app, &context, &id).await?;
    Ok(empty(StatusCode::ACCEPTED))
}

pub(super) async fn remove(
    State(app): State<SharedApp>,
    context: Context,
    ImagePath(id): ImagePath,
) -> Result<NoContent> {
    cache::remove(&app, &context, &id).await?;
    Ok(NoContent)
}

pub(super) async fn nodes(
    State(app): State<SharedApp>,
    context: Context,
    ImagePath(id): ImagePath,
    _: NoBody,
) -> Result<Response> {
    Ok(json::response(&cache::nodes(&app, &context, &id).await?))
}

pub(super) async fn clean(State(app): State<SharedApp>, context: Context) -> Result<Response> {
    cache::clean(&app, &context).await?;
    Ok(empty(StatusCode::OK))
}

pub(super) async fn prune(State(app): State<SharedApp>, context: Context) -> Result<Response> {
    let pruned = cache::prune(&app, &context).await?;
    Ok(json::response(&json!({ "total_files_pruned": pruned.files, "total_bytes_pruned": pruned.bytes })))
}

/// The routes of the paste filter `cachemanage`. As in Glance, a method that they do not have is 404.
pub(super) fn manage_routes() -> Router<SharedApp> {
    let method = || MethodRouter::<SharedApp>::new().fallback(async || ErrorResponse::not_found());
    Router::new()
        .route("/v2/cached_images", method().get(manage::cached).delete(manage::clear_cached))
        .route("/v2/cached_images/{image_id}", method().delete(manage::remove_cached))
        .route("/v2/queued_images", method().get(manage::queued).delete(manage::clear_queued))
        .route("/v2/queued_images/{image_id}", method().put(manage::queue).delete(manage::remove_queued))
}

/// The calls of `glance-cache-manage`.
mod manage {
    use super::*;

    pub(super) async fn cached(State(app): State<SharedApp>, context: Context) -> Result<Response> {
        let cache = cache::managed(&app, &context)?;
        let cached = bodies(cache.driver(), &cache.list().await?);
        Ok(json::response(&Lists { cached_images: Some(cached), queued_images: None }))
    }

    pub(super) async fn remove_cached(
        State(app): State<SharedApp>,
        context: Context,
        PathVariables([id]): PathVariables<1>,
    ) -> Result<Response> {
        cache::managed(&app, &context)?.remove(&id).await?;
        Ok(json::response(&Value::Null))
    }

    pub(super) async fn clear_cached(State(app): State<SharedApp>, context: Context) -> Result<Response> {
        Ok(json::response(&json!({ "num_deleted": cache::managed(&app, &context)?.clear().await? })))
    }

    pub(super) async fn queued(State(app): State<SharedApp>, context: Context) -> Result<Response> {
        let queued = cache::managed(&app, &context)?.queued().await?;
        Ok(json::response(&Lists { cached_images: None, queued_images: Some(queued) }))
    }

    /// As in Glance, nothing is fetched: `glance-cache-prefetcher` and the housekeeping do that. What cannot be an image is not queued.
    pub(super) async fn queue(
        State(app): State<SharedApp>,
        context: Context,
        PathVariables([id]): PathVariables<1>,
    ) -> Result<Response> {
        let cache = cache::managed(&app, &context)?;
        if let Some(id) = ImageId::parse(&id) {
            cache.queue(&id).await?;
        }
        Ok(json::response(&Value::Null))
    }

    pub(super) async fn remove_queued(
        State(app): State<SharedApp>,
        context: Context,
        PathVariables([id]): PathVariables<1>,
    ) -> Result<Response> {
        cache::managed(&app, &context)?.dequeue(&id).await?;
        Ok(json::response(&Value::Null))
    }

    pub(super) async fn clear_queued(State(app): State<SharedApp>, context: Context) -> Result<Response> {
        Ok(json::response(&json!({ "num_deleted": cache::managed(&app, &context)?.clear_queue().await? })))
    }
}
