//! What the image services take and give: typed, checked, with no JSON and no HTTP in it.

use crate::{
    db::{
        images::{Image, ImageId, Visibility},
        locations::Location,
    },
    error::{Error, Result},
};

/// Characters of a tag at the most, as wide as its column.
const MAX_TAG_LENGTH: usize = 255;
/// Characters of a member at the most, as wide as its column.
const MAX_MEMBER_LENGTH: usize = 255;

/// An image with everything that shows it.
#[derive(Debug, Clone)]
pub(crate) struct ImageView {
    /// Its row.
    pub(crate) image: Image,
    /// Custom properties, in the order of their names.
    pub(crate) properties: Vec<(String, String)>,
    /// Tags, in alphabetical order.
    pub(crate) tags: Vec<String>,
    /// Where its data is, the heaviest store first; read only where the configuration shows it, to who may see it.
    pub(crate) locations: Vec<Location>,
}

/// An image that somebody wants to create.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NewImage {
    /// The id that the caller chose.
    pub(crate) id: Option<ImageId>,
    /// See [`Image`].
    pub(crate) name: Option<String>,
    /// See [`Image`].
    pub(crate) disk_format: Option<String>,
    /// See [`Image`].
    pub(crate) container_format: Option<String>,
    /// The owner, where the caller names one: `Some(None)` is nobody.
    pub(crate) owner: Option<Option<String>>,
    /// See [`Image`].
    pub(crate) visibility: Visibility,
    /// See [`Image`].
    pub(crate) min_disk: i64,
    /// See [`Image`].
    pub(crate) min_ram: i64,
    /// See [`Image`].
    pub(crate) protected: bool,
    /// See [`Image`].
    pub(crate) os_hidden: bool,
    /// Custom properties.
    pub(crate) properties: Vec<(String, String)>,
    /// Tags, each once.
    pub(crate) tags: Vec<Tag>,
}

/// A tag that can be written: short enough, of storable characters, and without `=` where that is forbidden.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Tag(String);

impl Tag {
    /// Checks a tag's text.
    ///
    /// # Errors
    /// `Invalid`, with a message that names the fault.
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

    /// Its text.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// What an instance needs at least, as its column holds it.
///
/// # Errors
/// `Invalid`
pub(crate) fn requirement(name: &str, value: i64) -> Result<i32> {
    if value < 0 {
        return Err(Error::Invalid(format!(
            "Invalid value '{value}' for parameter '{name}': Cannot be a negative value"
        )));
    }
    let too_large = |_| Error::Invalid(format!("'{name}' value out of range, must not exceed {}.", i32::MAX));
    value.try_into().map_err(too_large)
}

/// A project that an image can be shared with: not empty, short enough, of storable characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MemberId(String);

impl MemberId {
    /// Checks a project's id. Whether there is such a project is Keystone's business, as in Glance.
    ///
    /// # Errors
    /// `Invalid`, with a message that names the fault.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        if text.is_empty() {
            return Err(Error::Invalid("Member can't be empty".to_owned()));
        }
        if text.chars().count() > MAX_MEMBER_LENGTH {
            return Err(Error::Invalid(format!(
                "Member is too long, it has {MAX_MEMBER_LENGTH} characters at the most."
            )));
        }
        check_storable("Member", text)?;
        Ok(Self(text.to_owned()))
    }

    /// Its text.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// Refuses what not every engine can store: Glance's MySQL schema holds three bytes a character, and PostgreSQL no NUL.
///
/// # Errors
/// `Invalid`; `what` names the value, at the start of a sentence.
pub(crate) fn check_storable(what: &str, text: &str) -> Result<()> {
    for c in text.chars() {
        if c.len_utf8() == 4 {
            let characters = if what == "Param values" || what == "Property names" { "" } else { " characters" };
            return Err(Error::Invalid(format!("{what} can't contain 4 byte unicode{characters}.")));
        }
        if c == '\0' {
            return Err(Error::Invalid(format!("{what} can't contain NUL characters.")));
        }
    }
    Ok(())
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
    fn equals_is_refused_only_where_it_is_forbidden() {
        assert!(Tag::parse("a=b", true).is_err());
        assert!(Tag::parse("a=b", false).is_ok());
    }

    proptest! {
        #[test]
        fn a_tag_that_is_taken_is_kept_as_it_is(text in any::<String>()) {
            if let Ok(tag) = Tag::parse(&text, true) {
                prop_assert_eq!(tag.as_str(), text.as_str());
                prop_assert!(!text.contains('=') && !text.contains('\0'));
            }
        }
    }
}
