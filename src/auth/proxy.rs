//! Identity headers, as keystonemiddleware sets them. They are trusted, so a proxy that sets them must be the only client of the
//! server.

use std::sync::Arc;

use axum::http::HeaderMap;

use super::text;
use crate::{
    context::{Identity, Scope},
    error::{Error, Result},
};

/// The headers that identify the caller.
const HEADERS: [&str; 16] = [
    "x-identity-status",
    "x-user-id",
    "x-project-id",
    "x-tenant-id",
    "x-roles",
    "x-user-domain-id",
    "x-project-domain-id",
    "x-domain-id",
    "openstack-system-scope",
    "x-is-admin-project",
    "x-service-identity-status",
    "x-service-user-id",
    "x-service-project-id",
    "x-service-roles",
    "x-service-user-domain-id",
    "x-service-project-domain-id",
];

pub(super) fn authenticate(headers: &HeaderMap) -> Result<Identity> {
    // The proxy sets each header once. If one is repeated, the client has sent the other one, and the proxy did not remove it.
    let is_repeated = |name: &&str| headers.get_all(*name).iter().nth(1).is_some();
    if HEADERS.iter().any(is_repeated) {
        return Err(Error::Unauthenticated);
    }
    if text(headers, "x-identity-status") != Some("Confirmed") {
        return Err(Error::Unauthenticated);
    }
    // X-Tenant-Id is the name from before Keystone had projects.
    let project = text(headers, "x-project-id").or_else(|| text(headers, "x-tenant-id"));
    let own = |name: &str| text(headers, name).map(str::to_owned);
    Ok(Identity {
        user_id: own("x-user-id"),
        project_id: project.map(str::to_owned),
        roles: super::roles(text(headers, "x-roles").unwrap_or_default()),
        scope: scope(headers),
        user_domain_id: own("x-user-domain-id"),
        project_domain_id: own("x-project-domain-id"),
        domain_id: own("x-domain-id"),
        outside_admin_project: text(headers, "x-is-admin-project").is_some_and(|is| !is.eq_ignore_ascii_case("true")),
        service: text(headers, "x-service-user-id").map(|user| {
            Arc::new(Identity {
                user_id: Some(user.to_owned()),
                project_id: own("x-service-project-id"),
                roles: super::roles(text(headers, "x-service-roles").unwrap_or_default()),
                user_domain_id: own("x-service-user-domain-id"),
                project_domain_id: own("x-service-project-domain-id"),
                ..Identity::default()
            })
        }),
    })
}

fn scope(headers: &HeaderMap) -> Scope {
    let is_set = |name: &str| text(headers, name).is_some();
    if is_set("x-project-id") || is_set("x-tenant-id") {
        Scope::Project
    } else if is_set("openstack-system-scope") {
        Scope::System
    } else if is_set("x-domain-id") {
        Scope::Domain
    } else {
        Scope::None
    }
}
