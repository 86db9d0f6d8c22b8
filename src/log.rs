//! The log, as text for people or one JSON object a line: on standard error, or where the configuration says, which may be a
//! file, the system's log and its journal at once.
//!
//! `RUST_LOG` overrides the levels, for whoever hunts a fault.

use std::{
    fs::{File, OpenOptions},
    io::{self, IsTerminal as _, Write},
    os::unix::net::UnixDatagram,
    panic,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use tracing::{Level, Metadata};
use tracing_subscriber::{
    EnvFilter, Registry,
    fmt::{self, MakeWriter},
    prelude::*,
    reload,
};

use crate::config::{Config, DefaultGroup, LogFormat};

/// What the system's log knows the program by.
const NAME: &str = "glimpse";
const SYSLOG: &str = "/dev/log";
const JOURNAL: &str = "/run/systemd/journal/socket";

/// Changes the filter of the running log.
static FILTER: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();

/// Starts the log. Events before this are lost.
///
/// # Errors
/// Where there is nobody to write to.
pub(crate) fn start(config: &Config) -> io::Result<()> {
    let (filter, handle) = reload::Layer::new(filter(config));
    let outputs = Outputs::open(&config.default)?;
    let is_terminal = outputs.0.is_empty() && io::stderr().is_terminal();
    let lines = fmt::layer().with_writer(outputs).with_ansi(is_terminal);
    let lines = match config.glimpse.log_format {
        LogFormat::Text => lines.with_target(false).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    tracing_subscriber::registry().with(filter).with(lines).init();
    // The first log is the one that writes.
    let _ = FILTER.set(handle);
    // A panic is a line of the log like any other, with the request that it is about.
    panic::set_hook(Box::new(|panic| {
        let message = panic.payload_as_str().unwrap_or("no message");
        tracing::error!(place = panic.location().map(tracing::field::display), "panic: {message}");
    }));
    Ok(())
}

/// Takes up a changed level.
pub(crate) fn reload(config: &Config) {
    if let Some(handle) = FILTER.get()
        && let Err(error) = handle.reload(filter(config))
    {
        tracing::error!(%error, "the log's level cannot be changed");
    }
}

fn filter(config: &Config) -> EnvFilter {
    let level = if config.default.debug { "debug" } else { "info" };
    // sqlx tells of every statement at debug; that is a fault hunter's wish, not a developer's.
    EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(format!("{level},sqlx=warn")))
}

/// Where the log's file is, if it has one: `log_file`, in `log_dir` if that is set; with `log_dir` alone, named like the
/// program.
fn file(options: &DefaultGroup) -> Option<PathBuf> {
    match (&options.log_dir, &options.log_file) {
        (None, None) => None,
        (None, Some(file)) => Some(file.clone()),
        (Some(dir), Some(file)) => Some(dir.join(file)),
        (Some(dir), None) => Some(dir.join(NAME).with_extension("log")),
    }
}

/// Where lines go; none is standard error.
struct Outputs(Vec<Output>);

enum Output {
    File(File),
    Syslog(UnixDatagram),
    Journal(UnixDatagram),
}

impl Outputs {
    fn open(options: &DefaultGroup) -> io::Result<Self> {
        let mut outputs = Vec::new();
        if let Some(path) = file(options) {
            let file = OpenOptions::new().create(true).append(true).open(&path).map_err(|error| at(&path, &error))?;
            outputs.push(Output::File(file));
        }
        if options.use_journal {
            outputs.push(Output::Journal(connect(Path::new(JOURNAL))?));
        }
        if options.use_syslog {
            outputs.push(Output::Syslog(connect(Path::new(SYSLOG))?));
        }
        Ok(Self(outputs))
    }
}

fn connect(path: &Path) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.connect(path).map_err(|error| at(path, &error))?;
    // A log that nobody takes from must not hold up the server.
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn at(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot write the log to {}: {error}", path.display()))
}

impl<'a> MakeWriter<'a> for Outputs {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line { outputs: &self.0, level: Level::INFO }
    }

    fn make_writer_for(&'a self, metadata: &Metadata<'_>) -> Line<'a> {
        Line { outputs: &self.0, level: *metadata.level() }
    }
}

/// Writes one event, which comes whole.
struct Line<'a> {
    outputs: &'a [Output],
    level: Level,
}

impl Write for Line<'_> {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        if self.outputs.is_empty() {
            io::stderr().write_all(event)?;
        }
        for output in self.outputs {
            output.write(event, self.level)?;
        }
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Output {
    fn write(&self, event: &[u8], level: Level) -> io::Result<()> {
        let text = event.strip_suffix(b"\n").unwrap_or(event);
        let severity = match level {
            Level::ERROR => 3,
            Level::WARN => 4,
            Level::INFO => 6,
            _ => 7,
        };
        match self {
            Self::File(file) => (&*file).write_all(event),
            Self::Syslog(socket) => {
                // The facility is LOG_USER.
                let priority = 8 + severity;
                let head = format!("<{priority}>{NAME}[{}]: ", std::process::id());
                socket.send(&[head.as_bytes(), text].concat()).map(|_| ())
            }
            Self::Journal(socket) => {
                // A value with its length before it may have line ends in it.
                let head = format!("PRIORITY={severity}\nSYSLOG_IDENTIFIER={NAME}\nMESSAGE\n");
                let length = (text.len() as u64).to_le_bytes();
                socket.send(&[head.as_bytes(), &length, text, b"\n"].concat()).map(|_| ())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Write as _, os::unix::net::UnixDatagram, path::Path};

    use tracing::Level;

    use super::{Line, Output, connect, file};
    use crate::config::DefaultGroup;

    fn sent(output: fn(UnixDatagram) -> Output) -> Vec<u8> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let daemon = UnixDatagram::bind(&path).unwrap();
        let outputs = [output(connect(&path).unwrap())];
        Line { outputs: &outputs, level: Level::WARN }.write_all(b"two\nlines\n").unwrap();
        let mut datagram = [0; 1024];
        let length = daemon.recv(&mut datagram).unwrap();
        datagram[..length].to_vec()
    }

    #[test]
    fn the_systems_log_gets_a_line_with_its_priority() {
        let line = String::from_utf8(sent(Output::Syslog)).unwrap();
        assert_eq!(line, format!("<12>glimpse[{}]: two\nlines", std::process::id()));
    }

    #[test]
    fn the_journal_gets_fields() {
        let expected = b"PRIORITY=4\nSYSLOG_IDENTIFIER=glimpse\nMESSAGE\n\x09\0\0\0\0\0\0\0two\nlines\n";
        assert_eq!(sent(Output::Journal), expected);
    }

    #[test]
    fn the_file_is_where_oslo_has_it() {
        let options = |dir: Option<&str>, file: Option<&str>| DefaultGroup {
            log_dir: dir.map(Into::into),
            log_file: file.map(Into::into),
            ..DefaultGroup::default()
        };
        assert_eq!(file(&options(None, None)), None);
        assert_eq!(file(&options(None, Some("a.log"))).as_deref(), Some(Path::new("a.log")));
        assert_eq!(file(&options(Some("/d"), Some("a.log"))).as_deref(), Some(Path::new("/d/a.log")));
        assert_eq!(file(&options(Some("/d"), Some("/a.log"))).as_deref(), Some(Path::new("/a.log")));
        assert_eq!(file(&options(Some("/d"), None)).as_deref(), Some(Path::new("/d/glimpse.log")));
    }
}
