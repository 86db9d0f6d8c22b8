//! Glimpse: the OpenStack Image service (Glance, Image API v2) as one program.
//!
//! The modules are layers, from the top; imports point down this list (`tests/architecture.rs` holds them to it), but for
//! services, which are handed the joined parts:
//!
//! * [`cli`] is the command line, `server` listens and drains, `log` writes what happens;
//! * `http` turns requests into calls and results into responses;
//! * `app` joins the parts, once, at start;
//! * `images` and `schemas` are what the service does;
//! * `auth` and `policy` say who asks and what they may do, `limits` how much; `db` keeps the records, `store` the data;
//!   `inspect` recognises disk formats;
//! * `stream` is data on its way, and `egress` where a user may send us for it;
//! * `context`, `config` and `error` are what all of them speak of.

mod access;
mod app;
mod auth;
mod background;
pub mod cli;
mod config;
mod context;
mod data;
mod db;
mod egress;
mod error;
mod http;
mod images;
mod inspect;
mod limits;
mod log;
mod model;
mod policy;
mod process;
mod schemas;
mod server;
mod store;
mod stream;
