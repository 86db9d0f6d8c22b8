//! The `metadef_objects` table.

use chrono::NaiveDateTime;
use sea_query::{Expr, ExprTrait, Order, Query, SelectStatement};

use crate::{
    db::{ROWS_PER_INSERT, Result, Session, tables::MetadefObjects as O},
    model::metadefs::{MetadefObject, Properties, Stored},
};

const COLUMNS: [O; 7] = [O::Id, O::Name, O::Description, O::Required, O::JsonSchema, O::CreatedAt, O::UpdatedAt];

#[derive(sqlx::FromRow)]
struct Row {
    id: i32,
    name: String,
    description: Option<String>,
    required: Option<String>,
    json_schema: String,
    created_at: NaiveDateTime,
    updated_at: Option<NaiveDateTime>,
}

impl From<Row> for Stored<MetadefObject> {
    fn from(row: Row) -> Self {
        let required = row.required.filter(|names| !names.is_empty());
        let value = MetadefObject {
            name: row.name,
            required: Some(required.map(|names| names.split(',').map(str::to_owned).collect()).unwrap_or_default()),
            description: row.description,
            properties: Some(Properties::from_stored(&row.json_schema)),
        };
        Self { id: row.id, value, created_at: row.created_at, updated_at: row.updated_at }
    }
}

/// What a row contains.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NewRow {
    /// The object's name.
    pub(crate) name: String,
    /// Its description.
    pub(crate) description: Option<String>,
    /// The names of the properties that it requires, separated by commas.
    pub(crate) required: Option<String>,
    /// Its properties, as JSON.
    pub(crate) json_schema: String,
}

impl From<&MetadefObject> for NewRow {
    fn from(object: &MetadefObject) -> Self {
        Self {
            name: object.name.clone(),
            description: object.description.clone(),
            required: object.required_text(),
            json_schema: object.stored_properties(),
        }
    }
}

fn select(namespace_id: i32) -> SelectStatement {
    Query::select().columns(COLUMNS).from(O::Table).and_where(Expr::col(O::NamespaceId).eq(namespace_id)).take()
}

/// Reads the objects of a namespace, sorted by their names. One statement, through the unique index.
pub(crate) async fn list(s: &mut impl Session, namespace_id: i32) -> Result<Vec<Stored<MetadefObject>>> {
    let query = select(namespace_id).order_by_expr(s.bytewise(Expr::col(O::Name)), Order::Asc).take();
    Ok(s.all::<Row>(query).await?.into_iter().map(Stored::from).collect())
}

/// Reads the rows of a namespace with their numbers, sorted by their names, with their JSON as it is stored. One statement, through the
/// unique index.
pub(crate) async fn rows(s: &mut impl Session, namespace_id: i32) -> Result<Vec<(i32, NewRow)>> {
    let query = select(namespace_id).order_by_expr(s.bytewise(Expr::col(O::Name)), Order::Asc).take();
    let rows: Vec<Row> = s.all(query).await?;
    let row = |row: Row| {
        let Row { id, name, description, required, json_schema, .. } = row;
        (id, NewRow { name, description, required, json_schema })
    };
    Ok(rows.into_iter().map(row).collect())
}

/// Reads an object. One statement, through the unique index.
pub(crate) async fn get(s: &mut impl Session, namespace_id: i32, name: &str) -> Result<Option<Stored<MetadefObject>>> {
    if name.contains('\0') {
        return Ok(None);
    }
    let row: Option<Row> = s.optional(select(namespace_id).cond_where(s.exactly(O::Name, name)).take()).await?;
    Ok(row.map(Stored::from))
}

/// Adds objects. As in Glance, those from a file have no time of change. One statement per [`ROWS_PER_INSERT`] objects.
///
/// # Errors
/// `Duplicate`
pub(crate) async fn insert_all(
    s: &mut impl Session,
    namespace_id: i32,
    objects: &[NewRow],
    now: NaiveDateTime,
    updated_at: Option<NaiveDateTime>,
) -> Result<()> {
    for chunk in objects.chunks(ROWS_PER_INSERT) {
        let columns = COLUMNS.into_iter().skip(1).chain([O::NamespaceId]);
        let mut insert = Query::insert().into_table(O::Table).columns(columns).take();
        for object in chunk {
            insert.values_panic([
                object.name.as_str().into(),
                object.description.clone().into(),
                object.required.clone().into(),
                object.json_schema.as_str().into(),
                now.into(),
                updated_at.into(),
                namespace_id.into(),
            ]);
        }
        s.execute(insert).await?;
    }
    Ok(())
}

/// Writes all attributes of an object. One statement.
///
/// # Errors
/// `Duplicate`
pub(crate) async fn update(s: &mut impl Session, id: i32, object: &NewRow, now: NaiveDateTime) -> Result<()> {
    let values: [(O, Expr); 5] = [
        (O::Name, object.name.as_str().into()),
        (O::Description, object.description.clone().into()),
        (O::Required, object.required.clone().into()),
        (O::JsonSchema, object.json_schema.as_str().into()),
        (O::UpdatedAt, now.into()),
    ];
    let update = Query::update().table(O::Table).values(values).and_where(Expr::col(O::Id).eq(id)).take();
    s.execute(update).await.map(drop)
}

/// Removes an object. One statement.
pub(crate) async fn delete(s: &mut impl Session, id: i32) -> Result<()> {
    s.execute(Query::delete().from_table(O::Table).and_where(Expr::col(O::Id).eq(id)).take()).await.map(drop)
}

/// Removes all objects of a namespace. One statement.
pub(crate) async fn delete_all(s: &mut impl Session, namespace_id: i32) -> Result<()> {
    let delete = Query::delete().from_table(O::Table).and_where(Expr::col(O::NamespaceId).eq(namespace_id)).take();
    s.execute(delete).await.map(drop)
}
