//! What a rule is judged on.

use std::{borrow::Cow, collections::BTreeMap, fmt};

/// An attribute's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Value<'v> {
    /// Python's `None`.
    Nothing,
    /// A text, or what else there is as Python shows it.
    Text(Cow<'v, str>),
}

impl<'v> Value<'v> {
    /// A text that may be missing.
    pub(crate) fn text(text: Option<&'v str>) -> Self {
        text.map_or(Self::Nothing, |text| Self::Text(Cow::Borrowed(text)))
    }

    /// A number that may be missing.
    pub(crate) fn number(number: Option<i64>) -> Self {
        number.map_or(Self::Nothing, |number| Self::Text(Cow::Owned(number.to_string())))
    }

    /// `True` or `False`.
    pub(crate) fn boolean(value: bool) -> Self {
        Self::Text(Cow::Borrowed(if value { "True" } else { "False" }))
    }
}

/// What has attributes by name, for a rule's `%(name)s`.
pub(crate) trait Attributes: fmt::Debug + Sync {
    /// The attribute's value; `None` where there is no such attribute.
    fn attribute(&self, name: &str) -> Option<Value<'_>>;
}

/// Attributes that were written by name.
impl Attributes for BTreeMap<String, Value<'static>> {
    fn attribute(&self, name: &str) -> Option<Value<'_>> {
        self.get(name).cloned()
    }
}

/// What a rule is judged on: an image, or one that is to be.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Target<'t> {
    /// The project that it belongs to; `project_id` and `owner` in a rule.
    pub(crate) owner: Option<&'t str>,
    /// The project that sees it as its member; `member_id` and `member` in a rule.
    pub(crate) member: Option<&'t str>,
    /// Its visibility.
    pub(crate) visibility: Option<&'t str>,
    /// What else a rule may ask for, and which of the above are there without a value.
    pub(crate) attributes: Option<&'t dyn Attributes>,
}

impl Target<'_> {
    /// An attribute by its name in a rule.
    pub(super) fn attribute(&self, name: &str) -> Option<Value<'_>> {
        let own = match name {
            "project_id" | "owner" => self.owner,
            "member_id" | "member" => self.member,
            "visibility" => self.visibility,
            _ => None,
        };
        match (own, self.attributes) {
            (Some(text), _) => Some(Value::text(Some(text))),
            (None, attributes) => attributes?.attribute(name),
        }
    }
}
