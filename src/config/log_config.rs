//! `[DEFAULT] log_config_append`: a configuration file of Python's `logging` module. Its level and handlers have an effect.

use std::path::{Path, PathBuf};

use super::{ConfigError, configparser, default::DefaultGroup, ini};

/// The name of Glance's logger.
const LOGGER: &str = "glance";

/// The settings of the file that have an effect.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct LogConfig {
    /// The level of Glance's logger.
    pub(super) level: Option<LogLevel>,
    file: Option<PathBuf>,
    use_syslog: bool,
    use_journal: bool,
    /// One warning for each handler that Glimpse has no counterpart for.
    pub(super) warnings: Vec<String>,
}

/// The lowest level of the lines in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LogLevel {
    Debug,
    Info,
    Warn,
    Error,
}

impl LogLevel {
    /// The level by its name in Python.
    fn from_python(name: &str) -> Option<Self> {
        Some(match name {
            "TRACE" | "DEBUG" => Self::Debug,
            "INFO" | "AUDIT" => Self::Info,
            "WARN" | "WARNING" => Self::Warn,
            "ERROR" | "CRITICAL" | "FATAL" => Self::Error,
            _ => return None,
        })
    }

    /// The level by its name in a log filter.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
        }
    }
}

impl LogConfig {
    /// Reads the file.
    ///
    /// # Errors
    /// The file cannot be read, or a line is not in the dialect.
    pub(super) fn read(path: &Path) -> Result<Self, ConfigError> {
        let entries = configparser::read(path)?;
        let file = File(&entries);
        let loggers = file.list("loggers");
        let mut own = loggers.iter().map(|key| format!("logger_{key}"));
        let own = own.find(|section| file.value(section, "qualname") == Some(LOGGER));
        let sections = own.iter().map(String::as_str).chain(["logger_root"]);
        let level = |section| file.value(section, "level").and_then(LogLevel::from_python);
        let mut config = Self { level: sections.clone().find_map(level), ..Self::default() };
        for section in sections {
            for handler in file.value(section, "handlers").unwrap_or_default().split(',').map(str::trim) {
                if !handler.is_empty() {
                    config.add_handler(&file, path, handler);
                }
            }
            if file.value(section, "propagate") == Some("0") {
                break;
            }
        }
        Ok(config)
    }

    fn add_handler(&mut self, file: &File<'_>, path: &Path, handler: &str) {
        let section = format!("handler_{handler}");
        let class = file.value(&section, "class").unwrap_or_default();
        match class.rsplit('.').next().unwrap_or_default() {
            "StreamHandler" | "NullHandler" => {}
            "FileHandler" | "WatchedFileHandler" | "RotatingFileHandler" | "TimedRotatingFileHandler" => {
                self.file = file.value(&section, "args").and_then(first_text).map(PathBuf::from);
            }
            "SysLogHandler" | "OSSysLogHandler" => self.use_syslog = true,
            "JournalHandler" | "JournaldLogHandler" | "OSJournalHandler" => self.use_journal = true,
            _ => self.warnings.push(format!(
                "{}: Glimpse has no counterpart for the class {class:?} of the handler {handler}",
                path.display()
            )),
        }
    }

    /// Replaces the options of log outputs, as oslo.log does.
    pub(super) fn apply(&self, options: &mut DefaultGroup) {
        options.log_dir = None;
        options.log_file.clone_from(&self.file);
        options.use_syslog = self.use_syslog;
        options.use_journal = self.use_journal;
    }
}

struct File<'e>(&'e [ini::Entry]);

impl<'e> File<'e> {
    fn value(&self, section: &str, name: &str) -> Option<&'e str> {
        // Option names are not case-sensitive in Python's configparser.
        let is_it = |entry: &&ini::Entry| entry.group == section && entry.name.eq_ignore_ascii_case(name);
        self.0.iter().rfind(is_it).map(|entry| entry.value.expose())
    }

    fn list(&self, section: &str) -> Vec<&'e str> {
        self.value(section, "keys").unwrap_or_default().split(',').map(str::trim).collect()
    }
}

/// The first string in the arguments of a handler, which are a tuple in Python's notation.
fn first_text(arguments: &str) -> Option<&str> {
    let at = arguments.find(['\'', '"'])?;
    let quote = arguments[at..].chars().next()?;
    arguments[at + 1..].split(quote).next()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{DefaultGroup, LogConfig, LogLevel};

    fn read(text: &str) -> LogConfig {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("logging.conf");
        std::fs::write(&path, text).unwrap();
        LogConfig::read(&path).unwrap()
    }

    /// Like etc/logging.cnf.sample of OpenStack's services.
    const SAMPLE: &str = "[loggers]\nkeys = root, glance\n[handlers]\nkeys = stderr, file, syslog, mail\n\
        [logger_root]\nlevel = WARNING\nhandlers = stderr, mail\n\
        [logger_glance]\nlevel = DEBUG\nhandlers = file, syslog\nqualname = glance\n\
        [handler_stderr]\nclass = StreamHandler\nargs = (sys.stderr,)\n\
        [handler_file]\nclass = handlers.WatchedFileHandler\nargs = ('/var/log/glance/api.log', 'a')\n\
        [handler_syslog]\nclass = handlers.SysLogHandler\nargs = ('/dev/log', handlers.SysLogHandler.LOG_USER)\n\
        [handler_mail]\nclass = handlers.SMTPHandler\n";

    #[test]
    fn the_level_and_the_handlers_of_glances_logger_apply() {
        let config = read(SAMPLE);
        assert_eq!(config.level, Some(LogLevel::Debug));
        let mut options = DefaultGroup { log_dir: Some("/d".into()), use_journal: true, ..DefaultGroup::default() };
        config.apply(&mut options);
        assert_eq!(options.log_file.as_deref(), Some(Path::new("/var/log/glance/api.log")));
        assert_eq!((options.log_dir, options.use_syslog, options.use_journal), (None, true, false));
        assert!(matches!(&config.warnings[..], [one] if one.contains("handlers.SMTPHandler")), "{:?}", config.warnings);
    }

    #[test]
    fn the_root_logger_applies_if_glance_has_none() {
        let config = read(&SAMPLE.replace("qualname = glance", "qualname = other"));
        assert_eq!((config.level, config.file, config.use_syslog), (Some(LogLevel::Warn), None, false));
        let alone = read(&SAMPLE.replace("qualname = glance", "qualname = glance\npropagate = 0"));
        assert_eq!(alone.warnings, [""; 0]);
    }
}
