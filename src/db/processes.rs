//! The `glimpse_processes` table: the programs that work on this database. Each adds to its number as long as it lives; no
//! clock is compared with another machine's.

use sea_query::{Expr, ExprTrait, Query};

use super::{Result, Session, tables::GlimpseProcesses as P};

/// A program.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub(crate) struct Process {
    /// Which one.
    pub(crate) id: String,
    /// Its number, which stands still once it is dead.
    pub(crate) beat: i64,
}

/// Adds to a program's number. One statement, two where it is new.
pub(crate) async fn beat(s: &mut impl Session, id: &str) -> Result<()> {
    let update = Query::update()
        .table(P::Table)
        .value(P::Beat, Expr::col(P::Beat).add(1))
        .and_where(Expr::col(P::Id).eq(id))
        .take();
    if s.execute(update).await? == 0 {
        let values: [Expr; 2] = [id.into(), 0_i64.into()];
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
