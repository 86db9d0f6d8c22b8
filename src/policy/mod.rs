//! What a caller may do: oslo.policy's rules, with Glance's defaults.
//!
//! A rule is looked up by name, judged on the caller's credentials and on a target (the image, or the image to be).
//! Only a real denial is a denial: a rule that cannot be judged, like one that needs an attribute the target lacks, is
//! false as well, never true.

mod check;
mod defaults;
mod parse;

use std::collections::HashMap;

pub(crate) use self::check::Target;
use self::parse::Check;
use crate::context::{Identity, Scope};

/// The rules in force.
pub(crate) struct Policy {
    rules: HashMap<&'static str, Check>,
}

impl Policy {
    /// Glance's default rules.
    pub(crate) fn defaults() -> Self {
        Self { rules: defaults::RULES.iter().map(|(name, text)| (*name, parse::rule(text))).collect() }
    }

    /// Whether the caller is an admin, for whom every image is visible.
    pub(crate) fn is_admin(&self, identity: &Identity) -> bool {
        self.allows(identity, "context_is_admin", &Target::default())
    }

    /// Whether the rule lets this caller do it to this target. A rule that nobody defined lets nobody.
    pub(crate) fn allows(&self, identity: &Identity, rule: &str, target: &Target<'_>) -> bool {
        // Every rule of Glance's is about projects: a token for a domain or for the whole cloud is none for them.
        let in_scope = matches!(identity.scope, Scope::Project | Scope::None);
        in_scope && check::Judge { rules: &self.rules, identity, target }.rule(rule, 0)
    }
}
