//! JSON as Glance writes it: `", "` and `": "` between its parts, and every character as itself.

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

/// Writes a value. One that cannot be JSON, which none of ours is, becomes `null`.
pub(super) fn text(value: &impl Serialize) -> String {
    let mut bytes = Vec::with_capacity(1024);
    match value.serialize(&mut Serializer::with_formatter(&mut bytes, Spaced)) {
        Ok(()) => String::from_utf8(bytes).unwrap_or_default(),
        Err(_) => "null".to_owned(),
    }
}

/// A time, as Glance writes it.
pub(super) fn time(time: NaiveDateTime) -> String {
    time.format("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Writes a value in ASCII, as Glance does with what is no record of its own: other characters are escaped.
pub(super) fn ascii(value: &impl Serialize) -> String {
    let mut ascii = String::with_capacity(1024);
    for c in text(value).chars() {
        if c.is_ascii() {
            ascii.push(c);
        } else {
            ascii.extend(c.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}")));
        }
    }
    ascii
}

/// Answers with a value in ASCII.
pub(super) fn ascii_response(value: &impl Serialize) -> Response {
    ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], ascii(value)).into_response()
}

/// Answers with a value.
pub(super) fn response(value: &impl Serialize) -> Response {
    ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], text(value)).into_response()
}
