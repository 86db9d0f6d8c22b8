//! Validates JSON against the subset of JSON Schema (2020-12) that the schemas of images, metadata definitions, locations and tasks need.
//!
//! The messages are those of Python's jsonschema, which clients of Glance know: both the choice of the error that is reported, if
//! there are several, and its exact wording.

use std::collections::HashMap;

use fancy_regex::Regex;
use serde_json::{Map, Value};

use crate::python;

/// The maximum length of the schema and of the value that follow a message, each in characters, so that a response does not repeat a
/// megabyte of the request.
const MAX_PART: usize = 16 * 1024;
/// The maximum length of the value, or of the list of names, that a message itself repeats. The response is cut at 16 Ki characters, so
/// what follows the value must fit.
const MAX_VALUE: usize = 4 * 1024;

/// A schema that has been checked: all its keywords are supported, and have valid values. Keywords that are only annotations are
/// not checked.
pub(super) struct Schema {
    raw: Value,
    /// The compiled patterns, by their source.
    patterns: HashMap<String, Regex>,
}

impl Schema {
    /// Checks a schema and compiles its patterns.
    ///
    /// # Errors
    /// A description of the first error, with its position in the schema.
    pub(super) fn new(raw: Value) -> Result<Self, String> {
        let mut patterns = HashMap::new();
        check_schema(&raw, "schema", None, &mut patterns)?;
        Ok(Self { raw, patterns })
    }

    /// As [`Self::new`], for a built-in schema, which may refer to its own definitions (`{"$ref": "#/definitions/name"}`). They do not
    /// refer to each other in a circle.
    ///
    /// # Errors
    /// A description of the first error, with its position in the schema.
    pub(super) fn with_definitions(raw: Value) -> Result<Self, String> {
        let mut patterns = HashMap::new();
        let definitions = raw.get(DEFINITIONS).unwrap_or(&Value::Null);
        check_schema(&raw, "schema", Some(definitions), &mut patterns)?;
        for (name, definition) in definitions.as_object().into_iter().flatten() {
            check_schema(definition, &format!("schema['{DEFINITIONS}']['{name}']"), Some(definitions), &mut patterns)?;
        }
        Ok(Self { raw, patterns })
    }

    /// The schema as JSON.
    pub(super) fn raw(&self) -> &Value {
        &self.raw
    }

    /// Validates an object.
    ///
    /// # Errors
    /// The whole message of the error that jsonschema would report.
    pub(super) fn check(&self, object: &Map<String, Value>) -> Result<(), String> {
        let definitions = self.raw.get(DEFINITIONS).unwrap_or(&Value::Null);
        let mut validator = Validator::new(&self.patterns, definitions, Keep::Greatest);
        for (keyword, argument) in self.raw.as_object().into_iter().flatten() {
            validator.check_object(keyword, argument, object, &Value::Null, &self.raw);
        }
        if validator.kept.is_empty() {
            return Ok(());
        }
        // Only the message needs the object as a `Value`, so it is cloned only for an invalid object.
        let value = Value::Object(object.clone());
        let mut validator = Validator::new(&self.patterns, definitions, Keep::Greatest);
        validator.check(&self.raw, &value);
        validator.kept.pop().map_or(Ok(()), |fault| Err(fault.most_relevant().message()))
    }
}

/// The definition to which a reference leads, if there is one.
fn resolve<'a>(reference: &Value, definitions: &'a Value) -> Option<&'a Value> {
    definitions.get(reference.as_str()?.strip_prefix("#/definitions/")?)
}

