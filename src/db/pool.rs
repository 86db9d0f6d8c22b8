//! Pools of connections.
//!
//! sqlx's pool asks a connection that comes back whether it still lives, which is a round trip for each request. Here, one whose
//! last answer was read to its end stays at hand for whoever comes next, and goes back into sqlx's pool, with all that is looked at
//! there, every [`CHECK_AFTER`]. One with an answer on its way, or a transaction that nobody ended, is made ready first, or closed.

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

use super::ConnectionOptions;

/// How long a connection is given from one to the next. One that was idle for longer is asked whether it still lives before it is
/// given out.
const CHECK_AFTER: Duration = Duration::from_secs(5);
/// How long a connection on which something was broken off may take to be ready for something else. Then it is closed: its place in the
/// pool is another's, who has waited for less than `pool_timeout`. sqlx waits for ever for the answer to a statement that it was about to
/// send.
const READY_TIMEOUT: Duration = Duration::from_secs(2);
/// Connections at hand at the most: what a burst needed beyond them, sqlx's pool closes after a while.
const MAX_AT_HAND: usize = 16;
/// How long the server may take to say why it cannot be reached, and how long that counts for whoever else asks: it is asked
/// once in this time, however many requests wait.
const REASON_TIMEOUT: Duration = Duration::from_secs(1);

/// A database engine that can be told to do something without values.
pub(crate) trait Engine: Database {
    /// Sends it, and waits for its end.
    fn tell<'c>(
        connection: &'c mut Self::Connection,
        statement: &'static str,
    ) -> BoxFuture<'c, Result<(), sqlx::Error>>;
}

impl<DB: Database> Engine for DB
where
    for<'c> &'c mut DB::Connection: Executor<'c, Database = DB>,
{
    fn tell<'c>(
        connection: &'c mut Self::Connection,
        statement: &'static str,
    ) -> BoxFuture<'c, Result<(), sqlx::Error>> {
        Box::pin(connection.execute(statement).map_ok(drop))
    }
}

/// Connections to a database. Cheap to clone.
pub(crate) struct Pool<DB: Engine>(Arc<Shared<DB>>);

struct Shared<DB: Engine> {
    pool: sqlx::Pool<DB>,
    /// As many as there may be connections: who has one finds a connection at hand, or in sqlx's pool.
    permits: Arc<Semaphore>,
    wait: Duration,
    at_hand: std::sync::Mutex<Vec<AtHand<DB>>>,
    /// Why the server could not be reached, when it was last asked.
    last: Mutex<Option<Probe>>,
    /// Whether the server that was connected to last is a node of a cluster with several writers.
    is_clustered: Arc<AtomicBool>,
}

struct AtHand<DB: Engine> {
    connection: PoolConnection<DB>,
    /// When sqlx's pool gave it out.
    since: Instant,
}

/// A connection that somebody uses.
pub(crate) struct Held<DB: Engine> {
    /// Here until it is dropped.
    at_hand: Option<AtHand<DB>>,
    /// Whether the last answer was read to its end.
    is_read: bool,
    in_transaction: bool,
    shared: Arc<Shared<DB>>,
    _permit: OwnedSemaphorePermit,
}

/// What the server said, when it was asked why: `None` is that it can be reached.
struct Probe {
    when: Instant,
    reason: Option<Reason>,
}

/// An error that several are told: the driver's cannot be cloned.
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
    /// Of a pool of sqlx's that nobody else uses. Whoever connects sets `is_clustered`.
    pub(super) fn new(pool: sqlx::Pool<DB>, is_clustered: Arc<AtomicBool>) -> Self {
        let options = pool.options();
        let permits = Semaphore::new(options.get_max_connections() as usize);
        Self(Arc::new(Shared {
            wait: options.get_acquire_timeout(),
            permits: Arc::new(permits),
            pool,
            at_hand: std::sync::Mutex::default(),
            last: Mutex::default(),
            is_clustered,
        }))
    }

    /// Of connections to a server, which is not contacted yet.
    pub(super) fn of_server(
        options: PoolOptions<DB>,
        connect: <DB::Connection as Connection>::Options,
        limits: ConnectionOptions,
        is_clustered: Arc<AtomicBool>,
    ) -> Self {
        let options = options
            .max_connections(limits.max_connections)
            .acquire_timeout(limits.wait)
            // Age is looked at below, when a connection is wanted: the pool itself looks when one comes back.
            .max_lifetime(None)
            .test_before_acquire(false)
            .before_acquire(move |connection, past| Box::pin(is_good(connection, past, limits.max_age)));
        Self::new(options.connect_lazy_with(connect), is_clustered)
    }

    /// Takes a connection. No round trip, where one is at hand.
    pub(crate) async fn acquire(&self) -> Result<Held<DB>, sqlx::Error> {
        let Self(shared) = self;
        let permit = tokio::time::timeout(shared.wait, Arc::clone(&shared.permits).acquire_owned());
        let permit = permit.await.map_err(|_| sqlx::Error::PoolTimedOut)?.map_err(|_| sqlx::Error::PoolClosed)?;
        let at_hand = match shared.take() {
            Some(at_hand) => at_hand,
            None => match shared.pool.acquire().await {
                Ok(connection) => AtHand { connection, since: Instant::now() },
                Err(error) => return Err(shared.with_reason(error).await),
            },
        };
        Ok(Held {
            at_hand: Some(at_hand),
            is_read: true,
            in_transaction: false,
            shared: Arc::clone(shared),
            _permit: permit,
        })
    }

    /// Closes every connection, after what is under way.
    pub(super) async fn close(&self) {
        let Self(shared) = self;
        shared.permits.close();
        shared.lock().clear();
        shared.pool.close().await;
    }
}

