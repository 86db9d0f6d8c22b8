//! Migrates a database to the schema that this version of Glimpse needs, and reports the state of a schema.
//!
//! The migrations under `migrations/<engine>/` are embedded. The table `glimpse_migrations` records which of them ran. The
//! first two create Glance's own schema, including its `alembic_version`, so that either program can run on the result. The
//! others add Glimpse's own tables and indexes, named `glimpse_*`. Each index has a migration of its own, and is built without
//! blocking writes if the engine supports that.
//!
//! `db sync` adopts a database that Glance has created: it records the migrations whose schema is already there, and runs the
//! others. It neither changes nor removes anything of Glance's, and Glance can still use the database.

use std::{
    sync::LazyLock,
    time::{Duration, Instant},
};

use sea_query::Query;
use sqlx::{
    AssertSqlSafe, Executor as _, MySqlConnection, PgConnection, SqlSafeStr as _,
    migrate::{Migrate, MigrateError, Migration, Migrator},
};

use super::{
    ConnectionOptions, Db, Error, Result, Session,
    sync_lock::{Connect, SyncLock, Timing},
};
use crate::config::{DatabaseUrl, Target};

/// The table that records the migrations. Its name cannot conflict with Glance's tables.
const TABLE: &str = "glimpse_migrations";

/// The number of retries if a SQLite file is locked.
const LOCKED_ATTEMPTS: u32 = 100;
/// How long to wait for the migrations of another process, in seconds.
const LOCK_SECONDS: u32 = 300;
/// The times of the lock in a cluster.
const SYNC_LOCK: Timing =
    Timing { heartbeat: Duration::from_secs(1), patience: Duration::from_secs(LOCK_SECONDS as u64) };
/// The pause between two attempts to take the lock.
const LOCK_PAUSE: Duration = Duration::from_millis(100);
/// The error if another process holds the lock for too long.
const BUSY: &str = "another process is migrating the database; try again later";

static SQLITE: LazyLock<Migrator> = LazyLock::new(|| with_own_table(sqlx::migrate!("migrations/sqlite")));
static POSTGRES: LazyLock<Migrator> =
    LazyLock::new(|| without_lock(with_own_table(sqlx::migrate!("migrations/postgres"))));
static MYSQL: LazyLock<Migrator> = LazyLock::new(|| without_lock(with_own_table(sqlx::migrate!("migrations/mysql"))));

/// MySQL's migrations, to run one again that was interrupted: each statement skips what exists already.
static MYSQL_REPEATING: LazyLock<Migrator> = LazyLock::new(|| {
    let repeating = |migration: &Migration| {
        let sql = migration.sql.as_str();
        let sql = sql.replace("CREATE TABLE IF NOT EXISTS ", "CREATE TABLE ");
        let sql =
            sql.replace("CREATE TABLE ", "CREATE TABLE IF NOT EXISTS ").replace("INSERT INTO ", "INSERT IGNORE INTO ");
        Migration { sql: AssertSqlSafe(sql).into_sql_str(), ..migration.clone() }
    };
    without_lock(with_own_table(Migrator::with_migrations(MYSQL.iter().map(repeating).collect())))
});

fn with_own_table(mut migrator: Migrator) -> Migrator {
    migrator.dangerous_set_table_name(TABLE);
    migrator
}

/// Disables sqlx's own lock, because [`Db::sync`] takes a lock that suits the engine.
fn without_lock(mut migrator: Migrator) -> Migrator {
    migrator.set_locking(false);
    migrator
}

/// The state of a database's schema, compared to the schema that this version of Glimpse needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// There are no tables.
    Empty,
    /// All migrations have run.
    Current,
    /// Some migrations have not run yet.
    Behind,
    /// A migration was started but not finished, on an engine that cannot roll it back.
    Begun {
        /// The number of the migration.
        migration: i64,
    },
    /// Glance has created the schema. It contains what the migrations up to `amounts_to` create.
    Glance {
        /// The last migration that need not run.
        amounts_to: i64,
    },
    /// There are tables of an image service, but neither `db sync` nor a supported version of Glance has created them.
    Foreign,
    /// A newer version of Glimpse has run migrations that this version does not know.
    Ahead,
}

