//! Metadata definitions: namespaces, and the objects, properties, tags and associations in them.
//!
//! A definition of a property is kept as JSON with a fixed set of attributes, in Glance's order. A request with any other attribute is
//! rejected. One in the database, which a loader may have written, is read without it.

use chrono::NaiveDateTime;
use serde::{
    Serialize, Serializer,
    ser::{Error as _, SerializeMap as _},
};
use serde_json::{Map, Value};

use super::{check_no_nul, check_storable, text_enum::text_enum};
use crate::{
    error::{Error, Result},
    python,
};

/// The maximum length of a name in characters, which is the width of its column.
pub(crate) const MAX_NAME: usize = 80;
/// The maximum length of an owner in characters, which is the width of its column.
const MAX_OWNER: usize = 255;
/// The maximum size of a text without a limit of its own in bytes, which is that of its column on MySQL.
const MAX_TEXT: usize = 65_535;
/// Glance's sentence about a default value beyond ASCII.
const NOT_ASCII: &str = "Error decoding your request. Either the URL or the request body contained characters that could not be \
     decoded by Glance";

text_enum! {
    /// The callers to which a namespace is visible.
    pub(crate) enum NamespaceVisibility("") {
        /// Everyone.
        Public = "public",
        /// The project that owns it.
        Private = "private",
    }
}

/// A namespace, without its content.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub(crate) struct Namespace {
    /// The number of its row.
    pub(crate) id: i32,
    /// Its unique name.
    pub(crate) namespace: String,
    /// Its name for people.
    pub(crate) display_name: Option<String>,
    /// Its description.
    pub(crate) description: Option<String>,
    /// Its visibility. A file may leave this out, which means that it is private.
    pub(crate) visibility: Option<String>,
    /// Whether it, and what it contains, cannot be deleted.
    pub(crate) protected: Option<bool>,
    /// The project that owns it.
    pub(crate) owner: String,
    /// When it was created, in UTC.
    pub(crate) created_at: NaiveDateTime,
    /// When it was last changed, in UTC.
    pub(crate) updated_at: Option<NaiveDateTime>,
}

impl Namespace {
    /// Its visibility as rules and clients see it.
    pub(crate) fn visibility(&self) -> &str {
        self.visibility.as_deref().filter(|text| !text.is_empty()).unwrap_or(NamespaceVisibility::Private.as_str())
    }

    /// Whether it is protected.
    pub(crate) fn is_protected(&self) -> bool {
        self.protected.unwrap_or(false)
    }
}

/// The attributes of a namespace that clients write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NamespaceAttributes {
    /// Its unique name.
    pub(crate) namespace: String,
    /// Its name for people.
    pub(crate) display_name: Option<String>,
    /// Its description.
    pub(crate) description: Option<String>,
    /// Its visibility. A file may leave this out, which means that it is private.
    pub(crate) visibility: Option<NamespaceVisibility>,
    /// Whether it cannot be deleted. A file may leave this out, too.
    pub(crate) protected: Option<bool>,
    /// The project that owns it; `None` for that of the request.
    pub(crate) owner: Option<String>,
}

impl NamespaceAttributes {
    /// Rejects what its row cannot keep. The lengths are limited by the schema.
    ///
    /// # Errors
    /// `Invalid`, with a message that names the attribute.
    pub(crate) fn check_storable(&self) -> Result<()> {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        for (what, text) in [
            ("Namespace", self.namespace.clone()),
            ("Display_Name", text(&self.display_name)),
            ("Description", text(&self.description)),
            ("Owner", text(&self.owner)),
        ] {
            check_storable(what, &text)?;
        }
        Ok(())
    }
}

/// An object: a group of properties.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct MetadefObject {
    /// Its name, unique in its namespace.
    pub(crate) name: String,
    /// The names of the properties that it requires. `None` if the request did not have them.
    pub(crate) required: Option<Vec<String>>,
    /// Its description.
    pub(crate) description: Option<String>,
    /// Its properties. `None` if the request did not have them.
    pub(crate) properties: Option<Properties>,
}

impl MetadefObject {
    /// Rejects what its row cannot keep.
    ///
    /// # Errors
    /// `Invalid`, with a message that names the part.
    pub(crate) fn check_storable(&self) -> Result<()> {
        let (required, description) = (self.required_text().unwrap_or_default(), self.description.as_deref());
        for (what, text) in
            [("Name", &*self.name), ("Required", &*required), ("Description", description.unwrap_or_default())]
        {
            check_storable(what, text)?;
        }
        check_name("An object's name", &self.name)?;
        check_text("An object's description", description.unwrap_or_default())?;
        check_required(self.required.as_deref().unwrap_or_default())?;
        let Some(properties) = &self.properties else { return Ok(()) };
        properties.0.iter().try_for_each(|(_, property)| property.check_characters())?;
        check_text("The JSON of an object's properties", &properties.to_stored())
    }

