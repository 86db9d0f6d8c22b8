//! Finds images whose data is missing or has the wrong size, and reports them.
//!
//! An audit inspects one page of images at a time and asks their stores. It asks again a while later, so that a deletion or an
//! upload in progress has ended by then. It never removes data, a location or a status because of a store's answer: a folder that
//! is not mounted looks the same as one whose files were removed.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use futures_util::{StreamExt as _, stream};

use crate::{
    app::App,
    db::{self, Conn},
    error::Result,
    model::{Image, ImageId, Location, LocationStatus, Status},
    store,
};

/// The number of images per page.
const PAGE: u64 = 1000;
/// The number of images whose stores are asked concurrently.
const CONCURRENT: usize = 8;

/// The position of the audit: the id of the last image of the previous page.
#[derive(Default)]
pub(super) struct Audit {
    after: String,
}

/// An image with its current and its removed locations.
#[derive(Debug, Clone, PartialEq)]
struct Audited {
    image: Image,
    locations: Vec<Location>,
    removed: Vec<Location>,
}

/// The results for an image's locations.
#[derive(Debug, Default)]
struct Findings {
    /// The locations that have the image's data.
    present: Vec<Location>,
    /// The locations that have no data, although other data in the same folder or bucket is there.
    missing: Vec<Location>,
    /// Other problems, for the log.
    doubts: Vec<String>,
}

impl Audit {
    /// Audits the next page. Two statements for a page, two more for its suspects, and four for each restored location; one request
    /// to a store for each location.
    ///
    /// # Errors
    /// `Unavailable`: the next run audits the same page again.
    pub(super) async fn run(&mut self, app: &App, quiet: Duration) -> Result<()> {
        let timeout = app.config.glimpse.request_timeout;
        let after = self.after.as_str();
        let page = app.db.acquire().await?.in_time(timeout, async |conn| load_page(conn, after).await).await?;
        let last = page.last().map(|audited| audited.image.id.to_string());
        let is_full = page.len() as u64 == PAGE;
        let mut folders = HashSet::new();
        let suspects = find_suspects(app, page, &mut folders).await;
        if !suspects.is_empty() {
            tokio::time::sleep(quiet).await;
            let ids: Vec<&str> = suspects.iter().map(|(audited, _)| audited.image.id.as_str()).collect();
            let now = app.db.acquire().await?.in_time(timeout, async |conn| load_images(conn, &ids).await).await?;
            let before: Vec<Audited> = suspects.into_iter().map(|(audited, _)| audited).collect();
            let unchanged = now.into_iter().filter(|audited| before.contains(audited)).collect();
            for (audited, findings) in find_suspects(app, unchanged, &mut folders).await {
                db::in_time(timeout, report(app, &audited, &findings)).await?;
            }
        }
        self.after = last.filter(|_| is_full).unwrap_or_default();
        Ok(())
    }
}

async fn load_page(conn: &mut Conn, after: &str) -> db::Result<Vec<Audited>> {
    let images = db::images::with_data(conn, after, PAGE).await?;
    load_locations(conn, images).await
}

async fn load_images(conn: &mut Conn, ids: &[&str]) -> db::Result<Vec<Audited>> {
    let images = db::images::all(conn, ids).await?;
    load_locations(conn, images).await
}

async fn load_locations(conn: &mut Conn, images: Vec<Image>) -> db::Result<Vec<Audited>> {
    let ids: Vec<&str> = images.iter().map(|image| image.id.as_str()).collect();
    let mut locations: HashMap<ImageId, Vec<Location>> = HashMap::new();
    for location in db::locations::with_deleted(conn, &ids).await? {
        locations.entry(location.image_id.clone()).or_default().push(location);
    }
    let audited = images.into_iter().map(|image| {
        let all = locations.remove(&image.id).unwrap_or_default();
        let (removed, locations) = all.into_iter().partition(|location| location.status == LocationStatus::Deleted);
        Audited { image, locations, removed }
    });
    Ok(audited.collect())
}

