//! The options of a client of Keystone, from any option group.

use std::{path::PathBuf, time::Duration};

use chrono::TimeDelta;

use crate::config::{KeystoneAuthtoken, KeystoneLogin, OsloLimit};

/// How long Keystone is given to respond if the options do not set it.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(15);
/// How long connecting to Keystone may take if the options do not set it.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// By default, a token is replaced this long before it expires, or when half of its lifetime is over, whichever is later.
const RENEW_BEFORE: TimeDelta = TimeDelta::seconds(120);

/// A login for requests to another service than Keystone, by the options of a store.
pub(crate) struct ServiceLogin {
    /// The login.
    pub(crate) login: KeystoneLogin,
    /// Certificate authorities, in addition to the system's.
    pub(crate) cafile: Option<PathBuf>,
    /// Whether any certificate is accepted.
    pub(crate) insecure: bool,
    /// The region in which the catalog is searched.
    pub(crate) region: Option<String>,
    /// The interface that is looked up in the catalog. Keystone's former names, such as `publicURL`, are accepted.
    pub(crate) interface: String,
    /// How long before its expiry a token is replaced.
    pub(crate) renew_before: Duration,
}

/// The options of a client of Keystone.
#[derive(Clone)]
pub(crate) struct ClientOptions {
    /// The group.
    pub(super) group: &'static str,
    /// The group with the options of the login.
    pub(super) section: String,
    /// The options of the login.
    pub(super) login: KeystoneLogin,
    /// Certificate authorities, in addition to the system's.
    pub(super) cafile: Option<PathBuf>,
    /// Whether any certificate is accepted.
    pub(super) insecure: bool,
    /// The timeout of a request.
    pub(super) timeout: Duration,
    /// The timeout of a connection.
    pub(super) connect_timeout: Duration,
    /// How often a request is retried.
    pub(super) retries: u32,
    /// The region in which the catalog is searched.
    pub(super) region: Option<String>,
    /// The interfaces that are looked up in the catalog, in this order.
    pub(super) interfaces: Vec<String>,
    /// The URL of Keystone, instead of the catalog's.
    pub(super) endpoint_override: Option<String>,
    /// How long before its expiry a token is replaced.
    pub(super) renew_before: TimeDelta,
}

impl ClientOptions {
    /// The error about an option of the login that is not set.
    pub(super) fn missing(&self, name: &str) -> String {
        format!("[{}] {name} is missing: without it, Glimpse cannot log in to Keystone", self.section)
    }

    /// An HTTP client with these timeouts and certificates.
    ///
    /// # Errors
    /// `cafile` cannot be read.
    pub(super) fn http_client(&self) -> Result<reqwest::Client, String> {
        let mut http = reqwest::Client::builder()
            .timeout(self.timeout)
            .connect_timeout(self.connect_timeout)
            .redirect(reqwest::redirect::Policy::none());
        if self.insecure {
            http = http.tls_danger_accept_invalid_certs(true);
        }
        if let Some(path) = &self.cafile {
            let error = |error: &dyn std::fmt::Display| format!("cafile {}: {error}", path.display());
            let pem = std::fs::read(path).map_err(|e| error(&e))?;
            let certificates = reqwest::Certificate::from_pem_bundle(&pem).map_err(|e| error(&e))?;
            http = http.tls_certs_merge(certificates);
        }
        http.build().map_err(|error| error.to_string())
    }
}

impl From<&KeystoneAuthtoken> for ClientOptions {
    fn from(options: &KeystoneAuthtoken) -> Self {
        let group = "keystone_authtoken";
        Self {
            group,
            section: options.auth_section.clone().unwrap_or_else(|| group.to_owned()),
            login: options.login(),
            cafile: options.cafile.clone(),
            insecure: options.insecure,
            timeout: RESPONSE_TIMEOUT,
            connect_timeout: options.http_connect_timeout.unwrap_or(CONNECT_TIMEOUT),
            retries: options.http_request_max_retries,
            region: options.region_name.clone(),
            interfaces: vec![options.interface.clone()],
            endpoint_override: None,
            renew_before: RENEW_BEFORE,
        }
    }
}

impl From<&OsloLimit> for ClientOptions {
    fn from(options: &OsloLimit) -> Self {
        let group = "oslo_limit";
        // keystoneauth also accepts its former names of interfaces, such as publicURL.
        let interfaces =
            options.valid_interfaces.iter().map(|name| name.strip_suffix("URL").unwrap_or(name).to_owned());
        Self {
            group,
            section: group.to_owned(),
            login: options.login(),
            cafile: options.cafile.clone(),
            insecure: options.insecure,
            timeout: options.timeout.unwrap_or(RESPONSE_TIMEOUT),
            connect_timeout: CONNECT_TIMEOUT,
            retries: KeystoneAuthtoken::default().http_request_max_retries,
            region: options.region_name.clone(),
            interfaces: interfaces.collect(),
            endpoint_override: options.endpoint_override.clone(),
            renew_before: RENEW_BEFORE,
        }
    }
}

impl From<ServiceLogin> for ClientOptions {
    fn from(options: ServiceLogin) -> Self {
        let group = "glance_store";
        Self {
            group,
            section: group.to_owned(),
            // Keystone itself is only needed for the login.
            endpoint_override: options.login.auth_url.clone(),
            login: options.login,
            cafile: options.cafile,
            insecure: options.insecure,
            timeout: RESPONSE_TIMEOUT,
            connect_timeout: CONNECT_TIMEOUT,
            retries: KeystoneAuthtoken::default().http_request_max_retries,
            region: options.region,
            interfaces: vec![options.interface.strip_suffix("URL").unwrap_or(&options.interface).to_owned()],
            renew_before: TimeDelta::from_std(options.renew_before).unwrap_or(RENEW_BEFORE),
        }
    }
}
