//! Resumes interrupted deletions, and removes files of uploads that no row refers to, staged data that no image needs, and locks of
//! images that are deleted.

use std::time::Duration;

use futures_util::{StreamExt as _, stream};

use crate::{
    app::App,
    data::{removal, stage},
    db::{self, Conn, locations::Removal, uploads::Upload},
    error::Result,
    images::delete,
    model::Image,
    store::Object,
};

/// The maximum number of interrupted deletions that are read at a time. Those with the oldest attempt come first.
const DELETIONS: u64 = 1000;
/// The number of deletions that are resumed concurrently. With an unavailable store, each of them waits for its timeout.
const CONCURRENT: usize = 8;

/// Deletions that are in progress, or were interrupted.
struct Deletions {
    images: Vec<Image>,
    removals: Vec<Removal>,
}

/// Resumes the deletions that did not change during `quiet`, which is long enough to detect a dead process. Then removes locks of
/// deleted images, and files of unknown uploads.
///
/// # Errors
/// `Unavailable`
pub(super) async fn run(app: &App, quiet: Duration) -> Result<()> {
    let before = Deletions::load(app).await?;
    tokio::time::sleep(quiet).await;
    Deletions::load(app).await?.resume_unchanged(app, &before).await;
    app.db.remove_stale_locks().await?;
    expire_tasks(app).await?;
    remove_unknown_files(app, quiet).await?;
    if let Err(error) = stage::remove_stale(app, quiet).await {
        tracing::warn!(%error, "cannot remove staged data that no image needs; will retry");
    }
    Ok(())
}

/// Marks expired tasks as deleted.
async fn expire_tasks(app: &App) -> Result<()> {
    app.db
        .transaction(|mut tx| async move {
            db::tasks::expire(&mut tx, app.now()).await?;
            Ok((tx, ()))
        })
        .await
}

/// Removes files of uploads without a row: an upload's row exists before its file is created, and until it is removed.
async fn remove_unknown_files(app: &App, quiet: Duration) -> Result<()> {
    for store in app.stores.iter().chain([&app.stores.staging()]) {
        let unfinished = match store.unfinished(quiet).await {
            Ok(unfinished) => unfinished,
            Err(error) => {
                tracing::warn!(store = store.id, %error, "cannot list the files of interrupted uploads; will retry");
                continue;
            }
        };
        if unfinished.is_empty() {
            continue;
        }
        let timeout = app.config.glimpse.request_timeout;
        let known = app.db.acquire().await?.in_time(timeout, async |conn| db::uploads::all(conn).await).await?;
        let known: Vec<_> = known.iter().flat_map(Upload::parts).collect();
        let is_known = |object: &&Object| known.iter().any(|upload| upload.upload_id == object.upload_id);
        for object in unfinished.iter().filter(|object| !is_known(object)) {
            let image = &object.image_id;
            match store.discard(object, None).await {
                Ok(()) => tracing::warn!(image, "an interrupted upload's file was removed"),
                Err(error) => tracing::error!(image, %error, "cannot remove an interrupted upload's file; will retry"),
            }
        }
    }
    Ok(())
}

impl Deletions {
    /// Reads the deletions. Two statements.
    async fn load(app: &App) -> Result<Self> {
        let load = async |conn: &mut Conn| {
            let images = db::images::being_deleted(conn, DELETIONS).await?;
            // With delayed deletion, glance-scrubber removes the data of released locations once their image is deleted.
            let removals = match app.config.default.delayed_delete {
                true => Vec::new(),
                false => db::locations::being_removed(conn, DELETIONS).await?,
            };
            Ok(Self { images, removals })
        };
        Ok(app.db.acquire().await?.in_time(app.config.glimpse.request_timeout, load).await?)
    }

    /// Resumes the deletions that are the same as before: no process is working on them.
    async fn resume_unchanged(self, app: &App, before: &Self) {
        let images = self.images.iter().filter(|image| before.images.contains(image));
        stream::iter(images)
            .for_each_concurrent(CONCURRENT, async |image| {
                let work = delete::resume(app, image);
                run_and_log(app, &image.id, work, "a deletion").await;
            })
            .await;
        let removals = self.removals.iter().filter(|removal| before.removals.contains(removal));
        stream::iter(removals)
            .for_each_concurrent(CONCURRENT, async |removal| {
                let work = removal::resume_removal(app, removal);
                run_and_log(app, &removal.location.image_id, work, "a removal from a store").await;
            })
            .await;
    }
}

/// Resumes a deletion with the timeout of a request, and logs the outcome.
async fn run_and_log(app: &App, image: &str, work: impl Future<Output = Result<bool>>, what: &'static str) {
    match tokio::time::timeout(app.config.glimpse.request_timeout, work).await {
        Ok(Ok(false)) => {}
        Ok(Ok(true)) => tracing::warn!(image, "{what} that was interrupted is now complete"),
        Ok(Err(error)) => tracing::error!(image, %error, "{what} was interrupted, and cannot be resumed now"),
        Err(_) => tracing::error!(image, "{what} was interrupted, and cannot be resumed now: it takes too long"),
    }
}
