//! Changing an image: a list of changes, all of them or none.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use super::{
    create::{check_owner, check_quota, or_conflict, requirement},
    locations::{self, Findings, LocationsChange, Room},
    view::{ImageView, hide, with_details},
};
use crate::{
    access::{self, Subject},
    app::App,
    context::Context,
    db::{self, Session, Tx},
    error::{Error, Result},
    model::{Location, LocationStatus, RequestedId, Status, Tag, UNWRITTEN, Visibility},
    policy::{protections::Operation, rule},
};

/// One change of a patch, in the order of the request.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Change {
    /// Gives an attribute a value.
    Set(Attribute, Condition),
    /// Takes a custom property away.
    Remove(String),
    /// Changes where the data is.
    Locations(LocationsChange),
}

impl Change {
    fn adds_locations(&self) -> bool {
        matches!(self, Self::Locations(LocationsChange::Add(..) | LocationsChange::Replace(_)))
    }
}

/// When an attribute may be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Condition {
    /// Whether it is there or not.
    Always,
    /// Where it is there.
    Present,
    /// Where it is not.
    Absent,
}

/// What can be set, with its value.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Attribute {
    /// See [`Image`].
    Name(Option<String>),
    /// See [`Image`].
    DiskFormat(Option<String>),
    /// See [`Image`].
    ContainerFormat(Option<String>),
    /// See [`Image`].
    Owner(Option<String>),
    /// See [`Image`].
    Visibility(Visibility),
    /// See [`Image`].
    MinDisk(i64),
    /// See [`Image`].
    MinRam(i64),
    /// See [`Image`].
    Protected(bool),
    /// See [`Image`].
    OsHidden(bool),
    /// All the tags.
    Tags(Vec<Tag>),
    /// A custom property, by name and value.
    Property(String, String),
}

impl Attribute {
    /// Its name in the API.
    fn name(&self) -> &str {
        match self {
            Self::Name(_) => "name",
            Self::DiskFormat(_) => "disk_format",
            Self::ContainerFormat(_) => "container_format",
            Self::Owner(_) => "owner",
            Self::Visibility(_) => "visibility",
            Self::MinDisk(_) => "min_disk",
            Self::MinRam(_) => "min_ram",
            Self::Protected(_) => "protected",
            Self::OsHidden(_) => "os_hidden",
            Self::Tags(_) => "tags",
            Self::Property(name, _) => name,
        }
    }
}

/// Attributes that every image has: they cannot be removed.
pub(crate) const ATTRIBUTES: [&str; 10] = [
    "name",
    "disk_format",
    "container_format",
    "owner",
    "visibility",
    "min_disk",
    "min_ram",
    "protected",
    "os_hidden",
    "tags",
];

/// Changes an image. It is read with its row's lock, so nothing that somebody else changes meanwhile is lost. Three
/// statements to read it, and at the most one for its row, two for its properties and two for its tags. Where locations may be
/// changed, one more reads them; where they are, six more look at the image and the quota before web servers are asked, and
/// check the quota again, and two write them.
///
/// # Errors
/// `NotFound`, `Forbidden`, `PropertyConflict`, `LimitExceeded`; for locations also `Invalid`, `Conflict`, and what a store
/// says that does not let data go.
pub(crate) async fn update(
    app: &Arc<App>,
    context: &Context,
    id: &RequestedId,
    changes: &[Change],
) -> Result<ImageView> {
    let findings = &look(app, context, id, changes).await?;
    let (before, mut after) = app
        .db
        .transaction(|mut tx| async move {
            let image = access::find_locked(app, &mut tx, context, id).await?.ok_or_else(|| not_found(id))?;
            let before = with_details(app, &mut tx, context, image.image).await?;
            if changes.is_empty() {
                return Ok((tx, (before.clone(), before)));
            }
            let mut draft = Draft::of(app, &mut tx, context, &before, changes).await?;
            for change in changes {
                draft.apply(app, context, change, findings)?;
            }
            let after = draft.finish(app, context, &before)?;
            write(&mut tx, &before, &after).await?;
            Ok((tx, (before, after)))
        })
        .await?;
    let gone = gone(&before, &after);
    if !gone.is_empty() {
        discard(app, gone).await?;
    }
    hide(app, context, std::slice::from_mut(&mut after));
    Ok(after)
}

fn not_found(id: &RequestedId) -> Error {
    Error::NotFound(format!("No image found with ID {id}"))
}

/// Asks web servers about locations that are to be added, each once the changes before it were found good.
async fn look(app: &App, context: &Context, id: &RequestedId, changes: &[Change]) -> Result<Findings> {
    let mut findings = Findings::default();
    if !app.config.default.show_multiple_locations || !changes.iter().any(Change::adds_locations) {
        return Ok(findings);
    }
    let mut conn = app.db.acquire().await?;
    let image = access::find(app, &mut conn, context, id).await?.ok_or_else(|| not_found(id))?;
    let before = with_details(app, &mut conn, context, image.image).await?;
    let mut draft = Draft::of(app, &mut conn, context, &before, changes).await?;
    drop(conn);
    for change in changes {
        if let Change::Locations(change) = change {
            draft.located().look(app, context, change, &mut findings).await?;
        }
        draft.apply(app, context, change, &findings)?;
    }
    Ok(findings)
}

