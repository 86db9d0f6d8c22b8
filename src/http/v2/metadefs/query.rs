//! The query parameters that several listings have.

use crate::{
    error::{Error, Result},
    model::{self, Direction},
    python,
};

/// The first value of a parameter.
pub(super) fn first<'q>(pairs: &'q [(String, String)], name: &str) -> Option<&'q str> {
    pairs.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
}

/// The last value of a parameter.
pub(super) fn last<'q>(pairs: &'q [(String, String)], name: &str) -> Option<&'q str> {
    pairs.iter().rev().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
}

/// The maximum number of items, which is at least `minimum`.
pub(super) fn limit(text: &str, minimum: i128) -> Result<u64> {
    let invalid = |what: &str| Error::Invalid(format!("limit param must be {what}"));
    let number = python::parse_int(text).ok_or_else(|| invalid("an integer"))?;
    if number < minimum {
        return Err(invalid("positive"));
    }
    // An engine's LIMIT is an i64.
    Ok(u64::try_from(number.min(i64::MAX.into())).unwrap_or_default())
}

/// The direction of the sort keys. Descending by default.
pub(super) fn direction(pairs: &[(String, String)]) -> Result<Direction> {
    match first(pairs, "sort_dir") {
        Some("asc") => Ok(Direction::Asc),
        None | Some("desc") => Ok(Direction::Desc),
        Some(other) => Err(Error::Invalid(format!("Invalid sort direction: {other}"))),
    }
}

/// The first sort key, by its name. The time of creation by default.
pub(super) fn sort_key<K: Copy>(pairs: &[(String, String)], keys: &[(&str, K)]) -> Result<K> {
    let name = first(pairs, "sort_key").unwrap_or("created_at");
    let found = keys.iter().find(|(known, _)| *known == name);
    found.map(|(_, key)| *key).ok_or_else(|| Error::Invalid(format!("Invalid sort key: {name}")))
}

/// Checks the visibility, which some listings do not use.
pub(super) fn check_visibility(pairs: &[(String, String)], allowed: &[&str]) -> Result<()> {
    match last(pairs, "visibility") {
        Some(other) if !other.is_empty() && !allowed.contains(&other) => {
            Err(Error::Invalid(format!("Invalid visibility value: {other}")))
        }
        _ => Ok(()),
    }
}

/// Rejects parameters with NUL, which PostgreSQL does not compare.
pub(super) fn check_no_nul(pairs: &[(String, String)]) -> Result<()> {
    pairs.iter().try_for_each(|(_, value)| model::check_no_nul("Param values", value))
}
