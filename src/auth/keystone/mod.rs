//! Keystone's tokens, validated by Keystone.
//!
//! What Keystone said of a token is remembered for `token_cache_time`, and never past the token's end; that it knows no such
//! token, for a few seconds. However many requests bring a new token at once, Keystone is asked once. While Keystone is
//! away, remembered tokens go on working, and for the others the service is unavailable.

mod token;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use chrono::{DateTime, Utc};
use moka::{Expiry, future::Cache};

use self::token::{Body, Token};
use super::{Asked, text};
use crate::{
    config::KeystoneAuthtoken,
    context::Identity,
    error::{Error, Result},
    keystone::{Client, KeystoneError},
};

/// Tokens whose validation is remembered.
const CACHED_TOKENS: u64 = 100_000;
/// How long it is remembered that there is no such token.
const INVALID_FOR: Duration = Duration::from_secs(10);
/// Declares that access rules are enforced here; without it, Keystone hides tokens that have some.
const ACCESS_RULES: (HeaderName, HeaderValue) =
    (HeaderName::from_static("openstack-identity-access-rules"), HeaderValue::from_static("1.0"));

/// Who validates tokens, and what is known of them.
pub(crate) struct Keystone {
    client: Client,
    options: KeystoneAuthtoken,
    key: [u8; 32],
    verdicts: Cache<[u8; 32], Verdict>,
    clock: fn() -> DateTime<Utc>,
}

/// What Keystone said of a token: `None` is that it knows no such token.
#[derive(Clone)]
struct Verdict {
    token: Option<Arc<Token>>,
    keep: Duration,
}

/// Forgets a verdict when it says so.
struct ByVerdict;

impl Expiry<[u8; 32], Verdict> for ByVerdict {
    fn expire_after_create(&self, _key: &[u8; 32], verdict: &Verdict, _now: Instant) -> Option<Duration> {
        Some(verdict.keep)
    }
}

impl Keystone {
    /// Reads the options; Keystone is not asked yet.
    ///
    /// # Errors
    /// What is missing or wrong in `[keystone_authtoken]`.
    pub(crate) fn new(options: &KeystoneAuthtoken, clock: fn() -> DateTime<Utc>) -> Result<Self, String> {
        Ok(Self {
            client: Client::new(options)?,
            options: options.clone(),
            key: rand::random(),
            verdicts: Cache::builder().max_capacity(CACHED_TOKENS).expire_after(ByVerdict).build(),
            clock,
        })
    }

    /// Where a client gets a token, for the challenge of a 401.
    pub(crate) fn uri(&self) -> &str {
        let public = self.options.www_authenticate_uri.as_deref().or(self.options.auth_url.as_deref());
        public.unwrap_or_default()
    }

    pub(super) async fn authenticate(&self, asked: &Asked<'_>) -> Result<Identity> {
        let user_token = header(asked.headers, "x-auth-token").or_else(|| header(asked.headers, "x-storage-token"));
        let user_token = user_token.ok_or(Error::Unauthenticated)?;
        // A service may finish with an expired token what its user began, if it proves to be one.
        let service = match header(asked.headers, "x-service-token") {
            Some(token) => self.token(token, false).await?,
            None => None,
        };
        let is_service = match header(asked.headers, "x-service-token") {
            Some(_) => self.is_service(service.as_deref())?,
            None => false,
        };
        let token = self.token(user_token, is_service).await?.ok_or(Error::Unauthenticated)?;
        if !is_service && !token.allows(self.options.service_type.as_deref(), asked.method, asked.path) {
            tracing::info!("the token's access rules do not allow this request");
            return Err(Error::Unauthenticated);
        }
        // Another token than a service's counts as one where its role is not required.
        let service = service.filter(|_| is_service || !self.options.service_token_roles_required);
        Ok(Identity { service: service.map(|service| Arc::new(service.identity.clone())), ..token.identity.clone() })
    }

    /// Whether a token proves a service.
    fn is_service(&self, token: Option<&Token>) -> Result<bool> {
        let has_role =
            token.is_some_and(|token| self.options.service_token_roles.iter().any(|role| token.has_role(role)));
        let is_valid = has_role || (token.is_some() && !self.options.service_token_roles_required);
        if is_valid || self.options.delay_auth_decision { Ok(has_role) } else { Err(Error::Unauthenticated) }
    }

