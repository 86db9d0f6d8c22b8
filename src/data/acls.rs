//! Who can read the data of an image in its stores: stores that keep data in the accounts of projects have lists of readers.

use crate::{
    app::App,
    db,
    error::{Error, Result, with_causes},
    model::{ImageId, LocationStatus, Visibility},
    store::Readers,
};

/// Sets the readers of data that was just stored. The image is complete without that, so a failure is only logged: the caller's token
/// may have expired since the upload began.
pub(crate) async fn apply_to_new(app: &App, image_id: &ImageId) {
    if let Err(error) = apply(app, image_id).await {
        let (image, error) = (image_id.as_str(), with_causes(&error));
        tracing::error!(
            image,
            error,
            "cannot set the readers of new data; the next change of members or visibility sets them"
        );
    }
}

/// Sets the readers of an image's data: everyone, or the image's members. Three statements if a store has such lists, otherwise none.
///
/// # Errors
/// `StoreUnavailable`: the store fails.
pub(crate) async fn apply(app: &App, image_id: &ImageId) -> Result<()> {
    if !app.stores.act_for_callers() {
        return Ok(());
    }
    let mut conn = app.db.acquire().await?;
    let Some(image) = db::images::get(&mut conn, image_id).await? else { return Ok(()) };
    let locations = db::locations::list(&mut conn, image_id.as_str()).await?;
    let readers = match image.visibility {
        Visibility::Public | Visibility::Community => Readers::Everyone,
        _ => {
            let members = db::members::list(&mut conn, image_id.as_str()).await?;
            Readers::Projects(members.into_iter().map(|member| member.member).collect())
        }
    };
    drop(conn);
    for location in locations.iter().filter(|location| location.status == LocationStatus::Active) {
        let Ok(store) = app.stores.find(&location.url, &location.metadata) else { continue };
        store.share(&location.url, &readers).await.map_err(Error::store_failed)?;
    }
    Ok(())
}
