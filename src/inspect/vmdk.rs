//! VMDK: a sparse extent (a little-endian header, a text descriptor at offset 512, and possibly a footer), or a descriptor alone.
//!
//! The descriptor can refer to other files, so it is checked strictly: keywords that QEMU searches for anywhere in the text fail
//! the check wherever they are, and every line must be of a known kind.

use super::{
    Check, Format, Found, VirtualSize,
    region::{Region, array},
};

const MAGIC: &[u8] = b"KDMV";
/// The size of the part of the header that contains fields.
const HEADER: usize = 64;
const SECTOR: usize = 512;
/// The only position of the descriptor on which readers agree.
const DESCRIPTOR_SECTOR: u64 = 1;
/// The maximum length of a descriptor that QEMU reads.
const MAX_DESCRIPTOR: usize = (1 << 20) - 1;
/// The length of the area that QEMU searches for a parent, whatever the descriptor's length in the header is.
const PARENT_SEARCH: usize = 20 * SECTOR;
/// The offset of the grain directory that means that the footer contains the offset.
const IN_FOOTER: u64 = u64::MAX;
/// The size of the last sectors: a marker, the footer and the end-of-stream marker.
const TAIL: usize = 3 * SECTOR;
/// The type of the marker that precedes a footer.
const FOOTER_MARKER: u32 = 3;
/// The length of the beginning that must be text before the content is captured as a possible descriptor.
const TEXT_PROBE: usize = 512;
const CREATE_TYPE: &[u8] = b"createType";
/// The kinds of disk that consist of a single file.
const CREATE_TYPES: [&[u8]; 2] = [b"monolithicSparse", b"streamOptimized"];
const PARENT: &[u8] = b"parentFileNameHint";
/// The first word of a line that describes an extent.
const ACCESSES: [&[u8]; 3] = [b"RW", b"RDONLY", b"NOACCESS"];
/// The types of extents that are in this file or have no data.
const EXTENT_TYPES: [&[u8]; 2] = [b"SPARSE", b"ZERO"];
/// The descriptor, the header and the tail.
pub(super) const MAX_CAPTURED_BYTES: usize = MAX_DESCRIPTOR + HEADER + TAIL;

/// The fields of the header of a sparse extent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Header {
    version: u32,
    /// The virtual size in sectors.
    capacity: u64,
    descriptor_sector: u64,
    descriptor_sectors: u64,
    grain_directory: u64,
}

impl Header {
    fn parse(bytes: &[u8]) -> Option<Self> {
        Some(Self {
            version: u32::from_le_bytes(array(bytes, 4)?),
            capacity: u64::from_le_bytes(array(bytes, 12)?),
            descriptor_sector: u64::from_le_bytes(array(bytes, 28)?),
            descriptor_sectors: u64::from_le_bytes(array(bytes, 36)?),
            grain_directory: u64::from_le_bytes(array(bytes, 56)?),
        })
    }

    fn has_footer(&self) -> bool {
        self.grain_directory == IN_FOOTER
    }

    fn descriptor_length(&self) -> usize {
        let length = self.descriptor_sectors.saturating_mul(SECTOR as u64);
        usize::try_from(length).map_or(MAX_DESCRIPTOR, |length| length.min(MAX_DESCRIPTOR))
    }
}

/// The part of the file that is captured next.
#[derive(Debug, Clone)]
enum State {
    Magic(Region),
    Header(Region),
    Descriptor(Header, Region),
    /// A text that may be a descriptor, and how many bytes of it were inspected.
    Text(Region, usize),
    /// The descriptor was checked, and failed for this reason, if any.
    Checked(Option<Header>, Option<&'static str>),
    NotVmdk,
}

/// Recognises a VMDK.
#[derive(Debug, Clone)]
pub(super) struct Vmdk {
    state: State,
    /// The last bytes of the stream so far, as long as they may contain a footer.
    tail: Vec<u8>,
}

impl Vmdk {
    pub(super) fn new() -> Self {
        Self { state: State::Magic(Region::new(0, MAGIC.len())), tail: Vec::new() }
    }

