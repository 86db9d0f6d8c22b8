//! `/v2/metadefs/namespaces` and `/v2/metadefs/namespaces/{namespace}`.

use axum::{
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use serde::Serialize;

use super::{
    body::{self, ContentBody, NamespaceBody},
    query,
};
use crate::{
    app::SharedApp,
    context::Context,
    error::{Error, Result},
    http::{
        extract::{Json, NoBody, PathVariables, Query},
        json, links,
        no_content::NoContent,
    },
    metadefs::namespaces::{self, ListQuery, NewNamespace},
    model::metadefs::{NamespaceSortKey, TagName},
};

const READ_ONLY: [&str; 4] = ["self", "schema", "created_at", "updated_at"];
/// The maximum number of resource types in a filter.
const MAX_RESOURCE_TYPES: usize = 256;
/// The characters of a `Location` that Glance would send as they are although no header can contain them.
const LOCATION: &AsciiSet = CONTROLS;

const SORT_KEYS: [(&str, NamespaceSortKey); 9] = [
    ("id", NamespaceSortKey::Id),
    ("namespace", NamespaceSortKey::Namespace),
    ("display_name", NamespaceSortKey::DisplayName),
    ("description", NamespaceSortKey::Description),
    ("visibility", NamespaceSortKey::Visibility),
    ("protected", NamespaceSortKey::Protected),
    ("owner", NamespaceSortKey::Owner),
    ("created_at", NamespaceSortKey::CreatedAt),
    ("updated_at", NamespaceSortKey::UpdatedAt),
];

pub(in crate::http::v2) async fn create(
    State(app): State<SharedApp>,
    context: Context,
    uri: Uri,
    headers: HeaderMap,
    Json(body): Json,
) -> Result<Response> {
    let body = body::check(&body, &READ_ONLY, &app.schemas.metadefs.namespace)?;
    let content = body::content(body)?;
    content.check_new()?;
    let new = NewNamespace {
        attributes: body::attributes(body),
        associations: content.new_associations(),
        properties: content.properties.clone().unwrap_or_default(),
        objects: content.new_objects(),
        tags: content.tag_names().map(TagName::parse).collect::<Result<_>>()?,
    };
    let created = namespaces::create(&app, &context, &new).await?;
    let path = body::link(&created.namespace);
    let location = format!("{}{}", links::base(&app, &headers, &uri), utf8_percent_encode(&path, LOCATION));
    let body = NamespaceBody::new(created, content);
    let mut response = (StatusCode::CREATED, json::response(&body)).into_response();
    if let Ok(location) = HeaderValue::from_str(&location) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}

#[derive(Serialize)]
struct PageBody {
    namespaces: Vec<NamespaceBody>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
    schema: &'static str,
    first: String,
}

pub(in crate::http::v2) async fn list(
    State(app): State<SharedApp>,
    context: Context,
    Query(pairs): Query,
) -> Result<Response> {
    let page = namespaces::list(&app, &context, &list_query(&pairs)?).await?;
    let pairs = distinct(pairs);
    let next = page.next_marker.as_deref();
    Ok(json::response(&PageBody {
        namespaces: page.namespaces.into_iter().map(NamespaceBody::stored).collect(),
        next: next.map(|marker| links::page("/v2/metadefs/namespaces", &pairs, Some(marker))),
        schema: "/v2/schemas/metadefs/namespaces",
        first: links::page("/v2/metadefs/namespaces", &pairs, None),
    }))
}

fn list_query(pairs: &[(String, String)]) -> Result<ListQuery> {
    query::check_no_nul(pairs)?;
    query::check_visibility(pairs, &["public", "private"])?;
    let resource_types: Option<Vec<String>> =
        query::last(pairs, "resource_types").map(|names| names.split(',').map(str::to_owned).collect());
    if resource_types.as_ref().is_some_and(|names| names.len() > MAX_RESOURCE_TYPES) {
        return Err(Error::Invalid(format!(
            "A listing can be filtered by at most {MAX_RESOURCE_TYPES} resource types."
        )));
    }
    Ok(ListQuery {
        limit: query::first(pairs, "limit").map(|text| query::limit(text, 0)).transpose()?,
        direction: query::direction(pairs)?,
        marker: query::first(pairs, "marker").map(str::to_owned),
        sort_key: query::sort_key(pairs, &SORT_KEYS)?,
        visibility: query::first(pairs, "visibility").map(str::to_owned),
        resource_types,
    })
}

/// The parameters for links: of a repeated one, the last value at the place of the first.
fn distinct(pairs: Vec<(String, String)>) -> Vec<(String, String)> {
    let mut distinct: Vec<(String, String)> = Vec::new();
    for (name, value) in pairs {
        match distinct.iter_mut().find(|(known, _)| *known == name) {
            Some((_, earlier)) => *earlier = value,
            None => distinct.push((name, value)),
        }
    }
    distinct
}

pub(in crate::http::v2) async fn get(
    State(app): State<SharedApp>,
    context: Context,
    PathVariables([namespace]): PathVariables<1>,
    Query(pairs): Query,
    _: NoBody,
) -> Result<Response> {
    query::check_visibility(&pairs, &["public", "private"])?;
    let resource_type = query::last(&pairs, "resource_type");
    let view = namespaces::get(&app, &context, &namespace, resource_type).await?;
    Ok(json::response(&NamespaceBody::stored(view)))
}

pub(in crate::http::v2) async fn update(
    State(app): State<SharedApp>,
    context: Context,
    PathVariables([namespace]): PathVariables<1>,
    Json(body): Json,
) -> Result<Response> {
    let body = body::check(&body, &READ_ONLY, &app.schemas.metadefs.namespace)?;
    // As in Glance, the content is validated, and not used.
    body::content(body)?;
    let updated = namespaces::update(&app, &context, &namespace, &body::attributes(body)).await?;
    Ok(json::response(&NamespaceBody::new(updated, ContentBody::default())))
}

pub(in crate::http::v2) async fn delete(
    State(app): State<SharedApp>,
    context: Context,
    PathVariables([namespace]): PathVariables<1>,
    _: NoBody,
) -> Result<NoContent> {
    namespaces::delete(&app, &context, &namespace).await?;
    Ok(NoContent)
}

pub(in crate::http::v2) async fn delete_objects(
    State(app): State<SharedApp>,
    context: Context,
    PathVariables([namespace]): PathVariables<1>,
    _: NoBody,
) -> Result<NoContent> {
    namespaces::delete_objects(&app, &context, &namespace).await?;
    Ok(NoContent)
}

pub(in crate::http::v2) async fn delete_properties(
    State(app): State<SharedApp>,
    context: Context,
    PathVariables([namespace]): PathVariables<1>,
    _: NoBody,
) -> Result<NoContent> {
    namespaces::delete_properties(&app, &context, &namespace).await?;
    Ok(NoContent)
}

pub(in crate::http::v2) async fn delete_tags(
    State(app): State<SharedApp>,
    context: Context,
    PathVariables([namespace]): PathVariables<1>,
    _: NoBody,
) -> Result<NoContent> {
    namespaces::delete_tags(&app, &context, &namespace).await?;
    Ok(NoContent)
}
