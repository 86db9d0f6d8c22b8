//! `glimpse db …`

use std::process::ExitCode;

use chrono::{TimeDelta, Utc};
use clap::{Args, Subcommand};

use super::CommandResult;
use crate::{
    app::{self, StartError},
    config::Config,
    db::{
        self, Db,
        migrate::Step,
        purge::{IMAGES, Purged, RECORDS},
    },
    log,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Subcommand)]
pub(super) enum Command {
    /// Bring the database to the schema that this program needs
    Sync,
    /// Show the schema's version: Glance's revision, and the last migration of ours
    Version,
    /// Tell whether the schema is up to date: exit code 0 when it is, 3 when `db sync` is needed, 5 when it is needed to end an
    /// upgrade that Glance began, 1 when it cannot be used
    Check,
    /// The last step of a rolling upgrade: an upgrade that Glance began is ended
    #[command(hide = true)]
    Contract,
    /// Remove for good what belonged to images that were deleted, and deleted tasks; the images' own rows stay
    Purge(Purge<30>),
    /// Remove the rows of images that were deleted, for good: from then on their ids can be used again, by anybody
    #[command(name = "purge_images_table", alias = "purge-images-table")]
    PurgeImagesTable(Purge<180>),
}

/// What is removed, by default after so many days.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Args)]
pub(super) struct Purge<const DAYS: i64> {
    /// Only what was deleted so many days ago
    #[arg(long = "age_in_days", alias = "age-in-days", default_value_t = DAYS, allow_negative_numbers = true)]
    age_in_days: i64,
    /// Rows of a table at the most; -1 is all
    #[arg(long = "max_rows", alias = "max-rows", default_value_t = 100, allow_negative_numbers = true)]
    max_rows: i64,
    /// The same as --age_in_days
    #[arg(value_name = "DAYS", hide = true, conflicts_with = "age_in_days", allow_negative_numbers = true)]
    days: Option<i64>,
    /// The same as --max_rows
    #[arg(value_name = "ROWS", hide = true, conflicts_with = "max_rows", allow_negative_numbers = true)]
    rows: Option<i64>,
}

/// `db check`'s exit codes, as `glance-manage db check` has them for the steps that are needed.
const NEEDS_EXPAND: u8 = 3;
const NEEDS_CONTRACT: u8 = 5;

#[expect(clippy::print_stdout, reason = "this is what the command is for")]
pub(super) fn run(config: &Config, command: Command) -> CommandResult {
    log::start(config)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let url = config.database_url();
        let limits = (&config.database).into();
        let error = |source| StartError::Database { url: url.to_string(), source };
        match command {
            Command::Sync => {
                if config.database_is_embedded() {
                    app::create_data_dir(config)?;
                }
                sync(&Db::open(&url, limits).await.map_err(error)?).await.map_err(error)?;
                Ok(ExitCode::SUCCESS)
            }
            Command::Version => {
                let schema = Db::schema_at(&url, limits).await.map_err(error)?;
                println!("{}", if schema.alembic.is_empty() { "none".to_owned() } else { schema.alembic.join(", ") });
                println!("glimpse migration {}", schema.migration);
                Ok(ExitCode::SUCCESS)
            }
            Command::Check | Command::Contract => {
                let advice = Db::schema_at(&url, limits).await.map_err(error)?.state.advice();
                let step = advice.as_ref().map(|(_, step)| *step);
                if command == Command::Contract && step == Some(Step::Contract) {
                    sync(&Db::open(&url, limits).await.map_err(error)?).await.map_err(error)?;
                    return Ok(ExitCode::SUCCESS);
                }
                match advice {
                    None => println!("Database is up to date. No upgrades needed."),
                    Some((advice, _)) => println!("Your database is not up to date: {advice}."),
                }
                Ok(match step {
                    None => ExitCode::SUCCESS,
                    Some(Step::Expand) => ExitCode::from(NEEDS_EXPAND),
                    Some(Step::Contract) => ExitCode::from(NEEDS_CONTRACT),
                    Some(Step::ByHand) => ExitCode::FAILURE,
                })
            }
            Command::Purge(what) => {
                let (age, rows) = what.checked()?;
                purge(&Db::open(&url, limits).await.map_err(error)?, &RECORDS, age, rows).await
            }
            Command::PurgeImagesTable(what) => {
                let (age, rows) = what.checked()?;
                purge(&Db::open(&url, limits).await.map_err(error)?, &IMAGES, age, rows).await
            }
        }
    })
}

#[expect(clippy::print_stdout, reason = "this is what the command is for")]
async fn sync(db: &Db) -> db::Result<()> {
    let synced = db.sync().await?;
    db.close().await;
    let told =
        if synced { "Database is synced successfully." } else { "Database is up to date. No migrations needed." };
    println!("{told}");
    Ok(())
}

/// Days since the epoch that Glance takes; a database has no older rows.
fn days_since_the_epoch() -> i64 {
    now().timestamp() / (24 * 3600)
}

#[expect(clippy::disallowed_methods, reason = "a command asks the clock once")]
fn now() -> chrono::DateTime<Utc> {
    Utc::now()
}

impl<const DAYS: i64> Purge<DAYS> {
    /// The age, and the bound on rows where there is one.
    fn checked(self) -> Result<(TimeDelta, Option<u32>), String> {
        let (age, rows) = (self.days.unwrap_or(self.age_in_days), self.rows.unwrap_or(self.max_rows));
        if age < 0 {
            return Err("Must supply a non-negative value for age.".to_owned());
        }
        if age >= days_since_the_epoch() {
            return Err("Maximal age is count of days since epoch.".to_owned());
        }
        match rows {
            ..=-2 => Err("Minimal rows limit is -1.".to_owned()),
            -1 => Ok((TimeDelta::days(age), None)),
            rows => match i32::try_from(rows) {
                Ok(rows) => Ok((TimeDelta::days(age), Some(rows.unsigned_abs()))),
                Err(_) => Err(format!("'max_rows' value out of range, must not exceed {}.", i32::MAX)),
            },
        }
    }
}

async fn purge(db: &Db, tables: &[Purged], age: TimeDelta, rows: Option<u32>) -> CommandResult {
    let before = (now() - age).naive_utc();
    for what in tables {
        let table = what.table;
        match db.purge(*what, before, rows).await {
            Ok(removed) => tracing::info!("Deleted {removed} row(s) from table {table}"),
            Err(error) if db::is_referred(&error) => {
                tracing::error!(%error, "purging {table}: run `db purge` first, which removes what belongs to its rows");
                return Err("Purge command failed, check glance-manage logs for more details.".into());
            }
            Err(error) => return Err(error.into()),
        }
    }
    db.close().await;
    Ok(ExitCode::SUCCESS)
}
