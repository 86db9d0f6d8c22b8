//! The rules in force: Glance's, with what the operator's files say in their place.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    fmt,
    path::Path,
    sync::Arc,
};

use super::{
    check::MAX_REFERENCES,
    defaults::{self, Default},
    file::Written,
    parse::{self, Check},
};
use crate::config::OsloPolicy;

/// Where a rule comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Glance's default.
    Default,
    /// Glance's default, or what was the default before.
    OldDefault,
    /// A file and the line in it, from 1.
    File(Arc<Path>, usize),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::OldDefault => f.write_str("default, or the default before (enforce_new_defaults = false)"),
            Self::File(path, line) => write!(f, "{}:{line}", path.display()),
        }
    }
}

/// A rule in force.
#[derive(Debug, Clone)]
pub(super) struct Rule {
    pub(super) check: Check,
    /// As it was written.
    pub(super) text: String,
    pub(super) origin: Origin,
    /// Whether it is only for tokens that are for a project.
    pub(super) for_projects: bool,
}

/// The rules in force.
#[derive(Debug)]
pub(super) struct Rules {
    rules: HashMap<String, Rule>,
    /// Glance's in Glance's order, then the operator's own.
    names: Vec<String>,
    /// The rule that stands in for one that is referred to and not defined.
    default_rule: String,
    /// The attributes that rules ask for.
    attributes: BTreeSet<String>,
}

impl Rules {
    /// Puts the rules together; with them comes what the operator should know.
    ///
    /// # Errors
    /// A default that cannot be read, which is a mistake in this program.
    pub(super) fn new(files: Vec<Written>, options: &OsloPolicy) -> Result<(Self, Vec<String>), String> {
        let mut warnings = Vec::new();
        let mut rules = Self {
            rules: HashMap::new(),
            names: Vec::new(),
            default_rule: options.policy_default_rule.clone(),
            attributes: BTreeSet::new(),
        };
        let mut written: HashMap<String, Rule> = HashMap::new();
        let mut own = Vec::new();
        for Written { name, text, check, path, line } in files {
            let default = defaults::find(&name);
            let origin = Origin::File(path, line);
            if let Some(Default { removal: Some(why), .. }) = default {
                warnings.push(format!("{origin}: policy rule {name:?} will go: {why}"));
            }
            let rule = Rule { check, text, origin, for_projects: default.is_some_and(|default| default.for_projects) };
            if written.insert(name.clone(), rule).is_none() && default.is_none() {
                own.push(name);
            }
        }
        for default in defaults::RULES {
            let rule = match written.remove(default.name) {
                Some(rule) => rule,
                None => in_code(default, options.enforce_new_defaults)?,
            };
            rules.names.push(default.name.to_owned());
            rules.rules.insert(default.name.to_owned(), rule);
        }
        rules.names.extend(own);
        rules.rules.extend(written);
        warnings.extend(rules.warnings());
        let mut attributes = BTreeSet::new();
        for rule in rules.rules.values() {
            each_attribute(&rule.check, &mut |name| {
                attributes.insert(name.to_owned());
            });
        }
        rules.attributes = attributes;
        Ok((rules, warnings))
    }

    /// The attributes that rules ask for, each once.
    pub(super) fn attributes(&self) -> impl Iterator<Item = &str> {
        self.attributes.iter().map(String::as_str)
    }

    /// A rule by its name.
    pub(super) fn get(&self, name: &str) -> Option<&Rule> {
        self.rules.get(name)
    }

    /// The check of a rule that another one refers to: the default rule's, where there is none by this name.
    pub(super) fn referred(&self, name: &str) -> Option<&Check> {
        self.rules.get(name).or_else(|| self.rules.get(&self.default_rule)).map(|rule| &rule.check)
    }

    /// The name of the rule that stands in for those that are not defined.
    pub(super) fn default_rule(&self) -> Option<&str> {
        self.rules.contains_key(&self.default_rule).then_some(self.default_rule.as_str())
    }

    /// Every rule, with its name.
    pub(super) fn all(&self) -> impl Iterator<Item = (&str, &Rule)> {
        self.names.iter().filter_map(|name| Some((name.as_str(), self.rules.get(name)?)))
    }

