//! The `glimpse_image_locks` table: an image's lock between the nodes of a Galera cluster.
//!
//! Galera does not send row locks to other nodes. Of two transactions on two nodes that *changed* the same row, it commits one and
//! refuses the other, which is then run again. An update that sets a row's old values again changes nothing, and `images` has times in
//! whole seconds: so a transaction that takes an image's lock also changes the number in a row of this table, after it has locked the
//! image's row and before it reads anything else of the image. See ADR 2.
//!
//! Only transactions in a cluster write here. A row goes with its image.

use sea_query::{Expr, ExprTrait, OnConflict, Query};

use super::{Result, Session as _, Tx, tables::GlimpseImageLocks as L};

/// Changes an image's row, so that no transaction on another node that took this lock at the same time commits, too. One statement.
pub(super) async fn take(tx: &mut Tx, image_id: &str) -> Result<()> {
    let one_more = OnConflict::column(L::ImageId).value(L::Taken, Expr::col(L::Taken).add(1)).to_owned();
    let insert = Query::insert()
        .into_table(L::Table)
        .columns([L::ImageId, L::Taken])
        .values_panic([image_id.into(), 1.into()])
        .on_conflict(one_more)
        .take();
    tx.execute(insert).await.map(drop)
}

/// Removes the row of an image that is deleted, which refuses other transactions as a change does. One statement.
pub(super) async fn remove(tx: &mut Tx, image_id: &str) -> Result<()> {
    tx.execute(Query::delete().from_table(L::Table).and_where(Expr::col(L::ImageId).eq(image_id)).take())
        .await
        .map(drop)
}
