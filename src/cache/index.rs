//! The records of cached images: one interface for Glance's three drivers.

use std::{collections::HashSet, path::Path};

use super::{
    attributes::Attributes,
    central::Central,
    layout::{Layout, blocking},
    record::{Hits, Record},
    sqlite::SqliteFile,
};
use crate::{
    config::{CacheDriver, DefaultGroup},
    db::Db,
    error::Result,
};

/// Where records are kept.
#[derive(Debug)]
pub(super) enum Index {
    Central(Central),
    Sqlite(Box<SqliteFile>),
    Attributes(Attributes),
}

impl Index {
    /// Opens the configured driver. As in Glance, `sqlite` replaces `xattr` where the file system has no attributes, and the records
    /// of `sqlite` move to `centralized_db` when that becomes the driver.
    ///
    /// # Errors
    /// `Unavailable`
    pub(super) async fn open(options: &DefaultGroup, layout: &Layout, db: &Db) -> Result<Self> {
        let file = layout.path(&options.image_cache_sqlite_db);
        let probed = layout.clone();
        Ok(match options.image_cache_driver {
            CacheDriver::CentralizedDb => {
                let url = options.worker_self_reference_url.as_deref().filter(|url| !url.is_empty());
                let central = Central::open(db, url).await?;
                if url.is_some() && file.exists() {
                    migrate(&file, &central).await;
                }
                Self::Central(central)
            }
            CacheDriver::Xattr if blocking(move || probed.has_attributes()).await? => {
                Self::Attributes(Attributes::new(layout.clone()))
            }
            CacheDriver::Xattr => {
                tracing::warn!(
                    "the file system of image_cache_dir has no user extended attributes; image_cache_driver = sqlite \
                     is used instead of xattr"
                );
                Self::Sqlite(SqliteFile::open(file).await?.into())
            }
            CacheDriver::Sqlite => Self::Sqlite(SqliteFile::open(file).await?.into()),
        })
    }

    /// The driver in use.
    pub(super) fn driver(&self) -> CacheDriver {
        match self {
            Self::Central(_) => CacheDriver::CentralizedDb,
            Self::Sqlite(_) => CacheDriver::Sqlite,
            Self::Attributes(_) => CacheDriver::Xattr,
        }
    }

    /// The records, in the driver's order.
    pub(super) async fn list(&self) -> Result<Vec<Record>> {
        match self {
            Self::Central(index) => index.list().await,
            Self::Sqlite(index) => index.list().await,
            Self::Attributes(index) => index.list().await,
        }
    }

    /// Adds or replaces the record of an image.
    pub(super) async fn put(&self, record: &Record) -> Result<()> {
        match self {
            Self::Central(index) => index.put(record).await,
            Self::Sqlite(index) => index.put(record).await,
            Self::Attributes(index) => index.put(record).await,
        }
    }

    /// Counts downloads of an image.
    pub(super) async fn add_hits(&self, image_id: &str, hits: Hits) -> Result<()> {
        match self {
            Self::Central(index) => index.add_hits(image_id, hits).await,
            Self::Sqlite(index) => index.add_hits(image_id, hits).await,
            Self::Attributes(index) => index.add_hits(image_id, hits).await,
        }
    }

    /// Removes the record of an image.
    pub(super) async fn remove(&self, image_id: &str) -> Result<()> {
        match self {
            Self::Central(index) => index.remove(image_id).await,
            Self::Sqlite(index) => index.remove(image_id).await,
            // They are removed with the file.
            Self::Attributes(_) => Ok(()),
        }
    }

    /// Removes all records.
    pub(super) async fn clear(&self) -> Result<()> {
        match self {
            Self::Central(index) => index.clear().await,
            Self::Sqlite(index) => index.clear().await,
            Self::Attributes(_) => Ok(()),
        }
    }
}

/// Moves the records of an SQLite file. What fails is tried again at the next start.
async fn migrate(file: &Path, central: &Central) {
    let moved = async {
        let (old, known) = (SqliteFile::open(file.to_owned()).await?, central.list().await?);
        let known: HashSet<String> = known.into_iter().map(|record| record.image_id).collect();
        let mut count = 0;
        for record in old.list().await? {
            // As in Glance, a record that is in the database already stays in the file.
            if !known.contains(&record.image_id) {
                central.put(&record).await?;
                old.remove(&record.image_id).await?;
                count += 1;
            }
        }
        Result::<usize>::Ok(count)
    };
    let file = file.display();
    match moved.await {
        Ok(0) => {}
        Ok(records) => tracing::info!(%file, records, "the records of the image cache were moved to the database"),
        Err(error) => {
            tracing::warn!(%file, %error, "the records of the image cache cannot be moved to the database now")
        }
    }
}
