//! `/v2/metadefs/…`: metadata definitions.

mod body;
pub(super) mod namespaces;
pub(super) mod objects;
pub(super) mod properties;
mod query;
pub(super) mod resource_types;
pub(super) mod tags;
