//! What was written in files and in the environment, until the option groups have taken their part.

use std::{cell::Cell, fmt, path::Path, rc::Rc};

use super::{
    ConfigError, catalogue,
    ini::Entry,
    known::{Check, Known, Source},
    options::KeystoneAuthtoken,
    secret::Secret,
    substitution::substitute,
    value::OptionValue,
};

/// Options that one value may refer to, also through others: more is a circle, or meant to waste memory.
const MAX_REFERENCES: u32 = 100;

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// It was not written.
    Default,
    /// A file and the line in it, from 1.
    File(Rc<Path>, usize),
    /// A variable of the environment.
    Environment(String),
    /// An argument, or the variable that stands for it.
    CommandLine(&'static str),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path, line) => write!(f, "{}:{line}", path.display()),
            Self::Environment(variable) => f.write_str(variable),
            Self::CommandLine(argument) => f.write_str(argument),
        }
    }
}

/// An option's value as it counts, for people to read: no secret is in it.
#[derive(Debug, Clone)]
pub(crate) struct Setting {
    /// The option's group.
    pub(crate) group: String,
    /// The option's name.
    pub(crate) name: &'static str,
    /// The value, as a file would have it.
    pub(crate) value: String,
    /// Where it comes from.
    pub(crate) place: Place,
}

