//! The options of a store in folders.

use std::path::PathBuf;

use crate::config::{group::group, value::Repeated};

group! {
    /// A store in folders: options of `[glance_store]`, or of a group with the store's name.
    pub(crate) struct FileStore in "glance_store" {
        /// The folder. Default: `images` in the data directory next to the embedded database, else Glance's.
        filesystem_store_datadir: Option<PathBuf> = None,
        /// Several folders instead, as `folder:priority`.
        filesystem_store_datadirs: Repeated = Repeated::default(),
        /// A JSON file with the metadata of each location.
        filesystem_store_metadata_file: Option<PathBuf> = None,
        /// The permissions of a file, in octal digits; 0 leaves them to the umask.
        filesystem_store_file_perm: i64 = 0,
        /// Bytes that `filesystem_thin_provisioning` examines at a time.
        filesystem_store_chunk_size: u32 = 65536 => 1..,
        /// Whether zeros are left out, as holes in the file.
        filesystem_thin_provisioning: bool = false,
        /// Seconds that a call to the file system may take; 0 sets no bound.
        filesystem_store_timeout: u32 = 0,
    }
}
