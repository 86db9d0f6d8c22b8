//! The lock of `db sync` in a Galera cluster.
//!
//! `GET_LOCK` is local to one node. This lock is a replicated row: the process that inserts the row holds the lock, increments
//! the row's heartbeat counter every second, and removes the row at the end. A waiting process takes the lock over if the
//! counter does not change. A schema change blocks all writes in the cluster, including heartbeats, so a waiting process counts
//! only seconds in which it could write itself.

use std::time::Duration;

use sqlx::{Connection as _, MySqlConnection};
use tokio::time::sleep;
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use super::{Error, Result};

/// The interval of the holder's heartbeats, and of the checks of a waiting process.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// The number of checks without a heartbeat after which the holder counts as dead.
const MAX_MISSED: u32 = 10;
/// The number of checks between two log lines.
const REPORT_EVERY: u32 = 30;
/// The slot of the lock's row. Each waiting process writes to a row with a slot of its own.
const LOCK: i64 = 0;

/// The lock while it is held. The holder calls [`SyncLock::release`]; if it does not, other processes wait for [`MAX_MISSED`]
/// seconds.
pub(super) struct SyncLock {
    holder: String,
    _heartbeat: AbortOnDropHandle<()>,
}

impl SyncLock {
    /// Waits for the lock until its holder releases it or dies. The lock uses the connection `heartbeat` for its own heartbeats.
    ///
    /// # Errors
    /// `Unavailable`
    pub(super) async fn take(connection: &mut MySqlConnection, heartbeat: MySqlConnection) -> Result<Self> {
        let table = "CREATE TABLE IF NOT EXISTS glimpse_sync_lock \
                     (slot BIGINT NOT NULL PRIMARY KEY, process VARCHAR(36) NOT NULL, beat BIGINT NOT NULL) ENGINE=InnoDB";
        sqlx::query(table).execute(&mut *connection).await?;
        let holder = Uuid::new_v4().to_string();
        let slot = rand::random_range(LOCK + 1..i64::MAX);
        let mut seen: Option<(String, i64)> = None;
        let (mut missed, mut waits) = (0, 0);
        while !(try_insert(connection, &holder).await?
            || missed >= MAX_MISSED && try_take_over(connection, &holder, &seen).await?)
        {
            if waits % REPORT_EVERY == 0 {
                tracing::info!("another process is migrating this database; waiting until it has finished");
            }
            waits += 1;
            sleep(HEARTBEAT).await;
            // This blocks during a schema change.
            let written = sqlx::query("REPLACE INTO glimpse_sync_lock VALUES (?, ?, ?)");
            changed_rows(written.bind(slot).bind(&holder).bind(waits).execute(&mut *connection).await)?;
            let now = sqlx::query_as("SELECT process, beat FROM glimpse_sync_lock WHERE slot = ?");
            let now = now.bind(LOCK).fetch_optional(&mut *connection).await?;
            missed = if now == seen { missed + 1 } else { 0 };
            seen = now;
        }
        let own = sqlx::query("DELETE FROM glimpse_sync_lock WHERE slot = ?").bind(slot);
        changed_rows(own.execute(&mut *connection).await)?;
        let heartbeats = send_heartbeats(heartbeat, holder.clone());
        Ok(Self { holder, _heartbeat: AbortOnDropHandle::new(tokio::spawn(heartbeats)) })
    }

    /// Releases the lock. If that fails, the lock expires.
    pub(super) async fn release(self, connection: &mut MySqlConnection) {
        let delete = sqlx::query("DELETE FROM glimpse_sync_lock WHERE slot = ? AND process = ?");
        if let Err(error) = delete.bind(LOCK).bind(&self.holder).execute(connection).await {
            tracing::warn!(%error, "cannot release the lock of the migrations; it expires in {MAX_MISSED} s");
        }
    }
}

/// Takes the lock if no process holds it.
async fn try_insert(connection: &mut MySqlConnection, holder: &str) -> Result<bool> {
    let insert = sqlx::query("INSERT IGNORE INTO glimpse_sync_lock VALUES (?, ?, 0)");
    let inserted = changed_rows(insert.bind(LOCK).bind(holder).execute(connection).await)?;
    Ok(inserted == 1)
}

/// Takes the lock over from the holder that was seen, unless its heartbeat counter has changed since.
async fn try_take_over(connection: &mut MySqlConnection, holder: &str, seen: &Option<(String, i64)>) -> Result<bool> {
    let Some((dead, beat)) = seen else { return Ok(false) };
    let update = sqlx::query(
        "UPDATE glimpse_sync_lock SET process = ?, beat = beat + 1 WHERE slot = ? AND process = ? AND beat = ?",
    );
    let taken = changed_rows(update.bind(holder).bind(LOCK).bind(dead).bind(beat).execute(connection).await)?;
    Ok(taken == 1)
}

/// Returns the number of rows that a statement changed: 0 if it lost a conflict with another node, after which the caller retries.
fn changed_rows(done: Result<sqlx::mysql::MySqlQueryResult, sqlx::Error>) -> Result<u64> {
    match done.map_err(Error::from) {
        Ok(done) => Ok(done.rows_affected()),
        Err(Error::Conflict(_)) => Ok(0),
        Err(error) => Err(error),
    }
}

async fn send_heartbeats(mut connection: MySqlConnection, holder: String) {
    loop {
        sleep(HEARTBEAT).await;
        let update = sqlx::query("UPDATE glimpse_sync_lock SET beat = beat + 1 WHERE slot = ? AND process = ?");
        match changed_rows(update.bind(LOCK).bind(&holder).execute(&mut connection).await) {
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(%error, "heartbeat failed, other processes may take over the migrations");
                // A lost connection cannot be used again.
                if connection.ping().await.is_err() {
                    return;
                }
            }
        }
    }
}