/// The kind of upgrade that a database needs, in the terms of Glance's `db check`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// `db sync` has to add tables or indexes.
    Expand,
    /// The schema is complete. `db sync` only records that Glimpse uses it, which corresponds to Glance's contraction.
    Contract,
    /// The operator has to act; `db sync` cannot upgrade the database.
    ByHand,
}

impl State {
    /// What the operator has to do before Glimpse can use the database, as a text and as a kind of upgrade; `None` if it is
    /// current.
    pub(crate) fn advice(self) -> Option<(String, Step)> {
        let (text, step) = match self {
            Self::Current => return None,
            Self::Empty => ("it is empty; run `glimpse db sync` with the same configuration", Step::Expand),
            Self::Behind => ("its schema is older than this version needs; run `glimpse db sync`", Step::Expand),
            Self::Glance { amounts_to } => (
                "Glance has created it; run `glimpse db sync` to adopt it, Glance can still use it afterwards",
                if amounts_to < last_migration() { Step::Expand } else { Step::Contract },
            ),
            Self::Begun { migration } => {
                let advice = format!(
                    "migration {migration} was started but not finished: unless another `db sync` is running it, it was \
                     interrupted; run `glimpse db sync`, which repeats it"
                );
                return Some((advice, Step::Expand));
            }
            Self::Foreign => (
                "it holds tables of an image service, but not of a Glance from Wallaby to 33 (`glimpse db version` shows \
                 its revision): upgrade it with the `glance-manage db sync` of such a Glance, or use an empty database",
                Step::ByHand,
            ),
            Self::Ahead => {
                ("a newer version of Glimpse has migrated it; run that version, or restore a backup", Step::ByHand)
            }
        };
        Some((text.to_owned(), step))
    }
}

/// A database's schema, as `glimpse db version` shows it.
#[derive(Debug, Clone)]
pub(crate) struct Schema {
    /// Its state, compared to the schema that this version of Glimpse needs.
    pub(crate) state: State,
    /// The revisions in Glance's `alembic_version`: one, or two while an upgrade of Glance is half done.
    pub(crate) alembic: Vec<String>,
    /// The last migration that ran, 0 if none did.
    pub(crate) migration: i64,
}

