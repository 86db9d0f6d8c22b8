//! Changes of an image's locations by clients.
//!
//! A client is allowed to add locations on web servers only, and none in another store. Glimpse asks the web server for the data's
//! size before the transaction, so no transaction holds an image's lock while it waits for a web server. It asks only after it has
//! authorised the caller.

use std::{borrow::Cow, cmp::Reverse, collections::HashMap, slice};

use serde_json::{Map, Value, json};

use super::create::check_quota;
use crate::{
    access::{self, Subject},
    app::App,
    context::Context,
    data::{placement, removal},
    db::{self, Session},
    egress,
    error::{Error, Result, with_causes},
    limits::StorageLeft,
    model::{
        Image, Location, LocationStatus, LocationUrl, RequestedId, Status, UNWRITTEN, check_described, may_become,
    },
    policy::rule,
    python, store,
    stream::{self, Digest},
};

/// The maximum number of bytes of a location's metadata: the width of MySQL's TEXT.
const MAX_METADATA_BYTES: usize = 65_535;
/// The maximum number of characters of an error message that lists an image's locations.
const MAX_REPR_CHARS: usize = 16_384;

/// A change of an image's locations.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum LocationsChange {
    /// Adds a location at a position, or (`-`) at the end.
    Add(String, NewLocation),
    /// Removes the location at a position, or (`-`) the last one.
    Remove(String),
    /// Replaces all locations. The image must have none, or the same URLs with other metadata.
    Replace(Vec<NewLocation>),
}

/// A location that a client sends.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct NewLocation {
    /// The data's URL.
    pub(crate) url: LocationUrl,
    /// The location's metadata.
    pub(crate) metadata: Map<String, Value>,
    /// The client's claims about the data, in the client's order.
    pub(crate) claims: Vec<(Claim, String)>,
}

/// A claim of a client about data that Glimpse does not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Claim {
    /// Its MD5.
    Checksum,
    /// The name of its secure hash.
    HashAlgo,
    /// Its secure hash.
    HashValue,
}

impl Claim {
    /// All claims.
    pub(crate) const ALL: [Self; 3] = [Self::Checksum, Self::HashAlgo, Self::HashValue];

    /// Its name in the API.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Checksum => "checksum",
            Self::HashAlgo => "os_hash_algo",
            Self::HashValue => "os_hash_value",
        }
    }

    fn field_mut(self, image: &mut Image) -> &mut Option<String> {
        match self {
            Self::Checksum => &mut image.checksum,
            Self::HashAlgo => &mut image.os_hash_algo,
            Self::HashValue => &mut image.os_hash_value,
        }
    }
}

/// The result of a request for the size of the data at a URL.
#[derive(Debug, Clone, Copy)]
enum ProbeResult {
    /// The data has N bytes.
    Bytes(i64),
    /// There is nothing that could be an image's data, or the client is not allowed to use this URL.
    Nothing,
    /// The server does not answer, or its response is not valid.
    NoAnswer,
}

/// The results by URL.
#[derive(Debug, Default)]
pub(super) struct ProbeResults(HashMap<LocationUrl, ProbeResult>);

impl ProbeResults {
    fn get(&self, url: &LocationUrl) -> ProbeResult {
        self.0.get(url).copied().unwrap_or(ProbeResult::Nothing)
    }
}

/// The rest of `user_storage_quota`: for data in addition to the image's, and for data that replaces the image's.
pub(super) struct StorageQuota {
    additional: StorageLeft,
    replacing: StorageLeft,
}

impl StorageQuota {
    /// Reads the rest. A transaction that uses it locks the project first. Two statements, none if there is no such quota.
    pub(super) async fn load(app: &App, s: &mut impl Session, context: &Context, image: &Image) -> Result<Self> {
        let additional = app.limits.storage_left_in(s, context, None).await?;
        let replacing = app.limits.storage_left_in(s, context, Some(&image.id)).await?;
        Ok(Self { additional, replacing })
    }
}