    pub(super) fn feed(&mut self, at: u64, chunk: &[u8]) {
        if self.wants_tail() {
            self.keep_tail(chunk);
        }
        loop {
            let next = match &mut self.state {
                State::Magic(region) => captured(region, at, chunk).then(|| after_magic(region)),
                State::Header(region) => captured(region, at, chunk).then(|| after_header(region)),
                State::Descriptor(header, region) => {
                    captured(region, at, chunk).then(|| State::Checked(Some(*header), embedded_fault(header, region)))
                }
                State::Text(region, seen) => {
                    region.capture(at, chunk);
                    text_ended(region, seen).map(|text| text.map_or(State::NotVmdk, after_text))
                }
                State::Checked(..) | State::NotVmdk => None,
            };
            let Some(next) = next else { break };
            self.state = next;
        }
        if !self.wants_tail() {
            self.tail = Vec::new();
        }
    }

    /// The stream has ended. Checks the descriptor with what was captured.
    pub(super) fn end(&mut self) {
        let next = match &self.state {
            State::Text(region, _) => after_text(region.bytes()),
            State::Descriptor(header, region) if region.bytes().len() >= header.descriptor_length() => {
                State::Checked(Some(*header), embedded_fault(header, region))
            }
            _ => return,
        };
        self.state = next;
    }

    /// Whether it is certain that the content is a VMDK, or that it is not.
    pub(super) fn settled(&self) -> bool {
        matches!(self.state, State::Descriptor(..) | State::Checked(..) | State::NotVmdk)
    }

    /// Whether the rest of the stream cannot change the result.
    pub(super) fn done(&self) -> bool {
        matches!(self.state, State::Checked(..) | State::NotVmdk) && !self.wants_tail()
    }

    pub(super) fn found(&self, stream: u64, ended: bool) -> Option<Found> {
        let unfinished = || Some(Found::new(Format::Vmdk, VirtualSize::Unknown, false));
        let (header, fault) = match &self.state {
            State::Magic(_) | State::Text(..) | State::NotVmdk => return None,
            State::Header(_) | State::Descriptor(..) => return unfinished(),
            State::Checked(header, fault) => (header, fault),
        };
        let size = match header {
            Some(header) if fault.is_none() => {
                header.capacity.checked_mul(SECTOR as u64).map_or(VirtualSize::Unreadable, VirtualSize::Bytes)
            }
            _ => VirtualSize::Unknown,
        };
        let header = header.filter(Header::has_footer);
        let complete = header.is_none() || stream >= TAIL as u64;
        let footer = header.filter(|_| ended && complete).and_then(|header| footer_fault(&header, &self.tail));
        Some(Found::new(Format::Vmdk, size, complete).check(Check::Descriptor, *fault).check(Check::Footer, footer))
    }

    pub(super) fn captured_bytes(&self) -> usize {
        let region = match &self.state {
            State::Magic(region) | State::Header(region) | State::Descriptor(_, region) | State::Text(region, _) => {
                region.allocated()
            }
            State::Checked(..) | State::NotVmdk => 0,
        };
        region + self.tail.capacity()
    }

    /// A number that changes with each step of progress.
    pub(super) fn milestone(&self) -> usize {
        match &self.state {
            State::Magic(_) => 0,
            State::Header(_) => 1,
            State::Text(..) => 2,
            State::Descriptor(..) => 3,
            State::Checked(..) => 4,
            State::NotVmdk => 5,
        }
    }

    fn wants_tail(&self) -> bool {
        match &self.state {
            State::Magic(_) | State::Header(_) => true,
            State::Descriptor(header, _) | State::Checked(Some(header), _) => header.has_footer(),
            State::Checked(None, _) | State::Text(..) | State::NotVmdk => false,
        }
    }

