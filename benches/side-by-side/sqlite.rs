//! Runs transactions on an SQLite file by sqlx alone: an upper bound for the speed of an image server.
//!
//! ```text
//! sqlite FILE SCRIPT CLIENTS SECONDS IMAGES      IMAGES are ids separated by commas; the clients use them in turn
//! ```
//!
//! SCRIPT has one statement per line, and an empty line between transactions. `?1` is the client's image, `?2` a tag of its
//! own and `?3` the time. All clients share one connection, because SQLite has a single writer. It prints the number of
//! transactions per second.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark fails by panicking, and prints results")]

use std::{
    env, fs,
    time::{Duration, Instant, SystemTime},
};

use chrono::{DateTime, Utc};
use sqlx::{
    AssertSqlSafe, SqlitePool,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};
use tokio::task::JoinSet;

/// Runs the transactions over and over, and returns how many it ran.
async fn client(pool: SqlitePool, script: &'static str, image: String, tag: String, end: Instant) -> u32 {
    let mut count = 0;
    while Instant::now() < end {
        for transaction in script.split("\n\n") {
            let mut tx = pool.begin_with("BEGIN IMMEDIATE").await.unwrap();
            for statement in transaction.lines() {
                let now = DateTime::<Utc>::from(SystemTime::now()).format("%Y-%m-%d %H:%M:%S%.6f");
                let query = sqlx::query(AssertSqlSafe(statement)).bind(&image).bind(&tag).bind(now.to_string());
                drop(query.fetch_optional(&mut *tx).await.unwrap());
            }
            tx.commit().await.unwrap();
            count += 1;
        }
    }
    count
}

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = env::args().collect();
    let [_, file, script, clients, seconds, images] = arguments.as_slice() else { panic!("see the head of sqlite.rs") };
    let script = fs::read_to_string(script).unwrap().leak();
    let images: Vec<&str> = images.split(',').collect();
    // As in src/db/mod.rs.
    let options = SqliteConnectOptions::new()
        .filename(file)
        .foreign_keys(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full);
    let pool = SqlitePoolOptions::new().max_connections(1).connect_with(options).await.unwrap();
    let start = Instant::now();
    let end = start + Duration::from_secs_f64(seconds.parse().unwrap());
    let mut running = JoinSet::new();
    for number in 0..clients.parse().unwrap() {
        let image = images[number % images.len()].to_owned();
        running.spawn(client(pool.clone(), script.trim_end(), image, format!("limit-{number}"), end));
    }
    let count: u32 = running.join_all().await.into_iter().sum();
    println!("{}", f64::from(count) / start.elapsed().as_secs_f64());
}
