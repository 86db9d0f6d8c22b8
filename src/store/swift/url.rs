//! The location URLs of Swift, in the forms that Glance writes.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use super::super::{Error, Result};
use crate::{
    config::{Secret, SwiftAccount, SwiftProof},
    model::LocationUrl,
};

/// The characters that Python's `quote` encodes.
const QUOTED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~').remove(b'/');
const SCHEMES: [&str; 4] = ["swift", "swift+http", "swift+https", "swift+config"];
const MALFORMED: Error = Error::BadLocation("Badly formed Swift URI.");

/// The parts of a location's URL.
#[derive(Debug, PartialEq)]
pub(super) struct SwiftUrl {
    pub(super) account: AccountUrl,
    pub(super) container: String,
    pub(super) object: String,
}

/// How a URL names the account.
#[derive(Debug, PartialEq)]
pub(super) enum AccountUrl {
    /// By a reference of the configuration.
    Reference(String),
    /// By where to log in: an address with its scheme, and the user and the password, if the URL has them.
    Address(String, Option<(Secret, Secret)>),
}

impl SwiftUrl {
    /// Parses a URL as Glance does. A password that contains a slash, which Glance writes but cannot read, is read as well.
    ///
    /// # Errors
    /// `BadLocation`
    pub(super) fn parse(url: &LocationUrl) -> Result<Self> {
        let (scheme, rest) =
            url.expose().split_once("://").filter(|(_, rest)| !rest.contains("://")).ok_or(MALFORMED)?;
        if !SCHEMES.contains(&scheme) {
            return Err(MALFORMED);
        }
        let rest = rest.split(['?', '#']).next().unwrap_or_default();
        let host = rest.split('/').next().unwrap_or_default();
        let (credentials, path) = match host.rsplit_once('@') {
            Some((before, _)) => (Some(before), &rest[before.len() + 1..]),
            None if is_host(host) => (None, rest),
            None => rest.rsplit_once('@').map_or((None, rest), |(before, path)| (Some(before), path)),
        };
        let mut parts = path.rsplitn(3, '/');
        let (object, container, address) = (parts.next(), parts.next(), parts.next());
        let (Some(object), Some(container), Some(address)) = (object, container, address) else {
            return Err(MALFORMED);
        };
        if object.is_empty() || container.is_empty() || address.is_empty() {
            return Err(MALFORMED);
        }
        let account = if scheme == "swift+config" {
            AccountUrl::Reference(address.to_owned())
        } else {
            let credentials = credentials.map(parse_credentials).transpose()?;
            let scheme = if scheme == "swift+http" { "http" } else { "https" };
            AccountUrl::Address(format!("{scheme}://{address}"), credentials)
        };
        Ok(Self { account, container: container.to_owned(), object: object.to_owned() })
    }
}

/// Whether this can be a host with a port. The user and the start of a password cannot: Glance encodes the colon in the user.
fn is_host(text: &str) -> bool {
    let (host, port) = text.rsplit_once(':').unwrap_or((text, ""));
    !host.contains('%') && (text.ends_with(']') || port.chars().all(|c| c.is_ascii_digit()))
}

fn parse_credentials(text: &str) -> Result<(Secret, Secret)> {
    let text = percent_decode_str(text).decode_utf8_lossy();
    let (user, key) = text.rsplit_once(':').ok_or(Error::BadLocation("Badly formed credentials in Swift URI."))?;
    Ok((Secret::new(user), Secret::new(key)))
}

/// The start of the URLs of the objects in an account with this URL, up to the container.
pub(super) fn prefix_at(account: &str) -> String {
    match account.strip_prefix("http://") {
        Some(account) => format!("swift+http://{}/", account.trim_matches('/')),
        None => format!("swift+https://{}/", account.strip_prefix("https://").unwrap_or(account).trim_matches('/')),
    }
}

/// The start of the URLs of an account's objects, up to the container, as Glance writes them: with the credentials, unless the
/// configuration has references.
pub(super) fn prefix(account: &SwiftAccount, has_references: bool) -> String {
    if has_references {
        return format!("swift+config://{}/", account.reference);
    }
    let address = account.auth_address.as_str();
    let (scheme, address) = match address.strip_prefix("http://") {
        Some(address) => ("swift+http", address),
        None => ("swift+https", address.strip_prefix("https://").unwrap_or(address)),
    };
    let quote = |secret: &Secret| utf8_percent_encode(secret.expose(), QUOTED).to_string();
    let credentials = match &account.proof {
        SwiftProof::Password(user, key) => format!("{}:{}@", quote(user), quote(key)),
        SwiftProof::ApplicationCredential(..) => String::new(),
    };
    format!("{scheme}://{credentials}{}/", address.trim_matches('/'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::SwiftAuthVersion;

    fn parsed(url: &str) -> Option<SwiftUrl> {
        SwiftUrl::parse(&url.to_owned().into()).ok()
    }

    #[test]
    fn every_form_of_glances_urls_is_read() {
        let address = |address: &str, credentials: Option<(&str, &str)>| {
            let credentials = credentials.map(|(user, key)| (Secret::new(user), Secret::new(key)));
            AccountUrl::Address(address.to_owned(), credentials)
        };
        for (url, account) in [
            ("swift+config://ref1/c/o", AccountUrl::Reference("ref1".to_owned())),
            ("swift+https://p%3Au:k@host:5000/v3/c/o", address("https://host:5000/v3", Some(("p:u", "k")))),
            ("swift+http://p%3Au:k%40%3F@host/c/o", address("http://host", Some(("p:u", "k@?")))),
            ("swift://p:u:k@host/v3/c/o", address("https://host/v3", Some(("p:u", "k")))),
            ("swift://u:k@host/c/o", address("https://host", Some(("u", "k")))),
            ("swift+http://p%3Au:k/e/y@host:5000/v3/c/o", address("http://host:5000/v3", Some(("p:u", "k/e/y")))),
            ("swift+http://host:8080/v1/AUTH_x/c/o", address("http://host:8080/v1/AUTH_x", None)),
            ("swift+http://[::1]:8080/v1/AUTH_x/c/o", address("http://[::1]:8080/v1/AUTH_x", None)),
        ] {
            let expected = SwiftUrl { account, container: "c".to_owned(), object: "o".to_owned() };
            assert_eq!(parsed(url), Some(expected), "{url}");
        }
        for url in ["swift://host/o", "swift://u@host/c/o", "swift+ftp://host/c/o", "swift://u:k@http://host/c/o", "x"]
        {
            assert_eq!(parsed(url), None, "{url}");
        }
    }

    #[test]
    fn urls_are_written_as_glance_writes_them() {
        let account = |auth_address: &str| SwiftAccount {
            reference: "ref1".to_owned(),
            version: SwiftAuthVersion::V3,
            auth_address: auth_address.to_owned(),
            proof: SwiftProof::Password(Secret::new("p q:u"), Secret::new("k/@~:%ü")),
            user_domain: (None, None),
            project_domain: (None, None),
        };
        let quoted = "p%20q%3Au:k/%40~%3A%25%C3%BC";
        assert_eq!(prefix(&account("http://host:5000/v3/"), false), format!("swift+http://{quoted}@host:5000/v3/"));
        assert_eq!(prefix(&account("host"), false), format!("swift+https://{quoted}@host/"));
        assert_eq!(prefix(&account("http://host"), true), "swift+config://ref1/");
    }
}
