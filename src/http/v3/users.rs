//! `/v3/users`.

use axum::response::Response;
use serde_json::{Value, json};

use super::{Directory, Urls, filter};
use crate::{
    auth::standalone::{DOMAIN_ID, UserEntry},
    context::Context,
    error::Result,
    http::{
        extract::{PathVariables, Query},
        json,
    },
};

pub(super) async fn list(Directory(users): Directory, context: Context, urls: Urls, query: Query) -> Result<Response> {
    let users = users.users(&context, &filter(query)).await?;
    Ok(json::response(&urls.listing("users", users.iter().map(|user| body(user, &urls)))))
}

pub(super) async fn show(
    Directory(users): Directory,
    context: Context,
    urls: Urls,
    PathVariables([id]): PathVariables<1>,
) -> Result<Response> {
    let user = users.user(&context, &id).await?;
    Ok(json::response(&json!({ "user": body(&user, &urls) })))
}

fn body(user: &UserEntry, urls: &Urls) -> Value {
    json!({
        "id": user.name,
        "name": user.name,
        "domain_id": DOMAIN_ID,
        "enabled": true,
        "default_project_id": user.project,
        "password_expires_at": null,
        "options": {},
        "links": { "self": urls.identity("users", &user.name) },
    })
}
