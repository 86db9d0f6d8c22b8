//! The options of a store in Swift, and the accounts that its references name.

use std::{collections::HashMap, path::PathBuf};

use crate::config::{
    configparser,
    group::group,
    secret::Secret,
    value::{OptionValue, choice},
};

group! {
    /// A store in containers of Swift: options of `[glance_store]`, or of a group with the store's name.
    pub(crate) struct SwiftStore in "glance_store" {
        /// The version of the login: 3 for Keystone, 1 for Swift's own TempAuth.
        swift_store_auth_version: SwiftAuthVersion = SwiftAuthVersion::V3,
        /// The URL where Glimpse logs in.
        swift_store_auth_address: Option<String> = None,
        /// The user, as project:user.
        swift_store_user: Option<Secret> = None,
        /// The user's password.
        swift_store_key: Option<Secret> = None,
        /// The id of an application credential, instead of user and password.
        swift_store_application_credential_id: Option<Secret> = None,
        /// The secret of the application credential.
        swift_store_application_credential_secret: Option<Secret> = None,
        /// A file of accounts, each with its reference as the name of a section. Locations then contain the reference and no password.
        swift_store_config_file: Option<PathBuf> = None,
        /// The reference of the account for uploads.
        default_swift_reference: String = "ref1".to_owned(),
        /// The container, or the start of the names of several containers.
        swift_store_container: String = "glance".to_owned(),
        /// How many digits of an image's id end the name of its container. With 0, there is one container.
        swift_store_multiple_containers_seed: u32 = 0 => 0..=32,
        /// Whether missing containers are created.
        swift_store_create_container_on_put: bool = false,
        /// The size from which on an object is stored in segments, in units of 1,024,000 bytes.
        swift_store_large_object_size: u32 = 5120 => 1..,
        /// The size of a segment, in units of 1,024,000 bytes.
        swift_store_large_object_chunk_size: u32 = 200 => 1..,
        /// The region in which the catalog is searched.
        swift_store_region: Option<String> = None,
        /// The URL of the account in Swift, instead of the one in the catalog.
        swift_store_endpoint: Option<String> = None,
        /// The interface in the catalog.
        swift_store_endpoint_type: SwiftEndpointType = SwiftEndpointType::Public,
        /// The type of Swift's service in the catalog.
        swift_store_service_type: String = "object-store".to_owned(),
        /// Whether any certificate is accepted.
        swift_store_auth_insecure: bool = false,
        /// A file of certificate authorities that the servers' certificates can be signed by.
        swift_store_cacert: Option<PathBuf> = None,
        /// Whether data is stored in the account of each project, with the token of the caller.
        swift_store_multi_tenant: bool = false,
        /// The projects that can read and write the containers in these accounts.
        swift_store_admin_tenants: Vec<String> = Vec::new(),
        /// Whether a trust is created for an upload in segments, and for a download that can be resumed, so that the token is renewed
        /// meanwhile.
        swift_store_use_trusts: bool = true,
        /// How often an interrupted download is resumed.
        swift_store_retry_get_count: u32 = 0,
        /// How many seconds before its expiry a token is replaced.
        swift_store_expire_soon_interval: u32 = 60,
        /// Whether each segment is written to a file before it is sent, so that sending it can be retried.
        swift_buffer_on_upload: bool = false,
        /// The directory of these files.
        swift_upload_buffer_dir: Option<PathBuf> = None,
    }
}

choice! {
    /// The interface at which Swift is reached.
    pub(crate) enum SwiftEndpointType {
        /// For everyone.
        #[default]
        Public = "publicURL",
        /// For administrators.
        Admin = "adminURL",
        /// For services inside of the cloud.
        Internal = "internalURL",
    }
}

/// The version of a login.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum SwiftAuthVersion {
    /// Swift's own TempAuth.
    V1,
    /// Keystone.
    #[default]
    V3,
}

impl OptionValue for SwiftAuthVersion {
    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "1" => Ok(Self::V1),
            "3" => Ok(Self::V3),
            "2" => Err("Keystone has no version 2 any more; 3 is expected, or 1 for TempAuth".to_owned()),
            _ => Err("3 is expected, or 1 for TempAuth".to_owned()),
        }
    }

    fn to_text(&self) -> String {
        match self {
            Self::V1 => "1".to_owned(),
            Self::V3 => "3".to_owned(),
        }
    }
}

/// An account in Swift, and how Glimpse logs in to it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct SwiftAccount {
    /// The name by which locations refer to it.
    pub(crate) reference: String,
    /// The version of the login.
    pub(crate) version: SwiftAuthVersion,
    /// The URL where Glimpse logs in. Without a scheme, it is https.
    pub(crate) auth_address: String,
    /// What proves Glimpse's identity.
    pub(crate) proof: SwiftProof,
    /// The id of the user's domain, and its name.
    pub(crate) user_domain: (Option<String>, Option<String>),
    /// The id of the project's domain, and its name.
    pub(crate) project_domain: (Option<String>, Option<String>),
}

/// What proves an identity to Keystone or TempAuth.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum SwiftProof {
    /// The user, as project:user, and the password.
    Password(Secret, Secret),
    /// The id of an application credential, and its secret.
    ApplicationCredential(Secret, Secret),
}

/// Keystone's default domain.
fn default_domain() -> (Option<String>, Option<String>) {
    (Some("default".to_owned()), None)
}

