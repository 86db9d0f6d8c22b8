//! `glimpse db …`: the database's schema, and purging deleted rows.

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use chrono::{TimeDelta, Utc};
use clap::{Args, Subcommand};

use super::CommandResult;
use crate::error::Error;
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
    /// Create the schema, or upgrade it to the version that this program needs
    ///
    /// Run this before the first start and after each upgrade of Glimpse. The server does it by itself for the embedded
    /// database. Running it again, or on several hosts concurrently, is safe.
    Sync,
    /// Print the schema's version: the revision of Glance's schema, and Glimpse's last migration
    Version,
    /// Check whether the schema is up to date
    ///
    /// The exit code is 0 if it is, 3 if `db sync` is needed, 5 if `db sync` is needed to complete an upgrade that Glance began,
    /// and 1 if the database cannot be used.
    Check,
    /// Complete an upgrade that Glance began, the last step of a rolling upgrade
    #[command(hide = true)]
    Contract,
    /// Permanently remove deleted properties, tags, members, locations and tasks
    ///
    /// Removes the rows that were deleted at least --age_in_days ago. The rows of the deleted images themselves stay; `db
    /// purge_images_table` removes them.
    ///
    /// Example: `glimpse db purge --age_in_days 90 --max_rows -1`
    Purge(Purge<30>),
    /// Permanently remove the rows of deleted images; run `db purge` first
    ///
    /// The row of a deleted image prevents its id from being used again. Once it is removed, any user can create an image with
    /// this id.
    #[command(name = "purge_images_table", alias = "purge-images-table")]
    PurgeImagesTable(Purge<180>),
}

/// The options of a purge, whose default age is `DAYS`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Args)]
pub(super) struct Purge<const DAYS: i64> {
    /// Remove only rows that were deleted at least this many days ago
    #[arg(long = "age_in_days", alias = "age-in-days", default_value_t = DAYS, allow_negative_numbers = true)]
    age_in_days: i64,
    /// Remove at most this many rows per table; -1 means all
    #[arg(long = "max_rows", alias = "max-rows", default_value_t = 100, allow_negative_numbers = true)]
    max_rows: i64,
    /// The same as --age_in_days
    #[arg(value_name = "DAYS", hide = true, conflicts_with = "age_in_days", allow_negative_numbers = true)]
    days: Option<i64>,
    /// The same as --max_rows
    #[arg(value_name = "ROWS", hide = true, conflicts_with = "max_rows", allow_negative_numbers = true)]
    rows: Option<i64>,
}

/// Exit codes of `db check` for the step that is needed, the same as those of `glance-manage db check`.
const NEEDS_EXPAND: u8 = 3;
const NEEDS_CONTRACT: u8 = 5;

pub(super) fn run(config: &Config, command: Command) -> CommandResult {
    log::start(config)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut out = io::stdout();
    runtime.block_on(async {
        let url = config.database_url();
        let limits = (&config.database).into();
        let error = |source| StartError::Database { url: url.to_string(), source };
        match command {
            Command::Sync => {
                if config.database_is_embedded() {
                    app::create_data_dir(config)?;
                }
                let message = sync(&Db::open(&url, limits).await.map_err(error)?).await.map_err(error)?;
                writeln!(out, "{message}")?;
                Ok(ExitCode::SUCCESS)
            }
            Command::Version => {
                let schema = Db::schema_at(&url, limits).await.map_err(error)?;
                writeln!(
                    out,
                    "{}",
                    if schema.alembic.is_empty() { "none".to_owned() } else { schema.alembic.join(", ") }
                )?;
                writeln!(out, "glimpse migration {}", schema.migration)?;
                Ok(ExitCode::SUCCESS)
            }
            Command::Check | Command::Contract => {
                let advice = Db::schema_at(&url, limits).await.map_err(error)?.state.advice();
                let step = advice.as_ref().map(|(_, step)| *step);
                if command == Command::Contract && step == Some(Step::Contract) {
                    let message = sync(&Db::open(&url, limits).await.map_err(error)?).await.map_err(error)?;
                    writeln!(out, "{message}")?;
                    return Ok(ExitCode::SUCCESS);
                }
                match advice {
                    None => writeln!(out, "Database is up to date. No upgrades needed.")?,
                    Some((advice, _)) => writeln!(out, "Your database is not up to date: {advice}.")?,
                }
                Ok(match step {
                    None => ExitCode::SUCCESS,
                    Some(Step::Expand) => ExitCode::from(NEEDS_EXPAND),
                    Some(Step::Contract) => ExitCode::from(NEEDS_CONTRACT),
                    Some(Step::ByHand) => ExitCode::FAILURE,
                })
            }
            Command::Purge(options) => {
                let (age, rows) = options.age_and_rows()?;
                purge(&Db::open(&url, limits).await.map_err(error)?, &RECORDS, age, rows).await
            }
            Command::PurgeImagesTable(options) => {
                let (age, rows) = options.age_and_rows()?;
                purge(&Db::open(&url, limits).await.map_err(error)?, &IMAGES, age, rows).await
            }
        }
    })
}

/// Creates or upgrades the schema. Returns a message about it.
async fn sync(db: &Db) -> db::Result<&'static str> {
    let synced = db.sync().await?;
    db.close().await;
    let message =
        if synced { "Database is synced successfully." } else { "Database is up to date. No migrations needed." };
    Ok(message)
}

/// The largest age that Glance accepts: no row is older than the epoch.
fn days_since_the_epoch() -> i64 {
    now().timestamp() / (24 * 3600)
}

#[expect(clippy::disallowed_methods, reason = "a command reads the clock once")]
fn now() -> chrono::DateTime<Utc> {
    Utc::now()
}

impl<const DAYS: i64> Purge<DAYS> {
    /// Checks the options as Glance does. Returns the age, and the maximum number of rows, if there is one.
    fn age_and_rows(self) -> Result<(TimeDelta, Option<u32>), String> {
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
            Err(error @ Error::Conflict(_)) => {
                tracing::error!(%error, "other tables refer to rows of table {table}; run `db purge` first");
                return Err("Purge command failed, check glance-manage logs for more details.".into());
            }
            Err(error) => return Err(error.into()),
        }
    }
    db.remove_stale_locks().await?;
    db.close().await;
    Ok(ExitCode::SUCCESS)
}
