//! Property protections: which custom properties a caller may create, read, update and delete.
//!
//! An operator's file has a section for each kind of property: a pattern that is searched for in the property's name, and
//! for each operation the roles that may do it, or the rule of the policy that says so. The first section that matches
//! counts. With a file, a property that no section matches is nobody's; without one, everything is everybody's.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use fancy_regex::{Regex, RegexBuilder};

use super::{Policy, Target};
use crate::{
    config::RuleFormat,
    context::Context,
    error::{Error, Result},
};

/// What the service itself keeps in properties, which other rules see to; sections of this name do not count.
const OWN: &str = "os_glance";

/// What somebody does with a property.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    /// Gives an image a property that it did not have.
    Create,
    /// Sees it.
    Read,
    /// Gives it another value.
    Update,
    /// Takes it away.
    Delete,
}

/// Their names in the file, in the order of a [`Rule`]'s permissions.
const OPERATIONS: [(&str, Operation); 4] = [
    ("create", Operation::Create),
    ("read", Operation::Read),
    ("update", Operation::Update),
    ("delete", Operation::Delete),
];

/// Who may do something.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Permission {
    Nobody,
    Anybody,
    /// Who has one of these roles, in lower case.
    Roles(Vec<String>),
    /// Whom this rule of the policy lets.
    Rule(String),
}

struct Rule {
    pattern: Regex,
    permissions: [Permission; 4],
}

/// The protections in force.
pub(crate) struct Protections {
    /// `None` where nothing is protected.
    rules: Option<Vec<Rule>>,
}

/// Why a file of protections cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProtectionsError {
    /// It cannot be read.
    #[error("property protections {}: {source}", path.display())]
    Read {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It says something that cannot be.
    #[error("property protections {}:{line}: {message}", path.display())]
    Content {
        /// Which one.
        path: PathBuf,
        /// Where.
        line: usize,
        /// What, with the section.
        message: String,
    },
}

impl Protections {
    /// Whether there are any.
    pub(crate) fn are_in_force(&self) -> bool {
        self.rules.is_some()
    }

    /// Reads the file, if there is one.
    ///
    /// # Errors
    /// A file that cannot be read, or that says something that cannot be, with the line.
    pub(crate) fn load(path: Option<&Path>, format: RuleFormat) -> Result<Self, ProtectionsError> {
        let Some(path) = path else {
            return Ok(Self { rules: None });
        };
        let text =
            fs::read_to_string(path).map_err(|source| ProtectionsError::Read { path: path.to_owned(), source })?;
        let rules = rules(&text, format);
        let error = |fault: Fault| ProtectionsError::Content {
            path: path.to_owned(),
            line: fault.line,
            message: fault.message,
        };
        Ok(Self { rules: Some(rules.map_err(error)?) })
    }

    /// What the operator should know of the rules that the file names: those that nobody defined, each once.
    pub(crate) fn warnings(&self, policy: &Policy) -> Vec<String> {
        let permissions = self.rules.iter().flatten().flat_map(|rule| &rule.permissions);
        let names = permissions.filter_map(|permission| match permission {
            Permission::Rule(name) => Some(name.as_str()),
            Permission::Nobody | Permission::Anybody | Permission::Roles(_) => None,
        });
        let names: std::collections::BTreeSet<&str> = names.collect();
        names.into_iter().filter_map(|name| policy.undefined("property_protection_file", name)).collect()
    }

    /// Whether the caller may do this to a property of this name.
    pub(crate) fn may(&self, policy: &Policy, context: &Context, operation: Operation, name: &str) -> bool {
        let Some(rules) = &self.rules else {
            return true;
        };
        let mut permission = &Permission::Nobody;
        for rule in rules {
            match rule.pattern.is_match(name) {
                Ok(false) => continue,
                Ok(true) => permission = &rule.permissions[operation as usize],
                // A search that gives up lets nobody, rather than those of the next section.
                Err(_) => {}
            }
            break;
        }
        match permission {
            Permission::Nobody => false,
            Permission::Anybody => true,
            Permission::Roles(roles) => roles.iter().any(|role| context.identity.roles.contains(role)),
            Permission::Rule(rule) => policy.allows(&context.identity, rule, &Target::default()),
        }
    }

