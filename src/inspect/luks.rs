//! LUKS version 1: a big-endian header (version at offset 6, first sector of the data at offset 104), followed by the encrypted
//! disk.

use super::{Check, Format, Found, VirtualSize, region::array};

const MAGIC: &[u8] = b"LUKS\xba\xbe";
/// The size of the header with its key slots. Of the formats whose header is at the beginning, this one is the longest.
pub(super) const HEADER: usize = 592;
/// The size of the part of the header that contains fields.
const FIELDS: usize = 168;
const SECTOR: u64 = 512;

pub(super) fn recognise(head: &[u8], size: u64) -> Option<Found> {
    if !head.starts_with(MAGIC) {
        return None;
    }
    let payload = if head.len() >= FIELDS { array(head, 104) } else { None };
    let virtual_size = match payload.map(|sectors| size.checked_sub(u64::from(u32::from_be_bytes(sectors)) * SECTOR)) {
        Some(Some(bytes)) => VirtualSize::Bytes(bytes),
        // The data is not in this file.
        Some(None) => VirtualSize::Unknown,
        None => VirtualSize::Unreadable,
    };
    let version = (array(head, 6) != Some(1u16.to_be_bytes())).then_some("its version is not 1");
    Some(Found::new(Format::Luks, virtual_size, head.len() >= HEADER).check(Check::Version, version))
}

#[cfg(test)]
mod tests {
    use super::{
        super::tests::{failed, only},
        *,
    };

    fn disk(version: u16, payload: u32) -> Vec<u8> {
        let mut disk = vec![0; 10_000];
        disk[..6].copy_from_slice(MAGIC);
        disk[6..8].copy_from_slice(&version.to_be_bytes());
        disk[104..108].copy_from_slice(&payload.to_be_bytes());
        disk
    }

    #[test]
    fn the_virtual_size_excludes_the_header() {
        let found = only(&disk(1, 8));
        assert_eq!(found.virtual_size, VirtualSize::Bytes(10_000 - 8 * 512));
        assert_eq!((found.format, found.complete, failed(&found)), (Format::Luks, true, vec![]));
        assert_eq!(only(&disk(1, u32::MAX)).virtual_size, VirtualSize::Unknown);
    }

    #[test]
    fn other_versions_fail_the_check() {
        assert_eq!(failed(&only(&disk(2, 8))), ["version"]);
        assert_eq!(failed(&only(&disk(0, 8))), ["version"]);
    }

    #[test]
    fn a_truncated_header_is_incomplete() {
        assert!(!only(&disk(1, 1)[..HEADER - 1]).complete);
        assert_eq!(only(&disk(1, 1)[..FIELDS - 1]).virtual_size, VirtualSize::Unreadable);
    }
}
