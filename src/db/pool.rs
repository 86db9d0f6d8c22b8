//! Connection pools.
//!
//! sqlx's pool pings each connection that is returned to it, which costs a round trip per request. This pool keeps a returned
//! connection idle for the next caller instead, if its last result was read completely. Every [`CHECK_AFTER`], the connection
//! goes back to sqlx's pool with its checks. A connection with an unread result or an open transaction is cleaned up first, or
//! closed.

use std::{
    fmt, io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::{TryFutureExt as _, future::BoxFuture};
use sqlx::{
    ConnectOptions as _, Connection, Database, Executor,
    pool::{PoolConnection, PoolConnectionMetadata, PoolOptions},
};
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore};

use crate::config;

/// How long a connection is reused before it returns to sqlx's pool. A connection that was idle there for longer is pinged
/// before its next use.
const CHECK_AFTER: Duration = Duration::from_secs(5);
/// The timeout of cleaning up a connection whose use was interrupted; afterwards it is closed. Its slot in the pool has to be
/// free before a waiting caller reaches its `pool_timeout`. Without a timeout, sqlx would wait for ever for the result of a
/// statement that it was about to send.
const CLEAN_UP_TIMEOUT: Duration = Duration::from_secs(2);
/// The maximum number of idle connections. Connections beyond it, which a burst needed, are closed by sqlx's pool after a while.
const MAX_IDLE: usize = 16;
/// The timeout of probing why the server is unreachable, and how long a probe's result is reused. So the server is probed once
/// in this time, however many requests fail.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

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

impl From<&config::Database> for ConnectionOptions {
    fn from(options: &config::Database) -> Self {
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

/// A database engine that can run a statement without parameters.
pub(crate) trait Engine: Database {
    /// Runs the statement, and discards its result.
    fn run_statement<'c>(
        connection: &'c mut Self::Connection,
        statement: &'static str,
    ) -> BoxFuture<'c, Result<(), sqlx::Error>>;
}

impl<DB: Database> Engine for DB
where
    for<'c> &'c mut DB::Connection: Executor<'c, Database = DB>,
{
    fn run_statement<'c>(
        connection: &'c mut Self::Connection,
        statement: &'static str,
    ) -> BoxFuture<'c, Result<(), sqlx::Error>> {
        Box::pin(connection.execute(statement).map_ok(drop))
    }
}

/// Prepares a new connection for use: it sets session variables.
pub(super) type SetUp<DB> =
    Arc<dyn for<'c> Fn(&'c mut <DB as Database>::Connection) -> BoxFuture<'c, Result<(), sqlx::Error>> + Send + Sync>;

/// A pool of connections to one database. Cheap to clone.
pub(crate) struct Pool<DB: Engine>(Arc<Shared<DB>>);

struct Shared<DB: Engine> {
    pool: sqlx::Pool<DB>,
    /// What the pool does with each new connection, if anything.
    set_up: Option<SetUp<DB>>,
    /// One permit per connection: a caller with a permit finds a connection here or in sqlx's pool.
    permits: Arc<Semaphore>,
    wait: Duration,
    idle: std::sync::Mutex<Vec<Pooled<DB>>>,
    /// The result of the last probe.
    last_probe: Mutex<Option<Probe>>,
    /// Whether the last connection was to a node of a multi-primary (Galera) cluster.
    is_clustered: Arc<AtomicBool>,
}

/// A connection from sqlx's pool.
struct Pooled<DB: Engine> {
    connection: PoolConnection<DB>,
    /// When it was taken from sqlx's pool.
    since: Instant,
}

/// A connection in use.
pub(crate) struct Held<DB: Engine> {
    /// `Some` until it is closed, detached or dropped.
    pooled: Option<Pooled<DB>>,
    /// Whether the last result was read completely.
    is_read: bool,
    /// The statements of the transaction that is open.
    transaction: Option<TransactionControl>,
    shared: Arc<Shared<DB>>,
    _permit: OwnedSemaphorePermit,
}

/// The statements that begin and end a transaction. One round trip each.
#[derive(Debug, Clone, Copy)]
pub(super) struct TransactionControl {
    begin: &'static str,
    commit: &'static str,
    rollback: &'static str,
    /// Whether there is something to roll back if `begin` fails.
    begins_in_steps: bool,
}

impl TransactionControl {
    /// PostgreSQL, MySQL and MariaDB.
    pub(super) const SERVER: Self =
        Self { begin: "BEGIN", commit: "COMMIT", rollback: "ROLLBACK", begins_in_steps: false };
    /// SQLite. It takes the write lock immediately.
    pub(super) const SQLITE: Self = Self { begin: "BEGIN IMMEDIATE", ..Self::SERVER };
    /// A node of a Galera cluster. If the node rolls back a transaction for one from another node while a statement is being
    /// prepared, the client may not learn of it: MariaDB then runs the statements that follow as transactions of their own. Without
    /// autocommit, they are one new transaction, and that one does not have the savepoint, so it is not committed.
    pub(super) const GALERA: Self = Self {
        begin: "SET autocommit = 0; SAVEPOINT begun",
        commit: "RELEASE SAVEPOINT begun; COMMIT; SET autocommit = 1",
        rollback: "ROLLBACK; SET autocommit = 1",
        begins_in_steps: true,
    };
}