/// Everything that was written, and what the option groups made of it.
pub(crate) struct Written {
    /// In the order of the files; a later file's number is higher.
    entries: Vec<(usize, Rc<Path>, Entry)>,
    environment: fn(&str) -> Option<String>,
    /// What the command line says: group, name, value.
    overrides: Vec<(&'static str, &'static str, String)>,
    /// What the paste file's filter says of `[keystone_authtoken]`.
    filter: Vec<(Rc<Path>, Entry)>,
    /// The group that has the options of `[keystone_authtoken]` about logging in.
    auth_section: Option<String>,
    /// What was asked for, by group and name.
    taken: Vec<(String, &'static str)>,
    /// The values that count.
    pub(super) settings: Vec<Setting>,
    /// The values that are wrong.
    pub(super) errors: Vec<ConfigError>,
}

impl Written {
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
            taken: Vec::new(),
            settings: Vec::new(),
            errors: Vec::new(),
        }
    }

    /// Adds a file, which wins over those before it.
    pub(super) fn add(&mut self, path: &Path, entries: Vec<Entry>) {
        let number = self.entries.last().map_or(0, |(number, ..)| number + 1);
        let path: Rc<Path> = path.into();
        self.entries.extend(entries.into_iter().map(|entry| (number, Rc::clone(&path), entry)));
    }

    /// Adds what the paste file's authtoken filter has, which wins over everything else. Its values refer to nothing.
    pub(super) fn add_filter(&mut self, path: &Path, entries: Vec<Entry>) {
        let path: Rc<Path> = path.into();
        let literal = |mut entry: Entry| {
            entry.value = Secret::new(entry.value.expose().replace('$', "$$"));
            (Rc::clone(&path), entry)
        };
        self.filter = entries.into_iter().map(literal).collect();
    }

    /// Has the options about logging in to Keystone read from the group that `auth_section` names.
    pub(super) fn follow_auth_section(&mut self) {
        let named = self.texts(KeystoneAuthtoken::GROUP, "auth_section", &[]).pop();
        let named = named.map(|(group, _)| group.expose().trim().to_owned()).filter(|group| !group.is_empty());
        self.auth_section = named.map(|group| if group == "DEFAULT" { group } else { group.to_lowercase() });
    }

    /// The group that an option is read from.
    fn group_of<'a>(&'a self, group: &'a str, name: &str) -> &'a str {
        match &self.auth_section {
            Some(section) if group == KeystoneAuthtoken::GROUP && is_login(name) => section,
            _ => group,
        }
    }

    fn note<T: OptionValue>(&mut self, group: &str, option: &Known, value: &T, place: Place) {
        self.settings.push(Setting { group: group.to_owned(), name: option.name, value: value.show(), place });
    }

    /// What was written for an option, the one that counts last: the environment's `OS_<GROUP>__<NAME>` if that is set, else
    /// the last one of the last file; a file that has the option's name is not asked for its former ones.
    fn texts(&self, group: &str, name: &str, former: &[(&str, &str)]) -> Vec<(Secret, Place)> {
        let place = |path: &Rc<Path>, entry: &Entry| Place::File(Rc::clone(path), entry.line);
        let is_in_filter = |entry: &Entry| entry.name == name || former.iter().any(|(_, old)| entry.name == *old);
        if group == KeystoneAuthtoken::GROUP
            && let Some((path, entry)) = self.filter.iter().rev().find(|(_, entry)| is_in_filter(entry))
        {
            return vec![(entry.value.clone(), place(path, entry))];
        }
        let (written_as, group) = (group, self.group_of(group, name));
        if let Some((.., text)) = self.overrides.iter().rev().find(|(g, n, _)| (*g, *n) == (group, name)) {
            return vec![(Secret::new(text.as_str()), Place::CommandLine("the command line"))];
        }
        let variable = format!("OS_{}__{}", group.to_uppercase(), name.to_uppercase());
        if let Some(text) = (self.environment)(&variable) {
            return vec![(Secret::new(text), Place::Environment(variable))];
        }
        let rank = |entry: &Entry| {
            let is_called = |(of, called): (&str, &str)| {
                // The former names in a group move with it.
                let of = if of == written_as { group } else { of };
                (of, called) == (entry.group.as_str(), entry.name.as_str())
            };
            let is_former = |old: &(&str, &str)| is_called(*old);
            if is_called((written_as, name)) { Some(0) } else { former.iter().position(is_former).map(|at| at + 1) }
        };
        let ranked = self.entries.iter().filter_map(|entry| Some((entry.0, rank(&entry.2)?, entry)));
        let mut found: Vec<_> = ranked.collect();
        found.sort_by_key(|(file, rank, _)| (*file, std::cmp::Reverse(*rank)));
        found.into_iter().map(|(_, _, (_, path, entry))| (entry.value.clone(), place(path, entry))).collect()
    }

    /// Puts in what a value of `group` refers to.
    fn fill(&self, group: &str, text: &str, references: &Cell<u32>) -> Result<String, String> {
        substitute(text, |name| {
            references.set(references.get() + 1);
            if references.get() > MAX_REFERENCES {
                return Err("it refers to itself, or to too many options".to_owned());
            }
            self.referred(group, name, references)
        })
    }

    /// The value that a reference stands for: of the same group, else of `[DEFAULT]`, unless it names the group.
    fn referred(&self, group: &str, reference: &str, references: &Cell<u32>) -> Result<String, String> {
        let named = reference.split_once('.');
        let places = match named {
            // `[DEFAULT]` cannot be named.
            Some(named) if named.0 == "DEFAULT" => vec![],
            Some(named) => vec![named],
            None => vec![(group, reference), ("DEFAULT", reference)],
        };
        for (group, name) in places {
            let in_section = self.auth_section.as_deref() == Some(group) && is_login(name);
            let group = if in_section { KeystoneAuthtoken::GROUP } else { group };
            let known = catalogue::known().find(|option| option.group == group && option.name == name);
            if known.is_none() && !catalogue::is_glances(group, name) {
                continue;
            }
            let former = known.map_or([].as_slice(), |option| option.former);
            return match (self.texts(group, name, former).last(), known) {
                (Some((text, _)), _) => self.fill(group, text.expose(), references),
                (None, Some(option)) => Ok((option.default)()),
                (None, None) => Err(format!("${reference} is not written, and only Glance has a default for it")),
            };
        }
        Err(format!("${reference} names no option; a dollar sign is written $$"))
    }

    /// What to tell about the options that do nothing, once for each; `variables` is what is in the environment.
    pub(super) fn warnings(&self, variables: impl Iterator<Item = String>) -> Vec<String> {
        let mut told: Vec<(&str, &str)> = Vec::new();
        let mut warnings = Vec::new();
        let of_files = self.entries.iter().map(|(_, path, entry)| (path, entry.group.as_str(), entry));
        let of_filter = self.filter.iter().map(|(path, entry)| (path, KeystoneAuthtoken::GROUP, entry));
        for (path, group, entry) in of_files.chain(of_filter) {
            let name = entry.name.as_str();
            let in_section = self.auth_section.as_deref() == Some(group);
            let asked = if in_section && is_login(name) { KeystoneAuthtoken::GROUP } else { group };
            let acted_on = catalogue::known().any(|option| option.is_called(asked, name))
                || self.taken.iter().any(|taken| (taken.0.as_str(), taken.1) == (group, name));
            let moved_away =
                !in_section && entry.group == KeystoneAuthtoken::GROUP && self.group_of(group, name) != group;
            if (acted_on && !moved_away) || told.contains(&(group, name)) {
                continue;
            }
            told.push((group, name));
            let what = match (&self.auth_section, moved_away) {
                (Some(section), true) => {
                    format!("[{group}] {name} does nothing: auth_section names [{section}] for it")
                }
                _ => idle(group, name),
            };
            warnings.push(format!("{}:{}: {what}", path.display(), entry.line));
        }
        for variable in variables {
            if let Some((group, name)) = catalogue::of_variable(&variable)
                && !catalogue::known().any(|option| option.group == group && option.name == name)
            {
                warnings.push(format!("{variable}: {}", idle(group, &name)));
            }
        }
        warnings
    }
}

