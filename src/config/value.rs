//! The types of options. They are parsed as oslo.config does.

use std::{
    fmt::Display,
    ops::{Bound, RangeBounds},
    path::PathBuf,
    time::Duration,
};

use super::{
    DatabaseUrl,
    secret::{Password, Secret},
};
use crate::python;

/// A type that an option can have.
pub(crate) trait OptionValue: Sized {
    /// Whether the text, or a part of it, must not be shown.
    const SECRET: bool = false;
    /// Whether an empty text of an optional option means `None`.
    const EMPTY_IS_NONE: bool = true;

    /// Parses the text in a file or in the environment.
    ///
    /// # Errors
    /// A message that says what is expected. It does not contain the text.
    fn parse(text: &str) -> Result<Self, String>;

    /// Parses the texts of an option that is set more than once. By default, the last text is used.
    fn parse_all(texts: &[String]) -> Result<Self, String> {
        Self::parse(texts.last().map_or("", String::as_str))
    }

    /// The value in the notation of a file, without secrets.
    fn to_text(&self) -> String;

    /// The value, if it is a password.
    fn password(&self) -> Option<&Password> {
        None
    }
}

impl OptionValue for String {
    fn parse(text: &str) -> Result<Self, String> {
        Ok(text.to_owned())
    }

    fn to_text(&self) -> String {
        self.clone()
    }
}

/// An IP address, or the name of a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HostAddress(String);

impl HostAddress {
    /// The text as it was written.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl OptionValue for HostAddress {
    fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let is_label = |label: &str| {
            let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
            (1..=63).contains(&label.len())
                && label.chars().all(allowed)
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        let name = text.strip_suffix('.').unwrap_or(text);
        // A name whose last label has only digits is meant as an address.
        let is_numeric = name.rsplit('.').next().is_some_and(|last| last.chars().all(|c| c.is_ascii_digit()));
        let is_name = name.len() <= 253 && !is_numeric && name.split('.').all(is_label);
        if text.parse::<std::net::IpAddr>().is_ok() || is_name {
            return Ok(Self(text.to_owned()));
        }
        Err("an address or the name of a host is expected".to_owned())
    }

    fn to_text(&self) -> String {
        self.0.clone()
    }
}

impl OptionValue for Secret {
    const SECRET: bool = true;

    fn parse(text: &str) -> Result<Self, String> {
        Ok(Self::new(text))
    }

    fn to_text(&self) -> String {
        self.to_string()
    }
}

impl OptionValue for Password {
    const SECRET: bool = true;

    fn parse(text: &str) -> Result<Self, String> {
        Secret::parse(text).map(Self)
    }

    fn to_text(&self) -> String {
        self.0.to_text()
    }

    fn password(&self) -> Option<&Password> {
        Some(self)
    }
}

impl OptionValue for PathBuf {
    fn parse(text: &str) -> Result<Self, String> {
        Ok(text.into())
    }

    fn to_text(&self) -> String {
        self.display().to_string()
    }
}

impl OptionValue for bool {
    fn parse(text: &str) -> Result<Self, String> {
        match text.to_lowercase().as_str() {
            "true" | "1" | "on" | "yes" => Ok(true),
            "false" | "0" | "off" | "no" => Ok(false),
            _ => Err("true or false is expected".to_owned()),
        }
    }

    fn to_text(&self) -> String {
        self.to_string()
    }
}

macro_rules! integer {
    ($($ty:ty),*) => {$(
        impl OptionValue for $ty {
            fn parse(text: &str) -> Result<Self, String> {
                let value = python::parse_int(text).and_then(|number| number.try_into().ok());
                value.ok_or_else(|| format!("a whole number from {} to {} is expected", <$ty>::MIN, <$ty>::MAX))
            }

            fn to_text(&self) -> String {
                self.to_string()
            }
        }

        impl Number for $ty {
            type Number = Self;

            fn number(&self) -> Option<&Self> {
                Some(self)
            }
        }
    )*};
}
integer!(u16, u32, i64, u64);

/// The maximum of a duration: longer than any useful timeout, and short enough to be added to any point in time.
const MAX_DURATION: Duration = Duration::from_secs(365 * 24 * 3600);

/// A number of seconds, with an optional fraction.
impl OptionValue for Duration {
    fn parse(text: &str) -> Result<Self, String> {
        let seconds: f64 = text.trim().parse().map_err(|_| "a number of seconds is expected".to_owned())?;
        let duration = Self::try_from_secs_f64(seconds).ok().filter(|duration| *duration <= MAX_DURATION);
        duration.ok_or("a number of seconds from 0 to a year is expected".to_owned())
    }

