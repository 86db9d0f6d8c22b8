//! Users of our own, for a server without Keystone.
//!
//! A client logs in with its password ([`login`]) and receives a signed token ([`token`]), as with a Keystone. Without logging in,
//! it proves its identity with HTTP Basic (keystoneauth's `http_basic`) or with a static token (keystoneauth's `admin_token`), which
//! is that credential again, `base64(user:password)`, in `X-Auth-Token`. Encoded, because python-glanceclient percent-encodes a
//! token's other characters.
//!
//! bcrypt is slow on purpose. Its verdict on a credential is cached for at most five minutes, under a fast keyed hash of the
//! credential whose key lives as long as this process. Concurrent requests with the same new credential share one verification.
//!
//! The number of concurrent verifications is limited, so that guesses cannot take every core. Credentials that are not cached wait in
//! a lane, which a keyed hash of the user's name chooses, and a lane verifies one credential at a time. Guesses at one user's password
//! therefore delay that user's first request only. A name that does not exist takes the same way at the same price, so that the
//! response time does not tell which names exist.

mod directory;
mod login;
mod revocations;
mod token;

use std::{
    borrow::Cow,
    fs::Metadata,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use axum::http::{HeaderMap, header};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use bcrypt::HashParts;
use chrono::{DateTime, Utc};
use moka::future::Cache;
use tokio::sync::{Mutex, Semaphore};

pub(crate) use self::{
    directory::{Filter, Project, UserEntry, require_admin},
    login::{DomainReference, Issued, Login, Proof, Reference, RequestedScope},
    token::{Claims, Method},
};
use self::{revocations::Revocations, token::Signer};
use super::identity_file::{BCRYPT_COST, IdentityError, IdentityFile, User};
use crate::{
    context::{Identity, Scope},
    error::{Error, Result},
};

/// Credentials whose verdict is remembered.
const CACHED_CREDENTIALS: u64 = 10_000;
/// How long a verdict is remembered.
const CACHED_FOR: Duration = Duration::from_secs(300);
/// The maximum number of concurrent verifications.
const VERIFICATIONS: usize = 2;
/// The number of lanes. Two names rarely share one.
const LANES: usize = 1024;
/// How long a credential waits for its verification.
const VERIFICATION_WAIT: Duration = Duration::from_secs(5);
/// How often the identity file is looked at for a change.
const RELOAD_AFTER: Duration = Duration::from_secs(1);
/// The id of the only domain, which all users and projects belong to, as in a Keystone that was just set up.
pub(crate) const DOMAIN_ID: &str = "default";
/// The name of the only domain.
pub(crate) const DOMAIN_NAME: &str = "Default";
/// The salt and digest of a hash that no password has.
const DECOY: &str = "CwTycUXWue0Thq9StjUM0uJ4u1s8Ns8ZP8wF2Y4YwIgYtqL5E6f2e";

/// The users, and the verdicts on credentials.
pub(crate) struct Standalone {
    path: PathBuf,
    users: ArcSwap<IdentityFile>,
    looked: Mutex<(Instant, Option<Version>)>,
    key: [u8; 32],
    /// By credential and password hash, so that a user's new password has new verdicts, and the others keep theirs.
    verdicts: Cache<[u8; 32], bool>,
    verifications: Arc<Semaphore>,
    lanes: Box<[Arc<Semaphore>]>,
    signer: Signer,
    revocations: Revocations,
    /// The lifetime of a token in seconds.
    lifetime: i64,
    clock: fn() -> DateTime<Utc>,
}

impl Standalone {
    /// Reads the users, and the key of the tokens.
    pub(crate) fn open(path: PathBuf, lifetime: u32, clock: fn() -> DateTime<Utc>) -> Result<Self, IdentityError> {
        let version = Version::of(&path);
        let file = IdentityFile::read(&path)?;
        let signer = Signer::open(&path)?;
        Ok(Self {
            path,
            users: ArcSwap::from_pointee(file),
            looked: Mutex::new((Instant::now(), version)),
            key: rand::random(),
            verdicts: Cache::builder().max_capacity(CACHED_CREDENTIALS).time_to_live(CACHED_FOR).build(),
            verifications: Arc::new(Semaphore::new(VERIFICATIONS)),
            lanes: (0..LANES).map(|_| Arc::new(Semaphore::new(1))).collect(),
            signer,
            revocations: Revocations::default(),
            lifetime: lifetime.into(),
            clock,
        })
    }

    /// Authenticates a request by its signed token, its static token, or HTTP Basic.
    pub(super) async fn authenticate(&self, headers: &HeaderMap) -> Result<Identity> {
        let users = self.current_users().await;
        if let Some(text) = super::text(headers, "x-auth-token").filter(|text| token::is_signed(text)) {
            let claims = self.verify_token(&users, text).ok_or(Error::Unauthenticated)?;
            let user = users.users.get(&claims.user).ok_or(Error::Unauthenticated)?;
            return Ok(scoped_identity(&claims, user));
        }
        let credential = credential(headers).ok_or(Error::Unauthenticated)?;
        let (name, password) = credential.split_once(':').ok_or(Error::Unauthenticated)?;
        let user = self.verify_password(&users, name, password).await?.ok_or(Error::Unauthenticated)?;
        Ok(identity(name, user))
    }

    /// The users as the file has them now.
    async fn current_users(&self) -> Arc<IdentityFile> {
        self.reload().await;
        self.users.load_full()
    }

    /// The time in seconds since 1970.
    fn now(&self) -> i64 {
        (self.clock)().timestamp()
    }

    /// The claims of a signed token that is valid now.
    fn verify_token(&self, users: &IdentityFile, token: &str) -> Option<Claims> {
        let claims = self.signer.verify(token, users)?;
        (self.now() < claims.expires && !self.revocations.contains(&claims)).then_some(claims)
    }

    /// The user of this name, if the password is right.
    ///
    /// # Errors
    /// `Unavailable` if too many passwords wait for their verification.
    async fn verify_password<'u>(
        &self,
        users: &'u IdentityFile,
        name: &str,
        password: &str,
    ) -> Result<Option<&'u User>> {
        let user = users.users.get(name);
        let number = self.number(name);
        let hash = user.map_or_else(|| decoy(users, number).into(), |user| Cow::Borrowed(user.password_hash.as_str()));
        let mut key = blake3::Hasher::new_keyed(&self.key);
        for part in [hash.as_ref(), name, password] {
            key.update(&(part.len() as u64).to_le_bytes()).update(part.as_bytes());
        }
        let verdict = self.verify(&self.lanes[number % LANES], password, &hash);
        let verdict = self.verdicts.try_get_with(*key.finalize().as_bytes(), verdict).await;
        let verified = verdict.map_err(|busy| Error::Unavailable { service: "authentication", source: busy.into() })?;
        Ok(user.filter(|_| verified))
    }

    /// A number that belongs to the name as long as this process lives, and that no client can predict.
    fn number(&self, name: &str) -> usize {
        let hash = blake3::keyed_hash(&self.key, name.as_bytes());
        hash.as_bytes().iter().take(4).fold(0, |number, byte| number << 8 | usize::from(*byte))
    }

    /// Compares a password with a hash, at the price of one bcrypt, when the lane and a core are free.
    async fn verify(&self, lane: &Arc<Semaphore>, password: &str, hash: &str) -> Result<bool, Busy> {
        let wait = async {
            let lane = Arc::clone(lane).acquire_owned().await.ok()?;
            Some((lane, Arc::clone(&self.verifications).acquire_owned().await.ok()?))
        };
        let permits = tokio::time::timeout(VERIFICATION_WAIT, wait).await.ok().flatten().ok_or(Busy)?;
        let (password, hash) = (password.to_owned(), hash.to_owned());
        let verified = tokio::task::spawn_blocking(move || {
            // A client that disconnects does not end its verification, so it must not free the lane either.
            let _permits = permits;
            bcrypt::non_truncating_verify(password, &hash).unwrap_or(false)
        });
        verified.await.map_err(|_| Busy)
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
        let now = Version::of(&self.path);
        let changed = now != looked.1;
        looked.0 = Instant::now();
        if !changed {
            return;
        }
        match IdentityFile::read(&self.path) {
            Ok(file) => {
                looked.1 = now;
                tracing::info!(users = file.users.len(), "identity file was read again");
                self.users.store(Arc::new(file));
            }
            Err(error) => {
                // Its content stays wrong until it changes again, but a file that cannot be read now may be readable in a second.
                if !matches!(error, IdentityError::File { .. }) {
                    looked.1 = now;
                }
                tracing::error!(%error, "identity file was changed and cannot be read; the old users stay");
            }
        }
    }
}

