//! Uploads that are under way in this process, and how one that was cut off is undone.

use uuid::Uuid;

use crate::{
    app::App,
    db::{self, uploads::Upload},
    error::{Error, Result},
    model::{Image, Status},
    store::{self, Object, Store},
};

/// Undoes an upload: takes it, removes what it may have put into the given store, and lets its image wait for data again.
/// `false` when the upload has ended, or somebody else undoes it. Seven statements.
pub(crate) async fn undo(app: &App, upload: &Upload, store: Option<&Store>) -> Result<bool> {
    let ours = Upload { upload_id: Uuid::new_v4().to_string(), process_id: app.process.id.clone(), ..upload.clone() };
    let _alive = app.process.is_busy_with(&ours.upload_id);
    let ours_ref = &ours;
    let taken = app
        .db
        .transaction(|mut tx| async move {
            let taken = db::uploads::take_over(&mut tx, upload, ours_ref).await?;
            Ok((tx, taken))
        })
        .await?;
    if !taken {
        return Ok(false);
    }
    if let Some(store) = store
        && !discard(app, upload, &ours, store).await?
    {
        return Ok(false);
    }
    app.db
        .transaction(|mut tx| async move {
            db::images::get_locked(&mut tx, &upload.image_id).await?;
            if db::uploads::end(&mut tx, ours_ref).await? {
                db::images::requeue(&mut tx, &upload.image_id, app.now()).await?;
            }
            Ok((tx, ()))
        })
        .await?;
    Ok(true)
}

/// Removes what an upload has left, which is ours to undo; `false` when it is not any more. Two statements.
async fn discard(app: &App, upload: &Upload, ours: &Upload, store: &Store) -> Result<bool> {
    let object = Object { image_id: upload.image_id.to_string(), upload_id: upload.upload_id.clone() };
    let cannot = |error: store::Error| Error::Unavailable { service: "an image's store", source: error.into() };
    let hold = match store.hold(&object).await {
        Err(error @ (store::Error::NoStore | store::Error::ReadOnly)) => {
            tracing::warn!(image = upload.image_id.as_str(), store = store.id, %error, "what an upload has left may stay there");
            return Ok(true);
        }
        hold => hold.map_err(cannot)?,
    };
    // Waiting for it, we may have been taken for dead ourselves; what is in place is another upload's then.
    let (still_ours, image) = {
        let mut conn = app.db.acquire().await?;
        let image = db::images::get(&mut conn, &upload.image_id).await?;
        (db::uploads::holds(&mut conn, ours).await?, image)
    };
    if !still_ours {
        hold.release().await;
        return Ok(false);
    }
    // An image that an operator has set back, and a Glance has uploaded to since, has data that is not the upload's.
    let is_without_data = |image: &Image| matches!(image.status, Status::Queued | Status::Saving);
    let hold = match image.is_none_or(|image| is_without_data(&image)) {
        true => Some(hold),
        false => {
            tracing::warn!(
                image = upload.image_id.as_str(),
                "the image has got other data: what is in its place stays"
            );
            hold.release().await;
            None
        }
    };
    store.discard(&object, hold).await.map_err(cannot)?;
    Ok(true)
}
