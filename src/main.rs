//! The `glimpse` binary: it runs the command line and returns its exit code.

use std::process::ExitCode;

/// jemalloc reuses freed memory for the next chunk of an image; glibc's allocator returns it to the system
/// (docs/adr/0010-jemalloc.md).
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    glimpse::cli::main()
}
