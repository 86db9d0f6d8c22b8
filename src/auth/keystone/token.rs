//! A token as Keystone describes it, and what it allows.

use axum::http::Method;
use chrono::{DateTime, Utc};
use serde::Deserialize;

use crate::context::{Identity, Scope};

/// A token that Keystone knows.
#[derive(Debug)]
pub(super) struct Token {
    /// Whose it is.
    pub(super) identity: Identity,
    /// When it ends.
    pub(super) expires: DateTime<Utc>,
    /// The only requests that it is good for, where an application credential restricts it.
    access_rules: Option<Vec<AccessRule>>,
}

#[derive(Debug, Deserialize)]
struct AccessRule {
    service: String,
    path: String,
    method: String,
}

/// The body of Keystone's answers about a token.
#[derive(Debug, Deserialize)]
pub(super) struct Body {
    token: TokenBody,
}

#[derive(Debug, Deserialize)]
struct TokenBody {
    expires_at: DateTime<Utc>,
    user: Owned,
    project: Option<Owned>,
    domain: Option<Named>,
    system: Option<serde_json::Value>,
    #[serde(default)]
    roles: Vec<Role>,
    is_admin_project: Option<bool>,
    application_credential: Option<ApplicationCredential>,
}

#[derive(Debug, Deserialize)]
struct Named {
    id: String,
}

/// What belongs to a domain.
#[derive(Debug, Deserialize)]
struct Owned {
    id: String,
    domain: Option<Named>,
}

#[derive(Debug, Deserialize)]
struct Role {
    name: String,
}

#[derive(Debug, Deserialize)]
struct ApplicationCredential {
    access_rules: Option<Vec<AccessRule>>,
}

impl From<Body> for Token {
    fn from(Body { token }: Body) -> Self {
        let scope = match (&token.project, &token.domain, &token.system) {
            (Some(_), ..) => Scope::Project,
            (None, Some(_), _) => Scope::Domain,
            (None, None, Some(_)) => Scope::System,
            (None, None, None) => Scope::None,
        };
        let (project_id, project_domain) = token.project.map(|project| (project.id, project.domain)).unzip();
        Self {
            identity: Identity {
                user_id: Some(token.user.id),
                project_id,
                roles: token.roles.into_iter().map(|role| role.name.to_lowercase()).collect(),
                scope,
                user_domain_id: token.user.domain.map(|domain| domain.id),
                project_domain_id: project_domain.flatten().map(|domain| domain.id),
                domain_id: token.domain.map(|domain| domain.id),
                outside_admin_project: token.is_admin_project == Some(false),
                service: None,
            },
            expires: token.expires_at,
            access_rules: token.application_credential.and_then(|credential| credential.access_rules),
        }
    }
}

impl Token {
    pub(super) fn has_role(&self, role: &str) -> bool {
        self.identity.roles.iter().any(|own| own.eq_ignore_ascii_case(role))
    }

    /// Whether the token's access rules, if it has any, allow this request to a service of this type.
    pub(super) fn allows(&self, service_type: Option<&str>, method: &Method, path: &str) -> bool {
        let Some(rules) = &self.access_rules else { return true };
        rules.iter().any(|rule| {
            Some(rule.service.as_str()) == service_type && rule.method == method.as_str() && fits(&rule.path, path)
        })
    }
}

/// Whether a path fits a rule's, in which `*` and `{name}` stand for a part of one segment and `**` for anything.
///
/// Keeps the set of positions in the path that the rule's parts so far can end at: a rule and a path of a client's cost their
/// product at the most.
fn fits(rule: &str, path: &str) -> bool {
    let path = path.as_bytes();
    let mut ends = vec![false; path.len() + 1];
    ends[0] = true;
    let mut rest = rule;
    while let Some(c) = rest.chars().next() {
        let mut next = vec![false; path.len() + 1];
        let tag = rest.strip_prefix('{').and_then(|tag| tag.find('}')).map(|end| end + 2);
        if rest.starts_with("**") {
            let mut reached = false;
            for at in 0..=path.len() {
                reached |= ends[at];
                next[at] = reached;
            }
            rest = &rest[2..];
        } else if c == '*' || tag.is_some() {
            let mut inside = false;
            for at in 0..path.len() {
                inside = (inside || ends[at]) && path[at] != b'/';
                next[at + 1] = inside;
            }
            rest = &rest[tag.unwrap_or(1)..];
        } else {
            let text = &rest.as_bytes()[..c.len_utf8()];
            for at in (0..path.len()).filter(|at| ends[*at] && path[*at..].starts_with(text)) {
                next[at + text.len()] = true;
            }
            rest = &rest[c.len_utf8()..];
        }
        ends = next;
    }
    ends[path.len()]
}

#[cfg(test)]
mod tests {
    use super::{Body, Scope, Token, fits};

    /// Each of these was asked of keystonemiddleware.
    #[test]
    fn paths_of_access_rules() {
        for (rule, path, expected) in [
            ("/v2/images", "/v2/images", true),
            ("/v2/images", "/v2/images/x", false),
            ("/v2/images/*", "/v2/images/x", true),
            ("/v2/images/*", "/v2/images/", false),
            ("/v2/images/*", "/v2/images/x/file", false),
            ("/v2/images/{image_id}/file", "/v2/images/x/file", true),
            ("/v2/**", "/v2/images/x/file", true),
            ("/v2/**", "/v2/", true),
            ("/v2/**/tags/x", "/v2/images", false),
            ("/v2/**/tags/x", "/v2/images/y/tags/x", true),
            ("/v2/images/img-*", "/v2/images/img-1", true),
            ("/v2/images/img-*", "/v2/images/other", false),
            ("/v2/images**", "/v2/images/x/file", true),
            ("**", "/anything", true),
            ("", "/v2", false),
        ] {
            assert_eq!(fits(rule, path), expected, "{rule} {path}");
        }
    }

    fn token(extra: &str) -> Token {
        let text =
            format!(r#"{{"token": {{"expires_at": "2026-01-01T00:00:00.000000Z", "user": {{"id": "u"}}{extra}}}}}"#);
        serde_json::from_str::<Body>(&text).unwrap().into()
    }

    #[test]
    fn scopes_are_told_apart() {
        let scope = |extra: &str| token(extra).identity.scope;
        assert_eq!(scope(r#", "project": {"id": "p"}, "roles": []"#), Scope::Project);
        assert_eq!(scope(r#", "domain": {"id": "d"}"#), Scope::Domain);
        assert_eq!(scope(r#", "system": {"all": true}"#), Scope::System);
        assert_eq!(scope(""), Scope::None);
    }

    #[test]
    fn roles_are_compared_in_lower_case() {
        assert!(token(r#", "roles": [{"name": "Service"}]"#).has_role("service"));
    }

    #[test]
    fn an_application_credential_may_restrict_its_token() {
        let rules = r#"[{"service": "image", "method": "GET", "path": "/v2/images/*"}]"#;
        let token = token(&format!(r#", "application_credential": {{"access_rules": {rules}}}"#));
        assert!(token.allows(Some("image"), &axum::http::Method::GET, "/v2/images/x"));
        assert!(!token.allows(Some("image"), &axum::http::Method::DELETE, "/v2/images/x"));
        assert!(!token.allows(Some("volume"), &axum::http::Method::GET, "/v2/images/x"));
        assert!(!token.allows(None, &axum::http::Method::GET, "/v2/images/x"));
    }
}
