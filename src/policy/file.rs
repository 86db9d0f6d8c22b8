//! The operator's policy files: finds and parses them, and detects changes.
//!
//! `policy_file` is read first, then the files in each of `policy_dirs`, in alphabetical order. Later rules override earlier ones.
//! A relative name is searched for in the same directories as by oslo.config. The files are in YAML, of which JSON is a subset.

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

/// The maximum size of a policy file in bytes.
const MAX_BYTES: u64 = 1 << 20;
/// The maximum total size in bytes of the strings that a file's aliases expand to. Without it, a short file with many aliases of a
/// long string would take much memory.
const MAX_ALIASED: usize = 1 << 20;

/// A policy file cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("policy file {place}: {message}")]
pub(crate) struct PolicyError {
    place: String,
    message: String,
}

impl PolicyError {
    /// A bug in Glimpse: one of its own rules is invalid.
    pub(super) fn internal(message: String) -> Self {
        Self { place: "(built in)".to_owned(), message }
    }

    fn new(path: &Path, line: Option<usize>, message: impl ToString) -> Self {
        let place = match line {
            Some(line) => format!("{}:{line}", path.display()),
            None => path.display().to_string(),
        };
        Self { place, message: message.to_string() }
    }
}

/// A rule that a file defines.
#[derive(Debug)]
pub(super) struct FileRule {
    pub(super) name: String,
    /// The rule as it is written. The list form is converted to the current form.
    pub(super) text: String,
    pub(super) check: Check,
    pub(super) path: Arc<Path>,
    /// Counted from 1.
    pub(super) line: usize,
}

/// A snapshot of the policy files. Two snapshots are equal if no file was added, removed or changed in between.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Files {
    /// The path of `policy_file`, if it exists.
    pub(super) main: Option<PathBuf>,
    /// All files in the order of evaluation, with their stamps.
    all: Vec<(PathBuf, Stamp)>,
}

/// Identifies a version of a file: device, inode, size, and the times of its last modification and status change, each in seconds
/// and nanoseconds.
type Stamp = [i128; 7];

impl Files {
    /// Takes a snapshot of the policy files.
    ///
    /// # Errors
    /// If a file or directory cannot be inspected.
    pub(super) fn scan(options: &OsloPolicy, folders: &[PathBuf]) -> Result<Self, PolicyError> {
        let mut files = Self { main: find_existing(folders, &options.policy_file), all: Vec::new() };
        if let Some(main) = &files.main {
            files.all.push((main.clone(), stamp(main)?));
        }
        for dir in options.policy_dirs.0.iter().filter_map(|dir| find_existing(folders, dir)) {
            for path in files_in(&dir).map_err(|error| PolicyError::new(&dir, None, error))? {
                let stamp = stamp(&path)?;
                files.all.push((path, stamp));
            }
        }
        Ok(files)
    }

    /// The paths of the files, in order.
    pub(super) fn paths(&self) -> impl Iterator<Item = &Path> {
        self.all.iter().map(|(path, _)| path.as_path())
    }

    /// Reads the rules of all files, in order. Also returns warnings for the operator.
    ///
    /// # Errors
    /// The first file or rule that is invalid.
    pub(super) fn read_rules(&self) -> Result<(Vec<FileRule>, Vec<String>), PolicyError> {
        let mut rules = Vec::new();
        let mut warnings = Vec::new();
        for path in self.paths() {
            let found = read_file(path)?;
            for (number, rule) in found.iter().enumerate() {
                if found[..number].iter().any(|before| before.name == rule.name) {
                    let (path, name) = (path.display(), &rule.name);
                    let line = rule.line;
                    warnings.push(format!("{path}:{line}: policy rule {name:?} is defined twice; this one is used"));
                }
            }
            rules.extend(found);
        }
        Ok((rules, warnings))
    }
}

/// The path of a file or directory, if it exists: an absolute name itself, or a relative one in the first folder that has it.
fn find_existing(folders: &[PathBuf], name: &str) -> Option<PathBuf> {
    if name.is_empty() {
        return None;
    }
    if Path::new(name).is_absolute() {
        return Some(PathBuf::from(name)).filter(|path| path.exists());
    }
    folders.iter().map(|folder| folder.join(name)).find(|path| path.exists())
}

