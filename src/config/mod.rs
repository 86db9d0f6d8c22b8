//! What the operator wants, read once at start from files, the environment and the command line.

mod database_url;
mod ini;
mod options;
mod paste;
mod secret;
mod value;

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
};

pub(crate) use self::{
    database_url::{DatabaseUrl, Target},
    options::{Auth, Database, DefaultGroup, Glimpse, ImageFormat, KeystoneAuthtoken, LogFormat},
};
use self::{options::PasteDeploy, value::OptionValue};

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
    /// `[glimpse]`
    pub(crate) glimpse: Glimpse,
    /// What the operator should know about what they wrote, for the log.
    pub(crate) warnings: Vec<String>,
}

/// Where options are written.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sources {
    /// Files, in order: a later one wins.
    pub(crate) files: Vec<PathBuf>,
    /// Folders whose `*.conf` files are read after those, in the order of their names.
    pub(crate) dirs: Vec<PathBuf>,
    /// Wins over `[glimpse] data_dir`.
    pub(crate) data_dir: Option<PathBuf>,
    /// Turns `[DEFAULT] debug` on.
    pub(crate) debug: bool,
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
        group: &'static str,
        /// The option's name.
        name: &'static str,
        /// What would be right. Never repeats the value, which may be a secret.
        message: String,
    },
}

/// What was written, until the option groups have taken their part.
pub(crate) struct Written {
    entries: Vec<(ini::Entry, PathBuf)>,
    environment: fn(&str) -> Option<String>,
}

impl Written {
    /// Takes an option's value: the environment's `OS_<GROUP>__<NAME>` if that is set, else the last one written.
    fn take<T: OptionValue>(&mut self, group: &'static str, name: &'static str) -> Result<Option<T>, ConfigError> {
        let is_it = |entry: &ini::Entry| entry.group == group && entry.name == name;
        let last = self.entries.iter().rev().find(|(entry, _)| is_it(entry)).cloned();
        self.entries.retain(|(entry, _)| !is_it(entry));
        let variable = format!("OS_{}__{}", group.to_uppercase(), name.to_uppercase());
        let (text, place) = match ((self.environment)(&variable), last) {
            (Some(text), _) => (text, variable),
            (None, Some((entry, path))) => (entry.value, format!("{}:{}", path.display(), entry.line)),
            (None, None) => return Ok(None),
        };
        T::parse(&text).map(Some).map_err(|message| ConfigError::Value { place, group, name, message })
    }
}

impl Config {
    /// Reads the sources.
    ///
    /// # Errors
    /// The first file, line or value that is wrong.
    pub(crate) fn load(sources: &Sources) -> Result<Self, ConfigError> {
        let mut files = sources.files.clone();
        for dir in &sources.dirs {
            files.extend(conf_files(dir)?);
        }
        let mut entries = Vec::new();
        for path in &files {
            let text = fs::read_to_string(path).map_err(|source| ConfigError::File { path: path.clone(), source })?;
            let parsed = ini::parse(&text).map_err(|error| ConfigError::Syntax {
                place: format!("{}:{}", path.display(), error.line),
                message: error.message,
            })?;
            entries.extend(parsed.into_iter().map(|entry| (entry, path.clone())));
        }
        let mut written = Written { entries, environment: |name| std::env::var(name).ok() };
        let mut config = Self {
            default: DefaultGroup::read(&mut written)?,
            database: Database::read(&mut written)?,
            keystone_authtoken: KeystoneAuthtoken::read(&mut written)?,
            auth: Auth::Standalone,
            image_format: ImageFormat::read(&mut written)?,
            glimpse: Glimpse::read(&mut written)?,
            warnings: Vec::new(),
        };
        config.default.debug |= sources.debug;
        if let Some(data_dir) = &sources.data_dir {
            config.glimpse.data_dir.clone_from(data_dir);
        }
        let paste = PasteDeploy::read(&mut written)?;
        config.warnings = written.entries.iter().map(|(entry, path)| unknown(entry, path)).collect();
        for name in config.database.connection.iter().flat_map(|url| &url.ignored) {
            config.warnings.push(format!("[database] connection: Glimpse does not act on the parameter {name}"));
        }
        let folders = files.iter().filter_map(|file| file.parent()).map(Path::to_owned).collect::<Vec<_>>();
        let pipeline = paste::pipeline(&paste, &folders)?;
        config.auth = config.glimpse.auth.or(pipeline.as_ref().map(|pipeline| pipeline.auth)).unwrap_or_default();
        config.warnings.extend(pipeline.into_iter().flat_map(|pipeline| pipeline.warnings));
        Ok(config)
    }

