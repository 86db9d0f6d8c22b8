//! Updating an image: a list of changes is applied as a whole or not at all.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use super::{
    create::{check_minimum, check_owner, check_quota, map_duplicate},
    locations::{self, LocationsChange, LocationsDraft, ProbeResults, StorageQuota},
    view::{ImageView, hide_properties, load_details},
};
use crate::{
    access::{self, Subject},
    app::App,
    context::Context,
    data::acls,
    db::{self, Session, Tx},
    error::{Error, Result},
    model::{Location, LocationStatus, RequestedId, Status, Tag, UNWRITTEN, Visibility},
    policy::{protections::Operation, rule},
};

/// One change of an update.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Change {
    /// Sets an attribute, if the condition holds.
    Set(Attribute, Condition),
    /// Removes a custom property.
    Remove(String),
    /// Changes the locations.
    Locations(LocationsChange),
}

impl Change {
    fn adds_locations(&self) -> bool {
        matches!(self, Self::Locations(LocationsChange::Add(..) | LocationsChange::Replace(_)))
    }
}

/// The condition under which an attribute is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Condition {
    /// No condition.
    Always,
    /// The image has the attribute.
    Present,
    /// The image does not have the attribute.
    Absent,
}

/// An attribute that a client can set, with its new value.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Attribute {
    /// See [`Image`](crate::model::Image).
    Name(Option<String>),
    /// See [`Image`](crate::model::Image).
    DiskFormat(Option<String>),
    /// See [`Image`](crate::model::Image).
    ContainerFormat(Option<String>),
    /// See [`Image`](crate::model::Image).
    Owner(Option<String>),
    /// See [`Image`](crate::model::Image).
    Visibility(Visibility),
    /// See [`Image`](crate::model::Image).
    MinDisk(i64),
    /// See [`Image`](crate::model::Image).
    MinRam(i64),
    /// See [`Image`](crate::model::Image).
    Protected(bool),
    /// See [`Image`](crate::model::Image).
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

/// The attributes that every image has. They cannot be removed.
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

/// Updates an image. It is read with its row's lock, so no concurrent change is lost.
///
/// Three statements to read the image, and at most one for its row, three for its properties and two for its tags. If the
/// configuration allows changes of locations, one more reads them. If the update adds locations, six more read the image and the
/// quota before the first request to a web server and check the quota again in the transaction, and two write the locations.
///
/// # Errors
/// `NotFound`, `Forbidden`, `PropertyConflict`, `LimitExceeded`; for locations also `Invalid`, `Conflict`, and the error of a store
/// that does not remove data.
pub(crate) async fn update(
    app: &Arc<App>,
    context: &Context,
    id: &RequestedId,
    changes: &[Change],
) -> Result<ImageView> {
    let probes = &probe_locations(app, context, id, changes).await?;
    let (before, mut after) = app
        .db
        .transaction(|mut tx| async move {
            let image = access::find_locked(app, &mut tx, context, id).await?;
            let image = image.ok_or_else(|| Error::image_not_found(id))?;
            let before = load_details(app, &mut tx, context, image.image).await?;
            if changes.is_empty() {
                return Ok((tx, (before.clone(), before)));
            }
            if changes.iter().any(Change::adds_locations) {
                app.limits.lock_storage(&mut tx, context).await?;
            }
            let mut draft = ImageDraft::start(app, &mut tx, context, &before, changes).await?;
            for change in changes {
                draft.apply(app, context, change, probes)?;
            }
            let after = draft.finish(app, context, &before)?;
            write_changes(&mut tx, &before, &after).await?;
            Ok((tx, (before, after)))
        })
        .await?;
    acls::apply(app, &after.image.id).await?;
    let released = released_locations(&before, &after);
    if !released.is_empty() {
        remove_data(app, released).await?;
    }
    hide_properties(app, context, std::slice::from_mut(&mut after));
    Ok(after)
}

