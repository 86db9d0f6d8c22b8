//! Values as Python writes them, `repr` and `pprint`: clients know Glance's messages, which have both in them.

use std::borrow::Cow;

use serde_json::Value;
use unicode_properties::{GeneralCategory, UnicodeGeneralCategory as _};

/// Columns of a pretty text, as jsonschema asks for.
const WIDTH: usize = 72;

/// Characters up to a bound. `None` from what writes to it says that there was no room, and that the rest is lost.
struct Bounded {
    text: String,
    room: usize,
}

impl Bounded {
    fn new(room: usize) -> Self {
        Self { text: String::new(), room }
    }

    fn push(&mut self, c: char) -> Option<()> {
        self.room = self.room.checked_sub(1)?;
        self.text.push(c);
        Some(())
    }

    fn push_str(&mut self, text: &str) -> Option<()> {
        text.chars().try_for_each(|c| self.push(c))
    }

    fn line(&mut self, indent: usize) -> Option<()> {
        self.push('\n')?;
        (0..indent).try_for_each(|_| self.push(' '))
    }

    /// The text, with `…` where it was cut.
    fn cut(self, written: Option<()>) -> String {
        if written.is_some() { self.text } else { self.text + "…" }
    }

    fn repr(&mut self, value: &Value) -> Option<()> {
        match value {
            Value::Null => self.push_str("None"),
            Value::Bool(true) => self.push_str("True"),
            Value::Bool(false) => self.push_str("False"),
            Value::Number(number) => match number.as_f64().filter(|_| number.is_f64()) {
                Some(float) => self.push_str(&float_repr(float)),
                None => self.push_str(&number.to_string()),
            },
            Value::String(text) => self.text_repr(text),
            Value::Array(items) => {
                self.push('[')?;
                for (n, item) in items.iter().enumerate() {
                    self.push_str(if n == 0 { "" } else { ", " })?;
                    self.repr(item)?;
                }
                self.push(']')
            }
            Value::Object(entries) => {
                self.push('{')?;
                for (n, (name, value)) in entries.iter().enumerate() {
                    self.push_str(if n == 0 { "" } else { ", " })?;
                    self.text_repr(name)?;
                    self.push_str(": ")?;
                    self.repr(value)?;
                }
                self.push('}')
            }
        }
    }

    fn text_repr(&mut self, text: &str) -> Option<()> {
        let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
        self.push(quote)?;
        for c in text.chars() {
            match c {
                '\n' => self.push_str("\\n")?,
                '\r' => self.push_str("\\r")?,
                '\t' => self.push_str("\\t")?,
                c if c == '\\' || c == quote => {
                    self.push('\\')?;
                    self.push(c)?;
                }
                c if is_printable(c) => self.push(c)?,
                c => self.push_str(&match u32::from(c) {
                    code @ ..=0xff => format!("\\x{code:02x}"),
                    code @ ..=0xffff => format!("\\u{code:04x}"),
                    code => format!("\\U{code:08x}"),
                })?,
            }
        }
        self.push(quote)
    }

    /// `indent` and `allowance` are the columns that are taken on the left, and on the right of the last line.
    fn pretty(&mut self, value: &Value, indent: usize, allowance: usize, is_root: bool) -> Option<()> {
        // The width is looked at before anything longer than it is written.
        let mut line = Bounded::new(WIDTH.saturating_sub(indent + allowance));
        if line.repr(value).is_some() {
            return self.push_str(&line.text);
        }
        match value {
            Value::Array(items) => {
                self.push('[')?;
                for (n, item) in items.iter().enumerate() {
                    if n > 0 {
                        self.push(',')?;
                        self.line(indent + 1)?;
                    }
                    self.pretty(item, indent + 1, if n + 1 == items.len() { allowance + 1 } else { 1 }, false)?;
                }
                self.push(']')
            }
            Value::Object(entries) => {
                self.push('{')?;
                for (n, (name, value)) in entries.iter().enumerate() {
                    if n > 0 {
                        self.push(',')?;
                        self.line(indent + 1)?;
                    }
                    let room = self.room;
                    self.text_repr(name)?;
                    let taken = room - self.room;
                    self.push_str(": ")?;
                    let allowance = if n + 1 == entries.len() { allowance + 1 } else { 1 };
                    self.pretty(value, indent + 1 + taken + 2, allowance, false)?;
                }
                self.push('}')
            }
            Value::String(text) if !text.is_empty() => self.pretty_text(text, indent, allowance, is_root),
            scalar => self.repr(scalar),
        }
    }

    /// A text that is too long for its line: cut at its line ends, then at its spaces.
    fn pretty_text(&mut self, text: &str, indent: usize, allowance: usize, is_root: bool) -> Option<()> {
        let (indent, allowance) = if is_root { (indent + 1, allowance + 1) } else { (indent, allowance) };
        let width = WIDTH.saturating_sub(indent);
        let fits = |text: &str, width: usize| Bounded::new(width).text_repr(text).is_some();
        let mut chunks: Vec<Cow<'_, str>> = Vec::new();
        let lines = split_after(text, ends_line);
        for (n, line) in lines.iter().enumerate() {
            let is_last = n + 1 == lines.len();
            if fits(line, if is_last { width.saturating_sub(allowance) } else { width }) {
                chunks.push(Cow::Borrowed(line));
                continue;
            }
            let words = split_after(line, |c, next| is_space(c) && next.is_some_and(|next| !is_space(next)));
            let mut current = String::new();
            for (n, word) in words.iter().enumerate() {
                let width = if is_last && n + 1 == words.len() { width.saturating_sub(allowance) } else { width };
                let candidate = format!("{current}{word}");
                if fits(&candidate, width) {
                    current = candidate;
                } else {
                    if !current.is_empty() {
                        chunks.push(Cow::Owned(current));
                    }
                    current = (*word).to_owned();
                }
            }
            if !current.is_empty() {
                chunks.push(Cow::Owned(current));
            }
        }
        if let [chunk] = chunks.as_slice() {
            return self.text_repr(chunk);
        }
        if is_root {
            self.push('(')?;
        }
        for (n, chunk) in chunks.iter().enumerate() {
            if n > 0 {
                self.line(indent)?;
            }
            self.text_repr(chunk)?;
        }
        if is_root { self.push(')') } else { Some(()) }
    }
}

