//! The lock of a project. A transaction that holds it counts what the project has and adds to it, before another transaction
//! counts.
//!
//! SQLite allows one writer at a time, so it needs none. PostgreSQL has an advisory lock that ends with the transaction. MySQL has
//! no such lock, so a row of `glimpse_image_locks` is changed, which also holds between the nodes of a Galera cluster (ADR 2).

use sea_query::{Expr, Func, Query};

use super::{Result, Session as _, Tx, image_locks};

/// Takes the lock until the transaction ends. A transaction that also locks an image's row does that first, and no transaction
/// takes the locks of two projects. One statement on a server, none on SQLite.
pub(crate) async fn take(tx: &mut Tx, project: Option<&str>) -> Result<()> {
    let digest = blake3::hash(project.unwrap_or_default().as_bytes());
    match tx {
        Tx::Sqlite(_) => Ok(()),
        Tx::Postgres(_) => {
            let [a, b, c, d, e, f, g, h, ..] = *digest.as_bytes();
            let key = Expr::val(i64::from_le_bytes([a, b, c, d, e, f, g, h]));
            tx.execute(Query::select().expr(Func::cust("pg_advisory_xact_lock").arg(key)).take()).await.map(drop)
        }
        // 36 characters that are no image's id.
        Tx::MySql(_) => image_locks::take(tx, &format!("project-{:.28}", digest.to_hex().as_str())).await,
    }
}