/// Locations that are not there any more, without those whose data is still the image's.
fn gone(before: &ImageView, after: &ImageView) -> Vec<Location> {
    before.locations.iter().filter(|location| !has_url(after, location)).cloned().collect()
}

fn has_url(view: &ImageView, location: &Location) -> bool {
    view.locations.iter().any(|other| other.url == location.url)
}

/// Removes data, also when the caller stops waiting for it.
async fn discard(app: &Arc<App>, locations: Vec<Location>) -> Result<()> {
    let own = Arc::clone(app);
    app.outlive(async move { locations::discard(&own, &locations).await }).await
}

/// An image on its way from what it is to what it is to be.
struct Draft {
    subject: Subject,
    tags: BTreeSet<String>,
    locations: Vec<Location>,
    /// Read where locations are added.
    room: Option<Room>,
}

impl Draft {
    /// Two statements where there is a quota for what is added.
    async fn of(
        app: &App,
        s: &mut impl Session,
        context: &Context,
        view: &ImageView,
        changes: &[Change],
    ) -> Result<Self> {
        let room = match changes.iter().any(Change::adds_locations) {
            true => Some(Room::read(app, s, context, &view.image).await?),
            false => None,
        };
        Ok(Self {
            subject: Subject { image: view.image.clone(), properties: view.properties.iter().cloned().collect() },
            tags: view.tags.iter().cloned().collect(),
            locations: view.locations.clone(),
            room,
        })
    }

    fn located(&mut self) -> locations::Draft<'_> {
        locations::Draft { subject: &mut self.subject, locations: &mut self.locations, room: self.room.as_ref() }
    }

    fn apply(&mut self, app: &App, context: &Context, change: &Change, findings: &Findings) -> Result<()> {
        match change {
            Change::Set(attribute, condition) => {
                self.authorise(app, context, attribute)?;
                let name = attribute.name();
                let is_property = matches!(attribute, Attribute::Property(..));
                let present = !is_property || self.shows(app, context, name);
                match condition {
                    Condition::Present if !present => {
                        Err(Error::PropertyConflict(format!("Property {name} does not exist.")))
                    }
                    Condition::Absent if present => {
                        Err(Error::PropertyConflict(format!("Property {name} already present.")))
                    }
                    _ => {
                        if is_property {
                            if !present {
                                app.protections.check(&app.policy, context, Operation::Create, name)?;
                            }
                            // To who may not read it, it is a new one, and must not put an end to the old one.
                            if self.subject.properties.contains_key(name) {
                                app.protections.check(&app.policy, context, Operation::Update, name)?;
                            }
                        }
                        self.set(app, attribute)
                    }
                }
            }
            Change::Locations(change) => self.located().apply(app, context, change, findings),
            Change::Remove(name) => {
                access::authorise(app, context, &self.subject, rule::MODIFY_IMAGE)?;
                if ATTRIBUTES.contains(&name.as_str()) {
                    return Err(Error::NotPermitted(format!("Property {name} may not be removed.")));
                }
                if !self.shows(app, context, name) {
                    return Err(Error::PropertyConflict(format!("Property {name} does not exist.")));
                }
                app.protections.check(&app.policy, context, Operation::Delete, name)?;
                self.subject.properties.remove(name);
                Ok(())
            }
        }
    }

    /// Whether it has a custom property that the caller may know of.
    fn shows(&self, app: &App, context: &Context, name: &str) -> bool {
        self.subject.properties.contains_key(name) && app.protections.may(&app.policy, context, Operation::Read, name)
    }

    /// Checks each change on the image as the changes before it left it.
    fn authorise(&self, app: &App, context: &Context, attribute: &Attribute) -> Result<()> {
        if matches!(attribute, Attribute::Owner(_)) && !context.is_admin {
            return Err(Error::NotPermitted("Owner can't be updated by non admin.".to_owned()));
        }
        if let Attribute::Visibility(visibility) = attribute {
            access::authorise_new_visibility(app, context, *visibility, &self.subject)?;
        }
        access::authorise(app, context, &self.subject, rule::MODIFY_IMAGE)
    }

    fn set(&mut self, app: &App, attribute: &Attribute) -> Result<()> {
        let image = &mut self.subject.image;
        match attribute {
            Attribute::Name(name) => image.name.clone_from(name),
            Attribute::DiskFormat(format) => {
                check_format_is_open(image.status, "disk_format")?;
                image.disk_format.clone_from(format);
            }
            Attribute::ContainerFormat(format) => {
                check_format_is_open(image.status, "container_format")?;
                image.container_format.clone_from(format);
            }
            Attribute::Owner(owner) => image.owner = owner.clone().filter(|owner| !owner.is_empty()),
            Attribute::Visibility(visibility) => image.visibility = *visibility,
            Attribute::MinDisk(gibibytes) => image.min_disk = requirement("min_disk", *gibibytes)?,
            Attribute::MinRam(mebibytes) => image.min_ram = requirement("min_ram", *mebibytes)?,
            Attribute::Protected(protected) => {
                if *protected && image.status == Status::PendingDelete {
                    let message = format!("Image {} is being deleted, and cannot be protected any more.", image.id);
                    return Err(Error::Conflict(message));
                }
                image.protected = *protected;
            }
            Attribute::OsHidden(hidden) => image.os_hidden = *hidden,
            Attribute::Tags(tags) => {
                check_quota("tags", tags.len(), app.config.default.image_tag_quota())?;
                self.tags = tags.iter().map(|tag| tag.as_str().to_owned()).collect();
            }
            Attribute::Property(name, value) => {
                self.subject.properties.insert(name.clone(), value.clone());
            }
        }
        Ok(())
    }

    /// Checks what only the whole can show.
    fn finish(mut self, app: &App, context: &Context, before: &ImageView) -> Result<ImageView> {
        check_owner(self.subject.image.owner.as_deref().unwrap_or_default())?;
        let had = by_name(before);
        if !self.subject.properties.keys().all(|name| had.contains_key(name.as_str())) {
            let counted = self.subject.properties.keys().filter(|name| !name.starts_with("os_glance_")).count();
            check_quota("properties", counted, app.config.default.image_property_quota())?;
        }
        let cap = app.config.default.image_size_cap;
        if self.subject.image.size != before.image.size
            && self.subject.image.size.and_then(|size| size.try_into().ok()) > Some(cap)
        {
            return Err(Error::LimitExceeded("The provided image is too large.".to_owned()));
        }
        access::check_mutable(context, &before.image)?;
        self.subject.image.updated_at = Some(app.now());
        Ok(ImageView {
            image: self.subject.image,
            properties: self.subject.properties.into_iter().collect(),
            tags: self.tags.into_iter().collect(),
            locations: self.locations,
        })
    }
}

