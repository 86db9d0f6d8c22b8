//! What the operator wants, read once at start from files, the environment and the command line.

mod catalogue;
mod database_url;
mod ini;
mod known;
mod options;
mod paste;
mod secret;
mod stores;
mod substitution;
mod value;
mod written;

use std::{
    fmt, fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
};

pub(crate) use self::{
    database_url::{DatabaseUrl, Target},
    options::{
        Auth, BucketUrlFormat, Cors, Database, DefaultGroup, FileStore, Glimpse, HashAlgorithm, Healthcheck, HttpStore,
        ImageFormat, ImportFilteringOpts, KeystoneAuthtoken, LogFormat, OsloLimit, OsloMiddleware, OsloPolicy,
        RuleFormat, S3Store,
    },
    secret::Secret,
    stores::{StoreConfig, StoreKind, StoresConfig},
    value::{HostAddress, OptionValue, Port},
    written::Setting,
};
use self::{
    options::PasteDeploy,
    paste::Pipeline,
    written::{Place, Written},
};

/// Where Glance's files are, unless [`DIR_VARIABLE`] says otherwise.
const DIR: &str = "/etc/glance";
/// The variable that names the folder of Glance's files.
const DIR_VARIABLE: &str = "OS_GLANCE_CONFIG_DIR";
/// The files there, in order.
const FILES: [&str; 2] = ["glance-image-import.conf", "glance-api.conf"];
/// The folders of files there, which are read after them.
const DIRS: [&str; 2] = ["glance.conf.d", "glance-api.conf.d"];

/// The file beside the configuration that adds properties to the schema of an image.
const CUSTOM_SCHEMA: &str = "schema-image.json";

/// Every option, with its default where nothing was written.
#[derive(Debug, Clone, Default)]
pub(crate) struct Config {
    /// `[DEFAULT]`
    pub(crate) default: DefaultGroup,
    /// `[database]`
    pub(crate) database: Database,
    /// `[keystone_authtoken]`
    pub(crate) keystone_authtoken: KeystoneAuthtoken,
    /// How callers are found out: as `[glimpse] auth` says, else the paste pipeline, else by users of our own.
    pub(crate) auth: Auth,
    /// `[image_format]`
    pub(crate) image_format: ImageFormat,
    /// `[oslo_limit]`
    pub(crate) oslo_limit: OsloLimit,
    /// Where image data may be.
    pub(crate) stores: StoresConfig,
    /// `[import_filtering_opts]`
    pub(crate) import_filtering_opts: ImportFilteringOpts,
    /// `[oslo_middleware]`
    pub(crate) oslo_middleware: OsloMiddleware,
    /// `[oslo_policy]`
    pub(crate) oslo_policy: OsloPolicy,
    /// Where files that an option names without a folder are looked for, in order.
    pub(crate) folders: Vec<PathBuf>,
    /// `[cors]`
    pub(crate) cors: Cors,
    /// `[healthcheck]`
    pub(crate) healthcheck: Healthcheck,
    /// `[glimpse]`
    pub(crate) glimpse: Glimpse,
    /// `schema-image.json` beside the configuration, where there is one.
    pub(crate) custom_schema: Option<PathBuf>,
    /// What the operator should know about what they wrote, for the log.
    pub(crate) warnings: Vec<String>,
}

/// A place that options are written in.
#[derive(Debug, Clone)]
pub(crate) enum Source {
    /// A file.
    File(PathBuf),
    /// A folder whose `*.conf` files are read in the order of their names.
    Dir(PathBuf),
}

/// Where options are written.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sources {
    /// In order: what comes later wins.
    pub(crate) places: Vec<Source>,
    /// Wins over `[glimpse] data_dir`.
    pub(crate) data_dir: Option<PathBuf>,
    /// Options of the command line, which win over files and environment: group, name, value.
    pub(crate) overrides: Vec<(&'static str, &'static str, String)>,
}

