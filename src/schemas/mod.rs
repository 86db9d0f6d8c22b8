//! The JSON schemas that clients fetch, and that requests are checked against.

mod custom;
mod python;
mod validate;

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

pub(crate) use self::python::repr as python_repr;
use self::{
    custom::{Custom, CustomError},
    validate::Schema,
};
use crate::{
    config::ImageFormat,
    error::{Error, Result},
};

/// What an image is made of, without the configured formats. The order of its keys is part of the API.
const IMAGE: &str = include_str!("image.json");
/// The properties of a member.
const MEMBER: &str = include_str!("member.json");
/// The properties of a task.
const TASK: &str = include_str!("task.json");
/// Those of them that a listing does not have.
const NOT_LISTED: [&str; 3] = ["input", "result", "message"];

/// The schemas, with what the configuration adds to them.
pub(crate) struct Schemas {
    image: Schema,
    /// Of a page of images.
    pub(crate) images: Value,
    /// Of a member of an image.
    pub(crate) member: Value,
    /// Of the members of an image.
    pub(crate) members: Value,
    /// Of a task.
    pub(crate) task: Value,
    /// Of a page of tasks.
    pub(crate) tasks: Value,
}

/// Why there are no schemas.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SchemasError {
    /// The operator's file cannot be used.
    #[error("{}: {source}", path.display())]
    Custom {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: CustomError,
    },
    /// A schema of ours is broken, which a test rules out.
    #[error("a schema of the program's own: {0}")]
    Own(String),
}

impl Schemas {
    /// Builds the schemas, with the properties of the operator's file, if there is one.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub(crate) fn new(formats: &ImageFormat, custom: Option<&Path>) -> Result<Self, SchemasError> {
        let mut image = own(IMAGE)?;
        for (name, formats) in
            [("container_format", &formats.container_formats), ("disk_format", &formats.disk_formats)]
        {
            let values = std::iter::once(Value::Null).chain(formats.iter().map(|format| json!(format)));
            image["properties"][name]["enum"] = values.collect();
        }
        let image = match custom {
            None => Schema::new(image).map_err(SchemasError::Own)?,
            Some(path) => {
                let error = |source| SchemasError::Custom { path: path.to_owned(), source };
                let image = add(image, Custom::read(path).map_err(error)?).map_err(error)?;
                Schema::new(image).map_err(|fault| error(CustomError::Content(fault)))?
            }
        };
        let (member, mut task) = (own(MEMBER)?, own(TASK)?);
        let whole_task = minimal("task", task.clone());
        if let Some(properties) = task.as_object_mut() {
            properties.retain(|name, _| !NOT_LISTED.contains(&name.as_str()));
        }
        let member = minimal("member", member);
        Ok(Self {
            images: page("images", image.raw()),
            image,
            members: minimal_page("members", &member),
            member,
            tasks: minimal_page("tasks", &minimal("task", task)),
            task: whole_task,
        })
    }

    /// Of an image.
    pub(crate) fn image(&self) -> &Value {
        self.image.raw()
    }

    /// Checks an image that somebody wants to create, or the attributes of one that somebody wants to change.
    ///
    /// # Errors
    /// `Invalid`, with the message of the schema's first fault.
    pub(crate) fn check_image(&self, body: &Map<String, Value>) -> Result<()> {
        let checked = self.image.check(body);
        checked.map_err(|fault| Error::Invalid(format!("Provided object does not match schema 'image': {fault}")))
    }
}

fn own(text: &str) -> Result<Value, SchemasError> {
    serde_json::from_str(text).map_err(|error| SchemasError::Own(error.to_string()))
}

/// Adds the operator's properties to the schema of an image, behind those that every image has.
fn add(image: Value, custom: Custom) -> Result<Value, CustomError> {
    let mut added = Map::new();
    for (keyword, mut value) in image.as_object().cloned().unwrap_or_default() {
        if let Some(properties) = value.as_object_mut().filter(|_| keyword == "properties") {
            let taken: Vec<&str> =
                custom.properties.keys().map(String::as_str).filter(|name| properties.contains_key(*name)).collect();
            if !taken.is_empty() {
                let taken = taken.join(", ");
                return Err(CustomError::Content(format!("custom properties ({taken}) conflict with base properties")));
            }
            properties.extend(custom.properties.clone());
        }
        if let Some(required) = custom.required.clone().filter(|_| keyword == "links") {
            added.insert("required".to_owned(), required.into());
        }
        added.insert(keyword, value);
    }
    Ok(added.into())
}

fn page(name: &str, item: &Value) -> Value {
    json!({
        "name": name,
        "properties": {
            name: { "type": "array", "items": item },
            "first": { "type": "string" },
            "next": { "type": "string" },
            "schema": { "type": "string" },
        },
        "links": [
            { "rel": "first", "href": "{first}" },
            { "rel": "next", "href": "{next}" },
            { "rel": "describedby", "href": "{schema}" },
        ],
    })
}

fn minimal(name: &str, properties: Value) -> Value {
    json!({ "name": name, "properties": properties })
}

