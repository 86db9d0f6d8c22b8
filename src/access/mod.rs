//! Access to images: first whether an image is visible to the caller, then whether the policy allows the operation.

mod subject;

use std::collections::BTreeMap;

pub(crate) use self::subject::{PolicyView, Subject, is_owner};
use crate::{
    app::App,
    context::Context,
    db::{self, Session, Tx},
    error::{Error, Result},
    model::{Image, RequestedId, Visibility},
    policy::{Target, rule},
};

/// The rules that allow everyone in the deprecated policy defaults. While these are in force (`enforce_new_defaults = false`),
/// Glance's code reserves the operations for the image's owner, so Glimpse does the same.
const OWNER_ONLY_RULES: [&str; 6] = [
    rule::DELETE_IMAGE,
    rule::DELETE_IMAGE_LOCATION,
    rule::UPLOAD_IMAGE,
    rule::MODIFY_IMAGE,
    rule::DEACTIVATE,
    rule::REACTIVATE,
];

/// Glance's message for an image of another project.
pub(crate) const NOT_OWNER: &str = "You do not own this image";

/// Reads an image, if it is visible to the caller. One statement, one more if another project shares the image, and one if the
/// policy names custom properties.
pub(crate) async fn find(
    app: &App,
    s: &mut impl Session,
    context: &Context,
    id: &RequestedId,
) -> Result<Option<Subject>> {
    let Some(id) = id.id() else { return Ok(None) };
    let image = db::images::get(s, &id).await?;
    if_visible(app, s, context, image).await
}

/// As [`find`], and takes the image's lock until the transaction ends. Every transaction that acts on an image reads it with this
/// function.
pub(crate) async fn find_locked(
    app: &App,
    tx: &mut Tx,
    context: &Context,
    id: &RequestedId,
) -> Result<Option<Subject>> {
    let Some(id) = id.id() else { return Ok(None) };
    let image = db::images::get_locked(tx, &id).await?;
    if_visible(app, tx, context, image).await
}

/// Checks that the caller owns the image or is an admin. Like Glance, this is in addition to the policy.
///
/// # Errors
/// `Forbidden`
pub(crate) fn check_mutable(context: &Context, image: &Image) -> Result<()> {
    if context.is_admin || is_owner(context, image) {
        return Ok(());
    }
    Err(Error::Forbidden(NOT_OWNER.to_owned()))
}

/// Returns the image with the properties that the policy needs, or `None` if the image is not visible to the caller.
async fn if_visible(
    app: &App,
    s: &mut impl Session,
    context: &Context,
    image: Option<Image>,
) -> Result<Option<Subject>> {
    let Some(image) = image else {
        return Ok(None);
    };
    if !is_visible(s, context, &image).await? {
        return Ok(None);
    }
    let mut properties = BTreeMap::new();
    if subject::needs_properties(app) {
        let rows = db::properties::list(s, &image.id).await?;
        properties.extend(rows.into_iter().map(|row| (row.name, row.value.unwrap_or_default())));
    }
    Ok(Some(Subject { image, properties }))
}

/// Whether the image is visible to the caller. A shared image is visible to its members whatever their status: the status only
/// decides whether the image is listed. One statement if another project shares the image, none otherwise.
pub(crate) async fn is_visible(s: &mut impl Session, context: &Context, image: &Image) -> Result<bool> {
    let is_unconditional = context.is_admin || image.owner.is_none() || is_owner(context, image);
    Ok(match (image.visibility, context.project_id()) {
        _ if is_unconditional => true,
        (Visibility::Public | Visibility::Community, _) => true,
        (Visibility::Shared, Some(project)) => db::members::get(s, &image.id, project).await?.is_some(),
        (Visibility::Private | Visibility::Shared, _) => false,
    })
}

/// Checks that the policy rule allows the caller to do this to the image.
///
/// # Errors
/// `Forbidden`, or `NotFound` if the policy does not allow the caller to see the image either.
pub(crate) fn authorise(app: &App, context: &Context, subject: &Subject, rule: &str) -> Result<()> {
    let image = &subject.image;
    if allows(app, context, subject, rule) {
        let only_new = app.config.oslo_policy.enforce_new_defaults;
        return if only_new || !OWNER_ONLY_RULES.contains(&rule) { Ok(()) } else { check_mutable(context, image) };
    }
    if rule == rule::GET_IMAGE || !allows(app, context, subject, rule::GET_IMAGE) {
        return Err(Error::resource_not_found());
    }
    Err(Error::policy_denied(rule))
}

/// Whether the policy rule allows the caller to do this to the image.
pub(crate) fn allows(app: &App, context: &Context, subject: &Subject, rule: &str) -> bool {
    let property = |name: &str| subject.properties.get(name).map(String::as_str);
    app.policy.allows(&context.identity, rule, &PolicyView::new(app, context, &subject.image, &property).target())
}

/// Checks that the policy allows the caller to create an image with this visibility.
///
/// # Errors
/// `Forbidden`
pub(crate) fn authorise_visibility(
    app: &App,
    context: &Context,
    visibility: Visibility,
    target: &Target<'_>,
) -> Result<()> {
    match visibility_rule(visibility) {
        Some(rule) if !app.policy.allows(&context.identity, rule, target) => Err(Error::policy_denied(rule)),
        _ => Ok(()),
    }
}

/// Checks that the policy allows the caller to change an image's visibility to this one.
///
/// # Errors
/// `Forbidden`
pub(crate) fn authorise_new_visibility(
    app: &App,
    context: &Context,
    visibility: Visibility,
    subject: &Subject,
) -> Result<()> {
    match visibility_rule(visibility) {
        Some(rule) if !allows(app, context, subject, rule) => Err(Error::policy_denied(rule)),
        _ => Ok(()),
    }
}

/// Returns the rule that a visibility requires, if any.
fn visibility_rule(visibility: Visibility) -> Option<&'static str> {
    match visibility {
        Visibility::Public => Some(rule::PUBLICIZE_IMAGE),
        Visibility::Community => Some(rule::COMMUNITIZE_IMAGE),
        Visibility::Private | Visibility::Shared => None,
    }
}
