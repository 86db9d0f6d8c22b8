//! VHDX: the region table (at 192 KiB) points to the metadata table, which points to the virtual size. All are little-endian.
//!
//! By the specification, each is located behind the table that points to it, so a stream delivers them in the order in which they
//! are needed.

use super::{
    Format, Found, VirtualSize,
    region::{Region, array},
};

const MAGIC: &[u8] = b"vhdxfile";
const REGIONS_AT: u64 = 192 * 1024;
const REGIONS: usize = 64 * 1024;
const REGIONS_SIGNATURE: &[u8] = b"regi";
/// The size of the region table's header, after which its entries begin.
const REGIONS_HEADER: usize = 16;
const METADATA_SIGNATURE: &[u8] = b"metadata";
/// The size of the metadata table's header.
const METADATA_HEADER: usize = 32;
/// The size of the metadata table with the largest number of entries.
const METADATA: u64 = 64 * 1024;
/// The size of an entry of either table: a GUID of 16 bytes, an offset and a length.
const ENTRY: usize = 32;
/// The maximum number of entries of a table.
const MAX_ENTRIES: usize = 2047;
/// The maximum length of an item that is captured. A valid virtual size has 8 bytes.
const MAX_ITEM: u32 = 64 * 1024;
/// The GUID of the metadata table in the region table: 8B7CA206-4790-4B9A-B8FE-575F050F886E.
const METADATA_REGION: [u8; 16] = 0x06A27C8B_9047_9A4B_B8FE_575F050F886E_u128.to_be_bytes();
/// The GUID of the virtual size in the metadata table: 2FA54224-CD1B-4876-B211-5DBED83BF4B8.
const VIRTUAL_DISK_SIZE: [u8; 16] = 0x2442A52F_1BCD_7648_B211_5DBED83BF4B8_u128.to_be_bytes();
/// The longest region, and the next one, which is created before the first is dropped.
pub(super) const MAX_CAPTURED_BYTES: usize = 2 * REGIONS;

/// The part of the file that is captured next.
#[derive(Debug, Clone)]
enum State {
    Magic(Region),
    Regions(Region),
    MetadataHeader(Region),
    Metadata(Region),
    Size(Region),
    /// The tables do not point to the virtual size. The file is complete if it has at least this many bytes.
    NoSize(u64),
    NotVhdx,
}

/// Recognises a VHDX.
#[derive(Debug, Clone)]
pub(super) struct Vhdx(State);

impl Vhdx {
    pub(super) fn new() -> Self {
        Self(State::Magic(Region::new(0, MAGIC.len())))
    }

    pub(super) fn feed(&mut self, at: u64, chunk: &[u8]) {
        loop {
            let (region, after): (_, fn(&Region) -> State) = match &mut self.0 {
                State::Magic(region) => (region, after_magic),
                State::Regions(region) => (region, after_regions),
                State::MetadataHeader(region) => (region, after_metadata_header),
                State::Metadata(region) => (region, after_metadata),
                State::Size(region) => return region.capture(at, chunk),
                State::NoSize(_) | State::NotVhdx => return,
            };
            region.capture(at, chunk);
            if !region.complete() {
                return;
            }
            self.0 = after(region);
        }
    }

    /// Whether the rest of the stream cannot change the result, except by its length.
    pub(super) fn done(&self) -> bool {
        match &self.0 {
            State::Size(region) => region.complete(),
            State::NoSize(_) | State::NotVhdx => true,
            _ => false,
        }
    }

    pub(super) fn found(&self, stream: u64) -> Option<Found> {
        let (size, complete) = match &self.0 {
            State::Magic(_) | State::NotVhdx => return None,
            State::Regions(_) | State::MetadataHeader(_) | State::Metadata(_) => (VirtualSize::Unknown, false),
            State::NoSize(end) => (VirtualSize::Unknown, stream >= *end),
            State::Size(region) if !region.complete() => (VirtualSize::Unknown, false),
            State::Size(region) => match region.bytes().try_into() {
                Ok(size) => (VirtualSize::Bytes(u64::from_le_bytes(size)), true),
                Err(_) => (VirtualSize::Unreadable, true),
            },
        };
        Some(Found::new(Format::Vhdx, size, complete))
    }

