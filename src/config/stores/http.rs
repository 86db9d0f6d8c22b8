//! The options of a store that reads from web servers.

use std::path::PathBuf;

use crate::config::{group::group, value::Pairs};

group! {
    /// A store that reads from web servers: options of `[glance_store]`, or of a group with the store's name.
    pub(crate) struct HttpStore in "glance_store" {
        /// A file of certificate authorities that a server's certificate can be signed by.
        https_ca_certificates_file: Option<PathBuf> = None,
        /// Whether servers' certificates are not verified, if there is no such file.
        https_insecure: bool = true,
        /// Proxies, as `http:host:port`.
        http_proxy_information: Pairs = Pairs::default(),
    }
}