/// The files in a directory in alphabetical order, without hidden files and subdirectories.
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
    let metadata = fs::metadata(path).map_err(|error| PolicyError::new(path, None, error))?;
    Ok([
        metadata.dev().into(),
        metadata.ino().into(),
        metadata.size().into(),
        metadata.mtime().into(),
        metadata.mtime_nsec().into(),
        metadata.ctime().into(),
        metadata.ctime_nsec().into(),
    ])
}

fn read_file(path: &Path) -> Result<Vec<FileRule>, PolicyError> {
    let error = |error: io::Error| PolicyError::new(path, None, error);
    if fs::metadata(path).map_err(error)?.len() > MAX_BYTES {
        return Err(PolicyError::new(path, None, format!("the file is larger than {MAX_BYTES} bytes")));
    }
    let text = fs::read_to_string(path).map_err(error)?;
    parse_file(&text, path)
}

/// Parses the content of a file.
fn parse_file(text: &str, path: &Path) -> Result<Vec<FileRule>, PolicyError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut yaml = Yaml { parser: Parser::new_from_str(text), anchors: HashMap::new(), aliased: 0 };
    let path: Arc<Path> = path.into();
    let syntax = |(line, message): Problem| PolicyError::new(&path, Some(line), message);
    let mut rules = Vec::new();
    for (line, name, node) in yaml.parse_mapping().map_err(syntax)? {
        let wrong = |message: String| PolicyError::new(&path, Some(line), format!("rule {name:?}: {message}"));
        let (text, check) = parse_rule_node(node).map_err(wrong)?;
        rules.push(FileRule { name, text, check, path: Arc::clone(&path), line });
    }
    Ok(rules)
}

/// Parses the node of a rule: a string, or a list of strings and lists of strings. As in oslo.policy, no value is an empty rule.
fn parse_rule_node(node: Node) -> Result<(String, Check), String> {
    let items = match node {
        Node::Nothing => return Ok((String::new(), Check::Always)),
        Node::Text(text) => {
            let check = parse::parse_rule(&text)?;
            return Ok((text, check));
        }
        Node::List(items) => items,
    };
    let mut lists = Vec::new();
    for item in items {
        lists.push(match item {
            Node::Nothing => Vec::new(),
            Node::Text(text) if text.is_empty() => Vec::new(),
            Node::Text(text) => vec![text],
            Node::List(texts) => {
                let texts = texts.into_iter().map(|text| match text {
                    Node::Text(text) => Ok(text),
                    Node::Nothing | Node::List(_) => Err("a nested list must contain only strings".to_owned()),
                });
                texts.collect::<Result<_, _>>()?
            }
        });
    }
    let check = parse::parse_list_form(&lists)?;
    Ok((check.to_string(), check))
}

/// A YAML node, as far as rules need them.
#[derive(Debug, Clone)]
enum Node {
    Nothing,
    Text(String),
    List(Vec<Node>),
}

/// A syntax error: the line, counted from 1, and the message.
type Problem = (usize, String);