    pub(super) fn captured_bytes(&self) -> usize {
        match &self.0 {
            State::Magic(region)
            | State::Regions(region)
            | State::MetadataHeader(region)
            | State::Metadata(region)
            | State::Size(region) => region.allocated(),
            State::NoSize(_) | State::NotVhdx => 0,
        }
    }

    /// A number that changes with each step of progress.
    pub(super) fn milestone(&self) -> usize {
        match &self.0 {
            State::Magic(_) => 0,
            State::Regions(_) => 1,
            State::MetadataHeader(_) => 2,
            State::Metadata(_) => 3,
            State::Size(region) => 4 + usize::from(region.complete()),
            State::NoSize(_) => 6,
            State::NotVhdx => 7,
        }
    }
}

fn after_magic(region: &Region) -> State {
    if region.bytes() == MAGIC { State::Regions(Region::new(REGIONS_AT, REGIONS)) } else { State::NotVhdx }
}

fn after_regions(table: &Region) -> State {
    let bytes = table.bytes();
    let entry = entries(bytes, REGIONS_SIGNATURE, REGIONS_HEADER, array(bytes, 8).map(u32::from_le_bytes))
        .and_then(|mut entries| entries.find(|entry| entry.starts_with(&METADATA_REGION)));
    let Some(offset) = entry.and_then(|entry| array(entry, 16)) else {
        return State::NoSize(REGIONS_AT + REGIONS as u64);
    };
    State::MetadataHeader(following(table, u64::from_le_bytes(offset), METADATA_HEADER))
}

fn after_metadata_header(header: &Region) -> State {
    let count = array(header.bytes(), 10).map_or(0, u16::from_le_bytes);
    if !header.bytes().starts_with(METADATA_SIGNATURE) || usize::from(count) > MAX_ENTRIES {
        return State::NoSize(header.offset().saturating_add(METADATA));
    }
    let mut table = header.clone();
    table.extend_to(METADATA_HEADER + usize::from(count) * ENTRY);
    State::Metadata(table)
}

fn after_metadata(table: &Region) -> State {
    let bytes = table.bytes();
    let entry =
        entries(bytes, METADATA_SIGNATURE, METADATA_HEADER, array(bytes, 10).map(|n| u16::from_le_bytes(n).into()))
            .and_then(|mut entries| entries.find(|entry| entry.starts_with(&VIRTUAL_DISK_SIZE)));
    let place = entry.and_then(|entry| Some((array(entry, 16)?, array(entry, 20)?)));
    let Some((offset, length)) = place else { return State::NoSize(table.offset().saturating_add(METADATA)) };
    let offset = table.offset().saturating_add(u32::from_le_bytes(offset).into());
    State::Size(following(table, offset, u32::from_le_bytes(length).min(MAX_ITEM) as usize))
}

/// The entries of a table, if it is valid.
fn entries<'t>(
    table: &'t [u8],
    signature: &[u8],
    header: usize,
    count: Option<u32>,
) -> Option<impl Iterator<Item = &'t [u8]> + use<'t>> {
    let count = count.and_then(|count| usize::try_from(count).ok()).filter(|count| *count <= MAX_ENTRIES)?;
    let entries = table.get(header..header + count * ENTRY)?;
    table.starts_with(signature).then(|| entries.chunks_exact(ENTRY))
}

/// A region that another one points to. It can overlap the bytes that are captured of the first one. If it begins before the first
/// one, it never becomes complete, even if the current chunk contains it, so that the result does not depend on chunk sizes.
fn following(region: &Region, offset: u64, length: usize) -> Region {
    let offset = if offset < region.offset() { u64::MAX } else { offset };
    let mut next = Region::new(offset, length);
    next.capture(region.offset(), region.bytes());
    next
}