    /// The rule's name that was meant by one that there is not, if any is near.
    pub(super) fn nearest(&self, name: &str) -> Option<&str> {
        let apart = |other: &&String| strsim::damerau_levenshtein(other, name);
        let others = self.names.iter().filter(|other| other.as_str() != name);
        let near = others.min_by_key(apart).filter(|other| apart(other) <= Ord::max(2, name.len() / 4));
        near.map(String::as_str)
    }

    fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        let mut used: HashSet<&str> = HashSet::from([self.default_rule.as_str()]);
        for (name, rule) in self.all() {
            let mut undefined = Vec::new();
            each_reference(&rule.check, &mut |referred| {
                used.insert(referred);
                if !self.rules.contains_key(referred) && !undefined.contains(&referred) {
                    undefined.push(referred);
                }
            });
            for referred in undefined {
                let instead = match (self.default_rule(), self.referred(referred)) {
                    (Some(default), Some(Check::Always)) => format!("{default:?} stands in for it, and lets everybody"),
                    (Some(default), _) => format!("{default:?} stands in for it"),
                    (None, _) => "it lets nobody".to_owned(),
                };
                let hint = self.meant(referred);
                warnings.push(format!(
                    "{}: policy rule {name:?} refers to {referred:?}, which is not defined: {instead}{hint}",
                    rule.origin
                ));
            }
        }
        for (name, rule) in self.all() {
            if self.is_in_circle(name) {
                let origin = &rule.origin;
                warnings.push(format!("{origin}: policy rule {name:?} leads back to itself, and lets nobody there"));
            }
            if defaults::find(name).is_none() && !used.contains(name) {
                let hint = self.meant(name);
                warnings.push(format!(
                    "{}: policy rule {name:?} does nothing: it is none of Glance's, and no other refers to it{hint}",
                    rule.origin
                ));
            }
        }
        warnings
    }

    pub(super) fn meant(&self, name: &str) -> String {
        self.nearest(name).map(|near| format!("; was {near:?} meant?")).unwrap_or_default()
    }

    /// Whether a rule refers to itself, or through so many others that it is judged as if it did.
    fn is_in_circle(&self, name: &str) -> bool {
        let mut seen: HashSet<&str> = HashSet::new();
        let mut reached = vec![name];
        for _ in 0..MAX_REFERENCES {
            let mut next = Vec::new();
            for name in reached {
                if let Some(check) = self.referred(name) {
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

fn each_reference<'c>(check: &'c Check, tell: &mut impl FnMut(&'c str)) {
    match check {
        Check::Rule(name) => tell(name),
        Check::Not(check) => each_reference(check, tell),
        Check::All(checks) | Check::Any(checks) => checks.iter().for_each(|check| each_reference(check, tell)),
        Check::Always | Check::Never | Check::Role(_) | Check::Compare(..) => {}
    }
}

/// Tells the attributes that a check asks for.
fn each_attribute(check: &Check, tell: &mut impl FnMut(&str)) {
    match check {
        Check::Not(check) => each_attribute(check, tell),
        Check::All(checks) | Check::Any(checks) => checks.iter().for_each(|check| each_attribute(check, tell)),
        Check::Role(template) | Check::Compare(_, template) => template.attributes().for_each(tell),
        Check::Always | Check::Never | Check::Rule(_) => {}
    }
}

/// A default; where the operator wants it, what was the default before still lets in whom it let in.
fn in_code(default: &Default, only_new: bool) -> Result<Rule, String> {
    let read = |text: &str| parse::text(text).map_err(|error| format!("default policy rule {}: {error}", default.name));
    let new = read(default.text)?;
    let for_projects = default.for_projects;
    Ok(match default.before.filter(|before| !only_new && *before != default.text) {
        None => Rule { check: new, text: default.text.to_owned(), origin: Origin::Default, for_projects },
        Some(before) => {
            let check = Check::Any(vec![new, read(before)?]);
            Rule { text: check.to_string(), check, origin: Origin::OldDefault, for_projects }
        }
    })
}
