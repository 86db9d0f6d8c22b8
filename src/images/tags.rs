//! Adding and removing a tag of an image.
//!
//! Each is one transaction of three statements. It reads the image with its lock and authorises the caller, sets the image's
//! `updated_at`, and writes the tag's row. It does not read the image's other tags.

use std::fmt::Display;

use crate::{
    access::{self, Subject},
    app::App,
    context::Context,
    db::{self, Tx},
    error::{Error, Result},
    model::{Image, RequestedId, Tag},
    policy::rule,
};

/// Adds a tag. Does nothing if the image has it already.
///
/// # Errors
/// `NotFound` (image), `Forbidden`, `LimitExceeded`.
pub(crate) async fn add(app: &App, context: &Context, id: &RequestedId, tag: &Tag) -> Result<()> {
    app.db
        .transaction(|mut tx| async move {
            let image = find_image(app, context, &mut tx, id, Action::Update).await?;
            touch(app, context, &mut tx, &image, Action::Update).await?;
            let (quota, now) = (app.config.default.image_tag_quota(), app.now());
            if db::tags::insert(&mut tx, &image.id, tag.as_str(), quota, now).await? {
                return Ok((tx, ()));
            }
            // No row was inserted: the image has the tag already, or its quota is exhausted.
            if db::tags::contains(&mut tx, &image.id, tag.as_str()).await? {
                return Ok((tx, ()));
            }
            check_quota(&mut tx, &image, quota).await?;
            // A Glance on the same database, which takes no lock, has removed a tag concurrently.
            db::tags::insert(&mut tx, &image.id, tag.as_str(), None, now).await?;
            Ok((tx, ()))
        })
        .await
}

/// Removes a tag's row.
///
/// # Errors
/// `NotFound` (image, or a tag that it does not have), `Forbidden`.
pub(crate) async fn remove(app: &App, context: &Context, id: &RequestedId, tag: &Tag) -> Result<()> {
    app.db
        .transaction(|mut tx| async move {
            let image = find_image(app, context, &mut tx, id, Action::Delete).await?;
            let touched = touch(app, context, &mut tx, &image, Action::Delete).await;
            if let Err(error @ (Error::Forbidden(_) | Error::NotFound(_))) = touched {
                let is_there = db::tags::contains(&mut tx, &image.id, tag.as_str()).await?;
                return Err(if is_there { error } else { Error::resource_not_found() });
            }
            touched?;
            if db::tags::delete(&mut tx, &image.id, tag.as_str()).await? {
                return Ok((tx, ()));
            }
            Err(Error::resource_not_found())
        })
        .await
}

/// Reads the image with its lock, and checks that the policy allows the caller to update it. One statement.
async fn find_image(app: &App, context: &Context, tx: &mut Tx, id: &RequestedId, action: Action) -> Result<Subject> {
    let image = access::find_locked(app, tx, context, id).await?.ok_or_else(|| Error::parent_image_not_found(id))?;
    access::authorise(app, context, &image, rule::MODIFY_IMAGE).map_err(|error| action.rephrase(id, error))?;
    Ok(image)
}

/// Checks that the caller owns the image, and sets its `updated_at`. One statement.
async fn touch(app: &App, context: &Context, tx: &mut Tx, image: &Subject, action: Action) -> Result<()> {
    access::check_mutable(context, image).map_err(|error| action.rephrase(&image.id, error))?;
    let is_touched = db::images::touch(tx, &image.id, app.now()).await?;
    if is_touched { Ok(()) } else { Err(Error::parent_image_not_found(&image.id)) }
}

/// Checks that the quota allows one more tag. One statement.
async fn check_quota(tx: &mut Tx, image: &Image, quota: Option<u32>) -> Result<()> {
    let Some(maximum) = quota else { return Ok(()) };
    let attempted = db::tags::count(tx, &image.id).await? + 1;
    if attempted <= i64::from(maximum) {
        return Ok(());
    }
    Err(Error::LimitExceeded(format!(
        "Image tag limit exceeded for image {}: The limit has been exceeded on the number of allowed image tags. \
         Attempted: {attempted}, Maximum: {maximum}:",
        image.id
    )))
}

/// An operation on an image's tags.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Update,
    Delete,
}

impl Action {
    /// Replaces the message for a caller who does not own the image by Glance's message for this operation.
    fn rephrase(self, id: impl Display, error: Error) -> Error {
        let action = match self {
            Self::Update => "update",
            Self::Delete => "delete",
        };
        match error {
            Error::Forbidden(why) if why == access::NOT_OWNER => {
                Error::Forbidden(format!("Not allowed to {action} tags for image {id}."))
            }
            error => error,
        }
    }
}
