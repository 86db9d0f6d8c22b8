//! The right side of a check: a text in which `%(name)s` stands for an attribute of the target.

use std::fmt;

use super::target::{Target, Value};

/// A text with places for attributes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Template(Vec<Part>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Attribute(String),
}

/// As it was written.
impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|part| match part {
            Part::Text(text) => f.write_str(&text.replace('%', "%%")),
            Part::Attribute(name) => write!(f, "%({name})s"),
        })
    }
}

impl Template {
    /// Reads a template; a percent sign is written `%%`.
    ///
    /// # Errors
    /// Any other use of `%`, which is an error in Python too, or another way to show a value.
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
            let place = after.strip_prefix('(').and_then(|after| after.split_once(")s"));
            let (name, after) = place
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

    /// With its constant parts in lower case.
    pub(super) fn in_lower_case(mut self) -> Self {
        for part in &mut self.0 {
            if let Part::Text(text) = part {
                *text = text.to_lowercase();
            }
        }
        self
    }

    /// Whether this is the text once the attributes are in it. One that the target does not have fits nothing; one without a
    /// value is `None`, as Python shows it, where `none_fits`. Allocates nothing.
    pub(super) fn fits(&self, target: &Target<'_>, text: &str, none_fits: bool) -> bool {
        let rest = self.0.iter().try_fold(text, |rest, part| match part {
            Part::Text(part) => rest.strip_prefix(part.as_str()),
            Part::Attribute(name) => match target.attribute(name)? {
                Value::Nothing if none_fits => rest.strip_prefix("None"),
                Value::Nothing => None,
                Value::Text(value) => rest.strip_prefix(&*value),
            },
        });
        rest == Some("")
    }

    /// The text once the attributes are in it; `None` where the target does not have one.
    pub(super) fn fill(&self, target: &Target<'_>) -> Option<String> {
        let mut filled = String::new();
        for part in &self.0 {
            match part {
                Part::Text(text) => filled.push_str(text),
                Part::Attribute(name) => match target.attribute(name)? {
                    Value::Nothing => filled.push_str("None"),
                    Value::Text(value) => filled.push_str(&value),
                },
            }
        }
        Some(filled)
    }

    /// The attributes that have a place in it.
    pub(super) fn attributes(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|part| match part {
            Part::Text(_) => None,
            Part::Attribute(name) => Some(name.as_str()),
        })
    }

    /// The text, where no attribute has a place in it.
    pub(super) fn constant(&self) -> Option<&str> {
        match self.0.as_slice() {
            [] => Some(""),
            [Part::Text(text)] => Some(text),
            _ => None,
        }
    }
}
