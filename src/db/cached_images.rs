//! The tables `node_reference` and `cached_images`: which node has which image in its cache. A node is known by its URL,
//! `worker_self_reference_url`.

use chrono::NaiveDateTime;
use sea_query::{Expr, ExprTrait, Order, Query, SelectStatement, SimpleExpr};

use super::{
    Error, Result, Session,
    tables::{CachedImages as C, NodeReference as N},
};

/// An image in the cache of a node.
#[derive(Debug, Clone, PartialEq, sqlx::FromRow)]
pub(crate) struct CachedImage {
    /// The id of the row.
    pub(crate) id: i64,
    /// The image. A Glance may have written any text.
    pub(crate) image_id: String,
    /// When it was last downloaded, in UTC.
    pub(crate) last_accessed: NaiveDateTime,
    /// When it was cached, in UTC.
    pub(crate) last_modified: NaiveDateTime,
    /// Its size in bytes.
    pub(crate) size: i64,
    /// How often it was downloaded from the cache.
    pub(crate) hits: i32,
    /// Always NULL in Glance 33.
    pub(crate) checksum: Option<String>,
}

/// Returns the id of the node with this URL, and adds the node if it is new. One statement; three if it is new.
pub(crate) async fn node(s: &mut impl Session, url: &str) -> Result<i64> {
    let find = || {
        let condition = Expr::col(N::Url).eq(url);
        Query::select().column(N::Id).from(N::Table).and_where(condition).take()
    };
    let found: Option<(i64,)> = s.optional(find()).await?;
    if let Some((id,)) = found {
        return Ok(id);
    }
    let insert = Query::insert().into_table(N::Table).columns([N::Url]).values_panic([url.into()]).take();
    match s.execute(insert).await {
        // Another process of this node has added it.
        Ok(_) | Err(Error::Duplicate) => {}
        Err(error) => return Err(error),
    }
    let found: Option<(i64,)> = s.optional(find()).await?;
    found.map(|(id,)| id).ok_or_else(|| Error::Statement(format!("the node {url} was removed concurrently")))
}

fn of_node(node: i64) -> SelectStatement {
    Query::select()
        .columns([C::Id, C::ImageId, C::LastAccessed, C::LastModified, C::Size, C::Hits, C::Checksum])
        .from(C::Table)
        .and_where(Expr::col(C::NodeReferenceId).eq(node))
        .order_by(C::Id, Order::Asc)
        .take()
}

/// Reads the images in the cache of a node, in the order in which they were cached. One statement.
pub(crate) async fn list(s: &mut impl Session, node: i64) -> Result<Vec<CachedImage>> {
    s.all(of_node(node)).await
}

/// The URLs of the nodes that have the image in their caches. One statement.
pub(crate) async fn nodes(s: &mut impl Session, image_id: &str) -> Result<Vec<String>> {
    let query = Query::select()
        .column((N::Table, N::Url))
        .from(C::Table)
        .inner_join(N::Table, Expr::col((N::Table, N::Id)).equals((C::Table, C::NodeReferenceId)))
        .cond_where(s.exactly((C::Table, C::ImageId), image_id))
        .order_by((C::Table, C::Id), Order::Asc)
        .take();
    let rows: Vec<(String,)> = s.all(query).await?;
    Ok(rows.into_iter().map(|(url,)| url).collect())
}

/// What is recorded of an image that was cached.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NewRecord<'r> {
    /// The image.
    pub(crate) image_id: &'r str,
    /// Its size in bytes.
    pub(crate) size: i64,
    /// How often it was downloaded from the cache.
    pub(crate) hits: i32,
    /// When it was last downloaded, in UTC.
    pub(crate) last_accessed: NaiveDateTime,
    /// When it was cached, in UTC.
    pub(crate) last_modified: NaiveDateTime,
}

/// Adds an image to the cache of a node. Returns `Error::Duplicate` if it is there. One statement.
pub(crate) async fn insert(s: &mut impl Session, node: i64, new: NewRecord<'_>) -> Result<()> {
    let values: [SimpleExpr; 6] = [
        new.image_id.into(),
        new.last_accessed.into(),
        new.last_modified.into(),
        new.size.into(),
        new.hits.into(),
        node.into(),
    ];
    let columns = [C::ImageId, C::LastAccessed, C::LastModified, C::Size, C::Hits, C::NodeReferenceId];
    s.execute(Query::insert().into_table(C::Table).columns(columns).values_panic(values).take()).await.map(drop)
}

/// Counts downloads of an image from the cache of a node. One statement.
pub(crate) async fn add_hits(
    s: &mut impl Session,
    node: i64,
    image_id: &str,
    hits: i32,
    last_accessed: NaiveDateTime,
) -> Result<()> {
    let update = Query::update()
        .table(C::Table)
        .value(C::Hits, Expr::col(C::Hits).add(hits))
        .value(C::LastAccessed, last_accessed)
        .and_where(Expr::col(C::NodeReferenceId).eq(node))
        .and_where(Expr::col(C::ImageId).eq(image_id))
        .take();
    s.execute(update).await.map(drop)
}

/// Removes an image from the cache of a node. One statement.
pub(crate) async fn delete(s: &mut impl Session, node: i64, image_id: &str) -> Result<()> {
    let delete = Query::delete()
        .from_table(C::Table)
        .and_where(Expr::col(C::NodeReferenceId).eq(node))
        .and_where(Expr::col(C::ImageId).eq(image_id))
        .take();
    s.execute(delete).await.map(drop)
}

/// Removes all images from the cache of a node. One statement.
pub(crate) async fn delete_all(s: &mut impl Session, node: i64) -> Result<()> {
    let delete = Query::delete().from_table(C::Table).and_where(Expr::col(C::NodeReferenceId).eq(node)).take();
    s.execute(delete).await.map(drop)
}
