//! Glance's commands by their names. If the program is started through a link named `glance-api`, `glance-manage`, `glance-status`
//! or `glance-cache-…`, it accepts that command's arguments and exits with its codes, so existing scripts keep working. Under the name of
//! another command of Glance, it fails, whatever its arguments are.

use std::{
    ffi::OsString,
    io::{self, Write as _},
    path::PathBuf,
    process::ExitCode,
};

use clap::{Args, Parser, Subcommand};

use super::{
    CommandResult, SourceArguments, cache, cache_manage, database, metadefs,
    schema::{self, Program},
    serve, status,
};
use crate::config::{Config, Sources};

/// A command of Glance that this program replaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Name {
    Api,
    Manage,
    Status,
    CacheCleaner,
    CacheManage,
    CachePrefetcher,
    CachePruner,
    /// A command that Glimpse does not have yet.
    Missing(&'static str),
}

/// The commands of Glance that Glimpse does not have yet.
const MISSING: [&str; 3] = ["glance-control", "glance-replicator", "glance-scrubber"];

impl Name {
    /// The command that the path of the program names, if it is one of Glance's.
    pub(super) fn from_program(program: &str) -> Option<Self> {
        let name = program.rsplit('/').next().unwrap_or_default();
        match name {
            "glance-api" => Some(Self::Api),
            "glance-manage" => Some(Self::Manage),
            "glance-status" => Some(Self::Status),
            "glance-cache-cleaner" => Some(Self::CacheCleaner),
            "glance-cache-manage" => Some(Self::CacheManage),
            "glance-cache-prefetcher" => Some(Self::CachePrefetcher),
            "glance-cache-pruner" => Some(Self::CachePruner),
            _ => MISSING.into_iter().find(|missing| *missing == name).map(Self::Missing),
        }
    }

    /// Runs the command. `program` is the path by which it was called.
    pub(super) fn run(self, program: &str) -> CommandResult {
        match self {
            Self::Api => {
                let arguments = Api::parse();
                serve::run(Sources { overrides: arguments.common.overrides(), ..arguments.sources.into() })
            }
            Self::Manage => {
                if std::env::args_os().len() < 2 {
                    writeln!(io::stdout(), "{program} category action [<args>]\nAvailable categories:\n\tdb")?;
                    return Ok(ExitCode::from(WRONG_ARGUMENTS));
                }
                let arguments = Manage::parse();
                let config = load(arguments.sources, arguments.common)?;
                match arguments.command.request()? {
                    // Unlike `glimpse`, it has no database of its own to fall back to: the configuration file may be the wrong one.
                    Request::Database(_) | Request::Metadefs(_) if config.database_is_embedded() => {
                        Err("No sql_connection parameter is established: [database] connection is not set".into())
                    }
                    Request::Database(command) => database::run(&config, command, Program::GlanceManage),
                    Request::Actions => {
                        writeln!(io::stdout(), "{ACTIONS}")?;
                        Ok(ExitCode::from(WRONG_ARGUMENTS))
                    }
                    Request::Metadefs(command) => metadefs::run(&config, command, Program::GlanceManage),
                }
            }
            Self::Status => {
                let arguments = Status::parse();
                let StatusCommand::Upgrade(UpgradeCommand::Check) = arguments.command;
                status::check(load(arguments.sources, arguments.common))
            }
            Self::CacheCleaner => run_cache(cache::Command::Clean),
            Self::CacheManage => cache_manage::run(&cache_manage::Arguments::parse()),
            Self::CachePrefetcher => run_cache(cache::Command::Prefetch),
            Self::CachePruner => run_cache(cache::Command::Prune),
            Self::Missing(name) => Err(format!("Glimpse does not have {name} yet; nothing was done").into()),
        }
    }
}

/// The exit code of a command line that names no action, or that cannot be parsed.
const WRONG_ARGUMENTS: u8 = 2;

/// The output of `glance-manage db`.
const ACTIONS: &str = "Available actions for 'db':
\tcheck - Report any pending database upgrades.
\tcontract - Run the contraction phase of a database migration.
\texpand - Run the expansion phase of a database migration.
\texport_metadefs - Export metadefinitions data from database to files
\tload_metadefs - Load metadefinition json files to database
\tmigrate - Run the data migration phase of a database migration.
\tpurge - Purge deleted rows older than a given age from glance tables.
\tpurge_images_table - Purge deleted rows older than a given age from images table.
\tsync - Perform a complete (offline) database migration
\tunload_metadefs - Unload metadefinitions from database
\tupgrade - Upgrade the database's migration level
\tversion - Print database's current migration level
\tversion_control - Place a database under migration control";

