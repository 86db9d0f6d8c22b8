//! The description of an option, and the trait that reads options.

use super::value::OptionValue;

/// An option that Glimpse acts on.
pub(super) struct OptionSpec {
    /// The group that declares it.
    pub(super) group: &'static str,
    /// Its name.
    pub(super) name: &'static str,
    /// Its former groups and names, which are still accepted.
    pub(super) former: &'static [(&'static str, &'static str)],
    /// Its default, in the notation of a file.
    pub(super) default: fn() -> String,
}

impl OptionSpec {
    /// Whether this is its present group and name.
    pub(super) fn is(&self, group: &str, name: &str) -> bool {
        self.group == group && self.name == name
    }

    /// Whether this is its present group and name, or a former one.
    pub(super) fn is_called(&self, group: &str, name: &str) -> bool {
        self.is(group, name) || self.former.contains(&(group, name))
    }
}

/// A condition on a value, in addition to its type.
pub(super) type Check<'a, T> = &'a dyn Fn(&T) -> Result<(), String>;

/// Reads the values of options.
pub(super) trait OptionReader {
    /// The value of an option, or `default` if it is not set or its value is invalid; an invalid value is reported. `group` is the
    /// group to read from: the option's own group, or a group that the operator has named. An option that is not set there is
    /// looked up in the group `shared`.
    fn read_option<T: OptionValue>(
        &mut self,
        group: &str,
        shared: Option<&str>,
        option: &'static OptionSpec,
        default: T,
        checks: &[Check<'_, T>],
    ) -> T;

    /// Reports an option whose value does not fit those of other options.
    fn reject(&mut self, group: &str, name: &'static str, message: String);
}

/// Reads an empty configuration: every option has its default.
pub(super) struct Defaults;

impl OptionReader for Defaults {
    fn read_option<T: OptionValue>(
        &mut self,
        _: &str,
        _: Option<&str>,
        _: &'static OptionSpec,
        default: T,
        _: &[Check<'_, T>],
    ) -> T {
        default
    }

    fn reject(&mut self, _: &str, _: &'static str, _: String) {}
}