/// Why the configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    /// A file that cannot be read.
    #[error("{}: {source}", path.display())]
    File {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A line that is not in the dialect.
    #[error("{place}: {message}")]
    Syntax {
        /// File and line.
        place: String,
        /// What is wrong with it.
        message: &'static str,
    },
    /// A value that an option cannot have.
    #[error("{place}: [{group}] {name}: {message}")]
    Value {
        /// File and line, or the environment variable.
        place: String,
        /// The option's group.
        group: String,
        /// The option's name.
        name: &'static str,
        /// What would be right. Never repeats the value, which may be a secret.
        message: String,
    },
}

impl Sources {
    /// With Glance's own files before them where the command line names no file, and its own folders where it names no folder;
    /// those of them that exist.
    pub(crate) fn or_glances(mut self) -> Self {
        let dir = glances_dir();
        let existing = |names: [&str; 2]| names.map(|name| dir.join(name)).into_iter().filter(|path| path.exists());
        let mut places = Vec::new();
        if !self.places.iter().any(|place| matches!(place, Source::File(_))) {
            places.extend(existing(FILES).map(Source::File));
        }
        if !self.places.iter().any(|place| matches!(place, Source::Dir(_))) {
            places.extend(existing(DIRS).map(Source::Dir));
        }
        places.append(&mut self.places);
        Self { places, ..self }
    }

    /// The folders among them.
    fn dirs(&self) -> impl Iterator<Item = &Path> {
        self.places.iter().filter_map(|place| match place {
            Source::Dir(dir) => Some(dir.as_path()),
            Source::File(_) => None,
        })
    }

    /// Where oslo.config looks for a file that belongs to the configuration: beside it, then in the usual places.
    fn folders(&self) -> Vec<PathBuf> {
        let files = self.places.iter().rev().filter_map(|place| match place {
            Source::File(file) => file.parent(),
            Source::Dir(_) => None,
        });
        let home = std::env::home_dir().filter(|home| !home.as_os_str().is_empty());
        let usual = home.into_iter().flat_map(|home| [home.join(".glance"), home]);
        self.dirs()
            .chain(files)
            .map(Path::to_owned)
            .chain(usual)
            .chain([glances_dir(), PathBuf::from("/etc")])
            .collect()
    }
}

/// The folder of Glance's files.
fn glances_dir() -> PathBuf {
    let dir = std::env::var(DIR_VARIABLE).ok().map(|dir| dir.trim().to_owned()).filter(|dir| !dir.is_empty());
    PathBuf::from(dir.as_deref().unwrap_or(DIR))
}

/// What the sources come to, with everything that is wrong in them.
pub(crate) struct Reading {
    /// The options, with the default where what was written is wrong.
    pub(crate) config: Config,
    /// Every option's value, and where it comes from.
    pub(crate) settings: Vec<Setting>,
    /// What is wrong, in the order of the options.
    pub(crate) errors: Vec<ConfigError>,
    /// The files that were read, in order: who named none wants to know.
    pub(crate) files: Vec<PathBuf>,
}

