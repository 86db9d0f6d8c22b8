//! Decides whether uploaded content is accepted, given the formats in which it was recognised.

use super::{Check, Format, Inspection, Inspector, VirtualSize};

/// The container format whose content is the disk itself. Content of other containers is not inspected.
const INSPECTED_CONTAINER: &str = "bare";

/// The options of `[image_format]` that the verdict depends on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules<'r> {
    /// `require_image_format_match`: whether content in another format than the image's is rejected. Otherwise it is accepted.
    pub(crate) require_match: bool,
    /// `gpt_safety_checks_nonfatal`: checks that a partition table is allowed to fail.
    pub(crate) nonfatal: &'r [String],
}

/// Why content is rejected. The texts are those that Glance returns with status 415.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Rejection {
    /// The content is in another format than the image's `disk_format`.
    #[error("Image disk_format {claimed} does not match stream data {}", .found.as_str())]
    Mismatch {
        /// The image's `disk_format`.
        claimed: String,
        /// The format of the content.
        found: Format,
    },
    /// The content matches several formats at once.
    #[error("Multiple formats detected: {}", .0.iter().map(|format| format.as_str()).collect::<Vec<_>>().join(","))]
    SeveralFormats(Vec<Format>),
    /// The content is truncated, so its safety cannot be checked.
    #[error("Incomplete file cannot be safety checked")]
    Incomplete,
    /// The virtual size in the content is invalid.
    #[error("Image format inspection failed")]
    Unreadable,
    /// The content failed safety checks.
    #[error("Image failed safety checks")]
    Unsafe {
        /// The format of the content.
        format: Format,
        /// The checks that failed.
        checks: Vec<Check>,
    },
}

impl Rejection {
    /// Whether the content is rejected for this reason only if `require_image_format_match` is set.
    fn requires_match(&self) -> bool {
        !matches!(self, Self::Unsafe { .. })
    }
}

/// Decides whether the content is accepted. Returns the image's `virtual_size`, or `None` if the content does not contain it.
///
/// Only content of `bare` containers is inspected. Its format must be the image's `disk_format`, with four exceptions: `raw`
/// accepts content in any single format, and its virtual size is the size of the file; `vhd` accepts a raw disk, with or without a
/// partition table, that has the footer of a fixed VHD; `iso` accepts a partition table for booting in addition; a format that the
/// inspector does not know (`ami`, `aki`, `ari`, `ploop`) accepts any content that it does not recognise. Content that fails a
/// safety check of its own format is rejected whatever the image's `disk_format` is.
///
/// # Errors
/// The reason for the rejection.
pub(crate) fn verdict(
    inspection: &Inspection,
    disk_format: &str,
    container_format: &str,
    rules: Rules<'_>,
) -> Result<Option<u64>, Rejection> {
    if container_format != INSPECTED_CONTAINER {
        return Ok(None);
    }
    let mut size = None;
    match check(inspection, disk_format, rules, &mut size) {
        Err(rejection) if rules.require_match || !rejection.requires_match() => Err(rejection),
        Ok(()) | Err(_) => Ok(size.filter(|size| *size > 0)),
    }
}

/// The rejection that is already certain while the upload continues, so that it can be aborted.
pub(crate) fn early_rejection(
    inspector: &Inspector,
    disk_format: &str,
    container_format: &str,
    rules: Rules<'_>,
) -> Option<Rejection> {
    let rejection = verdict(&inspector.so_far()?, disk_format, container_format, rules).err();
    rejection.filter(|rejection| match rejection {
        // The missing part may still arrive.
        Rejection::Incomplete => false,
        // The footer may still arrive.
        Rejection::Mismatch { claimed, found } => !can_be_fixed_vhd(claimed, *found),
        _ => true,
    })
}

/// Whether content that was recognised in this format can be a fixed VHD, if it has the footer.
fn can_be_fixed_vhd(claimed: &str, found: Format) -> bool {
    claimed == Format::Vhd.as_str() && matches!(found, Format::Raw | Format::Gpt)
}

