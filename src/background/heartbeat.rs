//! The heartbeat, by which the other processes on the same database know that this one is alive.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep_until};

use super::Job;
use crate::{
    app::App,
    db::{self, processes},
    error::Result,
};

/// The minimum period. More frequent heartbeats have no use.
const SHORTEST_PERIOD: Duration = Duration::from_millis(100);
/// The number of attempts per period while heartbeats fail. So there are several attempts, each on another connection, before other
/// processes treat this one as dead.
const ATTEMPTS: u32 = 4;
/// The minimum timeout of an attempt: a shorter one could expire when the database is only busy.
const SHORTEST_ATTEMPT: Duration = Duration::from_secs(1);

/// Returns the time from one heartbeat to the next.
pub(super) fn period(app: &App) -> Duration {
    app.config.glimpse.heartbeat.max(SHORTEST_PERIOD)
}

/// The heartbeat of this process.
pub(crate) struct Heartbeat {
    app: Arc<App>,
    job: Job,
    last_start: Instant,
}

impl Heartbeat {
    /// Sends the first heartbeat.
    pub(crate) async fn start(app: &Arc<App>) -> Self {
        let period = period(app);
        let job = Job {
            retry: period / ATTEMPTS,
            ..Job::new("heartbeat", period, "other processes may treat this one as dead")
        };
        let mut heartbeat = Self { app: Arc::clone(app), job, last_start: Instant::now() };
        heartbeat.beat().await;
        heartbeat
    }

    /// Sends all further heartbeats. The period is measured from start to start, so it does not depend on how long a heartbeat
    /// takes.
    pub(crate) async fn run(mut self) {
        loop {
            sleep_until(self.last_start + self.job.pause()).await;
            self.last_start = Instant::now();
            self.beat().await;
        }
    }

    async fn beat(&mut self) {
        let timeout = (self.job.period / ATTEMPTS).max(SHORTEST_ATTEMPT);
        self.job.record(write_heartbeat(&self.app, self.job.period, timeout).await);
    }
}

/// Adds to this process's number. `timeout` limits the wait for a connection, and then the wait for the database's answer. A
/// connection that times out is closed, because another one may work. One statement, two at the first time.
///
/// # Errors
/// `Unavailable`
async fn write_heartbeat(app: &App, period: Duration, timeout: Duration) -> Result<()> {
    let conn = db::in_time(timeout, async { Ok(app.db.acquire_to_write().await?) }).await?;
    conn.in_time(timeout, async |conn| processes::beat(conn, &app.process.id, period).await).await?;
    Ok(())
}
