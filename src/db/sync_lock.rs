//! The lock of `db sync` in a Galera cluster.
//!
//! `GET_LOCK` holds in one node alone. This lock is a row that is replicated: the process that inserts it holds the lock, adds to the
//! row's number every second, and removes the row at the end. A process that waits takes the lock from a holder whose number stands
//! still. A change of the schema stops all writes in the cluster, also those numbers, so a waiting process counts only seconds in which
//! it could write, too.

use std::time::Duration;

use sqlx::{Connection as _, MySqlConnection};
use tokio::time::sleep;
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use super::{Error, Result};

/// How often the holder adds to its number, and a waiting process reads it.
const BEAT: Duration = Duration::from_secs(1);
/// Writes of a waiting process during which a holder that is dead did not add to its number.
const STILL: u32 = 10;
/// Waits between two lines in the log.
const REPORT_EVERY: u32 = 30;
/// The row of the lock; each process that waits writes to a row of its own, with another number.
const LOCK: i64 = 0;

/// The lock, as long as it is held. It is released by [`SyncLock::release`]; where that is not called, other processes wait for
/// [`STILL`] seconds.
pub(super) struct SyncLock {
    holder: String,
    _beating: AbortOnDropHandle<()>,
}

impl SyncLock {
    /// Waits for the lock, for as long as the process that holds it lives. The lock keeps `beating` to itself.
    ///
    /// # Errors
    /// `Unavailable`
    pub(super) async fn take(connection: &mut MySqlConnection, beating: MySqlConnection) -> Result<Self> {
        let table = "CREATE TABLE IF NOT EXISTS glimpse_sync_lock \
                     (slot BIGINT NOT NULL PRIMARY KEY, process VARCHAR(36) NOT NULL, beat BIGINT NOT NULL) ENGINE=InnoDB";
        sqlx::query(table).execute(&mut *connection).await?;
        let holder = Uuid::new_v4().to_string();
        let slot = rand::random_range(LOCK + 1..i64::MAX);
        let mut seen: Option<(String, i64)> = None;
        let (mut still, mut waits) = (0, 0);
        while !(is_inserted(connection, &holder).await?
            || still >= STILL && is_taken(connection, &holder, &seen).await?)
        {
            if waits % REPORT_EVERY == 0 {
                tracing::info!("another process migrates this database: waiting until it has finished");
            }
            waits += 1;
            sleep(BEAT).await;
            // Waits for a change of the schema that is under way.
            let written = sqlx::query("REPLACE INTO glimpse_sync_lock VALUES (?, ?, ?)");
            repeatable(written.bind(slot).bind(&holder).bind(waits).execute(&mut *connection).await)?;
            let now = sqlx::query_as("SELECT process, beat FROM glimpse_sync_lock WHERE slot = ?");
            let now = now.bind(LOCK).fetch_optional(&mut *connection).await?;
            still = if now == seen { still + 1 } else { 0 };
            seen = now;
        }
        let own = sqlx::query("DELETE FROM glimpse_sync_lock WHERE slot = ?").bind(slot);
        repeatable(own.execute(&mut *connection).await)?;
        let beats = beat_for_ever(beating, holder.clone());
        Ok(Self { holder, _beating: AbortOnDropHandle::new(tokio::spawn(beats)) })
    }

    /// Ends the lock. Where that fails, it ends by itself a while later.
    pub(super) async fn release(self, connection: &mut MySqlConnection) {
        let delete = sqlx::query("DELETE FROM glimpse_sync_lock WHERE slot = ? AND process = ?");
        if let Err(error) = delete.bind(LOCK).bind(&self.holder).execute(connection).await {
            tracing::warn!(%error, "the lock of the migrations could not be released; it expires in {STILL} s");
        }
    }
}

async fn is_inserted(connection: &mut MySqlConnection, holder: &str) -> Result<bool> {
    let insert = sqlx::query("INSERT IGNORE INTO glimpse_sync_lock VALUES (?, ?, 0)");
    let inserted = repeatable(insert.bind(LOCK).bind(holder).execute(connection).await)?;
    Ok(inserted == 1)
}

/// Takes the lock from the holder that was seen, unless its number has changed since.
async fn is_taken(connection: &mut MySqlConnection, holder: &str, seen: &Option<(String, i64)>) -> Result<bool> {
    let Some((dead, beat)) = seen else { return Ok(false) };
    let update = sqlx::query(
        "UPDATE glimpse_sync_lock SET process = ?, beat = beat + 1 WHERE slot = ? AND process = ? AND beat = ?",
    );
    let taken = repeatable(update.bind(holder).bind(LOCK).bind(dead).bind(beat).execute(connection).await)?;
    Ok(taken == 1)
}

/// The number of rows that a statement changed; none where another node's change won, after which it is tried again.
fn repeatable(done: Result<sqlx::mysql::MySqlQueryResult, sqlx::Error>) -> Result<u64> {
    match done.map_err(Error::from) {
        Ok(done) => Ok(done.rows_affected()),
        Err(Error::Conflict(_)) => Ok(0),
        Err(error) => Err(error),
    }
}

async fn beat_for_ever(mut connection: MySqlConnection, holder: String) {
    loop {
        sleep(BEAT).await;
        let update = sqlx::query("UPDATE glimpse_sync_lock SET beat = beat + 1 WHERE slot = ? AND process = ?");
        match repeatable(update.bind(LOCK).bind(&holder).execute(&mut connection).await) {
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(%error, "other processes may take this one's migrations for abandoned");
                // A connection that was lost does not come back.
                if connection.ping().await.is_err() {
                    return;
                }
            }
        }
    }
}
