//! The driver `centralized_db`: records in the database of the images, for each node.

use chrono::{DateTime, NaiveDateTime};

use super::record::{Hits, Record};
use crate::{
    db::{Db, cached_images as rows},
    error::Result,
};

/// The records of one node.
#[derive(Debug)]
pub(super) struct Central {
    db: Db,
    /// The id of the node. `None` if it has no URL: then it has no records, as in Glance.
    node: Option<i64>,
}

impl Central {
    /// Finds or adds the node with this URL.
    ///
    /// # Errors
    /// `Unavailable`
    pub(super) async fn open(db: &Db, url: Option<&str>) -> Result<Self> {
        let node = match url {
            Some(url) => Some(rows::node(&mut db.acquire_to_write().await?, url).await?),
            None => None,
        };
        Ok(Self { db: db.clone(), node })
    }

    pub(super) async fn list(&self) -> Result<Vec<Record>> {
        let Some(node) = self.node else { return Ok(Vec::new()) };
        let rows = rows::list(&mut self.db.acquire().await?, node).await?;
        let record = |row: rows::CachedImage| Record {
            row: Some(row.id),
            image_id: row.image_id,
            last_accessed: seconds(row.last_accessed),
            last_modified: seconds(row.last_modified),
            size: row.size,
            hits: row.hits.into(),
            checksum: row.checksum,
        };
        Ok(rows.into_iter().map(record).collect())
    }

    /// Three statements in a transaction.
    pub(super) async fn put(&self, record: &Record) -> Result<()> {
        let Some(node) = self.node else { return Ok(()) };
        self.db
            .transaction(|mut tx| async move {
                rows::delete(&mut tx, node, &record.image_id).await?;
                let new = rows::NewRecord {
                    image_id: &record.image_id,
                    size: record.size,
                    hits: i32::try_from(record.hits).unwrap_or(i32::MAX),
                    last_accessed: time(record.last_accessed),
                    last_modified: time(record.last_modified),
                };
                match rows::insert(&mut tx, node, new).await {
                    // Another process of this node has cached the image at the same time. PostgreSQL has aborted the transaction.
                    Err(crate::db::Error::Duplicate) => {
                        Err(crate::error::Error::Contended("cached concurrently".into()))
                    }
                    inserted => Ok((tx, inserted?)),
                }
            })
            .await
    }

    pub(super) async fn add_hits(&self, image_id: &str, hits: Hits) -> Result<()> {
        let Some(node) = self.node else { return Ok(()) };
        let mut conn = self.db.acquire_to_write().await?;
        Ok(rows::add_hits(&mut conn, node, image_id, hits.count, time(hits.last)).await?)
    }

    pub(super) async fn remove(&self, image_id: &str) -> Result<()> {
        let Some(node) = self.node else { return Ok(()) };
        Ok(rows::delete(&mut self.db.acquire_to_write().await?, node, image_id).await?)
    }

    pub(super) async fn clear(&self) -> Result<()> {
        let Some(node) = self.node else { return Ok(()) };
        Ok(rows::delete_all(&mut self.db.acquire_to_write().await?, node).await?)
    }
}

/// A time as Python's `timestamp` returns it.
fn seconds(time: NaiveDateTime) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "Python computes with the same precision")]
    let micros = time.and_utc().timestamp_micros() as f64;
    micros / 1e6
}

fn time(seconds: f64) -> NaiveDateTime {
    #[expect(clippy::cast_possible_truncation, reason = "microseconds since 1970 fit")]
    let micros = (seconds * 1e6).round() as i64;
    DateTime::from_timestamp_micros(micros).unwrap_or_default().naive_utc()
}
