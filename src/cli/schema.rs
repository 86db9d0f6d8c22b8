//! The commands that create, upgrade and check the schema: `glimpse db sync` and its neighbours, and the same of `glance-manage`.
//!
//! The messages and the exit codes are Glance's. A step that has nothing to do says so, and succeeds; a step that another one has to
//! precede fails. What Glimpse adds to Glance's schema belongs to the newest expansion: as long as it is missing, the database is not
//! up to date.

use std::{
    fmt,
    io::{self, Write as _},
    process::ExitCode,
};

use super::{CommandResult, GlanceMessage};
use crate::{
    app::{self, StartError},
    config::{Config, Target},
    db::{
        self, Db,
        migrate::{Schema, Step},
        revisions::{CONTRACT_HEAD, EXPAND_HEAD, Revision},
    },
};

/// A command for the schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Command {
    /// Expand, migrate, contract.
    Sync,
    /// Upgrade to a revision, as the caller has named it.
    Upgrade(String),
    Expand,
    Migrate,
    Contract,
    /// Record a revision without running anything.
    VersionControl(String),
    Version,
    Check,
}

/// The name under which the program was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Program {
    Glimpse,
    /// `glance-manage`. It refuses the steps of a rolling upgrade on PostgreSQL, and prints nothing of Glimpse's own.
    GlanceManage,
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Glimpse => "glimpse",
            Self::GlanceManage => "glance-manage",
        })
    }
}

/// Exit codes of `db check` for the step that is needed. Glance has 4 for a migration of data, and Glimpse has none of these.
const NEEDS_EXPAND: u8 = 3;
const NEEDS_CONTRACT: u8 = 5;

const UP_TO_DATE: &str = "Database is up to date. No migrations needed.";

type Result<T, E = Box<dyn std::error::Error>> = std::result::Result<T, E>;

/// Runs a command, and prints its messages.
pub(super) async fn run(config: &Config, command: Command, program: Program) -> CommandResult {
    let commands = Commands { config, program };
    match command {
        Command::Sync => commands.sync().await?,
        Command::Upgrade(version) => commands.upgrade(&commands.open().await?, &version).await?,
        Command::Expand => commands.expand().await?,
        Command::Migrate => commands.migrate().await?,
        Command::Contract => commands.contract().await?,
        Command::VersionControl(version) => commands.version_control(&version).await?,
        Command::Version => commands.version().await?,
        Command::Check => return commands.check().await,
    }
    Ok(ExitCode::SUCCESS)
}

struct Commands<'a> {
    config: &'a Config,
    program: Program,
}

