//! The `glimpse_processes` table: the programs that work on this database. Each adds to its number as long as it lives; no
//! clock is compared with another machine's.

use std::time::Duration;

use sea_query::{Expr, ExprTrait, Query};

use super::{Result, Session, tables::GlimpseProcesses as P};

/// What is added to a number each time. Below it, the number tells after how many milliseconds the next time is.
const BEAT: i64 = 1 << 32;

/// A program.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub(crate) struct Process {
    /// Which one.
    pub(crate) id: String,
    /// Its number, which stands still once it is dead.
    pub(crate) beat: i64,
}

impl Process {
    /// How often it adds to its number.
    pub(crate) fn every(&self) -> Duration {
        Duration::from_millis(self.beat.rem_euclid(BEAT).unsigned_abs())
    }
}

/// Adds to a program's number, which it does so often. One statement, two where it is new.
pub(crate) async fn beat(s: &mut impl Session, id: &str, every: Duration) -> Result<()> {
    let update = Query::update()
        .table(P::Table)
        .value(P::Beat, Expr::col(P::Beat).add(BEAT))
        .and_where(Expr::col(P::Id).eq(id))
        .take();
    if s.execute(update).await? == 0 {
        let first = i64::try_from(every.as_millis()).unwrap_or(BEAT).clamp(0, BEAT - 1);
        let values: [Expr; 2] = [id.into(), first.into()];
        s.execute(Query::insert().into_table(P::Table).columns([P::Id, P::Beat]).values_panic(values).take()).await?;
    }
    Ok(())
}

/// Reads all of them. One statement.
pub(crate) async fn all(s: &mut impl Session) -> Result<Vec<Process>> {
    s.all(Query::select().columns([P::Id, P::Beat]).from(P::Table).take()).await
}

/// Removes one that is dead. One statement.
pub(crate) async fn remove(s: &mut impl Session, id: &str) -> Result<()> {
    s.execute(Query::delete().from_table(P::Table).and_where(Expr::col(P::Id).eq(id)).take()).await.map(drop)
}
