//! Signed tokens. The server keeps no list of them.
//!
//! A token is `glimpse1.CLAIMS.MAC`, both parts in URL-safe base64: python-glanceclient percent-encodes other characters. The MAC is
//! a keyed BLAKE3 hash of the claims and of the user's entry in the identity file. Any change of the entry (password, project,
//! roles) and its removal therefore end all tokens of the user, and a token never allows more than the entry does.
//!
//! The key is a file of its own, `token.key`. It is not derived from the password hashes: a person who knows a hash, for example
//! from a deployment tool, must not be able to make a token.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
use serde::{Deserialize, Serialize};

use crate::auth::{
    identity_file::{IdentityError, IdentityFile, User},
    private_file,
};

/// What every token begins with. A static token has no dot, so no text is both.
const PREFIX: &str = "glimpse1.";
/// The maximum length of a token in bytes. Longer texts are not parsed. The longest token, with a project of 255 characters that
/// JSON escapes, has about 1200.
const MAX_LENGTH: usize = 2048;

/// A way to prove an identity, in the order in which Keystone names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Method {
    /// Another token.
    Token,
    /// The user's password.
    Password,
}

/// What a token says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Claims {
    /// The user's name.
    pub(crate) user: String,
    /// The project; `None` if the token is unscoped.
    pub(crate) project: Option<String>,
    /// How the user proved its identity.
    pub(crate) methods: Vec<Method>,
    /// The time of issue, in seconds since 1970.
    pub(crate) issued: i64,
    /// The time from which on the token is invalid, in seconds since 1970.
    pub(crate) expires: i64,
    /// A random id of the token, which is not a secret.
    pub(crate) audit_id: String,
    /// The audit id of the first token, from which this one was derived.
    pub(crate) parent_audit_id: Option<String>,
}

/// A random audit id: 128 bits.
pub(super) fn generate_audit_id() -> String {
    BASE64.encode(rand::random::<[u8; 16]>())
}

/// Signs tokens, and verifies their signatures.
pub(super) struct Signer {
    key: [u8; 32],
}

impl Signer {
    /// Reads the key beside the identity file, and creates it if there is none. If it cannot be created, tokens are valid for this
    /// process only, and as long as it runs.
    ///
    /// # Errors
    /// The key cannot be read, or is not a key.
    pub(super) fn open(identity_file: &Path) -> Result<Self, IdentityError> {
        let path = identity_file.with_file_name("token.key");
        let error = |source| IdentityError::File { path: path.clone(), source };
        if let Some(signer) = Self::read(&path)? {
            return Ok(signer);
        }
        let signer = Self { key: rand::random() };
        let created = private_file::lock(&path).and_then(|lock| {
            // Another process may have created the key first.
            if !path.exists() {
                let text = format!("{}\n", blake3::Hash::from_bytes(signer.key).to_hex());
                private_file::replace(&path, text.as_bytes())?;
            }
            Ok(lock)
        });
        match created {
            Ok(_lock) => Self::read(&path)?.ok_or_else(|| error(io::ErrorKind::NotFound.into())),
            Err(reason) => {
                let path = path.display();
                tracing::warn!(
                    "the key {path} cannot be created ({reason}): tokens end when this process ends, and other processes \
                     refuse them"
                );
                Ok(signer)
            }
        }
    }

    fn read(path: &PathBuf) -> Result<Option<Self>, IdentityError> {
        let error = |source| IdentityError::File { path: path.clone(), source };
        let text = match fs::read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            read => read.map_err(error)?,
        };
        if fs::metadata(path).map_err(error)?.mode() & 0o077 != 0 {
            tracing::warn!(
                "other users of this machine can use {}, which signs tokens: run chmod 600 on it",
                path.display()
            );
        }
        let key = blake3::Hash::from_hex(text.trim_ascii()).map_err(|_| IdentityError::Content {
            path: path.clone(),
            message: "a key has 64 hexadecimal digits; without the file, the next start creates a key".to_owned(),
        })?;
        Ok(Some(Self { key: *key.as_bytes() }))
    }

    /// The token with these claims.
    pub(super) fn sign(&self, claims: &Claims, user: &User) -> String {
        // The claims are texts and numbers, which JSON can represent.
        let json = serde_json::to_vec(claims).unwrap_or_default();
        let mac = self.mac(&json, user);
        format!("{PREFIX}{}.{}", BASE64.encode(&json), BASE64.encode(mac.as_bytes()))
    }

    /// The claims of a token that this server signed for a user whose entry has not changed since. The caller checks the time.
    pub(super) fn verify(&self, token: &str, users: &IdentityFile) -> Option<Claims> {
        let text = token.strip_prefix(PREFIX).filter(|_| token.len() <= MAX_LENGTH)?;
        let (json, mac) = text.split_once('.')?;
        let json = BASE64.decode(json).ok()?;
        let mac: [u8; 32] = BASE64.decode(mac).ok()?.try_into().ok()?;
        let claims: Claims = serde_json::from_slice(&json).ok()?;
        let user = users.users.get(&claims.user);
        // A name that does not exist takes the same time. The comparison takes constant time.
        let expected = self.mac(&json, user.unwrap_or(&User::default()));
        (expected == blake3::Hash::from_bytes(mac) && user.is_some()).then_some(claims)
    }

    fn mac(&self, claims: &[u8], user: &User) -> blake3::Hash {
        let mut mac = blake3::Hasher::new_keyed(&self.key);
        let roles = user.roles.iter().map(String::as_str);
        let entry = [user.password_hash.as_str(), &user.project, &user.generation].into_iter().chain(roles);
        for part in [claims].into_iter().chain(entry.map(str::as_bytes)) {
            // The length keeps the parts apart.
            mac.update(&(part.len() as u64).to_le_bytes()).update(part);
        }
        mac.finalize()
    }
}

