//! The verification of a fill: the digest of what is in the file.
//!
//! It reads the file behind the writer, from the page cache, in the time that the processors have to spare, if they have any. A digest is
//! several times slower than a disk or a network, and nobody waits for it but the file's place among the complete ones.

use std::{fs::File, sync::Arc, time::Duration};

use tokio::{
    sync::watch::{self, error::RecvError},
    task::spawn_blocking,
    time::{Instant, timeout},
};

use super::fill::Failure;
use crate::{
    config::HashAlgorithm,
    stream::{self, BoxError, Digest, FileReader, Observer as _},
};

/// How many bytes are verified in a turn.
const TURN: u64 = 4 * 1024 * 1024;
/// How far the digest may stay behind, in bytes, to leave the memory's bandwidth to downloads.
const LAG: u64 = 256 * 1024 * 1024;
/// If a turn took longer than this, the processors have no time to spare: the next ones do not wait for it.
const PATIENCE: Duration = Duration::from_secs(1);
const HURRIED_TURNS: u64 = 64;
/// The store lets the writer wait if nothing was written for this time.
const PAUSE: Duration = Duration::from_millis(5);

/// What is in the file.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Written {
    pub(super) bytes: u64,
    /// Whether that is all of the data.
    pub(super) is_complete: bool,
}

/// Compares the digest of the file with the expected one, in hexadecimal digits.
///
/// # Errors
/// `Source` if the digest is another one, and `Uncached` if the file cannot be read, or is not completed.
pub(super) async fn verify(
    file: &Arc<File>,
    mut written: watch::Receiver<Written>,
    algorithm: HashAlgorithm,
    expected: &str,
) -> Result<(), (Failure, BoxError)> {
    let uncached = |error: BoxError| (Failure::Uncached, error);
    let mut digest = Digest::new(algorithm).map_err(uncached)?;
    let reader = FileReader::new(Arc::clone(file), 0..0);
    let (mut at, mut hurried) = (0, 0);
    loop {
        let now = wait_for_turn(&mut written, at).await.map_err(|error| uncached(error.into()))?;
        let end = now.bytes.min(at + TURN);
        if at == end {
            break;
        }
        let parts = reader.at(at..end);
        let turn = move || {
            for part in parts {
                let _ = digest.observe(&part?)?;
            }
            Ok(digest)
        };
        let begun = Instant::now();
        let turn = if hurried > 0 { spawn_blocking(turn) } else { stream::in_spare_time(turn) };
        digest = turn.await.map_err(|error| uncached(error.into()))?.map_err(uncached)?;
        hurried = if begun.elapsed() > PATIENCE { HURRIED_TURNS } else { hurried.saturating_sub(1) };
        at = end;
    }
    let found = digest.hex().map_err(uncached)?;
    if !found.eq_ignore_ascii_case(expected) {
        return Err((Failure::Source, "the data does not have the image's hash".into()));
    }
    Ok(())
}

/// Waits until there is more than `at`, and the store lets the writer wait, or has sent much more; or until the data is complete.
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
