//! The JSON schemas that clients fetch, and that requests are checked against.

mod validate;

use serde_json::{Map, Value, json};

use crate::{
    config::ImageFormat,
    error::{Error, Result},
};

/// What an image is made of, without the configured formats. The order of its keys is part of the API.
const IMAGE: &str = include_str!("image.json");

/// The schemas, with what the configuration adds to them.
pub(crate) struct Schemas {
    /// Of an image.
    pub(crate) image: Value,
    /// Of a page of images.
    pub(crate) images: Value,
}

impl Schemas {
    /// Builds the schemas.
    ///
    /// # Errors
    /// `Internal` where the embedded schema is not JSON, which a test rules out.
    pub(crate) fn new(formats: &ImageFormat) -> Result<Self> {
        let mut image: Value = serde_json::from_str(IMAGE).map_err(|error| Error::Internal(error.into()))?;
        for (name, formats) in
            [("container_format", &formats.container_formats), ("disk_format", &formats.disk_formats)]
        {
            let values = std::iter::once(Value::Null).chain(formats.iter().map(|format| json!(format)));
            image["properties"][name]["enum"] = values.collect();
        }
        let images = collection("images", &image);
        Ok(Self { image, images })
    }

    /// Checks an image that somebody wants to create.
    ///
    /// # Errors
    /// `Invalid`, with the message of the schema's first fault.
    pub(crate) fn check_image(&self, body: &Map<String, Value>) -> Result<()> {
        validate::object(&self.image, body)
            .map_err(|fault| Error::Invalid(format!("Provided object does not match schema 'image': {fault}")))
    }
}

fn collection(name: &str, item: &Value) -> Value {
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
