//! The states of an image, and the transitions between them.

use super::text_enum::text_enum;

text_enum! {
    /// The state of an image.
    pub(crate) enum Status("") {
        /// The image has no data yet.
        Queued = "queued",
        /// Data is being uploaded.
        Saving = "saving",
        /// Data is being staged for an import.
        Uploading = "uploading",
        /// Staged data is being imported.
        Importing = "importing",
        /// The image has its data.
        Active = "active",
        /// The image has its data, but only admins may download it.
        Deactivated = "deactivated",
        /// The image can never be read: an upload failed in an old Glance, or all of its locations were removed, with its data,
        /// although it was active.
        Killed = "killed",
        /// The image is deleted. Its id is never reused.
        Deleted = "deleted",
        /// The image is deleted, or its deletion is in progress: its data still has to be removed.
        PendingDelete = "pending_delete",
    }
}

/// Whether the state machine allows this transition.
pub(crate) fn may_become(from: Status, to: Status) -> bool {
    use Status::{Active, Deactivated, Deleted, Importing, Killed, PendingDelete, Queued, Saving, Uploading};
    let targets: &[Status] = match from {
        Queued => &[Saving, Uploading, Importing, Active, Deleted],
        Saving => &[Active, Killed, Deleted, Queued],
        Uploading => &[Importing, Queued, Deleted],
        Importing => &[Active, Deleted, Queued],
        Active => &[PendingDelete, Deleted, Deactivated],
        // Glance's table lacks `PendingDelete` here, so that its delayed deletion of a deactivated image fails.
        Deactivated => &[Active, Deleted, PendingDelete],
        Killed => &[Deleted],
        PendingDelete => &[Deleted, Active],
        Deleted => &[],
    };
    targets.contains(&to)
}
