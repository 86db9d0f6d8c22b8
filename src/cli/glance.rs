//! Glance's commands by their names. If the program is started through a link named `glance-api`, `glance-manage` or
//! `glance-status`, it accepts that command's arguments and exits with its codes, so existing scripts keep working. Under the name of
//! another command of Glance, it fails, whatever its arguments are.

use clap::{Args, Parser, Subcommand};

use super::{CommandResult, SourceArguments, database, serve, status};
use crate::config::{Config, Sources};

/// A command of Glance that this program replaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Name {
    Api,
    Manage,
    Status,
    /// A command that Glimpse does not have yet.
    Missing(&'static str),
}

/// The commands of Glance that Glimpse does not have yet.
const MISSING: [&str; 7] = [
    "glance-cache-cleaner",
    "glance-cache-manage",
    "glance-cache-prefetcher",
    "glance-cache-pruner",
    "glance-control",
    "glance-replicator",
    "glance-scrubber",
];

impl Name {
    /// The command that the path of the program names, if it is one of Glance's.
    pub(super) fn from_program(program: &str) -> Option<Self> {
        let name = program.rsplit('/').next().unwrap_or_default();
        match name {
            "glance-api" => Some(Self::Api),
            "glance-manage" => Some(Self::Manage),
            "glance-status" => Some(Self::Status),
            _ => MISSING.into_iter().find(|missing| *missing == name).map(Self::Missing),
        }
    }

    pub(super) fn run(self) -> CommandResult {
        match self {
            Self::Api => {
                let arguments = Api::parse();
                serve::run(Sources { overrides: arguments.common.overrides(), ..arguments.sources.into() })
            }
            Self::Manage => {
                let arguments = Manage::parse();
                let config = load(arguments.sources, arguments.common)?;
                match arguments.command.command() {
                    Some(command) => database::run(&config, command),
                    None => Err(NO_METADEFS.into()),
                }
            }
            Self::Status => {
                let arguments = Status::parse();
                let StatusCommand::Upgrade(UpgradeCommand::Check) = arguments.command;
                status::check(load(arguments.sources, arguments.common))
            }
            Self::Missing(name) => Err(format!("Glimpse does not have {name} yet; nothing was done").into()),
        }
    }
}

/// The error of the commands for metadata definitions.
const NO_METADEFS: &str = "Glimpse does not serve metadata definitions yet, so it cannot load, unload or export them; \
     nothing was changed. Use Glance's own glance-manage, which works on this database too";

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

#[derive(Debug, Subcommand)]
enum ManageCommand {
    /// Create, upgrade, check or purge the database
    #[command(subcommand)]
    Db(DbCommand),
    /// The same as `db sync`
    #[command(name = "db_sync")]
    DbSync(Positional),
    /// The same as `db upgrade`
    #[command(name = "db_upgrade")]
    DbUpgrade(Positional),
    /// The same as `db version`
    #[command(name = "db_version")]
    DbVersion,
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
    DbLoadMetadefs(Ignored),
    /// The same as `db unload_metadefs`
    #[command(name = "db_unload_metadefs")]
    DbUnloadMetadefs(Ignored),
    /// The same as `db export_metadefs`
    #[command(name = "db_export_metadefs")]
    DbExportMetadefs(Ignored),
}

#[derive(Debug, Subcommand)]
enum DbCommand {
    /// Create the schema, or upgrade it to the version that this program needs
    Sync(Version),
    /// The same as sync
    Upgrade(Version),
    /// The first step of a rolling upgrade; the same as sync
    Expand,
    /// The second step of a rolling upgrade; the same as check, because expand already migrates the data
    Migrate,
    /// The last step of a rolling upgrade; completes an upgrade that Glance began, otherwise the same as check
    Contract,
    /// Print the schema's version
    Version,
    /// Check whether the schema is up to date; the exit code is 0 if it is, 3 if expand or sync is needed, 5 if contract is needed
    Check,
    /// Permanently remove deleted properties, tags, members, locations and tasks; the rows of deleted images stay
    Purge(database::Purge<30>),
    /// Permanently remove the rows of deleted images; afterwards, any user can create an image with one of their ids
    #[command(name = "purge_images_table")]
    PurgeImagesTable(database::Purge<180>),
    /// Not supported by Glimpse; always fails
    #[command(name = "load_metadefs")]
    LoadMetadefs(Ignored),
    /// Not supported by Glimpse; always fails
    #[command(name = "unload_metadefs")]
    UnloadMetadefs(Ignored),
    /// Not supported by Glimpse; always fails
    #[command(name = "export_metadefs")]
    ExportMetadefs(Ignored),
}

/// The arguments of a command that Glimpse does not support.
#[derive(Debug, Args)]
struct Ignored {
    /// Any arguments of Glance's command
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    arguments: Vec<String>,
}

#[derive(Debug, Args)]
struct Version {
    /// The revision to upgrade to; only the newest one (heads) is supported
    #[arg(long, value_parser = newest)]
    version: Option<String>,
}

#[derive(Debug, Args)]
struct Positional {
    /// The revision to upgrade to; only the newest one (heads) is supported
    #[arg(value_parser = newest)]
    version: Option<String>,
}

/// Accepts only the newest revision: a program can create no schema but its own.
fn newest(text: &str) -> Result<String, String> {
    match text {
        "heads" | "head" | "2024_1_expand01" | "2024_1_contract01" => Ok(text.to_owned()),
        _ => Err("this program can upgrade only to its own schema, 2024_1_contract01".to_owned()),
    }
}

impl ManageCommand {
    /// The equivalent command of `glimpse db`; `None` if Glimpse does not support this one.
    fn command(self) -> Option<database::Command> {
        Some(match self {
            ManageCommand::DbSync(_)
            | ManageCommand::DbUpgrade(_)
            | ManageCommand::DbExpand
            | ManageCommand::Db(DbCommand::Sync(_) | DbCommand::Upgrade(_) | DbCommand::Expand) => {
                database::Command::Sync
            }
            ManageCommand::DbVersion | ManageCommand::Db(DbCommand::Version) => database::Command::Version,
            ManageCommand::DbCheck
            | ManageCommand::DbMigrate
            | ManageCommand::Db(DbCommand::Check | DbCommand::Migrate) => database::Command::Check,
            ManageCommand::DbContract | ManageCommand::Db(DbCommand::Contract) => database::Command::Contract,
            ManageCommand::Db(DbCommand::Purge(options)) => database::Command::Purge(options),
            ManageCommand::Db(DbCommand::PurgeImagesTable(options)) => database::Command::PurgeImagesTable(options),
            ManageCommand::DbLoadMetadefs(_)
            | ManageCommand::DbUnloadMetadefs(_)
            | ManageCommand::DbExportMetadefs(_)
            | ManageCommand::Db(
                DbCommand::LoadMetadefs(_) | DbCommand::UnloadMetadefs(_) | DbCommand::ExportMetadefs(_),
            ) => return None,
        })
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
