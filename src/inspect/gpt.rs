//! Disks with a partition table. A GPT is preceded by a protective MBR, so both are recognised by the MBR's signature.

use super::{Check, Format, Found, VirtualSize, region::array};

/// The size of the boot sector, which ends with the partition table.
const SECTOR: usize = 512;
const SIGNATURE: [u8; 2] = [0x55, 0xAA];
/// The offset of the four entries of the table.
const ENTRIES_AT: usize = 446;
const ENTRY: usize = 16;
/// The type of the entry that protects a GPT.
const PROTECTIVE: u8 = 0xEE;
/// The CHS address at which this entry must begin.
const PROTECTIVE_START: [u8; 3] = [0, 2, 0];

pub(super) fn recognise(head: &[u8], size: u64) -> Option<Found> {
    let sector = head.get(..SECTOR)?;
    if !sector.ends_with(&SIGNATURE) || is_fat(sector) {
        return None;
    }
    Some(Found::new(Format::Gpt, VirtualSize::Bytes(size), true).check(Check::Mbr, fault(sector)))
}

/// Whether the sector is the boot record of a FAT file system, which has the same signature. Such a record has two FATs and is on
/// a fixed disk.
fn is_fat(sector: &[u8]) -> bool {
    sector[0x10] == 2 && sector[0x15] == 0xF8
}

/// The reason why the table fails the check, if it does.
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
        return Some("there are partitions in addition to the protective one");
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
    fn ambiguous_partition_tables_fail_the_check() {
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
    fn a_fat_file_system_is_not_a_partition_table() {
        let mut disk = disk(&[]);
        disk[0x10] = 2;
        disk[0x15] = 0xF8;
        assert_eq!(only(&disk).format, Format::Raw);
    }
}
