//! QED, an obsolete format without safety checks. It is recognised in order to reject it.

use super::{Check, Format, Found, VirtualSize};

const MAGIC: &[u8] = b"QED\0";
/// The size of the first sector. Shorter content is not recognised.
const HEADER: usize = 512;

pub(super) fn recognise(head: &[u8], size: u64) -> Option<Found> {
    let matches = head.len() >= HEADER && head.starts_with(MAGIC);
    matches.then(|| {
        Found::new(Format::Qed, VirtualSize::Bytes(size), true).check(Check::Banned, Some("QED is not allowed"))
    })
}

#[cfg(test)]
mod tests {
    use super::{
        super::tests::{failed, only},
        *,
    };

    #[test]
    fn qed_is_never_allowed() {
        let mut content = [0; 512];
        content[..4].copy_from_slice(MAGIC);
        let found = only(&content);
        assert_eq!((found.format, failed(&found)), (Format::Qed, vec!["banned"]));
    }
}
