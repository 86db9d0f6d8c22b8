//! The configuration, read once at start from files, the environment and the command line.

mod catalogue;
mod configparser;
mod cors;
mod database;
mod database_url;
mod default;
mod glance_download_properties;
mod glance_store;
mod glimpse;
mod group;
mod healthcheck;
mod image_conversion;
mod image_format;
mod image_import_opts;
mod import_filtering_opts;
mod ini;
mod inject_metadata_properties;
mod keystone_authtoken;
mod keystone_login;
mod log_config;
mod option;
mod oslo_limit;
mod oslo_middleware;
mod oslo_policy;
mod paste;
mod paste_deploy;
mod raw;
mod secret;
mod stores;
mod substitution;
mod task;
mod taskflow_executor;
mod value;

use std::{
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
};

pub(crate) use self::{
    configparser::read as read_configparser,
    database_url::{DatabaseUrl, Target},
    ini::Entry,
    keystone_login::KeystoneLogin,
    log_config::LogLevel,
    paste::Filters,
    raw::Setting,
    secret::{Password, Secret},
    stores::*,
    value::{HostAddress, OptionValue, Port},
};
use self::{
    group::groups,
    log_config::LogConfig,
    paste::Pipeline,
    raw::{Origin, RawConfig},
};

/// The default folder of Glance's configuration files, unless [`DIR_VARIABLE`] is set.
const DIR: &str = "/etc/glance";
/// The environment variable with the path of that folder.
const DIR_VARIABLE: &str = "OS_GLANCE_CONFIG_DIR";
/// The default files in it, in ascending precedence.
const FILES: [&str; 2] = ["glance-image-import.conf", "glance-api.conf"];
/// The default file of the tools for the image cache.
const CACHE_FILE: &str = "glance-cache.conf";
/// The default folders of files in it, which are read after the files.
const DIRS: [&str; 2] = ["glance.conf.d", "glance-api.conf.d"];

/// The file next to the configuration that adds properties to the schema of an image.
const CUSTOM_SCHEMA: &str = "schema-image.json";

groups! {
    fields {
        default::DefaultGroup,
        database::Database,
        keystone_authtoken::KeystoneAuthtoken,
        image_format::ImageFormat,
        oslo_limit::OsloLimit,
        import_filtering_opts::ImportFilteringOpts,
        image_import_opts::ImageImportOpts,
        image_conversion::ImageConversion,
        inject_metadata_properties::InjectMetadataProperties,
        glance_download_properties::GlanceDownloadProperties,
        task::Task,
        taskflow_executor::TaskflowExecutor,
        oslo_middleware::OsloMiddleware,
        oslo_policy::OsloPolicy,
        cors::Cors,
        healthcheck::Healthcheck,
        glimpse::Glimpse,
    }
    others {
        // Read before the others, because the paste file contains options of other groups.
        paste_deploy::PasteDeploy,
        // Read as a part of `stores`.
        glance_store::GlanceStore,
    }

    /// The values of all options. An option that is not set has its default.
    #[derive(Debug, Clone, Default)]
    pub(crate) struct Config {
        /// The stores of image data.
        pub(crate) stores: StoresConfig,
        /// How callers are authenticated: as `[glimpse] auth` says, else the paste pipeline, else by the identity file.
        pub(crate) auth: Auth,
        /// The filters of the paste pipeline that have an effect only if they are there.
        pub(crate) filters: Filters,
        /// The folders in which a file that an option names without a folder is looked up, in order.
        pub(crate) folders: Vec<PathBuf>,
        /// `schema-image.json` next to the configuration, if it exists.
        pub(crate) custom_schema: Option<PathBuf>,
        /// Warnings about the configuration, for the log.
        pub(crate) warnings: Vec<String>,
        /// The level of the log, if a file of Python's logging sets it.
        pub(crate) log_level: Option<LogLevel>,
        /// The options that are set and have no effect by design.
        pub(crate) needless: Vec<String>,
    }
}

