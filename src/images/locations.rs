//! Where an image's data is, as clients change it.
//!
//! A client names data on web servers, and nothing in a store of ours. How large it is, its server is asked before the
//! transaction, and only for who may add it: nobody waits for a web server with the lock of an image's row in hand.

use std::{collections::HashMap, slice};

use serde_json::{Map, Value, json};

use super::create::check_quota;
use crate::{
    access::{self, Subject},
    app::App,
    context::Context,
    data::removal,
    db::{self, Session},
    error::{Error, Result, with_causes},
    limits::StorageLeft,
    model::{Image, Location, LocationStatus, LocationUrl, Status, UNWRITTEN, check_described, may_become},
    policy::rule,
    schemas, store,
    stream::{self, Digest},
};

/// Bytes of a location's metadata at the most, as wide as MySQL's TEXT.
const MAX_METADATA_BYTES: usize = 65_535;
/// Characters of a message that tells an image's locations.
const MAX_TOLD: usize = 16_384;

/// A change of the places where an image's data is.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum LocationsChange {
    /// Adds one, at a position or (`-`) at the end.
    Add(String, NewLocation),
    /// Takes one away, at a position or (`-`) from the end.
    Remove(String),
    /// Puts these in the place of none, or of the same ones with other metadata.
    Replace(Vec<NewLocation>),
}

/// A place where a client says that an image's data is.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct NewLocation {
    /// Where.
    pub(crate) url: LocationUrl,
    /// What a store says of it.
    pub(crate) metadata: Map<String, Value>,
    /// What the client says of the data, in their order.
    pub(crate) claims: Vec<(Claim, String)>,
}

/// What a client can say of data that we do not read.
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
    /// Every one.
    pub(crate) const ALL: [Self; 3] = [Self::Checksum, Self::HashAlgo, Self::HashValue];

    /// Its name in the API.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Checksum => "checksum",
            Self::HashAlgo => "os_hash_algo",
            Self::HashValue => "os_hash_value",
        }
    }

    fn of(self, image: &mut Image) -> &mut Option<String> {
        match self {
            Self::Checksum => &mut image.checksum,
            Self::HashAlgo => &mut image.os_hash_algo,
            Self::HashValue => &mut image.os_hash_value,
        }
    }
}

/// What is at a URL.
#[derive(Debug, Clone, Copy)]
enum Found {
    /// So many bytes.
    Bytes(i64),
    /// Nothing that could be an image's data, or nothing that a client may name.
    Nothing,
    /// Its server does not answer, or not as it should.
    Silence,
}

/// What the web servers said.
#[derive(Debug, Default)]
pub(super) struct Findings(HashMap<LocationUrl, Found>);

impl Findings {
    fn of(&self, url: &LocationUrl) -> Found {
        self.0.get(url).copied().unwrap_or(Found::Nothing)
    }
}

/// What `user_storage_quota` leaves to more data of an image, and to data in the place of what it has.
pub(super) struct Room {
    beside: StorageLeft,
    instead: StorageLeft,
}

impl Room {
    /// Two statements, none where there is no such quota.
    pub(super) async fn read(app: &App, s: &mut impl Session, context: &Context, image: &Image) -> Result<Self> {
        let beside = app.limits.storage_left_in(s, context, None).await?;
        let instead = app.limits.storage_left_in(s, context, Some(&image.id)).await?;
        Ok(Self { beside, instead })
    }
}

/// An image on its way from what it is to what it is to be, with its locations.
pub(super) struct Draft<'d> {
    pub(super) subject: &'d mut Subject,
    pub(super) locations: &'d mut Vec<Location>,
    pub(super) room: Option<&'d Room>,
}

