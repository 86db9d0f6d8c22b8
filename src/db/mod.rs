//! One pool, one session trait, three engines. Which of them is in use, this file and `migrate` know, and no query.
//!
//! Queries are plain functions over `&mut impl Session`, one file per noun, each written once for SQLite, PostgreSQL
//! and MySQL/MariaDB. A read takes `Db::acquire`, a write `Db::transaction`, which commits when its work returned `Ok`
//! and runs it again when the engine gave it up for another transaction.

pub(crate) mod details;
mod image_locks;
pub(crate) mod images;
pub(crate) mod listing;
pub(crate) mod locations;
pub(crate) mod members;
pub(crate) mod migrate;
mod pool;
pub(crate) mod processes;
pub(crate) mod properties;
pub(crate) mod purge;
mod sync_lock;
pub(crate) mod tables;
pub(crate) mod tags;
pub(crate) mod uploads;
pub(crate) mod usage;

use std::{
    future::Future,
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use chrono::NaiveDateTime;
use futures_util::TryStreamExt as _;
use sea_query::{
    Cond, Condition, Expr, ExprTrait, Func, IntoColumnRef, MysqlQueryBuilder, PostgresQueryBuilder, SelectStatement,
    SqliteQueryBuilder, UnionType, Value,
};
use sea_query_sqlx::{SqlxBinder, SqlxValues};
use sqlx::{
    AssertSqlSafe, Executor, FromRow, MySql, MySqlConnection, PgConnection, Postgres, Sqlite, SqlitePool,
    mysql::{MySqlPoolOptions, MySqlRow},
    postgres::{PgPoolOptions, PgRow},
    query_as_with, query_with,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteRow, SqliteSynchronous},
};

use self::pool::{Held, Pool};
use crate::config::{Database, DatabaseUrl, Target};

/// How often a transaction that the engine gave up for another one is run, in all.
const TRANSACTION_ATTEMPTS: u32 = 10;
/// The longest first pause before such a transaction is run again; it doubles from one attempt to the next.
const RETRY_PAUSE: Duration = Duration::from_millis(5);
/// Connections that read an SQLite file at the same time. Writers are one at a time in any case.
const SQLITE_READERS: u32 = 4;
/// Memory for pages of the file that each of them keeps, at the most, in the pragma's spelling: 8 MiB. A page of a listing by a tag
/// looks at some 3 MiB of a large file, and with SQLite's own 2 MiB reads them anew each time.
const SQLITE_READER_CACHE: &str = "-8192";

/// The pause before a locked SQLite file is asked for again.
const SQLITE_PAUSE: Duration = Duration::from_millis(50);

/// Bytes that a row weighs beside its texts: what it is in, and its image's id.
const ROW_WEIGHT: usize = 128;

/// How MySQL and MariaDB are to find rows. A page's are looked up by their images' ids: to look each id up before that, to learn how
/// many rows it has, takes as long as reading them. And to filter a few images by their visibility, MariaDB would read all others
/// of that visibility, too.
const HABITS: [&str; 2] =
    ["SET SESSION eq_range_index_dive_limit = 2", "SET SESSION optimizer_switch = 'rowid_filter=off'"];

/// Rows of one INSERT: SQLite takes 32,766 values a statement.
const ROWS_PER_INSERT: usize = 500;

