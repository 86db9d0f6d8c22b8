//! `/v2/metadefs/namespaces/{namespace}/properties` and `…/properties/{property}`.

use axum::{
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::Serialize;
use serde_json::Value;

use super::{body, query};
use crate::{
    app::{App, SharedApp},
    context::Context,
    error::Result,
    http::{
        extract::{Json, NoBody, PathVariables, Query},
        json,
        no_content::NoContent,
    },
    metadefs::properties,
    model::metadefs::{Properties, PropertyType},
};

#[derive(Serialize)]
struct PropertiesBody {
    properties: Properties,
}

pub(in crate::http::v2) async fn create(
    State(app): State<SharedApp>,
    context: Context,
    PathVariables([namespace]): PathVariables<1>,
    Json(body): Json,
) -> Result<Response> {
    let property = parse(&app, &body)?;
    properties::create(&app, &context, &namespace, &property).await?;
    Ok((StatusCode::CREATED, json::response(&property)).into_response())
}

pub(in crate::http::v2) async fn list(
    State(app): State<SharedApp>,
    context: Context,
    PathVariables([namespace]): PathVariables<1>,
    _: NoBody,
) -> Result<Response> {
    let properties = properties::list(&app, &context, &namespace).await?;
    Ok(json::response(&PropertiesBody { properties }))
}

pub(in crate::http::v2) async fn get(
    State(app): State<SharedApp>,
    context: Context,
    PathVariables([namespace, property]): PathVariables<2>,
    Query(pairs): Query,
) -> Result<Response> {
    let resource_type = query::last(&pairs, "resource_type");
    Ok(json::response(&properties::get(&app, &context, &namespace, &property, resource_type).await?))
}

pub(in crate::http::v2) async fn update(
    State(app): State<SharedApp>,
    context: Context,
    PathVariables([namespace, property]): PathVariables<2>,
    Json(body): Json,
) -> Result<Response> {
    let new = parse(&app, &body)?;
    properties::update(&app, &context, &namespace, &property, &new).await?;
    Ok(json::response(&new))
}

pub(in crate::http::v2) async fn delete(
    State(app): State<SharedApp>,
    context: Context,
    PathVariables([namespace, property]): PathVariables<2>,
    _: NoBody,
) -> Result<NoContent> {
    properties::delete(&app, &context, &namespace, &property).await?;
    Ok(NoContent)
}

fn parse(app: &App, body: &Value) -> Result<PropertyType> {
    body::check(body, &["created_at", "updated_at"], &app.schemas.metadefs.property)?;
    PropertyType::parse(body, "The property")
}
