//! The operator's files: where they are, what is in them, and whether they changed.
//!
//! `policy_file` first, then the files of each of `policy_dirs` in the order of their names; a later one wins. A relative name
//! is looked for where oslo.config looks. YAML; JSON is YAML too.

use std::{
    collections::HashMap,
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, StrInput, Tag};

use super::parse::{self, Check};
use crate::config::OsloPolicy;

/// Bytes of a file at the most.
const MAX_BYTES: u64 = 1 << 20;
/// Texts that aliases stand for, in bytes: an alias of a long text costs little to write.
const MAX_ALIASED: usize = 1 << 20;

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("policy file {place}: {message}")]
pub(crate) struct PolicyError {
    place: String,
    message: String,
}

impl PolicyError {
    /// A mistake of this program.
    pub(super) fn internal(message: String) -> Self {
        Self { place: "of the program".to_owned(), message }
    }

    fn new(path: &Path, line: Option<usize>, message: impl ToString) -> Self {
        let place = match line {
            Some(line) => format!("{}:{line}", path.display()),
            None => path.display().to_string(),
        };
        Self { place, message: message.to_string() }
    }
}

/// A rule in a file.
#[derive(Debug)]
pub(super) struct Written {
    pub(super) name: String,
    /// The rule, as it was written; the list form in the form of today.
    pub(super) text: String,
    pub(super) check: Check,
    pub(super) path: Arc<Path>,
    /// From 1.
    pub(super) line: usize,
}

/// The files that there are at one time, as the file system tells them apart.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Files {
    /// `policy_file`, where there is one.
    pub(super) main: Option<PathBuf>,
    /// All, in order, with what changes when they do.
    all: Vec<(PathBuf, Stamp)>,
}

/// Device, inode, size, and when its content and anything else of it changed: seconds and nanoseconds.
type Stamp = [i128; 7];

impl Files {
    /// Looks which files there are.
    ///
    /// # Errors
    /// A file or folder that cannot be looked at.
    pub(super) fn look(options: &OsloPolicy, folders: &[PathBuf]) -> Result<Self, PolicyError> {
        let mut files = Self { main: find(folders, &options.policy_file), all: Vec::new() };
        if let Some(main) = &files.main {
            files.all.push((main.clone(), stamp(main)?));
        }
        for dir in options.policy_dirs.0.iter().filter_map(|dir| find(folders, dir)) {
            for path in files_in(&dir).map_err(|error| PolicyError::new(&dir, None, error))? {
                let stamp = stamp(&path)?;
                files.all.push((path, stamp));
            }
        }
        Ok(files)
    }

    /// Their paths, in order.
    pub(super) fn paths(&self) -> impl Iterator<Item = &Path> {
        self.all.iter().map(|(path, _)| path.as_path())
    }

    /// Reads them, in order; with the rules comes what the operator should know.
    ///
    /// # Errors
    /// The first file or rule that is wrong.
    pub(super) fn read(&self) -> Result<(Vec<Written>, Vec<String>), PolicyError> {
        let mut rules = Vec::new();
        let mut warnings = Vec::new();
        for path in self.paths() {
            let found = read(path)?;
            for (number, rule) in found.iter().enumerate() {
                if found[..number].iter().any(|before| before.name == rule.name) {
                    let (place, name) = (path.display(), &rule.name);
                    warnings
                        .push(format!("{place}:{}: policy rule {name:?} is here twice; this one counts", rule.line));
                }
            }
            rules.extend(found);
        }
        Ok((rules, warnings))
    }
}

/// The first that exists, if any: in the folders, or itself where it is absolute.
fn find(folders: &[PathBuf], name: &str) -> Option<PathBuf> {
    if name.is_empty() {
        return None;
    }
    if Path::new(name).is_absolute() {
        return Some(PathBuf::from(name)).filter(|path| path.exists());
    }
    folders.iter().map(|folder| folder.join(name)).find(|path| path.exists())
}

/// The files of a folder, but for hidden ones and other folders, in the order of their names.
fn files_in(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let is_hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
        if !is_hidden && !entry.path().is_dir() {
            files.push(entry.path());
        }
    }
    files.sort();
    Ok(files)
}

fn stamp(path: &Path) -> Result<Stamp, PolicyError> {
    let of = fs::metadata(path).map_err(|error| PolicyError::new(path, None, error))?;
    Ok([
        of.dev().into(),
        of.ino().into(),
        of.size().into(),
        of.mtime().into(),
        of.mtime_nsec().into(),
        of.ctime().into(),
        of.ctime_nsec().into(),
    ])
}