    /// What Keystone says, or said, of a token.
    async fn token(&self, token: &str, even_expired: bool) -> Result<Option<Arc<Token>>> {
        let asked = self.verdicts.try_get_with(self.cache_key(token, even_expired), self.ask(token, even_expired));
        let verdict = asked
            .await
            .map_err(|error| Error::Unavailable { service: "Keystone", source: error.to_string().into() })?;
        let is_over = |token: &Token| token.expires <= (self.clock)();
        Ok(verdict.token.filter(|token| even_expired || !is_over(token)))
    }

    /// The key of a token in the cache. It does not reveal the token.
    fn cache_key(&self, token: &str, even_expired: bool) -> [u8; 32] {
        let mut key = blake3::Hasher::new_keyed(&self.key);
        key.update(&[u8::from(even_expired)]).update(token.as_bytes());
        *key.finalize().as_bytes()
    }

    fn remembered_for(&self) -> Duration {
        Duration::from_secs(self.options.token_cache_time.try_into().unwrap_or_default())
    }

    /// Asks Keystone about a token. `None` if it is no valid token.
    async fn validate(
        &self,
        token: &str,
        even_expired: bool,
        now: DateTime<Utc>,
    ) -> Result<Option<Token>, KeystoneError> {
        let Ok(mut subject) = HeaderValue::from_str(token) else { return Ok(None) };
        subject.set_sensitive(true);
        let headers = [(HeaderName::from_static("x-subject-token"), subject), ACCESS_RULES];
        let query: &[_] = if even_expired { &[("allow_expired", "1")] } else { &[] };
        let body: Option<Body> = self.client.get("/auth/tokens", query, &headers.into_iter().collect(), now).await?;
        Ok(body.map(Token::from))
    }

    async fn ask(&self, token: &str, even_expired: bool) -> Result<Verdict, KeystoneError> {
        let now = (self.clock)();
        let Some(token) = self.validate(token, even_expired, now).await? else {
            return Ok(Verdict { token: None, keep: INVALID_FOR.min(self.remembered_for()) });
        };
        let left = (token.expires - now).to_std().unwrap_or_default();
        // One that is over already was allowed by a service's word, which counts for a moment.
        let keep = if left.is_zero() { INVALID_FOR } else { left };
        Ok(Verdict { token: Some(Arc::new(token)), keep: keep.min(self.remembered_for()) })
    }
}

/// A token from a header, without the white space that some clients leave around it.
fn header<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    text(headers, name).map(str::trim).filter(|token| !token.is_empty())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicI64, Ordering};

    use super::*;
    use crate::config::{Config, Source, Sources};

    /// In seconds.
    static NOW: AtomicI64 = AtomicI64::new(1_000_000);

    fn clock() -> DateTime<Utc> {
        DateTime::from_timestamp(NOW.load(Ordering::Relaxed), 0).unwrap()
    }

    /// The cache counts seconds from the validation, and does not know that the system's clock was set forward.
    #[tokio::test]
    async fn a_cached_token_is_refused_once_it_has_expired() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("test.conf");
        let options = "auth_url = http://127.0.0.1:1\nauth_type = password\nusername = u\npassword = p\n";
        std::fs::write(&file, format!("[keystone_authtoken]\n{options}")).unwrap();
        let config = Config::load(&Sources { files: vec![Source::File(file)], ..Sources::default() }).unwrap();
        let _ = rustls::crypto::ring::default_provider().install_default();
        let keystone = Keystone::new(&config.keystone_authtoken, clock).unwrap();
        let text = r#"{"token": {"expires_at": "1970-01-12T13:47:40.000000Z", "user": {"id": "u"}}}"#;
        let token: Token = serde_json::from_str::<token::Body>(text).unwrap().into();
        assert_eq!(token.expires, clock() + chrono::TimeDelta::seconds(60));
        let verdict = Verdict { token: Some(Arc::new(token)), keep: Duration::from_secs(3600) };
        for even_expired in [false, true] {
            keystone.verdicts.insert(keystone.cache_key("t", even_expired), verdict.clone()).await;
        }
        assert!(keystone.token("t", false).await.unwrap().is_some());
        NOW.fetch_add(60, Ordering::Relaxed);
        assert!(keystone.token("t", false).await.unwrap().is_none());
        // A service is allowed to use it.
        assert!(keystone.token("t", true).await.unwrap().is_some());
    }
}
