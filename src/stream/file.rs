//! Reads files in parts.

use std::{fs::File, io, ops::Range, os::unix::fs::FileExt as _, sync::Arc, time::Instant};

use bytes::Bytes;

use super::buffers::Buffers;

/// The size of a read in bytes, unless the consumer is fast.
pub(crate) const READ_SIZE: usize = 256 * 1024;

/// Reads a range of a file in parts. It ends after the first error.
pub(crate) struct FileReader {
    file: Arc<File>,
    /// The bytes that were not read yet.
    range: Range<u64>,
    buffers: Buffers,
}

impl FileReader {
    /// A reader of these bytes, in parts of [`READ_SIZE`].
    pub(crate) fn new(file: Arc<File>, range: Range<u64>) -> Self {
        Self::in_parts(file, range, READ_SIZE)
    }

    /// A reader of these bytes, in parts of `part` bytes.
    pub(crate) fn in_parts(file: Arc<File>, range: Range<u64>, part: usize) -> Self {
        Self { file, range, buffers: Buffers::new(part) }
    }

    /// A reader of other bytes of the file, with the same buffers.
    pub(crate) fn at(&self, range: Range<u64>) -> Self {
        Self { file: Arc::clone(&self.file), range, buffers: self.buffers.clone() }
    }

    fn read(&mut self) -> io::Result<Bytes> {
        let mut part = self.buffers.take(self.range.end - self.range.start, Instant::now());
        self.file.read_exact_at(part.as_mut(), self.range.start)?;
        self.range.start += part.as_ref().len() as u64;
        Ok(part.into_bytes())
    }
}

impl Iterator for FileReader {
    type Item = io::Result<Bytes>;

    /// # Errors
    /// The system's error; `UnexpectedEof` if the file is shorter.
    fn next(&mut self) -> Option<Self::Item> {
        if self.range.is_empty() {
            return None;
        }
        let part = self.read();
        if part.is_err() {
            self.range.start = self.range.end;
        }
        Some(part)
    }
}
