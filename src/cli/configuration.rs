//! `glimpse config …`

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use clap::Subcommand;

use super::CommandResult;
use crate::{
    app,
    config::{Reading, Sources},
    policy::Policy,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Subcommand)]
pub(super) enum Command {
    /// Tell what is wrong with the configuration and the policy files, and which options do nothing: exit code 0 when they can
    /// be used, else 1
    Check,
    /// Show every option's value, without secrets, and where it comes from
    Show,
}

pub(super) fn run(sources: &Sources, command: Command) -> CommandResult {
    let reading = Reading::of(sources);
    let usable = match command {
        Command::Check => check(&reading)?,
        Command::Show => {
            show(&reading)?;
            reading.errors.is_empty()
        }
    };
    Ok(if usable { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Looks at the configuration and at the policy that it names.
fn check(reading: &Reading) -> io::Result<bool> {
    let mut files = reading.files.clone();
    let mut errors: Vec<String> = reading.errors.iter().map(ToString::to_string).collect();
    let mut warnings = reading.config.warnings.clone();
    match Policy::load(&reading.config) {
        Ok((policy, more)) => {
            files.extend(policy.paths());
            warnings.extend(more);
        }
        Err(error) => errors.push(error.to_string()),
    }
    errors.extend(app::read_files(&reading.config).err().map(|error| error.to_string()));
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

/// As a file would have it, but for secrets and dollar signs.
fn show(reading: &Reading) -> io::Result<()> {
    let mut out = io::stdout().lock();
    for error in &reading.errors {
        writeln!(out, "# error: {error}")?;
    }
    let mut group = "";
    for setting in &reading.settings {
        if setting.group != group {
            group = &setting.group;
            writeln!(out, "[{group}]")?;
        }
        writeln!(out, "# {}", setting.place)?;
        let value = setting.value.replace('\n', "\n  ");
        // What has no value cannot be written.
        let comment = if value.is_empty() { "#" } else { "" };
        writeln!(out, "{comment}{} = {value}", setting.name)?;
    }
    Ok(())
}
