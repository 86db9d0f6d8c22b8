//! The `image_tags` table.
//!
//! Glance's schema has no unique key for tags. So a transaction that writes an image's tags takes the image's lock first
//! (`images::get_locked`). The schema's collation on MySQL is case-insensitive, so every query here compares exactly.

use chrono::NaiveDateTime;
use sea_query::{Asterisk, Expr, ExprTrait, Query, SelectStatement};

use super::{
    Result, Session,
    tables::{ImageTags, Images},
};

/// A tag of an image.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub(crate) struct TagRow {
    /// The image that has it.
    pub(crate) image_id: String,
    /// Its text.
    pub(crate) value: String,
}

const INSERTED: [ImageTags; 5] =
    [ImageTags::ImageId, ImageTags::Value, ImageTags::CreatedAt, ImageTags::UpdatedAt, ImageTags::Deleted];

/// Adds tags. The caller makes sure that they are distinct and that the image has none of them. One statement per
/// [`super::ROWS_PER_INSERT`] tags.
pub(crate) async fn insert_all(s: &mut impl Session, image_id: &str, tags: &[&str], now: NaiveDateTime) -> Result<()> {
    for chunk in tags.chunks(super::ROWS_PER_INSERT) {
        let mut insert = Query::insert().into_table(ImageTags::Table).columns(INSERTED).take();
        for tag in chunk {
            insert.values_panic([image_id.into(), (*tag).into(), now.into(), now.into(), false.into()]);
        }
        s.execute(insert).await?;
    }
    Ok(())
}

/// Adds a tag, unless the image already has it or has `quota` tags; a quota of `None` is no limit. Returns `false` if nothing was
/// added. One statement, through the index `(image_id, value)`. With a quota, it also counts the image's tags.
pub(crate) async fn insert(
    s: &mut impl Session,
    image_id: &str,
    tag: &str,
    quota: Option<u32>,
    now: NaiveDateTime,
) -> Result<bool> {
    let present = live(image_id).expr(Expr::val(1)).cond_where(s.exactly(ImageTags::Value, tag)).take();
    let mut row = Query::select()
        .exprs([Expr::val(image_id), Expr::val(tag), Expr::val(now), Expr::val(now), Expr::val(false)])
        .and_where(Expr::exists(present).not())
        .take();
    if let Some(quota) = quota {
        let count = live(image_id).expr(Expr::col(ImageTags::Value).count()).take();
        row.and_where(Expr::SubQuery(None, Box::new(count.into())).lt(i64::from(quota)));
    }
    let mut insert = Query::insert().into_table(ImageTags::Table).columns(INSERTED).take();
    // Fails only if the numbers of columns and values differ, and both are constant.
    insert.select_from(row).map_err(|error| super::Error::Statement(error.to_string()))?;
    Ok(s.execute(insert).await? == 1)
}

/// Removes a tag. Returns `false` if the image does not have it. One statement, through the index `(image_id, value)`.
pub(crate) async fn delete(s: &mut impl Session, image_id: &str, tag: &str) -> Result<bool> {
    let delete = Query::delete()
        .from_table(ImageTags::Table)
        .and_where(Expr::col(ImageTags::ImageId).eq(image_id))
        .cond_where(s.exactly(ImageTags::Value, tag))
        .and_where(Expr::col(ImageTags::Deleted).eq(false))
        .take();
    // More than one row is removed if a Glance on the same database has added the tag twice.
    Ok(s.execute(delete).await? > 0)
}

/// Removes tags. One statement per [`super::ROWS_PER_INSERT`] tags.
pub(crate) async fn delete_all(s: &mut impl Session, image_id: &str, tags: &[&str]) -> Result<()> {
    for tags in tags.chunks(super::ROWS_PER_INSERT) {
        let delete = Query::delete()
            .from_table(ImageTags::Table)
            .and_where(Expr::col(ImageTags::ImageId).eq(image_id))
            .and_where(s.bytewise(Expr::col(ImageTags::Value)).is_in(tags.iter().copied()))
            .and_where(Expr::col(ImageTags::Deleted).eq(false))
            .take();
        s.execute(delete).await?;
    }
    Ok(())
}

/// Whether the image has the tag. One statement, through the index `(image_id, value)`.
pub(crate) async fn contains(s: &mut impl Session, image_id: &str, tag: &str) -> Result<bool> {
    let query = live(image_id)
        .column(ImageTags::ImageId)
        .column(ImageTags::Value)
        .cond_where(s.exactly(ImageTags::Value, tag))
        .limit(1)
        .take();
    Ok(s.optional::<TagRow>(query).await?.is_some())
}

/// Counts the tags of an image. One statement, through the index `(image_id, value)`.
pub(crate) async fn count(s: &mut impl Session, image_id: &str) -> Result<i64> {
    let count: Option<(i64,)> = s.optional(live(image_id).expr(Expr::col(ImageTags::Value).count()).take()).await?;
    Ok(count.map_or(0, |(count,)| count))
}

/// Selects the tags of these images, through the index on `image_id`.
pub(super) fn of_images(image_ids: &[&str]) -> SelectStatement {
    Query::select()
        .from(ImageTags::Table)
        .and_where(Expr::col(ImageTags::ImageId).is_in(image_ids.iter().copied()))
        .and_where(Expr::col(ImageTags::Deleted).eq(false))
        .take()
}

fn live(image_id: &str) -> SelectStatement {
    Query::select()
        .from(ImageTags::Table)
        .and_where(Expr::col(ImageTags::ImageId).eq(image_id))
        .and_where(Expr::col(ImageTags::Deleted).eq(false))
        .take()
}

/// Condition of a listing: the image has this tag. Through the index `(image_id, value)`, or `glimpse_image_tags_tagged`. It is
/// a count and not an EXISTS: an engine could turn that into a join which starts from every image with the tag.
pub(super) fn has(s: &impl Session, tag: &str) -> Expr {
    let count = Query::select()
        .expr(Expr::col(Asterisk).count())
        .from(ImageTags::Table)
        .and_where(Expr::col((ImageTags::Table, ImageTags::ImageId)).equals((Images::Table, Images::Id)))
        .cond_where(s.exactly((ImageTags::Table, ImageTags::Value), tag))
        .and_where(Expr::col((ImageTags::Table, ImageTags::Deleted)).eq(false))
        .take();
    Expr::SubQuery(None, Box::new(count.into())).gt(0_i64)
}

/// Selects the ids of the images with this tag, through the index `glimpse_image_tags_tagged`.
pub(super) fn images_with(s: &impl Session, tag: &str) -> SelectStatement {
    Query::select()
        .column(ImageTags::ImageId)
        .from(ImageTags::Table)
        .cond_where(s.exactly(ImageTags::Value, tag))
        .and_where(Expr::col(ImageTags::Deleted).eq(false))
        .take()
}