/// Returns the images whose data is not where or what it should be. Adds the folders in which data was found to `folders`.
async fn find_suspects(app: &App, page: Vec<Audited>, folders: &mut HashSet<String>) -> Vec<(Audited, Findings)> {
    let all: Vec<(Audited, Findings)> = stream::iter(page)
        .map(async |audited| {
            let findings = inspect_locations(app, &audited).await;
            (audited, findings)
        })
        .buffer_unordered(CONCURRENT)
        .collect()
        .await;
    folders.extend(all.iter().flat_map(|(_, findings)| &findings.present).map(|location| folder(location).to_owned()));
    all.into_iter()
        .filter_map(|(audited, mut findings)| {
            let is_certain = |location: &Location| folders.contains(folder(location));
            let (missing, uncertain): (Vec<_>, Vec<_>) = findings.missing.into_iter().partition(is_certain);
            findings.missing = missing;
            let nothing = |location: Location| {
                format!("nothing is at location {}, nor anywhere else in its folder: is it mounted?", location.id)
            };
            findings.doubts.extend(uncertain.into_iter().map(nothing));
            let has_removed_data = audited.locations.is_empty() && !findings.present.is_empty();
            let is_good = findings.missing.is_empty() && findings.doubts.is_empty() && !has_removed_data;
            (!is_good).then_some((audited, findings))
        })
        .collect()
}

/// Asks the stores for the data at an image's locations, or, if the image has none, at its removed locations.
async fn inspect_locations(app: &App, audited: &Audited) -> Findings {
    let mut findings = Findings::default();
    if audited.locations.is_empty() && audited.removed.is_empty() && audited.image.size > Some(0) {
        findings.doubts.push("it has no location".to_owned());
    }
    let inspected = if audited.locations.is_empty() { &audited.removed } else { &audited.locations };
    let size = audited.image.size.and_then(|size| u64::try_from(size).ok());
    for location in inspected.iter().filter(|location| location.status != LocationStatus::PendingDelete) {
        let Ok(store) = app.stores.find(&location.url, &location.metadata) else { continue };
        // The owner of a web server is responsible for the data there.
        if store.is_read_only() {
            continue;
        }
        match store.size(&location.url).await {
            Ok(found) if Some(found) == size => findings.present.push(location.clone()),
            Ok(found) => findings.doubts.push(format!("{found} bytes are at location {}", location.id)),
            Err(store::Error::NotFound) => findings.missing.push(location.clone()),
            // The requests that need an unavailable store report it.
            Err(error) => tracing::debug!(location = location.id, %error, "a location cannot be audited now"),
        }
    }
    findings
}

/// Returns a location's URL without its last segment.
fn folder(location: &Location) -> &str {
    location.url.expose().rsplit_once('/').map_or("", |(folder, _)| folder)
}

/// Reports the problems of an image. Changes the image in one case only: if it is active and has no location, and a removed
/// location still has its data, that location is restored.
async fn report(app: &App, audited: &Audited, findings: &Findings) -> Result<()> {
    let Audited { image, locations, .. } = audited;
    let (id, size, hash) = (image.id.as_str(), image.size, image.os_hash_value.as_deref());
    for doubt in &findings.doubts {
        tracing::error!(image = id, size, doubt, "an image's data is not what the image says");
    }
    for location in &findings.missing {
        let location = location.id;
        tracing::error!(image = id, location, size, os_hash_value = hash, "the image's data is gone from a location");
    }
    // Several rows can have the same URL, so only the newest is restored.
    let newest = findings.present.iter().max_by_key(|location| location.id);
    let (Some(newest), true, Status::Active) = (newest, locations.is_empty(), image.status) else { return Ok(()) };
    let restored = app
        .db
        .transaction(|mut tx| async move {
            let is_unchanged = db::images::get_locked(&mut tx, &image.id).await?.as_ref() == Some(image)
                && db::locations::list(&mut tx, &image.id).await?.is_empty();
            if is_unchanged {
                db::locations::undelete(&mut tx, newest.id, app.now()).await?;
            }
            Ok((tx, is_unchanged))
        })
        .await?;
    if restored {
        tracing::warn!(
            image = id,
            "the image's location was marked as deleted, and its data is there: the location is restored"
        );
    }
    Ok(())
}
