//! Locations: where an image's data is stored.

use std::fmt;

use serde::Serialize;
use serde_json::{Map, Value};

use super::{ImageId, text_enum::text_enum};

text_enum! {
    /// The state of the data at a location.
    pub(crate) enum LocationStatus("") {
        /// The image's data is there.
        Active = "active",
        /// There is no data yet: a copy is queued.
        Pending = "pending",
        /// There is a part of the data: a copy is in progress.
        Uploading = "uploading",
        /// The data still has to be removed.
        PendingDelete = "pending_delete",
        /// The data has been removed.
        Deleted = "deleted",
    }
}

/// A location's URL. It can contain a store's credentials: only authorised clients see it, and it is never logged.
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
    /// The URL with its credentials, for the store that holds the data and for authorised clients.
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

/// The id of a location whose row is not inserted yet. Engines number rows from 1.
pub(crate) const UNWRITTEN: i32 = 0;

/// A location of an image's data.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Location {
    /// The row's id, which orders an image's locations; [`UNWRITTEN`] if there is no row yet.
    pub(crate) id: i32,
    /// The image whose data is there.
    pub(crate) image_id: ImageId,
    /// Its URL.
    pub(crate) url: LocationUrl,
    /// The store's metadata; its key `store` names the store.
    pub(crate) metadata: Map<String, Value>,
    /// The state of the data there.
    pub(crate) status: LocationStatus,
}
