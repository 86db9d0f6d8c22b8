//! For tests: `X-Auth-Token: user:project:role,role` names the caller, without a check. An empty part is left out, and so is the
//! project `none`. `X-Service-Token` names the service that sends the request on behalf of the caller in the same way.

use std::sync::Arc;

use axum::http::HeaderMap;

use crate::{
    context::{Identity, Scope},
    error::{Error, Result},
};

pub(super) fn authenticate(headers: &HeaderMap) -> Result<Identity> {
    let token = super::text(headers, "x-auth-token").ok_or(Error::Unauthenticated)?;
    let service = super::text(headers, "x-service-token").map(identity).transpose()?;
    Ok(Identity { service: service.map(Arc::new), ..identity(token)? })
}

fn identity(token: &str) -> Result<Identity> {
    let mut parts = token.splitn(3, ':');
    let mut part = || parts.next().map(str::to_owned).ok_or(Error::Unauthenticated);
    let (user, project, roles) = (part()?, part()?, part()?);
    let known = |text: String| (!text.is_empty()).then_some(text);
    Ok(Identity {
        user_id: known(user),
        project_id: known(project).filter(|project| project != "none"),
        roles: super::roles(&roles),
        scope: Scope::Project,
        ..Identity::default()
    })
}
