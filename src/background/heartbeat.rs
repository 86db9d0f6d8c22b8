//! The heartbeat: it shows other processes on the same database that this one lives.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep_until};

use super::Job;
use crate::{
    app::App,
    db::{self, processes},
    error::Result,
};

/// Heartbeats more often than this show nothing more.
const SHORTEST_PERIOD: Duration = Duration::from_millis(100);
/// Attempts in one period while heartbeats fail: before others take this process for dead there are several, each on another
/// connection.
const ATTEMPTS: u32 = 4;
/// An attempt that is abandoned sooner could be one at a database that is merely busy.
const SHORTEST_ATTEMPT: Duration = Duration::from_secs(1);

/// The time from one heartbeat to the next.
pub(super) fn period(app: &App) -> Duration {
    app.config.glimpse.heartbeat.max(SHORTEST_PERIOD)
}

/// The heartbeat of this process.
pub(crate) struct Heartbeat {
    app: Arc<App>,
    job: Job,
    begun: Instant,
}

impl Heartbeat {
    /// The first heartbeat.
    pub(crate) async fn start(app: &Arc<App>) -> Self {
        let period = period(app);
        let job = Job {
            retry: period / ATTEMPTS,
            ..Job::new("heartbeat", period, "other processes may take this one for dead")
        };
        let mut heartbeat = Self { app: Arc::clone(app), job, begun: Instant::now() };
        heartbeat.beat().await;
        heartbeat
    }

    /// All the others. Their period counts from the begin of each, however long it takes.
    pub(crate) async fn go_on(mut self) {
        loop {
            sleep_until(self.begun + self.job.pause()).await;
            self.begun = Instant::now();
            self.beat().await;
        }
    }

    async fn beat(&mut self) {
        let patience = (self.job.period / ATTEMPTS).max(SHORTEST_ATTEMPT);
        self.job.ended(beat(&self.app, self.job.period, patience).await);
    }
}

/// Adds to this process's number. A connection is waited for as long as `patience`, and the database's answer as long again: then the
/// connection is closed, for another one may do. One statement, two at the first time.
///
/// # Errors
/// `Unavailable`
async fn beat(app: &App, period: Duration, patience: Duration) -> Result<()> {
    let conn = db::in_time(patience, async { Ok(app.db.acquire_to_write().await?) }).await?;
    conn.in_time(patience, async |conn| processes::beat(conn, &app.process.id, period).await).await?;
    Ok(())
}
