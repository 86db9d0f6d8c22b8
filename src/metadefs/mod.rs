//! Services for metadata definitions: the catalogue of the properties that images, flavors, volumes and hosts can have.
//!
//! A service function decides what the caller is allowed to do, and owns the transaction. A change takes the lock of the namespace's row
//! first. A namespace that the caller does not see is answered like one that does not exist.

mod access;
mod content;
pub(crate) mod files;
pub(crate) mod namespaces;
pub(crate) mod objects;
pub(crate) mod properties;
pub(crate) mod resource_types;
pub(crate) mod tags;
