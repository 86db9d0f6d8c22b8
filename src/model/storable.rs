//! The restrictions on the texts that clients send.

use crate::error::{Error, Result};

/// Rejects a text that Glance rejects, because its MySQL schema stores at most three bytes per character, and a text with NUL.
///
/// # Errors
/// `Invalid`, with a message that starts with `what`, the name of the value.
pub(crate) fn check_storable(what: &str, text: &str) -> Result<()> {
    for c in text.chars() {
        if c.len_utf8() == 4 {
            let characters = if what == "Param values" || what == "Property names" { "" } else { " characters" };
            return Err(Error::Invalid(format!("{what} can't contain 4 byte unicode{characters}.")));
        }
    }
    check_no_nul(what, text)
}

/// Rejects a text with NUL, which PostgreSQL does not store.
///
/// # Errors
/// `Invalid`, with a message that starts with `what`, the name of the value.
pub(crate) fn check_no_nul(what: &str, text: &str) -> Result<()> {
    match text.contains('\0') {
        true => Err(Error::Invalid(format!("{what} can't contain NUL characters."))),
        false => Ok(()),
    }
}
