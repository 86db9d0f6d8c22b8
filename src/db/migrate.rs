//! Brings a database to the schema that this program needs, and tells what it has.
//!
//! The migrations under `migrations/<engine>/` are embedded; which of them ran is kept in `glimpse_migrations`. The first
//! two are Glance's own schema, with its `alembic_version`, so that either program can run on the result. The others add indexes
//! of our own, named `glimpse_*`, each in a migration of its own, and build them while others write, where the engine can.
//!
//! A database that Glance made is taken over: the migrations that it amounts to are recorded as done, the others run. Nothing
//! in it is changed or lost, and Glance can go on with it.

use std::{
    sync::LazyLock,
    time::{Duration, Instant},
};

use sea_query::Query;
use sqlx::{
    AssertSqlSafe, Executor as _, MySqlConnection, PgConnection,
    migrate::{Migrate, MigrateError, Migrator},
};

use super::{ConnectionOptions, Db, Error, Result, Session, sync_lock::SyncLock};
use crate::config::{DatabaseUrl, Target};

/// Beside Glance's tables, under a name that is plainly ours.
const TABLE: &str = "glimpse_migrations";

/// The last migration that makes Glance's own schema. Each of the others adds the index that it is named after.
const LAST_OF_GLANCE: i64 = 2;

/// How often a locked SQLite file is tried again.
const LOCKED_ATTEMPTS: u32 = 100;
/// How long to wait for another program's migrations.
const LOCK_SECONDS: u32 = 300;
/// The pause before the lock is asked for again.
const LOCK_PAUSE: Duration = Duration::from_millis(100);
/// What to tell when it was not given.
const BUSY: &str = "another program is at its migrations; try again later";

static SQLITE: LazyLock<Migrator> = LazyLock::new(|| named(sqlx::migrate!("migrations/sqlite")));
static POSTGRES: LazyLock<Migrator> = LazyLock::new(|| unlocked(named(sqlx::migrate!("migrations/postgres"))));
static MYSQL: LazyLock<Migrator> = LazyLock::new(|| unlocked(named(sqlx::migrate!("migrations/mysql"))));

fn named(mut migrator: Migrator) -> Migrator {
    migrator.dangerous_set_table_name(TABLE);
    migrator
}

/// One that takes no lock: we take one that its engine can give.
fn unlocked(mut migrator: Migrator) -> Migrator {
    migrator.set_locking(false);
    migrator
}

/// What a database has of the schema that this program needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// No tables at all.
    Empty,
    /// Everything, and nothing that this program does not know.
    Current,
    /// Some migrations have not run yet.
    Behind,
    /// A migration has begun and not ended, on an engine that cannot undo a part of one.
    Begun {
        /// Which one.
        migration: i64,
    },
    /// Glance made it, and it amounts to the migrations up to this one.
    Glance {
        /// The last of our migrations that need not run.
        amounts_to: i64,
    },
    /// Tables of an image service that neither `db sync` made nor a Glance that we know.
    Foreign,
    /// Migrations ran that this program does not know: a newer program made it.
    Ahead,
}

/// What must be done before this program can use a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Something is missing, which `db sync` adds.
    Expand,
    /// Nothing is missing; `db sync` records that a newer release uses it, which Glance calls to contract.
    Contract,
    /// What `db sync` does not do.
    ByHand,
}