/// A source of configuration files.
#[derive(Debug, Clone)]
pub(crate) enum Source {
    /// A file.
    File(PathBuf),
    /// A folder whose `*.conf` files are read in the order of their names.
    Dir(PathBuf),
}

/// The sources of option values.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sources {
    /// Files and folders, in ascending precedence.
    pub(crate) files: Vec<Source>,
    /// Overrides `[glimpse] data_dir`.
    pub(crate) data_dir: Option<PathBuf>,
    /// Options on the command line, which override files and environment: group, name, value.
    pub(crate) overrides: Vec<(&'static str, &'static str, String)>,
}

/// Why the configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    /// A file cannot be read.
    #[error("{}: {source}", path.display())]
    File {
        /// The path of the file.
        path: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
    /// A line is not in the dialect.
    #[error("{origin}: {message}")]
    Syntax {
        /// File and line.
        origin: String,
        /// What is wrong with it.
        message: &'static str,
    },
    /// The value of an option is invalid.
    #[error("{origin}: [{group}] {name}: {message}")]
    Value {
        /// File and line, or the environment variable.
        origin: String,
        /// The option's group.
        group: String,
        /// The option's name.
        name: &'static str,
        /// What is expected. It does not contain the value, which may be a secret.
        message: String,
    },
}

impl Sources {
    /// Adds Glance's default files if the command line names no file, and its default folders if it names no folder, as far as
    /// they exist. They have the lowest precedence.
    pub(crate) fn with_glance_files(mut self) -> Self {
        let dir = glance_dir();
        let existing = |names: [&str; 2]| names.map(|name| dir.join(name)).into_iter().filter(|path| path.exists());
        let mut files = Vec::new();
        if !self.files.iter().any(|source| matches!(source, Source::File(_))) {
            files.extend(existing(FILES).map(Source::File));
        }
        if !self.files.iter().any(|source| matches!(source, Source::Dir(_))) {
            files.extend(existing(DIRS).map(Source::Dir));
        }
        files.append(&mut self.files);
        Self { files, ..self }
    }

    /// Adds the default file of Glance's tools for the image cache, if it exists. It overrides the other files.
    pub(crate) fn with_cache_file(mut self) -> Self {
        let path = glance_dir().join(CACHE_FILE);
        if path.exists() {
            self.files.push(Source::File(path));
        }
        self
    }

    /// The folders among them.
    fn dirs(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().filter_map(|source| match source {
            Source::Dir(dir) => Some(dir.as_path()),
            Source::File(_) => None,
        })
    }

    /// The folders in which oslo.config looks up a file that an option names: next to the configuration, then the default ones.
    fn folders(&self) -> Vec<PathBuf> {
        let files = self.files.iter().rev().filter_map(|source| match source {
            Source::File(file) => file.parent(),
            Source::Dir(_) => None,
        });
        let home = std::env::home_dir().filter(|home| !home.as_os_str().is_empty());
        let usual = home.into_iter().flat_map(|home| [home.join(".glance"), home]);
        self.dirs().chain(files).map(Path::to_owned).chain(usual).chain([glance_dir(), PathBuf::from("/etc")]).collect()
    }
}

/// The folder of Glance's configuration files.
fn glance_dir() -> PathBuf {
    let dir = std::env::var(DIR_VARIABLE).ok().map(|dir| dir.trim().to_owned()).filter(|dir| !dir.is_empty());
    PathBuf::from(dir.as_deref().unwrap_or(DIR))
}

/// The configuration, the origin of each value, and every error.
pub(crate) struct ConfigReport {
    /// The options. An invalid value is replaced by the default.
    pub(crate) config: Config,
    /// The value of every option, and its origin.
    pub(crate) settings: Vec<Setting>,
    /// The errors, in the order of the options.
    pub(crate) errors: Vec<ConfigError>,
    /// The files that were read, in order.
    pub(crate) files: Vec<PathBuf>,
}

