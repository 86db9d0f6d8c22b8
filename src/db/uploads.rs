//! The `glimpse_uploads` table: the uploads in progress. If a process dies, another one finds its uploads here and rolls them back.

use sea_query::{Expr, ExprTrait, Query};
use uuid::Uuid;

use super::{Result, Session, tables::GlimpseUploads as U};
use crate::model::ImageId;

/// An upload in progress. It owns the image while its row exists.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub(crate) struct Upload {
    /// The image that receives the data.
    pub(crate) image_id: ImageId,
    /// The upload's id. An image can have several uploads, one after the other.
    pub(crate) upload_id: String,
    /// The process that runs it.
    pub(crate) process_id: String,
    /// The store that receives the data, or the stores, separated by commas, of an import to several stores at once.
    pub(crate) store: String,
}

/// The start of the ids of cleanups.
const CLEANUP: &str = "cleanup-";

/// The start of the ids of transfers of jobs.
const JOB: &str = "job-";
/// Where the number of a [part](Upload::parts) is in its id, and the maximum number of parts.
const PART_AT: usize = 34;
const MAX_PARTS: usize = 256;
/// The number of characters in the column of the store.
const STORE_LENGTH: usize = 255;

impl Upload {
    /// A new id for a transfer of a job.
    pub(crate) fn new_job_id() -> String {
        // The column has 36 characters.
        format!("{JOB}{}", Uuid::new_v4().simple())
    }

    /// Whether this is a transfer of a job. Its image can have data in other stores.
    pub(crate) fn is_of_job(&self) -> bool {
        self.upload_id.starts_with(JOB)
    }

    /// The parts of an import to several stores at once, each with its own id and store; otherwise the upload itself.
    pub(crate) fn parts(&self) -> Vec<Self> {
        let stores: Vec<&str> = self.store.split(',').collect();
        if stores.len() == 1 {
            return vec![self.clone()];
        }
        let beginning: String = self.upload_id.chars().take(PART_AT).collect();
        let part = |(n, store): (usize, &str)| Self {
            upload_id: format!("{beginning}{n:02x}"),
            store: store.to_owned(),
            ..self.clone()
        };
        stores.into_iter().enumerate().map(part).collect()
    }

    /// Whether one row can name all these stores.
    pub(crate) fn can_name(stores: &[&str]) -> bool {
        stores.len() <= MAX_PARTS && stores.iter().map(|store| store.chars().count() + 1).sum::<usize>() <= STORE_LENGTH
    }

    /// The row of a cleanup, which owns the image for the moment in which it removes what `failed` has left.
    pub(crate) fn cleanup_of(failed: &Self, process_id: &str) -> Self {
        // The column has 36 characters.
        let upload_id = format!("{CLEANUP}{:.28}", Uuid::new_v4().simple().to_string());
        Self { upload_id, process_id: process_id.to_owned(), ..failed.clone() }
    }
}

/// Whether the image is owned by a [cleanup](Upload::cleanup_of), which ends soon. One statement.
pub(crate) async fn is_cleanup(s: &mut impl Session, image_id: &ImageId) -> Result<bool> {
    let query = Query::select()
        .columns([U::ImageId, U::UploadId, U::ProcessId, U::Store])
        .from(U::Table)
        .and_where(Expr::col(U::ImageId).eq(image_id.as_str()))
        .take();
    let found: Option<Upload> = s.optional(query).await?;
    Ok(found.is_some_and(|upload| upload.upload_id.starts_with(CLEANUP)))
}

/// Records the start of an upload. An earlier upload of the image no longer owns it. Two statements.
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

/// Ends an upload. Returns `false` if it no longer owns the image. One statement.
pub(crate) async fn end(s: &mut impl Session, upload: &Upload) -> Result<bool> {
    let delete = Query::delete()
        .from_table(U::Table)
        .and_where(Expr::col(U::ImageId).eq(upload.image_id.as_str()))
        .and_where(Expr::col(U::UploadId).eq(upload.upload_id.as_str()))
        .take();
    Ok(s.execute(delete).await? == 1)
}

/// Transfers an upload to the process that rolls it back, under a new id. The upload cannot end under its old id any more. Returns
/// `false` if it has ended. One statement.
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

/// Whether an upload still owns the image. One statement.
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

/// Reads all uploads in progress. One statement.
pub(crate) async fn all(s: &mut impl Session) -> Result<Vec<Upload>> {
    s.all(Query::select().columns([U::ImageId, U::UploadId, U::ProcessId, U::Store]).from(U::Table).take()).await
}
