//! The schemas of metadata definitions.

use serde_json::{Map, Value, json};

use super::{SchemasError, page, parse_built_in, validate::Schema};
use crate::error::{Error, Result};

/// The properties of each kind of object, and the definitions that they refer to. The order of the keys is part of the API.
const METADEFS: &str = include_str!("metadefs.json");

/// A schema with the name that messages about invalid objects contain.
pub(crate) struct NamedSchema {
    name: &'static str,
    schema: Schema,
}

impl NamedSchema {
    /// The schema as JSON.
    pub(crate) fn raw(&self) -> &Value {
        self.schema.raw()
    }

    /// Validates an object.
    ///
    /// # Errors
    /// `Invalid`, with the message that Glance's validator would return.
    pub(crate) fn check(&self, object: &Map<String, Value>) -> Result<()> {
        let name = self.name;
        let checked = self.schema.check(object);
        checked.map_err(|fault| Error::Invalid(format!("Provided object does not match schema '{name}': {fault}")))
    }
}

/// The schemas of metadata definitions.
pub(crate) struct MetadefSchemas {
    /// A namespace with everything in it.
    pub(crate) namespace: NamedSchema,
    /// An object.
    pub(crate) object: NamedSchema,
    /// A property with its name.
    pub(crate) property: NamedSchema,
    /// A property whose name is the key of its object.
    pub(crate) unnamed_property: NamedSchema,
    /// The association of a namespace with a resource type.
    pub(crate) association: NamedSchema,
    /// A tag.
    pub(crate) tag: NamedSchema,
    /// The list of tags that a client sends. Clients cannot fetch it.
    pub(crate) new_tags: NamedSchema,
    /// A page of namespaces.
    pub(crate) namespaces: Value,
    /// The objects of a namespace.
    pub(crate) objects: Value,
    /// The properties of a namespace, by their names.
    pub(crate) properties: Value,
    /// The associations of a namespace.
    pub(crate) associations: Value,
    /// The tags of a namespace.
    pub(crate) tags: Value,
}

impl MetadefSchemas {
    /// Builds the schemas.
    ///
    /// # Errors
    /// `BuiltIn`, which is a bug.
    pub(super) fn new() -> Result<Self, SchemasError> {
        let parts = parse_built_in(METADEFS)?;
        let definitions = &parts["definitions"];
        let property = &definitions["property"]["additionalProperties"]["properties"];
        // A property does not contain properties, and its required names are not an empty list.
        let mut of_properties = definitions.clone();
        if let Some(definitions) = of_properties.as_object_mut() {
            definitions.shift_remove("property");
            definitions["stringArray"] =
                json!({ "type": "array", "items": { "type": "string" }, "minItems": 1, "uniqueItems": true });
        }
        let named = |name: &'static str, properties: &Value, definitions: Option<&Value>, required: &[&str]| {
            let schema = Schema::with_definitions(raw(name, properties, definitions, required));
            schema.map(|schema| NamedSchema { name, schema }).map_err(SchemasError::BuiltIn)
        };
        let (namespace, object) = (&parts["namespace"], &parts["object"]);
        let (association, tag) = (&parts["resource_type_association"], &parts["tag"]);
        let tag_items = json!({
            "type": "object",
            "properties": { "name": { "type": "string" } },
            "required": ["name"],
            "additionalProperties": false,
        });
        let mut properties =
            page_with("properties", raw("property", property, None, &["type", "title"]), &of_properties);
        if let Some(items) = properties["properties"]["properties"].as_object_mut() {
            // These are an object and not a list.
            let item = items.shift_remove("items");
            items["type"] = json!("object");
            items.extend(item.map(|item| ("additionalProperties".to_owned(), item)));
        }
        Ok(Self {
            namespace: named("namespace", namespace, Some(definitions), &["namespace"])?,
            object: named("object", object, Some(definitions), &["name"])?,
            property: named("property", property, Some(&of_properties), &["type", "title", "name"])?,
            unnamed_property: named("property", property, Some(&of_properties), &["type", "title"])?,
            association: named("resource_type_association", association, None, &["name"])?,
            tag: named("tag", tag, None, &["name"])?,
            new_tags: named("tags", &json!({ "tags": { "type": "array", "items": tag_items } }), None, &[])?,
            namespaces: page_with("namespaces", raw("namespace", namespace, None, &["namespace"]), definitions),
            objects: page_with("objects", raw("object", object, None, &["name"]), definitions),
            properties,
            associations: page(
                "resource_type_associations",
                &raw("resource_type_association", association, None, &["name"]),
            ),
            tags: page("tags", &raw("tag", tag, None, &["name"])),
        })
    }
}

/// The schema of an object that has no other properties.
fn raw(name: &str, properties: &Value, definitions: Option<&Value>, required: &[&str]) -> Value {
    let mut raw = Map::new();
    raw.insert("name".to_owned(), name.into());
    raw.insert("properties".to_owned(), properties.clone());
    raw.insert("additionalProperties".to_owned(), false.into());
    raw.extend(definitions.map(|definitions| ("definitions".to_owned(), definitions.clone())));
    if !required.is_empty() {
        raw.insert("required".to_owned(), required.into());
    }
    raw.into()
}

/// The schema of a page whose items refer to definitions.
fn page_with(name: &str, item: Value, definitions: &Value) -> Value {
    let mut page = page(name, &item);
    page["definitions"] = definitions.clone();
    page
}
