//! One connection, in or out of a transaction: the same few calls on each engine, and what differs between the engines.

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

/// Bounds the time of what is done at the database, which may answer nothing at all.
pub(crate) async fn in_time<T>(
    patience: Duration,
    work: impl Future<Output = Result<T, crate::error::Error>>,
) -> Result<T, crate::error::Error> {
    let silent = || crate::error::Error::Unavailable { service: "the database", source: "it took too long".into() };
    tokio::time::timeout(patience, work).await.unwrap_or_else(|_| Err(silent()))
}

/// That a column has the time that was read there, if any.
pub(super) fn is_time(column: impl IntoColumnRef, time: Option<NaiveDateTime>) -> Expr {
    let column = Expr::col(column);
    match time {
        Some(time) => column.eq(time),
        None => column.is_null(),
    }
}

/// That a row is not deleted, where it is found by something else. Not `deleted = FALSE`: SQLite would take the index on that, in which
/// is nearly every row of the table, for as good as one on the image's id.
pub(super) fn is_live(deleted: impl IntoColumnRef) -> Expr {
    Expr::col(deleted).not()
}

/// That a status is `pending_delete`; in the statement's text, without which SQLite does not see that an index of such rows alone
/// serves.
pub(super) fn is_pending_delete(status: impl IntoColumnRef) -> Expr {
    Expr::col(status).eq(Expr::cust("'pending_delete'"))
}

/// All rows of these statements, of which the first one names the columns. `None` where there is no statement.
pub(super) fn union_all(parts: impl IntoIterator<Item = SelectStatement>) -> Option<SelectStatement> {
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