/// The result of probing the server. A `reason` of `None` means that it is reachable.
struct Probe {
    when: Instant,
    reason: Option<Reason>,
}

/// A connection error that can be returned to several callers. The driver's error type cannot be cloned.
#[derive(Debug, Clone)]
struct Reason {
    kind: io::ErrorKind,
    message: String,
}

impl<DB: Engine> Clone for Pool<DB> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<DB: Engine> fmt::Debug for Pool<DB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0.pool, f)
    }
}

impl<DB: Engine> Pool<DB> {
    /// Wraps a pool of sqlx's, which must not be used in any other way.
    pub(super) fn new(pool: sqlx::Pool<DB>) -> Self {
        Self::wrap(pool, None, Arc::default())
    }

    fn wrap(pool: sqlx::Pool<DB>, set_up: Option<SetUp<DB>>, is_clustered: Arc<AtomicBool>) -> Self {
        let options = pool.options();
        let permits = Semaphore::new(options.get_max_connections() as usize);
        Self(Arc::new(Shared {
            wait: options.get_acquire_timeout(),
            permits: Arc::new(permits),
            pool,
            set_up,
            idle: std::sync::Mutex::default(),
            last_probe: Mutex::default(),
            is_clustered,
        }))
    }

    /// Creates a pool of connections to a server, each of which is set up first. `set_up` also sets `is_clustered`. Connects to
    /// the server on first use only.
    pub(super) fn of_server(
        connect: <DB::Connection as Connection>::Options,
        limits: ConnectionOptions,
        set_up: SetUp<DB>,
        is_clustered: Arc<AtomicBool>,
    ) -> Self {
        let prepare = Arc::clone(&set_up);
        let options = PoolOptions::new()
            .after_connect(move |connection, _| prepare(connection))
            .max_connections(limits.max_connections)
            .acquire_timeout(limits.wait)
            // `before_acquire` checks the age. sqlx's own check would run whenever a connection is returned.
            .max_lifetime(None)
            .test_before_acquire(false)
            .before_acquire(move |connection, metadata| Box::pin(is_usable(connection, metadata, limits.max_age)));
        Self::wrap(options.connect_lazy_with(connect), Some(set_up), is_clustered)
    }

    /// Takes a connection. Costs no round trip if there is an idle one.
    pub(crate) async fn acquire(&self) -> Result<Held<DB>, sqlx::Error> {
        let Self(shared) = self;
        let permit = tokio::time::timeout(shared.wait, Arc::clone(&shared.permits).acquire_owned());
        let permit = permit.await.map_err(|_| sqlx::Error::PoolTimedOut)?.map_err(|_| sqlx::Error::PoolClosed)?;
        let pooled = match shared.take_idle() {
            Some(pooled) => pooled,
            None => match shared.pool.acquire().await {
                Ok(connection) => Pooled { connection, since: Instant::now() },
                Err(error) => return Err(shared.with_reason(error).await),
            },
        };
        Ok(Held { pooled: Some(pooled), is_read: true, transaction: None, shared: Arc::clone(shared), _permit: permit })
    }

    /// Opens a connection in addition to the pool's, which does not count towards the pool's limit.
    pub(super) async fn connect_separately(&self) -> Result<DB::Connection, sqlx::Error> {
        let Self(shared) = self;
        tokio::time::timeout(shared.wait, shared.connect()).await.unwrap_or(Err(sqlx::Error::PoolTimedOut))
    }

    /// Closes the pool. Waits for the connections in use.
    pub(super) async fn close(&self) {
        let Self(shared) = self;
        shared.permits.close();
        shared.lock_idle().clear();
        shared.pool.close().await;
    }
}

impl<DB: Engine> Shared<DB> {
    /// Ignores poisoning: the list is consistent whenever the lock is free.
    fn lock_idle(&self) -> std::sync::MutexGuard<'_, Vec<Pooled<DB>>> {
        self.idle.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn take_idle(&self) -> Option<Pooled<DB>> {
        let last = self.lock_idle().pop();
        last.filter(|pooled| pooled.since.elapsed() < CHECK_AFTER)
    }

    /// Keeps a connection idle. Returns it if there are enough idle ones, or if it is due for a check.
    fn keep_idle(&self, pooled: Pooled<DB>) -> Option<Pooled<DB>> {
        if pooled.since.elapsed() >= CHECK_AFTER {
            return Some(pooled);
        }
        let mut idle = self.lock_idle();
        if idle.len() >= MAX_IDLE || self.permits.is_closed() {
            return Some(pooled);
        }
        idle.push(pooled);
        None
    }