impl SwiftStore {
    /// The accounts of `swift_store_config_file`, or the one that the other options describe; and what is wrong with the other
    /// sections of the file.
    ///
    /// # Errors
    /// The file cannot be read. The message starts with the name of the store's option.
    pub(crate) fn accounts(&self) -> Result<(Vec<SwiftAccount>, Vec<String>), String> {
        let Some(path) = &self.swift_store_config_file else {
            return Ok((self.own_account().into_iter().collect(), Vec::new()));
        };
        let option = "swift_store_config_file";
        let entries = configparser::read(path).map_err(|error| format!("{option}: {error}"))?;
        let mut sections: Vec<(String, HashMap<String, String>)> = Vec::new();
        let mut shared = HashMap::new();
        for entry in entries {
            let value = unquote(entry.value.expose())
                .map_err(|error| format!("{option} {}:{}: {error}", path.display(), entry.line))?;
            let name = entry.name.to_lowercase();
            if entry.group == "DEFAULT" {
                shared.insert(name, value);
                continue;
            }
            match sections.iter_mut().find(|(section, _)| *section == entry.group) {
                Some((_, values)) => drop(values.insert(name, value)),
                None => sections.push((entry.group, HashMap::from([(name, value)]))),
            }
        }
        let accounts = sections.into_iter().map(|(reference, values)| {
            let value = |name: &str| values.get(name).or_else(|| shared.get(name)).cloned();
            let require = |name: &str| {
                value(name)
                    .filter(|text| !text.is_empty())
                    .ok_or_else(|| format!("{option}: [{reference}] {name} is missing"))
            };
            let domain = |kind: &str| match (value(&format!("{kind}_domain_id")), value(&format!("{kind}_domain_name")))
            {
                (None, None) => default_domain(),
                domain => domain,
            };
            let credential = (value("application_credential_id"), value("application_credential_secret"));
            let proof = match credential {
                (Some(id), Some(secret)) => SwiftProof::ApplicationCredential(Secret::new(id), Secret::new(secret)),
                _ => SwiftProof::Password(Secret::new(require("user")?), Secret::new(require("key")?)),
            };
            // Like Glance, all other values mean 3.
            let version = match value("auth_version").as_deref() {
                None => self.swift_store_auth_version,
                Some("1") => SwiftAuthVersion::V1,
                Some(_) => SwiftAuthVersion::V3,
            };
            let (user_domain, project_domain) = (domain("user"), domain("project"));
            let auth_address = require("auth_address")?;
            Ok(SwiftAccount { reference, version, auth_address, proof, user_domain, project_domain })
        });
        let (accounts, faults): (Vec<_>, Vec<Result<_, String>>) = accounts.partition(Result::is_ok);
        Ok((accounts.into_iter().flatten().collect(), faults.into_iter().filter_map(Result::err).collect()))
    }

    /// The account that the store's own options describe.
    fn own_account(&self) -> Option<SwiftAccount> {
        let both = |one: &Option<Secret>, other: &Option<Secret>| {
            one.clone().zip(other.clone()).filter(|(one, other)| !one.expose().is_empty() && !other.expose().is_empty())
        };
        let credential =
            both(&self.swift_store_application_credential_id, &self.swift_store_application_credential_secret);
        let password = || both(&self.swift_store_user, &self.swift_store_key);
        let proof = match credential {
            Some((id, secret)) => SwiftProof::ApplicationCredential(id, secret),
            None => password().map(|(user, key)| SwiftProof::Password(user, key))?,
        };
        Some(SwiftAccount {
            reference: self.default_swift_reference.clone(),
            version: self.swift_store_auth_version,
            auth_address: self.swift_store_auth_address.clone()?,
            proof,
            user_domain: default_domain(),
            project_domain: default_domain(),
        })
    }
}

/// Removes the quotes around a value, and reads `%%` as `%`, as Glance's parser does.
fn unquote(value: &str) -> Result<String, &'static str> {
    let value = match value.chars().next() {
        Some(quote @ ('"' | '\'')) => {
            let inner = value[1..].strip_suffix(quote);
            inner.ok_or("a value begins with a quote and does not end with it")?
        }
        _ => value,
    };
    Ok(value.replace("%%", "%"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accounts(text: &str) -> Result<(Vec<SwiftAccount>, Vec<String>), String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("swift.conf");
        std::fs::write(&path, text).unwrap();
        SwiftStore { swift_store_config_file: Some(path), ..SwiftStore::default() }.accounts()
    }

    #[test]
    fn a_file_of_accounts_is_read_as_in_glance() {
        let text = "[DEFAULT]\nauth_address = http://k/v3\n[ref1]\nUser = \"p:u\"\nkey = 50%% 'x'\nauth_version = 2\n\
                    [ref2]\nuser = p:v\nkey = k\nauth_address = https://other\nauth_version = 1\nuser_domain_name = D\n\
                    [ref3]\napplication_credential_id = i\napplication_credential_secret = 's'\n\
                    [ref4]\nuser = p:u\n";
        let (found, faults) = accounts(text).unwrap();
        assert_eq!(faults, ["swift_store_config_file: [ref4] key is missing"]);
        assert_eq!(
            found.iter().map(|account| account.reference.as_str()).collect::<Vec<_>>(),
            ["ref1", "ref2", "ref3"]
        );
        assert_eq!(found[0].proof, SwiftProof::Password(Secret::new("p:u"), Secret::new("50% 'x'")));
        assert_eq!((found[0].version, found[1].version), (SwiftAuthVersion::V3, SwiftAuthVersion::V1));
        assert_eq!((found[0].auth_address.as_str(), found[1].auth_address.as_str()), ("http://k/v3", "https://other"));
        assert_eq!(found[0].user_domain, default_domain());
        assert_eq!(found[1].user_domain, (None, Some("D".to_owned())));
        assert_eq!(found[2].proof, SwiftProof::ApplicationCredential(Secret::new("i"), Secret::new("s")));
        let error = accounts("[ref1]\nuser = p:u\nkey = 's3cret\n").unwrap_err();
        assert!(error.contains("begins with a quote") && !error.contains("s3cret"), "{error}");
    }
}