impl ConfigReport {
    /// Reads the sources.
    pub(crate) fn from_sources(sources: &Sources) -> Self {
        let mut raw = RawConfig::new(|name| std::env::var(name).ok(), sources.overrides.clone());
        let mut files = Vec::new();
        for source in &sources.files {
            match source {
                Source::File(path) => files.push(Ok(path.clone())),
                Source::Dir(dir) => match conf_files(dir) {
                    Ok(found) => files.extend(found.into_iter().map(Ok)),
                    Err(error) => files.push(Err(error)),
                },
            }
        }
        let mut read: Vec<PathBuf> = Vec::new();
        for file in files {
            match file.and_then(|path| Ok((parse_file(&path)?, path))) {
                Ok((entries, path)) => {
                    raw.add_file(&path, entries);
                    read.push(path);
                }
                Err(error) => raw.errors.push(error),
            }
        }
        let folders: Vec<PathBuf> = read.iter().filter_map(|file| file.parent()).map(Path::to_owned).collect();
        let paste = PasteDeploy::from_reader(&mut raw);
        let pipeline = paste::pipeline(&paste, &folders);
        let filters = pipeline.iter().flatten().flat_map(|pipeline| &pipeline.options);
        let has_filter = filters.clone().any(|options| options.group == KeystoneAuthtoken::NAME);
        for options in filters {
            raw.add_filter(&options.path, options.group, &options.entries);
        }
        raw.follow_auth_section();
        let mut config = Config {
            folders: sources.folders(),
            custom_schema: find_file(CUSTOM_SCHEMA, sources, &read),
            ..Config::from_reader(&mut raw)
        };
        if let Some(path) = config.default.log_config_append.clone() {
            match LogConfig::read(&path) {
                Ok(log) => {
                    log.apply(&mut config.default);
                    config.log_level = log.level;
                    config.warnings.extend(log.warnings);
                }
                Err(error) => raw.errors.push(error),
            }
        }
        if let Some(path) = &config.default.property_protection_file {
            // A missing file is reported when it is read.
            let found = path.to_str().and_then(|name| find_file(name, sources, &read));
            config.default.property_protection_file = found.or_else(|| Some(path.clone()));
        }
        config.stores = StoresConfig::from_reader(&mut raw, &config.default);
        let unused = raw.unused(std::env::vars_os().filter_map(|(name, _)| name.into_string().ok()));
        for name in config.database.connection.iter().flat_map(|url| &url.ignored) {
            config.warnings.push(format!("[database] connection: Glimpse does not act on the parameter {name}"));
        }
        // The default of `delay_auth_decision` is that of Glance's paste file. A filter that does not set it has
        // keystonemiddleware's.
        let delay = raw.settings.iter_mut().find(|setting| setting.name == "delay_auth_decision");
        if let Some(setting) = delay.filter(|setting| has_filter && setting.origin == Origin::Default) {
            config.keystone_authtoken.delay_auth_decision = false;
            setting.value = "false".to_owned();
        }
        match pipeline {
            Ok(pipeline) => raw.errors.extend(config.apply_pipeline(pipeline.unwrap_or_default()).err()),
            Err(error) => raw.errors.push(error),
        }
        config.warnings.extend(config.open_warning().map(str::to_owned));
        config.warnings.extend(unused.unknown.into_iter().chain(unused.ignored));
        config.needless = unused.needless;
        if let Some(data_dir) = &sources.data_dir {
            config.glimpse.data_dir.clone_from(data_dir);
            for setting in raw.settings.iter_mut().filter(|setting| setting.name == "data_dir") {
                setting.value = data_dir.display().to_string();
                setting.origin = Origin::CommandLine("--data-dir or GLIMPSE_DATA_DIR");
            }
        }
        redact(&mut raw.settings, &raw.passwords);
        Self { config, settings: raw.settings, errors: raw.errors, files: read }
    }
}

impl Config {
    /// Reads the sources.
    ///
    /// # Errors
    /// The first error.
    pub(crate) fn load(sources: &Sources) -> Result<Self, ConfigError> {
        let report = ConfigReport::from_sources(sources);
        report.errors.into_iter().next().map_or(Ok(report.config), Err)
    }

