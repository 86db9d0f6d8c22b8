//! `[oslo_policy]`: where the policy is.

use super::{group::group, value::Repeated};

group! {
    /// `[oslo_policy]`
    pub(crate) struct OsloPolicy in "oslo_policy" {
        /// The file with rules that replace Glance's.
        policy_file: String = "policy.yaml".to_owned(),
        /// Folders with more such files.
        policy_dirs: Repeated = Repeated(vec!["policy.d".to_owned()]),
        /// The rule that applies where a rule refers to an undefined one.
        policy_default_rule: String = "default".to_owned(),
        /// Whether only the new defaults apply, and not those from before Glance had roles for projects.
        enforce_new_defaults: bool = true,
        /// Whether a token for a domain or for the system is refused where one for a project is needed.
        enforce_scope: bool = true,
    }
}
