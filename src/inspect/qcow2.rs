//! QCOW2, and its predecessor QCOW, which is recognised in order to reject it.
//!
//! The header is big-endian: the magic, the version (at offset 4), the offset of the backing file's name (8), the virtual size
//! (24), and from version 3 on the features that a reader must support (72).

use super::{Check, Format, Found, VirtualSize, region::array};

const MAGIC: &[u8] = b"QFI\xfb";
/// The size of the first sector. Shorter content is not recognised.
const HEADER: usize = 512;
/// The feature flag of an external data file.
const DATA_FILE: u64 = 1 << 2;
/// The known feature flags: dirty, corrupt, external data file (which has a check of its own), compression type.
const KNOWN_FEATURES: u64 = 0b1111;

pub(super) fn recognise(head: &[u8]) -> Option<Found> {
    if head.len() < HEADER || !head.starts_with(MAGIC) {
        return None;
    }
    let version = u32::from_be_bytes(array(head, 4)?);
    let backing_file = u64::from_be_bytes(array(head, 8)?);
    let size = u64::from_be_bytes(array(head, 24)?);
    let features = u64::from_be_bytes(array(head, 72)?);
    let unknown = match version {
        2 => None,
        3 => (features & !KNOWN_FEATURES != 0).then_some("it has unknown features"),
        _ => Some("its version is neither 2 nor 3"),
    };
    Some(
        Found::new(Format::Qcow2, VirtualSize::Bytes(size), true)
            .check(Check::BackingFile, (backing_file != 0).then_some("it has a backing file"))
            .check(Check::DataFile, (features & DATA_FILE != 0).then_some("its data is in another file"))
            .check(Check::UnknownFeatures, unknown),
    )
}

#[cfg(test)]
mod tests {
    use super::{
        super::tests::{failed, only},
        *,
    };

    fn header(version: u32, backing_file: u64, features: u64) -> Vec<u8> {
        let mut header = vec![0; 1024];
        header[..4].copy_from_slice(MAGIC);
        header[4..8].copy_from_slice(&version.to_be_bytes());
        header[8..16].copy_from_slice(&backing_file.to_be_bytes());
        header[24..32].copy_from_slice(&(10u64 << 30).to_be_bytes());
        header[72..80].copy_from_slice(&features.to_be_bytes());
        header
    }

    #[test]
    fn the_virtual_size_is_in_the_header() {
        let found = only(&header(3, 0, 0));
        assert_eq!((found.format, found.virtual_size), (Format::Qcow2, VirtualSize::Bytes(10 << 30)));
        assert!(found.complete);
    }

    #[test]
    fn references_to_other_files_and_unknown_features_fail_the_checks() {
        let cases: [(u32, u64, u64, &[&str]); 12] = [
            (2, 0, 0, &[]),
            (3, 0, 0, &[]),
            (3, 0, 0b1011, &[]),
            (2, 0, 1 << 40, &[]),
            (1, 0, 0, &["unknown_features"]),
            (4, 0, 0, &["unknown_features"]),
            (3, 1, 0, &["backing_file"]),
            (3, 0, 0b100, &["data_file"]),
            (2, 0, 0b100, &["data_file"]),
            (3, 0, 1 << 4, &["unknown_features"]),
            (3, 0, 1 << 63, &["unknown_features"]),
            (3, 1, u64::MAX, &["backing_file", "data_file", "unknown_features"]),
        ];
        for (version, backing_file, features, expected) in cases {
            let found = only(&header(version, backing_file, features));
            assert_eq!(failed(&found), expected, "{version} {backing_file} {features:#b}");
        }
    }

    #[test]
    fn content_shorter_than_a_sector_is_not_recognised() {
        assert_eq!(only(&header(3, 0, 0)[..511]).format, Format::Raw);
    }
}