    /// Applies the settings of the paste pipeline for filters that are part of Glimpse.
    fn apply_pipeline(&mut self, pipeline: Pipeline) -> Result<(), ConfigError> {
        self.warnings.extend(pipeline.warnings);
        if !pipeline.cors && !self.cors.allowed_origin.is_empty() {
            self.warnings.push("[cors] has no effect: the paste pipeline has no cors filter".to_owned());
            self.cors.allowed_origin.clear();
        }
        if !pipeline.proxy_headers && self.oslo_middleware.enable_proxy_headers_parsing {
            let what = "[oslo_middleware] enable_proxy_headers_parsing has no effect";
            self.warnings.push(format!("{what}: the paste pipeline has no http_proxy_to_wsgi filter"));
            self.oslo_middleware.enable_proxy_headers_parsing = false;
        }
        self.filters = pipeline.filters;
        if (self.filters.cache || self.filters.cache_manage) && self.default.image_cache_dir.is_none() {
            let what = "the cache filters of the paste pipeline have no effect";
            self.warnings.push(format!("{what}: [DEFAULT] image_cache_dir is not set"));
        }
        self.auth = match (self.glimpse.auth, pipeline.auth) {
            (Some(auth), _) => auth,
            (None, Ok(auth)) => auth,
            (None, Err(message)) => {
                let origin = "the paste file".to_owned();
                return Err(ConfigError::Value { origin, group: "paste_deploy".to_owned(), name: "flavor", message });
            }
        };
        Ok(())
    }

    /// The address to listen on. Default: Glance's if Keystone authenticates callers, else loopback.
    pub(crate) fn bind_host(&self) -> &str {
        let default = if self.auth == Auth::Keystone { "0.0.0.0" } else { "127.0.0.1" };
        self.default.bind_host.as_ref().map_or(default, HostAddress::as_str)
    }

    /// A warning if the configuration lets unauthenticated callers in.
    fn open_warning(&self) -> Option<&'static str> {
        let host = self.bind_host();
        let is_loopback = host == "localhost" || host.parse().is_ok_and(|address: IpAddr| address.is_loopback());
        match self.auth {
            Auth::Standalone | Auth::Keystone => None,
            Auth::Proxy if is_loopback => None,
            Auth::Proxy => Some(
                "callers are authenticated by a proxy ([glimpse] auth = proxy, or a pipeline with context and without \
                 authtoken): any client that reaches this port can claim to be any user with the headers X-Identity-Status, \
                 X-User-Id, X-Project-Id and X-Roles, and bind_host makes the port reachable from other machines; make sure \
                 that only the trusted proxy can reach it",
            ),
            Auth::Fake => Some("[glimpse] auth = fake: tokens are not verified; this is for tests only"),
            Auth::None => Some("[glimpse] auth = none: every client that reaches this port is an admin"),
        }
    }

    /// The groups whose options differ from those of a running server, except for what it changes while it runs.
    pub(crate) fn groups_that_differ(&self, running: &Self) -> Vec<String> {
        let mut changed = self.clone();
        changed.default.debug = running.default.debug;
        let groups = changed.different_groups(running).into_iter().map(|group| format!("[{group}]"));
        let stores = (self.stores != running.stores).then(|| "stores".to_owned());
        // If `[glimpse] auth` is not set, the paste pipeline decides.
        let by_pipeline = self.auth != running.auth && self.glimpse.auth == running.glimpse.auth;
        groups.chain(stores).chain(by_pipeline.then(|| "[paste_deploy]".to_owned())).collect()
    }

    /// The URL at which clients reach this service on the given port, according to the configuration, without a trailing slash. A
    /// server that listens on every address is reached on loopback.
    pub(crate) fn endpoint(&self, port: u16) -> String {
        if let Some(endpoint) = &self.default.public_endpoint {
            return endpoint.trim_end_matches('/').to_owned();
        }
        let host = match self.bind_host() {
            "0.0.0.0" => "127.0.0.1",
            "::" => "::1",
            host => host,
        };
        let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        format!("http://{host}:{port}")
    }

    /// The default folder of a file store: next to the embedded database, else Glance's.
    pub(crate) fn image_dir(&self) -> PathBuf {
        if self.database_is_embedded() {
            let dir = self.glimpse.data_dir.join("images");
            // The path becomes part of URLs, and other programs that read them have other working directories.
            return std::path::absolute(&dir).unwrap_or(dir);
        }
        PathBuf::from("/var/lib/glance/images")
    }

    /// The default folder of staged data: next to the embedded database, else `node_staging_uri`'s default in Glance's folder.
    pub(crate) fn staging_dir(&self) -> PathBuf {
        if self.database_is_embedded() {
            let dir = self.glimpse.data_dir.join("staging");
            return std::path::absolute(&dir).unwrap_or(dir);
        }
        PathBuf::from("/var/lib/glance/staging")
    }

    /// The configured database, or the embedded one in the data directory.
    pub(crate) fn database_url(&self) -> DatabaseUrl {
        let embedded = || self.glimpse.data_dir.join("glimpse.sqlite").into();
        self.database.connection.clone().unwrap_or_else(embedded)
    }

    /// Whether the database is the embedded one in the data directory, which is created at the first start.
    pub(crate) fn database_is_embedded(&self) -> bool {
        self.database.connection.is_none()
    }
}

