//! What becomes of an upload, by what its content was seen to be.

use super::{Check, Format, Inspection, Inspector, VirtualSize};

/// The container format whose content is the disk itself. Others hold what no format here recognises.
const INSPECTED_CONTAINER: &str = "bare";

/// The options of `[image_format]` that a verdict depends on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules<'r> {
    /// `require_image_format_match`: whether content in another format than the image's is refused, and not only noted.
    pub(crate) require_match: bool,
    /// `gpt_safety_checks_nonfatal`: checks that a partition table may fail.
    pub(crate) nonfatal: &'r [String],
}

/// Why an upload is refused; its text is what Glance says with status 415.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    /// The content is in one format, the image claims another.
    #[error("Image disk_format {claimed} does not match stream data {}", .found.as_str())]
    Mismatch {
        /// What the image's `disk_format` says.
        claimed: String,
        /// What the content is.
        found: Format,
    },
    /// The content is several things at once.
    #[error("Multiple formats detected: {}", .0.iter().map(|format| format.as_str()).collect::<Vec<_>>().join(","))]
    SeveralFormats(Vec<Format>),
    /// The content ends before what shows that it is safe.
    #[error("Incomplete file cannot be safety checked")]
    Incomplete,
    /// The content says nonsense where its size should be.
    #[error("Image format inspection failed")]
    Unreadable,
    /// The content is dangerous.
    #[error("Image failed safety checks")]
    Unsafe {
        /// The format that it is in.
        format: Format,
        /// What it failed.
        checks: Vec<Check>,
    },
}

impl Refusal {
    /// Whether it comes only where `require_image_format_match` is set.
    fn is_about_the_match(&self) -> bool {
        !matches!(self, Self::Unsafe { .. })
    }
}

/// The image's `virtual_size` if its content may stay; none where it does not say.
///
/// Content is judged in containers that are `bare`. It must be in the format that the image claims, but for three claims:
/// `raw` may be any one thing (and is as large as the file), `iso` may have a partition table to boot from, and a format that we
/// know nothing of (`ami`, `aki`, `ari`, `ploop`) may be whatever we do not recognise. What is dangerous in the format that was
/// found is refused whatever was claimed.
///
/// # Errors
/// The refusal.
pub(crate) fn verdict(
    inspection: &Inspection,
    disk_format: &str,
    container_format: &str,
    rules: Rules<'_>,
) -> Result<Option<u64>, Refusal> {
    if container_format != INSPECTED_CONTAINER {
        return Ok(None);
    }
    let mut size = None;
    match judge(inspection, disk_format, rules, &mut size) {
        Err(refusal) if rules.require_match || !refusal.is_about_the_match() => Err(refusal),
        Ok(()) | Err(_) => Ok(size.filter(|size| *size > 0)),
    }
}

/// The refusal that is certain while the content still comes: an upload can be cut short with it.
pub(crate) fn early_refusal(
    inspector: &Inspector,
    disk_format: &str,
    container_format: &str,
    rules: Rules<'_>,
) -> Option<Refusal> {
    let refusal = verdict(&inspector.so_far()?, disk_format, container_format, rules).err();
    // What is missing may come yet.
    refusal.filter(|refusal| *refusal != Refusal::Incomplete)
}