impl State {
    /// What to tell an operator about a database that cannot be used as it is, and what is to be done; `None` where it can be.
    pub(crate) fn advice(self) -> Option<(String, Step)> {
        let (text, step) = match self {
            Self::Current => return None,
            Self::Empty => ("it is empty; run `glimpse db sync` with the same configuration", Step::Expand),
            Self::Behind => ("its schema is behind this program; run `glimpse db sync`", Step::Expand),
            Self::Glance { amounts_to } => (
                "it is Glance's; run `glimpse db sync` to take it over, which Glance does not mind",
                if amounts_to < last_migration() { Step::Expand } else { Step::Contract },
            ),
            Self::Begun { migration } => {
                let what = format!(
                    "migration {migration} has begun and not ended: unless another `db sync` is at it now, it was interrupted, \
                     which this engine cannot undo. Restore the database from before; if it was empty then, drop it and create \
                     it again. Then run `glimpse db sync`"
                );
                return Some((what, Step::ByHand));
            }
            Self::Foreign => (
                "it holds tables of an image service, but not of a Glance from Wallaby to 33 (`glimpse db version` shows its \
                 revision): upgrade it with that Glance's own `glance-manage db sync` first, or give an empty database",
                Step::ByHand,
            ),
            Self::Ahead => {
                ("a newer Glimpse has used it; run that one, or restore the database from before", Step::ByHand)
            }
        };
        Some((text.to_owned(), step))
    }
}

/// A database's schema, as `glimpse db version` shows it.
#[derive(Debug, Clone)]
pub(crate) struct Schema {
    /// How it compares to what this program needs.
    pub(crate) state: State,
    /// The revisions that Glance's own tools see: one, or two while an upgrade of theirs is half done.
    pub(crate) alembic: Vec<String>,
    /// The last of our migrations that ran, 0 where none did.
    pub(crate) migration: i64,
}

impl Schema {
    /// That of a database that is not there.
    const EMPTY: Self = Self { state: State::Empty, alembic: Vec::new(), migration: 0 };
}

#[derive(Debug, Clone, Copy, sea_query::Iden)]
enum GlimpseMigrations {
    Table,
    Version,
    Success,
}

#[derive(Debug, Clone, Copy, sea_query::Iden)]
enum AlembicVersion {
    Table,
    VersionNum,
}

/// Releases whose schema is our first migration: from the one that gave tasks their image to the one before the cache tables.
const BEFORE_CACHE_TABLES: [&str; 5] = ["wallaby", "xena", "yoga", "zed", "2023_1"];
/// The release whose schema is our first two.
const WITH_CACHE_TABLES: &str = "2024_1";

/// The last of our migrations that a database at these revisions need not run; `None` where one of them is unknown.
///
/// A revision is `<release>_expand01` or `<release>_contract01`. What the contractions since Wallaby do is nothing, so the
/// newest release counts, whether its upgrade was finished or not.
fn amounts_to(alembic: &[String]) -> Option<i64> {
    let of = |revision: &String| {
        let (release, step) = revision.rsplit_once('_')?;
        match (release, step) {
            (WITH_CACHE_TABLES, "expand01" | "contract01") => Some(2),
            (release, "expand01" | "contract01") if BEFORE_CACHE_TABLES.contains(&release) => Some(1),
            // The other half of an upgrade to Wallaby.
            ("ussuri", "contract01") => Some(0),
            _ => None,
        }
    };
    let migrations: Option<Vec<i64>> = alembic.iter().map(of).collect();
    migrations?.into_iter().max().filter(|migration| *migration > 0)
}

/// The newest migration, which has the same number on every engine.
fn last_migration() -> i64 {
    SQLITE.iter().map(|migration| migration.version).max().unwrap_or_default()
}

fn cannot_sync(state: State) -> Error {
    Error::Schema(state.advice().map(|(advice, _)| advice).unwrap_or_default())
}

/// Records the migrations that need not run, and runs the others.
async fn record_and_run<C>(migrator: &Migrator, recorded: Option<i64>, connection: &mut C) -> Result<(), MigrateError>
where
    C: Migrate,
{
    if recorded.is_some() {
        migrator.run_direct(recorded, connection, true).await?;
    }
    migrator.run_direct(None, connection, false).await
}

