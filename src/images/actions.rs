//! Deactivation and reactivation of an image.

use crate::{
    access,
    app::App,
    context::Context,
    db::{self},
    error::{Error, Result},
    model::{RequestedId, Status, may_become},
    policy::rule,
};

/// Deactivates an image: only admins are allowed to read its data. Does nothing if the image is deactivated already. Two
/// statements.
///
/// # Errors
/// `NotFound`, `Forbidden` (also in any other status than active), `Conflict` when its status changed concurrently.
pub(crate) async fn deactivate(app: &App, context: &Context, id: &RequestedId) -> Result<()> {
    set_status(app, context, id, rule::DEACTIVATE, Status::Deactivated).await
}

/// Reactivates an image. Does nothing if the image is active already. Two statements.
///
/// # Errors
/// As [`deactivate`].
pub(crate) async fn reactivate(app: &App, context: &Context, id: &RequestedId) -> Result<()> {
    set_status(app, context, id, rule::REACTIVATE, Status::Active).await
}

/// `action` is the name of the policy rule, and also the verb in Glance's error message.
async fn set_status(app: &App, context: &Context, id: &RequestedId, action: &str, to: Status) -> Result<()> {
    app.db
        .transaction(|mut tx| async move {
            let image = access::find_locked(app, &mut tx, context, id).await?;
            let image = image.ok_or_else(|| Error::image_not_found(id))?;
            access::authorise(app, context, &image, action)?;
            if image.status == to {
                return Ok((tx, ()));
            }
            let is_eligible = matches!(image.status, Status::Active | Status::Deactivated);
            if !is_eligible || !may_become(image.status, to) {
                return Err(Error::Forbidden(format!(
                    "Not allowed to {action} image in status '{}'",
                    image.status.as_str()
                )));
            }
            access::check_mutable(context, &image)?;
            if db::images::set_status(&mut tx, &image, to, app.now()).await? {
                return Ok((tx, ()));
            }
            Err(Error::image_changed(id))
        })
        .await
}
