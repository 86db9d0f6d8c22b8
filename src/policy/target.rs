//! The target of a rule: the image, or another object, that the caller wants to act on.

use std::{borrow::Cow, collections::BTreeMap, fmt};

/// The value of a target's attribute, as rules compare it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum AttributeValue<'v> {
    /// Python's `None`.
    Nothing,
    /// A string, or any other value in the form that Python's `str` gives it.
    Text(Cow<'v, str>),
}

impl<'v> AttributeValue<'v> {
    /// A string, or `None` if there is none.
    pub(crate) fn from_text(text: Option<&'v str>) -> Self {
        text.map_or(Self::Nothing, |text| Self::Text(Cow::Borrowed(text)))
    }

    /// A number, or `None` if there is none.
    pub(crate) fn from_number(number: Option<i64>) -> Self {
        number.map_or(Self::Nothing, |number| Self::Text(Cow::Owned(number.to_string())))
    }

    /// `True` or `False`.
    pub(crate) fn from_bool(value: bool) -> Self {
        Self::Text(Cow::Borrowed(if value { "True" } else { "False" }))
    }
}

/// An object with named attributes, which a rule refers to as `%(name)s`.
pub(crate) trait Attributes: fmt::Debug + Sync {
    /// The value of the attribute; `None` if there is no such attribute.
    fn attribute(&self, name: &str) -> Option<AttributeValue<'_>>;
}

/// Attributes given by name, as on the command line.
impl Attributes for BTreeMap<String, AttributeValue<'static>> {
    fn attribute(&self, name: &str) -> Option<AttributeValue<'_>> {
        self.get(name).cloned()
    }
}

/// The target of a rule: an image, or the image to be created.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Target<'t> {
    /// The project that owns it: `project_id` and `owner` in a rule.
    pub(crate) owner: Option<&'t str>,
    /// The member of the image that the caller acts for: `member_id` and `member` in a rule.
    pub(crate) member: Option<&'t str>,
    /// Its visibility.
    pub(crate) visibility: Option<&'t str>,
    /// All other attributes, and those of the above whose value is `None`.
    pub(crate) attributes: Option<&'t dyn Attributes>,
}

impl Target<'_> {
    /// The attribute that a rule names.
    pub(super) fn attribute(&self, name: &str) -> Option<AttributeValue<'_>> {
        let own = match name {
            "project_id" | "owner" => self.owner,
            "member_id" | "member" => self.member,
            "visibility" => self.visibility,
            _ => None,
        };
        match (own, self.attributes) {
            (Some(text), _) => Some(AttributeValue::from_text(Some(text))),
            (None, attributes) => attributes?.attribute(name),
        }
    }
}
