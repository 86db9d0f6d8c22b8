//! `[oslo_middleware]`: proxies in front of the service.

use super::group::group;

group! {
    /// `[oslo_middleware]`
    pub(crate) struct OsloMiddleware in "oslo_middleware" {
        /// Whether the URL of this service in links is taken from a proxy's forwarding headers.
        enable_proxy_headers_parsing: bool = false,
    }
}