/// What a database call can come back with.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// A unique key holds that value already.
    #[error("row already exists")]
    Duplicate,
    /// Other rows belong to the one that should go.
    #[error("other rows belong to it: {0}")]
    Referred(#[source] sqlx::Error),
    /// The engine gave the transaction up for another one; running it again may succeed.
    #[error("transaction conflict: {0}")]
    Conflict(#[source] sqlx::Error),
    /// The database does not answer, or answers that it can't now.
    #[error("{0}")]
    Unavailable(#[source] sqlx::Error),
    /// The statement or the data is at fault.
    #[error("{0}")]
    Fault(#[source] sqlx::Error),
    /// The statement cannot be built.
    #[error("{0}")]
    Statement(String),
    /// The schema cannot be brought to, or is not at, the version that this program needs.
    #[error("{0}")]
    Schema(String),
}

/// The result of a database call.
pub(crate) type Result<T, E = Error> = std::result::Result<T, E>;

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        let unavailable = matches!(
            error,
            sqlx::Error::Io(_)
                | sqlx::Error::Tls(_)
                | sqlx::Error::Protocol(_)
                | sqlx::Error::PoolTimedOut
                | sqlx::Error::PoolClosed
                | sqlx::Error::WorkerCrashed
        );
        if unavailable {
            return Self::Unavailable(error);
        }
        let Some(reply) = error.as_database_error() else {
            return Self::Fault(error);
        };
        if reply.is_unique_violation() {
            return Self::Duplicate;
        }
        if reply.is_foreign_key_violation() {
            return Self::Referred(error);
        }
        let code = reply.code().unwrap_or_default();
        if let Some(reply) = reply.try_downcast_ref::<sqlx::mysql::MySqlDatabaseError>() {
            return match reply.number() {
                // Deadlock, lock wait timeout, and Galera's failed certification (which comes as a deadlock).
                1213 | 1205 => Self::Conflict(error),
                // Too many connections, access denied, no such database, shutdown in progress, connection killed, query
                // interrupted or timed out, read-only while failing over. Galera: a node that is not (1047), or is no longer
                // (1180), in its cluster; after 1180, whether the transaction was committed is unknown, so it is not run again.
                1040 | 1044 | 1045 | 1047 | 1049 | 1053 | 1180 | 1203 | 1290 | 1317 | 1792 | 1836 | 1927 | 1969
                | 3024 | 4031 => Self::Unavailable(error),
                _ => Self::Fault(error),
            };
        }
        if reply.try_downcast_ref::<sqlx::sqlite::SqliteError>().is_some() {
            // The low byte is the primary code: SQLITE_BUSY, SQLITE_LOCKED, SQLITE_FULL, SQLITE_IOERR, SQLITE_CANTOPEN.
            return match code.parse::<u32>().unwrap_or_default() & 0xff {
                5 | 6 | 10 | 13 | 14 => Self::Unavailable(error),
                _ => Self::Fault(error),
            };
        }
        match code.as_ref() {
            "40001" | "40P01" => Self::Conflict(error),
            // Read-only while failing over; access denied; no such database; a lock or a statement that took too long.
            "25006" | "28000" | "28P01" | "3D000" | "55P03" | "57014" => Self::Unavailable(error),
            // Classes 08 (connection), 53 (resources), 57P (shutdown).
            code if ["08", "53", "57P"].iter().any(|class| code.starts_with(class)) => Self::Unavailable(error),
            _ => Self::Fault(error),
        }
    }
}

impl From<Error> for crate::error::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::Unavailable(_) | Error::Conflict(_) => {
                Self::Unavailable { service: "the database", source: error.into() }
            }
            Error::Duplicate | Error::Referred(_) | Error::Fault(_) | Error::Statement(_) | Error::Schema(_) => {
                Self::Internal(error.into())
            }
        }
    }
}

/// A row type that decodes from every engine. `#[derive(FromRow)]` gives it for free.
pub(crate) trait DbRow:
    for<'r> FromRow<'r, SqliteRow> + for<'r> FromRow<'r, PgRow> + for<'r> FromRow<'r, MySqlRow> + Send + Unpin
{
}

impl<T> DbRow for T where
    T: for<'r> FromRow<'r, SqliteRow> + for<'r> FromRow<'r, PgRow> + for<'r> FromRow<'r, MySqlRow> + Send + Unpin
{
}