/// Checks that all keywords of a schema are supported and valid, and compiles its patterns. Without `definitions`, references are not
/// supported.
fn check_schema(
    schema: &Value,
    place: &str,
    definitions: Option<&Value>,
    patterns: &mut HashMap<String, Regex>,
) -> Result<(), String> {
    let keywords = match schema {
        Value::Bool(_) => return Ok(()),
        Value::Object(keywords) => keywords,
        _ => return Err(format!("{place} is neither an object nor a boolean")),
    };
    for (keyword, value) in keywords {
        let place = format!("{place}[{}]", python::string_repr(keyword, 256));
        let wrong = |what: &str| Err(format!("{place} is not {what}"));
        let mut compile = |pattern: &str| match Regex::new(pattern) {
            Ok(regex) => {
                patterns.insert(pattern.to_owned(), regex);
                Ok(())
            }
            Err(error) => Err(format!("{place}: {pattern:?} is not a supported pattern: {error}")),
        };
        match keyword.as_str() {
            "type" => {
                let is_type = |name: &Value| name.as_str().is_some_and(|name| TYPES.contains(&name));
                if !(is_type(value) || value.as_array().is_some_and(|names| names.iter().all(is_type))) {
                    return wrong("a type or a list of types");
                }
            }
            "enum" if !value.is_array() => return wrong("a list"),
            "required" if !is_list_of_strings(value) => return wrong("a list of names"),
            "pattern" => match value.as_str() {
                Some(pattern) => compile(pattern)?,
                None => return wrong("a string"),
            },
            "minLength" | "maxLength" | "minItems" | "maxItems" | "minProperties" | "maxProperties"
                if !value.is_u64() =>
            {
                return wrong("a whole number of at least 0");
            }
            "minimum" | "maximum" | "exclusiveMinimum" | "exclusiveMaximum" if !value.is_number() => {
                return wrong("a number");
            }
            "multipleOf" if !value.as_f64().is_some_and(|number| number > 0.0) => return wrong("a number above 0"),
            "uniqueItems" if !value.is_boolean() => return wrong("a boolean"),
            "items" | "additionalProperties" | "propertyNames" | "not" => {
                check_schema(value, &place, definitions, patterns)?;
            }
            "properties" | "patternProperties" => {
                let Some(schemas) = value.as_object() else {
                    return wrong("an object");
                };
                for pattern in schemas.keys().filter(|_| keyword == "patternProperties") {
                    compile(pattern)?;
                }
                for (name, schema) in schemas {
                    let place = format!("{place}[{}]", python::string_repr(name, 256));
                    check_schema(schema, &place, definitions, patterns)?;
                }
            }
            "allOf" | "anyOf" | "oneOf" => {
                let Some(schemas) = value.as_array().filter(|schemas| !schemas.is_empty()) else {
                    return wrong("a list of schemas");
                };
                for (n, schema) in schemas.iter().enumerate() {
                    check_schema(schema, &format!("{place}[{n}]"), definitions, patterns)?;
                }
            }
            "dependentRequired" if !value.as_object().is_some_and(|names| names.values().all(is_list_of_strings)) => {
                return wrong("an object of lists of names");
            }
            "$ref" if definitions.is_some_and(|definitions| resolve(value, definitions).is_none()) => {
                return wrong("a reference to one of the schema's definitions");
            }
            "$ref" if definitions.is_some() => {}
            "$ref"
            | "$dynamicRef"
            | "$schema"
            | "prefixItems"
            | "contains"
            | "if"
            | "then"
            | "else"
            | "dependentSchemas"
            | "unevaluatedItems"
            | "unevaluatedProperties" => {
                return Err(format!("{place}: Glimpse does not support this keyword"));
            }
            _ => {}
        }
    }
    Ok(())
}

fn is_list_of_strings(value: &Value) -> bool {
    value.as_array().is_some_and(|items| items.iter().all(Value::is_string))
}

/// The keyword under which a schema keeps what it refers to.
const DEFINITIONS: &str = "definitions";
const TYPES: [&str; 7] = ["null", "string", "boolean", "array", "object", "integer", "number"];

/// A step from a value or a schema to a part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Step<'a> {
    Index(usize),
    Key(&'a str),
}

/// A violation of the schema.
#[derive(Clone)]
struct Fault<'a> {
    text: String,
    keyword: Option<&'a str>,
    schema: &'a Value,
    value: &'a Value,
    path: Vec<Step<'a>>,
    schema_path: Vec<Step<'a>>,
    /// For `anyOf` and `oneOf`: the two most relevant faults of their schemas, in order of relevance.
    context: Vec<Fault<'a>>,
}

