//! Judging a rule's tree on a caller and a target.

use std::cell::Cell;

use super::{
    credentials::{self, Credential},
    left::Left,
    parse::Check,
    rules::Rules,
    target::Target,
};
use crate::context::Identity;

/// How many rules may refer to each other in a row: more is a circle.
pub(super) const MAX_REFERENCES: usize = 64;

/// How many references one judgement may follow in all: more are rules that multiply, which nobody wrote to be judged.
const MAX_FOLLOWED: u32 = 10_000;

/// The rules lead back to themselves, or to too many others, so there is no verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Circle;

/// Who follows a judgement: nobody at a request, an operator at `glimpse policy check`.
pub(super) trait Follow {
    /// A check is looked at; the place is handed back with the verdict.
    fn enter(&mut self, judge: &Judge<'_>, check: &Check) -> usize;
    /// It was judged.
    fn leave(&mut self, place: usize, holds: bool);
}

impl Follow for () {
    fn enter(&mut self, _judge: &Judge<'_>, _check: &Check) -> usize {
        0
    }

    fn leave(&mut self, _place: usize, _holds: bool) {}
}

/// One question to the policy.
pub(super) struct Judge<'j> {
    pub(super) rules: &'j Rules,
    pub(super) identity: &'j Identity,
    pub(super) target: &'j Target<'j>,
    followed: Cell<u32>,
}

impl<'j> Judge<'j> {
    pub(super) fn new(rules: &'j Rules, identity: &'j Identity, target: &'j Target<'j>) -> Self {
        Self { rules, identity, target, followed: Cell::new(0) }
    }

    /// Judges a check. Allocates nothing, but where a role's name has an attribute in it.
    ///
    /// # Errors
    /// [`Circle`]: who asks takes it for no, at whatever depth and behind whatever `not` it was met.
    pub(super) fn holds(&self, check: &Check, references: usize, follow: &mut impl Follow) -> Result<bool, Circle> {
        let place = follow.enter(self, check);
        let holds = match check {
            Check::Always => true,
            Check::Never => false,
            Check::Not(check) => !self.holds(check, references, follow)?,
            Check::All(checks) => {
                let mut all = true;
                for check in checks {
                    all = self.holds(check, references, follow)?;
                    if !all {
                        break;
                    }
                }
                all
            }
            Check::Any(checks) => {
                let mut any = false;
                for check in checks {
                    any = self.holds(check, references, follow)?;
                    if any {
                        break;
                    }
                }
                any
            }
            Check::Rule(_) if references >= MAX_REFERENCES || self.followed.get() >= MAX_FOLLOWED => {
                return Err(Circle);
            }
            Check::Rule(name) => {
                self.followed.set(self.followed.get() + 1);
                match self.rules.referred(name) {
                    Some(check) => self.holds(check, references + 1, follow)?,
                    None => false,
                }
            }
            Check::Role(name) => {
                let has = |name: &str| self.identity.roles.iter().any(|role| role == name);
                match name.constant() {
                    Some(name) => has(name),
                    None => name.fill(self.target).is_some_and(|name| has(&name.to_lowercase())),
                }
            }
            Check::Compare(left, right) => match left {
                Left::Constant(_, constant) => right.fits(self.target, constant, true),
                // Nobody's project is not the project of what belongs to nobody.
                Left::Credential(name) => match credentials::find(self.identity, name) {
                    Credential::Unknown => false,
                    Credential::Nothing => right.fits(self.target, "None", false),
                    Credential::Text(text) => right.fits(self.target, text, false),
                    Credential::Texts(texts) => texts.iter().any(|text| right.fits(self.target, text, false)),
                },
            },
        };
        follow.leave(place, holds);
        Ok(holds)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use crate::{
        context::{Identity, Scope},
        policy::{Policy, Target, Value},
    };

    fn who(project: Option<&str>, roles: &[&str]) -> Identity {
        let roles = roles.iter().map(|role| (*role).to_owned()).collect();
        Identity { user_id: Some("u".to_owned()), project_id: project.map(str::to_owned), roles, ..Identity::default() }
    }

    fn image<'t>(owner: Option<&'t str>, visibility: &'t str) -> Target<'t> {
        Target { owner, visibility: Some(visibility), ..Target::default() }
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
            // This rule is about none.
            assert!(Policy::defaults().is_admin(&admin), "{scope:?}");
        }
    }

    #[test]
    fn who_has_no_project_owns_nothing() {
        // oslo.policy compares the texts `None` and `None` here, and finds them equal.
        assert!(!Policy::defaults().allows(&who(None, &["member"]), "modify_image", &image(None, "shared")));
        let nobodys: BTreeMap<String, Value<'static>> = [("project_id".to_owned(), Value::Nothing)].into();
        let target = Target { attributes: Some(&nobodys), ..Target::default() };
        assert!(!Policy::defaults().allows(&who(None, &["member"]), "modify_image", &target));
        assert!(!Policy::defaults().allows(&who(Some("None"), &["member"]), "modify_image", &target));
    }

    #[test]
    fn an_unknown_rule_lets_nobody() {
        assert!(!Policy::defaults().allows(&who(None, &["admin"]), "no_such_rule", &Target::default()));
    }
}