    /// Rejects default values beyond ASCII, as Glance does.
    ///
    /// # Errors
    /// `Invalid`
    pub(crate) fn check_ascii_defaults(&self) -> Result<()> {
        self.properties.as_ref().map_or(Ok(()), Properties::check_ascii_defaults)
    }

    /// The required names as their column keeps them.
    pub(crate) fn required_text(&self) -> Option<String> {
        self.required.as_ref().filter(|names| !names.is_empty()).map(|names| names.join(","))
    }

    /// The properties as their column keeps them.
    pub(crate) fn stored_properties(&self) -> String {
        self.properties.as_ref().map_or_else(|| "{}".to_owned(), Properties::to_stored)
    }
}

/// The association of a namespace with a type of resources to which its properties apply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Association {
    /// The name of the resource type.
    pub(crate) name: String,
    /// What the names of the namespace's properties start with on such resources.
    pub(crate) prefix: Option<String>,
    /// Which of several sets of properties of such a resource is meant.
    pub(crate) properties_target: Option<String>,
}

impl Association {
    /// Rejects what its row cannot keep.
    ///
    /// # Errors
    /// `Invalid`, with a message that names the part.
    pub(crate) fn check_storable(&self) -> Result<()> {
        check_name("A resource type's name", &self.name)?;
        check_name("A prefix", self.prefix.as_deref().unwrap_or_default())?;
        check_name("A properties_target", self.properties_target.as_deref().unwrap_or_default())
    }
}

/// A row with its times.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Stored<T> {
    /// The number of the row. 0 for an association, whose row has none.
    pub(crate) id: i32,
    /// What it contains.
    pub(crate) value: T,
    /// When it was created, in UTC.
    pub(crate) created_at: NaiveDateTime,
    /// When it was last changed, in UTC.
    pub(crate) updated_at: Option<NaiveDateTime>,
}

/// The name of a tag: short enough for its column, and without NUL.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct TagName(String);

impl TagName {
    /// Validates a tag's name.
    ///
    /// # Errors
    /// `Invalid`
    pub(crate) fn parse(text: &str) -> Result<Self> {
        check_name("A tag's name", text)?;
        Ok(Self(text.to_owned()))
    }

    /// The name.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// Rejects required names that their column cannot keep: it has one text, in which commas separate them.
///
/// # Errors
/// `Invalid`
pub(crate) fn check_required(names: &[String]) -> Result<()> {
    if let Some(name) = names.iter().find(|name| name.contains(',')) {
        return Err(Error::Invalid(format!("The name of a required property must not contain a comma: '{name}'")));
    }
    check_text("The list of an object's required properties", &names.join(","))
}

/// Rejects an owner that is too long for its column, or has NUL.
///
/// # Errors
/// `Invalid`
pub(crate) fn check_owner(owner: &str) -> Result<()> {
    check_length("A namespace's owner", owner, MAX_OWNER)?;
    check_no_nul("Param values", owner)
}

/// Rejects a name that is too long for its column, or has NUL.
///
/// # Errors
/// `Invalid`, with a message that starts with `what`.
pub(crate) fn check_name(what: &str, name: &str) -> Result<()> {
    check_length(what, name, MAX_NAME)?;
    check_no_nul("Names", name)
}

fn check_length(what: &str, text: &str, max: usize) -> Result<()> {
    match text.chars().count() > max {
        true => Err(Error::Invalid(format!("{what} has more than {max} characters."))),
        false => Ok(()),
    }
}

/// Rejects a text that is too long for its column, or has NUL.
///
/// # Errors
/// `Invalid`, with a message that starts with `what`.
pub(crate) fn check_text(what: &str, text: &str) -> Result<()> {
    if text.len() > MAX_TEXT {
        return Err(Error::Invalid(format!("{what} has more than {MAX_TEXT} bytes.")));
    }
    check_no_nul("Param values", text)
}

/// Properties by their names, in the request's order.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Properties(pub(crate) Vec<(String, PropertyType)>);

impl Properties {
    /// Reads the properties of a request, which their schema allows.
    ///
    /// # Errors
    /// `Invalid`, with a message that names the attribute.
    pub(crate) fn parse(properties: &Map<String, Value>) -> Result<Self> {
        let parse = |(name, value): (&String, &Value)| {
            let place = format!("properties[{}]", python::string_repr(name, MAX_NAME));
            Ok((name.clone(), PropertyType::parse(value, &place)?))
        };
        properties.iter().map(parse).collect::<Result<_>>().map(Self)
    }

