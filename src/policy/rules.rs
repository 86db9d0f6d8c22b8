//! The rules in force: Glance's default rules, overridden by the operator's files.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    fmt,
    path::Path,
    sync::Arc,
};

use super::{
    defaults::{self, Default},
    file::FileRule,
    parse::{self, Check},
};
use crate::config::OsloPolicy;

/// The maximum length of a chain of references between rules. A longer one is taken for a cycle.
pub(super) const MAX_REFERENCES: usize = 64;

/// Where a rule is defined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Glance's default.
    Default,
    /// Glance's default, or the deprecated default.
    OldDefault,
    /// A file, and the line in it, counted from 1.
    File(Arc<Path>, usize),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::OldDefault => f.write_str("default, or the deprecated default (enforce_new_defaults = false)"),
            Self::File(path, line) => write!(f, "{}:{line}", path.display()),
        }
    }
}

/// A rule in force.
#[derive(Debug, Clone)]
pub(super) struct Rule {
    pub(super) check: Check,
    /// The rule as it is written.
    pub(super) text: String,
    pub(super) origin: Origin,
    /// Whether the rule denies tokens that are not scoped to a project.
    pub(super) for_projects: bool,
}

/// The rules in force.
#[derive(Debug)]
pub(super) struct Rules {
    rules: HashMap<String, Rule>,
    /// The names of the rules: Glance's in Glance's order, then the operator's own.
    names: Vec<String>,
    /// The rule that is evaluated in place of an undefined one that another rule refers to.
    default_rule: String,
    /// The attributes of the target that rules refer to.
    attributes: BTreeSet<String>,
}

impl Rules {
    /// Combines Glance's default rules with those of the files. Also returns warnings for the operator.
    ///
    /// # Errors
    /// If a default rule cannot be parsed, which is a bug in Glimpse.
    pub(super) fn new(
        file_rules: Vec<FileRule>,
        options: &OsloPolicy,
        used_elsewhere: &BTreeSet<String>,
    ) -> Result<(Self, Vec<String>), String> {
        let mut warnings = Vec::new();
        let mut rules = Self {
            rules: HashMap::new(),
            names: Vec::new(),
            default_rule: options.policy_default_rule.clone(),
            attributes: BTreeSet::new(),
        };
        let mut from_files: HashMap<String, Rule> = HashMap::new();
        let mut own = Vec::new();
        for FileRule { name, text, check, path, line } in file_rules {
            let default = defaults::find(&name);
            let origin = Origin::File(path, line);
            if let Some(Default { removal: Some(why), .. }) = default {
                warnings.push(format!("{origin}: policy rule {name:?} is deprecated: {why}"));
            }
            let rule = Rule { check, text, origin, for_projects: default.is_some_and(|default| default.for_projects) };
            if from_files.insert(name.clone(), rule).is_none() && default.is_none() {
                own.push(name);
            }
        }
        for default in defaults::RULES {
            let rule = match from_files.remove(default.name) {
                Some(rule) => rule,
                None => build_default(default, options.enforce_new_defaults)?,
            };
            rules.names.push(default.name.to_owned());
            rules.rules.insert(default.name.to_owned(), rule);
        }
        rules.names.extend(own);
        rules.rules.extend(from_files);
        warnings.extend(rules.warnings(used_elsewhere));
        let mut attributes = BTreeSet::new();
        for rule in rules.rules.values() {
            each_attribute(&rule.check, &mut |name| {
                attributes.insert(name.to_owned());
            });
        }
        rules.attributes = attributes;
        Ok((rules, warnings))
    }

    /// The attributes of the target that rules refer to, each once.
    pub(super) fn attributes(&self) -> impl Iterator<Item = &str> {
        self.attributes.iter().map(String::as_str)
    }

    /// The rule of this name.
    pub(super) fn get(&self, name: &str) -> Option<&Rule> {
        self.rules.get(name)
    }

    /// The check of a rule that another rule refers to, or that of the default rule if there is no rule of this name.
    pub(super) fn resolve(&self, name: &str) -> Option<&Check> {
        self.rules.get(name).or_else(|| self.rules.get(&self.default_rule)).map(|rule| &rule.check)
    }

    /// The name of the rule that is evaluated in place of undefined ones, if it is defined itself.
    pub(super) fn default_rule(&self) -> Option<&str> {
        self.rules.contains_key(&self.default_rule).then_some(self.default_rule.as_str())
    }

    /// All rules with their names.
    pub(super) fn all(&self) -> impl Iterator<Item = (&str, &Rule)> {
        self.names.iter().filter_map(|name| Some((name.as_str(), self.rules.get(name)?)))
    }

