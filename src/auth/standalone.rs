//! Users of our own, for a server without Keystone.
//!
//! A client proves who it is with HTTP Basic (keystoneauth's `http_basic`) or with a static token (keystoneauth's
//! `admin_token`), which is that credential again, `base64(user:password)`, in `X-Auth-Token`. Encoded, because
//! python-glanceclient percent-encodes a token's other characters.
//!
//! bcrypt is slow on purpose. So what it said of a credential is cached, under a fast keyed hash of the credential
//! whose key lives as long as this process, for five minutes at the most; requests that bring the same new credential
//! at once share one verification, and only so many verifications run at a time, so that guesses cannot take every core.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use arc_swap::ArcSwap;
use axum::http::{HeaderMap, header};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use moka::future::Cache;
use tokio::sync::{Mutex, Semaphore};

use super::identity_file::{IdentityError, IdentityFile, User};
use crate::{
    context::{Identity, Scope},
    error::{Error, Result},
};

/// Credentials whose verdict is remembered.
const CACHED_CREDENTIALS: u64 = 10_000;
/// How long a verdict is remembered.
const CACHED_FOR: Duration = Duration::from_secs(300);
/// Verifications at a time.
const VERIFICATIONS: usize = 2;
/// How long a credential waits for its verification.
const VERIFICATION_WAIT: Duration = Duration::from_secs(5);
/// How often the identity file is looked at for a change.
const RELOAD_AFTER: Duration = Duration::from_secs(1);
/// A hash that no password has, of the same cost as a real one: an unknown name takes as long as a wrong password.
const NOBODY: &str = "$2b$10$CwTycUXWue0Thq9StjUM0uJ4u1s8Ns8ZP8wF2Y4YwIgYtqL5E6f2e";

/// The users, and the verdicts on credentials.
pub(crate) struct Standalone {
    path: PathBuf,
    users: ArcSwap<IdentityFile>,
    looked: Mutex<(Instant, Option<SystemTime>)>,
    key: [u8; 32],
    /// By credential and password hash, so that a user's new password has new verdicts, and the others keep theirs.
    verdicts: Cache<[u8; 32], bool>,
    verifications: Arc<Semaphore>,
    /// Names that nobody has queue here, where they are in nobody's way.
    unknown: Arc<Semaphore>,
}

impl Standalone {
    /// Reads the users.
    pub(crate) fn open(path: PathBuf) -> Result<Self, IdentityError> {
        let modified = modified(&path);
        let file = IdentityFile::read(&path)?;
        Ok(Self {
            path,
            users: ArcSwap::from_pointee(file),
            looked: Mutex::new((Instant::now(), modified)),
            key: rand::random(),
            verdicts: Cache::builder().max_capacity(CACHED_CREDENTIALS).time_to_live(CACHED_FOR).build(),
            verifications: Arc::new(Semaphore::new(VERIFICATIONS)),
            unknown: Arc::new(Semaphore::new(1)),
        })
    }

    pub(super) async fn authenticate(&self, headers: &HeaderMap) -> Result<Identity> {
        let credential = credential(headers).ok_or(Error::Unauthenticated)?;
        let (name, password) = credential.split_once(':').ok_or(Error::Unauthenticated)?;
        self.reload().await;
        let users = self.users.load_full();
        let user = users.users.get(name);
        let hash = user.map_or(NOBODY, |user| &user.password_hash);
        let lane = if user.is_some() { &self.verifications } else { &self.unknown };
        let mut key = blake3::Hasher::new_keyed(&self.key);
        key.update(hash.as_bytes()).update(credential.as_bytes());
        let verdict = self.verdicts.try_get_with(*key.finalize().as_bytes(), verify(lane, password, hash)).await;
        let verified = verdict.map_err(|busy| Error::Unavailable { service: "authentication", source: busy.into() })?;
        user.filter(|_| verified).map(|user| identity(name, user)).ok_or(Error::Unauthenticated)
    }

    /// Takes up a changed file, at most once a second. A file that cannot be read leaves the users as they are.
    async fn reload(&self) {
        // Somebody else looks already.
        let Ok(mut looked) = self.looked.try_lock() else {
            return;
        };
        if looked.0.elapsed() < RELOAD_AFTER {
            return;
        }
        let now = modified(&self.path);
        let changed = now != looked.1;
        *looked = (Instant::now(), now);
        if !changed {
            return;
        }
        match IdentityFile::read(&self.path) {
            Ok(file) => {
                tracing::info!(users = file.users.len(), "identity file was read again");
                self.users.store(Arc::new(file));
            }
            Err(error) => {
                tracing::error!(%error, "identity file was changed and cannot be read; the old users stay")
            }
        }
    }
}

/// More unknown credentials came than can be verified.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("too many credentials wait to be verified")]
struct Busy;

fn modified(path: &std::path::Path) -> Option<SystemTime> {
    std::fs::metadata(path).and_then(|metadata| metadata.modified()).ok()
}

/// Compares a password with a hash, at the price of one bcrypt.
async fn verify(lane: &Arc<Semaphore>, password: &str, hash: &str) -> Result<bool, Busy> {
    let place = tokio::time::timeout(VERIFICATION_WAIT, Arc::clone(lane).acquire_owned());
    let place = place.await.ok().and_then(Result::ok).ok_or(Busy)?;
    let (password, hash) = (password.to_owned(), hash.to_owned());
    let verified = tokio::task::spawn_blocking(move || {
        let _place = place;
        bcrypt::non_truncating_verify(password, &hash).unwrap_or(false)
    });
    verified.await.map_err(|_| Busy)
}

fn identity(name: &str, user: &User) -> Identity {
    Identity {
        user_id: Some(name.to_owned()),
        project_id: Some(user.project.clone()),
        roles: super::with_implied(user.roles.iter().map(String::as_str)),
        scope: Scope::Project,
        ..Identity::default()
    }
}

/// `user:password`, from whichever header brings it.
fn credential(headers: &HeaderMap) -> Option<String> {
    let encoded = match super::text(headers, "x-auth-token") {
        Some(token) => token,
        None => {
            let (scheme, value) = super::text(headers, header::AUTHORIZATION.as_str())?.split_once(' ')?;
            scheme.eq_ignore_ascii_case("basic").then_some(value)?
        }
    };
    String::from_utf8(BASE64.decode(encoded.trim()).ok()?).ok()
}

/// The static token of a user.
pub(crate) fn token(name: &str, password: &str) -> String {
    BASE64.encode(format!("{name}:{password}"))
}

#[cfg(test)]
mod tests {
    #[test]
    fn nobody_has_a_hash_of_full_cost() {
        assert_eq!(bcrypt::non_truncating_verify("", super::NOBODY).ok(), Some(false));
        assert_eq!(
            super::NOBODY.parse::<bcrypt::HashParts>().unwrap().get_cost(),
            super::super::identity_file::BCRYPT_COST
        );
    }
}