    /// Reads the column of an object. If it is not JSON, there are no properties.
    pub(crate) fn from_stored(text: &str) -> Self {
        let Value::Object(properties) = read_json(text) else { return Self::default() };
        Self(properties.into_iter().map(|(name, value)| (name, PropertyType::from_value(&value))).collect())
    }

    /// The text of the column of an object.
    fn to_stored(&self) -> String {
        python::escape_non_ascii(&serde_json::to_string(self).unwrap_or_default())
    }

    /// Rejects default values beyond ASCII, as Glance does.
    ///
    /// # Errors
    /// `Invalid`
    pub(crate) fn check_ascii_defaults(&self) -> Result<()> {
        self.0.iter().try_for_each(|(_, property)| property.check_ascii_default())
    }

    /// The same properties, with a prefix before each name.
    pub(crate) fn prefixed(self, prefix: &str) -> Self {
        Self(self.0.into_iter().map(|(name, property)| (format!("{prefix}{name}"), property)).collect())
    }
}

impl Serialize for Properties {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, property) in &self.0 {
            map.serialize_entry(name, property).map_err(S::Error::custom)?;
        }
        map.end()
    }
}

/// The definition of a property: attributes of [`PROPERTY`], in that order.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(transparent)]
pub(crate) struct PropertyType(Map<String, Value>);

/// What an attribute contains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    /// A list of texts and nulls.
    Texts,
    /// A number without its fraction.
    Integer,
    Boolean,
    /// A text that stands for a value of any simple type.
    Default,
    /// The type of an array's items.
    Items,
}

const PROPERTY: [(&str, Kind); 19] = [
    ("name", Kind::Text),
    ("type", Kind::Text),
    ("title", Kind::Text),
    ("description", Kind::Text),
    ("operators", Kind::Texts),
    ("default", Kind::Default),
    ("readonly", Kind::Boolean),
    ("minimum", Kind::Integer),
    ("maximum", Kind::Integer),
    ("enum", Kind::Texts),
    ("pattern", Kind::Text),
    ("minLength", Kind::Integer),
    ("maxLength", Kind::Integer),
    ("confidential", Kind::Boolean),
    ("items", Kind::Items),
    ("uniqueItems", Kind::Boolean),
    ("minItems", Kind::Integer),
    ("maxItems", Kind::Integer),
    ("additionalItems", Kind::Boolean),
];
const ITEMS: [(&str, Kind); 2] = [("type", Kind::Text), ("enum", Kind::Texts)];

impl PropertyType {
    /// Reads a property of a request, which its schema allows. `place` is where it is, for messages.
    ///
    /// # Errors
    /// `Invalid`, with a message that names the attribute.
    pub(crate) fn parse(value: &Value, place: &str) -> Result<Self> {
        Ok(Self(read_strictly(value, &PROPERTY, place)?))
    }

    /// Reads the column of a property. What Glance would fail on is left out.
    pub(crate) fn from_stored(text: &str) -> Self {
        Self::from_value(&read_json(text))
    }

    fn from_value(value: &Value) -> Self {
        Self(read_leniently(value, &PROPERTY))
    }

    /// The text of the column of a property.
    pub(crate) fn to_stored(&self) -> String {
        python::escape_non_ascii(&Value::Object(self.0.clone()).to_string())
    }

    /// The name that is written inside of it, if there is one.
    pub(crate) fn name(&self) -> Option<&str> {
        self.0.get("name")?.as_str()
    }

    /// The same property with this name inside of it.
    pub(crate) fn with_name(self, name: &str) -> Self {
        let mut named = Map::from_iter([("name".to_owned(), Value::from(name))]);
        named.extend(self.0.into_iter().filter(|(attribute, _)| attribute != "name"));
        Self(named)
    }

    /// Rejects what its row cannot keep.
    ///
    /// # Errors
    /// `Invalid`, with a message that names the part.
    pub(crate) fn check_storable(&self, name: &str) -> Result<()> {
        check_storable("Name", name)?;
        check_name("A property's name", name)?;
        self.check_characters()?;
        check_text("The JSON of a property", &self.to_stored())
    }

