//! The names of Glance's tables and columns, for the query builder.

use sea_query::Iden;

/// One row per image that ever was: a deleted image's row stays, so that its id is never given out again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Iden)]
pub(crate) enum Images {
    Table,
    Id,
    Name,
    Size,
    Status,
    CreatedAt,
    UpdatedAt,
    DeletedAt,
    Deleted,
    DiskFormat,
    ContainerFormat,
    Checksum,
    Owner,
    MinDisk,
    MinRam,
    Protected,
    VirtualSize,
    Visibility,
    OsHidden,
    OsHashAlgo,
    OsHashValue,
}

/// Custom properties. `(image_id, name)` is unique, deleted rows included.
#[derive(Debug, Clone, Copy, Iden)]
pub(crate) enum ImageProperties {
    Table,
    ImageId,
    Name,
    Value,
    CreatedAt,
    UpdatedAt,
    Deleted,
}

/// Tags. Glance keeps a removed tag's row with `deleted` set; we remove the row. No key makes them unique: see
/// `db::tags`.
#[derive(Debug, Clone, Copy, Iden)]
pub(crate) enum ImageTags {
    Table,
    ImageId,
    Value,
    CreatedAt,
    UpdatedAt,
    DeletedAt,
    Deleted,
}

/// Projects that a shared image is shared with. Glance keeps a removed member's row with `deleted` set; we remove the
/// row. `(image_id, member, deleted_at)` is unique, which no row that is in force is bound by: see `db::members`.
#[derive(Debug, Clone, Copy, Iden)]
pub(crate) enum ImageMembers {
    Table,
    Id,
    ImageId,
    Member,
    CanShare,
    Status,
    CreatedAt,
    UpdatedAt,
    Deleted,
}

/// Where an image's data is.
#[derive(Debug, Clone, Copy, Iden)]
pub(crate) enum ImageLocations {
    Table,
    Id,
    ImageId,
    Value,
    MetaData,
    Status,
    CreatedAt,
    UpdatedAt,
    DeletedAt,
    Deleted,
}

/// Our own indexes of `images`, which `db sync` adds to Glance's.
#[derive(Debug, Clone, Copy, Iden)]
pub(crate) enum Indexes {
    /// Visibility, and the order of a listing.
    #[iden = "glimpse_images_listed"]
    Listed,
    /// Owner, visibility, and the order of a listing.
    #[iden = "glimpse_images_owned"]
    Owned,
    /// Name, visibility, and the order of a listing.
    #[iden = "glimpse_images_named"]
    Named,
    /// Owner, name, visibility, and the order of a listing.
    #[iden = "glimpse_images_owned_named"]
    OwnedNamed,
}

/// Uploads under way: one of our own tables.
#[derive(Debug, Clone, Copy, Iden)]
pub(crate) enum GlimpseUploads {
    Table,
    ImageId,
    UploadId,
    ProcessId,
    Store,
}

/// The programs that work on this database: one of our own tables.
#[derive(Debug, Clone, Copy, Iden)]
pub(crate) enum GlimpseProcesses {
    Table,
    Id,
    Beat,
}

/// Locks of images between the nodes of a Galera cluster: one of our own tables, on MySQL and MariaDB alone.
#[derive(Debug, Clone, Copy, Iden)]
pub(crate) enum GlimpseImageLocks {
    Table,
    ImageId,
    /// How often the lock was taken.
    Taken,
}
