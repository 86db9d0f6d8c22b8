//! Says of a stream of bytes which disk format it is in, how large a disk it describes, and whether its file is safe to open.
//!
//! An [`Inspector`] is fed chunks of any sizes and looks for every format at once: a file that is two things is a way to
//! smuggle one of them past whoever looks for the other. What it answers depends on the bytes alone, never on how they were
//! cut. It keeps the few regions that formats need, [`MAX_CAPTURED_BYTES`] at the most, and once every format is read or ruled
//! out a chunk costs it an addition. [`verdict`] holds an inspection against what an image claims to be.
//!
//! A format is a file here: it recognises its magic, reads its size and lists what makes it dangerous. Which of its features
//! are dangerous is what oslo.utils 10 refuses, which Glance and Nova trust, and in `vmdk` what QEMU was seen to do beyond
//! that. The module uses nothing else of this crate.

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
pub(crate) use verdict::{Refusal, Rules, early_refusal, verdict};

/// Bytes that one inspector holds, at the most: the longest descriptor of a VMDK, the regions of a VHDX (whose magic can
/// also begin a text, so both can be there at once), and the small heads of the others.
pub(crate) const MAX_CAPTURED_BYTES: usize =
    vmdk::MAX_CAPTURED_BYTES + vhdx::MAX_CAPTURED_BYTES + luks::HEADER + iso::VOLUME;

/// A disk format that content is recognised as; its name is what `disk_format` calls it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Format {
    /// Nothing that we know.
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
    /// QEMU's other format, which nobody uses.
    Qed,
    /// ISO 9660 or UDF: an optical disc.
    Iso,
    /// A disk with a partition table, GPT or MBR.
    Gpt,
    /// A disk that LUKS encrypts.
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

    /// The name in `disk_format` and in messages.
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

/// A safety check; `[image_format] gpt_safety_checks_nonfatal` names them so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Check {
    /// The format is never allowed.
    Banned,
    /// No other file is read below this one.
    BackingFile,
    /// The data is in this file.
    DataFile,
    /// Every feature that a reader must know is one that we know.
    UnknownFeatures,
    /// The descriptor names this file and no other.
    Descriptor,
    /// The footer, which counts more than the header, says the same.
    Footer,
    /// The partition table is one that every reader reads alike.
    Mbr,
    /// The format's version is one that we know.
    Version,
}

impl Check {
    /// The check's name.
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

/// A check that failed, and why, for the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Failure {
    /// Which check.
    pub(crate) check: Check,
    /// What is wrong, in an operator's words.
    pub(crate) reason: &'static str,
}

/// How large the disk is that a file describes, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum VirtualSize {
    /// This large.
    Bytes(u64),
    /// The file does not say, or not yet.
    Unknown,
    /// What the file says is no size.
    Unreadable,
}

/// One format that the content matches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    /// Which format.
    pub(crate) format: Format,
    /// The size of its disk.
    pub(crate) virtual_size: VirtualSize,
    /// Whether all that the format needs was there.
    pub(crate) complete: bool,
    /// The checks that failed.
    pub(crate) failures: Vec<Failure>,
}

impl Found {
    fn new(format: Format, virtual_size: VirtualSize, complete: bool) -> Self {
        Self { format, virtual_size, complete, failures: Vec::new() }
    }

    /// Notes a failure if there is one.
    fn check(mut self, check: Check, reason: Option<&'static str>) -> Self {
        self.failures.extend(reason.map(|reason| Failure { check, reason }));
        self
    }
}

/// What a stream was seen to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Inspection {
    /// The bytes of the stream.
    pub(crate) size: u64,
    /// The formats that match: several where the content is several things, and never none: raw is what nothing else is.
    pub(crate) found: Vec<Found>,
}

/// Looks for every format in a stream.
#[derive(Debug, Clone)]
pub(crate) struct Inspector {
    size: u64,
    head: Region,
    volume: Region,
    vhdx: vhdx::Vhdx,
    vmdk: vmdk::Vmdk,
    /// Nothing that is still to come can be of interest.
    done: bool,
}

