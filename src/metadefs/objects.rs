//! The objects of a namespace.

use super::{
    access::{Missing, allows, attempted, authorise, check_unprotected, find, find_locked, or_conflict},
    content,
};
use crate::{
    app::App,
    context::Context,
    db::{
        Session,
        metadefs::objects::{self as rows, NewRow},
    },
    error::{Error, Result},
    model::metadefs::{MetadefObject, Namespace, Stored},
    policy::rule,
};

/// Adds an object. Two statements.
///
/// # Errors
/// `NotFound` (namespace), `Forbidden`, `Invalid`, `Conflict` if the name is taken.
pub(crate) async fn create(
    app: &App,
    context: &Context,
    namespace: &str,
    object: &MetadefObject,
) -> Result<Stored<MetadefObject>> {
    app.db
        .transaction(|mut tx| async move {
            let namespace = find_locked(&mut tx, context, namespace, Missing::Long).await?;
            authorise(app, context, Some(&namespace), rule::ADD_METADEF_OBJECT)?;
            object.check_ascii_defaults()?;
            object.check_storable().map_err(attempted("create metadata object"))?;
            let now = app.now();
            content::add_objects(&mut tx, &namespace, &[NewRow::from(object)], now).await?;
            Ok((tx, Stored { id: 0, value: object.clone(), created_at: now, updated_at: Some(now) }))
        })
        .await
}

/// Lists the objects of a namespace. Two statements.
///
/// # Errors
/// `NotFound`, `Forbidden`.
pub(crate) async fn list(app: &App, context: &Context, namespace: &str) -> Result<Vec<Stored<MetadefObject>>> {
    let mut conn = app.db.acquire().await?;
    let namespace = find(&mut conn, context, namespace, Missing::Long).await?;
    authorise(app, context, Some(&namespace), rule::GET_METADEF_OBJECTS)?;
    if !allows(app, context, Some(&namespace), rule::GET_METADEF_OBJECT) {
        return Ok(Vec::new());
    }
    Ok(rows::list(&mut conn, namespace.id).await?)
}

/// Returns an object. Two statements.
///
/// # Errors
/// `NotFound`, `Forbidden`.
pub(crate) async fn get(app: &App, context: &Context, namespace: &str, name: &str) -> Result<Stored<MetadefObject>> {
    let mut conn = app.db.acquire().await?;
    let namespace = find(&mut conn, context, namespace, Missing::Long).await?;
    authorise(app, context, Some(&namespace), rule::GET_METADEF_OBJECT)?;
    find_object(&mut conn, &namespace, name).await
}

/// Changes all attributes of an object. As in Glance, the result has the previous time of change. Three statements.
///
/// # Errors
/// `NotFound`, `Forbidden`, `Invalid`, `Conflict` if the name is taken.
pub(crate) async fn update(
    app: &App,
    context: &Context,
    namespace: &str,
    name: &str,
    new: &MetadefObject,
) -> Result<Stored<MetadefObject>> {
    app.db
        .transaction(|mut tx| async move {
            let namespace = find_locked(&mut tx, context, namespace, Missing::Long).await?;
            authorise(app, context, Some(&namespace), rule::MODIFY_METADEF_OBJECT)?;
            let old = find_object(&mut tx, &namespace, name).await?;
            new.check_ascii_defaults()?;
            new.check_storable().map_err(attempted("update metadata object"))?;
            let row = NewRow::from(new);
            if NewRow::from(&old.value) != row {
                let updated = rows::update(&mut tx, old.id, &row, app.now()).await;
                or_conflict(updated, || {
                    let (name, namespace) = (&new.name, &namespace.namespace);
                    format!(
                        "Invalid update. It would result in a duplicate metadata definition object with the same \
                         name={name} in namespace={namespace}."
                    )
                })?;
            }
            Ok((tx, Stored { value: new.clone(), ..old }))
        })
        .await
}

/// Removes an object. Three statements.
///
/// # Errors
/// `NotFound`, `Forbidden` (also if the namespace is protected).
pub(crate) async fn delete(app: &App, context: &Context, namespace: &str, name: &str) -> Result<()> {
    app.db
        .transaction(|mut tx| async move {
            let namespace = find_locked(&mut tx, context, namespace, Missing::Long).await?;
            authorise(app, context, Some(&namespace), rule::DELETE_METADEF_OBJECT)?;
            let object = find_object(&mut tx, &namespace, name).await?;
            check_unprotected(&namespace, "object", name)?;
            rows::delete(&mut tx, object.id).await?;
            Ok((tx, ()))
        })
        .await
}

async fn find_object(s: &mut impl Session, namespace: &Namespace, name: &str) -> Result<Stored<MetadefObject>> {
    let found = rows::get(s, namespace.id, name).await?;
    found.ok_or_else(|| Error::NotFound(format!("Could not find metadata object {name}")))
}