    fn keep_tail(&mut self, chunk: &[u8]) {
        self.tail.reserve_exact(TAIL.saturating_sub(self.tail.len()));
        let new = &chunk[chunk.len().saturating_sub(TAIL)..];
        let old = (self.tail.len() + new.len()).saturating_sub(TAIL);
        self.tail.drain(..old);
        self.tail.extend_from_slice(new);
    }
}

/// Captures bytes of a region from a chunk. Returns whether the region is complete.
fn captured(region: &mut Region, at: u64, chunk: &[u8]) -> bool {
    region.capture(at, chunk);
    region.complete()
}

fn after_magic(magic: &Region) -> State {
    let mut region = magic.clone();
    if magic.bytes() == MAGIC {
        region.extend_to(HEADER);
        State::Header(region)
    } else {
        region.extend_to(MAX_DESCRIPTOR);
        State::Text(region, 0)
    }
}

fn after_header(region: &Region) -> State {
    let Some(header) = Header::parse(region.bytes()) else { return State::NotVmdk };
    if !(1..=3).contains(&header.version) {
        return State::Checked(None, Some("its version is not 1, 2 or 3"));
    }
    if header.descriptor_sector != DESCRIPTOR_SECTOR {
        return State::Checked(None, Some("the descriptor is not at sector 1"));
    }
    let length = header.descriptor_length().max(PARENT_SEARCH);
    State::Descriptor(header, Region::new(SECTOR as u64, length))
}

/// The text at the beginning of a region, once its end is known; `Some(None)` if it is not text. `seen` is the number of bytes that
/// were inspected already.
fn text_ended<'r>(region: &'r Region, seen: &mut usize) -> Option<Option<&'r [u8]>> {
    let bytes = region.bytes();
    let from = std::mem::replace(seen, bytes.len());
    let end = bytes[from..].iter().position(|byte| *byte == 0).map(|end| from + end);
    let probe = &bytes[from.min(TEXT_PROBE)..end.unwrap_or(bytes.len()).min(TEXT_PROBE)];
    if probe.iter().any(|byte| byte.is_ascii_control() && !is_space(*byte)) {
        return Some(None);
    }
    let text = &bytes[..end.unwrap_or(bytes.len())];
    (end.is_some() || region.complete()).then_some(Some(text))
}

/// The next state after a text without a header, which is a descriptor if it has a `createType`.
fn after_text(text: &[u8]) -> State {
    let is_descriptor = occurrences(text, CREATE_TYPE).any(|at| text[at + CREATE_TYPE.len()..].starts_with(b"=\""));
    if is_descriptor { State::Checked(None, descriptor_fault(text, text)) } else { State::NotVmdk }
}

fn embedded_fault(header: &Header, region: &Region) -> Option<&'static str> {
    if header.capacity == 0 {
        // QEMU would then use the extents in the descriptor.
        return Some("the capacity in the header is 0");
    }
    let bytes = region.bytes();
    descriptor_fault(until_nul(&bytes[..header.descriptor_length().min(bytes.len())]), until_nul(bytes))
}

/// The reason why a descriptor fails the check, if it does. `seen` is the whole area that a reader may interpret as the descriptor.
fn descriptor_fault(descriptor: &[u8], seen: &[u8]) -> Option<&'static str> {
    if descriptor.is_empty() {
        return Some("there is no descriptor");
    }
    if !descriptor.is_ascii() {
        return Some("the descriptor is not ASCII");
    }
    let mut create_types = occurrences(seen, CREATE_TYPE).map(|at| create_type(&seen[at + CREATE_TYPE.len()..]));
    let Some(Some(first)) = create_types.next() else { return Some("the disk is not in a single file") };
    if create_types.any(|other| other != Some(first)) {
        return Some("the kind of the disk is ambiguous");
    }
    if occurrences(seen, PARENT).next().is_some() {
        return Some("the disk has a parent");
    }
    let mut extents = 0;
    for line in descriptor.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii) {
        match line_kind(line) {
            Line::Harmless => {}
            Line::Extent => extents += 1,
            Line::OtherExtent => return Some("an extent is, or may be, in another file"),
            Line::Unknown => return Some("the descriptor has a line of an unknown kind"),
        }
    }
    (extents == 0).then_some("the descriptor has no extents")
}

