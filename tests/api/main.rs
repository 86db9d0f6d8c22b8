//! Tests of the API over HTTP against the real program, on the database engine that `tests/run` selects.

#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "a test fails by panicking, and shows why")]

mod audit;
mod auth;
mod bad_input;
mod clients;
mod command_line;
mod configuration;
mod costs;
mod data;
mod differential;
mod durability;
mod etag;
mod galera;
mod identity_api;
mod images;
mod import;
mod import_glance;
mod import_kills;
mod import_nodes;
mod import_plugins;
mod keystone;
mod limits;
mod listing;
mod locations;
mod manage;
mod members;
mod metadef_files;
mod metadefs;
mod new_locations;
mod policy;
mod protections;
mod races;
mod rigs;
mod routes;
mod s3;
mod schemas;
mod server;
mod side_by_side;
mod standalone_clients;
mod stores;
mod support;
mod tags;
mod tasks;
mod update;
mod versions;