/// Waits for another program's migrations. In many statements: who waits in one keeps a snapshot, and an index that is built
/// while others write waits until nobody has one from before.
async fn lock_postgres(connection: &mut PgConnection) -> Result<(), MigrateError> {
    let give_up = Instant::now() + Duration::from_secs(LOCK_SECONDS.into());
    loop {
        let lock = sqlx::query_scalar("SELECT pg_try_advisory_lock(hashtext('glimpse_db_sync'))");
        if lock.fetch_one(&mut *connection).await? {
            return Ok(());
        }
        if Instant::now() > give_up {
            return Err(MigrateError::Source(BUSY.into()));
        }
        tokio::time::sleep(LOCK_PAUSE).await;
    }
}

/// Waits for another program's migrations, with a limit: MariaDB does not wait for a lock without one, which is how sqlx asks for it.
async fn lock_mysql(connection: &mut MySqlConnection) -> Result<(), MigrateError> {
    let lock = sqlx::query_scalar("SELECT GET_LOCK(CONCAT('glimpse_db_sync_', MD5(DATABASE())), ?)");
    let locked: Option<i64> = lock.bind(LOCK_SECONDS).fetch_one(connection).await?;
    if locked == Some(1) { Ok(()) } else { Err(MigrateError::Source(BUSY.into())) }
}

/// What remains of an index whose building was interrupted is in the way of the next attempt.
async fn drop_unfinished_indexes(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    let unfinished: Vec<String> = sqlx::query_scalar(
        "SELECT quote_ident(relname) FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid \
         WHERE NOT indisvalid AND relname LIKE 'glimpse\\_%' AND relnamespace = current_schema()::regnamespace",
    )
    .fetch_all(&mut *connection)
    .await?;
    for index in unfinished {
        connection.execute(AssertSqlSafe(format!("DROP INDEX {index}"))).await?;
    }
    Ok(())
}

/// A migration of MySQL's is no transaction. Where one of those that add an index was interrupted, the index is there or is
/// not, and the record says that it was begun: both go, and it runs again.
async fn undo_unfinished_indexes(connection: &mut MySqlConnection) -> Result<(), sqlx::Error> {
    let begun = "SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name = ?";
    let begun: i64 = sqlx::query_scalar(begun).bind(TABLE).fetch_one(&mut *connection).await?;
    if begun == 0 {
        return Ok(());
    }
    let unfinished =
        format!("SELECT version, REPLACE(description, ' ', '_') FROM {TABLE} WHERE NOT success AND version > ?");
    let unfinished: Vec<(i64, String)> =
        sqlx::query_as(AssertSqlSafe(unfinished)).bind(LAST_OF_GLANCE).fetch_all(&mut *connection).await?;
    for (version, index) in unfinished {
        let table = "SELECT CAST(MIN(table_name) AS CHAR) FROM information_schema.statistics \
                     WHERE table_schema = DATABASE() AND index_name = ?";
        let table: Option<String> = sqlx::query_scalar(table).bind(&index).fetch_one(&mut *connection).await?;
        if let Some(table) = table {
            connection.execute(AssertSqlSafe(format!("ALTER TABLE `{table}` DROP INDEX `{index}`"))).await?;
        }
        let forget = AssertSqlSafe(format!("DELETE FROM {TABLE} WHERE version = ?"));
        sqlx::query(forget).bind(version).execute(&mut *connection).await?;
    }
    Ok(())
}

impl Db {
    /// Reads what the database at `url` has, for who only looks: nothing is made, not even an empty file.
    ///
    /// # Errors
    /// What `open` and `schema` tell.
    pub(crate) async fn schema_at(url: &DatabaseUrl, limits: ConnectionOptions) -> Result<Schema> {
        if matches!(&url.target, Target::Sqlite(path) if !path.exists()) {
            return Ok(Schema::EMPTY);
        }
        let db = Self::open(url, limits).await?;
        let schema = db.schema().await;
        db.close().await;
        schema
    }

