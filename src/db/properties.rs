//! The `image_properties` table: custom properties.

use chrono::NaiveDateTime;
use sea_query::{Asterisk, Cond, Expr, ExprTrait, Query};

use super::{
    Result, Session,
    tables::{ImageProperties, Images},
};

/// A custom property of an image.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub(crate) struct Property {
    /// The image that has it.
    pub(crate) image_id: String,
    /// Its name.
    pub(crate) name: String,
    /// Its value; NULL only where the first version of the API wrote it.
    pub(crate) value: Option<String>,
}

/// Adds properties to an image that has none of these names. One statement for every [`super::ROWS_PER_INSERT`] of them.
pub(crate) async fn insert(
    s: &mut impl Session,
    image_id: &str,
    properties: &[(String, String)],
    now: NaiveDateTime,
) -> Result<()> {
    use ImageProperties as P;
    for chunk in properties.chunks(super::ROWS_PER_INSERT) {
        let mut insert = Query::insert()
            .into_table(P::Table)
            .columns([P::ImageId, P::Name, P::Value, P::CreatedAt, P::UpdatedAt, P::Deleted])
            .take();
        for (name, value) in chunk {
            let (name, value) = (name.as_str().into(), value.as_str().into());
            insert.values_panic([image_id.into(), name, value, now.into(), now.into(), false.into()]);
        }
        s.execute(insert).await?;
    }
    Ok(())
}

/// Removes properties by their exact names, and what stands in the way of new ones with these names: rows that a Glance
/// marked as deleted still hold their names. One statement for every [`super::ROWS_PER_INSERT`] names.
pub(crate) async fn delete(s: &mut impl Session, image_id: &str, names: &[&str]) -> Result<()> {
    use ImageProperties as P;
    for names in names.chunks(super::ROWS_PER_INSERT) {
        let names = || names.iter().copied();
        let marked = Cond::all().add(Expr::col(P::Deleted).eq(true)).add(Expr::col(P::Name).is_in(names()));
        let delete = Query::delete()
            .from_table(P::Table)
            .and_where(Expr::col(P::ImageId).eq(image_id))
            .cond_where(Cond::any().add(s.bytewise(Expr::col(P::Name)).is_in(names())).add(marked))
            .take();
        s.execute(delete).await?;
    }
    Ok(())
}

/// Reads the properties of these images, in the order of their names. One statement.
pub(crate) async fn of(s: &mut impl Session, image_ids: &[&str]) -> Result<Vec<Property>> {
    let mut room = usize::MAX;
    Ok(within(s, image_ids, &mut room).await?.unwrap_or_default())
}

/// As [`of`], where they have room, which they take. `None` where they have not.
pub(crate) async fn within(
    s: &mut impl Session,
    image_ids: &[&str],
    room: &mut usize,
) -> Result<Option<Vec<Property>>> {
    if image_ids.is_empty() {
        return Ok(Some(Vec::new()));
    }
    use ImageProperties as P;
    let query = Query::select()
        .columns([P::ImageId, P::Name, P::Value])
        .from(P::Table)
        .and_where(Expr::col(P::ImageId).is_in(image_ids.iter().copied()))
        // Not `deleted = FALSE`: SQLite would take the index on that for as good as the one on the images' ids.
        .and_where(Expr::col(P::Deleted).not())
        .take();
    let weigh = |row: &Property| super::ROW_WEIGHT + row.name.len() + row.value.as_ref().map_or(0, String::len);
    let Some(mut rows) = s.all_within(query, room, weigh).await? else { return Ok(None) };
    // By bytes, and not in the statement: each engine's collation has an order of its own.
    rows.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(Some(rows))
}

/// Condition of a listing: the image has this property. A count, because an engine that took it for a join could start from
/// every image that has it.
pub(super) fn has(s: &impl Session, name: &str, value: &str) -> Expr {
    use ImageProperties as P;
    let count = Query::select()
        .expr(Expr::col(Asterisk).count())
        .from(P::Table)
        .and_where(Expr::col((P::Table, P::ImageId)).equals((Images::Table, Images::Id)))
        .cond_where(s.exactly((P::Table, P::Name), name))
        .cond_where(s.exactly((P::Table, P::Value), value))
        .and_where(Expr::col((P::Table, P::Deleted)).not())
        .take();
    Expr::SubQuery(None, Box::new(count.into())).gt(0_i64)
}
