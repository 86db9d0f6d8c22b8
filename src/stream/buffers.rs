//! Buffers for reading, which are used again: allocating and zeroing one for each part would cost as much as sending the part.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

/// The size of a large buffer in bytes. A reader whose consumer waits for it uses them if it can: waking the consumer costs as much as
/// copying 100 KiB.
const LARGE: usize = 1024 * 1024;
/// Maximum number of large buffers in the process.
const MAX_LARGE: usize = 16;

/// The large buffers of all readers.
static LARGE_BUFFERS: Mutex<Pool> = Mutex::new(Pool { idle: Vec::new(), in_use: 0 });

struct Pool {
    idle: Vec<Vec<u8>>,
    /// The number of buffers that are not idle.
    in_use: usize,
}

/// The buffers of one reader. Their number grows to that of the parts between the reader and the client.
#[derive(Clone)]
pub(super) struct Buffers {
    pool: Arc<Mutex<Pool>>,
    size: usize,
}

impl Buffers {
    /// Buffers of `size` bytes.
    pub(super) fn new(size: usize) -> Self {
        Self { pool: Arc::new(Mutex::new(Pool { idle: Vec::new(), in_use: 0 })), size }
    }

    /// Takes a buffer to read `left` bytes, or as many as it has space for.
    pub(super) fn take(&self, left: u64) -> Buffer {
        let mut pool = lock(&self.pool);
        // At most the part before is not sent: the consumer is faster than the reader.
        let is_awaited = pool.in_use <= 1;
        pool.in_use += 1;
        let large = if is_awaited && left > self.size as u64 { take_large() } else { None };
        let memory = large.or_else(|| pool.idle.pop()).unwrap_or_else(|| vec![0; self.size]);
        drop(pool);
        let length = memory.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        Buffer { memory, length, pool: Arc::clone(&self.pool) }
    }
}

fn take_large() -> Option<Vec<u8>> {
    let mut large = lock(&LARGE_BUFFERS);
    let memory = match large.idle.pop() {
        Some(memory) => memory,
        None if large.in_use < MAX_LARGE => vec![0; LARGE],
        None => return None,
    };
    large.in_use += 1;
    Some(memory)
}

/// A buffer, which returns to its pool when the bytes were sent.
pub(super) struct Buffer {
    memory: Vec<u8>,
    length: usize,
    pool: Arc<Mutex<Pool>>,
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
        let mut pool = lock(&self.pool);
        pool.in_use -= 1;
        if memory.len() == LARGE {
            let mut large = lock(&LARGE_BUFFERS);
            large.in_use -= 1;
            large.idle.push(memory);
        } else {
            pool.idle.push(memory);
        }
    }
}

/// Ignores poisoning: a pool is consistent whenever its lock is free.
fn lock(pool: &Mutex<Pool>) -> MutexGuard<'_, Pool> {
    pool.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_that_is_awaited_gets_large_buffers_while_there_are_some() {
        let buffers = Buffers::new(1000);
        let readers: Vec<_> = (0..MAX_LARGE).map(|_| Buffers::new(1000)).collect();
        let lengths = |taken: &[Buffer]| taken.iter().map(|buffer| buffer.as_ref().len()).collect::<Vec<_>>();
        // Nobody has sent the first two.
        let mut taken: Vec<_> = (0..3).map(|_| buffers.take(u64::MAX)).collect();
        assert_eq!(lengths(&taken), [LARGE, LARGE, 1000]);
        taken.truncate(1);
        taken.push(buffers.take(1000));
        taken.push(buffers.take(7));
        assert_eq!(lengths(&taken), [LARGE, 1000, 7]);
        // All but one are taken by others.
        let others: Vec<_> = readers.iter().map(|reader| reader.take(u64::MAX)).collect();
        assert_eq!(lengths(&others).iter().filter(|length| **length == LARGE).count(), MAX_LARGE - 1);
        drop(others);
        assert_eq!(lengths(&[readers[0].take(u64::MAX)]), [LARGE]);
    }
}