impl<DB: Engine> Shared<DB> {
    /// What is at hand is whole whenever the lock is free.
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<AtHand<DB>>> {
        self.at_hand.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn take(&self) -> Option<AtHand<DB>> {
        let last = self.lock().pop();
        last.filter(|at_hand| at_hand.since.elapsed() < CHECK_AFTER)
    }

    /// Keeps a connection at hand; gives it back where there is no place for it, or it is to be looked at.
    fn put(&self, at_hand: AtHand<DB>) -> Option<AtHand<DB>> {
        if at_hand.since.elapsed() >= CHECK_AFTER {
            return Some(at_hand);
        }
        let mut all = self.lock();
        if all.len() >= MAX_AT_HAND || self.permits.is_closed() {
            return Some(at_hand);
        }
        all.push(at_hand);
        None
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
                *last = Some(Probe { when: Instant::now(), reason: reason.clone() });
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

impl<DB: Engine> Held<DB> {
    /// Whether the server is a node of a cluster with several writers.
    pub(super) fn is_clustered(&self) -> bool {
        self.shared.is_clustered.load(Ordering::Relaxed)
    }

    /// To run a statement on. Of its end, [`Held::done`] is told.
    pub(crate) fn connection(&mut self) -> Result<&mut DB::Connection, sqlx::Error> {
        self.is_read = false;
        self.at_hand.as_mut().map(|at_hand| &mut *at_hand.connection).ok_or(sqlx::Error::PoolClosed)
    }

    /// The answer was read to its end.
    pub(super) fn done(&mut self) {
        self.is_read = true;
    }

    /// Closes the connection, where an answer is still on its way that nobody wants.
    pub(super) fn give_up(mut self) {
        drop(self.at_hand.take().map(|at_hand| at_hand.connection.detach()));
    }

    /// Takes the connection out of the pool, whose limit it does not count for any more.
    pub(super) fn detach(mut self) -> Result<DB::Connection, sqlx::Error> {
        self.at_hand.take().map(|at_hand| at_hand.connection.detach()).ok_or(sqlx::Error::PoolClosed)
    }

    /// Ends the connection with its server, and waits for that.
    pub(super) async fn close(mut self) -> Result<(), sqlx::Error> {
        match self.at_hand.take() {
            Some(at_hand) => at_hand.connection.close().await,
            None => Ok(()),
        }
    }

    /// Begins a transaction. Where it is not [committed](Held::commit), it is rolled back.
    pub(super) async fn begin(&mut self, statement: &'static str) -> Result<(), sqlx::Error> {
        // Also where nobody waits for the answer.
        self.in_transaction = true;
        let begun = DB::tell(self.connection()?, statement).await;
        self.in_transaction = !matches!(begun, Err(sqlx::Error::Database(_)));
        begun?;
        self.done();
        Ok(())
    }

    pub(super) async fn commit(mut self) -> Result<(), sqlx::Error> {
        DB::tell(self.connection()?, "COMMIT").await?;
        self.in_transaction = false;
        self.done();
        Ok(())
    }
}

impl<DB: Engine> Drop for Held<DB> {
    fn drop(&mut self) {
        let Some(mut at_hand) = self.at_hand.take() else { return };
        if self.is_read && !self.in_transaction {
            // What it gives back, sqlx's pool takes.
            return drop(self.shared.put(at_hand));
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            // The server rolls back what nobody is connected for.
            return drop(at_hand.connection.detach());
        };
        let in_transaction = self.in_transaction;
        runtime.spawn(async move {
            let connection = &mut *at_hand.connection;
            let ready = async {
                match in_transaction {
                    true => DB::tell(connection, "ROLLBACK").await,
                    false => connection.ping().await,
                }
            };
            match tokio::time::timeout(READY_TIMEOUT, ready).await {
                // Into sqlx's pool: whoever came meanwhile waits there.
                Ok(Ok(())) => drop(at_hand),
                // There it would be asked again, without end.
                Ok(Err(_)) | Err(_) => drop(at_hand.connection.detach()),
            }
        });
    }
}

/// Whether a connection may be given out, or is replaced.
async fn is_good<C: Connection>(
    connection: &mut C,
    past: PoolConnectionMetadata,
    max_age: Option<Duration>,
) -> Result<bool, sqlx::Error> {
    let is_young = max_age.is_none_or(|max_age| past.age <= max_age);
    Ok(is_young && (past.idle_for < CHECK_AFTER || connection.ping().await.is_ok()))
}
