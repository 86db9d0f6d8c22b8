//! Migrates a database to the schema that this version of Glimpse needs, and reports the state of a schema.
//!
//! The migrations under `migrations/<engine>/` are embedded. The table `glimpse_migrations` records which of them ran. The
//! first two create Glance's own schema, including its `alembic_version`, so that either program can run on the result. The
//! others add Glimpse's own tables and indexes, named `glimpse_*`. Each index has a migration of its own, and is built without
//! blocking writes if the engine supports that.
//!
//! `db sync` adopts a database that Glance has created: it records the migrations whose schema is already there, and runs the
//! others. It neither changes nor removes anything of Glance's, and Glance can still use the database.
//!
//! Glance upgrades in steps: an expansion, which the previous release tolerates, and a contraction. All migrations of Glimpse are
//! expansions. So a contraction only records its revision in `alembic_version`.

use std::{
    io,
    path::Path,
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
    revisions::{self, CONTRACT_HEAD, EXPAND_HEAD, Heads, Revision},
    sync_lock::{Connect, SyncLock, Timing},
};
use crate::config::{DatabaseUrl, Target};

/// The table that records the migrations. Its name cannot conflict with Glance's tables.
const TABLE: &str = "glimpse_migrations";

/// The last migration that creates tables of Glance's. An upgrade to its newest revisions runs the later ones, too.
const NEWEST_OF_GLANCE: i64 = 2;

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

static SQLITE: LazyLock<Migrator> = LazyLock::new(|| prepared(&sqlx::migrate!("migrations/sqlite")));
static POSTGRES: LazyLock<Migrator> = LazyLock::new(|| without_lock(prepared(&sqlx::migrate!("migrations/postgres"))));
static MYSQL: LazyLock<Migrator> = LazyLock::new(|| without_lock(prepared(&sqlx::migrate!("migrations/mysql"))));

/// MySQL's migrations, to run one again that was interrupted: each statement skips what exists already.
static MYSQL_REPEATING: LazyLock<Migrator> = LazyLock::new(|| {
    let repeating = |migration: &Migration| {
        let sql = migration.sql.as_str();
        let sql = sql.replace("CREATE TABLE IF NOT EXISTS ", "CREATE TABLE ");
        let sql =
            sql.replace("CREATE TABLE ", "CREATE TABLE IF NOT EXISTS ").replace("INSERT INTO ", "INSERT IGNORE INTO ");
        Migration { sql: AssertSqlSafe(sql).into_sql_str(), ..migration.clone() }
    };
    Migrator::with_migrations(MYSQL.iter().map(repeating).collect())
});

/// The statements of migrations that record a revision. They are left out: an expansion does not record the contraction, so
/// [`Db::record`] does it.
const RECORDS: [&str; 2] = ["DELETE FROM alembic_version;", "INSERT INTO alembic_version "];

/// Migrations without the statements of [`RECORDS`]. Their checksums stay.
fn prepared(migrator: &Migrator) -> Migrator {
    let without_records = |migration: &Migration| {
        let is_kept = |line: &&str| !RECORDS.iter().any(|record| line.starts_with(record));
        let sql: Vec<&str> = migration.sql.as_str().lines().filter(is_kept).collect();
        Migration { sql: AssertSqlSafe(sql.join("\n")).into_sql_str(), ..migration.clone() }
    };
    with_own_table(Migrator::with_migrations(migrator.iter().map(without_records).collect()))
}

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

/// The next step of an upgrade, in the terms of Glance's `db check`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Tables or indexes have to be added.
    Expand,
    /// Glance's schema is expanded. `db contract` runs what Glimpse adds, and records that the upgrade is complete.
    Contract,
    /// The operator has to act; `db sync` cannot upgrade the database.
    ByHand,
}

impl State {
    /// What the operator has to do before Glimpse can use the database; `None` if it is current.
    pub(crate) fn advice(self) -> Option<String> {
        let text = match self {
            Self::Current => return None,
            Self::Empty => "it is empty; run `glimpse db sync` with the same configuration",
            Self::Behind => "its schema is older than this version needs; run `glimpse db sync`",
            Self::Glance { .. } => {
                "Glance has created it; run `glimpse db sync` to adopt it, Glance can still use it afterwards"
            }
            Self::Begun { migration } => {
                return Some(format!(
                    "migration {migration} was started but not finished: unless another `db sync` is running it, it was \
                     interrupted; run `glimpse db sync`, which repeats it"
                ));
            }
            Self::Foreign => {
                "it holds tables of an image service, but not of a Glance from Wallaby to 33 (`glimpse db version` shows \
                 its revision): upgrade it with the `glance-manage db sync` of such a Glance, or use an empty database"
            }
            Self::Ahead => "a newer version of Glimpse has migrated it; run that version, or restore a backup",
        };
        Some(text.to_owned())
    }

