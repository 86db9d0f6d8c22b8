//! Which status an image may move to from which.

use crate::{
    db::images::{Image, Status},
    error::{Error, Result},
};

/// Whether an image may move from one status to the other.
pub(super) fn may_become(from: Status, to: Status) -> bool {
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
pub(super) fn check_described(image: &Image) -> Result<()> {
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
