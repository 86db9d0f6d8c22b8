//! Resumes interrupted deletions, and removes files of uploads that no process knows of.

use std::time::Duration;

use futures_util::{StreamExt as _, stream};

use crate::{
    app::App,
    data::removal,
    db::{self, Conn, locations::Removal},
    error::Result,
    images::delete,
    model::Image,
    store::Object,
};

/// Broken-off deletions that are looked for at a time; those that were tried longest ago come first.
const DELETIONS: u64 = 1000;
/// Of these, so many are gone on with beside each other: a store that is away lets each of them wait.
const BESIDE: usize = 8;

/// Deletions that are in progress, or were interrupted.
struct Deletions {
    images: Vec<Image>,
    removals: Vec<Removal>,
}

/// Goes on with deletions that nobody has touched for as long as it takes to see that a process is dead, and removes files that
/// nobody knows.
///
/// # Errors
/// `Unavailable`
pub(super) async fn run(app: &App, quiet: Duration) -> Result<()> {
    let before = Deletions::read(app).await?;
    tokio::time::sleep(quiet).await;
    Deletions::read(app).await?.go_on_with(app, &before).await;
    sweep(app, quiet).await
}

/// Removes files of uploads that nobody knows: an upload is noted before its file is made, and until it is gone.
async fn sweep(app: &App, quiet: Duration) -> Result<()> {
    for store in app.stores.iter() {
        let found = match store.unfinished(quiet).await {
            Ok(found) => found,
            Err(error) => {
                tracing::warn!(store = store.id, %error, "the store cannot be looked through");
                continue;
            }
        };
        if found.is_empty() {
            continue;
        }
        let patience = app.config.glimpse.request_timeout;
        let known = app.db.acquire().await?.in_time(patience, async |conn| db::uploads::all(conn).await).await?;
        let is_known = |object: &&Object| known.iter().any(|upload| upload.upload_id == object.upload_id);
        for object in found.iter().filter(|object| !is_known(object)) {
            match store.discard(object, None).await {
                Ok(()) => tracing::warn!(image = object.image_id, "what an upload had left is removed"),
                Err(error) => tracing::error!(image = object.image_id, %error, "what an upload had left stays"),
            }
        }
    }
    Ok(())
}

impl Deletions {
    /// Two statements.
    async fn read(app: &App) -> Result<Self> {
        let read = async |conn: &mut Conn| {
            let images = db::images::being_deleted(conn, DELETIONS).await?;
            // With delayed deletion they wait until their image is deleted, for glance-scrubber.
            let removals = match app.config.default.delayed_delete {
                true => Vec::new(),
                false => db::locations::being_removed(conn, DELETIONS).await?,
            };
            Ok(Self { images, removals })
        };
        Ok(app.db.acquire().await?.in_time(app.config.glimpse.request_timeout, read).await?)
    }

    /// Goes on with those that nobody has touched since before.
    async fn go_on_with(self, app: &App, before: &Self) {
        let images = self.images.iter().filter(|image| before.images.contains(image));
        stream::iter(images)
            .for_each_concurrent(BESIDE, async |image| {
                let work = delete::resume(app, image);
                go_on(app, &image.id, work, "a deletion").await;
            })
            .await;
        let removals = self.removals.iter().filter(|removal| before.removals.contains(removal));
        stream::iter(removals)
            .for_each_concurrent(BESIDE, async |removal| {
                let work = removal::resume_removal(app, removal);
                go_on(app, &removal.location.image_id, work, "a removal from a store").await;
            })
            .await;
    }
}

/// Tells how it went, in a time that a client would be given.
async fn go_on(app: &App, image: &str, work: impl Future<Output = Result<bool>>, what: &'static str) {
    match tokio::time::timeout(app.config.glimpse.request_timeout, work).await {
        Ok(Ok(false)) => {}
        Ok(Ok(true)) => tracing::warn!(image, "{what} that was interrupted is now complete"),
        Ok(Err(error)) => tracing::error!(image, %error, "{what} was interrupted, and cannot be resumed now"),
        Err(_) => tracing::error!(image, "{what} was interrupted, and cannot be resumed now: it takes too long"),
    }
}
