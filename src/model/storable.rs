//! The restrictions on texts that every database engine can store.

use crate::error::{Error, Result};

/// Rejects a text that some engine cannot store. Glance's MySQL schema stores at most three bytes per character, PostgreSQL no NUL.
///
/// # Errors
/// `Invalid`, with a message that starts with `what`, the name of the value.
pub(crate) fn check_storable(what: &str, text: &str) -> Result<()> {
    for c in text.chars() {
        if c.len_utf8() == 4 {
            let characters = if what == "Param values" || what == "Property names" { "" } else { " characters" };
            return Err(Error::Invalid(format!("{what} can't contain 4 byte unicode{characters}.")));
        }
        if c == '\0' {
            return Err(Error::Invalid(format!("{what} can't contain NUL characters.")));
        }
    }
    Ok(())
}
