//! What is recorded of a cached image.

/// A cached image, as its driver records it. Times are seconds since 1970.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Record {
    /// The id of its row in the database, with the driver `centralized_db`.
    pub(crate) row: Option<i64>,
    /// The image. A Glance may have recorded any text.
    pub(crate) image_id: String,
    /// When it was last downloaded from the cache, or else cached.
    pub(crate) last_accessed: f64,
    /// When it was cached.
    pub(crate) last_modified: f64,
    /// Its size in bytes.
    pub(crate) size: i64,
    /// How often it was downloaded from the cache.
    pub(crate) hits: i64,
    /// A column of Glance's database that has no value in Glance 33.
    pub(crate) checksum: Option<String>,
}

/// Downloads from the cache that are not recorded yet.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Hits {
    /// Their number.
    pub(super) count: i32,
    /// The time of the last one, in seconds since 1970.
    pub(super) last: f64,
}
