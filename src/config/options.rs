//! The options that Glimpse acts on, group by group: a field's name is the option's name, its documentation the option's.

use std::{path::PathBuf, time::Duration};

use super::{
    database_url::DatabaseUrl,
    known::{Known, Source},
    secret::Secret,
    value::{BoundedList, ByteSize, HostAddress, OptionValue, Pairs, Port, Repeated, choice, within},
};

/// What there is to know of an option, beside its type.
macro_rules! known {
    ($group:literal $field:ident: $ty:ty = $default:expr; $($old_group:literal $old_name:literal)*) => {
        Known {
            group: $group,
            name: stringify!($field),
            former: &[$(($old_group, $old_name)),*],
            default: || <$ty as OptionValue>::show(&$default),
        }
    };
}

/// Declares the struct of an option group, its defaults, and how it is read. `=>` bounds a value; `was` is a name that the
/// option had before.
macro_rules! group {
    ($(#[$meta:meta])* pub(crate) struct $name:ident in $group:literal {
        $(
            $(#[doc = $doc:literal])+
            $field:ident: $ty:ty = $default:expr $(=> $range:expr)? $(; was $old_group:literal $old_name:literal)*
        ),+ $(,)?
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
            pub(super) fn read(written: &mut impl Source) -> Self {
                Self::read_in(written, $group, None)
            }

            /// Takes the options of another group, which has its options from this kind; what is not written there is
            /// looked for in the group `shared`.
            pub(super) fn read_in(written: &mut impl Source, group: &str, shared: Option<&str>) -> Self {
                Self {
                    $($field: written.take_in(
                        group,
                        shared,
                        const { &known!($group $field: $ty = $default; $($old_group $old_name)*) },
                        $default,
                        &[$(&|value: &$ty| within(value, &($range)))?],
                    )),+
                }
            }

            /// This group's options.
            pub(super) const OPTIONS: &[Known] =
                &[$(known!($group $field: $ty = $default; $($old_group $old_name)*)),+];
        }
    };
}

group! {
    /// `[DEFAULT]`
    pub(crate) struct DefaultGroup in "DEFAULT" {
        /// The address to listen on. Without it: every address where Keystone asks who comes in, else loopback.
        bind_host: Option<HostAddress> = None,
        /// The port to listen on; 0 lets the system choose one.
        bind_port: u16 = 9292,
        /// The URL that clients reach this service at, for the links of the versions document.
        public_endpoint: Option<String> = None,
        /// Threads that serve requests. Without it: one a processor.
        workers: Option<u32> = None,
        /// Connections that wait to be taken, at the most.
        backlog: u32 = 4096 => 1..,
        /// Bytes of a request header's line at the most.
        max_header_line: u32 = 16384 => 1..,
        /// Whether to log what is useful to a developer.
        debug: bool = false,
        /// The file that the log is written to, in `log_dir` if that is set. Without it: standard error.
        log_file: Option<PathBuf> = None; was "DEFAULT" "logfile",
        /// The folder of the log's file.
        log_dir: Option<PathBuf> = None; was "DEFAULT" "logdir",
        /// Whether the system's log gets the lines.
        use_syslog: bool = false,
        /// Whether systemd's journal gets the lines.
        use_journal: bool = false,
        /// Images in a page of a listing, where the request does not say.
        limit_param_default: u32 = 25 => 1..,
        /// Images in a page of a listing, at the most.
        api_limit_max: u32 = 1000 => 1..,
        /// Tags of an image at the most; a negative number sets no bound.
        image_tag_quota: i64 = 128,
        /// Custom properties of an image at the most; a negative number sets no bound.
        image_property_quota: i64 = 128,
        /// Whether an image shows the URL of its data, `direct_url`.
        show_image_direct_url: bool = false,
        /// Whether an image shows where all its data is, `locations`, and lets clients change that.
        show_multiple_locations: bool = false,
        /// Whether Keystone's limits bound what a project may have.
        use_keystone_limits: bool = false,
        /// Bytes that a project's images may take, all together, where Keystone's limits do not say: `10GB`. 0 sets no bound.
        user_storage_quota: ByteSize = ByteSize(0),
        /// Members of an image at the most; a negative number sets no bound.
        image_member_quota: i64 = 128,
        /// Locations of an image at the most, where clients add them; a negative number sets no bound.
        image_location_quota: i64 = 10,
        /// Characters of a request id that is taken from a client.
        max_request_id_length: u32 = 64,
        /// The file that says who may do what with which custom properties.
        property_protection_file: Option<PathBuf> = None,
        /// Whether that file names roles or rules of the policy.
        property_protection_rule_format: RuleFormat = RuleFormat::Roles,
        /// The stores that image data may be in, by name and kind. Without it: those of `[glance_store]`, by kind alone.
        enabled_backends: Pairs = Pairs::default(),
        /// Bytes of an image at the most.
        image_size_cap: u64 = 1 << 40 => 1..,
        /// The secure hash of uploaded data.
        hashing_algorithm: HashAlgorithm = HashAlgorithm::Sha512,
        /// Whether a deleted image's data is left to `glance-scrubber`.
        delayed_delete: bool = false,
    }
}

impl KeystoneAuthtoken {
    /// The group's name.
    pub(super) const GROUP: &str = "keystone_authtoken";
    /// The options about how we log in, which `auth_section` moves to another group.
    pub(super) const LOGIN: [&str; 11] = [
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
    ];
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

    /// Members of an image at the most, where there is a bound.
    pub(crate) fn image_member_quota(&self) -> Option<u32> {
        quota(self.image_member_quota)
    }

    /// Locations of an image at the most, where there is a bound.
    pub(crate) fn image_location_quota(&self) -> Option<u32> {
        quota(self.image_location_quota)
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
        /// Connections to a server database that are kept.
        max_pool_size: u32 = 5,
        /// Connections beyond `max_pool_size` under load; a negative number sets no bound of its own.
        max_overflow: i64 = 50,
        /// Seconds after which a connection is replaced; a negative number lets it live.
        connection_recycle_time: i64 = 3600; was "database" "idle_timeout",
        /// How often the database is asked for at start, before the program gives up; -1 is for ever.
        max_retries: i64 = 10,
        /// Seconds from one such attempt to the next.
        retry_interval: Duration = Duration::from_secs(10),
        /// Seconds that a request waits for a free connection, and on SQLite for another program's lock once it has one.
        pool_timeout: Duration = Duration::from_secs(5),
        /// Galera's wsrep_sync_wait for each connection: with 1, a read waits until its node has what other nodes committed before.
        /// Without it, the server's own setting counts.
        mysql_wsrep_sync_wait: Option<i64> = None => 0..=15,
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
        /// The group that says how we log in, instead of this one.
        auth_section: Option<String> = None,
        /// How we log in to Keystone: password, or v3password.
        auth_type: Option<String> = None; was "keystone_authtoken" "auth_plugin",
        /// Where we log in.
        auth_url: Option<String> = None,
        /// Where clients log in, as a 401 tells them.
        www_authenticate_uri: Option<String> = None; was "keystone_authtoken" "auth_uri",
        /// Our user's name.
        username: Option<String> = None; was "keystone_authtoken" "user_name",
        /// Our user's id, instead of name and domain.
        user_id: Option<String> = None,
        /// Our user's password.
        password: Option<Secret> = None,
        /// Our user's domain, by id.
        user_domain_id: Option<String> = None,
        /// Our user's domain, by name.
        user_domain_name: Option<String> = None,
        /// The project that we log in to, by id.
        project_id: Option<String> = None; was "keystone_authtoken" "tenant_id",
        /// The project that we log in to, by name.
        project_name: Option<String> = None; was "keystone_authtoken" "tenant_name",
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
        /// Seconds that a validation is remembered; a negative number remembers none.
        token_cache_time: i64 = 300,
        /// Roles that make a token a service's.
        service_token_roles: Vec<String> = vec!["service".to_owned()],
        /// Whether a token without such a role is no service token.
        service_token_roles_required: bool = true,
        /// Our type in the catalog, which access rules of application credentials name.
        service_type: Option<String> = None,
        /// Whether a service token that is none is overlooked, or refuses its request. A paste file whose filter does not say
        /// means the latter; Glance's own says the former.
        delay_auth_decision: bool = true,
    }
}

group! {
    /// `[oslo_limit]`: how Keystone is asked for limits.
    pub(crate) struct OsloLimit in "oslo_limit" {
        /// How we log in to Keystone: password, or v3password.
        auth_type: Option<String> = None,
        /// Where we log in.
        auth_url: Option<String> = None,
        /// Our user's name.
        username: Option<String> = None; was "oslo_limit" "user_name",
        /// Our user's id, instead of name and domain.
        user_id: Option<String> = None,
        /// Our user's password.
        password: Option<Secret> = None,
        /// Our user's domain, by id.
        user_domain_id: Option<String> = None,
        /// Our user's domain, by name.
        user_domain_name: Option<String> = None,
        /// What we log in to instead of a project: all, which is the system.
        system_scope: Option<String> = None,
        /// The project that we log in to, by id.
        project_id: Option<String> = None; was "oslo_limit" "tenant_id",
        /// The project that we log in to, by name.
        project_name: Option<String> = None; was "oslo_limit" "tenant_name",
        /// That project's domain, by id.
        project_domain_id: Option<String> = None,
        /// That project's domain, by name.
        project_domain_name: Option<String> = None,
        /// Certificates of authorities that Keystone's certificate may be signed by, beside the system's.
        cafile: Option<PathBuf> = None,
        /// Whether any certificate is taken for Keystone's.
        insecure: bool = false,
        /// Seconds that Keystone may take to answer.
        timeout: Option<Duration> = None,
        /// The region of the catalog in which Keystone is looked up.
        region_name: Option<String> = None,
        /// The interfaces of the catalog at which Keystone is looked up, the best one first.
        valid_interfaces: Vec<String> = vec!["public".to_owned()],
        /// Where Keystone is, whatever the catalog says.
        endpoint_override: Option<String> = None,
        /// Our endpoint, whose service and region the limits are of.
        endpoint_id: Option<String> = None,
        /// The name of our service, where there is no `endpoint_id`.
        endpoint_service_name: Option<String> = None,
        /// The type of our service, where there is no `endpoint_id`.
        endpoint_service_type: Option<String> = None,
        /// The region of our endpoint, where there is no `endpoint_id`.
        endpoint_region_name: Option<String> = None,
        /// The interface of our endpoint, where there is no `endpoint_id`.
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

group! {
    /// `[image_format]`
    pub(crate) struct ImageFormat in "image_format" {
        /// Container formats that an image may have.
        container_formats: Vec<String> = words("ami ari aki bare ovf ova docker compressed"); was "DEFAULT" "container_formats",
        /// Disk formats that an image may have.
        disk_formats: Vec<String> = words("ami ari aki vhd vhdx vmdk raw qcow2 vdi iso ploop"); was "DEFAULT" "disk_formats",
        /// Whether data in another format than the image says is refused.
        require_image_format_match: bool = true,
        /// Safety checks that a disk with a partition table may fail.
        gpt_safety_checks_nonfatal: Vec<String> = Vec::new(),
    }
}

group! {
    /// `[oslo_policy]`
    pub(crate) struct OsloPolicy in "oslo_policy" {
        /// The file with rules in place of Glance's.
        policy_file: String = "policy.yaml".to_owned(),
        /// Folders with more such files.
        policy_dirs: Repeated = Repeated(vec!["policy.d".to_owned()]),
        /// The rule that stands in for one that a rule refers to and nobody defined.
        policy_default_rule: String = "default".to_owned(),
        /// Whether only the new defaults count, and not those from before Glance had roles for projects.
        enforce_new_defaults: bool = true,
        /// Whether a token for a domain or for the whole cloud is none for projects.
        enforce_scope: bool = true,
    }
}

group! {
    /// `[glance_store]`: which stores there are.
    pub(crate) struct GlanceStore in "glance_store" {
        /// The name of the store that gets uploads, where `enabled_backends` names stores.
        default_backend: Option<String> = None,
        /// The kinds of stores there are, where it names none.
        stores: Vec<String> = words("file http"),
        /// The kind that gets uploads then.
        default_store: String = "file".to_owned(),
    }
}

group! {
    /// A store that is folders: options of `[glance_store]`, or of a group with the store's name.
    pub(crate) struct FileStore in "glance_store" {
        /// The folder. Without it: `images` in the data directory beside the embedded database, else Glance's.
        filesystem_store_datadir: Option<PathBuf> = None,
        /// Several folders, as `folder:priority`, in its place.
        filesystem_store_datadirs: Repeated = Repeated::default(),
        /// A JSON file of what is told with each location.
        filesystem_store_metadata_file: Option<PathBuf> = None,
        /// The permissions of a file, in octal digits; 0 leaves them to the umask.
        filesystem_store_file_perm: i64 = 0,
        /// Bytes that are looked at together for `filesystem_thin_provisioning`.
        filesystem_store_chunk_size: u32 = 65536 => 1..,
        /// Whether zeros are left out, as holes in the file.
        filesystem_thin_provisioning: bool = false,
        /// Seconds that a call to the file system may take; 0 sets no bound.
        filesystem_store_timeout: u32 = 0,
    }
}

group! {
    /// A store that is other people's web servers.
    pub(crate) struct HttpStore in "glance_store" {
        /// Certificates of authorities that a server's certificate may be signed by.
        https_ca_certificates_file: Option<PathBuf> = None,
        /// Whether any certificate is taken, where there is no such file.
        https_insecure: bool = true,
        /// Proxies, as `http:host:port`.
        http_proxy_information: Pairs = Pairs::default(),
    }
}

group! {
    /// `[import_filtering_opts]`: where a URL that a user gives may lead.
    pub(crate) struct ImportFilteringOpts in "import_filtering_opts" {
        /// The schemes that it may have. Where none is written, `disallowed_schemes` counts.
        allowed_schemes: BoundedList<String> = BoundedList(words("http https")),
        /// The schemes that it must not have, where no `allowed_schemes` are written.
        disallowed_schemes: BoundedList<String> = BoundedList(Vec::new()),
        /// The hosts that it may lead to; these may be this machine, too. Where none is written, `disallowed_hosts` counts.
        allowed_hosts: BoundedList<HostAddress> = BoundedList(Vec::new()),
        /// The hosts that it must not lead to, where no `allowed_hosts` are written.
        disallowed_hosts: BoundedList<HostAddress> = BoundedList(Vec::new()),
        /// The ports that it may name. Where none is written, `disallowed_ports` counts.
        allowed_ports: BoundedList<Port> = BoundedList(vec![Port(80), Port(443)]),
        /// The ports that it must not name, where no `allowed_ports` are written.
        disallowed_ports: BoundedList<Port> = BoundedList(Vec::new()),
    }
}

group! {
    /// A store that is a bucket of an S3 server.
    pub(crate) struct S3Store in "glance_store" {
        /// The server's host, with `https://` before it if need be.
        s3_store_host: Option<String> = None,
        /// The region that requests are signed for. Without it: the one in the name of Amazon's host.
        s3_store_region_name: Option<String> = None,
        /// Who we are to the server.
        s3_store_access_key: Option<Secret> = None,
        /// What proves it.
        s3_store_secret_key: Option<Secret> = None,
        /// The bucket.
        s3_store_bucket: Option<String> = None,
        /// Whether the bucket is made where it is missing.
        s3_store_create_bucket_on_put: bool = false,
        /// Where in a URL the bucket's name is.
        s3_store_bucket_url_format: BucketUrlFormat = BucketUrlFormat::Auto,
        /// MiB from which on an object is stored in parts; what is larger than a part always is.
        s3_store_large_object_size: u32 = 100,
        /// MiB of a part.
        s3_store_large_object_chunk_size: u32 = 10 => 5..=5120,
        /// Parts of an object that are sent at a time, at the most.
        s3_store_thread_pools: u32 = 10 => 1..,
        /// Certificates of authorities that the server's certificate may be signed by.
        s3_store_cacert: Option<PathBuf> = None,
    }
}

group! {
    /// `[oslo_middleware]`
    pub(crate) struct OsloMiddleware in "oslo_middleware" {
        /// Whether a proxy's headers say where clients reach this service.
        enable_proxy_headers_parsing: bool = false,
    }
}

group! {
    /// `[cors]`
    pub(crate) struct Cors in "cors" {
        /// Web sites whose pages may call this service; `*` stands for all.
        allowed_origin: Vec<String> = Vec::new(),
        /// Whether they may with the user's credentials.
        allow_credentials: bool = true,
        /// Headers of an answer that their pages see.
        expose_headers: Vec<String> =
            words("X-Image-Meta-Checksum X-Auth-Token X-Subject-Token X-Service-Token X-OpenStack-Request-ID"),
        /// Seconds that a browser may remember what is allowed; 0 leaves it to the browser.
        max_age: i64 = 3600,
        /// Methods that they may use.
        allow_methods: Vec<String> = words("GET PUT POST DELETE PATCH"),
        /// Headers that they may send, beside those that every page may.
        allow_headers: Vec<String> = words(
            "Content-MD5 X-Image-Meta-Checksum X-Storage-Token Accept-Encoding X-Auth-Token X-Identity-Status X-Roles \
             X-Service-Catalog X-User-Id X-Tenant-Id X-OpenStack-Request-ID",
        ),
    }
}

group! {
    /// `[healthcheck]`
    pub(crate) struct Healthcheck in "healthcheck" {
        /// While this file exists, a load balancer is told to send nothing here.
        disable_by_file_path: Option<PathBuf> = Some(PathBuf::from("/etc/glance/healthcheck_disable")),
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
        /// Seconds from one sign of life to the next, by which several processes on one database know of each other.
        heartbeat: Duration = Duration::from_secs(10),
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
    /// Where in the URL of an S3 object its bucket's name is.
    pub(crate) enum BucketUrlFormat {
        /// In the host's name where the server is Amazon's, else in the path.
        #[default]
        Auto = "auto",
        /// In the host's name.
        Virtual = "virtual",
        /// In the path.
        Path = "path",
    }
}

choice! {
    /// What a file of property protections names.
    pub(crate) enum RuleFormat {
        /// Roles.
        #[default]
        Roles = "roles",
        /// Rules of the policy.
        Policies = "policies",
    }
}

choice! {
    /// A secure hash, by Python's name.
    pub(crate) enum HashAlgorithm {
        /// What almost every image has.
        #[default]
        Sha512 = "sha512",
        Md5 = "md5",
        Sha1 = "sha1",
        Sha224 = "sha224",
        Sha256 = "sha256",
        Sha384 = "sha384",
        Sha512_224 = "sha512_224",
        Sha512_256 = "sha512_256",
        Sha3_224 = "sha3_224",
        Sha3_256 = "sha3_256",
        Sha3_384 = "sha3_384",
        Sha3_512 = "sha3_512",
        Blake2b = "blake2b",
        Blake2s = "blake2s",
        Ripemd160 = "ripemd160",
        Sm3 = "sm3",
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
