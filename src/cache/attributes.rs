//! The driver `xattr`: the number of hits is an extended attribute of the file, and the rest of a record the file's own times and
//! size.

use std::time::{Duration, UNIX_EPOCH};

use super::{
    layout::{CachedFile, Layout, blocking},
    record::{Hits, Record},
};
use crate::error::Result;

/// The records in the attributes of files.
#[derive(Debug)]
pub(super) struct Attributes {
    layout: Layout,
}

impl Attributes {
    pub(super) fn new(layout: Layout) -> Self {
        Self { layout }
    }

    pub(super) async fn list(&self) -> Result<Vec<Record>> {
        let layout = self.layout.clone();
        let list = move || {
            let record = |file: CachedFile| Record {
                row: None,
                hits: layout.hits(&file.image_id),
                last_accessed: file.accessed.floor(),
                last_modified: file.modified.floor(),
                size: i64::try_from(file.size).unwrap_or(i64::MAX),
                image_id: file.image_id.to_string(),
                checksum: None,
            };
            Ok(layout.files()?.into_iter().map(record).collect())
        };
        blocking(list).await
    }

    pub(super) async fn put(&self, record: &Record) -> Result<()> {
        let (layout, id, hits) = (self.layout.clone(), record.image_id.clone(), record.hits);
        blocking(move || layout.set_hits(&id, hits)).await
    }

    pub(super) async fn add_hits(&self, image_id: &str, hits: Hits) -> Result<()> {
        let (layout, id) = (self.layout.clone(), image_id.to_owned());
        let last = Duration::try_from_secs_f64(hits.last).unwrap_or_default();
        let add = move || {
            if !layout.is_cached(&id) {
                return Ok(());
            }
            layout.set_hits(&id, layout.hits(&id) + i64::from(hits.count))?;
            layout.set_accessed(&id, UNIX_EPOCH + last)
        };
        blocking(add).await
    }
}
