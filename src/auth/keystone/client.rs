//! Talking to Keystone: our own token, and the validation of others.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use reqwest::{StatusCode, Url, header::HeaderValue};
use serde::de::DeserializeOwned;
use serde_json::{Value as Json, json};
use tokio::sync::Mutex;

use super::token::{Body, Token};
use crate::{
    config::{KeystoneAuthtoken, OsloLimit, Password},
    error::with_causes,
};

/// How long Keystone may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a connection to it may take, where the options do not say.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The pause before a request is sent again; it doubles.
const RETRY_PAUSE: Duration = Duration::from_millis(100);
/// Our own token is renewed so long before it ends, or when half of its life is over, whichever is later.
const RENEW_BEFORE: TimeDelta = TimeDelta::seconds(120);
/// How long a failed login counts for those who wait for it too, and a refused one, which would fail again and may lock our
/// user out.
const FAILED_FOR: TimeDelta = TimeDelta::seconds(1);
const REFUSED_FOR: TimeDelta = TimeDelta::seconds(10);
/// Bytes of an answer of Keystone's, at the most: a catalog of hundreds of regions has room in it.
const MAX_ANSWER: usize = 4 * 1024 * 1024;
/// Times that a request is sent again, at the most, whatever the options say.
const MAX_RETRIES: u32 = 10;
/// Tells Keystone that we hold tokens to their access rules; it shows us restricted ones only then.
const ACCESS_RULES: (&str, &str) = ("OpenStack-Identity-Access-Rules", "1.0");

/// Why Keystone did not answer the question.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum KeystoneError {
    /// It is away, or fails.
    #[error("{0}")]
    Http(String),
    /// It does not take our credentials, or our user may not ask this.
    #[error("Keystone refuses the user of [{0}]: {1}")]
    Refused(&'static str, StatusCode),
}

impl From<reqwest::Error> for KeystoneError {
    fn from(error: reqwest::Error) -> Self {
        Self::Http(with_causes(&error))
    }
}

/// Keystone, and our own token there.
pub(crate) struct Client {
    http: reqwest::Client,
    /// The option group that names our user.
    group: &'static str,
    options: KeystoneAuthtoken,
    method: Method,
    /// The interfaces of the catalog at which Keystone is looked up, the best one first.
    interfaces: Vec<String>,
    /// Where it is, whatever the catalog says.
    endpoint: Option<Url>,
    /// `…/v3`
    auth_url: Url,
    /// One is fetched at a time; whoever needs it meanwhile waits for it, and shares the failure too.
    own: Mutex<Login>,
}

/// How we log in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Method {
    Password,
    ApplicationCredential,
    Token,
}

impl Method {
    /// The method that `auth_type` names; `None` if it is not supported.
    fn of(auth_type: Option<&str>) -> Option<Self> {
        Some(match auth_type {
            None | Some("password" | "v3password") => Self::Password,
            Some("v3applicationcredential") => Self::ApplicationCredential,
            Some("token" | "v3token") => Self::Token,
            Some(_) => return None,
        })
    }
}

/// How the last login ended.
enum Login {
    None,
    Done(OwnToken),
    Failed { error: KeystoneError, until: DateTime<Utc> },
}

#[derive(Clone)]
struct OwnToken {
    value: HeaderValue,
    /// When it is replaced.
    renew: DateTime<Utc>,
    /// Where tokens are validated: the catalog may name another address than the one for logging in.
    endpoint: Url,
}

impl Client {
    pub(super) fn new(options: &KeystoneAuthtoken) -> Result<Self, String> {
        Self::of_group("keystone_authtoken", options, ANSWER_TIMEOUT)
    }

    /// One that asks for limits, as another user.
    ///
    /// # Errors
    /// What is missing or wrong in `[oslo_limit]`.
    pub(crate) fn for_limits(options: &OsloLimit) -> Result<Self, String> {
        let account = KeystoneAuthtoken {
            auth_type: options.auth_type.clone(),
            auth_url: options.auth_url.clone(),
            username: options.username.clone(),
            user_id: options.user_id.clone(),
            password: options.password.clone(),
            user_domain_id: options.user_domain_id.clone(),
            user_domain_name: options.user_domain_name.clone(),
            project_id: options.project_id.clone(),
            project_name: options.project_name.clone(),
            project_domain_id: options.project_domain_id.clone(),
            project_domain_name: options.project_domain_name.clone(),
            cafile: options.cafile.clone(),
            insecure: options.insecure,
            region_name: options.region_name.clone(),
            application_credential_id: options.application_credential_id.clone(),
            application_credential_name: options.application_credential_name.clone(),
            application_credential_secret: options.application_credential_secret.clone(),
            token: options.token.clone(),
            system_scope: options.system_scope.clone(),
            domain_id: options.domain_id.clone(),
            domain_name: options.domain_name.clone(),
            default_domain_id: options.default_domain_id.clone(),
            default_domain_name: options.default_domain_name.clone(),
            ..KeystoneAuthtoken::default()
        };
        let wrong = |name: &str, message: String| format!("[oslo_limit] {name}: {message}");
        let endpoint = options.endpoint_override.as_deref().map(v3).transpose();
        let interfaces = options.valid_interfaces.iter();
        Ok(Self {
            interfaces: interfaces.map(|name| name.strip_suffix("URL").unwrap_or(name).to_owned()).collect(),
            endpoint: endpoint.map_err(|message| wrong("endpoint_override", message))?,
            ..Self::of_group("oslo_limit", &account, options.timeout.unwrap_or(ANSWER_TIMEOUT))?
        })
    }