impl Inspector {
    /// One at the beginning of a stream.
    pub(crate) fn new() -> Self {
        Self {
            size: 0,
            head: Region::new(0, luks::HEADER),
            volume: Region::new(iso::VOLUME_AT, iso::VOLUME),
            vhdx: vhdx::Vhdx::new(),
            vmdk: vmdk::Vmdk::new(),
            done: false,
        }
    }

    /// Looks at the stream's next bytes. True if more is known than before: then [`early_refusal`] is worth asking.
    pub(crate) fn feed(&mut self, chunk: &[u8]) -> bool {
        let at = self.size;
        self.size += chunk.len() as u64;
        if self.done {
            return false;
        }
        let before = self.milestones();
        self.head.capture(at, chunk);
        self.volume.capture(at, chunk);
        self.vhdx.feed(at, chunk);
        self.vmdk.feed(at, chunk);
        debug_assert!(self.captured_bytes() <= MAX_CAPTURED_BYTES, "{} bytes are held", self.captured_bytes());
        self.done = self.settled() && self.vhdx.done() && self.vmdk.done();
        self.milestones() != before
    }

    /// What is known now, once it is sure which formats match. All that it lists stays true, whatever comes; sizes that are
    /// counted in bytes of the stream, and failures that only the stream's end shows, are still to come.
    pub(crate) fn so_far(&self) -> Option<Inspection> {
        self.settled().then(|| self.inspection(false))
    }

    /// What the stream was, now that it has ended.
    pub(crate) fn finish(mut self) -> Inspection {
        self.vmdk.end();
        self.inspection(true)
    }

    /// Bytes that are held now, never more than [`MAX_CAPTURED_BYTES`].
    pub(crate) fn captured_bytes(&self) -> usize {
        self.head.allocated() + self.volume.allocated() + self.vhdx.captured_bytes() + self.vmdk.captured_bytes()
    }

    /// Whether the formats that match can change no more.
    fn settled(&self) -> bool {
        self.head.complete() && self.volume.complete() && self.vmdk.settled()
    }

    /// What feeding can change, but for bytes that were added to a region.
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
        Inspection { size: self.size, found }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The inspection of some content.
    pub(super) fn inspect(content: &[u8]) -> Inspection {
        let mut inspector = Inspector::new();
        inspector.feed(content);
        inspector.finish()
    }

    /// The one format that some content is in.
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
    fn what_nothing_recognises_is_raw() {
        for content in [&b""[..], b"KDM", b"QFI", b"conect", &[0; 100_000], &[0xFF; 100_000]] {
            let found = only(content);
            assert_eq!((found.format, found.complete), (Format::Raw, true));
            assert_eq!(found.virtual_size, VirtualSize::Bytes(content.len() as u64));
        }
    }

    #[test]
    fn content_that_is_two_formats_is_found_as_both() {
        let mut content = vec![0; 40_000];
        content[..8].copy_from_slice(b"conectix");
        content[510..512].copy_from_slice(&[0x55, 0xAA]);
        let formats: Vec<_> = inspect(&content).found.iter().map(|found| found.format).collect();
        assert_eq!(formats, [Format::Vhd, Format::Gpt]);
    }

    #[test]
    fn raw_data_is_done_with_after_the_last_place_that_a_magic_can_be_at() {
        let mut inspector = Inspector::new();
        inspector.feed(&[0; 32 * 1024]);
        assert!(!inspector.done && inspector.so_far().is_none());
        assert!(inspector.feed(&[0; 2048]), "the last magic is known now");
        assert!(inspector.done && inspector.so_far().is_some());
        assert!(!inspector.feed(&[0; 2048]));
        assert!(inspector.captured_bytes() < 4096, "{}", inspector.captured_bytes());
    }
}
