//! Recognises the disk format of a stream of bytes, reads the disk's virtual size, and checks whether the file is safe to open.
//!
//! An [`Inspector`] is fed chunks of any size and tries every format at once, because a file that matches two formats can be used
//! to hide one of them from a program that looks only for the other. The result depends on the bytes alone, never on the sizes of
//! the chunks. The inspector keeps only the regions that the formats need, at most [`MAX_CAPTURED_BYTES`]. Once every format is
//! recognised or ruled out, a chunk costs an addition and a copy of its end. [`verdict()`] compares an inspection with the image's
//! `disk_format`.
//!
//! Each format has a file here, which recognises its magic, reads the virtual size and performs the safety checks. The checks are
//! those of oslo.utils 10, which Glance and Nova use; in `vmdk`, they also cover behaviour that was observed in QEMU. This module
//! depends on no other module of the crate.

mod gpt;
mod iso;
mod luks;
mod qcow2;
mod qed;
mod region;
mod vdi;
mod verdict;
mod vhd;
mod vhdx;
mod vmdk;

use region::Region;
pub(crate) use verdict::{Rejection, Rules, early_rejection, verdict};

/// The maximum number of bytes that one inspector holds: the longest descriptor of a VMDK, the regions of a VHDX, and the short
/// headers of the other formats. The magic of a VHDX can also begin a text descriptor, so the first two can be needed at once.
pub(crate) const MAX_CAPTURED_BYTES: usize =
    vmdk::MAX_CAPTURED_BYTES + vhdx::MAX_CAPTURED_BYTES + luks::HEADER + iso::VOLUME + vhd::FOOTER;

/// A disk format in which content is recognised. The names are those of `disk_format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Format {
    /// Content in none of the other formats.
    Raw,
    /// QEMU's copy-on-write format.
    Qcow2,
    /// Virtual PC's format, also called VPC.
    Vhd,
    /// Hyper-V's format.
    Vhdx,
    /// VMware's format.
    Vmdk,
    /// VirtualBox's format.
    Vdi,
    /// QEMU's enhanced disk format, which is obsolete.
    Qed,
    /// ISO 9660 or UDF: an optical disc.
    Iso,
    /// A disk with a partition table, GPT or MBR.
    Gpt,
    /// A disk encrypted with LUKS.
    Luks,
}

impl Format {
    /// Every format, raw first.
    pub(crate) const ALL: [Self; 10] = [
        Self::Raw,
        Self::Qcow2,
        Self::Vhd,
        Self::Vhdx,
        Self::Vmdk,
        Self::Vdi,
        Self::Qed,
        Self::Iso,
        Self::Gpt,
        Self::Luks,
    ];

    /// The name of the format in `disk_format` and in messages.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
            Self::Vhd => "vhd",
            Self::Vhdx => "vhdx",
            Self::Vmdk => "vmdk",
            Self::Vdi => "vdi",
            Self::Qed => "qed",
            Self::Iso => "iso",
            Self::Gpt => "gpt",
            Self::Luks => "luks",
        }
    }
}

/// A safety check. The names are those of `[image_format] gpt_safety_checks_nonfatal`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Check {
    /// The format is never allowed.
    Banned,
    /// The file has no backing file.
    BackingFile,
    /// The file has no external data file.
    DataFile,
    /// All features of the file that a reader must support are known.
    UnknownFeatures,
    /// The descriptor refers to no other file.
    Descriptor,
    /// The footer, which takes precedence over the header, is equal to it.
    Footer,
    /// The partition table is unambiguous.
    Mbr,
    /// The version of the format is known.
    Version,
}

impl Check {
    /// The name of the check.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Banned => "banned",
            Self::BackingFile => "backing_file",
            Self::DataFile => "data_file",
            Self::UnknownFeatures => "unknown_features",
            Self::Descriptor => "descriptor",
            Self::Footer => "footer",
            Self::Mbr => "mbr",
            Self::Version => "version",
        }
    }
}

/// A safety check that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Failure {
    /// The check.
    pub(crate) check: Check,
    /// What is wrong with the content, for the log.
    pub(crate) reason: &'static str,
}

/// The virtual size: the size of the disk that a file contains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum VirtualSize {
    /// The size in bytes.
    Bytes(u64),
    /// The file does not contain the size, or that part has not arrived yet.
    Unknown,
    /// The size in the file is invalid.
    Unreadable,
}

/// A format that the content matches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    /// The format.
    pub(crate) format: Format,
    /// The size of the disk.
    pub(crate) virtual_size: VirtualSize,
    /// Whether the content has all parts that the checks need.
    pub(crate) complete: bool,
    /// The checks that failed.
    pub(crate) failures: Vec<Failure>,
}

impl Found {
    fn new(format: Format, virtual_size: VirtualSize, complete: bool) -> Self {
        Self { format, virtual_size, complete, failures: Vec::new() }
    }

    /// Adds the failure of a check, if there is a reason for one.
    fn check(mut self, check: Check, reason: Option<&'static str>) -> Self {
        self.failures.extend(reason.map(|reason| Failure { check, reason }));
        self
    }
}

/// The result of inspecting a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Inspection {
    /// The size of the stream in bytes.
    pub(crate) size: u64,
    /// The formats that match; never empty, because content in no other format is raw.
    pub(crate) found: Vec<Found>,
    /// The size of the disk if the content ends like a fixed VHD. Such content also is a raw disk, with the footer as its last
    /// sector.
    pub(crate) fixed_vhd: Option<u64>,
}