/// Asks web servers for the sizes of the locations that the update adds. A location is probed only after the changes before it were
/// authorised and applied to a draft: an update that will be refused triggers no outbound connection for what follows.
async fn probe_locations(app: &App, context: &Context, id: &RequestedId, changes: &[Change]) -> Result<ProbeResults> {
    let mut probes = ProbeResults::default();
    if !app.config.default.show_multiple_locations || !changes.iter().any(Change::adds_locations) {
        return Ok(probes);
    }
    let mut conn = app.db.acquire().await?;
    let image = access::find(app, &mut conn, context, id).await?.ok_or_else(|| Error::image_not_found(id))?;
    let before = load_details(app, &mut conn, context, image.image).await?;
    let mut draft = ImageDraft::start(app, &mut conn, context, &before, changes).await?;
    drop(conn);
    for change in changes {
        if let Change::Locations(change) = change {
            draft.locations_draft().probe(app, context, change, &mut probes).await?;
        }
        draft.apply(app, context, change, &probes)?;
    }
    Ok(probes)
}

/// The locations that the update removed. A location whose URL the image still has is not among them: its data is in use.
fn released_locations(before: &ImageView, after: &ImageView) -> Vec<Location> {
    before.locations.iter().filter(|location| !has_url(after, location)).cloned().collect()
}

fn has_url(view: &ImageView, location: &Location) -> bool {
    view.locations.iter().any(|other| other.url.is_same_data(&location.url))
}

/// Removes the data of released locations, even if the caller disconnects.
async fn remove_data(app: &Arc<App>, locations: Vec<Location>) -> Result<()> {
    let own = Arc::clone(app);
    app.outlive(async move { locations::remove_data(&own, &locations).await }).await
}

/// The image that an update builds: the current image with the changes so far.
struct ImageDraft {
    subject: Subject,
    /// The names of the properties that were set, in the order of the changes.
    set_properties: Vec<String>,
    tags: BTreeSet<String>,
    locations: Vec<Location>,
    /// Read only if the update adds locations.
    quota: Option<StorageQuota>,
}

impl ImageDraft {
    /// Starts from the current image. Two statements if the update adds locations and there is a storage quota.
    async fn start(
        app: &App,
        s: &mut impl Session,
        context: &Context,
        view: &ImageView,
        changes: &[Change],
    ) -> Result<Self> {
        let quota = match changes.iter().any(Change::adds_locations) {
            true => Some(StorageQuota::load(app, s, context, &view.image).await?),
            false => None,
        };
        Ok(Self {
            subject: Subject { image: view.image.clone(), properties: view.properties.iter().cloned().collect() },
            set_properties: Vec::new(),
            tags: view.tags.iter().cloned().collect(),
            locations: view.locations.clone(),
            quota,
        })
    }

    fn locations_draft(&mut self) -> LocationsDraft<'_> {
        LocationsDraft { subject: &mut self.subject, locations: &mut self.locations, quota: self.quota.as_ref() }
    }

    fn apply(&mut self, app: &App, context: &Context, change: &Change, probes: &ProbeResults) -> Result<()> {
        match change {
            Change::Set(attribute, condition) => {
                self.authorise(app, context, attribute)?;
                let name = attribute.name();
                let is_property = matches!(attribute, Attribute::Property(..));
                let present = !is_property || self.shows_property(app, context, name);
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
                            // For a caller who is not allowed to read the property, it is a new one. It must not overwrite the
                            // existing one without permission.
                            if self.subject.properties.contains_key(name) {
                                app.protections.check(&app.policy, context, Operation::Update, name)?;
                            }
                        }
                        self.set(app, attribute)
                    }
                }
            }
            Change::Locations(change) => self.locations_draft().apply(app, context, change, probes),
            Change::Remove(name) => {
                access::authorise(app, context, &self.subject, rule::MODIFY_IMAGE)?;
                if ATTRIBUTES.contains(&name.as_str()) {
                    return Err(Error::NotPermitted(format!("Property {name} may not be removed.")));
                }
                if !self.shows_property(app, context, name) {
                    return Err(Error::PropertyConflict(format!("Property {name} does not exist.")));
                }
                app.protections.check(&app.policy, context, Operation::Delete, name)?;
                self.subject.properties.remove(name);
                Ok(())
            }
        }
    }

    /// Whether the image has a custom property that the caller is allowed to read.
    fn shows_property(&self, app: &App, context: &Context, name: &str) -> bool {
        self.subject.properties.contains_key(name) && app.protections.may(&app.policy, context, Operation::Read, name)
    }

    /// Authorises a change against the draft, to which the changes before it are applied already.
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
                check_format_can_change(image.status, "disk_format")?;
                image.disk_format.clone_from(format);
            }
            Attribute::ContainerFormat(format) => {
                check_format_can_change(image.status, "container_format")?;
                image.container_format.clone_from(format);
            }
            Attribute::Owner(owner) => image.owner = owner.clone().filter(|owner| !owner.is_empty()),
            Attribute::Visibility(visibility) => image.visibility = *visibility,
            Attribute::MinDisk(gibibytes) => image.min_disk = check_minimum("min_disk", *gibibytes)?,
            Attribute::MinRam(mebibytes) => image.min_ram = check_minimum("min_ram", *mebibytes)?,
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
                self.set_properties.push(name.clone());
            }
        }
        Ok(())
    }

    /// Checks the rules that concern the result as a whole, and returns it.
    fn finish(mut self, app: &App, context: &Context, before: &ImageView) -> Result<ImageView> {
        // The time of its change is the token of its deletion.
        if before.image.status == Status::PendingDelete {
            let message = format!("Image {} is being deleted, and cannot be changed any more.", before.image.id);
            return Err(Error::Conflict(message));
        }
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
        // New properties follow those that the image has.
        let names = before.properties.iter().map(|(name, _)| name).chain(&self.set_properties);
        let properties = names.filter_map(|name| self.subject.properties.remove_entry(name)).collect();
        Ok(ImageView {
            image: self.subject.image,
            properties,
            tags: self.tags.into_iter().collect(),
            locations: self.locations,
        })
    }
}

