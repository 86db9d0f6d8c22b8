//! `/v2/metadefs/namespaces/{namespace}/tags` and `…/tags/{tag}`.

use axum::{
    extract::State,
    http::{HeaderMap, HeaderName, StatusCode},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use serde_json::Value;

use super::{
    body::{self, TagBody},
    query,
};
use crate::{
    app::SharedApp,
    context::Context,
    error::{Error, Result},
    http::{
        extract::{Json, NoBody, PathVariables, Query},
        json,
        no_content::NoContent,
    },
    metadefs::tags::{self, ListQuery},
    model::metadefs::{TagName, TagSortKey},
};

const READ_ONLY: [&str; 2] = ["created_at", "updated_at"];
const APPEND: HeaderName = HeaderName::from_static("x-openstack-append");
const SORT_KEYS: [(&str, TagSortKey); 5] = [
    ("id", TagSortKey::Id),
    // The same for all tags of a namespace.
    ("namespace_id", TagSortKey::CreatedAt),
    ("name", TagSortKey::Name),
    ("created_at", TagSortKey::CreatedAt),
    ("updated_at", TagSortKey::UpdatedAt),
];

#[derive(Serialize)]
struct TagsBody {
    tags: Vec<TagBody>,
}

pub(in crate::http::v2) async fn create(
    State(app): State<SharedApp>,
    context: Context,
    PathVariables([namespace, tag]): PathVariables<2>,
    _: NoBody,
) -> Result<Response> {
    let tag = tags::create(&app, &context, &namespace, &tag).await?;
    Ok((StatusCode::CREATED, json::response(&TagBody::from(tag))).into_response())
}

pub(in crate::http::v2) async fn create_all(
    State(app): State<SharedApp>,
    context: Context,
    PathVariables([namespace]): PathVariables<1>,
    headers: HeaderMap,
    Json(body): Json,
) -> Result<Response> {
    let body = body::check(&body, &READ_ONLY, &app.schemas.metadefs.new_tags)?;
    let Some(tags) = body.get("tags").and_then(Value::as_array) else {
        return Err(Error::Invalid("The body must have tags.".to_owned()));
    };
    let names = tags.iter().filter_map(|tag| tag.get("name")?.as_str()).map(TagName::parse);
    let names: Vec<TagName> = names.collect::<Result<_>>()?;
    let append = headers.get(APPEND).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let append = ["1", "t", "true", "on", "y", "yes"].contains(&append.trim().to_lowercase().as_str());
    tags::create_all(&app, &context, &namespace, &names, append).await?;
    let tags = names.iter().map(|name| TagBody::name(name.as_str())).collect();
    Ok((StatusCode::CREATED, json::response(&TagsBody { tags })).into_response())
}

pub(in crate::http::v2) async fn list(
    State(app): State<SharedApp>,
    context: Context,
    PathVariables([namespace]): PathVariables<1>,
    Query(pairs): Query,
) -> Result<Response> {
    let direction = query::direction(&pairs)?;
    query::check_visibility(&pairs, &["public", "private", "shared"])?;
    let given = |name| query::first(&pairs, name).filter(|value| !value.is_empty());
    let query = ListQuery {
        limit: given("limit").map(|limit| query::limit(limit, 0)).transpose()?,
        marker: given("marker").map(str::to_owned),
        sort_key: query::sort_key(&pairs, &SORT_KEYS)?,
        direction,
    };
    let found = tags::list(&app, &context, &namespace, &query).await?;
    Ok(json::response(&TagsBody { tags: TagBody::list(found) }))
}

pub(in crate::http::v2) async fn get(
    State(app): State<SharedApp>,
    context: Context,
    PathVariables([namespace, tag]): PathVariables<2>,
    _: NoBody,
) -> Result<Response> {
    Ok(json::response(&TagBody::from(tags::get(&app, &context, &namespace, &tag).await?)))
}

pub(in crate::http::v2) async fn rename(
    State(app): State<SharedApp>,
    context: Context,
    PathVariables([namespace, tag]): PathVariables<2>,
    Json(body): Json,
) -> Result<Response> {
    let body = body::check(&body, &READ_ONLY, &app.schemas.metadefs.tag)?;
    let new = TagName::parse(body.get("name").and_then(Value::as_str).unwrap_or_default())?;
    let tag = tags::rename(&app, &context, &namespace, &tag, &new).await?;
    Ok(json::response(&TagBody::from(tag)))
}

pub(in crate::http::v2) async fn delete(
    State(app): State<SharedApp>,
    context: Context,
    PathVariables([namespace, tag]): PathVariables<2>,
    _: NoBody,
) -> Result<NoContent> {
    tags::delete(&app, &context, &namespace, &tag).await?;
    Ok(NoContent)
}
