//! Captures a region of a stream while the stream passes in chunks.

/// A region of the stream that a format needs, and the bytes of it that were captured so far.
#[derive(Debug, Clone)]
pub(super) struct Region {
    offset: u64,
    length: usize,
    bytes: Vec<u8>,
}

impl Region {
    /// A region of `length` bytes from `offset`, none of which is captured yet.
    pub(super) const fn new(offset: u64, length: usize) -> Self {
        Self { offset, length, bytes: Vec::new() }
    }

    /// Captures the next bytes of the region from a chunk that begins at offset `at` of the stream. If the chunk is behind the next
    /// byte of the region, the region never becomes complete.
    pub(super) fn capture(&mut self, at: u64, chunk: &[u8]) {
        let missing = self.length - self.bytes.len();
        let next = self.offset.saturating_add(self.bytes.len() as u64);
        let skipped = next.checked_sub(at).and_then(|skipped| usize::try_from(skipped).ok());
        let Some(rest) = skipped.and_then(|skipped| chunk.get(skipped..)) else { return };
        let taken = &rest[..rest.len().min(missing)];
        let needed = self.bytes.len() + taken.len();
        if needed > self.bytes.capacity() {
            // Grow exponentially like a vector, but not beyond the region's length, so that the limit on memory is exact.
            let capacity = needed.max(2 * self.bytes.capacity()).min(self.length);
            self.bytes.reserve_exact(capacity - self.bytes.len());
        }
        self.bytes.extend_from_slice(taken);
    }

    /// Extends the region to this length.
    pub(super) fn extend_to(&mut self, length: usize) {
        self.length = self.length.max(length);
    }

    /// The offset of the region in the stream.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// Whether all bytes of the region are captured.
    pub(super) fn complete(&self) -> bool {
        self.bytes.len() == self.length
    }

    /// The bytes that are captured so far.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The memory that the region takes, in bytes.
    pub(super) fn allocated(&self) -> usize {
        self.bytes.capacity()
    }
}

/// The `N` bytes at an offset; `None` if the slice is too short.
pub(super) fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sizes_of_the_chunks_do_not_matter() {
        let stream: Vec<u8> = (0..=255).collect();
        for size in 1..stream.len() {
            let mut region = Region::new(10, 100);
            for (n, chunk) in stream.chunks(size).enumerate() {
                region.capture((n * size) as u64, chunk);
            }
            assert!(region.complete() && region.allocated() == 100, "chunks of {size}");
            assert_eq!(region.bytes(), &stream[10..110], "chunks of {size}");
        }
    }

    #[test]
    fn a_region_whose_beginning_was_missed_stays_empty() {
        let mut region = Region::new(10, 100);
        region.capture(11, &[0; 1000]);
        assert!(region.bytes().is_empty() && !region.complete());
    }

    #[test]
    fn a_region_at_the_largest_offset_does_not_overflow() {
        let mut region = Region::new(u64::MAX, 8);
        region.capture(0, &[0; 1000]);
        region.capture(u64::MAX - 1, &[7; 1]);
        assert!(region.bytes().is_empty());
    }
}
