//! Sharing an image: its members, and what they make of it.
//!
//! A write is one transaction of four statements at the most, one more where the caller is a member: the image is read
//! with its row's lock and the caller's right checked, the member looked for, and its one row written. Whoever has the
//! lock counts what stays.

use crate::{
    access::{self, Subject},
    app::App,
    context::Context,
    db::{self, Session, Tx},
    error::{Error, Result},
    model::{Image, Member, MemberId, MemberStatus, RequestedId, Visibility},
    policy::rule,
};

const ONLY_SHARED: &str = "Only shared images have members.";

/// Shares an image with a project, which is to accept it.
///
/// # Errors
/// `NotFound` (image), `Forbidden` (also where the image is not a shared one), `LimitExceeded`, `Conflict` when it is
/// shared with it already.
pub(crate) async fn add(app: &App, context: &Context, id: &RequestedId, member: &MemberId) -> Result<Member> {
    app.db
        .transaction(|mut tx| async move {
            let image = access::find_locked(app, &mut tx, context, id).await?;
            let image = only_shared(image, id, || not_allowed("create", id))?;
            check_side(app, context, &image, Side::Owner, || not_allowed("create", id))?;
            authorise(app, context, &image, rule::ADD_MEMBER)?;
            check_quota(app, &mut tx, &image).await?;
            if db::members::get(&mut tx, &image.id, member.as_str()).await?.is_some() {
                let member = member.as_str();
                return Err(Error::Conflict(format!("Member {member} is duplicated for image {id}")));
            }
            let now = app.now();
            let member = Member {
                image_id: image.image.id.to_string(),
                member: member.as_str().to_owned(),
                status: MemberStatus::Pending,
                created_at: now,
                updated_at: Some(now),
            };
            db::members::insert(&mut tx, &member).await?;
            Ok((tx, member))
        })
        .await
}

/// Lists an image's members: for its owner all of them, for a member itself. Two statements, one more for a member.
///
/// # Errors
/// `NotFound`, `Forbidden` (also where the image is not a shared one).
pub(crate) async fn list(app: &App, context: &Context, id: &RequestedId) -> Result<Vec<Member>> {
    let mut conn = app.db.acquire().await?;
    let not_shared = || Error::Forbidden(format!("Not allowed to list members for image {id}: {ONLY_SHARED}"));
    let image = only_shared(access::find(app, &mut conn, context, id).await?, id, not_shared)?;
    authorise(app, context, &image, rule::GET_MEMBERS)?;
    if !access::allows(app, context, &image, rule::GET_MEMBER) {
        return Ok(Vec::new());
    }
    if context.is_admin || access::is_owner(context, &image) {
        return Ok(db::members::list(&mut conn, &image.id).await?);
    }
    let Some(project) = context.project_id() else {
        return Ok(Vec::new());
    };
    Ok(db::members::get(&mut conn, &image.id, project).await?.into_iter().collect())
}

/// Shows a member of an image. Two statements, one more for a member.
///
/// # Errors
/// `NotFound`.
pub(crate) async fn get(app: &App, context: &Context, id: &RequestedId, member: &str) -> Result<Member> {
    let mut conn = app.db.acquire().await?;
    let not_shared = || Error::NotFound(ONLY_SHARED.to_owned());
    let image = only_shared(access::find(app, &mut conn, context, id).await?, id, not_shared)?;
    let found = find_member(app, context, &mut conn, &image, member).await;
    // Whether there is such a member is the secret of those who may see it.
    found.map_err(|error| if let Error::Forbidden(message) = error { Error::NotFound(message) } else { error })
}

/// Sets what a member makes of the image; `None` is a status that there is not.
///
/// # Errors
/// `NotFound` (image, member), `Forbidden` (also where the image is not a shared one), `Invalid`.
pub(crate) async fn set_status(
    app: &App,
    context: &Context,
    id: &RequestedId,
    member: &str,
    status: Option<MemberStatus>,
) -> Result<Member> {
    app.db
        .transaction(|mut tx| async move {
            let image = access::find_locked(app, &mut tx, context, id).await?;
            let image = only_shared(image, id, || not_allowed("update", id))?;
            check_side(app, context, &image, Side::Member, || not_allowed("update", id))?;
            let found = find_member(app, context, &mut tx, &image, member).await?;
            authorise(app, context, &image, rule::MODIFY_MEMBER)?;
            let status = status.ok_or_else(|| {
                let statuses = "Status must be \"pending\", \"accepted\" or \"rejected\".";
                Error::Invalid(format!("Incorrect request: {statuses}"))
            })?;
            let now = app.now();
            if !db::members::set_status(&mut tx, &image.id, member, status, now).await? {
                // A Glance beside us was faster.
                return Err(no_member(&image.id, member));
            }
            Ok((tx, Member { status, updated_at: Some(now), ..found }))
        })
        .await
}

