//! The format inspection, under a fuzzer.
//!
//! `cargo install cargo-fuzz`, then `cargo +nightly fuzz run --fuzz-dir tests/fuzz vmdk`. There is one target per format. A
//! file that causes a failure becomes a test in `tests/inspect.rs`.

#[path = "../../../src/inspect/mod.rs"]
#[expect(unused_imports, reason = "a refusal is not named here")]
mod inspect;

mod exercise;

use inspect::Format;

/// Inspects content in a format, built from a fuzzer's data. Its first byte determines the chunk sizes.
pub fn run(format: &str, data: &[u8]) {
    let (Some((size, data)), Some(format)) =
        (data.split_first(), Format::ALL.into_iter().find(|known| known.as_str() == format))
    else {
        return;
    };
    let size = usize::from(*size);
    exercise::exercise(&exercise::content(format, data), &[size * size, size, 1]);
}
