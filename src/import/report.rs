//! Shows the states of jobs in the log.

use std::{collections::HashMap, time::Duration};

use tokio::time::Instant;

use crate::db::jobs::Job;

/// The time between two lines with the numbers of jobs.
const EVERY: Duration = Duration::from_secs(60);
/// The number of checks after which it is logged, once, that a job still waits: with the default heartbeat, one minute.
const LONG_WAIT: u32 = 6;

/// What the log shows of the jobs.
#[derive(Default)]
pub(crate) struct JobLog {
    /// When the numbers of jobs were last logged.
    counted: Option<Instant>,
}

impl JobLog {
    /// Logs how many jobs run and wait, at most once a minute; the state of each job at level `debug`; and once those that wait for a
    /// long time. `waiting` has the number of checks for which each job has waited.
    pub(crate) fn write(&mut self, jobs: &[Job], waiting: &HashMap<String, u32>) {
        for job in jobs {
            write_state(job, waiting.get(&job.id).copied());
        }
        if jobs.is_empty() || self.counted.is_some_and(|counted| counted.elapsed() < EVERY) {
            return;
        }
        self.counted = Some(Instant::now());
        let oldest = jobs.first().map(|job| job.id.as_str());
        let (running, waiting) = (jobs.len() - waiting.len(), waiting.len());
        tracing::info!(running, waiting, oldest, "imports are in progress");
    }
}

fn write_state(job: &Job, waited: Option<u32>) {
    let Job { id: task, kind, process_id: process, step, done, .. } = job;
    let image = job.image_id.as_str();
    match waited {
        Some(LONG_WAIT) => {
            tracing::info!(
                image,
                task,
                kind,
                "a job waits for a slot, or for the process that can run it; see [taskflow_executor] max_workers"
            );
        }
        Some(checks) => tracing::debug!(image, task, kind, step, checks, "a job waits"),
        None => tracing::debug!(image, task, kind, step, done, process, "a job is in progress"),
    }
}