/// Whether the text can only be a signed token.
pub(super) fn is_signed(text: &str) -> bool {
    text.contains('.')
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use proptest::prelude::*;

    use super::{Claims, IdentityFile, MAX_LENGTH, Method, Signer, User};

    fn users() -> IdentityFile {
        let user = User {
            project: "p".to_owned(),
            roles: vec!["member".to_owned()],
            password_hash: "hash".to_owned(),
            generation: "g".to_owned(),
        };
        IdentityFile { users: [("ann".to_owned(), user)].into() }
    }

    fn claims(project: &str) -> Claims {
        Claims {
            user: "ann".to_owned(),
            project: Some(project.to_owned()),
            methods: vec![Method::Token, Method::Password],
            issued: 1 << 33,
            expires: (1 << 33) + 3600,
            audit_id: super::generate_audit_id(),
            parent_audit_id: Some(super::generate_audit_id()),
        }
    }

    #[test]
    fn the_longest_token_is_accepted() {
        let signer = Signer { key: [7; 32] };
        let name = "n".repeat(64);
        let user = User { project: "\\".repeat(255), ..User::default() };
        let users = IdentityFile { users: [(name.clone(), user.clone())].into() };
        let claims = Claims { user: name, ..claims(&user.project) };
        let token = signer.sign(&claims, &user);
        assert!(token.len() * 5 / 4 < MAX_LENGTH, "{}", token.len());
        assert_eq!(signer.verify(&token, &users), Some(claims));
        assert_eq!(signer.verify(&format!("{token}{}", "A".repeat(MAX_LENGTH)), &users), None);
    }

    #[test]
    fn a_token_is_valid_only_with_its_own_key_and_with_the_unchanged_user() {
        let (signer, users) = (Signer { key: [7; 32] }, users());
        let claims = claims("p");
        let token = signer.sign(&claims, &users.users["ann"]);
        assert_eq!(signer.verify(&token, &users), Some(claims));
        assert_eq!(Signer { key: [8; 32] }.verify(&token, &users), None);
        assert_eq!(signer.verify(&token, &IdentityFile::default()), None);
        let changes: [fn(&mut User); 5] = [
            |user| user.generation.push('x'),
            |user| user.password_hash.push('x'),
            |user| user.project.push('x'),
            |user| user.roles.push("admin".to_owned()),
            // The same texts, with other borders between them.
            |user| (user.generation, user.roles) = ("gm".to_owned(), vec!["ember".to_owned()]),
        ];
        for change in changes {
            let mut changed = users.users["ann"].clone();
            change(&mut changed);
            let changed = IdentityFile { users: [("ann".to_owned(), changed)].into() };
            assert_eq!(signer.verify(&token, &changed), None);
        }
    }

    #[test]
    fn a_user_that_does_not_exist_has_no_token() {
        let signer = Signer { key: [7; 32] };
        // Not even with the MAC that is computed for such a user.
        let token = signer.sign(&claims("p"), &User::default());
        assert_eq!(signer.verify(&token, &IdentityFile::default()), None);
    }

    #[test]
    fn the_key_is_created_once_and_only_its_owner_can_read_it() {
        let dir = tempfile::tempdir().unwrap();
        let (file, key) = (dir.path().join("identity.toml"), dir.path().join("token.key"));
        let first = Signer::open(&file).unwrap();
        assert_eq!(std::fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(Signer::open(&file).unwrap().key, first.key);
        std::fs::write(&key, "12").unwrap();
        let error = Signer::open(&file).err().unwrap().to_string();
        assert!(error.contains("token.key: a key has 64 hexadecimal digits"), "{error}");
        // Without a folder, there is no key to keep.
        let nowhere = dir.path().join("nowhere/identity.toml");
        assert_ne!(Signer::open(&nowhere).unwrap().key, Signer::open(&nowhere).unwrap().key);
    }

    proptest! {
        #[test]
        fn no_changed_token_is_valid(at in 0_usize..300, to in "[a-zA-Z0-9_.-]") {
            let (signer, users) = (Signer { key: [7; 32] }, users());
            let token = signer.sign(&claims("p"), &users.users["ann"]);
            let at = at % token.len();
            let changed = format!("{}{to}{}", &token[..at], &token[at + 1..]);
            prop_assert!(changed == token || signer.verify(&changed, &users).is_none());
        }

        #[test]
        fn no_text_makes_it_panic(text in any::<String>()) {
            let signer = Signer { key: [7; 32] };
            prop_assert_eq!(signer.verify(&text, &users()), None);
            prop_assert_eq!(signer.verify(&format!("glimpse1.{text}"), &users()), None);
        }
    }
}
