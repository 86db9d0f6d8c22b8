//! Middleware: processes every request before its handler, and every response after it.

pub(super) mod access_log;
pub(super) mod auth;
pub(super) mod cors;
pub(super) mod gzip;
pub(super) mod limits;
pub(super) mod memory;
pub(super) mod not_modified;
pub(super) mod request_id;