    /// The name of the most similar rule, if it is similar enough to be what the operator meant.
    pub(super) fn nearest(&self, name: &str) -> Option<&str> {
        let distance = |other: &&String| strsim::damerau_levenshtein(other, name);
        let others = self.names.iter().filter(|other| other.as_str() != name);
        let nearest = others.min_by_key(distance).filter(|other| distance(other) <= Ord::max(2, name.len() / 4));
        nearest.map(String::as_str)
    }

    fn warnings(&self, used_elsewhere: &BTreeSet<String>) -> Vec<String> {
        let mut warnings = Vec::new();
        let mut used: HashSet<&str> = HashSet::from([self.default_rule.as_str()]);
        used.extend(used_elsewhere.iter().map(String::as_str));
        for (name, rule) in self.all() {
            let mut undefined = Vec::new();
            each_reference(&rule.check, &mut |referred| {
                used.insert(referred);
                if !self.rules.contains_key(referred) && !undefined.contains(&referred) {
                    undefined.push(referred);
                }
            });
            for referred in undefined {
                let instead = match (self.default_rule(), self.resolve(referred)) {
                    (Some(default), Some(Check::Always)) => format!("{default:?} is used instead, and allows everyone"),
                    (Some(default), _) => format!("{default:?} is used instead"),
                    (None, _) => "it denies everyone".to_owned(),
                };
                let hint = self.suggestion(referred);
                warnings.push(format!(
                    "{}: policy rule {name:?} refers to {referred:?}, which is not defined: {instead}{hint}",
                    rule.origin
                ));
            }
        }
        for (name, rule) in self.all() {
            if self.is_cyclic(name) {
                let origin = &rule.origin;
                warnings.push(format!("{origin}: policy rule {name:?} refers to itself, and denies where it does"));
            }
            if defaults::find(name).is_none() && !used.contains(name) {
                let hint = self.suggestion(name);
                warnings.push(format!(
                    "{}: policy rule {name:?} has no effect: Glance has no such rule, and no rule refers to it{hint}",
                    rule.origin
                ));
            }
        }
        warnings
    }

    /// A question to append to a message about an unknown rule; empty if no rule has a similar name.
    pub(super) fn suggestion(&self, name: &str) -> String {
        self.nearest(name).map(|near| format!("; was {near:?} meant?")).unwrap_or_default()
    }

    /// Whether a rule refers to itself, or has a chain of references so long that its evaluation treats it as a cycle.
    fn is_cyclic(&self, name: &str) -> bool {
        let mut seen: HashSet<&str> = HashSet::new();
        let mut reached = vec![name];
        for _ in 0..MAX_REFERENCES {
            let mut next = Vec::new();
            for name in reached {
                if let Some(check) = self.resolve(name) {
                    each_reference(check, &mut |referred| {
                        if seen.insert(referred) {
                            next.push(referred);
                        }
                    });
                }
            }
            reached = next;
        }
        seen.contains(name) || !reached.is_empty()
    }
}

/// Calls `visit` with the name of each rule that a check refers to.
fn each_reference<'c>(check: &'c Check, visit: &mut impl FnMut(&'c str)) {
    match check {
        Check::Rule(name) => visit(name),
        Check::Not(check) => each_reference(check, visit),
        Check::All(checks) | Check::Any(checks) => checks.iter().for_each(|check| each_reference(check, visit)),
        Check::Always | Check::Never | Check::Role(_) | Check::Compare(..) => {}
    }
}

/// Calls `visit` with each attribute that a check refers to.
fn each_attribute(check: &Check, visit: &mut impl FnMut(&str)) {
    match check {
        Check::Not(check) => each_attribute(check, visit),
        Check::All(checks) | Check::Any(checks) => checks.iter().for_each(|check| each_attribute(check, visit)),
        Check::Role(template) | Check::Compare(_, template) => template.attributes().for_each(visit),
        Check::Always | Check::Never | Check::Rule(_) => {}
    }
}

/// The rule of a default. Unless `only_new`, the deprecated default also allows an action.
fn build_default(default: &Default, only_new: bool) -> Result<Rule, String> {
    let parse =
        |text: &str| parse::parse_rule(text).map_err(|error| format!("default policy rule {}: {error}", default.name));
    let new = parse(default.text)?;
    let for_projects = default.for_projects;
    Ok(match default.before.filter(|before| !only_new && *before != default.text) {
        None => Rule { check: new, text: default.text.to_owned(), origin: Origin::Default, for_projects },
        Some(before) => {
            let check = Check::Any(vec![new, parse(before)?]);
            Rule { text: check.to_string(), check, origin: Origin::OldDefault, for_projects }
        }
    })
}
