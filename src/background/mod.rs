//! Work that no request waits for: jobs, each with a name, a period, its last run and its last error.

mod audit;
mod heartbeat;
mod policy;
mod recovery;
mod tidy;

use std::time::Duration;

use tokio::time::{Instant, sleep};

pub(crate) use self::heartbeat::Heartbeat;
use self::{audit::Audit, recovery::Watch};
use crate::{app::App, error::Result};

/// Heartbeats that a dead process missed.
const MISSED: u32 = 3;
/// Heartbeats from one search for interrupted deletions to the next: an hour, by default.
const TIDY_EVERY: u32 = 360;
/// The time from one check of the policy's files for a change to the next.
const POLICY_PERIOD: Duration = Duration::from_secs(1);

/// Work that is done again and again. What it reports is logged when it fails for the first time, and when it succeeds again.
struct Job {
    name: &'static str,
    /// What follows while it fails.
    consequence: &'static str,
    period: Duration,
    /// The pause after a run that failed.
    retry: Duration,
    last_run: Option<Instant>,
    last_error: Option<String>,
}

impl Job {
    fn new(name: &'static str, period: Duration, consequence: &'static str) -> Self {
        Self { name, consequence, period, retry: period, last_run: None, last_error: None }
    }

    /// The pause before the next run.
    fn pause(&self) -> Duration {
        if self.last_error.is_some() { self.retry } else { self.period }
    }

    /// Keeps how a run ended.
    fn ended(&mut self, result: Result<()>) {
        let Self { name, consequence, .. } = *self;
        let was_failing = self.last_error.is_some();
        self.last_error = result.err().map(|error| error.to_string());
        let since_last_run = self.last_run.replace(Instant::now()).map(|last_run| last_run.elapsed());
        let retry = self.retry;
        match &self.last_error {
            Some(error) if was_failing => tracing::debug!(error, ?since_last_run, "{name} failed again"),
            Some(error) => tracing::warn!(error, "{name} failed, {consequence}; retrying in {retry:?}"),
            None if was_failing => tracing::info!("{name} works again"),
            None => {}
        }
    }

    /// Runs it for ever, for the first time after `delay`.
    async fn repeat(mut self, delay: Duration, mut run: impl AsyncFnMut() -> Result<()>) {
        sleep(delay).await;
        loop {
            self.ended(run().await);
            sleep(self.pause()).await;
        }
    }
}

/// Runs all jobs for ever, but for the heartbeat, which goes on longer.
pub(crate) async fn run(app: &App) {
    let heartbeat = heartbeat::period(app);
    let (mut watch, mut audit) = (Watch::default(), Audit::default());
    let recovery = Job::new("recovery", heartbeat, "uploads of processes that died are not rolled back");
    let tidying = Job::new("tidying", heartbeat * TIDY_EVERY, "interrupted deletions are not resumed");
    let auditing = Job::new("audit", heartbeat * TIDY_EVERY, "lost data is not detected");
    // The last two not at once: clients wait for a server that has just started.
    tokio::join!(
        recovery.repeat(Duration::ZERO, async || watch.look(app, heartbeat).await),
        tidying.repeat(heartbeat, async || tidy::run(app, heartbeat * MISSED).await),
        auditing.repeat(heartbeat, async || audit.next(app, heartbeat * MISSED).await),
    );
}

/// Reloads the policy's files for ever when they change.
pub(crate) async fn reload_policy(app: &std::sync::Arc<App>) {
    let job = Job::new("reload of the policy", POLICY_PERIOD, "the rules stay as they are");
    job.repeat(POLICY_PERIOD, async || policy::reload(app).await).await;
}
