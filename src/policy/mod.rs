//! What a caller may do: oslo.policy's rules, with Glance's defaults and the operator's files.
//!
//! A rule is looked up by name, judged on the caller's credentials and on a target (the image, or the image to be).
//! Only a real denial is a denial: a rule that cannot be judged, like one that needs an attribute the target lacks, is
//! false as well, never true.
//!
//! The rules in force are exchanged as a whole, when a file changed: a request never sees half of a change.

mod check;
mod credentials;
mod defaults;
mod file;
mod follow;
mod left;
mod parse;
pub(crate) mod protections;
mod rules;
mod target;
mod template;

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use arc_swap::ArcSwap;

use self::{check::Judge, file::Files, follow::Followed, rules::Rules};
pub(crate) use self::{
    defaults::rule,
    file::PolicyError,
    rules::Origin,
    target::{Attributes, Target, Value},
};
use crate::{
    config::{Config, OsloPolicy},
    context::{Identity, Scope},
};

/// Lines of a reason that goes round in a circle.
const SHOWN_OF_A_CIRCLE: usize = 8;

/// The policy in force.
pub(crate) struct Policy {
    rules: ArcSwap<Rules>,
    options: OsloPolicy,
    /// Where relative names are looked for.
    folders: Vec<PathBuf>,
    looked: Mutex<Looked>,
}

/// What the last look at the files saw.
struct Looked {
    /// Those that were read, or refused.
    files: Files,
    /// `policy_file`, once there was one: it is missed when it is gone.
    main: Option<PathBuf>,
}

/// A rule in force, for people.
pub(crate) struct Shown {
    /// Its name.
    pub(crate) name: String,
    /// As it was written.
    pub(crate) text: String,
    /// Where it comes from.
    pub(crate) origin: Origin,
}

/// A verdict, for people.
pub(crate) struct Verdict {
    /// Whether it is allowed.
    pub(crate) allowed: bool,
    /// How that came about, line by line.
    pub(crate) reason: Vec<String>,
}

impl Policy {
    /// Reads the files; with the policy comes what the operator should know.
    ///
    /// # Errors
    /// The first file or rule that is wrong.
    pub(crate) fn load(config: &Config) -> Result<(Self, Vec<String>), PolicyError> {
        let (options, folders) = (config.oslo_policy.clone(), config.folders.clone());
        let files = Files::look(&options, &folders)?;
        let (rules, mut warnings) = read(&files, &options)?;
        if files.main.is_none() && options.policy_file != OsloPolicy::default().policy_file {
            let name = &options.policy_file;
            warnings.push(format!("[oslo_policy] policy_file: there is no {name}; Glance's defaults are in force"));
        }
        if !options.enforce_scope {
            warnings.push("[oslo_policy] enforce_scope = false does nothing: scopes count, as in Glance 33".to_owned());
        }
        let looked = Mutex::new(Looked { main: files.main.clone(), files });
        Ok((Self { rules: ArcSwap::from_pointee(rules), options, folders, looked }, warnings))
    }

    /// Glance's default rules.
    #[cfg(test)]
    pub(crate) fn defaults() -> Self {
        Self::load(&Config::default()).unwrap_or_else(|error| panic!("{error}")).0
    }

    /// Takes up the files if they changed; what cannot be read leaves the rules as they are, and is told once. A few calls of
    /// the file system.
    pub(crate) fn refresh(&self) {
        self.take_up(false);
    }

    /// Reads the files in any case.
    pub(crate) fn reload(&self) {
        self.take_up(true);
    }

    fn take_up(&self, in_any_case: bool) {
        let mut looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
        let files = match Files::look(&self.options, &self.folders) {
            Ok(files) => files,
            // A file that went away between two calls; the next look tells.
            Err(error) if !in_any_case => return tracing::debug!(%error, "policy files cannot be looked at"),
            Err(error) => return tracing::error!(%error, "the policy cannot be read; the old rules stay"),
        };
        if looked.files == files && !in_any_case {
            return;
        }
        looked.files = files;
        match (&looked.main, &looked.files.main) {
            (Some(path), None) => {
                let policy_file = path.display();
                return tracing::error!(%policy_file, "the policy file is gone; the old rules stay");
            }
            (_, main) => looked.main = main.clone(),
        }
        match read(&looked.files, &self.options) {
            Ok((rules, warnings)) => {
                for warning in warnings {
                    tracing::warn!("{warning}");
                }
                self.rules.store(Arc::new(rules));
                tracing::info!(files = looked.files.paths().count(), "the policy was read again");
            }
            Err(error) => tracing::error!(%error, "the policy cannot be read; the old rules stay"),
        }
    }

