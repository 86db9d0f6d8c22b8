//! The `glimpse` program: command line, runtime, exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    glimpse::cli::main()
}
