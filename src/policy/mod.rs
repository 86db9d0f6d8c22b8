//! Decides what a caller is allowed to do: oslo.policy's rules, with Glance's defaults and the operator's files.
//!
//! A rule is looked up by name and evaluated for the caller's credentials and a target, which is the image, or the image to be
//! created. A rule allows an action only if it evaluates to true. A rule that cannot be evaluated, for example because the target
//! lacks an attribute, denies.
//!
//! When a file changes, all rules are replaced at once, so a request never sees half of a change.

mod check;
mod credentials;
mod defaults;
mod file;
mod left;
mod parse;
pub(crate) mod protections;
mod rules;
mod target;
mod template;
mod trace;

use std::{
    collections::BTreeSet,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use arc_swap::ArcSwap;

use self::{check::Evaluation, file::Files, protections::Protections, rules::Rules, trace::Trace};
pub(crate) use self::{
    defaults::rule,
    file::PolicyError,
    rules::Origin,
    target::{AttributeValue, Attributes, Target},
};
use crate::{
    config::{Config, OsloPolicy},
    context::{Identity, Scope},
};

/// The maximum number of lines of an explanation if the rules form a cycle.
const MAX_CYCLE_LINES: usize = 8;

/// The policy in force.
pub(crate) struct Policy {
    rules: ArcSwap<Rules>,
    options: OsloPolicy,
    /// The directories in which relative names are searched for.
    folders: Vec<PathBuf>,
    /// The rules that property protections refer to.
    used_elsewhere: BTreeSet<String>,
    last_scan: Mutex<Scan>,
}

/// The result of the last scan of the policy files.
struct Scan {
    /// The files that were loaded, or rejected because of an error.
    files: Files,
    /// The path of `policy_file`, if it ever existed. If it is removed later, the rules stay in force.
    main: Option<PathBuf>,
}

/// A rule in force, as `glimpse policy list` prints it.
pub(crate) struct RuleInForce {
    /// The name of the rule.
    pub(crate) name: String,
    /// The rule as it is written.
    pub(crate) text: String,
    /// Where the rule is defined.
    pub(crate) origin: Origin,
}

/// The result of a rule, as `glimpse policy check` prints it.
pub(crate) struct Verdict {
    /// Whether the action is allowed.
    pub(crate) allowed: bool,
    /// The explanation, line by line.
    pub(crate) reason: Vec<String>,
}

impl Policy {
    /// Loads the policy from its files. Also returns warnings for the operator, which take the rules into account that the property
    /// protections refer to.
    ///
    /// # Errors
    /// The first file or rule that is invalid.
    pub(crate) fn load(config: &Config, protections: Option<&Protections>) -> Result<(Self, Vec<String>), PolicyError> {
        let (options, folders) = (config.oslo_policy.clone(), config.folders.clone());
        let files = Files::scan(&options, &folders)?;
        let used_elsewhere = protections.map(Protections::rule_names).unwrap_or_default();
        let (rules, mut warnings) = load_rules(&files, &options, &used_elsewhere)?;
        if files.main.is_none() && options.policy_file != OsloPolicy::default().policy_file {
            let name = &options.policy_file;
            warnings.push(format!("[oslo_policy] policy_file: there is no {name}; Glance's defaults are in force"));
        }
        if !options.enforce_scope {
            warnings.push("[oslo_policy] enforce_scope = false has no effect, as in Glance 33".to_owned());
        }
        let last_scan = Mutex::new(Scan { main: files.main.clone(), files });
        Ok((Self { rules: ArcSwap::from_pointee(rules), options, folders, used_elsewhere, last_scan }, warnings))
    }

    /// A policy of Glance's default rules.
    #[cfg(test)]
    pub(crate) fn defaults() -> Self {
        Self::load(&Config::default(), None).unwrap_or_else(|error| panic!("{error}")).0
    }

    /// Loads the files again if they changed. If they are invalid, the rules stay in force and one error is logged. If nothing
    /// changed, this costs a few system calls.
    pub(crate) fn refresh(&self) {
        self.update(false);
    }

    /// Loads the files again, whether they changed or not.
    pub(crate) fn reload(&self) {
        self.update(true);
    }

    fn update(&self, even_if_unchanged: bool) {
        let mut scan = self.last_scan.lock().unwrap_or_else(PoisonError::into_inner);
        let files = match Files::scan(&self.options, &self.folders) {
            Ok(files) => files,
            // Probably a file that was removed between two system calls. The next scan will show it.
            Err(error) if !even_if_unchanged => return tracing::debug!(%error, "policy files cannot be inspected"),
            Err(error) => return tracing::error!(%error, "policy cannot be loaded; the previous rules stay in force"),
        };
        if scan.files == files && !even_if_unchanged {
            return;
        }
        scan.files = files;
        match (&scan.main, &scan.files.main) {
            (Some(path), None) => {
                let policy_file = path.display();
                return tracing::error!(%policy_file, "policy file was removed; the previous rules stay in force");
            }
            (_, main) => scan.main = main.clone(),
        }
        match load_rules(&scan.files, &self.options, &self.used_elsewhere) {
            Ok((rules, warnings)) => {
                for warning in warnings {
                    tracing::warn!("{warning}");
                }
                self.rules.store(Arc::new(rules));
                tracing::info!(files = scan.files.paths().count(), "policy was reloaded");
            }
            Err(error) => tracing::error!(%error, "policy cannot be loaded; the previous rules stay in force"),
        }
    }

    /// The policy files, in order.
    pub(crate) fn paths(&self) -> Vec<PathBuf> {
        let scan = self.last_scan.lock().unwrap_or_else(PoisonError::into_inner);
        scan.files.paths().map(std::path::Path::to_owned).collect()
    }

    /// Whether the caller is an admin, to whom every image is visible.
    pub(crate) fn is_admin(&self, identity: &Identity) -> bool {
        self.allows(identity, "context_is_admin", &Target { attributes: Some(identity), ..Target::default() })
    }

    /// Whether the rule allows this caller to act on this target. An undefined rule denies.
    pub(crate) fn allows(&self, identity: &Identity, rule: &str, target: &Target<'_>) -> bool {
        let rules = self.rules.load();
        let Some(rule) = rules.get(rule) else { return false };
        let evaluation = Evaluation::new(&rules, identity, target);
        is_in_scope(identity, rule) && evaluation.holds(&rule.check, 0, &mut ()).unwrap_or(false)
    }

    /// Whether a rule in force refers to an attribute of the target whose name satisfies the predicate.
    pub(crate) fn names_attribute(&self, is_such: impl Fn(&str) -> bool) -> bool {
        self.rules.load().attributes().any(is_such)
    }

    /// Evaluates a rule as [`Self::allows`] does, and explains the result; `None` if there is no such rule.
    pub(crate) fn explain(&self, identity: &Identity, rule: &str, target: &Target<'_>) -> Option<Verdict> {
        let rules = self.rules.load();
        let rule = rules.get(rule)?;
        if !is_in_scope(identity, rule) {
            let reason = vec!["no  the rule denies tokens that are not scoped to a project".to_owned()];
            return Some(Verdict { allowed: false, reason });
        }
        let mut trace = Trace::default();
        let verdict = Evaluation::new(&rules, identity, target).holds(&rule.check, 0, &mut trace);
        let mut reason: Vec<String> = trace.lines().collect();
        if verdict.is_err() {
            reason.truncate(MAX_CYCLE_LINES);
            reason.push("no  the rules refer to each other in a cycle".to_owned());
        }
        Some(Verdict { allowed: verdict.unwrap_or(false), reason })
    }

    /// A warning for the operator if there is no rule of this name, to which the option `place` refers.
    pub(crate) fn warn_if_undefined(&self, place: &str, name: &str) -> Option<String> {
        let rules = self.rules.load();
        if rules.get(name).is_some() {
            return None;
        }
        let hint = rules.suggestion(name);
        Some(format!("{place} refers to the policy rule {name:?}, which is not defined: it denies everyone{hint}"))
    }

    /// The name of the most similar rule, if it is similar enough to be what the operator meant.
    pub(crate) fn nearest(&self, name: &str) -> Option<String> {
        self.rules.load().nearest(name).map(str::to_owned)
    }

    /// All rules in force: Glance's in Glance's order, then the operator's own.
    pub(crate) fn rules(&self) -> Vec<RuleInForce> {
        let rules = self.rules.load();
        let in_force = rules.all().map(|(name, rule)| RuleInForce {
            name: name.to_owned(),
            text: rule.text.clone(),
            origin: rule.origin.clone(),
        });
        in_force.collect()
    }
}

/// Whether the scope of the caller's token suits the rule. A rule for projects denies tokens that are scoped to a domain or to the
/// system.
fn is_in_scope(identity: &Identity, rule: &rules::Rule) -> bool {
    !rule.for_projects || matches!(identity.scope, Scope::Project | Scope::None)
}

fn load_rules(
    files: &Files,
    options: &OsloPolicy,
    used_elsewhere: &BTreeSet<String>,
) -> Result<(Rules, Vec<String>), PolicyError> {
    let (file_rules, mut warnings) = files.read_rules()?;
    let (rules, more) = Rules::new(file_rules, options, used_elsewhere).map_err(PolicyError::internal)?;
    warnings.extend(more);
    Ok((rules, warnings))
}
