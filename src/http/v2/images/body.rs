//! The JSON form of an image, in requests and responses.

use serde::{Serialize, Serializer, ser::SerializeMap as _};
use serde_json::{Map, Value};

use crate::{
    app::App,
    data::placement,
    error::{Error, Result},
    http::json,
    images::{
        create::NewImage,
        locations::{Claim, NewLocation},
        update::Attribute,
        view::ImageView,
    },
    model::{HASH_HOST, ImageId, Location, LocationUrl, STAGE_HOST, Tag, Visibility, check_storable},
};

/// The maximum length of a custom property's value in bytes: the size of MySQL's TEXT.
const MAX_PROPERTY_BYTES: usize = 65_535;
/// The maximum length of a custom property's name in characters: the width of its column.
const MAX_PROPERTY_NAME: usize = 255;
/// The prefix of custom properties that only the service writes.
const RESERVED_PREFIX: &str = "os_glance_";
/// Attributes that the service computes for each response.
const COMPUTED: [&str; 5] = ["direct_url", "self", "file", "schema", "stores"];
/// Attributes that the service sets.
const READ_ONLY: [&str; 8] =
    ["created_at", "updated_at", "status", "checksum", "os_hash_algo", "os_hash_value", "size", "virtual_size"];
/// Names that a custom property cannot have, because they have a meaning in older versions of the API.
const RESERVED: [&str; 3] = ["location", "deleted", "deleted_at"];

/// Custom properties that are internal to the service.
const HIDDEN: [&str; 2] = [STAGE_HOST, HASH_HOST];

/// The body of a response with an image.
pub(super) struct ImageBody<'v> {
    view: &'v ImageView,
    shows_locations: bool,
    direct_url: Option<&'v Location>,
    /// The names of the stores that have its data; empty if stores have no names.
    stores: String,
}

impl<'v> ImageBody<'v> {
    /// The body of an image. The configuration decides whether it includes locations.
    pub(super) fn new(app: &App, view: &'v ImageView) -> Self {
        let options = &app.config.default;
        let names = view.locations.iter().filter_map(|location| placement::name_of(app, location));
        let stores = if app.stores.are_named { names.collect::<Vec<_>>().join(",") } else { String::new() };
        Self {
            view,
            shows_locations: options.show_multiple_locations,
            direct_url: placement::heaviest(app, &view.locations).filter(|_| options.show_image_direct_url),
            stores,
        }
    }
}

/// A location in a response.
#[derive(Serialize)]
pub(in crate::http::v2) struct LocationBody<'l> {
    url: &'l LocationUrl,
    metadata: &'l Map<String, Value>,
}

impl<'l> From<&'l Location> for LocationBody<'l> {
    fn from(location: &'l Location) -> Self {
        Self { url: &location.url, metadata: &location.metadata }
    }
}

impl Serialize for ImageBody<'_> {
    /// Writes custom properties first, so that none of them can replace an attribute.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let ImageView { image, properties, tags, locations } = self.view;
        let mut map = serializer.serialize_map(None)?;
        for (name, value) in properties.iter().filter(|(name, _)| !HIDDEN.contains(&name.as_str())) {
            map.serialize_entry(name, value)?;
        }
        map.serialize_entry("name", &image.name)?;
        map.serialize_entry("disk_format", &image.disk_format)?;
        map.serialize_entry("container_format", &image.container_format)?;
        map.serialize_entry("visibility", image.visibility.as_str())?;
        map.serialize_entry("size", &image.size)?;
        map.serialize_entry("virtual_size", &image.virtual_size)?;
        map.serialize_entry("status", image.status.as_str())?;
        map.serialize_entry("checksum", &image.checksum)?;
        map.serialize_entry("protected", &image.protected)?;
        map.serialize_entry("min_ram", &image.min_ram)?;
        map.serialize_entry("min_disk", &image.min_disk)?;
        map.serialize_entry("owner", &image.owner)?;
        map.serialize_entry("os_hidden", &image.os_hidden)?;
        map.serialize_entry("os_hash_algo", &image.os_hash_algo)?;
        map.serialize_entry("os_hash_value", &image.os_hash_value)?;
        map.serialize_entry("id", &image.id)?;
        map.serialize_entry("created_at", &json::time(image.created_at))?;
        map.serialize_entry("updated_at", &json::time(image.updated_at.unwrap_or(image.created_at)))?;
        if self.shows_locations {
            map.serialize_entry("locations", &locations.iter().map(LocationBody::from).collect::<Vec<_>>())?;
        }
        if let Some(location) = self.direct_url {
            map.serialize_entry("direct_url", &location.url)?;
        }
        map.serialize_entry("tags", tags)?;
        map.serialize_entry("self", &format!("/v2/images/{}", image.id))?;
        map.serialize_entry("file", &format!("/v2/images/{}/file", image.id))?;
        map.serialize_entry("schema", "/v2/schemas/image")?;
        if !self.stores.is_empty() {
            map.serialize_entry("stores", &self.stores)?;
        }
        map.end()
    }
}