    /// The files that were read, in order.
    pub(crate) fn paths(&self) -> Vec<PathBuf> {
        let looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
        looked.files.paths().map(std::path::Path::to_owned).collect()
    }

    /// Whether the caller is an admin, for whom every image is visible.
    pub(crate) fn is_admin(&self, identity: &Identity) -> bool {
        self.allows(identity, "context_is_admin", &Target { attributes: Some(identity), ..Target::default() })
    }

    /// Whether the rule lets this caller do it to this target. A rule that nobody defined lets nobody.
    pub(crate) fn allows(&self, identity: &Identity, rule: &str, target: &Target<'_>) -> bool {
        let rules = self.rules.load();
        let Some(rule) = rules.get(rule) else { return false };
        let judge = Judge::new(&rules, identity, target);
        is_in_scope(identity, rule) && judge.holds(&rule.check, 0, &mut ()).unwrap_or(false)
    }

    /// Whether a rule in force asks for an attribute of the target of such a name.
    pub(crate) fn names_attribute(&self, is_such: impl Fn(&str) -> bool) -> bool {
        self.rules.load().attributes().any(is_such)
    }

    /// The same, with the reason; `None` where there is no such rule.
    pub(crate) fn explain(&self, identity: &Identity, rule: &str, target: &Target<'_>) -> Option<Verdict> {
        let rules = self.rules.load();
        let rule = rules.get(rule)?;
        if !is_in_scope(identity, rule) {
            let reason = vec!["no  the rule is for tokens that are for a project".to_owned()];
            return Some(Verdict { allowed: false, reason });
        }
        let mut followed = Followed::default();
        let verdict = Judge::new(&rules, identity, target).holds(&rule.check, 0, &mut followed);
        let mut reason: Vec<String> = followed.lines().collect();
        if verdict.is_err() {
            reason.truncate(SHOWN_OF_A_CIRCLE);
            reason.push("no  the rules lead back to themselves".to_owned());
        }
        Some(Verdict { allowed: verdict.unwrap_or(false), reason })
    }

    /// What to tell of a rule that `place` names, where there is none by this name.
    pub(crate) fn undefined(&self, place: &str, name: &str) -> Option<String> {
        let rules = self.rules.load();
        if rules.get(name).is_some() {
            return None;
        }
        let hint = rules.meant(name);
        Some(format!("{place} refers to the policy rule {name:?}, which is not defined: it lets nobody{hint}"))
    }

    /// The rule's name that was meant by one that there is not, if any is near.
    pub(crate) fn nearest(&self, name: &str) -> Option<String> {
        self.rules.load().nearest(name).map(str::to_owned)
    }

    /// Every rule in force: Glance's in Glance's order, then the operator's own.
    pub(crate) fn shown(&self) -> Vec<Shown> {
        let rules = self.rules.load();
        let shown = rules.all().map(|(name, rule)| Shown {
            name: name.to_owned(),
            text: rule.text.clone(),
            origin: rule.origin.clone(),
        });
        shown.collect()
    }
}

/// Whether the caller's token is of a kind that the rule is about: a token for a domain or for the whole cloud is none for
/// projects.
fn is_in_scope(identity: &Identity, rule: &rules::Rule) -> bool {
    !rule.for_projects || matches!(identity.scope, Scope::Project | Scope::None)
}

fn read(files: &Files, options: &OsloPolicy) -> Result<(Rules, Vec<String>), PolicyError> {
    let (written, mut warnings) = files.read()?;
    let (rules, more) = Rules::new(written, options).map_err(PolicyError::internal)?;
    warnings.extend(more);
    Ok((rules, warnings))
}
