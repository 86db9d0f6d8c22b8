//! What a listing of images asks for.

use chrono::NaiveDateTime;

use super::{MemberStatus, Visibility};

/// What the images of a listing have in common.
#[derive(Debug, PartialEq)]
pub(crate) struct ImageFilter {
    /// Hidden images, or the others.
    pub(crate) os_hidden: bool,
    /// Of which visibility.
    pub(crate) visibility: VisibilityFilter,
    /// Whose.
    pub(crate) owner: Option<String>,
    /// Which of the images that are shared with the caller's project; `None` is all of them.
    pub(crate) membership: Option<MemberStatus>,
    /// What else; all of them hold.
    pub(crate) terms: Vec<Term>,
}

impl Default for ImageFilter {
    fn default() -> Self {
        Self {
            os_hidden: false,
            visibility: VisibilityFilter::Default,
            owner: None,
            membership: Some(MemberStatus::Accepted),
            terms: Vec::new(),
        }
    }
}

/// The visibilities that a listing is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum VisibilityFilter {
    /// Every one, but community images of the caller's project only.
    Default,
    /// Every one.
    All,
    /// One.
    Only(Visibility),
    /// Two at once, or one that there is not: nothing is listed.
    None,
}

/// One condition of a listing. A list of texts holds where one of them is equal.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Term {
    Id(Vec<String>),
    Name(Vec<String>),
    Status(Vec<String>),
    ContainerFormat(Vec<String>),
    DiskFormat(Vec<String>),
    Checksum(String),
    OsHashAlgo(String),
    OsHashValue(String),
    Protected(bool),
    Size(Comparison, i64),
    VirtualSize(Comparison, i64),
    MinRam(Comparison, i64),
    MinDisk(Comparison, i64),
    CreatedAt(Comparison, NaiveDateTime),
    UpdatedAt(Comparison, NaiveDateTime),
    /// A custom property, by name and value.
    Property(String, String),
    /// A tag that the image has.
    Tag(String),
}

/// How a column compares to a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Comparison {
    Below,
    AtMost,
    Equal,
    Unequal,
    AtLeast,
    Above,
}

/// A column that a listing may be sorted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SortKey {
    Name,
    Status,
    ContainerFormat,
    DiskFormat,
    Size,
    Id,
    CreatedAt,
    UpdatedAt,
}

/// Which way a listing is sorted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    Asc,
    Desc,
}