    /// Whether the operator has to act, because `db sync` cannot upgrade the database.
    pub(crate) fn is_by_hand(self) -> bool {
        matches!(self, Self::Foreign | Self::Ahead)
    }
}

/// A database's schema, as `glimpse db version` shows it.
#[derive(Debug, Clone)]
pub(crate) struct Schema {
    /// Its state, compared to the schema that this version of Glimpse needs.
    pub(crate) state: State,
    /// The revisions in Glance's `alembic_version`: one, or two between an expansion and its contraction.
    pub(crate) heads: Heads,
    /// Whether that table exists.
    has_heads: bool,
    /// The last migration that ran, 0 if none did.
    pub(crate) migration: i64,
}

impl Schema {
    /// The schema of a database that does not exist.
    pub(crate) fn empty() -> Self {
        Self { state: State::Empty, heads: Heads::default(), has_heads: false, migration: 0 }
    }

    /// The next step of an upgrade. `None` if the schema is complete, and its contraction is recorded. Revisions that this version
    /// does not know are those of a newer Glance, which has upgraded the database already.
    pub(crate) fn next_step(&self) -> Option<Step> {
        let is_upgraded = self.heads.contains(CONTRACT_HEAD) || self.heads.revisions().is_err();
        match self.state {
            State::Foreign | State::Ahead => Some(Step::ByHand),
            State::Current if is_upgraded => None,
            _ if self.heads.contains(EXPAND_HEAD) => Some(Step::Contract),
            _ => Some(Step::Expand),
        }
    }

    /// Whether the tables of this migration exist.
    fn has_run(&self, migration: i64) -> bool {
        match self.state {
            State::Current => true,
            State::Glance { amounts_to } => migration <= amounts_to,
            State::Behind => migration <= self.migration,
            State::Empty | State::Begun { .. } | State::Foreign | State::Ahead => false,
        }
    }
}

#[derive(Debug, Clone, Copy, sea_query::Iden)]
enum GlimpseMigrations {
    Table,
    Version,
    Success,
}

fn sync_error(state: State) -> Error {
    Error::Schema(state.advice().unwrap_or_default())
}

/// The error about a migration that is recorded as not finished on an engine where a migration is a transaction.
fn unexpected_record(migration: i64) -> String {
    format!(
        "migration {migration} is recorded as not finished, although this engine rolls an interrupted migration back. \
         Restore a backup of the database"
    )
}

/// The migrations of one run.
#[derive(Debug, Clone, Copy)]
struct Plan {
    /// The last migration that is recorded without running it, if there is one.
    recorded: Option<i64>,
    /// The last migration that is run; `None` stands for the newest.
    last: Option<i64>,
}

/// Records and runs the migrations of a plan.
async fn record_and_run<C>(migrator: &Migrator, plan: Plan, connection: &mut C) -> Result<(), MigrateError>
where
    C: Migrate,
{
    if plan.recorded.is_some() {
        migrator.run_direct(plan.recorded, connection, true).await?;
    }
    migrator.run_direct(plan.last, connection, false).await
}

