//! The credentials of a request, with which this service acts for the caller at other services.

use axum::http::{HeaderMap, HeaderName, HeaderValue};

use super::{Authenticator, text};
use crate::{
    error::{Error, Result},
    keystone::{Catalog, KeystoneError},
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

impl Authenticator {
    /// The caller's service catalog; `None` if there is none.
    ///
    /// # Errors
    /// `Unavailable` if Keystone cannot be reached.
    pub(crate) async fn catalog(&self, credentials: &Credentials) -> Result<Option<Catalog>> {
        match self {
            Self::Keystone(keystone) => {
                let Some(token) = credentials.token() else { return Ok(None) };
                let unavailable =
                    |error: KeystoneError| Error::Unavailable { service: "Keystone", source: error.into() };
                keystone.catalog(token).await.map_err(unavailable)
            }
            // As in Glance, the proxy in front of the service is trusted.
            Self::Proxy => Ok(credentials.catalog.as_deref().and_then(Catalog::parse_v2)),
            Self::Standalone(_) | Self::Fake | Self::None => Ok(None),
        }
    }

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
        let catalog = self.catalog(credentials).await?;
        Ok(catalog.and_then(|catalog| catalog.find(service_type, region, interface).map(str::to_owned)))
    }
}