/// `repr(value)`, of that many characters at the most.
pub(crate) fn repr(value: &Value, most: usize) -> String {
    let mut out = Bounded::new(most);
    let written = out.repr(value);
    out.cut(written)
}

/// `repr(text)`, of that many characters at the most.
pub(super) fn text_repr(text: &str, most: usize) -> String {
    let mut out = Bounded::new(most);
    let written = out.text_repr(text);
    out.cut(written)
}

/// `pprint.pformat(value, width=72, sort_dicts=False)`, of that many characters at the most.
pub(super) fn pretty(value: &Value, most: usize) -> String {
    let mut out = Bounded::new(most);
    let written = out.pretty(value, 0, 0, true);
    out.cut(written)
}

/// The shortest digits that read back as the same number; with an exponent where Python has one.
fn float_repr(float: f64) -> String {
    let scientific = format!("{float:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or_default();
    if (-4..16).contains(&exponent) {
        return format!("{float:?}");
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.unsigned_abs())
}

/// `str.isprintable`: neither a control character nor a space other than U+0020, nor one that is not assigned.
fn is_printable(c: char) -> bool {
    use GeneralCategory::{
        Control, Format, LineSeparator, ParagraphSeparator, PrivateUse, SpaceSeparator, Surrogate, Unassigned,
    };
    let category = c.general_category();
    c == ' '
        || !matches!(
            category,
            Control
                | Format
                | LineSeparator
                | ParagraphSeparator
                | PrivateUse
                | SpaceSeparator
                | Surrogate
                | Unassigned
        )
}

/// Whether a line ends behind this character, as `str.splitlines` sees it.
fn ends_line(c: char, next: Option<char>) -> bool {
    match c {
        '\r' => next != Some('\n'),
        '\n' | '\x0b' | '\x0c' | '\x1c'..='\x1e' | '\u{85}' | '\u{2028}' | '\u{2029}' => true,
        _ => false,
    }
}

/// `\s`
fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\x1c'..='\x1f').contains(&c)
}

/// Cuts a text behind each character that is judged so, on it and on the next one.
fn split_after(text: &str, ends: impl Fn(char, Option<char>) -> bool) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut start = 0;
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        if ends(c, chars.peek().map(|(_, next)| *next)) {
            let end = at + c.len_utf8();
            parts.push(&text[start..end]);
            start = end;
        }
    }
    if start < text.len() {
        parts.push(&text[start..]);
    }
    parts
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::{pretty, repr};

    /// Each of these was written by Python 3.11.
    #[test]
    fn reprs_are_pythons() {
        let cases = [
            (
                json!([null, true, false, 0, -5, 18_446_744_073_709_551_615_u64]),
                "[None, True, False, 0, -5, 18446744073709551615]",
            ),
            (
                json!([1.0, 1.5, 1e15, 1e16, 1.5e22, 1e-4, 1e-5, -1.25e-7, 1e300]),
                "[1.0, 1.5, 1000000000000000.0, 1e+16, 1.5e+22, 0.0001, 1e-05, -1.25e-07, 1e+300]",
            ),
            (json!("it's"), "\"it's\""),
            (json!("it's \"it\""), "'it\\'s \"it\"'"),
            (json!("\\ \n\r\t\x00\x1b\x7f"), "'\\\\ \\n\\r\\t\\x00\\x1b\\x7f'"),
            (
                json!("é\u{a0}\u{ad}\u{301}\u{200b}\u{2028}\u{e000}😀\u{e0001}"),
                "'é\\xa0\\xad\u{301}\\u200b\\u2028\\ue000😀\\U000e0001'",
            ),
            (json!({"a": {"b'": []}, "c": {}}), "{'a': {\"b'\": []}, 'c': {}}"),
        ];
        for (value, expected) in cases {
            assert_eq!(repr(&value, 1000), expected);
        }
    }

    #[test]
    fn what_is_too_long_is_cut() {
        let long = Value::Array(vec![json!("x".repeat(100)); 100_000]);
        assert_eq!(repr(&long, 50).chars().count(), 51);
        assert_eq!(pretty(&long, 5000).chars().count(), 5001);
        assert_eq!(repr(&json!("abc"), 5), "'abc'");
        assert_eq!(repr(&json!("abc"), 4), "'abc…");
    }

    proptest! {
        #[test]
        fn no_text_is_lost(text in any::<String>(), most in 0_usize..200) {
            let nested = json!({"a": [text.clone()]});
            prop_assert!(pretty(&nested, most).chars().count() <= most + 1);
            let whole = pretty(&json!(text), usize::MAX);
            if whole.starts_with('\'') {
                prop_assert_eq!(whole, repr(&json!(text), usize::MAX));
            }
        }
    }
}
