//! `schema-image.json`: the operator's additions to the schema of an image.
//!
//! The file is either an object of properties, or `{"properties": …, "required": …}`.

use std::{fs, io, path::Path};

use serde_json::{Map, Value};

/// The file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CustomError {
    /// The file cannot be read.
    #[error("{0}")]
    Read(#[from] io::Error),
    /// The file is not valid JSON.
    #[error("invalid JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// The content of the file is invalid.
    #[error("{0}")]
    Content(String),
}

/// The content of the file.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Custom {
    /// The schemas of custom properties.
    pub(super) properties: Map<String, Value>,
    /// The names of the required properties; `None` if the file requires none.
    pub(super) required: Option<Vec<Value>>,
}

impl Custom {
    /// Loads the file.
    pub(super) fn load(path: &Path) -> Result<Self, CustomError> {
        Self::from_json(serde_json::from_str(&fs::read_to_string(path)?)?)
    }

    fn from_json(file: Value) -> Result<Self, CustomError> {
        let wrong = |what: &str| CustomError::Content(what.to_owned());
        let Value::Object(mut object) = file else {
            return Err(wrong("the file must contain an object"));
        };
        let (mut properties, required) = match object.shift_remove("properties") {
            Some(Value::Object(properties)) => (properties, object.shift_remove("required")),
            Some(_) => return Err(wrong("properties must be an object")),
            None => (object, None),
        };
        let required = match required {
            None | Some(Value::Null) => None,
            Some(Value::Array(names)) => Some(names).filter(|names| !names.is_empty()),
            Some(_) => return Err(wrong("required must be a list of names")),
        };
        for (name, schema) in &mut properties {
            // Clients use this to separate custom properties from an image's own attributes.
            match schema.as_object_mut() {
                Some(schema) => schema.insert("is_base".to_owned(), Value::Bool(false)),
                None => return Err(CustomError::Content(format!("the schema of property {name:?} must be an object"))),
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
    fn both_forms_are_accepted() {
        let flat = Custom::from_json(json!({"a": {"type": "string"}})).unwrap();
        assert_eq!(flat.properties["a"], json!({"type": "string", "is_base": false}));
        assert_eq!(flat.required, None);
        let extended = json!({"properties": {"a": {"type": "string"}}, "required": ["a"]});
        let extended = Custom::from_json(extended).unwrap();
        assert_eq!((extended.properties, extended.required), (flat.properties, Some(vec![json!("a")])));
        for required in [json!([]), json!(null)] {
            assert_eq!(Custom::from_json(json!({"properties": {}, "required": required})).unwrap(), Custom::default());
        }
    }

    #[test]
    fn other_forms_are_rejected() {
        for file in [json!([]), json!({"properties": 1}), json!({"properties": {}, "required": 1}), json!({"a": 1})] {
            assert!(Custom::from_json(file.clone()).is_err(), "{file}");
        }
    }
}
