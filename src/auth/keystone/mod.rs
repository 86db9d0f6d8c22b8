//! Authenticates callers by tokens that Keystone validates.
//!
//! A valid token is cached for `token_cache_time`, at most until it expires; that a token is invalid is cached for a few seconds.
//! Concurrent requests with the same new token share one validation. While Keystone is unreachable, cached tokens continue to work,
//! and requests with other tokens fail with 503.

mod token;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use chrono::{DateTime, Utc};
use moka::{Expiry, future::Cache};
use serde::Deserialize;

use self::token::{Body, Token};
use super::{RequestHead, text};
use crate::{
    config::KeystoneAuthtoken,
    context::Identity,
    error::{Error, Result},
    keystone::{Catalog, Client, KeystoneError},
};

/// The maximum number of cached validations.
const CACHED_TOKENS: u64 = 100_000;
/// How long it is cached that a token is invalid.
const INVALID_FOR: Duration = Duration::from_secs(10);
/// A header that declares that access rules are enforced here. Without it, Keystone reports a token with access rules as invalid.
const ACCESS_RULES: (HeaderName, HeaderValue) =
    (HeaderName::from_static("openstack-identity-access-rules"), HeaderValue::from_static("1.0"));

/// Validates tokens, and caches the results.
pub(crate) struct Keystone {
    client: Client,
    options: KeystoneAuthtoken,
    key: [u8; 32],
    validations: Cache<[u8; 32], Validation>,
    clock: fn() -> DateTime<Utc>,
}

/// The result of a validation.
#[derive(Clone)]
struct Validation {
    /// `None` if the token is invalid.
    token: Option<Arc<Token>>,
    cache_for: Duration,
}

/// The part of Keystone's response to a validation that has the catalog.
#[derive(Deserialize)]
struct CatalogBody {
    token: CatalogOfToken,
}

#[derive(Deserialize)]
struct CatalogOfToken {
    #[serde(default)]
    catalog: Catalog,
}

/// Removes a validation from the cache after its `cache_for`.
struct ExpiryOfValidation;

impl Expiry<[u8; 32], Validation> for ExpiryOfValidation {
    fn expire_after_create(&self, _key: &[u8; 32], validation: &Validation, _now: Instant) -> Option<Duration> {
        Some(validation.cache_for)
    }
}

impl Keystone {
    /// Checks the options. No request is sent to Keystone yet.
    ///
    /// # Errors
    /// The option of `[keystone_authtoken]` that is missing or invalid.
    pub(crate) fn new(options: &KeystoneAuthtoken, clock: fn() -> DateTime<Utc>) -> Result<Self, String> {
        Ok(Self {
            client: Client::new(options)?,
            options: options.clone(),
            key: rand::random(),
            validations: Cache::builder().max_capacity(CACHED_TOKENS).expire_after(ExpiryOfValidation).build(),
            clock,
        })
    }

    /// The URL at which clients log in, for the challenge of a 401.
    pub(crate) fn uri(&self) -> &str {
        let public = self.options.www_authenticate_uri.as_deref().or(self.options.auth_url.as_deref());
        public.unwrap_or_default()
    }

    /// The service catalog of a user's token; `None` if the token is invalid.
    pub(super) async fn catalog(&self, mut token: HeaderValue) -> Result<Option<Catalog>, KeystoneError> {
        token.set_sensitive(true);
        let headers = [(HeaderName::from_static("x-subject-token"), token), ACCESS_RULES];
        let now = (self.clock)();
        let body: Option<CatalogBody> =
            self.client.get("/auth/tokens", &[], &headers.into_iter().collect(), now).await?;
        Ok(body.map(|body| body.token.catalog))
    }