    fn to_text(&self) -> String {
        self.as_secs_f64().to_string()
    }
}

/// A number of bytes, with an optional unit, which is a power of 1024: `10GB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ByteSize(pub(crate) u64);

impl OptionValue for ByteSize {
    fn parse(text: &str) -> Result<Self, String> {
        let number = text.trim_end_matches(|c: char| c.is_ascii_uppercase());
        let shift = match &text[number.len()..] {
            "" | "B" => 0,
            "KB" => 10,
            "MB" => 20,
            "GB" => 30,
            "TB" => 40,
            _ => return Err(BYTES_EXPECTED.to_owned()),
        };
        if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(BYTES_EXPECTED.to_owned());
        }
        // A number that is too large for the type means the same as the largest one: no store has that capacity.
        let number = number.parse::<u64>().unwrap_or(u64::MAX);
        Ok(Self(number.saturating_mul(1 << shift)))
    }

    fn to_text(&self) -> String {
        self.0.to_string()
    }
}

const BYTES_EXPECTED: &str = "a whole number is expected, with an optional unit B, KB, MB, GB or TB";

/// A comma-separated list. A comma at the end is ignored; two commas in a row have an empty value between them.
impl OptionValue for Vec<String> {
    fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim().trim_end_matches(',');
        let items = text.split(',').map(|item| item.trim().to_owned());
        Ok(if text.is_empty() { Self::new() } else { items.collect() })
    }

    fn to_text(&self) -> String {
        self.join(",")
    }
}

/// A list in brackets: `[a,b]`. A value in quotes can contain commas.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BoundedList<T>(pub(crate) Vec<T>);

impl<T: OptionValue> OptionValue for BoundedList<T> {
    fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim().trim_end_matches(',');
        let inner = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let inner = inner.ok_or("a list in brackets is expected: [a,b]")?;
        let is_quoted = |text: &str| {
            ['"', '\''].iter().any(|quote| text.len() > 1 && text.starts_with(*quote) && text.ends_with(*quote))
        };
        let mut items = Vec::new();
        let mut parts = inner.split(',');
        while let Some(part) = parts.next().filter(|_| !inner.is_empty()) {
            let mut item = part.to_owned();
            while item.trim().starts_with(['"', '\'']) && !is_quoted(item.trim()) {
                item = format!("{item},{}", parts.next().ok_or("a quote is not closed")?);
            }
            let item = item.trim();
            items.push(T::parse(if is_quoted(item) { &item[1..item.len() - 1] } else { item })?);
        }
        Ok(Self(items))
    }

    fn to_text(&self) -> String {
        format!("[{}]", self.0.iter().map(T::to_text).collect::<Vec<_>>().join(","))
    }
}

/// The number of a port, without 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Port(pub(crate) u16);

impl OptionValue for Port {
    fn parse(text: &str) -> Result<Self, String> {
        let port = u16::parse(text).ok().filter(|port| *port > 0);
        port.map(Self).ok_or_else(|| "a port from 1 to 65535 is expected".to_owned())
    }

    fn to_text(&self) -> String {
        self.0.to_string()
    }
}

/// An option that can be repeated; all of its values are used.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Repeated(pub(crate) Vec<String>);

impl OptionValue for Repeated {
    fn parse(text: &str) -> Result<Self, String> {
        Ok(Self(vec![text.to_owned()]))
    }

    fn parse_all(texts: &[String]) -> Result<Self, String> {
        Ok(Self(texts.to_vec()))
    }

    fn to_text(&self) -> String {
        self.0.join("\n")
    }
}

/// Comma-separated pairs: `a:b,c:d`. A value can contain colons. Keys are unique.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Pairs(pub(crate) Vec<(String, String)>);

impl OptionValue for Pairs {
    fn parse(text: &str) -> Result<Self, String> {
        let mut pairs: Vec<(String, String)> = Vec::new();
        for item in Vec::<String>::parse(text)? {
            let (key, value) = item.split_once(':').ok_or("pairs are expected: key:value,key:value")?;
            let (key, value) = (key.trim(), value.trim());
            if key.is_empty() || pairs.iter().any(|(other, _)| other == key) {
                return Err("a key is missing, or is repeated".to_owned());
            }
            pairs.push((key.to_owned(), value.to_owned()));
        }
        Ok(Self(pairs))
    }