    fn of_group(group: &'static str, options: &KeystoneAuthtoken, timeout: Duration) -> Result<Self, String> {
        let section = options.auth_section.as_deref().unwrap_or(group);
        let missing = |name: &str| format!("[{section}] {name} is missing: without it Keystone cannot be asked");
        let method = Method::of(options.auth_type.as_deref()).ok_or_else(|| {
            let kind = options.auth_type.as_deref().unwrap_or_default();
            format!(
                "[{section}] auth_type: {kind:?} is not supported; password, v3applicationcredential and v3token are"
            )
        })?;
        let auth_url = options.auth_url.as_deref().ok_or_else(|| missing("auth_url"))?;
        let has_user = options.username.is_some() || options.user_id.is_some();
        let lacks = match method {
            Method::Password if !has_user => Some("username"),
            Method::Password => options.password.is_none().then_some("password"),
            Method::ApplicationCredential => {
                match (&options.application_credential_id, &options.application_credential_name) {
                    (None, None) => Some("application_credential_id"),
                    (None, Some(_)) if !has_user => Some("username"),
                    _ => options.application_credential_secret.is_none().then_some("application_credential_secret"),
                }
            }
            Method::Token => options.token.is_none().then_some("token"),
        };
        if let Some(name) = lacks {
            return Err(missing(name));
        }
        if let Some(other) = options.system_scope.as_deref().filter(|scope| *scope != "all") {
            return Err(format!("[{section}] system_scope: {other:?} is not supported; all is"));
        }
        let mut http = reqwest::Client::builder()
            .timeout(timeout)
            .connect_timeout(options.http_connect_timeout.unwrap_or(CONNECT_TIMEOUT))
            .redirect(reqwest::redirect::Policy::none());
        if options.insecure {
            http = http.tls_danger_accept_invalid_certs(true);
        }
        if let Some(path) = &options.cafile {
            let error = |error: &dyn std::fmt::Display| format!("[{group}] cafile {}: {error}", path.display());
            let pem = std::fs::read(path).map_err(|e| error(&e))?;
            let certificates = reqwest::Certificate::from_pem_bundle(&pem).map_err(|e| error(&e))?;
            http = http.tls_certs_merge(certificates);
        }
        Ok(Self {
            http: http.build().map_err(|error| format!("[{group}]: {error}"))?,
            auth_url: v3(auth_url).map_err(|error| format!("[{section}] auth_url: {error}"))?,
            group,
            options: options.clone(),
            method,
            interfaces: vec![options.interface.clone()],
            endpoint: None,
            own: Mutex::new(Login::None),
        })
    }

