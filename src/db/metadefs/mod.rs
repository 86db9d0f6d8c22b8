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

use sea_query::Query;

use super::{
    Result, Session,
    tables::{
        MetadefNamespaceResourceTypes, MetadefNamespaces, MetadefObjects, MetadefProperties, MetadefResourceTypes,
        MetadefTags,
    },
};

/// Removes everything, and returns the names of the tables. Six statements.
pub(crate) async fn delete_everything(s: &mut impl Session) -> Result<[&'static str; 6]> {
    for delete in [
        Query::delete().from_table(MetadefProperties::Table).take(),
        Query::delete().from_table(MetadefObjects::Table).take(),
        Query::delete().from_table(MetadefTags::Table).take(),
        Query::delete().from_table(MetadefNamespaceResourceTypes::Table).take(),
        Query::delete().from_table(MetadefNamespaces::Table).take(),
        Query::delete().from_table(MetadefResourceTypes::Table).take(),
    ] {
        s.execute(delete).await?;
    }
    Ok([
        "metadef_properties",
        "metadef_objects",
        "metadef_tags",
        "metadef_namespace_resource_types",
        "metadef_namespaces",
        "metadef_resource_types",
    ])
}
