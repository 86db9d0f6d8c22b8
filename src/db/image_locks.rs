//! The `glimpse_image_locks` table: an image's lock between the nodes of a Galera cluster.
//!
//! Galera does not replicate row locks. If two transactions on two nodes *change* the same row, it commits one of them and
//! rejects the other, which is then retried. An update to the values that a row already has changes nothing, and times in
//! `images` have whole seconds. So a transaction that takes an image's lock also increments the counter of the image's row in
//! this table. It does so after it has locked the image's row and before it reads anything else of the image. See ADR 2.
//!
//! Only transactions in a cluster write an image's row. It is removed with the image. If a Glance deletes the image, the row stays
//! until [`Db::remove_stale_locks`] finds it. A row of a project (see `project_locks`) is removed as well: the next transaction
//! writes it again.

use std::collections::HashSet;

use sea_query::{Expr, ExprTrait, OnConflict, Order, Query};

use super::{
    Db, Result, Session as _, Tx,
    tables::{GlimpseImageLocks as L, Images},
};

/// The number of rows that are checked at a time.
const PAGE: usize = 1000;

/// Changes an image's row. Of several transactions on different nodes that do so concurrently, only one can commit. One statement.
pub(super) async fn take(tx: &mut Tx, image_id: &str) -> Result<()> {
    let increment = OnConflict::column(L::ImageId).value(L::Taken, Expr::col(L::Taken).add(1)).to_owned();
    let insert = Query::insert()
        .into_table(L::Table)
        .columns([L::ImageId, L::Taken])
        .values_panic([image_id.into(), 1.into()])
        .on_conflict(increment)
        .take();
    tx.execute(insert).await.map(drop)
}

/// Removes the row of a deleted image. Like a change, this conflicts with concurrent transactions on other nodes. One statement.
pub(super) async fn remove(tx: &mut Tx, image_id: &str) -> Result<()> {
    tx.execute(Query::delete().from_table(L::Table).and_where(Expr::col(L::ImageId).eq(image_id)).take())
        .await
        .map(drop)
}

impl Db {
    /// Removes the rows of images that do not exist or are deleted, and returns their number. On MySQL, two statements per [`PAGE`]
    /// rows, which lock nothing, and a transaction of one statement if there are rows to remove. Nothing on other engines, which do
    /// not have the table.
    ///
    /// # Errors
    /// `Unavailable`
    pub(crate) async fn remove_stale_locks(&self) -> Result<u64, crate::error::Error> {
        if !matches!(self, Self::MySql(_)) {
            return Ok(0);
        }
        let mut removed = 0;
        let mut after = String::new();
        loop {
            let mut conn = self.acquire().await?;
            let page = Query::select()
                .column(L::ImageId)
                .from(L::Table)
                .and_where(Expr::col(L::ImageId).gt(after.as_str()))
                .order_by(L::ImageId, Order::Asc)
                .limit(PAGE as u64)
                .take();
            let page: Vec<String> = conn.all(page).await?.into_iter().map(|(id,)| id).collect();
            let Some(last) = page.last() else { break };
            let existing = Query::select()
                .column(Images::Id)
                .from(Images::Table)
                .and_where(Expr::col(Images::Id).is_in(page.iter().map(String::as_str)))
                .and_where(super::is_live(Images::Deleted))
                .take();
            let existing: HashSet<String> = conn.all(existing).await?.into_iter().map(|(id,)| id).collect();
            drop(conn);
            let (is_full, next) = (page.len() == PAGE, last.clone());
            let stale: Vec<String> = page.into_iter().filter(|id| !existing.contains(id)).collect();
            if !stale.is_empty() {
                let delete = &Query::delete().from_table(L::Table).and_where(Expr::col(L::ImageId).is_in(stale)).take();
                removed += self
                    .transaction(|mut tx| async move {
                        let rows = tx.execute(delete.clone()).await?;
                        Ok((tx, rows))
                    })
                    .await?;
            }
            if !is_full {
                break;
            }
            after = next;
        }
        Ok(removed)
    }
}
