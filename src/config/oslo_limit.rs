//! `[oslo_limit]`: how Keystone is asked for limits.

use std::{path::PathBuf, time::Duration};

use super::{group::group, secret::Password, value::choice};

group! {
    /// `[oslo_limit]`
    pub(crate) struct OsloLimit in "oslo_limit" {
        /// How Glimpse logs in to Keystone: password or v3password, v3applicationcredential, or v3token.
        auth_type: Option<String> = None,
        /// Where Glimpse logs in.
        auth_url: Option<String> = None,
        /// The name of Glimpse's user.
        username: Option<String> = None; was "oslo_limit" "user_name"; was "oslo_limit" "user-name",
        /// The id of Glimpse's user, instead of name and domain.
        user_id: Option<String> = None,
        /// The password of Glimpse's user.
        password: Option<Password> = None,
        /// The domain of Glimpse's user, by id.
        user_domain_id: Option<String> = None,
        /// The domain of Glimpse's user, by name.
        user_domain_name: Option<String> = None,
        /// What the login is for instead of a project: all, which is the system.
        system_scope: Option<String> = None,
        /// The domain that the login is for instead of a project, by id.
        domain_id: Option<String> = None,
        /// The domain that the login is for instead of a project, by name.
        domain_name: Option<String> = None,
        /// The domain of user and project where their own is not set, by id.
        default_domain_id: Option<String> = None,
        /// The domain of user and project where their own is not set, by name.
        default_domain_name: Option<String> = None,
        /// The id of Glimpse's application credential.
        application_credential_id: Option<String> = None,
        /// The name of Glimpse's application credential, of the user that `username` or `user_id` names.
        application_credential_name: Option<String> = None,
        /// The secret of Glimpse's application credential.
        application_credential_secret: Option<Password> = None,
        /// Glimpse's token, from which another one is made. It cannot be renewed once it has expired.
        token: Option<Password> = None,
        /// The project that the login is for, by id.
        project_id: Option<String> = None; was "oslo_limit" "tenant_id"; was "oslo_limit" "tenant-id",
        /// The project that the login is for, by name.
        project_name: Option<String> = None; was "oslo_limit" "tenant_name"; was "oslo_limit" "tenant-name",
        /// That project's domain, by id.
        project_domain_id: Option<String> = None,
        /// That project's domain, by name.
        project_domain_name: Option<String> = None,
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
