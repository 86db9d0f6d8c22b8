//! For tests: `X-Auth-Token: user:project:role,role` names the caller, without a check. An empty part is left out, and so is the
//! project `none`.

use axum::http::HeaderMap;

use crate::{
    context::{Identity, Scope},
    error::{Error, Result},
};

pub(super) fn authenticate(headers: &HeaderMap) -> Result<Identity> {
    let token = super::text(headers, "x-auth-token").ok_or(Error::Unauthenticated)?;
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
