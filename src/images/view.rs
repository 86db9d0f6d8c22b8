//! An image as a caller sees it.

use std::{cmp::Reverse, collections::HashMap};

use crate::{
    access::{self, PolicyView},
    app::App,
    context::Context,
    data::placement,
    db::{self, Session, details::Details},
    error::{Error, Result},
    model::{Image, Location, LocationStatus, RequestedId, Status},
    policy::{protections::Operation, rule},
};

/// An image with its properties, tags and locations, as far as the caller is allowed to see them.
#[derive(Debug, Clone)]
pub(crate) struct ImageView {
    /// Its row.
    pub(crate) image: Image,
    /// Custom properties, in the order in which they were added.
    pub(crate) properties: Vec<(String, String)>,
    /// Tags, in alphabetical order.
    pub(crate) tags: Vec<String>,
    /// Locations in descending order of their stores' weights. Read only if the configuration exposes them, and empty if the caller
    /// is not allowed to see them.
    pub(crate) locations: Vec<Location>,
}

/// Returns an image. One statement, one more where another project shares the image.
///
/// # Errors
/// `NotFound`.
pub(crate) async fn get(app: &App, context: &Context, id: &RequestedId) -> Result<ImageView> {
    let mut conn = app.db.acquire().await?;
    let not_found = || Error::image_not_found(id);
    let id = id.id().ok_or_else(not_found)?;
    let found = db::details::with_image(&mut conn, &id, exposes_locations(app)).await?;
    let (image, details) = found.ok_or_else(not_found)?;
    if !access::is_visible(&mut conn, context, &image).await? {
        return Err(not_found());
    }
    drop(conn);
    let mut view = build_view(app, context, image, details)?;
    if !may_see(app, context, &view.image, &view.properties) {
        return Err(Error::resource_not_found());
    }
    hide_properties(app, context, std::slice::from_mut(&mut view));
    Ok(view)
}

/// Whether the policy allows the caller to see an image.
pub(super) fn may_see(app: &App, context: &Context, image: &Image, properties: &[(String, String)]) -> bool {
    let property = |name: &str| properties.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str());
    app.policy.allows(&context.identity, rule::GET_IMAGE, &PolicyView::new(app, context, image, &property).target())
}

/// Reads an image's properties, tags and locations. One statement.
pub(super) async fn load_details(
    app: &App,
    s: &mut impl Session,
    context: &Context,
    image: Image,
) -> Result<ImageView> {
    let details = db::details::get(s, &image.id, exposes_locations(app)).await?;
    build_view(app, context, image, details)
}

/// Whether the configuration exposes locations to callers.
pub(super) fn exposes_locations(app: &App) -> bool {
    let options = &app.config.default;
    options.show_image_direct_url || options.show_multiple_locations || app.stores.are_named
}

/// Removes the properties that the caller is not allowed to read. Each name is checked once.
pub(super) fn hide_properties(app: &App, context: &Context, views: &mut [ImageView]) {
    if !app.protections.are_in_force() {
        return;
    }
    let mut checked = HashMap::<String, bool>::new();
    for view in views {
        view.properties.retain(|(name, _)| match checked.get(name) {
            Some(allowed) => *allowed,
            None => {
                let allowed = app.protections.may(&app.policy, context, Operation::Read, name);
                checked.insert(name.clone(), allowed);
                allowed
            }
        });
    }
}

fn build_view(app: &App, context: &Context, image: Image, details: Details) -> Result<ImageView> {
    let mut views = build_views(app, context, vec![image], details);
    views.pop().ok_or_else(|| Error::Internal("a view went missing".into()))
}

/// Joins images with their properties, tags and locations. Leaves out the locations that the caller is not allowed to see.
pub(super) fn build_views(app: &App, context: &Context, images: Vec<Image>, details: Details) -> Vec<ImageView> {
    let Details { properties, tags, locations } = details;
    let view = |image| ImageView { image, properties: Vec::new(), tags: Vec::new(), locations: Vec::new() };
    let mut views: Vec<ImageView> = images.into_iter().map(view).collect();
    let indexes: HashMap<String, usize> =
        views.iter().enumerate().map(|(index, view)| (view.image.id.to_string(), index)).collect();
    for row in properties {
        if let Some(index) = indexes.get(&row.image_id) {
            // Version 1 of the Image API wrote NULL values; version 2 shows them as empty strings.
            views[*index].properties.push((row.name, row.value.unwrap_or_default()));
        }
    }
    for row in tags {
        if let Some(index) = indexes.get(&row.image_id) {
            views[*index].tags.push(row.value);
        }
    }
    for location in locations.into_iter().filter(|location| location.status == LocationStatus::Active) {
        if let Some(index) = indexes.get(location.image_id.as_str()) {
            // The location of a deactivated image's data gives access to that data.
            let is_hidden = views[*index].image.status == Status::Deactivated && !context.is_admin;
            views[*index].locations.extend((!is_hidden).then_some(location));
        }
    }
    for view in &mut views {
        view.locations.sort_by_key(|location| Reverse(placement::weight_of(app, location)));
    }
    views
}
