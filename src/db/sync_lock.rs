//! The lock of `db sync` in a Galera cluster.
//!
//! `GET_LOCK` is local to one node. This lock is a replicated row: the process that inserts the row holds the lock, increments
//! the row's heartbeat counter every second, and removes the row at the end. A waiting process takes the lock over if the
//! counter does not change. A schema change blocks all writes in the cluster, including heartbeats, so a waiting process counts
//! only seconds in which it could write itself. The holder checks before each migration that the lock is still its own.

use std::time::Duration;

use futures_util::future::BoxFuture;
use sqlx::MySqlConnection;
use tokio::time::{sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::{Error, Result};

/// The slot of the lock's row. Each waiting process writes to a row with a slot of its own.
const LOCK: i64 = 0;
/// The number of checks without a heartbeat after which the holder counts as dead.
const MAX_MISSED: u32 = 10;
/// The number of checks between two log lines.
const REPORT_EVERY: u32 = 10;
/// The number of intervals after which a heartbeat without an answer is sent on another connection as well.
const SLOW: u32 = 5;
/// How often a check of the lock is retried that lost a conflict with another node.
const CHECK_ATTEMPTS: u32 = 10;

/// Opens a connection for heartbeats. It must not be one of a pool that the migrations use up.
pub(super) type Connect = Box<dyn Fn() -> BoxFuture<'static, Result<MySqlConnection>> + Send + Sync>;

/// The times of the lock.
#[derive(Debug, Clone, Copy)]
pub(super) struct Timing {
    /// The interval of the holder's heartbeats, and of the checks of a waiting process.
    pub(super) heartbeat: Duration,
    /// How long a process waits for the lock.
    pub(super) patience: Duration,
}

/// The lock while it is held. The holder calls [`SyncLock::release`]; if it does not, other processes wait for [`MAX_MISSED`]
/// heartbeats.
#[derive(Debug)]
pub(super) struct SyncLock {
    holder: String,
    _heartbeat: AbortOnDropHandle<()>,
}

impl SyncLock {
    /// Waits for the lock until its holder releases it or dies.
    ///
    /// # Errors
    /// `Schema` with the holder's name if the lock is not free in time, `Unavailable`.
    pub(super) async fn take(connection: &mut MySqlConnection, connect: Connect, timing: Timing) -> Result<Self> {
        let table = "CREATE TABLE IF NOT EXISTS glimpse_sync_lock \
                     (slot BIGINT NOT NULL PRIMARY KEY, process VARCHAR(36) NOT NULL, beat BIGINT NOT NULL) ENGINE=InnoDB";
        let mut waiting = Waiting { holder: name(), seen: None };
        let Timing { heartbeat, patience } = timing;
        let taken = timeout(patience, async {
            sqlx::query(table).execute(&mut *connection).await?;
            waiting.until_taken(connection, heartbeat).await
        });
        match taken.await {
            Ok(taken) => taken?,
            Err(_) => return Err(Error::Schema(waiting.out_of_patience(patience))),
        }
        // Rows of processes that have died while they waited. A living one writes its row again.
        let others = sqlx::query("DELETE FROM glimpse_sync_lock WHERE slot <> ?").bind(LOCK);
        changed_rows(others.execute(&mut *connection).await)?;
        let heartbeats = send_heartbeats(connect, waiting.holder.clone(), heartbeat);
        Ok(Self { holder: waiting.holder, _heartbeat: AbortOnDropHandle::new(tokio::spawn(heartbeats)) })
    }

    /// Checks that no other process has taken the lock over, and sends a heartbeat.
    ///
    /// # Errors
    /// `Schema` if the lock is no longer this process's, `Unavailable`.
    pub(super) async fn check(&self, connection: &mut MySqlConnection) -> Result<()> {
        for _ in 0..CHECK_ATTEMPTS {
            match beat(connection, &self.holder).await {
                Ok(true) => return Ok(()),
                Ok(false) => {
                    let lost = "another process has taken over the migrations, because the heartbeats of this one did not \
                                arrive; no further migration was started. Run `glimpse db check`";
                    return Err(Error::Schema(lost.to_owned()));
                }
                // Another node has changed the row: whether it took the lock over shows the next attempt.
                Err(Error::Conflict(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Err(Error::Schema("the lock of the migrations is contended; run `glimpse db sync` again".to_owned()))
    }

    /// Releases the lock, and removes the rows of processes that no longer wait. If that fails, the lock expires.
    pub(super) async fn release(self, connection: &mut MySqlConnection) {
        let delete = sqlx::query("DELETE FROM glimpse_sync_lock WHERE slot <> ? OR process = ?");
        if let Err(error) = delete.bind(LOCK).bind(&self.holder).execute(connection).await {
            tracing::warn!(%error, "cannot release the lock of the migrations; it expires in {MAX_MISSED} s");
        }
    }
}

/// A process that waits for the lock.
struct Waiting {
    holder: String,
    /// The holder of the lock and its counter, as this process saw them last.
    seen: Option<(String, i64)>,
}

impl Waiting {
    async fn until_taken(&mut self, connection: &mut MySqlConnection, every: Duration) -> Result<()> {
        let slot = rand::random_range(LOCK + 1..i64::MAX);
        let (mut missed, mut waits) = (0, 0);
        while !(self.try_insert(connection).await? || missed >= MAX_MISSED && self.try_take_over(connection).await?) {
            let now = sqlx::query_as("SELECT process, beat FROM glimpse_sync_lock WHERE slot = ?");
            let now = now.bind(LOCK).fetch_optional(&mut *connection).await?;
            missed = if now == self.seen { missed + 1 } else { 0 };
            self.seen = now;
            if waits % REPORT_EVERY == 0 {
                let holder = self.seen_holder();
                tracing::info!(holder, "another process is migrating this database; waiting until it has finished");
            }
            waits += 1;
            sleep(every).await;
            // This blocks during a schema change.
            let written = sqlx::query("REPLACE INTO glimpse_sync_lock VALUES (?, ?, ?)");
            changed_rows(written.bind(slot).bind(&self.holder).bind(waits).execute(&mut *connection).await)?;
        }
        Ok(())
    }

    /// Takes the lock if no process holds it.
    async fn try_insert(&self, connection: &mut MySqlConnection) -> Result<bool> {
        let insert = sqlx::query("INSERT IGNORE INTO glimpse_sync_lock VALUES (?, ?, 0)");
        let inserted = changed_rows(insert.bind(LOCK).bind(&self.holder).execute(connection).await)?;
        Ok(inserted == 1)
    }

    /// Takes the lock over from the holder that was seen, unless its heartbeat counter has changed since.
    async fn try_take_over(&self, connection: &mut MySqlConnection) -> Result<bool> {
        let Some((dead, beat)) = &self.seen else { return Ok(false) };
        let update = sqlx::query(
            "UPDATE glimpse_sync_lock SET process = ?, beat = beat + 1 WHERE slot = ? AND process = ? AND beat = ?",
        );
        let taken = changed_rows(update.bind(&self.holder).bind(LOCK).bind(dead).bind(beat).execute(connection).await)?;
        if taken == 1 {
            tracing::warn!(holder = dead, "the process that migrated this database has died; continuing its work");
        }
        Ok(taken == 1)
    }

    fn seen_holder(&self) -> &str {
        self.seen.as_ref().map_or("unknown", |(holder, _)| holder.as_str())
    }

    fn out_of_patience(&self, patience: Duration) -> String {
        let (holder, seconds) = (self.seen_holder(), patience.as_secs());
        format!(
            "the process {holder} (host:pid:id) is still migrating the database after {seconds} s; \
             run `glimpse db sync` again when it has finished"
        )
    }
}

/// A name for this process, in which an operator finds it: its host and process id, and a random number. At most 36 characters.
fn name() -> String {
    let host = rustix::system::uname();
    let host: String = host.nodename().to_string_lossy().chars().take(18).collect();
    format!("{host}:{}:{:08x}", std::process::id(), rand::random::<u32>())
}

/// Increments the lock's counter. Returns `false` if another process holds the lock.
async fn beat(connection: &mut MySqlConnection, holder: &str) -> Result<bool> {
    let update = sqlx::query("UPDATE glimpse_sync_lock SET beat = beat + 1 WHERE slot = ? AND process = ?");
    Ok(update.bind(LOCK).bind(holder).execute(connection).await?.rows_affected() == 1)
}

/// Returns the number of rows that a statement changed: 0 if it lost a conflict with another node, after which the caller retries.
fn changed_rows(done: Result<sqlx::mysql::MySqlQueryResult, sqlx::Error>) -> Result<u64> {
    match done.map_err(Error::from) {
        Ok(done) => Ok(done.rows_affected()),
        Err(Error::Conflict(_)) => Ok(0),
        Err(error) => Err(error),
    }
}

/// Sends heartbeats until another process holds the lock.
async fn send_heartbeats(connect: Connect, holder: String, every: Duration) {
    let mut connection = None;
    let mut is_failing = false;
    loop {
        sleep(every).await;
        let mut first = std::pin::pin!(send_heartbeat(&connect, connection.take(), &holder));
        let sent = match timeout(every * SLOW, &mut first).await {
            Ok(sent) => sent,
            // Either a schema change blocks it, or its connection is dead.
            Err(_) => tokio::select! {
                sent = first => sent,
                sent = send_heartbeat(&connect, None, &holder) => sent,
            },
        };
        match sent {
            Ok((used, true)) => {
                connection = Some(used);
                is_failing = false;
            }
            Ok((_, false)) => return,
            // Another node has changed the row.
            Err(Error::Conflict(_)) => {}
            Err(error) if is_failing => tracing::debug!(%error, "heartbeat failed"),
            Err(error) => {
                tracing::warn!(%error, "heartbeat failed, other processes may take over the migrations; retrying");
                is_failing = true;
            }
        }
    }
}

/// Sends a heartbeat on this connection or on a new one, and returns the connection.
async fn send_heartbeat(
    connect: &Connect,
    connection: Option<MySqlConnection>,
    holder: &str,
) -> Result<(MySqlConnection, bool)> {
    let mut connection = match connection {
        Some(connection) => connection,
        None => connect().await?,
    };
    let is_held = beat(&mut connection, holder).await?;
    Ok((connection, is_held))
}

/// These run on the server that `GLIMPSE_TEST_DATABASE` names, if that is MariaDB: the statements are those of a cluster.
#[cfg(test)]
mod on_a_server {
    use std::sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    };

    use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, mysql::MySqlConnectOptions};

    use super::*;
    use crate::db::test_database;

    const TIMING: Timing = Timing { heartbeat: Duration::from_millis(50), patience: Duration::from_secs(20) };

    /// An empty database.
    #[derive(Clone)]
    struct Fixture {
        options: MySqlConnectOptions,
        /// The number of connections that were opened for heartbeats.
        opened: Arc<AtomicU32>,
    }

    impl Fixture {
        async fn create() -> Option<Self> {
            Some(Self { options: test_database::create_on_mariadb().await?, opened: Arc::default() })
        }

        async fn connect(&self) -> MySqlConnection {
            self.options.connect().await.unwrap()
        }

        fn heartbeats(&self) -> Connect {
            let Self { options, opened } = self.clone();
            Box::new(move || {
                let options = options.clone();
                opened.fetch_add(1, Ordering::SeqCst);
                Box::pin(async move { Ok(options.connect().await?) })
            })
        }

        async fn take(&self, patience: Duration) -> Result<SyncLock> {
            let timing = Timing { patience, ..TIMING };
            SyncLock::take(&mut self.connect().await, self.heartbeats(), timing).await
        }

        async fn rows(&self) -> Vec<(i64, String, i64)> {
            let rows = sqlx::query_as("SELECT slot, process, beat FROM glimpse_sync_lock ORDER BY slot");
            rows.fetch_all(&mut self.connect().await).await.unwrap()
        }

        async fn execute(&self, sql: &'static str) {
            sqlx::query(sql).execute(&mut self.connect().await).await.unwrap();
        }

        /// Waits until the holder has sent some more heartbeats.
        async fn beats(&self) {
            let before = self.rows().await[0].2;
            for _ in 0..200 {
                sleep(TIMING.heartbeat).await;
                if self.rows().await[0].2 > before + 2 {
                    return;
                }
            }
            panic!("there are no heartbeats");
        }
    }

    #[tokio::test]
    async fn a_process_waits_until_the_lock_is_released() {
        let Some(fixture) = Fixture::create().await else { return };
        let first = fixture.take(TIMING.patience).await.unwrap();
        fixture.beats().await;
        let (waiting, holder) = (fixture.clone(), first.holder.clone());
        let waiting = tokio::spawn(async move { waiting.take(TIMING.patience).await });
        fixture.beats().await;
        assert!(!waiting.is_finished());
        // It is longer than the time after which a dead holder is replaced.
        sleep(TIMING.heartbeat * (MAX_MISSED + 5)).await;
        assert!(!waiting.is_finished());
        first.check(&mut fixture.connect().await).await.unwrap();
        first.release(&mut fixture.connect().await).await;
        let second = waiting.await.unwrap().unwrap();
        assert_ne!(second.holder, holder);
        second.release(&mut fixture.connect().await).await;
        assert_eq!(fixture.rows().await, []);
    }

    #[tokio::test]
    async fn waiting_ends_with_an_error_that_names_the_holder() {
        let Some(fixture) = Fixture::create().await else { return };
        let first = fixture.take(TIMING.patience).await.unwrap();
        let error = fixture.take(Duration::from_secs(1)).await.unwrap_err().to_string();
        assert!(error.contains(&first.holder) && error.contains("still migrating the database after 1 s"), "{error}");
        assert!(first.holder.contains(&format!(":{}:", std::process::id())) && first.holder.len() <= 36);
        // The row of the process that has stopped waiting goes with the next release.
        assert_eq!(fixture.rows().await.len(), 2);
        first.release(&mut fixture.connect().await).await;
        assert_eq!(fixture.rows().await, []);
    }

    #[tokio::test]
    async fn a_dead_holder_is_replaced_and_rows_of_dead_processes_are_removed() {
        let Some(fixture) = Fixture::create().await else { return };
        let dead = fixture.take(TIMING.patience).await.unwrap();
        fixture.execute("INSERT INTO glimpse_sync_lock VALUES (7, 'dead', 3)").await;
        let SyncLock { holder, _heartbeat: heartbeat } = dead;
        drop(heartbeat);
        let second = fixture.take(TIMING.patience).await.unwrap();
        let rows = fixture.rows().await;
        assert_eq!(rows.len(), 1, "{rows:?}");
        assert_eq!(rows[0].1, second.holder);
        // If it was only slow, it learns that it has lost the lock.
        let first = SyncLock { holder, _heartbeat: AbortOnDropHandle::new(tokio::spawn(async {})) };
        let error = first.check(&mut fixture.connect().await).await.unwrap_err().to_string();
        assert!(error.contains("another process has taken over the migrations"), "{error}");
        first.release(&mut fixture.connect().await).await;
        second.check(&mut fixture.connect().await).await.unwrap();
    }

    #[tokio::test]
    async fn heartbeats_continue_on_another_connection_when_theirs_is_lost() {
        let Some(fixture) = Fixture::create().await else { return };
        let _lock = fixture.take(TIMING.patience).await.unwrap();
        fixture.beats().await;
        assert_eq!(fixture.opened.load(Ordering::SeqCst), 1);
        let mut admin = fixture.connect().await;
        let others = "SELECT id FROM information_schema.processlist WHERE db = DATABASE() AND id <> CONNECTION_ID()";
        for id in sqlx::query_scalar::<_, i64>(others).fetch_all(&mut admin).await.unwrap() {
            let _ = sqlx::query(AssertSqlSafe(format!("KILL CONNECTION {id}"))).execute(&mut admin).await;
        }
        fixture.beats().await;
        assert!(fixture.opened.load(Ordering::SeqCst) > 1);
        // A heartbeat that is blocked, as by a schema change, is sent on one more connection, and no more.
        let mut blocking = fixture.connect().await;
        let mut transaction = blocking.begin().await.unwrap();
        sqlx::query("UPDATE glimpse_sync_lock SET beat = beat + 1").execute(&mut *transaction).await.unwrap();
        let before = fixture.opened.load(Ordering::SeqCst);
        sleep(TIMING.heartbeat * SLOW * 5).await;
        assert_eq!(fixture.opened.load(Ordering::SeqCst), before + 1);
        transaction.rollback().await.unwrap();
        fixture.beats().await;
    }
}
