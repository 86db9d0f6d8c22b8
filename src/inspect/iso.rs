//! ISO 9660 and UDF: a system area of 32 KiB, followed by descriptors of one sector each. The first descriptor identifies the
//! standard.

use super::{
    Format, Found, VirtualSize,
    region::{Region, array},
};

/// The offset of the first descriptor.
pub(super) const VOLUME_AT: u64 = 32 * 1024;
/// The size of a descriptor.
pub(super) const VOLUME: usize = 2048;
/// The identifiers of ISO 9660 and of two versions of UDF.
const STANDARDS: [&[u8; 5]; 3] = [b"CD001", b"NSR02", b"NSR03"];
/// The type of the primary descriptor, which contains the size.
const PRIMARY: u8 = 1;

pub(super) fn recognise(volume: &Region) -> Option<Found> {
    let standard = array(volume.bytes(), 1)?;
    if !volume.complete() || !STANDARDS.contains(&&standard) {
        return None;
    }
    let size = if volume.bytes().first() == Some(&PRIMARY) {
        // Both fields are stored in both byte orders, little-endian first.
        let blocks = u32::from_le_bytes(array(volume.bytes(), 80)?);
        let block_size = u16::from_le_bytes(array(volume.bytes(), 128)?);
        VirtualSize::Bytes(u64::from(blocks) * u64::from(block_size))
    } else {
        VirtualSize::Unknown
    };
    Some(Found::new(Format::Iso, size, true))
}

#[cfg(test)]
mod tests {
    use super::{super::tests::only, *};

    fn disc(kind: u8, standard: &[u8; 5]) -> Vec<u8> {
        let mut disc = vec![0; 34 * 1024];
        let volume = &mut disc[32 * 1024..];
        volume[0] = kind;
        volume[1..6].copy_from_slice(standard);
        volume[80..84].copy_from_slice(&1000u32.to_le_bytes());
        volume[128..130].copy_from_slice(&2048u16.to_le_bytes());
        disc
    }

    #[test]
    fn the_size_is_in_the_primary_descriptor() {
        for (kind, standard, size) in [
            (1, b"CD001", VirtualSize::Bytes(2_048_000)),
            (0, b"CD001", VirtualSize::Unknown),
            (0, b"NSR02", VirtualSize::Unknown),
            (1, b"NSR03", VirtualSize::Bytes(2_048_000)),
        ] {
            let found = only(&disc(kind, standard));
            assert_eq!((found.format, found.virtual_size, found.complete), (Format::Iso, size, true));
        }
    }

    #[test]
    fn a_truncated_descriptor_or_another_standard_is_not_recognised() {
        assert_eq!(only(&disc(1, b"CD001")[..34 * 1024 - 1]).format, Format::Raw);
        assert_eq!(only(&disc(1, b"CD002")).format, Format::Raw);
    }
}
