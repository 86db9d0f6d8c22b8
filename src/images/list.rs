//! Listing images.

use std::collections::HashMap;

use super::view::{ImageView, build_views, exposes_locations, hide_properties, may_see};
use crate::{
    app::App,
    context::Context,
    db::{self, listing::Viewer},
    error::{Error, Result},
    model::{Direction, ImageFilter, RequestedId, SortKey, Term},
    policy::{Target, protections::Operation, rule},
};

/// The maximum number of bytes of a page's properties, tags and locations. A page that would exceed it has fewer images.
const MAX_PAGE_BYTES: usize = 16 << 20;

/// The input of a listing.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct ListQuery {
    /// The number of images per page, if the request has one.
    pub(crate) limit: Option<u32>,
    /// The image after which the page starts.
    pub(crate) marker: Option<RequestedId>,
    /// The sort order. It is total: its keys differ for any two images.
    pub(crate) sort: Vec<(SortKey, Direction)>,
    /// The conditions that all listed images satisfy.
    pub(crate) filter: ImageFilter,
}

/// A page of a listing.
#[derive(Debug)]
pub(crate) struct Page {
    /// Its images.
    pub(crate) images: Vec<ImageView>,
    /// The marker of the next page, if there is one.
    pub(crate) next_marker: Option<String>,
}

/// Lists images. Two statements for any number of images, one more with a marker, and one more on SQLite. A page whose properties,
/// tags and locations exceed [`MAX_PAGE_BYTES`] takes more.
///
/// # Errors
/// `Forbidden`, `Invalid` when the marker is not an image that the caller sees.
pub(crate) async fn list(app: &App, context: &Context, query: &ListQuery) -> Result<Page> {
    // As in Glance, a caller without a project is allowed to list what everyone can see.
    let target = Target { owner: Some(context.project_id().unwrap_or("None")), ..Target::default() };
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
            Some(image.ok_or_else(|| Error::marker_not_found(id))?)
        }
    };
    let may_read = |name: &str| app.protections.may(&app.policy, context, Operation::Read, name);
    if query.filter.terms.iter().any(|term| matches!(term, Term::Property(name, _) if !may_read(name))) {
        // For a caller who is not allowed to read the property, no image has it.
        return Ok(Page { images: Vec::new(), next_marker: None });
    }
    let page = db::listing::Page { sort: &query.sort, after: marker.as_ref(), limit: u64::from(limit) };
    let ids = db::listing::list(&mut conn, &viewer, &query.filter, &page).await?;
    let mut batch: Vec<&str> = ids.iter().map(String::as_str).collect();
    let mut batch_size = batch.len();
    let (mut images, all_read) = loop {
        let rest = batch.split_off(batch_size.min(batch.len()));
        // A single image has no limit: it gets a page of its own.
        let mut budget = if batch.len() > 1 { MAX_PAGE_BYTES } else { usize::MAX };
        let found = db::details::with_images(&mut conn, &batch, exposes_locations(app), &mut budget).await?;
        let Some((images, details)) = found else {
            batch_size = batch.len() / 2;
            batch.extend(rest);
            conn.abandon();
            conn = app.db.acquire().await?;
            continue;
        };
        let mut views = build_views(app, context, images, details);
        views.retain(|view| may_see(app, context, &view.image, &view.properties));
        // An image that the policy hides cannot be a marker. So a batch of hidden images alone does not end the page: the page goes
        // on with the images after them.
        if !views.is_empty() || rest.is_empty() {
            let order: HashMap<&str, usize> = batch.iter().enumerate().map(|(index, id)| (*id, index)).collect();
            views.sort_unstable_by_key(|view| order.get(view.image.id.as_str()).copied());
            break (views, rest.is_empty());
        }
        batch_size *= 2;
        batch = rest;
    };
    // As in Glance, a full page has a next one, which may be empty.
    let more = ids.len() == limit as usize || !all_read;
    // The marker is never an image that the policy hides. As in Glance, a page of hidden images alone is the last one.
    let next_marker = images.last().filter(|_| more).map(|view| view.image.id.to_string());
    hide_properties(app, context, &mut images);
    Ok(Page { images, next_marker })
}