    /// Reads what the database has. Changes nothing.
    pub(crate) async fn schema(&self) -> Result<Schema> {
        let tables = self.table_names().await?;
        let has = |name: &str| tables.iter().any(|table| table == name);
        let mut conn = self.acquire().await?;
        let alembic: Vec<(String,)> = if has("alembic_version") {
            conn.all(Query::select().column(AlembicVersion::VersionNum).from(AlembicVersion::Table).take()).await?
        } else {
            Vec::new()
        };
        let alembic: Vec<String> = alembic.into_iter().map(|(revision,)| revision).collect();
        let applied: Vec<(i64, bool)> = if has(TABLE) {
            use GlimpseMigrations as M;
            conn.all(Query::select().columns([M::Version, M::Success]).from(M::Table).take()).await?
        } else {
            Vec::new()
        };
        let migrator = self.migrator();
        let state = if applied.iter().any(|(version, _)| !migrator.version_exists(*version)) {
            State::Ahead
        } else if let Some((migration, _)) = applied.iter().find(|(_, success)| !success) {
            State::Begun { migration: *migration }
        } else if applied.is_empty() && (has("images") || has("alembic_version")) {
            amounts_to(&alembic).map_or(State::Foreign, |amounts_to| State::Glance { amounts_to })
        } else if applied.len() == migrator.iter().count() {
            State::Current
        } else if applied.is_empty() {
            State::Empty
        } else {
            // A take-over that was interrupted before everything was recorded, or Glance's tools went on from there.
            let last = applied.iter().map(|(version, _)| *version).max();
            match amounts_to(&alembic) {
                Some(amounts_to) if Some(amounts_to) > last => State::Glance { amounts_to },
                _ => State::Behind,
            }
        };
        Ok(Schema { state, alembic, migration: applied.iter().map(|(version, _)| *version).max().unwrap_or_default() })
    }

