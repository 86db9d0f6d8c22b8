//! `glance-status upgrade check`: checks whether this program can replace the running one, and prints a table in the format of
//! oslo.upgradecheck, which scripts parse.

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use super::{CommandResult, schema};

use crate::{app, config::Config};

/// The result of a check. The command's exit code is that of the worst one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    Success,
    Warning,
    Failure,
}

/// Runs the checks and prints the table.
pub(super) fn check(config: Result<Config, Box<dyn std::error::Error>>) -> CommandResult {
    super::install_tls()?;
    let mut checks = Vec::new();
    match config {
        Err(error) => checks.push(("Configuration", Outcome::Failure, error.to_string())),
        Ok(config) => {
            let count = config.warnings.len();
            let details =
                if count == 0 { String::new() } else { format!("{count} warnings: run `glimpse config check`") };
            checks.push(("Configuration", Outcome::Success, details));
            let faults = app::store_faults(&config).into_iter().filter(|fault| fault.is_default);
            let fault = faults.map(|fault| fault.message).next();
            let outcome = if fault.is_some() { Outcome::Failure } else { Outcome::Success };
            checks.push(("Default store", outcome, fault.unwrap_or_default()));
            let (outcome, details) = database(&config);
            checks.push(("Database", outcome, details));
        }
    }
    print(&checks)?;
    let worst = checks.iter().map(|(_, outcome, _)| *outcome).max();
    Ok(ExitCode::from(match worst {
        Some(Outcome::Failure) => 2,
        Some(Outcome::Warning) => 1,
        Some(Outcome::Success) | None => 0,
    }))
}

fn database(config: &Config) -> (Outcome, String) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return (Outcome::Failure, error.to_string()),
    };
    match runtime.block_on(schema::read(config)) {
        Err(error) => (Outcome::Failure, error.to_string()),
        Ok(schema) => match schema.state.advice() {
            None => (Outcome::Success, String::new()),
            Some(advice) if schema.state.is_by_hand() => (Outcome::Failure, advice),
            Some(advice) => (Outcome::Warning, advice),
        },
    }
}

/// The width of the table's text, in characters.
const WIDTH: usize = 76;

fn print(checks: &[(&str, Outcome, String)]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let rule = format!("+{}+", "-".repeat(WIDTH + 2));
    let row = |text: &str| format!("| {text:WIDTH$} |");
    writeln!(out, "{rule}")?;
    writeln!(out, "{}", row("Upgrade Check Results"))?;
    for (name, outcome, details) in checks {
        writeln!(out, "{rule}")?;
        writeln!(out, "{}", row(&format!("Check: {name}")))?;
        writeln!(out, "{}", row(&format!("Result: {outcome:?}")))?;
        let details = if details.is_empty() { "None" } else { details };
        let details: Vec<char> = format!("Details: {details}").chars().collect();
        for line in details.chunks(WIDTH) {
            writeln!(out, "{}", row(&line.iter().collect::<String>()))?;
        }
    }
    writeln!(out, "{rule}")
}