impl<'a> Fault<'a> {
    /// The rank by which faults are ordered, as jsonschema does: first by depth, where the fault nearest to the root is the
    /// greatest, then by path, then by whether the keyword is other than `anyOf` and `oneOf`, then by whether the value has the
    /// wrong type.
    fn rank(keyword: Option<&str>, schema: &Value, value: &Value, path: &[Step<'a>]) -> Rank<'a> {
        let is_strong = !matches!(keyword, Some("anyOf" | "oneOf"));
        let has_type = schema.get("type").is_some_and(|types| is_of_types(value, types));
        (std::cmp::Reverse(path.len()), path.to_vec(), is_strong, !has_type)
    }

    fn own_rank(&self) -> Rank<'a> {
        Self::rank(self.keyword, self.schema, self.value, &self.path)
    }

    /// The fault itself, or the fault in its context that is more relevant than the others there, recursively.
    fn most_relevant(mut self) -> Self {
        let mut context = std::mem::take(&mut self.context).into_iter();
        match (context.next(), context.next()) {
            (None, _) => self,
            (Some(first), Some(second)) if first.own_rank() == second.own_rank() => self,
            (Some(first), _) => first.most_relevant(),
        }
    }

    fn message(&self) -> String {
        let text = &self.text;
        let keyword = self.keyword.map_or("None".to_owned(), |keyword| format!("'{keyword}'"));
        let schema_path = &self.schema_path[..self.schema_path.len().saturating_sub(1)];
        let (schema_path, path) = (subscripts(schema_path), subscripts(&self.path));
        let (schema, value) = (indented(self.schema), indented(self.value));
        format!(
            "{text}\n\nFailed validating {keyword} in schema{schema_path}:\n    {schema}\n\nOn instance{path}:\n    {value}"
        )
    }
}

type Rank<'a> = (std::cmp::Reverse<usize>, Vec<Step<'a>>, bool, bool);

fn subscripts(path: &[Step<'_>]) -> String {
    let step = |step: &Step<'_>| match step {
        Step::Index(n) => format!("[{n}]"),
        Step::Key(name) => format!("[{}]", python::string_repr(name, MAX_PART)),
    };
    path.iter().map(step).collect()
}

fn indented(value: &Value) -> String {
    python::pretty(value, MAX_PART).replace('\n', "\n    ")
}

/// Which faults are kept. For the others, no message is formatted.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Keep {
    /// The greatest one; of several equal ones, the first.
    Greatest,
    /// The two smallest ones, in order.
    Smallest,
}

/// Validates a value against a schema recursively.
struct Validator<'a> {
    patterns: &'a HashMap<String, Regex>,
    definitions: &'a Value,
    keep: Keep,
    kept: Vec<Fault<'a>>,
    path: Vec<Step<'a>>,
    schema_path: Vec<Step<'a>>,
}

impl<'a> Validator<'a> {
    fn new(patterns: &'a HashMap<String, Regex>, definitions: &'a Value, keep: Keep) -> Self {
        Self { patterns, definitions, keep, kept: Vec::new(), path: Vec::new(), schema_path: Vec::new() }
    }

    fn finds(&self, pattern: &str, text: &str) -> bool {
        // A search that exceeds its limit counts as no match.
        self.patterns.get(pattern).is_some_and(|regex| regex.is_match(text).unwrap_or(false))
    }

    fn is_valid(&self, schema: &'a Value, value: &'a Value) -> bool {
        let mut validator = Validator::new(self.patterns, self.definitions, Keep::Greatest);
        validator.check(schema, value);
        validator.kept.is_empty()
    }

    fn add(
        &mut self,
        keyword: Option<&'a str>,
        schema: &'a Value,
        value: &'a Value,
        text: impl FnOnce() -> String,
        context: Vec<Fault<'a>>,
    ) {
        let rank = Fault::rank(keyword, schema, value, &self.path);
        let (place, most) = match self.keep {
            Keep::Greatest => (self.kept.iter().position(|kept| rank > kept.own_rank()), 1),
            Keep::Smallest => (self.kept.iter().position(|kept| rank < kept.own_rank()), 2),
        };
        let place = place.unwrap_or(self.kept.len());
        if place < most {
            let (path, schema_path) = (self.path.clone(), self.schema_path.clone());
            self.kept.insert(place, Fault { text: text(), keyword, schema, value, path, schema_path, context });
            self.kept.truncate(most);
        }
    }

    /// Validates a part of the value, or against a part of the schema.
    fn descend(&mut self, schema: &'a Value, value: &'a Value, path: Option<Step<'a>>, schema_path: Option<Step<'a>>) {
        if *schema == Value::Bool(false) {
            // jsonschema omits the last step of the path here.
            return self.check(schema, value);
        }
        self.path.extend(path);
        self.schema_path.extend(schema_path);
        self.check(schema, value);
        if schema_path.is_some() {
            self.schema_path.pop();
        }
        if path.is_some() {
            self.path.pop();
        }
    }