    /// Runs the migrations that have not run yet, and tells whether there were any. Two programs that do so at once end with the
    /// same result.
    ///
    /// # Errors
    /// `Schema` on a database that we do not understand; nothing was changed then.
    pub(crate) async fn sync(&self) -> Result<bool> {
        let progress = |schema: Schema| (schema.state, schema.migration);
        let mut before = progress(self.schema().await?);
        if before.0 == State::Current {
            return Ok(false);
        }
        let mut patience = LOCKED_ATTEMPTS;
        loop {
            let recorded = match before.0 {
                State::Current => return Ok(true),
                // Another program may be at it: whoever has the lock next finds out.
                State::Empty | State::Behind | State::Begun { .. } => None,
                State::Glance { amounts_to } => Some(amounts_to),
                State::Foreign | State::Ahead => return Err(cannot_sync(before.0)),
            };
            let ran = self.run_migrations(recorded).await;
            let now = progress(self.schema().await?);
            match ran {
                // SQLite has no lock for migrations: another program may have done a part of them meanwhile.
                Err(_) if now != before => before = now,
                Err(MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _)) => match error.into() {
                    // The other program has the file locked, in which case SQLite may not wait.
                    Error::Unavailable(_) if patience > 0 && matches!(self, Self::Sqlite { .. }) => {
                        patience -= 1;
                        tokio::time::sleep(super::SQLITE_PAUSE).await;
                    }
                    error => return Err(error),
                },
                Err(MigrateError::Dirty(migration)) => return Err(cannot_sync(State::Begun { migration })),
                Err(other) => return Err(Error::Schema(other.to_string())),
                Ok(()) => return Ok(true),
            }
        }
    }

    async fn run_migrations(&self, recorded: Option<i64>) -> Result<(), MigrateError> {
        let migrator = self.migrator();
        match self {
            Self::Sqlite { write, .. } => {
                let mut held = write.acquire().await?;
                record_and_run(migrator, recorded, held.connection()?).await
            }
            Self::Postgres(pool) => {
                let mut held = pool.acquire().await?;
                let connection = held.connection()?;
                lock_postgres(connection).await?;
                let ran = match drop_unfinished_indexes(connection).await {
                    Ok(()) => record_and_run(migrator, recorded, connection).await,
                    Err(error) => Err(error.into()),
                };
                // The lock goes with its connection.
                held.close().await?;
                ran
            }
            Self::MySql(pool) => {
                let mut held = pool.acquire().await?;
                let is_clustered = held.is_clustered();
                let connection = held.connection()?;
                let cluster_lock = if is_clustered {
                    let beating = pool.acquire().await?.detach()?;
                    let lock = SyncLock::take(connection, beating).await;
                    Some(lock.map_err(|error| MigrateError::Source(error.into()))?)
                } else {
                    lock_mysql(connection).await?;
                    None
                };
                let ran = match undo_unfinished_indexes(connection).await {
                    Ok(()) => record_and_run(migrator, recorded, connection).await,
                    Err(error) => Err(error.into()),
                };
                if let Some(lock) = cluster_lock {
                    lock.release(connection).await;
                }
                // A server's own lock goes with its connection.
                held.close().await?;
                ran
            }
        }
    }

    fn migrator(&self) -> &'static Migrator {
        match self {
            Self::Sqlite { .. } => &SQLITE,
            Self::Postgres(_) => &POSTGRES,
            Self::MySql(_) => &MYSQL,
        }
    }

    async fn table_names(&self) -> Result<Vec<String>> {
        Ok(match self {
            Self::Sqlite { write, .. } => {
                sqlx::query_scalar("SELECT name FROM sqlite_master WHERE type = 'table'")
                    .fetch_all(write.acquire().await?.connection()?)
                    .await?
            }
            Self::Postgres(pool) => {
                sqlx::query_scalar("SELECT tablename::text FROM pg_tables WHERE schemaname = current_schema()")
                    .fetch_all(pool.acquire().await?.connection()?)
                    .await?
            }
            Self::MySql(pool) => {
                sqlx::query_scalar(
                    "SELECT CAST(table_name AS CHAR) FROM information_schema.tables WHERE table_schema = DATABASE()",
                )
                .fetch_all(pool.acquire().await?.connection()?)
                .await?
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{MYSQL, POSTGRES, SQLITE, State, Step, amounts_to, last_migration};

    /// Glance's revisions come in three steps, and `db check` tells which is next; of the three, we have two.
    #[test]
    fn what_is_left_to_do() {
        let step = |state: State| state.advice().map(|(_, step)| step);
        assert_eq!(step(State::Current), None);
        for state in [State::Empty, State::Behind, State::Glance { amounts_to: last_migration() - 1 }] {
            assert_eq!(step(state), Some(Step::Expand));
        }
        assert_eq!(step(State::Glance { amounts_to: last_migration() }), Some(Step::Contract));
        for state in [State::Begun { migration: 1 }, State::Foreign, State::Ahead] {
            assert_eq!(step(state), Some(Step::ByHand));
        }
        let numbers = |migrator: &sqlx::migrate::Migrator| migrator.iter().map(|m| m.version).collect::<Vec<_>>();
        assert_eq!(numbers(&SQLITE), numbers(&POSTGRES));
        assert_eq!(numbers(&SQLITE), numbers(&MYSQL));
    }

    #[test]
    fn what_a_glance_amounts_to() {
        let of = |revisions: &[&str]| amounts_to(&revisions.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>());
        assert_eq!(of(&["2024_1_contract01"]), Some(2));
        assert_eq!(of(&["2024_1_expand01", "2023_1_contract01"]), Some(2));
        assert_eq!(of(&["zed_contract01"]), Some(1));
        assert_eq!(of(&["wallaby_expand01", "ussuri_contract01"]), Some(1));
        assert_eq!(of(&["ussuri_contract01"]), None);
        assert_eq!(of(&["2099_1_expand01"]), None);
        assert_eq!(of(&["2024_1_contract01", "liberty"]), None);
        assert_eq!(of(&[]), None);
    }
}
