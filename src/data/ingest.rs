//! Moves data from a source into a store, past the observers that find its digests and its format.
//!
//! Nothing here knows why the data comes: the caller has the image, and makes it active or undoes what was begun.

use std::{pin::pin, sync::Arc};

use super::observers::Observers;
use crate::{
    app::App,
    error::{Error, Result},
    limits::StorageLeft,
    model::Image,
    store::{self, Object, Store, Stored},
    stream::{self, Broken, Demand},
};

/// Data to be stored, and its bounds.
pub(super) struct Source {
    /// The bytes.
    pub(super) data: Demand,
    /// The size that the sender announced. Glance takes 0 for none.
    pub(super) size: Option<i64>,
    /// What the project's quota leaves.
    pub(super) left: StorageLeft,
}

/// Data that is stored, and not in its place yet.
pub(super) struct Ingested {
    /// Where it is.
    pub(super) stored: Stored,
    /// Its bytes.
    pub(super) size: u64,
    /// What they found.
    pub(super) observers: Observers,
}

/// Moves all of the data into the store.
///
/// # Errors
/// `Invalid`, `SlowClient`, `LimitExceeded`, `UnfitData`, `StoreUnavailable`, `Gone` where the store is for reading only.
pub(super) async fn ingest(
    app: &Arc<App>,
    image: &Image,
    object: &Object,
    store: &Store,
    source: Source,
) -> Result<Ingested> {
    let Source { data, size: said, left } = source;
    let size = said.and_then(|size| u64::try_from(size).ok()).unwrap_or_default();
    let cap = app.config.default.image_size_cap;
    let observers = Observers::start(app, image)?;
    let expected = said.filter(|size| *size != 0);
    let limits = stream::Limits {
        patience: app.config.glimpse.client_timeout,
        most: left.bound().map_or(cap, |left| left.min(cap)),
        expected,
    };
    let (feed, chunks) = stream::channel();
    let mut feeding = pin!(data.feed(limits, observers.ends(), feed));
    let mut putting = pin!(store.put(object, chunks, size));
    let (fed, stored) = tokio::select! {
        stored = &mut putting => match stored {
            Ok(_) | Err(store::Error::Cut(_)) => (feeding.await, stored),
            // The client may go on sending for hours.
            Err(error) => return Err(cannot_store(error)),
        },
        fed = &mut feeding => (fed, putting.await),
    };
    match (fed, stored) {
        (Err(Broken::Unwanted), _) => Err(observers.objection().await),
        (Err(Broken::Refused) | Ok(_), Err(error)) => Err(cannot_store(error)),
        (Err(Broken::TooMuch(came)), _) if came <= cap => {
            Err(left.admits(Some(came)).map_or_else(over_quota, |()| too_large()))
        }
        (Err(broken), _) => Err(broke_off(broken, said)),
        (Ok(size), Ok(stored)) => Ok(Ingested { stored, size, observers }),
    }
}

pub(super) fn too_large() -> Error {
    Error::LimitExceeded("The incoming image is too large: The provided image is too large.".to_owned())
}

pub(super) fn over_quota(why: String) -> Error {
    Error::LimitExceeded(format!("Image exceeds the storage quota: {why}"))
}

/// What it means to the client that their data did not come to its end.
fn broke_off(broken: Broken, expected: Option<i64>) -> Error {
    let expected = expected.unwrap_or_default();
    match broken {
        Broken::Lost => Error::Invalid("The request body ended too early.".to_owned()),
        Broken::Silent => Error::SlowClient,
        Broken::TooMuch(_) => too_large(),
        Broken::MoreThanSaid(came) => {
            Error::Invalid(format!("Size exceeds: expected {expected} bytes, got {came} bytes"))
        }
        Broken::NotAsSaid(came) => {
            Error::Invalid(format!("Size mismatch: expected {expected} bytes, got {came} bytes"))
        }
        Broken::Refused | Broken::Unwanted => Error::Internal("the data was not taken, and nobody said why".into()),
    }
}

/// What it means to the client that the store did not take their data.
pub(super) fn cannot_store(error: store::Error) -> Error {
    match error {
        store::Error::Full => Error::LimitExceeded(format!("Image storage media is full: {error}")),
        store::Error::WriteDenied => {
            Error::StoreUnavailable(format!("Insufficient permissions on image storage media: {error}"))
        }
        store::Error::TimedOut(_) => Error::StoreUnavailable(error.to_string()),
        store::Error::ReadOnly => {
            Error::Gone("Error in store configuration. Adding images to store is disabled.".to_owned())
        }
        error => Error::Unavailable { service: "the image's store", source: error.into() },
    }
}
