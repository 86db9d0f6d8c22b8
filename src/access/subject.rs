//! An image as the policy sees it: its row, and its custom properties, which are read where a rule in force names one.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    fmt,
    ops::{Deref, DerefMut},
};

use chrono::{NaiveDateTime, Timelike as _};

use crate::{
    app::App,
    context::Context,
    model::{Image, Visibility},
    policy::{AttributeValue, Attributes, Target, protections::Operation},
};

/// The attributes that an image's row has, by Glance's names.
const OF_ROWS: [&str; 22] = [
    "id",
    "image_id",
    "name",
    "status",
    "visibility",
    "owner",
    "project_id",
    "member",
    "member_id",
    "disk_format",
    "container_format",
    "checksum",
    "os_hash_algo",
    "os_hash_value",
    "size",
    "virtual_size",
    "min_disk",
    "min_ram",
    "protected",
    "os_hidden",
    "created_at",
    "updated_at",
];

/// Whether a rule in force names what is not in an image's row.
pub(crate) fn are_beyond_rows(app: &App) -> bool {
    app.policy.names_attribute(|name| !OF_ROWS.contains(&name))
}

/// An image that somebody wants to do something to.
#[derive(Debug, Clone)]
pub(crate) struct Subject {
    pub(crate) image: Image,
    /// Its custom properties, where the policy asks for any.
    pub(crate) properties: BTreeMap<String, String>,
}

impl Deref for Subject {
    type Target = Image;

    fn deref(&self) -> &Image {
        &self.image
    }
}

impl DerefMut for Subject {
    fn deref_mut(&mut self) -> &mut Image {
        &mut self.image
    }
}

/// An image as the policy sees it for a caller.
pub(crate) struct Seen<'s> {
    app: &'s App,
    context: &'s Context,
    image: &'s Image,
    property: &'s (dyn Fn(&str) -> Option<&'s str> + Sync),
}

impl<'s> Seen<'s> {
    /// With custom properties by their names.
    pub(crate) fn new(
        app: &'s App,
        context: &'s Context,
        image: &'s Image,
        property: &'s (dyn Fn(&str) -> Option<&'s str> + Sync),
    ) -> Self {
        Self { app, context, image, property }
    }

    /// For the policy to judge.
    pub(crate) fn target(&self) -> Target<'_> {
        let Self { context, image, .. } = self;
        // Who sees a shared image of another project sees it as its member.
        let as_member = image.visibility == Visibility::Shared && !is_owner(context, image);
        Target {
            owner: image.owner.as_deref(),
            member: context.project_id().filter(|_| as_member),
            visibility: Some(image.visibility.as_str()),
            attributes: Some(self),
        }
    }
}

impl fmt::Debug for Seen<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Seen").field(&self.image).finish()
    }
}

/// As Glance, a property that the caller may not read is none, and one with the name of an attribute is hidden by that.
impl Attributes for Seen<'_> {
    fn attribute(&self, name: &str) -> Option<AttributeValue<'_>> {
        of_row(self.image, name).or_else(|| {
            let value = (self.property)(name)?;
            let may = self.app.protections.may(&self.app.policy, self.context, Operation::Read, name);
            may.then_some(AttributeValue::from_text(Some(value)))
        })
    }
}

/// By Glance's names, and as Python shows the values.
fn of_row<'i>(image: &'i Image, name: &str) -> Option<AttributeValue<'i>> {
    Some(match name {
        "id" | "image_id" => AttributeValue::from_text(Some(&image.id)),
        "name" => AttributeValue::from_text(image.name.as_deref()),
        "status" => AttributeValue::from_text(Some(image.status.as_str())),
        "visibility" => AttributeValue::from_text(Some(image.visibility.as_str())),
        "owner" | "project_id" => AttributeValue::from_text(image.owner.as_deref()),
        // Whoever is one is named beside the image.
        "member" | "member_id" => AttributeValue::Nothing,
        "disk_format" => AttributeValue::from_text(image.disk_format.as_deref()),
        "container_format" => AttributeValue::from_text(image.container_format.as_deref()),
        "checksum" => AttributeValue::from_text(image.checksum.as_deref()),
        "os_hash_algo" => AttributeValue::from_text(image.os_hash_algo.as_deref()),
        "os_hash_value" => AttributeValue::from_text(image.os_hash_value.as_deref()),
        "size" => AttributeValue::from_number(image.size),
        "virtual_size" => AttributeValue::from_number(image.virtual_size),
        "min_disk" => AttributeValue::from_number(Some(image.min_disk.into())),
        "min_ram" => AttributeValue::from_number(Some(image.min_ram.into())),
        "protected" => AttributeValue::from_bool(image.protected),
        "os_hidden" => AttributeValue::from_bool(image.os_hidden),
        "created_at" => time(image.created_at),
        "updated_at" => time(image.updated_at.unwrap_or(image.created_at)),
        _ => return None,
    })
}

/// As Python shows a time.
fn time(time: NaiveDateTime) -> AttributeValue<'static> {
    let format = if time.nanosecond() < 1000 { "%Y-%m-%d %H:%M:%S" } else { "%Y-%m-%d %H:%M:%S%.6f" };
    AttributeValue::Text(Cow::Owned(time.format(format).to_string()))
}

/// Whether the image belongs to the caller's project. What belongs to nobody does not.
pub(crate) fn is_owner(context: &Context, image: &Image) -> bool {
    image.owner.is_some() && image.owner.as_deref() == context.project_id()
}
