//! Adds content to a namespace whose lock the transaction holds.

use std::collections::HashSet;

use chrono::NaiveDateTime;

use super::access::or_conflict;
use crate::{
    db::{
        self, Session as _, Tx,
        metadefs::{
            associations::{self, Inserted},
            objects, properties, tags,
        },
    },
    error::{Error, Result},
    model::metadefs::{Association, Namespace, TagName},
};

/// Adds associations, and the resource types that do not exist yet.
///
/// # Errors
/// `Conflict`
pub(super) async fn add_associations(
    tx: &mut Tx,
    namespace: &Namespace,
    added: &[Association],
    now: NaiveDateTime,
) -> Result<()> {
    let inserted = match associations::insert_all(tx, namespace.id, added, now, Some(now)).await {
        // Another transaction has added the resource type: the next attempt finds it.
        Err(db::Error::Duplicate) => return Err(Error::Contended("a resource type was added concurrently".into())),
        inserted => inserted?,
    };
    match inserted {
        Inserted::All => Ok(()),
        Inserted::Taken(Association { name, .. }) => Err(Error::Conflict(format!(
            "The metadata definition resource-type association of resource-type={name} to namespace={} already exists.",
            namespace.namespace
        ))),
    }
}

/// Adds objects.
///
/// # Errors
/// `Conflict`
pub(super) async fn add_objects(
    tx: &mut Tx,
    namespace: &Namespace,
    added: &[objects::NewRow],
    now: NaiveDateTime,
) -> Result<()> {
    let exists = |name| {
        let namespace = &namespace.namespace;
        format!("A metadata definition object with name={name} already exists in namespace={namespace}.")
    };
    let names: Vec<&str> = added.iter().map(|row| row.name.as_str()).collect();
    check_distinct(tx, &names, exists)?;
    let inserted = objects::insert_all(tx, namespace.id, added, now, Some(now)).await;
    or_conflict(inserted, || exists(names.first().copied().unwrap_or_default()))
}

/// Adds properties.
///
/// # Errors
/// `Conflict`
pub(super) async fn add_properties(
    tx: &mut Tx,
    namespace: &Namespace,
    added: &[properties::NewRow],
    now: NaiveDateTime,
) -> Result<()> {
    let exists = |name| {
        let namespace = &namespace.namespace;
        format!("A metadata definition property with name={name} already exists in namespace={namespace}.")
    };
    let names: Vec<&str> = added.iter().map(|row| row.name.as_str()).collect();
    check_distinct(tx, &names, exists)?;
    let inserted = properties::insert_all(tx, namespace.id, added, now, Some(now)).await;
    or_conflict(inserted, || exists(names.first().copied().unwrap_or_default()))
}

/// Adds tags.
///
/// # Errors
/// `Conflict`
pub(super) async fn add_tags(tx: &mut Tx, namespace: &Namespace, added: &[TagName], now: NaiveDateTime) -> Result<()> {
    if let Some(name) = tags::first_taken(tx, namespace.id, added).await? {
        return Err(Error::Conflict(tag_exists(namespace, name)));
    }
    let inserted = tags::insert_all(tx, namespace.id, added, now, Some(now)).await;
    or_conflict(inserted, || added.first().map(|name| tag_exists(namespace, name)).unwrap_or_default())
}

/// Glance's message about a tag that exists already.
pub(super) fn tag_exists(namespace: &Namespace, name: &TagName) -> String {
    let (name, namespace) = (name.as_str(), &namespace.namespace);
    format!(
        "A metadata tag with name={name} already exists in namespace={namespace}. (Please note that metadata tag names are \
         case insensitive)."
    )
}

/// Checks that no name repeats an earlier one. Where the engine's unique keys ignore case, so does this.
fn check_distinct<'n>(tx: &Tx, names: &[&'n str], exists: impl Fn(&'n str) -> String) -> Result<()> {
    let mut seen = HashSet::new();
    match names.iter().find(|name| !seen.insert(tx.unique_key(name))) {
        Some(name) => Err(Error::Conflict(exists(name))),
        None => Ok(()),
    }
}
