//! Namespaces: creates them with their content, lists, shows, updates and deletes them.

use super::{
    access::{Missing, allows, attempted, authorise, check_unprotected, find, find_locked, or_conflict},
    content,
};
use crate::{
    app::App,
    context::Context,
    db::{
        self, Tx,
        listing::Viewer,
        metadefs::{associations, namespaces as rows, objects, properties},
    },
    error::{Error, Result},
    model::{
        Direction, check_storable,
        metadefs::{
            Association, MetadefObject, Namespace, NamespaceAttributes, NamespaceSortKey, Properties, PropertyType,
            Stored, TagName,
        },
    },
    policy::rule,
};

/// A namespace to be created, with its content.
#[derive(Debug)]
pub(crate) struct NewNamespace {
    /// Its own attributes.
    pub(crate) attributes: NamespaceAttributes,
    /// The resource types to which it applies.
    pub(crate) associations: Vec<Association>,
    /// Its properties.
    pub(crate) properties: Properties,
    /// Its objects.
    pub(crate) objects: Vec<MetadefObject>,
    /// Its tags.
    pub(crate) tags: Vec<TagName>,
}

/// A namespace with its content.
#[derive(Debug)]
pub(crate) struct NamespaceView {
    /// The namespace.
    pub(crate) namespace: Namespace,
    /// The resource types to which it applies.
    pub(crate) associations: Vec<Stored<Association>>,
    /// Its properties. Empty in a listing.
    pub(crate) properties: Properties,
    /// Its objects. Empty in a listing.
    pub(crate) objects: Vec<Stored<MetadefObject>>,
    /// Its tags. Empty in a listing.
    pub(crate) tags: Vec<Stored<String>>,
}

/// The input of a listing.
#[derive(Debug, PartialEq)]
pub(crate) struct ListQuery {
    /// The maximum number of namespaces, if the request has one.
    pub(crate) limit: Option<u64>,
    /// The name of the namespace after which the page starts.
    pub(crate) marker: Option<String>,
    /// The first sort key.
    pub(crate) sort_key: NamespaceSortKey,
    /// The direction of all sort keys.
    pub(crate) direction: Direction,
    /// Only namespaces with this visibility. Any text is possible.
    pub(crate) visibility: Option<String>,
    /// Only namespaces that apply to one of these resource types.
    pub(crate) resource_types: Option<Vec<String>>,
}

/// A page of a listing.
#[derive(Debug)]
pub(crate) struct Page {
    /// Its namespaces.
    pub(crate) namespaces: Vec<NamespaceView>,
    /// The marker of the next page, if there may be one.
    pub(crate) next_marker: Option<String>,
}

/// Creates a namespace with its content, in one transaction. Two statements for the namespace; for up to 500 of each, one for its
/// objects, one for its properties, two for its tags, and up to five for its associations.
///
/// # Errors
/// `NotFound`, `Forbidden`, `Invalid`, `Conflict` if a name is taken or repeated.
pub(crate) async fn create(app: &App, context: &Context, new: &NewNamespace) -> Result<Namespace> {
    authorise(app, context, None, rule::ADD_METADEF_NAMESPACE)?;
    for (is_used, rule) in [
        (!new.associations.is_empty(), rule::ADD_METADEF_RESOURCE_TYPE_ASSOCIATION),
        (!new.objects.is_empty(), rule::ADD_METADEF_OBJECT),
        (!new.properties.0.is_empty(), rule::ADD_METADEF_PROPERTY),
        (!new.tags.is_empty(), rule::ADD_METADEF_TAG),
    ] {
        if is_used {
            authorise(app, context, None, rule)?;
        }
    }
    let owner = new.attributes.owner.as_deref().or(context.project_id());
    let owner = owner.ok_or_else(|| Error::Invalid("The namespace must have an owner.".to_owned()))?;
    let attempted_to_create = attempted("create metadata namespace");
    new.attributes.check_storable().map_err(&attempted_to_create)?;
    new.associations.iter().try_for_each(Association::check_storable)?;
    for object in &new.objects {
        object.check_ascii_defaults()?;
        object.check_storable().map_err(&attempted_to_create)?;
    }
    for tag in &new.tags {
        check_storable("Name", tag.as_str()).map_err(&attempted_to_create)?;
    }
    for (name, property) in &new.properties.0 {
        property.check_ascii_default()?;
        property.check_storable(name).map_err(&attempted_to_create)?;
    }
    let objects: &Vec<objects::NewRow> = &new.objects.iter().map(From::from).collect();
    let property = |(name, property): &(String, PropertyType)| properties::NewRow::new(name, property);
    let properties: &Vec<_> = &new.properties.0.iter().map(property).collect();
    app.db
        .transaction(|mut tx| async move {
            let name = new.attributes.namespace.as_str();
            let now = app.now();
            or_conflict(rows::insert(&mut tx, &new.attributes, owner, now, Some(now)).await, || {
                format!("The metadata definition namespace={name} already exists.")
            })?;
            let created = rows::get_locked(&mut tx, name).await?;
            let created = created.ok_or_else(|| Error::Internal("the new namespace has no row".into()))?;
            content::add_associations(&mut tx, &created, &new.associations, now).await?;
            content::add_objects(&mut tx, &created, objects, now).await?;
            content::add_tags(&mut tx, &created, &new.tags, now).await?;
            content::add_properties(&mut tx, &created, properties, now).await?;
            Ok((tx, created))
        })
        .await
}