/// Runs one of the tools of the image cache. They also read `glance-cache.conf`, which overrides the other default files.
fn run_cache(command: cache::Command) -> CommandResult {
    let CacheTool { sources, common } = CacheTool::parse();
    let names_files = !sources.config_file.is_empty();
    let sources = Sources { overrides: common.overrides(), ..sources.into() };
    cache::run(Config::load(&if names_files { sources } else { sources.with_cache_file() })?, command)
}

fn load(sources: SourceArguments, common: Common) -> Result<Config, Box<dyn std::error::Error>> {
    Ok(Config::load(&Sources { overrides: common.overrides(), ..sources.into() })?)
}

/// Options that every OpenStack command has. Each overrides the option of the same name in `[DEFAULT]`.
#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
struct Common {
    /// Log at level DEBUG instead of INFO
    #[arg(long, short, global = true, overrides_with = "nodebug")]
    debug: bool,

    /// The opposite of --debug
    #[arg(long, global = true)]
    nodebug: bool,

    /// Write the log to this file, in --log-dir if that is given [default: standard error]
    #[arg(long, value_name = "FILE", global = true, alias = "logfile")]
    log_file: Option<String>,

    /// The directory of the log file; without --log-file, the file is glimpse.log
    #[arg(long, value_name = "DIR", global = true, alias = "logdir")]
    log_dir: Option<String>,

    /// Write the log to syslog
    #[arg(long, global = true, overrides_with = "nouse_syslog")]
    use_syslog: bool,

    /// The opposite of --use-syslog
    #[arg(long = "nouse-syslog", global = true)]
    nouse_syslog: bool,

    /// Write the log to the systemd journal
    #[arg(long, global = true, overrides_with = "nouse_journal")]
    use_journal: bool,

    /// The opposite of --use-journal
    #[arg(long = "nouse-journal", global = true)]
    nouse_journal: bool,
}

impl Common {
    fn overrides(self) -> Vec<(&'static str, &'static str, String)> {
        let flag = |yes: bool, no: bool| (yes || no).then(|| yes.to_string());
        let options = [
            ("debug", flag(self.debug, self.nodebug)),
            ("log_file", self.log_file),
            ("log_dir", self.log_dir),
            ("use_syslog", flag(self.use_syslog, self.nouse_syslog)),
            ("use_journal", flag(self.use_journal, self.nouse_journal)),
        ];
        options.into_iter().filter_map(|(name, value)| Some(("DEFAULT", name, value?))).collect()
    }
}

/// Run the API server (Glimpse in place of Glance's command of this name)
#[derive(Debug, Parser)]
#[command(name = "glance-api", version, max_term_width = 100)]
struct Api {
    #[command(flatten)]
    sources: SourceArguments,
    #[command(flatten)]
    common: Common,
}

/// Manage the database (Glimpse in place of Glance's command of this name)
#[derive(Debug, Parser)]
#[command(name = "glance-manage", version, max_term_width = 100)]
struct Manage {
    #[command(flatten)]
    sources: SourceArguments,
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: ManageCommand,
}

/// Tend the image cache (Glimpse in place of Glance's command of this name)
#[derive(Debug, Parser)]
#[command(name = "glance-cache", version, max_term_width = 100)]
struct CacheTool {
    #[command(flatten)]
    sources: SourceArguments,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Subcommand)]
enum ManageCommand {
    /// Create, upgrade, check or purge the database
    Db {
        #[command(subcommand)]
        command: Option<DbCommand>,
    },
    /// The same as `db sync`
    #[command(name = "db_sync")]
    DbSync(Positional),
    /// The same as `db upgrade`; the revision is required
    #[command(name = "db_upgrade")]
    DbUpgrade(Positional),
    /// The same as `db version`
    #[command(name = "db_version")]
    DbVersion,
    /// The same as `db version_control`
    #[command(name = "db_version_control")]
    DbVersionControl(Positional),
    /// The same as `db check`
    #[command(name = "db_check")]
    DbCheck,
    /// The same as `db expand`
    #[command(name = "db_expand")]
    DbExpand,
    /// The same as `db migrate`
    #[command(name = "db_migrate")]
    DbMigrate,
    /// The same as `db contract`
    #[command(name = "db_contract")]
    DbContract,
    /// The same as `db load_metadefs`
    #[command(name = "db_load_metadefs")]
    DbLoadMetadefs {
        /// The file or directory
        path: Option<OsString>,
        /// Anything but an empty text is the same as --merge
        merge: Option<String>,
        /// Anything but an empty text is the same as --prefer_new
        prefer_new: Option<String>,
        /// Anything but an empty text is the same as --overwrite
        overwrite: Option<String>,
    },
    /// The same as `db unload_metadefs`
    #[command(name = "db_unload_metadefs")]
    DbUnloadMetadefs,
    /// The same as `db export_metadefs`
    #[command(name = "db_export_metadefs")]
    DbExportMetadefs {
        /// The directory
        path: Option<OsString>,
    },
}

