//! Parses the operations of a patch into changes.

use serde_json::{Map, Value};

use super::body;
use crate::{
    app::App,
    error::{Error, Result},
    http::extract::PatchDialect,
    images::{
        locations::LocationsChange,
        update::{Change, Condition},
    },
};

/// The maximum number of operations of a patch. All of them are applied while the image's row is locked.
const MAX_OPERATIONS: usize = 1000;

const OPERATIONS: [&str; 3] = ["add", "remove", "replace"];

/// Parses all operations, so that none is applied if one is invalid.
///
/// # Errors
/// `Invalid`, `Forbidden`.
pub(super) fn changes(app: &App, dialect: PatchDialect, operations: Vec<Value>) -> Result<Vec<Change>> {
    if operations.len() > MAX_OPERATIONS {
        return Err(Error::Invalid(format!("A patch can have at most {MAX_OPERATIONS} operations.")));
    }
    operations
        .into_iter()
        .map(|operation| match operation {
            Value::Object(operation) => change(app, dialect, operation),
            _ => Err(invalid("Operations must be JSON objects.")),
        })
        .collect()
}

fn change(app: &App, dialect: PatchDialect, mut operation: Map<String, Value>) -> Result<Change> {
    let (name, pointer) = match dialect {
        PatchDialect::V20 => v20_operation(&operation)?,
        PatchDialect::V21 => v21_operation(&operation)?,
    };
    let path = decode_pointer(require_text(&pointer, "path")?)?;
    let (root, position) = match path.as_slice() {
        [root] if root != "locations" || name == "replace" => (root, None),
        [root, position] if root == "locations" && name != "replace" => (root, Some(position.clone())),
        _ => return Err(Error::Invalid(format!("Invalid JSON pointer for this resource: '/{}'", path.join("/")))),
    };
    let value = match name {
        "remove" => None,
        _ => Some(
            operation
                .shift_remove("value")
                .ok_or_else(|| Error::Invalid(format!("Operation \"{name}\" requires a member named \"value\".")))?,
        ),
    };
    body::check_changeable(root)?;
    Ok(match (value, position) {
        (None, None) => Change::Remove(root.clone()),
        (None, Some(position)) => Change::Locations(LocationsChange::Remove(position)),
        (Some(value), Some(position)) => {
            let location = body::locations(app, Value::Array(vec![value]))?.pop().ok_or_else(|| invalid(""))?;
            Change::Locations(LocationsChange::Add(position, location))
        }
        (Some(value), None) if root == "locations" => {
            Change::Locations(LocationsChange::Replace(body::locations(app, value)?))
        }
        (Some(value), None) => {
            let condition = match (name, dialect) {
                ("replace", _) => Condition::Present,
                (_, PatchDialect::V20) => Condition::Absent,
                (_, PatchDialect::V21) => Condition::Always,
            };
            Change::Set(body::attribute(app, root, value)?, condition)
        }
    })
}

/// Parses the operation's name and pointer of `{"add": pointer, …}`.
fn v20_operation(operation: &Map<String, Value>) -> Result<(&'static str, Value)> {
    let mut found = OPERATIONS.iter().filter_map(|name| Some((*name, operation.get(*name)?.clone())));
    let first = found.next().ok_or_else(|| {
        invalid("Operation objects must contain exactly one member named \"add\", \"remove\", or \"replace\".")
    })?;
    match found.next() {
        None => Ok(first),
        Some(_) => {
            Err(invalid("Operation objects must contain only one member named \"add\", \"remove\", or \"replace\"."))
        }
    }
}

/// Parses the operation's name and pointer of `{"op": "add", "path": pointer, …}`.
fn v21_operation(operation: &Map<String, Value>) -> Result<(&'static str, Value)> {
    let known = OPERATIONS.join(", ");
    let must = format!("It must be one of the following: {known}.");
    let wanted = match operation.get("op") {
        None | Some(Value::Null) => {
            return Err(Error::Invalid(format!("Unable to find `op` in JSON Schema change. {must}")));
        }
        Some(op) => require_text(op, "op")?,
    };
    let name = OPERATIONS.iter().find(|name| **name == wanted);
    let name = name.ok_or_else(|| Error::Invalid(format!("Invalid operation: `{wanted}`. {must}")))?;
    let path = operation.get("path").ok_or_else(|| invalid("Unable to find 'path' in JSON Schema change"))?;
    Ok((name, path.clone()))
}

/// The string in a value. Glance fails with an internal error if it is not a string.
fn require_text<'v>(value: &'v Value, name: &str) -> Result<&'v str> {
    value.as_str().ok_or_else(|| Error::Invalid(format!("The `{name}` of an operation must be a string.")))
}

/// Parses the restricted form of a JSON pointer that Glance accepts.
fn decode_pointer(pointer: &str) -> Result<Vec<String>> {
    let fault = |what: &str| Error::Invalid(format!("Pointer `{pointer}` {what}"));
    let rest = pointer.strip_prefix('/').ok_or_else(|| fault("does not start with \"/\"."))?;
    let inner: Vec<&str> = rest.split('/').collect();
    // The parts between two slashes must not be empty.
    if inner.len() > 2 && inner[1..inner.len() - 1].iter().any(|part| part.trim().is_empty()) {
        return Err(fault("contains adjacent \"/\"."));
    }
    if !rest.is_empty() && rest.ends_with('/') {
        return Err(fault("end with \"/\"."));
    }
    let mut escapes = rest.split('~').skip(1);
    if escapes.any(|after| !after.starts_with(['0', '1'])) {
        return Err(fault("contains \"~\" not part of a recognized escape sequence."));
    }
    let parts = pointer.trim_start_matches('/').split('/');
    Ok(parts.map(|part| part.replace("~1", "/").replace("~0", "~").trim().to_owned()).collect())
}

fn invalid(message: &str) -> Error {
    Error::Invalid(message.to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::decode_pointer;

    fn decoded(pointer: &str) -> Result<Vec<String>, String> {
        decode_pointer(pointer).map_err(|error| error.to_string())
    }

    #[test]
    fn pointers_are_parsed_as_by_glance() {
        assert_eq!(decoded("/a"), Ok(vec!["a".to_owned()]));
        assert_eq!(decoded("/ a~1b~0c /d"), Ok(vec!["a/b~c".to_owned(), "d".to_owned()]));
        assert_eq!(decoded("/"), Ok(vec![String::new()]));
        assert_eq!(decoded("//a"), Ok(vec!["a".to_owned()]));
        for (pointer, fault) in [
            ("a", "does not start with"),
            ("", "does not start with"),
            ("/a//b", "contains adjacent"),
            ("/a/ /b", "contains adjacent"),
            ("/a/", "end with"),
            ("//", "end with"),
            ("/a~", "recognized escape"),
            ("/a~2", "recognized escape"),
        ] {
            assert!(decoded(pointer).unwrap_err().contains(fault), "{pointer}");
        }
    }

    proptest! {
        #[test]
        fn no_pointer_causes_a_panic(pointer in any::<String>()) {
            let _ = decode_pointer(&pointer);
        }
    }
}
