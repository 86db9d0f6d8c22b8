//! The options of a client of Keystone, from any option group.

use std::{path::PathBuf, time::Duration};

use crate::config::{KeystoneAuthtoken, KeystoneLogin, OsloLimit};

/// How long Keystone is given to respond if the options do not set it.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(15);
/// How long connecting to Keystone may take if the options do not set it.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The options of a client of Keystone.
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
        }
    }
}
