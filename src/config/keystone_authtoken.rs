//! `[keystone_authtoken]`: how tokens are validated.

use std::{path::PathBuf, time::Duration};

use super::{keystone_login::login_group, secret::Password};

login_group! {
    /// `[keystone_authtoken]`
    pub(crate) struct KeystoneAuthtoken in "keystone_authtoken" {
        /// Another group that contains the login options instead.
        auth_section: Option<String> = None,
        /// The URL at which clients log in, for the header of a 401.
        www_authenticate_uri: Option<String> = None; was "keystone_authtoken" "auth_uri",
        /// A file of certificate authorities that Keystone's certificate can be signed by, in addition to the system's.
        cafile: Option<PathBuf> = None,
        /// Whether Keystone's certificate is not verified.
        insecure: bool = false,
        /// The region in which Keystone's endpoint is looked up in the catalog.
        region_name: Option<String> = None,
        /// The interface by which Keystone's endpoint is looked up in the catalog.
        interface: String = "internal".to_owned(),
        /// The timeout of connecting to Keystone, in seconds.
        http_connect_timeout: Option<Duration> = None,
        /// The maximum number of retries of a request to Keystone.
        http_request_max_retries: u32 = 3,
        /// Seconds that a validation is cached; with a negative number, validations are not cached.
        token_cache_time: i64 = 300,
        /// Roles that make a token a service token.
        service_token_roles: Vec<String> = vec!["service".to_owned()],
        /// Whether a service token must have one of these roles.
        service_token_roles_required: bool = true,
        /// Glimpse's type in the catalog, which access rules of application credentials name.
        service_type: Option<String> = None,
        /// Whether an invalid service token is ignored (true), or its request is refused (false). In a paste file whose filter does
        /// not set this option, the default is false; Glance's paste file sets it to true.
        delay_auth_decision: bool = true,
    }
}
