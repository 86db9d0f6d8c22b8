//! Listing images.

use std::collections::HashMap;

use super::view::{ImageView, hide, is_shown, shows_locations, views};
use crate::{
    app::App,
    context::Context,
    db::{self, listing::Viewer},
    error::{Error, Result},
    model::{Direction, ImageFilter, RequestedId, SortKey, Term},
    policy::{Target, protections::Operation, rule},
};

/// Bytes of what belongs to the images of a page, beside their rows, at the most: a page with more of it has fewer images.
const MAX_PAGE_BYTES: usize = 16 << 20;

/// A listing that somebody asks for.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct ListQuery {
    /// Images a page, where the request says.
    pub(crate) limit: Option<u32>,
    /// The image after which the page starts.
    pub(crate) marker: Option<RequestedId>,
    /// The order: its keys tell any two images apart.
    pub(crate) sort: Vec<(SortKey, Direction)>,
    /// What the images have in common.
    pub(crate) filter: ImageFilter,
}

/// A page of a listing.
#[derive(Debug)]
pub(crate) struct Page {
    /// Its images.
    pub(crate) images: Vec<ImageView>,
    /// The marker of the page after it, where there is one.
    pub(crate) next_marker: Option<String>,
}

/// Lists images. Two statements, one more with a marker and one more on SQLite, however many images there are; more where they have
/// more than a page takes.
///
/// # Errors
/// `Forbidden`, `Invalid` when the marker is no image that the caller may see.
pub(crate) async fn list(app: &App, context: &Context, query: &ListQuery) -> Result<Page> {
    let target = Target { owner: context.project_id(), ..Target::default() };
    if !app.policy.allows(&context.identity, rule::GET_IMAGES, &target) {
        return Err(Error::policy_denied(rule::GET_IMAGES));
    }
    let limit = query.limit.unwrap_or(app.config.default.limit_param_default).min(app.config.default.api_limit_max);
    let viewer = Viewer { project: context.project_id(), is_admin: context.is_admin };
    let mut conn = app.db.acquire().await?;
    let marker = match &query.marker {
        None => None,
        Some(id) => {
            let image = match id.id() {
                Some(id) => db::listing::marker(&mut conn, &viewer, &id).await?,
                None => None,
            };
            Some(image.ok_or_else(|| Error::Invalid(format!("No image found with ID {id}")))?)
        }
    };
    let may = |name: &str| app.protections.may(&app.policy, context, Operation::Read, name);
    if query.filter.terms.iter().any(|term| matches!(term, Term::Property(name, _) if !may(name))) {
        // To them, no image has such a property.
        return Ok(Page { images: Vec::new(), next_marker: None });
    }
    // One row more than asked for tells whether there is a page after this one.
    let page = db::listing::Page { sort: &query.sort, after: marker.as_ref(), limit: u64::from(limit) + 1 };
    let ids = db::listing::list(&mut conn, &viewer, &query.filter, &page).await?;
    let mut left: Vec<&str> = ids.iter().take(limit as usize).map(String::as_str).collect();
    let mut part = left.len();
    let (mut images, all_read) = loop {
        let rest = left.split_off(part.min(left.len()));
        // One image is shown in a page of its own, however large it is.
        let mut room = if left.len() > 1 { MAX_PAGE_BYTES } else { usize::MAX };
        let found = db::details::with_images(&mut conn, &left, shows_locations(app), &mut room).await?;
        let Some((images, details)) = found else {
            part = left.len() / 2;
            left.extend(rest);
            conn.give_up();
            conn = app.db.acquire().await?;
            continue;
        };
        let mut views = views(app, context, images, details);
        views.retain(|view| is_shown(app, context, &view.image, &view.properties));
        // Of images that the policy hides, none is a marker: who may see what comes after them is shown it at once.
        if !views.is_empty() || rest.is_empty() {
            let places: HashMap<&str, usize> = left.iter().enumerate().map(|(place, id)| (*id, place)).collect();
            views.sort_unstable_by_key(|view| places.get(view.image.id.as_str()).copied());
            break (views, rest.is_empty());
        }
        part *= 2;
        left = rest;
    };
    let more = ids.len() > limit as usize || !all_read;
    // The id of an image that the policy hides is told to nobody; as in Glance, a page of them alone is the last one.
    let next_marker = images.last().filter(|_| more).map(|view| view.image.id.to_string());
    hide(app, context, &mut images);
    Ok(Page { images, next_marker })
}
