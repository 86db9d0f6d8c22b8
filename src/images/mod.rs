//! Images: creating, showing, listing and deleting them.
//!
//! A service function takes the caller's context and typed input, decides who may, owns the transaction, and returns
//! domain values. What it costs is said in database statements; a transaction adds BEGIN and COMMIT.

pub(crate) mod actions;
pub(crate) mod audit;
pub(crate) mod data;
mod delete;
mod facts;
pub(crate) mod housekeeping;
pub(crate) mod locations;
pub(crate) mod members;
pub(crate) mod model;
pub(crate) mod query;
pub(crate) mod range;
pub(crate) mod stores;
pub(crate) mod tags;
pub(crate) mod update;
pub(crate) mod uploads;

use std::{cmp::Reverse, collections::HashMap, time::Duration};

pub(crate) use self::delete::delete;
use self::{
    model::{ImageView, NewImage, requirement},
    query::ListQuery,
};
use crate::{
    access,
    access::Seen,
    app::App,
    context::Context,
    db::{
        self, Session,
        belongings::Belongings,
        listing::{Term, Viewer},
    },
    error::{Error, Result},
    limits::Resource,
    model::{Image, ImageId, LocationStatus, RequestedId, Status, Tag, check_storable},
    policy::{Target, protections::Operation, rule},
};

/// Bytes of what belongs to the images of a page, beside their rows, at the most: a page with more of it has fewer images.
const MAX_PAGE_BYTES: usize = 16 << 20;
/// Characters of an owner at the most, as wide as its column.
const MAX_OWNER_LENGTH: usize = 255;

/// Creates an image without data. Three statements at the most, while the quotas are the default ones, and one more where
/// Keystone limits how many images there may be.
///
/// # Errors
/// `Forbidden`, `Conflict` when the id is taken, be it by a deleted image, `LimitExceeded`.
pub(crate) async fn create(app: &App, context: &Context, new: NewImage) -> Result<ImageView> {
    let owner = new.owner.clone().unwrap_or_else(|| context.project_id().map(str::to_owned));
    authorise_creation(app, context, &new, owner.as_deref())?;
    app.limits.enforce(&app.db, context, Resource::CountTotal, 1).await?;
    for (name, _) in &new.properties {
        app.protections.check(&app.policy, context, Operation::Create, name)?;
    }
    check_owner(owner.as_deref().unwrap_or_default())?;
    check_quota("tags", new.tags.len(), app.config.default.image_tag_quota())?;
    check_quota("properties", new.properties.len(), app.config.default.image_property_quota())?;
    let now = app.now();
    let image = Image {
        id: new.id.unwrap_or_else(ImageId::new),
        name: new.name,
        size: None,
        status: Status::Queued,
        created_at: now,
        updated_at: Some(now),
        disk_format: new.disk_format,
        container_format: new.container_format,
        checksum: None,
        owner: owner.filter(|owner| !owner.is_empty()),
        min_disk: requirement("min_disk", new.min_disk)?,
        min_ram: requirement("min_ram", new.min_ram)?,
        protected: new.protected,
        virtual_size: None,
        visibility: new.visibility,
        os_hidden: new.os_hidden,
        os_hash_algo: None,
        os_hash_value: None,
    };
    let (mut properties, tags) = (new.properties, new.tags);
    properties.sort();
    let tags_text: Vec<&str> = tags.iter().map(Tag::as_str).collect();
    let (row, properties_ref, tags_ref) = (&image, &properties, &tags_text);
    app.db
        .transaction(|mut tx| async move {
            let inserted = db::images::insert(&mut tx, row).await;
            or_conflict(inserted, || format!("Image ID {} already exists!", row.id))?;
            let inserted = db::properties::insert(&mut tx, &row.id, properties_ref, now).await;
            or_conflict(inserted, same_but_for_case)?;
            db::tags::insert_all(&mut tx, &row.id, tags_ref, now).await?;
            Ok((tx, ()))
        })
        .await?;
    let tags = tags_text.into_iter().map(str::to_owned).collect();
    let mut view = ImageView { image, properties, tags, locations: Vec::new() };
    hide(app, context, std::slice::from_mut(&mut view));
    Ok(view)
}

/// An owner may come from a token, and then has passed no schema.
fn check_owner(owner: &str) -> Result<()> {
    if owner.chars().count() > MAX_OWNER_LENGTH {
        return Err(Error::Invalid(format!("Owner is too long, it has {MAX_OWNER_LENGTH} characters at the most.")));
    }
    check_storable("Owner", owner)
}

/// Says what a duplicate row means to the client.
fn or_conflict(inserted: db::Result<()>, message: impl FnOnce() -> String) -> Result<()> {
    match inserted {
        Err(db::Error::Duplicate) => Err(Error::Conflict(message())),
        other => Ok(other?),
    }
}

/// A collation of MySQL's ignores case, and a key says that a property's name is there once.
fn same_but_for_case() -> String {
    "Property names that differ only in case cannot be told apart by this database.".to_owned()
}

fn authorise_creation(app: &App, context: &Context, new: &NewImage, owner: Option<&str>) -> Result<()> {
    let target = Target { owner, visibility: Some(new.visibility.as_str()), ..Target::default() };
    if !app.policy.allows(&context.identity, rule::ADD_IMAGE, &target) {
        if owner != context.project_id() {
            let owner = owner.unwrap_or("None");
            return Err(Error::NotPermitted(format!("You are not permitted to create images owned by '{owner}'")));
        }
        return Err(Error::policy_denied(rule::ADD_IMAGE));
    }
    access::authorise_visibility(app, context, new.visibility, &target)?;
    // Where the defaults from before Glance had roles for projects count, which let everybody.
    let only_new = app.config.oslo_policy.enforce_new_defaults;
    if !only_new
        && !context.is_admin
        && new.owner.as_ref().is_some_and(|owner| owner.as_deref() != context.project_id())
    {
        let owner = owner.unwrap_or("None");
        return Err(Error::Forbidden(format!("You are not permitted to create images owned by '{owner}'.")));
    }
    Ok(())
}

