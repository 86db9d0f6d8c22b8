//! Changing an image: a list of changes, all of them or none.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde_json::{Map, Value};

use super::{
    access, check_owner, check_quota,
    model::{ImageView, Tag, requirement},
    or_conflict,
    protections::Operation,
    with_children,
};
use crate::{
    app::App,
    context::Context,
    db::{
        self, Tx,
        images::{Image, ImageId, Status, Visibility},
        locations::LocationUrl,
    },
    error::{Error, Result},
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

/// A change of the places where an image's data is.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum LocationsChange {
    /// Adds one, at a position or (`-`) at the end.
    Add(String, NewLocation),
    /// Takes one away, at a position or (`-`) from the end.
    Remove(String),
    /// Puts these in the place of all.
    Replace(Vec<NewLocation>),
}

/// A place where a client says that an image's data is.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct NewLocation {
    /// Where.
    pub(crate) url: LocationUrl,
    /// What a store says of it.
    pub(crate) metadata: Map<String, Value>,
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
/// statements to read it, and at the most one for its row, two for its properties and two for its tags.
///
/// # Errors
/// `NotFound`, `Forbidden`, `PropertyConflict`, `LimitExceeded`.
pub(crate) async fn update(app: &App, context: &Context, id: &ImageId, changes: &[Change]) -> Result<ImageView> {
    let mut view = app
        .db
        .transaction(|mut tx| async move {
            let image = access::find_locked(&mut tx, context, id).await?;
            let image = image.ok_or_else(|| Error::NotFound(format!("No image found with ID {id}")))?;
            let before = with_children(app, &mut tx, image).await?;
            if changes.is_empty() {
                return Ok((tx, before));
            }
            let mut draft = Draft::of(&before);
            for change in changes {
                draft.apply(app, context, change)?;
            }
            let after = draft.finish(app, context, &before)?;
            write(&mut tx, &before, &after).await?;
            Ok((tx, after))
        })
        .await?;
    app.protections.hide(&app.policy, context, std::slice::from_mut(&mut view));
    Ok(view)
}

/// An image on its way from what it is to what it is to be.
struct Draft {
    image: Image,
    properties: BTreeMap<String, String>,
    tags: BTreeSet<String>,
}

impl Draft {
    fn of(view: &ImageView) -> Self {
        Self {
            image: view.image.clone(),
            properties: view.properties.iter().cloned().collect(),
            tags: view.tags.iter().cloned().collect(),
        }
    }

    fn apply(&mut self, app: &App, context: &Context, change: &Change) -> Result<()> {
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
                            if self.properties.contains_key(name) {
                                app.protections.check(&app.policy, context, Operation::Update, name)?;
                            }
                        }
                        self.set(app, attribute)
                    }
                }
            }
            Change::Locations(change) => self.change_locations(app, context, change),
            Change::Remove(name) => {
                access::authorise(app, context, &self.image, "modify_image")?;
                if ATTRIBUTES.contains(&name.as_str()) {
                    return Err(Error::NotPermitted(format!("Property {name} may not be removed.")));
                }
                if !self.shows(app, context, name) {
                    return Err(Error::PropertyConflict(format!("Property {name} does not exist.")));
                }
                app.protections.check(&app.policy, context, Operation::Delete, name)?;
                self.properties.remove(name);
                Ok(())
            }
        }
    }

    /// Whether it has a custom property that the caller may know of.
    fn shows(&self, app: &App, context: &Context, name: &str) -> bool {
        self.properties.contains_key(name) && app.protections.may(&app.policy, context, Operation::Read, name)
    }

    /// Glance has a rule and a sentence for each.
    fn change_locations(&self, app: &App, context: &Context, change: &LocationsChange) -> Result<()> {
        let (rule, action) = match change {
            LocationsChange::Replace(locations) if locations.is_empty() => {
                return Err(Error::NotPermitted("Cannot set locations to empty list.".to_owned()));
            }
            LocationsChange::Replace(_) => ("set_image_location", "update"),
            LocationsChange::Add(..) => ("set_image_location", "add"),
            LocationsChange::Remove(_) => ("delete_image_location", "remove"),
        };
        access::authorise(app, context, &self.image, rule)?;
        if !app.config.default.show_multiple_locations {
            return Err(Error::Forbidden(format!(
                "It's not allowed to {action} locations if locations are invisible."
            )));
        }
        // Which addresses a client may have us ask is not decided yet, so none is taken.
        Err(Error::Invalid("Invalid location".to_owned()))
    }

    /// Checks each change on the image as the changes before it left it.
    fn authorise(&self, app: &App, context: &Context, attribute: &Attribute) -> Result<()> {
        if matches!(attribute, Attribute::Owner(_)) && !context.is_admin {
            return Err(Error::NotPermitted("Owner can't be updated by non admin.".to_owned()));
        }
        if let Attribute::Visibility(visibility) = attribute {
            access::authorise_visibility(app, context, *visibility, &access::target(context, &self.image))?;
        }
        access::authorise(app, context, &self.image, "modify_image")
    }

    fn set(&mut self, app: &App, attribute: &Attribute) -> Result<()> {
        let image = &mut self.image;
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
            Attribute::Protected(protected) => image.protected = *protected,
            Attribute::OsHidden(hidden) => image.os_hidden = *hidden,
            Attribute::Tags(tags) => {
                check_quota("tags", tags.len(), app.config.default.image_tag_quota())?;
                self.tags = tags.iter().map(|tag| tag.as_str().to_owned()).collect();
            }
            Attribute::Property(name, value) => {
                self.properties.insert(name.clone(), value.clone());
            }
        }
        Ok(())
    }

    /// Checks what only the whole can show.
    fn finish(mut self, app: &App, context: &Context, before: &ImageView) -> Result<ImageView> {
        check_owner(self.image.owner.as_deref().unwrap_or_default())?;
        let had = by_name(before);
        if !self.properties.keys().all(|name| had.contains_key(name.as_str())) {
            let counted = self.properties.keys().filter(|name| !name.starts_with("os_glance_")).count();
            check_quota("properties", counted, app.config.default.image_property_quota())?;
        }
        access::check_mutable(context, &before.image)?;
        self.image.updated_at = Some(app.now());
        Ok(ImageView {
            image: self.image,
            properties: self.properties.into_iter().collect(),
            tags: self.tags.into_iter().collect(),
            locations: before.locations.clone(),
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
    or_conflict(db::properties::insert(tx, id, &set, now).await, super::same_but_for_case)?;
    let missing = |tags: &[String], from: &[String]| -> Vec<String> {
        tags.iter().filter(|tag| from.binary_search(tag).is_err()).cloned().collect()
    };
    let (gone, new) = (missing(&before.tags, &after.tags), missing(&after.tags, &before.tags));
    db::tags::delete_all(tx, id, &texts(&gone)).await?;
    db::tags::insert_all(tx, id, &texts(&new), now).await?;
    Ok(())
}

fn by_name(view: &ImageView) -> HashMap<&str, &str> {
    view.properties.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
}

fn texts(tags: &[String]) -> Vec<&str> {
    tags.iter().map(String::as_str).collect()
}
