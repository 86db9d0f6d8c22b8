//! Taking an image's data from its users for a while, and giving it back.

use crate::{
    access,
    app::App,
    context::Context,
    db::{self},
    error::{Error, Result},
    model::{RequestedId, Status, may_become},
    policy::rule,
};

/// Lets nobody but an admin read the image's data. Nothing happens to one that is deactivated already. Two statements.
///
/// # Errors
/// `NotFound`, `Forbidden` (also in any other status than active), `Conflict` when its status changed meanwhile.
pub(crate) async fn deactivate(app: &App, context: &Context, id: &RequestedId) -> Result<()> {
    set_status(app, context, id, rule::DEACTIVATE, Status::Deactivated).await
}

/// Takes a deactivation back. Nothing happens to an image that is active. Two statements.
///
/// # Errors
/// As [`deactivate`].
pub(crate) async fn reactivate(app: &App, context: &Context, id: &RequestedId) -> Result<()> {
    set_status(app, context, id, rule::REACTIVATE, Status::Active).await
}

/// `action` is the name of the policy's rule as well.
async fn set_status(app: &App, context: &Context, id: &RequestedId, action: &str, to: Status) -> Result<()> {
    app.db
        .transaction(|mut tx| async move {
            let image = access::find_locked(app, &mut tx, context, id).await?;
            let image = image.ok_or_else(|| Error::NotFound(format!("No image found with ID {id}")))?;
            access::authorise(app, context, &image, action)?;
            if image.status == to {
                return Ok((tx, ()));
            }
            let takes_part = matches!(image.status, Status::Active | Status::Deactivated);
            if !takes_part || !may_become(image.status, to) {
                return Err(Error::Forbidden(format!(
                    "Not allowed to {action} image in status '{}'",
                    image.status.as_str()
                )));
            }
            access::check_mutable(context, &image)?;
            if db::images::set_status(&mut tx, &image, to, app.now()).await? {
                return Ok((tx, ()));
            }
            Err(Error::Conflict(format!("Image {id} was changed by another request; try again.")))
        })
        .await
}
