//! Adding a tag to an image, and removing one.
//!
//! Either is one transaction of three statements: the image is read and the caller's right checked, its `updated_at` is
//! set, which takes its row's lock, and the one row of the tag is written. The image's other tags are not read.

use super::{access, model::Tag};
use crate::{
    app::App,
    context::Context,
    db::{self, Tx, images::ImageId},
    error::{Error, Result},
};

/// Adds a tag. One that the image has already stays as it is.
///
/// # Errors
/// `NotFound` (image), `Forbidden`, `LimitExceeded`.
pub(crate) async fn add(app: &App, context: &Context, id: &ImageId, tag: &Tag) -> Result<()> {
    app.db
        .transaction(|mut tx| async move {
            lock(app, context, &mut tx, id).await?;
            let quota = app.config.default.image_tag_quota();
            if db::tags::insert(&mut tx, id.as_str(), tag.as_str(), quota, app.now()).await? {
                return Ok((tx, ()));
            }
            // Nothing was added: the tag was there, or the quota is used up.
            if db::tags::contains(&mut tx, id.as_str(), tag.as_str()).await? {
                return Ok((tx, ()));
            }
            let maximum = quota.unwrap_or_default();
            Err(Error::LimitExceeded(format!(
                "Image tag limit exceeded for image {id}: The limit has been exceeded on the number of allowed image \
                 tags. Attempted: {}, Maximum: {maximum}:",
                u64::from(maximum) + 1
            )))
        })
        .await
}

/// Removes a tag's row.
///
/// # Errors
/// `NotFound` (image, or a tag that it does not have), `Forbidden`.
pub(crate) async fn remove(app: &App, context: &Context, id: &ImageId, tag: &Tag) -> Result<()> {
    app.db
        .transaction(|mut tx| async move {
            lock(app, context, &mut tx, id).await?;
            if db::tags::delete(&mut tx, id.as_str(), tag.as_str()).await? {
                return Ok((tx, ()));
            }
            Err(Error::NotFound(access::NOT_FOUND.to_owned()))
        })
        .await
}

/// Checks that the caller may change the image, and takes its row's lock. Two statements.
async fn lock(app: &App, context: &Context, tx: &mut Tx, id: &ImageId) -> Result<()> {
    let not_found = || Error::NotFound(format!("Image {id} not found."));
    let image = access::find(tx, context, id).await?.ok_or_else(not_found)?;
    access::authorise(app, context, &image, "modify_image")?;
    access::check_mutable(context, &image)?;
    // Somebody may have deleted the image since.
    if db::images::touch(tx, id.as_str(), app.now()).await? { Ok(()) } else { Err(not_found()) }
}
