//! The part of JSON Schema that Glance's schemas use, with the messages that its clients know from Python's jsonschema.

use serde_json::{Map, Value};

/// Checks an object; the fault nearest to its root is the one to tell.
pub(super) fn object(schema: &Value, body: &Map<String, Value>) -> Result<(), String> {
    let mut faults = Faults(None);
    properties(schema, body, 0, &mut faults);
    faults.0.map_or(Ok(()), |(_, message)| Err(message))
}

/// The fault to tell: the first of those nearest to the root, with its depth. The others are not kept.
struct Faults(Option<(usize, String)>);

impl Faults {
    fn add(&mut self, depth: usize, message: impl FnOnce() -> String) {
        if self.0.as_ref().is_none_or(|(nearest, _)| depth < *nearest) {
            self.0 = Some((depth, message()));
        }
    }
}

fn properties(schema: &Value, body: &Map<String, Value>, depth: usize, faults: &mut Faults) {
    let known = schema["properties"].as_object();
    for (name, property) in known.into_iter().flatten() {
        if let Some(value) = body.get(name) {
            check(property, value, depth + 1, faults);
        }
    }
    let others = body.iter().filter(|(name, _)| known.is_none_or(|known| !known.contains_key(*name)));
    match &schema["additionalProperties"] {
        Value::Bool(false) => {
            let unexpected: Vec<String> = others.map(|(name, _)| repr(&Value::from(name.as_str()))).collect();
            if !unexpected.is_empty() {
                let were = if unexpected.len() == 1 { "was" } else { "were" };
                let names = unexpected.join(", ");
                faults.add(depth, || format!("Additional properties are not allowed ({names} {were} unexpected)"));
            }
        }
        property @ Value::Object(_) => others.for_each(|(_, value)| check(property, value, depth + 1, faults)),
        _ => {}
    }
    for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        if !body.contains_key(name) {
            faults.add(depth, || format!("'{name}' is a required property"));
        }
    }
}

fn check(schema: &Value, value: &Value, depth: usize, faults: &mut Faults) {
    let types: Vec<&str> = match &schema["type"] {
        Value::String(name) => vec![name],
        Value::Array(names) => names.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    if !types.is_empty() && !types.iter().any(|name| is_of_type(value, name)) {
        let names = || types.iter().map(|name| format!("'{name}'")).collect::<Vec<_>>().join(", ");
        faults.add(depth, || format!("{} is not of type {}", repr(value), names()));
        return;
    }
    if let Some(allowed) = schema["enum"].as_array()
        && !allowed.contains(value)
    {
        faults.add(depth, || format!("{} is not one of {}", repr(value), repr(&schema["enum"])));
    }
    match value {
        Value::String(text) => {
            if let Some(maximum) = schema["maxLength"].as_u64()
                && text.chars().count() as u64 > maximum
            {
                faults.add(depth, || format!("{} is too long", repr(value)));
            }
            if let Some(pattern) = schema["pattern"].as_str()
                // The one pattern in Glance's schemas is that of an id; another one holds for nothing.
                && !(pattern == UUID && crate::db::images::is_uuid(text))
            {
                faults.add(depth, || format!("{} does not match '{pattern}'", repr(value)));
            }
        }
        Value::Array(items) => items.iter().for_each(|item| check(&schema["items"], item, depth + 1, faults)),
        Value::Object(body) => properties(schema, body, depth, faults),
        _ => {}
    }
}

fn is_of_type(value: &Value, name: &str) -> bool {
    match name {
        "null" => value.is_null(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        "integer" => value.is_i64() || value.is_u64() || value.as_f64().is_some_and(|number| number.fract() == 0.0),
        _ => false,
    }
}

const UUID: &str = "^([0-9a-fA-F]){8}-([0-9a-fA-F]){4}-([0-9a-fA-F]){4}-([0-9a-fA-F]){4}-([0-9a-fA-F]){12}$";

/// The longest value that a message repeats: clients need not get a megabyte of theirs back.
const MAX_REPR: usize = 1024;

/// A value as Python writes it.
fn repr(value: &Value) -> String {
    let text = match value {
        Value::Null => "None".to_owned(),
        Value::Bool(true) => "True".to_owned(),
        Value::Bool(false) => "False".to_owned(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => {
            let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
            let mut out = String::from(quote);
            for c in text.chars() {
                match c {
                    '\\' => out.push_str("\\\\"),
                    '\n' => out.push_str("\\n"),
                    '\r' => out.push_str("\\r"),
                    '\t' => out.push_str("\\t"),
                    c if c == quote => out.extend(['\\', c]),
                    c if c.is_control() => out.push_str(&format!("\\x{:02x}", u32::from(c))),
                    c => out.push(c),
                }
            }
            out.push(quote);
            out
        }
        Value::Array(items) => format!("[{}]", items.iter().map(repr).collect::<Vec<_>>().join(", ")),
        Value::Object(body) => {
            let pairs =
                body.iter().map(|(name, value)| format!("{}: {}", repr(&Value::from(name.as_str())), repr(value)));
            format!("{{{}}}", pairs.collect::<Vec<_>>().join(", "))
        }
    };
    match text.char_indices().nth(MAX_REPR) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::{config::ImageFormat, schemas::Schemas};

    fn fault(body: Value) -> String {
        let schemas = Schemas::new(&ImageFormat::default()).unwrap();
        schemas.check_image(body.as_object().unwrap()).map_or_else(|error| error.to_string(), |()| String::new())
    }

    #[test]
    fn messages_are_those_of_pythons_jsonschema() {
        let prefix = "Provided object does not match schema 'image': ";
        let cases = [
            (json!({"name": 5, "min_ram": "a"}), "5 is not of type 'null', 'string'"),
            (json!({"foo": null}), "None is not of type 'string'"),
            (json!({"tags": [5]}), "5 is not of type 'string'"),
            (json!({"min_ram": true}), "True is not of type 'integer'"),
            (json!({"min_ram": 1.5}), "1.5 is not of type 'integer'"),
            (json!({"visibility": "x"}), "'x' is not one of ['community', 'public', 'private', 'shared']"),
            (json!({"tags": [5], "foo": 6}), "6 is not of type 'string'"),
        ];
        for (body, expected) in cases {
            assert_eq!(fault(body), format!("{prefix}{expected}"));
        }
    }

    #[test]
    fn what_fits_is_taken() {
        let body = json!({
            "id": "4ca46bf1-5c61-48ff-b4f3-0ad4e5e3BA90", "name": null, "tags": ["a"], "min_ram": 1.0, "os_distro": "x",
            "disk_format": "qcow2", "container_format": null,
        });
        assert_eq!(fault(body), "");
    }

    #[test]
    fn a_long_value_is_cut() {
        assert!(fault(json!({"name": "x".repeat(100_000)})).len() < 5_000);
    }
}
