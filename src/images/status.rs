//! Which status an image may move to from which.

use crate::db::images::Status;

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