    /// The address to listen on: Glance's default where Keystone asks who comes in, else loopback.
    pub(crate) fn bind_host(&self) -> &str {
        let default = if self.auth == Auth::Keystone { "0.0.0.0" } else { "127.0.0.1" };
        self.default.bind_host.as_deref().unwrap_or(default)
    }

    /// The groups in which this is not what a running server has, but for what it takes up while it runs.
    pub(crate) fn groups_that_differ(&self, running: &Self) -> Vec<&'static str> {
        let differs = |a: &dyn fmt::Debug, b: &dyn fmt::Debug| format!("{a:?}") != format!("{b:?}");
        let same_debug = DefaultGroup { debug: running.default.debug, ..self.default.clone() };
        let groups = [
            ("[DEFAULT]", differs(&same_debug, &running.default)),
            ("[database]", differs(&self.database, &running.database)),
            (
                "[keystone_authtoken]",
                self.keystone_authtoken.password != running.keystone_authtoken.password
                    || differs(&self.keystone_authtoken, &running.keystone_authtoken),
            ),
            ("[image_format]", differs(&self.image_format, &running.image_format)),
            ("[glimpse] and [paste_deploy]", differs(&self.glimpse, &running.glimpse) || self.auth != running.auth),
        ];
        groups.into_iter().filter(|(_, differs)| *differs).map(|(group, _)| group).collect()
    }

    /// Where clients reach this service, as far as the configuration says. Without a slash at its end.
    pub(crate) fn endpoint(&self) -> String {
        if let Some(endpoint) = &self.default.public_endpoint {
            return endpoint.trim_end_matches('/').to_owned();
        }
        let host = self.bind_host();
        let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        format!("http://{host}:{}", self.default.bind_port)
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
        if path.extension().is_some_and(|extension| extension == "conf") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Every option that Glimpse acts on: group and name.
fn known() -> impl Iterator<Item = &'static (&'static str, &'static str)> {
    let groups = [
        DefaultGroup::NAMES,
        Database::NAMES,
        KeystoneAuthtoken::NAMES,
        PasteDeploy::NAMES,
        ImageFormat::NAMES,
        Glimpse::NAMES,
    ];
    groups.into_iter().flatten()
}

/// What to tell about an option that Glimpse does not act on.
fn unknown(entry: &ini::Entry, path: &Path) -> String {
    let elsewhere = known().find(|(_, name)| *name == entry.name);
    let hint = elsewhere.map(|(group, _)| format!("; it is an option of [{group}]")).unwrap_or_default();
    format!("{}:{}: Glimpse does not act on [{}] {}{hint}", path.display(), entry.line, entry.group, entry.name)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{Config, Sources};

    fn load(text: &str) -> Result<Config, String> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("glance-api.conf");
        fs::write(&file, text).unwrap();
        Config::load(&Sources { files: vec![file], ..Sources::default() }).map_err(|error| error.to_string())
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
    fn an_option_that_is_not_acted_on_is_told_by_name() {
        let config = load("[DEFAULT]\nno_such_option = 1\n[glimpse]\nbind_port = 1\n").unwrap();
        assert_eq!(config.warnings.len(), 2);
        assert!(config.warnings[0].contains("[DEFAULT] no_such_option"), "{:?}", config.warnings);
        assert!(config.warnings[1].contains("it is an option of [DEFAULT]"), "{:?}", config.warnings);
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
        let with_default_host = |mut config: Config| {
            config.default.bind_host = None;
            format!("{config:?}")
        };
        assert_eq!(config.default.bind_host.as_deref(), Some(Config::default().bind_host()));
        assert_eq!(with_default_host(config), with_default_host(Config::default()));
        let in_sample = |name: &str| sample.lines().any(|line| line.starts_with(&format!("#{name} =")));
        assert_eq!(super::known().map(|(_, name)| *name).filter(|name| !in_sample(name)).collect::<Vec<_>>(), [""; 0]);
    }
}
