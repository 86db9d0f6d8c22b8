//! An image's record.

use std::{fmt, ops::Deref};

use chrono::NaiveDateTime;
use serde::Serialize;
use uuid::Uuid;

use super::{Status, text_enum::text_enum};

text_enum! {
    /// Who may see an image: a native enum in PostgreSQL and MySQL, text in SQLite.
    pub(crate) enum Visibility("image_visibility") {
        /// Only its owner.
        Private = "private",
        /// Everybody; listed for everybody.
        Public = "public",
        /// Its owner and its members.
        Shared = "shared",
        /// Everybody; listed for its owner only.
        Community = "community",
    }
}

/// An image's id: hexadecimal digits and hyphens, 8-4-4-4-12, in either case.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, sqlx::Type)]
#[serde(transparent)]
#[sqlx(transparent)]
pub(crate) struct ImageId(String);

impl ImageId {
    /// A new one, which no image has.
    pub(crate) fn new() -> Self {
        Self(Uuid::new_v4().to_string())
    }

    /// Reads an id in the form that Glance's schema asks for.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let is_uuid = text.len() == 36
            && text.bytes().enumerate().all(|(at, byte)| match at {
                8 | 13 | 18 | 23 => byte == b'-',
                _ => byte.is_ascii_hexdigit(),
            });
        is_uuid.then(|| Self(text.to_owned()))
    }

    /// The id's text.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl Deref for ImageId {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ImageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a client names an image by: its id, or a text that is no image's id, which is answered as an image that does not exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RequestedId(String);

impl RequestedId {
    /// The id, where this is one.
    pub(crate) fn id(&self) -> Option<ImageId> {
        ImageId::parse(&self.0)
    }
}

impl From<String> for RequestedId {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Display for RequestedId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A row of `images` that is not deleted.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub(crate) struct Image {
    /// Its id.
    pub(crate) id: ImageId,
    /// Its name; names need not be unique.
    pub(crate) name: Option<String>,
    /// Bytes of data, once there is data.
    pub(crate) size: Option<i64>,
    /// Where it is in its life.
    pub(crate) status: Status,
    /// When it was created, in UTC.
    pub(crate) created_at: NaiveDateTime,
    /// When it was changed last, in UTC.
    pub(crate) updated_at: Option<NaiveDateTime>,
    /// The data's disk format, one of the configured ones.
    pub(crate) disk_format: Option<String>,
    /// The data's container format, one of the configured ones.
    pub(crate) container_format: Option<String>,
    /// The data's MD5, in hexadecimal digits.
    pub(crate) checksum: Option<String>,
    /// The project that it belongs to.
    pub(crate) owner: Option<String>,
    /// GiB of disk that an instance needs at least.
    pub(crate) min_disk: i32,
    /// MiB of memory that an instance needs at least.
    pub(crate) min_ram: i32,
    /// Whether it refuses to be deleted.
    pub(crate) protected: bool,
    /// Bytes of the disk that the data describes.
    pub(crate) virtual_size: Option<i64>,
    /// Who may see it.
    pub(crate) visibility: Visibility,
    /// Whether default listings leave it out.
    pub(crate) os_hidden: bool,
    /// The name of the data's secure hash.
    pub(crate) os_hash_algo: Option<String>,
    /// The data's secure hash, in hexadecimal digits.
    pub(crate) os_hash_value: Option<String>,
}

/// What is known of data once all of it has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DataFacts {
    /// Its bytes.
    pub(crate) size: i64,
    /// The size of the disk in it, where that is known.
    pub(crate) virtual_size: Option<i64>,
    /// Its MD5, in hexadecimal digits.
    pub(crate) checksum: String,
    /// The name of its secure hash.
    pub(crate) os_hash_algo: String,
    /// Its secure hash, in hexadecimal digits.
    pub(crate) os_hash_value: String,
}
