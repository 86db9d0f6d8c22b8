//! The bytes of images: into their stores, out of them, and away.
//!
//! An upload holds its image by a row of its own (`db::uploads`). What it has begun is undone by the process that takes that row: by the
//! uploading process when something goes wrong, by another one when that process died. The data at an image's place in a store is changed
//! only by a process that has a hold on the place (`store::Hold`), and that found the row its own after it got the hold. So the data of an
//! active image is the data that it became active with, however long a process stalls.

pub(crate) mod download;
mod ingest;
mod observers;
pub(crate) mod placement;
pub(crate) mod range;
pub(crate) mod recovery;
pub(crate) mod removal;
pub(crate) mod upload;

pub(crate) use self::{download::download, upload::upload};
