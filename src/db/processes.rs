//! The `glimpse_processes` table: the heartbeats of the processes that use this database. Each process increments a counter as
//! long as it lives. Clocks of different machines are never compared.

use std::time::Duration;

use sea_query::{Expr, ExprTrait, Query};

use super::{Result, Session, tables::GlimpseProcesses as P};

/// The increment of a heartbeat. The counter's lower bits hold the interval of the heartbeats in milliseconds.
const INCREMENT: i64 = 1 << 32;

/// A process that uses this database.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub(crate) struct Process {
    /// Its id.
    pub(crate) id: String,
    /// Its heartbeat counter, which does not change any more once the process is dead.
    pub(crate) beat: i64,
}

impl Process {
    /// The interval of its heartbeats.
    pub(crate) fn every(&self) -> Duration {
        Duration::from_millis(self.beat.rem_euclid(INCREMENT).unsigned_abs())
    }
}

/// Records a heartbeat of a process whose heartbeats have the interval `every`. One statement; two if the process is new.
pub(crate) async fn beat(s: &mut impl Session, id: &str, every: Duration) -> Result<()> {
    let update = Query::update()
        .table(P::Table)
        .value(P::Beat, Expr::col(P::Beat).add(INCREMENT))
        .and_where(Expr::col(P::Id).eq(id))
        .take();
    if s.execute(update).await? == 0 {
        let first = i64::try_from(every.as_millis()).unwrap_or(INCREMENT).clamp(0, INCREMENT - 1);
        let values: [Expr; 2] = [id.into(), first.into()];
        s.execute(Query::insert().into_table(P::Table).columns([P::Id, P::Beat]).values_panic(values).take()).await?;
    }
    Ok(())
}

/// Reads all processes. One statement.
pub(crate) async fn all(s: &mut impl Session) -> Result<Vec<Process>> {
    s.all(Query::select().columns([P::Id, P::Beat]).from(P::Table).take()).await
}

/// Removes a dead process. One statement.
pub(crate) async fn remove(s: &mut impl Session, id: &str) -> Result<()> {
    s.execute(Query::delete().from_table(P::Table).and_where(Expr::col(P::Id).eq(id)).take()).await.map(drop)
}
