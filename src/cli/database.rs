//! `glimpse db …`

use std::process::ExitCode;

use clap::Subcommand;

use super::CommandResult;
use crate::{
    app::{self, StartError},
    config::Config,
    db::{
        Db,
        migrate::{FOREIGN, State},
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
                let db = Db::open(&url, limits).await.map_err(error)?;
                db.sync().await.map_err(error)?;
                db.close().await;
                println!("Database is synced successfully.");
                Ok(ExitCode::SUCCESS)
            }
            Command::Version => {
                let schema = Db::schema_at(&url, limits).await.map_err(error)?;
                println!("{}", if schema.alembic.is_empty() { "none".to_owned() } else { schema.alembic.join(", ") });
                println!("glimpse migration {}", schema.migration);
                Ok(ExitCode::SUCCESS)
            }
            Command::Check => Ok(tell(Db::schema_at(&url, limits).await.map_err(error)?.state)),
        }
    })
}

#[expect(clippy::print_stdout, reason = "this is what the command is for")]
fn tell(state: State) -> ExitCode {
    match state {
        State::Current => {
            println!("Database is up to date. No migrations needed.");
            ExitCode::SUCCESS
        }
        State::Empty | State::Behind => {
            println!("Database is not up to date. Run `glimpse db sync`.");
            ExitCode::from(NEEDS_SYNC)
        }
        State::Glance { .. } => {
            println!("Database is Glance's. Run `glimpse db sync` to take it over; Glance can go on with it.");
            ExitCode::from(NEEDS_SYNC)
        }
        State::Foreign => {
            println!("Database cannot be used: {FOREIGN}.");
            ExitCode::FAILURE
        }
        State::Ahead => {
            println!("Database is ahead: a newer Glimpse has used it.");
            ExitCode::FAILURE
        }
    }
}
