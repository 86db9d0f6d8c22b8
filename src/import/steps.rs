//! Executes the steps of a job, whatever its kind, and undoes them if it fails.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    app::App,
    db::{
        self, Tx,
        jobs::{self, Job},
    },
    error::{Error, Result, with_causes},
    model::{Image, Status},
};

/// The message of a task that failed for a reason that only operators can read in the log.
pub(super) const INTERNAL: &str = "Task failed due to Internal Error";
/// The time between two records of a job's progress in the log.
const REPORT: Duration = Duration::from_secs(60);
/// The shortest time between two checks whether the image still exists.
const SHORTEST_CHECK: Duration = Duration::from_millis(100);

/// Why a step did not complete.
pub(super) enum Stop {
    /// The image is deleted, or another process has the job.
    Lost,
    /// The database is unavailable: the step is repeated.
    Later(Error),
    /// The job has failed, because of these stores.
    Failed(Error, Vec<String>),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        match error {
            Error::Unavailable { service: "the database", .. } | Error::Contended(_) => Self::Later(error),
            error => Self::Failed(error, Vec::new()),
        }
    }
}

impl From<db::Error> for Stop {
    fn from(error: db::Error) -> Self {
        Error::from(error).into()
    }
}

/// What the steps of a job do.
pub(super) trait Steps {
    /// Executes a step, which may have been begun before. Returns the number of the next one; `None` after the last one.
    async fn execute(&mut self, step: usize) -> Result<Option<usize>, Stop>;

    /// Undoes the job and removes it, unless another process has it. `message` is for its task, and `failed` are the stores that have
    /// failed.
    async fn undo(&self, message: &str, failed: &[String]) -> Result<()>;
}

/// The progress of a job.
pub(super) struct Progress<'p> {
    /// The number of bytes that the current step has moved.
    pub(super) moved: &'p AtomicU64,
    /// The message of the task after that number of bytes.
    pub(super) message: fn(u64) -> String,
}

/// Executes the steps of a job that this process has claimed.
pub(super) async fn run(app: &App, job: &Job, progress: Progress<'_>, mut steps: impl Steps) {
    let mut step = usize::try_from(job.step).unwrap_or_default();
    tracing::info!(step, "the job runs in this process");
    loop {
        // The step's transaction decides: the check only ends steps that wait or move data.
        let executed = tokio::select! {
            biased;
            executed = steps.execute(step) => executed,
            () = watch(app, job, &progress) => Err(Stop::Lost),
        };
        let (message, failed) = match executed {
            Ok(Some(next)) => {
                step = next;
                continue;
            }
            Ok(None) => return tracing::info!("the job is complete"),
            Err(Stop::Later(error)) => {
                tracing::warn!(%error, "a job waits for the database");
                tokio::time::sleep(app.config.glimpse.heartbeat).await;
                continue;
            }
            Err(Stop::Lost) => {
                tracing::warn!("the image is deleted, or another process has the job");
                ("Image has been deleted, aborting import.".to_owned(), Vec::new())
            }
            Err(Stop::Failed(error, failed)) => {
                tracing::warn!(error = with_causes(&error), "the job has failed");
                let is_internal = matches!(error, Error::Unavailable { .. } | Error::Internal(_));
                (if is_internal { INTERNAL.to_owned() } else { error.to_string() }, failed)
            }
        };
        match steps.undo(&message, &failed).await {
            Ok(()) => return,
            Err(error) => {
                tracing::warn!(%error, "a failed job cannot be undone now; retrying");
                tokio::time::sleep(app.config.glimpse.heartbeat).await;
            }
        }
    }
}

/// Records the progress at each heartbeat. Returns once the image is deleted, or another process has the job. While the database is
/// unavailable, the work goes on.
async fn watch(app: &App, job: &Job, progress: &Progress<'_>) {
    let mut logged = Instant::now();
    loop {
        tokio::time::sleep(app.config.glimpse.heartbeat.clamp(SHORTEST_CHECK, REPORT)).await;
        let bytes = progress.moved.load(Ordering::Relaxed);
        if logged.elapsed() >= REPORT {
            logged = Instant::now();
            tracing::info!(bytes, "the job is in progress");
        }
        let message = &(progress.message)(bytes);
        let recorded = app.db.transaction(|mut tx| async move {
            let is_ours = guard(&mut tx, job).await?.is_some();
            if is_ours {
                jobs::set_done(&mut tx, job, i64::try_from(bytes).unwrap_or(i64::MAX)).await?;
                db::tasks::set_message(&mut tx, &job.id, message, app.now()).await?;
            }
            Ok((tx, is_ours))
        });
        match recorded.await {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => tracing::warn!(%error, "the progress of a job cannot be recorded now"),
        }
    }
}

/// Reads and locks the image of a job, if this process still has the job and the image is not being deleted. Two statements.
pub(super) async fn guard(tx: &mut Tx, job: &Job) -> Result<Option<Image>> {
    let image = db::images::get_locked(tx, &job.image_id).await?;
    let image = image.filter(|image| image.status != Status::PendingDelete);
    Ok(if jobs::is_current(tx, job).await? { image } else { None })
}

/// The number of completed steps after this one.
pub(super) fn next(step: usize) -> i32 {
    i32::try_from(step + 1).unwrap_or(i32::MAX)
}
