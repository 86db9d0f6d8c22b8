//! Adding a tag to an image, and removing one.
//!
//! Either is one transaction of three statements: the image is read with its lock and the caller's right checked, its
//! `updated_at` is set, and the one row of the tag is written. The image's other tags are not read.

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

/// Adds a tag. One that the image has already stays as it is.
///
/// # Errors
/// `NotFound` (image), `Forbidden`, `LimitExceeded`.
pub(crate) async fn add(app: &App, context: &Context, id: &RequestedId, tag: &Tag) -> Result<()> {
    app.db
        .transaction(|mut tx| async move {
            let image = find(app, context, &mut tx, id, Action::Update).await?;
            touch(app, context, &mut tx, &image, Action::Update).await?;
            let (quota, now) = (app.config.default.image_tag_quota(), app.now());
            if db::tags::insert(&mut tx, &image.id, tag.as_str(), quota, now).await? {
                return Ok((tx, ()));
            }
            // Nothing was added: the image has the tag, or its quota is used up.
            if db::tags::contains(&mut tx, &image.id, tag.as_str()).await? {
                return Ok((tx, ()));
            }
            check_quota(&mut tx, &image, quota).await?;
            // A Glance on the same database, which takes no lock, has removed a tag since.
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
            let image = find(app, context, &mut tx, id, Action::Delete).await?;
            if let Err(error) = touch(app, context, &mut tx, &image, Action::Delete).await {
                let is_there = db::tags::contains(&mut tx, &image.id, tag.as_str()).await?;
                return Err(if is_there { error } else { Error::NotFound(access::NOT_FOUND.to_owned()) });
            }
            if db::tags::delete(&mut tx, &image.id, tag.as_str()).await? {
                return Ok((tx, ()));
            }
            Err(Error::NotFound(access::NOT_FOUND.to_owned()))
        })
        .await
}

/// Reads the image and takes its lock, if the policy lets the caller change it. One statement.
async fn find(app: &App, context: &Context, tx: &mut Tx, id: &RequestedId, action: Action) -> Result<Subject> {
    let image = access::find_locked(app, tx, context, id).await?.ok_or_else(|| not_found(id))?;
    access::authorise(app, context, &image, rule::MODIFY_IMAGE).map_err(|error| action.refused(id, error))?;
    Ok(image)
}

/// Checks that the image is the caller's to change, and sets the time of its change. One statement.
async fn touch(app: &App, context: &Context, tx: &mut Tx, image: &Subject, action: Action) -> Result<()> {
    access::check_mutable(context, image).map_err(|error| action.refused(&image.id, error))?;
    if db::images::touch(tx, &image.id, app.now()).await? { Ok(()) } else { Err(not_found(&image.id)) }
}

/// Checks that the image may have one tag more. One statement.
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

fn not_found(id: impl Display) -> Error {
    Error::NotFound(format!("Image {id} not found."))
}

/// What is done to an image's tags.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Update,
    Delete,
}

impl Action {
    /// What Glance says to who does not own the image.
    fn refused(self, id: impl Display, error: Error) -> Error {
        let action = match self {
            Self::Update => "update",
            Self::Delete => "delete",
        };
        match error {
            Error::Forbidden(why) if why == access::NOT_YOURS => {
                Error::Forbidden(format!("Not allowed to {action} tags for image {id}."))
            }
            error => error,
        }
    }
}
