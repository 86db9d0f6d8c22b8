//! `[keystone_authtoken]`: how tokens are validated.

use std::{path::PathBuf, time::Duration};

use super::{group::group, secret::Password};

group! {
    /// `[keystone_authtoken]`
    pub(crate) struct KeystoneAuthtoken in "keystone_authtoken" {
        /// Another group that has the options about logging in.
        auth_section: Option<String> = None,
        /// How Glimpse logs in to Keystone: password or v3password, v3applicationcredential, or v3token.
        auth_type: Option<String> = None; was "keystone_authtoken" "auth_plugin",
        /// Where Glimpse logs in.
        auth_url: Option<String> = None,
        /// Where clients log in, as a 401 tells them.
        www_authenticate_uri: Option<String> = None; was "keystone_authtoken" "auth_uri",
        /// The name of Glimpse's user.
        username: Option<String> = None; was "keystone_authtoken" "user_name"; was "keystone_authtoken" "user-name",
        /// The id of Glimpse's user, instead of name and domain.
        user_id: Option<String> = None,
        /// The password of Glimpse's user.
        password: Option<Password> = None,
        /// The domain of Glimpse's user, by id.
        user_domain_id: Option<String> = None,
        /// The domain of Glimpse's user, by name.
        user_domain_name: Option<String> = None,
        /// The id of Glimpse's application credential.
        application_credential_id: Option<String> = None,
        /// The name of Glimpse's application credential, of the user that `username` or `user_id` names.
        application_credential_name: Option<String> = None,
        /// The secret of Glimpse's application credential.
        application_credential_secret: Option<Password> = None,
        /// Glimpse's token, from which another one is made. It cannot be renewed once it has expired.
        token: Option<Password> = None,
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
        /// The project that the login is for, by id.
        project_id: Option<String> = None; was "keystone_authtoken" "tenant_id"; was "keystone_authtoken" "tenant-id",
        /// The project that the login is for, by name.
        project_name: Option<String> = None; was "keystone_authtoken" "tenant_name"; was "keystone_authtoken" "tenant-name",
        /// That project's domain, by id.
        project_domain_id: Option<String> = None,
        /// That project's domain, by name.
        project_domain_name: Option<String> = None,
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

impl KeystoneAuthtoken {
    /// The options about logging in, which `auth_section` moves to another group.
    pub(super) const LOGIN: [&str; 20] = [
        "auth_type",
        "auth_url",
        "username",
        "user_id",
        "password",
        "user_domain_id",
        "user_domain_name",
        "project_id",
        "project_name",
        "project_domain_id",
        "project_domain_name",
        "application_credential_id",
        "application_credential_name",
        "application_credential_secret",
        "token",
        "system_scope",
        "domain_id",
        "domain_name",
        "default_domain_id",
        "default_domain_name",
    ];
}
