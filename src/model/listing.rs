//! The filters and sort keys of an image listing.

use chrono::NaiveDateTime;

use super::{MemberStatus, Visibility};

/// The filters of a listing. An image is listed if it matches all of them.
#[derive(Debug, PartialEq)]
pub(crate) struct ImageFilter {
    /// Whether hidden images are listed instead of the others.
    pub(crate) os_hidden: bool,
    /// The visibilities that are listed.
    pub(crate) visibility: VisibilityFilter,
    /// The owner, if only one owner's images are listed.
    pub(crate) owner: Option<String>,
    /// The member status of images that are shared with the caller's project; `None` lists any status.
    pub(crate) membership: Option<MemberStatus>,
    /// Further conditions, all of which must hold.
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

/// The visibilities that a listing includes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum VisibilityFilter {
    /// All; of community images only those of the caller's project.
    Default,
    /// All.
    All,
    /// This one only.
    Only(Visibility),
    /// None, because the client named two different ones or one that does not exist. The listing is empty.
    None,
}

/// One condition of a listing. A list of texts matches if the column equals one of them.
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
    /// A custom property of this name and value.
    Property(String, String),
    /// A tag.
    Tag(String),
}

/// The operator between a column and a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Comparison {
    Below,
    AtMost,
    Equal,
    Unequal,
    AtLeast,
    Above,
}

/// A column that a listing can be sorted by.
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

/// The direction of a sort key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    Asc,
    Desc,
}
