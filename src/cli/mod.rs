//! The command line: `glimpse` and its subcommands, and Glance's commands by their names.

mod cache;
mod cache_manage;
mod configuration;
mod database;
mod documents;
mod glance;
mod identity;
mod metadefs;
mod policy;
mod schema;
mod serve;
mod status;

use std::{
    io,
    path::PathBuf,
    process::ExitCode,
    sync::atomic::{AtomicUsize, Ordering},
};

use clap::{
    Args, CommandFactory as _, Parser, Subcommand,
    builder::{PathBufValueParser, TypedValueParser},
};
use clap_complete::Shell;
use rustix::{fs::Mode, process::umask};

use crate::{
    config::{Config, Source, Sources},
    log,
};

const EXAMPLES: &str = "\
Examples:
  glimpse                                  Start a server with users of its own, in ./glimpse-data
  glimpse serve --port 9393                Start it on another port
  glimpse identity add ann --project web   Add a user, and print its credentials
  glimpse config check                     Check the configuration in /etc/glance
  glimpse --config-file FILE db sync       Create or upgrade the database that FILE names
  glimpse completions bash > ~/.local/share/bash-completion/completions/glimpse";

/// The OpenStack Image service (Glance, Image API v2) in a single program.
///
/// Without a configuration, `glimpse` uses an SQLite database in ./glimpse-data and listens on 127.0.0.1:9292. The first start
/// creates two users and prints their credentials.
#[derive(Debug, Parser)]
#[command(name = "glimpse", version, max_term_width = 100, after_help = EXAMPLES)]
struct CommandLine {
    #[command(flatten)]
    sources: SourceArguments,

    #[command(subcommand)]
    command: Option<Command>,
}

/// The arguments that name the sources of the configuration.
#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
struct SourceArguments {
    /// Read options from this file, which is in Glance's format. Can be repeated; later files override earlier ones
    /// [default: glance-image-import.conf and glance-api.conf, as far as they exist, in /etc/glance or in the directory
    /// that OS_GLANCE_CONFIG_DIR names]
    #[arg(long, value_name = "FILE", global = true, value_parser = parse_positioned_path())]
    config_file: Vec<PositionedPath>,

    /// Read options from the *.conf files in this directory, in the order of their names. Can be repeated; files and
    /// directories are read in the order in which the command line names them [default: glance.conf.d and
    /// glance-api.conf.d, as far as they exist, in the same directory]
    #[arg(long, value_name = "DIR", global = true, value_parser = parse_positioned_path())]
    config_dir: Vec<PositionedPath>,

    /// The directory of the embedded database, its images and the users; overrides `[glimpse] data_dir`
    /// [default: ./glimpse-data]
    #[arg(long, value_name = "DIR", global = true, env = "GLIMPSE_DATA_DIR")]
    data_dir: Option<PathBuf>,
}

/// A path with its position among all paths on the command line. clap does not report the order of two different arguments.
#[derive(Debug, Clone)]
struct PositionedPath {
    position: usize,
    path: PathBuf,
}

fn parse_positioned_path() -> impl TypedValueParser<Value = PositionedPath> {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    PathBufValueParser::new().map(|path| PositionedPath { position: NEXT.fetch_add(1, Ordering::Relaxed), path })
}

