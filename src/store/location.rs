//! Parsing of location URLs. No function returns a part that can contain credentials.

use std::path::PathBuf;

use super::{Error, Result};
use crate::model::LocationUrl;

/// The URL's scheme in lower case, empty if it has none.
pub(super) fn scheme(url: &LocationUrl) -> String {
    let scheme = url.expose().split_once(':').map(|(scheme, _)| scheme);
    scheme.unwrap_or_default().to_lowercase()
}

/// The path in a `file://` URL as Glance parses it: nothing is unescaped, and the path ends at the first `?` or `#`.
pub(super) fn path(url: &LocationUrl) -> Result<PathBuf> {
    // Like Python's urlparse.
    match whole_path(url)?.split(['?', '#']).next().unwrap_or_default().trim() {
        "" => Err(Error::BadLocation("No path specified in URI")),
        path => Ok(path.into()),
    }
}

/// The path in a `file://` URL, including any `?` and `#`.
pub(super) fn whole_path(url: &LocationUrl) -> Result<&str> {
    let text = url.expose();
    // The scheme is case-sensitive, as in Glance.
    let path = ["file://", "filesystem://"].iter().find_map(|scheme| text.strip_prefix(scheme));
    path.map(str::trim)
        .ok_or(Error::BadLocation("Location URI must start with one of the following schemas: file://, filesystem://"))
}

/// The bucket and the key in an `s3://` URL. The host, and the credentials in old URLs, are ignored: the configuration has them.
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
