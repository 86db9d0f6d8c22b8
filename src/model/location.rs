//! Locations: where an image's data is stored.

use std::{borrow::Cow, fmt};

use serde::{Serialize, Serializer};
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

/// The schemes of the stores whose credentials old releases of Glance wrote into locations' URLs.
const WITH_CREDENTIALS: [&str; 6] = ["s3", "s3+http", "s3+https", "swift", "swift+http", "swift+https"];

/// A location's URL. It can contain a store's credentials: it is never logged, and clients see it [without them](Self::redacted).
#[derive(Clone, PartialEq, Eq, Hash, sqlx::Type)]
#[sqlx(transparent)]
pub(crate) struct LocationUrl(String);

impl From<String> for LocationUrl {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl LocationUrl {
    /// The URL with its credentials, for the database and for the store that holds the data.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }

    /// The URL without the credentials of its store, as Glance writes such URLs since release 33. Other URLs are returned
    /// unchanged: the credentials in the URL of a web server are those that a client has provided.
    pub(crate) fn redacted(&self) -> Cow<'_, str> {
        let whole = Cow::Borrowed(self.0.as_str());
        let Some((scheme, rest)) = self.0.split_once("://").filter(|(scheme, _)| WITH_CREDENTIALS.contains(scheme))
        else {
            return whole;
        };
        // A secret key can contain slashes, so the credentials end at the last `@`.
        let path = rest.split(['?', '#']).next().unwrap_or_default();
        path.rsplit_once('@').map_or(whole, |(_, path)| format!("{scheme}://{path}").into())
    }

    /// Whether two URLs refer to the same data. Credentials make no difference.
    pub(crate) fn is_same_data(&self, other: &Self) -> bool {
        self.redacted() == other.redacted()
    }
}

impl Serialize for LocationUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.redacted())
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

#[cfg(test)]
mod tests {
    use super::LocationUrl;

    #[test]
    fn the_credentials_of_stores_are_not_shown() {
        for (url, shown) in [
            ("s3://host/bucket/id", "s3://host/bucket/id"),
            ("s3://KEY:SECRET@host/bucket/id", "s3://host/bucket/id"),
            ("s3://KEY:SE/CR+ET%2F@x@host:8080/bucket/id", "s3://host:8080/bucket/id"),
            ("s3+http://KEY:SECRET@host/bucket/id", "s3+http://host/bucket/id"),
            ("s3+https://KEY:SECRET@host/bucket/id?a=b#c", "s3+https://host/bucket/id"),
            ("s3+https://host/bucket/id?a=b@c", "s3+https://host/bucket/id?a=b@c"),
            ("swift+https://tenant%3Auser:key@host/v1/container/id", "swift+https://host/v1/container/id"),
            ("swift://user:key/rest@host/container/id", "swift://host/container/id"),
            ("swift+config://ref1/container/id", "swift+config://ref1/container/id"),
            ("https://user:password@host/path", "https://user:password@host/path"),
            ("file:///images/a@b", "file:///images/a@b"),
            ("cinder://store/volume", "cinder://store/volume"),
            ("vsphere://host/folder/a@b?dcPath=c", "vsphere://host/folder/a@b?dcPath=c"),
            ("nothing", "nothing"),
        ] {
            let url = LocationUrl::from(url.to_owned());
            assert_eq!(url.redacted(), shown);
            assert_eq!(serde_json::to_value(&url).unwrap(), shown);
            assert!(url.is_same_data(&LocationUrl::from(shown.to_owned())));
        }
    }
}