/// The same on MySQL, after it has repeated what was interrupted. In a cluster, it checks before each migration that this process
/// still holds the lock.
async fn repeat_and_run(
    plan: Plan,
    connection: &mut MySqlConnection,
    lock: Option<&SyncLock>,
) -> Result<(), MigrateError> {
    for version in undo_unfinished(connection).await? {
        check_lock(lock, connection).await?;
        repeat(version, connection).await?;
    }
    if plan.recorded.is_some() {
        check_lock(lock, connection).await?;
        MYSQL.run_direct(plan.recorded, connection, true).await?;
    }
    let is_planned = |migration: &&Migration| plan.last.is_none_or(|last| migration.version <= last);
    for migration in MYSQL.iter().filter(is_planned) {
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

/// Prepares the repetition of interrupted migrations: drops their indexes. On MySQL, a migration is not a transaction. Returns their
/// numbers in their order.
async fn undo_unfinished(connection: &mut MySqlConnection) -> Result<Vec<i64>, sqlx::Error> {
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
    unfinished.sort_unstable();
    Ok(unfinished)
}

/// Runs an interrupted migration again. Its record stays meanwhile: without it, its tables would look like those of another program
/// if the repetition is interrupted, too.
async fn repeat(version: i64, connection: &mut MySqlConnection) -> Result<(), MigrateError> {
    if let Some(migration) = MYSQL_REPEATING.iter().find(|migration| migration.version == version) {
        let ran = connection.execute(migration.sql.clone()).await;
        ran.map_err(|error| MigrateError::ExecuteMigration(error, version))?;
        let finished = AssertSqlSafe(format!("UPDATE {TABLE} SET success = TRUE WHERE version = ?"));
        sqlx::query(finished).bind(version).execute(connection).await?;
    }
    Ok(())
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
        let db = match &url.target {
            Target::Sqlite(path) => {
                let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
                match path.try_exists() {
                    Ok(true) => Self::open_read_only(path, limits),
                    Ok(false) if folder.is_none_or(Path::is_dir) => return Ok(Schema::empty()),
                    Ok(false) => return Err(sqlx::Error::Io(io::ErrorKind::NotFound.into()).into()),
                    Err(error) => return Err(sqlx::Error::Io(error).into()),
                }
            }
            Target::Postgres(_) | Target::MySql(_) => Self::open(url, limits).await?,
        };
        let schema = db.schema().await;
        db.close().await;
        schema
    }

    /// Reads the database's schema. Changes nothing.
    pub(crate) async fn schema(&self) -> Result<Schema> {
        let tables = self.table_names().await?;
        let has = |name: &str| tables.iter().any(|table| table == name);
        let mut conn = self.acquire().await?;
        let has_heads = has(revisions::TABLE);
        let heads = if has_heads { revisions::heads(&mut conn).await? } else { Heads::default() };
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
        } else if applied.is_empty() && (has("images") || has_heads) {
            heads.amounts_to().map_or(State::Foreign, |amounts_to| State::Glance { amounts_to })
        } else if applied.len() == migrator.iter().count() {
            State::Current
        } else if applied.is_empty() {
            State::Empty
        } else {
            // An adoption was interrupted before all migrations were recorded, or Glance's tools have upgraded the schema since.
            let last = applied.iter().map(|(version, _)| *version).max();
            match heads.amounts_to() {
                Some(amounts_to) if Some(amounts_to) > last => State::Glance { amounts_to },
                _ => State::Behind,
            }
        };
        let migration = applied.iter().map(|(version, _)| *version).max().unwrap_or_default();
        Ok(Schema { state, heads, has_heads, migration })
    }

    /// Creates the schema, or upgrades it to what this program needs. Returns whether anything was missing. Several processes may do so
    /// concurrently.
    ///
    /// # Errors
    /// `Schema` if the database needs an action of the operator. Nothing was changed then.
    pub(crate) async fn sync(&self) -> Result<bool> {
        let before = self.schema().await?;
        if before.next_step().is_none() {
            return Ok(false);
        }
        self.upgrade(CONTRACT_HEAD).await?;
        Ok(true)
    }

    /// Creates the schema of a revision of Glance's, or upgrades it to that, unless it is there already, and records the revision. The
    /// newest expansion and the newest contraction include everything of Glimpse's own. Several processes may do so concurrently.
    ///
    /// # Errors
    /// `Schema` if the database needs an action of the operator, or Glimpse does not know how to create this revision. Nothing was
    /// changed then.
    pub(crate) async fn upgrade(&self, revision: Revision) -> Result<()> {
        let schema = self.schema().await?;
        let is_newest = revision.migration() == Some(NEWEST_OF_GLANCE);
        if schema.heads.include(revision)? && (!is_newest || schema.state == State::Current) {
            return Ok(());
        }
        if schema.state != State::Current {
            match revision.migration() {
                Some(_) if is_newest => self.migrate(schema, None).await?,
                Some(last) if schema.has_run(last) => {}
                Some(last) => self.migrate(schema, Some(last)).await?,
                None if schema.state.is_by_hand() => return Err(sync_error(schema.state)),
                None => {
                    let oldest = "Glimpse creates the schemas from wallaby_expand01 on";
                    return Err(Error::Schema(format!("{revision} is too old: {oldest}")));
                }
            }
        }
        self.record(revision).await.map(drop)
    }

    /// Records a revision without running anything, or removes all records. Creates the table of the records.
    ///
    /// # Errors
    /// `Schema` if the database records a revision that is unknown.
    pub(crate) async fn put_at(&self, revision: Option<Revision>) -> Result<()> {
        let schema = self.schema().await?;
        if !schema.has_heads {
            if revision.is_none() {
                return Ok(());
            }
            self.create_heads().await?;
        }
        self.stamp(revision).await.map(drop)
    }

    /// Runs the migrations up to `last`, or all of them, that have not run yet.
    async fn migrate(&self, schema: Schema, last: Option<i64>) -> Result<()> {
        let progress = |schema: Schema| (schema.state, schema.migration);
        let mut before = progress(schema);
        let mut retries = LOCKED_ATTEMPTS;
        loop {
            let recorded = match before.0 {
                State::Current => return Ok(()),
                // Another process may be running them. The next holder of the lock finds out.
                State::Empty | State::Behind | State::Begun { .. } => None,
                State::Glance { amounts_to } => Some(amounts_to),
                State::Foreign | State::Ahead => return Err(sync_error(before.0)),
            };
            let ran = self.run_migrations(Plan { recorded, last }).await;
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
                Ok(()) => return Ok(()),
            }
        }
    }

    async fn run_migrations(&self, plan: Plan) -> Result<(), MigrateError> {
        let migrator = self.migrator();
        match self {
            Self::Sqlite { write, .. } => {
                let mut held = write.acquire().await?;
                record_and_run(migrator, plan, held.connection()?).await
            }
            Self::Postgres(pool) => {
                let mut held = pool.acquire().await?;
                let connection = held.connection()?;
                lock_postgres(connection).await?;
                let ran = match drop_unfinished_indexes(migrator, connection).await {
                    Ok(()) => record_and_run(migrator, plan, connection).await,
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
                    let ran = repeat_and_run(plan, connection, Some(&lock)).await;
                    lock.release(connection).await;
                    ran
                } else {
                    lock_mysql(connection).await?;
                    repeat_and_run(plan, connection, None).await
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
    use super::{Heads, MYSQL, POSTGRES, SQLITE, Schema, State, Step};

    /// Glance upgrades in three steps, and `db check` returns the next one. Glimpse has two of them.
    #[test]
    fn each_state_has_a_next_step_and_all_engines_have_the_same_migrations() {
        let step = |state: State, heads: &[&str]| {
            let heads = Heads::new(heads.iter().map(|row| (*row).to_owned()).collect());
            Schema { state, heads, has_heads: true, migration: 0 }.next_step()
        };
        let glance = State::Glance { amounts_to: 2 };
        assert_eq!(step(State::Current, &["2024_1_contract01"]), None);
        // A newer Glance has upgraded it.
        assert_eq!(step(State::Current, &["2099_1_contract01"]), None);
        assert_eq!(step(State::Current, &["2024_1_expand01"]), Some(Step::Contract));
        assert_eq!(step(glance, &["2024_1_expand01", "zed_contract01"]), Some(Step::Contract));
        for state in [State::Empty, State::Behind, State::Begun { migration: 1 }, glance] {
            assert_eq!(step(state, &["2024_1_contract01"]), Some(Step::Expand));
            assert_eq!(step(state, &[]), Some(Step::Expand));
        }
        for state in [State::Foreign, State::Ahead] {
            assert_eq!(step(state, &["2024_1_contract01"]), Some(Step::ByHand));
        }
        let numbers = |migrator: &sqlx::migrate::Migrator| migrator.iter().map(|m| m.version).collect::<Vec<_>>();
        assert_eq!(numbers(&SQLITE), numbers(&POSTGRES));
        assert_eq!(numbers(&SQLITE), numbers(&MYSQL));
    }

    /// Otherwise an expansion would record the contraction.
    #[test]
    fn migrations_record_no_revision() {
        for migrator in [&SQLITE, &POSTGRES, &MYSQL] {
            let statements = |migration: &sqlx::migrate::Migration| {
                migration
                    .sql
                    .as_str()
                    .lines()
                    .filter(|line| line.contains("alembic_version "))
                    .map(str::to_owned)
                    .collect::<Vec<_>>()
            };
            let found: Vec<String> = migrator.iter().flat_map(statements).collect();
            assert_eq!(found, ["CREATE TABLE alembic_version ("]);
        }
    }
}
