//! The options that Glimpse acts on, group by group: a field's name is the option's name, its documentation the option's.

use std::{path::PathBuf, time::Duration};

use super::value::choice;
use super::{database_url::DatabaseUrl, secret::Secret};

/// Declares the struct of an option group, its defaults, and how it is read.
macro_rules! group {
    ($(#[$meta:meta])* pub(crate) struct $name:ident in $group:literal {
        $($(#[doc = $doc:literal])+ $field:ident: $ty:ty = $default:expr),+ $(,)?
    }) => {
        $(#[$meta])*
        #[derive(Debug, Clone)]
        pub(crate) struct $name { $($(#[doc = $doc])+ pub(crate) $field: $ty),+ }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $default),+ }
            }
        }

        impl $name {
            /// Takes this group's options out of what was written.
            pub(super) fn read(written: &mut super::Written) -> Result<Self, super::ConfigError> {
                let mut group = Self::default();
                $(if let Some(value) = written.take($group, stringify!($field))? { group.$field = value; })+
                Ok(group)
            }

            /// The names of this group's options.
            pub(super) const NAMES: &[(&str, &str)] = &[$(($group, stringify!($field))),+];
        }
    };
}

group! {
    /// `[DEFAULT]`
    pub(crate) struct DefaultGroup in "DEFAULT" {
        /// The address to listen on. Without it: every address where Keystone asks who comes in, else loopback.
        bind_host: Option<String> = None,
        /// The port to listen on; 0 lets the system choose one.
        bind_port: u16 = 9292,
        /// The URL that clients reach this service at, for the links of the versions document.
        public_endpoint: Option<String> = None,
        /// Whether to log what is useful to a developer.
        debug: bool = false,
        /// Images in a page of a listing, where the request does not say.
        limit_param_default: u32 = 25,
        /// Images in a page of a listing, at the most.
        api_limit_max: u32 = 1000,
        /// Tags of an image at the most; a negative number sets no bound.
        image_tag_quota: i64 = 128,
        /// Custom properties of an image at the most; a negative number sets no bound.
        image_property_quota: i64 = 128,
        /// Characters of a request id that is taken from a client.
        max_request_id_length: u32 = 64,
    }
}

impl DefaultGroup {
    /// Tags of an image at the most, where there is a bound.
    pub(crate) fn image_tag_quota(&self) -> Option<u32> {
        quota(self.image_tag_quota)
    }

    /// Custom properties of an image at the most, where there is a bound.
    pub(crate) fn image_property_quota(&self) -> Option<u32> {
        quota(self.image_property_quota)
    }
}

/// A negative quota sets no bound.
fn quota(option: i64) -> Option<u32> {
    (option >= 0).then(|| u32::try_from(option).unwrap_or(u32::MAX))
}

group! {
    /// `[database]`
    pub(crate) struct Database in "database" {
        /// Where the database is, as SQLAlchemy writes it.
        connection: Option<DatabaseUrl> = None,
        /// Connections to a server database at the most.
        max_pool_size: u32 = 10,
        /// Seconds that a request waits for a free connection, and on SQLite for another program's lock once it has one.
        pool_timeout: Duration = Duration::from_secs(5),
    }
}

group! {
    /// `[paste_deploy]`: which filters stand before the API.
    pub(crate) struct PasteDeploy in "paste_deploy" {
        /// The pipeline's name, without `glance-api-`.
        flavor: Option<String> = None,
        /// The paste file; without it, `glance-api-paste.ini` beside the configuration, else Glance's flavors by name.
        config_file: Option<String> = None,
    }
}

group! {
    /// `[keystone_authtoken]`: how tokens are validated.
    pub(crate) struct KeystoneAuthtoken in "keystone_authtoken" {
        /// How we log in to Keystone: password, or v3password.
        auth_type: Option<String> = None,
        /// Where we log in.
        auth_url: Option<String> = None,
        /// Where clients log in, as a 401 tells them.
        www_authenticate_uri: Option<String> = None,
        /// Our user's name.
        username: Option<String> = None,
        /// Our user's id, instead of name and domain.
        user_id: Option<String> = None,
        /// Our user's password.
        password: Option<Secret> = None,
        /// Our user's domain, by id.
        user_domain_id: Option<String> = None,
        /// Our user's domain, by name.
        user_domain_name: Option<String> = None,
        /// The project that we log in to, by id.
        project_id: Option<String> = None,
        /// The project that we log in to, by name.
        project_name: Option<String> = None,
        /// That project's domain, by id.
        project_domain_id: Option<String> = None,
        /// That project's domain, by name.
        project_domain_name: Option<String> = None,
        /// Certificates of authorities that Keystone's certificate may be signed by, beside the system's.
        cafile: Option<PathBuf> = None,
        /// Whether any certificate is taken for Keystone's.
        insecure: bool = false,
        /// The region of the catalog in which Keystone is looked up.
        region_name: Option<String> = None,
        /// The interface of the catalog at which tokens are validated.
        interface: String = "internal".to_owned(),
        /// Seconds that a connection to Keystone may take.
        http_connect_timeout: Option<Duration> = None,
        /// How often a request to Keystone is sent again.
        http_request_max_retries: u32 = 3,
        /// Seconds that a validation is remembered.
        token_cache_time: Duration = Duration::from_secs(300),
        /// Roles that make a token a service's.
        service_token_roles: Vec<String> = vec!["service".to_owned()],
        /// Whether a token without such a role is no service token.
        service_token_roles_required: bool = false,
        /// Our type in the catalog, which access rules of application credentials name.
        service_type: Option<String> = None,
        /// Whether a service token that is none is overlooked, as Glance's paste file says, or refuses its request.
        delay_auth_decision: bool = true,
    }
}

group! {
    /// `[image_format]`
    pub(crate) struct ImageFormat in "image_format" {
        /// Container formats that an image may have.
        container_formats: Vec<String> = words("ami ari aki bare ovf ova docker compressed"),
        /// Disk formats that an image may have.
        disk_formats: Vec<String> = words("ami ari aki vhd vhdx vmdk raw qcow2 vdi iso ploop"),
    }
}

group! {
    /// `[glimpse]`: what Glance does not have.
    pub(crate) struct Glimpse in "glimpse" {
        /// Who a caller is found out by. Without it: as the paste pipeline says, else standalone.
        auth: Option<Auth> = None,
        /// Where the embedded database and the identity file are.
        data_dir: PathBuf = PathBuf::from("glimpse-data"),
        /// Whether a tag with `=` is refused.
        forbid_equals_in_tags: bool = true,
        /// How the log is written.
        log_format: LogFormat = LogFormat::Text,
        /// Seconds that requests under way are given to finish after SIGTERM.
        drain_timeout: Duration = Duration::from_secs(30),
        /// Seconds after which a request that is not answered yet is answered 503, whatever it waits for.
        request_timeout: Duration = Duration::from_secs(60),
        /// Seconds that a client is given to send a request's headers or the next part of its body, and to take the
        /// next part of an answer.
        client_timeout: Duration = Duration::from_secs(30),
    }
}

choice! {
    /// How a caller is authenticated.
    pub(crate) enum Auth {
        /// By the users in the data directory's `identity.toml`.
        #[default]
        Standalone = "standalone",
        /// By Keystone.
        Keystone = "keystone",
        /// By headers that a trusted proxy sets. Whoever reaches the port is whoever they say they are.
        Proxy = "proxy",
        /// By a token that names user, project and roles. For tests only.
        Fake = "fake",
        /// Not at all: everybody is an admin.
        None = "none",
    }
}

choice! {
    /// How the log is written.
    pub(crate) enum LogFormat {
        /// For people.
        #[default]
        Text = "text",
        /// One JSON object a line.
        Json = "json",
    }
}

fn words(text: &str) -> Vec<String> {
    text.split(' ').map(str::to_owned).collect()
}
