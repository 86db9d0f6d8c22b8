//! A location's URL, in parts. What may be a secret in it cannot be printed.

use std::path::PathBuf;

use super::{Error, Result};
use crate::db::locations::LocationUrl;

/// The URL's scheme, in lower case; empty where it has none.
pub(super) fn scheme(url: &LocationUrl) -> String {
    let scheme = url.expose().split_once(':').map(|(scheme, _)| scheme);
    scheme.unwrap_or_default().to_lowercase()
}

/// The path in a `file://` URL, as Glance reads it: nothing is escaped in it, and what is behind a mark does not belong to it.
pub(super) fn path(url: &LocationUrl) -> Result<PathBuf> {
    // As Python's urlparse.
    match whole_path(url)?.split(['?', '#']).next().unwrap_or_default().trim() {
        "" => Err(Error::BadLocation("No path specified in URI")),
        path => Ok(path.into()),
    }
}

/// The path in a `file://` URL as it was written, marks and all.
pub(super) fn whole_path(url: &LocationUrl) -> Result<&str> {
    let text = url.expose();
    // The scheme's case counts, for Glance too.
    let path = ["file://", "filesystem://"].iter().find_map(|scheme| text.strip_prefix(scheme));
    path.map(str::trim)
        .ok_or(Error::BadLocation("Location URI must start with one of the following schemas: file://, filesystem://"))
}
