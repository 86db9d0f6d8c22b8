//! References to other options in a value: `$option`, `${option}`, `$group.option` and `${group.option}`, as in oslo.config. `$$`
//! and `\$` are a dollar sign. A dollar sign that no name follows is left as it is.

/// Replaces each reference by the option's value, which `value_of` returns.
///
/// # Errors
/// The first error of `value_of`.
pub(super) fn substitute(
    text: &str,
    mut value_of: impl FnMut(&str) -> Result<String, String>,
) -> Result<String, String> {
    let text = text.replace("\\$", "$$");
    let mut out = String::with_capacity(text.len());
    let mut rest = text.as_str();
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = split_name(rest) {
            out.push_str(&value_of(name)?);
            rest = after;
        } else {
            out.push('$');
        }
    }
    out.push_str(rest);
    Ok(out)
}

/// The name at the start of the text, with or without braces, and the text behind it.
fn split_name(text: &str) -> Option<(&str, &str)> {
    let braced = text.strip_prefix('{');
    let name = braced.unwrap_or(text);
    if !name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') {
        return None;
    }
    let end = name.find(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != '.').unwrap_or(name.len());
    let (name, after) = name.split_at(end);
    if braced.is_some() { Some((name, after.strip_prefix('}')?)) } else { Some((name, after)) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::substitute;

    fn filled(text: &str) -> Result<String, String> {
        substitute(text, |name| match name {
            "b" => Ok("bee".to_owned()),
            "g.c" => Ok("see".to_owned()),
            other => Err(other.to_owned()),
        })
    }

    /// The results are those of oslo.config.
    #[test]
    fn references_are_recognised_as_in_oslo_config() {
        let cases = [
            ("$b", "bee"),
            ("${b}", "bee"),
            ("$g.c", "see"),
            ("${g.c}", "see"),
            ("$b-$b", "bee-bee"),
            ("$$b", "$b"),
            ("$$$b", "$bee"),
            ("\\$b", "$b"),
            ("$1", "$1"),
            ("$", "$"),
            ("a$", "a$"),
            ("$ b", "$ b"),
            ("${", "${"),
            ("${}", "${}"),
            ("${b", "${b"),
            ("${b-c}", "${b-c}"),
        ];
        for (text, expected) in cases {
            assert_eq!(filled(text).as_deref(), Ok(expected), "{text}");
        }
        for (text, name) in [("$B", "B"), ("$b.", "b."), ("$b.c", "b.c"), ("$b_", "b_"), ("$_x", "_x")] {
            assert_eq!(filled(text), Err(name.to_owned()), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_value_causes_a_panic(text in any::<String>()) {
            let _ = substitute(&text, |_| Ok(String::new()));
        }
    }
}
