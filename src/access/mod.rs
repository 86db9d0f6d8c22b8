//! Access to images: whether a caller may know of an image, and what the policy lets them do to it. The first is decided before the
//! second.

mod subject;

use std::collections::BTreeMap;

pub(crate) use self::subject::{Seen, Subject, is_owner};
use crate::{
    app::App,
    context::Context,
    db::{self, Session, Tx},
    error::{Error, Result},
    model::{Image, RequestedId, Visibility},
    policy::{Target, rule},
};

/// The rules of changes that only an image's owner made before Glance had roles for projects: while those defaults count, which
/// let everybody, that is what keeps others out.
const OWNERS_CHANGES: [&str; 6] = [
    rule::DELETE_IMAGE,
    rule::DELETE_IMAGE_LOCATION,
    rule::UPLOAD_IMAGE,
    rule::MODIFY_IMAGE,
    rule::DEACTIVATE,
    rule::REACTIVATE,
];

/// What Glance says of an image that belongs to somebody else.
pub(crate) const NOT_YOURS: &str = "You do not own this image";

/// What Glance says of an object that somebody may not know of.
pub(crate) const NOT_FOUND: &str = "The resource could not be found.";

/// Reads an image that the caller may know of. One statement, one more where another project shares the image, and one where
/// the policy names custom properties.
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

/// As [`find`], and takes the image's lock until the transaction ends: every transaction that acts on an image reads it by this.
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

/// Checks that the image is the caller's to change, whatever the policy says: Glance has both.
///
/// # Errors
/// `Forbidden`
pub(crate) fn check_mutable(context: &Context, image: &Image) -> Result<()> {
    if context.is_admin || is_owner(context, image) {
        return Ok(());
    }
    Err(Error::Forbidden(NOT_YOURS.to_owned()))
}

/// Leaves an image out that the caller may not know of.
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
    if subject::are_beyond_rows(app) {
        let rows = db::properties::list(s, &image.id).await?;
        properties.extend(rows.into_iter().map(|row| (row.name, row.value.unwrap_or_default())));
    }
    Ok(Some(Subject { image, properties }))
}

/// Whether the caller may know of the image. Whoever it is shared with may, also before they accepted it, and after they
/// rejected it: a status says what is listed. One statement where another project shares it, none otherwise.
pub(crate) async fn is_visible(s: &mut impl Session, context: &Context, image: &Image) -> Result<bool> {
    let by_itself = context.is_admin || image.owner.is_none() || is_owner(context, image);
    Ok(match (image.visibility, context.project_id()) {
        _ if by_itself => true,
        (Visibility::Public | Visibility::Community, _) => true,
        (Visibility::Shared, Some(project)) => db::members::get(s, &image.id, project).await?.is_some(),
        (Visibility::Private | Visibility::Shared, _) => false,
    })
}

/// Checks that the policy's rule lets the caller do this to the image.
///
/// # Errors
/// `Forbidden`, or `NotFound` where the policy does not even let them see it.
pub(crate) fn authorise(app: &App, context: &Context, subject: &Subject, rule: &str) -> Result<()> {
    let image = &subject.image;
    if allows(app, context, subject, rule) {
        let only_new = app.config.oslo_policy.enforce_new_defaults;
        return if only_new || !OWNERS_CHANGES.contains(&rule) { Ok(()) } else { check_mutable(context, image) };
    }
    if rule == rule::GET_IMAGE || !allows(app, context, subject, rule::GET_IMAGE) {
        return Err(Error::NotFound(NOT_FOUND.to_owned()));
    }
    Err(Error::policy_denied(rule))
}

/// Whether the policy's rule lets the caller do this to the image.
pub(crate) fn allows(app: &App, context: &Context, subject: &Subject, rule: &str) -> bool {
    let property = |name: &str| subject.properties.get(name).map(String::as_str);
    app.policy.allows(&context.identity, rule, &Seen::new(app, context, &subject.image, &property).target())
}

/// Checks that the policy lets the caller give this visibility to an image that is to be.
///
/// # Errors
/// `Forbidden`
pub(crate) fn authorise_visibility(
    app: &App,
    context: &Context,
    visibility: Visibility,
    target: &Target<'_>,
) -> Result<()> {
    match rule_of(visibility) {
        Some(rule) if !app.policy.allows(&context.identity, rule, target) => Err(Error::policy_denied(rule)),
        _ => Ok(()),
    }
}

/// Checks that the policy lets the caller give another visibility to an image.
///
/// # Errors
/// `Forbidden`
pub(crate) fn authorise_new_visibility(
    app: &App,
    context: &Context,
    visibility: Visibility,
    subject: &Subject,
) -> Result<()> {
    match rule_of(visibility) {
        Some(rule) if !allows(app, context, subject, rule) => Err(Error::policy_denied(rule)),
        _ => Ok(()),
    }
}

/// The rule of a visibility that not everybody may give.
fn rule_of(visibility: Visibility) -> Option<&'static str> {
    match visibility {
        Visibility::Public => Some(rule::PUBLICIZE_IMAGE),
        Visibility::Community => Some(rule::COMMUNITIZE_IMAGE),
        Visibility::Private | Visibility::Shared => None,
    }
}
