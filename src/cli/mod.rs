//! The command line.

mod configuration;
mod database;
mod glance;
mod identity;
mod policy;
mod serve;
mod status;

use std::{
    path::PathBuf,
    process::ExitCode,
    sync::atomic::{AtomicUsize, Ordering},
};

use clap::{
    Args, Parser, Subcommand,
    builder::{PathBufValueParser, TypedValueParser},
};

use crate::config::{Config, Source, Sources};

/// The OpenStack Image service (Glance, Image API v2) as one program.
///
/// Without a configuration, `glimpse` starts on an SQLite database in ./glimpse-data, listens on 127.0.0.1:9292, and at
/// its first start shows how to log in.
#[derive(Debug, Parser)]
#[command(name = "glimpse", version, max_term_width = 100)]
struct CommandLine {
    #[command(flatten)]
    sources: SourceArguments,

    #[command(subcommand)]
    command: Option<Command>,
}

/// Where options are written.
#[derive(Debug, Args)]
struct SourceArguments {
    /// A configuration file in Glance's format; may be repeated, a later one wins [default: Glance's own in /etc/glance,
    /// or in the folder that OS_GLANCE_CONFIG_DIR names, if they exist]
    #[arg(long, value_name = "FILE", global = true, value_parser = placed())]
    config_file: Vec<Placed>,

    /// A folder whose *.conf files are read in the order of their names; may be repeated. Files and folders are read in the
    /// order in which they are named [default: Glance's own, in the same place]
    #[arg(long, value_name = "DIR", global = true, value_parser = placed())]
    config_dir: Vec<Placed>,

    /// Where the embedded database and the users are [default: ./glimpse-data]
    #[arg(long, value_name = "DIR", global = true, env = "GLIMPSE_DATA_DIR")]
    data_dir: Option<PathBuf>,
}

/// A path, and how many came before it: of two arguments, clap does not tell which came first.
#[derive(Debug, Clone)]
struct Placed {
    before: usize,
    path: PathBuf,
}

fn placed() -> impl TypedValueParser<Value = Placed> {
    static BEFORE: AtomicUsize = AtomicUsize::new(0);
    PathBufValueParser::new().map(|path| Placed { before: BEFORE.fetch_add(1, Ordering::Relaxed), path })
}

impl From<SourceArguments> for Sources {
    fn from(arguments: SourceArguments) -> Self {
        let files = arguments.config_file.into_iter().map(|file| (file.before, Source::File(file.path)));
        let dirs = arguments.config_dir.into_iter().map(|dir| (dir.before, Source::Dir(dir.path)));
        let mut places: Vec<_> = files.chain(dirs).collect();
        places.sort_by_key(|(before, _)| *before);
        let places = places.into_iter().map(|(_, place)| place).collect();
        Self { places, data_dir: arguments.data_dir, overrides: Vec::new() }.or_glances()
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve the API (what `glimpse` alone does too)
    Serve,
    /// Prepare or look at the database's schema
    #[command(subcommand)]
    Db(database::Command),
    /// Look at the configuration without starting
    #[command(subcommand)]
    Config(configuration::Command),
    /// Show the rules of who may do what, and try them
    #[command(subcommand)]
    Policy(policy::Command),
    /// Show and change the users of a server that stands alone
    #[command(subcommand)]
    Identity(identity::Command),
}

/// What ends a command, told on standard error.
type CommandResult = Result<ExitCode, Box<dyn std::error::Error>>;

/// Runs the program.
#[must_use]
#[expect(clippy::print_stderr, reason = "this is what a command's user sees")]
pub fn main() -> ExitCode {
    let program = std::env::args().next().unwrap_or_default();
    let done = match glance::Name::of(&program) {
        Some(name) => name.run(),
        None => run(CommandLine::parse()),
    };
    done.unwrap_or_else(|error| {
        eprintln!("glimpse: {error}");
        ExitCode::FAILURE
    })
}

fn run(arguments: CommandLine) -> CommandResult {
    let sources: Sources = arguments.sources.into();
    match arguments.command.unwrap_or(Command::Serve) {
        Command::Config(command) => configuration::run(&sources, command),
        Command::Serve => serve::run(sources),
        Command::Db(command) => database::run(&Config::load(&sources)?, command),
        Command::Policy(command) => policy::run(&Config::load(&sources)?, command),
        Command::Identity(command) => identity::run(&Config::load(&sources)?, command),
    }
}
