//! The log: text lines or JSON lines, to standard error or to any combination of a file, syslog and the systemd journal.
//!
//! A thread of its own writes the lines, so that an output which blocks, such as a pipe that nobody reads, blocks no request.
//!
//! The environment variable `RUST_LOG` overrides the log levels, for debugging.

mod queue;

use std::{
    cell::Cell,
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

use self::queue::Queue;
use crate::config::{Config, DefaultGroup, LogFormat, LogLevel};

/// The program's name in syslog and the journal.
const NAME: &str = "glimpse";
const SYSLOG: &str = "/dev/log";
const JOURNAL: &str = "/run/systemd/journal/socket";

/// The maximum size of the lines that wait for the outputs, in bytes: several thousand lines.
const QUEUE_BYTES: usize = 4 * 1024 * 1024;

/// The handle that changes the filter of the running log.
static FILTER: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();
/// The outputs of the running log.
static OUTPUTS: OnceLock<Outputs> = OnceLock::new();
/// The lines that wait for the outputs.
static QUEUE: OnceLock<Queue> = OnceLock::new();

thread_local! {
    /// Whether this is the thread that writes the lines. Its own events do not go through the queue.
    static IS_WRITER: Cell<bool> = const { Cell::new(false) };
}

/// Starts the log. Events before this call are lost. If syslog or the journal is not available yet, the log starts without it.
///
/// # Errors
/// If the log file cannot be opened, or the thread that writes the lines cannot be started.
pub(crate) fn start(config: &Config) -> io::Result<()> {
    let (filter, handle) = reload::Layer::new(filter(config));
    let (outputs, missing) = Outputs::open(&config.default)?;
    let outputs = OUTPUTS.get_or_init(|| outputs);
    let write = |level, line: &[u8]| {
        IS_WRITER.set(true);
        outputs.write(level, line);
    };
    let report = |lines| {
        tracing::warn!(lines, "log lines were dropped, because the outputs of the log accepted none for a while")
    };
    let queue = Queue::start(QUEUE_BYTES, write, report)?;
    let queue = QUEUE.get_or_init(|| queue);
    let is_terminal = outputs.0.is_empty() && io::stderr().is_terminal();
    let lines = fmt::layer().with_writer(Writer { outputs, queue }).with_ansi(is_terminal);
    let lines = match config.glimpse.log_format {
        LogFormat::Text => lines.with_target(false).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    tracing_subscriber::registry().with(filter).with(lines).init();
    // If the log was started before, the first start wins.
    let _ = FILTER.set(handle);
    // A panic is logged like any other event, with the id of its request.
    panic::set_hook(Box::new(|panic| {
        let message = panic.payload_as_str().unwrap_or("no message");
        tracing::error!(place = panic.location().map(tracing::field::display), "panic: {message}");
    }));
    for error in missing {
        tracing::warn!("{error}; SIGHUP retries");
    }
    Ok(())
}

/// Waits until all lines are written. An output that accepts nothing is not waited for.
pub(crate) fn flush() {
    if let Some(queue) = QUEUE.get() {
        queue.flush();
    }
}

/// Applies a changed log level, and reopens every output. If the log file was moved away, for example by logrotate, a new one is
/// created.
pub(crate) fn reload(config: &Config) {
    for output in OUTPUTS.get().into_iter().flat_map(|outputs| &outputs.0) {
        if let Err(error) = output.open() {
            tracing::error!("{error}");
        }
    }
    if let Some(handle) = FILTER.get()
        && let Err(error) = handle.reload(filter(config))
    {
        tracing::error!(%error, "log level cannot be changed; the previous one stays in force");
    }
}

fn filter(config: &Config) -> EnvFilter {
    let level = if config.default.debug { "debug" } else { config.log_level.map_or("info", LogLevel::as_str) };
    // sqlx logs every statement at level debug. That is too much for `debug = true`; `RUST_LOG` can enable it.
    EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(format!("{level},sqlx=warn")))
}

/// The path of the log file, if one is configured: `log_file`, in `log_dir` if that is set. If only `log_dir` is set, the file is
/// `glimpse.log` in it.
fn file_path(options: &DefaultGroup) -> Option<PathBuf> {
    match (&options.log_dir, &options.log_file) {
        (None, None) => None,
        (None, Some(file)) => Some(file.clone()),
        (Some(dir), Some(file)) => Some(dir.join(file)),
        (Some(dir), None) => Some(dir.join(NAME).with_extension("log")),
    }
}

/// The outputs of the log. If there are none, lines go to standard error.
struct Outputs(Vec<Output>);

/// An output of the log.
struct Output {
    kind: Kind,
    path: PathBuf,
    /// The open file or socket; empty if it could not be opened.
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
    /// Opens all configured outputs. Also returns why syslog or the journal could not be opened, which is not an error.
    fn open(options: &DefaultGroup) -> io::Result<(Self, Vec<io::Error>)> {
        let (mut outputs, mut missing) = (Vec::new(), Vec::new());
        if let Some(path) = file_path(options) {
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

    /// Writes one event to all outputs. A failing output does not stop the others. If all fail, the line goes to standard error.
    fn write(&self, level: Level, event: &[u8]) {
        let mut written = false;
        for output in &self.0 {
            written |= output.write(event, level).is_ok();
        }
        if !written {
            // There is nowhere to report that standard error is closed.
            let _ = io::stderr().write_all(event);
        }
    }
}

fn connect(path: &Path) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.connect(path).map_err(|error| with_path(path, &error))?;
    // A log daemon that does not read must not block the server.
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// An error that names the output.
fn with_path(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot write the log to {}: {error}", path.display()))
}

/// Creates a [`Line`] for each event.
struct Writer {
    outputs: &'static Outputs,
    queue: &'static Queue,
}

impl<'a> MakeWriter<'a> for Writer {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line { writer: self, level: Level::INFO }
    }

    fn make_writer_for(&'a self, metadata: &Metadata<'_>) -> Line<'a> {
        Line { writer: self, level: *metadata.level() }
    }
}

/// Takes one event. The whole event arrives in a single call.
struct Line<'a> {
    writer: &'a Writer,
    level: Level,
}