    fn to_text(&self) -> String {
        self.0.iter().map(|(key, value)| format!("{key}:{value}")).collect::<Vec<_>>().join(",")
    }
}

impl OptionValue for DatabaseUrl {
    const SECRET: bool = true;
    // An operator who sets the option does not mean the embedded database, which `None` stands for.
    const EMPTY_IS_NONE: bool = false;

    fn parse(text: &str) -> Result<Self, String> {
        text.parse()
    }

    fn to_text(&self) -> String {
        self.to_string()
    }
}

impl<T: OptionValue> OptionValue for Option<T> {
    const SECRET: bool = T::SECRET;

    fn parse(text: &str) -> Result<Self, String> {
        if T::EMPTY_IS_NONE && text.trim().is_empty() {
            return Ok(None);
        }
        T::parse(text).map(Some)
    }

    fn to_text(&self) -> String {
        self.as_ref().map(T::to_text).unwrap_or_default()
    }

    fn password(&self) -> Option<&Password> {
        self.as_ref().and_then(T::password)
    }
}

/// The default of a list, written as words that are separated by spaces.
pub(super) fn word_list(text: &str) -> Vec<String> {
    text.split(' ').map(str::to_owned).collect()
}

/// An integer, or an optional one.
pub(super) trait Number {
    /// The type of the integer.
    type Number: PartialOrd + Display;

    /// The integer. `None` if the option is not set.
    fn number(&self) -> Option<&Self::Number>;
}

impl<T: Number> Number for Option<T> {
    type Number = T::Number;

    fn number(&self) -> Option<&T::Number> {
        self.as_ref()?.number()
    }
}

/// Checks that an integer, if it is set, is in a range. Both ends of the range are allowed values.
pub(super) fn check_range<V: Number>(value: &V, range: &impl RangeBounds<V::Number>) -> Result<(), String> {
    if value.number().is_none_or(|number| range.contains(number)) {
        return Ok(());
    }
    let end = |bound| match bound {
        Bound::Included(end) | Bound::Excluded(end) => format!("{end}"),
        Bound::Unbounded => "any".to_owned(),
    };
    Err(match range.end_bound() {
        Bound::Unbounded => format!("a whole number of at least {} is expected", end(range.start_bound())),
        bound => format!("a whole number from {} to {} is expected", end(range.start_bound()), end(bound)),
    })
}

