//! Transactions, and their repetition after conflicts.

use std::{future::Future, time::Duration};

use super::{Db, Result, pool::TransactionControl, session::Tx};

/// The maximum number of attempts of a transaction that the engine aborts because of a concurrent one.
const TRANSACTION_ATTEMPTS: u32 = 10;
/// The upper limit of the random pause before the second attempt. It doubles with each attempt.
const RETRY_PAUSE: Duration = Duration::from_millis(5);

impl Db {
    /// Begins a transaction. If it is dropped, it is rolled back. On SQLite it takes the write lock immediately.
    pub(super) async fn begin(&self) -> Result<Tx> {
        Ok(match self {
            Self::Sqlite { write, .. } => {
                let mut held = write.acquire().await?;
                held.begin(TransactionControl::SQLITE).await?;
                Tx::Sqlite(held)
            }
            Self::Postgres(pool) => {
                let mut held = pool.acquire().await?;
                held.begin(TransactionControl::SERVER).await?;
                Tx::Postgres(held)
            }
            Self::MySql(pool) => {
                let mut held = pool.acquire().await?;
                let control = if held.is_clustered() { TransactionControl::GALERA } else { TransactionControl::SERVER };
                held.begin(control).await?;
                Tx::MySql(held)
            }
        })
    }

    /// Runs `work` in a transaction, which is committed if `work` returns it, and rolled back if `work` fails or is dropped. BEGIN
    /// and COMMIT cost two round trips in addition to the work. If the engine aborts the transaction because of a concurrent one,
    /// the work is repeated, up to [`TRANSACTION_ATTEMPTS`] attempts in total, so it must have no effects outside the database.
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

    /// Commits it.
    pub(super) async fn commit(self) -> Result<()> {
        match self {
            Self::Sqlite(held) => held.commit().await?,
            Self::Postgres(held) => held.commit().await?,
            Self::MySql(held) => held.commit().await?,
        }
        Ok(())
    }
}

/// These run on the server that `GLIMPSE_TEST_DATABASE` names, if that is MariaDB.
#[cfg(test)]
mod on_a_server {
    use sqlx::mysql::MySqlPoolOptions;

    use super::*;
    use crate::db::{
        Error,
        pool::{Held, Pool},
        test_database,
    };

    async fn execute(held: &mut Held<sqlx::MySql>, sql: &'static str) {
        sqlx::query(sql).execute(held.connection().unwrap()).await.unwrap();
        held.done();
    }

    /// The numbers that are stored, and whether autocommit is on, as the pool's only connection sees it.
    async fn state(pool: &Pool<sqlx::MySql>) -> (i64, bool) {
        let mut held = pool.acquire().await.unwrap();
        let query = "SELECT (SELECT SUM(n) FROM numbers), @@autocommit = 1";
        let (sum, autocommit): (Option<f64>, bool) =
            sqlx::query_as(query).fetch_one(held.connection().unwrap()).await.unwrap();
        held.done();
        (sum.unwrap_or_default() as i64, autocommit)
    }

    #[tokio::test]
    async fn a_transaction_that_the_cluster_rolled_back_without_an_error_is_not_committed() {
        let Some(options) = test_database::create_on_mariadb().await else { return };
        let one = MySqlPoolOptions::new().max_connections(1);
        let pool = Pool::new(one.connect_lazy_with(options));
        execute(&mut pool.acquire().await.unwrap(), "CREATE TABLE numbers (n DOUBLE) ENGINE = InnoDB").await;

        let mut held = pool.acquire().await.unwrap();
        held.begin(TransactionControl::GALERA).await.unwrap();
        execute(&mut held, "INSERT INTO numbers VALUES (1)").await;
        held.commit().await.unwrap();
        assert_eq!(state(&pool).await, (1, true));

        let mut held = pool.acquire().await.unwrap();
        held.begin(TransactionControl::GALERA).await.unwrap();
        execute(&mut held, "INSERT INTO numbers VALUES (2)").await;
        drop(held);
        assert_eq!(state(&pool).await, (1, true));

        let mut held = pool.acquire().await.unwrap();
        held.begin(TransactionControl::GALERA).await.unwrap();
        execute(&mut held, "INSERT INTO numbers VALUES (4)").await;
        // The node does this itself.
        execute(&mut held, "ROLLBACK").await;
        execute(&mut held, "INSERT INTO numbers VALUES (8)").await;
        let error = Error::from(held.commit().await.unwrap_err());
        assert!(matches!(error, Error::Conflict(_)), "{error}");
        assert_eq!(state(&pool).await, (1, true));
    }
}