    /// As [`Self::may`], for who asks with an error in mind.
    ///
    /// # Errors
    /// `Forbidden`
    pub(crate) fn check(&self, policy: &Policy, context: &Context, operation: Operation, name: &str) -> Result<()> {
        if self.may(policy, context, operation, name) {
            return Ok(());
        }
        Err(Error::Forbidden(format!("Attribute '{name}' is reserved.")))
    }
}

/// Steps that a search may go back: the names are short, but clients choose them.
const MAX_BACKTRACKS: usize = 20_000;

fn pattern(text: &str) -> Result<Regex, fancy_regex::Error> {
    RegexBuilder::new(text).backtrack_limit(MAX_BACKTRACKS).build()
}

/// What is wrong in a file, and on which line.
#[derive(Debug, PartialEq, Eq)]
struct Fault {
    line: usize,
    message: String,
}

/// A section as it is written.
#[derive(Debug, PartialEq, Eq)]
struct Section {
    name: String,
    line: usize,
    /// Name in lower case, value, line.
    options: Vec<(String, String, usize)>,
}

fn rules(text: &str, format: RuleFormat) -> Result<Vec<Rule>, Fault> {
    let sections = sections(text)?;
    // Its values go for every section that does not have its own.
    let (defaults, sections): (Vec<Section>, Vec<Section>) =
        sections.into_iter().partition(|section| section.name == "DEFAULT");
    let own = Regex::new(OWN).map_err(|error| Fault { line: 0, message: error.to_string() })?;
    let mut rules = vec![Rule { pattern: own, permissions: [const { Permission::Anybody }; 4] }];
    for section in sections.iter().filter(|section| !section.name.starts_with(OWN)) {
        let fault = |line, what: String| Fault { line, message: format!("[{}] {what}", section.name) };
        let pattern =
            pattern(&section.name).map_err(|error| fault(section.line, format!("is not a pattern: {error}")))?;
        let mut permissions = [const { Permission::Nobody }; 4];
        for (name, operation) in OPERATIONS {
            let mut options = section.options.iter().chain(defaults.iter().flat_map(|section| &section.options));
            let (_, value, line) = options
                .find(|(option, ..)| option == name)
                .ok_or_else(|| fault(section.line, format!("does not say who may {name}")))?;
            permissions[operation as usize] =
                permission(value, format).map_err(|what| fault(*line, format!("{name}: {what}")))?;
        }
        rules.push(Rule { pattern, permissions });
    }
    Ok(rules)
}

fn permission(value: &str, format: RuleFormat) -> Result<Permission, &'static str> {
    let value = value.replace("%%", "\0");
    if value.contains('%') {
        return Err("a % is written %%");
    }
    let value = value.replace('\0', "%");
    let words: Vec<&str> = value.split(',').map(str::trim).collect();
    let (nobody, anybody) = (words.contains(&"!"), words.contains(&"@"));
    match format {
        _ if value.is_empty() => Ok(Permission::Nobody),
        RuleFormat::Policies if words.len() > 1 => Err("one rule of the policy is wanted"),
        RuleFormat::Roles if nobody && anybody => Err("@ and ! exclude each other"),
        _ if nobody => Ok(Permission::Nobody),
        _ if anybody => Ok(Permission::Anybody),
        RuleFormat::Policies => Ok(Permission::Rule(value)),
        RuleFormat::Roles => Ok(Permission::Roles(words.into_iter().map(str::to_lowercase).collect())),
    }
}