    fn check(&mut self, schema: &'a Value, value: &'a Value) {
        match schema {
            Value::Bool(false) => {
                let text = || format!("False schema does not allow {}", repr_value(value));
                self.add(None, schema, value, text, Vec::new());
            }
            Value::Object(keywords) => {
                for (keyword, argument) in keywords {
                    if keyword == "$ref" {
                        // jsonschema's paths do not show references.
                        if let Some(schema) = resolve(argument, self.definitions) {
                            self.check(schema, value);
                        }
                        continue;
                    }
                    self.schema_path.push(Step::Key(keyword));
                    self.check_keyword(keyword, argument, value, schema);
                    self.schema_path.pop();
                }
            }
            _ => {}
        }
    }

    fn check_keyword(&mut self, keyword: &'a str, argument: &'a Value, value: &'a Value, schema: &'a Value) {
        match value {
            Value::String(text) => self.check_string(keyword, argument, text, value, schema),
            Value::Number(_) => self.check_number(keyword, argument, value, schema),
            Value::Array(items) => self.check_array(keyword, argument, items, value, schema),
            Value::Object(entries) => self.check_object(keyword, argument, entries, value, schema),
            Value::Null | Value::Bool(_) => {}
        }
        let fault = match keyword {
            "type" => !is_of_types(value, argument),
            "enum" => !argument.as_array().is_some_and(|allowed| allowed.iter().any(|one| equal(one, value))),
            "const" => !equal(argument, value),
            "not" => self.is_valid(argument, value),
            "allOf" | "anyOf" | "oneOf" => return self.check_combination(keyword, argument, value, schema),
            _ => false,
        };
        if fault {
            let text = || match keyword {
                "type" => {
                    let names = match argument {
                        Value::Array(names) => names.iter().map(repr).collect::<Vec<_>>().join(", "),
                        name => repr(name),
                    };
                    format!("{} is not of type {names}", repr_value(value))
                }
                "enum" => format!("{} is not one of {}", repr_value(value), repr(argument)),
                "const" => format!("{} was expected", repr(argument)),
                _ => format!("{} should not be valid under {}", repr_value(value), repr(argument)),
            };
            self.add(Some(keyword), schema, value, text, Vec::new());
        }
    }

    fn check_string(&mut self, keyword: &'a str, argument: &'a Value, text: &str, value: &'a Value, schema: &'a Value) {
        let fault = match keyword {
            "minLength" | "maxLength" => size_fault(keyword, argument, text.chars().count()),
            "pattern" if !argument.as_str().is_some_and(|pattern| self.finds(pattern, text)) => {
                Some(format!("does not match {}", repr(argument)))
            }
            _ => None,
        };
        if let Some(fault) = fault {
            self.add(Some(keyword), schema, value, || format!("{} {fault}", repr_value(value)), Vec::new());
        }
    }

    fn check_number(&mut self, keyword: &'a str, argument: &'a Value, value: &'a Value, schema: &'a Value) {
        let (number, bound) = (value.as_f64().unwrap_or_default(), argument.as_f64().unwrap_or_default());
        let fault = match keyword {
            "minimum" if number < bound => "is less than the minimum of",
            "maximum" if number > bound => "is greater than the maximum of",
            "exclusiveMinimum" if number <= bound => "is less than or equal to the minimum of",
            "exclusiveMaximum" if number >= bound => "is greater than or equal to the maximum of",
            "multipleOf" if (number / bound).fract() != 0.0 => "is not a multiple of",
            _ => return,
        };
        let text = || format!("{} {fault} {}", repr_value(value), repr(argument));
        self.add(Some(keyword), schema, value, text, Vec::new());
    }