impl Reading {
    /// Reads the sources.
    pub(crate) fn of(sources: &Sources) -> Self {
        let mut written = Written::new(|name| std::env::var(name).ok(), sources.overrides.clone());
        let mut files = Vec::new();
        for place in &sources.places {
            match place {
                Source::File(path) => files.push(Ok(path.clone())),
                Source::Dir(dir) => match conf_files(dir) {
                    Ok(found) => files.extend(found.into_iter().map(Ok)),
                    Err(error) => files.push(Err(error)),
                },
            }
        }
        let mut read: Vec<PathBuf> = Vec::new();
        for file in files {
            match file.and_then(|path| Ok((entries(&path)?, path))) {
                Ok((entries, path)) => {
                    written.add(&path, entries);
                    read.push(path);
                }
                Err(error) => written.errors.push(error),
            }
        }
        let folders: Vec<PathBuf> = read.iter().filter_map(|file| file.parent()).map(Path::to_owned).collect();
        let paste = PasteDeploy::read(&mut written);
        let pipeline = paste::pipeline(&paste, &folders);
        let filter = pipeline.as_ref().ok().and_then(Option::as_ref).and_then(|pipeline| pipeline.authtoken.clone());
        let has_filter = filter.is_some();
        if let Some((path, entries)) = filter {
            written.add_filter(&path, entries);
        }
        written.follow_auth_section();
        let mut config = Config {
            default: DefaultGroup::read(&mut written),
            database: Database::read(&mut written),
            keystone_authtoken: KeystoneAuthtoken::read(&mut written),
            auth: Auth::default(),
            image_format: ImageFormat::read(&mut written),
            oslo_limit: OsloLimit::read(&mut written),
            stores: StoresConfig::default(),
            import_filtering_opts: ImportFilteringOpts::read(&mut written),
            oslo_middleware: OsloMiddleware::read(&mut written),
            oslo_policy: OsloPolicy::read(&mut written),
            folders: sources.folders(),
            cors: Cors::read(&mut written),
            healthcheck: Healthcheck::read(&mut written),
            glimpse: Glimpse::read(&mut written),
            custom_schema: beside(CUSTOM_SCHEMA, sources, &read),
            warnings: Vec::new(),
        };
        if let Some(path) = &config.default.property_protection_file {
            // One that is nowhere is told where it is read.
            let found = path.to_str().and_then(|name| beside(name, sources, &read));
            config.default.property_protection_file = found.or_else(|| Some(path.clone()));
        }
        config.stores = StoresConfig::read(&mut written, &config.default.enabled_backends);
        config.warnings = written.warnings(std::env::vars_os().filter_map(|(name, _)| name.into_string().ok()));
        for name in config.database.connection.iter().flat_map(|url| &url.ignored) {
            config.warnings.push(format!("[database] connection: Glimpse does not act on the parameter {name}"));
        }
        // Our default is what Glance's own paste file says; another one that is silent means keystonemiddleware's.
        let delay = written.settings.iter_mut().find(|setting| setting.name == "delay_auth_decision");
        if let Some(setting) = delay.filter(|setting| has_filter && setting.place == Place::Default) {
            config.keystone_authtoken.delay_auth_decision = false;
            setting.value = "false".to_owned();
        }
        match pipeline {
            Ok(pipeline) => written.errors.extend(config.take_up(pipeline.unwrap_or_default()).err()),
            Err(error) => written.errors.push(error),
        }
        config.warnings.extend(config.open_warning().map(str::to_owned));
        if let Some(data_dir) = &sources.data_dir {
            config.glimpse.data_dir.clone_from(data_dir);
            for setting in written.settings.iter_mut().filter(|setting| setting.name == "data_dir") {
                setting.value = data_dir.display().to_string();
                setting.place = Place::CommandLine("--data-dir or GLIMPSE_DATA_DIR");
            }
        }
        for password in [&config.keystone_authtoken.password, &config.oslo_limit.password] {
            hide(&mut written.settings, password.as_ref());
        }
        Self { config, settings: written.settings, errors: written.errors, files: read }
    }
}

impl Config {
    /// Reads the sources.
    ///
    /// # Errors
    /// The first file, line or value that is wrong.
    pub(crate) fn load(sources: &Sources) -> Result<Self, ConfigError> {
        let reading = Reading::of(sources);
        reading.errors.into_iter().next().map_or(Ok(reading.config), Err)
    }

    /// Does what the pipeline says of the filters that are ours.
    fn take_up(&mut self, pipeline: Pipeline) -> Result<(), ConfigError> {
        self.warnings.extend(pipeline.warnings);
        if !pipeline.cors && !self.cors.allowed_origin.is_empty() {
            self.warnings.push("[cors] does nothing: the paste pipeline has no cors filter".to_owned());
            self.cors.allowed_origin.clear();
        }
        if !pipeline.proxy_headers && self.oslo_middleware.enable_proxy_headers_parsing {
            let what = "[oslo_middleware] enable_proxy_headers_parsing does nothing";
            self.warnings.push(format!("{what}: the paste pipeline has no http_proxy_to_wsgi filter"));
            self.oslo_middleware.enable_proxy_headers_parsing = false;
        }
        if pipeline.healthcheck_disable.is_some() {
            self.healthcheck.disable_by_file_path = pipeline.healthcheck_disable;
        }
        self.auth = match (self.glimpse.auth, pipeline.auth) {
            (Some(auth), _) => auth,
            (None, Ok(auth)) => auth,
            (None, Err(message)) => {
                let place = "the paste file".to_owned();
                return Err(ConfigError::Value { place, group: "paste_deploy".to_owned(), name: "flavor", message });
            }
        };
        Ok(())
    }

