//! A validated token, and its access rules.

use axum::http::Method;
use chrono::{DateTime, Utc};
use serde::Deserialize;

use crate::context::{Identity, Scope};

/// A token that Keystone has validated.
#[derive(Debug)]
pub(super) struct Token {
    /// The user, the scope and the roles.
    pub(super) identity: Identity,
    /// When it expires.
    pub(super) expires: DateTime<Utc>,
    /// The only requests that it is valid for, if it was issued for an application credential with access rules.
    access_rules: Option<Vec<AccessRule>>,
}

#[derive(Debug, Deserialize)]
struct AccessRule {
    service: String,
    path: String,
    method: String,
}

/// The body of Keystone's response to a validation.
#[derive(Debug, Deserialize)]
pub(super) struct Body {
    token: TokenBody,
}

#[derive(Debug, Deserialize)]
struct TokenBody {
    expires_at: DateTime<Utc>,
    user: InDomain,
    project: Option<InDomain>,
    domain: Option<Domain>,
    system: Option<serde_json::Value>,
    #[serde(default)]
    roles: Vec<Role>,
    is_admin_project: Option<bool>,
    application_credential: Option<ApplicationCredential>,
}

#[derive(Debug, Deserialize)]
struct Domain {
    id: String,
}

/// A user or a project, with its domain.
#[derive(Debug, Deserialize)]
struct InDomain {
    id: String,
    domain: Option<Domain>,
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
            Some(rule.service.as_str()) == service_type
                && rule.method == method.as_str()
                && matches_rule(&rule.path, path)
        })
    }
}

/// Whether a path matches the path of a rule, in which `*` and `{name}` match a part of one segment, and `**` matches anything.
///
/// `ends[n]` is whether the parts of the rule so far match the first `n` bytes of the path. Clients choose both texts; the time is
/// at most proportional to the product of their lengths.
fn matches_rule(rule: &str, path: &str) -> bool {
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
    use super::{Body, Scope, Token, matches_rule};

    /// The results are those of keystonemiddleware.
    #[test]
    fn paths_match_access_rules_as_in_keystonemiddleware() {
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
            assert_eq!(matches_rule(rule, path), expected, "{rule} {path}");
        }
    }

    fn token(extra: &str) -> Token {
        let text =
            format!(r#"{{"token": {{"expires_at": "2026-01-01T00:00:00.000000Z", "user": {{"id": "u"}}{extra}}}}}"#);
        serde_json::from_str::<Body>(&text).unwrap().into()
    }

    #[test]
    fn the_scope_of_a_token_is_recognised() {
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
    fn access_rules_restrict_a_token_to_requests() {
        let rules = r#"[{"service": "image", "method": "GET", "path": "/v2/images/*"}]"#;
        let token = token(&format!(r#", "application_credential": {{"access_rules": {rules}}}"#));
        assert!(token.allows(Some("image"), &axum::http::Method::GET, "/v2/images/x"));
        assert!(!token.allows(Some("image"), &axum::http::Method::DELETE, "/v2/images/x"));
        assert!(!token.allows(Some("volume"), &axum::http::Method::GET, "/v2/images/x"));
        assert!(!token.allows(None, &axum::http::Method::GET, "/v2/images/x"));
    }
}