fn read(path: &Path) -> Result<Vec<Written>, PolicyError> {
    let error = |error: io::Error| PolicyError::new(path, None, error);
    if fs::metadata(path).map_err(error)?.len() > MAX_BYTES {
        return Err(PolicyError::new(path, None, format!("it has more than {MAX_BYTES} bytes")));
    }
    let text = fs::read_to_string(path).map_err(error)?;
    entries(&text, path)
}

/// What a file's text has.
fn entries(text: &str, path: &Path) -> Result<Vec<Written>, PolicyError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut yaml = Yaml { parser: Parser::new_from_str(text), anchors: HashMap::new(), aliased: 0 };
    let path: Arc<Path> = path.into();
    let told = |(line, message): Problem| PolicyError::new(&path, Some(line), message);
    let mut rules = Vec::new();
    for (line, name, value) in yaml.mapping().map_err(told)? {
        let wrong = |message: String| PolicyError::new(&path, Some(line), format!("rule {name:?}: {message}"));
        let (text, check) = rule(value).map_err(wrong)?;
        rules.push(Written { name, text, check, path: Arc::clone(&path), line });
    }
    Ok(rules)
}

/// A rule's value: a text, or a list of texts and lists of texts. No value is the empty rule, as for oslo.policy.
fn rule(value: Value) -> Result<(String, Check), String> {
    let items = match value {
        Value::Nothing => return Ok((String::new(), Check::Always)),
        Value::Text(text) => {
            let check = parse::text(&text)?;
            return Ok((text, check));
        }
        Value::List(items) => items,
    };
    let mut lists = Vec::new();
    for item in items {
        lists.push(match item {
            Value::Nothing => Vec::new(),
            Value::Text(text) if text.is_empty() => Vec::new(),
            Value::Text(text) => vec![text],
            Value::List(texts) => {
                let texts = texts.into_iter().map(|text| match text {
                    Value::Text(text) => Ok(text),
                    Value::Nothing | Value::List(_) => Err("a list in a list has texts in it".to_owned()),
                });
                texts.collect::<Result<_, _>>()?
            }
        });
    }
    let check = parse::list(&lists)?;
    Ok((check.to_string(), check))
}

/// What a rule may be in YAML.
#[derive(Debug, Clone)]
enum Value {
    Nothing,
    Text(String),
    List(Vec<Value>),
}

/// A line, from 1, and what is wrong there.
type Problem = (usize, String);

/// The part of YAML that a policy file is written in: one mapping of texts to texts and lists.
struct Yaml<'t> {
    parser: Parser<'t, StrInput<'t>>,
    anchors: HashMap<usize, Value>,
    aliased: usize,
}

impl<'t> Yaml<'t> {
    fn next(&mut self) -> Result<(Event<'t>, usize), Problem> {
        let scanned = |error: ScanError| (error.marker().line(), format!("not YAML: {}", error.info()));
        match self.parser.next_event() {
            Some(event) => event.map(|(event, span)| (event, span.start.line())).map_err(scanned),
            None => Ok((Event::StreamEnd, 1)),
        }
    }

    /// The whole file: lines, names and values.
    fn mapping(&mut self) -> Result<Vec<(usize, String, Value)>, Problem> {
        let mut entries = Vec::new();
        loop {
            match self.next()? {
                (Event::StreamStart | Event::DocumentStart(_), _) => {}
                (Event::StreamEnd, _) => return Ok(entries),
                (Event::MappingStart(..), _) => break,
                // Nothing but comments.
                (Event::Scalar(text, style, _, None), _) if is_nothing(&text, style) => {}
                (Event::DocumentEnd, _) => {}
                (_, line) => return Err((line, "names and rules are wanted: \"name\": \"rule\"".to_owned())),
            }
        }
        loop {
            let (event, line) = self.next()?;
            let name = match event {
                Event::MappingEnd => break,
                Event::Scalar(name, ..) => name.into_owned(),
                _ => return Err((line, "a rule's name is a text".to_owned())),
            };
            let (event, _) = self.next()?;
            let value = self.value(event, line, 0)?;
            entries.push((line, name, value));
        }
        loop {
            match self.next()? {
                (Event::DocumentEnd, _) => {}
                (Event::StreamEnd, _) => return Ok(entries),
                (_, line) => return Err((line, "there is a second document".to_owned())),
            }
        }
    }