/// The kind of disk that follows the key, if it is an allowed one.
fn create_type(rest: &[u8]) -> Option<&'static [u8]> {
    let value = rest.strip_prefix(b"=\"")?.split(|byte| *byte == b'"').next()?;
    CREATE_TYPES.into_iter().find(|allowed| allowed.eq_ignore_ascii_case(value))
}

enum Line {
    /// An empty line, a comment, an entry of the disk database, or another field.
    Harmless,
    /// An extent in this file.
    Extent,
    OtherExtent,
    Unknown,
}

fn line_kind(line: &[u8]) -> Line {
    let is_ddb = line.first_chunk().is_some_and(|start: &[u8; 3]| start.eq_ignore_ascii_case(b"ddb"));
    if line.is_empty() || line.starts_with(b"#") || is_ddb {
        return Line::Harmless;
    }
    let mut words = line.split(|byte| is_space(*byte)).filter(|word| !word.is_empty());
    let is_one_of = |known: &[&[u8]], word: Option<&[u8]>| {
        word.is_some_and(|word| known.iter().any(|known| known.eq_ignore_ascii_case(word)))
    };
    if is_one_of(&ACCESSES, words.next()) {
        let here = is_one_of(&EXTENT_TYPES, words.nth(1));
        let plain = !line.iter().any(|byte| *byte == b'/' || byte.is_ascii_control());
        return if here && plain { Line::Extent } else { Line::OtherExtent };
    }
    let key = line.iter().position(|byte| *byte == b'=').map(|end| &line[..end]);
    let is_field = key.is_some_and(|key| !key.iter().any(|byte| *byte == b' ' || byte.is_ascii_control()));
    if is_field { Line::Harmless } else { Line::Unknown }
}

/// The reason why the footer fails the check, if it does. If there is a footer, readers use it in place of the header.
fn footer_fault(header: &Header, tail: &[u8]) -> Option<&'static str> {
    let [marker, footer, end] = [0, 1, 2].map(|n| tail.get(n * SECTOR..(n + 1) * SECTOR).unwrap_or_default());
    let Some(fields) = Header::parse(footer).filter(|_| footer.starts_with(MAGIC)) else {
        return Some("the footer is invalid");
    };
    if fields.has_footer() {
        return Some("the footer refers to another footer");
    }
    if (Header { grain_directory: IN_FOOTER, ..fields }) != *header {
        return Some("the footer differs from the header");
    }
    // A marker consists of a value, a size, a type, and zeros.
    let is_marker = |sector: &[u8], kind: u32| {
        array(sector, 8) == Some([0; 4]) && array(sector, 12) == Some(kind.to_le_bytes()) && all_zero(&sector[16..])
    };
    if !is_marker(marker, FOOTER_MARKER) {
        return Some("the marker before the footer is invalid");
    }
    (!all_zero(end)).then_some("the end-of-stream marker is invalid")
}

fn all_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// Whether `isspace` of C accepts the byte.
fn is_space(byte: u8) -> bool {
    byte == b' ' || (b'\t'..=b'\r').contains(&byte)
}

/// The offsets at which a word occurs in a text, ignoring case.
fn occurrences<'t>(text: &'t [u8], word: &'static [u8]) -> impl Iterator<Item = usize> + use<'t> {
    text.windows(word.len()).enumerate().filter(|(_, window)| window.eq_ignore_ascii_case(word)).map(|(at, _)| at)
}

#[cfg(test)]
mod tests {
    use super::{
        super::tests::{failed, only},
        *,
    };

