//! `/v2/metadefs/namespaces/{namespace}/objects` and `…/objects/{object}`.

use axum::{
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::Serialize;
use serde_json::{Map, Value};

use super::{
    body::{self, ObjectBody},
    query,
};
use crate::{
    app::SharedApp,
    context::Context,
    error::Result,
    http::{
        extract::{Json, NoBody, PathVariables, Query},
        json,
        no_content::NoContent,
    },
    metadefs::objects,
};

const READ_ONLY: [&str; 4] = ["self", "schema", "created_at", "updated_at"];

#[derive(Serialize)]
struct ObjectsBody {
    objects: Vec<ObjectBody>,
    schema: &'static str,
}

pub(in crate::http::v2) async fn create(
    State(app): State<SharedApp>,
    context: Context,
    PathVariables([namespace]): PathVariables<1>,
    Json(body): Json,
) -> Result<Response> {
    let schemas = &app.schemas.metadefs;
    let body = body::check(&body, &READ_ONLY, &schemas.object)?;
    // A change of an object is not as strict.
    for property in body.get("properties").and_then(Value::as_object).into_iter().flat_map(Map::values) {
        property.as_object().map_or(Ok(()), |property| schemas.unnamed_property.check(property))?;
    }
    let object = objects::create(&app, &context, &namespace, &body::object(body)?).await?;
    Ok((StatusCode::CREATED, json::response(&ObjectBody::new(&namespace, object))).into_response())
}

pub(in crate::http::v2) async fn list(
    State(app): State<SharedApp>,
    context: Context,
    PathVariables([namespace]): PathVariables<1>,
    Query(pairs): Query,
) -> Result<Response> {
    // As in Glance, these are validated, and not used.
    query::direction(&pairs)?;
    query::check_visibility(&pairs, &["public", "private", "shared"])?;
    query::first(&pairs, "limit").map(|limit| query::limit(limit, 1)).transpose()?;
    let found = objects::list(&app, &context, &namespace).await?;
    let objects = found.into_iter().map(|object| ObjectBody::new(&namespace, object)).collect();
    // Glance's link is not absolute, either.
    Ok(json::response(&ObjectsBody { objects, schema: "v2/schemas/metadefs/objects" }))
}

pub(in crate::http::v2) async fn get(
    State(app): State<SharedApp>,
    context: Context,
    PathVariables([namespace, object]): PathVariables<2>,
    _: NoBody,
) -> Result<Response> {
    let object = objects::get(&app, &context, &namespace, &object).await?;
    Ok(json::response(&ObjectBody::new(&namespace, object)))
}

pub(in crate::http::v2) async fn update(
    State(app): State<SharedApp>,
    context: Context,
    PathVariables([namespace, object]): PathVariables<2>,
    Json(body): Json,
) -> Result<Response> {
    let new = body::object(body::check(&body, &READ_ONLY, &app.schemas.metadefs.object)?)?;
    let object = objects::update(&app, &context, &namespace, &object, &new).await?;
    Ok(json::response(&ObjectBody::new(&namespace, object)))
}

pub(in crate::http::v2) async fn delete(
    State(app): State<SharedApp>,
    context: Context,
    PathVariables([namespace, object]): PathVariables<2>,
    _: NoBody,
) -> Result<NoContent> {
    objects::delete(&app, &context, &namespace, &object).await?;
    Ok(NoContent)
}