    pub(super) async fn authenticate(&self, head: &RequestHead<'_>) -> Result<Identity> {
        let user_token = header(head.headers, "x-auth-token").or_else(|| header(head.headers, "x-storage-token"));
        let user_token = user_token.ok_or(Error::Unauthenticated)?;
        // A service is allowed to complete an operation of a user whose token has expired in the meantime.
        let service = match header(head.headers, "x-service-token") {
            Some(token) => self.token(token, false).await?,
            None => None,
        };
        let is_service = match header(head.headers, "x-service-token") {
            Some(_) => self.is_service(service.as_deref())?,
            None => false,
        };
        let token = self.token(user_token, is_service).await?.ok_or(Error::Unauthenticated)?;
        if !is_service && !token.allows(self.options.service_type.as_deref(), head.method, head.path) {
            tracing::info!("the token's access rules do not allow this request");
            return Err(Error::Unauthenticated);
        }
        // If the role is not required, any valid token in this header is a service token.
        let service = service.filter(|_| is_service || !self.options.service_token_roles_required);
        Ok(Identity { service: service.map(|service| Arc::new(service.identity.clone())), ..token.identity.clone() })
    }

    /// Whether a token has a role of services. Fails if the token is invalid and `delay_auth_decision` is false.
    fn is_service(&self, token: Option<&Token>) -> Result<bool> {
        let has_role =
            token.is_some_and(|token| self.options.service_token_roles.iter().any(|role| token.has_role(role)));
        let is_valid = has_role || (token.is_some() && !self.options.service_token_roles_required);
        if is_valid || self.options.delay_auth_decision { Ok(has_role) } else { Err(Error::Unauthenticated) }
    }

    /// A token, from the cache or from Keystone; `None` if it is invalid. Expired tokens are valid only with `even_expired`.
    async fn token(&self, token: &str, even_expired: bool) -> Result<Option<Arc<Token>>> {
        let validated =
            self.validations.try_get_with(self.cache_key(token, even_expired), self.validate(token, even_expired));
        let validation = validated
            .await
            .map_err(|error| Error::Unavailable { service: "Keystone", source: error.to_string().into() })?;
        let has_expired = |token: &Token| token.expires <= (self.clock)();
        Ok(validation.token.filter(|token| even_expired || !has_expired(token)))
    }

    /// The key of a token in the cache. It does not reveal the token.
    fn cache_key(&self, token: &str, even_expired: bool) -> [u8; 32] {
        let mut key = blake3::Hasher::new_keyed(&self.key);
        key.update(&[u8::from(even_expired)]).update(token.as_bytes());
        *key.finalize().as_bytes()
    }

    /// `token_cache_time`; zero if it is negative.
    fn cache_time(&self) -> Duration {
        Duration::from_secs(self.options.token_cache_time.try_into().unwrap_or_default())
    }

    /// Requests the validation of a token; `None` if it is invalid.
    async fn request_validation(
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

    async fn validate(&self, token: &str, even_expired: bool) -> Result<Validation, KeystoneError> {
        let now = (self.clock)();
        let Some(token) = self.request_validation(token, even_expired, now).await? else {
            return Ok(Validation { token: None, cache_for: INVALID_FOR.min(self.cache_time()) });
        };
        let left = (token.expires - now).to_std().unwrap_or_default();
        // An expired token is valid only together with a service token, which may become invalid soon.
        let cache_for = if left.is_zero() { INVALID_FOR } else { left };
        Ok(Validation { token: Some(Arc::new(token)), cache_for: cache_for.min(self.cache_time()) })
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

    /// The cache measures the time since the validation, so a change of the system's clock has no effect on it.
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
        let validation = Validation { token: Some(Arc::new(token)), cache_for: Duration::from_secs(3600) };
        for even_expired in [false, true] {
            keystone.validations.insert(keystone.cache_key("t", even_expired), validation.clone()).await;
        }
        assert!(keystone.token("t", false).await.unwrap().is_some());
        NOW.fetch_add(60, Ordering::Relaxed);
        assert!(keystone.token("t", false).await.unwrap().is_none());
        // Together with a service token it is still valid.
        assert!(keystone.token("t", true).await.unwrap().is_some());
    }
}