/// Reads the file as Python's configparser does: a section's name is a pattern, and may have brackets in it; a line that
/// is indented deeper continues the value above.
fn sections(text: &str) -> Result<Vec<Section>, Fault> {
    let mut sections: Vec<Section> = Vec::new();
    // How deep the line of the last option is indented, while it can go on.
    let mut open: Option<usize> = None;
    for (number, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
        let number = number + 1;
        let fault = |message: String| Fault { line: number, message };
        let content = line.trim();
        let indent = line.len() - line.trim_start().len();
        if content.is_empty() || content.starts_with(['#', ';']) {
            continue;
        }
        let section = sections.last_mut();
        if open.is_some_and(|depth| indent > depth)
            && let Some((_, value, _)) = section.and_then(|section| section.options.last_mut())
        {
            value.push('\n');
            value.push_str(content);
            continue;
        }
        if let Some((name, _)) = content.strip_prefix('[').and_then(|rest| rest.rsplit_once(']')) {
            if name.is_empty() {
                return Err(fault("a section without a name".to_owned()));
            }
            if sections.iter().any(|section| section.name == name) {
                return Err(fault(format!("[{name}] is there twice")));
            }
            sections.push(Section { name: name.to_owned(), line: number, options: Vec::new() });
            open = None;
            continue;
        }
        let Some(section) = sections.last_mut() else {
            return Err(fault("an option before the first [section]".to_owned()));
        };
        let (name, value) = content
            .find(['=', ':'])
            .map(|at| (content[..at].trim().to_lowercase(), content[at + 1..].trim().to_owned()))
            .ok_or_else(|| fault(format!("[{}] a line that is not name = value", section.name)))?;
        if section.options.iter().any(|(known, ..)| *known == name) {
            return Err(fault(format!("[{}] {name} is there twice", section.name)));
        }
        section.options.push((name, value, number));
        open = Some(indent);
    }
    Ok(sections)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::{OPERATIONS, Operation, Protections, rules, sections};
    use crate::{
        config::RuleFormat,
        context::{Context, Identity},
        policy::Policy,
    };

    fn fault(text: &str, format: RuleFormat) -> String {
        rules(text, format).err().map(|fault| format!("{}: {}", fault.line, fault.message)).unwrap_or_default()
    }

    /// What somebody with a role may do to a property, by first letters.
    fn may(text: &str, role: &str, name: &str) -> String {
        let protections = Protections { rules: Some(rules(text, RuleFormat::Roles).unwrap()) };
        let identity = Arc::new(Identity { roles: vec![role.to_owned()], ..Identity::default() });
        let context = Context { identity, is_admin: false };
        let may = OPERATIONS.iter().filter(|(_, operation): &&(&str, Operation)| {
            protections.may(&Policy::defaults(), &context, *operation, name)
        });
        may.map(|(name, _)| &name[..1]).collect()
    }

    #[test]
    fn the_first_section_that_matches_counts() {
        let text = "[DEFAULT]\ndelete = !\n[^x_]\ncreate = A, b\nread = @\nupdate:\n# c\n[x]\ncreate = c\n  , d\nread = c\n\
            UPDATE = !, c\ndelete = c\n[os_glance_x]\n";
        for (role, name, expected) in [
            ("a", "x_1", "cr"),
            ("b", "x_1", "cr"),
            ("c", "x_1", "r"),
            ("c", "a_x_1", "crd"),
            ("d", "ax", "c"),
            ("c", "other", ""),
            ("z", "os_glance_anything", "crud"),
        ] {
            assert_eq!(may(text, role, name), expected, "{role} {name}");
        }
    }

    #[test]
    fn a_file_that_cannot_be_is_told_with_line_and_section() {
        let whole =
            |name: &str, create: &str| format!("[{name}]\ncreate = {create}\nread = @\nupdate = @\ndelete = @\n");
        let (roles, policies) = (RuleFormat::Roles, RuleFormat::Policies);
        for (text, format, expected) in [
            ("create = @\n".to_owned(), roles, "1: an option before the first [section]"),
            ("[a]\ncreate\n".to_owned(), roles, "2: [a] a line that is not name = value"),
            ("[a]\nread = @\n".to_owned(), roles, "1: [a] does not say who may create"),
            ("[a]\nread = @\nread = !\n".to_owned(), roles, "3: [a] read is there twice"),
            (whole("a", "@") + &whole("a", "@"), roles, "6: [a] is there twice"),
            (whole("a", "@, !"), roles, "2: [a] create: @ and ! exclude each other"),
            (whole("a", "b%c"), roles, "2: [a] create: a % is written %%"),
            (whole("a", "b, c"), policies, "2: [a] create: one rule of the policy is wanted"),
            (whole("a(", "@"), roles, "1: [a(] is not a pattern: "),
            (whole("a[bc]", "b"), policies, ""),
        ] {
            let fault = fault(&text, format);
            assert!(fault.starts_with(expected) && fault.is_empty() == expected.is_empty(), "{text:?}: {fault}");
        }
    }

    proptest! {
        #[test]
        fn no_file_makes_it_panic(text in "[\\[\\]a=:%\n #,@!é]*") {
            let _ = sections(&text);
            let _ = rules(&text, RuleFormat::Roles);
        }
    }
}