impl Draft<'_> {
    /// Asks what is at the URLs of a change, where the caller may make it. What is wrong with the change is told when it is
    /// done.
    pub(super) async fn look(
        &self,
        app: &App,
        context: &Context,
        change: &LocationsChange,
        findings: &mut Findings,
    ) -> Result<()> {
        let (new, count) = match change {
            LocationsChange::Add(_, new) => (slice::from_ref(new), self.locations.len() + 1),
            LocationsChange::Replace(new) if self.locations.is_empty() => (new.as_slice(), new.len()),
            LocationsChange::Replace(_) | LocationsChange::Remove(_) => return Ok(()),
        };
        self.permit(app, context, change)?;
        access::check_mutable(context, self.subject)?;
        if app.config.default.image_location_quota().is_some_and(|quota| count > quota as usize) {
            // Who may not add it need not know what is there.
            return Ok(());
        }
        for location in new {
            let url = &location.url;
            if !findings.0.contains_key(url) {
                let found = ask(app, url).await;
                findings.0.insert(url.clone(), found);
                if !matches!(found, Found::Bytes(_)) {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Does a change.
    pub(super) fn apply(
        &mut self,
        app: &App,
        context: &Context,
        change: &LocationsChange,
        findings: &Findings,
    ) -> Result<()> {
        self.permit(app, context, change)?;
        match change {
            LocationsChange::Add(position, new) => self.add(app, position, new, findings),
            LocationsChange::Remove(position) => self.remove(position),
            LocationsChange::Replace(new) => self.replace(app, new, findings),
        }
    }

    /// Glance has a rule and a sentence for each.
    fn permit(&self, app: &App, context: &Context, change: &LocationsChange) -> Result<()> {
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
        let takes_part = match change {
            LocationsChange::Remove(_) => self.subject.status == Status::Active,
            _ => matches!(self.subject.status, Status::Active | Status::Queued),
        };
        if takes_part {
            return Ok(());
        }
        let status = self.subject.status.as_str();
        Err(Error::Conflict(format!("It's not allowed to {act} locations if image status is {status}.")))
    }

    fn add(&mut self, app: &App, position: &str, new: &NewLocation, findings: &Findings) -> Result<()> {
        let claims = self.check_claims(app, slice::from_ref(new))?;
        let length = self.locations.len();
        let at = match position {
            "-" => Some(length),
            // Glance puts what would be behind the end there, too.
            position => number(position).map(|at| at.min(length)),
        };
        let at = at.ok_or_else(|| Error::Invalid("Invalid position for adding a location.".to_owned()))?;
        let new = slice::from_ref(new);
        self.check_room(self.room.map(|room| room.beside), new, findings)?;
        check_quota("locations", length + 1, app.config.default.image_location_quota())?;
        let added = self.checked(app, &new[0], findings)?;
        if self.locations.iter().any(|location| is_same(location, &added)) {
            return Err(duplicate(&added));
        }
        self.locations.insert(at, added);
        self.measure(new, findings);
        self.activate(claims)
    }

    fn remove(&mut self, position: &str) -> Result<()> {
        let length = self.locations.len();
        if length == 1 {
            return Err(Error::NotPermitted("Cannot remove last location in the image.".to_owned()));
        }
        let at = match position {
            "-" => length.checked_sub(1),
            position => number(position).filter(|at| *at < length),
        };
        let at = at.ok_or_else(|| Error::Invalid("Invalid position for removing a location.".to_owned()))?;
        self.locations.remove(at);
        Ok(())
    }

    fn replace(&mut self, app: &App, new: &[NewLocation], findings: &Findings) -> Result<()> {
        let claims = self.check_claims(app, new)?;
        check_quota("locations", new.len(), app.config.default.image_location_quota())?;
        let same_urls = sorted(self.locations.iter().map(|location| &location.url))
            == sorted(new.iter().map(|location| &location.url));
        if same_urls {
            // Where the data is stays; what is said of it changes.
            *self.locations = new.iter().map(|location| self.named(app, location)).collect::<Result<_>>()?;
            return self.activate(claims);
        }
        if !self.locations.is_empty() {
            return Err(Error::Invalid(format!("Original locations is not empty: {}", told(self.locations))));
        }
        self.check_room(self.room.map(|room| room.instead), new, findings)?;
        for location in new {
            let added = self.checked(app, location, findings)?;
            if new.iter().filter(|other| other.url == added.url && other.metadata == location.metadata).count() > 1 {
                return Err(duplicate(&added));
            }
            self.locations.push(added);
        }
        self.measure(new, findings);
        self.activate(claims)
    }

    /// Checks what clients say of the data, and returns what of it is new to the image.
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
            match claim.of(&mut self.subject.image).as_deref().unwrap_or_default() {
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

    /// Checks that the project may have so much data. That nothing can be known of the data is told first.
    fn check_room(&self, left: Option<StorageLeft>, new: &[NewLocation], findings: &Findings) -> Result<()> {
        let mut size = self.size();
        for location in new {
            if size.is_some() {
                break;
            }
            match findings.of(&location.url) {
                Found::Bytes(bytes) => size = Some(bytes),
                Found::Nothing => {}
                Found::Silence => return Err(Error::Invalid("The Store URI was malformed.".to_owned())),
            }
        }
        let needed = size.and_then(|size| u64::try_from(size).ok()?.checked_mul(u64::try_from(new.len()).ok()?));
        let denied =
            |why| Error::LimitExceeded(format!("Denying attempt to upload image because it exceeds the quota: {why}"));
        left.map_or(Ok(()), |left| left.admits(needed).map_err(denied))
    }

    /// A location that may be added.
    fn checked(&self, app: &App, new: &NewLocation, findings: &Findings) -> Result<Location> {
        let Found::Bytes(_) = findings.of(&new.url) else {
            return Err(Error::Invalid("Invalid location".to_owned()));
        };
        if let Some(key) = new.metadata.iter().find(|(_, value)| !has_texts_only(value)).map(|(key, _)| key) {
            let message = format!("The location's metadata '{key}' is neither a text, nor made of texts.");
            return Err(Error::Invalid(message));
        }
        self.named(app, new)
    }

    /// With its store's name, where stores have names.
    fn named(&self, app: &App, new: &NewLocation) -> Result<Location> {
        let mut location = Location {
            id: UNWRITTEN,
            image_id: self.subject.id.clone(),
            url: new.url.clone(),
            metadata: new.metadata.clone(),
            status: LocationStatus::Active,
        };
        // What the client says of the store counts for nothing, as in Glance: data is where its URL leads.
        let known = self.locations.iter().find(|known| known.url == new.url).map(|known| &known.metadata);
        if app.stores.are_named
            && let Ok(store) = app.stores.find(&location.url, known.unwrap_or(&Map::new()))
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

    /// All locations have the same data, so one says how large it is.
    fn measure(&mut self, new: &[NewLocation], findings: &Findings) {
        let size = new.iter().find_map(|location| match findings.of(&location.url) {
            Found::Bytes(bytes) => Some(bytes),
            Found::Nothing | Found::Silence => None,
        });
        self.subject.size = self.size().or(size);
    }

    /// An image that waited for data has it now.
    fn activate(&mut self, claims: Vec<(Claim, String)>) -> Result<()> {
        if !(self.subject.status == Status::Queued && may_become(Status::Queued, Status::Active)) {
            return Ok(());
        }
        for (claim, value) in claims {
            *claim.of(&mut self.subject.image) = Some(value);
        }
        check_described(self.subject)?;
        self.subject.status = Status::Active;
        Ok(())
    }
}

/// Asks a web server how large the data is.
async fn ask(app: &App, url: &LocationUrl) -> Found {
    let size = async { app.stores.find_for_client(url)?.size(url).await };
    match size.await {
        Ok(size) => i64::try_from(size).ok().filter(|size| *size > 0).map_or(Found::Nothing, Found::Bytes),
        Err(store::Error::NotFound | store::Error::NoStore) => Found::Nothing,
        Err(error @ store::Error::Refused(_)) => {
            tracing::warn!(%error, "a location is refused");
            Found::Nothing
        }
        Err(error) => {
            tracing::info!(error = with_causes(&error), "a location cannot be added");
            Found::Silence
        }
    }
}

/// Checks digests that are new to an image, as Glance does.
fn check_digests(app: &App, fresh: &[(Claim, String)]) -> Result<()> {
    let value = |claim| fresh.iter().find(|(other, _)| *other == claim).map(|(_, value)| value.as_str());
    let wrong = |message: String| Err(Error::Conflict(message));
    if let Some(checksum) = value(Claim::Checksum) {
        match hex_length(checksum) {
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
    match hex_length(hash) {
        None => wrong(format!("os_hash_value ({hash}) is not a valid hexadecimal value")),
        Some(length) if length == size => Ok(()),
        Some(_) => {
            wrong(format!("os_hash_value ({hash}) is not the correct size for {wanted} (should be {size} bytes)"))
        }
    }
}

/// The bytes that hexadecimal digits stand for, with spaces between them at will, as Python reads them.
fn hex_length(text: &str) -> Option<usize> {
    let pairs = text.split(|c: char| c.is_ascii_whitespace() || c == '\x0b');
    pairs
        .map(|digits| {
            (digits.len() % 2 == 0 && digits.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(digits.len() / 2)
        })
        .sum()
}

/// A position in digits. One beyond all numbers is behind every end.
fn number(position: &str) -> Option<usize> {
    let digits = !position.is_empty() && position.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| position.parse().unwrap_or(usize::MAX))
}

fn sorted<'l>(urls: impl Iterator<Item = &'l LocationUrl>) -> Vec<&'l str> {
    let mut urls: Vec<&str> = urls.map(LocationUrl::expose).collect();
    urls.sort_unstable();
    urls
}

fn is_same(a: &Location, b: &Location) -> bool {
    a.url == b.url && a.metadata == b.metadata
}

/// The client has named it just now.
fn duplicate(location: &Location) -> Error {
    Error::Invalid(format!("The location {} already exists", location.url.expose()))
}

fn has_texts_only(value: &Value) -> bool {
    match value {
        Value::String(_) => true,
        Value::Array(items) => items.iter().all(has_texts_only),
        Value::Object(entries) => entries.values().all(has_texts_only),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

/// Locations, for who sees them in any case.
fn told(locations: &[Location]) -> String {
    let told = locations.iter().map(|location| {
        let (id, url, status) = (location.id, location.url.expose(), location.status.as_str());
        json!({"id": id, "url": url, "metadata": location.metadata, "status": status})
    });
    schemas::python_repr(&Value::Array(told.collect()), MAX_TOLD)
}

/// Removes the data of locations that were released. Two statements each.
///
/// # Errors
/// As deletion of an image; what is behind the first that is refused is left to housekeeping.
pub(super) async fn discard(app: &App, locations: &[Location]) -> Result<()> {
    for location in locations {
        removal::finish_removal(app, location).await?;
    }
    Ok(())
}
