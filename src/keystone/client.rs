//! A client of Keystone that logs in by itself.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use reqwest::{
    StatusCode, Url,
    header::{HeaderMap, HeaderValue},
};
use serde::{Deserialize, de::DeserializeOwned};
use tokio::sync::Mutex;

use super::{catalog::Catalog, credentials::Credentials, options::ClientOptions};
use crate::error::with_causes;

/// The pause before the first retry of a request; it doubles with each retry.
const RETRY_PAUSE: Duration = Duration::from_millis(100);
/// How long a failed login is remembered, for the requests that wait for it.
const FAILED_FOR: TimeDelta = TimeDelta::seconds(1);
/// How long a rejected login is remembered. Another attempt would be rejected too, and Keystone may lock the user out.
const REFUSED_FOR: TimeDelta = TimeDelta::seconds(10);
/// The maximum size of a response in bytes, enough for a catalog of hundreds of regions.
const MAX_RESPONSE: usize = 4 * 1024 * 1024;
/// The maximum number of retries, whatever the options say.
const MAX_RETRIES: u32 = 10;

/// Why a request to Keystone failed.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum KeystoneError {
    /// Keystone is unreachable, or its response is an error.
    #[error("{0}")]
    Http(String),
    /// Keystone rejects the credentials of the group, or does not allow its user this request.
    #[error("Keystone refuses the user of [{0}]: {1}")]
    Refused(&'static str, StatusCode),
}

impl From<reqwest::Error> for KeystoneError {
    fn from(error: reqwest::Error) -> Self {
        Self::Http(with_causes(&error))
    }
}

/// A client of Keystone, logged in as the user of one option group.
pub(crate) struct Client {
    http: reqwest::Client,
    options: ClientOptions,
    credentials: Credentials,
    /// `…/v3`, where the client logs in.
    auth_url: Url,
    /// `…/v3` of `endpoint_override`.
    endpoint: Option<Url>,
    /// One task at a time logs in. The tasks that wait for it share its token or its failure.
    login: Mutex<Login>,
}

/// The result of the last login.
enum Login {
    None,
    Done(Session),
    Failed { error: KeystoneError, until: DateTime<Utc> },
}

/// A token, and where it is used.
#[derive(Clone)]
struct Session {
    token: HeaderValue,
    /// When it is replaced.
    renew: DateTime<Utc>,
    /// `…/v3`, where requests are sent: the catalog may name another address than the one for logging in.
    endpoint: Url,
    catalog: Arc<Catalog>,
    /// The id of the user.
    user_id: String,
}

/// Keystone's response to a login.
#[derive(Deserialize)]
struct LoginResponse {
    token: TokenBody,
}

#[derive(Deserialize)]
struct TokenBody {
    expires_at: DateTime<Utc>,
    #[serde(default)]
    catalog: Catalog,
    user: User,
}

#[derive(Deserialize)]
struct User {
    id: String,
}

impl Client {
    /// Checks the options. No request is sent yet.
    ///
    /// # Errors
    /// The option that is missing or invalid.
    pub(crate) fn new(options: impl Into<ClientOptions>) -> Result<Self, String> {
        let options = options.into();
        let (group, section) = (options.group, &options.section);
        let auth_url = options.login.auth_url.as_deref().ok_or_else(|| options.missing("auth_url"))?;
        let endpoint = options.endpoint_override.as_deref().map(v3).transpose();
        Ok(Self {
            http: options.http_client().map_err(|error| format!("[{group}] {error}"))?,
            credentials: Credentials::new(&options)?,
            auth_url: v3(auth_url).map_err(|error| format!("[{section}] auth_url: {error}"))?,
            endpoint: endpoint.map_err(|error| format!("[{group}] endpoint_override: {error}"))?,
            login: Mutex::new(Login::None),
            options,
        })
    }