/// Checks the content. Sets the size as soon as it is known, because it is used even if the rejection is not enforced.
fn check(inspection: &Inspection, claimed: &str, rules: Rules<'_>, size: &mut Option<u64>) -> Result<(), Rejection> {
    let is_raw = claimed == Format::Raw.as_str();
    let found = match inspection.found.as_slice() {
        [found] => found,
        [disc, table] if (disc.format, table.format) == (Format::Iso, Format::Gpt) && !is_raw => disc,
        several => return Err(Rejection::SeveralFormats(several.iter().map(|found| found.format).collect())),
    };
    if claimed == found.format.as_str() {
        *size = match found.virtual_size {
            // The database column is a signed integer.
            VirtualSize::Bytes(bytes) if i64::try_from(bytes).is_err() => return Err(Rejection::Unreadable),
            VirtualSize::Bytes(bytes) => Some(bytes),
            VirtualSize::Unknown => None,
            VirtualSize::Unreadable => return Err(Rejection::Unreadable),
        };
    } else if is_raw {
        *size = Some(inspection.size);
    } else if let (Some(bytes), true) = (inspection.fixed_vhd, can_be_fixed_vhd(claimed, found.format)) {
        *size = Some(bytes);
    } else if found.format != Format::Raw || Format::ALL.iter().any(|known| known.as_str() == claimed) {
        return Err(Rejection::Mismatch { claimed: claimed.to_owned(), found: found.format });
    }
    if !found.complete {
        return Err(Rejection::Incomplete);
    }
    let excused =
        |check: Check| found.format == Format::Gpt && rules.nonfatal.iter().any(|name| name == check.as_str());
    let checks: Vec<_> = found.failures.iter().map(|failure| failure.check).filter(|check| !excused(*check)).collect();
    if checks.is_empty() { Ok(()) } else { Err(Rejection::Unsafe { format: found.format, checks }) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspect::{Failure, Found};

    const STRICT: Rules<'_> = Rules { require_match: true, nonfatal: &[] };
    const LENIENT: Rules<'_> = Rules { require_match: false, nonfatal: &[] };

    fn inspection_of(found: Vec<Found>) -> Inspection {
        Inspection { size: 1000, found, fixed_vhd: None }
    }

    fn found(format: Format, bytes: u64) -> Found {
        Found::new(format, VirtualSize::Bytes(bytes), true)
    }

    fn with(format: Format, check: Check) -> Found {
        found(format, 1).check(check, Some("it is"))
    }

    fn message(result: Result<Option<u64>, Rejection>) -> Result<Option<u64>, String> {
        result.map_err(|rejection| rejection.to_string())
    }

    #[test]
    fn a_fixed_vhd_is_accepted_as_vhd_and_as_raw() {
        for (format, claimed, expected) in [
            (Format::Raw, "vhd", Ok(Some(488))),
            (Format::Gpt, "vhd", Ok(Some(488))),
            (Format::Raw, "raw", Ok(Some(1000))),
            (Format::Qcow2, "vhd", Err("Image disk_format vhd does not match stream data qcow2")),
            (Format::Raw, "vhdx", Err("Image disk_format vhdx does not match stream data raw")),
        ] {
            let inspection = Inspection { fixed_vhd: Some(488), ..inspection_of(vec![found(format, 1000)]) };
            let expected = expected.map_err(str::to_owned);
            assert_eq!(message(verdict(&inspection, claimed, "bare", STRICT)), expected, "{format:?} as {claimed}");
        }
        let unsafe_table = Inspection { fixed_vhd: Some(488), ..inspection_of(vec![with(Format::Gpt, Check::Mbr)]) };
        assert!(verdict(&unsafe_table, "vhd", "bare", STRICT).is_err());
        let mut inspector = Inspector::new();
        inspector.feed(&[0; 100_000]);
        assert_eq!(early_rejection(&inspector, "vhd", "bare", STRICT), None);
        assert!(early_rejection(&inspector, "vhdx", "bare", STRICT).is_some());
    }

    #[test]
    fn content_must_match_the_disk_format_except_for_raw_and_unknown_formats() {
        for (format, claimed, expected) in [
            (Format::Qcow2, "qcow2", Ok(Some(7))),
            (Format::Raw, "raw", Ok(Some(7))),
            (Format::Gpt, "gpt", Ok(Some(7))),
            (Format::Gpt, "raw", Ok(Some(1000))),
            (Format::Qcow2, "raw", Ok(Some(1000))),
            (Format::Raw, "aki", Ok(None)),
            (Format::Raw, "ami", Ok(None)),
            (Format::Raw, "ploop", Ok(None)),
            (Format::Raw, "qcow2", Err("Image disk_format qcow2 does not match stream data raw")),
            (Format::Gpt, "aki", Err("Image disk_format aki does not match stream data gpt")),
            (Format::Qcow2, "ami", Err("Image disk_format ami does not match stream data qcow2")),
            (Format::Vhdx, "vhd", Err("Image disk_format vhd does not match stream data vhdx")),
        ] {
            let inspection = inspection_of(vec![found(format, 7)]);
            let strict = message(verdict(&inspection, claimed, "bare", STRICT));
            assert_eq!(strict, expected.map_err(str::to_owned), "{format:?} as {claimed}");
            let lenient = message(verdict(&inspection, claimed, "bare", LENIENT));
            assert_eq!(lenient, Ok(expected.unwrap_or_default()), "{format:?} as {claimed}");
        }
    }

    #[test]
    fn only_bare_containers_are_inspected() {
        let inspection = inspection_of(vec![with(Format::Qed, Check::Banned)]);
        for container in ["ovf", "ova", "docker", "compressed", "aki", "ari", "ami"] {
            assert_eq!(verdict(&inspection, "qcow2", container, STRICT), Ok(None));
        }
    }

    #[test]
    fn only_a_disc_with_a_partition_table_is_accepted_in_two_formats() {
        let hybrid = inspection_of(vec![found(Format::Iso, 7), with(Format::Gpt, Check::Mbr)]);
        assert_eq!(verdict(&hybrid, "iso", "bare", STRICT), Ok(Some(7)));
        let as_raw = message(verdict(&hybrid, "raw", "bare", STRICT));
        assert_eq!(as_raw, Err("Multiple formats detected: iso,gpt".to_owned()));
        assert!(message(verdict(&hybrid, "aki", "bare", STRICT)).is_err_and(|text| text.ends_with("data iso")));
        let both = inspection_of(vec![found(Format::Vhd, 7), found(Format::Iso, 7)]);
        let rejection = message(verdict(&both, "iso", "bare", STRICT));
        assert_eq!(rejection, Err("Multiple formats detected: vhd,iso".to_owned()));
        assert_eq!(verdict(&both, "iso", "bare", LENIENT), Ok(None));
    }

    #[test]
    fn unsafe_content_is_rejected_for_any_disk_format() {
        for rules in [STRICT, LENIENT] {
            for claimed in ["qcow2", "raw"] {
                let refused =
                    verdict(&inspection_of(vec![with(Format::Qcow2, Check::BackingFile)]), claimed, "bare", rules);
                let expected = Rejection::Unsafe { format: Format::Qcow2, checks: vec![Check::BackingFile] };
                assert_eq!(expected.to_string(), "Image failed safety checks");
                assert_eq!(refused, Err(expected));
            }
        }
    }

    #[test]
    fn only_checks_of_partition_tables_can_be_nonfatal() {
        let nonfatal = ["mbr".to_owned(), "banned".to_owned()];
        let rules = Rules { nonfatal: &nonfatal, ..STRICT };
        let table = inspection_of(vec![with(Format::Gpt, Check::Mbr)]);
        assert_eq!(verdict(&table, "gpt", "bare", rules), Ok(Some(1)));
        assert_eq!(verdict(&table, "raw", "bare", rules), Ok(Some(1000)));
        assert!(matches!(verdict(&table, "raw", "bare", STRICT), Err(Rejection::Unsafe { .. })));
        assert!(verdict(&inspection_of(vec![with(Format::Qed, Check::Banned)]), "raw", "bare", rules).is_err());
    }

    #[test]
    fn truncated_content_and_invalid_sizes_are_rejected_if_a_match_is_required() {
        let cut = inspection_of(vec![Found::new(Format::Vmdk, VirtualSize::Bytes(7), false)]);
        assert_eq!(
            message(verdict(&cut, "vmdk", "bare", STRICT)),
            Err("Incomplete file cannot be safety checked".to_owned())
        );
        assert_eq!(verdict(&cut, "vmdk", "bare", LENIENT), Ok(Some(7)));
        assert_eq!(verdict(&cut, "raw", "bare", LENIENT), Ok(Some(1000)));
        for size in [VirtualSize::Unreadable, VirtualSize::Bytes(u64::MAX)] {
            let nonsense = inspection_of(vec![Found::new(Format::Vhdx, size, true)]);
            assert_eq!(
                message(verdict(&nonsense, "vhdx", "bare", STRICT)),
                Err("Image format inspection failed".to_owned())
            );
            assert_eq!(verdict(&nonsense, "vhdx", "bare", LENIENT), Ok(None));
            assert_eq!(verdict(&nonsense, "raw", "bare", STRICT), Ok(Some(1000)));
        }
    }

    #[test]
    fn a_virtual_size_of_0_is_none() {
        assert_eq!(verdict(&inspection_of(vec![found(Format::Qcow2, 0)]), "qcow2", "bare", STRICT), Ok(None));
    }

    #[test]
    fn an_early_rejection_comes_once_it_is_certain_and_not_before() {
        let mut inspector = Inspector::new();
        let mut chunk = vec![0; 32 * 1024];
        chunk[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
        chunk[8] = 1;
        inspector.feed(&chunk);
        assert_eq!(early_rejection(&inspector, "qcow2", "bare", STRICT), None, "the content could still be a disc too");
        assert!(inspector.feed(&[0; 2048]));
        let rejection = early_rejection(&inspector, "qcow2", "bare", STRICT);
        assert!(matches!(rejection, Some(Rejection::Unsafe { .. })), "{rejection:?}");
        assert_eq!(early_rejection(&inspector, "qcow2", "ovf", STRICT), None);
        assert_eq!(verdict(&inspector.finish(), "qcow2", "bare", STRICT).err(), rejection);
    }

    #[test]
    fn a_failure_has_its_reason() {
        let failure = Failure { check: Check::Mbr, reason: "it is" };
        assert_eq!(with(Format::Gpt, Check::Mbr).failures, [failure]);
    }
}
