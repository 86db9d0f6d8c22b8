//! The states of an image, and which of them may follow which.

use super::{Image, text_enum::text_enum};
use crate::error::{Error, Result};

text_enum! {
    /// Where an image is in its life.
    pub(crate) enum Status("") {
        /// The record is there, its data is not.
        Queued = "queued",
        /// Data is being uploaded.
        Saving = "saving",
        /// Data is being staged for an import.
        Uploading = "uploading",
        /// Staged data is being imported.
        Importing = "importing",
        /// The data is there.
        Active = "active",
        /// The data is there, but only an admin may read it.
        Deactivated = "deactivated",
        /// An upload went wrong, by an old Glance.
        Killed = "killed",
        /// Gone; its id is never given out again.
        Deleted = "deleted",
        /// Gone, with data that is still to be removed.
        PendingDelete = "pending_delete",
    }
}

/// Whether an image may move from one status to the other.
pub(crate) fn may_become(from: Status, to: Status) -> bool {
    use Status::{Active, Deactivated, Deleted, Importing, Killed, PendingDelete, Queued, Saving, Uploading};
    let targets: &[Status] = match from {
        Queued => &[Saving, Uploading, Importing, Active, Deleted],
        Saving => &[Active, Killed, Deleted, Queued],
        Uploading => &[Importing, Queued, Deleted],
        Importing => &[Active, Deleted, Queued],
        Active => &[PendingDelete, Deleted, Deactivated],
        // Glance leaves out the delayed deletion of a deactivated image, and then cannot delete one.
        Deactivated => &[Active, Deleted, PendingDelete],
        Killed => &[Deleted],
        PendingDelete => &[Deleted, Active],
        Deleted => &[],
    };
    targets.contains(&to)
}

/// Checks that the image says what its data is, which it must before it has data.
///
/// # Errors
/// `Invalid`
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
