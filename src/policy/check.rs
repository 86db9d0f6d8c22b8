//! Judging a rule's tree on a caller and a target.

use std::collections::HashMap;

use super::parse::Check;
use crate::context::Identity;

/// How many rules may refer to each other in a row: more is a circle.
const MAX_REFERENCES: usize = 32;

/// What a rule is judged on: the attributes of an image, or of one that is to be.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Target<'t> {
    /// The project that it belongs to; `project_id` and `owner` in a rule.
    pub(crate) owner: Option<&'t str>,
    /// The project that sees it as its member.
    pub(crate) member: Option<&'t str>,
    /// Its visibility.
    pub(crate) visibility: Option<&'t str>,
}

impl Target<'_> {
    fn attribute(&self, name: &str) -> Option<&str> {
        match name {
            "project_id" | "owner" => self.owner,
            "member_id" => self.member,
            "visibility" => self.visibility,
            _ => None,
        }
    }

    /// The text with the target's attributes in it; `None` where one is missing.
    fn fill(&self, template: &str) -> Option<String> {
        let mut text = String::new();
        let mut rest = template;
        while let Some(at) = rest.find("%(") {
            let end = at + rest[at..].find(")s")?;
            text.push_str(&rest[..at]);
            text.push_str(self.attribute(&rest[at + 2..end])?);
            rest = &rest[end + 2..];
        }
        text.push_str(rest);
        Some(text)
    }
}

/// One question to the policy.
pub(super) struct Judge<'j> {
    pub(super) rules: &'j HashMap<&'static str, Check>,
    pub(super) identity: &'j Identity,
    pub(super) target: &'j Target<'j>,
}

impl Judge<'_> {
    pub(super) fn rule(&self, name: &str, references: usize) -> bool {
        references < MAX_REFERENCES && self.rules.get(name).is_some_and(|check| self.holds(check, references))
    }

    fn holds(&self, check: &Check, references: usize) -> bool {
        match check {
            Check::Always => true,
            Check::Never => false,
            Check::Not(check) => !self.holds(check, references),
            Check::All(checks) => checks.iter().all(|check| self.holds(check, references)),
            Check::Any(checks) => checks.iter().any(|check| self.holds(check, references)),
            Check::Rule(name) => self.rule(name, references + 1),
            Check::Role(name) => self.identity.roles.iter().any(|role| role == name),
            Check::Generic { kind, matches } => {
                let wanted = self.target.fill(matches);
                wanted.is_some_and(|wanted| self.left_side(kind) == Some(wanted.as_str()))
            }
        }
    }

    /// A constant in quotes, or one of the caller's credentials.
    fn left_side<'s>(&'s self, kind: &'s str) -> Option<&'s str> {
        if let Some(constant) = kind.strip_prefix('\'').and_then(|rest| rest.strip_suffix('\'')) {
            return Some(constant);
        }
        match kind {
            "project_id" | "tenant" => self.identity.project_id.as_deref(),
            "user_id" | "user" => self.identity.user_id.as_deref(),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Target;
    use crate::{
        context::{Identity, Scope},
        policy::Policy,
    };

    fn who(project: Option<&str>, roles: &[&str]) -> Identity {
        let roles = roles.iter().map(|role| (*role).to_owned()).collect();
        Identity { user_id: Some("u".to_owned()), project_id: project.map(str::to_owned), roles, ..Identity::default() }
    }

    fn image<'t>(owner: Option<&'t str>, visibility: &'t str) -> Target<'t> {
        Target { owner, member: None, visibility: Some(visibility) }
    }

    #[test]
    fn glances_defaults_on_personas() {
        let policy = Policy::defaults();
        let mine = image(Some("p"), "private");
        assert!(policy.allows(&who(Some("p"), &["member"]), "modify_image", &mine));
        assert!(!policy.allows(&who(Some("p"), &["reader"]), "modify_image", &mine));
        assert!(!policy.allows(&who(Some("q"), &["member"]), "modify_image", &mine));
        assert!(policy.allows(&who(None, &["admin"]), "modify_image", &mine));
        assert!(policy.allows(&who(Some("q"), &["reader"]), "get_image", &image(Some("p"), "public")));
        assert!(!policy.allows(&who(Some("q"), &["reader"]), "get_image", &mine));
        assert!(!policy.allows(&who(Some("p"), &["member"]), "publicize_image", &mine));
    }

    #[test]
    fn a_token_for_a_domain_or_the_cloud_is_none_for_projects() {
        for scope in [Scope::Domain, Scope::System] {
            let admin = Identity { scope, ..who(None, &["admin"]) };
            assert!(!Policy::defaults().allows(&admin, "modify_image", &image(Some("p"), "private")), "{scope:?}");
        }
    }

    #[test]
    fn who_has_no_project_owns_nothing() {
        // oslo.policy compares the texts `None` and `None` here, and finds them equal.
        assert!(!Policy::defaults().allows(&who(None, &["member"]), "modify_image", &image(None, "shared")));
    }

    #[test]
    fn an_unknown_rule_lets_nobody() {
        assert!(!Policy::defaults().allows(&who(None, &["admin"]), "no_such_rule", &Target::default()));
    }
}
