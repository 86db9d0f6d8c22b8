//! The choice of a store for new data, and the stores of existing locations.

use std::sync::Arc;

use crate::{
    app::App,
    error::{Error, Result},
    model::Location,
    store::Store,
};

/// Returns the store that the client chose if stores have names, and the default store otherwise.
pub(super) fn choose_store(app: &App, requested: Option<&str>) -> Result<Arc<Store>> {
    match requested.filter(|_| app.stores.are_named) {
        None => Ok(app.stores.default()),
        Some(id) => app.stores.named(id).ok_or_else(|| Error::Invalid(format!("Store for identifier {id} not found"))),
    }
}

/// Returns the name of a location's store, if stores have names.
pub(crate) fn name_of<'a>(app: &'a App, location: &'a Location) -> Option<&'a str> {
    let written = location.metadata.get("store").and_then(|name| name.as_str());
    match app.stores.find(&location.url, &location.metadata) {
        Ok(store) => Some(&store.id),
        Err(_) => written,
    }
}

/// Returns the first location among those in the stores with the highest weight.
pub(crate) fn heaviest<'l>(app: &App, locations: &'l [Location]) -> Option<&'l Location> {
    // `max_by_key` returns the last of several maxima.
    locations.iter().rev().max_by_key(|location| weight_of(app, location))
}

/// Returns the weight of a location's store. Downloads try the heaviest store first.
pub(crate) fn weight_of(app: &App, location: &Location) -> i64 {
    app.stores.find(&location.url, &location.metadata).map_or(0, |store| store.weight)
}