fn check_format_is_open(status: Status, name: &str) -> Result<()> {
    if matches!(status, Status::Queued | Status::Importing) {
        return Ok(());
    }
    Err(Error::Forbidden(format!("Attribute {name} can be only replaced for a queued image.")))
}

/// Writes what differs.
async fn write(tx: &mut Tx, before: &ImageView, after: &ImageView) -> Result<()> {
    let (id, now) = (after.image.id.as_str(), after.image.updated_at.unwrap_or(after.image.created_at));
    db::images::update(tx, &before.image, &after.image).await?;
    let (had, has) = (by_name(before), by_name(after));
    let is_new = |(name, value): &&(String, String)| had.get(name.as_str()) != Some(&value.as_str());
    let set: Vec<_> = after.properties.iter().filter(is_new).cloned().collect();
    let gone = before.properties.iter().filter(|(name, _)| !has.contains_key(name.as_str()));
    let names: Vec<&str> = set.iter().chain(gone).map(|(name, _)| name.as_str()).collect();
    db::properties::delete(tx, id, &names).await?;
    or_conflict(db::properties::insert(tx, id, &set, now).await, super::create::same_but_for_case)?;
    let missing = |tags: &[String], from: &[String]| -> Vec<String> {
        tags.iter().filter(|tag| from.binary_search(tag).is_err()).cloned().collect()
    };
    let (gone, new) = (missing(&before.tags, &after.tags), missing(&after.tags, &before.tags));
    db::tags::delete_all(tx, id, &texts(&gone)).await?;
    db::tags::insert_all(tx, id, &texts(&new), now).await?;
    let stays = |id: i32| after.locations.iter().any(|location| location.id == id);
    let gone: Vec<&Location> = before.locations.iter().filter(|location| !stays(location.id)).collect();
    // What is described anew keeps its data; the data of the others is still to be removed.
    let (renewed, released): (Vec<&Location>, Vec<&Location>) =
        gone.into_iter().partition(|location| has_url(after, location));
    for (locations, status) in [(renewed, LocationStatus::Deleted), (released, LocationStatus::PendingDelete)] {
        let ids: Vec<i32> = locations.iter().map(|location| location.id).collect();
        db::locations::mark(tx, &ids, status, now).await?;
    }
    let new = after.locations.iter().filter(|location| location.id == UNWRITTEN);
    let new: Vec<_> = new.map(|location| (&location.url, &location.metadata)).collect();
    db::locations::insert(tx, id, &new, now).await?;
    Ok(())
}

fn by_name(view: &ImageView) -> HashMap<&str, &str> {
    view.properties.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
}

fn texts(tags: &[String]) -> Vec<&str> {
    tags.iter().map(String::as_str).collect()
}
