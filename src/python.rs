//! Python's notation: parses integers as `int()` does, and formats values as `repr`, `pprint` and `json.dumps` do.
//!
//! Glance's options and requests contain such integers, its messages such values.

use std::{borrow::Cow, io, net::IpAddr};

use serde::Serialize;
use serde_json::{
    Value,
    ser::{Formatter, Serializer},
};
use unicode_properties::{GeneralCategory, UnicodeGeneralCategory as _};

/// The line width that jsonschema passes to `pprint`.
const WIDTH: usize = 72;
/// The maximum number of characters of a host in a message.
const MAX_HOST_REPR: usize = 1024;

/// A string of bounded length. Its methods return `None` if the text exceeds the capacity; the rest of the text is dropped.
struct BoundedString {
    text: String,
    /// The number of characters that still fit.
    capacity: usize,
}

impl BoundedString {
    fn new(capacity: usize) -> Self {
        Self { text: String::new(), capacity }
    }

    fn push(&mut self, c: char) -> Option<()> {
        self.capacity = self.capacity.checked_sub(1)?;
        self.text.push(c);
        Some(())
    }

    fn push_str(&mut self, text: &str) -> Option<()> {
        text.chars().try_for_each(|c| self.push(c))
    }

    fn push_line_break(&mut self, indent: usize) -> Option<()> {
        self.push('\n')?;
        (0..indent).try_for_each(|_| self.push(' '))
    }

    /// The text, followed by `…` if it was truncated.
    fn into_truncated(self, written: Option<()>) -> String {
        if written.is_some() { self.text } else { self.text + "…" }
    }

    fn push_repr(&mut self, value: &Value) -> Option<()> {
        match value {
            Value::Null => self.push_str("None"),
            Value::Bool(true) => self.push_str("True"),
            Value::Bool(false) => self.push_str("False"),
            Value::Number(number) => match number.as_f64().filter(|_| number.is_f64()) {
                Some(float) => self.push_str(&float_repr(float)),
                None => self.push_str(&number.to_string()),
            },
            Value::String(text) => self.push_string_repr(text),
            Value::Array(items) => {
                self.push('[')?;
                for (n, item) in items.iter().enumerate() {
                    self.push_str(if n == 0 { "" } else { ", " })?;
                    self.push_repr(item)?;
                }
                self.push(']')
            }
            Value::Object(entries) => {
                self.push('{')?;
                for (n, (name, value)) in entries.iter().enumerate() {
                    self.push_str(if n == 0 { "" } else { ", " })?;
                    self.push_string_repr(name)?;
                    self.push_str(": ")?;
                    self.push_repr(value)?;
                }
                self.push('}')
            }
        }
    }

    fn push_string_repr(&mut self, text: &str) -> Option<()> {
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

    /// `indent` is the number of columns that are taken on the left, `allowance` on the right of the last line.
    fn push_pretty(&mut self, value: &Value, indent: usize, allowance: usize, is_root: bool) -> Option<()> {
        // If the value fits into the line, it is formatted in one line. Longer values are never formatted as a whole.
        let mut line = BoundedString::new(WIDTH.saturating_sub(indent + allowance));
        if line.push_repr(value).is_some() {
            return self.push_str(&line.text);
        }
        match value {
            Value::Array(items) => {
                self.push('[')?;
                for (n, item) in items.iter().enumerate() {
                    if n > 0 {
                        self.push(',')?;
                        self.push_line_break(indent + 1)?;
                    }
                    self.push_pretty(item, indent + 1, if n + 1 == items.len() { allowance + 1 } else { 1 }, false)?;
                }
                self.push(']')
            }
            Value::Object(entries) => {
                self.push('{')?;
                for (n, (name, value)) in entries.iter().enumerate() {
                    if n > 0 {
                        self.push(',')?;
                        self.push_line_break(indent + 1)?;
                    }
                    let capacity = self.capacity;
                    self.push_string_repr(name)?;
                    let taken = capacity - self.capacity;
                    self.push_str(": ")?;
                    let allowance = if n + 1 == entries.len() { allowance + 1 } else { 1 };
                    self.push_pretty(value, indent + 1 + taken + 2, allowance, false)?;
                }
                self.push('}')
            }
            Value::String(text) if !text.is_empty() => self.push_pretty_string(text, indent, allowance, is_root),
            scalar => self.push_repr(scalar),
        }
    }

    /// Formats a string that is too long for its line. It is split at line breaks, then at spaces.
    fn push_pretty_string(&mut self, text: &str, indent: usize, allowance: usize, is_root: bool) -> Option<()> {
        let (indent, allowance) = if is_root { (indent + 1, allowance + 1) } else { (indent, allowance) };
        let width = WIDTH.saturating_sub(indent);
        let fits = |text: &str, width: usize| BoundedString::new(width).push_string_repr(text).is_some();
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
            return self.push_string_repr(chunk);
        }
        if is_root {
            self.push('(')?;
        }
        for (n, chunk) in chunks.iter().enumerate() {
            if n > 0 {
                self.push_line_break(indent)?;
            }
            self.push_string_repr(chunk)?;
        }
        if is_root { self.push(')') } else { Some(()) }
    }
}

/// `int(text)`: `None` where Python raises `ValueError`. A number that is out of range becomes the nearest one in range.
///
/// Python also accepts the decimal digits of other scripts; this function accepts only ASCII digits.
pub(crate) fn parse_int(text: &str) -> Option<i128> {
    let text = text.trim();
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let is_digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    // A `_` is allowed only between two digits.
    if !unsigned.split('_').all(is_digits) {
        return None;
    }
    let nearest = if text.starts_with('-') { i128::MIN } else { i128::MAX };
    Some(text.replace('_', "").parse().unwrap_or(nearest))
}

