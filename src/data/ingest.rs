//! Moves data from a source into a store, and shows it to the observers, which compute its digests and inspect its format.
//!
//! This module does not depend on the data's origin. The calling service owns the image, and activates it or rolls back.

use std::{pin::pin, sync::Arc, time::Duration};

use super::observers::Observers;
use crate::{
    app::App,
    error::{Error, Result},
    limits::{StorageLeft, over_quota},
    model::{DataFacts, Image},
    store::{self, Object, Store, Stored},
    stream::{self, Chunk, Demand, Incomplete},
};

/// Data to be stored, and its limits.
pub(crate) struct Source {
    /// The data.
    pub(crate) data: Demand,
    /// The size that the sender announced. As in Glance, 0 means that it is unknown.
    pub(crate) size: Option<i64>,
    /// The rest of the project's storage quota.
    pub(crate) left: StorageLeft,
    /// The timeout of each part of the data.
    pub(crate) timeout: Duration,
}

/// Data that is stored, but not yet at its image's path.
pub(crate) struct Ingested {
    /// The stored data.
    pub(crate) stored: Stored,
    /// What is known of the data.
    pub(crate) facts: Facts,
}

/// What is known of data that is stored.
pub(crate) enum Facts {
    /// It is a copy of data with these facts.
    Known(DataFacts),
    /// Its size in bytes, and the observers, which have seen all of it.
    Observed {
        /// The data's size in bytes.
        size: u64,
        /// The observers.
        observers: Observers,
    },
}

impl Facts {
    /// # Errors
    /// As [`Observers::finish`].
    pub(crate) async fn finish(self) -> Result<DataFacts> {
        match self {
            Self::Known(facts) => Ok(facts),
            Self::Observed { size, observers } => observers.finish(size).await,
        }
    }
}

/// Moves all data of an image into the store, and shows it to the image's observers.
///
/// # Errors
/// `Invalid`, `SlowClient`, `LimitExceeded`, `UnfitData`, `StoreUnavailable`, `Gone` if the store is read-only.
pub(crate) async fn ingest(
    app: &Arc<App>,
    image: &Image,
    object: &Object,
    store: &Store,
    source: Source,
) -> Result<Ingested> {
    let observers = Observers::start(app, image)?;
    match ingest_raw(app, object, store, source, observers.inputs()).await {
        Ok((stored, size)) => Ok(Ingested { stored, facts: Facts::Observed { size, observers } }),
        Err(Interrupted::ByObserver) => Err(observers.into_error().await),
        Err(Interrupted::Because(error)) => Err(error),
    }
}

/// Shows all data of an image to the image's observers, without storing it. Returns its size in bytes, and the observers.
///
/// # Errors
/// As [`ingest`].
pub(crate) async fn inspect(app: &Arc<App>, image: &Image, source: Source) -> Result<(u64, Observers)> {
    let observers = Observers::start(app, image)?;
    let (announced, limits) = (source.size, limits(app, &source));
    let (feed, mut chunks) = stream::channel();
    let drain = async { while let Ok(Some(_)) = chunks.next().await {} };
    let (fed, ()) = tokio::join!(source.data.feed(limits, observers.inputs(), feed), drain);
    match fed {
        Ok(size) => Ok((size, observers)),
        Err(Incomplete::ObserverClosed) => Err(observers.into_error().await),
        Err(incomplete) => Err(interruption_error(incomplete, announced)),
    }
}

/// The limits of data from this source.
fn limits(app: &App, source: &Source) -> stream::Limits {
    let cap = app.config.default.image_size_cap;
    let max_size = source.left.bound().map_or(cap, |left| left.min(cap));
    stream::Limits { timeout: source.timeout, max_size, expected: source.size.filter(|size| *size != 0) }
}

/// Why data did not arrive completely.
pub(crate) enum Interrupted {
    /// An observer has rejected the data.
    ByObserver,
    /// The source, a limit or the store.
    Because(Error),
}

/// Moves all data into the store, and into the inputs of observers. Returns the stored data and its size in bytes.
pub(crate) async fn ingest_raw(
    app: &App,
    object: &Object,
    store: &Store,
    source: Source,
    observers: Vec<flume::Sender<Chunk>>,
) -> Result<(Stored, u64), Interrupted> {
    let limits = limits(app, &source);
    let Source { data, size: announced, left, .. } = source;
    let size = announced.and_then(|size| u64::try_from(size).ok()).unwrap_or_default();
    let cap = app.config.default.image_size_cap;
    let (feed, chunks) = stream::channel();
    let mut feeding = pin!(data.feed(limits, observers, feed));
    let mut putting = pin!(store.put(object, chunks, size));
    let (fed, stored) = tokio::select! {
        stored = &mut putting => match stored {
            Ok(_) | Err(store::Error::Cut(_)) => (feeding.await, stored),
            // Return immediately: the client might continue to send for hours.
            Err(error) => return Err(Interrupted::Because(store_error(error))),
        },
        fed = &mut feeding => (fed, putting.await),
    };
    let error = match (fed, stored) {
        (Err(Incomplete::ObserverClosed), _) => return Err(Interrupted::ByObserver),
        (Err(Incomplete::StoreClosed) | Ok(_), Err(error)) => store_error(error),
        (Err(Incomplete::TooLarge(received)), _) if received <= cap => {
            left.admits(Some(received)).map_or_else(over_quota, |()| too_large())
        }
        (Err(incomplete), _) => interruption_error(incomplete, announced),
        (Ok(size), Ok(stored)) => return Ok((stored, size)),
    };
    Err(Interrupted::Because(error))
}

pub(crate) fn too_large() -> Error {
    Error::LimitExceeded("The incoming image is too large: The provided image is too large.".to_owned())
}

/// Turns the reason why the data ended early into the client's error.
fn interruption_error(incomplete: Incomplete, expected: Option<i64>) -> Error {
    let expected = expected.unwrap_or_default();
    match incomplete {
        Incomplete::Disconnected => Error::Invalid("The request body ended too early.".to_owned()),
        Incomplete::TimedOut => Error::SlowClient,
        Incomplete::TooLarge(_) => too_large(),
        Incomplete::LongerThanAnnounced(received) => {
            Error::Invalid(format!("Size exceeds: expected {expected} bytes, got {received} bytes"))
        }
        Incomplete::ShorterThanAnnounced(received) => {
            Error::Invalid(format!("Size mismatch: expected {expected} bytes, got {received} bytes"))
        }
        Incomplete::StoreClosed | Incomplete::ObserverClosed => {
            Error::Internal("the data was rejected without a reason".into())
        }
    }
}

/// Turns a store's failure to store data into the client's error.
pub(crate) fn store_error(error: store::Error) -> Error {
    match error {
        store::Error::Full => Error::LimitExceeded(format!("Image storage media is full: {error}")),
        store::Error::WriteDenied => {
            Error::StoreUnavailable(format!("Insufficient permissions on image storage media: {error}"))
        }
        store::Error::TimedOut(_) => Error::StoreUnavailable(error.to_string()),
        store::Error::Duplicate(message) => Error::Conflict(message),
        store::Error::ReadOnly => {
            Error::Gone("Error in store configuration. Adding images to store is disabled.".to_owned())
        }
        error => Error::store_failed(error),
    }
}
