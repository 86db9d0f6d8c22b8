//! The names of Glance's tables and columns, for the query builder.

use sea_query::Iden;

/// Images, including deleted ones: a deleted image's row stays, so that its id is never reused.
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

/// Custom properties. `(image_id, name)` is unique, including rows that are marked as deleted.
#[derive(Debug, Clone, Copy, Iden)]
pub(crate) enum ImageProperties {
    Table,
    Id,
    ImageId,
    Name,
    Value,
    CreatedAt,
    UpdatedAt,
    Deleted,
}

/// Tags. Glance marks a removed tag's row as deleted; Glimpse removes the row. There is no unique key: see `db::tags`.
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

/// The projects that images are shared with. Glance marks a removed member's row as deleted; Glimpse removes the row. The
/// unique key `(image_id, member, deleted_at)` does not cover live rows: see `db::members`.
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

/// The locations of images' data.
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

/// Namespaces of metadata definitions.
#[derive(Debug, Clone, Copy, Iden)]
pub(crate) enum MetadefNamespaces {
    Table,
    Id,
    Namespace,
    DisplayName,
    Description,
    Visibility,
    Protected,
    Owner,
    CreatedAt,
    UpdatedAt,
}

/// The objects of namespaces. `(namespace_id, name)` is unique.
#[derive(Debug, Clone, Copy, Iden)]
pub(crate) enum MetadefObjects {
    Table,
    Id,
    NamespaceId,
    Name,
    Description,
    Required,
    JsonSchema,
    CreatedAt,
    UpdatedAt,
}

/// The properties of namespaces. `(namespace_id, name)` is unique.
#[derive(Debug, Clone, Copy, Iden)]
pub(crate) enum MetadefProperties {
    Table,
    Id,
    NamespaceId,
    Name,
    JsonSchema,
    CreatedAt,
    UpdatedAt,
}

/// The tags of namespaces. `(namespace_id, name)` is unique.
#[derive(Debug, Clone, Copy, Iden)]
pub(crate) enum MetadefTags {
    Table,
    Id,
    NamespaceId,
    Name,
    CreatedAt,
    UpdatedAt,
}

/// The types of resources that namespaces refer to. Their names are unique.
#[derive(Debug, Clone, Copy, Iden)]
pub(crate) enum MetadefResourceTypes {
    Table,
    Id,
    Name,
    Protected,
    CreatedAt,
    UpdatedAt,
}

/// Which namespace belongs to which resource types.
#[derive(Debug, Clone, Copy, Iden)]
pub(crate) enum MetadefNamespaceResourceTypes {
    Table,
    ResourceTypeId,
    NamespaceId,
    PropertiesTarget,
    Prefix,
    CreatedAt,
    UpdatedAt,
}

/// Glimpse's own indexes of `images`, which `db sync` adds to Glance's.
#[derive(Debug, Clone, Copy, Iden)]
pub(crate) enum Indexes {
    /// By visibility, in the order of a listing.
    #[iden = "glimpse_images_listed"]
    Listed,
    /// By owner and visibility, in the order of a listing.
    #[iden = "glimpse_images_owned"]
    Owned,
    /// By name and visibility, in the order of a listing.
    #[iden = "glimpse_images_named"]
    Named,
    /// By owner, name and visibility, in the order of a listing.
    #[iden = "glimpse_images_owned_named"]
    OwnedNamed,
}

/// Tasks.
#[derive(Debug, Clone, Copy, Iden)]
pub(crate) enum Tasks {
    Table,
    Id,
    Type,
    Status,
    Owner,
    ExpiresAt,
    ImageId,
    RequestId,
    UserId,
    CreatedAt,
    UpdatedAt,
    DeletedAt,
    Deleted,
}

/// The input, the result and the message of a task.
#[derive(Debug, Clone, Copy, Iden)]
pub(crate) enum TaskInfo {
    Table,
    TaskId,
    Input,
    Result,
    Message,
}

/// Uploads in progress: one of Glimpse's own tables.
#[derive(Debug, Clone, Copy, Iden)]
pub(crate) enum GlimpseUploads {
    Table,
    ImageId,
    UploadId,
    ProcessId,
    Store,
}

/// Imports in progress: one of Glimpse's own tables.
#[derive(Debug, Clone, Copy, Iden)]
pub(crate) enum GlimpseJobs {
    Table,
    Id,
    Kind,
    ImageId,
    ProjectId,
    ProcessId,
    Claim,
    Input,
    Step,
    Done,
    CreatedAt,
}

/// What failed uploads may have left in a store: one of Glimpse's own tables.
#[derive(Debug, Clone, Copy, Iden)]
pub(crate) enum GlimpseLeftovers {
    Table,
    UploadId,
    ImageId,
    ProcessId,
    Store,
}

/// The heartbeats of the processes that use this database: one of Glimpse's own tables.
#[derive(Debug, Clone, Copy, Iden)]
pub(crate) enum GlimpseProcesses {
    Table,
    Id,
    Beat,
}

/// Locks of images between the nodes of a Galera cluster: one of Glimpse's own tables, on MySQL and MariaDB only.
#[derive(Debug, Clone, Copy, Iden)]
pub(crate) enum GlimpseImageLocks {
    Table,
    ImageId,
    /// The number of times that the lock was taken.
    Taken,
}

/// The nodes that have an image cache, by their URLs.
#[derive(Debug, Clone, Copy, Iden)]
pub(crate) enum NodeReference {
    Table,
    #[iden = "node_reference_id"]
    Id,
    #[iden = "node_reference_url"]
    Url,
}

/// The images in the caches of nodes. `(image_id, node_reference_id)` is unique.
#[derive(Debug, Clone, Copy, Iden)]
pub(crate) enum CachedImages {
    Table,
    Id,
    ImageId,
    LastAccessed,
    LastModified,
    Size,
    Hits,
    Checksum,
    NodeReferenceId,
}
