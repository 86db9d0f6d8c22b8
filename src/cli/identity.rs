//! `glimpse identity …`: the users of a server that runs without Keystone.

use std::{
    borrow::Cow,
    fs::OpenOptions,
    io::{self, Write as _},
    net::SocketAddr,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Subcommand;
use serde_json::Value as Json;

use super::CommandResult;
use crate::{
    app,
    auth::{
        identity_file::{Change, IdentityError, IdentityFile, NewUser, User, generate_secret},
        standalone::{DOMAIN_NAME, static_token},
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
    /// Change the project or the roles of a user; the password stays
    ///
    /// The tokens of the user become invalid within a second on a running server; its clients log in again.
    ///
    /// Example: `glimpse identity set ann --role member`
    #[command(arg_required_else_help = true)]
    Set {
        /// The name of the user
        name: String,
        /// The project that the user belongs to from now on
        #[arg(long, required_unless_present = "role")]
        project: Option<String>,
        /// A role of the user, which replaces all previous ones. Can be repeated
        #[arg(long)]
        role: Vec<String>,
    },
    /// Set a new password and print the credentials
    ///
    /// The old password and all tokens of the user become invalid within a second on a running server.
    Passwd {
        /// The name of the user
        name: String,
        /// Read the password (8 to 72 bytes) from the first line of standard input, instead of generating one
        #[arg(long)]
        password_stdin: bool,
    },
    /// Set a new password and write it to a clouds.yaml, the file in which OpenStack's clients look for credentials
    ///
    /// With --password-stdin, the password stays as it is. The name of the cloud is the name of the user. Clients read
    /// clouds.yaml in the current directory, or in ~/.config/openstack.
    ///
    /// Example: `glimpse identity clouds-yaml demo && openstack --os-cloud demo image list`
    CloudsYaml {
        /// The name of the user
        name: String,
        /// The file to write, which must not exist yet; - is standard output
        #[arg(long, value_name = "FILE", default_value = "clouds.yaml")]
        file: PathBuf,
        /// Read the user's present password from the first line of standard input, instead of setting a new one
        #[arg(long)]
        password_stdin: bool,
    },
    /// Remove a user; its images stay
    ///
    /// A running server refuses the user within a second.
    Remove {
        /// The name of the user
        name: String,
    },
}

/// The users that the first start creates: name, project, role.
const FIRST_USERS: [(&str, &str, &str); 2] = [("admin", "admin", "admin"), ("demo", "demo", "member")];
/// The roles that the default policy uses.
const ROLES: [&str; 4] = ["admin", "member", "reader", "service"];
/// The number of users that a start names.
const NAMED_USERS: usize = 5;

pub(super) fn run(config: &Config, command: Command) -> CommandResult {
    let path = IdentityFile::path(&config.glimpse.data_dir);
    let endpoint = Endpoint::new(config, config.default.bind_port);
    match command {
        Command::List => list(&IdentityFile::read(&path)?)?,
        Command::Add { name, project, role, password_stdin } => {
            app::create_data_dir(config)?;
            let password = Password::get(password_stdin)?;
            IdentityFile::change(&path, |file| {
                if file.users.contains_key(&name) {
                    let advice = format!(
                        "`glimpse identity passwd {name}` sets a new password, `glimpse identity set {name}` another project or role"
                    );
                    return Err(IdentityError::Refused(format!("user {name} exists already; {advice}")));
                }
                file.set(&name, NewUser { project: &project, roles: &role, password: password.as_str() })?;
                print_credentials(&endpoint, &Credentials::new(&name, &project, &password))
            })?;
            warn_of_unknown_roles(&role)?;
        }
        Command::Set { name, project, role } => {
            IdentityFile::change(&path, |file| {
                let before = file.find(&name)?;
                let roles = if role.is_empty() { before.roles.clone() } else { role.clone() };
                let project = project.unwrap_or_else(|| before.project.clone());
                file.assign(&name, &project, &roles)?;
                Ok(Change::Made)
            })?;
            warn_of_unknown_roles(&role)?;
        }
        Command::Passwd { name, password_stdin } => {
            let password = Password::get(password_stdin)?;
            IdentityFile::change(&path, |file| {
                set_password(file, &name, &password)?;
                print_credentials(&endpoint, &Credentials::new(&name, &file.find(&name)?.project, &password))
            })?;
        }
        Command::CloudsYaml { name, file: target, password_stdin } => {
            let password = Password::get(password_stdin)?;
            IdentityFile::change(&path, |file| {
                let change = if password_stdin {
                    if !file.find(&name)?.has_password(password.as_str()) {
                        return Err(IdentityError::Refused(format!("this is not the password of user {name}")));
                    }
                    Change::None
                } else {
                    set_password(file, &name, &password)?;
                    Change::Made
                };
                let yaml = clouds_yaml(&endpoint, &[Credentials::new(&name, &file.find(&name)?.project, &password)]);
                write_private(&target, &yaml)
                    .map_err(|source| IdentityError::File { path: target.clone(), source })
                    .map(|()| change)
            })?;
        }
        Command::Remove { name } => IdentityFile::change(&path, |file| {
            file.find(&name)?;
            file.users.remove(&name);
            Ok(Change::Made)
        })?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Creates the users of the first start, unless the identity file exists, and prints their secrets. They are not shown again. Later
/// starts log the names of the users. Returns whether this is the first start.
pub(super) fn prepare_users(config: &Config, address: SocketAddr) -> Result<bool, IdentityError> {
    let path = IdentityFile::path(&config.glimpse.data_dir);
    let endpoint = Endpoint::new(config, address.port());
    let mut names = Vec::new();
    IdentityFile::change(&path, |file| {
        // Another process may have created the file first.
        if path.exists() {
            names.extend(file.users.keys().cloned());
            return Ok(Change::None);
        }
        let mut secrets = Vec::new();
        for (name, project, role) in FIRST_USERS {
            let secret = Password::Generated(generate_secret());
            file.set(name, NewUser { project, roles: &[role.to_owned()], password: secret.as_str() })?;
            print_credentials(&endpoint, &Credentials::new(name, project, &secret))?;
            secrets.push((name, project, secret));
        }
        let credentials: Vec<_> =
            secrets.iter().map(|(name, project, secret)| Credentials::new(name, project, secret)).collect();
        let mut out = io::stdout().lock();
        let yaml = clouds_yaml(&endpoint, &credentials);
        let shown = writeln!(out, "# The same as a clouds.yaml, for `openstack --os-cloud demo image list`:\n{yaml}");
        shown.and_then(|()| out.flush()).map_err(IdentityError::Unshown)?;
        Ok(Change::Made)
    })?;
    if !names.is_empty() {
        let more = if names.len() > NAMED_USERS { ", …" } else { "" };
        let users = names.iter().take(NAMED_USERS).map(String::as_str).collect::<Vec<_>>().join(", ");
        tracing::info!("the users are {users}{more}; `glimpse identity passwd NAME` sets a new password");
    }
    Ok(names.is_empty())
}

/// The URL at which clients log in.
struct Endpoint {
    url: String,
    /// Whether the server listens on every address of the machine.
    is_everywhere: bool,
}

impl Endpoint {
    fn new(config: &Config, port: u16) -> Self {
        let is_everywhere = config.default.public_endpoint.is_none() && ["0.0.0.0", "::"].contains(&config.bind_host());
        Self { url: format!("{}/v3", config.endpoint(port)), is_everywhere }
    }

    /// A comment on the URL, as a line.
    fn comment(&self) -> &'static str {
        if self.is_everywhere { "# On another machine, use the name of this machine in the URL.\n" } else { "" }
    }
}

fn set_password(file: &mut IdentityFile, name: &str, password: &Password) -> Result<(), IdentityError> {
    let User { project, roles, .. } = file.find(name)?.clone();
    file.set(name, NewUser { project: &project, roles: &roles, password: password.as_str() })
}

/// Warns about roles that have an effect only if the operator's own policy uses them.
fn warn_of_unknown_roles(roles: &[String]) -> io::Result<()> {
    for role in roles.iter().filter(|role| !ROLES.contains(&role.to_lowercase().as_str())) {
        let roles = ROLES.join(", ");
        writeln!(io::stderr(), "warning: the default policy does not use the role {role}; it uses {roles}")?;
    }
    Ok(())
}

/// A clouds.yaml with a cloud for each user, which is named like the user.
fn clouds_yaml(endpoint: &Endpoint, users: &[Credentials<'_>]) -> String {
    let clouds = users.iter().map(|user| {
        // A JSON string is also a YAML string.
        let [name, project, url, password] =
            [user.name, user.project, &endpoint.url, user.password.as_str()].map(Json::from);
        format!(
            "  {name}:\n    auth_type: password\n    auth:\n      auth_url: {url}\n      username: {name}\n      \
             password: {password}\n      project_name: {project}\n      user_domain_name: {DOMAIN_NAME}\n      \
             project_domain_name: {DOMAIN_NAME}\n"
        )
    });
    format!("{}clouds:\n{}", endpoint.comment(), clouds.collect::<String>())
}

/// A word of a shell line.
fn quoted(word: &str) -> Cow<'_, str> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._@%+=:,/-".contains(c);
    if word.chars().all(is_plain) { word.into() } else { format!("'{}'", word.replace('\'', r"'\''")).into() }
}

/// Creates a file that only its owner can read; `-` is standard output.
fn write_private(path: &Path, text: &str) -> io::Result<()> {
    if path == Path::new("-") {
        let mut out = io::stdout().lock();
        return out.write_all(text.as_bytes()).and_then(|()| out.flush());
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())
}

/// What a user logs in with.
struct Credentials<'c> {
    name: &'c str,
    project: &'c str,
    password: &'c Password,
}

impl<'c> Credentials<'c> {
    fn new(name: &'c str, project: &'c str, password: &'c Password) -> Self {
        Self { name, project, password }
    }
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
fn print_credentials(endpoint: &Endpoint, user: &Credentials<'_>) -> Result<Change, IdentityError> {
    let mut out = io::stdout().lock();
    let name = user.name;
    let shown = match user.password {
        Password::Given(_) => writeln!(out, "The password of {name} is set."),
        Password::Generated(secret) => writeln!(
            out,
            "# To act as {name}, paste this into bash; `glimpse identity passwd {name}` makes a new secret.\n{}\
             unset ${{!OS_*}}\n\
             export OS_AUTH_TYPE=password OS_AUTH_URL={} OS_PROJECT_NAME={}\n\
             export OS_USER_DOMAIN_NAME={DOMAIN_NAME} OS_PROJECT_DOMAIN_NAME={DOMAIN_NAME}\n\
             export OS_USERNAME={name} OS_PASSWORD={secret}\n\
             # The same as a static token, for X-Auth-Token: {}\n",
            endpoint.comment(),
            quoted(&endpoint.url),
            quoted(user.project),
            static_token(name, secret)
        ),
    };
    shown.and_then(|()| out.flush()).map_err(IdentityError::Unshown)?;
    Ok(Change::Made)
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn words_are_quoted_for_the_shell() {
        for word in ["web", "a b", "$HOME", "`id`", "it's", "a;b", "\\", "!x", "http://[::1]:9292/v3", "~"] {
            let line = format!("printf %s {}", quoted(word));
            let output = std::process::Command::new("bash").args(["-c", &line]).output().unwrap();
            assert_eq!(String::from_utf8(output.stdout).unwrap(), word);
        }
    }
}
