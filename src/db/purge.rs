//! Purging: the removal of rows that are marked as deleted.

use chrono::NaiveDateTime;
use sea_query::{Expr, ExprTrait, Order, Query};

use super::{Db, Session};
use crate::error::Result;

/// The maximum number of rows per transaction, so that no transaction holds its locks for long.
const BATCH: u32 = 1000;

/// A table that can be purged: its rows have a time of deletion, or refer to a row that has one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Purged {
    /// The table's name.
    pub(crate) table: &'static str,
    /// The column that identifies the rows to remove.
    key: &'static str,
    /// If another table has the time of deletion: that table, and its column that `key` refers to.
    of: Option<(&'static str, &'static str)>,
}

const fn own(table: &'static str) -> Purged {
    Purged { table, key: "id", of: None }
}

/// The tasks, and the tables that refer to images and tasks. A table comes before the tables that it refers to.
pub(crate) const RECORDS: [Purged; 6] = [
    Purged { table: "task_info", key: "task_id", of: Some(("tasks", "id")) },
    own("image_properties"),
    own("image_tags"),
    own("image_members"),
    own("image_locations"),
    own("tasks"),
];

/// The images themselves. While an image's row exists, its id cannot be reused.
pub(crate) const IMAGES: [Purged; 1] = [own("images")];

impl Db {
    /// Removes the rows of a table that were deleted before a time, oldest first and at most `limit` of them. Returns the
    /// number of removed rows. Costs a transaction of one statement per [`BATCH`] rows. There is no index on the time, so each
    /// statement scans the table.
    ///
    /// # Errors
    /// `Conflict` if other rows still refer to one of them. The batches before it stay removed.
    pub(crate) async fn purge(&self, what: Purged, before: NaiveDateTime, limit: Option<u32>) -> Result<u64> {
        let mut removed: u64 = 0;
        loop {
            let left = limit.map_or(u64::MAX, |limit| u64::from(limit).saturating_sub(removed));
            let batch = Ord::min(left, BATCH.into());
            if batch == 0 {
                return Ok(removed);
            }
            let rows = self.purge_batch(what, before, batch).await?;
            removed += rows;
            if rows < batch {
                return Ok(removed);
            }
        }
    }

    async fn purge_batch(&self, what: Purged, before: NaiveDateTime, rows: u64) -> Result<u64> {
        let mut old = Query::select();
        old.column((what.table, what.key)).from(what.table);
        let dated = match what.of {
            Some((other, id)) => {
                old.inner_join(other, Expr::col((other, id)).equals((what.table, what.key)));
                other
            }
            None => what.table,
        };
        old.and_where(Expr::col((dated, "deleted_at")).lt(before))
            .order_by((dated, "deleted_at"), Order::Asc)
            .limit(rows);
        // MySQL cannot select from the table that it deletes from, except through a derived table.
        let keys = Query::select().column(what.key).from_subquery(old, "old").take();
        let delete = Query::delete().from_table(what.table).and_where(Expr::col(what.key).in_subquery(keys)).take();
        self.transaction(|mut tx| {
            let delete = delete.clone();
            async move {
                let rows = tx.execute(delete).await?;
                Ok((tx, rows))
            }
        })
        .await
    }
}