fn minimal_page(name: &str, item: &Value) -> Value {
    json!({
        "name": name,
        "properties": {
            name: { "type": "array", "items": item },
            "schema": { "type": "string" },
        },
        "links": [{ "rel": "describedby", "href": "{schema}" }],
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::{Value, json};

    use super::Schemas;
    use crate::config::ImageFormat;

    fn with(custom: &Value) -> Result<Schemas, String> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("schema-image.json");
        fs::write(&file, custom.to_string()).unwrap();
        Schemas::new(&ImageFormat::default(), Some(&file)).map_err(|error| error.to_string())
    }

    #[test]
    fn what_fits_is_taken() {
        let body = json!({
            "id": "4ca46bf1-5c61-48ff-b4f3-0ad4e5e3BA90", "name": null, "tags": ["a"], "min_ram": 1.0, "os_distro": "x",
            "disk_format": "qcow2", "container_format": null,
        });
        let schemas = Schemas::new(&ImageFormat::default(), None).unwrap();
        assert!(schemas.check_image(body.as_object().unwrap()).is_ok());
    }

    #[test]
    fn a_long_value_is_cut() {
        let schemas = Schemas::new(&ImageFormat::default(), None).unwrap();
        let body = json!({"name": "x".repeat(1_000_000), "tags": ["y".repeat(100)]});
        let error = schemas.check_image(body.as_object().unwrap()).unwrap_err();
        assert!(error.to_string().len() < 100_000);
    }

    #[test]
    fn a_custom_schema_that_cannot_be_used_is_told_with_its_place() {
        for (custom, says) in [
            (json!({"name": {"type": "string"}}), "custom properties (name) conflict with base properties"),
            (json!({"a": {"type": "text"}}), "schema['properties']['a']['type'] is not a type or a list of types"),
            (json!({"a": {"pattern": "("}}), "is not a pattern that can be searched for"),
            (
                json!({"a": {"$ref": "#/b"}}),
                "schema['properties']['a']['$ref']: Glimpse does not check by this keyword",
            ),
            (json!({"properties": {}, "required": [1]}), "schema['required'] is not a list of names"),
            (json!({"a": {"anyOf": [{"maxLength": -1}]}}), "['anyOf'][0]['maxLength'] is not a whole number"),
        ] {
            let error = with(&custom).err().unwrap();
            assert!(error.contains("schema-image.json: ") && error.contains(says), "{error}");
        }
    }

    /// Each of these messages is of jsonschema 4.26.
    #[test]
    fn faults_against_a_custom_schema() {
        let cases = [
            (json!({"enum": ["b", null]}), json!("a"), "'a' is not one of ['b', None]"),
            (json!({"minLength": 1}), json!(""), "'' should be non-empty"),
            (json!({"minLength": 2}), json!("a"), "'a' is too short"),
            (json!({"maxLength": 0}), json!("a"), "'a' is expected to be empty"),
            (json!({"pattern": "^b"}), json!("a"), "'a' does not match '^b'"),
            (json!({"const": "b"}), json!("a"), "'b' was expected"),
            (json!({"minimum": 2}), json!(1), "1 is less than the minimum of 2"),
            (json!({"exclusiveMaximum": 1.0}), json!(1), "1 is greater than or equal to the maximum of 1.0"),
            (json!({"multipleOf": 2}), json!(3), "3 is not a multiple of 2"),
            (json!({"maxItems": 1}), json!([1, 2]), "[1, 2] is too long"),
            (json!({"uniqueItems": true}), json!([1, 2, 1.0]), "[1, 2, 1.0] has non-unique elements"),
            (json!({"items": false}), json!([1]), "Expected at most 0 items but found 1 extra: 1"),
            (json!({"not": {"type": "string"}}), json!("a"), "'a' should not be valid under {'type': 'string'}"),
            (
                json!({"additionalProperties": false}),
                json!({"b": 1, "a": 2}),
                "Additional properties are not allowed ('a', 'b' were unexpected)",
            ),
            (
                json!({"additionalProperties": false, "patternProperties": {"^x": true}}),
                json!({"b": 1, "x": 2}),
                "'b' does not match any of the regexes: '^x'",
            ),
            (json!({"dependentRequired": {"a": ["b"]}}), json!({"a": 1}), "'b' is a dependency of 'a'"),
            (json!({"minProperties": 1}), json!({}), "{} should be non-empty"),
            (
                json!({"oneOf": [{"type": "string"}, {"minLength": 1}]}),
                json!("a"),
                "'a' is valid under each of {'minLength': 1}, {'type': 'string'}",
            ),
        ];
        for (schema, value, expected) in cases {
            let schemas = with(&json!({"a": schema})).unwrap();
            let error = schemas.check_image(json!({"a": value}).as_object().unwrap()).unwrap_err().to_string();
            let first = error.lines().next().unwrap_or_default();
            assert_eq!(first, format!("Provided object does not match schema 'image': {expected}"), "{schema}");
        }
    }
}