impl Source for Written {
    fn take_in<T: OptionValue>(
        &mut self,
        group: &str,
        shared: Option<&str>,
        option: &'static Known,
        default: T,
        checks: &[Check<'_, T>],
    ) -> T {
        let former = if group == option.group { option.former } else { &[] };
        let own = self.texts(group, option.name, former);
        let (group, found) = match shared {
            Some(shared) if own.is_empty() => (shared, self.texts(shared, option.name, &[])),
            _ => (group, own),
        };
        self.taken.extend([Some(group), shared].into_iter().flatten().map(|group| (group.to_owned(), option.name)));
        let Some((_, place)) = found.last().cloned() else {
            self.note(group, option, &default, Place::Default);
            return default;
        };
        let references = Cell::new(0);
        let texts = found.iter().map(|(text, _)| {
            let filled = self.fill(self.group_of(group, option.name), text.expose(), &references);
            // A secret with a dollar sign in it looks like a reference, whose name would be told.
            filled.map_err(
                |message| if T::SECRET { "a $ that is no reference is written $$".to_owned() } else { message },
            )
        });
        let value = texts.collect::<Result<Vec<_>, _>>().and_then(|texts| T::parse_all(&texts));
        let value = value.and_then(|value| checks.iter().try_for_each(|check| check(&value)).map(|()| value));
        match value {
            Ok(value) => {
                self.note(group, option, &value, place);
                value
            }
            Err(message) => {
                let (place, group, name) = (place.to_string(), group.to_owned(), option.name);
                self.errors.push(ConfigError::Value { place, group, name, message });
                default
            }
        }
    }
}

/// Whether an option of `[keystone_authtoken]` is one about logging in, by its name of today or a former one.
fn is_login(name: &str) -> bool {
    let mut options =
        KeystoneAuthtoken::OPTIONS.iter().filter(|option| KeystoneAuthtoken::LOGIN.contains(&option.name));
    options.any(|option| option.is_called(KeystoneAuthtoken::GROUP, name))
}

/// What to tell about an option that does nothing.
fn idle(group: &str, name: &str) -> String {
    if catalogue::is_glances(group, name) {
        return format!("Glimpse does not act on [{group}] {name}, which is an option of Glance");
    }
    let nearest = catalogue::nearest(group, name);
    let hint = nearest.map(|(group, name)| format!("; was [{group}] {name} meant?")).unwrap_or_default();
    format!("there is no option [{group}] {name}{hint}")
}
