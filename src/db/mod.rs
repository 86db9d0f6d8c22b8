//! One pool, one session trait, three engines. Which of them is in use, this file and `migrate` know, and no query.
//!
//! Queries are plain functions over `&mut impl Session`, one file per noun, each written once for SQLite, PostgreSQL
//! and MySQL/MariaDB. A read takes `Db::acquire`, a write `Db::transaction`, which commits when its work returned `Ok`
//! and runs it again when the engine gave it up for another transaction.

pub(crate) mod details;
mod error;
mod image_locks;
pub(crate) mod images;
pub(crate) mod listing;
pub(crate) mod locations;
pub(crate) mod members;
pub(crate) mod migrate;
mod open;
mod pool;
pub(crate) mod processes;
pub(crate) mod properties;
pub(crate) mod purge;
mod session;
mod sync_lock;
pub(crate) mod tables;
pub(crate) mod tags;
mod transaction;
pub(crate) mod uploads;
pub(crate) mod usage;

use sqlx::{MySql, Postgres, Sqlite};

pub(crate) use self::{
    error::{Error, Result},
    pool::ConnectionOptions,
    session::{Conn, Session, Tx, in_time},
};
use self::{
    pool::Pool,
    session::{is_live, is_pending_delete, is_time, union_all},
};

/// Bytes that a row weighs beside its texts: what it is in, and its image's id.
const ROW_WEIGHT: usize = 128;
/// Rows of one INSERT: SQLite takes 32,766 values a statement.
const ROWS_PER_INSERT: usize = 500;

/// A database, by engine. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) enum Db {
    /// An SQLite file. It takes one writer at a time, and those that wait queue here, in order, instead of polling
    /// its lock against each other.
    Sqlite {
        /// Read-only work.
        read: Pool<Sqlite>,
        /// The one connection that writes.
        write: Pool<Sqlite>,
    },
    /// A PostgreSQL server.
    Postgres(Pool<Postgres>),
    /// A MySQL or MariaDB server.
    MySql(Pool<MySql>),
}

impl Db {
    /// Takes a connection to read with.
    pub(crate) async fn acquire(&self) -> Result<Conn> {
        Ok(match self {
            Self::Sqlite { read, .. } => Conn::Sqlite(read.acquire().await?),
            Self::Postgres(pool) => Conn::Postgres(pool.acquire().await?),
            Self::MySql(pool) => Conn::MySql(pool.acquire().await?),
        })
    }

    /// Takes a connection for a statement that is a transaction by itself.
    pub(crate) async fn acquire_to_write(&self) -> Result<Conn> {
        match self {
            Self::Sqlite { write, .. } => Ok(Conn::Sqlite(write.acquire().await?)),
            Self::Postgres(_) | Self::MySql(_) => self.acquire().await,
        }
    }

    /// Closes every connection, after what is under way.
    pub(crate) async fn close(&self) {
        match self {
            Self::Sqlite { read, write } => {
                read.close().await;
                write.close().await;
            }
            Self::Postgres(pool) => pool.close().await,
            Self::MySql(pool) => pool.close().await,
        }
    }
}
