//! The `metadef_tags` table.

use std::collections::HashSet;

use chrono::NaiveDateTime;
use sea_query::{Expr, ExprTrait, Query, SelectStatement};

use super::order::{self, Key};
use crate::{
    db::{ROWS_PER_INSERT, Result, Session, tables::MetadefTags as T},
    model::{
        Direction,
        metadefs::{Stored, TagName, TagSortKey},
    },
};

#[derive(sqlx::FromRow)]
struct Row {
    id: i32,
    name: String,
    created_at: NaiveDateTime,
    updated_at: Option<NaiveDateTime>,
}

impl From<Row> for Stored<String> {
    fn from(row: Row) -> Self {
        Self { id: row.id, value: row.name, created_at: row.created_at, updated_at: row.updated_at }
    }
}

fn select(namespace_id: i32) -> SelectStatement {
    Query::select()
        .columns([T::Id, T::Name, T::CreatedAt, T::UpdatedAt])
        .from(T::Table)
        .and_where(Expr::col(T::NamespaceId).eq(namespace_id))
        .take()
}

/// Which tags a listing includes, in which order.
#[derive(Debug)]
pub(crate) struct Page<'p> {
    /// The first sort key. The time of creation and the id follow.
    pub(crate) sort_key: TagSortKey,
    /// The direction of all sort keys.
    pub(crate) direction: Direction,
    /// The tag after which the page starts.
    pub(crate) after: Option<&'p Stored<String>>,
    /// The maximum number of tags; `None` for all.
    pub(crate) limit: Option<u64>,
}

/// Reads a page of the tags of a namespace. One statement, through the unique index.
pub(crate) async fn list(s: &mut impl Session, namespace_id: i32, page: &Page<'_>) -> Result<Vec<Stored<String>>> {
    let mut query = select(namespace_id);
    let mut columns = vec![TagSortKey::CreatedAt, TagSortKey::Id];
    if !columns.contains(&page.sort_key) {
        columns.insert(0, page.sort_key);
    }
    let keys: Vec<Key> = columns.into_iter().map(|key| key_of(s, key, page.after)).collect();
    order::sort(&mut query, &keys, page.direction);
    if let Some(limit) = page.limit {
        query.limit(limit);
    }
    Ok(s.all::<Row>(query).await?.into_iter().map(Stored::from).collect())
}

fn key_of(s: &impl Session, key: TagSortKey, marker: Option<&Stored<String>>) -> Key {
    let value = |expr: Expr, of: fn(&Stored<String>) -> Expr| Key { expr, marker: marker.map(of) };
    match key {
        TagSortKey::Id => value(Expr::col(T::Id), |marker| marker.id.into()),
        TagSortKey::Name => Key {
            expr: s.bytewise(Expr::col(T::Name)),
            marker: marker.map(|marker| s.bytewise(Expr::val(marker.value.as_str()))),
        },
        TagSortKey::CreatedAt => value(Expr::col(T::CreatedAt), |marker| marker.created_at.into()),
        TagSortKey::UpdatedAt => value(Expr::col(T::UpdatedAt).if_null(Expr::col(T::CreatedAt)), |marker| {
            marker.updated_at.unwrap_or(marker.created_at).into()
        }),
    }
}

/// Reads all tags of a namespace in the default order, the newest first. One statement, through the unique index.
pub(crate) async fn all(s: &mut impl Session, namespace_id: i32) -> Result<Vec<Stored<String>>> {
    let page = Page { sort_key: TagSortKey::CreatedAt, direction: Direction::Desc, after: None, limit: None };
    list(s, namespace_id, &page).await
}

/// Reads a tag. One statement, through the unique index.
pub(crate) async fn get(s: &mut impl Session, namespace_id: i32, name: &str) -> Result<Option<Stored<String>>> {
    if name.contains('\0') {
        return Ok(None);
    }
    let row: Option<Row> = s.optional(select(namespace_id).cond_where(s.exactly(T::Name, name)).take()).await?;
    Ok(row.map(Stored::from))
}

/// The database looks up this many names at most. More of them are compared here with all tags, because PostgreSQL compares each tag with
/// each name as long as it has no statistics about the table.
const NAMES_PER_LOOKUP: usize = 20;

/// The first of these names that a tag of the namespace has, or an earlier one of them. Names are the same here if they differ only in
/// case where the engine's unique key says so. One statement, through the unique index; it returns the names of all tags of the namespace
/// if there are more than [`NAMES_PER_LOOKUP`] names.
pub(crate) async fn first_taken<'n>(
    s: &mut impl Session,
    namespace_id: i32,
    names: &'n [TagName],
) -> Result<Option<&'n TagName>> {
    if names.is_empty() {
        return Ok(None);
    }
    let mut query =
        Query::select().column(T::Name).from(T::Table).and_where(Expr::col(T::NamespaceId).eq(namespace_id)).take();
    if names.len() <= NAMES_PER_LOOKUP {
        query.and_where(Expr::col(T::Name).is_in(names.iter().map(TagName::as_str)));
    }
    let rows: Vec<(String,)> = s.all(query).await?;
    let mut taken: HashSet<String> = rows.iter().map(|(name,)| s.unique_key(name)).collect();
    Ok(names.iter().find(|name| !taken.insert(s.unique_key(name.as_str()))))
}

/// Adds tags. As in Glance, those from a file have no time of change. One statement per [`ROWS_PER_INSERT`] tags.
///
/// # Errors
/// `Duplicate`
pub(crate) async fn insert_all(
    s: &mut impl Session,
    namespace_id: i32,
    names: &[TagName],
    now: NaiveDateTime,
    updated_at: Option<NaiveDateTime>,
) -> Result<()> {
    for chunk in names.chunks(ROWS_PER_INSERT) {
        let columns = [T::NamespaceId, T::Name, T::CreatedAt, T::UpdatedAt];
        let mut insert = Query::insert().into_table(T::Table).columns(columns).take();
        for name in chunk {
            insert.values_panic([namespace_id.into(), name.as_str().into(), now.into(), updated_at.into()]);
        }
        s.execute(insert).await?;
    }
    Ok(())
}

/// Renames a tag. One statement.
///
/// # Errors
/// `Duplicate`
pub(crate) async fn rename(s: &mut impl Session, id: i32, name: &TagName, now: NaiveDateTime) -> Result<()> {
    let values: [(T, Expr); 2] = [(T::Name, name.as_str().into()), (T::UpdatedAt, now.into())];
    let update = Query::update().table(T::Table).values(values).and_where(Expr::col(T::Id).eq(id)).take();
    s.execute(update).await.map(drop)
}

/// Removes a tag. One statement.
pub(crate) async fn delete(s: &mut impl Session, id: i32) -> Result<()> {
    s.execute(Query::delete().from_table(T::Table).and_where(Expr::col(T::Id).eq(id)).take()).await.map(drop)
}

/// Removes all tags of a namespace. One statement.
pub(crate) async fn delete_all(s: &mut impl Session, namespace_id: i32) -> Result<()> {
    let delete = Query::delete().from_table(T::Table).and_where(Expr::col(T::NamespaceId).eq(namespace_id)).take();
    s.execute(delete).await.map(drop)
}
