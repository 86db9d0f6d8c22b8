//! `glimpse completions` and `glimpse man`: documents that are generated from the command line's own description.

use std::{
    io::{self, Write as _},
    path::Path,
    process::ExitCode,
};

use clap::Command;
use clap_complete::Shell;
use clap_mangen::Man;

use super::CommandResult;

/// Prints the completion script of a shell.
pub(super) fn completions(mut command: Command, shell: Shell) -> CommandResult {
    let mut script = Vec::new();
    let name = command.get_name().to_owned();
    clap_complete::generate(shell, &mut command, name, &mut script);
    print(&script)
}

/// Prints the manual page of the program, or writes one for each command to a directory.
pub(super) fn manual(command: Command, directory: Option<&Path>) -> CommandResult {
    match directory {
        Some(directory) => {
            let with_path = |error| io::Error::other(format!("{}: {error}", directory.display()));
            clap_mangen::generate_to(command, directory).map_err(with_path)?;
            Ok(ExitCode::SUCCESS)
        }
        None => {
            let mut page = Vec::new();
            Man::new(command).render(&mut page)?;
            print(&page)
        }
    }
}

fn print(text: &[u8]) -> CommandResult {
    let mut out = io::stdout().lock();
    out.write_all(text)?;
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}
