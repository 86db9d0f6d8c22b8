//! `glimpse identity …`

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
    /// List the users, with their projects and roles
    List,
    /// Add a user and show how to log in
    Add {
        /// The user's name
        name: String,
        /// The project that the user acts for
        #[arg(long)]
        project: String,
        /// A role: admin, member or reader, each of which implies those after it; may be repeated
        #[arg(long, default_value = "member")]
        role: Vec<String>,
        /// Read the password from standard input, instead of making one up
        #[arg(long)]
        password_stdin: bool,
    },
    /// Give a user a new password and show how to log in
    Passwd {
        /// The user's name
        name: String,
        /// Read the password from standard input, instead of making one up
        #[arg(long)]
        password_stdin: bool,
    },
}

/// The users of the first start: name, project, role.
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
                    let advice = format!("`glimpse identity passwd {name}` resets it");
                    return Err(IdentityError::Refused(format!("user {name} is there already; {advice}")));
                }
                file.set(&name, NewUser { project: &project, roles: &role, password: password.as_str() })?;
                show_login(config, &name, &password)
            })?;
        }
        Command::Passwd { name, password_stdin } => {
            let password = Password::get(password_stdin)?;
            IdentityFile::change(&path, |file| {
                let Some(user) = file.users.get(&name).cloned() else {
                    let advice = "`glimpse identity list` shows who is there";
                    return Err(IdentityError::Refused(format!("there is no user {name}; {advice}")));
                };
                let user = NewUser { project: &user.project, roles: &user.roles, password: password.as_str() };
                file.set(&name, user)?;
                show_login(config, &name, &password)
            })?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Makes the users of the first start, unless they are there, and shows their secrets this once.
pub(super) fn create_first_users(config: &Config) -> Result<(), IdentityError> {
    let path = IdentityFile::path(&config.glimpse.data_dir);
    IdentityFile::change(&path, |file| {
        // Another process may have been first.
        if path.exists() {
            return Ok(Change::None);
        }
        for (name, project, role) in FIRST_USERS {
            let secret = Password::Generated(generate_secret());
            file.set(name, NewUser { project, roles: &[role.to_owned()], password: secret.as_str() })?;
            show_login(config, name, &secret)?;
        }
        Ok(Change::Made)
    })
}

/// A password, and whether its user knows it already.
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

/// Shows a user's secret on standard output, as lines to paste into a shell: the only time that anybody sees it, so it is
/// shown before it is stored. Never in the log.
fn show_login(config: &Config, name: &str, password: &Password) -> Result<Change, IdentityError> {
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
