//! What the image services take and give: typed, checked, with no JSON and no HTTP in it.

use crate::{
    error::{Error, Result},
    model::{Image, ImageId, Location, Tag, Visibility},
};

/// An image with everything that shows it.
#[derive(Debug, Clone)]
pub(crate) struct ImageView {
    /// Its row.
    pub(crate) image: Image,
    /// Custom properties, in the order of their names.
    pub(crate) properties: Vec<(String, String)>,
    /// Tags, in alphabetical order.
    pub(crate) tags: Vec<String>,
    /// Where its data is, the heaviest store first; read only where the configuration shows it, to who may see it.
    pub(crate) locations: Vec<Location>,
}

/// An image that somebody wants to create.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NewImage {
    /// The id that the caller chose.
    pub(crate) id: Option<ImageId>,
    /// See [`Image`].
    pub(crate) name: Option<String>,
    /// See [`Image`].
    pub(crate) disk_format: Option<String>,
    /// See [`Image`].
    pub(crate) container_format: Option<String>,
    /// The owner, where the caller names one: `Some(None)` is nobody.
    pub(crate) owner: Option<Option<String>>,
    /// See [`Image`].
    pub(crate) visibility: Visibility,
    /// See [`Image`].
    pub(crate) min_disk: i64,
    /// See [`Image`].
    pub(crate) min_ram: i64,
    /// See [`Image`].
    pub(crate) protected: bool,
    /// See [`Image`].
    pub(crate) os_hidden: bool,
    /// Custom properties.
    pub(crate) properties: Vec<(String, String)>,
    /// Tags, each once.
    pub(crate) tags: Vec<Tag>,
}

/// What an instance needs at least, as its column holds it.
///
/// # Errors
/// `Invalid`
pub(crate) fn requirement(name: &str, value: i64) -> Result<i32> {
    if value < 0 {
        return Err(Error::Invalid(format!(
            "Invalid value '{value}' for parameter '{name}': Cannot be a negative value"
        )));
    }
    let too_large = |_| Error::Invalid(format!("'{name}' value out of range, must not exceed {}.", i32::MAX));
    value.try_into().map_err(too_large)
}
