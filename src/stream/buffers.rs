//! Buffers for reading, which are used again: allocating and zeroing one for each part would cost as much as sending the part.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;

/// The size of a large buffer in bytes. A reader with a fast consumer uses them: waking the consumer costs as much as copying 100 KiB.
const LARGE: usize = 1024 * 1024;
/// Maximum number of large buffers in the process.
const MAX_LARGE: usize = 16;
/// A consumer is fast if it took less time for each of the last few parts. Fewer only fill the queue to it.
const FAST: Duration = Duration::from_millis(4);
const FEW: u32 = 3;

/// The large buffers of all readers.
static LARGE_BUFFERS: Mutex<Large> = Mutex::new(Large { idle: Vec::new(), number: 0 });

struct Large {
    idle: Vec<Vec<u8>>,
    /// How many there are, idle or not.
    number: usize,
}

/// The buffers of one reader. Their number grows to that of the parts between the reader and the client.
#[derive(Clone)]
pub(super) struct Buffers {
    idle: Arc<Mutex<Vec<Vec<u8>>>>,
    size: usize,
    /// When the last one was taken.
    taken: Option<Instant>,
    /// How many were taken in short intervals since the last long one.
    quickly: u32,
}

impl Buffers {
    /// Buffers of `size` bytes.
    pub(super) fn new(size: usize) -> Self {
        Self { idle: Arc::default(), size, taken: None, quickly: 0 }
    }

    /// Takes a buffer to read `left` bytes, or as many as it has space for.
    pub(super) fn take(&mut self, left: u64, now: Instant) -> Buffer {
        let is_quick = self.taken.replace(now).is_some_and(|before| now.duration_since(before) < FAST);
        self.quickly = if is_quick { self.quickly.saturating_add(1) } else { 0 };
        let large = if self.quickly >= FEW && left > self.size as u64 { take_large() } else { None };
        let memory = large.or_else(|| lock(&self.idle).pop()).unwrap_or_else(|| vec![0; self.size]);
        let length = memory.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        Buffer { memory, length, idle: Arc::clone(&self.idle) }
    }
}

fn take_large() -> Option<Vec<u8>> {
    let mut large = lock(&LARGE_BUFFERS);
    if large.idle.is_empty() && large.number < MAX_LARGE {
        large.number += 1;
        return Some(vec![0; LARGE]);
    }
    large.idle.pop()
}

/// A buffer, which returns to its pool when the bytes were sent.
pub(super) struct Buffer {
    memory: Vec<u8>,
    length: usize,
    idle: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Buffer {
    pub(super) fn into_bytes(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.memory[..self.length]
    }
}

impl AsMut<[u8]> for Buffer {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.memory[..self.length]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let memory = std::mem::take(&mut self.memory);
        if memory.len() == LARGE {
            lock(&LARGE_BUFFERS).idle.push(memory);
        } else {
            lock(&self.idle).push(memory);
        }
    }
}

/// Ignores poisoning: the lists are consistent whenever their locks are free.
fn lock<T>(list: &Mutex<T>) -> MutexGuard<'_, T> {
    list.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_with_a_fast_consumer_gets_large_buffers_while_there_are_some() {
        let (mut reader, mut others, start) = (Buffers::new(1000), Buffers::new(1000), Instant::now());
        let at = |quarters: u32| start + FAST / 4 * quarters;
        let length = |buffer: Buffer| buffer.as_ref().len();
        let lengths = [0, 1, 2, 3, 7, 8, 9, 10].map(|quarters| length(reader.take(u64::MAX, at(quarters))));
        assert_eq!(lengths, [1000, 1000, 1000, LARGE, 1000, 1000, 1000, LARGE]);
        // The last parts of a file.
        assert_eq!([1001, 1000, 7].map(|left| length(reader.take(left, at(10)))), [1001, 1000, 7]);
        let taken: Vec<_> = (0..100).map(|_| others.take(u64::MAX, start)).collect();
        assert_eq!(taken.iter().filter(|buffer| buffer.as_ref().len() == LARGE).count(), MAX_LARGE);
        assert_eq!(length(reader.take(u64::MAX, at(10))), 1000);
        drop(taken);
        assert_eq!(length(reader.take(u64::MAX, at(10))), LARGE);
    }
}
