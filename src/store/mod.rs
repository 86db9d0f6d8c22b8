//! Stores of image data: the driver interface, the drivers, and the registry of configured stores.
//!
//! A location's URL is all that is needed to find the data again. URLs and layouts are Glance's, so that either program can read
//! the other's data. Drivers only move bytes: the caller computes digests, enforces size limits and inspects the data.

mod file;
mod hold;
mod http;
mod location;
mod object_server;
mod rbd;
mod registry;
mod s3;
mod swift;

use std::{
    collections::HashSet,
    future::Future,
    ops::Range,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use serde_json::{Map, Value};
use tokio::task::JoinError;

pub(crate) use self::{
    file::FileCopy,
    hold::Hold,
    registry::{Store, StoreFault, Stores},
};
use crate::{
    egress::{EgressFilter, Refused},
    model::LocationUrl,
    stream::{ByteStream, Chunks, Cut},
};

/// The name of the store of staged data. Clients cannot choose it.
pub(crate) const STAGING: &str = "os_glance_staging_store";

/// An error of a store. Some messages are returned to clients, so none of them contains a URL.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// There is no data at the location.
    #[error("no data is there")]
    NotFound,
    /// The store has no capacity left.
    #[error("There is not enough disk space on the image storage media.")]
    Full,
    /// Glimpse has no permission to write to the store.
    #[error("Permission to write image storage media denied.")]
    WriteDenied,
    /// Glimpse has no permission to delete the data.
    #[error("{0}")]
    DeleteDenied(String),
    /// The store is read-only, or its configuration is invalid.
    #[error("Configuration for store failed. Adding images to this store is disabled.")]
    ReadOnly,
    /// The data is in use by others, and was not deleted.
    #[error("The image cannot be deleted because it is in use through the backend store outside of Glance.")]
    InUse,
    /// The store has other data of that name.
    #[error("{0}")]
    Duplicate(String),
    /// The driver does not support deletion.
    #[error("Deleting images from this store is not supported.")]
    NoDelete,
    /// The driver does not support range requests.
    #[error("Getting images randomly from this store is not supported. Offset: {}, length: {}", .0.start, .0.end - .0.start)]
    NoRange(Range<u64>),
    /// The egress filter rejected the URL.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The store does not accept the URL.
    #[error("{0}")]
    BadLocation(&'static str),
    /// The location is in none of the configured stores.
    #[error("no store is configured for the location")]
    NoStore,
    /// The data that was being stored was interrupted.
    #[error(transparent)]
    Cut(#[from] Cut),
    /// The call to the store timed out.
    #[error("Operation timed out after {0}s. Check storage health and connectivity.")]
    TimedOut(u32),
    /// The web server of a location is unreachable.
    #[error("Remote server where the image is present is unavailable.")]
    Unreachable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The store does not respond, or its response is invalid.
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

/// The identity of an object while it is written.
#[derive(Debug, Clone)]
pub(crate) struct Object {
    /// The id of its image.
    pub(crate) image_id: String,
    /// The id of the upload. An image can have several uploads, one after the other.
    pub(crate) upload_id: String,
}

/// An object that was stored.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Stored {
    /// Its location.
    pub(crate) url: LocationUrl,
    /// The location's metadata, as Glance writes it.
    pub(crate) metadata: Map<String, Value>,
}

/// An object that was opened for reading.
pub(crate) struct Blob {
    /// The size of the whole object in bytes, if the store reports it.
    pub(crate) size: Option<u64>,
    /// The requested bytes. A stream that is truncated ends with an error.
    pub(crate) data: ByteStream,
}

/// Who can read an object, in addition to its owner.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Readers {
    /// Everyone.
    Everyone,
    /// These projects.
    Projects(Vec<String>),
}

/// What drivers need to open a store, in addition to its options.
pub(crate) struct Environment<'e> {
    /// The directory of a file store whose options name none.
    pub(crate) default_dir: &'e Path,
    /// Whether missing directories are created. Otherwise, it is only checked that they can be.
    pub(crate) creates_dirs: bool,
    /// The filter for locations on web servers.
    pub(crate) filter: &'e Arc<EgressFilter>,
}

