//! The `image_members` table: the projects that an image is shared with.
//!
//! Glance's unique key includes the time of a row's deletion, which is NULL for a live row. So it does not prevent duplicate
//! live members, and a transaction that writes an image's members locks the image's row first (`images::get_locked`). Glimpse
//! removes rows instead of marking them as deleted: on MySQL, the members `P1` and `p1` deleted in the same second would
//! violate that key.

use chrono::NaiveDateTime;
use sea_query::{Expr, ExprTrait, Order, Query, SelectStatement};

use super::{Result, Session, tables::ImageMembers as M};
use crate::model::{Member, MemberStatus};

const COLUMNS: [M; 5] = [M::ImageId, M::Member, M::Status, M::CreatedAt, M::UpdatedAt];

fn live(image_id: &str) -> SelectStatement {
    Query::select()
        .from(M::Table)
        .and_where(Expr::col(M::ImageId).eq(image_id))
        .and_where(super::is_live(M::Deleted))
        .take()
}

/// Reads an image's members in the order in which they were added. One statement, through the index on `image_id`.
pub(crate) async fn list(s: &mut impl Session, image_id: &str) -> Result<Vec<Member>> {
    s.all(live(image_id).columns(COLUMNS).order_by(M::Id, Order::Asc).take()).await
}

/// Reads a member of any status. One statement, through the index `(image_id, member)`.
pub(crate) async fn get(s: &mut impl Session, image_id: &str, member: &str) -> Result<Option<Member>> {
    s.optional(live(image_id).columns(COLUMNS).cond_where(s.exactly(M::Member, member)).take()).await
}

/// Counts the members of an image. One statement, through the index on `image_id`.
pub(crate) async fn count(s: &mut impl Session, image_id: &str) -> Result<i64> {
    let count: Option<(i64,)> = s.optional(live(image_id).expr(Expr::col(M::Id).count()).take()).await?;
    Ok(count.map_or(0, |(count,)| count))
}

/// Adds a member. The caller makes sure that the image does not have it yet.
pub(crate) async fn insert(s: &mut impl Session, member: &Member) -> Result<()> {
    let values: [Expr; 7] = [
        member.image_id.as_str().into(),
        member.member.as_str().into(),
        member.status.into(),
        member.created_at.into(),
        member.updated_at.into(),
        false.into(),
        false.into(),
    ];
    let columns = COLUMNS.into_iter().chain([M::CanShare, M::Deleted]);
    s.execute(Query::insert().into_table(M::Table).columns(columns).values_panic(values).take()).await.map(drop)
}

/// Sets the status of a member. Returns `false` if the project is not a member. One statement, through the index `(image_id,
/// member)`.
pub(crate) async fn set_status(
    s: &mut impl Session,
    image_id: &str,
    member: &str,
    status: MemberStatus,
    now: NaiveDateTime,
) -> Result<bool> {
    let update = Query::update()
        .table(M::Table)
        .value(M::Status, status)
        .value(M::UpdatedAt, now)
        .and_where(Expr::col(M::ImageId).eq(image_id))
        .cond_where(s.exactly(M::Member, member))
        .and_where(super::is_live(M::Deleted))
        .take();
    // More than one row changes if a Glance on the same database has added the member twice.
    Ok(s.execute(update).await? > 0)
}

/// Removes a member. Returns `false` if there is none. One statement, through the index `(image_id, member)`.
pub(crate) async fn delete(s: &mut impl Session, image_id: &str, member: &str) -> Result<bool> {
    let delete = Query::delete()
        .from_table(M::Table)
        .and_where(Expr::col(M::ImageId).eq(image_id))
        .cond_where(s.exactly(M::Member, member))
        .and_where(super::is_live(M::Deleted))
        .take();
    Ok(s.execute(delete).await? > 0)
}

/// Removes all members of an image that is being deleted. One statement, through the index on `image_id`.
pub(super) async fn delete_all(s: &mut impl Session, image_id: &str) -> Result<()> {
    let delete = Query::delete()
        .from_table(M::Table)
        .and_where(Expr::col(M::ImageId).eq(image_id))
        .and_where(super::is_live(M::Deleted))
        .take();
    s.execute(delete).await.map(drop)
}
