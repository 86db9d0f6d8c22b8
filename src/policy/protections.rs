//! Property protections: which custom properties a caller is allowed to create, read, update and delete.
//!
//! Each section of the operator's file has a pattern that is searched for in the property's name, and for each operation either
//! the roles that are allowed to perform it, or a policy rule that decides. The first section that matches applies. If there is a
//! file, all operations on a property that no section matches are denied. Without a file, all operations are allowed.

use std::{collections::BTreeSet, fs, io, path::PathBuf};

use fancy_regex::{Regex, RegexBuilder};

use super::{Policy, Target};
use crate::{
    config::{Config, RuleFormat},
    context::Context,
    error::{Error, Result},
};

/// The prefix of properties in which the service stores its own data. They are protected elsewhere: sections of this name are
/// ignored.
const OWN: &str = "os_glance";

/// An operation on a property.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    /// Add a new property to an image.
    Create,
    /// Read the property.
    Read,
    /// Change its value.
    Update,
    /// Remove it from the image.
    Delete,
}

/// The operations with their names in the file, in the order of the permissions of a [`Rule`].
const OPERATIONS: [(&str, Operation); 4] = [
    ("create", Operation::Create),
    ("read", Operation::Read),
    ("update", Operation::Update),
    ("delete", Operation::Delete),
];

/// The callers that are allowed to perform an operation.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Permission {
    Nobody,
    Anybody,
    /// Callers with one of these roles, in lower case.
    Roles(Vec<String>),
    /// Callers that this policy rule allows.
    Rule(String),
}

struct Rule {
    pattern: Regex,
    permissions: [Permission; 4],
}

/// The protections in force.
pub(crate) struct Protections {
    /// `None` if there is no file, so nothing is protected.
    rules: Option<Vec<Rule>>,
}

/// The file of property protections cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProtectionsError {
    /// The file cannot be read.
    #[error("property protections {}: {source}", path.display())]
    Read {
        /// The path of the file.
        path: PathBuf,
        /// The error of the file system.
        source: io::Error,
    },
    /// The content of the file is invalid.
    #[error("property protections {}:{line}: {message}", path.display())]
    Content {
        /// The path of the file.
        path: PathBuf,
        /// The line of the error, counted from 1.
        line: usize,
        /// What is wrong, with the section.
        message: String,
    },
}

impl Protections {
    /// Whether there is a file of property protections.
    pub(crate) fn are_in_force(&self) -> bool {
        self.rules.is_some()
    }

    /// Loads `property_protection_file`, if it is set.
    ///
    /// # Errors
    /// If the file cannot be read, or its content is invalid.
    pub(crate) fn load(config: &Config) -> Result<Self, ProtectionsError> {
        let Some(path) = &config.default.property_protection_file else {
            return Ok(Self { rules: None });
        };
        let text =
            fs::read_to_string(path).map_err(|source| ProtectionsError::Read { path: path.to_owned(), source })?;
        let rules = parse_rules(&text, config.default.property_protection_rule_format);
        let error = |fault: Fault| ProtectionsError::Content {
            path: path.to_owned(),
            line: fault.line,
            message: fault.message,
        };
        Ok(Self { rules: Some(rules.map_err(error)?) })
    }

    /// Warnings for the operator about undefined policy rules that the file names, one for each.
    pub(crate) fn warnings(&self, policy: &Policy) -> Vec<String> {
        let names = self.rule_names();
        names.iter().filter_map(|name| policy.warn_if_undefined("property_protection_file", name)).collect()
    }

    /// The names of the policy rules that the file refers to.
    pub(super) fn rule_names(&self) -> BTreeSet<String> {
        let permissions = self.rules.iter().flatten().flat_map(|rule| &rule.permissions);
        let names = permissions.filter_map(|permission| match permission {
            Permission::Rule(name) => Some(name.clone()),
            Permission::Nobody | Permission::Anybody | Permission::Roles(_) => None,
        });
        names.collect()
    }