/// Tries to recognise every format in a stream.
#[derive(Debug, Clone)]
pub(crate) struct Inspector {
    size: u64,
    head: Region,
    volume: Region,
    vhdx: vhdx::Vhdx,
    vmdk: vmdk::Vmdk,
    tail: vhd::Tail,
    /// The rest of the stream cannot change the result, except for its size and a footer.
    done: bool,
}

impl Inspector {
    /// Creates an inspector for the beginning of a stream.
    pub(crate) fn new() -> Self {
        Self {
            size: 0,
            head: Region::new(0, luks::HEADER),
            volume: Region::new(iso::VOLUME_AT, iso::VOLUME),
            vhdx: vhdx::Vhdx::new(),
            vmdk: vmdk::Vmdk::new(),
            tail: vhd::Tail::new(),
            done: false,
        }
    }

    /// Inspects the next chunk of the stream. Returns true if it may have changed the result of [`early_rejection`].
    pub(crate) fn feed(&mut self, chunk: &[u8]) -> bool {
        let at = self.size;
        self.size += chunk.len() as u64;
        self.tail.feed(chunk);
        if self.done {
            return false;
        }
        let before = self.milestones();
        self.head.capture(at, chunk);
        self.volume.capture(at, chunk);
        self.vhdx.feed(at, chunk);
        self.vmdk.feed(at, chunk);
        debug_assert!(self.captured_bytes() <= MAX_CAPTURED_BYTES, "{} bytes are captured", self.captured_bytes());
        self.done = self.settled() && self.vhdx.done() && self.vmdk.done();
        self.milestones() != before
    }

    /// The preliminary result, once it is certain which formats match. The rest of the stream cannot revoke anything in it. It can
    /// still add failures that depend on the end of the stream, and sizes that depend on the length of the stream are not final.
    pub(crate) fn so_far(&self) -> Option<Inspection> {
        self.settled().then(|| self.inspection(false))
    }

    /// The result, at the end of the stream.
    pub(crate) fn finish(mut self) -> Inspection {
        self.vmdk.end();
        Inspection { fixed_vhd: self.tail.fixed_disk(self.size), ..self.inspection(true) }
    }

    /// The number of bytes that are held, never more than [`MAX_CAPTURED_BYTES`].
    pub(crate) fn captured_bytes(&self) -> usize {
        let regions = self.head.allocated() + self.volume.allocated() + vhd::FOOTER;
        regions + self.vhdx.captured_bytes() + self.vmdk.captured_bytes()
    }

    /// Whether it is certain which formats match.
    fn settled(&self) -> bool {
        self.head.complete() && self.volume.complete() && self.vmdk.settled()
    }

    /// The progress of the inspection. Bytes that are added to an incomplete region do not count as progress.
    fn milestones(&self) -> (bool, bool, usize, usize) {
        (self.head.complete(), self.volume.complete(), self.vhdx.milestone(), self.vmdk.milestone())
    }

    fn inspection(&self, ended: bool) -> Inspection {
        let head = self.head.bytes();
        let matches = [
            qcow2::recognise(head),
            vhd::recognise(head),
            self.vhdx.found(self.size),
            self.vmdk.found(self.size, ended),
            vdi::recognise(head),
            qed::recognise(head, self.size),
            iso::recognise(&self.volume),
            gpt::recognise(head, self.size),
            luks::recognise(head, self.size),
        ];
        let mut found: Vec<_> = matches.into_iter().flatten().collect();
        if found.is_empty() {
            found.push(Found::new(Format::Raw, VirtualSize::Bytes(self.size), true));
        }
        Inspection { size: self.size, found, fixed_vhd: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Inspects content in a single chunk.
    pub(super) fn inspect(content: &[u8]) -> Inspection {
        let mut inspector = Inspector::new();
        inspector.feed(content);
        inspector.finish()
    }

    /// The only format that the content matches.
    pub(super) fn only(content: &[u8]) -> Found {
        let mut found = inspect(content).found;
        assert_eq!(found.len(), 1, "{found:?}");
        found.remove(0)
    }

    /// The names of the checks that failed.
    pub(super) fn failed(found: &Found) -> Vec<&'static str> {
        found.failures.iter().map(|failure| failure.check.as_str()).collect()
    }

    #[test]
    fn unrecognised_content_is_raw() {
        for content in [&b""[..], b"KDM", b"QFI", b"conect", &[0; 100_000], &[0xFF; 100_000]] {
            let found = only(content);
            assert_eq!((found.format, found.complete), (Format::Raw, true));
            assert_eq!(found.virtual_size, VirtualSize::Bytes(content.len() as u64));
        }
    }

    #[test]
    fn content_in_two_formats_is_recognised_as_both() {
        let mut content = vec![0; 40_000];
        content[..8].copy_from_slice(b"conectix");
        content[510..512].copy_from_slice(&[0x55, 0xAA]);
        let formats: Vec<_> = inspect(&content).found.iter().map(|found| found.format).collect();
        assert_eq!(formats, [Format::Vhd, Format::Gpt]);
    }

    #[test]
    fn the_inspection_of_raw_data_ends_after_the_last_possible_magic() {
        let mut inspector = Inspector::new();
        inspector.feed(&[0; 32 * 1024]);
        assert!(!inspector.done && inspector.so_far().is_none());
        assert!(inspector.feed(&[0; 2048]), "the last magic is known now");
        assert!(inspector.done && inspector.so_far().is_some());
        assert!(!inspector.feed(&[0; 2048]));
        assert!(inspector.captured_bytes() < 4096, "{}", inspector.captured_bytes());
    }
}