impl Schema {
    /// The schema of a database that does not exist.
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

/// The releases whose schema equals migration 1: from the one that added the image to tasks to the last one without cache tables.
const BEFORE_CACHE_TABLES: [&str; 5] = ["wallaby", "xena", "yoga", "zed", "2023_1"];
/// The release whose schema equals migrations 1 and 2.
const WITH_CACHE_TABLES: &str = "2024_1";

/// The last migration that need not run on a database at these revisions; `None` if a revision is unknown.
///
/// A revision is `<release>_expand01` or `<release>_contract01`. The contractions since Wallaby change nothing, so the newest
/// release counts, even if its upgrade is not finished.
fn amounts_to(alembic: &[String]) -> Option<i64> {
    let migration_of = |revision: &String| {
        let (release, step) = revision.rsplit_once('_')?;
        match (release, step) {
            (WITH_CACHE_TABLES, "expand01" | "contract01") => Some(2),
            (release, "expand01" | "contract01") if BEFORE_CACHE_TABLES.contains(&release) => Some(1),
            // The contraction that an unfinished upgrade to Wallaby has not replaced yet.
            ("ussuri", "contract01") => Some(0),
            _ => None,
        }
    };
    let migrations: Option<Vec<i64>> = alembic.iter().map(migration_of).collect();
    migrations?.into_iter().max().filter(|migration| *migration > 0)
}

/// The number of the newest migration, which is the same on every engine.
fn last_migration() -> i64 {
    SQLITE.iter().map(|migration| migration.version).max().unwrap_or_default()
}

fn sync_error(state: State) -> Error {
    Error::Schema(state.advice().map(|(advice, _)| advice).unwrap_or_default())
}

/// The error about a migration that is recorded as not finished on an engine where a migration is a transaction.
fn unexpected_record(migration: i64) -> String {
    format!(
        "migration {migration} is recorded as not finished, although this engine rolls an interrupted migration back. \
         Restore a backup of the database"
    )
}

/// Records the migrations up to `recorded` without running them, and runs the others.
async fn record_and_run<C>(migrator: &Migrator, recorded: Option<i64>, connection: &mut C) -> Result<(), MigrateError>
where
    C: Migrate,
{
    if recorded.is_some() {
        migrator.run_direct(recorded, connection, true).await?;
    }
    migrator.run_direct(None, connection, false).await
}

/// The same on MySQL, after it has repeated what was interrupted. In a cluster, it checks before each migration that this process
/// still holds the lock.
async fn repeat_and_run(
    recorded: Option<i64>,
    connection: &mut MySqlConnection,
    lock: Option<&SyncLock>,
) -> Result<(), MigrateError> {
    let unfinished = undo_unfinished(connection).await?;
    if unfinished.is_some() {
        check_lock(lock, connection).await?;
        MYSQL_REPEATING.run_direct(unfinished, connection, false).await?;
    }
    if recorded.is_some() {
        check_lock(lock, connection).await?;
        MYSQL.run_direct(recorded, connection, true).await?;
    }
    for migration in MYSQL.iter() {
        check_lock(lock, connection).await?;
        MYSQL.run_direct(Some(migration.version), connection, false).await?;
    }
    Ok(())
}

async fn check_lock(lock: Option<&SyncLock>, connection: &mut MySqlConnection) -> Result<(), MigrateError> {
    match lock {
        Some(lock) => lock.check(connection).await.map_err(stopped),
        None => Ok(()),
    }
}

/// An error of the lock, after which no migration is run.
fn stopped(error: Error) -> MigrateError {
    MigrateError::Source(error.into())
}

/// Waits for the migrations of another process. It polls with short statements: a statement that waits for the lock would hold
/// a snapshot, and `CREATE INDEX CONCURRENTLY` waits until all older snapshots are released.
async fn lock_postgres(connection: &mut PgConnection) -> Result<(), MigrateError> {
    let deadline = Instant::now() + Duration::from_secs(LOCK_SECONDS.into());
    loop {
        let lock = sqlx::query_scalar("SELECT pg_try_advisory_lock(hashtext('glimpse_db_sync'))");
        if lock.fetch_one(&mut *connection).await? {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(MigrateError::Source(BUSY.into()));
        }
        tokio::time::sleep(LOCK_PAUSE).await;
    }
}

/// Waits for the migrations of another process, with a timeout: MariaDB does not wait at all without one, which sqlx's own lock
/// omits.
async fn lock_mysql(connection: &mut MySqlConnection) -> Result<(), MigrateError> {
    let lock = sqlx::query_scalar("SELECT GET_LOCK(CONCAT('glimpse_db_sync_', MD5(DATABASE())), ?)");
    let locked: Option<i64> = lock.bind(LOCK_SECONDS).fetch_one(connection).await?;
    if locked == Some(1) { Ok(()) } else { Err(MigrateError::Source(BUSY.into())) }
}

/// Drops what an interrupted `CREATE INDEX CONCURRENTLY` leaves, which would make the next attempt fail: an invalid index, or a
/// valid one without the record of its migration. PostgreSQL completes an index even if its client no longer exists.
async fn drop_unfinished_indexes(migrator: &Migrator, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    let recorded = "SELECT to_regclass($1) IS NOT NULL";
    let recorded: Vec<i64> = if sqlx::query_scalar(recorded).bind(TABLE).fetch_one(&mut *connection).await? {
        let versions = format!("SELECT version FROM {TABLE}");
        sqlx::query_scalar(AssertSqlSafe(versions)).fetch_all(&mut *connection).await?
    } else {
        Vec::new()
    };
    let unrecorded = indexes_without_record(migrator, &recorded);
    let indexes: Vec<(String, bool)> = sqlx::query_as(
        "SELECT relname::text, indisvalid FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid \
         WHERE relname LIKE 'glimpse\\_%' AND relnamespace = current_schema()::regnamespace",
    )
    .fetch_all(&mut *connection)
    .await?;
    for (index, is_valid) in indexes {
        if !is_valid || unrecorded.contains(&index) {
            connection.execute(AssertSqlSafe(format!("DROP INDEX CONCURRENTLY \"{index}\""))).await?;
        }
    }
    Ok(())
}

/// Prepares the repetition of interrupted migrations: drops their indexes, and removes their records. On MySQL, a migration is not
/// a transaction. Returns the last one of them, which [`MYSQL_REPEATING`] can run.
async fn undo_unfinished(connection: &mut MySqlConnection) -> Result<Option<i64>, sqlx::Error> {
    let begun = "SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name = ?";
    let begun: i64 = sqlx::query_scalar(begun).bind(TABLE).fetch_one(&mut *connection).await?;
    let (mut recorded, mut unfinished) = (Vec::new(), Vec::new());
    if begun > 0 {
        let records = AssertSqlSafe(format!("SELECT version, success FROM {TABLE}"));
        for (version, success) in sqlx::query_as(records).fetch_all(&mut *connection).await? {
            if success { recorded.push(version) } else { unfinished.push(version) }
        }
    }
    for index in indexes_without_record(&MYSQL, &recorded) {
        let table = "SELECT CAST(MIN(table_name) AS CHAR) FROM information_schema.statistics \
                     WHERE table_schema = DATABASE() AND index_name = ?";
        let table: Option<String> = sqlx::query_scalar(table).bind(&index).fetch_one(&mut *connection).await?;
        if let Some(table) = table {
            connection.execute(AssertSqlSafe(format!("ALTER TABLE `{table}` DROP INDEX `{index}`"))).await?;
        }
    }
    for version in &unfinished {
        let forget = AssertSqlSafe(format!("DELETE FROM {TABLE} WHERE version = ?"));
        sqlx::query(forget).bind(version).execute(&mut *connection).await?;
    }
    Ok(unfinished.into_iter().max())
}

/// The indexes whose migrations are not among the recorded ones. A migration that adds an index is named after it.
fn indexes_without_record(migrator: &Migrator, recorded: &[i64]) -> Vec<String> {
    let unrecorded = migrator.iter().filter(|migration| !recorded.contains(&migration.version));
    let names = unrecorded.map(|migration| migration.description.replace(' ', "_"));
    names.filter(|name| name.starts_with("glimpse_")).collect()
}

impl Db {
    /// Reads the schema of the database at `url`. Creates nothing, not even an empty SQLite file.
    ///
    /// # Errors
    /// The errors of `open` and `schema`.
    pub(crate) async fn schema_at(url: &DatabaseUrl, limits: ConnectionOptions) -> Result<Schema> {
        if matches!(&url.target, Target::Sqlite(path) if !path.exists()) {
            return Ok(Schema::EMPTY);
        }
        let db = Self::open(url, limits).await?;
        let schema = db.schema().await;
        db.close().await;
        schema
    }