/// The image that an update builds, as far as changes of locations concern it.
pub(super) struct LocationsDraft<'d> {
    pub(super) subject: &'d mut Subject,
    pub(super) locations: &'d mut Vec<Location>,
    pub(super) quota: Option<&'d StorageQuota>,
}

impl LocationsDraft<'_> {
    /// Asks web servers for the sizes at the URLs of a change, if the caller is authorised to make it. It does not validate the
    /// change: [`Self::apply`] does.
    pub(super) async fn probe(
        &self,
        app: &App,
        context: &Context,
        change: &LocationsChange,
        probes: &mut ProbeResults,
    ) -> Result<()> {
        let (new, count) = match change {
            LocationsChange::Add(_, new) => (slice::from_ref(new), self.locations.len() + 1),
            LocationsChange::Replace(new) if self.locations.is_empty() => (new.as_slice(), new.len()),
            LocationsChange::Replace(_) | LocationsChange::Remove(_) => return Ok(()),
        };
        self.authorise(app, context, change)?;
        access::check_mutable(context, self.subject)?;
        if app.config.default.image_location_quota().is_some_and(|quota| count > quota as usize) {
            // A change that exceeds the quota will be refused, so it triggers no outbound connection.
            return Ok(());
        }
        for location in new {
            let url = &location.url;
            if !probes.0.contains_key(url) {
                let result = egress::on_behalf_of(context.project_id(), probe_url(app, url)).await;
                probes.0.insert(url.clone(), result);
                if !matches!(result, ProbeResult::Bytes(_)) {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Applies a change.
    pub(super) fn apply(
        &mut self,
        app: &App,
        context: &Context,
        change: &LocationsChange,
        probes: &ProbeResults,
    ) -> Result<()> {
        self.authorise(app, context, change)?;
        match change {
            LocationsChange::Add(position, new) => self.add(app, position, new, probes),
            LocationsChange::Remove(position) => self.remove(position),
            LocationsChange::Replace(new) => self.replace(app, new, probes),
        }
    }

    /// Authorises a change. Glance has a policy rule and a message for each kind.
    fn authorise(&self, app: &App, context: &Context, change: &LocationsChange) -> Result<()> {
        let (rule, action, act) = match change {
            LocationsChange::Replace(locations) if locations.is_empty() => {
                return Err(Error::NotPermitted("Cannot set locations to empty list.".to_owned()));
            }
            LocationsChange::Replace(_) => (rule::SET_IMAGE_LOCATION, "update", "replace"),
            LocationsChange::Add(..) => (rule::SET_IMAGE_LOCATION, "add", "add"),
            LocationsChange::Remove(_) => (rule::DELETE_IMAGE_LOCATION, "remove", "remove"),
        };
        access::authorise(app, context, self.subject, rule)?;
        if !app.config.default.show_multiple_locations {
            let message = format!("It's not allowed to {action} locations if locations are invisible.");
            return Err(Error::Forbidden(message));
        }
        let is_eligible = match change {
            LocationsChange::Remove(_) => self.subject.status == Status::Active,
            _ => matches!(self.subject.status, Status::Active | Status::Queued),
        };
        if is_eligible {
            return Ok(());
        }
        let status = self.subject.status.as_str();
        Err(Error::Conflict(format!("It's not allowed to {act} locations if image status is {status}.")))
    }

    fn add(&mut self, app: &App, position: &str, new: &NewLocation, probes: &ProbeResults) -> Result<()> {
        let claims = self.check_claims(app, slice::from_ref(new))?;
        let length = self.locations.len();
        let at = match position {
            "-" => Some(length),
            // As in Glance, a position behind the end means the end.
            position => parse_position(position).map(|at| at.min(length)),
        };
        let at = at.ok_or_else(|| Error::Invalid("Invalid position for adding a location.".to_owned()))?;
        let new = slice::from_ref(new);
        self.check_storage_quota(self.quota.map(|quota| quota.additional), new, probes)?;
        check_quota("locations", length + 1, app.config.default.image_location_quota())?;
        let added = self.accept_location(app, &new[0], probes)?;
        if self.locations.iter().any(|location| is_same(location, &added)) {
            return Err(duplicate(&added));
        }
        self.locations.insert(at, added);
        self.set_size(new, probes);
        self.activate(claims)
    }

    fn remove(&mut self, position: &str) -> Result<()> {
        let length = self.locations.len();
        if length == 1 {
            return Err(Error::NotPermitted("Cannot remove last location in the image.".to_owned()));
        }
        let at = match position {
            "-" => length.checked_sub(1),
            position => parse_position(position).filter(|at| *at < length),
        };
        let at = at.ok_or_else(|| Error::Invalid("Invalid position for removing a location.".to_owned()))?;
        self.locations.remove(at);
        Ok(())
    }

    fn replace(&mut self, app: &App, new: &[NewLocation], probes: &ProbeResults) -> Result<()> {
        let claims = self.check_claims(app, new)?;
        check_quota("locations", new.len(), app.config.default.image_location_quota())?;
        // A client sends the URLs that it was shown, which have no credentials.
        let same_urls = sorted(self.locations.iter().map(|location| &location.url))
            == sorted(new.iter().map(|location| &location.url));
        if same_urls {
            // The URLs stay, and only the metadata changes: nothing is probed.
            *self.locations = new.iter().map(|location| self.build_location(app, location)).collect::<Result<_>>()?;
            return self.activate(claims);
        }
        if !self.locations.is_empty() {
            let current = locations_repr(self.locations);
            return Err(Error::Invalid(format!("Original locations is not empty: {current}")));
        }
        self.check_storage_quota(self.quota.map(|quota| quota.replacing), new, probes)?;
        for location in new {
            let added = self.accept_location(app, location, probes)?;
            if new
                .iter()
                .filter(|other| other.url.is_same_data(&added.url) && other.metadata == location.metadata)
                .count()
                > 1
            {
                return Err(duplicate(&added));
            }
            self.locations.push(added);
        }
        self.set_size(new, probes);
        self.activate(claims)
    }

    /// Checks the client's claims about the data, and returns those that are new to the image.
    fn check_claims(&mut self, app: &App, new: &[NewLocation]) -> Result<Vec<(Claim, String)>> {
        let mut claims: Vec<(Claim, &String)> = Vec::new();
        for (claim, value) in new.iter().flat_map(|location| &location.claims) {
            match claims.iter().find(|(other, _)| other == claim) {
                None => claims.push((*claim, value)),
                Some((_, other)) if *other == value => {}
                Some(_) => return Err(Error::Conflict(format!("Conflicting values for {}", claim.name()))),
            }
        }
        let mut fresh: Vec<(Claim, String)> = Vec::new();
        for (claim, value) in claims {
            match claim.field_mut(&mut self.subject.image).as_deref().unwrap_or_default() {
                "" => fresh.push((claim, value.clone())),
                current if current == value => {}
                _ => {
                    let message = format!("{} is already set with a different value", claim.name());
                    return Err(Error::Conflict(message));
                }
            }
        }
        if fresh.is_empty() {
            return Ok(fresh);
        }
        if self.subject.status != Status::Queued {
            let names: Vec<&str> = fresh.iter().map(|(claim, _)| claim.name()).collect();
            return Err(Error::Conflict(format!(
                "New value(s) for {} may only be provided when image status is 'queued'",
                names.join(", ")
            )));
        }
        check_digests(app, &fresh)?;
        Ok(fresh)
    }

    /// Checks that the project's quota admits the data. A server without an answer is reported before an
    /// exceeded quota.
    fn check_storage_quota(&self, left: Option<StorageLeft>, new: &[NewLocation], probes: &ProbeResults) -> Result<()> {
        let mut size = self.size();
        for location in new {
            if size.is_some() {
                break;
            }
            match probes.get(&location.url) {
                ProbeResult::Bytes(bytes) => size = Some(bytes),
                ProbeResult::Nothing => {}
                ProbeResult::NoAnswer => return Err(Error::Invalid("The Store URI was malformed.".to_owned())),
            }
        }
        let needed = size.and_then(|size| u64::try_from(size).ok()?.checked_mul(u64::try_from(new.len()).ok()?));
        let denied =
            |why| Error::LimitExceeded(format!("Denying attempt to upload image because it exceeds the quota: {why}"));
        left.map_or(Ok(()), |left| left.admits(needed).map_err(denied))
    }

    /// Checks that a location can be added, and builds it.
    fn accept_location(&self, app: &App, new: &NewLocation, probes: &ProbeResults) -> Result<Location> {
        let ProbeResult::Bytes(_) = probes.get(&new.url) else {
            return Err(Error::Invalid("Invalid location".to_owned()));
        };
        if let Some(key) = new.metadata.iter().find(|(_, value)| !has_strings_only(value)).map(|(key, _)| key) {
            let message = format!("The location's metadata '{key}' is neither a string nor a structure of strings.");
            return Err(Error::Invalid(message));
        }
        self.build_location(app, new)
    }

    /// Builds a location, with its store's name in the metadata if stores have names.
    fn build_location(&self, app: &App, new: &NewLocation) -> Result<Location> {
        let known = self.locations.iter().find(|known| known.url.is_same_data(&new.url));
        let mut location = Location {
            id: UNWRITTEN,
            image_id: self.subject.id.clone(),
            url: known.map_or_else(|| new.url.clone(), |known| known.url.clone()),
            metadata: new.metadata.clone(),
            status: LocationStatus::Active,
        };
        // As in Glance, the URL decides the store, and the client's metadata does not.
        if app.stores.are_named
            && let Ok(store) = app.stores.find(&location.url, known.map_or(&Map::new(), |known| &known.metadata))
        {
            location.metadata.insert("store".to_owned(), json!(store.id));
        }
        let bytes = db::locations::metadata_text(&location.metadata)?.len();
        if bytes > MAX_METADATA_BYTES {
            let message = format!("A location's metadata has {bytes} bytes, {MAX_METADATA_BYTES} are allowed.");
            return Err(Error::Invalid(message));
        }
        Ok(location)
    }

    fn size(&self) -> Option<i64> {
        self.subject.size.filter(|size| *size != 0)
    }

    /// Sets the image's size to that of any location: all locations have the same data.
    fn set_size(&mut self, new: &[NewLocation], probes: &ProbeResults) {
        let size = new.iter().find_map(|location| match probes.get(&location.url) {
            ProbeResult::Bytes(bytes) => Some(bytes),
            ProbeResult::Nothing | ProbeResult::NoAnswer => None,
        });
        self.subject.size = self.size().or(size);
    }

    /// Makes a queued image active: it has data now.
    fn activate(&mut self, claims: Vec<(Claim, String)>) -> Result<()> {
        if !(self.subject.status == Status::Queued && may_become(Status::Queued, Status::Active)) {
            return Ok(());
        }
        for (claim, value) in claims {
            *claim.field_mut(&mut self.subject.image) = Some(value);
        }
        check_described(self.subject)?;
        self.subject.status = Status::Active;
        Ok(())
    }
}

/// Asks a web server for the size of the data at a URL.
async fn probe_url(app: &App, url: &LocationUrl) -> ProbeResult {
    let size = async { app.stores.find_for_client(url)?.size(url).await };
    match size.await {
        Ok(size) => {
            let size = i64::try_from(size).ok().filter(|size| *size > 0);
            size.map_or(ProbeResult::Nothing, ProbeResult::Bytes)
        }
        Err(store::Error::NotFound | store::Error::NoStore) => ProbeResult::Nothing,
        Err(error @ store::Error::Refused(_)) => {
            tracing::warn!(%error, "a location is refused");
            ProbeResult::Nothing
        }
        Err(error) => {
            tracing::info!(error = with_causes(&error), "a location cannot be added: its server returns no size");
            ProbeResult::NoAnswer
        }
    }
}

/// Checks the digests that are new to an image, as Glance does.
fn check_digests(app: &App, fresh: &[(Claim, String)]) -> Result<()> {
    let value = |claim| fresh.iter().find(|(other, _)| *other == claim).map(|(_, value)| value.as_str());
    let wrong = |message: String| Err(Error::Conflict(message));
    if let Some(checksum) = value(Claim::Checksum) {
        match python::hex_length(checksum) {
            None => return wrong(format!("checksum ({checksum}) is not a valid hexadecimal value")),
            Some(16) => {}
            Some(_) => {
                return wrong(format!("checksum ({checksum}) is not the correct size for md5 (should be 16 bytes)"));
            }
        }
    }
    let algorithm = app.config.default.hashing_algorithm;
    let (wanted, got) = (stream::name(algorithm), value(Claim::HashAlgo).unwrap_or("None"));
    if wanted != got {
        return wrong(format!("os_hash_algo must be {wanted}, not {got}"));
    }
    let hash = value(Claim::HashValue).unwrap_or_default();
    let size = Digest::new(algorithm).and_then(Digest::hex).map_err(Error::Internal)?.len() / 2;
    match python::hex_length(hash) {
        None => wrong(format!("os_hash_value ({hash}) is not a valid hexadecimal value")),
        Some(length) if length == size => Ok(()),
        Some(_) => {
            wrong(format!("os_hash_value ({hash}) is not the correct size for {wanted} (should be {size} bytes)"))
        }
    }
}

/// Parses a position of decimal digits. A number too large for the type is behind every end.
fn parse_position(position: &str) -> Option<usize> {
    let digits = !position.is_empty() && position.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| position.parse().unwrap_or(usize::MAX))
}

fn sorted<'l>(urls: impl Iterator<Item = &'l LocationUrl>) -> Vec<Cow<'l, str>> {
    let mut urls: Vec<Cow<'_, str>> = urls.map(LocationUrl::redacted).collect();
    urls.sort_unstable();
    urls
}