/// Parses the body of a request that creates an image. Checks, in Glance's order, read-only attributes, the schema, and what the
/// schema cannot express.
pub(in crate::http::v2) fn new_image(app: &App, mut body: Map<String, Value>) -> Result<NewImage> {
    let read_only = |name: &&str| Error::Forbidden(format!("Attribute '{name}' is read-only."));
    if let Some(name) = COMPUTED.iter().find(|name| body.contains_key(**name)) {
        return Err(read_only(name));
    }
    app.schemas.check_image(&body)?;
    if let Some(name) = READ_ONLY.iter().find(|name| body.contains_key(**name)) {
        return Err(read_only(name));
    }
    if body.contains_key("locations") {
        return Err(Error::Forbidden("Attribute 'locations' is reserved.".to_owned()));
    }
    let forbid_equals = app.config.glimpse.forbid_equals_in_tags;
    Ok(NewImage {
        // The schema has validated its form.
        id: take_text(&mut body, "id")?.and_then(|id| ImageId::parse(&id)),
        name: take_text(&mut body, "name")?,
        disk_format: take_text(&mut body, "disk_format")?,
        container_format: take_text(&mut body, "container_format")?,
        owner: body.contains_key("owner").then(|| take_text(&mut body, "owner")).transpose()?,
        visibility: visibility(&mut body)?,
        min_disk: size(&mut body, "min_disk"),
        min_ram: size(&mut body, "min_ram"),
        protected: flag(&mut body, "protected"),
        os_hidden: flag(&mut body, "os_hidden"),
        tags: tags(&mut body, forbid_equals)?,
        // A custom schema can allow null, which means no value.
        properties: body.into_iter().filter(|(_, value)| !value.is_null()).map(property).collect::<Result<_>>()?,
    })
}

/// Refuses to patch attributes that clients are not allowed to change.
pub(super) fn check_changeable(name: &str) -> Result<()> {
    if name == "id" || COMPUTED.contains(&name) || READ_ONLY.contains(&name) {
        return Err(Error::Forbidden(format!("Attribute '{name}' is read-only.")));
    }
    if is_reserved(name) {
        return Err(Error::Forbidden(format!("Attribute '{name}' is reserved.")));
    }
    Ok(())
}

/// Parses the new value of an attribute.
pub(super) fn attribute(app: &App, name: &str, value: Value) -> Result<Attribute> {
    let mut body = Map::from_iter([(name.to_owned(), value)]);
    app.schemas.check_image(&body)?;
    Ok(match name {
        "name" => Attribute::Name(take_text(&mut body, name)?),
        "disk_format" => Attribute::DiskFormat(take_text(&mut body, name)?),
        "container_format" => Attribute::ContainerFormat(take_text(&mut body, name)?),
        "owner" => Attribute::Owner(take_text(&mut body, name)?),
        "visibility" => Attribute::Visibility(visibility(&mut body)?),
        "min_disk" => Attribute::MinDisk(size(&mut body, name)),
        "min_ram" => Attribute::MinRam(size(&mut body, name)),
        "protected" => Attribute::Protected(flag(&mut body, name)),
        "os_hidden" => Attribute::OsHidden(flag(&mut body, name)),
        "tags" => Attribute::Tags(tags(&mut body, app.config.glimpse.forbid_equals_in_tags)?),
        _ => {
            let value = body.shift_remove(name).unwrap_or_default();
            let (name, value) = property((name.to_owned(), value))?;
            Attribute::Property(name, value)
        }
    })
}

