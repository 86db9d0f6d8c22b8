//! `glimpse db …`

use std::process::ExitCode;

use clap::Subcommand;

use super::CommandResult;
use crate::{
    app,
    config::Config,
    db::{Db, migrate::State},
    log,
};

#[derive(Debug, Clone, Copy, Subcommand)]
pub(super) enum Command {
    /// Bring the database to the schema that this program needs
    Sync,
    /// Show the schema's version: Glance's revision, and the last migration of ours
    Version,
    /// Tell whether the schema is up to date: exit code 0 when it is, 4 when `db sync` is needed
    Check,
}

/// `db check`'s exit code where the schema must be synced; `glance-manage db check` has the same for an expansion.
const NEEDS_SYNC: u8 = 4;

#[expect(clippy::print_stdout, reason = "this is what the command is for")]
pub(super) fn run(config: &Config, command: Command) -> CommandResult {
    log::start(config);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        if config.database_is_embedded() {
            app::create_data_dir(config)?;
        }
        let url = config.database_url();
        let db = Db::open(&url, (&config.database).into()).await.map_err(|error| format!("database {url}: {error}"))?;
        let code = match command {
            Command::Sync => {
                db.sync().await.map_err(|error| format!("database {url}: {error}"))?;
                println!("Database is synced successfully.");
                ExitCode::SUCCESS
            }
            Command::Version => {
                let schema = db.schema().await.map_err(|error| format!("database {url}: {error}"))?;
                println!("{}", schema.alembic.as_deref().unwrap_or("none"));
                println!("glimpse migration {}", schema.migration);
                ExitCode::SUCCESS
            }
            Command::Check => {
                let schema = db.schema().await.map_err(|error| format!("database {url}: {error}"))?;
                match schema.state {
                    State::Current => {
                        println!("Database is up to date. No migrations needed.");
                        ExitCode::SUCCESS
                    }
                    State::Empty | State::Behind => {
                        println!("Database is not up to date. Run `glimpse db sync`.");
                        ExitCode::from(NEEDS_SYNC)
                    }
                    State::Foreign | State::Ahead => {
                        println!("Database is not one that this program made. Run `glimpse db version` to see its.");
                        ExitCode::FAILURE
                    }
                }
            }
        };
        db.close().await;
        Ok(code)
    })
}
