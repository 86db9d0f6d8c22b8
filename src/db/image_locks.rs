//! The `glimpse_image_locks` table: an image's lock between the nodes of a Galera cluster.
//!
//! Galera does not replicate row locks. If two transactions on two nodes *change* the same row, it commits one of them and
//! rejects the other, which is then retried. An update to the values that a row already has changes nothing, and times in
//! `images` have whole seconds. So a transaction that takes an image's lock also increments the counter of the image's row in
//! this table. It does so after it has locked the image's row and before it reads anything else of the image. See ADR 2.
//!
//! Only transactions in a cluster write to this table. An image's row is removed with the image.

use sea_query::{Expr, ExprTrait, OnConflict, Query};

use super::{Result, Session as _, Tx, tables::GlimpseImageLocks as L};

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
