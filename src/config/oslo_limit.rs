//! `[oslo_limit]`: how Keystone is asked for limits.

use std::{path::PathBuf, time::Duration};

use super::{keystone_login::login_group, secret::Password, value::choice};

login_group! {
    /// `[oslo_limit]`
    pub(crate) struct OsloLimit in "oslo_limit" {
        /// Authorities that may sign Keystone's certificate, in addition to the system's.
        cafile: Option<PathBuf> = None,
        /// Whether any certificate is accepted as Keystone's.
        insecure: bool = false,
        /// Seconds that Keystone may take to answer.
        timeout: Option<Duration> = None,
        /// The region of the catalog in which Keystone is looked up.
        region_name: Option<String> = None,
        /// The interfaces of the catalog at which Keystone is looked up, the best one first.
        valid_interfaces: Vec<String> = vec!["public".to_owned()],
        /// Where Keystone is, instead of the catalog's address.
        endpoint_override: Option<String> = None,
        /// Glimpse's endpoint, which has the service and the region that limits are registered for.
        endpoint_id: Option<String> = None,
        /// The name of Glimpse's service, where there is no `endpoint_id`.
        endpoint_service_name: Option<String> = None,
        /// The type of Glimpse's service, where there is no `endpoint_id`.
        endpoint_service_type: Option<String> = None,
        /// The region of Glimpse's endpoint, where there is no `endpoint_id`.
        endpoint_region_name: Option<String> = None,
        /// The interface of Glimpse's endpoint, where there is no `endpoint_id`.
        endpoint_interface: Interface = Interface::Public,
    }
}

choice! {
    /// An interface of the catalog; the longer words are its former ones.
    pub(crate) enum Interface {
        /// For everybody.
        #[default]
        Public = "public",
        /// For everybody.
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
    /// Its word in the catalog.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Public | Self::PublicUrl => "public",
            Self::Internal | Self::InternalUrl => "internal",
            Self::Admin | Self::AdminUrl => "admin",
        }
    }
}