/// One connection, in or out of a transaction. A statement is one round trip.
pub(crate) trait Session: Send {
    /// Runs a statement and returns the number of rows that it matched.
    fn execute(&mut self, statement: impl SqlxBinder + Send) -> impl Future<Output = Result<u64>> + Send;
    /// Reads every row.
    fn all<T: DbRow>(&mut self, statement: impl SqlxBinder + Send) -> impl Future<Output = Result<Vec<T>>> + Send;
    /// Reads every row, while what they weigh has room, and takes it from the room. `None` where there is more than that: the
    /// rest is still on its way, and the connection is to be given up.
    fn all_within<T: DbRow>(
        &mut self,
        statement: impl SqlxBinder + Send,
        room: &mut usize,
        weigh: fn(&T) -> usize,
    ) -> impl Future<Output = Result<Option<Vec<T>>>> + Send;
    /// Reads the first row, if there is one.
    fn optional<T: DbRow>(
        &mut self,
        statement: impl SqlxBinder + Send,
    ) -> impl Future<Output = Result<Option<T>>> + Send;
    /// `column` holds exactly this text: case, accents and trailing spaces count, whatever the collation says.
    fn exactly(&self, column: impl IntoColumnRef, text: &str) -> Condition;
    /// A text that is compared and sorted by its bytes, as on every other engine, whatever the collation says.
    fn bytewise(&self, text: Expr) -> Expr;
    /// The sum over all rows as a whole number of 64 bits, 0 where there is none. Each engine has a type of its own for it.
    fn sum(&self, number: Expr) -> Expr;
    /// `column` is `value`, if `gate` holds, which looks at no row. Where it does not hold, nothing is read.
    fn gated(&self, gate: &Condition, column: Expr, value: Expr) -> Condition;
    /// Whether a statement costs its way to a server and back.
    fn pays_for_round_trips(&self) -> bool;
    /// Whether a part of a union may have an order and a limit of its own.
    fn orders_parts(&self) -> bool;
    /// Whether `(a, b) < (x, y)` is looked up in an index on `(a, b)`. Where it is not, the same in ANDs and ORs is.
    fn seeks_rows(&self) -> bool;
}

/// A database, by engine. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) enum Db {
    /// An SQLite file. It takes one writer at a time, and those that wait queue here, in order, instead of polling
    /// its lock against each other.
    Sqlite {
        /// Read-only work.
        read: Pool<Sqlite>,
        /// The one connection that writes.
        write: Pool<Sqlite>,
    },
    /// A PostgreSQL server.
    Postgres(Pool<Postgres>),
    /// A MySQL or MariaDB server.
    MySql(Pool<MySql>),
}

/// A connection out of a transaction.
pub(crate) enum Conn {
    /// See [`Db`].
    Sqlite(Held<Sqlite>),
    /// See [`Db`].
    Postgres(Held<Postgres>),
    /// See [`Db`].
    MySql(Held<MySql>),
}

/// A transaction; dropping it rolls back.
pub(crate) enum Tx {
    /// See [`Db`].
    Sqlite(Held<Sqlite>),
    /// See [`Db`].
    Postgres(Held<Postgres>),
    /// See [`Db`].
    MySql(Held<MySql>),
}

/// Connections to a server database where the configuration sets no bound.
const MAX_CONNECTIONS: i64 = 1000;

/// How connections to the database are opened and kept.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ConnectionOptions {
    /// Connections to a server database at most.
    pub(crate) max_connections: u32,
    /// The age at which a connection to a server is replaced.
    pub(crate) max_age: Option<Duration>,
    /// The longest wait for a free connection, and on SQLite for another process's lock.
    pub(crate) wait: Duration,
    /// Galera's `wsrep_sync_wait` for each connection; `None` leaves the server's setting.
    pub(crate) wsrep_sync_wait: Option<i64>,
}

impl From<&Database> for ConnectionOptions {
    fn from(options: &Database) -> Self {
        // SQLAlchemy's pool is without a bound where the overflow is negative, or the size is 0.
        let bounded = options.max_overflow >= 0 && options.max_pool_size > 0;
        let sum = options.max_overflow.saturating_add(options.max_pool_size.into());
        let max_connections = if bounded { sum.clamp(1, MAX_CONNECTIONS) } else { MAX_CONNECTIONS };
        Self {
            max_connections: max_connections.try_into().unwrap_or(1),
            max_age: options.connection_recycle_time.try_into().ok().map(Duration::from_secs),
            wait: options.pool_timeout,
            wsrep_sync_wait: options.mysql_wsrep_sync_wait,
        }
    }
}