/// A kind of store. The caller is allowed to drop the future of any call at any time.
pub(crate) trait Driver: Sized {
    /// The options of a store of this kind.
    type Options;

    /// Opens a store. Also returns the store's fault, if it has one. Without a driver, every operation on the store's data fails.
    fn open(
        name: Option<&str>,
        options: &Self::Options,
        environment: &Environment<'_>,
    ) -> (Option<Self>, Option<String>);
    /// Whether the URL alone shows that a location is in this store.
    fn owns(&self, url: &LocationUrl) -> bool;
    /// The name of the object at a URL of this store that another service may add as a location. A driver without names that are
    /// safe to accept returns `None`.
    fn key<'u>(&self, _: &'u LocationUrl) -> Option<&'u str> {
        None
    }
    /// The properties of the store that admins can see.
    fn properties(&self) -> Map<String, Value> {
        Map::new()
    }
    /// Stores an object. `size` is 0 if the caller does not know it.
    ///
    /// If the call fails or is dropped, it leaves nothing behind. If it succeeds, the object is complete, and no incomplete version
    /// of it was ever visible. The object need not be at its final path yet, so an object that another upload of its image has put
    /// there is left alone.
    fn put(&self, object: &Object, data: Chunks, size: u64) -> impl Future<Output = Result<Stored>> + Send;
    /// Locks the final path of an image's object against other processes, if the store supports that.
    fn hold(&self, _: &Object) -> impl Future<Output = Result<Hold>> + Send {
        async { Ok(Hold::none()) }
    }
    /// Moves a stored object to its final path and replaces any object there.
    ///
    /// The caller's upload owns the image. Another process may take the image over during the call, but does not touch the final
    /// path until the hold is released.
    fn place(&self, _: &Object, _: &Stored, hold: Hold) -> impl Future<Output = Result<Hold>> + Send {
        async { Ok(hold) }
    }
    /// Opens an object, or a range of its bytes.
    fn get(&self, url: &LocationUrl, range: Option<Range<u64>>) -> impl Future<Output = Result<Blob>> + Send;
    /// Deletes an object. Returns `NotFound` if there is none.
    fn delete(&self, url: &LocationUrl) -> impl Future<Output = Result<()>> + Send;
    /// Reads the size in bytes of an object whose location a client supplied.
    fn size(&self, url: &LocationUrl) -> impl Future<Output = Result<u64>> + Send;
    /// Lists unfinished uploads that have written nothing for at least `quiet`.
    fn unfinished(&self, quiet: Duration) -> impl Future<Output = Result<Vec<Object>>> + Send;
    /// Removes the data of an interrupted upload. With a hold, also removes the object at the final path, and releases the hold.
    fn discard(&self, object: &Object, hold: Option<Hold>) -> impl Future<Output = Result<()>> + Send;
    /// Returns an error if the store cannot be reached. Changes nothing.
    fn probe(&self, _: &Object) -> impl Future<Output = Result<()>> + Send {
        async { Ok(()) }
    }
    /// Whether the store is used with the tokens of callers, and keeps lists of readers.
    fn acts_for_callers(&self) -> bool {
        false
    }
    /// Sets who can read an object. Without such lists, nobody but the service reads the store.
    fn share(&self, _: &LocationUrl, _: &Readers) -> impl Future<Output = Result<()>> + Send {
        async { Ok(()) }
    }
    /// Removes what interrupted uploads of an image have left outside of the image's path. No upload of the image is in progress.
    fn discard_parts(&self, object: &Object) -> impl Future<Output = Result<()>> + Send {
        self.discard(object, None)
    }
    /// Whether a failed call may have left data of an upload, which `discard` with a hold removes. Returns `true` once per upload.
    fn take_leftovers(&self, _: &Object) -> bool {
        false
    }
}

/// The ids of uploads that may have left data in the store.
#[derive(Default)]
struct Leftovers(Mutex<HashSet<String>>);

impl Leftovers {
    fn note(&self, object: &Object) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(object.upload_id.clone());
    }

    fn take(&self, object: &Object) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&object.upload_id)
    }
}
