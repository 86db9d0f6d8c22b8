//! The command line.

mod configuration;
mod database;
mod identity;
mod serve;

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};

use crate::config::{Config, Sources};

/// The OpenStack Image service (Glance, Image API v2) as one program.
///
/// Without a configuration, `glimpse` starts on an SQLite database in ./glimpse-data, listens on 127.0.0.1:9292, and at
/// its first start shows how to log in.
#[derive(Debug, Parser)]
#[command(name = "glimpse", version, max_term_width = 100)]
struct CommandLine {
    /// A configuration file in Glance's format; may be repeated, a later one wins [default: Glance's own in /etc/glance,
    /// or in the folder that OS_GLANCE_CONFIG_DIR names, if they exist]
    #[arg(long, value_name = "FILE", global = true)]
    config_file: Vec<PathBuf>,

    /// A folder whose *.conf files are read after the files, in the order of their names; may be repeated
    #[arg(long, value_name = "DIR", global = true)]
    config_dir: Vec<PathBuf>,

    /// Where the embedded database and the users are [default: ./glimpse-data]
    #[arg(long, value_name = "DIR", global = true, env = "GLIMPSE_DATA_DIR")]
    data_dir: Option<PathBuf>,

    #[command(subcommand)]
    command: Option<Command>,
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
    let arguments = CommandLine::parse();
    let sources = Sources { files: arguments.config_file, dirs: arguments.config_dir, data_dir: arguments.data_dir };
    let sources = sources.or_glances();
    let config = || Config::load(&sources);
    let done = match arguments.command.unwrap_or(Command::Serve) {
        Command::Config(command) => configuration::run(&sources, command),
        Command::Serve => config().map_err(Into::into).and_then(serve::run),
        Command::Db(command) => config().map_err(Into::into).and_then(|config| database::run(&config, command)),
        Command::Identity(command) => config().map_err(Into::into).and_then(|config| identity::run(&config, command)),
    };
    done.unwrap_or_else(|error| {
        eprintln!("glimpse: {error}");
        ExitCode::FAILURE
    })
}
