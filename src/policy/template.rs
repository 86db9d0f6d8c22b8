//! The right side of a check: a string in which `%(name)s` stands for an attribute of the target.

use std::fmt;

use super::target::{AttributeValue, Target};

/// A string with placeholders for attributes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Template(Vec<Part>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Attribute(String),
}

/// Formats the template as it is written in a rule.
impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|part| match part {
            Part::Text(text) => f.write_str(&text.replace('%', "%%")),
            Part::Attribute(name) => write!(f, "%({name})s"),
        })
    }
}

impl Template {
    /// Parses a template. A percent sign is written `%%`.
    ///
    /// # Errors
    /// If `%` is used in any other way. Python rejects it too, or formats the value differently.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut constant = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('%') {
            constant.push_str(before);
            if let Some(after) = after.strip_prefix('%') {
                constant.push('%');
                rest = after;
                continue;
            }
            let placeholder = after.strip_prefix('(').and_then(|after| after.split_once(")s"));
            let (name, after) = placeholder
                .filter(|(name, _)| !name.contains(['(', ')']))
                .ok_or_else(|| format!("{text:?} has a % that is neither of %(name)s nor %%"))?;
            if !constant.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut constant)));
            }
            parts.push(Part::Attribute(name.to_owned()));
            rest = after;
        }
        constant.push_str(rest);
        if !constant.is_empty() {
            parts.push(Part::Text(constant));
        }
        Ok(Self(parts))
    }

    /// Converts the constant parts to lower case.
    pub(super) fn in_lower_case(mut self) -> Self {
        for part in &mut self.0 {
            if let Part::Text(text) = part {
                *text = text.to_lowercase();
            }
        }
        self
    }

    /// Whether the text equals the template with the target's attributes filled in. If the target lacks an attribute, no text
    /// matches. If an attribute is `None`, it is the text `None` if `none_matches`, otherwise no text matches. Allocates nothing.
    pub(super) fn matches(&self, target: &Target<'_>, text: &str, none_matches: bool) -> bool {
        let rest = self.0.iter().try_fold(text, |rest, part| match part {
            Part::Text(part) => rest.strip_prefix(part.as_str()),
            Part::Attribute(name) => match target.attribute(name)? {
                AttributeValue::Nothing if none_matches => rest.strip_prefix("None"),
                AttributeValue::Nothing => None,
                AttributeValue::Text(value) => rest.strip_prefix(&*value),
            },
        });
        rest == Some("")
    }

    /// Fills in the target's attributes; `None` if the target lacks one of them.
    pub(super) fn fill(&self, target: &Target<'_>) -> Option<String> {
        let mut filled = String::new();
        for part in &self.0 {
            match part {
                Part::Text(text) => filled.push_str(text),
                Part::Attribute(name) => match target.attribute(name)? {
                    AttributeValue::Nothing => filled.push_str("None"),
                    AttributeValue::Text(value) => filled.push_str(&value),
                },
            }
        }
        Some(filled)
    }

    /// The attributes that the template refers to.
    pub(super) fn attributes(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|part| match part {
            Part::Text(_) => None,
            Part::Attribute(name) => Some(name.as_str()),
        })
    }

    /// The whole text, if the template refers to no attribute.
    pub(super) fn constant(&self) -> Option<&str> {
        match self.0.as_slice() {
            [] => Some(""),
            [Part::Text(text)] => Some(text),
            _ => None,
        }
    }
}
