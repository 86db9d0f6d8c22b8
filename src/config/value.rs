//! The types of options: how a text in a file becomes a value.

use std::{path::PathBuf, time::Duration};

use super::{DatabaseUrl, secret::Secret};

/// A type that an option can have.
pub(crate) trait OptionValue: Sized {
    /// Reads the text of a file or of the environment; the error says what would be right.
    fn parse(text: &str) -> Result<Self, String>;
}

impl OptionValue for String {
    fn parse(text: &str) -> Result<Self, String> {
        Ok(text.to_owned())
    }
}

impl OptionValue for PathBuf {
    fn parse(text: &str) -> Result<Self, String> {
        Ok(text.into())
    }
}

impl OptionValue for bool {
    fn parse(text: &str) -> Result<Self, String> {
        match text.to_ascii_lowercase().as_str() {
            "true" | "1" | "on" | "yes" => Ok(true),
            "false" | "0" | "off" | "no" => Ok(false),
            _ => Err("true or false is wanted".to_owned()),
        }
    }
}

macro_rules! integer {
    ($($ty:ty),*) => {$(
        impl OptionValue for $ty {
            fn parse(text: &str) -> Result<Self, String> {
                text.trim().parse().map_err(|_| format!("a whole number from {} to {} is wanted", <$ty>::MIN, <$ty>::MAX))
            }
        }
    )*};
}
integer!(u16, u32, i64);

impl OptionValue for Secret {
    fn parse(text: &str) -> Result<Self, String> {
        Ok(text.to_owned().into())
    }
}

/// Longer than anybody waits, and short enough to be added to any point in time.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

/// Seconds, with a fraction if need be.
impl OptionValue for Duration {
    fn parse(text: &str) -> Result<Self, String> {
        let seconds: f64 = text.trim().parse().map_err(|_| "a number of seconds is wanted".to_owned())?;
        let duration = Self::try_from_secs_f64(seconds).ok().filter(|duration| *duration <= LONGEST);
        duration.ok_or("a number of seconds from 0 to a year is wanted".to_owned())
    }
}

/// Values with commas between them.
impl OptionValue for Vec<String> {
    fn parse(text: &str) -> Result<Self, String> {
        Ok(text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect())
    }
}

impl OptionValue for DatabaseUrl {
    fn parse(text: &str) -> Result<Self, String> {
        text.parse()
    }
}

impl<T: OptionValue> OptionValue for Option<T> {
    fn parse(text: &str) -> Result<Self, String> {
        T::parse(text).map(Some)
    }
}

/// Declares an enum that is written as one of a few words; one of them is the default.
macro_rules! choice {
    ($(#[$meta:meta])* pub(crate) enum $name:ident { $($(#[$variant_meta:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub(crate) enum $name { $($(#[$variant_meta])* $variant),+ }

        impl $crate::config::value::OptionValue for $name {
            fn parse(text: &str) -> Result<Self, String> {
                match text {
                    $($text => Ok(Self::$variant),)+
                    _ => Err(format!("one of {} is wanted", [$($text),+].join(", "))),
                }
            }
        }
    };
}
pub(crate) use choice;
