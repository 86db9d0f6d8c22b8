//! The JSON schemas that clients can fetch, and against which requests are validated.

mod custom;
mod metadefs;
mod validate;

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

pub(crate) use self::metadefs::{MetadefSchemas, NamedSchema};
use self::{
    custom::{Custom, CustomError},
    validate::Schema,
};
use crate::{
    config::ImageFormat,
    error::{Error, Result},
};

/// The schema of an image, without the configured formats. The order of its keys is part of the API.
const IMAGE: &str = include_str!("image.json");
/// The properties of a member.
const MEMBER: &str = include_str!("member.json");
/// The schema of a request that adds a location. Clients cannot fetch it, but error messages show it.
const LOCATION: &str = include_str!("location.json");
/// The properties of a task.
const TASK: &str = include_str!("task.json");
/// The properties of a task that a listing does not include.
const NOT_LISTED: [&str; 3] = ["input", "result", "message"];

/// The schemas, including what the configuration adds to them.
pub(crate) struct Schemas {
    image: Schema,
    location: Schema,
    /// The schema of a page of images.
    pub(crate) images: Value,
    /// The schema of a member of an image.
    pub(crate) member: Value,
    /// The schema of the list of an image's members.
    pub(crate) members: Value,
    task: Schema,
    /// The schema of a page of tasks.
    pub(crate) tasks: Value,
    /// The schemas of metadata definitions.
    pub(crate) metadefs: MetadefSchemas,
}

/// The schemas cannot be built.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SchemasError {
    /// The operator's file cannot be used.
    #[error("{}: {source}", path.display())]
    Custom {
        /// The path of the file.
        path: PathBuf,
        /// The reason.
        source: CustomError,
    },
    /// A built-in schema is invalid. This is a bug in Glimpse, which tests exclude.
    #[error("built-in schema: {0}")]
    BuiltIn(String),
}

impl Schemas {
    /// Builds the schemas, including the properties of the operator's file, if there is one.
    ///
    /// # Errors
    /// If the file cannot be used.
    pub(crate) fn new(formats: &ImageFormat, custom: Option<&Path>) -> Result<Self, SchemasError> {
        let mut image = parse_built_in(IMAGE)?;
        for (name, formats) in
            [("container_format", &formats.container_formats), ("disk_format", &formats.disk_formats)]
        {
            let values = std::iter::once(Value::Null).chain(formats.iter().map(|format| json!(format)));
            image["properties"][name]["enum"] = values.collect();
        }
        let image = match custom {
            None => Schema::new(image).map_err(SchemasError::BuiltIn)?,
            Some(path) => {
                let error = |source| SchemasError::Custom { path: path.to_owned(), source };
                let image = add(image, Custom::load(path).map_err(error)?).map_err(error)?;
                Schema::new(image).map_err(|fault| error(CustomError::Content(fault)))?
            }
        };
        let (member, mut task) = (parse_built_in(MEMBER)?, parse_built_in(TASK)?);
        let whole_task = minimal("task", task.clone());
        if let Some(properties) = task.as_object_mut() {
            properties.retain(|name, _| !NOT_LISTED.contains(&name.as_str()));
        }
        let member = minimal("member", member);
        Ok(Self {
            images: page("images", image.raw()),
            image,
            location: Schema::new(parse_built_in(LOCATION)?).map_err(SchemasError::BuiltIn)?,
            members: minimal_page("members", &member),
            member,
            tasks: minimal_page("tasks", &minimal("task", task)),
            task: Schema::new(whole_task).map_err(SchemasError::BuiltIn)?,
            metadefs: MetadefSchemas::new()?,
        })
    }

    /// The schema of an image.
    pub(crate) fn image(&self) -> &Value {
        self.image.raw()
    }

    /// The schema of a task.
    pub(crate) fn task(&self) -> &Value {
        self.task.raw()
    }

    /// Validates a task that a client wants to create.
    ///
    /// # Errors
    /// As [`Self::check_image`].
    pub(crate) fn check_task(&self, body: &Map<String, Value>) -> Result<()> {
        let checked = self.task.check(body);
        checked.map_err(|fault| Error::Invalid(format!("Provided object does not match schema 'task': {fault}")))
    }

