//! The sections of a paste file, and the rules by which PasteDeploy combines them.

use std::{collections::HashMap, path::Path};

use crate::config::{ConfigError, configparser, ini, secret::Secret};

/// The maximum length of a chain of sections that refer to each other.
const MAX_REFERENCES: usize = 8;

/// The entries of a paste file. Their groups are the sections, without spaces around the name behind the colon.
pub(super) struct PasteFile(Vec<ini::Entry>);

impl PasteFile {
    /// # Errors
    /// The file cannot be read, or a line is not in the dialect.
    pub(super) fn read(path: &Path) -> Result<Self, ConfigError> {
        let mut file = Self(configparser::read(path)?.into_iter().map(trim_name).collect());
        file.interpolate(path);
        Ok(file)
    }

    pub(super) fn has(&self, prefix: &str, name: &str) -> bool {
        let section = format!("{prefix}:{name}");
        self.0.iter().any(|entry| entry.group == section)
    }

    /// The value of an option in the section `[prefix:name]`.
    fn value(&self, prefix: &str, name: &str, option: &str) -> Option<&str> {
        let section = format!("{prefix}:{name}");
        let mut found = self.0.iter().filter(|entry| entry.group == section && entry.name == option);
        found.next_back().map(|entry| entry.value.expose())
    }

    /// The names of the filters in front of the API in this flavor, in order.
    pub(super) fn filters(&self, flavor: &str) -> Option<Vec<String>> {
        let mut part = if flavor == "default" { "glance-api".to_owned() } else { format!("glance-api-{flavor}") };
        let mut filters = Vec::new();
        for _ in 0..MAX_REFERENCES {
            let pipeline = self.value("pipeline", &part, "pipeline");
            let composite =
                |name: &str| self.value("composite", &part, name).or_else(|| self.value("composit", &part, name));
            let factory = composite("paste.composite_factory").or_else(|| composite("paste.composit_factory"));
            let is_by_flavor = factory.is_some_and(|factory| without_spaces(factory).ends_with(":pipeline_factory"));
            let by_flavor = if is_by_flavor { composite(flavor) } else { None };
            match (pipeline.or(by_flavor), composite("/")) {
                (Some(pipeline), _) => {
                    let mut names: Vec<String> = pipeline.split_whitespace().map(str::to_owned).collect();
                    part = names.pop()?;
                    filters.extend(names);
                }
                (None, Some(target)) => part = target.trim().to_owned(),
                // The last name is the application.
                (None, None) => break,
            }
        }
        (!filters.is_empty()).then_some(filters)
    }

    /// Expands references in values: `%(here)s` is the file's directory, `%(__file__)s` the file itself, and other names are
    /// options of the section or of `[DEFAULT]`.
    fn interpolate(&mut self, path: &Path) {
        let here = path.parent().map(|dir| dir.display().to_string()).unwrap_or_default();
        let mut values = HashMap::from([
            (("DEFAULT".to_owned(), "here".to_owned()), here),
            (("DEFAULT".to_owned(), "__file__".to_owned()), path.display().to_string()),
        ]);
        for entry in &self.0 {
            values.insert((entry.group.clone(), entry.name.clone()), entry.value.expose().to_owned());
        }
        for entry in &mut self.0 {
            let value = interpolated(&entry.group, entry.value.expose(), &values, MAX_REFERENCES);
            entry.value = Secret::new(value);
        }
    }

    /// The options of a filter or an application, in ascending precedence: the options of the section that it uses, its own, and
    /// those of `[DEFAULT]`, which PasteDeploy lets a section override only with `set`.
    pub(super) fn local(&self, prefix: &str, name: &str) -> Vec<ini::Entry> {
        let mut names = vec![name.to_owned()];
        while let Some(name) = names.last()
            && let Some(used) = self.value(prefix, name, "use").filter(|used| !used.contains([':', '#']))
            && names.len() < MAX_REFERENCES
        {
            names.push(used.to_owned());
        }
        let mut sections: Vec<String> = names.iter().map(|name| format!("{prefix}:{name}")).collect();
        sections.insert(0, "DEFAULT".to_owned());
        let is_pastes = |name: &str| name.starts_with("paste.") || ["use", "configkey", "log_name"].contains(&name);
        let of = |section: &String| {
            let entries = self.0.iter().filter(|entry| entry.group == *section);
            entries.filter(|entry| !is_pastes(&entry.name)).cloned().collect::<Vec<_>>()
        };
        let (set, given): (Vec<_>, Vec<_>) =
            sections.iter().rev().flat_map(of).partition(|entry| entry.name.starts_with("set "));
        let set =
            set.into_iter().map(|entry| ini::Entry { name: entry.name["set ".len()..].trim().to_owned(), ..entry });
        given.into_iter().chain(set).collect()
    }

    /// The factory of a filter, or the name of a package's entry point, or the filter's own name if the file has no section for it.
    /// `None` if a section has neither a factory nor `use`.
    pub(super) fn factory(&self, name: &str) -> Option<String> {
        let mut name = name;
        for _ in 0..MAX_REFERENCES {
            if let Some(factory) = self.value("filter", name, "paste.filter_factory") {
                return Some(without_spaces(factory));
            }
            match self.value("filter", name, "use") {
                Some(other) if self.has("filter", other) => name = other,
                Some(package) => return Some(without_spaces(package)),
                None if self.has("filter", name) => return None,
                None => return Some(name.to_owned()),
            }
        }
        None
    }
}

/// Removes spaces behind the colon of a section, as PasteDeploy does. It keeps those in front of the colon.
fn trim_name(entry: ini::Entry) -> ini::Entry {
    let group = match entry.group.split_once(':') {
        Some((prefix, name)) => format!("{prefix}:{}", name.trim()),
        None => entry.group,
    };
    ini::Entry { group, ..entry }
}

/// Removes the spaces that Python allows in a reference to an object of a package.
fn without_spaces(reference: &str) -> String {
    reference.split_whitespace().collect()
}

fn interpolated(group: &str, text: &str, values: &HashMap<(String, String), String>, depth: usize) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let reference = rest.strip_prefix('(').and_then(|reference| reference.split_once(")s"));
        let found = reference.and_then(|(name, behind)| {
            let value = [group, "DEFAULT"].iter().find_map(|group| values.get(&((*group).to_owned(), name.to_owned())));
            value.map(|value| (value, behind))
        });
        if let Some(behind) = rest.strip_prefix('%') {
            out.push('%');
            rest = behind;
        } else if let Some((value, behind)) = found.filter(|_| depth > 0) {
            // References in the path itself are not expanded.
            let is_path = reference.is_some_and(|(name, _)| ["here", "__file__"].contains(&name));
            if is_path {
                out.push_str(value)
            } else {
                out.push_str(&interpolated(group, value, values, depth - 1))
            }
            rest = behind;
        } else {
            out.push('%');
        }
    }
    out + rest
}