    /// Rejects texts that Glance rejects because of their characters. As in Glance, lists are not checked.
    fn check_characters(&self) -> Result<()> {
        for (attribute, value) in &self.0 {
            let Value::String(text) = value else { continue };
            // As Python's `title()` writes it.
            let (first, rest) = attribute.split_at(1);
            check_storable(&format!("{}{rest}", first.to_uppercase()), text)?;
        }
        Ok(())
    }

    /// Rejects a default value beyond ASCII, as Glance does.
    ///
    /// # Errors
    /// `Invalid`
    pub(crate) fn check_ascii_default(&self) -> Result<()> {
        match self.0.get("default") {
            Some(Value::String(text)) if !text.is_ascii() => Err(Error::Invalid(NOT_ASCII.to_owned())),
            _ => Ok(()),
        }
    }
}

/// Reads a column of JSON; null if it cannot be read.
fn read_json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| {
        tracing::warn!(%error, "a stored metadata definition is not JSON, and is shown as empty");
        Value::Null
    })
}

/// Reads the attributes of an object, all of which must be known.
fn read_strictly(value: &Value, attributes: &[(&str, Kind)], place: &str) -> Result<Map<String, Value>> {
    let Value::Object(object) = value else {
        return Err(Error::Invalid(format!("{place} must be an object.")));
    };
    if let Some(name) = object.keys().find(|name| attributes.iter().all(|(known, _)| known != name)) {
        let name = python::string_repr(name, MAX_NAME);
        return Err(Error::Invalid(format!("{place} has an unknown attribute: {name}")));
    }
    if !object.contains_key("type") {
        return Err(Error::Invalid(format!("{place} must have a type.")));
    }
    let mut read = Map::new();
    for (name, kind) in attributes {
        let Some(value) = object.get(*name) else { continue };
        let value = match kind {
            Kind::Items if value.is_object() => read_strictly(value, &ITEMS, &format!("{place}['{name}']"))?.into(),
            _ => {
                kind.read(value).ok_or_else(|| Error::Invalid(format!("{place}['{name}'] must be {}.", kind.what())))?
            }
        };
        read.insert((*name).to_owned(), value);
    }
    Ok(read)
}

fn read_leniently(value: &Value, attributes: &[(&str, Kind)]) -> Map<String, Value> {
    let read = |(name, kind): &(&str, Kind)| {
        let value = value.get(*name)?;
        let value = match kind {
            Kind::Items if value.is_object() => read_leniently(value, &ITEMS).into(),
            _ => kind.read(value)?,
        };
        Some(((*name).to_owned(), value))
    };
    attributes.iter().filter_map(read).collect()
}

impl Kind {
    /// The value as Glance keeps it; `None` if it is of another kind.
    fn read(self, value: &Value) -> Option<Value> {
        if value.is_null() {
            return Some(Value::Null);
        }
        match self {
            Self::Text => value.is_string().then(|| value.clone()),
            Self::Texts => {
                let items = value.as_array()?;
                items.iter().all(|item| item.is_string() || item.is_null()).then(|| value.clone())
            }
            Self::Integer if value.is_i64() || value.is_u64() => Some(value.clone()),
            // Only a loader can have stored these: the schema does not allow them in a request.
            Self::Integer if value.is_boolean() => Some(i64::from(value == &Value::Bool(true)).into()),
            Self::Integer if value.is_string() => {
                let number = python::parse_int(value.as_str().unwrap_or_default())?;
                i64::try_from(number).ok().map(Value::from)
            }
            Self::Integer => {
                let whole = value.as_f64()?.trunc();
                // Exactly the floats that an i64 holds.
                let fits = (-9_223_372_036_854_775_808.0..9_223_372_036_854_775_808.0).contains(&whole);
                #[expect(clippy::cast_possible_truncation, reason = "it fits")]
                fits.then(|| Value::from(whole as i64))
            }
            Self::Boolean => match value {
                Value::Bool(_) => Some(value.clone()),
                Value::Number(number) if !number.is_f64() => Some((number.as_i64() != Some(0)).into()),
                Value::String(text) => match text.as_str() {
                    "true" | "t" | "yes" | "y" | "on" | "1" => Some(true.into()),
                    "false" | "f" | "no" | "n" | "off" | "0" => Some(false.into()),
                    _ => None,
                },
                _ => None,
            },
            // As in Glance, a default that is a list or an object is lost.
            Self::Default => Some(match value {
                Value::String(_) => value.clone(),
                Value::Bool(_) | Value::Number(_) => python::repr(value, MAX_TEXT).into(),
                _ => Value::Null,
            }),
            Self::Items => None,
        }
    }