/// Declares an enum whose variants are words in the configuration. One of them is the default.
macro_rules! choice {
    ($(#[$meta:meta])* pub(crate) enum $name:ident { $($(#[$variant_meta:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub(crate) enum $name { $($(#[$variant_meta])* $variant),+ }

        impl $crate::config::value::OptionValue for $name {
            fn parse(text: &str) -> Result<Self, String> {
                match text {
                    $($text => Ok(Self::$variant),)+
                    _ => Err(format!("one of {} is expected", [$($text),+].join(", "))),
                }
            }

            fn to_text(&self) -> String {
                match self {
                    $(Self::$variant => $text,)+
                }
                .to_owned()
            }
        }
    };
}
pub(crate) use choice;

#[cfg(test)]
mod tests {
    use super::{BoundedList, ByteSize, HostAddress, OptionValue, Pairs, Port, Repeated, check_range};

    fn list<const N: usize>(items: [&str; N]) -> Vec<String> {
        items.map(str::to_owned).to_vec()
    }

    // The results of these tests are those of oslo.config.
    #[test]
    fn hosts_are_addresses_or_names() {
        for good in ["127.0.0.1", "::", "::1", "localhost", "api-1.example.org", "a.example.", "0.0.0.0"] {
            assert!(HostAddress::parse(good).is_ok(), "{good}");
        }
        for bad in ["", "a b", "300.1.1.1", "[::1]", "127.0.0.1:80", "-a", "a..b", "::zz", "http://a", "*"] {
            assert!(HostAddress::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn booleans_are_words_in_any_case() {
        for (text, value) in [("true", true), ("TRUE", true), ("1", true), ("on", true), ("Yes", true)]
            .into_iter()
            .chain([("false", false), ("0", false), ("off", false), ("No", false)])
        {
            assert_eq!(bool::parse(text), Ok(value), "{text}");
        }
        for text in ["t", "y", "", "enabled", " true"] {
            assert!(bool::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn whole_numbers_are_pythons_notation_within_the_types_range() {
        for (text, value) in [("5", 5), ("+5", 5), ("-0", 0), (" 5", 5), ("1_0", 10), ("00005", 5)] {
            assert_eq!(u32::parse(text), Ok(value), "{text}");
        }
        for text in ["", "-1", "0x10", "5.0", "1e2", "_1", "1__0", "4294967296"] {
            assert!(u32::parse(text).is_err(), "{text}");
        }
        assert_eq!(u16::parse("65535"), Ok(65535));
        assert!(u16::parse("65536").is_err());
        assert_eq!(Option::<u32>::parse(""), Ok(None));
    }

    /// The results are those of Glance.
    #[test]
    fn sizes_have_optional_units() {
        for (text, bytes) in [
            ("0", 0),
            ("17", 17),
            ("17B", 17),
            ("2KB", 2048),
            ("3MB", 3 << 20),
            ("10GB", 10 << 30),
            ("1TB", 1 << 40),
            ("99999999999999999999TB", u64::MAX),
        ] {
            assert_eq!(ByteSize::parse(text), Ok(ByteSize(bytes)), "{text}");
        }
        for text in ["", "GB", "-1", "1 GB", "1K", "1gb", "1.5GB", "1PB", "+1", "1KiB", " 1"] {
            assert!(ByteSize::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn numbers_out_of_range_are_rejected() {
        assert_eq!(check_range(&1_u32, &(1..)), Ok(()));
        assert_eq!(check_range(&0_u32, &(1..)), Err("a whole number of at least 1 is expected".to_owned()));
        assert_eq!(check_range(&7_u32, &(1..=6)), Err("a whole number from 1 to 6 is expected".to_owned()));
        assert_eq!((check_range(&None::<i64>, &(0..=15)), check_range(&Some(15_i64), &(0..=15))), (Ok(()), Ok(())));
        assert_eq!(check_range(&Some(16_i64), &(0..=15)), Err("a whole number from 0 to 15 is expected".to_owned()));
    }

    #[test]
    fn lists_are_separated_by_commas() {
        assert_eq!(Vec::parse(" a , b "), Ok(list(["a", "b"])));
        assert_eq!(Vec::parse("a,\nb,\nc"), Ok(list(["a", "b", "c"])));
        assert_eq!(Vec::parse("a,b,"), Ok(list(["a", "b"])));
        assert_eq!(Vec::parse("a,,b"), Ok(list(["a", "", "b"])));
        assert_eq!(Vec::parse("\"a,b\",c"), Ok(list(["\"a", "b\"", "c"])));
        assert_eq!(Vec::parse("[a,b]"), Ok(list(["[a", "b]"])));
        assert_eq!(Vec::<String>::parse(""), Ok(list([])));
        assert_eq!(Vec::<String>::parse(","), Ok(list([])));
    }

    #[test]
    fn bounded_lists_are_in_brackets() {
        let parsed = |text| BoundedList::<String>::parse(text).map(|list| list.0);
        assert_eq!(parsed("[ a , b ]"), Ok(list(["a", "b"])));
        assert_eq!(parsed("[]"), Ok(list([])));
        assert_eq!(parsed("[a,[b]]"), Ok(list(["a", "[b]"])));
        assert_eq!(parsed("[,]"), Ok(list(["", ""])));
        assert_eq!(parsed("['a,b',\"c\"]"), Ok(list(["a,b", "c"])));
        for text in ["a,b", "[a", "a]", "", "['a]"] {
            assert!(parsed(text).is_err(), "{text}");
        }
        assert_eq!(BoundedList::parse("[80, '443']"), Ok(BoundedList(vec![Port(80), Port(443)])));
        for text in ["[0]", "[65536]", "[a]", "[80,]"] {
            assert!(BoundedList::<Port>::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn pairs_are_split_at_their_first_colon() {
        let parsed = Pairs::parse("rbd:rbd, http : http,a:b:c").map(|pairs| pairs.0);
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        assert_eq!(parsed, Ok(vec![pair("rbd", "rbd"), pair("http", "http"), pair("a", "b:c")]));
        assert_eq!(Pairs::parse(""), Ok(Pairs::default()));
        for text in ["a", "a:b,a:c", ":b", "a:b,,c:d"] {
            assert!(Pairs::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_repeated_option_has_all_its_values() {
        let texts = list(["1", "2,3"]);
        assert_eq!(Repeated::parse_all(&texts), Ok(Repeated(texts.clone())));
        assert_eq!(String::parse_all(&texts), Ok("2,3".to_owned()));
    }
}
