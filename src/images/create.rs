//! Creating an image.

use super::view::{ImageView, hide_properties};
use crate::{
    access::{self},
    app::App,
    context::Context,
    db::{self, Tx},
    error::{Error, Result},
    limits::{Admission, Resource},
    model::{Image, ImageId, Status, Tag, Visibility, check_storable},
    policy::{Target, protections::Operation, rule},
};

/// The maximum number of characters in an owner: the width of its column.
const MAX_OWNER_LENGTH: usize = 255;

/// The input of a creation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NewImage {
    /// The id, if the caller chose one.
    pub(crate) id: Option<ImageId>,
    /// See [`Image`].
    pub(crate) name: Option<String>,
    /// See [`Image`].
    pub(crate) disk_format: Option<String>,
    /// See [`Image`].
    pub(crate) container_format: Option<String>,
    /// The owner, if the caller names one: `Some(None)` is an image without owner.
    pub(crate) owner: Option<Option<String>>,
    /// See [`Image`].
    pub(crate) visibility: Visibility,
    /// See [`Image`].
    pub(crate) min_disk: i64,
    /// See [`Image`].
    pub(crate) min_ram: i64,
    /// See [`Image`].
    pub(crate) protected: bool,
    /// See [`Image`].
    pub(crate) os_hidden: bool,
    /// Custom properties, in the client's order.
    pub(crate) properties: Vec<(String, String)>,
    /// Tags without duplicates.
    pub(crate) tags: Vec<Tag>,
}

/// A new image that the caller is allowed to create. It is not in the database yet.
pub(crate) struct Creation {
    image: Image,
    properties: Vec<(String, String)>,
    tags: Vec<Tag>,
    /// The check of the project's limits when the image is inserted.
    admission: Admission,
}

/// Creates an image without data. At most three statements with the default quotas, and three more where Keystone limits the number
/// of images.
///
/// # Errors
/// `Forbidden`, `Conflict` when an image has the id already, even a deleted one, `LimitExceeded`.
pub(crate) async fn create(app: &App, context: &Context, new: NewImage) -> Result<ImageView> {
    let creation = check(app, context, new, Status::Queued).await?;
    let inserted = &creation;
    app.db
        .transaction(|mut tx| async move {
            inserted.insert(&mut tx).await?;
            Ok((tx, ()))
        })
        .await?;
    let Creation { image, properties, tags, .. } = creation;
    let tags = tags.iter().map(|tag| tag.as_str().to_owned()).collect();
    let mut view = ImageView { image, properties, tags, locations: Vec::new() };
    hide_properties(app, context, std::slice::from_mut(&mut view));
    Ok(view)
}

/// Checks that the caller is allowed to create an image. It will have this status.
///
/// # Errors
/// As [`create`].
pub(crate) async fn check(app: &App, context: &Context, new: NewImage, status: Status) -> Result<Creation> {
    let owner = new.owner.clone().unwrap_or_else(|| context.project_id().map(str::to_owned));
    authorise_creation(app, context, &new, owner.as_deref())?;
    let admission = app.limits.admission(context, Resource::CountTotal, 1).await?;
    admission.check_early(&app.db).await?;
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
        status,
        created_at: now,
        updated_at: Some(now),
        disk_format: new.disk_format,
        container_format: new.container_format,
        checksum: None,
        owner: owner.filter(|owner| !owner.is_empty()),
        min_disk: check_minimum("min_disk", new.min_disk)?,
        min_ram: check_minimum("min_ram", new.min_ram)?,
        protected: new.protected,
        virtual_size: None,
        visibility: new.visibility,
        os_hidden: new.os_hidden,
        os_hash_algo: None,
        os_hash_value: None,
    };
    Ok(Creation { image, properties: new.properties, tags: new.tags, admission })
}

impl Creation {
    /// The new image.
    pub(crate) fn image(&self) -> &Image {
        &self.image
    }

    /// Inserts the image. At most three statements with the default quotas.
    ///
    /// # Errors
    /// `Conflict`, `LimitExceeded`
    pub(crate) async fn insert(&self, tx: &mut Tx) -> Result<()> {
        let Self { image, properties, tags, admission } = self;
        let tags: Vec<&str> = tags.iter().map(Tag::as_str).collect();
        admission.enforce(tx, None, 0).await?;
        let inserted = db::images::insert(tx, image).await;
        map_duplicate(inserted, || format!("Image ID {} already exists!", image.id))?;
        let inserted = db::properties::insert(tx, &image.id, properties, image.created_at).await;
        map_duplicate(inserted, name_collision_message)?;
        Ok(db::tags::insert_all(tx, &image.id, &tags, image.created_at).await?)
    }
}

/// Checks an owner, which no schema has validated when it comes from a token.
pub(super) fn check_owner(owner: &str) -> Result<()> {
    if owner.chars().count() > MAX_OWNER_LENGTH {
        return Err(Error::Invalid(format!("Owner is too long, it has {MAX_OWNER_LENGTH} characters at the most.")));
    }
    check_storable("Owner", owner)
}

/// Turns a duplicate row into a `Conflict` with this message.
pub(super) fn map_duplicate(inserted: db::Result<()>, message: impl FnOnce() -> String) -> Result<()> {
    match inserted {
        Err(db::Error::Duplicate) => Err(Error::Conflict(message())),
        other => Ok(other?),
    }
}

/// The message for a property's name that collides with another one of the image. On MySQL the collation ignores case, so names
/// that differ only in case violate the unique key.
pub(super) fn name_collision_message() -> String {
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
    // The deprecated policy defaults allow everyone to create an image, so with them Glance checks the owner in its code.
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

pub(super) fn check_quota(what: &str, attempted: usize, quota: Option<u32>) -> Result<()> {
    match quota {
        Some(maximum) if attempted > maximum as usize => Err(Error::LimitExceeded(format!(
            "The limit has been exceeded on the number of allowed image {what}. Attempted: {attempted}, \
             Maximum: {maximum}"
        ))),
        _ => Ok(()),
    }
}

/// Checks a minimum that an instance must have (`min_disk`, `min_ram`), and converts it to its column's type.
///
/// # Errors
/// `Invalid`
pub(super) fn check_minimum(name: &str, value: i64) -> Result<i32> {
    if value < 0 {
        return Err(Error::Invalid(format!(
            "Invalid value '{value}' for parameter '{name}': Cannot be a negative value"
        )));
    }
    let too_large = |_| Error::Invalid(format!("'{name}' value out of range, must not exceed {}.", i32::MAX));
    value.try_into().map_err(too_large)
}
