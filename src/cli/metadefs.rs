//! `glimpse metadefs …`, and the same commands of `glance-manage`: definition files.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use chrono::SubsecRound as _;
use clap::Subcommand;

use super::{CommandResult, schema::Program};
use crate::{
    app::StartError,
    config::Config,
    db::{Db, migrate::State},
    log,
    metadefs::files::{self, Existing, FileError, Loaded},
};

/// The commands for definition files.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub(super) enum Arguments {
    /// Load namespaces from definition files into the database
    ///
    /// Each file is loaded in one transaction. A namespace that exists already stays as it is, unless --merge is given.
    ///
    /// Example: `glimpse metadefs load /etc/glance/metadefs`
    Load {
        /// A file, or a directory of *.json files [default: the definitions that are part of Glimpse]
        path: Option<PathBuf>,
        /// Add what is missing to namespaces that exist already
        #[arg(long)]
        merge: bool,
        /// With --merge: replace what both the files and the namespaces contain
        #[arg(long, alias = "prefer_new", requires = "merge")]
        prefer_new: bool,
        /// With --merge: remove existing namespaces and load them again
        #[arg(long, requires = "merge", conflicts_with = "prefer_new")]
        overwrite: bool,
    },
    /// Remove all metadata definitions from the database, including those that users have created
    Unload,
    /// Write each namespace of the database to a definition file
    ///
    /// The files are named after the display names. Existing files are replaced.
    Export {
        /// The directory, which must exist
        path: PathBuf,
    },
}

/// A command for definition files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Command {
    Load { path: Option<PathBuf>, merge: bool, prefer_new: bool, overwrite: bool },
    Unload,
    Export { path: Option<PathBuf> },
}

impl From<Arguments> for Command {
    fn from(arguments: Arguments) -> Self {
        match arguments {
            Arguments::Load { path, merge, prefer_new, overwrite } => Self::Load { path, merge, prefer_new, overwrite },
            Arguments::Unload => Self::Unload,
            Arguments::Export { path } => Self::Export { path: Some(path) },
        }
    }
}

/// Runs a command. `glance-manage` logs what is wrong with arguments and files and succeeds, as Glance's command does; `glimpse` fails. Both
/// fail if the database does.
pub(super) fn run(config: &Config, command: Command, program: Program) -> CommandResult {
    log::start(config)?;
    let existing = match existing(&command) {
        Ok(existing) => existing,
        Err(message) => {
            tracing::error!("{message}");
            return Ok(failure(program));
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let url = config.database_url();
        let error = |source| StartError::Database { url: url.to_string(), source };
        let db = Db::open(&url, (&config.database).into()).await.map_err(error)?;
        let state = db.schema().await.map_err(error)?.state;
        if let Some(message) = state.advice().filter(|_| state == State::Empty) {
            return Err(StartError::Schema { url: url.to_string(), message }.into());
        }
        let source = &config.default.metadata_source_path;
        let done = match command {
            Command::Load { path: None, .. } if program == Program::Glimpse => {
                load_built_in(&db, existing).await?;
                true
            }
            Command::Load { path, .. } => load(&db, path.as_ref().unwrap_or(source), existing).await?,
            Command::Unload => {
                for table in files::unload(&db).await? {
                    tracing::info!("Table {table} has been cleared");
                }
                true
            }
            Command::Export { path } => export(&db, path.as_ref().unwrap_or(source)).await?,
        };
        db.close().await;
        Ok(if done { ExitCode::SUCCESS } else { failure(program) })
    })
}

fn failure(program: Program) -> ExitCode {
    if program == Program::Glimpse { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// What a command does with namespaces that exist already.
fn existing(command: &Command) -> Result<Existing, &'static str> {
    match command {
        Command::Load { merge: false, prefer_new: true, .. } | Command::Load { merge: false, overwrite: true, .. } => {
            Err("To use --prefer_new or --overwrite you need to combine of these options with --merge option.")
        }
        Command::Load { prefer_new: true, overwrite: true, .. } => {
            Err("Please provide no more than one option from this list: --prefer_new, --overwrite")
        }
        Command::Load { prefer_new: true, .. } => Ok(Existing::PreferNew),
        Command::Load { overwrite: true, .. } => Ok(Existing::Overwrite),
        Command::Load { merge: true, .. } => Ok(Existing::Merge),
        _ => Ok(Existing::Skip),
    }
}

#[expect(clippy::disallowed_methods, reason = "a command reads the clock once")]
fn now() -> chrono::NaiveDateTime {
    chrono::Utc::now().naive_utc().trunc_subsecs(6)
}

/// Loads a file, or all files of a folder. Returns whether all were loaded.
///
/// # Errors
/// If the database fails.
async fn load(db: &Db, path: &Path, existing: Existing) -> Result<bool, FileError> {
    let found = match files::find(path) {
        Ok(found) => found,
        Err(error) => {
            tracing::error!("{}: {error}", path.display());
            return Ok(false);
        }
    };
    if found.is_empty() {
        tracing::error!("Json schema files not found in {}. Aborting.", path.display());
        return Ok(false);
    }
    let mut all = true;
    for file in found {
        match files::load_file(db, &file, existing, now()).await {
            Ok(loaded) => report(&loaded, &file.display().to_string()),
            Err(error @ FileError::Database(_)) => return Err(error),
            Err(error) => {
                let file = file.display();
                tracing::error!("Failed to parse json file {file} while populating metadata due to: {error}");
                all = false;
            }
        }
    }
    tracing::info!("Metadata loading finished");
    Ok(all)
}

/// Loads the definitions that are part of Glimpse.
///
/// # Errors
/// If the database fails.
pub(super) async fn load_built_in(db: &Db, existing: Existing) -> Result<(), FileError> {
    for (name, text) in files::BUILT_IN {
        report(&files::load(db, text, existing, now()).await?, name);
    }
    tracing::info!("Metadata loading finished");
    Ok(())
}

fn report(loaded: &Loaded, file: &str) {
    match loaded {
        Loaded::Skipped { namespace } => {
            tracing::info!("Skipping namespace {namespace}. It already exists in the database.");
        }
        Loaded::Yes { namespace, replaced } => {
            if *replaced {
                tracing::info!("Overwriting namespace {namespace}");
            }
            tracing::info!("File {file} loaded to database.");
        }
    }
}

/// Writes all namespaces to files. Returns whether all were written.
async fn export(db: &Db, path: &Path) -> Result<bool, Box<dyn std::error::Error>> {
    if !path.is_dir() {
        tracing::error!("{} is not a directory; nothing was written", path.display());
        return Ok(false);
    }
    let mut all = true;
    for exported in files::export(db).await? {
        let file = path.join(&exported.file_name);
        if file.is_file() {
            tracing::info!("Overwriting: {}", file.display());
        }
        match fs::write(&file, &exported.text) {
            Ok(()) => tracing::info!("Namespace {} saved in {}", exported.namespace, file.display()),
            Err(error) => {
                tracing::error!("{}: {error}", file.display());
                all = false;
            }
        }
    }
    Ok(all)
}