    fn check_array(
        &mut self,
        keyword: &'a str,
        argument: &'a Value,
        items: &'a [Value],
        value: &'a Value,
        schema: &'a Value,
    ) {
        let fault = match keyword {
            "items" if *argument == Value::Bool(false) => {
                let (total, rest) =
                    (items.len(), if let [item] = items { repr_value(item) } else { repr_value(value) });
                if total > 0 {
                    let text = || format!("Expected at most 0 items but found {total} extra: {rest}");
                    self.add(Some(keyword), schema, value, text, Vec::new());
                }
                return;
            }
            "items" => {
                for (n, item) in items.iter().enumerate() {
                    self.descend(argument, item, Some(Step::Index(n)), None);
                }
                return;
            }
            "minItems" | "maxItems" => size_fault(keyword, argument, items.len()),
            "uniqueItems" if *argument == Value::Bool(true) && !are_unique(items) => {
                Some("has non-unique elements".to_owned())
            }
            _ => None,
        };
        if let Some(fault) = fault {
            self.add(Some(keyword), schema, value, || format!("{} {fault}", repr_value(value)), Vec::new());
        }
    }

    fn check_object(
        &mut self,
        keyword: &'a str,
        argument: &'a Value,
        entries: &'a Map<String, Value>,
        value: &'a Value,
        schema: &'a Value,
    ) {
        match keyword {
            "properties" => {
                for (name, schema) in argument.as_object().into_iter().flatten() {
                    if let Some(value) = entries.get(name) {
                        self.descend(schema, value, Some(Step::Key(name)), Some(Step::Key(name)));
                    }
                }
            }
            "patternProperties" => {
                for (pattern, schema) in argument.as_object().into_iter().flatten() {
                    for (name, value) in entries {
                        if self.finds(pattern, name) {
                            self.descend(schema, value, Some(Step::Key(name)), Some(Step::Key(pattern)));
                        }
                    }
                }
            }
            "additionalProperties" => self.check_additional_properties(argument, entries, value, schema),
            "required" => {
                for name in argument.as_array().into_iter().flatten() {
                    if name.as_str().is_some_and(|name| !entries.contains_key(name)) {
                        let text = || format!("{} is a required property", repr(name));
                        self.add(Some(keyword), schema, value, text, Vec::new());
                    }
                }
            }
            "dependentRequired" => {
                for (name, needed) in argument.as_object().into_iter().flatten() {
                    for needed in needed.as_array().into_iter().flatten().filter(|_| entries.contains_key(name)) {
                        if needed.as_str().is_some_and(|needed| !entries.contains_key(needed)) {
                            let name = python::string_repr(name, MAX_PART);
                            let text = || format!("{} is a dependency of {name}", repr(needed));
                            self.add(Some(keyword), schema, value, text, Vec::new());
                        }
                    }
                }
            }
            "minProperties" | "maxProperties" => {
                if let Some(fault) = size_fault(keyword, argument, entries.len()) {
                    self.add(Some(keyword), schema, value, || format!("{} {fault}", repr_value(value)), Vec::new());
                }
            }
            _ => {}
        }
    }

    fn check_additional_properties(
        &mut self,
        argument: &'a Value,
        entries: &'a Map<String, Value>,
        value: &'a Value,
        schema: &'a Value,
    ) {
        let object = |name: &str| schema.get(name).and_then(Value::as_object);
        let (known, patterns) = (object("properties"), object("patternProperties"));
        let mut others = Vec::new();
        for (name, value) in entries {
            let is_known = known.is_some_and(|known| known.contains_key(name))
                || patterns.is_some_and(|patterns| patterns.keys().any(|pattern| self.finds(pattern, name)));
            if !is_known {
                others.push((name, value));
            }
        }
        if *argument != Value::Bool(false) {
            for (name, value) in others {
                self.descend(argument, value, Some(Step::Key(name)), None);
            }
        } else if !others.is_empty() {
            let text = || {
                let mut names: Vec<&str> = others.iter().map(|(name, _)| name.as_str()).collect();
                names.sort_unstable();
                let one = names.len() == 1;
                let names = python::string_reprs(&names, MAX_VALUE);
                match patterns {
                    Some(patterns) => {
                        let mut patterns: Vec<&str> = patterns.keys().map(String::as_str).collect();
                        patterns.sort_unstable();
                        let patterns = python::string_reprs(&patterns, MAX_VALUE);
                        let does = if one { "does" } else { "do" };
                        format!("{names} {does} not match any of the regexes: {patterns}")
                    }
                    None => {
                        let was = if one { "was" } else { "were" };
                        format!("Additional properties are not allowed ({names} {was} unexpected)")
                    }
                }
            };
            self.add(Some("additionalProperties"), schema, value, text, Vec::new());
        }
    }