    fn what(self) -> &'static str {
        match self {
            Self::Text | Self::Default => "a text",
            Self::Texts => "a list of texts",
            Self::Integer => "an integer of 64 bits",
            Self::Boolean => "a boolean",
            Self::Items => "an object",
        }
    }
}

/// A column that namespaces can be sorted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NamespaceSortKey {
    Id,
    Namespace,
    DisplayName,
    Description,
    Visibility,
    Protected,
    Owner,
    CreatedAt,
    UpdatedAt,
}

/// A column that tags can be sorted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TagSortKey {
    Id,
    Name,
    CreatedAt,
    UpdatedAt,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::{Properties, PropertyType};

    fn parsed(value: &Value) -> Result<String, String> {
        let property = PropertyType::parse(value, "p").map_err(|error| error.to_string())?;
        Ok(property.to_stored())
    }

    /// Each of these was observed from a Glance 33.
    #[test]
    fn attributes_are_kept_in_glances_order_and_form() {
        let all = json!({
            "items": {"enum": ["a", null], "type": "string"}, "default": true, "title": "t", "minimum": 1.7, "maximum": -0.5,
            "type": "array", "name": "n", "confidential": "yes", "enum": [], "maxLength": 1.0,
        });
        assert_eq!(
            parsed(&all).unwrap(),
            "{\"name\":\"n\",\"type\":\"array\",\"title\":\"t\",\"default\":\"True\",\"minimum\":1,\"maximum\":0,\"enum\":[],\
             \"maxLength\":1,\"confidential\":true,\"items\":{\"type\":\"string\",\"enum\":[\"a\",null]}}"
        );
        for (default, kept) in
            [(json!(5), "\"5\""), (json!(1e20), "\"1e+20\""), (json!([1]), "null"), (json!({}), "null")]
        {
            let property = json!({"type": "string", "default": default});
            assert_eq!(parsed(&property).unwrap(), format!("{{\"type\":\"string\",\"default\":{kept}}}"));
        }
    }

    #[test]
    fn what_glance_fails_on_is_rejected_with_its_name() {
        for (value, says) in [
            (json!({"type": "string", "colour": 1}), "p has an unknown attribute: 'colour'"),
            (json!({"type": "string", "required": ["a"]}), "p has an unknown attribute: 'required'"),
            (json!({"type": "string", "enum": [1]}), "p['enum'] must be a list of texts."),
            (json!({"type": "string", "minimum": 1e30}), "p['minimum'] must be an integer of 64 bits."),
            (json!({"type": "array", "items": {}}), "p['items'] must have a type."),
            (json!({"type": "array", "items": {"type": "string", "x": 1}}), "p['items'] has an unknown attribute: 'x'"),
        ] {
            assert_eq!(parsed(&value).unwrap_err(), says, "{value}");
        }
    }

    #[test]
    fn texts_with_certain_characters_are_rejected_with_the_name_of_the_attribute() {
        for (attribute, text, says) in [
            ("title", "😀", "Title can't contain 4 byte unicode characters."),
            ("pattern", "a\0", "Pattern can't contain NUL characters."),
            ("name", "😀", "Name can't contain 4 byte unicode characters."),
        ] {
            let property = PropertyType::parse(&json!({"type": "string", attribute: text}), "p").unwrap();
            assert_eq!(property.check_storable("p").unwrap_err().to_string(), says);
        }
    }

    #[test]
    fn what_glance_fails_on_is_left_out_of_a_stored_property() {
        let stored = "{\"title\": \"t\", \"colour\": 1, \"enum\": [1], \"type\": \"string\", \"default\": 5, \"description\": null}";
        let expected = "{\"type\":\"string\",\"title\":\"t\",\"description\":null,\"default\":\"5\"}";
        assert_eq!(PropertyType::from_stored(stored).to_stored(), expected);
        let stored = "{\"minLength\": \"5\", \"maxLength\": true, \"minItems\": \"x\", \"maximum\": 1e30}";
        assert_eq!(PropertyType::from_stored(stored).to_stored(), "{\"minLength\":5,\"maxLength\":1}");
        assert_eq!(PropertyType::from_stored("[").to_stored(), "{}");
        assert_eq!(
            Properties::from_stored("{\"é\": {\"type\": \"string\"}}").to_stored(),
            "{\"\\u00e9\":{\"type\":\"string\"}}"
        );
    }

    proptest! {
        #[test]
        fn no_stored_text_causes_a_panic(text in any::<String>()) {
            PropertyType::from_stored(&text);
            Properties::from_stored(&text);
        }
    }
}
