//! `glimpse db …`: the database's schema, and purging deleted rows.

use std::process::ExitCode;

use chrono::{TimeDelta, Utc};
use clap::{Args, Subcommand};

use super::{CommandResult, GlanceMessage, schema};
use crate::{
    app::StartError,
    config::Config,
    db::{
        Db,
        purge::{IMAGES, Purged, RECORDS},
    },
    error::Error,
    log,
};

/// The options of `glimpse db`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Subcommand)]
pub(super) enum Arguments {
    /// Create the schema, or upgrade it to the version that this program needs
    ///
    /// Run this before the first start and after each upgrade of Glimpse. The server does it by itself for the embedded
    /// database. Running it again, or on several hosts concurrently, is safe.
    Sync,
    /// Print the schema's version: the revision of Glance's schema, and Glimpse's last migration
    Version,
    /// Check whether the schema is up to date
    ///
    /// The exit code is 0 if it is, 3 if `db expand` or `db sync` is needed, 5 if `db contract` or `db sync` is needed, and 1 if the
    /// database cannot be used.
    Check,
    /// The first step of a rolling upgrade: add the tables and indexes that are missing
    ///
    /// The previous release continues to work on the database.
    Expand,
    /// The second step of a rolling upgrade: migrate the data
    ///
    /// No data has to be migrated so far. The command checks that the first step is complete.
    Migrate,
    /// The last step of a rolling upgrade: remove what no release needs any more
    ///
    /// So far it only records that the upgrade is complete, and adds what Glimpse needs if Glance has run the first step.
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

/// A command for the database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Command {
    Schema(schema::Command),
    Purge(Purge<30>),
    PurgeImagesTable(Purge<180>),
}

impl From<Arguments> for Command {
    fn from(arguments: Arguments) -> Self {
        Self::Schema(match arguments {
            Arguments::Sync => schema::Command::Sync,
            Arguments::Version => schema::Command::Version,
            Arguments::Check => schema::Command::Check,
            Arguments::Expand => schema::Command::Expand,
            Arguments::Migrate => schema::Command::Migrate,
            Arguments::Contract => schema::Command::Contract,
            Arguments::Purge(options) => return Self::Purge(options),
            Arguments::PurgeImagesTable(options) => return Self::PurgeImagesTable(options),
        })
    }
}

pub(super) fn run(config: &Config, command: Command, program: schema::Program) -> CommandResult {
    log::start(config)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let url = config.database_url();
        let error = |source| StartError::Database { url: url.to_string(), source };
        let open = async || Db::open(&url, (&config.database).into()).await.map_err(error);
        match command {
            Command::Schema(command) => schema::run(config, command, program).await,
            Command::Purge(options) => {
                let (age, rows) = options.age_and_rows()?;
                purge(&open().await?, &RECORDS, age, rows).await
            }
            Command::PurgeImagesTable(options) => {
                let (age, rows) = options.age_and_rows()?;
                purge(&open().await?, &IMAGES, age, rows).await
            }
        }
    })
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
    fn age_and_rows(self) -> Result<(TimeDelta, Option<u32>), GlanceMessage> {
        let (age, rows) = (self.days.unwrap_or(self.age_in_days), self.rows.unwrap_or(self.max_rows));
        if age < 0 {
            return Err(GlanceMessage("Must supply a non-negative value for age.".to_owned()));
        }
        if age >= days_since_the_epoch() {
            return Err(GlanceMessage("Maximal age is count of days since epoch.".to_owned()));
        }
        match rows {
            ..=-2 => Err(GlanceMessage("Minimal rows limit is -1.".to_owned())),
            -1 => Ok((TimeDelta::days(age), None)),
            rows => match i32::try_from(rows) {
                Ok(rows) => Ok((TimeDelta::days(age), Some(rows.unsigned_abs()))),
                Err(_) => Err(GlanceMessage(format!("'max_rows' value out of range, must not exceed {}.", i32::MAX))),
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
                let message = "Purge command failed, check glance-manage logs for more details.";
                return Err(GlanceMessage(message.to_owned()).into());
            }
            Err(error) => return Err(error.into()),
        }
    }
    db.remove_stale_locks().await?;
    db.close().await;
    Ok(ExitCode::SUCCESS)
}
