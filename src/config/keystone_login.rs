//! The options with which Glimpse logs in to Keystone. Every group that has them declares them by [`login_group!`].

use super::secret::Password;

/// Declares an option group as `group!` does, and adds the options of a login to it, with a function `login` that returns them.
macro_rules! login_group {
    ($(#[$meta:meta])* pub(crate) struct $name:ident in $group:literal { $($own:tt)* }) => {
        $crate::config::keystone_login::login_group! { @options group { $(#[$meta])* $name $group { $($own)* } } }
    };
    (@options $expansion:ident { $($arguments:tt)* }) => {
        $crate::config::keystone_login::login_group! { @$expansion { $($arguments)* }
            /// How Glimpse logs in to Keystone: password or v3password, v3applicationcredential, or v3token.
            auth_type: String, was "auth_plugin";
            /// The URL of Keystone, at which Glimpse logs in.
            auth_url: String;
            /// The name of Glimpse's user.
            username: String, was "user_name", was "user-name";
            /// The id of Glimpse's user, instead of name and domain.
            user_id: String;
            /// The password of Glimpse's user.
            password: Password;
            /// The domain of Glimpse's user, by id.
            user_domain_id: String;
            /// The domain of Glimpse's user, by name.
            user_domain_name: String;
            /// The id of Glimpse's application credential.
            application_credential_id: String;
            /// The name of Glimpse's application credential, which belongs to the user of `username` or `user_id`.
            application_credential_name: String;
            /// The secret of Glimpse's application credential.
            application_credential_secret: Password;
            /// A token, with which Glimpse requests its own. Once it has expired, Glimpse cannot log in any more.
            token: Password;
            /// The scope of the login, instead of a project: all, which is the system.
            system_scope: String;
            /// The domain that is the scope of the login, instead of a project, by id.
            domain_id: String;
            /// The domain that is the scope of the login, instead of a project, by name.
            domain_name: String;
            /// The domain of user and project if their own options are not set, by id.
            default_domain_id: String;
            /// The domain of user and project if their own options are not set, by name.
            default_domain_name: String;
            /// The project that is the scope of the login, by id.
            project_id: String, was "tenant_id", was "tenant-id";
            /// The project that is the scope of the login, by name.
            project_name: String, was "tenant_name", was "tenant-name";
            /// That project's domain, by id.
            project_domain_id: String;
            /// That project's domain, by name.
            project_domain_name: String;
        }
    };
    (@group { $(#[$meta:meta])* $name:ident $group:literal { $($own:tt)* } }
        $($(#[doc = $doc:literal])+ $field:ident: $ty:ident $(, was $old:literal)*;)+
    ) => {
        $crate::config::group::group! {
            $(#[$meta])*
            pub(crate) struct $name in $group {
                $($(#[doc = $doc])+ $field: Option<$ty> = None $(; was $group $old)*,)+
                $($own)*
            }
        }

        impl $name {
            /// The options of the login.
            pub(crate) fn login(&self) -> $crate::config::KeystoneLogin {
                $crate::config::KeystoneLogin { $($field: self.$field.clone()),+ }
            }
        }
    };
    (@login {} $($(#[doc = $doc:literal])+ $field:ident: $ty:ident $(, was $old:literal)*;)+) => {
        /// The options of a login, of any group that has them.
        #[derive(Debug, Clone, Default)]
        pub(crate) struct KeystoneLogin { $($(#[doc = $doc])+ pub(crate) $field: Option<$ty>),+ }

        impl KeystoneLogin {
            /// The names of the options.
            pub(super) const NAMES: &[&str] = &[$(stringify!($field)),+];
        }
    };
}

pub(super) use login_group;

login_group! { @options login {} }
