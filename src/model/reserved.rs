//! The custom properties that the service sets on an image in the course of an import.

/// The id of the task that imports data into the image. It is the import's lock.
pub(crate) const IMPORT_TASK: &str = "os_glance_import_task";
/// The stores that an import has still to copy data to, separated by commas.
pub(crate) const IMPORTING_TO: &str = "os_glance_importing_to_stores";
/// The stores that an import could not copy data to, separated by commas.
pub(crate) const FAILED_IMPORT: &str = "os_glance_failed_import";
/// The URL of the node that has the image's staged data.
pub(crate) const STAGE_HOST: &str = "os_glance_stage_host";
/// The URL of the node that computes the hash of the image's data.
pub(crate) const HASH_HOST: &str = "os_glance_hash_op_host";