impl Db {
    /// Opens the database's pools. A server is not contacted yet: [`Db::acquire`] does that.
    ///
    /// # Errors
    /// `Unavailable` where an SQLite file cannot be opened.
    pub(crate) async fn open(url: &DatabaseUrl, limits: ConnectionOptions) -> Result<Self> {
        Ok(match &url.target {
            Target::Sqlite(path) => {
                let options = SqliteConnectOptions::new()
                    .filename(path)
                    .create_if_missing(true)
                    .foreign_keys(true)
                    .journal_mode(SqliteJournalMode::Wal)
                    // WAL with NORMAL may lose the last commits with the power; what was answered must not be lost.
                    .synchronous(SqliteSynchronous::Full)
                    .busy_timeout(limits.wait);
                let pool = |connections| {
                    SqlitePoolOptions::new().max_connections(connections).acquire_timeout(limits.wait * 2)
                };
                Self::Sqlite {
                    write: Pool::new(connect_sqlite(pool(1), &options, limits.wait).await?, Arc::default()),
                    read: Pool::new(
                        pool(SQLITE_READERS).connect_lazy_with(options.pragma("cache_size", SQLITE_READER_CACHE)),
                        Arc::default(),
                    ),
                }
            }
            Target::Postgres(options) => {
                let pool = PgPoolOptions::new().after_connect(|connection, _| Box::pin(prepare_postgres(connection)));
                Self::Postgres(Pool::of_server(pool, (**options).clone(), limits, Arc::default()))
            }
            Target::MySql(options) => {
                let is_clustered = Arc::new(AtomicBool::new(false));
                let found = Arc::clone(&is_clustered);
                let pool = MySqlPoolOptions::new().after_connect(move |connection, _| {
                    let found = Arc::clone(&found);
                    Box::pin(async move {
                        prepare_mysql(connection, limits.wsrep_sync_wait).await?;
                        found.store(is_galera(connection).await?, Ordering::Relaxed);
                        Ok(())
                    })
                });
                Self::MySql(Pool::of_server(pool, (**options).clone(), limits, is_clustered))
            }
        })
    }

    /// Takes a connection to read with.
    pub(crate) async fn acquire(&self) -> Result<Conn> {
        Ok(match self {
            Self::Sqlite { read, .. } => Conn::Sqlite(read.acquire().await?),
            Self::Postgres(pool) => Conn::Postgres(pool.acquire().await?),
            Self::MySql(pool) => Conn::MySql(pool.acquire().await?),
        })
    }

    /// Takes a connection for a statement that is a transaction by itself.
    pub(crate) async fn acquire_to_write(&self) -> Result<Conn> {
        match self {
            Self::Sqlite { write, .. } => Ok(Conn::Sqlite(write.acquire().await?)),
            Self::Postgres(_) | Self::MySql(_) => self.acquire().await,
        }
    }

    /// Starts a transaction; dropping it rolls back. SQLite takes its write lock at once.
    async fn begin(&self) -> Result<Tx> {
        Ok(match self {
            Self::Sqlite { write, .. } => {
                let mut held = write.acquire().await?;
                held.begin("BEGIN IMMEDIATE").await?;
                Tx::Sqlite(held)
            }
            Self::Postgres(pool) => {
                let mut held = pool.acquire().await?;
                held.begin("BEGIN").await?;
                Tx::Postgres(held)
            }
            Self::MySql(pool) => {
                let mut held = pool.acquire().await?;
                held.begin("BEGIN").await?;
                Tx::MySql(held)
            }
        })
    }

    /// Runs `work` in a transaction. It is committed when `work` gives it back with its value, and undone when `work`
    /// fails or is dropped. Costs BEGIN and COMMIT beside what the work does. Where the engine gave the transaction up for
    /// another one, the work is run again, [`TRANSACTION_ATTEMPTS`] times in all: it must have no effects outside.
    ///
    /// # Errors
    /// What the work returned, or `Unavailable`.
    pub(crate) async fn transaction<T, F>(&self, work: impl Fn(Tx) -> F) -> Result<T, crate::error::Error>
    where
        F: Future<Output = Result<(Tx, T), crate::error::Error>>,
    {
        let mut pause = RETRY_PAUSE;
        for _ in 1..TRANSACTION_ATTEMPTS {
            match self.attempt(&work).await {
                Err(error) if is_conflict(&error) => {
                    tracing::debug!(%error, "transaction is run again");
                    tokio::time::sleep(pause.mul_f64(rand::random())).await;
                    pause *= 2;
                }
                done => return done,
            }
        }
        self.attempt(&work).await
    }

