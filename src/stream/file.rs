//! Reads files in parts, with buffers that are used again.

use std::{
    fs::File,
    io,
    ops::Range,
    os::unix::fs::FileExt as _,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;

/// The size of a read in bytes.
pub(crate) const READ_SIZE: usize = 256 * 1024;

/// A pool of read buffers. Allocating and zeroing a buffer for each part would cost as much as sending the part. The pool grows
/// to the number of parts that are between the file and the client.
#[derive(Clone, Default)]
struct BufferPool(Arc<Mutex<Vec<Vec<u8>>>>);

impl BufferPool {
    fn take(&self, size: usize) -> Vec<u8> {
        self.lock().pop().unwrap_or_else(|| vec![0; size])
    }

    /// Ignores poisoning: the list is consistent whenever the lock is free.
    fn lock(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A part of a file. Its buffer returns to the pool when the part was sent.
struct FilePart {
    memory: Vec<u8>,
    length: usize,
    pool: BufferPool,
}

impl AsRef<[u8]> for FilePart {
    fn as_ref(&self) -> &[u8] {
        &self.memory[..self.length]
    }
}

impl Drop for FilePart {
    fn drop(&mut self) {
        self.pool.lock().push(std::mem::take(&mut self.memory));
    }
}

/// Reads a range of a file in parts. It ends after the first error.
pub(crate) struct FileReader {
    file: Arc<File>,
    /// The bytes that were not read yet.
    range: Range<u64>,
    buffers: BufferPool,
    /// The size of a part in bytes.
    part: usize,
}

impl FileReader {
    /// A reader of these bytes, in parts of [`READ_SIZE`].
    pub(crate) fn new(file: Arc<File>, range: Range<u64>) -> Self {
        Self::in_parts(file, range, READ_SIZE)
    }

    /// A reader of these bytes, in parts of `part` bytes.
    pub(crate) fn in_parts(file: Arc<File>, range: Range<u64>, part: usize) -> Self {
        Self { file, range, buffers: BufferPool::default(), part }
    }

    /// Reads the next part, which ends before `end`. Blocks.
    ///
    /// # Errors
    /// The system's error; `UnexpectedEof` if the file is shorter.
    pub(crate) fn read_until(&mut self, end: u64) -> io::Result<Bytes> {
        let left = end.min(self.range.end).saturating_sub(self.range.start);
        let length = self.part.min(usize::try_from(left).unwrap_or(self.part));
        let mut part = FilePart { memory: self.buffers.take(self.part), length, pool: self.buffers.clone() };
        self.file.read_exact_at(&mut part.memory[..length], self.range.start)?;
        self.range.start += length as u64;
        Ok(Bytes::from_owner(part))
    }

    /// The position of the next byte.
    pub(crate) fn position(&self) -> u64 {
        self.range.start
    }
}

impl Iterator for FileReader {
    type Item = io::Result<Bytes>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.range.is_empty() {
            return None;
        }
        let part = self.read_until(self.range.end);
        if part.is_err() {
            self.range.start = self.range.end;
        }
        Some(part)
    }
}
