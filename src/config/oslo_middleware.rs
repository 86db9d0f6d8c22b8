//! `[oslo_middleware]`: proxies before the service.

use super::group::group;

group! {
    /// `[oslo_middleware]`
    pub(crate) struct OsloMiddleware in "oslo_middleware" {
        /// Whether a proxy's headers name the URL that clients reach this service at.
        enable_proxy_headers_parsing: bool = false,
    }
}
