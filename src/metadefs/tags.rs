//! The tags of a namespace.

use serde_json::Map;

use super::{
    access::{Missing, attempted, authorise, check_unprotected, find, find_locked, or_conflict},
    content,
};
use crate::{
    app::App,
    context::Context,
    db::{Session, metadefs::tags as rows},
    error::{Error, Result},
    model::{
        Direction, check_storable,
        metadefs::{Namespace, Stored, TagName, TagSortKey},
    },
    policy::rule,
};

/// The input of a listing.
#[derive(Debug, PartialEq)]
pub(crate) struct ListQuery {
    /// The maximum number of tags; `None` for all.
    pub(crate) limit: Option<u64>,
    /// The tag after which the page starts.
    pub(crate) marker: Option<String>,
    /// The first sort key.
    pub(crate) sort_key: TagSortKey,
    /// The direction of all sort keys.
    pub(crate) direction: Direction,
}

/// Adds a tag. Three statements.
///
/// # Errors
/// `NotFound` (namespace), `Invalid`, `Forbidden`, `Conflict` if it exists.
pub(crate) async fn create(app: &App, context: &Context, namespace: &str, name: &str) -> Result<Stored<String>> {
    app.db
        .transaction(|mut tx| async move {
            let namespace = find_locked(&mut tx, context, namespace, Missing::Short).await?;
            app.schemas.metadefs.tag.check(&Map::from_iter([("name".to_owned(), name.into())]))?;
            authorise(app, context, Some(&namespace), rule::ADD_METADEF_TAG)?;
            check_storable("Name", name).map_err(attempted("create metadata tag"))?;
            let new = TagName::parse(name)?;
            let now = app.now();
            content::add_tags(&mut tx, &namespace, &[new], now).await?;
            Ok((tx, Stored { id: 0, value: name.to_owned(), created_at: now, updated_at: Some(now) }))
        })
        .await
}

/// Adds tags, or replaces all tags of the namespace by them. As in Glance, no tags replace nothing. Two statements; for up to 500 tags, two
/// more.
///
/// # Errors
/// `NotFound` (namespace), `Forbidden`, `Conflict` if one exists or is repeated.
pub(crate) async fn create_all(
    app: &App,
    context: &Context,
    namespace: &str,
    names: &[TagName],
    append: bool,
) -> Result<()> {
    app.db
        .transaction(|mut tx| async move {
            let namespace = find_locked(&mut tx, context, namespace, Missing::Short).await?;
            authorise(app, context, Some(&namespace), rule::ADD_METADEF_TAGS)?;
            if !names.is_empty() && !append {
                rows::delete_all(&mut tx, namespace.id).await?;
            }
            content::add_tags(&mut tx, &namespace, names, app.now()).await?;
            Ok((tx, ()))
        })
        .await
}

/// Lists the tags of a namespace. Two statements, one more with a marker.
///
/// # Errors
/// `NotFound` (namespace, marker), `Forbidden`.
pub(crate) async fn list(
    app: &App,
    context: &Context,
    namespace: &str,
    query: &ListQuery,
) -> Result<Vec<Stored<String>>> {
    let mut conn = app.db.acquire().await?;
    let namespace = find(&mut conn, context, namespace, Missing::Short).await?;
    authorise(app, context, Some(&namespace), rule::GET_METADEF_TAGS)?;
    let marker = match &query.marker {
        None => None,
        Some(name) => Some(find_tag(&mut conn, &namespace, name).await?),
    };
    let page =
        rows::Page { sort_key: query.sort_key, direction: query.direction, after: marker.as_ref(), limit: query.limit };
    Ok(rows::list(&mut conn, namespace.id, &page).await?)
}

/// Returns a tag. Two statements.
///
/// # Errors
/// `NotFound`, `Forbidden`.
pub(crate) async fn get(app: &App, context: &Context, namespace: &str, name: &str) -> Result<Stored<String>> {
    let mut conn = app.db.acquire().await?;
    let namespace = find(&mut conn, context, namespace, Missing::Short).await?;
    authorise(app, context, Some(&namespace), rule::GET_METADEF_TAG)?;
    find_tag(&mut conn, &namespace, name).await
}

/// Renames a tag. As in Glance, the result has the previous time of change. Three statements.
///
/// # Errors
/// `NotFound`, `Forbidden`, `Conflict` if the name is taken.
pub(crate) async fn rename(
    app: &App,
    context: &Context,
    namespace: &str,
    name: &str,
    new: &TagName,
) -> Result<Stored<String>> {
    app.db
        .transaction(|mut tx| async move {
            let namespace = find_locked(&mut tx, context, namespace, Missing::Short).await?;
            authorise(app, context, Some(&namespace), rule::MODIFY_METADEF_TAG)?;
            let old = find_tag(&mut tx, &namespace, name).await?;
            check_storable("Name", new.as_str()).map_err(attempted("update metadata tag"))?;
            if old.value != new.as_str() {
                or_conflict(rows::rename(&mut tx, old.id, new, app.now()).await, || {
                    content::tag_exists(&namespace, new)
                })?;
            }
            Ok((tx, Stored { value: new.as_str().to_owned(), ..old }))
        })
        .await
}

/// Removes a tag. Three statements.
///
/// # Errors
/// `NotFound`, `Forbidden` (also if the namespace is protected).
pub(crate) async fn delete(app: &App, context: &Context, namespace: &str, name: &str) -> Result<()> {
    app.db
        .transaction(|mut tx| async move {
            let namespace = find_locked(&mut tx, context, namespace, Missing::Short).await?;
            authorise(app, context, Some(&namespace), rule::DELETE_METADEF_TAG)?;
            let tag = find_tag(&mut tx, &namespace, name).await?;
            check_unprotected(&namespace, "tag", name)?;
            rows::delete(&mut tx, tag.id).await?;
            Ok((tx, ()))
        })
        .await
}

async fn find_tag(s: &mut impl Session, namespace: &Namespace, name: &str) -> Result<Stored<String>> {
    let found = rows::get(s, namespace.id, name).await?;
    found.ok_or_else(|| Error::NotFound(format!("Could not find metadata tag {name}")))
}
