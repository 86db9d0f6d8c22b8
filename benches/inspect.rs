//! Measures the speed of the format inspection: 1 GiB in chunks, compared with copying the same bytes.
//! `cargo bench --bench inspect`

#![expect(clippy::print_stdout, reason = "it prints what it measured")]

#[path = "../src/inspect/mod.rs"]
#[expect(dead_code, unused_imports, reason = "only the inspection is measured")]
mod inspect;

use std::{hint::black_box, time::Instant};

use inspect::Inspector;

const STREAM: usize = 1 << 30;

/// Runs a job on each chunk of the stream, and prints the speed.
fn measure(what: &str, chunk: &[u8], mut job: impl FnMut(usize, &[u8])) {
    let began = Instant::now();
    for n in 0..STREAM / chunk.len() {
        job(n, black_box(chunk));
    }
    println!(
        "{:>12.0} MB/s  {what}, chunks of {} KiB",
        STREAM as f64 / 1e6 / began.elapsed().as_secs_f64(),
        chunk.len() / 1024
    );
}

fn main() {
    // The third format has a footer at an unknown position, so the inspector keeps the end of the stream; the fourth is
    // text up to the end.
    let mut footer = vec![0; 512];
    footer[..5].copy_from_slice(b"KDMV\x01");
    footer[28] = 1;
    footer[36] = 20;
    footer[56..64].fill(0xFF);
    for size in [64 << 10, 1 << 20] {
        let mut copy = vec![0; size];
        measure("copied", &vec![0xA5; size], |_, chunk| copy.copy_from_slice(chunk));
        black_box(&copy);
        for (what, head) in
            [("raw", &[0xA5][..]), ("qcow2", b"QFI\xfb\0\0\0\x03"), ("vmdk with a footer", &footer), ("text", b"")]
        {
            let body = vec![if what == "text" { b'a' } else { 0xA5 }; size];
            let mut first = body.clone();
            first[..head.len()].copy_from_slice(head);
            let mut inspector = Inspector::new();
            measure(what, &body, |n, chunk| {
                inspector.feed(if n == 0 { &first } else { chunk });
            });
            black_box(inspector.finish());
        }
    }
}
