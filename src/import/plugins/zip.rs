//! Finds the only file of a ZIP archive. It reads a bounded number of bytes: the end of the archive, and the entry of one file. A
//! reader of whole directories would need memory for all files that a hostile archive claims to have.

use std::{
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom},
};

/// The size of the record at the end of an archive, without its comment.
const END: usize = 22;
/// The size of the record that says where a ZIP64 archive's end record is; it comes before [`END`].
const LOCATOR: usize = 20;
/// The size of a ZIP64 archive's end record.
const END64: usize = 56;
/// The size of a file's entry in the directory, without the name, the extra fields and the comment.
const ENTRY: usize = 46;
/// The size of the header before a file's data, without the name and the extra fields.
const HEADER: usize = 30;
/// The maximum length of the archive's comment.
const MAX_COMMENT: usize = 0xFFFF;

/// How a file is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    Stored,
    Deflated,
}

/// The file of an archive.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) method: Method,
    /// The number of bytes in the archive.
    pub(super) compressed: u64,
    /// The size of the file in bytes.
    pub(super) size: u64,
    /// The file's checksum.
    pub(super) crc: u32,
}

/// Finds the only file of an archive, and moves to the beginning of its data.
///
/// # Errors
/// `InvalidData` and `UnexpectedEof` if it is not an archive of one file that can be extracted.
pub(super) fn only_entry(archive: &mut File) -> io::Result<Entry> {
    let directory = find_directory(archive)?;
    if directory.entries != 1 || directory.size < ENTRY as u64 {
        return Err(several());
    }
    let entry = read_at(archive, directory.offset, ENTRY)?;
    expect(&entry, 0, b"PK\x01\x02")?;
    let lengths = [28, 30, 32].map(|at| usize::from(u16_at(&entry, at)));
    let [name, extra, comment] = lengths;
    if directory.size != (ENTRY + name + extra + comment) as u64 {
        return Err(several());
    }
    let rest = read_at(archive, directory.offset + ENTRY as u64, name + extra)?;
    if u16_at(&entry, 8) & 1 != 0 {
        return Err(invalid("its file is encrypted"));
    }
    if rest[..name].ends_with(b"/") {
        return Err(invalid("it contains a directory"));
    }
    let method = match u16_at(&entry, 10) {
        0 => Method::Stored,
        8 => Method::Deflated,
        _ => return Err(invalid("its compression method is not supported")),
    };
    let sizes = [u32_at(&entry, 24), u32_at(&entry, 20), u32_at(&entry, 42)];
    let [size, compressed, header] = with_large_fields(sizes, &rest[name..])?;
    let local = read_at(archive, header, HEADER)?;
    expect(&local, 0, b"PK\x03\x04")?;
    let skipped = usize::from(u16_at(&local, 26)) + usize::from(u16_at(&local, 28));
    let data = header.checked_add((HEADER + skipped) as u64).ok_or_else(|| invalid("its file is missing"))?;
    archive.seek(SeekFrom::Start(data))?;
    Ok(Entry { method, compressed, size, crc: u32_at(&entry, 16) })
}

/// Where the directory of an archive is.
struct Directory {
    entries: u64,
    /// In bytes.
    size: u64,
    /// In bytes from the beginning.
    offset: u64,
}

fn find_directory(archive: &mut File) -> io::Result<Directory> {
    let length = archive.seek(SeekFrom::End(0))?;
    let searched = usize::try_from(length).unwrap_or(usize::MAX).min(LOCATOR + END + MAX_COMMENT);
    let tail = read_at(archive, length - searched as u64, searched)?;
    let starts = (0..=tail.len().saturating_sub(END)).rev();
    let missing = || invalid("its end is missing");
    let at = starts.into_iter().find(|at| tail[*at..].starts_with(b"PK\x05\x06")).ok_or_else(missing)?;
    let end = tail.get(at..at + END).ok_or_else(missing)?;
    let small =
        Directory { entries: u16_at(end, 10).into(), size: u32_at(end, 12).into(), offset: u32_at(end, 16).into() };
    let locator = at.checked_sub(LOCATOR).map(|start| &tail[start..at]);
    match locator.filter(|locator| locator.starts_with(b"PK\x06\x07")) {
        None => Ok(small),
        Some(locator) => {
            let end = read_at(archive, u64_at(locator, 8), END64)?;
            expect(&end, 0, b"PK\x06\x06")?;
            Ok(Directory { entries: u64_at(&end, 32), size: u64_at(&end, 40), offset: u64_at(&end, 48) })
        }
    }
}

/// Replaces the fields that need 64 bits by those of the ZIP64 extra field, which has only these, in the same order.
fn with_large_fields(fields: [u32; 3], mut extra: &[u8]) -> io::Result<[u64; 3]> {
    let mut large: &[u8] = &[];
    while let Some((head, rest)) = extra.split_at_checked(4) {
        let length = usize::from(u16_at(head, 2));
        let (field, rest) = rest.split_at_checked(length).ok_or_else(|| invalid("an extra field is truncated"))?;
        if u16_at(head, 0) == 1 {
            large = field;
        }
        extra = rest;
    }
    let mut all = fields.map(u64::from);
    for field in all.iter_mut().filter(|field| **field == u64::from(u32::MAX)) {
        let (head, rest) = large.split_at_checked(8).ok_or_else(|| invalid("a size is missing"))?;
        *field = u64_at(head, 0);
        large = rest;
    }
    Ok(all)
}

fn invalid(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

/// Glance's sentence.
fn several() -> io::Error {
    invalid("Archive contains more than one file.")
}

fn expect(bytes: &[u8], at: usize, magic: &[u8]) -> io::Result<()> {
    if bytes[at..].starts_with(magic) { Ok(()) } else { Err(invalid("its directory is damaged")) }
}

fn read_at(archive: &mut File, offset: u64, length: usize) -> io::Result<Vec<u8>> {
    archive.seek(SeekFrom::Start(offset)).map_err(|_| invalid("its directory is damaged"))?;
    let mut bytes = vec![0; length];
    archive.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at + 2)) << 16
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}
