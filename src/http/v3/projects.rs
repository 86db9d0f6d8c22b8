//! `/v3/projects`, `/v3/auth/projects` and `/v3/users/{user_id}/projects`.

use axum::response::Response;
use serde_json::{Value, json};

use super::{Directory, Urls, filter};
use crate::{
    auth::standalone::{DOMAIN_ID, Project},
    context::Context,
    error::Result,
    http::{
        extract::{PathVariables, Query},
        json,
    },
};

/// The projects that the caller can have a token for: its own one.
pub(super) async fn list_own(Directory(users): Directory, context: Context, urls: Urls) -> Result<Response> {
    let own = context.identity.user_id.clone().unwrap_or_default();
    list_of_user(Directory(users), context, urls, PathVariables([own])).await
}

pub(super) async fn list_of_user(
    Directory(users): Directory,
    context: Context,
    urls: Urls,
    PathVariables([user]): PathVariables<1>,
) -> Result<Response> {
    let project = users.project_of(&context, &user).await?;
    Ok(json::response(&urls.listing("projects", [body(&project, &urls)])))
}

pub(super) async fn list(Directory(users): Directory, context: Context, urls: Urls, query: Query) -> Result<Response> {
    let projects = users.projects(&context, &filter(query)).await?;
    let projects = projects.iter().map(|project| body(project, &urls));
    Ok(json::response(&urls.listing("projects", projects)))
}

pub(super) async fn show(
    Directory(users): Directory,
    context: Context,
    urls: Urls,
    PathVariables([id]): PathVariables<1>,
) -> Result<Response> {
    let project = users.project(&context, &id).await?;
    Ok(json::response(&json!({ "project": body(&project, &urls) })))
}

fn body(Project(name): &Project, urls: &Urls) -> Value {
    json!({
        "id": name,
        "name": name,
        "domain_id": DOMAIN_ID,
        "description": "",
        "enabled": true,
        "parent_id": DOMAIN_ID,
        "is_domain": false,
        "tags": [],
        "options": {},
        "links": { "self": urls.identity("projects", name) },
    })
}
