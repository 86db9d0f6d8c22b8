//! Where an image's data is.

use std::fmt;

use serde::Serialize;
use serde_json::{Map, Value};

use super::{ImageId, text_enum::text_enum};

text_enum! {
    /// What is at a location.
    pub(crate) enum LocationStatus("") {
        /// The image's data.
        Active = "active",
        /// Nothing yet: a copy is waiting to be made.
        Pending = "pending",
        /// A part of the data: a copy is being made.
        Uploading = "uploading",
        /// Data that is still to be removed.
        PendingDelete = "pending_delete",
        /// Nothing any more.
        Deleted = "deleted",
    }
}

/// A location's URL. It may hold a store's credentials, so it is shown to clients that may see it and never logged.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, sqlx::Type)]
#[serde(transparent)]
#[sqlx(transparent)]
pub(crate) struct LocationUrl(String);

impl From<String> for LocationUrl {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl LocationUrl {
    /// Its text, for the store that it is in.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for LocationUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = self.0.split("://").next().unwrap_or_default();
        write!(f, "{scheme}://…")
    }
}

/// The number of a row that is not there yet: engines count from 1.
pub(crate) const UNWRITTEN: i32 = 0;

/// A place where an image's data is.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Location {
    /// The row's number, by which an image's locations are in order; [`UNWRITTEN`] where there is no row yet.
    pub(crate) id: i32,
    /// The image whose data is there.
    pub(crate) image_id: ImageId,
    /// Where.
    pub(crate) url: LocationUrl,
    /// What the store says of it: `store` names the store.
    pub(crate) metadata: Map<String, Value>,
    /// What is there.
    pub(crate) status: LocationStatus,
}
