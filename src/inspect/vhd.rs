//! VHD: a big-endian footer with the disk's original size at offset 40 and its current size at offset 48. A dynamic disk has a copy
//! of the footer at the beginning. A fixed disk, which Azure requires, is a raw disk with the footer at the end.

use super::{Format, Found, VirtualSize, region::array};

const MAGIC: &[u8] = b"conectix";
/// The size of the footer, and of its copy.
pub(super) const FOOTER: usize = 512;

pub(super) fn recognise(head: &[u8]) -> Option<Found> {
    if !head.starts_with(MAGIC) {
        return None;
    }
    let complete = head.len() >= FOOTER;
    let size = if complete { array(head, 40) } else { None };
    let size = size.map_or(VirtualSize::Unknown, |size| VirtualSize::Bytes(u64::from_be_bytes(size)));
    Some(Found::new(Format::Vhd, size, complete))
}

/// The end of a stream.
#[derive(Debug, Clone)]
pub(super) struct Tail {
    bytes: [u8; FOOTER],
}

impl Tail {
    pub(super) fn new() -> Self {
        Self { bytes: [0; FOOTER] }
    }

    /// Adds the next chunk of the stream.
    pub(super) fn feed(&mut self, chunk: &[u8]) {
        let chunk = &chunk[chunk.len().saturating_sub(FOOTER)..];
        self.bytes.copy_within(chunk.len().., 0);
        self.bytes[FOOTER - chunk.len()..].copy_from_slice(chunk);
    }

    /// The size of the fixed disk of which this is the footer, if it is one; `length` is the length of the stream.
    pub(super) fn fixed_disk(&self, length: u64) -> Option<u64> {
        let data = length.checked_sub(FOOTER as u64).filter(|_| self.bytes.starts_with(MAGIC))?;
        let sizes = [48, 40].map(|at| array(&self.bytes, at).map_or(0, u64::from_be_bytes));
        sizes.into_iter().find(|size| *size > 0).filter(|size| *size <= data)
    }
}

#[cfg(test)]
mod tests {
    use super::{super::tests::only, *};

    #[test]
    fn a_fixed_disk_is_recognised_by_its_footer_whatever_the_sizes_of_the_chunks_are() {
        let fixed = |data: usize, current: u64, original: u64| {
            let mut content = vec![7; data + 512];
            content[data..].fill(0);
            content[data..data + 8].copy_from_slice(MAGIC);
            content[data + 40..data + 48].copy_from_slice(&original.to_be_bytes());
            content[data + 48..data + 56].copy_from_slice(&current.to_be_bytes());
            content
        };
        let size = |content: &[u8]| super::super::tests::inspect(content).fixed_vhd;
        let content = fixed(100_000, 100_000, 50_000);
        for chunk in [1, 100, 511, 512, 513, 70_000] {
            let mut inspector = super::super::Inspector::new();
            content.chunks(chunk).for_each(|chunk| {
                inspector.feed(chunk);
            });
            assert_eq!(inspector.finish().fixed_vhd, Some(100_000), "chunks of {chunk}");
        }
        assert_eq!(only(&content).format, Format::Raw, "it is also a raw disk");
        assert_eq!(size(&fixed(1024, 0, 1024)), Some(1024));
        // Larger than the file, or no size.
        assert_eq!(size(&fixed(1024, 1025, 1024)), None);
        assert_eq!(size(&fixed(1024, u64::MAX, 0)), None);
        assert_eq!(size(&fixed(1024, 0, 0)), None);
        assert_eq!(size(&content[1..]), None);
        assert_eq!(size(&[&content[..], b"x"].concat()), None);
        assert_eq!((size(&[]), size(MAGIC)), (None, None));
    }

    #[test]
    fn the_size_is_in_the_copy_of_the_footer() {
        let mut content = [0; 512];
        content[..8].copy_from_slice(MAGIC);
        content[40..48].copy_from_slice(&(3u64 << 30).to_be_bytes());
        let found = only(&content);
        assert_eq!(
            (found.format, found.virtual_size, found.complete),
            (Format::Vhd, VirtualSize::Bytes(3 << 30), true)
        );
        let cut = only(&content[..511]);
        assert_eq!((cut.format, cut.virtual_size, cut.complete), (Format::Vhd, VirtualSize::Unknown, false));
    }
}