fn check_format_can_change(status: Status, name: &str) -> Result<()> {
    if matches!(status, Status::Queued | Status::Importing) {
        return Ok(());
    }
    Err(Error::Forbidden(format!("Attribute {name} can be only replaced for a queued image.")))
}

/// Writes the differences between the two images.
async fn write_changes(tx: &mut Tx, before: &ImageView, after: &ImageView) -> Result<()> {
    let (id, now) = (after.image.id.as_str(), after.image.updated_at.unwrap_or(after.image.created_at));
    db::images::update(tx, &before.image, &after.image).await?;
    let (had, has) = (by_name(before), by_name(after));
    let is_set = |(name, value): &&(String, String)| had.get(name.as_str()) != Some(&value.as_str());
    let set = after.properties.iter().filter(is_set).cloned();
    let (changed, new): (Vec<_>, Vec<_>) = set.partition(|(name, _)| had.contains_key(name.as_str()));
    let removed = before.properties.iter().filter(|(name, _)| !has.contains_key(name.as_str()));
    let names: Vec<&str> = new.iter().chain(removed).map(|(name, _)| name.as_str()).collect();
    db::properties::delete(tx, id, &names).await?;
    // A changed property keeps its row, and so its place.
    db::properties::update(tx, id, &changed, now).await?;
    map_duplicate(db::properties::insert(tx, id, &new, now).await, super::create::name_collision_message)?;
    let missing = |tags: &[String], from: &[String]| -> Vec<String> {
        tags.iter().filter(|tag| from.binary_search(tag).is_err()).cloned().collect()
    };
    let (removed, new) = (missing(&before.tags, &after.tags), missing(&after.tags, &before.tags));
    db::tags::delete_all(tx, id, &as_strs(&removed)).await?;
    db::tags::insert_all(tx, id, &as_strs(&new), now).await?;
    let is_kept = |id: i32| after.locations.iter().any(|location| location.id == id);
    let removed: Vec<&Location> = before.locations.iter().filter(|location| !is_kept(location.id)).collect();
    // A location with new metadata gets a new row for the same data. The data of the other removed locations has yet to be removed.
    let (replaced, released): (Vec<&Location>, Vec<&Location>) =
        removed.into_iter().partition(|location| has_url(after, location));
    for (locations, status) in [(replaced, LocationStatus::Deleted), (released, LocationStatus::PendingDelete)] {
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

fn as_strs(tags: &[String]) -> Vec<&str> {
    tags.iter().map(String::as_str).collect()
}
