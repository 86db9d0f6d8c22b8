//! The `image_properties` table: custom properties.

use chrono::NaiveDateTime;
use sea_query::{Expr, ExprTrait, Query};

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

/// Adds properties to a new image. One statement.
pub(crate) async fn insert(
    s: &mut impl Session,
    image_id: &str,
    properties: &[(String, String)],
    now: NaiveDateTime,
) -> Result<()> {
    if properties.is_empty() {
        return Ok(());
    }
    use ImageProperties as P;
    let mut insert = Query::insert()
        .into_table(P::Table)
        .columns([P::ImageId, P::Name, P::Value, P::CreatedAt, P::UpdatedAt, P::Deleted])
        .take();
    for (name, value) in properties {
        insert.values_panic([
            image_id.into(),
            name.as_str().into(),
            value.as_str().into(),
            now.into(),
            now.into(),
            false.into(),
        ]);
    }
    s.execute(insert).await.map(drop)
}

/// Reads the properties of these images, in the order in which they were added. One statement.
pub(crate) async fn of(s: &mut impl Session, image_ids: &[&str]) -> Result<Vec<Property>> {
    if image_ids.is_empty() {
        return Ok(Vec::new());
    }
    use ImageProperties as P;
    let query = Query::select()
        .columns([P::ImageId, P::Name, P::Value])
        .from(P::Table)
        .and_where(Expr::col(P::ImageId).is_in(image_ids.iter().copied()))
        .and_where(Expr::col(P::Deleted).eq(false))
        .order_by(P::Name, sea_query::Order::Asc)
        .take();
    s.all(query).await
}

/// Condition of a listing: the image has this property.
pub(super) fn exists(s: &impl Session, name: &str, value: &str) -> Expr {
    use ImageProperties as P;
    Expr::exists(
        Query::select()
            .expr(Expr::val(1))
            .from(P::Table)
            .and_where(Expr::col((P::Table, P::ImageId)).equals((Images::Table, Images::Id)))
            .cond_where(s.exactly((P::Table, P::Name), name))
            .cond_where(s.exactly((P::Table, P::Value), value))
            .and_where(Expr::col((P::Table, P::Deleted)).eq(false))
            .take(),
    )
}
