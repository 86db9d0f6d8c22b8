//! The `glimpse_leftovers` table: failed uploads whose data may still be in a store that could not be reached. Unlike the row of an
//! upload in progress, a row here does not own the image: clients can upload to it again.

use sea_query::{Expr, ExprTrait, Query};

use super::{Result, Session, Tx, tables::GlimpseLeftovers as L, uploads::Upload};

/// Records that a failed upload may have left data. One statement.
pub(crate) async fn insert(tx: &mut Tx, upload: &Upload) -> Result<()> {
    let values = [&upload.upload_id, upload.image_id.as_str(), &upload.process_id, &upload.store];
    let insert = Query::insert()
        .into_table(L::Table)
        .columns([L::UploadId, L::ImageId, L::ProcessId, L::Store])
        .values_panic(values.map(Expr::from))
        .take();
    tx.execute(insert).await.map(drop)
}

/// Removes a record. Returns `false` if another process has removed it. One statement, through the primary key.
pub(crate) async fn remove(tx: &mut Tx, upload: &Upload) -> Result<bool> {
    let delete =
        Query::delete().from_table(L::Table).and_where(Expr::col(L::UploadId).eq(upload.upload_id.as_str())).take();
    Ok(tx.execute(delete).await? == 1)
}

/// Reads all records. One statement.
pub(crate) async fn all(s: &mut impl Session) -> Result<Vec<Upload>> {
    s.all(Query::select().columns([L::ImageId, L::UploadId, L::ProcessId, L::Store]).from(L::Table).take()).await
}
