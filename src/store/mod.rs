//! Where image data is kept: what a driver promises, and which stores there are.
//!
//! A location's URL says all that is needed to find the data again; URLs and layouts are Glance's, so that either program reads
//! what the other wrote. The digests, the bounds and the inspection of data are not a driver's business.

mod file;
mod hold;
mod http;
mod location;
mod registry;
mod s3;

use std::{
    collections::HashSet,
    future::Future,
    ops::Range,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use serde_json::{Map, Value};
use tokio::task::JoinError;

pub(crate) use self::{
    hold::Hold,
    registry::{Store, Stores},
};
use crate::{
    egress::Refused,
    model::LocationUrl,
    stream::{ByteStream, Chunks, Cut},
};

/// What a store can come back with. A message is for clients, where it may be shown to them: it has no URL in it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// There is no data at the location.
    #[error("no data is there")]
    NotFound,
    /// No room is left.
    #[error("There is not enough disk space on the image storage media.")]
    Full,
    /// The store may not be written to.
    #[error("Permission to write image storage media denied.")]
    WriteDenied,
    /// The data may not be removed.
    #[error("{0}")]
    DeleteDenied(String),
    /// The store is for reading only, or cannot be used as it is configured.
    #[error("Configuration for store failed. Adding images to this store is disabled.")]
    ReadOnly,
    /// Data there cannot be removed by us.
    #[error("Deleting images from this store is not supported.")]
    NoDelete,
    /// A part of the data cannot be asked for.
    #[error("Getting images randomly from this store is not supported. Offset: {}, length: {}", .0.start, .0.end - .0.start)]
    NoRange(Range<u64>),
    /// The URL leads where a user may not send us.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The URL is none that the store reads.
    #[error("{0}")]
    BadLocation(&'static str),
    /// No store that is configured has such locations.
    #[error("no store is configured for the location")]
    NoStore,
    /// The data that was to be stored did not come to its end.
    #[error(transparent)]
    Cut(#[from] Cut),
    /// The store takes too long.
    #[error("Operation timed out after {0}s. Check storage health and connectivity.")]
    TimedOut(u32),
    /// The web server of a location cannot be reached.
    #[error("Remote server where the image is present is unavailable.")]
    Unreachable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The store does not answer, or not as it should.
    #[error("{0}")]
    Unavailable(Box<dyn std::error::Error + Send + Sync>),
}

impl From<JoinError> for Error {
    fn from(error: JoinError) -> Self {
        Self::Unavailable(error.into())
    }
}

/// The result of a call to a store.
pub(crate) type Result<T, E = Error> = std::result::Result<T, E>;

/// What an object is named by while it is written.
#[derive(Debug, Clone)]
pub(crate) struct Object {
    /// The image.
    pub(crate) image_id: String,
    /// The upload, of which there may be several for an image, one after the other.
    pub(crate) upload_id: String,
}

/// Where an object is.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Stored {
    /// Its location.
    pub(crate) url: LocationUrl,
    /// What Glance writes beside it.
    pub(crate) metadata: Map<String, Value>,
}

/// Data to be read.
pub(crate) struct Blob {
    /// Bytes of the whole object, where the store says.
    pub(crate) size: Option<u64>,
    /// The bytes that were asked for. A stream that ends early ends with an error.
    pub(crate) data: ByteStream,
}

/// A way to keep data. Every call may be dropped at any time.
pub(crate) trait Driver {
    /// Stores an object; its size is known, or 0. When this fails or is dropped, nothing is left; when it succeeds, the object
    /// is whole, and was not there in parts before. It need not be in its place yet, where it is for good: what another upload of
    /// its image has put there stays as it is.
    fn put(&self, object: &Object, data: Chunks, size: u64) -> impl Future<Output = Result<Stored>> + Send;
    /// Keeps everybody else from the place of an image's object, where the store can.
    fn hold(&self, _: &Object) -> impl Future<Output = Result<Hold>> + Send {
        async { Ok(Hold::none()) }
    }
    /// Moves what was stored into its place, instead of anything that is there. Who calls this has the image: others
    /// may take it meanwhile, but do nothing in its place before the hold ends.
    fn place(&self, _: &Object, _: &Stored, hold: Hold) -> impl Future<Output = Result<Hold>> + Send {
        async { Ok(hold) }
    }
    /// Opens an object, or a part of it.
    fn get(&self, url: &LocationUrl, range: Option<Range<u64>>) -> impl Future<Output = Result<Blob>> + Send;
    /// Removes an object. `NotFound` where it is gone already.
    fn delete(&self, url: &LocationUrl) -> impl Future<Output = Result<()>> + Send;
    /// Bytes of an object that a client says is there.
    fn size(&self, url: &LocationUrl) -> impl Future<Output = Result<u64>> + Send;
    /// Lists what uploads have begun and not finished, and not moved for a while.
    fn unfinished(&self, quiet: Duration) -> impl Future<Output = Result<Vec<Object>>> + Send;
    /// Removes what there is of an upload that was cut off; with a hold, which it ends, also what is in its place.
    fn discard(&self, object: &Object, hold: Option<Hold>) -> impl Future<Output = Result<()>> + Send;
    /// Whether a call that failed may have left something of an upload, which `discard` with a hold removes. Told once.
    fn take_left(&self, _: &Object) -> bool {
        false
    }
}

/// Uploads that may have left something, by their ids.
#[derive(Default)]
struct Left(Mutex<HashSet<String>>);

impl Left {
    fn note(&self, object: &Object) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(object.upload_id.clone());
    }

    fn take(&self, object: &Object) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&object.upload_id)
    }
}
