//! Macros that declare options: [`group!`] declares an option group, [`groups!`] lists the groups.

/// Declares an option group: its struct, its defaults, its reader and the list of its options. A field's name is the option's
/// name, and its documentation the option's. `=>` limits a value to a range; `was` is a former group and name of the option.
macro_rules! group {
    ($(#[$meta:meta])* pub(crate) struct $name:ident in $group:literal {
        $(
            $(#[doc = $doc:literal])+
            $field:ident: $ty:ty = $default:expr $(=> $range:expr)? $(; was $old_group:literal $old_name:literal)*
        ),+ $(,)?
    }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq)]
        pub(crate) struct $name { $($(#[doc = $doc])+ pub(crate) $field: $ty),+ }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $default),+ }
            }
        }

        impl $name {
            /// The group's name.
            pub(in $crate::config) const NAME: &str = $group;

            /// The group's options.
            pub(in $crate::config) const OPTIONS: &[$crate::config::option::OptionSpec] =
                &[$($crate::config::group::spec!($group $field: $ty = $default; $($old_group $old_name)*)),+];

            /// Reads the group's options.
            pub(in $crate::config) fn from_reader(reader: &mut impl $crate::config::option::OptionReader) -> Self {
                Self::from_group(reader, Self::NAME, None)
            }

            /// Reads these options from another group, which the operator has named. An option that is not set there is looked
            /// up in the group `shared`.
            pub(in $crate::config) fn from_group(
                reader: &mut impl $crate::config::option::OptionReader,
                group: &str,
                shared: Option<&str>,
            ) -> Self {
                Self {
                    $($field: reader.read_option(
                        group,
                        shared,
                        const { &$crate::config::group::spec!($group $field: $ty = $default; $($old_group $old_name)*) },
                        $default,
                        &[$(&|value: &$ty| $crate::config::value::check_range(value, &($range)))?],
                    )),+
                }
            }
        }
    };
}

/// The [`OptionSpec`](super::option::OptionSpec) of one option.
macro_rules! spec {
    ($group:literal $field:ident: $ty:ty = $default:expr; $($old_group:literal $old_name:literal)*) => {
        $crate::config::option::OptionSpec {
            group: $group,
            name: stringify!($field),
            former: &[$(($old_group, $old_name)),*],
            default: || <$ty as $crate::config::value::OptionValue>::to_text(&$default),
        }
    };
}

/// Lists the option groups, and generates everything that each of them needs outside its own file.
///
/// `fields` lists the groups with a field in the configuration, by module and type, in the order in which they are read and
/// shown. `others` lists the groups that are read elsewhere. The rest of the struct is not read from groups.
macro_rules! groups {
    (
        fields { $($field:ident::$group:ident),+ $(,)? }
        others { $($other:ident::$other_group:ident),+ $(,)? }
        $(#[$meta:meta])*
        pub(crate) struct $config:ident { $($rest:tt)* }
    ) => {
        $(pub(crate) use self::$field::*;)+
        $(use self::$other::*;)+

        $(#[$meta])*
        pub(crate) struct $config {
            $(
                /// The group of the same name.
                pub(crate) $field: $group,
            )+
            $($rest)*
        }

        impl $config {
            /// Reads every group. The rest of the configuration has its defaults.
            fn from_reader(reader: &mut impl $crate::config::option::OptionReader) -> Self {
                // The groups are read in the order of these expressions.
                Self { $($field: $group::from_reader(reader),)+ ..Self::default() }
            }

            /// The names of the groups whose options differ from those of another configuration.
            fn different_groups(&self, other: &Self) -> Vec<&'static str> {
                let groups = [$(($group::NAME, self.$field != other.$field)),+];
                groups.into_iter().filter(|(_, differs)| *differs).map(|(name, _)| name).collect()
            }
        }

        /// The options of each group.
        const GROUPS: &[&[$crate::config::option::OptionSpec]] =
            &[$($group::OPTIONS,)+ $($other_group::OPTIONS,)+];
    };
}

pub(super) use {group, groups, spec};
