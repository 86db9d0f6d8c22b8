//! `/v3/auth/tokens`: issues, validates and revokes tokens.

use axum::{
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode},
    response::{IntoResponse, Response},
};
use chrono::DateTime;
use serde_json::{Value, json};

use super::{Directory, Urls, catalog, domain, login::LoginBody};
use crate::{
    auth::standalone::{Issued, Method},
    config::Secret,
    context::Context,
    error::{Error, Result},
    http::{extract::Query, json},
};

/// The token that a request or a response is about.
const SUBJECT: HeaderName = HeaderName::from_static("x-subject-token");

/// The query parameter of a client that does not need the catalog.
const NO_CATALOG: &str = "nocatalog";

pub(super) async fn issue(
    Directory(users): Directory,
    urls: Urls,
    Query(query): Query,
    LoginBody(login): LoginBody,
) -> Result<Response> {
    let issued = users.log_in(login).await?;
    let span = tracing::Span::current();
    span.record("user", &issued.claims.user);
    span.record("project", issued.claims.project.as_deref());
    Ok((StatusCode::CREATED, response(&issued, &urls, &query)?).into_response())
}

pub(super) async fn show(
    Directory(users): Directory,
    context: Context,
    urls: Urls,
    Query(query): Query,
    headers: HeaderMap,
) -> Result<Response> {
    let issued = users.describe_token(&context, subject(&headers)).await?;
    response(&issued, &urls, &query)
}

pub(super) async fn revoke(Directory(users): Directory, context: Context, headers: HeaderMap) -> Result<StatusCode> {
    users.revoke_token(&context, subject(&headers)).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn subject(headers: &HeaderMap) -> Option<Secret> {
    headers.get(SUBJECT).map(|token| Secret::new(token.to_str().unwrap_or_default()))
}

fn response(issued: &Issued, urls: &Urls, query: &[(String, String)]) -> Result<Response> {
    let with_catalog = !query.iter().any(|(name, _)| name == NO_CATALOG);
    let mut token = HeaderValue::from_str(issued.text.expose()).map_err(|error| Error::Internal(error.into()))?;
    token.set_sensitive(true);
    let mut response = json::response(&json!({ "token": body(issued, urls, with_catalog) }));
    response.headers_mut().insert(SUBJECT, token);
    Ok(response)
}

fn body(Issued { claims, roles, .. }: &Issued, urls: &Urls, with_catalog: bool) -> Value {
    let methods = claims.methods.iter().map(|method| match method {
        Method::Password => "password",
        Method::Token => "token",
    });
    let mut token = json!({
        "methods": Value::from_iter(methods),
        "user": { "domain": domain(), "id": claims.user, "name": claims.user, "password_expires_at": null },
        "audit_ids": Value::from_iter([Some(&claims.audit_id), claims.parent_audit_id.as_ref()].into_iter().flatten().cloned()),
        "expires_at": time(claims.expires),
        "issued_at": time(claims.issued),
    });
    if let Some(project) = &claims.project {
        token["project"] = json!({ "domain": domain(), "id": project, "name": project });
        token["is_domain"] = false.into();
        token["roles"] = roles.iter().map(|role| json!({ "id": role, "name": role })).collect();
        if with_catalog {
            token["catalog"] = catalog::services(urls);
        }
    }
    token
}

/// Formats a time as Keystone does.
fn time(seconds: i64) -> String {
    DateTime::from_timestamp(seconds, 0).unwrap_or_default().format("%Y-%m-%dT%H:%M:%S.000000Z").to_string()
}
