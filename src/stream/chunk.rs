//! Chunks: the unit in which data is handed to stores and observers.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

/// Size from which gathered frames become a chunk. Waking another thread costs as much as hashing a few KiB, so chunks must not be
/// small.
pub(super) const GATHERED: usize = 256 * 1024;
/// Frames smaller than this are copied into one buffer with their neighbours. Kept as it is, each would pin a whole read buffer.
const SMALL: usize = 8 * 1024;

/// A part of an image's data. Cloning it copies no bytes.
#[derive(Debug, Clone)]
pub(crate) struct Chunk {
    frames: Arc<[Bytes]>,
    /// Number of bytes in all frames.
    pub(crate) len: usize,
}

impl Chunk {
    /// Iterates over the bytes, in order.
    pub(crate) fn frames(&self) -> impl Iterator<Item = &[u8]> {
        self.frames.iter().map(|frame| &frame[..])
    }

    /// Like [`Chunk::frames`], but the caller can keep the frames without copying them.
    pub(crate) fn shared(&self) -> impl Iterator<Item = Bytes> {
        self.frames.iter().cloned()
    }
}

/// Collects frames until they are large enough for a chunk.
#[derive(Default)]
pub(super) struct Gathered {
    frames: Vec<Bytes>,
    small: BytesMut,
    pub(super) len: usize,
}

impl Gathered {
    pub(super) fn push(&mut self, frame: Bytes) {
        self.len += frame.len();
        if frame.len() < SMALL {
            self.small.extend_from_slice(&frame);
        } else {
            self.flush();
            self.frames.push(frame);
        }
    }

    fn flush(&mut self) {
        if !self.small.is_empty() {
            self.frames.push(self.small.split().freeze());
        }
    }

    /// Returns the collected frames as a chunk and starts over.
    pub(super) fn take(&mut self) -> Chunk {
        self.flush();
        Chunk { frames: std::mem::take(&mut self.frames).into(), len: std::mem::take(&mut self.len) }
    }
}
