//! A location's URL, in parts. What may be a secret in it cannot be printed.

use std::path::PathBuf;

use super::{Error, Result};
use crate::db::locations::LocationUrl;

/// The URL's scheme, in lower case; empty where it has none.
pub(super) fn scheme(url: &LocationUrl) -> String {
    let scheme = url.expose().split_once(':').map(|(scheme, _)| scheme);
    scheme.unwrap_or_default().to_lowercase()
}

/// The path in a `file://` URL. Glance writes paths as they are: nothing is escaped in them.
pub(super) fn path(url: &LocationUrl) -> Result<PathBuf> {
    let text = url.expose();
    let path = ["file://", "filesystem://"].iter().find_map(|scheme| text.strip_prefix(scheme));
    // As Python's urlparse: what is behind a mark is not the path.
    let path = path.map(|path| path.split(['?', '#']).next().unwrap_or_default().trim());
    match path {
        None => {
            Err(Error::BadLocation("Location URI must start with one of the following schemas: file://, filesystem://"))
        }
        Some("") => Err(Error::BadLocation("No path specified in URI")),
        Some(path) => Ok(path.into()),
    }
}
