//! The `image_properties` table: custom properties.

use chrono::NaiveDateTime;
use sea_query::{Asterisk, CaseStatement, Cond, Expr, ExprTrait, Query, SelectStatement};

use super::{
    Result, Session,
    tables::{ImageProperties, Images},
};

/// A custom property of an image.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub(crate) struct Property {
    /// The number of its row: a property that was added later has a higher one.
    pub(crate) id: i32,
    /// The image that has it.
    pub(crate) image_id: String,
    /// Its name.
    pub(crate) name: String,
    /// Its value. Only version 1 of the API wrote NULL.
    pub(crate) value: Option<String>,
}

/// Adds properties. The caller makes sure that the image has none with these names. One statement per [`super::ROWS_PER_INSERT`]
/// properties.
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

/// Changes the values of properties that the image has. One statement per [`super::ROWS_PER_INSERT`] properties.
pub(crate) async fn update(
    s: &mut impl Session,
    image_id: &str,
    properties: &[(String, String)],
    now: NaiveDateTime,
) -> Result<()> {
    use ImageProperties as P;
    for chunk in properties.chunks(super::ROWS_PER_INSERT) {
        let value = chunk.iter().fold(CaseStatement::new(), |value, (name, new)| {
            value.case(s.bytewise(Expr::col(P::Name)).eq(name.as_str()), new.as_str())
        });
        let names = chunk.iter().map(|(name, _)| name.as_str());
        let update = Query::update()
            .table(P::Table)
            .value(P::Value, value.finally(Expr::col(P::Value)))
            .value(P::UpdatedAt, now)
            .and_where(Expr::col(P::ImageId).eq(image_id))
            .and_where(s.bytewise(Expr::col(P::Name)).is_in(names))
            .and_where(super::is_live(P::Deleted))
            .take();
        s.execute(update).await?;
    }
    Ok(())
}

/// Removes the properties with exactly these names, and any rows with these names that Glance has marked as deleted: those
/// would violate the unique key when a property is added again. One statement per [`super::ROWS_PER_INSERT`] names.
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

/// Reads the properties of an image. One statement, through the index on `image_id`.
pub(crate) async fn list(s: &mut impl Session, image_id: &str) -> Result<Vec<Property>> {
    use ImageProperties as P;
    s.all(of_images(&[image_id]).columns([P::Id, P::ImageId, P::Name, P::Value]).take()).await
}

/// Selects the properties of these images, through the index on `image_id`.
pub(super) fn of_images(image_ids: &[&str]) -> SelectStatement {
    use ImageProperties as P;
    Query::select()
        .from(P::Table)
        .and_where(Expr::col(P::ImageId).is_in(image_ids.iter().copied()))
        .and_where(super::is_live(P::Deleted))
        .take()
}

/// Condition of a listing: the image has this property. It is a count and not an EXISTS: an engine could turn that into a join
/// which starts from every image with the property.
pub(super) fn has(s: &impl Session, name: &str, value: &str) -> Expr {
    use ImageProperties as P;
    let count = Query::select()
        .expr(Expr::col(Asterisk).count())
        .from(P::Table)
        .and_where(Expr::col((P::Table, P::ImageId)).equals((Images::Table, Images::Id)))
        .cond_where(s.exactly((P::Table, P::Name), name))
        .cond_where(s.exactly((P::Table, P::Value), value))
        .and_where(super::is_live((P::Table, P::Deleted)))
        .take();
    Expr::SubQuery(None, Box::new(count.into())).gt(0_i64)
}
