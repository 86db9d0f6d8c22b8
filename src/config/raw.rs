//! The texts of options in files, the environment and the command line, and how option groups read them.

use std::{cell::Cell, fmt, path::Path, rc::Rc};

use super::{
    ConfigError, catalogue,
    ini::Entry,
    keystone_authtoken::KeystoneAuthtoken,
    keystone_login::KeystoneLogin,
    option::{Check, OptionReader, OptionSpec},
    secret::{Password, Secret},
    substitution::substitute,
    value::OptionValue,
};

/// The maximum number of references that the value of one option expands, directly and through other options. More are a circle, or
/// meant to waste memory.
const MAX_REFERENCES: u32 = 100;

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The option is not set.
    Default,
    /// A file, and the number of the line in it, from 1.
    File(Rc<Path>, usize),
    /// An environment variable.
    Environment(String),
    /// A command-line argument, or the environment variable that replaces it.
    CommandLine(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path, line) => write!(f, "{}:{line}", path.display()),
            Self::Environment(variable) => f.write_str(variable),
            Self::CommandLine(argument) => f.write_str(argument),
        }
    }
}

/// The effective value of an option, without secrets.
#[derive(Debug, Clone)]
pub(crate) struct Setting {
    /// The option's group.
    pub(crate) group: String,
    /// The option's name.
    pub(crate) name: &'static str,
    /// The value, in the notation of a file.
    pub(crate) value: String,
    /// Where the value comes from.
    pub(crate) origin: Origin,
}

/// The texts of all options, and the results of reading them.
pub(crate) struct RawConfig {
    /// The number of the file, its path, and an entry, in the order of the files.
    entries: Vec<(usize, Rc<Path>, Entry)>,
    environment: fn(&str) -> Option<String>,
    /// Group, name and value of each option on the command line.
    overrides: Vec<(&'static str, &'static str, String)>,
    /// The options in sections of the paste file's filters, by group.
    filter: Vec<(Rc<Path>, Entry)>,
    /// The group with the login options of `[keystone_authtoken]`.
    auth_section: Option<String>,
    /// The group and name of every option that was read.
    read: Vec<(String, &'static str)>,
    /// The effective values.
    pub(super) settings: Vec<Setting>,
    /// The passwords among them.
    pub(super) passwords: Vec<Password>,
    /// The invalid values.
    pub(super) errors: Vec<ConfigError>,
}

impl RawConfig {
    pub(super) fn new(
        environment: fn(&str) -> Option<String>,
        overrides: Vec<(&'static str, &'static str, String)>,
    ) -> Self {
        Self {
            entries: Vec::new(),
            environment,
            overrides,
            filter: Vec::new(),
            auth_section: None,
            read: Vec::new(),
            settings: Vec::new(),
            passwords: Vec::new(),
            errors: Vec::new(),
        }
    }

    /// Adds a file, which takes precedence over earlier files.
    pub(super) fn add_file(&mut self, path: &Path, entries: Vec<Entry>) {
        let number = self.entries.last().map_or(0, |(number, ..)| number + 1);
        let path: Rc<Path> = path.into();
        self.entries.extend(entries.into_iter().map(|entry| (number, Rc::clone(&path), entry)));
    }

    /// Adds the options in the section of a filter in the paste file, which take precedence over everything else. Their values
    /// contain no references.
    pub(super) fn add_filter(&mut self, path: &Path, group: &str, entries: &[Entry]) {
        let path: Rc<Path> = path.into();
        let literal = |entry: &Entry| {
            let value = Secret::new(entry.value.expose().replace('$', "$$"));
            (Rc::clone(&path), Entry { group: group.to_owned(), name: entry.name.clone(), value, line: entry.line })
        };
        self.filter.extend(entries.iter().map(literal));
    }

    /// From now on, reads the login options of `[keystone_authtoken]` from the group that `auth_section` names.
    pub(super) fn follow_auth_section(&mut self) {
        let named = self.texts(KeystoneAuthtoken::NAME, "auth_section", &[]).pop();
        let named = named.map(|(group, _)| group.expose().trim().to_owned()).filter(|group| !group.is_empty());
        self.auth_section = named.map(|group| if group == "DEFAULT" { group } else { group.to_lowercase() });
    }

    /// The group in which an option is set.
    fn actual_group<'a>(&'a self, group: &'a str, name: &str) -> &'a str {
        match &self.auth_section {
            Some(section) if group == KeystoneAuthtoken::NAME && is_login(name) => section,
            _ => group,
        }
    }

    fn add_setting<T: OptionValue>(&mut self, group: &str, option: &OptionSpec, value: &T, origin: Origin) {
        self.settings.push(Setting { group: group.to_owned(), name: option.name, value: value.to_text(), origin });
    }

