//! How much a project has: what its limits are compared with.
//!
//! Each is one statement through the index on `images.owner`, and reads every row that the project ever owned: those of
//! deleted images are in that index too. Nobody's images, whose owner is NULL, are counted as Glance does.

use sea_query::{Asterisk, Cond, Condition, Expr, ExprTrait, Query, SelectStatement};

use super::{
    Result, Session,
    tables::{ImageLocations, ImageProperties, Images},
};
use crate::model::Status;

/// An image in one of these has nothing any more.
const GONE: [Status; 3] = [Status::Killed, Status::PendingDelete, Status::Deleted];
/// The property that names the stores which a copy is on its way to, and is empty when there is none.
const COPYING_TO: &str = "os_glance_importing_to_stores";
/// Bits of a size below the mebibyte.
const BELOW_MEBIBYTE: i64 = (1 << 20) - 1;

/// Sizes are summed in two parts, so that no sum is too large for the engine, whatever sizes locations claimed.
#[derive(sqlx::FromRow)]
struct Sum {
    mebibytes: i64,
    rest: i64,
}

impl Sum {
    fn bytes(self) -> u128 {
        let part = |number: i64| u128::try_from(number).unwrap_or_default();
        (part(self.mebibytes) << 20) + part(self.rest)
    }
}

#[derive(sqlx::FromRow)]
struct Count {
    count: i64,
}

/// Images that the project has.
pub(crate) async fn images(s: &mut impl Session, owner: Option<&str>) -> Result<u128> {
    let query = of(s, owner).cond_where(not_in(&GONE)).take();
    count(s, query).await
}

/// Bytes that its images take in the stores: an image's size, once for each location of it, but for the image `except`.
pub(crate) async fn stored(s: &mut impl Session, owner: Option<&str>, except: Option<&str>) -> Result<u128> {
    let query = of(s, owner)
        .inner_join(
            ImageLocations::Table,
            Expr::col((ImageLocations::Table, ImageLocations::ImageId)).equals((Images::Table, Images::Id)),
        )
        // One that waits for the scrubber still takes its room.
        .and_where(Expr::col((ImageLocations::Table, ImageLocations::Status)).ne(Status::Deleted))
        .cond_where(not_in(&GONE))
        .and_where_option(except.map(|id| Expr::col((Images::Table, Images::Id)).ne(id)))
        .take();
    sum(s, query).await
}

/// Bytes that its images take where data waits for an import or a copy.
pub(crate) async fn staged(s: &mut impl Session, owner: Option<&str>) -> Result<u128> {
    let query = of(s, owner).cond_where(under_way(s, &[Status::Uploading, Status::Importing])).take();
    sum(s, query).await
}

/// Images whose data is on its way.
pub(crate) async fn uploading(s: &mut impl Session, owner: Option<&str>) -> Result<u128> {
    let query = of(s, owner).cond_where(under_way(s, &[Status::Saving, Status::Uploading, Status::Importing])).take();
    count(s, query).await
}

fn of(s: &impl Session, owner: Option<&str>) -> SelectStatement {
    let owned = match owner {
        Some(owner) => s.exactly((Images::Table, Images::Owner), owner),
        None => Cond::all().add(Expr::col((Images::Table, Images::Owner)).is_null()),
    };
    Query::select().from(Images::Table).cond_where(owned).take()
}

fn status() -> Expr {
    Expr::col((Images::Table, Images::Status))
}

fn not_in(statuses: &[Status]) -> Condition {
    statuses.iter().fold(Cond::all(), |all, other| all.add(status().ne(*other)))
}

/// Images in one of these states, and those with data of which a copy is on its way.
fn under_way(s: &impl Session, statuses: &[Status]) -> Condition {
    use ImageProperties as P;
    let copying = Query::select()
        .expr(Expr::val(1))
        .from(P::Table)
        .and_where(Expr::col((P::Table, P::ImageId)).equals((Images::Table, Images::Id)))
        .cond_where(s.exactly((P::Table, P::Name), COPYING_TO))
        .and_where(Expr::col((P::Table, P::Value)).ne(""))
        .and_where(super::is_live((P::Table, P::Deleted)))
        .take();
    let any = statuses.iter().fold(Cond::any(), |any, one| any.add(status().eq(*one)));
    any.add(not_in(&GONE).add(Expr::exists(copying)))
}

async fn count(s: &mut impl Session, mut query: SelectStatement) -> Result<u128> {
    let row: Option<Count> = s.optional(query.expr_as(Expr::col(Asterisk).count(), "count").take()).await?;
    Ok(row.and_then(|row| row.count.try_into().ok()).unwrap_or_default())
}

async fn sum(s: &mut impl Session, mut query: SelectStatement) -> Result<u128> {
    let size = || Expr::col((Images::Table, Images::Size));
    let (mebibytes, rest) = (s.sum(size().right_shift(20)), s.sum(size().bit_and(BELOW_MEBIBYTE)));
    query.expr_as(mebibytes, "mebibytes").expr_as(rest, "rest").and_where(size().gt(0));
    let row: Option<Sum> = s.optional(query.take()).await?;
    Ok(row.map(Sum::bytes).unwrap_or_default())
}
