//! VHD: a big-endian footer with the virtual size at offset 40. A dynamic disk has a copy of the footer at the beginning.
//!
//! A fixed disk has the footer only at the end. As in Glance, it is recognised as raw.

use super::{Format, Found, VirtualSize, region::array};

const MAGIC: &[u8] = b"conectix";
/// The size of the copy of the footer.
const HEADER: usize = 512;

pub(super) fn recognise(head: &[u8]) -> Option<Found> {
    if !head.starts_with(MAGIC) {
        return None;
    }
    let complete = head.len() >= HEADER;
    let size = if complete { array(head, 40) } else { None };
    let size = size.map_or(VirtualSize::Unknown, |size| VirtualSize::Bytes(u64::from_be_bytes(size)));
    Some(Found::new(Format::Vhd, size, complete))
}

#[cfg(test)]
mod tests {
    use super::{super::tests::only, *};

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
