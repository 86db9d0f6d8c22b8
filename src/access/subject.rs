//! An image as policy rules see it: its row and its custom properties. The properties are read only if a rule in force names one.

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

/// The attributes that come from an image's row, by Glance's names.
const ROW_ATTRIBUTES: [&str; 22] = [
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

/// Whether a rule in force names an attribute that is not in an image's row.
pub(crate) fn needs_properties(app: &App) -> bool {
    app.policy.names_attribute(|name| !ROW_ATTRIBUTES.contains(&name))
}

/// The image that an operation is about.
#[derive(Debug, Clone)]
pub(crate) struct Subject {
    pub(crate) image: Image,
    /// Its custom properties. Empty unless a policy rule in force names one.
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

/// An image as policy rules see it for one caller.
pub(crate) struct PolicyView<'s> {
    app: &'s App,
    context: &'s Context,
    image: &'s Image,
    property: &'s (dyn Fn(&str) -> Option<&'s str> + Sync),
}

impl<'s> PolicyView<'s> {
    /// Creates a view. `property` returns the value of a custom property by its name.
    pub(crate) fn new(
        app: &'s App,
        context: &'s Context,
        image: &'s Image,
        property: &'s (dyn Fn(&str) -> Option<&'s str> + Sync),
    ) -> Self {
        Self { app, context, image, property }
    }

    /// Returns the target for [`crate::policy::Policy::allows`].
    pub(crate) fn target(&self) -> Target<'_> {
        let Self { context, image, .. } = self;
        // A caller who sees a shared image of another project is its member.
        let as_member = image.visibility == Visibility::Shared && !is_owner(context, image);
        Target {
            owner: image.owner.as_deref(),
            member: context.project_id().filter(|_| as_member),
            visibility: Some(image.visibility.as_str()),
            attributes: Some(self),
        }
    }
}

impl fmt::Debug for PolicyView<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PolicyView").field(&self.image).finish()
    }
}

/// As in Glance, rules do not see a property that the caller is not allowed to read, and an attribute hides a property of the same
/// name.
impl Attributes for PolicyView<'_> {
    fn attribute(&self, name: &str) -> Option<AttributeValue<'_>> {
        row_attribute(self.image, name).or_else(|| {
            let value = (self.property)(name)?;
            let may_read = self.app.protections.may(&self.app.policy, self.context, Operation::Read, name);
            may_read.then_some(AttributeValue::from_text(Some(value)))
        })
    }
}

/// Returns an attribute from the image's row, by Glance's name, as Python prints it.
fn row_attribute<'i>(image: &'i Image, name: &str) -> Option<AttributeValue<'i>> {
    Some(match name {
        "id" | "image_id" => AttributeValue::from_text(Some(&image.id)),
        "name" => AttributeValue::from_text(image.name.as_deref()),
        "status" => AttributeValue::from_text(Some(image.status.as_str())),
        "visibility" => AttributeValue::from_text(Some(image.visibility.as_str())),
        "owner" | "project_id" => AttributeValue::from_text(image.owner.as_deref()),
        // The member is in `Target::member`.
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
        "created_at" => format_time(image.created_at),
        "updated_at" => format_time(image.updated_at.unwrap_or(image.created_at)),
        _ => return None,
    })
}

/// Formats a time as Python's `str(datetime)` does.
fn format_time(time: NaiveDateTime) -> AttributeValue<'static> {
    let format = if time.nanosecond() < 1000 { "%Y-%m-%d %H:%M:%S" } else { "%Y-%m-%d %H:%M:%S%.6f" };
    AttributeValue::Text(Cow::Owned(time.format(format).to_string()))
}

/// Whether the caller's project owns the image. An image without an owner belongs to no project.
pub(crate) fn is_owner(context: &Context, image: &Image) -> bool {
    image.owner.is_some() && image.owner.as_deref() == context.project_id()
}
