//! Which texts every engine can store.

use crate::error::{Error, Result};

/// Refuses what not every engine can store: Glance's MySQL schema holds three bytes a character, and PostgreSQL no NUL.
///
/// # Errors
/// `Invalid`; `what` names the value, at the start of a sentence.
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