    async fn attempt<T, F>(&self, work: &impl Fn(Tx) -> F) -> Result<T, crate::error::Error>
    where
        F: Future<Output = Result<(Tx, T), crate::error::Error>>,
    {
        let (tx, value) = work(self.begin().await?).await?;
        tx.commit().await?;
        Ok(value)
    }

    /// Closes every connection, after what is under way.
    pub(crate) async fn close(&self) {
        match self {
            Self::Sqlite { read, write } => {
                read.close().await;
                write.close().await;
            }
            Self::Postgres(pool) => pool.close().await,
            Self::MySql(pool) => pool.close().await,
        }
    }
}

/// Opens an SQLite file. Where another process turns it to WAL at the same moment, SQLite says that it is locked at once,
/// whatever the busy timeout is: so it is asked again for as long.
async fn connect_sqlite(pool: SqlitePoolOptions, options: &SqliteConnectOptions, wait: Duration) -> Result<SqlitePool> {
    let give_up = Instant::now() + wait;
    loop {
        match pool.clone().connect_with(options.clone()).await.map_err(Error::from) {
            Err(Error::Unavailable(_)) if Instant::now() < give_up => tokio::time::sleep(SQLITE_PAUSE).await,
            done => return done,
        }
    }
}

/// Bounds the time of what is done at the database, which may answer nothing at all.
pub(crate) async fn in_time<T>(
    patience: Duration,
    work: impl Future<Output = Result<T, crate::error::Error>>,
) -> Result<T, crate::error::Error> {
    let silent = || crate::error::Error::Unavailable { service: "the database", source: "it took too long".into() };
    tokio::time::timeout(patience, work).await.unwrap_or_else(|_| Err(silent()))
}

/// That a column has the time that was read there, if any.
fn is_time(column: impl IntoColumnRef, time: Option<NaiveDateTime>) -> Expr {
    let column = Expr::col(column);
    match time {
        Some(time) => column.eq(time),
        None => column.is_null(),
    }
}

/// That a row is not deleted, where it is found by something else. Not `deleted = FALSE`: SQLite would take the index on that, in which
/// is nearly every row of the table, for as good as one on the image's id.
fn is_live(deleted: impl IntoColumnRef) -> Expr {
    Expr::col(deleted).not()
}

/// That a status is `pending_delete`; in the statement's text, without which SQLite does not see that an index of such rows alone
/// serves.
fn is_pending_delete(status: impl IntoColumnRef) -> Expr {
    Expr::col(status).eq(Expr::cust("'pending_delete'"))
}

/// Whether it failed because other rows belong to the one that should go.
pub(crate) fn is_referred(error: &crate::error::Error) -> bool {
    match error {
        crate::error::Error::Internal(source) => matches!(source.downcast_ref::<Error>(), Some(Error::Referred(_))),
        _ => false,
    }
}

fn is_conflict(error: &crate::error::Error) -> bool {
    match error {
        crate::error::Error::Unavailable { source, .. } => {
            matches!(source.downcast_ref::<Error>(), Some(Error::Conflict(_)))
        }
        _ => false,
    }
}

/// One plan for each statement, for any values: to plan a statement anew each time takes longer than most statements. Such a plan would
/// sort all images of a project, because the average project has few: so an index is walked where there is one that has the order.
/// And rows of other tables are looked up one by one: a hash of the few images that are shared with a project would be held against all
/// that are shared with anybody. What must be sorted all the same is taken for so expensive that PostgreSQL would compile the
/// statement, which takes half a second.
async fn prepare_postgres(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    let habits = "SET plan_cache_mode = force_generic_plan; SET enable_sort = off; SET enable_hashjoin = off; \
                  SET enable_mergejoin = off; SET jit = off";
    connection.execute(habits).await.map(drop)
}

