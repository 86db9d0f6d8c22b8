//! `identity.toml`: the users of a server that stands alone.
//!
//! Only bcrypt hashes are stored. The file is written whole, beside its target, and renamed over it, so that a running
//! server never reads half of it.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use rand::distr::{Alphanumeric, SampleString as _};
use serde::{Deserialize, Serialize};

use super::private_file;

/// bcrypt's work factor: about 50 ms on a server core. A verified credential is cached, so it is not paid per request.
pub(super) const BCRYPT_COST: u32 = 10;
/// Characters of a generated secret: 190 bits.
const SECRET_LENGTH: usize = 32;
/// Characters of a generation: 95 bits.
const GENERATION_LENGTH: usize = 16;
/// bcrypt reads no more than this of a password.
const MAX_PASSWORD_BYTES: usize = 72;

/// The file's content.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct IdentityFile {
    /// By user name.
    #[serde(default)]
    pub(crate) users: BTreeMap<String, User>,
}

/// A user.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct User {
    /// The project that the user acts for.
    pub(crate) project: String,
    /// Roles; admin implies member, member implies reader.
    pub(crate) roles: Vec<String>,
    /// The bcrypt hash of the user's password.
    pub(crate) password_hash: String,
    /// A random value that each change replaces, so that tokens from before a change stay invalid when the change is undone.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) generation: String,
}

impl User {
    /// Whether this is the user's password. Takes as long as one bcrypt.
    pub(crate) fn has_password(&self, password: &str) -> bool {
        bcrypt::non_truncating_verify(password, &self.password_hash).unwrap_or(false)
    }
}

/// Why the file cannot be used, or a user cannot be added.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IdentityError {
    /// The file cannot be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The content of the file is invalid.
    #[error("{}: {message}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// A generated secret could not be printed, so it was not stored.
    #[error("the secret cannot be shown on standard output, so nothing was changed: {0}")]
    Unshown(io::Error),
    /// A name, role, project or password is not allowed, or a user does not exist.
    #[error("{0}")]
    Refused(String),
}

const HEADER: &str = "\
# The users of this Glimpse, while it runs with [glimpse] auth = standalone.
# `glimpse identity list|add|set|passwd|remove` shows and changes them; a running server takes changes up within a second.
# A password's hash is bcrypt's; one that `htpasswd -nB` made fits too.

";

impl IdentityFile {
    /// Where the file is.
    pub(crate) fn path(data_dir: &Path) -> PathBuf {
        data_dir.join("identity.toml")
    }

    /// Reads the file.
    pub(crate) fn read(path: &Path) -> Result<Self, IdentityError> {
        let text = fs::read_to_string(path).map_err(|source| IdentityError::File { path: path.to_owned(), source })?;
        let content = |message: String| IdentityError::Content { path: path.to_owned(), message };
        // The parser's message would show a line of the file, which may hold a hash.
        let file: Self = toml::from_str(&text).map_err(|error| content(error.message().to_owned()))?;
        for (name, user) in &file.users {
            check_name(name)?;
            check_project(&user.project)?;
            user.roles.iter().try_for_each(|role| check_role(role))?;
            if user.password_hash.parse::<bcrypt::HashParts>().is_err() {
                return Err(content(format!("user {name}: password_hash is not a bcrypt hash")));
            }
        }
        Ok(file)
    }

    fn write(&self, path: &Path) -> io::Result<()> {
        let body = toml::to_string(self).map_err(io::Error::other)?;
        private_file::replace(path, [HEADER, &body].concat().as_bytes())
    }

    /// Reads the file, or starts with an empty one if it does not exist, calls `change`, and writes the file if its content has
    /// changed. Concurrent commands are serialised by a lock.
    pub(crate) fn change(
        path: &Path,
        change: impl FnOnce(&mut Self) -> Result<Change, IdentityError>,
    ) -> Result<(), IdentityError> {
        let error = |source| IdentityError::File { path: path.to_owned(), source };
        let _lock = private_file::lock(path).map_err(error)?;
        let mut file = if path.exists() { Self::read(path)? } else { Self::default() };
        match change(&mut file)? {
            Change::Made => file.write(path).map_err(error),
            Change::None => Ok(()),
        }
    }

    /// A user by name.
    ///
    /// # Errors
    /// `Refused` if there is no such user.
    pub(crate) fn find(&self, name: &str) -> Result<&User, IdentityError> {
        self.users.get(name).ok_or_else(|| {
            IdentityError::Refused(format!("there is no user {name}; `glimpse identity list` lists all users"))
        })
    }

