//! Tags.

use super::check_no_nul;
use crate::error::{Error, Result};

/// A tag that an image can have: without NUL, and without `=` if that is forbidden. A new tag's length is limited by the schema of
/// an image. Which characters can be stored depends on the database.
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
        check_no_nul("Param values", text)?;
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
