//! The `metadef_namespaces` table.

use chrono::NaiveDateTime;
use sea_query::{Cond, Expr, ExprTrait, Order, Query, SelectStatement};

use super::{
    associations, objects,
    order::{self, Key},
    properties, tags,
};
use crate::{
    db::{
        Result, Session,
        listing::Viewer,
        session::Tx,
        tables::{
            MetadefNamespaceResourceTypes as Associations, MetadefNamespaces as N,
            MetadefResourceTypes as ResourceTypes,
        },
    },
    model::{
        Direction,
        metadefs::{Namespace, NamespaceAttributes, NamespaceSortKey, NamespaceVisibility},
    },
};

const COLUMNS: [N; 9] = [
    N::Id,
    N::Namespace,
    N::DisplayName,
    N::Description,
    N::Visibility,
    N::Protected,
    N::Owner,
    N::CreatedAt,
    N::UpdatedAt,
];

fn select() -> SelectStatement {
    Query::select().columns(COLUMNS).from(N::Table).take()
}

/// Reads a namespace of any project. One statement, through the unique index.
pub(crate) async fn get(s: &mut impl Session, name: &str) -> Result<Option<Namespace>> {
    if name.contains('\0') {
        return Ok(None);
    }
    s.optional(select().cond_where(s.exactly(N::Namespace, name)).take()).await
}

/// As [`get`], and takes the lock of its row until the transaction ends. SQLite needs none: it has one writer at a time.
pub(crate) async fn get_locked(tx: &mut Tx, name: &str) -> Result<Option<Namespace>> {
    if name.contains('\0') {
        return Ok(None);
    }
    let query = select().cond_where(tx.exactly(N::Namespace, name)).lock_exclusive().take();
    tx.optional(query).await
}

/// As [`get_locked`], but compares names as the unique index does: on MySQL, without regard to case and accents.
pub(crate) async fn get_same_locked(tx: &mut Tx, name: &str) -> Result<Option<Namespace>> {
    tx.optional(select().and_where(Expr::col(N::Namespace).eq(name)).lock_exclusive().take()).await
}

/// Which namespaces a listing includes, in which order.
#[derive(Debug)]
pub(crate) struct Page<'p> {
    /// Only those with this visibility. Any text is possible.
    pub(crate) visibility: Option<&'p str>,
    /// Only those with an association with one of these resource types.
    pub(crate) resource_types: Option<Vec<&'p str>>,
    /// The first sort key. The time of creation and the id follow.
    pub(crate) sort_key: NamespaceSortKey,
    /// The direction of all sort keys.
    pub(crate) direction: Direction,
    /// The namespace after which the page starts.
    pub(crate) after: Option<&'p Namespace>,
    /// The maximum number of namespaces.
    pub(crate) limit: u64,
}

/// Reads a page of the namespaces that the caller sees. One statement.
pub(crate) async fn list(s: &mut impl Session, viewer: &Viewer<'_>, page: &Page<'_>) -> Result<Vec<Namespace>> {
    let mut query = select();
    if !viewer.is_admin {
        let own = viewer.project.map(|project| s.exactly(N::Owner, project));
        let public = Expr::col(N::Visibility).eq(NamespaceVisibility::Public);
        query.cond_where(Cond::any().add_option(own).add(public));
    }
    if let Some(visibility) = page.visibility {
        query.cond_where(s.exactly(N::Visibility, visibility));
    }
    if let Some(resource_types) = &page.resource_types {
        let named = resource_types.iter().fold(Cond::any(), |any, name| any.add(s.exactly(ResourceTypes::Name, name)));
        let ids = Query::select().column(ResourceTypes::Id).from(ResourceTypes::Table).cond_where(named).take();
        let namespaces = Query::select()
            .column(Associations::NamespaceId)
            .from(Associations::Table)
            .and_where(Expr::col(Associations::ResourceTypeId).in_subquery(ids))
            .take();
        query.and_where(Expr::col(N::Id).in_subquery(namespaces));
    }
    let mut columns = vec![NamespaceSortKey::CreatedAt, NamespaceSortKey::Id];
    if !columns.contains(&page.sort_key) {
        columns.insert(0, page.sort_key);
    }
    let keys: Vec<Key> = columns.into_iter().map(|key| key_of(s, key, page.after)).collect();
    order::sort(&mut query, &keys, page.direction);
    s.all(query.limit(page.limit).take()).await
}

