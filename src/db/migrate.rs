//! Brings a database to the schema that this program needs, and tells what it has.
//!
//! The migrations under `migrations/<engine>/` are embedded; which of them ran is kept in `glimpse_migrations`. The first
//! one is Glance's own schema, with its `alembic_version`, so that either program can run on the result.

use std::sync::LazyLock;

use sea_query::Query;
use sqlx::migrate::{MigrateError, Migrator};

use super::{Db, Error, Result, Session};

/// Beside Glance's tables, under a name that is plainly ours.
const TABLE: &str = "glimpse_migrations";

/// How long to wait for another program's migrations.
const LOCK_SECONDS: u32 = 300;

static SQLITE: LazyLock<Migrator> = LazyLock::new(|| named(sqlx::migrate!("migrations/sqlite")));
static POSTGRES: LazyLock<Migrator> = LazyLock::new(|| named(sqlx::migrate!("migrations/postgres")));
static MYSQL: LazyLock<Migrator> = LazyLock::new(|| {
    let mut migrator = named(sqlx::migrate!("migrations/mysql"));
    migrator.set_locking(false);
    migrator
});

fn named(mut migrator: Migrator) -> Migrator {
    migrator.dangerous_set_table_name(TABLE);
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
    /// Tables of an image service that `db sync` did not make.
    Foreign,
    /// Migrations ran that this program does not know: a newer program made it.
    Ahead,
}

/// A database's schema, as `glimpse db version` shows it.
#[derive(Debug, Clone)]
pub(crate) struct Schema {
    /// How it compares to what this program needs.
    pub(crate) state: State,
    /// The revision that Glance's own tools see.
    pub(crate) alembic: Option<String>,
    /// The last of our migrations that ran, 0 where none did.
    pub(crate) migration: i64,
}

impl Schema {
    /// That of a database that is not there.
    pub(crate) const EMPTY: Self = Self { state: State::Empty, alembic: None, migration: 0 };
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

impl Db {
    /// Reads what the database has. Changes nothing.
    pub(crate) async fn schema(&self) -> Result<Schema> {
        let tables = self.table_names().await?;
        let has = |name: &str| tables.iter().any(|table| table == name);
        let mut conn = self.acquire().await?;
        let alembic: Option<(String,)> = if has("alembic_version") {
            conn.optional(Query::select().column(AlembicVersion::VersionNum).from(AlembicVersion::Table).take()).await?
        } else {
            None
        };
        let applied: Vec<(i64, bool)> = if has(TABLE) {
            use GlimpseMigrations as M;
            conn.all(Query::select().columns([M::Version, M::Success]).from(M::Table).take()).await?
        } else {
            Vec::new()
        };
        let migrator = self.migrator();
        let state = if applied.iter().any(|(version, _)| !migrator.version_exists(*version)) {
            State::Ahead
        } else if applied.is_empty() && (has("images") || has("alembic_version")) {
            State::Foreign
        } else if applied.iter().filter(|(_, success)| *success).count() == migrator.iter().count() {
            State::Current
        } else if applied.is_empty() {
            State::Empty
        } else {
            State::Behind
        };
        Ok(Schema {
            state,
            alembic: alembic.map(|(version,)| version),
            migration: applied.iter().map(|(version, _)| *version).max().unwrap_or_default(),
        })
    }

    /// Runs the migrations that have not run yet. Two programs that do so at once end with the same result.
    ///
    /// # Errors
    /// `Schema` on a database that we do not understand; nothing was changed then.
    pub(crate) async fn sync(&self) -> Result<()> {
        match self.schema().await?.state {
            State::Current => return Ok(()),
            State::Empty | State::Behind => {}
            State::Foreign => {
                return Err(Error::Schema(
                    "the database holds tables of an image service that `glimpse db sync` did not make; \
                     give it an empty database"
                        .to_owned(),
                ));
            }
            State::Ahead => {
                return Err(Error::Schema(
                    "a newer Glimpse has used this database; run that one, or restore the database from before"
                        .to_owned(),
                ));
            }
        }
        let migrator = self.migrator();
        let ran = match self {
            Self::Sqlite { write, .. } => migrator.run(write).await,
            Self::Postgres(pool) => migrator.run(pool).await,
            Self::MySql(pool) => {
                // MariaDB does not wait for a lock without a limit, which is how sqlx asks for it.
                let mut connection = pool.acquire().await?;
                let lock = sqlx::query_scalar("SELECT GET_LOCK(CONCAT('glimpse_db_sync_', MD5(DATABASE())), ?)");
                let locked: Option<i64> = lock.bind(LOCK_SECONDS).fetch_one(&mut *connection).await?;
                if locked != Some(1) {
                    return Err(Error::Schema("another program is at its migrations; try again later".to_owned()));
                }
                let ran = migrator.run(&mut *connection).await;
                // The lock goes with its connection.
                connection.close().await?;
                ran
            }
        };
        match ran {
            Ok(()) => Ok(()),
            // SQLite has no lock for migrations: another program may have been first.
            Err(_) if self.schema().await?.state == State::Current => Ok(()),
            Err(MigrateError::Execute(error)) => Err(error.into()),
            Err(MigrateError::Dirty(version)) => Err(Error::Schema(format!(
                "migration {version} was interrupted, and this engine cannot undo it: restore the database from before, \
                 or, if it was empty, drop it and create it again"
            ))),
            Err(other) => Err(Error::Schema(other.to_string())),
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
                sqlx::query_scalar("SELECT name FROM sqlite_master WHERE type = 'table'").fetch_all(write).await?
            }
            Self::Postgres(pool) => {
                sqlx::query_scalar("SELECT tablename::text FROM pg_tables WHERE schemaname = current_schema()")
                    .fetch_all(pool)
                    .await?
            }
            Self::MySql(pool) => {
                sqlx::query_scalar(
                    "SELECT CAST(table_name AS CHAR) FROM information_schema.tables WHERE table_schema = DATABASE()",
                )
                .fetch_all(pool)
                .await?
            }
        })
    }
}
