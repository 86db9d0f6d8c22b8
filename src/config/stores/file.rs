//! The options of a store in directories of a file system.

use std::path::PathBuf;

use crate::config::{group::group, value::Repeated};

group! {
    /// A store in directories of a file system: options of `[glance_store]`, or of a group with the store's name.
    pub(crate) struct FileStore in "glance_store" {
        /// The directory. Default: `images` in the data directory next to the embedded database, else Glance's.
        filesystem_store_datadir: Option<PathBuf> = None,
        /// Several directories instead, as `directory:priority`.
        filesystem_store_datadirs: Repeated = Repeated::default(),
        /// A JSON file with metadata that is added to each location.
        filesystem_store_metadata_file: Option<PathBuf> = None,
        /// The permissions of a file, in octal digits; 0 leaves them to the umask.
        filesystem_store_file_perm: i64 = 0,
        /// The size of the blocks that `filesystem_thin_provisioning` examines, in bytes.
        filesystem_store_chunk_size: u32 = 65536 => 1..,
        /// Whether blocks of zeros become holes in the file.
        filesystem_thin_provisioning: bool = false,
        /// The timeout of a call to the file system, in seconds; 0 means no timeout.
        filesystem_store_timeout: u32 = 0,
    }
}
