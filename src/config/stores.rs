//! Which stores there are, in either of the ways that Glance's configuration has: several with a name and a group of options
//! each, or one of each kind with its options in `[glance_store]`.

use super::{
    ConfigError, Written,
    known::{Known, Source as _},
    options::{FileStore, GlanceStore, HttpStore, S3Store},
    value::Pairs,
};

/// The store of data that is staged for an import. It is always there, and nobody chooses it.
const STAGING_STORE: &str = "os_glance_staging_store";
/// Names that start so are the service's own.
const RESERVED_PREFIX: &str = "os_glance_";
/// Where options of several stores of a kind may be written once.
const SHARED_GROUP: &str = "backend_defaults";

/// Every store.
#[derive(Debug, Clone)]
pub(crate) struct StoresConfig {
    /// Whether stores have names: what shows or takes a store's name does so then only.
    pub(crate) named: bool,
    /// The store that gets uploads, by name, or by kind where stores have no names.
    pub(crate) default: String,
    /// In the order in which they were written.
    pub(crate) stores: Vec<StoreConfig>,
    /// Where Glance stages data for imports, where stores have names.
    pub(crate) staging: Option<FileStore>,
}

impl Default for StoresConfig {
    /// What there is where nothing is written.
    fn default() -> Self {
        let store = |kind: StoreKind| StoreConfig { id: kind.name().to_owned(), description: None, weight: 0, kind };
        let stores = [StoreKind::File(FileStore::default()), StoreKind::Http(HttpStore::default())].map(store);
        Self { named: false, default: GlanceStore::default().default_store, stores: stores.into(), staging: None }
    }
}

/// One store.
#[derive(Debug, Clone)]
pub(crate) struct StoreConfig {
    /// Its name, or its kind where stores have no names.
    pub(crate) id: String,
    /// What it is, for people.
    pub(crate) description: Option<String>,
    /// A location in a store of a higher weight is read first.
    pub(crate) weight: i64,
    /// How its data is kept.
    pub(crate) kind: StoreKind,
}

/// How a store's data is kept.
#[derive(Debug, Clone)]
pub(crate) enum StoreKind {
    /// In folders.
    File(FileStore),
    /// By other people's web servers.
    Http(HttpStore),
    /// In a bucket of an S3 server.
    S3(S3Store),
    /// In a way that only Glance knows.
    Other(String),
}

/// A default of oslo.config's that a group of the operator's own has, too.
const fn own(name: &'static str, default: fn() -> String) -> Known {
    Known { group: SHARED_GROUP, name, former: &[], default }
}
const DESCRIPTION: Known = own("store_description", String::new);
const WEIGHT: Known = own("weight", || "0".to_owned());

impl StoresConfig {
    pub(super) fn read(written: &mut Written, backends: &Pairs) -> Self {
        let options = GlanceStore::read(written);
        let Pairs(backends) = backends;
        if backends.is_empty() {
            let kinds = options.stores.iter().enumerate().filter(|(at, kind)| !options.stores[..*at].contains(kind));
            let stores = kinds.map(|(_, kind)| StoreConfig {
                id: kind.clone(),
                description: None,
                weight: 0,
                kind: StoreKind::read(written, kind, None),
            });
            let stores = stores.collect();
            return Self { named: false, default: options.default_store, stores, staging: None };
        }
        let stores = backends.iter().map(|(id, kind)| StoreConfig {
            id: id.clone(),
            description: written.take_in(id, None, &DESCRIPTION, None, &[]),
            weight: written.take_in(id, None, &WEIGHT, 0, &[]),
            kind: StoreKind::read(written, kind, Some(id)),
        });
        let stores: Vec<StoreConfig> = stores.collect();
        let default = options.default_backend.unwrap_or_default();
        let wrong = |group: &str, name, message: String| ConfigError::Value {
            place: "stores".to_owned(),
            group: group.to_owned(),
            name,
            message,
        };
        if let Some(store) = stores.iter().find(|store| store.id.starts_with(RESERVED_PREFIX)) {
            let message = format!("the name {} is the service's own: none may start with {RESERVED_PREFIX}", store.id);
            written.errors.push(wrong("DEFAULT", "enabled_backends", message));
        }
        if !stores.iter().any(|store| store.id == default) {
            let message = "one of the stores of [DEFAULT] enabled_backends is wanted".to_owned();
            written.errors.push(wrong("glance_store", "default_backend", message));
        }
        let mut staging = FileStore::read_in(written, STAGING_STORE, None);
        staging.filesystem_store_datadir.get_or_insert_with(|| format!("/var/lib/glance/{STAGING_STORE}").into());
        Self { named: true, default, stores, staging: Some(staging) }
    }
}

impl StoreKind {
    /// Takes the options of a store of this kind: of the group with its name, or of `[glance_store]`.
    fn read(written: &mut Written, kind: &str, group: Option<&str>) -> Self {
        match (kind, group) {
            ("file", None) => Self::File(FileStore::read(written)),
            ("file", Some(group)) => Self::File(FileStore::read_in(written, group, Some(SHARED_GROUP))),
            ("http", None) => Self::Http(HttpStore::read(written)),
            ("http", Some(group)) => Self::Http(HttpStore::read_in(written, group, Some(SHARED_GROUP))),
            ("s3", None) => Self::S3(S3Store::read(written)),
            ("s3", Some(group)) => Self::S3(S3Store::read_in(written, group, Some(SHARED_GROUP))),
            (other, _) => Self::Other(other.to_owned()),
        }
    }

    /// Its name in `enabled_backends`.
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::File(_) => "file",
            Self::Http(_) => "http",
            Self::S3(_) => "s3",
            Self::Other(name) => name,
        }
    }
}
