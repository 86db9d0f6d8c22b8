//! Resource types, and the associations of namespaces with them.

use super::{
    access::{Missing, allows, authorise, check_unprotected, find, find_locked},
    content,
};
use crate::{
    app::App,
    context::Context,
    db::{
        Session,
        metadefs::associations::{self as rows, ResourceType},
    },
    error::{Error, Result},
    model::metadefs::{Association, Namespace, Stored},
    policy::rule,
};

/// Lists all resource types. One statement.
///
/// # Errors
/// `NotFound`, `Forbidden`.
pub(crate) async fn list(app: &App, context: &Context) -> Result<Vec<ResourceType>> {
    authorise(app, context, None, rule::LIST_METADEF_RESOURCE_TYPES)?;
    let mut conn = app.db.acquire().await?;
    Ok(rows::list_resource_types(&mut conn).await?)
}

/// Lists the associations of a namespace. Two statements.
///
/// # Errors
/// `NotFound`, `Forbidden`.
pub(crate) async fn list_associations(
    app: &App,
    context: &Context,
    namespace: &str,
) -> Result<Vec<Stored<Association>>> {
    let mut conn = app.db.acquire().await?;
    let namespace = find(&mut conn, context, namespace, Missing::Short).await?;
    authorise(app, context, Some(&namespace), rule::LIST_METADEF_RESOURCE_TYPES)?;
    if !allows(app, context, Some(&namespace), rule::GET_METADEF_RESOURCE_TYPE) {
        return Ok(Vec::new());
    }
    let mut found = rows::of_namespaces(&mut conn, &[namespace.id]).await?;
    Ok(found.remove(&namespace.id).unwrap_or_default())
}

/// Associates a namespace with a resource type, which is added if it does not exist. At most six statements.
///
/// # Errors
/// `NotFound`, `Forbidden`, `Invalid`, `Conflict` if there is such an association.
pub(crate) async fn associate(
    app: &App,
    context: &Context,
    namespace: &str,
    association: &Association,
) -> Result<Stored<Association>> {
    app.db
        .transaction(|mut tx| async move {
            let namespace = find_locked(&mut tx, context, namespace, Missing::Short).await?;
            authorise(app, context, Some(&namespace), rule::ADD_METADEF_RESOURCE_TYPE_ASSOCIATION)?;
            association.check_storable()?;
            let now = app.now();
            content::add_associations(&mut tx, &namespace, std::slice::from_ref(association), now).await?;
            Ok((tx, Stored { id: 0, value: association.clone(), created_at: now, updated_at: Some(now) }))
        })
        .await
}

/// Removes an association. The resource type stays. Three statements.
///
/// # Errors
/// `NotFound`, `Forbidden` (also if the namespace is protected).
pub(crate) async fn dissociate(app: &App, context: &Context, namespace: &str, resource_type: &str) -> Result<()> {
    app.db
        .transaction(|mut tx| async move {
            let namespace = find_locked(&mut tx, context, namespace, Missing::Short).await?;
            authorise(app, context, Some(&namespace), rule::REMOVE_METADEF_RESOURCE_TYPE_ASSOCIATION)?;
            let missing = || Error::NotFound(format!("Failed to find resource type {resource_type} to delete"));
            find_association(&mut tx, &namespace, resource_type).await.map_err(|error| match error {
                Error::NotFound(_) => missing(),
                error => error,
            })?;
            check_unprotected(&namespace, "resource-type-association", resource_type)?;
            let found = rows::get_resource_type(&mut tx, resource_type).await?;
            let Some(found) = found else { return Err(missing()) };
            if !rows::delete(&mut tx, namespace.id, found.id).await? {
                return Err(missing());
            }
            Ok((tx, ()))
        })
        .await
}

/// The association of a namespace with a resource type. Two statements.
pub(super) async fn find_association(
    s: &mut impl Session,
    namespace: &Namespace,
    resource_type: &str,
) -> Result<Association> {
    if rows::get_resource_type(s, resource_type).await?.is_none() {
        return Err(Error::NotFound(format!(
            "The metadata definition resource-type with name={resource_type}, was not found."
        )));
    }
    let associations = rows::of_namespaces(s, &[namespace.id]).await?.remove(&namespace.id).unwrap_or_default();
    let found = associations.into_iter().find(|association| association.value.name == resource_type);
    found.map(|association| association.value).ok_or_else(|| {
        let namespace = &namespace.namespace;
        Error::NotFound(format!(
            "The metadata definition resource-type association of resource-type={resource_type} to \
             namespace={namespace}, was not found."
        ))
    })
}
