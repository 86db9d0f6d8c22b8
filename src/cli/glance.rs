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
                database::run(&load(arguments.sources, arguments.common)?, arguments.command.into())
            }
            Self::Status => {
                let arguments = Status::parse();
                let StatusCommand::Upgrade(UpgradeCommand::Check) = arguments.command;
                Ok(status::check(load(arguments.sources, arguments.common)))
            }
        }
    }
}

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
    /// Nothing is left to do after expand, which this checks
    Contract,
    /// Show the schema's revision
    Version,
    /// Tell whether the schema is up to date: exit code 0 when it is, 3 when it must be synced
    Check,
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

impl From<ManageCommand> for database::Command {
    fn from(command: ManageCommand) -> Self {
        match command {
            ManageCommand::DbSync(_)
            | ManageCommand::DbUpgrade(_)
            | ManageCommand::DbExpand
            | ManageCommand::Db(DbCommand::Sync(_) | DbCommand::Upgrade(_) | DbCommand::Expand) => Self::Sync,
            ManageCommand::DbVersion | ManageCommand::Db(DbCommand::Version) => Self::Version,
            ManageCommand::DbCheck
            | ManageCommand::DbMigrate
            | ManageCommand::DbContract
            | ManageCommand::Db(DbCommand::Check | DbCommand::Migrate | DbCommand::Contract) => Self::Check,
        }
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
