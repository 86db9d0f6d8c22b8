//! The `glimpse` program: command line, runtime, exit code.

use std::process::ExitCode;

/// glibc's gives memory back to the system that the next part of an image needs again: docs/adr/0010-jemalloc.md.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    glimpse::cli::main()
}
