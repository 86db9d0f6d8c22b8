//! Work on blocking threads, in turns of limited length.
//!
//! A turn ends when there is nothing to do for [`WAIT`], or after [`TURN`]. The next turn may run on another thread. A client
//! that sends or reads slowly therefore occupies no thread, and a few threads serve any number of clients.

use std::{
    io,
    ops::ControlFlow,
    time::{Duration, Instant},
};

use bytes::Bytes;
use flume::SendTimeoutError;
use futures_util::{Stream, StreamExt as _, future::ready, stream::once};
use tokio::task::{JoinError, spawn_blocking};

use super::chunk::Chunk;

/// Maximum number of parts that are read before the consumer asks for them, in addition to the one that is being read.
const READ_AHEAD: usize = 1;
/// How long a turn may be idle. Ending a turn and starting another one costs several times as much as waking a thread, so a short
/// wait pays off. A long one would let slow clients occupy the threads.
const WAIT: Duration = Duration::from_millis(5);
/// How long a turn may be busy.
const TURN: Duration = Duration::from_millis(100);

/// Passes each chunk of a queue to `take`, until the queue is closed or `take` returns `Break`. Returns the worker.
pub(super) async fn work_off<W, E, T>(from: flume::Receiver<Chunk>, mut worker: W, take: T) -> Result<W, E>
where
    W: Send + 'static,
    E: From<JoinError> + Send + 'static,
    T: Fn(&mut W, &Chunk) -> Result<ControlFlow<()>, E> + Copy + Send + 'static,
{
    while let Ok(first) = from.recv_async().await {
        let from = from.clone();
        let piece = spawn_blocking(move || {
            let over = Instant::now() + TURN;
            let mut next = Some(first);
            while let Some(chunk) = next {
                if take(&mut worker, &chunk)?.is_break() {
                    return Ok((worker, ControlFlow::Break(())));
                }
                // Do not keep its memory while waiting for the next one.
                drop(chunk);
                next = if Instant::now() < over { from.recv_timeout(WAIT).ok() } else { None };
            }
            Ok::<_, E>((worker, ControlFlow::Continue(())))
        });
        let ended;
        (worker, ended) = piece.await??;
        if ended.is_break() {
            break;
        }
    }
    Ok(worker)
}

/// Reads parts from a disk while the consumer is still busy with earlier ones.
pub(crate) fn read_ahead<R>(mut reader: R) -> impl Stream<Item = io::Result<Bytes>> + Send
where
    R: Iterator<Item = io::Result<Bytes>> + Send + 'static,
{
    let (to, parts) = flume::bounded(READ_AHEAD);
    let reading = tokio::spawn(async move {
        loop {
            let theirs = to.clone();
            let piece = spawn_blocking(move || {
                let over = Instant::now() + TURN;
                while let Some(part) = reader.next() {
                    if Instant::now() >= over {
                        return Some((reader, part));
                    }
                    match theirs.send_timeout(part, WAIT) {
                        Ok(()) => {}
                        Err(SendTimeoutError::Timeout(part)) => return Some((reader, part)),
                        Err(SendTimeoutError::Disconnected(_)) => return None,
                    }
                }
                None
            });
            let part;
            (reader, part) = match piece.await {
                Ok(Some(more)) => more,
                Ok(None) => return,
                Err(error) => {
                    // The consumer may have been dropped.
                    let _ = to.send_async(Err(io::Error::other(error))).await;
                    return;
                }
            };
            if to.send_async(part).await.is_err() {
                return;
            }
        }
    });
    // At shutdown, the task may be dropped while the consumer still runs: what it has got is not everything then.
    let aborted = once(reading).filter_map(|ended| ready(ended.err().map(|error| Err(io::Error::other(error)))));
    parts.into_stream().chain(aborted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::{
        chunk::GATHERED,
        fixture::{limits, pass, passed},
    };

    #[test]
    fn a_single_blocking_thread_serves_all_uploads_and_downloads() {
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.enable_time().max_blocking_threads(1).build().unwrap();
        let inside = runtime.enter();
        let endless = || futures_util::stream::repeat_with(|| Ok(Bytes::from_static(&[1; GATHERED])));
        let limits = || limits(u64::MAX, None);
        runtime.spawn(pass(Box::pin(endless()), limits()));
        runtime.spawn(pass(Box::pin(endless().take(1).chain(futures_util::stream::pending())), limits()));
        let read = || read_ahead(std::iter::repeat_with(|| Ok(Bytes::from_static(b"part"))));
        runtime.spawn(read().for_each(|_| async {}));
        let untaken = read();
        runtime.block_on(async {
            // Long enough for each of them to have had the thread.
            tokio::time::sleep(TURN * 8).await;
            for _ in 0..3 {
                let passed = passed(vec![Ok(Bytes::from_static(b"data"))], limits());
                let passed = tokio::time::timeout(Duration::from_secs(10), passed).await;
                assert_eq!(passed, Ok((Ok(4), vec![4], true)));
            }
        });
        drop((untaken, inside));
        runtime.shutdown_background();
    }

    #[tokio::test]
    async fn parts_read_ahead_arrive_in_order_until_the_first_error() {
        let read =
            (0..9u8).map(|n| if n < 8 { Ok(Bytes::copy_from_slice(&[n])) } else { Err(io::Error::other("torn")) });
        let mut parts = read_ahead(read);
        for n in 0..8u8 {
            // Now and then, pause for longer than a thread waits.
            tokio::time::sleep(if n % 3 == 0 { WAIT * 3 } else { Duration::ZERO }).await;
            assert_eq!(parts.next().await.unwrap().unwrap(), &[n][..]);
        }
        assert_eq!(parts.next().await.unwrap().unwrap_err().to_string(), "torn");
        assert!(parts.next().await.is_none());
    }
}
