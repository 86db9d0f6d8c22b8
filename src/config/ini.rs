//! A parser of oslo.config's dialect of INI.
//!
//! A file has `[group]` headers, and options in the form `name = value` or `name : value`. A line that starts with white space
//! continues the value above. Lines that start with `#` or `;` are comments. A comment or an empty line ends a value. Quotes around
//! the first line of a value are removed. An option that is repeated has several values.

use super::secret::Secret;

/// A value, and its position in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The group, in lower case, except for `DEFAULT`.
    pub(crate) group: String,
    /// The option's name.
    pub(crate) name: String,
    /// The value, without the quotes around it. It may be a password: at this point, the options are not known.
    pub(crate) value: Secret,
    /// The number of its first line, from 1.
    pub(crate) line: usize,
}

/// A line that is not in the dialect.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct SyntaxError {
    /// The number of the line, from 1.
    pub(crate) line: usize,
    /// What is wrong with it.
    pub(crate) message: &'static str,
}

/// Parses the text of a file. The entries are in the order of the file.
pub(crate) fn parse(text: &str) -> Result<Vec<Entry>, SyntaxError> {
    let mut entries: Vec<Entry> = Vec::new();
    let mut group: Option<String> = None;
    // Whether a continuation line belongs to the last entry.
    let mut open = false;
    // Some editors write a byte order mark.
    for (number, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
        let number = number + 1;
        let error = |message| SyntaxError { line: number, message };
        let line = line.trim_end();
        if line.is_empty() || line.starts_with(['#', ';']) {
            open = false;
        } else if line.starts_with([' ', '\t']) {
            let entry = entries.last_mut().filter(|_| open).ok_or(error("a continuation line without an option"))?;
            entry.value = Secret::new(format!("{}\n{}", entry.value.expose(), line.trim_start()));
        } else if let Some(header) = line.strip_prefix('[') {
            let name = header.strip_suffix(']').ok_or(error("a [group] without its closing bracket"))?;
            if name.is_empty() {
                return Err(error("a [group] without a name"));
            }
            group = Some(if name == "DEFAULT" { name.to_owned() } else { name.to_lowercase() });
            open = false;
        } else {
            let at = line.find(['=', ':']).ok_or(error("neither a [group], nor name = value, nor a comment"))?;
            let (name, value) = (line[..at].trim(), line[at + 1..].trim());
            if name.is_empty() {
                return Err(error("a value without a name"));
            }
            let group = group.clone().ok_or(error("an option before the first [group]"))?;
            entries.push(Entry { group, name: name.to_owned(), value: Secret::new(unquote(value)), line: number });
            open = true;
        }
    }
    Ok(entries)
}

/// Removes a pair of quotes around a value. As in oslo.config, a single quote alone becomes an empty value.
fn unquote(value: &str) -> &str {
    for quote in ['"', '\''] {
        if let Some(rest) = value.strip_prefix(quote).filter(|_| value.ends_with(quote)) {
            return rest.strip_suffix(quote).unwrap_or_default();
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use super::parse;

    fn values(text: &str) -> Vec<(String, String, String, usize)> {
        parse(text).unwrap().into_iter().map(|e| (e.group, e.name, e.value.expose().to_owned(), e.line)).collect()
    }

    fn value(text: &str) -> String {
        values(&format!("[a]\nx = {text}\n")).remove(0).2
    }

    #[test]
    fn groups_names_and_values_are_parsed() {
        let text = "# c\n[DEFAULT]\nbind_port = 9292\n; c\nname: \"quoted # value\"\n[Database]\nconnection=a=b:c\n";
        let expected = [
            ("DEFAULT", "bind_port", "9292", 3),
            ("DEFAULT", "name", "quoted # value", 5),
            ("database", "connection", "a=b:c", 7),
        ];
        let expected: Vec<_> = expected.map(|(g, n, v, l)| (g.into(), n.into(), v.into(), l)).into();
        assert_eq!(values(text), expected);
    }

    /// The results are those of oslo.config.
    #[test]
    fn values_are_parsed_as_in_oslo_config() {
        let cases = [
            ("\"q\"", "q"),
            ("'q'", "q"),
            ("\"q", "\"q"),
            ("q\"", "q\""),
            ("\"", ""),
            ("\"\"", ""),
            ("\"a\" \"b\"", "a\" \"b"),
            ("\" a \"", " a "),
            ("\"'n'\"", "'n'"),
            ("a # b ; c", "a # b ; c"),
            ("# a", "# a"),
            ("1\\", "1\\"),
            ("1\n  # 2", "1\n# 2"),
            ("\"1\n  2\"", "\"1\n2\""),
            ("\"1\"\n  2", "1\n2"),
            ("\n  2\n\t3", "\n2\n3"),
            ("1\r\n  2\r", "1\n2"),
            (":= 1", ":= 1"),
        ];
        for (text, expected) in cases {
            assert_eq!(value(text), expected, "{text:?}");
        }
        assert_eq!(values("[a]\nx := 1\n")[0].2, "= 1");
    }

    /// oslo.config rejects all of these files, too.
    #[test]
    fn syntax_errors_have_a_line_number() {
        let line = |text: &str| parse(text).unwrap_err().line;
        assert_eq!(line("x = 1\n"), 1);
        assert_eq!(line("[a]\nx = 1\n\n  y\n"), 4);
        assert_eq!(line("[a]\nx = 1\n# between\n  y\n"), 4);
        assert_eq!(line("[a]\nx = 1\n[a]\n  y\n"), 4);
        assert_eq!(line("[a]\n x = 1\n"), 2);
        assert_eq!(line("[a]\n[b\n"), 2);
        assert_eq!(line("[a] # c\n"), 1);
        assert_eq!(line("[]\n"), 1);
        assert_eq!(line("[a]\nnonsense\n"), 2);
        assert_eq!(line("[a]\n= 1\n"), 2);
    }
}