/// READ COMMITTED as on PostgreSQL: without gap locks, those who write one image's tags do not deadlock on its
/// neighbours. Strict mode: text that does not fit a column is an error, whatever the server's default is.
async fn prepare_mysql(connection: &mut MySqlConnection, wsrep_sync_wait: Option<i64>) -> Result<(), sqlx::Error> {
    connection.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED").await?;
    connection.execute("SET SESSION sql_mode = CONCAT(@@sql_mode, ',STRICT_ALL_TABLES')").await?;
    for habit in HABITS {
        // A server that does not know one finds the same rows.
        if let Err(error) = connection.execute(habit).await {
            tracing::debug!(%error, habit, "the server has habits of its own");
        }
    }
    if let Some(level) = wsrep_sync_wait {
        connection.execute(AssertSqlSafe(format!("SET SESSION wsrep_sync_wait = {level}"))).await?;
    }
    Ok(())
}

/// Whether the server is a node of a Galera cluster. MySQL does not have the variable at all.
async fn is_galera(connection: &mut MySqlConnection) -> Result<bool, sqlx::Error> {
    let row: Option<(String, String)> =
        sqlx::query_as("SHOW SESSION VARIABLES LIKE 'wsrep_on'").fetch_optional(connection).await?;
    Ok(row.is_some_and(|(_, value)| value == "ON"))
}

impl Conn {
    /// Does this, in so much time. Where it takes longer, the connection is closed: back in the pool, it would keep its place there
    /// until the server answers.
    pub(crate) async fn in_time<T>(
        mut self,
        patience: Duration,
        work: impl AsyncFnOnce(&mut Self) -> Result<T>,
    ) -> Result<T> {
        let done = tokio::time::timeout(patience, work(&mut self)).await;
        done.unwrap_or_else(|_| {
            self.give_up();
            Err(Error::Unavailable(io::Error::from(io::ErrorKind::TimedOut).into()))
        })
    }

    /// Closes the connection, where an answer is still on its way that nobody wants.
    pub(crate) fn give_up(self) {
        match self {
            // It sends nothing by itself.
            Self::Sqlite(held) => drop(held),
            Self::Postgres(held) => held.give_up(),
            Self::MySql(held) => held.give_up(),
        }
    }
}

impl Tx {
    /// Whether the database is a cluster with several writers, where a lock on a row holds in one node alone.
    fn is_clustered(&self) -> bool {
        match self {
            Self::Sqlite(_) | Self::Postgres(_) => false,
            Self::MySql(held) => held.is_clustered(),
        }
    }

    async fn commit(self) -> Result<()> {
        match self {
            Self::Sqlite(held) => held.commit().await?,
            Self::Postgres(held) => held.commit().await?,
            Self::MySql(held) => held.commit().await?,
        }
        Ok(())
    }
}

/// Runs one statement on whichever engine `$self` holds: builds it in that dialect, binds, executes.
macro_rules! run {
    ($self:ident, $statement:ident, |$sql:ident, $args:ident, $conn:ident| $call:expr) => {
        match $self {
            Self::Sqlite(held) => {
                let ($sql, args) = $statement.build_sqlx(SqliteQueryBuilder);
                let $args = sqlite_timestamps(args);
                run!(held, |$conn| $call)
            }
            Self::Postgres(held) => {
                let ($sql, $args) = $statement.build_sqlx(PostgresQueryBuilder);
                run!(held, |$conn| $call)
            }
            Self::MySql(held) => {
                let ($sql, $args) = $statement.build_sqlx(MysqlQueryBuilder);
                run!(held, |$conn| $call)
            }
        }
    };
    ($held:ident, |$conn:ident| $call:expr) => {{
        let $conn = $held.connection()?;
        let value = $call;
        $held.done();
        value
    }};
}

