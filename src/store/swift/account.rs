//! Accounts in Swift: the login to each, its token, and its URL.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use reqwest::{StatusCode, Url, header::HeaderValue};
use tokio::sync::Mutex;

use super::{super::object_server::READ_TIMEOUT, error::SwiftError};
use crate::{
    config::{
        KeystoneLogin, OptionValue as _, Password, Secret, SwiftAccount, SwiftAuthVersion, SwiftProof, SwiftStore,
    },
    keystone,
};

/// How long a token of TempAuth is used if the server does not say when it expires.
const LIFETIME: Duration = Duration::from_secs(3600);

/// A token, and the URL of the account for which it is valid.
#[derive(Clone)]
pub(super) struct Session {
    pub(super) token: HeaderValue,
    pub(super) url: String,
}

/// An account, to which Glimpse logs in when it first needs it.
pub(super) struct Account {
    login: Arc<Login>,
    /// The URL of the account, instead of the one that comes with the token.
    endpoint: Option<String>,
}

enum Login {
    /// The token of a caller, which is not renewed.
    Caller(HeaderValue),
    /// Tokens of a caller who has delegated the roles for them.
    Trust(keystone::Trust),
    TempAuth {
        http: reqwest::Client,
        address: String,
        user: Secret,
        key: Secret,
        renew_before: Duration,
        /// The current token, and when it is replaced. One task at a time logs in.
        current: Mutex<Option<(Session, Instant)>>,
    },
    Keystone {
        client: Box<keystone::Client>,
        service_type: String,
    },
}

impl Account {
    /// # Errors
    /// A description of the invalid option.
    pub(super) fn open(account: &SwiftAccount, options: &SwiftStore, http: &reqwest::Client) -> Result<Self, String> {
        let address = with_scheme(&account.auth_address);
        let renew_before = Duration::from_secs(options.swift_store_expire_soon_interval.into());
        let login = match (account.version, &account.proof) {
            (SwiftAuthVersion::V1, SwiftProof::Password(user, key)) => Login::TempAuth {
                http: http.clone(),
                address,
                user: user.clone(),
                key: key.clone(),
                renew_before,
                current: Mutex::default(),
            },
            (SwiftAuthVersion::V1, SwiftProof::ApplicationCredential(..)) => {
                return Err("swift_store_auth_version: an application credential needs version 3".to_owned());
            }
            (SwiftAuthVersion::V3, proof) => {
                let login = keystone::ServiceLogin {
                    login: keystone_login(account, proof, address)?,
                    cafile: options.swift_store_cacert.clone(),
                    insecure: options.swift_store_auth_insecure,
                    region: options.swift_store_region.clone(),
                    interface: options.swift_store_endpoint_type.to_text(),
                    renew_before,
                };
                let client = Box::new(keystone::Client::new(login)?);
                Login::Keystone { client, service_type: options.swift_store_service_type.clone() }
            }
        };
        Ok(Self { login: Arc::new(login), endpoint: options.swift_store_endpoint.clone() })
    }

    /// The account at this URL, with the token of a caller.
    pub(super) fn of_caller(token: HeaderValue, url: String) -> Self {
        Self { login: Arc::new(Login::Caller(token)), endpoint: Some(url) }
    }

    /// The same account of a caller, with tokens that are renewed by a trust to the user of another account. `None` if these logins
    /// do not support that.
    ///
    /// # Errors
    /// Keystone is unreachable, or does not allow the caller to create a trust.
    pub(super) async fn with_trust(&self, service: &Self) -> Result<Option<Self>, SwiftError> {
        let (Login::Caller(token), Login::Keystone { client, .. }) = (&*self.login, &*service.login) else {
            return Ok(None);
        };
        let trust = keystone::Trust::create(client, token).await?;
        Ok(trust.map(|trust| Self { login: Arc::new(Login::Trust(trust)), endpoint: self.endpoint.clone() }))
    }

    /// Whether its tokens are renewed by a trust.
    pub(super) fn has_trust(&self) -> bool {
        matches!(*self.login, Login::Trust(_))
    }

    /// Another account, at this URL, with the same login.
    pub(super) fn at(&self, url: String) -> Self {
        Self { login: Arc::clone(&self.login), endpoint: Some(url) }
    }