fn conf_files(dir: &Path) -> Result<Vec<PathBuf>, ConfigError> {
    let error = |source| ConfigError::File { path: dir.to_owned(), source };
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).map_err(error)? {
        let path = entry.map_err(error)?.path();
        let is_hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if !is_hidden && path.extension().is_some_and(|extension| extension == "conf") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Looks up a file as Glance does: in the configuration folders, then next to the configuration files, the last one first.
fn find_file(name: &str, sources: &Sources, read: &[PathBuf]) -> Option<PathBuf> {
    let folders = read.iter().rev().filter_map(|file| file.parent());
    sources.dirs().chain(folders).map(|dir| dir.join(name)).find(|path| path.exists())
}

/// Removes credentials from values that are shown: logins in URLs, and passwords.
fn redact(settings: &mut [Setting], passwords: &[Password]) {
    for setting in settings {
        for password in passwords.iter().map(Password::expose).filter(|password| !password.is_empty()) {
            setting.value = setting.value.replace(password, "***");
        }
        if let Some((scheme, rest)) = setting.value.split_once("://")
            && let Some((_, server)) = rest.rsplit_once('@')
        {
            setting.value = format!("{scheme}://***@{server}");
        }
    }
}

/// Parses a configuration file.
fn parse_file(path: &Path) -> Result<Vec<ini::Entry>, ConfigError> {
    let text = fs::read_to_string(path).map_err(|source| ConfigError::File { path: path.to_owned(), source })?;
    ini::parse(&text).map_err(|error| ConfigError::Syntax {
        origin: format!("{}:{}", path.display(), error.line),
        message: error.message,
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{Config, ConfigReport, Source, Sources};

    fn load(text: &str) -> Result<Config, String> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("glance-api.conf");
        fs::write(&file, text).unwrap();
        Config::load(&Sources { files: vec![Source::File(file)], ..Sources::default() })
            .map_err(|error| error.to_string())
    }

    #[test]
    fn an_invalid_value_is_reported_with_file_and_line() {
        let error = load("[DEFAULT]\n\nbind_port = many\n").unwrap_err();
        assert!(error.contains("glance-api.conf:3: [DEFAULT] bind_port: a whole number"), "{error}");
    }

    #[test]
    fn the_error_about_an_invalid_database_url_does_not_contain_it() {
        let error = load("[database]\nconnection = oracle://glance:s3cret@db/glance\n").unwrap_err();
        assert!(error.contains("connection") && !error.contains("s3cret"), "{error}");
    }

    #[test]
    fn the_last_of_a_repeated_option_wins() {
        assert_eq!(load("[DEFAULT]\nbind_port = 1\nbind_port = 2\n").unwrap().default.bind_port, 2);
    }

    #[test]
    fn a_value_out_of_range_is_an_error() {
        let error = load("[DEFAULT]\napi_limit_max = 0\n").unwrap_err();
        assert!(
            error.ends_with("glance-api.conf:2: [DEFAULT] api_limit_max: a whole number of at least 1 is expected")
        );
        assert!(load("[DEFAULT]\nbacklog = 0\n").is_err());
    }

    #[test]
    fn an_option_without_effect_is_reported_once() {
        let text = "[DEFAULT]\nbind_prot = 1\nscrub_time = 1\nscrub_time = 2\n[glimpse]\nbind_port = 1\n";
        let warnings = load(text).unwrap().warnings;
        let expected = [
            "glance-api.conf:2: there is no option [DEFAULT] bind_prot; was [DEFAULT] bind_port meant?",
            "glance-api.conf:6: there is no option [glimpse] bind_port",
            "glance-api.conf:3: Glimpse does not act on [DEFAULT] scrub_time, which is an option of Glance",
        ];
        assert_eq!(warnings.len(), expected.len(), "{warnings:?}");
        for (warning, expected) in warnings.iter().zip(expected) {
            assert!(warning.ends_with(expected), "{warning}");
        }
    }

    #[test]
    fn options_that_have_no_effect_by_design_are_kept_apart() {
        let needless = |text: &str| {
            let config = load(text).unwrap();
            (config.warnings.len(), config.needless.len())
        };
        let text = "[keystone_authtoken]\nmemcached_servers = a:1\n[oslo_concurrency]\nlock_path = /l\n[wsgi]\n\
            python_interpreter = p\n[DEFAULT]\ntransport_url = rabbit://h\n[oslo_messaging_rabbit]\nrabbit_qos_prefetch_count = 1\n";
        assert_eq!(needless(text), (0, 5));
        assert_eq!(needless(&format!("{text}[oslo_messaging_notifications]\ndriver = noop\n")), (0, 6));
        // With notifications enabled, their options are missing features.
        assert_eq!(needless(&format!("{text}[oslo_messaging_notifications]\ndriver = messagingv2\n")), (3, 3));
    }

    fn endpoint(text: &str) -> Result<String, String> {
        load(text).map(|config| config.default.public_endpoint.unwrap_or_default())
    }

    /// The results are those of oslo.config.
    #[test]
    fn values_refer_to_other_options() {
        let cases = [
            ("public_endpoint = http://$log_file:${bind_port}/\nlog_file = h", "http://h:9292/"),
            ("bind_port = 7\npublic_endpoint = $bind_port", "7"),
            ("public_endpoint = ${image_format.container_formats}\n[image_format]\ncontainer_formats = bare", "bare"),
            ("public_endpoint = $log_file|", "|"),
            ("public_endpoint = $log_file\nlog_file = $$x", "$x"),
            ("public_endpoint = $log_file\nlog_file = $log_dir/y\nlog_dir = x", "x/y"),
            // An option that Glance has.
            ("public_endpoint = $node_staging_uri/x\nnode_staging_uri = file:///a", "file:///a/x"),
        ];
        for (text, expected) in cases {
            assert_eq!(endpoint(&format!("[DEFAULT]\n{text}\n")).as_deref(), Ok(expected), "{text}");
        }
        let config = load("[DEFAULT]\nlog_dir = top\n[glimpse]\ndata_dir = $log_dir/x\n").unwrap();
        assert_eq!(config.glimpse.data_dir.to_str(), Some("top/x"));
    }

    #[test]
    fn invalid_and_circular_references_are_reported() {
        for (text, expected) in [
            ("$nosuch", "$nosuch names no option"),
            ("${DEFAULT.bind_host}", "$DEFAULT.bind_host names no option"),
            ("$public_endpoint", "it refers to itself"),
            ("$bind_host\nbind_host = $public_endpoint$public_endpoint", "it refers to itself"),
            ("$transport_url", "$transport_url is not written"),
        ] {
            let error = endpoint(&format!("[DEFAULT]\npublic_endpoint = {text}\n")).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
        let error = load("[database]\nconnection = mysql://u:pa$word@h/d\n").unwrap_err();
        assert!(error.contains("written $$") && !error.contains("word"), "{error}");
    }

    #[test]
    fn a_former_name_is_used_if_the_file_does_not_have_the_present_one() {
        let recycle = |text: &str| load(&format!("[database]\n{text}")).unwrap().database.connection_recycle_time;
        assert_eq!(recycle("idle_timeout = 7\n"), 7);
        assert_eq!(recycle("connection_recycle_time = 8\nidle_timeout = 7\n"), 8);
        assert_eq!(load("[DEFAULT]\ndisk_formats = raw\n").unwrap().image_format.disk_formats, ["raw"]);
    }

    #[test]
    fn settings_have_origins_and_no_secrets() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.conf");
        fs::write(&file, "[database]\nconnection = mysql://u:s3cret@h/d\n[DEFAULT]\nbind_port = no\nbacklog = no\n")
            .unwrap();
        let report = ConfigReport::from_sources(&Sources { files: vec![Source::File(file)], ..Sources::default() });
        assert_eq!(report.errors.len(), 2);
        let setting = |name: &str| report.settings.iter().find(|setting| setting.name == name).unwrap();
        assert!(setting("connection").origin.to_string().ends_with("a.conf:2"));
        assert_eq!(setting("connection").value, "mysql://***@h:3306/d");
        assert_eq!(
            (setting("debug").value.as_str(), setting("debug").origin.to_string().as_str()),
            ("false", "default")
        );
    }

    /// Reads a configuration next to a paste file.
    fn load_with_paste(paste: &str, text: &str) -> ConfigReport {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("glance-api-paste.ini"), paste).unwrap();
        let file = dir.path().join("glance-api.conf");
        fs::write(&file, format!("[paste_deploy]\nflavor = keystone\n{text}")).unwrap();
        ConfigReport::from_sources(&Sources { files: vec![Source::File(file)], ..Sources::default() })
    }

    /// The results are those of keystonemiddleware.
    #[test]
    fn options_of_the_pipelines_filter_override_the_group() {
        let paste = "[DEFAULT]\nregion_name = all\ninsecure = yes\n\
            [pipeline:glance-api-keystone]\npipeline = mine context rootapp\n\
            [filter:mine]\nuse = authtoken\nwww_authenticate_uri = http://mine\nset insecure = no\ncafile = %(here)s/100%%\n\
            [filter:authtoken]\npaste.filter_factory = keystonemiddleware.auth_token:filter_factory\n\
            region_name = used\ninterface = public\nwww_authenticate_uri = http://used\npassword = a$b$$c\nnosuch = 1\n";
        let text = "[keystone_authtoken]\nregion_name = own\nusername = glance\nwww_authenticate_uri = http://own\n";
        let report = load_with_paste(paste, text);
        assert!(report.errors.is_empty(), "{:?}", report.errors);
        let found = &report.config.keystone_authtoken;
        assert_eq!(found.region_name.as_deref(), Some("all"));
        assert_eq!(found.interface, "public");
        assert_eq!(found.www_authenticate_uri.as_deref(), Some("http://mine"));
        assert!(!found.insecure);
        assert_eq!(found.username.as_deref(), Some("glance"));
        assert_eq!(found.password.as_ref().map(super::Password::expose), Some("a$b$$c"));
        assert!(found.cafile.as_ref().is_some_and(|path| path.ends_with("100%") && path.is_absolute()));
        let warnings = &report.config.warnings;
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(warnings[0].contains("glance-api-paste.ini:17: there is no option [keystone_authtoken] nosuch"));
        let origin = report.settings.iter().find(|setting| setting.name == "interface").unwrap().origin.to_string();
        assert!(origin.ends_with("glance-api-paste.ini:14"), "{origin}");
    }

    #[test]
    fn delay_auth_decision_is_false_unless_a_paste_files_filter_sets_it() {
        let paste = |filter: &str| {
            format!(
                "[pipeline:glance-api-keystone]\npipeline = authtoken context rootapp\n[filter:authtoken]\n\
                 paste.filter_factory = keystonemiddleware.auth_token:filter_factory\n{filter}"
            )
        };
        let delays =
            |paste: &str, text: &str| load_with_paste(paste, text).config.keystone_authtoken.delay_auth_decision;
        assert!(!delays(&paste(""), ""));
        assert!(delays(&paste("delay_auth_decision = true\n"), ""));
        assert!(delays(&paste(""), "[keystone_authtoken]\ndelay_auth_decision = true\n"));
        assert!(!delays(&paste("delay_auth_decision = no\n"), "[keystone_authtoken]\ndelay_auth_decision = true\n"));
        assert!(load("[paste_deploy]\nflavor = keystone\n").unwrap().keystone_authtoken.delay_auth_decision);
    }

    #[test]
    fn auth_section_names_the_group_of_the_login_options() {
        let text = "[keystone_authtoken]\nauth_section = Own\nauth_url = http://a\nregion_name = r\n\
            [own]\nauth_url = http://b\nuser_name = $project_name\nproject_name = p\npassword = s3cret\nregion_name = x\n";
        let config = load(text).unwrap();
        let found = &config.keystone_authtoken;
        assert_eq!(found.auth_url.as_deref(), Some("http://b"));
        assert_eq!((found.username.as_deref(), found.region_name.as_deref()), (Some("p"), Some("r")));
        assert_eq!(config.warnings.len(), 2, "{:?}", config.warnings);
        assert!(
            config.warnings[1].contains(":3: [keystone_authtoken] auth_url has no effect: auth_section names [own]")
        );
        assert!(config.warnings[0].contains(":10: there is no option [own] region_name"), "{:?}", config.warnings);
    }

    #[test]
    fn shown_settings_have_no_credentials() {
        let text = "[keystone_authtoken]\npassword = hunter2\nauth_url = http://u:hunter3@h:5000\n\
            [DEFAULT]\npublic_endpoint = http://${keystone_authtoken.password}\n\
            [database]\nconnection = mysql://glance:12/hunter4@db/glance\n";
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.conf");
        fs::write(&file, text).unwrap();
        let report = ConfigReport::from_sources(&Sources { files: vec![Source::File(file)], ..Sources::default() });
        assert!(report.errors.is_empty(), "{:?}", report.errors);
        let shown = format!("{:?} {:?}", report.settings, report.config);
        assert!(!format!("{:?}", report.settings).contains("hunter"), "{shown}");
    }

    /// `config/glance-api.conf` has every option, commented out, with its default.
    #[test]
    fn the_sample_has_every_option_with_its_default() {
        let sample = include_str!("../../config/glance-api.conf");
        let is_option =
            |line: &&str| line.strip_prefix('#').is_some_and(|rest| rest.starts_with(char::is_alphanumeric));
        let written: String = sample
            .lines()
            .filter(|line| line.starts_with('[') || is_option(line))
            // The notation has no value for an option without a default.
            .filter(|line| !line.ends_with(" ="))
            .map(|line| format!("{}\n", line.trim_start_matches('#')))
            .collect();
        let config = load(&written).unwrap();
        assert_eq!(config.warnings, [""; 0]);
        // The sample does not determine the folders.
        let config = Config { folders: Vec::new(), ..config };
        assert_eq!(format!("{config:?}"), format!("{:?}", Config::default()));
        let in_sample = |name: &str| sample.lines().any(|line| line.starts_with(&format!("#{name} =")));
        let known = super::catalogue::options().map(|option| option.name);
        assert_eq!(known.filter(|name| !in_sample(name)).collect::<Vec<_>>(), [""; 0]);
    }
}
