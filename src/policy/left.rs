//! The left side of `kind:match`: a Python literal, or the name of one of the caller's credentials.

use std::fmt;

/// The left side of a comparison.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Left {
    /// A literal: as it is written, and its value in the form that Python's `str` gives it.
    Constant(String, String),
    /// The name of a credential.
    Credential(String),
}

impl fmt::Display for Left {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Constant(written, _) => f.write_str(written),
            Self::Credential(name) => f.write_str(name),
        }
    }
}

/// Parses a left side. oslo.policy accepts any Python literal. Glimpse accepts those that are used in practice: quoted strings,
/// integers and decimal numbers, `True`, `False` and `None`.
///
/// # Errors
/// If the text is neither a literal nor a name.
pub(super) fn parse(kind: &str) -> Result<Left, String> {
    let constant = match kind {
        "True" | "False" | "None" => Some(kind.to_owned()),
        _ => parse_string(kind).or_else(|| parse_number(kind)),
    };
    if let Some(constant) = constant {
        return Ok(Left::Constant(kind.to_owned(), constant));
    }
    let is_name = kind.starts_with(|c: char| c.is_alphabetic() || c == '_') && !kind.contains(['\'', '"', '\\']);
    if is_name {
        Ok(Left::Credential(kind.to_owned()))
    } else {
        Err(format!("{kind:?} is neither a constant nor the name of a credential"))
    }
}

/// The value of a quoted string.
fn parse_string(literal: &str) -> Option<String> {
    let quote = literal.chars().next().filter(|c| ['\'', '"'].contains(c))?;
    let inner = literal.get(1..)?.strip_suffix(quote)?;
    let mut text = String::new();
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        text.push(match c {
            '\\' => match chars.next()? {
                'n' => '\n',
                'r' => '\r',
                't' => '\t',
                c @ ('\\' | '\'' | '"') => c,
                _ => return None,
            },
            c if c == quote => return None,
            c => c,
        });
    }
    Some(text)
}

/// The value of a number, in the form that Python's `str` gives it.
fn parse_number(literal: &str) -> Option<String> {
    let (minus, digits) = match literal.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", literal.strip_prefix('+').unwrap_or(literal)),
    };
    let all = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let is_long = digits.len() > 15;
    match digits.split_once('.') {
        Some((whole, fraction)) if all(whole) && all(fraction) && !is_long => {
            let value: f64 = format!("{minus}{digits}").parse().ok()?;
            // Python formats smaller numbers with an exponent.
            (value == 0.0 || value.abs() >= 1e-4).then(|| format!("{value:?}"))
        }
        None if all(digits) && digits.bytes().all(|byte| byte == b'0') => Some("0".to_owned()),
        None if all(digits) && !digits.starts_with('0') => Some(format!("{minus}{digits}")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{Left, parse};

    #[test]
    fn literals_have_the_values_of_python() {
        for (kind, constant) in [
            ("None", "None"),
            ("True", "True"),
            ("20", "20"),
            ("-7", "-7"),
            ("+7", "7"),
            ("00", "0"),
            ("1.50", "1.5"),
            ("-0.0", "-0.0"),
            ("'a.b'", "a.b"),
            ("\"it's\"", "it's"),
            (r"'it\'s'", "it's"),
            ("''", ""),
        ] {
            assert_eq!(parse(kind), Ok(Left::Constant(kind.to_owned(), constant.to_owned())), "{kind}");
        }
    }

    #[test]
    fn other_names_are_credentials() {
        for kind in ["user_id", "user.id", "true", "_x", "a-b"] {
            assert_eq!(parse(kind), Ok(Left::Credential(kind.to_owned())), "{kind}");
        }
        for kind in ["", "'", "'a", "'a''b'", "012", "1e3", "[1]", "u'x'", "-", "é'"] {
            assert!(parse(kind).is_err(), "{kind}");
        }
    }
}