#[cfg(test)]
mod tests {
    use super::{super::tests::only, *};

    const METADATA_AT: usize = 1 << 20;

    /// A file of 1 MiB + 128 KiB, with the virtual size at the beginning of the second half of the metadata region.
    fn file() -> Vec<u8> {
        let mut file = vec![0; METADATA_AT + 128 * 1024];
        file[..8].copy_from_slice(MAGIC);
        let regions = &mut file[192 * 1024..];
        regions[..4].copy_from_slice(REGIONS_SIGNATURE);
        regions[8..12].copy_from_slice(&2u32.to_le_bytes());
        regions[48..64].copy_from_slice(&METADATA_REGION);
        regions[64..72].copy_from_slice(&(METADATA_AT as u64).to_le_bytes());
        let metadata = &mut file[METADATA_AT..];
        metadata[..8].copy_from_slice(METADATA_SIGNATURE);
        metadata[10..12].copy_from_slice(&3u16.to_le_bytes());
        metadata[96..112].copy_from_slice(&VIRTUAL_DISK_SIZE);
        metadata[112..116].copy_from_slice(&(64u32 * 1024).to_le_bytes());
        metadata[116..120].copy_from_slice(&8u32.to_le_bytes());
        metadata[64 * 1024..][..8].copy_from_slice(&(7u64 << 30).to_le_bytes());
        file
    }

    fn with(at: usize, bytes: &[u8]) -> (VirtualSize, bool) {
        let mut file = file();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        let found = only(&file);
        assert_eq!(found.format, Format::Vhdx);
        assert!(found.failures.is_empty());
        (found.virtual_size, found.complete)
    }

    #[test]
    fn the_virtual_size_is_found_through_the_tables() {
        assert_eq!(with(0, MAGIC), (VirtualSize::Bytes(7 << 30), true));
    }

    #[test]
    fn an_invalid_table_leaves_the_virtual_size_unknown() {
        let regions = 192 * 1024;
        for (at, bytes) in [
            (regions, &b"rega"[..]),
            (regions + 8, &2048u32.to_le_bytes()),
            (regions + 8, &0u32.to_le_bytes()),
            (regions + 48, b"another GUID"),
            (METADATA_AT, b"metabata"),
            (METADATA_AT + 10, &2048u16.to_le_bytes()),
            (METADATA_AT + 10, &2u16.to_le_bytes()),
            (METADATA_AT + 96, b"another GUID"),
        ] {
            assert_eq!(with(at, bytes), (VirtualSize::Unknown, true), "{bytes:?} at {at}");
        }
    }

    #[test]
    fn a_size_that_is_not_8_bytes_long_is_unreadable() {
        for length in [0u32, 7, 9, u32::MAX] {
            assert_eq!(with(METADATA_AT + 116, &length.to_le_bytes()), (VirtualSize::Unreadable, true), "{length}");
        }
    }

    #[test]
    fn a_table_can_point_into_itself_but_not_backwards() {
        // An item in the metadata table itself: its signature, read as a number.
        let size = u64::from_le_bytes(*b"metadata");
        assert_eq!(with(METADATA_AT + 112, &0u32.to_le_bytes()), (VirtualSize::Bytes(size), true));
        for offset in [0u64, 190 * 1024, 1 << 40, u64::MAX - 1] {
            assert_eq!(with(192 * 1024 + 64, &offset.to_le_bytes()), (VirtualSize::Unknown, false), "{offset}");
        }
    }

    #[test]
    fn a_truncated_file_is_incomplete() {
        for end in [8, 192 * 1024, 256 * 1024 - 1, METADATA_AT + 31, METADATA_AT + 64 * 1024 + 7] {
            let found = only(&file()[..end]);
            assert_eq!((found.format, found.virtual_size, found.complete), (Format::Vhdx, VirtualSize::Unknown, false));
        }
        assert_eq!(only(&file()[..7]).format, Format::Raw);
    }
}