/// More unknown credentials came than can be verified.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("too many credentials wait to be verified")]
struct Busy;

/// What changes whenever a file is replaced or written, even if its modification time is set to what it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Version {
    file: (u64, u64),
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Version {
    fn of(path: &Path) -> Option<Self> {
        let of = |file: Metadata| Self {
            file: (file.dev(), file.ino()),
            size: file.size(),
            modified: (file.mtime(), file.mtime_nsec()),
            changed: (file.ctime(), file.ctime_nsec()),
        };
        std::fs::metadata(path).map(of).ok()
    }
}

/// A hash that no password has, for a name that does not exist. It costs the same as that of an existing user. The number of the name
/// chooses the user, so that a name always has the same cost.
fn decoy(users: &IdentityFile, number: usize) -> String {
    let costs = users.users.values().filter_map(|user| user.password_hash.parse::<HashParts>().ok());
    let costs: Vec<u32> = costs.map(|hash| hash.get_cost()).collect();
    let cost = costs.get(number % costs.len().max(1)).copied().unwrap_or(BCRYPT_COST);
    format!("$2b${cost:02}${DECOY}")
}

fn identity(name: &str, user: &User) -> Identity {
    Identity {
        user_id: Some(name.to_owned()),
        project_id: Some(user.project.clone()),
        roles: super::with_implied(user.roles.iter().map(String::as_str)),
        scope: Scope::Project,
        user_domain_id: Some(DOMAIN_ID.to_owned()),
        project_domain_id: Some(DOMAIN_ID.to_owned()),
        ..Identity::default()
    }
}

