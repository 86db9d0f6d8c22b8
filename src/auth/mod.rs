//! Who a request comes from.
//!
//! One [`Authenticator`] serves the whole program. It is given a request's head, and knows nothing else of HTTP; what it
//! finds is an [`Identity`], which the policy then judges.

mod fake;
pub(crate) mod identity_file;
mod keystone;
mod proxy;
pub(crate) mod standalone;

use axum::http::{HeaderMap, HeaderValue, Method};

pub(crate) use self::keystone::Keystone;
use self::standalone::Standalone;
use crate::{context::Identity, error::Result};

/// How callers are found out.
pub(crate) enum Authenticator {
    /// By users of our own: see [`standalone`].
    Standalone(Box<Standalone>),
    /// By Keystone: see [`keystone`].
    Keystone(Box<Keystone>),
    /// By headers that a trusted proxy sets: see [`proxy`].
    Proxy,
    /// By a token that says it: see [`fake`].
    Fake,
    /// Not at all.
    None,
}

/// What a request says of who sends it, and what a token may be restricted to.
pub(crate) struct Asked<'r> {
    /// Its headers.
    pub(crate) headers: &'r HeaderMap,
    /// Its method.
    pub(crate) method: &'r Method,
    /// Its path.
    pub(crate) path: &'r str,
}

impl Authenticator {
    /// Finds out who asks.
    ///
    /// # Errors
    /// `Unauthenticated` where the headers prove nobody, `Unavailable` where whoever could tell is away.
    pub(crate) async fn authenticate(&self, asked: &Asked<'_>) -> Result<Identity> {
        match self {
            Self::Standalone(standalone) => standalone.authenticate(asked.headers).await,
            Self::Keystone(keystone) => keystone.authenticate(asked).await,
            Self::Proxy => proxy::authenticate(asked.headers),
            Self::Fake => fake::authenticate(asked.headers),
            Self::None => Ok(everybody()),
        }
    }

    /// The `WWW-Authenticate` of a 401, where there is a scheme that the client could use.
    pub(crate) fn challenge(&self) -> Option<HeaderValue> {
        match self {
            Self::Standalone(_) => Some(HeaderValue::from_static("Basic realm=\"Glimpse\", charset=\"UTF-8\"")),
            Self::Keystone(keystone) => HeaderValue::from_str(&format!("Keystone uri=\"{}\"", keystone.uri())).ok(),
            Self::Proxy | Self::Fake | Self::None => None,
        }
    }

    /// What helps a user who is refused, if there is more to say than Glance does.
    pub(crate) fn hint(&self) -> Option<&'static str> {
        let standalone = "This server has its own users. On its machine, `glimpse identity list` lists them, and \
            `glimpse identity passwd NAME` sets a new password.";
        matches!(self, Self::Standalone(_)).then_some(standalone)
    }
}

fn everybody() -> Identity {
    Identity { roles: with_implied(["admin"]), ..Identity::default() }
}

/// A header's text, where it is set and is text.
fn text<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name)?.to_str().ok().filter(|text| !text.is_empty())
}

/// Role names as Glance compares them: in lower case, from a list with commas.
fn roles(list: &str) -> Vec<String> {
    list.split(',').map(|role| role.trim().to_lowercase()).filter(|role| !role.is_empty()).collect()
}

/// The roles, and those that they imply in a Keystone as it is set up: admin implies member, member implies reader.
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
