//! `/v2/metadefs/resource_types`, `/v2/metadefs/namespaces/{namespace}/resource_types` and `…/resource_types/{resource_type}`.

use axum::{
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::Serialize;

use super::body::{self, AssociationBody};
use crate::{
    app::SharedApp,
    context::Context,
    error::Result,
    http::{
        extract::{Json, NoBody, PathVariables},
        json,
        no_content::NoContent,
    },
    metadefs::resource_types,
};

#[derive(Serialize)]
struct ResourceTypeBody {
    name: String,
    created_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    updated_at: Option<String>,
}

#[derive(Serialize)]
struct ResourceTypesBody {
    resource_types: Vec<ResourceTypeBody>,
}

#[derive(Serialize)]
struct AssociationsBody {
    resource_type_associations: Vec<AssociationBody>,
}

pub(in crate::http::v2) async fn list(State(app): State<SharedApp>, context: Context, _: NoBody) -> Result<Response> {
    let found = resource_types::list(&app, &context).await?.into_iter();
    let resource_types = found.map(|resource_type| ResourceTypeBody {
        name: resource_type.name,
        created_at: json::time(resource_type.created_at),
        updated_at: resource_type.updated_at.map(json::time),
    });
    Ok(json::response(&ResourceTypesBody { resource_types: resource_types.collect() }))
}

pub(in crate::http::v2) async fn list_associations(
    State(app): State<SharedApp>,
    context: Context,
    PathVariables([namespace]): PathVariables<1>,
    _: NoBody,
) -> Result<Response> {
    let found = resource_types::list_associations(&app, &context, &namespace).await?;
    Ok(json::response(&AssociationsBody { resource_type_associations: AssociationBody::list(found) }))
}

pub(in crate::http::v2) async fn associate(
    State(app): State<SharedApp>,
    context: Context,
    PathVariables([namespace]): PathVariables<1>,
    Json(body): Json,
) -> Result<Response> {
    let body = body::check(&body, &["created_at", "updated_at"], &app.schemas.metadefs.association)?;
    let association = resource_types::associate(&app, &context, &namespace, &body::association(body)).await?;
    Ok((StatusCode::CREATED, json::response(&AssociationBody::from(association))).into_response())
}

pub(in crate::http::v2) async fn dissociate(
    State(app): State<SharedApp>,
    context: Context,
    PathVariables([namespace, resource_type]): PathVariables<2>,
    _: NoBody,
) -> Result<NoContent> {
    resource_types::dissociate(&app, &context, &namespace, &resource_type).await?;
    Ok(NoContent)
}