/// Lists namespaces with their associations. Two statements for any number of namespaces, and one more with a marker.
///
/// # Errors
/// `NotFound` (marker, or the policy), `Forbidden`.
pub(crate) async fn list(app: &App, context: &Context, query: &ListQuery) -> Result<Page> {
    authorise(app, context, None, rule::GET_METADEF_NAMESPACES)?;
    authorise(app, context, None, rule::LIST_METADEF_RESOURCE_TYPES)?;
    let default = &app.config.default;
    let limit = query.limit.unwrap_or(default.limit_param_default.into()).min(default.api_limit_max.into());
    let mut conn = app.db.acquire().await?;
    let marker = match query.marker.as_deref() {
        None => None,
        Some("") => {
            return Err(Error::NotFound("Metadata definition namespace not found for id=".to_owned()));
        }
        Some(name) => Some(find(&mut conn, context, name, Missing::Long).await?),
    };
    let page = rows::Page {
        visibility: query.visibility.as_deref(),
        resource_types: query.resource_types.as_ref().map(|names| names.iter().map(String::as_str).collect()),
        sort_key: query.sort_key,
        direction: query.direction,
        after: marker.as_ref(),
        limit,
    };
    let viewer = Viewer { project: context.project_id(), is_admin: context.is_admin };
    let mut namespaces = rows::list(&mut conn, &viewer, &page).await?;
    namespaces.retain(|namespace| allows(app, context, Some(namespace), rule::GET_METADEF_NAMESPACE));
    let ids: Vec<i32> = namespaces.iter().map(|namespace| namespace.id).collect();
    let mut associations = associations::of_namespaces(&mut conn, &ids).await?;
    // As in Glance, a full page has a next one, which may be empty.
    let is_full = !namespaces.is_empty() && namespaces.len() as u64 == limit;
    let next_marker = namespaces.last().filter(|_| is_full).map(|namespace| namespace.namespace.clone());
    let view = |namespace: Namespace| NamespaceView {
        associations: associations.remove(&namespace.id).unwrap_or_default(),
        namespace,
        properties: Properties::default(),
        objects: Vec::new(),
        tags: Vec::new(),
    };
    Ok(Page { namespaces: namespaces.into_iter().map(view).collect(), next_marker })
}

/// Returns a namespace with its content. With a resource type, the names of properties have the prefix that they have on such resources.
/// Five statements for any number of properties.
///
/// # Errors
/// `NotFound`, `Forbidden`.
pub(crate) async fn get(
    app: &App,
    context: &Context,
    name: &str,
    resource_type: Option<&str>,
) -> Result<NamespaceView> {
    let mut conn = app.db.acquire().await?;
    let namespace = find(&mut conn, context, name, Missing::Long).await?;
    for rule in [
        rule::GET_METADEF_NAMESPACE,
        rule::LIST_METADEF_RESOURCE_TYPES,
        rule::GET_METADEF_OBJECTS,
        rule::GET_METADEF_PROPERTIES,
        rule::GET_METADEF_TAGS,
    ] {
        authorise(app, context, Some(&namespace), rule)?;
    }
    let id = namespace.id;
    let mut view = NamespaceView {
        associations: associations::of_namespaces(&mut conn, &[id]).await?.remove(&id).unwrap_or_default(),
        properties: db::metadefs::properties::list(&mut conn, id).await?,
        objects: db::metadefs::objects::list(&mut conn, id).await?,
        tags: db::metadefs::tags::all(&mut conn, id).await?,
        namespace,
    };
    let wanted = view.associations.iter().find(|association| Some(association.value.name.as_str()) == resource_type);
    if let Some(prefix) = wanted.and_then(|association| association.value.prefix.clone()) {
        view.properties = view.properties.prefixed(&prefix);
        for object in &mut view.objects {
            object.value.properties = object.value.properties.take().map(|properties| properties.prefixed(&prefix));
            for name in object.value.required.iter_mut().flatten() {
                name.insert_str(0, &prefix);
            }
        }
    }
    Ok(view)
}

