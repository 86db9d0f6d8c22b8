//! Texts that must not be printed.

use std::fmt;

/// A text that may be a password. Formatting it prints stars; [`Self::expose`] returns the text.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Secret(String);

impl Secret {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

/// A password. It is removed from every shown value, including values of other options that contain it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Password(pub(super) Secret);

impl Password {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self(Secret::new(text))
    }

    /// The text itself.
    pub(crate) fn expose(&self) -> &str {
        self.0.expose()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}
