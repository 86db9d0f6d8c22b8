//! Finds images whose data is missing or has the wrong size, reports them, and repairs what can be repaired safely.
//!
//! An audit inspects one page of images at a time and asks their stores. It asks again a while later, so that a deletion or an
//! upload in progress has ended by then. A store's answer alone changes nothing: a folder that is not mounted looks the same as one
//! whose files were removed. So only images are repaired whose locations the database says are deleted, and each repair can be
//! undone, because it keeps the image's size, hashes and locations.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    hash::{DefaultHasher, Hash, Hasher as _},
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
/// The number of images whose stores are queried concurrently.
const CONCURRENT: usize = 8;
/// The number of findings that are remembered, so that they are not reported again.
const REPORTED: usize = 100_000;

/// The position of the audit among all images, and what it has reported.
pub(super) struct Audit {
    /// The id of the last image of the previous page. The first one is random: so processes that restart often, or share a
    /// database, do not audit the same images again and again.
    after: ImageId,
    /// Hashes of the findings that were reported.
    reported: HashSet<u64>,
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
struct Findings<'s> {
    /// The locations that have the image's data.
    present: Vec<Location>,
    /// The locations that have no data, although other data in the same folder or bucket is there.
    missing: Vec<Location>,
    /// The locations that have no data, and the ids of their stores. No data in the same folder or bucket was found.
    uncertain: Vec<(Location, &'s str)>,
    /// Other problems, for the log.
    problems: Vec<String>,
}

/// A change that makes an image's record match its data.
#[derive(Debug)]
enum Repair<'f> {
    /// The image has no location, but a removed one has its data: that location is restored.
    Restore(&'f Location),
    /// The image is active, all of its locations were removed, and so was its data: it becomes `killed`.
    Kill,
}

impl Audit {
    pub(super) fn new() -> Self {
        Self { after: ImageId::new(), reported: HashSet::new() }
    }

    /// Audits the next page. Two or three statements for a page, two more for its suspects, and five for each repair; one request
    /// to a store for each location.
    ///
    /// # Errors
    /// `Unavailable`: the next run audits the same page again.
    pub(super) async fn run(&mut self, app: &App, quiet: Duration) -> Result<()> {
        let timeout = app.config.glimpse.request_timeout;
        let after = self.after.as_str();
        let page = app.db.acquire().await?.in_time(timeout, async |conn| load_page(conn, after).await).await?;
        let last = page.last().map(|audited| audited.image.id.clone());
        let mut folders = HashSet::new();
        let suspects = find_suspects(app, page, &mut folders).await;
        if !suspects.is_empty() {
            tokio::time::sleep(quiet).await;
            let ids: Vec<&str> = suspects.iter().map(|(audited, _)| audited.image.id.as_str()).collect();
            let now = app.db.acquire().await?.in_time(timeout, async |conn| load_images(conn, &ids).await).await?;
            let before: Vec<Audited> = suspects.into_iter().map(|(audited, _)| audited).collect();
            let unchanged = now.into_iter().filter(|audited| before.contains(audited)).collect();
            let suspects = find_suspects(app, unchanged, &mut folders).await;
            self.report(&suspects);
            for (audited, findings) in &suspects {
                let image = audited.image.id.as_str();
                if let Some(repair) = audited.repair(findings)
                    && let Err(error) = db::in_time(timeout, audited.apply(app, &repair)).await
                {
                    tracing::error!(image, %error, "cannot repair an image whose data is not what it says; will retry");
                }
            }
        }
        self.after = last.unwrap_or_else(|| self.after.clone());
        Ok(())
    }