fn is_same(a: &Location, b: &Location) -> bool {
    a.url.is_same_data(&b.url) && a.metadata == b.metadata
}

/// The message shows the URL, which the client has just sent.
fn duplicate(location: &Location) -> Error {
    Error::Invalid(format!("The location {} already exists", location.url.redacted()))
}

fn has_strings_only(value: &Value) -> bool {
    match value {
        Value::String(_) => true,
        Value::Array(items) => items.iter().all(has_strings_only),
        Value::Object(entries) => entries.values().all(has_strings_only),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

/// Formats locations as Glance does in its error message. Its reader is allowed to see them.
fn locations_repr(locations: &[Location]) -> String {
    let values = locations.iter().map(|location| {
        let (id, url, status) = (location.id, location.url.redacted(), location.status.as_str());
        json!({"id": id, "url": url, "metadata": location.metadata, "status": status})
    });
    python::repr(&Value::Array(values.collect()), MAX_REPR_CHARS)
}

/// Returns the locations of an image, in descending order of their stores' weights. Two statements, one more where another project
/// shares the image.
///
/// # Errors
/// `NotFound`, `Forbidden`
pub(crate) async fn list(app: &App, context: &Context, id: &RequestedId) -> Result<Vec<Location>> {
    let mut conn = app.db.acquire().await?;
    let image = access::find(app, &mut conn, context, id).await?.ok_or_else(|| Error::image_not_found(id))?;
    access::authorise(app, context, &image, rule::FETCH_IMAGE_LOCATION)?;
    if image.status == Status::Deactivated && !context.is_admin {
        // The location of a deactivated image's data gives access to that data.
        return Ok(Vec::new());
    }
    let mut locations = db::locations::list(&mut conn, &image.id).await?;
    locations.retain(|location| location.status == LocationStatus::Active);
    locations.sort_by_key(|location| Reverse(placement::weight_of(app, location)));
    Ok(locations)
}

/// Removes the data of released locations. Two statements each.
///
/// # Errors
/// As deletion of an image. The locations after the first error are left to housekeeping.
pub(super) async fn remove_data(app: &App, locations: &[Location]) -> Result<()> {
    for location in locations {
        removal::finish_removal(app, location).await?;
    }
    Ok(())
}
