//! Sessions: one connection, with or without a transaction. They hide the differences between the engines.

use std::{future::Future, io, time::Duration};

use chrono::NaiveDateTime;
use futures_util::TryStreamExt as _;
use sea_query::{
    Cond, Condition, Expr, ExprTrait, Func, IntoColumnRef, MysqlQueryBuilder, PostgresQueryBuilder, SelectStatement,
    SqliteQueryBuilder, UnionType, Value,
};
use sea_query_sqlx::{SqlxBinder, SqlxValues};
use sqlx::{
    AssertSqlSafe, FromRow, MySql, Postgres, Sqlite, mysql::MySqlRow, postgres::PgRow, query_as_with, query_with,
    sqlite::SqliteRow,
};

use super::{Error, Result, pool::Held};

/// A row type that can be decoded from all engines. `#[derive(FromRow)]` implements it.
pub(crate) trait DbRow:
    for<'r> FromRow<'r, SqliteRow> + for<'r> FromRow<'r, PgRow> + for<'r> FromRow<'r, MySqlRow> + Send + Unpin
{
}

impl<T> DbRow for T where
    T: for<'r> FromRow<'r, SqliteRow> + for<'r> FromRow<'r, PgRow> + for<'r> FromRow<'r, MySqlRow> + Send + Unpin
{
}

/// One connection, with or without a transaction. A statement is one round trip.
pub(crate) trait Session: Send {
    /// Executes a statement. Returns the number of rows that it matched.
    fn execute(&mut self, statement: impl SqlxBinder + Send) -> impl Future<Output = Result<u64>> + Send;
    /// Reads all rows.
    fn all<T: DbRow>(&mut self, statement: impl SqlxBinder + Send) -> impl Future<Output = Result<Vec<T>>> + Send;
    /// Reads all rows, and subtracts their weights from `budget`. Returns `None` if they exceed it: then rows are still arriving,
    /// and the caller must [abandon](Conn::abandon) the connection.
    fn all_within<T: DbRow>(
        &mut self,
        statement: impl SqlxBinder + Send,
        budget: &mut usize,
        weigh: fn(&T) -> usize,
    ) -> impl Future<Output = Result<Option<Vec<T>>>> + Send;
    /// Reads the first row, if there is one.
    fn optional<T: DbRow>(
        &mut self,
        statement: impl SqlxBinder + Send,
    ) -> impl Future<Output = Result<Option<T>>> + Send;
    /// The condition that `column` has exactly this text. Case, accents and trailing spaces are significant, whatever the collation
    /// is.
    fn exactly(&self, column: impl IntoColumnRef, text: &str) -> Condition;
    /// A text that is compared and sorted by its bytes, whatever the collation is.
    fn bytewise(&self, text: Expr) -> Expr;
    /// Whether unique keys and plain comparisons ignore the case of texts.
    fn ignores_case(&self) -> bool;
    /// The same text for all names that a unique key takes for the same because it ignores their case.
    fn unique_key(&self, name: &str) -> String {
        if self.ignores_case() { name.to_lowercase() } else { name.to_owned() }
    }
    /// The sum of all rows as a 64-bit integer, 0 if there are no rows. The engines differ in the type of a sum.
    fn sum(&self, number: Expr) -> Expr;
    /// The condition that `column` equals `value` and that `gate` holds. `gate` does not depend on the row: if it does not hold, no
    /// row is read.
    fn gated(&self, gate: &Condition, column: Expr, value: Expr) -> Condition;
    /// Whether a statement costs a round trip to a server.
    fn pays_for_round_trips(&self) -> bool;
    /// Whether the parts of a union may have their own ORDER BY and LIMIT.
    fn orders_parts(&self) -> bool;
    /// Whether the engine uses an index on `(a, b)` for `(a, b) < (x, y)`. If not, it uses it for the same condition in ANDs and
    /// ORs.
    fn seeks_rows(&self) -> bool;
}

/// A connection without a transaction.
pub(crate) enum Conn {
    /// See [`Db`](super::Db).
    Sqlite(Held<Sqlite>),
    /// See [`Db`](super::Db).
    Postgres(Held<Postgres>),
    /// See [`Db`](super::Db).
    MySql(Held<MySql>),
}

