//! Writes JSON as Glance does: with `", "` and `": "` as separators, and without escaping non-ASCII characters.

use axum::{
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use chrono::NaiveDateTime;
use serde::Serialize;

use crate::python;

/// Formats a time as Glance does.
pub(super) fn time(time: NaiveDateTime) -> String {
    time.format("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Serialises a value in ASCII, with other characters escaped. Glance does this for schemas and errors.
pub(super) fn ascii(value: &impl Serialize) -> String {
    python::escape_non_ascii(&python::to_json(value))
}

/// As [`ascii`], without spaces. Keystone does this for errors.
pub(super) fn compact_ascii(value: &impl Serialize) -> String {
    python::escape_non_ascii(&serde_json::to_string(value).unwrap_or_default())
}

/// A response whose body is a value in ASCII.
pub(super) fn ascii_response(value: &impl Serialize) -> Response {
    ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], ascii(value)).into_response()
}

/// A response whose body is a value.
pub(super) fn response(value: &impl Serialize) -> Response {
    ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], python::to_json(value)).into_response()
}