    /// Reads what is at a path below `/v3`; `None` where there is nothing.
    pub(crate) async fn get<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&str, &str)],
        now: DateTime<Utc>,
    ) -> Result<Option<T>, KeystoneError> {
        let mut own = self.own_token(None, now).await?;
        for may_renew in [true, false] {
            let response = self
                .send(|| {
                    let request = self.http.get(format!("{}{path}", own.endpoint)).query(query);
                    request.header("X-Auth-Token", own.value.clone())
                })
                .await?;
            match response.status() {
                StatusCode::OK => return Ok(Some(body(response).await?)),
                StatusCode::NOT_FOUND => return Ok(None),
                StatusCode::UNAUTHORIZED if may_renew => own = self.own_token(Some(&own), now).await?,
                status => return Err(self.failed(status)),
            }
        }
        Err(KeystoneError::Refused(self.group, StatusCode::UNAUTHORIZED))
    }

    /// What an answer means that is not the one we asked for.
    fn failed(&self, status: StatusCode) -> KeystoneError {
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => KeystoneError::Refused(self.group, status),
            status => KeystoneError::Http(format!("Keystone answered {status}")),
        }
    }

    /// Asks for a token; `None` where Keystone knows no such token.
    pub(super) async fn validate(
        &self,
        token: &str,
        even_expired: bool,
        now: DateTime<Utc>,
    ) -> Result<Option<Token>, KeystoneError> {
        let Ok(mut subject) = HeaderValue::from_str(token) else { return Ok(None) };
        subject.set_sensitive(true);
        let mut own = self.own_token(None, now).await?;
        for may_renew in [true, false] {
            let response = self
                .send(|| {
                    let request = self.http.get(tokens(&own.endpoint)).header("X-Auth-Token", own.value.clone());
                    let request =
                        request.header("X-Subject-Token", subject.clone()).header(ACCESS_RULES.0, ACCESS_RULES.1);
                    if even_expired { request.query(&[("allow_expired", "1")]) } else { request }
                })
                .await?;
            match response.status() {
                StatusCode::OK => return Ok(Some(body::<Body>(response).await?.into())),
                StatusCode::NOT_FOUND => return Ok(None),
                // Ours was revoked, or Keystone has new keys.
                StatusCode::UNAUTHORIZED if may_renew => own = self.own_token(Some(&own), now).await?,
                status => return Err(self.failed(status)),
            }
        }
        Err(KeystoneError::Refused(self.group, StatusCode::UNAUTHORIZED))
    }

    /// Our own token: the one we have, unless it was rejected or is about to end.
    async fn own_token(&self, rejected: Option<&OwnToken>, now: DateTime<Utc>) -> Result<OwnToken, KeystoneError> {
        let mut own = self.own.lock().await;
        match &*own {
            Login::Done(token)
                if token.renew > now && rejected.is_none_or(|rejected| rejected.value != token.value) =>
            {
                return Ok(token.clone());
            }
            Login::Failed { error, until } if *until > now => return Err(error.clone()),
            _ => {}
        }
        let login = self.log_in(now).await;
        *own = match &login {
            Ok(token) => Login::Done(token.clone()),
            Err(error) => {
                let wait = if matches!(error, KeystoneError::Refused(..)) { REFUSED_FOR } else { FAILED_FOR };
                Login::Failed { error: error.clone(), until: now + wait }
            }
        };
        login
    }

    async fn log_in(&self, now: DateTime<Utc>) -> Result<OwnToken, KeystoneError> {
        let response =
            self.send(|| self.http.post(tokens(&self.auth_url)).json(&login(self.method, &self.options))).await?;
        if response.status() != StatusCode::CREATED {
            return Err(match response.status() {
                StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND => {
                    KeystoneError::Refused(self.group, response.status())
                }
                status => self.failed(status),
            });
        }
        let value = response.headers().get("X-Subject-Token").cloned();
        let mut value = value.ok_or_else(|| KeystoneError::Http("Keystone answered without a token".to_owned()))?;
        value.set_sensitive(true);
        let body: Body = body(response).await?;
        let region = self.options.region_name.as_deref();
        let in_catalog = self.interfaces.iter().find_map(|interface| body.identity_endpoint(interface, region));
        let in_catalog = in_catalog.and_then(|url| v3(url).ok());
        let endpoint = self.endpoint.clone().or(in_catalog).unwrap_or_else(|| {
            let (group, interfaces, region) = (self.group, self.interfaces.join(" or "), region.unwrap_or("any"));
            tracing::warn!(
                "Keystone's catalog names no address of its own for [{group}] with interface {interfaces} and region_name \
                 {region}; it is asked at auth_url"
            );
            self.auth_url.clone()
        });
        let left = body.expires() - now;
        let renew = now + (left - RENEW_BEFORE).max(left / 2);
        Ok(OwnToken { value, renew, endpoint })
    }

    /// Sends a request, again when the connection fails or Keystone does, as often as the options say. Asking for a token
    /// twice does no harm.
    async fn send(&self, request: impl Fn() -> reqwest::RequestBuilder) -> Result<reqwest::Response, KeystoneError> {
        let mut pause = RETRY_PAUSE;
        for _ in 0..self.options.http_request_max_retries.min(MAX_RETRIES) {
            match request().send().await {
                Ok(response) if !response.status().is_server_error() => return Ok(response),
                // What took too long once would again; the request that waits for it has no time for that.
                Err(error) if error.is_timeout() => return Err(error.into()),
                _ => {}
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        Ok(request().send().await?)
    }
}

/// The body of the request for our own token.
fn login(method: Method, options: &KeystoneAuthtoken) -> Json {
    let domain = |id: &Option<String>, name: &Option<String>| {
        let is_set = id.is_some() || name.is_some();
        let domain = if is_set { (id, name) } else { (&options.default_domain_id, &options.default_domain_name) };
        match domain {
            (Some(id), _) => json!({ "id": id }),
            (None, Some(name)) => json!({ "name": name }),
            (None, None) => json!({ "id": "default" }),
        }
    };
    let user = || match &options.user_id {
        Some(id) => json!({ "id": id }),
        None => json!({
            "name": options.username,
            "domain": domain(&options.user_domain_id, &options.user_domain_name),
        }),
    };
    let secret = |secret: &Option<Password>| json!(secret.as_ref().map(|secret| secret.expose()));
    let identity = match method {
        Method::Password => {
            let mut user = user();
            user["password"] = secret(&options.password);
            json!({ "methods": ["password"], "password": { "user": user } })
        }
        Method::ApplicationCredential => {
            let secret = secret(&options.application_credential_secret);
            let credential = match &options.application_credential_id {
                Some(id) => json!({ "id": id, "secret": secret }),
                None => json!({ "name": options.application_credential_name, "secret": secret, "user": user() }),
            };
            // The credential has its own scope.
            let identity = json!({ "methods": ["application_credential"], "application_credential": credential });
            return json!({ "auth": { "identity": identity } });
        }
        Method::Token => json!({ "methods": ["token"], "token": { "id": secret(&options.token) } }),
    };
    let mut auth = json!({ "identity": identity });
    if options.system_scope.is_some() {
        auth["scope"] = json!({ "system": { "all": true } });
    } else if options.domain_id.is_some() || options.domain_name.is_some() {
        auth["scope"] = json!({ "domain": domain(&options.domain_id, &options.domain_name) });
    } else if let Some(id) = &options.project_id {
        auth["scope"] = json!({ "project": { "id": id } });
    } else if let Some(name) = &options.project_name {
        let domain = domain(&options.project_domain_id, &options.project_domain_name);
        auth["scope"] = json!({ "project": { "name": name, "domain": domain } });
    }
    json!({ "auth": auth })
}

/// What an answer says.
async fn body<T: DeserializeOwned>(mut response: reqwest::Response) -> Result<T, KeystoneError> {
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        if bytes.len() + chunk.len() > MAX_ANSWER {
            return Err(KeystoneError::Http(format!("Keystone's answer is longer than {MAX_ANSWER} bytes")));
        }
        bytes.extend_from_slice(&chunk);
    }
    serde_json::from_slice(&bytes)
        .map_err(|error| KeystoneError::Http(format!("Keystone's answer cannot be read: {error}")))
}