/// A transaction. If it is dropped, it is rolled back.
pub(crate) enum Tx {
    /// See [`Db`](super::Db).
    Sqlite(Held<Sqlite>),
    /// See [`Db`](super::Db).
    Postgres(Held<Postgres>),
    /// See [`Db`](super::Db).
    MySql(Held<MySql>),
}

impl Conn {
    /// Runs `work` with a timeout. If it takes longer, the connection is closed: in the pool, it would occupy a slot until the
    /// server responds.
    pub(crate) async fn in_time<T>(
        mut self,
        timeout: Duration,
        work: impl AsyncFnOnce(&mut Self) -> Result<T>,
    ) -> Result<T> {
        let done = tokio::time::timeout(timeout, work(&mut self)).await;
        done.unwrap_or_else(|_| {
            self.abandon();
            Err(Error::Unavailable(io::Error::from(io::ErrorKind::TimedOut).into()))
        })
    }

    /// Closes the connection although a response is still arriving.
    pub(crate) fn abandon(self) {
        match self {
            // A statement on SQLite stops when nobody reads its rows.
            Self::Sqlite(held) => drop(held),
            Self::Postgres(held) => held.abandon(),
            Self::MySql(held) => held.abandon(),
        }
    }
}

/// Builds a statement in the dialect of the engine, and executes it.
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
                budget: &mut usize,
                weigh: fn(&T) -> usize,
            ) -> Result<Option<Vec<T>>> {
                let mut all = Vec::new();
                run!(self, statement, |sql, args, conn| {
                    let mut rows = query_as_with::<_, T, _>(AssertSqlSafe(sql), args).fetch(conn);
                    while let Some(row) = rows.try_next().await? {
                        let Some(left) = budget.checked_sub(weigh(&row)) else { return Ok(None) };
                        *budget = left;
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
                    // A column whose character set lacks a character cannot be compared with it, except by its bytes.
                    Self::MySql(_) if text.chars().any(|c| c.len_utf8() == 4) => {
                        Cond::all().add(self.bytewise(column).eq(text))
                    }
                    // The first comparison uses the index, and the second one distinguishes `A` from `a`.
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

            fn ignores_case(&self) -> bool {
                matches!(self, Self::MySql(_))
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
                    // SQLite would read all rows and evaluate the gate for each. It looks up nothing for NULL.
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

/// Runs work at the database with a timeout.
pub(crate) async fn in_time<T>(
    timeout: Duration,
    work: impl Future<Output = Result<T, crate::error::Error>>,
) -> Result<T, crate::error::Error> {
    let timed_out = || crate::error::Error::Unavailable { service: "the database", source: "it took too long".into() };
    tokio::time::timeout(timeout, work).await.unwrap_or_else(|_| Err(timed_out()))
}

/// The condition that a column has this time, or none.
pub(super) fn is_time(column: impl IntoColumnRef, time: Option<NaiveDateTime>) -> Expr {
    let column = Expr::col(column);
    match time {
        Some(time) => column.eq(time),
        None => column.is_null(),
    }
}

/// The condition that a row is not deleted, for statements that find the row by another column. With `deleted = FALSE`, SQLite
/// could choose the index on `deleted`, which contains nearly all rows of the table.
pub(super) fn is_live(deleted: impl IntoColumnRef) -> Expr {
    Expr::col(deleted).not()
}

/// The condition that a status is `pending_delete`. The value is part of the statement's text, because SQLite would not use the
/// partial index otherwise.
pub(super) fn is_pending_delete(status: impl IntoColumnRef) -> Expr {
    Expr::col(status).eq(Expr::cust("'pending_delete'"))
}

/// Joins statements with UNION ALL. The first one names the columns. Returns `None` if there are none.
pub(super) fn union_all(parts: impl IntoIterator<Item = SelectStatement>) -> Option<SelectStatement> {
    let mut parts = parts.into_iter();
    let mut union = parts.next()?;
    for part in parts {
        union.union(UnionType::All, part);
    }
    Some(union)
}

/// Formats timestamps as SQLAlchemy does, always with six digits, because SQLite compares them as texts, and Glance reads them.
fn sqlite_timestamps(SqlxValues(values): SqlxValues) -> SqlxValues {
    let text = |value| match value {
        Value::ChronoDateTime(time) => Value::String(time.map(|time| time.format("%Y-%m-%d %H:%M:%S%.6f").to_string())),
        other => other,
    };
    SqlxValues(sea_query::Values(values.0.into_iter().map(text).collect()))
}
