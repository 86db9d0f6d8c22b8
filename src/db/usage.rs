//! The usage of a project, which is compared with its quotas.
//!
//! Each function runs one statement through the index on `images.owner`. The statement reads every row that the project ever
//! owned, because the index includes deleted images. Images without an owner (NULL) count as usage without a project, as in
//! Glance.

use sea_query::{Asterisk, Cond, Condition, Expr, ExprTrait, Query, SelectStatement};

use super::{
    Result, Session,
    tables::{ImageLocations, ImageProperties, Images},
};
use crate::model::{IMPORTING_TO, Status};

/// The states in which an image counts towards no quota.
const UNCOUNTED: [Status; 3] = [Status::Killed, Status::PendingDelete, Status::Deleted];
/// The bits of a size below one mebibyte.
const BELOW_MEBIBYTE: i64 = (1 << 20) - 1;

/// A sum of sizes. It is computed in two parts, so that it does not overflow the engine's integers, whatever sizes clients claimed.
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

/// Counts the project's images. One statement.
pub(crate) async fn images(s: &mut impl Session, owner: Option<&str>) -> Result<u128> {
    let query = images_of(s, owner).cond_where(not_in(&UNCOUNTED)).take();
    count(s, query).await
}

/// Sums the bytes that the project's images use in stores: each image's size, once per location. The image `except` does not
/// count. One statement.
pub(crate) async fn stored(s: &mut impl Session, owner: Option<&str>, except: Option<&str>) -> Result<u128> {
    let query = images_of(s, owner)
        .inner_join(
            ImageLocations::Table,
            Expr::col((ImageLocations::Table, ImageLocations::ImageId)).equals((Images::Table, Images::Id)),
        )
        // A location that waits for the scrubber still uses storage.
        .and_where(Expr::col((ImageLocations::Table, ImageLocations::Status)).ne(Status::Deleted))
        .cond_where(not_in(&UNCOUNTED))
        .and_where_option(except.map(|id| Expr::col((Images::Table, Images::Id)).ne(id)))
        .take();
    sum(s, query).await
}

/// Sums the sizes of the project's images whose data is staged for an import or a copy. One statement.
pub(crate) async fn staged(s: &mut impl Session, owner: Option<&str>) -> Result<u128> {
    let query = images_of(s, owner).cond_where(is_in_progress(s, &[Status::Uploading, Status::Importing])).take();
    sum(s, query).await
}

/// Counts the project's images that are being uploaded, imported or copied. One statement.
pub(crate) async fn uploading(s: &mut impl Session, owner: Option<&str>) -> Result<u128> {
    let query = images_of(s, owner)
        .cond_where(is_in_progress(s, &[Status::Saving, Status::Uploading, Status::Importing]))
        .take();
    count(s, query).await
}

fn images_of(s: &impl Session, owner: Option<&str>) -> SelectStatement {
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

/// Condition: the image is in one of these states, or a copy of its data is in progress.
fn is_in_progress(s: &impl Session, statuses: &[Status]) -> Condition {
    use ImageProperties as P;
    let copying = Query::select()
        .expr(Expr::val(1))
        .from(P::Table)
        .and_where(Expr::col((P::Table, P::ImageId)).equals((Images::Table, Images::Id)))
        .cond_where(s.exactly((P::Table, P::Name), IMPORTING_TO))
        .and_where(Expr::col((P::Table, P::Value)).ne(""))
        .and_where(super::is_live((P::Table, P::Deleted)))
        .take();
    let any = statuses.iter().fold(Cond::any(), |any, one| any.add(status().eq(*one)));
    any.add(not_in(&UNCOUNTED).add(Expr::exists(copying)))
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
