//! The `glimpse_uploads` table: uploads under way, so that what a killed process has begun can be undone.

use sea_query::{Expr, ExprTrait, Query};

use super::{Result, Session, tables::GlimpseUploads as U};
use crate::model::ImageId;

/// An upload under way. While its row is there, the image is its own.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub(crate) struct Upload {
    /// The image that gets the data.
    pub(crate) image_id: ImageId,
    /// Which upload: there may be several for an image, one after the other.
    pub(crate) upload_id: String,
    /// The process that it is in.
    pub(crate) process_id: String,
    /// The store that gets the data.
    pub(crate) store: String,
}

/// Notes that an upload begins. One that was there for the image has lost it. Two statements.
pub(crate) async fn begin(s: &mut impl Session, upload: &Upload) -> Result<()> {
    let delete =
        Query::delete().from_table(U::Table).and_where(Expr::col(U::ImageId).eq(upload.image_id.as_str())).take();
    s.execute(delete).await?;
    let values = [upload.image_id.as_str(), &upload.upload_id, &upload.process_id, &upload.store];
    let insert = Query::insert()
        .into_table(U::Table)
        .columns([U::ImageId, U::UploadId, U::ProcessId, U::Store])
        .values_panic(values.map(Expr::from))
        .take();
    s.execute(insert).await.map(drop)
}

/// Ends an upload. `false` when it is not the image's any more. One statement.
pub(crate) async fn end(s: &mut impl Session, upload: &Upload) -> Result<bool> {
    let delete = Query::delete()
        .from_table(U::Table)
        .and_where(Expr::col(U::ImageId).eq(upload.image_id.as_str()))
        .and_where(Expr::col(U::UploadId).eq(upload.upload_id.as_str()))
        .take();
    Ok(s.execute(delete).await? == 1)
}

/// Gives an upload to whoever undoes it, under a new id: with the old one it cannot end any more. `false` when it has ended.
/// One statement.
pub(crate) async fn take_over(s: &mut impl Session, upload: &Upload, by: &Upload) -> Result<bool> {
    let update = Query::update()
        .table(U::Table)
        .value(U::UploadId, by.upload_id.as_str())
        .value(U::ProcessId, by.process_id.as_str())
        .and_where(Expr::col(U::ImageId).eq(upload.image_id.as_str()))
        .and_where(Expr::col(U::UploadId).eq(upload.upload_id.as_str()))
        .take();
    Ok(s.execute(update).await? == 1)
}

/// Whether the image is an upload's still. One statement.
pub(crate) async fn holds(s: &mut impl Session, upload: &Upload) -> Result<bool> {
    let query = Query::select()
        .columns([U::ImageId, U::UploadId, U::ProcessId, U::Store])
        .from(U::Table)
        .and_where(Expr::col(U::ImageId).eq(upload.image_id.as_str()))
        .and_where(Expr::col(U::UploadId).eq(upload.upload_id.as_str()))
        .take();
    let found: Option<Upload> = s.optional(query).await?;
    Ok(found.is_some())
}

/// Reads all of them: as many as there are uploads at a time. One statement.
pub(crate) async fn all(s: &mut impl Session) -> Result<Vec<Upload>> {
    s.all(Query::select().columns([U::ImageId, U::UploadId, U::ProcessId, U::Store]).from(U::Table).take()).await
}