    /// Changes a user's project and roles.
    ///
    /// # Errors
    /// `Refused` if there is no such user, or the project or a role is not allowed.
    pub(crate) fn assign(&mut self, name: &str, project: &str, roles: &[String]) -> Result<(), IdentityError> {
        check_project(project)?;
        roles.iter().try_for_each(|role| check_role(role))?;
        let password_hash = self.find(name)?.password_hash.clone();
        let (project, roles) = (project.to_owned(), roles.to_vec());
        let user = User { project, roles, password_hash, generation: generate_generation() };
        self.users.insert(name.to_owned(), user);
        Ok(())
    }

    /// Adds a user, or gives one that is there a new password.
    pub(crate) fn set(&mut self, name: &str, user: NewUser<'_>) -> Result<(), IdentityError> {
        check_name(name)?;
        check_project(user.project)?;
        user.roles.iter().try_for_each(|role| check_role(role))?;
        check_password(user.password)?;
        let hash =
            bcrypt::hash(user.password, BCRYPT_COST).map_err(|error| IdentityError::Refused(error.to_string()))?;
        let user = User {
            project: user.project.to_owned(),
            roles: user.roles.to_vec(),
            password_hash: hash,
            generation: generate_generation(),
        };
        self.users.insert(name.to_owned(), user);
        Ok(())
    }
}

/// Whether a user of [`IdentityFile::change`] changed the content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// The content is the same, so the file is not written.
    None,
    /// The content has changed, so the file is written.
    Made,
}

/// A user to be added.
pub(crate) struct NewUser<'u> {
    /// The project that the user acts for.
    pub(crate) project: &'u str,
    /// The user's roles.
    pub(crate) roles: &'u [String],
    /// The password, of which only the hash is kept.
    pub(crate) password: &'u str,
}

/// Generates a password that cannot be guessed.
pub(crate) fn generate_secret() -> String {
    Alphanumeric.sample_string(&mut rand::rng(), SECRET_LENGTH)
}

/// Checks a user's name, which is used in `user:password`, in logs and in shell commands.
fn generate_generation() -> String {
    Alphanumeric.sample_string(&mut rand::rng(), GENERATION_LENGTH)
}

fn check_name(name: &str) -> Result<(), IdentityError> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "._@-".contains(c);
    if name.is_empty() || name.len() > 64 || !name.chars().all(fits) {
        return Err(IdentityError::Refused(format!(
            "{name:?} cannot be a user's name: 1 to 64 letters, digits, or . _ @ -"
        )));
    }
    Ok(())
}

/// Checks a project, which must fit into the column of an image's owner.
fn check_project(project: &str) -> Result<(), IdentityError> {
    if project.is_empty() || project.len() > 255 || !project.chars().all(|c| c.is_ascii_graphic()) {
        return Err(IdentityError::Refused(format!(
            "{project:?} cannot be a project: 1 to 255 printable ASCII characters without spaces"
        )));
    }
    Ok(())
}

fn check_role(role: &str) -> Result<(), IdentityError> {
    if role.is_empty() || role.len() > 64 || !role.chars().all(|c| c.is_ascii_alphanumeric() || "_-".contains(c)) {
        return Err(IdentityError::Refused(format!("{role:?} cannot be a role: 1 to 64 letters, digits, or _ -")));
    }
    Ok(())
}

fn check_password(password: &str) -> Result<(), IdentityError> {
    let fits = |c: char| c.is_ascii_graphic() || c == ' ';
    if password.len() < 8 || password.len() > MAX_PASSWORD_BYTES || !password.chars().all(fits) {
        return Err(IdentityError::Refused(format!(
            "a password has 8 to {MAX_PASSWORD_BYTES} printable ASCII characters (it travels in an HTTP header)"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::IdentityFile;

    #[test]
    fn the_sample_file_is_valid() {
        let file = IdentityFile::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("config/identity.toml")).unwrap();
        let hash = &file.users["ann"].password_hash;
        assert_eq!(bcrypt::verify("an example password", hash).ok(), Some(true));
    }

    /// `htpasswd -nB` writes `$2y$`.
    #[test]
    fn a_hash_of_htpasswd_is_accepted() {
        let hash = bcrypt::hash_with_result("secret", 4).unwrap().format_for_version(bcrypt::Version::TwoY);
        assert!(hash.starts_with("$2y$"));
        assert_eq!(bcrypt::non_truncating_verify("secret", &hash).ok(), Some(true));
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("identity.toml");
        std::fs::write(&path, format!("[users.a]\nproject = 'p'\nroles = []\npassword_hash = '{hash}'\n")).unwrap();
        assert!(IdentityFile::read(&path).is_ok());
        std::fs::write(&path, "[users.a]\nproject = 'p'\nroles = []\npassword_hash = 'secret'\n").unwrap();
        let error = IdentityFile::read(&path).err().unwrap().to_string();
        assert!(error.contains("not a bcrypt hash") && !error.contains("secret"), "{error}");
    }
}