#[derive(Debug, Subcommand)]
enum DbCommand {
    /// Create the schema, or upgrade it to the version that this program needs; as in Glance, a revision has no effect
    Sync(Version),
    /// Upgrade the schema to a revision, and with the newest one to the version that this program needs
    Upgrade(Version),
    /// The first step of a rolling upgrade: add the tables and indexes that are missing
    Expand(Superfluous),
    /// The second step of a rolling upgrade: migrate the data; no data has to be migrated so far
    Migrate(Superfluous),
    /// The last step of a rolling upgrade: record that the upgrade is complete
    Contract(Superfluous),
    /// Print the schema's revision
    Version(Superfluous),
    /// Record a revision without running anything [default: liberty]
    #[command(name = "version_control")]
    VersionControl(Version),
    /// Check whether the schema is up to date; the exit code is 0 if it is, 3 if expand is needed, 5 if contract is needed
    Check(Superfluous),
    /// Permanently remove deleted properties, tags, members, locations and tasks; the rows of deleted images stay
    Purge(database::Purge<30>),
    /// Permanently remove the rows of deleted images; afterwards, any user can create an image with one of their ids
    #[command(name = "purge_images_table")]
    PurgeImagesTable(database::Purge<180>),
    /// Load namespaces of metadata definitions from JSON files
    #[command(name = "load_metadefs")]
    LoadMetadefs {
        /// The file or directory [default: `[DEFAULT] metadata_source_path`]
        #[arg(long, value_name = "PATH")]
        path: Option<OsString>,
        /// Add what is missing to namespaces that exist already
        #[arg(long)]
        merge: bool,
        /// With --merge: replace what both the files and the namespaces contain
        #[arg(long = "prefer_new")]
        prefer_new: bool,
        /// With --merge: remove existing namespaces and load them again
        #[arg(long)]
        overwrite: bool,
        #[command(flatten)]
        positional: PositionalPath,
    },
    /// Remove all metadata definitions
    #[command(name = "unload_metadefs")]
    UnloadMetadefs(Superfluous),
    /// Write each namespace of metadata definitions to a JSON file
    #[command(name = "export_metadefs")]
    ExportMetadefs {
        /// The directory [default: `[DEFAULT] metadata_source_path`]
        #[arg(long, value_name = "PATH")]
        path: Option<OsString>,
        #[command(flatten)]
        positional: PositionalPath,
    },
}

/// A path without `--path`.
#[derive(Debug, Args)]
struct PositionalPath {
    /// The same as --path
    #[arg(value_name = "PATH", hide = true)]
    arguments: Vec<OsString>,
}

impl PositionalPath {
    /// The only path, if there is one.
    fn or(self, path: Option<OsString>) -> Result<Option<PathBuf>, String> {
        let mut paths = path.into_iter().chain(self.arguments);
        match (paths.next(), paths.next()) {
            (path, None) => Ok(some_path(path)),
            (_, Some(second)) => Err(format!("unexpected argument '{}'; nothing was done", second.display())),
        }
    }
}

/// The path, unless it is empty, which Glance treats like none.
fn some_path(path: Option<OsString>) -> Option<PathBuf> {
    path.filter(|path| !path.is_empty()).map(PathBuf::from)
}

/// The arguments of a command that takes none. Glance fails on them while it runs, with exit code 1.
#[derive(Debug, Args)]
struct Superfluous {
    #[arg(hide = true, allow_negative_numbers = true)]
    arguments: Vec<String>,
}

impl Superfluous {
    fn check(&self) -> Result<(), String> {
        match self.arguments.first() {
            Some(argument) => Err(format!("unexpected argument '{argument}'; nothing was done")),
            None => Ok(()),
        }
    }
}

/// A revision, as an option or as an argument.
#[derive(Debug, Args)]
struct Version {
    /// The revision
    #[arg(long, value_name = "VERSION", allow_hyphen_values = true)]
    version: Option<String>,
    /// The same as --version
    #[arg(value_name = "VERSION", allow_negative_numbers = true)]
    arguments: Vec<String>,
}

impl Version {
    fn get(self) -> Result<Option<String>, String> {
        let mut versions = self.version.into_iter().chain(self.arguments);
        match (versions.next(), versions.next()) {
            (version, None) => Ok(version),
            (_, Some(second)) => Err(format!("unexpected argument '{second}'; nothing was done")),
        }
    }
}

