//! The `glimpse_jobs` table: imports in progress. The row of a job belongs to the process that has claimed it. If that process dies or
//! stops, another one claims the job and resumes it.

use chrono::NaiveDateTime;
use sea_query::{Expr, ExprTrait, Order, Query, UpdateStatement};
use uuid::Uuid;

use super::{Result, Session, Tx, tables::GlimpseJobs as J};
use crate::model::ImageId;

/// A job in progress.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub(crate) struct Job {
    /// Its id, which is also its task's.
    pub(crate) id: String,
    /// The import's method.
    pub(crate) kind: String,
    /// The image that it changes.
    pub(crate) image_id: ImageId,
    /// The project that has requested it.
    pub(crate) project_id: Option<String>,
    /// The process that runs it; empty if it waits.
    pub(crate) process_id: String,
    /// A new id at each claim. Only the holder of the last claim changes the job.
    pub(crate) claim: String,
    /// Its parameters, as JSON.
    pub(crate) input: String,
    /// The number of completed steps.
    pub(crate) step: i32,
    /// The number of bytes that the current step has moved.
    pub(crate) done: i64,
    /// When it was created, in UTC.
    pub(crate) created_at: NaiveDateTime,
}

const COLUMNS: [J; 10] =
    [J::Id, J::Kind, J::ImageId, J::ProjectId, J::ProcessId, J::Claim, J::Input, J::Step, J::Done, J::CreatedAt];

/// Adds a job. One statement.
pub(crate) async fn insert(tx: &mut Tx, job: &Job) -> Result<()> {
    let values: [Expr; 10] = [
        job.id.as_str().into(),
        job.kind.as_str().into(),
        job.image_id.as_str().into(),
        job.project_id.clone().into(),
        job.process_id.as_str().into(),
        job.claim.as_str().into(),
        job.input.as_str().into(),
        job.step.into(),
        job.done.into(),
        job.created_at.into(),
    ];
    tx.execute(Query::insert().into_table(J::Table).columns(COLUMNS).values_panic(values).take()).await.map(drop)
}

/// Reads all jobs, in the order of their creation. One statement.
pub(crate) async fn all(s: &mut impl Session) -> Result<Vec<Job>> {
    let query = Query::select().columns(COLUMNS).from(J::Table).order_by(J::CreatedAt, Order::Asc).take();
    s.all(query).await
}

/// Claims a job for a process, if nobody has claimed it since it was read. One statement.
pub(crate) async fn claim(s: &mut impl Session, job: &Job, process_id: &str) -> Result<Option<Job>> {
    let claim = Uuid::new_v4().to_string();
    let update = change(job).value(J::ProcessId, process_id).value(J::Claim, claim.as_str()).take();
    let is_claimed = s.execute(update).await? == 1;
    Ok(is_claimed.then(|| Job { process_id: process_id.to_owned(), claim, ..job.clone() }))
}

/// Lets other processes claim the job. Returns `false` if this claim is not the last one. One statement.
pub(crate) async fn release(s: &mut impl Session, job: &Job) -> Result<bool> {
    Ok(claim(s, job, "").await?.is_some())
}

/// Whether this claim is the last one. One statement, through the primary key.
pub(crate) async fn is_current(s: &mut impl Session, job: &Job) -> Result<bool> {
    Ok(current(s, job).await?.is_some())
}

/// Reads the job again, if this claim is the last one. One statement, through the primary key.
pub(crate) async fn current(s: &mut impl Session, job: &Job) -> Result<Option<Job>> {
    let query = Query::select()
        .columns(COLUMNS)
        .from(J::Table)
        .and_where(Expr::col(J::Id).eq(job.id.as_str()))
        .and_where(Expr::col(J::Claim).eq(job.claim.as_str()))
        .take();
    s.optional(query).await
}

/// Changes the job's parameters. Returns `false` if this claim is not the last one. One statement.
pub(crate) async fn set_input(tx: &mut Tx, job: &Job, input: &str) -> Result<bool> {
    Ok(tx.execute(change(job).value(J::Input, input).take()).await? == 1)
}

/// Records the number of completed steps. Returns `false` if this claim is not the last one. One statement.
pub(crate) async fn set_step(tx: &mut Tx, job: &Job, step: i32) -> Result<bool> {
    Ok(tx.execute(change(job).value(J::Step, step).value(J::Done, 0_i64).take()).await? == 1)
}

/// Records the progress of the current step. Returns `false` if this claim is not the last one. One statement.
pub(crate) async fn set_done(tx: &mut Tx, job: &Job, done: i64) -> Result<bool> {
    Ok(tx.execute(change(job).value(J::Done, done).take()).await? == 1)
}

/// Removes a job. Returns `false` if this claim is not the last one. One statement.
pub(crate) async fn remove(tx: &mut Tx, job: &Job) -> Result<bool> {
    let delete = Query::delete()
        .from_table(J::Table)
        .and_where(Expr::col(J::Id).eq(job.id.as_str()))
        .and_where(Expr::col(J::Claim).eq(job.claim.as_str()))
        .take();
    Ok(tx.execute(delete).await? == 1)
}

/// Removes a job, whoever has claimed it. One statement.
pub(crate) async fn cancel(tx: &mut Tx, id: &str) -> Result<()> {
    tx.execute(Query::delete().from_table(J::Table).and_where(Expr::col(J::Id).eq(id)).take()).await.map(drop)
}

/// Builds the statement that changes a job, if this claim is the last one.
fn change(job: &Job) -> UpdateStatement {
    Query::update()
        .table(J::Table)
        .and_where(Expr::col(J::Id).eq(job.id.as_str()))
        .and_where(Expr::col(J::Claim).eq(job.claim.as_str()))
        .take()
}