/// Changes all attributes of a namespace. As in Glance, the result has the previous time of change. Two statements.
///
/// # Errors
/// `NotFound`, `Forbidden`, `Invalid`, `Conflict` if the name is taken.
pub(crate) async fn update(app: &App, context: &Context, name: &str, new: &NamespaceAttributes) -> Result<Namespace> {
    app.db
        .transaction(|mut tx| async move {
            let old = find_locked(&mut tx, context, name, Missing::Short).await?;
            authorise(app, context, Some(&old), rule::MODIFY_METADEF_NAMESPACE)?;
            new.check_storable().map_err(attempted("update metadata namespace"))?;
            let owner = new.owner.as_deref().filter(|owner| !owner.is_empty()).or(context.project_id());
            let owner = owner.ok_or_else(|| Error::Invalid("The namespace must have an owner.".to_owned()))?;
            let updated = Namespace {
                namespace: new.namespace.clone(),
                display_name: new.display_name.clone(),
                description: new.description.clone(),
                visibility: new.visibility.map(|visibility| visibility.as_str().to_owned()),
                protected: new.protected,
                owner: owner.to_owned(),
                ..old.clone()
            };
            if updated != old {
                or_conflict(rows::update(&mut tx, old.id, new, owner, app.now()).await, || {
                    let name = &new.namespace;
                    format!(
                        "Invalid update. It would result in a duplicate metadata definition namespace with the same \
                         name of {name}"
                    )
                })?;
            }
            Ok((tx, updated))
        })
        .await
}

/// Deletes a namespace and its content. Six statements.
///
/// # Errors
/// `NotFound`, `Forbidden` (also if it is protected).
pub(crate) async fn delete(app: &App, context: &Context, name: &str) -> Result<()> {
    app.db
        .transaction(|mut tx| async move {
            let namespace = find_to_clear(app, &mut tx, context, name, &[]).await?;
            rows::delete(&mut tx, namespace.id).await?;
            Ok((tx, ()))
        })
        .await
}

/// Deletes all objects of a namespace. Two statements.
///
/// # Errors
/// `NotFound`, `Forbidden` (also if the namespace is protected).
pub(crate) async fn delete_objects(app: &App, context: &Context, name: &str) -> Result<()> {
    app.db
        .transaction(|mut tx| async move {
            let namespace = find_to_clear(app, &mut tx, context, name, &[]).await?;
            db::metadefs::objects::delete_all(&mut tx, namespace.id).await?;
            Ok((tx, ()))
        })
        .await
}

/// Deletes all properties of a namespace. Two statements.
///
/// # Errors
/// `NotFound`, `Forbidden` (also if the namespace is protected).
pub(crate) async fn delete_properties(app: &App, context: &Context, name: &str) -> Result<()> {
    app.db
        .transaction(|mut tx| async move {
            let namespace = find_to_clear(app, &mut tx, context, name, &[]).await?;
            db::metadefs::properties::delete_all(&mut tx, namespace.id).await?;
            Ok((tx, ()))
        })
        .await
}

/// Deletes all tags of a namespace. Two statements.
///
/// # Errors
/// `NotFound`, `Forbidden` (also if the namespace is protected).
pub(crate) async fn delete_tags(app: &App, context: &Context, name: &str) -> Result<()> {
    app.db
        .transaction(|mut tx| async move {
            let namespace = find_to_clear(app, &mut tx, context, name, &[rule::DELETE_METADEF_TAGS]).await?;
            db::metadefs::tags::delete_all(&mut tx, namespace.id).await?;
            Ok((tx, ()))
        })
        .await
}

/// Reads a namespace with its lock, if the caller is allowed to delete it, and these rules allow it, too.
async fn find_to_clear(app: &App, tx: &mut Tx, context: &Context, name: &str, more: &[&str]) -> Result<Namespace> {
    let namespace = find_locked(tx, context, name, Missing::Short).await?;
    authorise(app, context, Some(&namespace), rule::DELETE_METADEF_NAMESPACE)?;
    more.iter().try_for_each(|rule| authorise(app, context, Some(&namespace), rule))?;
    check_unprotected(&namespace, "namespace", &namespace.namespace)?;
    Ok(namespace)
}
