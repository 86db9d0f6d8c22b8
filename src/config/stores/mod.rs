//! The stores. Glance's configuration declares them in one of two ways: several stores, each with a name and its own group of
//! options, or one store of each kind with its options in `[glance_store]`.
//!
//! A kind of store is a file with its option group, and a line in the list `drivers!`.

mod file;
mod http;
mod rbd;
mod s3;
mod swift;

use std::path::PathBuf;

use super::{
    default::DefaultGroup,
    glance_store::GlanceStore,
    option::{Defaults, OptionReader, OptionSpec},
    value::Pairs,
};

/// Lists the kinds of stores that Glimpse has a driver for: variant, module and type of the options, name.
macro_rules! drivers {
    ($($(#[doc = $doc:literal])+ $kind:ident($module:ident::$options:ident) = $name:literal),+ $(,)?) => {
        $(pub(crate) use self::$module::*;)+

        /// The kind of a store, with its options.
        #[derive(Debug, Clone, PartialEq)]
        pub(crate) enum StoreKind {
            $($(#[doc = $doc])+ $kind($options),)+
            /// A kind that only Glance has a driver for.
            Other(String),
        }

        impl StoreKind {
            /// Reads the options of a store of this kind: from the group with its name, or from `[glance_store]`.
            fn from_reader(reader: &mut impl OptionReader, kind: &str, group: Option<&str>) -> Self {
                match (kind, group) {
                    $(
                        ($name, None) => Self::$kind($options::from_reader(reader)),
                        ($name, Some(group)) => Self::$kind($options::from_group(reader, group, Some(SHARED_GROUP))),
                    )+
                    (other, _) => Self::Other(other.to_owned()),
                }
            }

            /// Its name in `enabled_backends`.
            pub(crate) fn name(&self) -> &str {
                match self {
                    $(Self::$kind(_) => $name,)+
                    Self::Other(name) => name,
                }
            }
        }

        /// The options of each kind of store.
        pub(super) const GROUPS: &[&[OptionSpec]] = &[$($options::OPTIONS),+];
    };
}

drivers! {
    /// In directories of a file system.
    File(file::FileStore) = "file",
    /// On external web servers, read-only.
    Http(http::HttpStore) = "http",
    /// In a pool of a Ceph cluster.
    Rbd(rbd::RbdStore) = "rbd",
    /// In a bucket of an S3 server.
    S3(s3::S3Store) = "s3",
    /// In containers of OpenStack Swift.
    Swift(swift::SwiftStore) = "swift",
}

/// The store of data that is staged for an import. It always exists, and clients cannot choose it.
const STAGING_STORE: &str = "os_glance_staging_store";
/// The prefix of the names that are reserved for the service.
const RESERVED_PREFIX: &str = "os_glance_";
/// The group for options that several stores have in common.
const SHARED_GROUP: &str = "backend_defaults";

/// Every store.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct StoresConfig {
    /// Whether stores have names. The API shows and accepts names of stores only if they do.
    pub(crate) named: bool,
    /// The store for uploads, by name, or by kind if stores have no names.
    pub(crate) default: String,
    /// The stores, in the order of the configuration.
    pub(crate) stores: Vec<StoreConfig>,
    /// The store of data that is staged for imports.
    pub(crate) staging: FileStore,
}

impl Default for StoresConfig {
    /// The stores of an empty configuration.
    fn default() -> Self {
        Self::from_reader(&mut Defaults, &DefaultGroup::default())
    }
}

/// One store.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct StoreConfig {
    /// The name, or the kind if stores have no names.
    pub(crate) id: String,
    /// The description, for humans.
    pub(crate) description: Option<String>,
    /// The weight. Locations in stores of higher weight are read first.
    pub(crate) weight: i64,
    /// The kind of the store, with its options.
    pub(crate) kind: StoreKind,
}

/// The options of every store that has a name, in addition to those of its kind.
const fn store_option(name: &'static str, default: fn() -> String) -> OptionSpec {
    OptionSpec { group: SHARED_GROUP, name, former: &[], default }
}
const DESCRIPTION: OptionSpec = store_option("store_description", String::new);
const WEIGHT: OptionSpec = store_option("weight", || "0".to_owned());

impl StoresConfig {
    pub(super) fn from_reader(reader: &mut impl OptionReader, default: &DefaultGroup) -> Self {
        let options = GlanceStore::from_reader(reader);
        let Pairs(backends) = &default.enabled_backends;
        if backends.is_empty() {
            let kinds = options.stores.iter().enumerate().filter(|(at, kind)| !options.stores[..*at].contains(kind));
            let stores = kinds.map(|(_, kind)| StoreConfig {
                id: kind.clone(),
                description: None,
                weight: 0,
                kind: StoreKind::from_reader(reader, kind, None),
            });
            let stores = stores.collect();
            return Self {
                named: false,
                default: options.default_store,
                stores,
                staging: staging_directory(reader, default),
            };
        }
        let stores = backends.iter().map(|(id, kind)| StoreConfig {
            id: id.clone(),
            description: reader.read_option(id, None, &DESCRIPTION, None, &[]),
            weight: reader.read_option(id, None, &WEIGHT, 0, &[]),
            kind: StoreKind::from_reader(reader, kind, Some(id)),
        });
        let stores: Vec<StoreConfig> = stores.collect();
        let default = options.default_backend.unwrap_or_default();
        if let Some(store) = stores.iter().find(|store| store.id.starts_with(RESERVED_PREFIX)) {
            let message = format!(
                "the name {} is reserved for the service, as are all names that start with {RESERVED_PREFIX}",
                store.id
            );
            reader.reject("DEFAULT", "enabled_backends", message);
        }
        if !stores.iter().any(|store| store.id == default) {
            let message = "one of the stores of [DEFAULT] enabled_backends is expected".to_owned();
            reader.reject("glance_store", "default_backend", message);
        }
        let mut staging = FileStore::from_group(reader, STAGING_STORE, None);
        staging.filesystem_store_datadir.get_or_insert_with(|| format!("/var/lib/glance/{STAGING_STORE}").into());
        Self { named: true, default, stores, staging }
    }
}

/// The store of staged data in the directory that `node_staging_uri` names, for stores without names.
fn staging_directory(reader: &mut impl OptionReader, default: &DefaultGroup) -> FileStore {
    let Some(uri) = &default.node_staging_uri else { return FileStore::default() };
    let path = uri.strip_prefix("file://").filter(|path| path.starts_with('/'));
    if path.is_none() {
        reader.reject("DEFAULT", "node_staging_uri", "file:// and an absolute path are expected".to_owned());
    }
    FileStore { filesystem_store_datadir: path.map(PathBuf::from), ..FileStore::default() }
}
