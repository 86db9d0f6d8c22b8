//! A location's URL, in parts. What may be a secret in it cannot be printed.

use std::path::PathBuf;

use super::{Error, Result};
use crate::model::LocationUrl;

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

/// Bucket and key in an `s3://` URL. What stands before them, a host and keys of old, is the configuration's.
pub(super) fn bucket_and_key(url: &LocationUrl) -> Result<(&str, &str)> {
    let malformed = Error::BadLocation("The Store URI was malformed");
    let (_, rest) = url.expose().split_once("://").filter(|(_, rest)| !rest.contains("://")).ok_or(malformed)?;
    let path = rest.split(['?', '#']).next().unwrap_or_default().trim_matches('/');
    let (before, key) = path.rsplit_once('/').unwrap_or_default();
    match before.rsplit_once('/') {
        Some((_, bucket)) if !bucket.is_empty() && !key.is_empty() => Ok((bucket, key)),
        _ => Err(Error::BadLocation("The Store URI was malformed")),
    }
}