/// Parses locations, which are validated by the schema.
pub(super) fn locations(app: &App, values: Value) -> Result<Vec<NewLocation>> {
    let mut body = Map::from_iter([("locations".to_owned(), values)]);
    app.schemas.check_image(&body)?;
    let Some(Value::Array(locations)) = body.shift_remove("locations") else {
        return Ok(Vec::new());
    };
    locations
        .into_iter()
        .map(|mut location| {
            let url = location["url"].as_str().unwrap_or_default().to_owned();
            check_storable("Param values", &url)?;
            let metadata = match location["metadata"].take() {
                Value::Object(metadata) => metadata,
                _ => Map::new(),
            };
            // Keep the client's order: it decides which error is reported first.
            let claims = location["validation_data"].as_object().into_iter().flatten().filter_map(|(name, value)| {
                let claim = Claim::ALL.into_iter().find(|claim| claim.name() == name)?;
                Some((claim, value.as_str()?.to_owned()))
            });
            let claims = claims.collect();
            Ok(NewLocation { url: url.into(), metadata, claims })
        })
        .collect()
}

/// Takes the visibility, which the schema has validated.
fn visibility(body: &mut Map<String, Value>) -> Result<Visibility> {
    let text = take_text(body, "visibility")?;
    Ok(text.and_then(|text| text.parse().ok()).unwrap_or(Visibility::Shared))
}

fn is_reserved(name: &str) -> bool {
    RESERVED.contains(&name) || name.starts_with(RESERVED_PREFIX)
}

/// Takes a string, if there is one.
fn take_text(body: &mut Map<String, Value>, name: &str) -> Result<Option<String>> {
    let Some(Value::String(text)) = body.shift_remove(name) else {
        return Ok(None);
    };
    check_storable(&title(name), &text)?;
    Ok(Some(text))
}

fn flag(body: &mut Map<String, Value>, name: &str) -> bool {
    body.shift_remove(name).and_then(|value| value.as_bool()).unwrap_or(false)
}

/// Takes a number of MiB or GiB. The schema has validated that it is an integer.
fn size(body: &mut Map<String, Value>, name: &str) -> i64 {
    let value = body.shift_remove(name).unwrap_or_default();
    #[expect(clippy::cast_possible_truncation, reason = "any number that is too large is refused later")]
    value.as_i64().unwrap_or_else(|| value.as_f64().unwrap_or_default() as i64)
}

/// Takes the tags, without duplicates.
fn tags(body: &mut Map<String, Value>, forbid_equals: bool) -> Result<Vec<Tag>> {
    let Some(Value::Array(items)) = body.shift_remove("tags") else {
        return Ok(Vec::new());
    };
    let parse = |text| {
        check_storable("Param values", text)?;
        Tag::parse(text, forbid_equals)
    };
    let mut tags = items.iter().filter_map(Value::as_str).map(parse).collect::<Result<Vec<_>>>()?;
    tags.sort();
    tags.dedup();
    Ok(tags)
}

fn property((name, value): (String, Value)) -> Result<(String, String)> {
    if name.chars().count() > MAX_PROPERTY_NAME {
        return Err(Error::Invalid("Custom property should not be greater than 255 characters.".to_owned()));
    }
    if is_reserved(&name) {
        return Err(Error::NotPermitted(format!("Attribute '{name}' is reserved.")));
    }
    check_storable("Property names", &name)?;
    // A custom schema can allow other types, but the database stores only strings.
    let Value::String(value) = value else {
        return Err(Error::Invalid(format!("The value of property '{name}' is not a string.")));
    };
    check_storable(&title(&name), &value)?;
    if value.len() > MAX_PROPERTY_BYTES {
        return Err(Error::Invalid(format!(
            "The value of property '{name}' is too long: it has {} bytes, {MAX_PROPERTY_BYTES} are allowed.",
            value.len()
        )));
    }
    Ok((name, value))
}

/// Capitalises each word of a name, as Glance does at the beginning of a message.
fn title(name: &str) -> String {
    let mut after_letter = false;
    let capitalise = |c: char| {
        let out = if after_letter { c.to_ascii_lowercase() } else { c.to_ascii_uppercase() };
        after_letter = c.is_alphabetic();
        out
    };
    name.chars().map(capitalise).collect()
}
