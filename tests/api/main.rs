//! The API, driven over HTTP against the real program, on the engine that `tests/run` says.

mod auth;
mod bad_input;
mod clients;
mod command_line;
mod durability;
mod images;
mod routes;
mod server;
mod support;
mod tags;
mod versions;