    const SAFE: &str = "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\n\
        createType=\"monolithicSparse\"\n\n# Extent\r\nRW 2048 SPARSE \"disk.vmdk\"\n\nddb.adapterType = \"ide\"\n";

    fn header(capacity: u64, descriptor_sectors: u64, grain_directory: u64) -> Vec<u8> {
        let mut header = vec![0; SECTOR];
        header[..4].copy_from_slice(MAGIC);
        header[4..8].copy_from_slice(&1u32.to_le_bytes());
        header[12..20].copy_from_slice(&capacity.to_le_bytes());
        header[28..36].copy_from_slice(&DESCRIPTOR_SECTOR.to_le_bytes());
        header[36..44].copy_from_slice(&descriptor_sectors.to_le_bytes());
        header[56..64].copy_from_slice(&grain_directory.to_le_bytes());
        header
    }

    /// A sparse extent of 1 MiB with a descriptor of 20 sectors.
    fn disk(descriptor: &str) -> Vec<u8> {
        let mut disk = header(2048, 20, 21);
        disk.extend(descriptor.as_bytes());
        disk.resize(64 * 1024, 0);
        disk
    }

    fn with_footer() -> Vec<u8> {
        let mut disk = disk(SAFE);
        disk[56..64].copy_from_slice(&IN_FOOTER.to_le_bytes());
        let marker = disk.len();
        disk.resize(marker + SECTOR, 0);
        disk[marker + 12] = 3;
        disk.extend(header(2048, 20, 21));
        disk.resize(marker + TAIL, 0);
        disk
    }

    #[test]
    fn a_disk_in_a_single_file_is_safe() {
        let found = only(&disk(SAFE));
        assert_eq!((found.format, found.virtual_size), (Format::Vmdk, VirtualSize::Bytes(1 << 20)));
        assert_eq!((found.complete, failed(&found)), (true, vec![]));
        let optimized = SAFE.replace("monolithicSparse", "streamOptimized").replace("RW", "RDONLY");
        assert_eq!(failed(&only(&disk(&optimized))), [""; 0]);
    }

    #[test]
    fn descriptors_that_may_refer_to_other_files_fail_the_check() {
        let line = |line: &str| format!("{SAFE}{line}\n");
        for descriptor in [
            String::new(),
            "version=1\n".to_owned(),
            SAFE.replace("RW 2048 SPARSE \"disk.vmdk\"\n", ""),
            SAFE.replace("monolithicSparse", "monolithicFlat"),
            SAFE.replace("monolithicSparse", "twoGbMaxExtentSparse"),
            SAFE.replace("monolithicSparse\"", "monolithicSparse"),
            SAFE.replace("createType=", "createType ="),
            SAFE.replace("disk.vmdk", "/etc/passwd"),
            SAFE.replace("disk.vmdk", "../disk.vmdk"),
            SAFE.replace("SPARSE", "FLAT"),
            SAFE.replace("disk.vmdk", "d\u{e9}sk.vmdk"),
            line("RW 1 FLAT \"passwd\" 0"),
            line("rw 1 vmfs \"passwd\""),
            // QEMU also splits at tabs, and skips lines that it does not understand.
            line("RW\t1\tFLAT\t\"/etc/passwd\"\t0\t="),
            line("RW\u{b}1\u{b}FLAT\u{b}\"/etc/passwd\"\u{b}0\u{b}="),
            line("RW"),
            line("something else"),
            line("some thing=else"),
            // QEMU uses the first one that matches in case.
            format!("createtype=\"monolithicSparse\"\ncreateType=\"monolithicFlat\"\n{SAFE}"),
            line("createType=\"streamOptimized\""),
            // QEMU finds a parent anywhere.
            line("parentFileNameHint=\"/etc/passwd\""),
            line("# parentFileNameHint=\"base\""),
            line("ddb.PARENTFILENAMEHINT=\"base\""),
        ] {
            let found = only(&disk(&descriptor));
            assert_eq!((found.format, failed(&found)), (Format::Vmdk, vec!["descriptor"]), "{descriptor}");
        }
    }

