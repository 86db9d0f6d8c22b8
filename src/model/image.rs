//! An image's record: its id and its columns.

use std::{fmt, ops::Deref};

use chrono::NaiveDateTime;
use serde::Serialize;
use uuid::Uuid;

use super::{Status, text_enum::text_enum};
use crate::error::{Error, Result};

text_enum! {
    /// Which projects can see an image. A native enum in PostgreSQL and MySQL, text in SQLite.
    pub(crate) enum Visibility("image_visibility") {
        /// Visible to its owner only.
        Private = "private",
        /// Visible to every project, and in every project's listings.
        Public = "public",
        /// Visible to its owner and its members.
        Shared = "shared",
        /// Visible to every project, but by default only in its owner's listings.
        Community = "community",
    }
}

/// An image's id: a UUID of hexadecimal digits and hyphens, 8-4-4-4-12, in either case.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, sqlx::Type)]
#[serde(transparent)]
#[sqlx(transparent)]
pub(crate) struct ImageId(String);

impl ImageId {
    /// Generates a random id.
    pub(crate) fn new() -> Self {
        Self(Uuid::new_v4().to_string())
    }

    /// Parses an id in the form that Glance's schema requires.
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

/// The id in a request. It may be any text: one that is not a well-formed id has the same response as an id that no image has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RequestedId(String);

impl RequestedId {
    /// The id, if the text is a well-formed one.
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
    /// The size of its data in bytes, once it has data.
    pub(crate) size: Option<i64>,
    /// Its state.
    pub(crate) status: Status,
    /// When it was created, in UTC.
    pub(crate) created_at: NaiveDateTime,
    /// When it was last changed, in UTC.
    pub(crate) updated_at: Option<NaiveDateTime>,
    /// The data's disk format, one of the configured ones.
    pub(crate) disk_format: Option<String>,
    /// The data's container format, one of the configured ones.
    pub(crate) container_format: Option<String>,
    /// The data's MD5 digest, in hexadecimal digits.
    pub(crate) checksum: Option<String>,
    /// The project that owns it.
    pub(crate) owner: Option<String>,
    /// The minimum disk of an instance that boots it, in GiB.
    pub(crate) min_disk: i32,
    /// The minimum memory of an instance that boots it, in MiB.
    pub(crate) min_ram: i32,
    /// Whether it is protected from deletion.
    pub(crate) protected: bool,
    /// The size in bytes of the disk that the data describes.
    pub(crate) virtual_size: Option<i64>,
    /// Which projects can see it.
    pub(crate) visibility: Visibility,
    /// Whether it is left out of default listings.
    pub(crate) os_hidden: bool,
    /// The algorithm of the data's secure hash.
    pub(crate) os_hash_algo: Option<String>,
    /// The data's secure hash, in hexadecimal digits.
    pub(crate) os_hash_value: Option<String>,
}

/// What is known about an image's data once all of it was received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DataFacts {
    /// Its size in bytes.
    pub(crate) size: i64,
    /// The size in bytes of the disk that it describes, if its format says so.
    pub(crate) virtual_size: Option<i64>,
    /// Its MD5 digest, in hexadecimal digits.
    pub(crate) checksum: String,
    /// The algorithm of its secure hash.
    pub(crate) os_hash_algo: String,
    /// Its secure hash, in hexadecimal digits.
    pub(crate) os_hash_value: String,
}

/// Checks that the image's disk and container formats are set, which they must be before it gets data.
///
/// # Errors
/// `Invalid`, which names the missing properties.
pub(crate) fn check_described(image: &Image) -> Result<()> {
    let missing: Vec<&str> = [("disk_format", &image.disk_format), ("container_format", &image.container_format)]
        .into_iter()
        .filter(|(_, format)| format.as_deref().unwrap_or_default().is_empty())
        .map(|(name, _)| name)
        .collect();
    match missing.as_slice() {
        [] => Ok(()),
        [name] => Err(Error::Invalid(format!("Property {name} must be set prior to saving data."))),
        names => Err(Error::Invalid(format!("Properties {} must be set prior to saving data.", names.join(", ")))),
    }
}
