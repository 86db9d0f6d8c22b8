//! `schema-image.json`: what an operator adds to the schema of an image.
//!
//! Either an object of properties, or `{"properties": …, "required": …}`.

use std::{fs, io, path::Path};

use serde_json::{Map, Value};

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CustomError {
    /// It cannot be read.
    #[error("{0}")]
    Read(#[from] io::Error),
    /// It is not JSON.
    #[error("it is not JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// It is JSON, but not what it should be.
    #[error("{0}")]
    Content(String),
}

/// What the file has.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Custom {
    /// The schemas of custom properties.
    pub(super) properties: Map<String, Value>,
    /// What an image must have; `None` where the file asks for nothing.
    pub(super) required: Option<Vec<Value>>,
}

impl Custom {
    /// Reads the file.
    pub(super) fn read(path: &Path) -> Result<Self, CustomError> {
        Self::of(serde_json::from_str(&fs::read_to_string(path)?)?)
    }

    fn of(file: Value) -> Result<Self, CustomError> {
        let wrong = |what: &str| CustomError::Content(what.to_owned());
        let Value::Object(mut object) = file else {
            return Err(wrong("it is not an object"));
        };
        let (mut properties, required) = match object.shift_remove("properties") {
            Some(Value::Object(properties)) => (properties, object.shift_remove("required")),
            Some(_) => return Err(wrong("its properties are not an object")),
            None => (object, None),
        };
        let required = match required {
            None | Some(Value::Null) => None,
            Some(Value::Array(names)) => Some(names).filter(|names| !names.is_empty()),
            Some(_) => return Err(wrong("its required is not a list of names")),
        };
        for (name, schema) in &mut properties {
            // Clients split an image's properties by this.
            match schema.as_object_mut() {
                Some(schema) => schema.insert("is_base".to_owned(), Value::Bool(false)),
                None => return Err(CustomError::Content(format!("the schema of property {name:?} is not an object"))),
            };
        }
        Ok(Self { properties, required })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::Custom;

    #[test]
    fn either_form_is_taken() {
        let flat = Custom::of(json!({"a": {"type": "string"}})).unwrap();
        assert_eq!(flat.properties["a"], json!({"type": "string", "is_base": false}));
        assert_eq!(flat.required, None);
        let extended = json!({"properties": {"a": {"type": "string"}}, "required": ["a"]});
        let extended = Custom::of(extended).unwrap();
        assert_eq!((extended.properties, extended.required), (flat.properties, Some(vec![json!("a")])));
        for required in [json!([]), json!(null)] {
            assert_eq!(Custom::of(json!({"properties": {}, "required": required})).unwrap(), Custom::default());
        }
    }

    #[test]
    fn another_form_is_told() {
        for file in [json!([]), json!({"properties": 1}), json!({"properties": {}, "required": 1}), json!({"a": 1})] {
            assert!(Custom::of(file.clone()).is_err(), "{file}");
        }
    }
}