impl Write for Line<'_> {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        if IS_WRITER.get() {
            self.writer.outputs.write(self.level, event);
        } else {
            self.writer.queue.push(self.level, event);
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

    /// Opens or reopens the output. If that fails, what was open before stays in use.
    fn open(&self) -> io::Result<()> {
        let sink = match self.kind {
            Kind::File => {
                let file = OpenOptions::new().create(true).append(true).open(&self.path);
                Sink::File(file.map_err(|error| with_path(&self.path, &error))?)
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
                // In the journal's protocol, a value can contain line breaks if its length precedes it.
                let head = format!("PRIORITY={severity}\nSYSLOG_IDENTIFIER={NAME}\nMESSAGE\n");
                let length = (text.len() as u64).to_le_bytes();
                socket.send(&[head.as_bytes(), &length, text, b"\n"].concat()).map(|_| ())
            }
            (Some(Sink::Socket(socket)), _) => {
                // 8 is the facility LOG_USER.
                let priority = 8 + severity;
                let head = format!("<{priority}>{NAME}[{}]: ", std::process::id());
                socket.send(&[head.as_bytes(), text].concat()).map(|_| ())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::net::UnixDatagram, path::Path};

    use tracing::Level;

    use super::{Kind, Output, Outputs, file_path};
    use crate::config::DefaultGroup;

    fn sent(kind: Kind) -> Vec<u8> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let daemon = UnixDatagram::bind(&path).unwrap();
        // The first output does not exist.
        let outputs = Outputs(vec![Output::new(Kind::Syslog, dir.path().join("none")), Output::new(kind, path)]);
        assert!(outputs.0[0].open().is_err());
        outputs.0[1].open().unwrap();
        outputs.write(Level::WARN, b"two\nlines\n");
        let mut datagram = [0; 1024];
        let length = daemon.recv(&mut datagram).unwrap();
        datagram[..length].to_vec()
    }

    #[test]
    fn syslog_gets_a_line_with_its_priority() {
        let line = String::from_utf8(sent(Kind::Syslog)).unwrap();
        assert_eq!(line, format!("<12>glimpse[{}]: two\nlines", std::process::id()));
    }

    #[test]
    fn the_journal_gets_fields_with_the_length_of_the_message() {
        let expected = b"PRIORITY=4\nSYSLOG_IDENTIFIER=glimpse\nMESSAGE\n\x09\0\0\0\0\0\0\0two\nlines\n";
        assert_eq!(sent(Kind::Journal), expected);
    }

    #[test]
    fn the_path_of_the_file_is_that_of_oslo_log() {
        let options = |dir: Option<&str>, file: Option<&str>| DefaultGroup {
            log_dir: dir.map(Into::into),
            log_file: file.map(Into::into),
            ..DefaultGroup::default()
        };
        assert_eq!(file_path(&options(None, None)), None);
        assert_eq!(file_path(&options(None, Some("a.log"))).as_deref(), Some(Path::new("a.log")));
        assert_eq!(file_path(&options(Some("/d"), Some("a.log"))).as_deref(), Some(Path::new("/d/a.log")));
        assert_eq!(file_path(&options(Some("/d"), Some("/a.log"))).as_deref(), Some(Path::new("/a.log")));
        assert_eq!(file_path(&options(Some("/d"), None)).as_deref(), Some(Path::new("/d/glimpse.log")));
    }
}