impl From<SourceArguments> for Sources {
    fn from(arguments: SourceArguments) -> Self {
        let files = arguments.config_file.into_iter().map(|file| (file.position, Source::File(file.path)));
        let dirs = arguments.config_dir.into_iter().map(|dir| (dir.position, Source::Dir(dir.path)));
        let mut sources: Vec<_> = files.chain(dirs).collect();
        sources.sort_by_key(|(position, _)| *position);
        let files = sources.into_iter().map(|(_, source)| source).collect();
        Self { files, data_dir: arguments.data_dir, overrides: Vec::new() }.with_glance_files()
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the API server; this is also what `glimpse` without a command does
    Serve(serve::Arguments),
    /// Create or upgrade the database's schema, check it, and purge deleted rows
    #[command(subcommand)]
    Db(database::Arguments),
    /// Check or print the configuration, without starting the server
    #[command(subcommand)]
    Config(configuration::Command),
    /// Print the policy rules in force, or evaluate one of them
    #[command(subcommand)]
    Policy(policy::Command),
    /// Load, export or remove metadata definitions: which properties images, flavors and volumes can have
    #[command(subcommand)]
    Metadefs(metadefs::Arguments),
    /// List, prune, clean and fill the image cache of this machine
    #[command(subcommand)]
    Cache(cache::Command),
    /// Manage the users of a server that runs without Keystone (`[glimpse] auth = standalone`)
    #[command(subcommand)]
    Identity(identity::Command),
    /// Print the completion script of a shell
    ///
    /// Example: `glimpse completions bash > ~/.local/share/bash-completion/completions/glimpse`
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Print the manual page, or write those of all commands to a directory
    ///
    /// Example: `glimpse man | man -l -`
    Man {
        /// The directory, which must exist. Without it, the page of `glimpse` itself is printed
        directory: Option<PathBuf>,
    },
}

/// The exit code that a shell reports for a process that was killed by SIGPIPE.
const ENDED_BY_SIGPIPE: u8 = 128 + 13;

/// Sets the TLS library for all outbound connections. Without a default, each client would have to name one.
fn install_tls() -> Result<(), &'static str> {
    rustls::crypto::ring::default_provider().install_default().map_err(|_| "the TLS provider is installed already")
}

/// A command's exit code, or the error that `main` prints to standard error.
type CommandResult = Result<ExitCode, Box<dyn std::error::Error>>;

/// An error in the words of Glance, which prints it without its name.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct GlanceMessage(String);

/// Runs the command that the command line names, and returns the process's exit code.
#[must_use]
#[expect(clippy::print_stderr, reason = "the user of a command reads its error there")]
pub fn main() -> ExitCode {
    let _flush = FlushLog;
    restrict_new_files();
    let program = std::env::args().next().unwrap_or_default();
    let name = glance::Name::from_program(&program);
    let done = match name {
        Some(name) => name.run(&program),
        None => run(CommandLine::parse()),
    };
    done.unwrap_or_else(|error| {
        let is_closed = |error: &io::Error| error.kind() == io::ErrorKind::BrokenPipe;
        if error.downcast_ref().is_some_and(is_closed) {
            // The reader of the output, such as `head`, has all that it wants.
            return ExitCode::from(ENDED_BY_SIGPIPE);
        }
        log::flush();
        match name {
            Some(glance::Name::Manage) if error.is::<GlanceMessage>() => eprintln!("{error}"),
            Some(glance::Name::Manage) => eprintln!("ERROR: {error}"),
            _ => eprintln!("glimpse: {error}"),
        }
        ExitCode::FAILURE
    })
}

/// Denies other users access to every file and directory that this process creates: databases, images and logs. A umask that denies
/// more stays in force.
fn restrict_new_files() {
    let before = umask(Mode::RWXG | Mode::RWXO);
    umask(before | Mode::WGRP | Mode::RWXO);
}

/// Writes the remaining lines of the log when it is dropped, even while a panic ends the program.
struct FlushLog;

impl Drop for FlushLog {
    fn drop(&mut self) {
        log::flush();
    }
}

fn run(arguments: CommandLine) -> CommandResult {
    let sources: Sources = arguments.sources.into();
    match arguments.command.unwrap_or_else(|| Command::Serve(serve::Arguments::default())) {
        Command::Completions { shell } => documents::completions(CommandLine::command(), shell),
        Command::Man { directory } => documents::manual(CommandLine::command(), directory.as_deref()),
        Command::Config(command) => configuration::run(&sources, command),
        Command::Serve(arguments) => serve::run(Sources { overrides: arguments.overrides(), ..sources }),
        Command::Db(command) => database::run(&Config::load(&sources)?, command.into(), schema::Program::Glimpse),
        Command::Policy(command) => policy::run(&Config::load(&sources)?, command),
        Command::Metadefs(command) => metadefs::run(&Config::load(&sources)?, command.into(), schema::Program::Glimpse),
        Command::Cache(command) => cache::run(Config::load(&sources)?, command),
        Command::Identity(command) => identity::run(&Config::load(&sources)?, command),
    }
}