    /// The texts of an option, in ascending precedence: those in files, in their order, or the one in the environment variable
    /// `OS_<GROUP>__<NAME>`, which replaces them. Within a file, the option's present name takes precedence over its former names.
    fn texts(&self, group: &str, name: &str, former: &[(&str, &str)]) -> Vec<(Secret, Origin)> {
        let origin = |path: &Rc<Path>, entry: &Entry| Origin::File(Rc::clone(path), entry.line);
        let is_in_filter = |entry: &Entry| {
            entry.group == group && (entry.name == name || former.iter().any(|(_, old)| entry.name == *old))
        };
        if let Some((path, entry)) = self.filter.iter().rev().find(|(_, entry)| is_in_filter(entry)) {
            return vec![(entry.value.clone(), origin(path, entry))];
        }
        let (declared_group, group) = (group, self.actual_group(group, name));
        if let Some((.., text)) = self.overrides.iter().rev().find(|(g, n, _)| (*g, *n) == (group, name)) {
            return vec![(Secret::new(text.as_str()), Origin::CommandLine("the command line"))];
        }
        let variable = format!("OS_{}__{}", group.to_uppercase(), name.to_uppercase());
        if let Some(text) = (self.environment)(&variable) {
            return vec![(Secret::new(text), Origin::Environment(variable))];
        }
        let rank = |entry: &Entry| {
            let is_called = |(entry_group, entry_name): (&str, &str)| {
                // Former names in the same group move with the option.
                let entry_group = if entry_group == declared_group { group } else { entry_group };
                (entry_group, entry_name) == (entry.group.as_str(), entry.name.as_str())
            };
            let is_former = |old: &(&str, &str)| is_called(*old);
            if is_called((declared_group, name)) { Some(0) } else { former.iter().position(is_former).map(|at| at + 1) }
        };
        let ranked = self.entries.iter().filter_map(|entry| Some((entry.0, rank(&entry.2)?, entry)));
        let mut found: Vec<_> = ranked.collect();
        found.sort_by_key(|(file, rank, _)| (*file, std::cmp::Reverse(*rank)));
        found.into_iter().map(|(_, _, (_, path, entry))| (entry.value.clone(), origin(path, entry))).collect()
    }

    /// Expands the references in a value of `group`. `references` counts them.
    fn expand(&self, group: &str, text: &str, references: &Cell<u32>) -> Result<String, String> {
        substitute(text, |name| {
            references.set(references.get() + 1);
            if references.get() > MAX_REFERENCES {
                return Err("it refers to itself, or to too many options".to_owned());
            }
            self.resolve_reference(group, name, references)
        })
    }

    /// The value of a reference. A reference without a group refers to an option of `group`, else of `[DEFAULT]`.
    fn resolve_reference(&self, group: &str, reference: &str, references: &Cell<u32>) -> Result<String, String> {
        let candidates = match reference.split_once('.') {
            // oslo.config does not support references that name `[DEFAULT]`.
            Some(named) if named.0 == "DEFAULT" => vec![],
            Some(named) => vec![named],
            None => vec![(group, reference), ("DEFAULT", reference)],
        };
        for (group, name) in candidates {
            let in_section = self.auth_section.as_deref() == Some(group) && is_login(name);
            let group = if in_section { KeystoneAuthtoken::NAME } else { group };
            let option = catalogue::options().find(|option| option.is(group, name));
            if option.is_none() && !catalogue::is_glance_option(group, name) {
                continue;
            }
            let former = option.map_or([].as_slice(), |option| option.former);
            return match (self.texts(group, name, former).last(), option) {
                (Some((text, _)), _) => self.expand(group, text.expose(), references),
                (None, Some(option)) => Ok((option.default)()),
                (None, None) => Err(format!("${reference} is not written, and only Glance has a default for it")),
            };
        }
        Err(format!("${reference} names no option; a dollar sign is written $$"))
    }

