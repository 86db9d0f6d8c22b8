//! Who may know of an image, decided once, before what they may do to it.

use crate::{
    app::App,
    context::Context,
    db::{
        self, Session, Tx,
        images::{Image, ImageId, Visibility},
    },
    error::{Error, Result},
    policy::Target,
};

/// The rules of changes that only an image's owner made before Glance had roles for projects: while those defaults count, which
/// let everybody, that is what keeps others out.
const OWNERS_CHANGES: [&str; 6] =
    ["delete_image", "delete_image_location", "upload_image", "modify_image", "deactivate", "reactivate"];

/// What Glance says of an object that somebody may not know of.
pub(super) const NOT_FOUND: &str = "The resource could not be found.";

/// Reads an image that the caller may know of. One statement, and one more where another project shares the image.
pub(super) async fn find(s: &mut impl Session, context: &Context, id: &ImageId) -> Result<Option<Image>> {
    let image = db::images::get(s, id).await?;
    if_visible(s, context, image).await
}

/// As [`find`], and takes the image's row's lock until the transaction ends.
pub(super) async fn find_locked(tx: &mut Tx, context: &Context, id: &ImageId) -> Result<Option<Image>> {
    let image = db::images::get_locked(tx, id).await?;
    if_visible(tx, context, image).await
}

/// Checks that the image is the caller's to change, whatever the policy says: Glance has both.
///
/// # Errors
/// `Forbidden`
pub(super) fn check_mutable(context: &Context, image: &Image) -> Result<()> {
    if context.is_admin || is_owner(context, image) {
        return Ok(());
    }
    Err(Error::Forbidden("You do not own this image".to_owned()))
}

/// Leaves an image out that the caller may not know of. Whoever an image is shared with may, also before they accepted
/// it, and after they rejected it: a status says what is listed.
async fn if_visible(s: &mut impl Session, context: &Context, image: Option<Image>) -> Result<Option<Image>> {
    let Some(image) = image else {
        return Ok(None);
    };
    let by_itself = context.is_admin || image.owner.is_none() || is_owner(context, &image);
    let visible = match (image.visibility, context.project_id()) {
        _ if by_itself => true,
        (Visibility::Public | Visibility::Community, _) => true,
        (Visibility::Shared, Some(project)) => db::members::get(s, &image.id, project).await?.is_some(),
        (Visibility::Private | Visibility::Shared, _) => false,
    };
    Ok(visible.then_some(image))
}

/// Whether the image belongs to the caller's project. What belongs to nobody does not.
pub(super) fn is_owner(context: &Context, image: &Image) -> bool {
    image.owner.is_some() && image.owner.as_deref() == context.project_id()
}

/// Checks that the policy's rule lets the caller do this to the image.
///
/// # Errors
/// `Forbidden`, or `NotFound` where the policy does not even let them see it.
pub(super) fn authorise(app: &App, context: &Context, image: &Image, rule: &str) -> Result<()> {
    let target = target(context, image);
    if app.policy.allows(&context.identity, rule, &target) {
        let only_new = app.config.oslo_policy.enforce_new_defaults;
        return if only_new || !OWNERS_CHANGES.contains(&rule) { Ok(()) } else { check_mutable(context, image) };
    }
    if rule == "get_image" || !app.policy.allows(&context.identity, "get_image", &target) {
        return Err(Error::NotFound(NOT_FOUND.to_owned()));
    }
    Err(Error::policy_denied(rule))
}

/// Checks that the policy lets the caller give this visibility to an image.
///
/// # Errors
/// `Forbidden`
pub(super) fn authorise_visibility(
    app: &App,
    context: &Context,
    visibility: Visibility,
    target: &Target<'_>,
) -> Result<()> {
    let rule = match visibility {
        Visibility::Public => "publicize_image",
        Visibility::Community => "communitize_image",
        Visibility::Private | Visibility::Shared => return Ok(()),
    };
    if app.policy.allows(&context.identity, rule, target) { Ok(()) } else { Err(Error::policy_denied(rule)) }
}

/// An image as the policy sees it.
pub(super) fn target<'t>(context: &'t Context, image: &'t Image) -> Target<'t> {
    // Who sees a shared image of another project sees it as its member.
    let as_member = image.visibility == Visibility::Shared && !is_owner(context, image);
    Target {
        owner: image.owner.as_deref(),
        member: context.project_id().filter(|_| as_member),
        visibility: Some(image.visibility.as_str()),
        attributes: Some(image),
    }
}