fn check_quota(what: &str, attempted: usize, quota: Option<u32>) -> Result<()> {
    match quota {
        Some(maximum) if attempted > maximum as usize => Err(Error::LimitExceeded(format!(
            "The limit has been exceeded on the number of allowed image {what}. Attempted: {attempted}, \
             Maximum: {maximum}"
        ))),
        _ => Ok(()),
    }
}

/// Shows an image. One statement, one more where another project shares the image.
///
/// # Errors
/// `NotFound`.
pub(crate) async fn show(app: &App, context: &Context, id: &RequestedId) -> Result<ImageView> {
    let mut conn = app.db.acquire().await?;
    let not_found = || Error::NotFound(format!("No image found with ID {id}"));
    let id = id.id().ok_or_else(not_found)?;
    let found = db::belongings::with_image(&mut conn, &id, shows_locations(app)).await?;
    let (image, belongings) = found.ok_or_else(not_found)?;
    if !access::is_visible(&mut conn, context, &image).await? {
        return Err(not_found());
    }
    drop(conn);
    let mut view = view(app, context, image, belongings)?;
    if !is_shown(app, context, &view.image, &view.properties) {
        return Err(Error::NotFound(access::NOT_FOUND.to_owned()));
    }
    hide(app, context, std::slice::from_mut(&mut view));
    Ok(view)
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
        let found = db::belongings::with_images(&mut conn, &left, shows_locations(app), &mut room).await?;
        let Some((images, belongings)) = found else {
            part = left.len() / 2;
            left.extend(rest);
            conn.give_up();
            conn = app.db.acquire().await?;
            continue;
        };
        let mut views = views(app, context, images, belongings);
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

/// Whether the policy lets the caller see an image, with its properties in the order of their names.
fn is_shown(app: &App, context: &Context, image: &Image, properties: &[(String, String)]) -> bool {
    let property = |name: &str| {
        let place = properties.binary_search_by(|(other, _)| other.as_str().cmp(name)).ok()?;
        Some(properties[place].1.as_str())
    };
    app.policy.allows(&context.identity, rule::GET_IMAGE, &Seen::new(app, context, image, &property).target())
}

/// Reads what belongs to an image. One statement.
async fn with_belongings(app: &App, s: &mut impl Session, context: &Context, image: Image) -> Result<ImageView> {
    let belongings = db::belongings::of(s, &image.id, shows_locations(app)).await?;
    view(app, context, image, belongings)
}

/// Whether anybody is shown where data is.
fn shows_locations(app: &App) -> bool {
    let options = &app.config.default;
    options.show_image_direct_url || options.show_multiple_locations || app.stores.are_named
}

/// Takes the properties that the caller may not read out of images. Each name is checked once.
fn hide(app: &App, context: &Context, views: &mut [ImageView]) {
    if !app.protections.are_in_force() {
        return;
    }
    let mut checked = HashMap::<String, bool>::new();
    for view in views {
        view.properties.retain(|(name, _)| match checked.get(name) {
            Some(may) => *may,
            None => {
                let may = app.protections.may(&app.policy, context, Operation::Read, name);
                checked.insert(name.clone(), may);
                may
            }
        });
    }
}

fn view(app: &App, context: &Context, image: Image, belongings: Belongings) -> Result<ImageView> {
    let mut views = views(app, context, vec![image], belongings);
    views.pop().ok_or_else(|| Error::Internal("a view went missing".into()))
}

/// Images with what belongs to them, as far as the caller may see it.
fn views(app: &App, context: &Context, images: Vec<Image>, belongings: Belongings) -> Vec<ImageView> {
    let Belongings { properties, tags, locations } = belongings;
    let view = |image| ImageView { image, properties: Vec::new(), tags: Vec::new(), locations: Vec::new() };
    let mut views: Vec<ImageView> = images.into_iter().map(view).collect();
    let places: HashMap<String, usize> =
        views.iter().enumerate().map(|(place, view)| (view.image.id.to_string(), place)).collect();
    for row in properties {
        if let Some(place) = places.get(&row.image_id) {
            // The first version of the API wrote NULL values; this one shows them as empty.
            views[*place].properties.push((row.name, row.value.unwrap_or_default()));
        }
    }
    for row in tags {
        if let Some(place) = places.get(&row.image_id) {
            views[*place].tags.push(row.value);
        }
    }
    for location in locations.into_iter().filter(|location| location.status == LocationStatus::Active) {
        if let Some(place) = places.get(location.image_id.as_str()) {
            // Where the data of a deactivated image is, is as good as the data.
            let is_hidden = views[*place].image.status == Status::Deactivated && !context.is_admin;
            views[*place].locations.extend((!is_hidden).then_some(location));
        }
    }
    for view in &mut views {
        view.locations.sort_by_key(|location| Reverse(stores::weight_of(app, location)));
    }
    views
}

/// Bounds the time of what is done at the database, which may answer nothing at all.
async fn in_time<T>(patience: Duration, work: impl Future<Output = Result<T>>) -> Result<T> {
    let silent = || Error::Unavailable { service: "the database", source: "it took too long".into() };
    tokio::time::timeout(patience, work).await.unwrap_or_else(|_| Err(silent()))
}
