//! Glimpse: the OpenStack Image service (Glance, Image API v2) as one program.
//!
//! The modules form rows. A module imports only from the rows below its own; `tests/architecture.rs` checks that. From top to
//! bottom:
//!
//! * [`cli`]: the commands of the `glimpse` binary.
//! * `server`: listens, serves connections, drains and stops.
//! * `http`: routes, middleware and handlers. A handler parses a request, calls a service and renders the result; `http::error`
//!   alone maps errors to statuses.
//! * `background`: jobs that no request waits for: heartbeat, recovery, resumed deletions, audit, reload of the policy.
//! * `images`: services for the records of images: create, view, list, update, delete, locations, members, tags. `tasks`: tasks.
//!   `import`: imports of image data, as jobs that survive their process.
//! * `metadefs`: services for metadata definitions.
//! * `data`: services for the data of images: upload, download, removal, rollback of interrupted uploads.
//! * `access`: decides whether a caller sees an image, and what the policy allows the caller to do to it.
//! * `app`: `App`, the parts below, joined once at start.
//! * `process`: this process among the processes on the same database. `limits`: quotas. `cache`: the image cache.
//! * `db`: the records: connections, transactions, migrations, and one file of queries per noun.
//! * `store`: the data: the `Driver` trait, the registry of stores, and the drivers.
//! * `auth`: authenticates callers.
//! * `model`: the vocabulary: `ImageId`, `Image`, `Status`, `Location`, `Member`, `Tag`. It knows no database and no HTTP.
//! * `policy`: authorisation rules and property protections. `schemas`: JSON schemas. `stream`: data in transit. `egress`: where a
//!   URL from a user is allowed to lead. `keystone`: Glimpse's login at Keystone. `lock_file`: files that processes
//!   lock. `log`: log outputs.
//! * `config`: the options. `inspect`: disk formats. `context`: the caller. `error`: the errors.
//! * `python`: Python's notation of integers and values, which Glance's options, requests and messages contain.
//!
//! `docs/architecture.md` describes the design and its rules.

mod access;
mod app;
mod auth;
mod background;
mod cache;
pub mod cli;
mod config;
mod context;
mod data;
mod db;
mod egress;
mod error;
mod http;
mod images;
mod import;
mod inspect;
mod keystone;
mod limits;
mod lock_file;
mod log;
mod metadefs;
mod model;
mod policy;
mod process;
mod python;
mod schemas;
mod server;
mod store;
mod stream;
mod tasks;