    /// The address to listen on: Glance's default where Keystone asks who comes in, else loopback.
    pub(crate) fn bind_host(&self) -> &str {
        let default = if self.auth == Auth::Keystone { "0.0.0.0" } else { "127.0.0.1" };
        self.default.bind_host.as_ref().map_or(default, HostAddress::as_str)
    }

    /// What an operator must know before somebody else finds out, or `None` where nothing is open.
    fn open_warning(&self) -> Option<&'static str> {
        let host = self.bind_host();
        let is_loopback = host == "localhost" || host.parse().is_ok_and(|address: IpAddr| address.is_loopback());
        match self.auth {
            Auth::Standalone | Auth::Keystone => None,
            Auth::Proxy if is_loopback => None,
            Auth::Proxy => Some(
                "callers are found out by a proxy ([glimpse] auth = proxy, or a pipeline with context and without authtoken): \
                 whoever reaches this port is whoever their X-Identity-Status, X-User-Id, X-Project-Id and X-Roles headers \
                 say, and bind_host lets more than this machine reach it; only the trusted proxy may",
            ),
            Auth::Fake => Some("[glimpse] auth = fake: every token is believed; this is for tests only"),
            Auth::None => Some("[glimpse] auth = none: everybody who reaches this port is an admin"),
        }
    }

    /// The groups in which this is not what a running server has, but for what it takes up while it runs.
    pub(crate) fn groups_that_differ(&self, running: &Self) -> Vec<&'static str> {
        let differs = |a: &dyn fmt::Debug, b: &dyn fmt::Debug| format!("{a:?}") != format!("{b:?}");
        let same_debug = DefaultGroup { debug: running.default.debug, ..self.default.clone() };
        let groups = [
            ("[DEFAULT]", differs(&same_debug, &running.default)),
            (
                "[database]",
                differs(&self.database, &running.database) || self.database.connection != running.database.connection,
            ),
            (
                "[keystone_authtoken]",
                // Two secrets look alike.
                self.keystone_authtoken.password != running.keystone_authtoken.password
                    || differs(&self.keystone_authtoken, &running.keystone_authtoken),
            ),
            ("stores", differs(&self.stores, &running.stores)),
            ("[image_format]", differs(&self.image_format, &running.image_format)),
            (
                "[oslo_limit]",
                self.oslo_limit.password != running.oslo_limit.password
                    || differs(&self.oslo_limit, &running.oslo_limit),
            ),
            ("[import_filtering_opts]", differs(&self.import_filtering_opts, &running.import_filtering_opts)),
            ("[oslo_middleware]", differs(&self.oslo_middleware, &running.oslo_middleware)),
            ("[oslo_policy]", differs(&self.oslo_policy, &running.oslo_policy)),
            ("[cors]", differs(&self.cors, &running.cors)),
            ("[healthcheck]", differs(&self.healthcheck, &running.healthcheck)),
            ("[glimpse] and [paste_deploy]", differs(&self.glimpse, &running.glimpse) || self.auth != running.auth),
        ];
        groups.into_iter().filter(|(_, differs)| *differs).map(|(group, _)| group).collect()
    }

    /// The URL at which clients reach this service on the given port, as far as the configuration says, without a slash at its end. A
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

    /// The folder of a store that is told none: beside the embedded database, else Glance's.
    pub(crate) fn image_dir(&self) -> PathBuf {
        if self.database_is_embedded() {
            let dir = self.glimpse.data_dir.join("images");
            // It goes into URLs that other programs read, wherever they were started.
            return std::path::absolute(&dir).unwrap_or(dir);
        }
        PathBuf::from("/var/lib/glance/images")
    }

    /// The configured database, or the embedded one in the data directory.
    pub(crate) fn database_url(&self) -> DatabaseUrl {
        let embedded = || self.glimpse.data_dir.join("glimpse.sqlite").into();
        self.database.connection.clone().unwrap_or_else(embedded)
    }

    /// Whether the database is the one in the data directory, which is made at the first start.
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

