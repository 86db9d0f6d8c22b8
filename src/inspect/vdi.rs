//! VDI: a little-endian header with the signature at offset 64 and the virtual size at offset 368.

use super::{Format, Found, VirtualSize, region::array};

const SIGNATURE: u32 = 0xBEDA_107F;
/// The size of the first sector. Shorter content is not recognised.
const HEADER: usize = 512;

pub(super) fn recognise(head: &[u8]) -> Option<Found> {
    if head.len() < HEADER || u32::from_le_bytes(array(head, 64)?) != SIGNATURE {
        return None;
    }
    let size = u64::from_le_bytes(array(head, 368)?);
    Some(Found::new(Format::Vdi, VirtualSize::Bytes(size), true))
}

#[cfg(test)]
mod tests {
    use super::{super::tests::only, *};

    #[test]
    fn the_size_is_in_the_header() {
        let mut content = [0; 512];
        content[64..68].copy_from_slice(&SIGNATURE.to_le_bytes());
        content[368..376].copy_from_slice(&(5u64 << 30).to_le_bytes());
        let found = only(&content);
        assert_eq!(
            (found.format, found.virtual_size, found.complete),
            (Format::Vdi, VirtualSize::Bytes(5 << 30), true)
        );
        assert_eq!(only(&content[..511]).format, Format::Raw);
    }
}
