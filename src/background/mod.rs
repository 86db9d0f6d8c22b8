//! Work that no request waits for: jobs, each with a name, a period, its last run and its last error.

mod audit;
mod cache;
mod heartbeat;
mod policy;
mod recovery;
mod tidy;

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep};

pub(crate) use self::heartbeat::Heartbeat;
use self::{audit::Audit, recovery::ProcessWatch};
use crate::{app::App, error::Result};

/// A process that misses this number of heartbeats is dead.
const MISSED: u32 = 3;
/// The number of heartbeats between two searches for interrupted deletions: with the default heartbeat, one hour.
const TIDY_EVERY: u32 = 360;
/// The period of the check whether the policy's files have changed.
const POLICY_PERIOD: Duration = Duration::from_secs(1);

/// Periodic work. The first failure is logged, and so is the next success.
struct Job {
    name: &'static str,
    /// The consequence of a failure, for the log.
    consequence: &'static str,
    period: Duration,
    /// The pause after a failed run.
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

    /// Records and logs the result of a run.
    fn record(&mut self, result: Result<()>) {
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

    /// Runs the job for ever, for the first time after `delay`.
    async fn repeat(mut self, delay: Duration, mut run: impl AsyncFnMut() -> Result<()>) {
        sleep(delay).await;
        loop {
            self.record(run().await);
            sleep(self.pause()).await;
        }
    }
}

/// The period in which downloads from the image cache are recorded. A process that is killed loses those of one period.
const HITS_PERIOD: Duration = Duration::from_millis(500);

/// Runs the jobs of the image cache for ever, if there is one.
async fn run_cache(app: &Arc<App>) {
    let Some(cache) = &app.cache else { return };
    let hits = Job::new("recording of cache hits", HITS_PERIOD, "they are recorded later");
    let period = app.config.glimpse.cache_interval;
    let tidying = async {
        if !period.is_zero() {
            let job = Job::new("housekeeping of the image cache", period, "it is neither pruned nor filled");
            job.repeat(Duration::ZERO, async || cache::tidy(app, cache).await).await;
        }
    };
    tokio::join!(hits.repeat(HITS_PERIOD, async || cache.record_hits().await), tidying);
}

/// Records the downloads from the image cache that are not recorded yet, before the process ends.
pub(crate) async fn record_hits(app: &App) {
    if let Some(cache) = &app.cache
        && let Err(error) = cache.record_hits().await
    {
        tracing::warn!(%error, "the last downloads from the image cache are not counted");
    }
}

/// Runs all jobs for ever, except the heartbeat, which must outlive the others.
pub(crate) async fn run(app: &Arc<App>) {
    let heartbeat = heartbeat::period(app);
    let (mut watch, mut audit) = (ProcessWatch::default(), Audit::new());
    let recovery = Job::new("recovery", heartbeat, "uploads and imports of processes that died are not taken over");
    let tidying = Job::new("tidying", heartbeat * TIDY_EVERY, "interrupted deletions are not resumed");
    let auditing = Job::new("audit", heartbeat * TIDY_EVERY, "lost data is not detected");
    // The last two start later, so that they do not slow down the first requests after the start.
    tokio::join!(
        recovery.repeat(Duration::ZERO, async || watch.check(app, heartbeat).await),
        tidying.repeat(heartbeat, async || tidy::run(app, heartbeat * MISSED).await),
        auditing.repeat(heartbeat, async || audit.run(app, heartbeat * MISSED).await),
        run_cache(app),
    );
}

/// Reloads the policy's files whenever they change, for ever.
pub(crate) async fn reload_policy(app: &std::sync::Arc<App>) {
    let job = Job::new("reload of the policy", POLICY_PERIOD, "the rules stay as they are");
    job.repeat(POLICY_PERIOD, async || policy::reload(app).await).await;
}
