//! Tags.

use super::check_storable;
use crate::error::{Error, Result};

/// The maximum length of a tag in characters, which is the width of its column.
const MAX_TAG_LENGTH: usize = 255;

/// A valid tag: short enough, storable, and without `=` if that is forbidden.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Tag(String);

impl Tag {
    /// Validates a tag's text.
    ///
    /// # Errors
    /// `Invalid`, with a message that explains why the tag is rejected.
    pub(crate) fn parse(text: &str, forbid_equals: bool) -> Result<Self> {
        if forbid_equals && text.contains('=') {
            return Err(Error::Invalid(format!("Invalid tag '{text}': a tag must not contain '='.")));
        }
        if text.chars().count() > MAX_TAG_LENGTH {
            return Err(Error::Invalid(format!(
                "Invalid tag: it is too long, a tag has {MAX_TAG_LENGTH} characters at most."
            )));
        }
        check_storable("Param values", text)?;
        Ok(Self(text.to_owned()))
    }

    /// The tag's text.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Tag;

    #[test]
    fn length_counts_characters_not_bytes() {
        assert!(Tag::parse(&"é".repeat(255), true).is_ok());
        assert!(Tag::parse(&"é".repeat(256), true).is_err());
    }

    #[test]
    fn an_equals_sign_is_rejected_only_if_it_is_forbidden() {
        assert!(Tag::parse("a=b", true).is_err());
        assert!(Tag::parse("a=b", false).is_ok());
    }

    proptest! {
        #[test]
        fn a_valid_tag_is_kept_unchanged(text in any::<String>()) {
            if let Ok(tag) = Tag::parse(&text, true) {
                prop_assert_eq!(tag.as_str(), text.as_str());
                prop_assert!(!text.contains('=') && !text.contains('\0'));
            }
        }
    }
}
