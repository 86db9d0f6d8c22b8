//! The properties of a namespace.

use super::{
    access::{Missing, attempted, authorise, check_unprotected, find, find_locked, or_conflict},
    content, resource_types,
};
use crate::{
    app::App,
    context::Context,
    db::{
        Session,
        metadefs::properties::{self as rows, NewRow},
    },
    error::{Error, Result},
    model::metadefs::{Namespace, Properties, PropertyType},
    policy::rule,
};

/// Adds a property, whose definition contains its name. Two statements.
///
/// # Errors
/// `NotFound` (namespace), `Forbidden`, `Invalid`, `Conflict` if the name is taken.
pub(crate) async fn create(app: &App, context: &Context, namespace: &str, property: &PropertyType) -> Result<()> {
    let name = property.name().unwrap_or_default();
    app.db
        .transaction(|mut tx| async move {
            let namespace = find_locked(&mut tx, context, namespace, Missing::Short).await?;
            authorise(app, context, Some(&namespace), rule::ADD_METADEF_PROPERTY)?;
            property.check_ascii_default()?;
            property.check_storable(name).map_err(attempted("create metadata property"))?;
            content::add_properties(&mut tx, &namespace, &[NewRow::new(name, property)], app.now()).await?;
            Ok((tx, ()))
        })
        .await
}

/// Lists the properties of a namespace. Two statements.
///
/// # Errors
/// `NotFound`, `Forbidden`.
pub(crate) async fn list(app: &App, context: &Context, namespace: &str) -> Result<Properties> {
    let mut conn = app.db.acquire().await?;
    let namespace = find(&mut conn, context, namespace, Missing::Short).await?;
    authorise(app, context, Some(&namespace), rule::GET_METADEF_PROPERTIES)?;
    Ok(rows::list(&mut conn, namespace.id).await?)
}

/// Returns a property with its name. With a resource type, `name` has the prefix that the property has on such resources. Two statements,
/// two more with a resource type.
///
/// # Errors
/// `NotFound`, `Forbidden`.
pub(crate) async fn get(
    app: &App,
    context: &Context,
    namespace: &str,
    name: &str,
    resource_type: Option<&str>,
) -> Result<PropertyType> {
    let mut conn = app.db.acquire().await?;
    let namespace = find(&mut conn, context, namespace, Missing::Short).await?;
    authorise(app, context, Some(&namespace), rule::GET_METADEF_PROPERTY)?;
    let mut name = name;
    if let Some(resource_type) = resource_type.filter(|name| !name.is_empty()) {
        authorise(app, context, Some(&namespace), rule::GET_METADEF_RESOURCE_TYPE)?;
        let association = resource_types::find_association(&mut conn, &namespace, resource_type).await?;
        let prefix = association.prefix.as_deref().filter(|prefix| !prefix.is_empty());
        name = prefix.and_then(|prefix| name.strip_prefix(prefix)).ok_or_else(|| {
            let prefix = association.prefix.as_deref().unwrap_or("None");
            Error::NotFound(format!(
                "Property {name} does not start with the expected resource type association prefix of '{prefix}'."
            ))
        })?;
    }
    let (_, property) = find_property(&mut conn, &namespace, name).await?;
    Ok(property.with_name(name))
}

/// Replaces the definition of a property. Three statements.
///
/// # Errors
/// `NotFound`, `Forbidden`, `Invalid`, `Conflict` if the name is taken.
pub(crate) async fn update(
    app: &App,
    context: &Context,
    namespace: &str,
    name: &str,
    new: &PropertyType,
) -> Result<()> {
    let new_name = new.name().unwrap_or_default();
    app.db
        .transaction(|mut tx| async move {
            let namespace = find_locked(&mut tx, context, namespace, Missing::Short).await?;
            authorise(app, context, Some(&namespace), rule::MODIFY_METADEF_PROPERTY)?;
            let (id, old) = find_property(&mut tx, &namespace, name).await?;
            new.check_ascii_default()?;
            new.check_storable(new_name).map_err(attempted("update metadata property"))?;
            if (name, &old) != (new_name, new) {
                or_conflict(rows::update(&mut tx, id, &NewRow::new(new_name, new), app.now()).await, || {
                    let namespace = &namespace.namespace;
                    format!(
                        "Invalid update. It would result in a duplicate metadata definition property with the same \
                         name={new_name} in namespace={namespace}."
                    )
                })?;
            }
            Ok((tx, ()))
        })
        .await
}

/// Removes a property. Three statements.
///
/// # Errors
/// `NotFound`, `Forbidden` (also if the namespace is protected).
pub(crate) async fn delete(app: &App, context: &Context, namespace: &str, name: &str) -> Result<()> {
    app.db
        .transaction(|mut tx| async move {
            let namespace = find_locked(&mut tx, context, namespace, Missing::Short).await?;
            authorise(app, context, Some(&namespace), rule::REMOVE_METADEF_PROPERTY)?;
            let (id, _) = find_property(&mut tx, &namespace, name).await?;
            check_unprotected(&namespace, "property", name)?;
            rows::delete(&mut tx, id).await?;
            Ok((tx, ()))
        })
        .await
}

async fn find_property(s: &mut impl Session, namespace: &Namespace, name: &str) -> Result<(i32, PropertyType)> {
    let found = rows::get(s, namespace.id, name).await?;
    found.ok_or_else(|| Error::NotFound(format!("Could not find property {name}")))
}
