//! Writes JSON as Glance does: with `", "` and `": "` as separators, and without escaping non-ASCII characters.

use std::io;

use axum::{
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use chrono::NaiveDateTime;
use serde::Serialize;
use serde_json::ser::{Formatter, Serializer};

struct Spaced;

impl Formatter for Spaced {
    fn begin_array_value<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        writer.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_key<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        writer.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }
}

/// Serialises a value. A value that cannot be represented in JSON becomes `null`; Glimpse has no such values.
pub(super) fn to_string(value: &impl Serialize) -> String {
    let mut bytes = Vec::with_capacity(1024);
    match value.serialize(&mut Serializer::with_formatter(&mut bytes, Spaced)) {
        Ok(()) => String::from_utf8(bytes).unwrap_or_default(),
        Err(_) => "null".to_owned(),
    }
}

/// Formats a time as Glance does.
pub(super) fn time(time: NaiveDateTime) -> String {
    time.format("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Serialises a value in ASCII, with other characters escaped. Glance does this for schemas and errors.
pub(super) fn ascii(value: &impl Serialize) -> String {
    escape(&to_string(value))
}

/// As [`ascii`], without spaces. Keystone does this for errors.
pub(super) fn compact_ascii(value: &impl Serialize) -> String {
    escape(&serde_json::to_string(value).unwrap_or_default())
}

fn escape(json: &str) -> String {
    let mut ascii = String::with_capacity(json.len());
    for c in json.chars() {
        if c.is_ascii() {
            ascii.push(c);
        } else {
            ascii.extend(c.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}")));
        }
    }
    ascii
}

/// A response whose body is a value in ASCII.
pub(super) fn ascii_response(value: &impl Serialize) -> Response {
    ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], ascii(value)).into_response()
}

/// A response whose body is a value.
pub(super) fn response(value: &impl Serialize) -> Response {
    ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], to_string(value)).into_response()
}