    #[test]
    fn a_parent_after_the_descriptor_is_found_as_by_qemu() {
        let mut disk = header(2048, 1, 21);
        disk.extend(SAFE.as_bytes());
        disk.resize(2 * SECTOR, b'\n');
        let mut harmless = disk.clone();
        harmless.resize(64 * 1024, 0);
        assert_eq!(failed(&only(&harmless)), [""; 0]);
        disk.extend(b"parentFileNameHint=\"/etc/passwd\"\n");
        disk.resize(64 * 1024, 0);
        assert_eq!(failed(&only(&disk)), ["descriptor"]);
    }

    #[test]
    fn headers_on_which_readers_disagree_fail_the_check() {
        for (at, bytes) in [(4, 0u64), (4, 4), (12, 0), (28, 0), (28, 2), (36, 0)] {
            let mut disk = disk(SAFE);
            let length = if at == 4 { 4 } else { 8 };
            disk[at..at + length].copy_from_slice(&bytes.to_le_bytes()[..length]);
            let found = only(&disk);
            assert_eq!((failed(&found), found.complete), (vec!["descriptor"], true), "{bytes} at {at}");
        }
        let mut disk = disk(SAFE);
        disk[12..20].copy_from_slice(&u64::MAX.to_le_bytes());
        assert_eq!(only(&disk).virtual_size, VirtualSize::Unreadable);
    }

    #[test]
    fn a_truncated_descriptor_is_incomplete() {
        for end in [4, 63, 64, 512, 21 * SECTOR - 1] {
            let found = only(&disk(SAFE)[..end]);
            assert_eq!((found.format, found.complete), (Format::Vmdk, false), "{end}");
        }
        assert!(only(&disk(SAFE)[..21 * SECTOR]).complete);
    }

    #[test]
    fn a_footer_must_equal_the_header() {
        let disk = with_footer();
        let found = only(&disk);
        assert_eq!((found.virtual_size, failed(&found)), (VirtualSize::Bytes(1 << 20), vec![]));
        let marker = disk.len() - TAIL;
        let footer = marker + SECTOR;
        for (at, byte) in [
            (marker + 8, 1),
            (marker + 12, 0),
            (marker + 100, 1),
            (footer, b'k'),
            (footer + 4, 2),
            (footer + 12, 1),
            (footer + 28, 2),
            (footer + 36, 1),
            (footer + SECTOR, 1),
            (disk.len() - 1, 1),
        ] {
            let mut disk = disk.clone();
            disk[at] = byte;
            assert_eq!(failed(&only(&disk)), ["footer"], "{byte} at {at}");
        }
        let mut another = disk.clone();
        another[footer + 56..footer + 64].copy_from_slice(&IN_FOOTER.to_le_bytes());
        assert_eq!(failed(&only(&another)), ["footer"]);
    }

    #[test]
    fn a_text_is_a_descriptor_if_it_has_a_create_type() {
        assert_eq!(only(b"#!/bin/sh\necho hello\n").format, Format::Raw);
        assert_eq!(only(b"\x01createType=\"vmfs\"").format, Format::Raw);
        let flat = SAFE.replace("monolithicSparse", "monolithicFlat");
        let unicode = format!("# \u{e9}\n{flat}");
        let padded = format!("{flat}\0\0\0\x01\x02");
        let late = format!("{}{flat}", "#\n".repeat(500_000));
        for text in [&flat, &unicode, &padded, &late] {
            let found = only(text.as_bytes());
            assert_eq!((found.format, failed(&found)), (Format::Vmdk, vec!["descriptor"]));
        }
        let safe = only(SAFE.as_bytes());
        assert_eq!((safe.format, safe.virtual_size, failed(&safe)), (Format::Vmdk, VirtualSize::Unknown, vec![]));
    }
}
