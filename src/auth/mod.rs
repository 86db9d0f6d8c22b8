//! Authenticates callers.
//!
//! The [`Authenticator`] turns the head of a request into an [`Identity`]. What that caller is allowed to do is decided elsewhere,
//! by the policy.

mod credentials;
mod fake;
pub(crate) mod identity_file;
mod keystone;
mod private_file;
mod proxy;
pub(crate) mod standalone;

use std::sync::Arc;

use axum::http::{HeaderMap, HeaderValue, Method};

use self::standalone::Standalone;
pub(crate) use self::{credentials::Credentials, keystone::Keystone};
use crate::{context::Identity, error::Result};

/// How callers are authenticated.
pub(crate) enum Authenticator {
    /// By users of our own: see [`standalone`].
    Standalone(Arc<Standalone>),
    /// By Keystone: see [`keystone`].
    Keystone(Box<Keystone>),
    /// By headers that a trusted proxy sets: see [`proxy`].
    Proxy,
    /// By a token that names the caller, without a check: see [`fake`].
    Fake,
    /// Callers are not authenticated.
    None,
}

/// The parts of a request that authentication needs: its credentials, and what the access rules of a token may restrict.
pub(crate) struct RequestHead<'r> {
    /// Its headers.
    pub(crate) headers: &'r HeaderMap,
    /// Its method.
    pub(crate) method: &'r Method,
    /// Its path.
    pub(crate) path: &'r str,
}

impl Authenticator {
    /// Authenticates the caller.
    ///
    /// # Errors `Unauthenticated` if the credentials are missing or invalid, `Unavailable` if the service that checks them cannot
    /// be reached.
    pub(crate) async fn authenticate(&self, head: &RequestHead<'_>) -> Result<Identity> {
        match self {
            Self::Standalone(standalone) => standalone.authenticate(head.headers).await,
            Self::Keystone(keystone) => keystone.authenticate(head).await,
            Self::Proxy => proxy::authenticate(head.headers),
            Self::Fake => fake::authenticate(head.headers),
            Self::None => Ok(unauthenticated_admin()),
        }
    }

    /// The `WWW-Authenticate` header of a 401, if there is a scheme that the client can use.
    pub(crate) fn challenge(&self) -> Option<HeaderValue> {
        match self {
            Self::Standalone(_) => Some(HeaderValue::from_static("Basic realm=\"Glimpse\", charset=\"UTF-8\"")),
            Self::Keystone(keystone) => HeaderValue::from_str(&format!("Keystone uri=\"{}\"", keystone.uri())).ok(),
            Self::Proxy | Self::Fake | Self::None => None,
        }
    }

    /// The users of this server, if it has users of its own.
    pub(crate) fn standalone(&self) -> Option<&Arc<Standalone>> {
        match self {
            Self::Standalone(standalone) => Some(standalone),
            Self::Keystone(_) | Self::Proxy | Self::Fake | Self::None => None,
        }
    }

    /// Advice for the user in the body of a 401, in addition to Glance's text.
    pub(crate) fn hint(&self) -> Option<&'static str> {
        let standalone = "This server has its own users. On its machine, `glimpse identity list` lists them, and \
            `glimpse identity passwd NAME` sets a new password.";
        matches!(self, Self::Standalone(_)).then_some(standalone)
    }
}

/// The identity of every caller if authentication is disabled.
fn unauthenticated_admin() -> Identity {
    Identity { roles: with_implied(["admin"]), ..Identity::default() }
}

/// The value of a header, unless it is missing, empty or not ASCII.
fn text<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name)?.to_str().ok().filter(|text| !text.is_empty())
}

/// Parses a comma-separated list of role names. They are in lower case, because Glance compares them without regard to case.
fn roles(list: &str) -> Vec<String> {
    list.split(',').map(|role| role.trim().to_lowercase()).filter(|role| !role.is_empty()).collect()
}

/// The roles, and those that they imply as in a new Keystone: admin implies member, and member implies reader.
fn with_implied<'r>(roles: impl IntoIterator<Item = &'r str>) -> Vec<String> {
    let mut all: Vec<String> = roles.into_iter().map(str::to_lowercase).collect();
    for (role, implied) in [("admin", "member"), ("member", "reader")] {
        let has = |name: &str| all.iter().any(|role| role == name);
        if has(role) && !has(implied) {
            all.push(implied.to_owned());
        }
    }
    all
}
