//! Opening a database: its pools of connections, and how each connection is set up.

use std::{
    path::Path,
    sync::{
        Arc, Once,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use sqlx::{
    AssertSqlSafe, Executor, MySql, MySqlConnection, PgConnection, Postgres, SqlitePool,
    mysql::MySqlDatabaseError,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};

use super::{
    Db, Error, Result,
    pool::{ConnectionOptions, Pool, SetUp},
};
use crate::config::{DatabaseUrl, Target};

/// The number of connections that read an SQLite file concurrently. SQLite allows only one writer at a time.
const SQLITE_READERS: u32 = 4;
/// The maximum size of each reader's page cache, in the notation of the pragma: 8 MiB. A page of a listing by a tag reads about 3
/// MiB of a large file. With SQLite's default of 2 MiB, each request would read them from the file again.
const SQLITE_READER_CACHE: &str = "-8192";
/// The pause before another attempt to open a locked SQLite file.
pub(super) const SQLITE_PAUSE: Duration = Duration::from_millis(50);
/// Settings of the optimizer of MySQL and MariaDB. The rows of a page are looked up by the ids of images; estimating the number of
/// rows of each id before that (an index dive) takes as long as reading them. With row-id filters, MariaDB would read all images of
/// a visibility in order to filter a few images by it.
const OPTIMIZER_SETTINGS: [&str; 2] =
    ["SET SESSION eq_range_index_dive_limit = 2", "SET SESSION optimizer_switch = 'rowid_filter=off'"];

impl Db {
    /// Opens the database's pools. A server is not contacted yet: [`Db::acquire`] does that.
    ///
    /// # Errors
    /// `Unavailable` if an SQLite file cannot be opened.
    pub(crate) async fn open(url: &DatabaseUrl, limits: ConnectionOptions) -> Result<Self> {
        Ok(match &url.target {
            Target::Sqlite(path) => {
                let options = SqliteConnectOptions::new()
                    .filename(path)
                    .create_if_missing(true)
                    .foreign_keys(true)
                    .journal_mode(SqliteJournalMode::Wal)
                    // With NORMAL, a power failure could lose the last commits. A change must not be lost after its response.
                    .synchronous(SqliteSynchronous::Full)
                    .busy_timeout(limits.wait);
                let pool = |connections| {
                    SqlitePoolOptions::new().max_connections(connections).acquire_timeout(limits.wait * 2)
                };
                Self::Sqlite {
                    write: Pool::new(connect_sqlite(pool(1), &options, limits.wait).await?),
                    read: Pool::new(
                        pool(SQLITE_READERS).connect_lazy_with(options.pragma("cache_size", SQLITE_READER_CACHE)),
                    ),
                }
            }
            Target::Postgres(options) => {
                let set_up: SetUp<Postgres> = Arc::new(|connection| Box::pin(prepare_postgres(connection)));
                Self::Postgres(Pool::of_server((**options).clone(), limits, set_up, Arc::default()))
            }
            Target::MySql(options) => {
                let is_clustered = Arc::new(AtomicBool::new(false));
                let found = Arc::clone(&is_clustered);
                let wait = limits.wsrep_sync_wait.map(|level| Arc::new(SyncWait { level, is_unknown: Once::new() }));
                let set_up: SetUp<MySql> = Arc::new(move |connection| {
                    let (found, wait) = (Arc::clone(&found), wait.clone());
                    Box::pin(async move {
                        prepare_mysql(connection, wait.as_deref()).await?;
                        found.store(is_galera(connection).await?, Ordering::Relaxed);
                        Ok(())
                    })
                });
                Self::MySql(Pool::of_server((**options).clone(), limits, set_up, is_clustered))
            }
        })
    }

    /// Opens an SQLite file for reading. It is not created, and its journal mode stays as it is.
    pub(super) fn open_read_only(path: &Path, limits: ConnectionOptions) -> Self {
        let options = SqliteConnectOptions::new().filename(path).read_only(true).busy_timeout(limits.wait);
        let pool = SqlitePoolOptions::new().max_connections(1).acquire_timeout(limits.wait * 2);
        let pool = Pool::new(pool.connect_lazy_with(options));
        Self::Sqlite { write: pool.clone(), read: pool }
    }
}

/// Opens an SQLite file. While another process changes its journal mode to WAL, SQLite reports it as locked immediately, without
/// the busy timeout. Opening is therefore retried until that time is over.
async fn connect_sqlite(pool: SqlitePoolOptions, options: &SqliteConnectOptions, wait: Duration) -> Result<SqlitePool> {
    let deadline = Instant::now() + wait;
    loop {
        match pool.clone().connect_with(options.clone()).await.map_err(Error::from) {
            Err(Error::Unavailable(_)) if Instant::now() < deadline => tokio::time::sleep(SQLITE_PAUSE).await,
            done => return done,
        }
    }
}

/// Sets up a connection to PostgreSQL.
///
/// - Each statement has one generic plan. Planning it for each execution takes longer than most statements do.
/// - `enable_sort` is off, so that an index that has the order is scanned. The generic plan would sort all images of a project,
///   because the average project has few.
/// - Hash and merge joins are off, so that rows of other tables are looked up one by one. A hash join would compare the few images
///   that are shared with a project with all shared images.
/// - JIT compilation is off. A plan that has to sort has such a high estimated cost that PostgreSQL would compile it, which takes
///   half a second.
async fn prepare_postgres(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    let settings = "SET plan_cache_mode = force_generic_plan; SET enable_sort = off; SET enable_hashjoin = off; \
                  SET enable_mergejoin = off; SET jit = off";
    connection.execute(settings).await.map(drop)
}

/// Sets up a connection to MySQL or MariaDB. The isolation level is READ COMMITTED, as on PostgreSQL: without gap locks,
/// transactions that write the tags of different images do not deadlock. In strict mode, text that does not fit into a column is an
/// error.
async fn prepare_mysql(connection: &mut MySqlConnection, wait: Option<&SyncWait>) -> Result<(), sqlx::Error> {
    connection.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED").await?;
    connection.execute("SET SESSION sql_mode = CONCAT(@@sql_mode, ',STRICT_ALL_TABLES')").await?;
    for setting in OPTIMIZER_SETTINGS {
        // A server that does not support a setting returns the same rows.
        if let Err(error) = connection.execute(setting).await {
            tracing::debug!(%error, setting, "the server does not support an optimizer setting, which may make queries slower");
        }
    }
    if let Some(wait) = wait {
        wait.set(connection).await?;
    }
    Ok(())
}

/// `[database] mysql_wsrep_sync_wait`.
struct SyncWait {
    level: i64,
    /// Completed when a connection has found that the server does not have the variable.
    is_unknown: Once,
}

impl SyncWait {
    /// The number of MySQL's error "unknown system variable".
    const UNKNOWN_VARIABLE: u16 = 1193;

    /// Sets the variable. A server without Galera does not have it; this is logged once.
    async fn set(&self, connection: &mut MySqlConnection) -> Result<(), sqlx::Error> {
        let level = self.level;
        let set = connection.execute(AssertSqlSafe(format!("SET SESSION wsrep_sync_wait = {level}"))).await;
        let error = match set {
            Ok(_) => return Ok(()),
            Err(error) => error,
        };
        let reply = error.as_database_error().and_then(|reply| reply.try_downcast_ref::<MySqlDatabaseError>());
        if reply.map(MySqlDatabaseError::number) != Some(Self::UNKNOWN_VARIABLE) {
            return Err(error);
        }
        self.is_unknown.call_once(|| {
            tracing::warn!(%error, "[database] mysql_wsrep_sync_wait has no effect, because the server is not part of a Galera cluster");
        });
        Ok(())
    }
}

/// Whether the server is a node of a Galera cluster. MySQL does not have the variable at all.
async fn is_galera(connection: &mut MySqlConnection) -> Result<bool, sqlx::Error> {
    let row: Option<(String, String)> =
        sqlx::query_as("SHOW SESSION VARIABLES LIKE 'wsrep_on'").fetch_optional(connection).await?;
    Ok(row.is_some_and(|(_, value)| value == "ON"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Killing the process cannot distinguish FULL from NORMAL; only a power failure can.
    #[tokio::test]
    async fn sqlite_syncs_every_commit() {
        let dir = tempfile::tempdir().unwrap();
        let url = dir.path().join("test.sqlite").into();
        let limits = ConnectionOptions {
            max_connections: 1,
            max_age: None,
            wait: Duration::from_secs(1),
            wsrep_sync_wait: None,
        };
        let db = Db::open(&url, limits).await.unwrap();
        let Db::Sqlite { write, .. } = &db else { panic!("{db:?}") };
        let mut held = write.acquire().await.unwrap();
        let write = held.connection().unwrap();
        let synchronous: i64 = sqlx::query_scalar("PRAGMA synchronous").fetch_one(&mut *write).await.unwrap();
        let journal: String = sqlx::query_scalar("PRAGMA journal_mode").fetch_one(&mut *write).await.unwrap();
        let foreign_keys: bool = sqlx::query_scalar("PRAGMA foreign_keys").fetch_one(&mut *write).await.unwrap();
        assert_eq!((synchronous, journal.as_str(), foreign_keys), (2, "wal", true));
    }

    /// `benches/listing` measures the effect.
    #[tokio::test]
    async fn sqlites_page_cache_has_the_size_for_a_listing() {
        let dir = tempfile::tempdir().unwrap();
        let limits = ConnectionOptions {
            max_connections: 1,
            max_age: None,
            wait: Duration::from_secs(1),
            wsrep_sync_wait: None,
        };
        let db = Db::open(&dir.path().join("test.sqlite").into(), limits).await.unwrap();
        let Db::Sqlite { read, .. } = &db else { panic!("{db:?}") };
        let kibibytes: i64 = sqlx::query_scalar("PRAGMA cache_size")
            .fetch_one(read.acquire().await.unwrap().connection().unwrap())
            .await
            .unwrap();
        assert_eq!(kibibytes, -8192);
    }
}