/// The identity that a token proves. An unscoped token allows what Keystone's does: to ask for a scoped one.
fn scoped_identity(claims: &Claims, user: &User) -> Identity {
    match claims.project {
        Some(_) => identity(&claims.user, user),
        None => Identity {
            user_id: Some(claims.user.clone()),
            scope: Scope::None,
            user_domain_id: Some(DOMAIN_ID.to_owned()),
            ..Identity::default()
        },
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
pub(crate) fn static_token(name: &str, password: &str) -> String {
    BASE64.encode(format!("{name}:{password}"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use bcrypt::HashParts;
    use chrono::DateTime;

    use super::{BCRYPT_COST, IdentityFile, LANES, Standalone, User, decoy};

    fn cost(hash: &str) -> u32 {
        hash.parse::<HashParts>().unwrap().get_cost()
    }

    #[test]
    fn a_name_that_does_not_exist_costs_the_same_as_one_that_does() {
        let mut users = IdentityFile::default();
        assert_eq!(cost(&decoy(&users, 7)), BCRYPT_COST);
        assert_eq!(bcrypt::non_truncating_verify("", &decoy(&users, 7)).ok(), Some(false));
        for (name, cost) in [("a", 4), ("b", 5), ("c", 5)] {
            let password_hash = bcrypt::hash("password", cost).unwrap();
            users.users.insert(name.to_owned(), User { project: "p".to_owned(), password_hash, ..User::default() });
        }
        let costs: BTreeSet<u32> = (0..9).map(|number| cost(&decoy(&users, number))).collect();
        assert_eq!(costs, BTreeSet::from([4, 5]));
        assert_eq!(decoy(&users, 8), decoy(&users, 8));
    }

    #[test]
    fn each_name_has_a_lane_that_only_this_process_knows() {
        let dir = tempfile::tempdir().unwrap();
        let path = IdentityFile::path(dir.path());
        std::fs::write(&path, "").unwrap();
        let open = || Standalone::open(path.clone(), 60, DateTime::default).unwrap();
        let (one, two) = (open(), open());
        let names: Vec<String> = (0..50).map(|n| format!("user{n}")).collect();
        let lanes =
            |standalone: &Standalone| names.iter().map(|name| standalone.number(name) % LANES).collect::<Vec<_>>();
        assert_eq!(lanes(&one), lanes(&one));
        assert_ne!(lanes(&one), lanes(&two));
        assert!(lanes(&one).into_iter().collect::<BTreeSet<_>>().len() > 40);
        assert!(one.lanes.iter().all(|lane| lane.available_permits() == 1));
    }
}
