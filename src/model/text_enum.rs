//! Enums that are stored as text. One declaration generates the Rust enum, its conversions and its decoding.
//!
//! `derive(sqlx::Type)` cannot be used: it rejects the NOT NULL `ENUM` columns of MySQL.

/// Declares an enum whose values are stored as the given texts. The literal in parentheses names PostgreSQL's native enum type
/// for it, and is empty if the column is plain text.
macro_rules! text_enum {
    ($(#[$meta:meta])* $vis:vis enum $name:ident($pg:literal) { $($(#[$variant_meta:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        $vis enum $name { $($(#[$variant_meta])* $variant),+ }

        impl $name {
            /// The text in the database and on the wire.
            $vis const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }
        }

        impl std::str::FromStr for $name {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                match text {
                    $($text => Ok(Self::$variant),)+
                    other => Err(format!("{other:?} is not a {}", stringify!($name))),
                }
            }
        }

        impl<'r, DB: sqlx::Database> sqlx::Decode<'r, DB> for $name
        where
            &'r str: sqlx::Decode<'r, DB>,
        {
            fn decode(value: DB::ValueRef<'r>) -> Result<Self, sqlx::error::BoxDynError> {
                Ok(<&str as sqlx::Decode<DB>>::decode(value)?.parse()?)
            }
        }

        $crate::model::text_enum::text_type!($name, sqlx::Sqlite, |_name| false);
        $crate::model::text_enum::text_type!($name, sqlx::MySql, |_name| false);
        $crate::model::text_enum::text_type!($name, sqlx::Postgres, |name| name == $pg);

        impl From<$name> for sea_query::Expr {
            fn from(value: $name) -> Self {
                let text = sea_query::Expr::val(value.as_str());
                // sea-query writes this cast on PostgreSQL only.
                if $pg.is_empty() { text } else { sea_query::ExprTrait::as_enum(text, $pg) }
            }
        }
    };
}

macro_rules! text_type {
    ($name:ident, $db:ty, |$type_name:ident| $native:expr) => {
        impl sqlx::Type<$db> for $name {
            fn type_info() -> <$db as sqlx::Database>::TypeInfo {
                <str as sqlx::Type<$db>>::type_info()
            }

            fn compatible(ty: &<$db as sqlx::Database>::TypeInfo) -> bool {
                let $type_name = sqlx::TypeInfo::name(ty);
                $native || <str as sqlx::Type<$db>>::compatible(ty)
            }
        }
    };
}

pub(crate) use {text_enum, text_type};
