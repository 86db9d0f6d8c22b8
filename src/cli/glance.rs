//! The names that scripts call: started as `glance-api`, `glance-manage` or `glance-status` (by a link with that name), the
//! program takes that command's arguments and exits with its codes.

use clap::{Args, Parser, Subcommand};

use super::{CommandResult, SourceArguments, database, serve, status};
use crate::config::{Config, Sources};

/// A command of Glance's that this program stands in for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Name {
    Api,
    Manage,
    Status,
}

impl Name {
    /// The command that a program of this name is.
    pub(super) fn of(program: &str) -> Option<Self> {
        let name = program.rsplit('/').next().unwrap_or_default();
        match name {
            "glance-api" => Some(Self::Api),
            "glance-manage" => Some(Self::Manage),
            "glance-status" => Some(Self::Status),
            _ => None,
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
                Ok(status::check(load(arguments.sources, arguments.common)))
            }
        }
    }
}

/// What the commands about metadata definitions say.
const NO_METADEFS: &str = "Glimpse does not serve metadata definitions yet, so it neither loads, unloads nor exports them; nothing \
     was done. Glance's own glance-manage can do it, on this database too";

fn load(sources: SourceArguments, common: Common) -> Result<Config, Box<dyn std::error::Error>> {
    Ok(Config::load(&Sources { overrides: common.overrides(), ..sources.into() })?)
}

/// Options that every command of OpenStack's has; each overrides the option of its name in `[DEFAULT]`.
#[derive(Debug, Args)]
struct Common {
    /// Log what is useful to a developer
    #[arg(long, short, global = true, overrides_with = "nodebug")]
    debug: bool,

    /// The opposite of --debug
    #[arg(long, global = true)]
    nodebug: bool,

    /// The file that the log is written to
    #[arg(long, value_name = "FILE", global = true, alias = "logfile")]
    log_file: Option<String>,

    /// The folder of the log's file
    #[arg(long, value_name = "DIR", global = true, alias = "logdir")]
    log_dir: Option<String>,

    /// Write the log to the system's log
    #[arg(long, global = true, overrides_with = "nouse_syslog")]
    use_syslog: bool,

    /// The opposite of --use-syslog
    #[arg(long = "nouse-syslog", global = true)]
    nouse_syslog: bool,

    /// Write the log to systemd's journal
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

/// Serve the API, as Glance's command of this name did
#[derive(Debug, Parser)]
#[command(name = "glance-api", version, max_term_width = 100)]
struct Api {
    #[command(flatten)]
    sources: SourceArguments,
    #[command(flatten)]
    common: Common,
}

/// Prepare and look at the database, as Glance's command of this name does
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
    /// Commands about the database
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
    /// Bring the database to the schema that this program needs
    Sync(Version),
    /// The same as sync
    Upgrade(Version),
    /// The same as sync: the first step of a rolling upgrade
    Expand,
    /// Nothing is left to do after expand, which this checks
    Migrate,
    /// The last step: nothing is left to do after expand, but to end an upgrade that Glance began
    Contract,
    /// Show the schema's revision
    Version,
    /// Tell whether the schema is up to date: exit code 0 when it is, 3 when expand or sync is needed, 5 when contract is
    Check,
    /// Remove for good what belonged to images that were deleted, and deleted tasks; the images' own rows stay
    Purge(database::Purge<30>),
    /// Remove the rows of images that were deleted, for good: from then on their ids can be used again, by anybody
    #[command(name = "purge_images_table")]
    PurgeImagesTable(database::Purge<180>),
    /// Not done by Glimpse: tells so, and fails
    #[command(name = "load_metadefs")]
    LoadMetadefs(Ignored),
    /// Not done by Glimpse: tells so, and fails
    #[command(name = "unload_metadefs")]
    UnloadMetadefs(Ignored),
    /// Not done by Glimpse: tells so, and fails
    #[command(name = "export_metadefs")]
    ExportMetadefs(Ignored),
}

/// Arguments of a command that is not done.
#[derive(Debug, Args)]
struct Ignored {
    /// Whatever Glance's command takes
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    arguments: Vec<String>,
}

#[derive(Debug, Args)]
struct Version {
    /// Only the newest can be asked for
    #[arg(long, value_parser = newest)]
    version: Option<String>,
}

#[derive(Debug, Args)]
struct Positional {
    /// Only the newest can be asked for
    #[arg(value_parser = newest)]
    version: Option<String>,
}

/// A program knows one schema: its own.
fn newest(text: &str) -> Result<String, String> {
    match text {
        "heads" | "head" | "2024_1_expand01" | "2024_1_contract01" => Ok(text.to_owned()),
        _ => Err("this program syncs to its own schema, 2024_1_contract01, and to no other".to_owned()),
    }
}

impl ManageCommand {
    /// What is done; `None` is nothing, which must be told.
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
            ManageCommand::Db(DbCommand::Purge(what)) => database::Command::Purge(what),
            ManageCommand::Db(DbCommand::PurgeImagesTable(what)) => database::Command::PurgeImagesTable(what),
            ManageCommand::DbLoadMetadefs(_)
            | ManageCommand::DbUnloadMetadefs(_)
            | ManageCommand::DbExportMetadefs(_)
            | ManageCommand::Db(
                DbCommand::LoadMetadefs(_) | DbCommand::UnloadMetadefs(_) | DbCommand::ExportMetadefs(_),
            ) => return None,
        })
    }
}

/// Tell whether an upgrade can go on, as Glance's command of this name does
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
    /// Commands about upgrades
    #[command(subcommand)]
    Upgrade(UpgradeCommand),
}

#[derive(Debug, Subcommand)]
enum UpgradeCommand {
    /// Check the configuration and the database: exit code 0 when all is well, 1 with warnings, 2 when something fails
    Check,
}
