//! `[keystone_authtoken]`: how tokens are validated.

use std::{path::PathBuf, time::Duration};

use super::{keystone_login::login_group, secret::Password};

login_group! {
    /// `[keystone_authtoken]`
    pub(crate) struct KeystoneAuthtoken in "keystone_authtoken" {
        /// Another group that has the options about logging in.
        auth_section: Option<String> = None,
        /// Where clients log in, as a 401 tells them.
        www_authenticate_uri: Option<String> = None; was "keystone_authtoken" "auth_uri",
        /// Authorities that may sign Keystone's certificate, in addition to the system's.
        cafile: Option<PathBuf> = None,
        /// Whether any certificate is accepted as Keystone's.
        insecure: bool = false,
        /// The region of the catalog in which Keystone is looked up.
        region_name: Option<String> = None,
        /// The interface of the catalog at which tokens are validated.
        interface: String = "internal".to_owned(),
        /// Seconds that connecting to Keystone may take.
        http_connect_timeout: Option<Duration> = None,
        /// How often a request to Keystone is repeated.
        http_request_max_retries: u32 = 3,
        /// Seconds that a validation is cached; a negative number caches none.
        token_cache_time: i64 = 300,
        /// Roles that make a token a service token.
        service_token_roles: Vec<String> = vec!["service".to_owned()],
        /// Whether a token without such a role is no service token.
        service_token_roles_required: bool = true,
        /// Glimpse's type in the catalog, which access rules of application credentials name.
        service_type: Option<String> = None,
        /// Whether an invalid service token is ignored, or its request is refused. A paste file whose filter does not set this
        /// means the latter; Glance's own sets the former.
        delay_auth_decision: bool = true,
    }
}
