//! Removing for good the rows that say that something was deleted.

use chrono::NaiveDateTime;
use sea_query::{Expr, ExprTrait, Order, Query};

use super::{Db, Session};
use crate::error::Result;

/// Rows of one transaction, so that none holds its locks for long.
const BATCH: u32 = 1000;

/// A table whose rows know when they were deleted, with the column that its other rows are found by.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Purged {
    /// Its name.
    pub(crate) table: &'static str,
    key: &'static str,
    /// The table that has the time, and the column here that refers to it, where it is another one.
    of: Option<(&'static str, &'static str)>,
}

const fn own(table: &'static str) -> Purged {
    Purged { table, key: "id", of: None }
}

/// What belongs to images and tasks, and the tasks; in this order, for what refers to others goes first.
pub(crate) const RECORDS: [Purged; 6] = [
    Purged { table: "task_info", key: "task_id", of: Some(("tasks", "id")) },
    own("image_properties"),
    own("image_tags"),
    own("image_members"),
    own("image_locations"),
    own("tasks"),
];

/// The images themselves. While an image's row is there, its id is never given out again.
pub(crate) const IMAGES: [Purged; 1] = [own("images")];

impl Db {
    /// Removes the rows of a table that were deleted before a time, the oldest first, `limit` of them at the most, and tells how
    /// many. Costs a transaction of one statement for every [`BATCH`] rows; there is no index on the time, so each reads the
    /// table.
    ///
    /// # Errors
    /// Where other rows still belong to one of them ([`super::is_referred`]); those of the batches before it are gone.
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
        // MySQL reads no table that it deletes from, unless the result is another table.
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
