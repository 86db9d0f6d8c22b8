//! A region of a stream, kept as it goes by.

/// A part of the stream that a format needs.
#[derive(Debug, Clone)]
pub(super) struct Region {
    offset: u64,
    length: usize,
    bytes: Vec<u8>,
}

impl Region {
    /// The `length` bytes from `offset`, none of which is there yet.
    pub(super) const fn new(offset: u64, length: usize) -> Self {
        Self { offset, length, bytes: Vec::new() }
    }

    /// Takes its next bytes out of a chunk that begins at `at`. One whose next byte went by before never completes.
    pub(super) fn capture(&mut self, at: u64, chunk: &[u8]) {
        let missing = self.length - self.bytes.len();
        let next = self.offset.saturating_add(self.bytes.len() as u64);
        let skipped = next.checked_sub(at).and_then(|skipped| usize::try_from(skipped).ok());
        let Some(rest) = skipped.and_then(|skipped| chunk.get(skipped..)) else { return };
        let taken = &rest[..rest.len().min(missing)];
        let needed = self.bytes.len() + taken.len();
        if needed > self.bytes.capacity() {
            // Grows as a vector does, but not beyond its length, so that the bound on memory is exact.
            let capacity = needed.max(2 * self.bytes.capacity()).min(self.length);
            self.bytes.reserve_exact(capacity - self.bytes.len());
        }
        self.bytes.extend_from_slice(taken);
    }

    /// Makes it longer.
    pub(super) fn lengthen(&mut self, length: usize) {
        self.length = self.length.max(length);
    }

    /// Where it begins.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// Whether all of it is there.
    pub(super) fn complete(&self) -> bool {
        self.bytes.len() == self.length
    }

    /// What is there of it.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The memory that it takes.
    pub(super) fn allocated(&self) -> usize {
        self.bytes.capacity()
    }
}

/// The bytes of a number, or none where they are not there.
pub(super) fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_region_is_the_same_however_the_stream_is_cut() {
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
    fn a_region_whose_beginning_went_by_stays_empty() {
        let mut region = Region::new(10, 100);
        region.capture(11, &[0; 1000]);
        assert!(region.bytes().is_empty() && !region.complete());
    }

    #[test]
    fn a_region_beyond_every_stream_stays_empty() {
        let mut region = Region::new(u64::MAX, 8);
        region.capture(0, &[0; 1000]);
        region.capture(u64::MAX - 1, &[7; 1]);
        assert!(region.bytes().is_empty());
    }
}
