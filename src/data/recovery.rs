//! Rollback of an interrupted upload.

use uuid::Uuid;

use crate::{
    app::App,
    db::{self, uploads::Upload},
    error::{Error, Result},
    model::{Image, Status},
    store::{self, Object, Store},
};

/// Rolls back an upload: takes over its row, removes its data from the given store, and sets its image to `queued` again. Returns
/// `false` if the upload has completed, or another process rolls it back. Seven statements.
pub(crate) async fn roll_back(app: &App, upload: &Upload, store: Option<&Store>) -> Result<bool> {
    let ours = Upload { upload_id: Uuid::new_v4().to_string(), process_id: app.process.id.clone(), ..upload.clone() };
    let _active = app.process.begin_upload(&ours.upload_id);
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
        && !discard_data(app, upload, &ours, store).await?
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

/// Removes the data of an upload whose row this process has taken over. Returns `false` if another process has taken over the row
/// since. Two statements.
async fn discard_data(app: &App, upload: &Upload, ours: &Upload, store: &Store) -> Result<bool> {
    let object = Object { image_id: upload.image_id.to_string(), upload_id: upload.upload_id.clone() };
    let hold = match store.hold(&object).await {
        Err(error @ (store::Error::NoStore | store::Error::ReadOnly)) => {
            let image = upload.image_id.as_str();
            tracing::warn!(image, store = store.id, %error, "data of an interrupted upload may remain in the store");
            return Ok(true);
        }
        hold => hold.map_err(Error::store_failed)?,
    };
    // While this process waited for the hold, another one may have treated it as dead. Then the data at the path may belong to
    // another upload.
    let (still_ours, image) = {
        let mut conn = app.db.acquire().await?;
        let image = db::images::get(&mut conn, &upload.image_id).await?;
        (db::uploads::holds(&mut conn, ours).await?, image)
    };
    if !still_ours {
        hold.release().await;
        return Ok(false);
    }
    // If an operator has reset the image's status, and a Glance has uploaded to it since, its data does not belong to this upload.
    let is_without_data = |image: &Image| matches!(image.status, Status::Queued | Status::Saving);
    let hold = match image.is_none_or(|image| is_without_data(&image)) {
        true => Some(hold),
        false => {
            tracing::warn!(
                image = upload.image_id.as_str(),
                "the image has other data by now; the data at its path is kept"
            );
            hold.release().await;
            None
        }
    };
    store.discard(&object, hold).await.map_err(Error::store_failed)?;
    Ok(true)
}
