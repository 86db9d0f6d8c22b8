//! The `metadef_resource_types` and `metadef_namespace_resource_types` tables.
//!
//! A resource type is added with its first association, and stays.

use std::collections::{HashMap, HashSet};

use chrono::NaiveDateTime;
use sea_query::{Expr, ExprTrait, OnConflict, Order, Query, SelectStatement};

use crate::{
    db::{
        ROWS_PER_INSERT, Result, Session,
        tables::{MetadefNamespaceResourceTypes as A, MetadefResourceTypes as R},
    },
    model::metadefs::{Association, Stored},
};

#[derive(sqlx::FromRow)]
struct Row {
    namespace_id: i32,
    name: String,
    prefix: Option<String>,
    properties_target: Option<String>,
    created_at: NaiveDateTime,
    updated_at: Option<NaiveDateTime>,
}

/// A resource type.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub(crate) struct ResourceType {
    /// The number of its row.
    pub(crate) id: i32,
    /// Its unique name.
    pub(crate) name: String,
    /// When it was created, in UTC.
    pub(crate) created_at: NaiveDateTime,
    /// When it was last changed, in UTC.
    pub(crate) updated_at: Option<NaiveDateTime>,
}

fn resource_types() -> SelectStatement {
    Query::select().columns([R::Id, R::Name, R::CreatedAt, R::UpdatedAt]).from(R::Table).take()
}

/// Reads all resource types in the order of their creation. One statement.
pub(crate) async fn list_resource_types(s: &mut impl Session) -> Result<Vec<ResourceType>> {
    s.all(resource_types().order_by(R::Id, Order::Asc).take()).await
}

/// Reads a resource type. One statement, through the unique index.
pub(crate) async fn get_resource_type(s: &mut impl Session, name: &str) -> Result<Option<ResourceType>> {
    if name.contains('\0') {
        return Ok(None);
    }
    s.optional(resource_types().cond_where(s.exactly(R::Name, name)).take()).await
}

/// Reads the associations of these namespaces, by the namespaces' ids, each in the order of creation. One statement, through the index
/// on `namespace_id`; none for no namespaces.
pub(crate) async fn of_namespaces(
    s: &mut impl Session,
    namespace_ids: &[i32],
) -> Result<HashMap<i32, Vec<Stored<Association>>>> {
    let mut found: HashMap<i32, Vec<Stored<Association>>> = HashMap::new();
    if namespace_ids.is_empty() {
        return Ok(found);
    }
    let query = Query::select()
        .columns([
            (A::Table, A::NamespaceId),
            (A::Table, A::Prefix),
            (A::Table, A::PropertiesTarget),
            (A::Table, A::CreatedAt),
            (A::Table, A::UpdatedAt),
        ])
        .column((R::Table, R::Name))
        .from(A::Table)
        .inner_join(R::Table, Expr::col((R::Table, R::Id)).equals((A::Table, A::ResourceTypeId)))
        .and_where(Expr::col((A::Table, A::NamespaceId)).is_in(namespace_ids.iter().copied()))
        .order_by((A::Table, A::CreatedAt), Order::Asc)
        .order_by((A::Table, A::ResourceTypeId), Order::Asc)
        .take();
    for row in s.all::<Row>(query).await? {
        let value = Association { name: row.name, prefix: row.prefix, properties_target: row.properties_target };
        let stored = Stored { id: 0, value, created_at: row.created_at, updated_at: row.updated_at };
        found.entry(row.namespace_id).or_default().push(stored);
    }
    Ok(found)
}

/// The result of [`insert_all`].
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Inserted {
    /// All associations were added.
    All,
    /// There is an association with this one's resource type already, or it is repeated.
    Taken(Association),
}

/// Adds associations to a namespace, and the resource types that do not exist yet. As in Glance, those from a file have no time of
/// change, and the resource types are protected. At most five statements per [`ROWS_PER_INSERT`] associations; on MySQL, one more for
/// each name that differs from a resource type's only in accents.
pub(crate) async fn insert_all(
    s: &mut impl Session,
    namespace_id: i32,
    associations: &[Association],
    now: NaiveDateTime,
    updated_at: Option<NaiveDateTime>,
) -> Result<Inserted> {
    if associations.is_empty() {
        return Ok(Inserted::All);
    }
    let mut used = ids_of(s, namespace_id).await?;
    for chunk in associations.chunks(ROWS_PER_INSERT) {
        let mut known = find_resource_types(s, chunk).await?;
        let mut added = HashSet::new();
        let names = chunk.iter().map(|association| association.name.as_str());
        // In their order, which a listing of the associations has.
        let missing: Vec<&str> = names.filter(|name| !known.contains_key(name) && added.insert(*name)).collect();
        if !missing.is_empty() {
            let columns = [R::Name, R::Protected, R::CreatedAt, R::UpdatedAt];
            let mut insert = Query::insert().into_table(R::Table).columns(columns).take();
            for name in missing {
                insert.values_panic([name.into(), updated_at.is_none().into(), now.into(), updated_at.into()]);
            }
            // Another transaction may have added one meanwhile. To MySQL, names that differ only in accents are the same.
            insert.on_conflict(OnConflict::column(R::Name).do_nothing_on([R::Id]).to_owned());
            s.execute(insert).await?;
            known = find_resource_types(s, chunk).await?;
            find_same(s, chunk, &mut known).await?;
        }
        let mut insert = Query::insert()
            .into_table(A::Table)
            .columns([A::NamespaceId, A::ResourceTypeId, A::Prefix, A::PropertiesTarget, A::CreatedAt, A::UpdatedAt])
            .take();
        for association in chunk {
            let id = known.get(association.name.as_str()).copied();
            let Some(id) = id.filter(|id| used.insert(*id)) else {
                return Ok(Inserted::Taken(association.clone()));
            };
            let (prefix, target) = (association.prefix.clone(), association.properties_target.clone());
            insert.values_panic([
                namespace_id.into(),
                id.into(),
                prefix.into(),
                target.into(),
                now.into(),
                updated_at.into(),
            ]);
        }
        s.execute(insert).await?;
    }
    Ok(Inserted::All)
}

