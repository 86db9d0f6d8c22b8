//! Sharing an image: its members, and their decision to accept or reject it.
//!
//! A write is one transaction of at most four statements, one more if the caller is a member. It reads the image with its lock and
//! authorises the caller, reads the member, and writes the member's row. The lock makes the quota exact: no other transaction adds
//! a member between the count and the insert.

use crate::{
    access::{self, Subject},
    app::App,
    context::Context,
    data::acls,
    db::{self, Session, Tx},
    error::{Error, Result},
    model::{Image, Member, MemberId, MemberStatus, RequestedId, Visibility},
    policy::rule,
};

const ONLY_SHARED: &str = "Only shared images have members.";

/// Shares an image with a project. The membership is pending until the project accepts or rejects it.
///
/// # Errors
/// `NotFound` (image), `Forbidden` (also if the image's visibility is not `shared`), `LimitExceeded`, `Conflict` when the project
/// is a member already.
pub(crate) async fn add(app: &App, context: &Context, id: &RequestedId, member: &MemberId) -> Result<Member> {
    let added = app
        .db
        .transaction(|mut tx| async move {
            let image = access::find_locked(app, &mut tx, context, id).await?;
            let image = check_shared(image, id, || forbidden("create", id))?;
            check_side(app, context, &image, Side::Owner, || forbidden("create", id))?;
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
        .await?;
    apply_acls(app, id).await?;
    Ok(added)
}

/// Lists an image's members. The owner sees all of them, and a member sees itself only. Two statements, one more for a member.
///
/// # Errors
/// `NotFound`, `Forbidden` (also if the image's visibility is not `shared`).
pub(crate) async fn list(app: &App, context: &Context, id: &RequestedId) -> Result<Vec<Member>> {
    let mut conn = app.db.acquire().await?;
    let not_shared = || Error::Forbidden(format!("Not allowed to list members for image {id}: {ONLY_SHARED}"));
    let image = check_shared(access::find(app, &mut conn, context, id).await?, id, not_shared)?;
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

/// Returns a member of an image. Two statements, one more for a member.
///
/// # Errors
/// `NotFound`.
pub(crate) async fn get(app: &App, context: &Context, id: &RequestedId, member: &str) -> Result<Member> {
    let mut conn = app.db.acquire().await?;
    let not_shared = || Error::NotFound(ONLY_SHARED.to_owned());
    let image = check_shared(access::find(app, &mut conn, context, id).await?, id, not_shared)?;
    let found = find_member(app, context, &mut conn, &image, member).await;
    // A caller who is not allowed to see the member must not learn whether it exists.
    found.map_err(|error| if let Error::Forbidden(message) = error { Error::NotFound(message) } else { error })
}

/// Sets a member's status. `None` stands for an invalid status, which is reported after the other checks, as in Glance.
///
/// # Errors
/// `NotFound` (image, member), `Forbidden` (also if the image's visibility is not `shared`), `Invalid`.
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
            let image = check_shared(image, id, || forbidden("update", id))?;
            check_side(app, context, &image, Side::Member, || forbidden("update", id))?;
            let found = find_member(app, context, &mut tx, &image, member).await?;
            authorise(app, context, &image, rule::MODIFY_MEMBER)?;
            let status = status.ok_or_else(|| {
                let statuses = "Status must be \"pending\", \"accepted\" or \"rejected\".";
                Error::Invalid(format!("Incorrect request: {statuses}"))
            })?;
            let now = app.now();
            if !db::members::set_status(&mut tx, &image.id, member, status, now).await? {
                // A Glance on the same database has removed the member concurrently.
                return Err(member_not_found(&image.id, member));
            }
            Ok((tx, Member { status, updated_at: Some(now), ..found }))
        })
        .await
}

/// Removes a member: the image is no longer shared with the project.
///
/// # Errors
/// `NotFound` (image, member), `Forbidden` (also if the image's visibility is not `shared`).
pub(crate) async fn remove(app: &App, context: &Context, id: &RequestedId, member: &str) -> Result<()> {
    app.db
        .transaction(|mut tx| async move {
            let image = access::find_locked(app, &mut tx, context, id).await?;
            let image = check_shared(image, id, || forbidden("delete", id))?;
            check_side(app, context, &image, Side::Owner, || forbidden("delete", id))?;
            find_member(app, context, &mut tx, &image, member).await?;
            authorise(app, context, &image, rule::DELETE_MEMBER)?;
            if !db::members::delete(&mut tx, &image.id, member).await? {
                return Err(member_not_found(&image.id, member));
            }
            Ok((tx, ()))
        })
        .await?;
    apply_acls(app, id).await
}

/// Lets the image's members read its data.
async fn apply_acls(app: &App, id: &RequestedId) -> Result<()> {
    match id.id() {
        Some(id) => acls::apply(app, &id).await,
        None => Ok(()),
    }
}

/// The party that an operation is reserved for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    /// The image's owner adds and removes members.
    Owner,
    /// A member accepts or rejects the image.
    Member,
}

/// Checks that the caller is on this side. The deprecated policy defaults allow everyone to change members, so with them Glance
/// checks the owner in its code.
fn check_side(app: &App, context: &Context, image: &Image, side: Side, refusal: impl FnOnce() -> Error) -> Result<()> {
    let is_owners = access::is_owner(context, image);
    if app.config.oslo_policy.enforce_new_defaults || context.is_admin || is_owners == (side == Side::Owner) {
        return Ok(());
    }
    Err(refusal())
}

/// Checks that the image exists for the caller, and that its visibility is `shared`.
fn check_shared(image: Option<Subject>, id: &RequestedId, not_shared: impl FnOnce() -> Error) -> Result<Subject> {
    let image = image.ok_or_else(|| Error::parent_image_not_found(id))?;
    if image.visibility == Visibility::Shared { Ok(image) } else { Err(not_shared()) }
}

/// Reads a member, if the caller is allowed to see it.
async fn find_member(
    app: &App,
    context: &Context,
    s: &mut impl Session,
    image: &Subject,
    member: &str,
) -> Result<Member> {
    authorise(app, context, image, rule::GET_MEMBER)?;
    // A name that cannot be stored is no member's name, so no query is needed.
    let found = if may_see_member(context, image, member) && MemberId::parse(member).is_ok() {
        db::members::get(s, &image.id, member).await?
    } else {
        None
    };
    found.ok_or_else(|| member_not_found(&image.id, member))
}

/// Whether the caller is allowed to know that this project is a member: the image's owner is, and the project itself.
fn may_see_member(context: &Context, image: &Image, member: &str) -> bool {
    context.is_admin || access::is_owner(context, image) || context.project_id() == Some(member)
}

/// Checks the rule to see the image, and then `rule`, as Glance does.
fn authorise(app: &App, context: &Context, image: &Subject, rule: &str) -> Result<()> {
    access::authorise(app, context, image, rule::GET_IMAGE)?;
    access::authorise(app, context, image, rule)
}

/// Checks that the quota allows one more member.
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

fn member_not_found(image_id: &str, member: &str) -> Error {
    Error::NotFound(format!("{member} not found in the member list of the image {image_id}."))
}

fn forbidden(what: &str, id: &RequestedId) -> Error {
    Error::Forbidden(format!("Not allowed to {what} members for image {id}."))
}