    /// Reads the database's schema. Changes nothing.
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
            // An adoption was interrupted before all migrations were recorded, or Glance's tools have upgraded the schema since.
            let last = applied.iter().map(|(version, _)| *version).max();
            match amounts_to(&alembic) {
                Some(amounts_to) if Some(amounts_to) > last => State::Glance { amounts_to },
                _ => State::Behind,
            }
        };
        Ok(Schema { state, alembic, migration: applied.iter().map(|(version, _)| *version).max().unwrap_or_default() })
    }

    /// Runs the migrations that have not run yet, and returns whether there were any. Several processes may do so concurrently.
    ///
    /// # Errors
    /// `Schema` if the database needs an action of the operator. Nothing was changed then.
    pub(crate) async fn sync(&self) -> Result<bool> {
        let progress = |schema: Schema| (schema.state, schema.migration);
        let mut before = progress(self.schema().await?);
        if before.0 == State::Current {
            return Ok(false);
        }
        let mut retries = LOCKED_ATTEMPTS;
        loop {
            let recorded = match before.0 {
                State::Current => return Ok(true),
                // Another process may be running them. The next holder of the lock finds out.
                State::Empty | State::Behind | State::Begun { .. } => None,
                State::Glance { amounts_to } => Some(amounts_to),
                State::Foreign | State::Ahead => return Err(sync_error(before.0)),
            };
            let ran = self.run_migrations(recorded).await;
            let now = progress(self.schema().await?);
            match ran {
                // The lock was not free in time, or was lost. What another process has done meanwhile does not matter.
                Err(MigrateError::Source(error)) => return Err(Error::Schema(error.to_string())),
                // SQLite has no lock for migrations, so another process may have run some of them concurrently.
                Err(_) if now != before => before = now,
                Err(MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _)) => match error.into() {
                    // The other process has locked the file. In some cases, SQLite does not wait for it.
                    Error::Unavailable(_) if retries > 0 && matches!(self, Self::Sqlite { .. }) => {
                        retries -= 1;
                        tokio::time::sleep(super::open::SQLITE_PAUSE).await;
                    }
                    error => return Err(error),
                },
                Err(MigrateError::Dirty(migration)) => return Err(Error::Schema(unexpected_record(migration))),
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
                let ran = match drop_unfinished_indexes(migrator, connection).await {
                    Ok(()) => record_and_run(migrator, recorded, connection).await,
                    Err(error) => Err(error.into()),
                };
                // Closing the connection releases the lock.
                held.close().await?;
                ran
            }
            Self::MySql(pool) => {
                let mut held = pool.acquire().await?;
                let is_clustered = held.is_clustered();
                let connection = held.connection()?;
                let ran = if is_clustered {
                    let heartbeats = pool.clone();
                    let connect: Connect = Box::new(move || {
                        let pool = heartbeats.clone();
                        Box::pin(async move { Ok(pool.connect_separately().await?) })
                    });
                    let lock = SyncLock::take(connection, connect, SYNC_LOCK).await.map_err(stopped)?;
                    let ran = repeat_and_run(recorded, connection, Some(&lock)).await;
                    lock.release(connection).await;
                    ran
                } else {
                    lock_mysql(connection).await?;
                    repeat_and_run(recorded, connection, None).await
                };
                // Closing the connection releases a lock of `GET_LOCK`.
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

    /// Glance upgrades in three steps, and `db check` returns the next one. Glimpse has two of them.
    #[test]
    fn each_state_has_a_next_step_and_all_engines_have_the_same_migrations() {
        let step = |state: State| state.advice().map(|(_, step)| step);
        assert_eq!(step(State::Current), None);
        let glance = State::Glance { amounts_to: last_migration() - 1 };
        for state in [State::Empty, State::Behind, State::Begun { migration: 1 }, glance] {
            assert_eq!(step(state), Some(Step::Expand));
        }
        assert_eq!(step(State::Glance { amounts_to: last_migration() }), Some(Step::Contract));
        for state in [State::Foreign, State::Ahead] {
            assert_eq!(step(state), Some(Step::ByHand));
        }
        let numbers = |migrator: &sqlx::migrate::Migrator| migrator.iter().map(|m| m.version).collect::<Vec<_>>();
        assert_eq!(numbers(&SQLITE), numbers(&POSTGRES));
        assert_eq!(numbers(&SQLITE), numbers(&MYSQL));
    }

    #[test]
    fn the_revisions_of_glance_map_to_the_last_migration_that_need_not_run() {
        let migration_of =
            |revisions: &[&str]| amounts_to(&revisions.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>());
        assert_eq!(migration_of(&["2024_1_contract01"]), Some(2));
        assert_eq!(migration_of(&["2024_1_expand01", "2023_1_contract01"]), Some(2));
        assert_eq!(migration_of(&["zed_contract01"]), Some(1));
        assert_eq!(migration_of(&["wallaby_expand01", "ussuri_contract01"]), Some(1));
        assert_eq!(migration_of(&["ussuri_contract01"]), None);
        assert_eq!(migration_of(&["2099_1_expand01"]), None);
        assert_eq!(migration_of(&["2024_1_contract01", "liberty"]), None);
        assert_eq!(migration_of(&[]), None);
    }
}