/// The ids of the resource types with these names. Where the engine's unique key ignores case, so does this.
async fn find_resource_types<'a>(s: &mut impl Session, chunk: &'a [Association]) -> Result<HashMap<&'a str, i32>> {
    let names = || chunk.iter().map(|association| association.name.as_str());
    let rows: Vec<ResourceType> = s.all(resource_types().and_where(Expr::col(R::Name).is_in(names())).take()).await?;
    let by_name: HashMap<&str, i32> = rows.iter().map(|row| (row.name.as_str(), row.id)).collect();
    let by_key: HashMap<String, i32> = rows.iter().map(|row| (s.unique_key(&row.name), row.id)).collect();
    let find = |name: &'a str| {
        let id = by_name.get(name).or_else(|| by_key.get(&s.unique_key(name)));
        id.map(|id| (name, *id))
    };
    Ok(names().filter_map(find).collect())
}

/// Adds the ids of existing resource types that the engine's unique key takes for the same although their names differ in more than
/// case. One statement for each of these names.
async fn find_same<'a>(
    s: &mut impl Session,
    chunk: &'a [Association],
    known: &mut HashMap<&'a str, i32>,
) -> Result<()> {
    for name in chunk.iter().map(|association| association.name.as_str()) {
        if !known.contains_key(name) {
            let same = resource_types().and_where(Expr::col(R::Name).eq(name)).take();
            known.extend(s.optional::<ResourceType>(same).await?.map(|row| (name, row.id)));
        }
    }
    Ok(())
}

/// The ids of the resource types that a namespace is associated with. One statement, through the index on `namespace_id`.
async fn ids_of(s: &mut impl Session, namespace_id: i32) -> Result<HashSet<i32>> {
    let query = Query::select()
        .column(A::ResourceTypeId)
        .from(A::Table)
        .and_where(Expr::col(A::NamespaceId).eq(namespace_id))
        .take();
    Ok(s.all::<(i32,)>(query).await?.into_iter().map(|(id,)| id).collect())
}

/// Replaces the association with this resource type. One statement, through the primary key.
pub(crate) async fn replace(
    s: &mut impl Session,
    namespace_id: i32,
    association: &Association,
    now: NaiveDateTime,
) -> Result<()> {
    let values: [(A, Expr); 3] = [
        (A::Prefix, association.prefix.clone().into()),
        (A::PropertiesTarget, association.properties_target.clone().into()),
        (A::UpdatedAt, now.into()),
    ];
    let id = Query::select().column(R::Id).from(R::Table).cond_where(s.exactly(R::Name, &association.name)).take();
    let update = Query::update()
        .table(A::Table)
        .values(values)
        .and_where(Expr::col(A::NamespaceId).eq(namespace_id))
        .and_where(Expr::col(A::ResourceTypeId).in_subquery(id))
        .take();
    s.execute(update).await.map(drop)
}

/// Sets the time of change of the resource types with these names. One statement per [`ROWS_PER_INSERT`] names.
pub(crate) async fn touch_resource_types(
    s: &mut impl Session,
    associations: &[Association],
    now: NaiveDateTime,
) -> Result<()> {
    for chunk in associations.chunks(ROWS_PER_INSERT) {
        let names = chunk.iter().map(|association| association.name.as_str());
        let update =
            Query::update().table(R::Table).value(R::UpdatedAt, now).and_where(Expr::col(R::Name).is_in(names)).take();
        s.execute(update).await?;
    }
    Ok(())
}

/// Removes an association. One statement, through the primary key.
pub(crate) async fn delete(s: &mut impl Session, namespace_id: i32, resource_type_id: i32) -> Result<bool> {
    let delete = Query::delete()
        .from_table(A::Table)
        .and_where(Expr::col(A::NamespaceId).eq(namespace_id))
        .and_where(Expr::col(A::ResourceTypeId).eq(resource_type_id))
        .take();
    Ok(s.execute(delete).await? > 0)
}

/// Removes all associations of a namespace. One statement, through the index on `namespace_id`.
pub(crate) async fn delete_all(s: &mut impl Session, namespace_id: i32) -> Result<()> {
    let delete = Query::delete().from_table(A::Table).and_where(Expr::col(A::NamespaceId).eq(namespace_id)).take();
    s.execute(delete).await.map(drop)
}
