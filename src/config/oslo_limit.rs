//! `[oslo_limit]`: how limits are read from Keystone.

use std::{path::PathBuf, time::Duration};

use super::{keystone_login::login_group, secret::Password, value::choice};

login_group! {
    /// `[oslo_limit]`
    pub(crate) struct OsloLimit in "oslo_limit" {
        /// A file of certificate authorities that Keystone's certificate can be signed by, in addition to the system's.
        cafile: Option<PathBuf> = None,
        /// Whether Keystone's certificate is not verified.
        insecure: bool = false,
        /// The timeout of a request to Keystone, in seconds.
        timeout: Option<Duration> = None,
        /// The region in which Keystone's endpoint is looked up in the catalog.
        region_name: Option<String> = None,
        /// The interfaces by which Keystone's endpoint is looked up in the catalog, in order of preference.
        valid_interfaces: Vec<String> = vec!["public".to_owned()],
        /// The URL of Keystone, instead of the one in the catalog.
        endpoint_override: Option<String> = None,
        /// The id of Glimpse's endpoint, whose service and region the limits are registered for.
        endpoint_id: Option<String> = None,
        /// The name of Glimpse's service, if `endpoint_id` is not set.
        endpoint_service_name: Option<String> = None,
        /// The type of Glimpse's service, if `endpoint_id` is not set.
        endpoint_service_type: Option<String> = None,
        /// The region of Glimpse's endpoint, if `endpoint_id` is not set.
        endpoint_region_name: Option<String> = None,
        /// The interface of Glimpse's endpoint, if `endpoint_id` is not set.
        endpoint_interface: Interface = Interface::Public,
    }
}

choice! {
    /// An interface in the catalog, by its name or its former name.
    pub(crate) enum Interface {
        /// For all clients.
        #[default]
        Public = "public",
        /// For all clients.
        PublicUrl = "publicURL",
        /// For other services.
        Internal = "internal",
        /// For other services.
        InternalUrl = "internalURL",
        /// For admins.
        Admin = "admin",
        /// For admins.
        AdminUrl = "adminURL",
    }
}

impl Interface {
    /// Its name in the catalog.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Public | Self::PublicUrl => "public",
            Self::Internal | Self::InternalUrl => "internal",
            Self::Admin | Self::AdminUrl => "admin",
        }
    }
}