    fn value(&mut self, event: Event<'t>, line: usize, depth: usize) -> Result<Value, Problem> {
        let (anchor, value) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                untagged(tag.as_deref(), line)?;
                (anchor, if is_nothing(&text, style) { Value::Nothing } else { Value::Text(text.into_owned()) })
            }
            Event::SequenceStart(anchor, tag) if depth < 2 => {
                untagged(tag.as_deref(), line)?;
                let mut items = Vec::new();
                loop {
                    match self.next()? {
                        (Event::SequenceEnd, _) => break,
                        (event, line) => items.push(self.value(event, line, depth + 1)?),
                    }
                }
                (anchor, Value::List(items))
            }
            Event::Alias(anchor) => match self.anchors.get(&anchor) {
                Some(Value::Text(text)) if self.aliased + text.len() <= MAX_ALIASED => {
                    self.aliased += text.len();
                    return Ok(Value::Text(text.clone()));
                }
                _ => return Err((line, "an alias stands for a text that is not too long".to_owned())),
            },
            _ => return Err((line, "a rule is a text, or a list of texts and lists of texts".to_owned())),
        };
        if anchor != 0 {
            self.anchors.insert(anchor, value.clone());
        }
        Ok(value)
    }
}

fn is_nothing(text: &str, style: ScalarStyle) -> bool {
    style == ScalarStyle::Plain && ["", "~", "null", "Null", "NULL"].contains(&text)
}

/// `!` without quotes is a tag, and leaves an empty rule, which lets everybody: not what was meant.
fn untagged(tag: Option<&Tag>, line: usize) -> Result<(), Problem> {
    match tag {
        None => Ok(()),
        Some(tag) if tag.is_yaml_core_schema() && tag.suffix == "str" => Ok(()),
        Some(_) => Err((line, "a rule that begins with ! is written in quotes".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::entries;

    fn read(text: &str) -> Result<Vec<(String, String, usize)>, String> {
        let rules = entries(text, Path::new("p.yaml")).map_err(|error| error.to_string())?;
        Ok(rules.into_iter().map(|rule| (rule.name, rule.text, rule.line)).collect())
    }

    #[test]
    fn yaml_and_json_are_read() {
        let rule = |name: &str, text: &str, line| (name.to_owned(), text.to_owned(), line);
        let yaml =
            "# why\n\"a\": \"role:a\"\nb: role:b or\n  rule:a\nc:\nd: [[role:a, role:b], role:c]\ne: &x '!'\nf: *x\n";
        let expected = vec![
            rule("a", "role:a", 2),
            rule("b", "role:b or rule:a", 3),
            rule("c", "", 5),
            rule("d", "((role:a and role:b) or role:c)", 6),
            rule("e", "!", 7),
            rule("f", "!", 8),
        ];
        assert_eq!(read(yaml), Ok(expected));
        let json = "{\n\t\"a\": \"@\",\n\t\"b\": []\n}\n";
        assert_eq!(read(json), Ok(vec![rule("a", "@", 2), rule("b", "@", 3)]));
        for nothing in ["", "# a comment\n", "---\n", "null\n", "{}", "\u{feff}"] {
            assert_eq!(read(nothing), Ok(vec![]), "{nothing:?}");
        }
    }

    #[test]
    fn what_is_wrong_is_told_with_file_line_and_rule() {
        for (text, expected) in [
            ("a: role:a\nb: http://x/y\n", "policy file p.yaml:2: rule \"b\": http://x/y: Glimpse does not ask"),
            ("a: !\n", "policy file p.yaml:1: a rule that begins with ! is written in quotes"),
            ("a: [1, [b, [c]]]\n", "policy file p.yaml:1: a rule is a text, or a list"),
            ("a: {b: c}\n", "policy file p.yaml:1: a rule is a text, or a list"),
            ("a: true\n", "rule \"a\": \"true\" is not kind:match"),
            ("a: [b, [null]]\n", "rule \"a\": a list in a list has texts in it"),
            ("a: @\n", "policy file p.yaml:1: not YAML"),
            ("a: \"@\n", "not YAML"),
            ("- a\n", "policy file p.yaml:1: names and rules are wanted"),
            ("a: '@'\n---\nb: '@'\n", "there is a second document"),
            ("a: &x [role:b]\nb: *x\n", "policy file p.yaml:2: an alias stands for a text"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(expected), "{text:?}: {error}");
        }
        let long = format!("a: &x '{}'\nb: [{}]\n", "x".repeat(100_000), "*x, ".repeat(100));
        assert!(read(&long).is_err());
    }
}
