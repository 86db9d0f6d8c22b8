//! `/v3/domains`, `/v3/auth/domains` and `/v3/auth/system`: there is one domain, and no token for a domain or the system.

use axum::response::Response;
use serde_json::{Value, json};

use super::{Urls, filter};
use crate::{
    auth::standalone::{DOMAIN_ID, DOMAIN_NAME, require_admin},
    context::Context,
    error::{Error, Result},
    http::{
        extract::{PathVariables, Query},
        json,
    },
};

/// The domains that the caller can have a token for.
pub(super) async fn list_own(_: Context, urls: Urls) -> Response {
    json::response(&urls.listing("domains", []))
}

/// The systems that the caller can have a token for.
pub(super) async fn list_systems(_: Context, urls: Urls) -> Response {
    json::response(&json!({ "system": [], "links": { "self": urls.own } }))
}

pub(super) async fn list(context: Context, urls: Urls, query: Query) -> Result<Response> {
    require_admin(&context, "identity:list_domains")?;
    let is_wanted = filter(query).name.is_none_or(|name| name == DOMAIN_NAME);
    Ok(json::response(&urls.listing("domains", is_wanted.then(|| body(&urls)))))
}

pub(super) async fn show(context: Context, urls: Urls, PathVariables([id]): PathVariables<1>) -> Result<Response> {
    if id != DOMAIN_ID {
        require_admin(&context, "identity:get_domain")?;
        return Err(Error::NotFound(format!("Could not find domain: {id}.")));
    }
    Ok(json::response(&json!({ "domain": body(&urls) })))
}

fn body(urls: &Urls) -> Value {
    json!({
        "id": DOMAIN_ID,
        "name": DOMAIN_NAME,
        "description": "The default domain",
        "enabled": true,
        "tags": [],
        "options": {},
        "links": { "self": urls.identity("domains", DOMAIN_ID) },
    })
}
