//! An option that Glimpse acts on, and where its value comes from.

use super::value::OptionValue;

/// An option that Glimpse acts on.
pub(super) struct Known {
    pub(super) group: &'static str,
    pub(super) name: &'static str,
    /// The groups and names that it had before, which still count.
    pub(super) former: &'static [(&'static str, &'static str)],
    /// Its default, as a file would have it.
    pub(super) default: fn() -> String,
}

impl Known {
    /// Whether a file calls it by this group and name.
    pub(super) fn is_called(&self, group: &str, name: &str) -> bool {
        (self.group == group && self.name == name) || self.former.contains(&(group, name))
    }
}

/// What a value must be, in addition to its type.
pub(super) type Check<'a, T> = &'a dyn Fn(&T) -> Result<(), String>;

/// What was written in files and in the environment.
pub(super) trait Source {
    /// Takes an option's value, or its default where nothing was written or what was written is wrong. A group of the operator's own
    /// has the options of its kind; an option that is not written there is looked up in the group `shared`.
    fn take_in<T: OptionValue>(
        &mut self,
        group: &str,
        shared: Option<&str>,
        option: &'static Known,
        default: T,
        checks: &[Check<'_, T>],
    ) -> T;
}