/// `len(bytes.fromhex(text))`: `None` where Python raises `ValueError`. Whitespace is allowed between bytes.
pub(crate) fn hex_length(text: &str) -> Option<usize> {
    let pairs = text.split(|c: char| c.is_ascii_whitespace() || c == '\x0b');
    pairs
        .map(|digits| {
            (digits.len() % 2 == 0 && digits.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(digits.len() / 2)
        })
        .sum()
}

/// The message of the `ValueError` that `urlparse(url)` raises if the brackets of the host are wrong.
pub(crate) fn bracket_error(url: &str) -> Option<String> {
    let (_, rest) = url.split_once("://")?;
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    match (host.split_once('['), host.contains(']')) {
        (None, false) => None,
        (Some((_, host)), true) => {
            let host = host.split(']').next().unwrap_or_default();
            match host.split('%').next().unwrap_or_default().parse() {
                Ok(IpAddr::V6(_)) => None,
                Ok(IpAddr::V4(_)) => Some("An IPv4 address cannot be in brackets".to_owned()),
                Err(_) => {
                    Some(format!("{} does not appear to be an IPv4 or IPv6 address", string_repr(host, MAX_HOST_REPR)))
                }
            }
        }
        _ => Some("Invalid IPv6 URL".to_owned()),
    }
}

/// `repr(value)`, truncated to `max` characters.
pub(crate) fn repr(value: &Value, max: usize) -> String {
    let mut out = BoundedString::new(max);
    let written = out.push_repr(value);
    out.into_truncated(written)
}

/// `repr(text)`, truncated to `max` characters.
pub(crate) fn string_repr(text: &str, max: usize) -> String {
    let mut out = BoundedString::new(max);
    let written = out.push_string_repr(text);
    out.into_truncated(written)
}

/// The `repr` of each text, with commas between them, all together truncated to `max` characters.
pub(crate) fn string_reprs(texts: &[&str], max: usize) -> String {
    let mut out = BoundedString::new(max);
    let written = texts.iter().enumerate().try_for_each(|(n, text)| {
        if n > 0 {
            out.push_str(", ")?;
        }
        out.push_string_repr(text)
    });
    out.into_truncated(written)
}

/// `pprint.pformat(value, width=72, sort_dicts=False)`, truncated to `max` characters.
pub(crate) fn pretty(value: &Value, max: usize) -> String {
    let mut out = BoundedString::new(max);
    let written = out.push_pretty(value, 0, 0, true);
    out.into_truncated(written)
}

/// JSON with `", "` and `": "` as separators.
struct Spaced;

impl Formatter for Spaced {
    fn begin_array_value<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        writer.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_key<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        writer.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }
}

/// `json.dumps(value, ensure_ascii=False)`. A value that cannot be represented in JSON becomes `null`; Glimpse has no such values.
pub(crate) fn to_json(value: &impl Serialize) -> String {
    let mut bytes = Vec::with_capacity(1024);
    match value.serialize(&mut Serializer::with_formatter(&mut bytes, Spaced)) {
        Ok(()) => String::from_utf8(bytes).unwrap_or_default(),
        Err(_) => "null".to_owned(),
    }
}

/// Escapes the characters of a JSON text beyond ASCII, as `json.dumps` does.
pub(crate) fn escape_non_ascii(json: &str) -> String {
    let mut ascii = String::with_capacity(json.len());
    for c in json.chars() {
        if c.is_ascii() && c != '\x7f' {
            ascii.push(c);
        } else {
            ascii.extend(c.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}")));
        }
    }
    ascii
}

/// The shortest decimal number that parses as the same float, with an exponent in the same cases as in Python.
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

/// Python's `str.isprintable`: false for control characters, unassigned ones, and spaces other than U+0020.
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

/// Whether Python's `str.splitlines` splits after this character.
fn ends_line(c: char, next: Option<char>) -> bool {
    match c {
        '\r' => next != Some('\n'),
        '\n' | '\x0b' | '\x0c' | '\x1c'..='\x1e' | '\u{85}' | '\u{2028}' | '\u{2029}' => true,
        _ => false,
    }
}

/// Whether `\s` of Python's `re` matches the character.
fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\x1c'..='\x1f').contains(&c)
}

/// Splits a text after each character for which `ends` is true. `ends` also gets the character that follows.
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

    use super::{parse_int, pretty, repr};

    /// Each of these was observed from Python 3.11.
    #[test]
    fn integers_are_parsed_as_by_python() {
        for (text, number) in [
            ("5", 5),
            ("+5", 5),
            ("-5", -5),
            ("-0", 0),
            ("00005", 5),
            ("1_0", 10),
            ("0_0", 0),
            ("-1_000", -1000),
            (" 5\n", 5),
            ("\u{b}5\u{85}", 5),
            ("\u{a0}5\u{2028}", 5),
        ] {
            assert_eq!(parse_int(text), Some(number), "{text:?}");
        }
        for text in [
            "", " ", "+", "-", "_", "_1", "1_", "1__0", "+_1", "-_1", "+-1", "+ 1", "- 1", "1 2", "0x10", "5.0", "1e2",
            "5\0", "\u{1c}5", "five",
        ] {
            assert_eq!(parse_int(text), None, "{text:?}");
        }
    }

    #[test]
    fn an_integer_out_of_range_becomes_the_nearest_one_in_range() {
        let digits = "9".repeat(100);
        assert_eq!(parse_int(&digits), Some(i128::MAX));
        assert_eq!(parse_int(&format!("-{digits}")), Some(i128::MIN));
        assert_eq!(parse_int(&i128::MIN.to_string()), Some(i128::MIN));
    }

    /// Each of these was observed from Python 3.11.
    #[test]
    fn values_are_formatted_as_by_python() {
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
    fn long_values_are_truncated() {
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
