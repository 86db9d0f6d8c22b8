//! The credentials of a request, with which this service acts for the caller at other services.

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;

use super::{Authenticator, text};
use crate::{
    error::{Error, Result},
    keystone::Catalog,
};

/// The headers that prove a caller's identity.
const HEADERS: [HeaderName; 2] = [HeaderName::from_static("x-auth-token"), axum::http::header::AUTHORIZATION];
/// The service catalog of the caller, from a proxy that has validated the token.
const CATALOG: &str = "x-service-catalog";

/// The credentials of a request. Formatting them prints none of them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Credentials {
    headers: HeaderMap,
    catalog: Option<String>,
}

impl Credentials {
    /// The credentials among the headers of a request.
    pub(crate) fn of(request: &HeaderMap) -> Self {
        let mut headers = HeaderMap::new();
        for name in HEADERS {
            if let Some(value) = request.get(&name) {
                let mut value = value.clone();
                value.set_sensitive(true);
                headers.insert(name, value);
            }
        }
        Self { headers, catalog: text(request, CATALOG).map(str::to_owned) }
    }

    /// The caller's token.
    pub(crate) fn token(&self) -> Option<HeaderValue> {
        self.headers.get(&HEADERS[0]).cloned()
    }

    /// The headers with the credentials, for a request to another node of this service.
    pub(crate) fn headers(&self) -> HeaderMap {
        self.headers.clone()
    }
}

/// The catalog in the form of Identity v2, which a proxy sends.
#[derive(Debug, Deserialize)]
struct OldService {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    endpoints: Vec<serde_json::Map<String, serde_json::Value>>,
}

fn endpoint_in_header(catalog: &str, service_type: &str, region: Option<&str>, interface: &str) -> Option<String> {
    let services: Vec<OldService> = serde_json::from_str(catalog).ok()?;
    let endpoints =
        services.into_iter().filter(|service| service.kind == service_type).flat_map(|service| service.endpoints);
    let is_there = |endpoint: &serde_json::Map<String, serde_json::Value>| {
        let own = endpoint.get("region").and_then(|name| name.as_str());
        region.is_none_or(|region| own.is_some_and(|own| own.eq_ignore_ascii_case(region)))
    };
    let key = format!("{interface}URL");
    let url =
        |endpoint: serde_json::Map<_, _>| endpoint.get(&key).and_then(serde_json::Value::as_str).map(str::to_owned);
    endpoints.filter(is_there).find_map(url)
}

impl Authenticator {
    /// The URL of a service, in a region if one is given, from the caller's service catalog.
    ///
    /// # Errors
    /// `Unavailable` if Keystone cannot be reached.
    pub(crate) async fn endpoint(
        &self,
        credentials: &Credentials,
        service_type: &str,
        region: Option<&str>,
        interface: &str,
    ) -> Result<Option<String>> {
        match self {
            Self::Keystone(keystone) => {
                let Some(token) = credentials.token() else { return Ok(None) };
                let catalog: Option<Catalog> = keystone
                    .catalog(token)
                    .await
                    .map_err(|error| Error::Unavailable { service: "Keystone", source: error.into() })?;
                Ok(catalog.and_then(|catalog| catalog.find(service_type, region, interface).map(str::to_owned)))
            }
            // As in Glance, the proxy in front of the service is trusted.
            Self::Proxy => {
                let catalog = credentials.catalog.as_deref();
                Ok(catalog.and_then(|catalog| endpoint_in_header(catalog, service_type, region, interface)))
            }
            Self::Standalone(_) | Self::Fake | Self::None => Ok(None),
        }
    }
}
