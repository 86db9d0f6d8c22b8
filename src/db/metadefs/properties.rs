//! The `metadef_properties` table.

use chrono::NaiveDateTime;
use sea_query::{Expr, ExprTrait, Order, Query, SelectStatement};

use crate::{
    db::{ROWS_PER_INSERT, Result, Session, tables::MetadefProperties as P},
    model::metadefs::{Properties, PropertyType},
};

#[derive(sqlx::FromRow)]
struct Row {
    id: i32,
    name: String,
    json_schema: String,
}

/// What a row contains.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NewRow {
    /// The property's name.
    pub(crate) name: String,
    /// Its definition, as JSON.
    pub(crate) json_schema: String,
}

impl NewRow {
    /// A row for this definition.
    pub(crate) fn new(name: &str, property: &PropertyType) -> Self {
        Self { name: name.to_owned(), json_schema: property.to_stored() }
    }
}

fn select(namespace_id: i32) -> SelectStatement {
    Query::select()
        .columns([P::Id, P::Name, P::JsonSchema])
        .from(P::Table)
        .and_where(Expr::col(P::NamespaceId).eq(namespace_id))
        .take()
}

/// Reads the properties of a namespace, sorted by their names. One statement, through the unique index.
pub(crate) async fn list(s: &mut impl Session, namespace_id: i32) -> Result<Properties> {
    let query = select(namespace_id).order_by_expr(s.bytewise(Expr::col(P::Name)), Order::Asc).take();
    let rows: Vec<Row> = s.all(query).await?;
    Ok(Properties(rows.into_iter().map(|row| (row.name, PropertyType::from_stored(&row.json_schema))).collect()))
}

/// Reads the rows of a namespace with their numbers, sorted by their names, with their JSON as it is stored. One statement, through the
/// unique index.
pub(crate) async fn rows(s: &mut impl Session, namespace_id: i32) -> Result<Vec<(i32, NewRow)>> {
    let query = select(namespace_id).order_by_expr(s.bytewise(Expr::col(P::Name)), Order::Asc).take();
    let rows: Vec<Row> = s.all(query).await?;
    Ok(rows.into_iter().map(|row| (row.id, NewRow { name: row.name, json_schema: row.json_schema })).collect())
}

/// Reads a property and the number of its row. One statement, through the unique index.
pub(crate) async fn get(s: &mut impl Session, namespace_id: i32, name: &str) -> Result<Option<(i32, PropertyType)>> {
    if name.contains('\0') {
        return Ok(None);
    }
    let row: Option<Row> = s.optional(select(namespace_id).cond_where(s.exactly(P::Name, name)).take()).await?;
    Ok(row.map(|row| (row.id, PropertyType::from_stored(&row.json_schema))))
}

/// Adds properties. As in Glance, those from a file have no time of change. One statement per [`ROWS_PER_INSERT`] properties.
///
/// # Errors
/// `Duplicate`
pub(crate) async fn insert_all(
    s: &mut impl Session,
    namespace_id: i32,
    properties: &[NewRow],
    now: NaiveDateTime,
    updated_at: Option<NaiveDateTime>,
) -> Result<()> {
    for chunk in properties.chunks(ROWS_PER_INSERT) {
        let columns = [P::NamespaceId, P::Name, P::JsonSchema, P::CreatedAt, P::UpdatedAt];
        let mut insert = Query::insert().into_table(P::Table).columns(columns).take();
        for row in chunk {
            let (name, json) = (row.name.as_str().into(), row.json_schema.as_str().into());
            insert.values_panic([namespace_id.into(), name, json, now.into(), updated_at.into()]);
        }
        s.execute(insert).await?;
    }
    Ok(())
}

/// Writes a property. One statement.
///
/// # Errors
/// `Duplicate`
pub(crate) async fn update(s: &mut impl Session, id: i32, row: &NewRow, now: NaiveDateTime) -> Result<()> {
    let values: [(P, Expr); 3] = [
        (P::Name, row.name.as_str().into()),
        (P::JsonSchema, row.json_schema.as_str().into()),
        (P::UpdatedAt, now.into()),
    ];
    let update = Query::update().table(P::Table).values(values).and_where(Expr::col(P::Id).eq(id)).take();
    s.execute(update).await.map(drop)
}

/// Removes a property. One statement.
pub(crate) async fn delete(s: &mut impl Session, id: i32) -> Result<()> {
    s.execute(Query::delete().from_table(P::Table).and_where(Expr::col(P::Id).eq(id)).take()).await.map(drop)
}

/// Removes all properties of a namespace. One statement.
pub(crate) async fn delete_all(s: &mut impl Session, namespace_id: i32) -> Result<()> {
    let delete = Query::delete().from_table(P::Table).and_where(Expr::col(P::NamespaceId).eq(namespace_id)).take();
    s.execute(delete).await.map(drop)
}
