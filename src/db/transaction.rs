//! Transactions, and running them again.

use std::{future::Future, time::Duration};

use super::{Db, Result, session::Tx};

/// How often a transaction that the engine gave up for another one is run, in all.
const TRANSACTION_ATTEMPTS: u32 = 10;
/// The longest first pause before such a transaction is run again; it doubles from one attempt to the next.
const RETRY_PAUSE: Duration = Duration::from_millis(5);

impl Db {
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
                Err(error) if matches!(error, crate::error::Error::Contended(_)) => {
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
}

impl Tx {
    /// Whether the database is a cluster with several writers, where a lock on a row holds in one node alone.
    pub(super) fn is_clustered(&self) -> bool {
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
