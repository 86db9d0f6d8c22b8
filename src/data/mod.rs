//! Services for the data of images: upload, download and removal.
//!
//! An upload owns its image through a row of its own (`db::uploads`). A process that rolls back an upload takes over that row
//! first: the uploading process does so after an error, and another process after the uploading process died. A process changes the
//! data at an image's path in a store only while it has a hold on that path (`store::Hold`), and only if it still owned the row
//! after it got the hold. So an active image keeps the data that it became active with, no matter how long a process stalls.

pub(crate) mod acls;
pub(crate) mod download;
pub(crate) mod hash;
pub(crate) mod ingest;
mod observers;
pub(crate) mod other_node;
pub(crate) mod placement;
pub(crate) mod prefetch;
pub(crate) mod range;
pub(crate) mod recovery;
pub(crate) mod removal;
pub(crate) mod stage;
pub(crate) mod transfer;
pub(crate) mod upload;

pub(crate) use self::{download::download, upload::upload};
