//! A task: the record by which clients follow work that continues after its request.

use chrono::NaiveDateTime;

use super::text_enum::text_enum;

text_enum! {
    /// The state of a task.
    pub(crate) enum TaskStatus("") {
        /// It has not begun.
        Pending = "pending",
        /// It is in progress.
        Processing = "processing",
        /// It has succeeded.
        Success = "success",
        /// It has failed.
        Failure = "failure",
    }
}

/// A task that is not deleted.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub(crate) struct Task {
    /// Its id.
    pub(crate) id: String,
    /// The kind of work.
    #[sqlx(rename = "type")]
    pub(crate) kind: String,
    /// Its state.
    pub(crate) status: TaskStatus,
    /// The project that has created it; empty if it was created without a project.
    pub(crate) owner: String,
    /// When its record is removed, in UTC, once it has ended.
    pub(crate) expires_at: Option<NaiveDateTime>,
    /// The image that it changes.
    pub(crate) image_id: Option<String>,
    /// The id of the request that has created it.
    pub(crate) request_id: Option<String>,
    /// The user who has created it.
    pub(crate) user_id: Option<String>,
    /// When it was created, in UTC.
    pub(crate) created_at: NaiveDateTime,
    /// When it was last changed, in UTC.
    pub(crate) updated_at: Option<NaiveDateTime>,
    /// Its input, as JSON.
    pub(crate) input: Option<String>,
    /// Its result, as JSON.
    pub(crate) result: Option<String>,
    /// Its progress, or the reason of its failure.
    pub(crate) message: Option<String>,
}

/// The columns by which tasks are sorted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TaskKey {
    Id,
    Kind,
    Status,
    Owner,
    ImageId,
    RequestId,
    UserId,
    CreatedAt,
    UpdatedAt,
    ExpiresAt,
}

impl TaskKey {
    /// The keys with their names.
    pub(crate) const ALL: [(&str, Self); 10] = [
        ("id", Self::Id),
        ("type", Self::Kind),
        ("status", Self::Status),
        ("owner", Self::Owner),
        ("image_id", Self::ImageId),
        ("request_id", Self::RequestId),
        ("user_id", Self::UserId),
        ("created_at", Self::CreatedAt),
        ("updated_at", Self::UpdatedAt),
        ("expires_at", Self::ExpiresAt),
    ];
}
