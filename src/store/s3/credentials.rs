//! The keys of an S3 store: from its options, else from a credentials file that is shared with other S3 clients.

use std::{
    env,
    path::{Path, PathBuf},
    sync::Arc,
};

use arc_swap::ArcSwap;

use super::signature::Keys;
use crate::config::{Entry, S3Store, Secret, read_configparser};

/// The profile in a credentials file if `AWS_PROFILE` names none.
const DEFAULT_PROFILE: &str = "default";

/// The current keys.
pub(super) struct Credentials {
    keys: ArcSwap<Keys>,
    shared: Option<SharedFile>,
}

/// A profile of a credentials file.
struct SharedFile {
    path: PathBuf,
    profile: String,
}

impl Credentials {
    /// # Errors
    /// A description of the missing or invalid option, which starts with its name.
    pub(super) fn open(options: &S3Store) -> Result<Self, String> {
        let missing = |name: &str| format!("{name} is missing");
        let (keys, shared) = match (&options.s3_store_access_key, &options.s3_store_secret_key) {
            (Some(access), Some(secret)) => {
                (Keys { access: access.clone(), secret: secret.clone(), token: None }, None)
            }
            (Some(_), None) => return Err(missing("s3_store_secret_key")),
            (None, Some(_)) => return Err(missing("s3_store_access_key")),
            (None, None) => {
                let file = SharedFile::find().ok_or_else(|| missing("s3_store_access_key"))?;
                (file.read().map_err(|error| format!("s3_store_access_key is missing, and {error}"))?, Some(file))
            }
        };
        check(&keys).map_err(|fault| format!("s3_store_access_key: {fault}"))?;
        Ok(Self { keys: ArcSwap::from_pointee(keys), shared })
    }

    pub(super) fn keys(&self) -> Arc<Keys> {
        self.keys.load_full()
    }

    /// Reads the credentials file again after the server has rejected these keys. Returns whether there are other ones now. The file
    /// is small and read seldom, so it is read on the current thread.
    pub(super) fn renew(&self, rejected: &Keys) -> bool {
        let Some(file) = &self.shared else { return false };
        match file.read() {
            Ok(keys) => {
                let is_other = keys != *rejected && check(&keys).is_ok();
                if is_other {
                    self.keys.store(Arc::new(keys));
                }
                is_other
            }
            Err(error) => {
                tracing::error!(error, "cannot read the keys of an S3 store again");
                false
            }
        }
    }
}

impl SharedFile {
    fn find() -> Option<Self> {
        let variable = |name| env::var_os(name).filter(|value| !value.is_empty());
        let path = variable("AWS_SHARED_CREDENTIALS_FILE").map(PathBuf::from);
        let path = path.or_else(|| Some(env::home_dir()?.join(".aws/credentials")).filter(|path| path.exists()))?;
        let profile = env::var("AWS_PROFILE").ok().filter(|profile| !profile.is_empty());
        Some(Self { path, profile: profile.unwrap_or_else(|| DEFAULT_PROFILE.to_owned()) })
    }

    fn read(&self) -> Result<Keys, String> {
        read_profile(&self.path, &self.profile)
    }
}

fn read_profile(path: &Path, profile: &str) -> Result<Keys, String> {
    let entries = read_configparser(path).map_err(|error| error.to_string())?;
    let value = |name: &str| -> Option<Secret> {
        let is_it = |entry: &&Entry| entry.group == profile && entry.name.eq_ignore_ascii_case(name);
        entries.iter().rfind(is_it).map(|entry| entry.value.clone())
    };
    let required = |name| value(name).ok_or_else(|| format!("{}: [{profile}] has no {name}", path.display()));
    Ok(Keys {
        access: required("aws_access_key_id")?,
        secret: required("aws_secret_access_key")?,
        token: value("aws_session_token"),
    })
}

/// Checks that the keys can be sent in a header.
fn check(keys: &Keys) -> Result<(), &'static str> {
    let is_graphic = |text: &Secret| text.expose().chars().all(|c| c.is_ascii_graphic());
    match is_graphic(&keys.access) && keys.token.as_ref().is_none_or(is_graphic) {
        true => Ok(()),
        false => Err("only letters, digits and punctuation are allowed"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keys_of_a_profile_are_read_like_botos() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("credentials");
        let text = "# keys\n[default]\naws_access_key_id = one\naws_secret_access_key=a=b\n\
                    [other]\nAWS_ACCESS_KEY_ID: two\naws_secret_access_key: c\naws_session_token = t\n[empty]\n";
        std::fs::write(&path, text).unwrap();
        let keys = |access: &str, secret: &str, token: Option<&str>| Keys {
            access: Secret::new(access),
            secret: Secret::new(secret),
            token: token.map(Secret::new),
        };
        assert_eq!(read_profile(&path, "default"), Ok(keys("one", "a=b", None)));
        assert_eq!(read_profile(&path, "other"), Ok(keys("two", "c", Some("t"))));
        assert!(read_profile(&path, "empty").unwrap_err().ends_with("[empty] has no aws_access_key_id"));
        assert!(read_profile(&dir.path().join("none"), "default").unwrap_err().contains("none"));
    }
}