    /// Replaces a timeout of sqlx's pool by the reason why there is no connection. The pool retries while the server refuses
    /// connections, or rejects what sets them up, and then reports its timeout only, which does not help an operator.
    async fn with_reason(&self, error: sqlx::Error) -> sqlx::Error {
        if !matches!(error, sqlx::Error::PoolTimedOut) {
            return error;
        }
        let mut last = self.last_probe.lock().await;
        let known =
            last.as_ref().filter(|probe| probe.when.elapsed() < PROBE_TIMEOUT).map(|probe| probe.reason.clone());
        let reason = match known {
            Some(reason) => reason,
            None => {
                let reason = self.probe().await;
                *last = Some(Probe { when: Instant::now(), reason: reason.clone() });
                reason
            }
        };
        match reason {
            Some(Reason { kind, message }) => sqlx::Error::Io(io::Error::new(kind, message)),
            // The server is reachable: all connections are in use.
            None => error,
        }
    }

    /// Opens a connection that the pool does not know, and sets it up.
    async fn connect(&self) -> Result<DB::Connection, sqlx::Error> {
        let mut connection = self.pool.connect_options().connect().await?;
        if let Some(set_up) = &self.set_up {
            set_up(&mut connection).await?;
        }
        Ok(connection)
    }

    /// Connects to the server, and returns why that fails; `None` if it succeeds.
    async fn probe(&self) -> Option<Reason> {
        match tokio::time::timeout(PROBE_TIMEOUT, self.connect()).await {
            Ok(Ok(connection)) => {
                drop(connection.close().await);
                None
            }
            Ok(Err(sqlx::Error::Io(error))) => Some(Reason { kind: error.kind(), message: error.to_string() }),
            Ok(Err(error)) => Some(Reason { kind: io::ErrorKind::Other, message: error.to_string() }),
            Err(_) => Some(Reason { kind: io::ErrorKind::TimedOut, message: "the server does not respond".to_owned() }),
        }
    }
}

impl<DB: Engine> Held<DB> {
    /// Whether the server is a node of a multi-primary (Galera) cluster.
    pub(super) fn is_clustered(&self) -> bool {
        self.shared.is_clustered.load(Ordering::Relaxed)
    }

    /// The connection, to run a statement on. The caller calls [`Held::done`] when it has read the result completely.
    pub(crate) fn connection(&mut self) -> Result<&mut DB::Connection, sqlx::Error> {
        self.is_read = false;
        self.pooled.as_mut().map(|pooled| &mut *pooled.connection).ok_or(sqlx::Error::PoolClosed)
    }

    /// Marks the last result as read completely.
    pub(super) fn done(&mut self) {
        self.is_read = true;
    }

    /// Closes the connection without reading the rest of a result.
    pub(super) fn abandon(mut self) {
        drop(self.pooled.take().map(|pooled| pooled.connection.detach()));
    }

    /// Closes the connection, and waits until the server has closed it.
    pub(super) async fn close(mut self) -> Result<(), sqlx::Error> {
        match self.pooled.take() {
            Some(pooled) => pooled.connection.close().await,
            None => Ok(()),
        }
    }

    /// Begins a transaction. It is rolled back on drop, unless it was [committed](Held::commit).
    pub(super) async fn begin(&mut self, control: TransactionControl) -> Result<(), sqlx::Error> {
        // Set first, because the future may be dropped before the response arrives.
        self.transaction = Some(control);
        let begun = DB::run_statement(self.connection()?, control.begin).await;
        if matches!(begun, Err(sqlx::Error::Database(_))) && !control.begins_in_steps {
            self.transaction = None;
        }
        begun?;
        self.done();
        Ok(())
    }

    pub(super) async fn commit(mut self) -> Result<(), sqlx::Error> {
        let commit = self.transaction.map_or(TransactionControl::SERVER.commit, |control| control.commit);
        DB::run_statement(self.connection()?, commit).await?;
        self.transaction = None;
        self.done();
        Ok(())
    }
}

impl<DB: Engine> Drop for Held<DB> {
    fn drop(&mut self) {
        let Some(mut pooled) = self.pooled.take() else { return };
        if self.is_read && self.transaction.is_none() {
            // Dropping the connection returns it to sqlx's pool.
            return drop(self.shared.keep_idle(pooled));
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            // The server rolls back the transaction of a closed connection.
            return drop(pooled.connection.detach());
        };
        let transaction = self.transaction;
        runtime.spawn(async move {
            let connection = &mut *pooled.connection;
            let clean_up = async {
                match transaction {
                    Some(control) => DB::run_statement(connection, control.rollback).await,
                    None => connection.ping().await,
                }
            };
            match tokio::time::timeout(CLEAN_UP_TIMEOUT, clean_up).await {
                // Dropping the connection returns it to sqlx's pool, where callers may be waiting.
                Ok(Ok(())) => drop(pooled),
                // sqlx's pool would ping it, and wait without a timeout.
                Ok(Err(_)) | Err(_) => drop(pooled.connection.detach()),
            }
        });
    }
}

/// Whether a connection from sqlx's pool can be used. If not, sqlx replaces it.
async fn is_usable<C: Connection>(
    connection: &mut C,
    metadata: PoolConnectionMetadata,
    max_age: Option<Duration>,
) -> Result<bool, sqlx::Error> {
    let is_young = max_age.is_none_or(|max_age| metadata.age <= max_age);
    Ok(is_young && (metadata.idle_for < CHECK_AFTER || connection.ping().await.is_ok()))
}