    fn check_combination(&mut self, keyword: &'a str, argument: &'a Value, value: &'a Value, schema: &'a Value) {
        let schemas = argument.as_array().map(Vec::as_slice).unwrap_or_default();
        if keyword == "allOf" {
            for (n, schema) in schemas.iter().enumerate() {
                self.descend(schema, value, None, Some(Step::Index(n)));
            }
            return;
        }
        // The paths of these faults begin here, not at the root.
        let mut inner = Validator::new(self.patterns, self.definitions, Keep::Smallest);
        let mut valid = schemas.iter().enumerate().skip_while(|(n, schema)| {
            let is_valid = self.is_valid(schema, value);
            if !is_valid {
                inner.descend(schema, value, None, Some(Step::Index(*n)));
            }
            !is_valid
        });
        let Some((_, first)) = valid.next() else {
            let text = || format!("{} is not valid under any of the given schemas", repr_value(value));
            return self.add(Some(keyword), schema, value, text, inner.kept);
        };
        if keyword == "oneOf" {
            let mut more: Vec<&Value> =
                valid.map(|(_, schema)| schema).filter(|schema| self.is_valid(schema, value)).collect();
            if !more.is_empty() {
                more.push(first);
                let text = || {
                    let schemas: Vec<String> = more.iter().map(|schema| repr(schema)).collect();
                    format!("{} is valid under each of {}", repr_value(value), schemas.join(", "))
                };
                self.add(Some(keyword), schema, value, text, Vec::new());
            }
        }
    }
}

/// A value, in the middle of a message.
fn repr_value(value: &Value) -> String {
    python::repr(value, MAX_VALUE)
}

/// A part of the schema.
fn repr(schema: &Value) -> String {
    python::repr(schema, MAX_PART)
}

/// The second half of the message about a size that violates the keyword's bound; `None` if it does not.
fn size_fault(keyword: &str, bound: &Value, size: usize) -> Option<String> {
    let bound = bound.as_u64()?;
    let size = size as u64;
    let text = match keyword {
        "minLength" | "minItems" | "minProperties" if size >= bound => return None,
        "minLength" | "minItems" | "minProperties" if bound == 1 => "should be non-empty",
        "minLength" | "minItems" => "is too short",
        "minProperties" => "does not have enough properties",
        _ if size <= bound => return None,
        _ if bound == 0 => "is expected to be empty",
        "maxProperties" => "has too many properties",
        _ => "is too long",
    };
    Some(text.to_owned())
}

fn is_of_types(value: &Value, types: &Value) -> bool {
    match types {
        Value::Array(names) => names.iter().any(|name| is_of_types(value, name)),
        Value::String(name) => match name.as_str() {
            "null" => value.is_null(),
            "string" => value.is_string(),
            "boolean" => value.is_boolean(),
            "array" => value.is_array(),
            "object" => value.is_object(),
            "number" => value.is_number(),
            "integer" => is_whole(value),
            _ => false,
        },
        _ => false,
    }
}

fn is_whole(value: &Value) -> bool {
    value.is_i64() || value.is_u64() || value.as_f64().is_some_and(|number| number.fract() == 0.0)
}

/// Whether two values are equal. As in JSON Schema, 1 equals 1.0.
fn equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) if a.is_f64() || b.is_f64() => a.as_f64() == b.as_f64(),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| equal(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(name, a)| b.get(name).is_some_and(|b| equal(a, b)))
        }
        _ => a == b,
    }
}

/// Whether all items are different. Takes linear time, because a client may send many.
fn are_unique(items: &[Value]) -> bool {
    let mut seen = std::collections::HashSet::new();
    items.iter().all(|item| seen.insert(canonical(item)))
}

/// A string that is the same for two values if and only if they are [`equal`].
fn canonical(value: &Value) -> String {
    match value {
        Value::Number(number) if number.is_f64() && is_whole(value) => {
            format!("{:.0}", number.as_f64().unwrap_or_default())
        }
        Value::Array(items) => format!("[{}]", items.iter().map(canonical).collect::<Vec<_>>().join(",")),
        Value::Object(entries) => {
            let mut entries: Vec<String> = entries
                .iter()
                .map(|(name, value)| format!("{}:{}", Value::from(name.as_str()), canonical(value)))
                .collect();
            entries.sort_unstable();
            format!("{{{}}}", entries.join(","))
        }
        other => other.to_string(),
    }
}
