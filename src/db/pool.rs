//! A pool of connections to a server, which says why none can be had.

use std::{
    fmt, io,
    sync::Arc,
    time::{Duration, Instant},
};

use sqlx::{
    ConnectOptions as _, Connection, Database, Pool, Transaction,
    pool::{PoolConnection, PoolConnectionMetadata, PoolOptions},
};
use tokio::sync::Mutex;

use super::PoolLimits;

/// A pooled connection that was idle for longer is asked whether it still lives before it is given out. Under load
/// that never happens, so it costs no round trip there.
const PING_AFTER: Duration = Duration::from_secs(5);
/// How long the server may take to say why it cannot be reached, and how long that counts for whoever else asks: it is asked
/// once in this time, however many requests wait.
const REASON_TIMEOUT: Duration = Duration::from_secs(1);

/// Connections to a server. Cheap to clone.
pub(crate) struct ServerPool<DB: Database> {
    pool: Pool<DB>,
    /// Why the server could not be reached, when it was last asked.
    last: Arc<Mutex<Option<Asked>>>,
}

/// What the server said, when it was asked why: `None` is that it can be reached.
struct Asked {
    when: Instant,
    reason: Option<Reason>,
}

/// An error that several are told: the driver's cannot be cloned.
#[derive(Debug, Clone)]
struct Reason {
    kind: io::ErrorKind,
    message: String,
}

impl<DB: Database> Clone for ServerPool<DB> {
    fn clone(&self) -> Self {
        Self { pool: self.pool.clone(), last: Arc::clone(&self.last) }
    }
}

impl<DB: Database> fmt::Debug for ServerPool<DB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.pool, f)
    }
}

impl<DB: Database> ServerPool<DB> {
    /// Makes the pool; the server is not contacted yet.
    pub(super) fn new(
        options: PoolOptions<DB>,
        connect: <DB::Connection as Connection>::Options,
        limits: PoolLimits,
    ) -> Self {
        let options = options
            .max_connections(limits.max_connections)
            .acquire_timeout(limits.wait)
            // Age is looked at below, when a connection is wanted: the pool itself looks when one comes back.
            .max_lifetime(None)
            .test_before_acquire(false)
            .before_acquire(move |connection, past| Box::pin(is_good(connection, past, limits.max_age)));
        Self { pool: options.connect_lazy_with(connect), last: Arc::default() }
    }

    /// Takes a connection.
    pub(super) async fn acquire(&self) -> Result<PoolConnection<DB>, sqlx::Error> {
        match self.pool.acquire().await {
            Err(error) => Err(self.with_reason(error).await),
            connection => connection,
        }
    }

    /// Takes a connection, and begins a transaction on it.
    pub(super) async fn begin(&self) -> Result<Transaction<'static, DB>, sqlx::Error> {
        match self.pool.begin().await {
            Err(error) => Err(self.with_reason(error).await),
            transaction => transaction,
        }
    }

    /// Closes every connection, after what is under way.
    pub(super) async fn close(&self) {
        self.pool.close().await;
    }

    /// The pool goes on trying for as long as the server refuses, and then says that it waited. An operator wants to know
    /// what for.
    async fn with_reason(&self, error: sqlx::Error) -> sqlx::Error {
        if !matches!(error, sqlx::Error::PoolTimedOut) {
            return error;
        }
        let mut last = self.last.lock().await;
        let known =
            last.as_ref().filter(|asked| asked.when.elapsed() < REASON_TIMEOUT).map(|asked| asked.reason.clone());
        let reason = match known {
            Some(reason) => reason,
            None => {
                let reason = self.ask().await;
                *last = Some(Asked { when: Instant::now(), reason: reason.clone() });
                reason
            }
        };
        match reason {
            Some(Reason { kind, message }) => sqlx::Error::Io(io::Error::new(kind, message)),
            // It answers: there are too few connections.
            None => error,
        }
    }

    /// Why the server does not answer; `None` where it does.
    async fn ask(&self) -> Option<Reason> {
        let options = self.pool.connect_options();
        match tokio::time::timeout(REASON_TIMEOUT, options.connect()).await {
            Ok(Ok(connection)) => {
                drop(connection.close().await);
                None
            }
            Ok(Err(sqlx::Error::Io(error))) => Some(Reason { kind: error.kind(), message: error.to_string() }),
            Ok(Err(error)) => Some(Reason { kind: io::ErrorKind::Other, message: error.to_string() }),
            Err(_) => Some(Reason { kind: io::ErrorKind::TimedOut, message: "the server does not answer".to_owned() }),
        }
    }
}

/// Whether a connection may be given out, or is replaced.
async fn is_good<C: Connection>(
    connection: &mut C,
    past: PoolConnectionMetadata,
    max_age: Option<Duration>,
) -> Result<bool, sqlx::Error> {
    let is_young = max_age.is_none_or(|max_age| past.age <= max_age);
    Ok(is_young && (past.idle_for < PING_AFTER || connection.ping().await.is_ok()))
}
