//! Starts jobs, as many as the process has slots for, and hands them over when the process stops.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use tracing::Instrument as _;

use super::{Method, job, location};
use crate::{
    app::App,
    db::{self, jobs::Job},
    error::Result,
    keystone::Caller,
};

/// A job that runs in this process, until it is dropped.
struct Slot {
    app: Arc<App>,
    id: String,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.app.process.end_job(&self.id);
    }
}

/// Starts jobs that wait, in the background.
pub(crate) fn start_waiting(app: &Arc<App>) {
    let own = Arc::clone(app);
    app.work.spawn(async move {
        if let Err(error) = start(&own, &HashSet::new()).await {
            tracing::warn!(%error, "imports that wait cannot be started now; retrying at the next heartbeat");
        }
    });
}

/// Lets other processes claim the jobs of processes that have died, and starts jobs that wait. `given_up` are jobs that no process
/// has started for a long time. Returns the jobs that wait for a process that has their data. One statement if there is nothing to do.
///
/// # Errors
/// `Unavailable`
pub(crate) async fn release_abandoned(
    app: &Arc<App>,
    jobs: &[Job],
    living: &HashSet<String>,
    given_up: &HashSet<String>,
) -> Result<()> {
    for job in jobs.iter().filter(|job| !job.process_id.is_empty()) {
        let is_ours = job.process_id == app.process.id;
        let is_abandoned = if is_ours { !app.process.is_running(&job.id) } else { !living.contains(&job.process_id) };
        if is_abandoned && db::jobs::release(&mut app.db.acquire_to_write().await?, job).await? {
            let (image, task) = (job.image_id.as_str(), &job.id);
            tracing::warn!(image, task, step = job.step, "an import was interrupted; it is resumed");
        }
    }
    app.process.forget_tokens(|id| jobs.iter().any(|job| job.id == id));
    // A job that needs its caller's token waits for the process that has it, and fails once that process has ended.
    let mut given_up = given_up.clone();
    for job in jobs {
        match job::holder_of_token(job) {
            Some(holder) if holder != app.process.id && living.contains(&holder) => drop(given_up.remove(&job.id)),
            Some(_) if app.process.token(&job.id).is_none() => drop(given_up.insert(job.id.clone())),
            _ => {}
        }
    }
    if jobs.is_empty() { Ok(()) } else { start(app, &given_up).await }
}

/// Claims and starts jobs while there are slots. Projects with fewer running jobs come first.
async fn start(app: &Arc<App>, given_up: &HashSet<String>) -> Result<()> {
    // Jobs that this process cannot run now, and those that it has tried to claim.
    let mut seen = HashSet::new();
    while !app.is_draining() {
        let jobs = db::jobs::all(&mut app.db.acquire().await?).await?;
        let mut running: HashMap<&Option<String>, usize> = HashMap::new();
        for job in jobs.iter().filter(|job| !job.process_id.is_empty()) {
            *running.entry(&job.project_id).or_default() += 1;
        }
        let mut waiting: Vec<&Job> =
            jobs.iter().filter(|job| job.process_id.is_empty() && !seen.contains(&job.id)).collect();
        // The sort is stable: of one project's jobs, the oldest comes first.
        waiting.sort_by_key(|job| running.get(&job.project_id).copied().unwrap_or_default());
        let mut next = None;
        for job in waiting {
            seen.insert(job.id.clone());
            if can_run(app, job, given_up.contains(&job.id)).await {
                next = Some(job);
                break;
            }
        }
        let Some(job) = next else { return Ok(()) };
        let slots = app.config.taskflow_executor.max_workers as usize;
        if !app.process.begin_job(&job.id, slots) {
            return Ok(());
        }
        let slot = Slot { app: Arc::clone(app), id: job.id.clone() };
        let claimed = db::jobs::claim(&mut app.db.acquire_to_write().await?, job, &app.process.id).await?;
        if let Some(job) = claimed {
            spawn(slot, job);
        }
    }
    Ok(())
}

/// Whether this process has what the job needs: its version, its staged data, the caller's token. A job that is given up needs only the
/// first, because it is begun in order to fail.
async fn can_run(app: &App, job: &Job, is_given_up: bool) -> bool {
    if !is_readable(job) {
        if app.process.note_unreadable(&job.id) {
            let (task, image, method) = (&job.id, job.image_id.as_str(), &job.kind);
            tracing::warn!(
                task,
                image,
                method,
                "an import that a newer version of Glimpse has written cannot run here; it waits for such a process"
            );
        }
        return false;
    }
    if is_given_up {
        return true;
    }
    if job::holder_of_token(job).is_some() && app.process.token(&job.id).is_none() {
        return false;
    }
    // Data that was staged on another node is imported there.
    let needs_staged = job.kind == Method::GlanceDirect.name() && !job::is_at_end(job);
    !needs_staged || app.stores.has_staged(&job.image_id, job::staged_version(job).as_deref()).await
}

/// Whether the job's parameters can be read. A newer version may have written them.
fn is_readable(job: &Job) -> bool {
    if job.kind == location::KIND { location::is_readable(job) } else { job::is_readable(job) }
}

/// Runs a job of any kind to its end.
async fn run(app: &Arc<App>, job: &Job) {
    if job.kind == location::KIND { location::run(app, job).await } else { job::run(app, job).await }
}

/// Runs a job in a task of its own. When the server stops, the job is released, so that another process resumes it.
fn spawn(slot: Slot, job: Job) {
    let app = Arc::clone(&slot.app);
    let span = tracing::info_span!("import", task = job.id, image = job.image_id.as_str(), method = job.kind);
    app.work.clone().spawn(
        async move {
            tokio::select! {
                () = Caller::scope(app.process.caller(&job.id), run(&app, &job)) => {}
                () = app.stopping.cancelled() => {
                    let released = async { db::jobs::release(&mut app.db.acquire_to_write().await?, &job).await };
                    match released.await {
                        Ok(_) => tracing::info!("the import is handed over to another process"),
                        Err(error) => tracing::warn!(%error, "the import cannot be handed over; another process resumes it later"),
                    }
                }
            }
            drop(slot);
            if !app.is_draining() {
                start_waiting(&app);
            }
        }
        .instrument(span),
    );
}
