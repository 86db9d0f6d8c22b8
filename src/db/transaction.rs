//! Transactions, and their repetition after conflicts.

use std::{future::Future, time::Duration};

use super::{Db, Result, session::Tx};

/// The maximum number of attempts of a transaction that the engine aborts because of a concurrent one.
const TRANSACTION_ATTEMPTS: u32 = 10;
/// The upper limit of the random pause before the second attempt. It doubles with each attempt.
const RETRY_PAUSE: Duration = Duration::from_millis(5);

impl Db {
    /// Begins a transaction. If it is dropped, it is rolled back. On SQLite it takes the write lock immediately.
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

    /// Runs `work` in a transaction, which is committed if `work` returns it, and rolled back if `work` fails or is dropped. BEGIN and
    /// COMMIT cost two round trips in addition to the work. If the engine aborts the transaction because of a concurrent one, the work is
    /// repeated, up to [`TRANSACTION_ATTEMPTS`] attempts in total, so it must have no effects outside the database.
    ///
    /// # Errors
    /// The error that `work` returned, or `Unavailable`.
    pub(crate) async fn transaction<T, F>(&self, work: impl Fn(Tx) -> F) -> Result<T, crate::error::Error>
    where
        F: Future<Output = Result<(Tx, T), crate::error::Error>>,
    {
        let mut pause = RETRY_PAUSE;
        for _ in 1..TRANSACTION_ATTEMPTS {
            match self.attempt(&work).await {
                Err(error) if matches!(error, crate::error::Error::Contended(_)) => {
                    tracing::debug!(%error, "the transaction is repeated");
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
    /// Whether the database is a cluster with several writers, in which a row lock is only valid on one node.
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
