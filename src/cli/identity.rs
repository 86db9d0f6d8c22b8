//! `glimpse identity …`: the users of a server that runs without Keystone.

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use clap::Subcommand;

use super::CommandResult;
use crate::{
    app,
    auth::{
        identity_file::{Change, IdentityError, IdentityFile, NewUser, generate_secret},
        standalone::token,
    },
    config::Config,
};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List the users with their projects and roles
    List,
    /// Add a user and print its credentials
    ///
    /// The credentials are printed once, as shell commands; only a hash is stored. A running server picks up the change within a
    /// second.
    ///
    /// Example: `glimpse identity add ann --project web --role reader`
    Add {
        /// The name of the user
        name: String,
        /// The project that the user belongs to
        #[arg(long)]
        project: String,
        /// A role of the user: admin (implies member and reader), member (implies reader), reader or another one. Can be
        /// repeated
        #[arg(long, default_value = "member")]
        role: Vec<String>,
        /// Read the password (8 to 72 bytes) from the first line of standard input, instead of generating one
        #[arg(long)]
        password_stdin: bool,
    },
    /// Set a new password and print the credentials
    ///
    /// The old password becomes invalid within a second on a running server.
    Passwd {
        /// The name of the user
        name: String,
        /// Read the password (8 to 72 bytes) from the first line of standard input, instead of generating one
        #[arg(long)]
        password_stdin: bool,
    },
}

/// The users that the first start creates: name, project, role.
const FIRST_USERS: [(&str, &str, &str); 2] = [("admin", "admin", "admin"), ("demo", "demo", "member")];

pub(super) fn run(config: &Config, command: Command) -> CommandResult {
    let path = IdentityFile::path(&config.glimpse.data_dir);
    match command {
        Command::List => list(&IdentityFile::read(&path)?)?,
        Command::Add { name, project, role, password_stdin } => {
            app::create_data_dir(config)?;
            let password = Password::get(password_stdin)?;
            IdentityFile::change(&path, |file| {
                if file.users.contains_key(&name) {
                    let advice = format!("use `glimpse identity passwd {name}` to set a new password");
                    return Err(IdentityError::Refused(format!("user {name} exists already; {advice}")));
                }
                file.set(&name, NewUser { project: &project, roles: &role, password: password.as_str() })?;
                print_credentials(config, &name, &password)
            })?;
        }
        Command::Passwd { name, password_stdin } => {
            let password = Password::get(password_stdin)?;
            IdentityFile::change(&path, |file| {
                let Some(user) = file.users.get(&name).cloned() else {
                    let advice = "`glimpse identity list` lists all users";
                    return Err(IdentityError::Refused(format!("there is no user {name}; {advice}")));
                };
                let user = NewUser { project: &user.project, roles: &user.roles, password: password.as_str() };
                file.set(&name, user)?;
                print_credentials(config, &name, &password)
            })?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Creates the users of the first start, unless the identity file exists, and prints their secrets. They are not shown again.
pub(super) fn create_first_users(config: &Config) -> Result<(), IdentityError> {
    let path = IdentityFile::path(&config.glimpse.data_dir);
    IdentityFile::change(&path, |file| {
        // Another process may have created the file first.
        if path.exists() {
            return Ok(Change::None);
        }
        for (name, project, role) in FIRST_USERS {
            let secret = Password::Generated(generate_secret());
            file.set(name, NewUser { project, roles: &[role.to_owned()], password: secret.as_str() })?;
            print_credentials(config, name, &secret)?;
        }
        Ok(Change::Made)
    })
}

/// A password: generated here, so it must be printed, or given by the operator.
enum Password {
    Generated(String),
    Given(String),
}

impl Password {
    fn get(from_stdin: bool) -> io::Result<Self> {
        if !from_stdin {
            return Ok(Self::Generated(generate_secret()));
        }
        let mut line = String::new();
        io::stdin().read_line(&mut line)?;
        Ok(Self::Given(line.trim_end_matches(['\r', '\n']).to_owned()))
    }

    fn as_str(&self) -> &str {
        match self {
            Self::Generated(password) | Self::Given(password) => password,
        }
    }
}

fn list(file: &IdentityFile) -> io::Result<()> {
    let mut out = io::stdout().lock();
    for (name, user) in &file.users {
        writeln!(out, "{name}\tproject {}\troles {}", user.project, user.roles.join(","))?;
    }
    Ok(())
}

/// Prints a user's secret to standard output, as lines to paste into a shell. It is printed before its hash is stored: if the
/// output fails, no one would know the password. It is never written to the log.
fn print_credentials(config: &Config, name: &str, password: &Password) -> Result<Change, IdentityError> {
    let mut out = io::stdout().lock();
    let shown = match password {
        Password::Given(_) => writeln!(out, "The password of {name} is set."),
        Password::Generated(secret) => writeln!(
            out,
            "# To act as {name}, paste this into a shell; `glimpse identity passwd {name}` makes a new secret.\n\
             export OS_AUTH_TYPE=http_basic OS_ENDPOINT={}/v2\n\
             export OS_USERNAME={name} OS_PASSWORD={secret}\n\
             # The same as a token, for X-Auth-Token: {}\n",
            config.endpoint(),
            token(name, secret)
        ),
    };
    shown.and_then(|()| out.flush()).map_err(IdentityError::Unshown)?;
    Ok(Change::Made)
}
