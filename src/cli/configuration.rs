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
    policy::Policy,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Subcommand)]
pub(super) enum Command {
    /// Check the configuration and the policy files
    ///
    /// Prints the files that were read, the errors in them, and a warning for each option that has no effect. The exit code is 0
    /// if the server can start with this configuration, otherwise 1.
    Check,
    /// Print the value of every option, without secrets, and where it is set
    ///
    /// The output has the format of a configuration file; above each option, a comment names the file and line, the environment
    /// variable or the default that its value comes from. The exit code is 1 if the configuration has errors.
    Show,
}

pub(super) fn run(sources: &Sources, command: Command) -> CommandResult {
    let report = ConfigReport::from_sources(sources);
    let usable = match command {
        Command::Check => check(&report)?,
        Command::Show => {
            print_settings(&report)?;
            report.errors.is_empty()
        }
    };
    Ok(if usable { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Checks the configuration and the files that it names: the policy, property protections and schemas. Returns whether the
/// server can start with them.
fn check(report: &ConfigReport) -> io::Result<bool> {
    let mut files = report.files.clone();
    let mut errors: Vec<String> = report.errors.iter().map(ToString::to_string).collect();
    let mut warnings = report.config.warnings.clone();
    match Policy::load(&report.config) {
        Ok((policy, more)) => {
            files.extend(policy.paths());
            warnings.extend(more);
        }
        Err(error) => errors.push(error.to_string()),
    }
    warnings.extend(app::open_data_dir(&report.config));
    errors.extend(app::read_files(&report.config).err().map(|error| error.to_string()));
    let mut out = io::stdout().lock();
    for file in files {
        writeln!(out, "read: {}", file.display())?;
    }
    for error in &errors {
        writeln!(out, "error: {error}")?;
    }
    for warning in warnings {
        writeln!(out, "warning: {warning}")?;
    }
    let verdict = if errors.is_empty() { "can" } else { "cannot" };
    writeln!(out, "The configuration {verdict} be used.")?;
    Ok(errors.is_empty())
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
