//! What was written in files and in the environment, until the option groups have taken their part.

use std::{cell::Cell, fmt, path::Path, rc::Rc};

use super::{
    ConfigError,
    catalogue::{self, Known},
    ini::Entry,
    secret::Secret,
    substitution::substitute,
    value::OptionValue,
};

/// Options that one value may refer to, also through others: more is a circle, or meant to waste memory.
const MAX_REFERENCES: u32 = 100;

/// What a value must be, beside of its type.
type Check<'a, T> = &'a dyn Fn(&T) -> Result<(), String>;

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
    pub(crate) group: &'static str,
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
        Self { entries: Vec::new(), environment, overrides, settings: Vec::new(), errors: Vec::new() }
    }

    /// Adds a file, which wins over those before it.
    pub(super) fn add(&mut self, path: &Path, entries: Vec<Entry>) {
        let number = self.entries.last().map_or(0, |(number, ..)| number + 1);
        let path: Rc<Path> = path.into();
        self.entries.extend(entries.into_iter().map(|entry| (number, Rc::clone(&path), entry)));
    }

    /// Takes an option's value, or its default where nothing was written or what was written is wrong.
    pub(super) fn take<T: OptionValue>(&mut self, option: &'static Known, default: T, checks: &[Check<'_, T>]) -> T {
        let found = self.texts(option.group, option.name, option.former);
        let Some((_, place)) = found.last().cloned() else {
            self.note(option, &default, Place::Default);
            return default;
        };
        let references = Cell::new(0);
        let texts = found.iter().map(|(text, _)| {
            let filled = self.fill(option.group, text.expose(), &references);
            // A secret with a dollar sign in it looks like a reference, whose name would be told.
            filled.map_err(
                |message| if T::SECRET { "a $ that is no reference is written $$".to_owned() } else { message },
            )
        });
        let value = texts.collect::<Result<Vec<_>, _>>().and_then(|texts| T::parse_all(&texts));
        let value = value.and_then(|value| checks.iter().try_for_each(|check| check(&value)).map(|()| value));
        match value {
            Ok(value) => {
                self.note(option, &value, place);
                value
            }
            Err(message) => {
                let (place, group, name) = (place.to_string(), option.group, option.name);
                self.errors.push(ConfigError::Value { place, group, name, message });
                default
            }
        }
    }

    fn note<T: OptionValue>(&mut self, option: &Known, value: &T, place: Place) {
        self.settings.push(Setting { group: option.group, name: option.name, value: value.show(), place });
    }

    /// What was written for an option, the one that counts last: the environment's `OS_<GROUP>__<NAME>` if that is set, else
    /// the last one of the last file; a file that has the option's name is not asked for its former ones.
    fn texts(&self, group: &str, name: &str, former: &[(&str, &str)]) -> Vec<(Secret, Place)> {
        if let Some((.., text)) = self.overrides.iter().rev().find(|(g, n, _)| (*g, *n) == (group, name)) {
            return vec![(Secret::new(text.as_str()), Place::CommandLine("the command line"))];
        }
        let variable = format!("OS_{}__{}", group.to_uppercase(), name.to_uppercase());
        if let Some(text) = (self.environment)(&variable) {
            return vec![(Secret::new(text), Place::Environment(variable))];
        }
        let rank = |entry: &Entry| {
            let is_it =
                |(other_group, other_name): (&str, &str)| other_group == entry.group && other_name == entry.name;
            if is_it((group, name)) { Some(0) } else { former.iter().position(|old| is_it(*old)).map(|at| at + 1) }
        };
        let ranked = self.entries.iter().filter_map(|entry| Some((entry.0, rank(&entry.2)?, entry)));
        let mut found: Vec<_> = ranked.collect();
        found.sort_by_key(|(file, rank, _)| (*file, std::cmp::Reverse(*rank)));
        let place = |path: &Rc<Path>, entry: &Entry| Place::File(Rc::clone(path), entry.line);
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
        for (_, path, entry) in &self.entries {
            let (group, name) = (entry.group.as_str(), entry.name.as_str());
            let acted_on = catalogue::known().any(|option| option.is_called(group, name));
            if acted_on || told.contains(&(group, name)) {
                continue;
            }
            told.push((group, name));
            let what = idle(group, name);
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

/// What to tell about an option that does nothing.
fn idle(group: &str, name: &str) -> String {
    if catalogue::is_glances(group, name) {
        return format!("Glimpse does not act on [{group}] {name}, which is an option of Glance");
    }
    let nearest = catalogue::nearest(group, name);
    let hint = nearest.map(|(group, name)| format!("; was [{group}] {name} meant?")).unwrap_or_default();
    format!("there is no option [{group}] {name}{hint}")
}
