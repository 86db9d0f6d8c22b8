//! `glimpse db …`

use std::process::ExitCode;

use clap::Subcommand;

use super::CommandResult;
use crate::{
    app::{self, StartError},
    config::{Config, Target},
    db::{
        Db,
        migrate::{FOREIGN, Schema, State},
    },
    log,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Subcommand)]
pub(super) enum Command {
    /// Bring the database to the schema that this program needs
    Sync,
    /// Show the schema's version: Glance's revision, and the last migration of ours
    Version,
    /// Tell whether the schema is up to date: exit code 0 when it is, 3 when `db sync` is needed
    Check,
}

/// `db check`'s exit code where the schema must be synced; as `glance-manage db check` has where its first step is needed.
const NEEDS_SYNC: u8 = 3;

pub(super) fn run(config: &Config, command: Command) -> CommandResult {
    log::start(config)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let url = config.database_url();
        if let Target::Sqlite(path) = &url.target
            && !path.exists()
        {
            if command != Command::Sync {
                // Looking makes nothing, not even an empty file.
                return Ok(show(command, &Schema::EMPTY));
            }
            if config.database_is_embedded() {
                app::create_data_dir(config)?;
            }
        }
        let error = |source| StartError::Database { url: url.to_string(), source };
        let db = Db::open(&url, (&config.database).into()).await.map_err(error)?;
        if command == Command::Sync {
            db.sync().await.map_err(error)?;
        }
        let schema = db.schema().await.map_err(error)?;
        db.close().await;
        Ok(show(command, &schema))
    })
}

#[expect(clippy::print_stdout, reason = "this is what the command is for")]
fn show(command: Command, schema: &Schema) -> ExitCode {
    match (command, schema.state) {
        (Command::Sync, _) => {
            println!("Database is synced successfully.");
            ExitCode::SUCCESS
        }
        (Command::Version, _) => {
            println!("{}", if schema.alembic.is_empty() { "none".to_owned() } else { schema.alembic.join(", ") });
            println!("glimpse migration {}", schema.migration);
            ExitCode::SUCCESS
        }
        (Command::Check, State::Current) => {
            println!("Database is up to date. No migrations needed.");
            ExitCode::SUCCESS
        }
        (Command::Check, State::Empty | State::Behind) => {
            println!("Database is not up to date. Run `glimpse db sync`.");
            ExitCode::from(NEEDS_SYNC)
        }
        (Command::Check, State::Glance { .. }) => {
            println!("Database is Glance's. Run `glimpse db sync` to take it over; Glance can go on with it.");
            ExitCode::from(NEEDS_SYNC)
        }
        (Command::Check, State::Foreign) => {
            println!("Database cannot be used: {FOREIGN}.");
            ExitCode::FAILURE
        }
        (Command::Check, State::Ahead) => {
            println!("Database is ahead: a newer Glimpse has used it.");
            ExitCode::FAILURE
        }
    }
}
