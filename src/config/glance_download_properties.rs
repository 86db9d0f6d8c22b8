//! `[glance_download_properties]`: imports from the Glance of another region.

use super::{
    group::group,
    value::{BoundedList, word_list},
};

group! {
    /// `[glance_download_properties]`
    pub(crate) struct GlanceDownloadProperties in "glance_download_properties" {
        /// The beginnings of the names of properties that `glance-download` copies from the source image.
        extra_properties: BoundedList<String> =
            BoundedList(word_list("hw_ trait: os_distro os_secure_boot os_type")),
    }
}