/// A sort key. As NULL, an empty text counts, and the time of creation, and that a namespace is not protected.
fn key_of(s: &impl Session, key: NamespaceSortKey, marker: Option<&Namespace>) -> Key {
    let text = |column: N, of: fn(&Namespace) -> Option<&str>| Key {
        expr: s.bytewise(Expr::col(column).if_null("")),
        marker: marker.map(|marker| s.bytewise(Expr::val(of(marker).unwrap_or_default()))),
    };
    let value = |expr: Expr, of: fn(&Namespace) -> Expr| Key { expr, marker: marker.map(of) };
    match key {
        NamespaceSortKey::Id => value(Expr::col(N::Id), |marker| marker.id.into()),
        NamespaceSortKey::Namespace => text(N::Namespace, |marker| Some(&marker.namespace)),
        NamespaceSortKey::DisplayName => text(N::DisplayName, |marker| marker.display_name.as_deref()),
        NamespaceSortKey::Description => text(N::Description, |marker| marker.description.as_deref()),
        NamespaceSortKey::Visibility => text(N::Visibility, |marker| marker.visibility.as_deref()),
        NamespaceSortKey::Protected => {
            value(Expr::col(N::Protected).if_null(false), |marker| marker.is_protected().into())
        }
        NamespaceSortKey::Owner => text(N::Owner, |marker| Some(&marker.owner)),
        NamespaceSortKey::CreatedAt => value(Expr::col(N::CreatedAt), |marker| marker.created_at.into()),
        NamespaceSortKey::UpdatedAt => value(Expr::col(N::UpdatedAt).if_null(Expr::col(N::CreatedAt)), |marker| {
            marker.updated_at.unwrap_or(marker.created_at).into()
        }),
    }
}

/// Reads all namespaces in the order of their creation. One statement.
pub(crate) async fn all(s: &mut impl Session) -> Result<Vec<Namespace>> {
    s.all(select().order_by(N::Id, Order::Asc).take()).await
}

/// Adds a namespace. As in Glance, one from a file has no time of change. One statement.
///
/// # Errors
/// `Duplicate`
pub(crate) async fn insert(
    s: &mut impl Session,
    new: &NamespaceAttributes,
    owner: &str,
    now: NaiveDateTime,
    updated_at: Option<NaiveDateTime>,
) -> Result<()> {
    let values: [Expr; 8] = [
        new.namespace.as_str().into(),
        new.display_name.clone().into(),
        new.description.clone().into(),
        new.visibility.map(NamespaceVisibility::as_str).into(),
        new.protected.into(),
        owner.into(),
        now.into(),
        updated_at.into(),
    ];
    let insert = Query::insert().into_table(N::Table).columns(COLUMNS.into_iter().skip(1)).values_panic(values).take();
    s.execute(insert).await.map(drop)
}

/// Writes all attributes of a namespace. One statement.
///
/// # Errors
/// `Duplicate`
pub(crate) async fn update(
    s: &mut impl Session,
    id: i32,
    new: &NamespaceAttributes,
    owner: &str,
    now: NaiveDateTime,
) -> Result<()> {
    let values: [(N, Expr); 7] = [
        (N::Namespace, new.namespace.as_str().into()),
        (N::DisplayName, new.display_name.clone().into()),
        (N::Description, new.description.clone().into()),
        (N::Visibility, new.visibility.map(NamespaceVisibility::as_str).into()),
        (N::Protected, new.protected.into()),
        (N::Owner, owner.into()),
        (N::UpdatedAt, now.into()),
    ];
    s.execute(Query::update().table(N::Table).values(values).and_where(is(id)).take()).await.map(drop)
}

/// Removes a namespace and its content. Five statements.
pub(crate) async fn delete(s: &mut impl Session, id: i32) -> Result<()> {
    tags::delete_all(s, id).await?;
    objects::delete_all(s, id).await?;
    properties::delete_all(s, id).await?;
    associations::delete_all(s, id).await?;
    s.execute(Query::delete().from_table(N::Table).and_where(is(id)).take()).await.map(drop)
}

fn is(id: i32) -> Expr {
    Expr::col(N::Id).eq(id)
}
