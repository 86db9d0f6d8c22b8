//! `[image_import_opts]`: how imports are done.

use super::group::group;

group! {
    /// `[image_import_opts]`
    pub(crate) struct ImageImportOpts in "image_import_opts" {
        /// The maximum number of stores that an import copies its data to at the same time.
        max_parallel_stores: u32 = 1 => 1..,
    }
}
