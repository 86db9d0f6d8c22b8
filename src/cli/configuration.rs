//! `glimpse config …`: checks or prints the configuration without starting the server.

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use clap::Subcommand;

use super::CommandResult;
use crate::{
    app,
    config::{ConfigReport, Sources},
    policy::{Policy, protections::Protections},
};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Subcommand)]
pub(super) enum Command {
    /// Check the configuration and the policy files
    ///
    /// Prints the files that were read, the errors in them, stores that cannot be used, and a warning for each option that has no
    /// effect. The exit code is 0 if the configuration can be used, 1 if the server cannot start with it, and 4 if it can start,
    /// but the default store cannot be used. Directories are checked for the user who runs this command.
    ///
    /// Example: `sudo -u glance glimpse config check`
    Check {
        /// List the options that have no effect by design, instead of counting them
        #[arg(long, short)]
        verbose: bool,
    },
    /// Print the value of every option, without secrets, and where it is set
    ///
    /// The output has the format of a configuration file; above each option, a comment names the file and line, the environment
    /// variable or the default that its value comes from. The exit code is 1 if the configuration has errors.
    Show,
}

pub(super) fn run(sources: &Sources, command: Command) -> CommandResult {
    let report = ConfigReport::from_sources(sources);
    match command {
        Command::Check { verbose } => check(&report, verbose),
        Command::Show => {
            print_settings(&report)?;
            Ok(if report.errors.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
    }
}

/// The exit code of `config check` if the server can start, but uploads fail.
const DEFAULT_STORE_FAULT: u8 = 4;

/// Checks the configuration, the files that it names (the policy, property protections and schemas), and the stores. The most
/// serious findings come first.
fn check(report: &ConfigReport, verbose: bool) -> CommandResult {
    super::install_tls()?;
    let config = &report.config;
    let mut files = report.files.clone();
    let mut errors: Vec<String> = report.errors.iter().map(ToString::to_string).collect();
    let mut warnings: Vec<String> = Vec::new();
    let protections = Protections::load(config);
    let policy = Policy::load(config, protections.as_ref().ok());
    match &policy {
        Ok((_, more)) => warnings.extend(more.iter().cloned()),
        Err(error) => errors.push(error.to_string()),
    }
    match &protections {
        Ok(protections) => warnings.extend(policy.iter().flat_map(|(policy, _)| protections.warnings(policy))),
        Err(error) => errors.push(error.to_string()),
    }
    errors.extend(app::read_schemas(config).err().map(|error| error.to_string()));
    files.extend(policy.iter().flat_map(|(policy, _)| policy.paths()));
    let (defaults, others): (Vec<_>, Vec<_>) =
        app::store_faults(config).into_iter().partition(|fault| fault.is_default);
    let warnings = others.into_iter().map(|fault| fault.message).chain(app::open_data_dir(config)).chain(warnings);
    let mut out = io::stdout().lock();
    for file in files {
        writeln!(out, "read: {}", file.display())?;
    }
    for error in &errors {
        writeln!(out, "error: {error}")?;
    }
    for fault in &defaults {
        writeln!(out, "error: {}", fault.message)?;
    }
    for warning in warnings.chain(config.warnings.iter().cloned()) {
        writeln!(out, "warning: {warning}")?;
    }
    if verbose {
        for option in &config.needless {
            writeln!(out, "no effect by design: {option}")?;
        }
    } else if !config.needless.is_empty() {
        writeln!(out, "{} options have no effect by design; --verbose lists them", config.needless.len())?;
    }
    let (verdict, code) = match (errors.is_empty(), defaults.is_empty()) {
        (false, _) => ("The configuration cannot be used.", ExitCode::FAILURE),
        (true, false) => ("The default store cannot be used.", ExitCode::from(DEFAULT_STORE_FAULT)),
        (true, true) => ("The configuration can be used.", ExitCode::SUCCESS),
    };
    writeln!(out, "{verdict}")?;
    Ok(code)
}

/// Prints the settings in the format of a configuration file. Secrets are left out, and dollar signs are not escaped.
fn print_settings(report: &ConfigReport) -> io::Result<()> {
    let mut out = io::stdout().lock();
    for error in &report.errors {
        writeln!(out, "# error: {error}")?;
    }
    let mut group = "";
    for setting in &report.settings {
        if setting.group != group {
            group = &setting.group;
            writeln!(out, "[{group}]")?;
        }
        writeln!(out, "# {}", setting.origin)?;
        let value = setting.value.replace('\n', "\n  ");
        // The format has no way to write an option without a value.
        let comment = if value.is_empty() { "#" } else { "" };
        writeln!(out, "{comment}{} = {value}", setting.name)?;
    }
    Ok(())
}