    /// Whether a URL is on a server of this account's Swift, so that the server can get the account's token.
    ///
    /// # Errors
    /// The login fails.
    pub(super) async fn has_server(&self, url: &Url) -> Result<bool, SwiftError> {
        let is_same = |own: &str| Url::parse(own).is_ok_and(|own| own.origin() == url.origin());
        match (&self.endpoint, &*self.login) {
            (Some(endpoint), _) => Ok(is_same(endpoint)),
            (None, Login::Keystone { client, service_type }) => {
                Ok(client.has_server(service_type, url, SystemTime::now().into()).await?)
            }
            (None, _) => Ok(is_same(&self.session(None).await?.url)),
        }
    }

    /// The current session, or a new one if there is none, if it is about to expire, or if Swift has rejected its token.
    pub(super) async fn session(&self, rejected: Option<&HeaderValue>) -> Result<Session, SwiftError> {
        let mut session = match &*self.login {
            Login::Caller(token) => Session { token: token.clone(), url: String::new() },
            Login::Trust(trust) => {
                Session { token: trust.token(rejected, SystemTime::now().into()).await?, url: String::new() }
            }
            Login::Keystone { client, service_type } => {
                // Keystone and Swift compare this with their own clocks, so it is the real time even in tests that set the time.
                let (token, url) = client.service(service_type, rejected, SystemTime::now().into()).await?;
                Session { token, url: url.unwrap_or_default() }
            }
            Login::TempAuth { http, address, user, key, renew_before, current } => {
                let mut current = current.lock().await;
                match &*current {
                    Some((session, renew))
                        if *renew > Instant::now() && rejected.is_none_or(|rejected| *rejected != session.token) =>
                    {
                        session.clone()
                    }
                    _ => {
                        let (session, lifetime) = log_in(http, address, user, key).await?;
                        let left = lifetime.saturating_sub(*renew_before).max(lifetime / 2);
                        *current = Some((session.clone(), Instant::now() + left));
                        session
                    }
                }
            }
        };
        if let Some(endpoint) = &self.endpoint {
            session.url.clone_from(endpoint);
        }
        if session.url.is_empty() {
            return Err(SwiftError::NoEndpoint);
        }
        session.url.truncate(session.url.trim_end_matches('/').len());
        Ok(session)
    }
}

/// The URL of an address, which is https if it has no scheme.
pub(super) fn with_scheme(address: &str) -> String {
    if address.contains("://") { address.to_owned() } else { format!("https://{address}") }
}

fn keystone_login(account: &SwiftAccount, proof: &SwiftProof, address: String) -> Result<KeystoneLogin, String> {
    let mut login = KeystoneLogin {
        auth_url: Some(address),
        user_domain_id: account.user_domain.0.clone(),
        user_domain_name: account.user_domain.1.clone(),
        project_domain_id: account.project_domain.0.clone(),
        project_domain_name: account.project_domain.1.clone(),
        ..KeystoneLogin::default()
    };
    match proof {
        SwiftProof::Password(user, key) => {
            let parts = user.expose().split_once(':').filter(|(_, user)| !user.contains(':'));
            let (project, user) = parts.ok_or("swift_store_user: project:user is expected")?;
            login.project_name = Some(project.to_owned());
            login.username = Some(user.to_owned());
            login.password = Some(Password::new(key.expose()));
        }
        SwiftProof::ApplicationCredential(id, secret) => {
            login.auth_type = Some("v3applicationcredential".to_owned());
            login.application_credential_id = Some(id.expose().to_owned());
            login.application_credential_secret = Some(Password::new(secret.expose()));
        }
    }
    Ok(login)
}

/// Logs in to TempAuth. Returns how long the token is valid, too.
async fn log_in(
    http: &reqwest::Client,
    address: &str,
    user: &Secret,
    key: &Secret,
) -> Result<(Session, Duration), SwiftError> {
    let request = http.get(address).header("X-Auth-User", user.expose()).header("X-Auth-Key", key.expose());
    let sent = tokio::time::timeout(READ_TIMEOUT, request.send()).await;
    let response = sent.map_err(|_| SwiftError::TimedOut)?.map_err(SwiftError::from_connection)?;
    let status = response.status();
    if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
        return Err(SwiftError::LoginRefused(status));
    }
    if !status.is_success() {
        return Err(SwiftError::Answer(status));
    }
    let text = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
    let token = response.headers().get("X-Auth-Token").or_else(|| response.headers().get("X-Storage-Token")).cloned();
    let mut token = token.ok_or(SwiftError::InvalidResponse("a login without a token"))?;
    token.set_sensitive(true);
    let lifetime = text("X-Auth-Token-Expires").and_then(|seconds| seconds.parse().ok()).map(Duration::from_secs);
    let url = text("X-Storage-Url").unwrap_or_default().to_owned();
    Ok((Session { token, url }, lifetime.unwrap_or(LIFETIME)))
}
