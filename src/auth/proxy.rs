//! Identity headers, as keystonemiddleware sets them, from a proxy that is trusted to be the only one who reaches us.

use axum::http::HeaderMap;

use super::text;
use crate::{
    context::Identity,
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
    })
}
