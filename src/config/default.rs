//! `[DEFAULT]`

use std::path::PathBuf;

use super::{
    group::group,
    value::{BoundedList, ByteSize, HostAddress, OptionValue, Pairs, choice, word_list},
};

group! {
    /// `[DEFAULT]`
    pub(crate) struct DefaultGroup in "DEFAULT" {
        /// The address to listen on. Default: every address if Keystone authenticates callers, else loopback.
        bind_host: Option<HostAddress> = None,
        /// The port to listen on; 0 lets the system choose one.
        bind_port: u16 = 9292,
        /// The URL at which clients reach this service, for the links of the versions document.
        public_endpoint: Option<String> = None,
        /// Threads that serve requests. Default: one per processor.
        workers: Option<u32> = None,
        /// The maximum number of connections that wait to be accepted.
        backlog: u32 = 4096 => 1..,
        /// The maximum length of a line in a request's head, in bytes.
        max_header_line: u32 = 65536 => 1..,
        /// Whether to log debug messages.
        debug: bool = false,
        /// A file of Python's logging, whose level and handlers replace the other options of the log.
        log_config_append: Option<PathBuf> = None; was "DEFAULT" "log_config",
        /// The file that the log is written to, in `log_dir` if that is set. Default: standard error.
        log_file: Option<PathBuf> = None; was "DEFAULT" "logfile",
        /// The folder of the log file.
        log_dir: Option<PathBuf> = None; was "DEFAULT" "logdir",
        /// Whether to log to syslog.
        use_syslog: bool = false,
        /// Whether to log to systemd's journal.
        use_journal: bool = false,
        /// The number of images per page of a listing, if the request does not set a limit.
        limit_param_default: u32 = 25 => 1..,
        /// The maximum number of images per page of a listing.
        api_limit_max: u32 = 1000 => 1..,
        /// The maximum number of an image's tags; a negative number means no limit.
        image_tag_quota: i64 = 128,
        /// The maximum number of an image's custom properties; a negative number means no limit.
        image_property_quota: i64 = 128,
        /// Whether an image shows the URL of its data, `direct_url`.
        show_image_direct_url: bool = false,
        /// Whether an image shows all its `locations`, and lets clients change them.
        show_multiple_locations: bool = false,
        /// Whether Keystone's limits apply to projects.
        use_keystone_limits: bool = false,
        /// The maximum size of all images of a project, if Keystone's limits do not apply: `10GB`. 0 means no limit.
        user_storage_quota: ByteSize = ByteSize(0),
        /// The maximum number of an image's members; a negative number means no limit.
        image_member_quota: i64 = 128,
        /// The maximum number of an image's locations when clients add them; a negative number means no limit.
        image_location_quota: i64 = 10,
        /// The maximum length of a request id that a client sends, in characters.
        max_request_id_length: u32 = 64,
        /// The file of property protections.
        property_protection_file: Option<PathBuf> = None,
        /// Whether that file contains roles or policy rules.
        property_protection_rule_format: RuleFormat = RuleFormat::Roles,
        /// The stores of image data, by name and kind. Default: those of `[glance_store]`, by kind alone.
        enabled_backends: Pairs = Pairs::default(),
        /// Whether the hash of data is computed after a request has added its location.
        do_secure_hash: bool = true,
        /// How often the computation of a hash is retried if the data cannot be read.
        http_retries: i64 = 3,
        /// The maximum size of an image, in bytes.
        image_size_cap: u64 = 1 << 40 => 1..,
        /// The secure hash of uploaded data.
        hashing_algorithm: HashAlgorithm = HashAlgorithm::Sha512,
        /// The methods of image import that clients can use.
        enabled_import_methods: BoundedList<String> = BoundedList(word_list("glance-direct web-download copy-image")),
        /// The directory of staged data, as a `file://` URL, if stores have no names. Default: `staging` in the data directory next
        /// to the embedded database, else in Glance's.
        node_staging_uri: Option<String> = None,
        /// The URL at which other nodes reach this one.
        worker_self_reference_url: Option<String> = None,
        /// The folder of the files that `glance-manage db load_metadefs` loads.
        metadata_source_path: PathBuf = PathBuf::from("/etc/glance/metadefs/"),
        /// Whether `glance-scrubber` removes the data of deleted images, instead of Glimpse.
        delayed_delete: bool = false,
        /// The directory of the image cache. Default: images are not cached.
        image_cache_dir: Option<PathBuf> = None,
        /// Where the records of cached images are kept.
        image_cache_driver: CacheDriver = CacheDriver::CentralizedDb,
        /// The size in bytes that the cache is pruned to.
        image_cache_max_size: u64 = 10 << 30,
        /// Seconds without progress after which an incomplete cached file is removed.
        image_cache_stall_time: u64 = 86400,
        /// The file of the driver `sqlite` in the directory of the cache.
        image_cache_sqlite_db: String = "cache.db".to_owned(),
    }
}

impl DefaultGroup {
    /// The maximum number of an image's tags, if it is limited.
    pub(crate) fn image_tag_quota(&self) -> Option<u32> {
        quota(self.image_tag_quota)
    }

    /// The maximum number of an image's custom properties, if it is limited.
    pub(crate) fn image_property_quota(&self) -> Option<u32> {
        quota(self.image_property_quota)
    }

    /// The maximum number of an image's members, if it is limited.
    pub(crate) fn image_member_quota(&self) -> Option<u32> {
        quota(self.image_member_quota)
    }

    /// The maximum number of an image's locations, if it is limited.
    pub(crate) fn image_location_quota(&self) -> Option<u32> {
        quota(self.image_location_quota)
    }
}

impl DefaultGroup {
    /// The URL of this node, which Glance's nodes use to reach data that is staged here.
    pub(crate) fn self_reference(&self) -> Option<&str> {
        self.worker_self_reference_url.as_deref().or(self.public_endpoint.as_deref()).filter(|url| !url.is_empty())
    }
}

/// A negative quota means no limit.
fn quota(option: i64) -> Option<u32> {
    (option >= 0).then(|| u32::try_from(option).unwrap_or(u32::MAX))
}

/// Where the records of cached images are kept, by the name of Glance's driver in any case.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum CacheDriver {
    /// In the database of the images, for each node.
    #[default]
    CentralizedDb,
    /// In an SQLite file in the cache's directory.
    Sqlite,
    /// In extended attributes of the files.
    Xattr,
}

impl CacheDriver {
    const NAMES: [(&str, Self); 3] =
        [("centralized_db", Self::CentralizedDb), ("sqlite", Self::Sqlite), ("xattr", Self::Xattr)];
}

impl OptionValue for CacheDriver {
    fn parse(text: &str) -> Result<Self, String> {
        let found = Self::NAMES.iter().find(|(name, _)| name.eq_ignore_ascii_case(text));
        found
            .map(|(_, driver)| *driver)
            .ok_or(format!("one of {} is expected", Self::NAMES.map(|(name, _)| name).join(", ")))
    }

    fn to_text(&self) -> String {
        let found = Self::NAMES.iter().find(|(_, driver)| driver == self);
        found.map_or("", |(name, _)| name).to_owned()
    }
}

choice! {
    /// The content of a file of property protections.
    pub(crate) enum RuleFormat {
        /// Roles.
        #[default]
        Roles = "roles",
        /// Policy rules.
        Policies = "policies",
    }
}

choice! {
    /// A secure hash, by its name in Python.
    pub(crate) enum HashAlgorithm {
        /// Glance's default.
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
