//! `[oslo_policy]`: the policy files.

use super::{group::group, value::Repeated};

group! {
    /// `[oslo_policy]`
    pub(crate) struct OsloPolicy in "oslo_policy" {
        /// The file with rules that replace Glance's defaults.
        policy_file: String = "policy.yaml".to_owned(),
        /// Directories with more such files.
        policy_dirs: Repeated = Repeated(vec!["policy.d".to_owned()]),
        /// The rule that is evaluated if a rule refers to an undefined one.
        policy_default_rule: String = "default".to_owned(),
        /// Whether only the new defaults apply, without the deprecated ones from before Glance had project roles.
        enforce_new_defaults: bool = true,
        /// Whether rules for projects deny tokens that are scoped to a domain or to the system.
        enforce_scope: bool = true,
    }
}