#[derive(Debug, Args)]
struct Positional {
    /// The revision
    #[arg(allow_negative_numbers = true)]
    version: Option<String>,
}

/// The revision that `db version_control` records by default.
const FIRST_REVISION: &str = "liberty";

/// What a command line of `glance-manage` asks for.
enum Request {
    Database(database::Command),
    /// `db` without an action.
    Actions,
    Metadefs(metadefs::Command),
}

impl ManageCommand {
    fn request(self) -> Result<Request, String> {
        let command = match self {
            Self::Db { command: Some(command) } => return command.request(),
            Self::Db { command: None } => return Ok(Request::Actions),
            Self::DbLoadMetadefs { path, merge, prefer_new, overwrite } => {
                let given = |text: Option<String>| text.is_some_and(|text| !text.is_empty());
                let (merge, prefer_new, overwrite) = (given(merge), given(prefer_new), given(overwrite));
                let path = some_path(path);
                return Ok(Request::Metadefs(metadefs::Command::Load { path, merge, prefer_new, overwrite }));
            }
            Self::DbUnloadMetadefs => return Ok(Request::Metadefs(metadefs::Command::Unload)),
            Self::DbExportMetadefs { path } => {
                return Ok(Request::Metadefs(metadefs::Command::Export { path: some_path(path) }));
            }
            Self::DbSync(_) => schema::Command::Sync,
            Self::DbUpgrade(Positional { version: Some(version) }) => schema::Command::Upgrade(version),
            Self::DbUpgrade(Positional { version: None }) => {
                return Err("db_upgrade needs a revision, such as heads; nothing was done".to_owned());
            }
            Self::DbVersion => schema::Command::Version,
            Self::DbVersionControl(Positional { version }) => {
                schema::Command::VersionControl(version.unwrap_or_else(|| FIRST_REVISION.to_owned()))
            }
            Self::DbCheck => schema::Command::Check,
            Self::DbExpand => schema::Command::Expand,
            Self::DbMigrate => schema::Command::Migrate,
            Self::DbContract => schema::Command::Contract,
        };
        Ok(Request::Database(database::Command::Schema(command)))
    }
}

impl DbCommand {
    fn request(self) -> Result<Request, String> {
        let (command, superfluous) = match self {
            Self::Purge(options) => return Ok(Request::Database(database::Command::Purge(options))),
            Self::PurgeImagesTable(options) => {
                return Ok(Request::Database(database::Command::PurgeImagesTable(options)));
            }
            Self::LoadMetadefs { path, merge, prefer_new, overwrite, positional } => {
                let path = positional.or(path)?;
                return Ok(Request::Metadefs(metadefs::Command::Load { path, merge, prefer_new, overwrite }));
            }
            Self::UnloadMetadefs(superfluous) => {
                superfluous.check()?;
                return Ok(Request::Metadefs(metadefs::Command::Unload));
            }
            Self::ExportMetadefs { path, positional } => {
                let path = positional.or(path)?;
                return Ok(Request::Metadefs(metadefs::Command::Export { path }));
            }
            Self::Sync(version) => (version.get().map(|_| schema::Command::Sync)?, None),
            Self::Upgrade(version) => {
                (schema::Command::Upgrade(version.get()?.unwrap_or_else(|| "heads".to_owned())), None)
            }
            Self::VersionControl(version) => {
                let version = version.get()?.unwrap_or_else(|| FIRST_REVISION.to_owned());
                (schema::Command::VersionControl(version), None)
            }
            Self::Expand(superfluous) => (schema::Command::Expand, Some(superfluous)),
            Self::Migrate(superfluous) => (schema::Command::Migrate, Some(superfluous)),
            Self::Contract(superfluous) => (schema::Command::Contract, Some(superfluous)),
            Self::Version(superfluous) => (schema::Command::Version, Some(superfluous)),
            Self::Check(superfluous) => (schema::Command::Check, Some(superfluous)),
        };
        superfluous.map_or(Ok(()), |superfluous| superfluous.check())?;
        Ok(Request::Database(database::Command::Schema(command)))
    }
}

/// Check whether an upgrade can continue (Glimpse in place of Glance's command of this name)
#[derive(Debug, Parser)]
#[command(name = "glance-status", version, max_term_width = 100)]
struct Status {
    #[command(flatten)]
    sources: SourceArguments,
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: StatusCommand,
}

#[derive(Debug, Subcommand)]
enum StatusCommand {
    /// Checks for an upgrade
    #[command(subcommand)]
    Upgrade(UpgradeCommand),
}

#[derive(Debug, Subcommand)]
enum UpgradeCommand {
    /// Check the configuration and the database; the exit code is 0 on success, 1 with warnings, 2 on failure
    Check,
}