    /// Logs what was found, and was not logged before.
    fn report(&mut self, suspects: &[(Audited, Findings<'_>)]) {
        let mut uncertain: BTreeMap<&str, (usize, &str)> = BTreeMap::new();
        for (Audited { image, .. }, findings) in suspects {
            let (id, size, hash) = (image.id.as_str(), image.size, image.os_hash_value.as_deref());
            for problem in &findings.problems {
                if self.is_new((id, problem)) {
                    tracing::error!(image = id, size, problem, "an image's data is not what the image says");
                }
            }
            for location in findings.missing.iter().map(|location| location.id) {
                if self.is_new((id, location)) {
                    tracing::error!(
                        image = id,
                        location,
                        size,
                        os_hash_value = hash,
                        "the image's data is missing from a location"
                    );
                }
            }
            for (location, store) in &findings.uncertain {
                if self.is_new((id, location.id)) {
                    uncertain.entry(store).or_insert((0, id)).0 += 1;
                }
            }
        }
        for (store, (images, image)) in uncertain {
            tracing::error!(
                store,
                images,
                image,
                "no image's data is in a folder of the store: is it mounted? The line names one of the images"
            );
        }
    }

    /// Whether the finding has not been reported yet.
    fn is_new(&mut self, finding: impl Hash) -> bool {
        if self.reported.len() >= REPORTED {
            self.reported.clear();
        }
        let mut hasher = DefaultHasher::new();
        finding.hash(&mut hasher);
        self.reported.insert(hasher.finish())
    }
}

/// Reads the page after the image `after`. The first image follows the last one.
async fn load_page(conn: &mut Conn, after: &str) -> db::Result<Vec<Audited>> {
    let mut images = db::images::with_data(conn, after, PAGE).await?;
    let rest = PAGE - images.len() as u64;
    if rest > 0 {
        let known: HashSet<ImageId> = images.iter().map(|image| image.id.clone()).collect();
        let start = db::images::with_data(conn, "", rest).await?;
        images.extend(start.into_iter().filter(|image| !known.contains(&image.id)));
    }
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

/// Returns the images whose data is missing or differs from the record. Adds the folders in which data was found to `folders`.
async fn find_suspects<'a>(
    app: &'a App,
    page: Vec<Audited>,
    folders: &mut HashSet<String>,
) -> Vec<(Audited, Findings<'a>)> {
    let all: Vec<(Audited, Findings<'a>)> = stream::iter(page)
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
            let (missing, uncertain): (Vec<_>, Vec<_>) =
                findings.uncertain.into_iter().partition(|(location, _)| folders.contains(folder(location)));
            findings.missing = missing.into_iter().map(|(location, _)| location).collect();
            findings.uncertain = uncertain;
            (!audited.is_good(&findings)).then_some((audited, findings))
        })
        .collect()
}

/// Asks the stores for the data at an image's locations, or, if the image has none, at its removed locations.
async fn inspect_locations<'a>(app: &'a App, audited: &Audited) -> Findings<'a> {
    let mut findings = Findings::default();
    if audited.locations.is_empty() && audited.removed.is_empty() && audited.image.size > Some(0) {
        findings.problems.push("it has no location".to_owned());
    }
    let inspected = if audited.locations.is_empty() { &audited.removed } else { &audited.locations };
    let size = audited.image.size.and_then(|size| u64::try_from(size).ok());
    for location in inspected.iter().filter(|location| location.status != LocationStatus::PendingDelete) {
        let Ok(store) = app.stores.find(&location.url, &location.metadata) else { continue };
        // The owner of a web server is responsible for the data there.
        if store.is_read_only() {
            continue;
        }
        match tokio::time::timeout(app.config.glimpse.request_timeout, store.size(&location.url)).await {
            Ok(Ok(found)) if Some(found) == size => findings.present.push(location.clone()),
            Ok(Ok(found)) => findings.problems.push(format!("{found} bytes are at location {}", location.id)),
            Ok(Err(store::Error::NotFound)) => findings.uncertain.push((location.clone(), &store.id)),
            // The requests that need an unavailable store report it.
            Ok(Err(error)) => tracing::debug!(location = location.id, %error, "a location cannot be audited now"),
            Err(_) => tracing::debug!(location = location.id, "a location cannot be audited now: it takes too long"),
        }
    }
    findings
}

/// Returns a location's URL without its last segment.
fn folder(location: &Location) -> &str {
    location.url.expose().rsplit_once('/').map_or("", |(folder, _)| folder)
}

impl Audited {
    /// Whether there is nothing to report or to repair. A `killed` image is right to have no data.
    fn is_good(&self, findings: &Findings<'_>) -> bool {
        let is_without_data =
            self.image.status == Status::Killed || self.locations.is_empty() && self.removed.is_empty();
        let nothing_is_missing = findings.missing.is_empty() && findings.uncertain.is_empty();
        let has_removed_data = self.locations.is_empty() && !findings.present.is_empty();
        findings.problems.is_empty() && (is_without_data || nothing_is_missing) && !has_removed_data
    }

    /// Returns the change that makes the image's record match its data, if it is safe.
    fn repair<'f>(&self, findings: &'f Findings<'_>) -> Option<Repair<'f>> {
        if !self.locations.is_empty() {
            return None;
        }
        // Several rows can have the same URL, so only the newest is restored.
        let newest = findings.present.iter().max_by_key(|location| location.id);
        let all_data_is_gone = !self.removed.is_empty() && findings.missing.len() == self.removed.len();
        let is_to_be_killed = self.image.status == Status::Active && all_data_is_gone;
        newest.map(Repair::Restore).or_else(|| is_to_be_killed.then_some(Repair::Kill))
    }

    /// Repairs the image, unless it was changed meanwhile.
    async fn apply(&self, app: &App, repair: &Repair<'_>) -> Result<()> {
        let image = &self.image;
        let is_done = app
            .db
            .transaction(|mut tx| async move {
                let is_unchanged = db::images::get_locked(&mut tx, &image.id).await?.as_ref() == Some(image)
                    && db::locations::list(&mut tx, &image.id).await?.is_empty();
                if !is_unchanged {
                    return Ok((tx, false));
                }
                let status = match repair {
                    Repair::Restore(location) => {
                        db::locations::undelete(&mut tx, location.id, app.now()).await?;
                        if image.status == Status::Killed { Status::Active } else { image.status }
                    }
                    Repair::Kill => Status::Killed,
                };
                if status != image.status {
                    db::images::set_status(&mut tx, image, status, app.now()).await?;
                }
                Ok((tx, true))
            })
            .await?;
        let image = image.id.as_str();
        match repair {
            _ if !is_done => {}
            Repair::Restore(location) => tracing::warn!(
                image,
                location = location.id,
                "the image's location was marked as deleted, and its data is there: the location is restored"
            ),
            Repair::Kill => tracing::error!(
                image,
                "the image's locations are marked as deleted, and its data is missing: its status is \"killed\" now"
            ),
        }
        Ok(())
    }
}
