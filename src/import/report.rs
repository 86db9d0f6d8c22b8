//! Shows the states of jobs in the log.

use std::collections::HashMap;

use crate::db::jobs::Job;

/// The number of checks after which it is logged, once, that a job still waits: with the default heartbeat, one minute.
const LONG_WAIT: u32 = 6;

/// Logs the state of each job at level `debug`, and once those that wait for a long time. `waiting` has the number of checks for which
/// each job has waited.
pub(crate) fn log_states(jobs: &[Job], waiting: &HashMap<String, u32>) {
    for job in jobs {
        let Job { id: task, kind, process_id: process, step, done, .. } = job;
        let image = job.image_id.as_str();
        match waiting.get(task) {
            Some(&LONG_WAIT) => {
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
}