/// Looks for a file where Glance does: in the folders of files, then beside the files, the last one first.
fn beside(name: &str, sources: &Sources, read: &[PathBuf]) -> Option<PathBuf> {
    let folders = read.iter().rev().filter_map(|file| file.parent());
    sources.dirs().chain(folders).map(|dir| dir.join(name)).find(|path| path.exists())
}

/// Takes credentials out of values that are shown: a login in a URL, and a password that a value refers to.
fn hide(settings: &mut [Setting], password: Option<&Secret>) {
    for setting in settings {
        if let Some(password) = password.map(Secret::expose).filter(|password| !password.is_empty()) {
            setting.value = setting.value.replace(password, "***");
        }
        if let Some((scheme, rest)) = setting.value.split_once("://")
            && let Some((_, server)) = rest.rsplit_once('@')
        {
            setting.value = format!("{scheme}://***@{server}");
        }
    }
}

/// What a file has.
fn entries(path: &Path) -> Result<Vec<ini::Entry>, ConfigError> {
    let text = fs::read_to_string(path).map_err(|source| ConfigError::File { path: path.to_owned(), source })?;
    ini::parse(&text).map_err(|error| ConfigError::Syntax {
        place: format!("{}:{}", path.display(), error.line),
        message: error.message,
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{Config, Reading, Source, Sources};

    fn load(text: &str) -> Result<Config, String> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("glance-api.conf");
        fs::write(&file, text).unwrap();
        Config::load(&Sources { places: vec![Source::File(file)], ..Sources::default() })
            .map_err(|error| error.to_string())
    }

    #[test]
    fn a_wrong_value_is_told_with_file_and_line() {
        let error = load("[DEFAULT]\n\nbind_port = many\n").unwrap_err();
        assert!(error.contains("glance-api.conf:3: [DEFAULT] bind_port: a whole number"), "{error}");
    }

    #[test]
    fn a_wrong_database_url_is_not_repeated() {
        let error = load("[database]\nconnection = oracle://glance:s3cret@db/glance\n").unwrap_err();
        assert!(error.contains("connection") && !error.contains("s3cret"), "{error}");
    }

    #[test]
    fn the_last_of_a_repeated_option_wins() {
        assert_eq!(load("[DEFAULT]\nbind_port = 1\nbind_port = 2\n").unwrap().default.bind_port, 2);
    }

    #[test]
    fn a_value_out_of_bounds_is_wrong() {
        let error = load("[DEFAULT]\napi_limit_max = 0\n").unwrap_err();
        assert!(error.ends_with("glance-api.conf:2: [DEFAULT] api_limit_max: a whole number of at least 1 is wanted"));
        assert!(load("[DEFAULT]\nbacklog = 0\n").is_err());
    }

    #[test]
    fn an_option_that_is_not_acted_on_is_told_once_by_name() {
        let text = "[DEFAULT]\nbind_prot = 1\nscrub_time = 1\nscrub_time = 2\n[glimpse]\nbind_port = 1\n";
        let warnings = load(text).unwrap().warnings;
        let expected = [
            "glance-api.conf:2: there is no option [DEFAULT] bind_prot; was [DEFAULT] bind_port meant?",
            "glance-api.conf:3: Glimpse does not act on [DEFAULT] scrub_time, which is an option of Glance",
            "glance-api.conf:6: there is no option [glimpse] bind_port; was [DEFAULT] bind_port meant?",
        ];
        assert_eq!(warnings.len(), expected.len(), "{warnings:?}");
        for (warning, expected) in warnings.iter().zip(expected) {
            assert!(warning.ends_with(expected), "{warning}");
        }
    }

    fn endpoint(text: &str) -> Result<String, String> {
        load(text).map(|config| config.default.public_endpoint.unwrap_or_default())
    }

    /// Each of these was asked of oslo.config.
    #[test]
    fn values_refer_to_other_options() {
        let cases = [
            ("public_endpoint = http://$log_file:${bind_port}/\nlog_file = h", "http://h:9292/"),
            ("bind_port = 7\npublic_endpoint = $bind_port", "7"),
            ("public_endpoint = ${image_format.container_formats}\n[image_format]\ncontainer_formats = bare", "bare"),
            ("public_endpoint = $log_file|", "|"),
            ("public_endpoint = $log_file\nlog_file = $$x", "$x"),
            ("public_endpoint = $log_file\nlog_file = $log_dir/y\nlog_dir = x", "x/y"),
            // One that Glance knows.
            ("public_endpoint = $node_staging_uri/x\nnode_staging_uri = file:///a", "file:///a/x"),
        ];
        for (text, expected) in cases {
            assert_eq!(endpoint(&format!("[DEFAULT]\n{text}\n")).as_deref(), Ok(expected), "{text}");
        }
        let config = load("[DEFAULT]\nlog_dir = top\n[glimpse]\ndata_dir = $log_dir/x\n").unwrap();
        assert_eq!(config.glimpse.data_dir.to_str(), Some("top/x"));
    }

    #[test]
    fn a_wrong_reference_is_told_and_a_circle_ends() {
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
    fn a_former_name_counts_where_the_file_has_no_other() {
        let recycle = |text: &str| load(&format!("[database]\n{text}")).unwrap().database.connection_recycle_time;
        assert_eq!(recycle("idle_timeout = 7\n"), 7);
        assert_eq!(recycle("connection_recycle_time = 8\nidle_timeout = 7\n"), 8);
        assert_eq!(load("[DEFAULT]\ndisk_formats = raw\n").unwrap().image_format.disk_formats, ["raw"]);
    }

    #[test]
    fn settings_tell_where_they_come_from_and_no_secret() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.conf");
        fs::write(&file, "[database]\nconnection = mysql://u:s3cret@h/d\n[DEFAULT]\nbind_port = no\nbacklog = no\n")
            .unwrap();
        let reading = Reading::of(&Sources { places: vec![Source::File(file)], ..Sources::default() });
        assert_eq!(reading.errors.len(), 2);
        let setting = |name: &str| reading.settings.iter().find(|setting| setting.name == name).unwrap();
        assert!(setting("connection").place.to_string().ends_with("a.conf:2"));
        assert_eq!(setting("connection").value, "mysql://***@h:3306/d");
        assert_eq!(
            (setting("debug").value.as_str(), setting("debug").place.to_string().as_str()),
            ("false", "default")
        );
    }

    /// Reads a configuration beside a paste file.
    fn load_beside(paste: &str, text: &str) -> Reading {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("glance-api-paste.ini"), paste).unwrap();
        let file = dir.path().join("glance-api.conf");
        fs::write(&file, format!("[paste_deploy]\nflavor = keystone\n{text}")).unwrap();
        Reading::of(&Sources { places: vec![Source::File(file)], ..Sources::default() })
    }

    /// Each of these was asked of keystonemiddleware.
    #[test]
    fn what_the_pipelines_filter_has_counts_before_what_is_in_the_group() {
        let paste = "[DEFAULT]\nregion_name = all\ninsecure = yes\n\
            [pipeline:glance-api-keystone]\npipeline = mine context rootapp\n\
            [filter:mine]\nuse = authtoken\nwww_authenticate_uri = http://mine\nset insecure = no\ncafile = %(here)s/100%%\n\
            [filter:authtoken]\npaste.filter_factory = keystonemiddleware.auth_token:filter_factory\n\
            region_name = used\ninterface = public\nwww_authenticate_uri = http://used\npassword = a$b$$c\nnosuch = 1\n";
        let text = "[keystone_authtoken]\nregion_name = own\nusername = glance\nwww_authenticate_uri = http://own\n";
        let reading = load_beside(paste, text);
        assert!(reading.errors.is_empty(), "{:?}", reading.errors);
        let found = &reading.config.keystone_authtoken;
        assert_eq!(found.region_name.as_deref(), Some("all"));
        assert_eq!(found.interface, "public");
        assert_eq!(found.www_authenticate_uri.as_deref(), Some("http://mine"));
        assert!(!found.insecure);
        assert_eq!(found.username.as_deref(), Some("glance"));
        assert_eq!(found.password.as_ref().map(super::Secret::expose), Some("a$b$$c"));
        assert!(found.cafile.as_ref().is_some_and(|path| path.ends_with("100%") && path.is_absolute()));
        let warnings = &reading.config.warnings;
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(warnings[0].contains("glance-api-paste.ini:17: there is no option [keystone_authtoken] nosuch"));
        let place = reading.settings.iter().find(|setting| setting.name == "interface").unwrap().place.to_string();
        assert!(place.ends_with("glance-api-paste.ini:14"), "{place}");
    }

    #[test]
    fn a_pipelines_filter_that_does_not_delay_the_decision_refuses() {
        let paste = |filter: &str| {
            format!(
                "[pipeline:glance-api-keystone]\npipeline = authtoken context rootapp\n[filter:authtoken]\n\
                 paste.filter_factory = keystonemiddleware.auth_token:filter_factory\n{filter}"
            )
        };
        let delays = |paste: &str, text: &str| load_beside(paste, text).config.keystone_authtoken.delay_auth_decision;
        assert!(!delays(&paste(""), ""));
        assert!(delays(&paste("delay_auth_decision = true\n"), ""));
        assert!(delays(&paste(""), "[keystone_authtoken]\ndelay_auth_decision = true\n"));
        assert!(!delays(&paste("delay_auth_decision = no\n"), "[keystone_authtoken]\ndelay_auth_decision = true\n"));
        assert!(load("[paste_deploy]\nflavor = keystone\n").unwrap().keystone_authtoken.delay_auth_decision);
    }

    #[test]
    fn another_group_may_say_how_we_log_in() {
        let text = "[keystone_authtoken]\nauth_section = Own\nauth_url = http://a\nregion_name = r\n\
            [own]\nauth_url = http://b\nuser_name = $project_name\nproject_name = p\npassword = s3cret\nregion_name = x\n";
        let config = load(text).unwrap();
        let found = &config.keystone_authtoken;
        assert_eq!(found.auth_url.as_deref(), Some("http://b"));
        assert_eq!((found.username.as_deref(), found.region_name.as_deref()), (Some("p"), Some("r")));
        assert_eq!(config.warnings.len(), 2, "{:?}", config.warnings);
        assert!(
            config.warnings[0].contains(":3: [keystone_authtoken] auth_url does nothing: auth_section names [own]")
        );
        assert!(config.warnings[1].contains(":10: there is no option [own] region_name"), "{:?}", config.warnings);
    }

    #[test]
    fn what_is_shown_has_no_credentials() {
        let text = "[keystone_authtoken]\npassword = hunter2\nauth_url = http://u:hunter3@h:5000\n\
            [DEFAULT]\npublic_endpoint = http://${keystone_authtoken.password}\n\
            [database]\nconnection = mysql://glance:12/hunter4@db/glance\n";
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.conf");
        fs::write(&file, text).unwrap();
        let reading = Reading::of(&Sources { places: vec![Source::File(file)], ..Sources::default() });
        assert!(reading.errors.is_empty(), "{:?}", reading.errors);
        let shown = format!("{:?} {:?}", reading.settings, reading.config);
        assert!(!format!("{:?}", reading.settings).contains("hunter"), "{shown}");
    }

    /// `config/glance-api.conf` has every option, commented out, with its default.
    #[test]
    fn the_sample_is_complete_and_true() {
        let sample = include_str!("../../config/glance-api.conf");
        let is_option =
            |line: &&str| line.strip_prefix('#').is_some_and(|rest| rest.starts_with(char::is_alphanumeric));
        let written: String = sample
            .lines()
            .filter(|line| line.starts_with('[') || is_option(line))
            // An option without a default cannot be written.
            .filter(|line| !line.ends_with(" ="))
            .map(|line| format!("{}\n", line.trim_start_matches('#')))
            .collect();
        let config = load(&written).unwrap();
        assert_eq!(config.warnings, [""; 0]);
        // Where it was written is not in it.
        let config = Config { folders: Vec::new(), ..config };
        assert_eq!(format!("{config:?}"), format!("{:?}", Config::default()));
        let in_sample = |name: &str| sample.lines().any(|line| line.starts_with(&format!("#{name} =")));
        let known = super::catalogue::known().map(|option| option.name);
        assert_eq!(known.filter(|name| !in_sample(name)).collect::<Vec<_>>(), [""; 0]);
    }
}