    /// Whether the caller is allowed to perform this operation on a property of this name.
    pub(crate) fn may(&self, policy: &Policy, context: &Context, operation: Operation, name: &str) -> bool {
        let Some(rules) = &self.rules else {
            return true;
        };
        let mut permission = &Permission::Nobody;
        for rule in rules {
            match rule.pattern.is_match(name) {
                Ok(false) => continue,
                Ok(true) => permission = &rule.permissions[operation as usize],
                // If the search exceeds its limit, deny: falling through to the next section could allow too much.
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

    /// Refuses an operation that [`Self::may`] does not allow.
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

/// The maximum number of backtracking steps of a search. Clients choose the names that are searched, so it must be bounded.
const MAX_BACKTRACKS: usize = 20_000;

fn compile_pattern(text: &str) -> Result<Regex, fancy_regex::Error> {
    RegexBuilder::new(text).backtrack_limit(MAX_BACKTRACKS).build()
}

/// An error in the file, and its line.
#[derive(Debug, PartialEq, Eq)]
struct Fault {
    line: usize,
    message: String,
}

/// A section of the file.
#[derive(Debug, PartialEq, Eq)]
struct Section {
    name: String,
    line: usize,
    /// The options: name in lower case, value, line.
    options: Vec<(String, String, usize)>,
}

fn parse_rules(text: &str, format: RuleFormat) -> Result<Vec<Rule>, Fault> {
    let sections = parse_sections(text)?;
    // The options of [DEFAULT] apply to every section that does not set them.
    let (defaults, sections): (Vec<Section>, Vec<Section>) =
        sections.into_iter().partition(|section| section.name == "DEFAULT");
    let own = Regex::new(OWN).map_err(|error| Fault { line: 0, message: error.to_string() })?;
    let mut rules = vec![Rule { pattern: own, permissions: [const { Permission::Anybody }; 4] }];
    for section in sections.iter().filter(|section| !section.name.starts_with(OWN)) {
        let fault = |line, what: String| Fault { line, message: format!("[{}] {what}", section.name) };
        let pattern = compile_pattern(&section.name)
            .map_err(|error| fault(section.line, format!("is not a valid pattern: {error}")))?;
        let mut permissions = [const { Permission::Nobody }; 4];
        for (name, operation) in OPERATIONS {
            let mut options = section.options.iter().chain(defaults.iter().flat_map(|section| &section.options));
            let (_, value, line) = options
                .find(|(option, ..)| option == name)
                .ok_or_else(|| fault(section.line, format!("has no option {name}")))?;
            permissions[operation as usize] =
                parse_permission(value, format).map_err(|what| fault(*line, format!("{name}: {what}")))?;
        }
        rules.push(Rule { pattern, permissions });
    }
    Ok(rules)
}

fn parse_permission(value: &str, format: RuleFormat) -> Result<Permission, &'static str> {
    let value = value.replace("%%", "\0");
    if value.contains('%') {
        return Err("a percent sign must be written as %%");
    }
    let value = value.replace('\0', "%");
    let words: Vec<&str> = value.split(',').map(str::trim).collect();
    let (nobody, anybody) = (words.contains(&"!"), words.contains(&"@"));
    match format {
        _ if value.is_empty() => Ok(Permission::Nobody),
        RuleFormat::Policies if words.len() > 1 => Err("a single policy rule is expected"),
        RuleFormat::Roles if nobody && anybody => Err("@ and ! cannot be combined"),
        _ if nobody => Ok(Permission::Nobody),
        _ if anybody => Ok(Permission::Anybody),
        RuleFormat::Policies => Ok(Permission::Rule(value)),
        RuleFormat::Roles => Ok(Permission::Roles(words.into_iter().map(str::to_lowercase).collect())),
    }
}

/// Parses the file as Python's configparser does. The name of a section is a pattern, so it can contain brackets. A line that is
/// indented deeper than the option above it continues the option's value.
fn parse_sections(text: &str) -> Result<Vec<Section>, Fault> {
    let mut sections: Vec<Section> = Vec::new();
    // The indentation of the last option, as long as its value can be continued.
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
                return Err(fault("a section has no name".to_owned()));
            }
            if sections.iter().any(|section| section.name == name) {
                return Err(fault(format!("[{name}] is defined twice")));
            }
            sections.push(Section { name: name.to_owned(), line: number, options: Vec::new() });
            open = None;
            continue;
        }
        let Some(section) = sections.last_mut() else {
            return Err(fault("an option precedes the first [section]".to_owned()));
        };
        let (name, value) = content
            .find(['=', ':'])
            .map(|at| (content[..at].trim().to_lowercase(), content[at + 1..].trim().to_owned()))
            .ok_or_else(|| fault(format!("[{}] a line is not of the form name = value", section.name)))?;
        if section.options.iter().any(|(known, ..)| *known == name) {
            return Err(fault(format!("[{}] {name} is set twice", section.name)));
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

    use super::{OPERATIONS, Operation, Protections, parse_rules, parse_sections};
    use crate::{
        config::RuleFormat,
        context::{Context, Identity},
        policy::Policy,
    };

    fn fault(text: &str, format: RuleFormat) -> String {
        parse_rules(text, format).err().map(|fault| format!("{}: {}", fault.line, fault.message)).unwrap_or_default()
    }

    /// The operations that a caller with this role is allowed to perform on a property, by their first letters.
    fn may(text: &str, role: &str, name: &str) -> String {
        let protections = Protections { rules: Some(parse_rules(text, RuleFormat::Roles).unwrap()) };
        let identity = Arc::new(Identity { roles: vec![role.to_owned()], ..Identity::default() });
        let context = Context { identity, is_admin: false };
        let may = OPERATIONS.iter().filter(|(_, operation): &&(&str, Operation)| {
            protections.may(&Policy::defaults(), &context, *operation, name)
        });
        may.map(|(name, _)| &name[..1]).collect()
    }

    #[test]
    fn the_first_matching_section_applies() {
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
    fn errors_name_the_line_and_the_section() {
        let whole =
            |name: &str, create: &str| format!("[{name}]\ncreate = {create}\nread = @\nupdate = @\ndelete = @\n");
        let (roles, policies) = (RuleFormat::Roles, RuleFormat::Policies);
        for (text, format, expected) in [
            ("create = @\n".to_owned(), roles, "1: an option precedes the first [section]"),
            ("[a]\ncreate\n".to_owned(), roles, "2: [a] a line is not of the form name = value"),
            ("[a]\nread = @\n".to_owned(), roles, "1: [a] has no option create"),
            ("[a]\nread = @\nread = !\n".to_owned(), roles, "3: [a] read is set twice"),
            (whole("a", "@") + &whole("a", "@"), roles, "6: [a] is defined twice"),
            (whole("a", "@, !"), roles, "2: [a] create: @ and ! cannot be combined"),
            (whole("a", "b%c"), roles, "2: [a] create: a percent sign must be written as %%"),
            (whole("a", "b, c"), policies, "2: [a] create: a single policy rule is expected"),
            (whole("a(", "@"), roles, "1: [a(] is not a valid pattern: "),
            (whole("a[bc]", "b"), policies, ""),
        ] {
            let fault = fault(&text, format);
            assert!(fault.starts_with(expected) && fault.is_empty() == expected.is_empty(), "{text:?}: {fault}");
        }
    }

    proptest! {
        #[test]
        fn no_file_causes_a_panic(text in "[\\[\\]a=:%\n #,@!é]*") {
            let _ = parse_sections(&text);
            let _ = parse_rules(&text, RuleFormat::Roles);
        }
    }
}