/// Ends the sharing of an image with a project.
///
/// # Errors
/// `NotFound` (image, member), `Forbidden` (also where the image is not a shared one).
pub(crate) async fn remove(app: &App, context: &Context, id: &RequestedId, member: &str) -> Result<()> {
    app.db
        .transaction(|mut tx| async move {
            let image = access::find_locked(app, &mut tx, context, id).await?;
            let image = only_shared(image, id, || not_allowed("delete", id))?;
            check_side(app, context, &image, Side::Owner, || not_allowed("delete", id))?;
            find_member(app, context, &mut tx, &image, member).await?;
            authorise(app, context, &image, rule::DELETE_MEMBER)?;
            if !db::members::delete(&mut tx, &image.id, member).await? {
                return Err(no_member(&image.id, member));
            }
            Ok((tx, ()))
        })
        .await
}

/// Whose business a change of the members is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    /// The image's owner shares it, or ends that.
    Owner,
    /// Its member says what it makes of it.
    Member,
}

/// The rules from before the new defaults let anybody change members, so with them Glance looks at the owner as well.
fn check_side(app: &App, context: &Context, image: &Image, side: Side, refusal: impl FnOnce() -> Error) -> Result<()> {
    let is_owners = access::is_owner(context, image);
    if app.config.oslo_policy.enforce_new_defaults || context.is_admin || is_owners == (side == Side::Owner) {
        return Ok(());
    }
    Err(refusal())
}

/// The image, if the caller may know of it and it is a shared one.
fn only_shared(image: Option<Subject>, id: &RequestedId, not_shared: impl FnOnce() -> Error) -> Result<Subject> {
    let image = image.ok_or_else(|| Error::NotFound(format!("Image {id} not found.")))?;
    if image.visibility == Visibility::Shared { Ok(image) } else { Err(not_shared()) }
}

/// Reads the member, if the caller may see it.
async fn find_member(
    app: &App,
    context: &Context,
    s: &mut impl Session,
    image: &Subject,
    member: &str,
) -> Result<Member> {
    authorise(app, context, image, rule::GET_MEMBER)?;
    // What cannot be stored is nobody's name, and no engine needs to be asked.
    let found = if is_visible(context, image, member) && MemberId::parse(member).is_ok() {
        db::members::get(s, &image.id, member).await?
    } else {
        None
    };
    found.ok_or_else(|| no_member(&image.id, member))
}

/// Whether the caller may know that the image is shared with this project: its owner does, and the project itself.
fn is_visible(context: &Context, image: &Image, member: &str) -> bool {
    context.is_admin || access::is_owner(context, image) || context.project_id() == Some(member)
}

/// Glance asks for the right to see the image first, whatever the other rule says.
fn authorise(app: &App, context: &Context, image: &Subject, rule: &str) -> Result<()> {
    access::authorise(app, context, image, rule::GET_IMAGE)?;
    access::authorise(app, context, image, rule)
}

/// Checks that there may be one member more.
async fn check_quota(app: &App, tx: &mut Tx, image: &Image) -> Result<()> {
    let Some(maximum) = app.config.default.image_member_quota() else {
        return Ok(());
    };
    let attempted = db::members::count(tx, &image.id).await? + 1;
    if attempted <= i64::from(maximum) {
        return Ok(());
    }
    Err(Error::LimitExceeded(format!(
        "Image member limit exceeded for image {}: The limit has been exceeded on the number of allowed image members \
         for this image. Attempted: {attempted}, Maximum: {maximum}:",
        image.id
    )))
}

fn no_member(image_id: &str, member: &str) -> Error {
    Error::NotFound(format!("{member} not found in the member list of the image {image_id}."))
}

fn not_allowed(what: &str, id: &RequestedId) -> Error {
    Error::Forbidden(format!("Not allowed to {what} members for image {id}."))
}