/// Sets the size as soon as it is known: it is kept if the refusal is not enforced.
fn judge(inspection: &Inspection, claimed: &str, rules: Rules<'_>, size: &mut Option<u64>) -> Result<(), Refusal> {
    let is_raw = claimed == Format::Raw.as_str();
    let found = match inspection.found.as_slice() {
        [found] => found,
        [disc, table] if (disc.format, table.format) == (Format::Iso, Format::Gpt) && !is_raw => disc,
        several => return Err(Refusal::SeveralFormats(several.iter().map(|found| found.format).collect())),
    };
    if claimed == found.format.as_str() {
        *size = match found.virtual_size {
            // The database has signed numbers.
            VirtualSize::Bytes(bytes) if i64::try_from(bytes).is_err() => return Err(Refusal::Unreadable),
            VirtualSize::Bytes(bytes) => Some(bytes),
            VirtualSize::Unknown => None,
            VirtualSize::Unreadable => return Err(Refusal::Unreadable),
        };
    } else if is_raw {
        *size = Some(inspection.size);
    } else if found.format != Format::Raw || Format::ALL.iter().any(|known| known.as_str() == claimed) {
        return Err(Refusal::Mismatch { claimed: claimed.to_owned(), found: found.format });
    }
    if !found.complete {
        return Err(Refusal::Incomplete);
    }
    let excused =
        |check: Check| found.format == Format::Gpt && rules.nonfatal.iter().any(|name| name == check.as_str());
    let checks: Vec<_> = found.failures.iter().map(|failure| failure.check).filter(|check| !excused(*check)).collect();
    if checks.is_empty() { Ok(()) } else { Err(Refusal::Unsafe { format: found.format, checks }) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspect::{Failure, Found};

    const STRICT: Rules<'_> = Rules { require_match: true, nonfatal: &[] };
    const LENIENT: Rules<'_> = Rules { require_match: false, nonfatal: &[] };

    fn of(found: Vec<Found>) -> Inspection {
        Inspection { size: 1000, found }
    }

    fn found(format: Format, bytes: u64) -> Found {
        Found::new(format, VirtualSize::Bytes(bytes), true)
    }

    fn with(format: Format, check: Check) -> Found {
        found(format, 1).check(check, Some("it is"))
    }

    fn text(result: Result<Option<u64>, Refusal>) -> Result<Option<u64>, String> {
        result.map_err(|refusal| refusal.to_string())
    }

    #[test]
    fn the_claim_must_be_true_but_for_raw_and_what_is_not_known() {
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
            let inspection = of(vec![found(format, 7)]);
            let strict = text(verdict(&inspection, claimed, "bare", STRICT));
            assert_eq!(strict, expected.map_err(str::to_owned), "{format:?} as {claimed}");
            let lenient = text(verdict(&inspection, claimed, "bare", LENIENT));
            assert_eq!(lenient, Ok(expected.unwrap_or_default()), "{format:?} as {claimed}");
        }
    }

    #[test]
    fn other_containers_are_not_looked_into() {
        let inspection = of(vec![with(Format::Qed, Check::Banned)]);
        for container in ["ovf", "ova", "docker", "compressed", "aki", "ari", "ami"] {
            assert_eq!(verdict(&inspection, "qcow2", container, STRICT), Ok(None));
        }
    }

    #[test]
    fn a_disc_with_a_partition_table_is_a_disc_and_nothing_else_is_two_things() {
        let hybrid = of(vec![found(Format::Iso, 7), with(Format::Gpt, Check::Mbr)]);
        assert_eq!(verdict(&hybrid, "iso", "bare", STRICT), Ok(Some(7)));
        let as_raw = text(verdict(&hybrid, "raw", "bare", STRICT));
        assert_eq!(as_raw, Err("Multiple formats detected: iso,gpt".to_owned()));
        assert!(text(verdict(&hybrid, "aki", "bare", STRICT)).is_err_and(|text| text.ends_with("data iso")));
        let both = of(vec![found(Format::Vhd, 7), found(Format::Iso, 7)]);
        let refusal = text(verdict(&both, "iso", "bare", STRICT));
        assert_eq!(refusal, Err("Multiple formats detected: vhd,iso".to_owned()));
        assert_eq!(verdict(&both, "iso", "bare", LENIENT), Ok(None));
    }

    #[test]
    fn what_is_dangerous_is_refused_whatever_is_claimed() {
        for rules in [STRICT, LENIENT] {
            for claimed in ["qcow2", "raw"] {
                let refused = verdict(&of(vec![with(Format::Qcow2, Check::BackingFile)]), claimed, "bare", rules);
                let expected = Refusal::Unsafe { format: Format::Qcow2, checks: vec![Check::BackingFile] };
                assert_eq!(expected.to_string(), "Image failed safety checks");
                assert_eq!(refused, Err(expected));
            }
        }
    }

    #[test]
    fn only_partition_tables_are_excused() {
        let nonfatal = ["mbr".to_owned(), "banned".to_owned()];
        let rules = Rules { nonfatal: &nonfatal, ..STRICT };
        let table = of(vec![with(Format::Gpt, Check::Mbr)]);
        assert_eq!(verdict(&table, "gpt", "bare", rules), Ok(Some(1)));
        assert_eq!(verdict(&table, "raw", "bare", rules), Ok(Some(1000)));
        assert!(matches!(verdict(&table, "raw", "bare", STRICT), Err(Refusal::Unsafe { .. })));
        assert!(verdict(&of(vec![with(Format::Qed, Check::Banned)]), "raw", "bare", rules).is_err());
    }

    #[test]
    fn what_is_cut_or_says_nonsense_is_refused_unless_the_match_is_not_required() {
        let cut = of(vec![Found::new(Format::Vmdk, VirtualSize::Bytes(7), false)]);
        assert_eq!(
            text(verdict(&cut, "vmdk", "bare", STRICT)),
            Err("Incomplete file cannot be safety checked".to_owned())
        );
        assert_eq!(verdict(&cut, "vmdk", "bare", LENIENT), Ok(Some(7)));
        assert_eq!(verdict(&cut, "raw", "bare", LENIENT), Ok(Some(1000)));
        for size in [VirtualSize::Unreadable, VirtualSize::Bytes(u64::MAX)] {
            let nonsense = of(vec![Found::new(Format::Vhdx, size, true)]);
            assert_eq!(
                text(verdict(&nonsense, "vhdx", "bare", STRICT)),
                Err("Image format inspection failed".to_owned())
            );
            assert_eq!(verdict(&nonsense, "vhdx", "bare", LENIENT), Ok(None));
            assert_eq!(verdict(&nonsense, "raw", "bare", STRICT), Ok(Some(1000)));
        }
    }

    #[test]
    fn a_size_of_nothing_is_none() {
        assert_eq!(verdict(&of(vec![found(Format::Qcow2, 0)]), "qcow2", "bare", STRICT), Ok(None));
    }

    #[test]
    fn a_refusal_comes_as_soon_as_it_is_certain_and_not_before() {
        let mut inspector = Inspector::new();
        let mut chunk = vec![0; 32 * 1024];
        chunk[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
        chunk[8] = 1;
        inspector.feed(&chunk);
        assert_eq!(early_refusal(&inspector, "qcow2", "bare", STRICT), None, "it may be a disc too");
        assert!(inspector.feed(&[0; 2048]));
        let refusal = early_refusal(&inspector, "qcow2", "bare", STRICT);
        assert!(matches!(refusal, Some(Refusal::Unsafe { .. })), "{refusal:?}");
        assert_eq!(early_refusal(&inspector, "qcow2", "ovf", STRICT), None);
        assert_eq!(verdict(&inspector.finish(), "qcow2", "bare", STRICT).err(), refusal);
    }

    #[test]
    fn a_failure_has_its_reason() {
        let failure = Failure { check: Check::Mbr, reason: "it is" };
        assert_eq!(with(Format::Gpt, Check::Mbr).failures, [failure]);
    }
}