/// Parses the subset of YAML that policy files use: one mapping of strings to strings and lists.
struct Yaml<'t> {
    parser: Parser<'t, StrInput<'t>>,
    anchors: HashMap<usize, Node>,
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

    /// Parses the whole file into lines, names and nodes.
    fn parse_mapping(&mut self) -> Result<Vec<(usize, String, Node)>, Problem> {
        let mut entries = Vec::new();
        loop {
            match self.next()? {
                (Event::StreamStart | Event::DocumentStart(_), _) => {}
                (Event::StreamEnd, _) => return Ok(entries),
                (Event::MappingStart(..), _) => break,
                // The file has only comments.
                (Event::Scalar(text, style, _, None), _) if is_nothing(&text, style) => {}
                (Event::DocumentEnd, _) => {}
                (_, line) => {
                    return Err((line, "names with rules are expected: \"name\": \"rule\"".to_owned()));
                }
            }
        }
        loop {
            let (event, line) = self.next()?;
            let name = match event {
                Event::MappingEnd => break,
                Event::Scalar(name, ..) => name.into_owned(),
                _ => return Err((line, "the name of a rule must be a string".to_owned())),
            };
            let (event, _) = self.next()?;
            let node = self.parse_node(event, line, 0)?;
            entries.push((line, name, node));
        }
        loop {
            match self.next()? {
                (Event::DocumentEnd, _) => {}
                (Event::StreamEnd, _) => return Ok(entries),
                (_, line) => return Err((line, "the file must contain only one document".to_owned())),
            }
        }
    }

    fn parse_node(&mut self, event: Event<'t>, line: usize, depth: usize) -> Result<Node, Problem> {
        let (anchor, node) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                check_tag(tag.as_deref(), line)?;
                (anchor, if is_nothing(&text, style) { Node::Nothing } else { Node::Text(text.into_owned()) })
            }
            Event::SequenceStart(anchor, tag) if depth < 2 => {
                check_tag(tag.as_deref(), line)?;
                let mut items = Vec::new();
                loop {
                    match self.next()? {
                        (Event::SequenceEnd, _) => break,
                        (event, line) => items.push(self.parse_node(event, line, depth + 1)?),
                    }
                }
                (anchor, Node::List(items))
            }
            Event::Alias(anchor) => match self.anchors.get(&anchor) {
                Some(Node::Text(text)) if self.aliased + text.len() <= MAX_ALIASED => {
                    self.aliased += text.len();
                    return Ok(Node::Text(text.clone()));
                }
                _ => {
                    return Err((line, "an alias must refer to a string of limited length".to_owned()));
                }
            },
            _ => return Err((line, "a rule must be a string, or a list of strings and lists of strings".to_owned())),
        };
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }
}

fn is_nothing(text: &str, style: ScalarStyle) -> bool {
    style == ScalarStyle::Plain && ["", "~", "null", "Null", "NULL"].contains(&text)
}

/// Rejects tags other than `!!str`. The operator who writes `!` without quotes means "never", but in YAML it is a tag on an empty
/// rule, which would allow everyone.
fn check_tag(tag: Option<&Tag>, line: usize) -> Result<(), Problem> {
    match tag {
        None => Ok(()),
        Some(tag) if tag.is_yaml_core_schema() && tag.suffix == "str" => Ok(()),
        Some(_) => Err((line, "a rule that begins with ! must be quoted".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::parse_file;

    fn parse(text: &str) -> Result<Vec<(String, String, usize)>, String> {
        let rules = parse_file(text, Path::new("p.yaml")).map_err(|error| error.to_string())?;
        Ok(rules.into_iter().map(|rule| (rule.name, rule.text, rule.line)).collect())
    }

    #[test]
    fn yaml_and_json_are_parsed() {
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
        assert_eq!(parse(yaml), Ok(expected));
        let json = "{\n\t\"a\": \"@\",\n\t\"b\": []\n}\n";
        assert_eq!(parse(json), Ok(vec![rule("a", "@", 2), rule("b", "@", 3)]));
        for nothing in ["", "# a comment\n", "---\n", "null\n", "{}", "\u{feff}"] {
            assert_eq!(parse(nothing), Ok(vec![]), "{nothing:?}");
        }
    }

    #[test]
    fn errors_name_the_file_the_line_and_the_rule() {
        for (text, expected) in [
            ("a: role:a\nb: http://x/y\n", "policy file p.yaml:2: rule \"b\": http://x/y: Glimpse does not support"),
            ("a: !\n", "policy file p.yaml:1: a rule that begins with ! must be quoted"),
            ("a: [1, [b, [c]]]\n", "policy file p.yaml:1: a rule must be a string, or a list"),
            ("a: {b: c}\n", "policy file p.yaml:1: a rule must be a string, or a list"),
            ("a: true\n", "rule \"a\": \"true\" is not of the form kind:match"),
            ("a: [b, [null]]\n", "rule \"a\": a nested list must contain only strings"),
            ("a: @\n", "policy file p.yaml:1: not YAML"),
            ("a: \"@\n", "not YAML"),
            ("- a\n", "policy file p.yaml:1: names with rules are expected"),
            ("a: '@'\n---\nb: '@'\n", "the file must contain only one document"),
            ("a: &x [role:b]\nb: *x\n", "policy file p.yaml:2: an alias must refer to a string"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(expected), "{text:?}: {error}");
        }
        let long = format!("a: &x '{}'\nb: [{}]\n", "x".repeat(100_000), "*x, ".repeat(100));
        assert!(parse(&long).is_err());
    }
}
