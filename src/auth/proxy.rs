//! Identity headers, as keystonemiddleware sets them, from a proxy that is trusted to be the only one who reaches us.

use axum::http::HeaderMap;

use super::text;
use crate::{
    context::{Identity, Scope},
    error::{Error, Result},
};

pub(super) fn authenticate(headers: &HeaderMap) -> Result<Identity> {
    if text(headers, "x-identity-status") != Some("Confirmed") {
        return Err(Error::Unauthenticated);
    }
    // X-Tenant-Id is the name from before Keystone had projects.
    let project = text(headers, "x-project-id").or_else(|| text(headers, "x-tenant-id"));
    Ok(Identity {
        user_id: text(headers, "x-user-id").map(str::to_owned),
        project_id: project.map(str::to_owned),
        roles: super::roles(text(headers, "x-roles").unwrap_or_default()),
        scope: scope(headers),
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