    /// Validates an image that a client wants to create, or the attributes of an image that a client wants to change.
    ///
    /// # Errors
    /// `Invalid`, with the message that Glance's validator would return.
    pub(crate) fn check_image(&self, body: &Map<String, Value>) -> Result<()> {
        let checked = self.image.check(body);
        checked.map_err(|fault| Error::Invalid(format!("Provided object does not match schema 'image': {fault}")))
    }

    /// Validates the body of a request that adds a location to an image.
    ///
    /// # Errors
    /// As [`Self::check_image`].
    pub(crate) fn check_location(&self, body: &Value) -> Result<()> {
        let checked = self.location.check(&Map::from_iter([("add_location".to_owned(), body.clone())]));
        checked.map_err(|fault| Error::Invalid(format!("Provided object does not match schema 'location': {fault}")))
    }
}

/// Parses a built-in schema.
fn parse_built_in(text: &str) -> Result<Value, SchemasError> {
    serde_json::from_str(text).map_err(|error| SchemasError::BuiltIn(error.to_string()))
}

/// Adds the operator's properties to the schema of an image, after those that every image has.
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

/// The schema of a page of a listing.
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

/// A schema with only a name and properties, without links.
fn minimal(name: &str, properties: Value) -> Value {
    json!({ "name": name, "properties": properties })
}

/// The schema of a listing without pages.
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
    fn a_valid_image_is_accepted() {
        let body = json!({
            "id": "4ca46bf1-5c61-48ff-b4f3-0ad4e5e3BA90", "name": null, "tags": ["a"], "min_ram": 1.0, "os_distro": "x",
            "disk_format": "qcow2", "container_format": null,
        });
        let schemas = Schemas::new(&ImageFormat::default(), None).unwrap();
        assert!(schemas.check_image(body.as_object().unwrap()).is_ok());
    }

    #[test]
    fn long_values_are_truncated_in_messages() {
        let schemas = Schemas::new(&ImageFormat::default(), None).unwrap();
        let body = json!({"name": "x".repeat(1_000_000), "tags": ["y".repeat(100)]});
        let error = schemas.check_image(body.as_object().unwrap()).unwrap_err();
        assert!(error.to_string().len() < 100_000);
        // What is wrong with the value is in the first part, which the response has room for.
        for (body, says) in [
            (
                json!({"name": "x".repeat(1_000_000)}),
                "x… is too long\n\nFailed validating 'maxLength' in schema['properties']['name']",
            ),
            (json!({"tags": {"a": vec!["x"; 100_000]}}), "… is not of type 'array'"),
        ] {
            let error = schemas.check_image(body.as_object().unwrap()).unwrap_err().to_string();
            assert!(error.find(says).is_some_and(|position| position < 8_000), "{error:.5000}");
        }
    }

    #[test]
    fn a_search_for_a_catastrophic_pattern_ends_soon_and_finds_nothing() {
        let started = std::time::Instant::now();
        // The last two need backtracking.
        for pattern in ["^(a+)+$", "^(?=(a+)+$)", "^(a+)+\\1$"] {
            let schemas = with(&json!({"a": {"pattern": pattern}})).unwrap();
            let body = json!({"a": "a".repeat(10_000) + "!"});
            let error = schemas.check_image(body.as_object().unwrap()).unwrap_err().to_string();
            assert!(error.contains(" does not match '"), "{pattern}: {error:.200}");
        }
        assert!(started.elapsed() < std::time::Duration::from_secs(10), "{:?}", started.elapsed());
    }

    #[test]
    fn errors_in_a_custom_schema_name_the_file_and_the_keyword() {
        for (custom, says) in [
            (json!({"name": {"type": "string"}}), "custom properties (name) conflict with base properties"),
            (json!({"a": {"type": "text"}}), "schema['properties']['a']['type'] is not a type or a list of types"),
            (json!({"a": {"pattern": "("}}), "is not a supported pattern"),
            (json!({"a": {"$ref": "#/b"}}), "schema['properties']['a']['$ref']: Glimpse does not support this keyword"),
            (json!({"properties": {}, "required": [1]}), "schema['required'] is not a list of names"),
            (json!({"a": {"anyOf": [{"maxLength": -1}]}}), "['anyOf'][0]['maxLength'] is not a whole number"),
        ] {
            let error = with(&custom).err().unwrap();
            assert!(error.contains("schema-image.json: ") && error.contains(says), "{error}");
        }
    }

    /// Each of these messages was observed from jsonschema 4.26.
    #[test]
    fn messages_about_invalid_values_are_those_of_jsonschema() {
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
