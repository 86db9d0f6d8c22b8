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
    sync::{Arc, OnceLock},
};

use arc_swap::ArcSwapOption;
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
/// Where the running log goes.
static OUTPUTS: OnceLock<Outputs> = OnceLock::new();

/// Starts the log. Events before this are lost. The system's log and its journal may come later: without them it starts all the
/// same.
///
/// # Errors
/// A file that cannot be written.
pub(crate) fn start(config: &Config) -> io::Result<()> {
    let (filter, handle) = reload::Layer::new(filter(config));
    let (outputs, missing) = Outputs::open(&config.default)?;
    let outputs = OUTPUTS.get_or_init(|| outputs);
    let is_terminal = outputs.0.is_empty() && io::stderr().is_terminal();
    let lines = fmt::layer().with_writer(Writer(outputs)).with_ansi(is_terminal);
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
    for error in missing {
        tracing::warn!("{error}; SIGHUP tries again");
    }
    Ok(())
}

/// Takes up a changed level, and opens every output again: the file may have been moved away, another one is made then.
pub(crate) fn reload(config: &Config) {
    for output in OUTPUTS.get().into_iter().flat_map(|outputs| &outputs.0) {
        if let Err(error) = output.open() {
            tracing::error!("{error}");
        }
    }
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

/// One place where lines go.
struct Output {
    kind: Kind,
    path: PathBuf,
    /// What lines are written to, unless it could not be opened.
    sink: ArcSwapOption<Sink>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    File,
    Syslog,
    Journal,
}

enum Sink {
    File(File),
    Socket(UnixDatagram),
}

impl Outputs {
    /// Opens them all, and tells which could not be, where that is no error.
    fn open(options: &DefaultGroup) -> io::Result<(Self, Vec<io::Error>)> {
        let (mut outputs, mut missing) = (Vec::new(), Vec::new());
        if let Some(path) = file(options) {
            let output = Output::new(Kind::File, path);
            output.open()?;
            outputs.push(output);
        }
        for (wanted, kind, path) in
            [(options.use_journal, Kind::Journal, JOURNAL), (options.use_syslog, Kind::Syslog, SYSLOG)]
        {
            if wanted {
                let output = Output::new(kind, path.into());
                missing.extend(output.open().err());
                outputs.push(output);
            }
        }
        Ok((Self(outputs), missing))
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

/// Gives the log a line to write, for each event.
struct Writer(&'static Outputs);

impl<'a> MakeWriter<'a> for Writer {
    type Writer = Line<'static>;

    fn make_writer(&'a self) -> Line<'static> {
        Line { outputs: &self.0.0, level: Level::INFO }
    }

    fn make_writer_for(&'a self, metadata: &Metadata<'_>) -> Line<'static> {
        Line { outputs: &self.0.0, level: *metadata.level() }
    }
}

/// Writes one event, which comes whole.
struct Line<'a> {
    outputs: &'a [Output],
    level: Level,
}

impl Write for Line<'_> {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        // One that is broken must not silence the others; a line that none of them takes is for whoever started us.
        let mut written = false;
        for output in self.outputs {
            written |= output.write(event, self.level).is_ok();
        }
        if !written {
            io::stderr().write_all(event)?;
        }
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Output {
    fn new(kind: Kind, path: PathBuf) -> Self {
        Self { kind, path, sink: ArcSwapOption::empty() }
    }

    /// Opens it, again if it was open; what was open stays where that fails.
    fn open(&self) -> io::Result<()> {
        let sink = match self.kind {
            Kind::File => {
                let file = OpenOptions::new().create(true).append(true).open(&self.path);
                Sink::File(file.map_err(|error| at(&self.path, &error))?)
            }
            Kind::Syslog | Kind::Journal => Sink::Socket(connect(&self.path)?),
        };
        self.sink.store(Some(Arc::new(sink)));
        Ok(())
    }

    fn write(&self, event: &[u8], level: Level) -> io::Result<()> {
        let text = event.strip_suffix(b"\n").unwrap_or(event);
        let severity = match level {
            Level::ERROR => 3,
            Level::WARN => 4,
            Level::INFO => 6,
            _ => 7,
        };
        let sink = self.sink.load();
        match (sink.as_deref(), self.kind) {
            (None, _) => Err(io::ErrorKind::NotConnected.into()),
            (Some(Sink::File(file)), _) => (&*file).write_all(event),
            (Some(Sink::Socket(socket)), Kind::Journal) => {
                // A value with its length before it may have line ends in it.
                let head = format!("PRIORITY={severity}\nSYSLOG_IDENTIFIER={NAME}\nMESSAGE\n");
                let length = (text.len() as u64).to_le_bytes();
                socket.send(&[head.as_bytes(), &length, text, b"\n"].concat()).map(|_| ())
            }
            (Some(Sink::Socket(socket)), _) => {
                // The facility is LOG_USER.
                let priority = 8 + severity;
                let head = format!("<{priority}>{NAME}[{}]: ", std::process::id());
                socket.send(&[head.as_bytes(), text].concat()).map(|_| ())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Write as _, os::unix::net::UnixDatagram, path::Path};

    use tracing::Level;

    use super::{Kind, Line, Output, file};
    use crate::config::DefaultGroup;

    fn sent(kind: Kind) -> Vec<u8> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let daemon = UnixDatagram::bind(&path).unwrap();
        // Beside one that there is not.
        let outputs = [Output::new(Kind::Syslog, dir.path().join("none")), Output::new(kind, path)];
        assert!(outputs[0].open().is_err());
        outputs[1].open().unwrap();
        Line { outputs: &outputs, level: Level::WARN }.write_all(b"two\nlines\n").unwrap();
        let mut datagram = [0; 1024];
        let length = daemon.recv(&mut datagram).unwrap();
        datagram[..length].to_vec()
    }

    #[test]
    fn the_systems_log_gets_a_line_with_its_priority() {
        let line = String::from_utf8(sent(Kind::Syslog)).unwrap();
        assert_eq!(line, format!("<12>glimpse[{}]: two\nlines", std::process::id()));
    }

    #[test]
    fn the_journal_gets_fields() {
        let expected = b"PRIORITY=4\nSYSLOG_IDENTIFIER=glimpse\nMESSAGE\n\x09\0\0\0\0\0\0\0two\nlines\n";
        assert_eq!(sent(Kind::Journal), expected);
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
