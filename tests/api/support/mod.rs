//! Real servers (Glimpse, Keystone, Glance), clients by role, and a database for each test.

mod ceph;
mod client;
mod database;
mod dns;
mod gate;
mod glance;
mod keystone;
mod proxy;
mod s3;
mod server;
mod swift;
mod twins;
mod web;

use std::{future::Future, time::Duration};

pub(crate) use self::{
    ceph::Ceph,
    client::{Answer, Client, raw, raw_status},
    database::{Database, DatabaseServer, Engine},
    dns::Dns,
    gate::{Gate, Side},
    glance::Glance,
    keystone::Keystone,
    proxy::Proxy,
    s3::{Fault, FaultyProxy, S3},
    server::{Running, ServerBuilder, TestServer, mode, program},
    swift::Swift,
    twins::{Persona, Question, Twins},
    web::Web,
};

/// Waits until a condition holds, and polls it often, so that a test does not take longer than necessary.
pub(crate) async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut check: impl FnMut() -> F) -> T {
    for _ in 0..600 {
        if let Some(value) = check().await {
            return value;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{what}: not within 30 s");
}