    /// One message for each option that has no effect. `variables` are the names of the environment variables.
    pub(super) fn unused(&self, variables: impl Iterator<Item = String>) -> Unused {
        let mut reported: Vec<(&str, &str)> = Vec::new();
        let driver = self.texts("oslo_messaging_notifications", "driver", &[("DEFAULT", "notification_driver")]);
        let is_sent = |(driver, _): &(Secret, Origin)| !["", "noop"].contains(&driver.expose().trim());
        let has_notifications = driver.iter().any(is_sent);
        let mut unused = Unused::default();
        let in_files = self.entries.iter().map(|(_, path, entry)| (path, entry.group.as_str(), entry));
        let in_filter = self.filter.iter().map(|(path, entry)| (path, entry.group.as_str(), entry));
        for (path, group, entry) in in_files.chain(in_filter) {
            let name = entry.name.as_str();
            let in_section = self.auth_section.as_deref() == Some(group);
            let declared_group = if in_section && is_login(name) { KeystoneAuthtoken::NAME } else { group };
            let has_effect = catalogue::options().any(|option| option.is_called(declared_group, name))
                || self.read.iter().any(|read| (read.0.as_str(), read.1) == (group, name));
            let is_moved =
                !in_section && entry.group == KeystoneAuthtoken::NAME && self.actual_group(group, name) != group;
            if (has_effect && !is_moved) || reported.contains(&(group, name)) {
                continue;
            }
            reported.push((group, name));
            let warning = match (&self.auth_section, is_moved) {
                (Some(section), true) => {
                    format!("[{group}] {name} has no effect: auth_section names [{section}] for it")
                }
                _ => describe_unused(group, name),
            };
            unused.add(group, name, has_notifications, format!("{}:{}: {warning}", path.display(), entry.line));
        }
        for variable in variables {
            if let Some((group, name)) = catalogue::parse_variable(&variable)
                && !catalogue::options().any(|option| option.is(group, &name))
            {
                unused.add(group, &name, has_notifications, format!("{variable}: {}", describe_unused(group, &name)));
            }
        }
        unused
    }
}

impl OptionReader for RawConfig {
    fn read_option<T: OptionValue>(
        &mut self,
        group: &str,
        shared: Option<&str>,
        option: &'static OptionSpec,
        default: T,
        checks: &[Check<'_, T>],
    ) -> T {
        let former = if group == option.group { option.former } else { &[] };
        let own = self.texts(group, option.name, former);
        let (group, found) = match shared {
            Some(shared) if own.is_empty() => (shared, self.texts(shared, option.name, &[])),
            _ => (group, own),
        };
        self.read.extend([Some(group), shared].into_iter().flatten().map(|group| (group.to_owned(), option.name)));
        let Some((_, origin)) = found.last().cloned() else {
            self.add_setting(group, option, &default, Origin::Default);
            return default;
        };
        let references = Cell::new(0);
        let texts = found.iter().map(|(text, _)| {
            let expanded = self.expand(self.actual_group(group, option.name), text.expose(), &references);
            // A secret with a dollar sign in it looks like a reference. The message would contain its name.
            expanded.map_err(
                |message| if T::SECRET { "a $ that is no reference is written $$".to_owned() } else { message },
            )
        });
        let value = texts.collect::<Result<Vec<_>, _>>().and_then(|texts| T::parse_all(&texts));
        let value = value.and_then(|value| checks.iter().try_for_each(|check| check(&value)).map(|()| value));
        match value {
            Ok(value) => {
                self.passwords.extend(value.password().cloned());
                self.add_setting(group, option, &value, origin);
                value
            }
            Err(message) => {
                let (origin, group, name) = (origin.to_string(), group.to_owned(), option.name);
                self.errors.push(ConfigError::Value { origin, group, name, message });
                default
            }
        }
    }

    fn reject(&mut self, group: &str, name: &'static str, message: String) {
        let (origin, group) = ("stores".to_owned(), group.to_owned());
        self.errors.push(ConfigError::Value { origin, group, name, message });
    }
}

/// Whether an option of `[keystone_authtoken]` is a login option, by its present or a former name.
fn is_login(name: &str) -> bool {
    let mut options = KeystoneAuthtoken::OPTIONS.iter().filter(|option| KeystoneLogin::NAMES.contains(&option.name));
    options.any(|option| option.is_called(KeystoneAuthtoken::NAME, name))
}

/// Messages about options that have no effect.
#[derive(Debug, Default)]
pub(super) struct Unused {
    /// Options that do not exist.
    pub(super) unknown: Vec<String>,
    /// Options of Glance that Glimpse does not act on.
    pub(super) ignored: Vec<String>,
    /// Options of Glance that have no effect by design.
    pub(super) needless: Vec<String>,
}

impl Unused {
    fn add(&mut self, group: &str, name: &str, has_notifications: bool, message: String) {
        let list = if !catalogue::is_glance_option(group, name) {
            &mut self.unknown
        } else if catalogue::is_needless(group, name, has_notifications) {
            &mut self.needless
        } else {
            &mut self.ignored
        };
        list.push(message);
    }
}

/// The message about an option that has no effect.
fn describe_unused(group: &str, name: &str) -> String {
    if catalogue::is_glance_option(group, name) {
        return format!("Glimpse does not act on [{group}] {name}, which is an option of Glance");
    }
    let nearest = catalogue::nearest(group, name);
    let hint = nearest.map(|(group, name)| format!("; was [{group}] {name} meant?")).unwrap_or_default();
    format!("there is no option [{group}] {name}{hint}")
}
