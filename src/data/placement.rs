//! Which store data goes into, and which stores it is in.

use std::sync::Arc;

use crate::{
    app::App,
    error::{Error, Result},
    model::Location,
    store::Store,
};

/// The store that the client chose, where stores have names; else the one for uploads.
pub(super) fn chosen(app: &App, chosen: Option<&str>) -> Result<Arc<Store>> {
    match chosen.filter(|_| app.stores.are_named) {
        None => Ok(app.stores.default()),
        Some(id) => app.stores.named(id).ok_or_else(|| Error::Invalid(format!("Store for identifier {id} not found"))),
    }
}

/// The name of the store that a location is in, where stores have names.
pub(crate) fn name_of<'a>(app: &'a App, location: &'a Location) -> Option<&'a str> {
    let written = location.metadata.get("store").and_then(|name| name.as_str());
    match app.stores.find(&location.url, &location.metadata) {
        Ok(store) => Some(&store.id),
        Err(_) => written,
    }
}

/// The first of the locations in the stores of the highest weight.
pub(crate) fn heaviest<'l>(app: &App, locations: &'l [Location]) -> Option<&'l Location> {
    // Of several, the last one counts as the greatest.
    locations.iter().rev().max_by_key(|location| weight_of(app, location))
}

/// The weight of the store that a location is in: the heaviest is read first.
pub(crate) fn weight_of(app: &App, location: &Location) -> i64 {
    app.stores.find(&location.url, &location.metadata).map_or(0, |store| store.weight)
}
