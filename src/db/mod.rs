//! The records, in SQLite, PostgreSQL or MySQL/MariaDB.
//!
//! Queries are plain functions over `&mut impl Session`, one file per noun, each written once for all engines. A read uses
//! `Db::acquire`. A write uses `Db::transaction`, which commits if its work returns `Ok`, and repeats the work if the engine
//! aborted the transaction because of a concurrent one.

pub(crate) mod cached_images;
pub(crate) mod details;
mod error;
mod image_locks;
pub(crate) mod images;
pub(crate) mod jobs;
pub(crate) mod leftovers;
pub(crate) mod listing;
pub(crate) mod locations;
pub(crate) mod members;
pub(crate) mod metadefs;
pub(crate) mod migrate;
mod open;
mod pool;
pub(crate) mod processes;
pub(crate) mod project_locks;
pub(crate) mod properties;
pub(crate) mod purge;
pub(crate) mod revisions;
mod session;
mod sync_lock;
pub(crate) mod tables;
pub(crate) mod tags;
pub(crate) mod tasks;
#[cfg(test)]
mod test_database;
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

/// The size of a row in memory without its texts, in bytes: the struct, and the image's id.
const ROW_WEIGHT: usize = 128;
/// The maximum number of rows of one INSERT. SQLite accepts 32,766 values per statement.
const ROWS_PER_INSERT: usize = 500;

/// A database, by engine. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) enum Db {
    /// An SQLite file. It accepts one writer at a time. Writers wait for the single write connection, in order, instead of polling
    /// the file's lock against each other.
    Sqlite {
        /// The connections for reading.
        read: Pool<Sqlite>,
        /// The one connection for writing.
        write: Pool<Sqlite>,
    },
    /// A PostgreSQL server.
    Postgres(Pool<Postgres>),
    /// A MySQL or MariaDB server.
    MySql(Pool<MySql>),
}

impl Db {
    /// Takes a connection for reading.
    pub(crate) async fn acquire(&self) -> Result<Conn> {
        Ok(match self {
            Self::Sqlite { read, .. } => Conn::Sqlite(read.acquire().await?),
            Self::Postgres(pool) => Conn::Postgres(pool.acquire().await?),
            Self::MySql(pool) => Conn::MySql(pool.acquire().await?),
        })
    }

    /// Takes a connection for a single statement that writes, without an explicit transaction.
    pub(crate) async fn acquire_to_write(&self) -> Result<Conn> {
        match self {
            Self::Sqlite { write, .. } => Ok(Conn::Sqlite(write.acquire().await?)),
            Self::Postgres(_) | Self::MySql(_) => self.acquire().await,
        }
    }

    /// Closes all connections, after the work in progress has ended.
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