impl Commands<'_> {
    async fn sync(&self) -> Result<()> {
        let schema = self.schema().await?;
        if schema.next_step().is_none() {
            return print(UP_TO_DATE);
        }
        let steps = async {
            let db = self.open().await?;
            self.expand_from(&db, &schema).await?;
            print("Database migration is up to date. No migration needed.")?;
            self.upgrade(&db, &CONTRACT_HEAD.to_string()).await?;
            db.close().await;
            print("Database is synced successfully.")
        };
        let error = |error: Box<dyn std::error::Error>| match self.program {
            Program::GlanceManage if !error.is::<io::Error>() => {
                GlanceMessage(format!("Failed to sync database: ERROR: {error}")).into()
            }
            Program::GlanceManage | Program::Glimpse => error,
        };
        steps.await.map_err(error)
    }

    async fn expand(&self) -> Result<()> {
        self.check_engine()?;
        let db = self.open().await?;
        let schema = db.schema().await.map_err(|error| self.failed(error))?;
        match schema.next_step() {
            None => print(UP_TO_DATE),
            Some(_) => self.expand_from(&db, &schema).await,
        }
    }

    async fn expand_from(&self, db: &Db, schema: &Schema) -> Result<()> {
        if schema.heads.contains(EXPAND_HEAD) && schema.state.advice().is_none() {
            return print("Database expansion is up to date. No expansion needed.");
        }
        self.upgrade(db, &EXPAND_HEAD.to_string()).await
    }

    async fn migrate(&self) -> Result<()> {
        self.check_engine()?;
        match self.schema().await?.next_step() {
            None => print(UP_TO_DATE),
            Some(Step::Contract) => print("Database migration is up to date. No migration needed."),
            Some(Step::Expand | Step::ByHand) => Err(self.refuse(
                "Data migration did not run. Data migration cannot be run before database expansion. Run database expansion \
                 first using",
            )),
        }
    }

    async fn contract(&self) -> Result<()> {
        self.check_engine()?;
        match self.schema().await?.next_step() {
            None => print(UP_TO_DATE),
            Some(Step::Contract) => self.upgrade(&self.open().await?, &CONTRACT_HEAD.to_string()).await,
            Some(Step::Expand | Step::ByHand) => Err(self.refuse(
                "Database contraction did not run. Database contraction cannot be run before database expansion. Run database \
                 expansion first using",
            )),
        }
    }

    /// Upgrades to a revision.
    async fn upgrade(&self, db: &Db, version: &str) -> Result<()> {
        let revision = Revision::find(version)?;
        let upgraded = async {
            if let Some(revision) = revision {
                db.upgrade(revision).await?;
            }
            db.schema().await
        };
        let heads = upgraded.await.map_err(|error| self.failed(error))?.heads;
        if version == "heads" {
            return print(&format!("Upgraded database, current revision(s): {heads}"));
        }
        print(&format!("Upgraded database to: {version}, current revision(s): {heads}"))
    }

    async fn version_control(&self, version: &str) -> Result<()> {
        let revision = Revision::find(version)?;
        self.open().await?.put_at(revision).await.map_err(|error| self.failed(error))?;
        print(&format!("Placed database under migration control at revision: {version}"))
    }

    async fn version(&self) -> Result<()> {
        let schema = self.schema().await?;
        match self.program {
            Program::Glimpse => {
                let heads = if schema.heads.is_empty() { "none".to_owned() } else { schema.heads.to_string() };
                print(&heads)?;
                print(&format!("glimpse migration {}", schema.migration))
            }
            Program::GlanceManage if schema.heads.is_empty() => print(
                "Database is either not under migration control or under legacy migration control, please run \
                 \"glance-manage db sync\" to place the database under alembic migration control.",
            ),
            Program::GlanceManage => schema.heads.rows().iter().try_for_each(|head| print(head)),
        }
    }

    async fn check(&self) -> CommandResult {
        self.check_engine()?;
        let schema = self.schema().await?;
        let (step, code) = match schema.next_step() {
            None => {
                print("Database is up to date. No upgrades needed.")?;
                return Ok(ExitCode::SUCCESS);
            }
            Some(Step::Contract) => ("next step is to run `PROGRAM db contract`", ExitCode::from(NEEDS_CONTRACT)),
            Some(Step::ByHand) if self.program == Program::Glimpse => ("", ExitCode::FAILURE),
            Some(Step::Expand | Step::ByHand) => {
                ("first step is to run `PROGRAM db expand`", ExitCode::from(NEEDS_EXPAND))
            }
        };
        match schema.state.advice().filter(|_| self.program == Program::Glimpse) {
            Some(advice) => print(&format!("Your database is not up to date: {advice}."))?,
            None => {
                let step = step.replace("PROGRAM", &self.program.to_string());
                print(&format!("Your database is not up to date. Your {step}."))?;
            }
        }
        Ok(code)
    }

    /// Glance has the steps of a rolling upgrade on two engines.
    fn check_engine(&self) -> Result<()> {
        match (self.program, &self.config.database_url().target) {
            (Program::GlanceManage, Target::Postgres(_)) => {
                Err(GlanceMessage("Rolling upgrades are currently supported only for MySQL and Sqlite".to_owned())
                    .into())
            }
            _ => Ok(()),
        }
    }

    async fn schema(&self) -> Result<Schema> {
        read(self.config).await.map_err(|error| self.failed(error))
    }

    /// Opens the database. Creates it if it is an SQLite file.
    async fn open(&self) -> Result<Db> {
        if self.config.database_is_embedded() {
            app::create_data_dir(self.config)?;
        }
        let db = Db::open(&self.config.database_url(), (&self.config.database).into()).await;
        db.map_err(|error| self.failed(error))
    }

    fn failed(&self, source: db::Error) -> Box<dyn std::error::Error> {
        StartError::Database { url: self.config.database_url().to_string(), source }.into()
    }

    /// The error about a step that needs an expansion first.
    fn refuse(&self, message: &str) -> Box<dyn std::error::Error> {
        GlanceMessage(format!("{message} \"{} db expand\"", self.program)).into()
    }
}

/// Reads the schema of the configured database. Creates and changes nothing.
pub(super) async fn read(config: &Config) -> db::Result<Schema> {
    // The first start creates the data directory.
    if config.database_is_embedded() && !config.glimpse.data_dir.exists() {
        return Ok(Schema::empty());
    }
    Db::schema_at(&config.database_url(), (&config.database).into()).await
}

fn print(line: &str) -> Result<()> {
    Ok(writeln!(io::stdout(), "{line}")?)
}
