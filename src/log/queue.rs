//! The queue between the program and the outputs of its log: a slow or blocked output never makes a request wait.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use flume::{RecvTimeoutError, Sender};
use tracing::Level;

/// How long a flush waits for an output that accepts nothing.
const PATIENCE: Duration = Duration::from_secs(1);

/// A bounded queue of log lines, which a thread of its own writes. Lines that do not fit are dropped and counted.
pub(super) struct Queue {
    entries: Sender<Entry>,
    capacity: usize,
    counters: Arc<Counters>,
}

#[derive(Default)]
struct Counters {
    /// The size of the waiting lines in bytes.
    waiting: AtomicUsize,
    /// The number of lines written so far.
    written: AtomicU64,
    /// The number of dropped lines that are not reported yet.
    dropped: AtomicU64,
}

enum Entry {
    Line(Level, Box<[u8]>),
    /// Everything before this entry is written.
    Flush(Sender<()>),
}

impl Queue {
    /// Starts the thread. `capacity` is the maximum size of the waiting lines in bytes. `write` writes one line to the outputs.
    /// `report` is called on the same thread with the number of dropped lines, once half of the queue is free again.
    ///
    /// # Errors
    /// If the thread cannot be started.
    pub(super) fn start(
        capacity: usize,
        write: impl Fn(Level, &[u8]) + Send + 'static,
        report: impl Fn(u64) + Send + 'static,
    ) -> io::Result<Self> {
        let (entries, receiver) = flume::unbounded();
        let counters = Arc::new(Counters::default());
        let shared = Arc::clone(&counters);
        let run = move || {
            for entry in receiver {
                match entry {
                    Entry::Flush(done) => {
                        // The caller may have stopped waiting.
                        let _ = done.send(());
                    }
                    Entry::Line(level, line) => {
                        write(level, &line);
                        let before = shared.waiting.fetch_sub(line.len(), Ordering::Relaxed);
                        shared.written.fetch_add(1, Ordering::Relaxed);
                        if before - line.len() <= capacity / 2 {
                            match shared.dropped.swap(0, Ordering::Relaxed) {
                                0 => {}
                                dropped => report(dropped),
                            }
                        }
                    }
                }
            }
        };
        thread::Builder::new().name("log".to_owned()).spawn(run)?;
        Ok(Self { entries, capacity, counters })
    }

    /// Appends a line, or drops it if the queue is full.
    pub(super) fn push(&self, level: Level, line: &[u8]) {
        let waiting = self.counters.waiting.fetch_add(line.len(), Ordering::Relaxed);
        if waiting + line.len() > self.capacity || self.entries.send(Entry::Line(level, line.into())).is_err() {
            self.counters.waiting.fetch_sub(line.len(), Ordering::Relaxed);
            self.counters.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits until all lines are written, as long as the outputs accept any.
    pub(super) fn flush(&self) {
        let (done, wait) = flume::bounded(1);
        if self.entries.send(Entry::Flush(done)).is_err() {
            return;
        }
        loop {
            let before = self.counters.written.load(Ordering::Relaxed);
            let is_late = wait.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout);
            if !is_late || self.counters.written.load(Ordering::Relaxed) == before {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, time::Instant};

    use tracing::Level;

    use super::{PATIENCE, Queue};

    #[test]
    fn lines_that_do_not_fit_are_dropped_counted_and_reported() {
        let (open, gate) = mpsc::channel::<()>();
        let (told, lines) = mpsc::channel();
        let report = told.clone();
        let write = move |_, line: &[u8]| {
            // Blocks until the output is opened.
            let _ = gate.recv();
            told.send(String::from_utf8(line.to_vec()).unwrap()).unwrap();
        };
        let queue = Queue::start(10, write, move |dropped| report.send(format!("{dropped} dropped")).unwrap()).unwrap();
        for line in ["1aaa", "2bbb", "3ccc", "4d", "5eee"] {
            queue.push(Level::INFO, line.as_bytes());
        }
        let start = Instant::now();
        queue.flush();
        assert!(start.elapsed() >= PATIENCE, "a blocked output was not waited for");
        drop(open);
        queue.flush();
        assert_eq!(lines.try_iter().collect::<Vec<_>>(), ["1aaa", "2bbb", "2 dropped", "4d"]);
        queue.push(Level::INFO, b"6fff");
        queue.flush();
        assert_eq!(lines.try_iter().collect::<Vec<_>>(), ["6fff"]);
    }
}