macro_rules! impl_session {
    ($($ty:ty),*) => {$(
        impl Session for $ty {
            async fn execute(&mut self, statement: impl SqlxBinder + Send) -> Result<u64> {
                Ok(run!(self, statement, |sql, args, conn| {
                    query_with(AssertSqlSafe(sql), args).execute(conn).await?.rows_affected()
                }))
            }

            async fn all<T: DbRow>(&mut self, statement: impl SqlxBinder + Send) -> Result<Vec<T>> {
                Ok(run!(self, statement, |sql, args, conn| {
                    query_as_with(AssertSqlSafe(sql), args).fetch_all(conn).await?
                }))
            }

            async fn all_within<T: DbRow>(
                &mut self,
                statement: impl SqlxBinder + Send,
                room: &mut usize,
                weigh: fn(&T) -> usize,
            ) -> Result<Option<Vec<T>>> {
                let mut all = Vec::new();
                run!(self, statement, |sql, args, conn| {
                    let mut rows = query_as_with::<_, T, _>(AssertSqlSafe(sql), args).fetch(conn);
                    while let Some(row) = rows.try_next().await? {
                        let Some(left) = room.checked_sub(weigh(&row)) else { return Ok(None) };
                        *room = left;
                        all.push(row);
                    }
                });
                Ok(Some(all))
            }

            async fn optional<T: DbRow>(&mut self, statement: impl SqlxBinder + Send) -> Result<Option<T>> {
                Ok(run!(self, statement, |sql, args, conn| {
                    query_as_with(AssertSqlSafe(sql), args).fetch_optional(conn).await?
                }))
            }

            fn exactly(&self, column: impl IntoColumnRef, text: &str) -> Condition {
                let column = Expr::col(column);
                let equal = Cond::all().add(column.clone().eq(text));
                match self {
                    // The first comparison finds the rows through the index, the second one tells `A` from `a`.
                    Self::MySql(_) => equal.add(self.bytewise(column).eq(text)),
                    Self::Sqlite(_) | Self::Postgres(_) => equal,
                }
            }

            fn bytewise(&self, text: Expr) -> Expr {
                match self {
                    Self::Sqlite(_) => text,
                    Self::Postgres(_) => Expr::cust_with_exprs("($1) COLLATE \"C\"", [text]),
                    Self::MySql(_) => Func::cust("BINARY").arg(text).into(),
                }
            }

            fn sum(&self, number: Expr) -> Expr {
                let integer = match self {
                    Self::Sqlite(_) | Self::Postgres(_) => "BIGINT",
                    Self::MySql(_) => "SIGNED",
                };
                Expr::from(Func::sum(number)).if_null(0).cast_as(integer)
            }

            fn gated(&self, gate: &Condition, column: Expr, value: Expr) -> Condition {
                match self {
                    _ if gate.is_empty() => Cond::all().add(column.eq(value)),
                    // It would read all rows, to ask the same question at each. But it looks up nothing for NULL.
                    Self::Sqlite(_) => Cond::all().add(column.eq(Expr::case(gate.clone(), value))),
                    Self::Postgres(_) | Self::MySql(_) => Cond::all().add(column.eq(value)).add(gate.clone()),
                }
            }

            fn pays_for_round_trips(&self) -> bool {
                !matches!(self, Self::Sqlite(_))
            }

            fn orders_parts(&self) -> bool {
                !matches!(self, Self::Sqlite(_))
            }

            fn seeks_rows(&self) -> bool {
                !matches!(self, Self::MySql(_))
            }
        }
    )*};
}
impl_session!(Conn, Tx);

/// All rows of these statements, of which the first one names the columns. `None` where there is no statement.
fn union_all(parts: impl IntoIterator<Item = SelectStatement>) -> Option<SelectStatement> {
    let mut parts = parts.into_iter();
    let mut union = parts.next()?;
    for part in parts {
        union.union(UnionType::All, part);
    }
    Some(union)
}

/// Writes timestamps as SQLAlchemy does, always with six digits: SQLite compares them as text, and Glance reads them.
fn sqlite_timestamps(SqlxValues(values): SqlxValues) -> SqlxValues {
    let text = |value| match value {
        Value::ChronoDateTime(time) => Value::String(time.map(|time| time.format("%Y-%m-%d %H:%M:%S%.6f").to_string())),
        other => other,
    };
    SqlxValues(sea_query::Values(values.0.into_iter().map(text).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A test that kills a process cannot tell FULL from NORMAL: only a power cut can.
    #[tokio::test]
    async fn sqlite_keeps_what_was_committed_through_a_power_cut() {
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

    /// What it is good for, `benches/listing` measures.
    #[tokio::test]
    async fn sqlite_keeps_the_pages_of_a_listing() {
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
