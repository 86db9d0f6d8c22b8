//! A parser of the dialect of Python's `configparser`, in which paste files, configurations of Python's `logging`
//! and credentials of S3 clients are written.

use std::{fs, path::Path};

use super::{ConfigError, ini, secret::Secret};

/// Reads a file. The group of an entry is the name of its section, as it is written.
///
/// # Errors
/// The file cannot be read, or a line is not in the dialect.
pub(crate) fn read(path: &Path) -> Result<Vec<ini::Entry>, ConfigError> {
    let text = fs::read_to_string(path).map_err(|source| ConfigError::File { path: path.to_owned(), source })?;
    parse(&text).map_err(|error| ConfigError::Syntax {
        origin: format!("{}:{}", path.display(), error.line),
        message: error.message,
    })
}

/// Reads the dialect of Python's `configparser`: a line that is indented more than its option continues the value, even behind
/// comments and empty lines; what follows the bracket of a section's header is ignored; quotes belong to the value.
fn parse(text: &str) -> Result<Vec<ini::Entry>, ini::SyntaxError> {
    let mut entries: Vec<ini::Entry> = Vec::new();
    let mut section: Option<String> = None;
    // The indentation of the option that a line may continue.
    let mut open: Option<usize> = None;
    for (number, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
        let error = |message| ini::SyntaxError { line: number + 1, message };
        let indentation = line.len() - line.trim_start().len();
        let line = line.trim();
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        if let Some(entry) = entries.last_mut().filter(|_| open.is_some_and(|open| indentation > open)) {
            entry.value = Secret::new(format!("{}\n{line}", entry.value.expose()));
        } else if let Some((header, _)) = line.strip_prefix('[').and_then(|header| header.rsplit_once(']')) {
            section = Some(header.to_owned());
            open = None;
        } else {
            let at = line.find(['=', ':']).ok_or(error("neither a [section], nor name = value, nor a comment"))?;
            let (name, value) = (line[..at].trim(), line[at + 1..].trim());
            if name.is_empty() {
                return Err(error("a value without a name"));
            }
            let group = section.clone().ok_or(error("an option before the first [section]"))?;
            entries.push(ini::Entry { group, name: name.to_owned(), value: Secret::new(value), line: number + 1 });
            open = Some(indentation);
        }
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::parse;

    /// The results are those of Python's configparser, except that it keeps empty lines in values.
    #[test]
    fn the_dialect_is_that_of_configparser() {
        let text = "[a: b] # c\nx = 1\n# c\n  2\n\n  3\ny: \"q\"\n   z\n  [c]\n  w=4\n  v = a = b\n";
        let entries = parse(text).unwrap();
        let found: Vec<_> =
            entries.iter().map(|entry| (entry.group.as_str(), entry.name.as_str(), entry.value.expose())).collect();
        assert_eq!(found[..2], [("a: b", "x", "1\n2\n3"), ("a: b", "y", "\"q\"\nz\n[c]\nw=4\nv = a = b")]);
        assert!(parse("[a]\nnothing\n").is_err() && parse("x = 1\n").is_err() && parse("[a]\n= 1\n").is_err());
    }
}