/// A URL of Keystone, with the version that we speak at its end.
fn v3(url: &str) -> Result<Url, String> {
    let url = url.trim_end_matches('/');
    let url = match url.strip_suffix("/v2.0").unwrap_or(url) {
        url if url.ends_with("/v3") => url.to_owned(),
        url => format!("{url}/v3"),
    };
    url.parse().map_err(|error| format!("not a URL: {error}"))
}

fn tokens(v3: &Url) -> String {
    format!("{v3}/auth/tokens")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{KeystoneAuthtoken, Method, login, v3};

    /// Each of these is what keystoneauth sends.
    #[test]
    fn logins_have_the_form_of_their_method() {
        let text = |text: &str| Some(text.to_owned());
        let options = KeystoneAuthtoken {
            application_credential_id: text("i"),
            username: text("u"),
            project_name: text("p"),
            default_domain_name: text("D"),
            project_domain_id: text("d"),
            ..KeystoneAuthtoken::default()
        };
        let credential = json!({"id": "i", "secret": null});
        assert_eq!(
            login(Method::ApplicationCredential, &options),
            json!({"auth": {"identity": {"methods": ["application_credential"], "application_credential": credential}}})
        );
        let scope = json!({"project": {"name": "p", "domain": {"id": "d"}}});
        assert_eq!(login(Method::Token, &options)["auth"]["scope"], scope);
        let user = json!({"name": "u", "domain": {"name": "D"}, "password": null});
        assert_eq!(login(Method::Password, &options)["auth"]["identity"]["password"]["user"], user);
        let named =
            KeystoneAuthtoken { application_credential_id: None, application_credential_name: text("n"), ..options };
        let credential = &login(Method::ApplicationCredential, &named)["auth"]["identity"]["application_credential"];
        assert_eq!(credential["user"], json!({"name": "u", "domain": {"name": "D"}}));
        let system = KeystoneAuthtoken { system_scope: text("all"), ..named.clone() };
        assert_eq!(login(Method::Password, &system)["auth"]["scope"], json!({"system": {"all": true}}));
        let domain = KeystoneAuthtoken { domain_id: text("x"), ..named };
        assert_eq!(login(Method::Password, &domain)["auth"]["scope"], json!({"domain": {"id": "x"}}));
    }

    #[test]
    fn every_spelling_of_an_auth_url_is_v3() {
        let urls = ["http://k:5000", "http://k:5000/", "http://k:5000/v3", "http://k:5000/v3/", "http://k:5000/v2.0"];
        for url in urls {
            assert_eq!(v3(url).unwrap().as_str(), "http://k:5000/v3");
        }
        assert_eq!(v3("https://k/identity").unwrap().as_str(), "https://k/identity/v3");
    }
}
