//! Properties of an inspection that must hold for any content: it never panics, its result does not depend on chunk
//! boundaries, it uses little memory, and an early result is the same as the final one.

use crate::inspect::{Format, Inspection, Inspector, MAX_CAPTURED_BYTES, Rules, early_rejection, verdict};

/// Inspects content in one piece and in pieces of these sizes, repeatedly.
pub(crate) fn exercise(content: &[u8], sizes: &[usize]) -> Inspection {
    let mut whole = Inspector::new();
    whole.feed(content);
    let inspection = whole.finish();

    let mut pieces = Inspector::new();
    let mut early = Vec::new();
    let mut rest = content;
    for size in sizes.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (chunk, more) = rest.split_at((*size).clamp(1, rest.len()));
        rest = more;
        if pieces.feed(chunk) {
            early.extend(claims().filter_map(|(claimed, rules)| {
                Some((claimed, rules, early_rejection(&pieces, claimed, "bare", rules)?))
            }));
        }
        assert!(pieces.captured_bytes() <= MAX_CAPTURED_BYTES, "{} bytes are held", pieces.captured_bytes());
    }
    let in_pieces = pieces.finish();
    assert_eq!(in_pieces, inspection, "in pieces of {sizes:?}");

    assert!(!inspection.found.is_empty());
    for (claimed, rules) in claims() {
        let _ = verdict(&inspection, claimed, "bare", rules);
    }
    for (claimed, rules, refusal) in early {
        let last = verdict(&inspection, claimed, "bare", rules).map_err(|last| last.to_string());
        assert_eq!(last, Err(refusal.to_string()), "as {claimed}");
    }
    inspection
}

/// All formats that an image may claim, with either strictness.
fn claims() -> impl Iterator<Item = (&'static str, Rules<'static>)> {
    let formats = Format::ALL.iter().map(|format| format.as_str()).chain(["aki"]);
    formats.flat_map(|claimed| [true, false].map(|require_match| (claimed, Rules { require_match, nonfatal: &[] })))
}

/// Content that begins like a format and continues with arbitrary data in the places that the format interprets.
pub(crate) fn content(format: Format, data: &[u8]) -> Vec<u8> {
    let (data_at, places): (usize, &[(usize, &[u8])]) = match format {
        Format::Raw => (0, &[]),
        Format::Qcow2 => (4, &[(0, b"QFI\xfb")]),
        Format::Vhd => (8, &[(0, b"conectix")]),
        Format::Vhdx => {
            let guid = b"\x06\xa2\x7c\x8b\x90\x47\x9a\x4b\xb8\xfe\x57\x5f\x05\x0f\x88\x6e";
            let table = 192 * 1024;
            let metadata_at = b"\0\0\x04";
            let places = &[(0, &b"vhdxfile"[..]), (table, b"regi"), (table + 8, b"\x01"), (table + 16, guid)];
            let mut content = placed(256 * 1024, places, data);
            content[table + 32..][..3].copy_from_slice(metadata_at);
            return content;
        }
        Format::Vmdk => (512, &[(0, b"KDMV\x01"), (13, b"\x08"), (28, b"\x01"), (36, b"\x14"), (56, b"\x15")]),
        Format::Vdi => (72, &[(64, b"\x7f\x10\xda\xbe")]),
        Format::Qed => (4, &[(0, b"QED\0")]),
        Format::Iso => (32 * 1024 + 6, &[(32 * 1024, b"\x01CD001")]),
        Format::Gpt => (446, &[]),
        Format::Luks => (6, &[(0, b"LUKS\xba\xbe")]),
    };
    let mut content = placed(data_at, places, data);
    if format == Format::Gpt
        && let Some(signature) = content.get_mut(510..512)
    {
        signature.copy_from_slice(b"\x55\xaa");
    }
    content
}

fn placed(data_at: usize, places: &[(usize, &[u8])], data: &[u8]) -> Vec<u8> {
    let mut content = vec![0; data_at];
    for (at, bytes) in places {
        content[*at..at + bytes.len()].copy_from_slice(bytes);
    }
    content.extend_from_slice(data);
    content
}