    /// Reads the resource at a path below `/v3`; `None` if Keystone has none there (404). `now` is the time that the token's
    /// expiry is compared with.
    ///
    /// # Errors
    /// Keystone is unreachable or fails, rejects the login, or does not allow the request.
    pub(crate) async fn get<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&str, &str)],
        headers: &HeaderMap,
        now: DateTime<Utc>,
    ) -> Result<Option<T>, KeystoneError> {
        let mut session = self.session(None, now).await?;
        for may_renew in [true, false] {
            let response = self
                .send(|| {
                    let request = self.http.get(format!("{}{path}", session.endpoint)).query(query);
                    request.headers(headers.clone()).header("X-Auth-Token", session.token.clone())
                })
                .await?;
            match response.status() {
                StatusCode::OK => return Ok(Some(read_body(response).await?)),
                StatusCode::NOT_FOUND => return Ok(None),
                // The token was revoked, or Keystone has new keys.
                StatusCode::UNAUTHORIZED if may_renew => session = self.session(Some(&session.token), now).await?,
                status => return Err(self.error_of(status)),
            }
        }
        Err(self.error_of(StatusCode::UNAUTHORIZED))
    }

    /// A token, and the URL of a service in the catalog, if it is there. The token is a new one if the service has rejected the
    /// current one.
    ///
    /// # Errors
    /// Keystone is unreachable or fails, or rejects the login.
    pub(crate) async fn service(
        &self,
        service_type: &str,
        rejected: Option<&HeaderValue>,
        now: DateTime<Utc>,
    ) -> Result<(HeaderValue, Option<String>), KeystoneError> {
        let session = self.session(rejected, now).await?;
        let (interfaces, region) = (&self.options.interfaces, self.options.region.as_deref());
        let url = session.catalog.endpoint(service_type, interfaces, region).map(str::to_owned);
        Ok((session.token, url))
    }

    /// The current token, or a new one if there is none, if it is about to expire, or if it was rejected.
    ///
    /// # Errors
    /// Keystone is unreachable or fails, or rejects the login.
    pub(super) async fn token(
        &self,
        rejected: Option<&HeaderValue>,
        now: DateTime<Utc>,
    ) -> Result<HeaderValue, KeystoneError> {
        Ok(self.session(rejected, now).await?.token)
    }

    /// The id of the user who logs in.
    ///
    /// # Errors
    /// Keystone is unreachable or fails, or rejects the login.
    pub(super) async fn user_id(&self, now: DateTime<Utc>) -> Result<String, KeystoneError> {
        Ok(self.session(None, now).await?.user_id)
    }

    /// Whether [`Self::for_trust`] returns a client.
    pub(super) fn can_have_trusts(&self) -> bool {
        self.credentials.for_trust("").is_some()
    }

    /// A client with the same login, for a trust. `None` if the login cannot use one.
    pub(super) fn for_trust(&self, id: &str) -> Option<Self> {
        Some(Self {
            http: self.http.clone(),
            options: self.options.clone(),
            credentials: self.credentials.for_trust(id)?,
            auth_url: self.auth_url.clone(),
            endpoint: self.endpoint.clone(),
            login: Mutex::new(Login::None),
        })
    }

    /// The URL of a resource at a path below `/v3`, where the client logs in.
    pub(super) fn url_of(&self, path: &str) -> String {
        format!("{}{path}", self.auth_url)
    }

    pub(super) fn http(&self) -> &reqwest::Client {
        &self.http
    }

    /// Whether a URL is on a server of a service, at any interface in any region of the catalog.
    ///
    /// # Errors
    /// Keystone is unreachable or fails, or rejects the login.
    pub(crate) async fn has_server(
        &self,
        service_type: &str,
        url: &Url,
        now: DateTime<Utc>,
    ) -> Result<bool, KeystoneError> {
        Ok(self.session(None, now).await?.catalog.has_server(service_type, url))
    }

    /// The error for the status of an unexpected response.
    fn error_of(&self, status: StatusCode) -> KeystoneError {
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => KeystoneError::Refused(self.options.group, status),
            status => KeystoneError::Http(format!("Keystone answered {status}")),
        }
    }

    /// The current session, or a new one if there is none, if it is about to expire, or if Keystone rejected its token.
    async fn session(&self, rejected: Option<&HeaderValue>, now: DateTime<Utc>) -> Result<Session, KeystoneError> {
        let mut login = self.login.lock().await;
        match &*login {
            Login::Done(session)
                if session.renew > now && rejected.is_none_or(|rejected| *rejected != session.token) =>
            {
                return Ok(session.clone());
            }
            Login::Failed { error, until } if *until > now => return Err(error.clone()),
            _ => {}
        }
        let result = self.log_in(now).await;
        *login = match &result {
            Ok(session) => Login::Done(session.clone()),
            Err(error) => {
                let wait = if matches!(error, KeystoneError::Refused(..)) { REFUSED_FOR } else { FAILED_FOR };
                Login::Failed { error: error.clone(), until: now + wait }
            }
        };
        result
    }

    async fn log_in(&self, now: DateTime<Utc>) -> Result<Session, KeystoneError> {
        let url = format!("{}/auth/tokens", self.auth_url);
        let response = self.send(|| self.http.post(&url).json(&self.credentials.to_json())).await?;
        match response.status() {
            StatusCode::CREATED => {}
            status @ (StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND) => {
                return Err(KeystoneError::Refused(self.options.group, status));
            }
            status => return Err(self.error_of(status)),
        }
        let token = response.headers().get("X-Subject-Token").cloned();
        let mut token = token.ok_or_else(|| KeystoneError::Http("Keystone answered without a token".to_owned()))?;
        token.set_sensitive(true);
        let TokenBody { expires_at, catalog, user } = read_body::<LoginResponse>(response).await?.token;
        let left = expires_at - now;
        let renew = now + (left - self.options.renew_before).max(left / 2);
        let endpoint = self.find_endpoint(&catalog);
        Ok(Session { token, renew, endpoint, catalog: Arc::new(catalog), user_id: user.id })
    }

    /// Where Keystone's API is: at `endpoint_override`, else as the catalog says, else at `auth_url`.
    fn find_endpoint(&self, catalog: &Catalog) -> Url {
        let (interfaces, region) = (&self.options.interfaces, self.options.region.as_deref());
        let in_catalog = || catalog.endpoint("identity", interfaces, region).and_then(|url| v3(url).ok());
        self.endpoint.clone().or_else(in_catalog).unwrap_or_else(|| {
            let (group, interfaces) = (self.options.group, interfaces.join(" or "));
            let region = region.unwrap_or("any");
            tracing::warn!(
                "Keystone's catalog has no identity endpoint for [{group}] with interface {interfaces} and region_name \
                 {region}; requests are sent to auth_url"
            );
            self.auth_url.clone()
        })
    }

    /// Sends a request, which must be idempotent. It is retried as often as the options say if the connection or Keystone fails.
    pub(super) async fn send(
        &self,
        request: impl Fn() -> reqwest::RequestBuilder,
    ) -> Result<reqwest::Response, KeystoneError> {
        let mut pause = RETRY_PAUSE;
        for _ in 0..self.options.retries.min(MAX_RETRIES) {
            match request().send().await {
                Ok(response) if !response.status().is_server_error() => return Ok(response),
                // A retry would time out too, and the waiting request has no time for that.
                Err(error) if error.is_timeout() => return Err(error.into()),
                _ => {}
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        Ok(request().send().await?)
    }
}

/// Parses the body of a response.
pub(super) async fn read_body<T: DeserializeOwned>(mut response: reqwest::Response) -> Result<T, KeystoneError> {
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        if bytes.len() + chunk.len() > MAX_RESPONSE {
            return Err(KeystoneError::Http(format!("Keystone's answer is longer than {MAX_RESPONSE} bytes")));
        }
        bytes.extend_from_slice(&chunk);
    }
    serde_json::from_slice(&bytes)
        .map_err(|error| KeystoneError::Http(format!("Keystone's answer cannot be read: {error}")))
}

/// A URL of Keystone that ends with the version of its API.
fn v3(url: &str) -> Result<Url, String> {
    let url = url.trim_end_matches('/');
    let url = match url.strip_suffix("/v2.0").unwrap_or(url) {
        url if url.ends_with("/v3") => url.to_owned(),
        url => format!("{url}/v3"),
    };
    url.parse().map_err(|error| format!("not a URL: {error}"))
}

#[cfg(test)]
mod tests {
    use super::v3;

    #[test]
    fn every_spelling_of_an_auth_url_is_v3() {
        let urls = ["http://k:5000", "http://k:5000/", "http://k:5000/v3", "http://k:5000/v3/", "http://k:5000/v2.0"];
        for url in urls {
            assert_eq!(v3(url).unwrap().as_str(), "http://k:5000/v3");
        }
        assert_eq!(v3("https://k/identity").unwrap().as_str(), "https://k/identity/v3");
    }
}
