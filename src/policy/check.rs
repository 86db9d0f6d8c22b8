//! Evaluates the tree of a rule for a caller and a target.

use std::cell::Cell;

use super::{
    credentials::{self, Credential},
    left::Left,
    parse::Check,
    rules::{MAX_REFERENCES, Rules},
    target::Target,
};
use crate::context::Identity;

/// The maximum number of references that one evaluation follows. It bounds rules whose references multiply at each level.
const MAX_FOLLOWED: u32 = 10_000;

/// The rules refer to themselves, or to too many others, so the evaluation has no result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cycle;

/// Records the steps of an evaluation, for `glimpse policy check`. Requests use `()`, which records nothing.
pub(super) trait Recorder {
    /// The evaluation of a check begins. The returned index is passed to [`Self::leave`].
    fn enter(&mut self, evaluation: &Evaluation<'_>, check: &Check) -> usize;
    /// The evaluation of the check ended with this result.
    fn leave(&mut self, index: usize, holds: bool);
}

impl Recorder for () {
    fn enter(&mut self, _evaluation: &Evaluation<'_>, _check: &Check) -> usize {
        0
    }

    fn leave(&mut self, _index: usize, _holds: bool) {}
}

/// One evaluation of the policy: the rules, the caller and the target.
pub(super) struct Evaluation<'e> {
    pub(super) rules: &'e Rules,
    pub(super) identity: &'e Identity,
    pub(super) target: &'e Target<'e>,
    followed: Cell<u32>,
}

impl<'e> Evaluation<'e> {
    pub(super) fn new(rules: &'e Rules, identity: &'e Identity, target: &'e Target<'e>) -> Self {
        Self { rules, identity, target, followed: Cell::new(0) }
    }

    /// Evaluates a check that `references` references lead to. Allocates nothing, unless a role's name refers to an attribute.
    ///
    /// # Errors
    /// [`Cycle`]. The caller denies the action, no matter how deep in the rule the cycle is, and behind how many `not`.
    pub(super) fn holds(&self, check: &Check, references: usize, recorder: &mut impl Recorder) -> Result<bool, Cycle> {
        let index = recorder.enter(self, check);
        let holds = match check {
            Check::Always => true,
            Check::Never => false,
            Check::Not(check) => !self.holds(check, references, recorder)?,
            Check::All(checks) => {
                let mut all = true;
                for check in checks {
                    all = self.holds(check, references, recorder)?;
                    if !all {
                        break;
                    }
                }
                all
            }
            Check::Any(checks) => {
                let mut any = false;
                for check in checks {
                    any = self.holds(check, references, recorder)?;
                    if any {
                        break;
                    }
                }
                any
            }
            Check::Rule(_) if references >= MAX_REFERENCES || self.followed.get() >= MAX_FOLLOWED => {
                return Err(Cycle);
            }
            Check::Rule(name) => {
                self.followed.set(self.followed.get() + 1);
                match self.rules.resolve(name) {
                    Some(check) => self.holds(check, references + 1, recorder)?,
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
                Left::Constant(_, constant) => right.matches(self.target, constant, true),
                // A caller without a project does not own an image without an owner.
                Left::Credential(name) => match credentials::find(self.identity, name) {
                    Credential::Unknown => false,
                    Credential::Nothing => right.matches(self.target, "None", false),
                    Credential::Text(text) => right.matches(self.target, text, false),
                    Credential::Texts(texts) => texts.iter().any(|text| right.matches(self.target, text, false)),
                },
            },
        };
        recorder.leave(index, holds);
        Ok(holds)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use crate::{
        context::{Identity, Scope},
        policy::{AttributeValue, Policy, Target},
    };

    fn caller(project: Option<&str>, roles: &[&str]) -> Identity {
        let roles = roles.iter().map(|role| (*role).to_owned()).collect();
        Identity { user_id: Some("u".to_owned()), project_id: project.map(str::to_owned), roles, ..Identity::default() }
    }

    fn image<'t>(owner: Option<&'t str>, visibility: &'t str) -> Target<'t> {
        Target { owner, visibility: Some(visibility), ..Target::default() }
    }

    #[test]
    fn glances_default_rules_hold_for_personas() {
        let policy = Policy::defaults();
        let mine = image(Some("p"), "private");
        assert!(policy.allows(&caller(Some("p"), &["member"]), "modify_image", &mine));
        assert!(!policy.allows(&caller(Some("p"), &["reader"]), "modify_image", &mine));
        assert!(!policy.allows(&caller(Some("q"), &["member"]), "modify_image", &mine));
        assert!(policy.allows(&caller(None, &["admin"]), "modify_image", &mine));
        assert!(policy.allows(&caller(Some("q"), &["reader"]), "get_image", &image(Some("p"), "public")));
        assert!(!policy.allows(&caller(Some("q"), &["reader"]), "get_image", &mine));
        assert!(!policy.allows(&caller(Some("p"), &["member"]), "publicize_image", &mine));
    }

    #[test]
    fn rules_for_projects_deny_domain_and_system_tokens() {
        for scope in [Scope::Domain, Scope::System] {
            let admin = Identity { scope, ..caller(None, &["admin"]) };
            assert!(!Policy::defaults().allows(&admin, "modify_image", &image(Some("p"), "private")), "{scope:?}");
            // This rule is not limited to projects.
            assert!(Policy::defaults().is_admin(&admin), "{scope:?}");
        }
    }

    #[test]
    fn a_caller_without_a_project_owns_nothing() {
        // oslo.policy compares the strings `None` and `None` here, and finds them equal.
        assert!(!Policy::defaults().allows(&caller(None, &["member"]), "modify_image", &image(None, "shared")));
        let no_owner: BTreeMap<String, AttributeValue<'static>> =
            [("project_id".to_owned(), AttributeValue::Nothing)].into();
        let target = Target { attributes: Some(&no_owner), ..Target::default() };
        assert!(!Policy::defaults().allows(&caller(None, &["member"]), "modify_image", &target));
        assert!(!Policy::defaults().allows(&caller(Some("None"), &["member"]), "modify_image", &target));
    }

    #[test]
    fn an_undefined_rule_denies_everyone() {
        assert!(!Policy::defaults().allows(&caller(None, &["admin"]), "no_such_rule", &Target::default()));
    }
}
