//! Disks with a partition table. GPT begins with an MBR that protects it, so both are recognised by the MBR's signature.

use super::{Check, Format, Found, VirtualSize, region::array};

/// The boot sector that the table is at the end of.
const SECTOR: usize = 512;
const SIGNATURE: [u8; 2] = [0x55, 0xAA];
/// The four entries of the table.
const ENTRIES_AT: usize = 446;
const ENTRY: usize = 16;
/// The type of the one entry that stands for a GPT.
const PROTECTIVE: u8 = 0xEE;
/// Cylinder, head and sector that this entry begins at.
const PROTECTIVE_START: [u8; 3] = [0, 2, 0];

pub(super) fn recognise(head: &[u8], size: u64) -> Option<Found> {
    let sector = head.get(..SECTOR)?;
    if !sector.ends_with(&SIGNATURE) || is_fat(sector) {
        return None;
    }
    Some(Found::new(Format::Gpt, VirtualSize::Bytes(size), true).check(Check::Mbr, fault(sector)))
}

/// Whether it is the boot record of a FAT file system, which has the same signature: two tables, on a disk that is no floppy.
fn is_fat(sector: &[u8]) -> bool {
    sector[0x10] == 2 && sector[0x15] == 0xF8
}

/// What is wrong with the table.
fn fault(sector: &[u8]) -> Option<&'static str> {
    let mut used = [false; 4];
    let mut protects = false;
    for (entry, used) in sector[ENTRIES_AT..].chunks_exact(ENTRY).zip(&mut used) {
        if ![0x00, 0x80].contains(&entry[0]) {
            return Some("a partition's boot flag is invalid");
        }
        *used = entry[4] != 0;
        if entry[4] == PROTECTIVE {
            protects = true;
            if entry[1..4] != PROTECTIVE_START {
                return Some("the protective partition begins at an invalid CHS address");
            }
            if array(entry, 8) != Some(1u32.to_le_bytes()) {
                return Some("the protective partition does not begin at sector 1");
            }
        }
    }
    if protects && used != [true, false, false, false] {
        return Some("there are partitions beside the protective one");
    }
    (!used.contains(&true)).then_some("there is no partition")
}

#[cfg(test)]
mod tests {
    use super::{
        super::tests::{failed, only},
        *,
    };

    const GPT: [u8; ENTRY] = [0, 0, 2, 0, PROTECTIVE, 0xFF, 0xFF, 0xFF, 1, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF];
    const LINUX: [u8; ENTRY] = [0x80, 0, 33, 3, 0x83, 0, 0, 0, 0, 8, 0, 0, 0, 8, 0, 0];

    fn disk(entries: &[(usize, [u8; ENTRY])]) -> Vec<u8> {
        let mut disk = vec![0; 1000];
        for (n, entry) in entries {
            disk[ENTRIES_AT + n * ENTRY..][..ENTRY].copy_from_slice(entry);
        }
        disk[510..512].copy_from_slice(&SIGNATURE);
        disk
    }

    fn with(mut entry: [u8; ENTRY], at: usize, byte: u8) -> [u8; ENTRY] {
        entry[at] = byte;
        entry
    }

    #[test]
    fn a_table_is_refused_unless_every_reader_reads_it_alike() {
        for (entries, safe) in [
            (&[(0, GPT)][..], true),
            (&[(0, LINUX), (2, LINUX)], true),
            (&[(3, LINUX)], true),
            (&[], false),
            (&[(1, GPT)], false),
            (&[(0, GPT), (1, LINUX)], false),
            (&[(0, GPT), (1, GPT)], false),
            (&[(0, with(LINUX, 0, 0x81))], false),
            (&[(0, LINUX), (3, with([0; ENTRY], 0, 1))], false),
            (&[(0, with(GPT, 2, 1))], false),
            (&[(0, with(GPT, 8, 2))], false),
        ] {
            let found = only(&disk(entries));
            assert_eq!((found.format, found.virtual_size), (Format::Gpt, VirtualSize::Bytes(1000)));
            let expected: &[&str] = if safe { &[] } else { &["mbr"] };
            assert_eq!(failed(&found), expected, "{entries:?}");
        }
    }

    #[test]
    fn a_file_system_is_no_partition_table() {
        let mut disk = disk(&[]);
        disk[0x10] = 2;
        disk[0x15] = 0xF8;
        assert_eq!(only(&disk).format, Format::Raw);
    }
}
