//! The verification of a fill: the digest of what is in the file.
//!
//! It reads the file behind the writer, from the page cache, in the time that the processors have to spare, if they have any. A digest is
//! several times slower than a disk or a network, and nobody waits for it but the file's place among the complete ones.

use std::{fs::File, os::unix::fs::FileExt as _, sync::Arc, time::Duration};

use tokio::{
    sync::watch::{self, error::RecvError},
    task::spawn_blocking,
    time::{Instant, timeout},
};

use crate::{
    config::HashAlgorithm,
    stream::{self, BoxError, Digest, Observer as _, READ_SIZE},
};

/// How many bytes are verified in a turn.
const TURN: u64 = 4 * 1024 * 1024;
/// From this distance to the writer on, in bytes, it does not wait for a pause. Until then, downloads have the memory's bandwidth.
const LAG: u64 = 256 * 1024 * 1024;
/// If a turn took longer than this, the processors have no time to spare, and this number of turns do not wait for it.
const PATIENCE: Duration = Duration::from_secs(1);
const HURRIED_TURNS: u64 = 64;
/// The writer waits for the store if nothing was written for this time.
const PAUSE: Duration = Duration::from_millis(5);

/// What is in the file.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Written {
    pub(super) bytes: u64,
    /// Whether that is all of the data.
    pub(super) is_complete: bool,
}

/// Whether the digest of the file is the expected one, in hexadecimal digits.
///
/// # Errors
/// The file cannot be read, or is not completed.
pub(super) async fn verify(
    file: &Arc<File>,
    mut written: watch::Receiver<Written>,
    algorithm: HashAlgorithm,
    expected: &str,
) -> Result<bool, BoxError> {
    let mut digest = Digest::new(algorithm)?;
    // Of its own: a thread of low priority must not hold what others wait for.
    let mut buffer = vec![0; READ_SIZE];
    let (mut at, mut hurried) = (0, 0);
    loop {
        let now = wait_for_turn(&mut written, at).await?;
        let end = now.bytes.min(at + TURN);
        if at == end {
            break;
        }
        let file = Arc::clone(file);
        let turn = move || {
            let mut at = at;
            while at < end {
                let length = buffer.len().min(usize::try_from(end - at)?);
                file.read_exact_at(&mut buffer[..length], at)?;
                let _ = digest.observe(&buffer[..length])?;
                at += length as u64;
            }
            Ok::<_, BoxError>((digest, buffer))
        };
        let begun = Instant::now();
        let turn = if hurried > 0 { spawn_blocking(turn) } else { stream::in_spare_time(turn) };
        (digest, buffer) = turn.await??;
        hurried = if begun.elapsed() > PATIENCE { HURRIED_TURNS } else { hurried.saturating_sub(1) };
        at = end;
    }
    Ok(digest.hex()?.eq_ignore_ascii_case(expected))
}

/// Waits until there is more than `at`, and the writer waits or is [`LAG`] ahead; or until the data is complete.
async fn wait_for_turn(written: &mut watch::Receiver<Written>, at: u64) -> Result<Written, RecvError> {
    written.wait_for(|now| now.is_complete || now.bytes > at).await?;
    loop {
        let now = *written.borrow_and_update();
        if now.is_complete || now.bytes >= at + LAG {
            return Ok(now);
        }
        match timeout(PAUSE, written.changed()).await {
            Ok(changed) => changed?,
            Err(_) => return Ok(now),
        }
    }
}
