//! The credentials of a request, with which this service acts for the caller at other services.

use axum::http::{HeaderMap, HeaderName};

/// The headers that prove a caller's identity.
const HEADERS: [HeaderName; 2] = [HeaderName::from_static("x-auth-token"), axum::http::header::AUTHORIZATION];

/// The credentials of a request. Formatting them prints none of them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Credentials {
    headers: HeaderMap,
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
        Self { headers }
    }

    /// The headers with the credentials, for a request to another node of this service.
    pub(crate) fn headers(&self) -> HeaderMap {
        self.headers.clone()
    }
}
