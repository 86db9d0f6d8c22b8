//! The driver `sqlite`: records in an SQLite file in the cache's directory, with Glance's schema.
//!
//! The file keeps SQLite's default journal: Glance takes any further file in the directory for a cached image, and a write-ahead log
//! would be one.

use std::{path::PathBuf, time::Duration};

use sqlx::{ConnectOptions as _, SqliteConnection, query, query_as, sqlite::SqliteConnectOptions};
use tokio::sync::{Mutex, MutexGuard};

use super::record::{Hits, Record};
use crate::{db, error::Result};

/// How long a statement waits for another process.
const BUSY: Duration = Duration::from_secs(5);
const CREATE: &str = "CREATE TABLE IF NOT EXISTS cached_images (image_id TEXT PRIMARY KEY, last_accessed REAL DEFAULT 0.0, \
    last_modified REAL DEFAULT 0.0, size INTEGER DEFAULT 0, hits INTEGER DEFAULT 0, checksum TEXT)";

/// The records in a file.
#[derive(Debug)]
pub(super) struct SqliteFile {
    conn: Mutex<SqliteConnection>,
}

#[derive(sqlx::FromRow)]
struct Row {
    image_id: String,
    hits: i64,
    last_accessed: f64,
    last_modified: f64,
    size: i64,
}

impl SqliteFile {
    /// Opens the file, and creates it with its table.
    ///
    /// # Errors
    /// `Unavailable`
    pub(super) async fn open(path: PathBuf) -> Result<Self> {
        let options = SqliteConnectOptions::new().filename(path).create_if_missing(true).busy_timeout(BUSY);
        let mut conn = options.connect().await.map_err(db::Error::from)?;
        query(CREATE).execute(&mut conn).await.map_err(db::Error::from)?;
        Ok(Self { conn: Mutex::new(conn) })
    }

    async fn conn(&self) -> MutexGuard<'_, SqliteConnection> {
        self.conn.lock().await
    }

    pub(super) async fn list(&self) -> Result<Vec<Record>> {
        let select = "SELECT image_id, hits, CAST(last_accessed AS REAL) AS last_accessed, CAST(last_modified AS REAL) AS \
            last_modified, size FROM cached_images ORDER BY image_id";
        let rows: Vec<Row> = query_as(select).fetch_all(&mut *self.conn().await).await.map_err(db::Error::from)?;
        let record = |row: Row| Record {
            row: None,
            image_id: row.image_id,
            last_accessed: row.last_accessed,
            last_modified: row.last_modified,
            size: row.size,
            hits: row.hits,
            checksum: None,
        };
        Ok(rows.into_iter().map(record).collect())
    }

    pub(super) async fn put(&self, record: &Record) -> Result<()> {
        let insert = "INSERT OR REPLACE INTO cached_images (image_id, last_accessed, last_modified, hits, size) VALUES (?, ?, ?, ?, ?)";
        let insert = query(insert).bind(&record.image_id).bind(record.last_accessed).bind(record.last_modified);
        let insert = insert.bind(record.hits).bind(record.size);
        insert.execute(&mut *self.conn().await).await.map_err(db::Error::from)?;
        Ok(())
    }

    pub(super) async fn add_hits(&self, image_id: &str, hits: Hits) -> Result<()> {
        let update = "UPDATE cached_images SET hits = hits + ?, last_accessed = ? WHERE image_id = ?";
        let update = query(update).bind(hits.count).bind(hits.last).bind(image_id);
        update.execute(&mut *self.conn().await).await.map_err(db::Error::from)?;
        Ok(())
    }

    pub(super) async fn remove(&self, image_id: &str) -> Result<()> {
        let delete = query("DELETE FROM cached_images WHERE image_id = ?").bind(image_id);
        delete.execute(&mut *self.conn().await).await.map_err(db::Error::from)?;
        Ok(())
    }

    pub(super) async fn clear(&self) -> Result<()> {
        query("DELETE FROM cached_images").execute(&mut *self.conn().await).await.map_err(db::Error::from)?;
        Ok(())
    }
}
