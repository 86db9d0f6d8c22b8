//! Glance's tables of metadata definitions: namespaces and what they contain.
//!
//! A transaction that writes the content of a namespace takes the lock of its row first (`namespaces::get_locked`). The unique keys of
//! MySQL's schema ignore case and accents, so an insertion can be a [`Duplicate`](super::Error::Duplicate) although no row has exactly
//! this name.

pub(crate) mod associations;
pub(crate) mod namespaces;
pub(crate) mod objects;
mod order;
pub(crate) mod properties;
pub(crate) mod tags;
