//! The registry of configured stores, which finds the store of a location.

use std::{ops::Range, path::Path, sync::Arc, time::Duration};

use serde_json::{Map, Value};

use super::{
    Blob, Driver, Environment, Error, FileCopy, Hold, Object, Readers, Result, STAGING, Stored, file::FileDriver,
    http::HttpDriver, location, rbd::RbdDriver, s3::S3Driver, swift::SwiftDriver,
};
use crate::{
    config::{StoreConfig, StoreKind, StoresConfig},
    egress::EgressFilter,
    model::{ImageId, LocationUrl},
    stream::Chunks,
};

/// A configured store. Stores have names if the configuration names them; otherwise a store is identified by its kind.
pub(crate) struct Store {
    /// Its name, or its kind if stores have no names.
    pub(crate) id: String,
    /// A description for humans.
    pub(crate) description: Option<String>,
    /// Its weight. Downloads prefer locations in stores of a higher weight.
    pub(crate) weight: i64,
    /// Its kind, as it is written in the configuration.
    pub(crate) kind: String,
    driver: AnyDriver,
}

/// The list of drivers, each with its variant of [`StoreKind`]. Passes the list to a macro, behind that macro's own arguments.
macro_rules! with_drivers {
    ($macro:ident! { $($arguments:tt)* }) => {
        $macro! { { $($arguments)* } File(FileDriver), Http(HttpDriver), Rbd(RbdDriver), S3(S3Driver), Swift(SwiftDriver) }
    };
}

macro_rules! declare_any_driver {
    ({} $($kind:ident($driver:ident)),+) => {
        enum AnyDriver {
            $($kind($driver),)+
            /// A kind that only Glance supports, or a store that could not be opened. Every operation on its data fails.
            Absent,
        }

        impl AnyDriver {
            /// See `Driver::open`.
            fn open(kind: &StoreKind, name: Option<&str>, environment: &Environment<'_>) -> (Self, Option<String>) {
                match kind {
                    $(StoreKind::$kind(options) => {
                        let (driver, fault) = $driver::open(name, options, environment);
                        (driver.map_or(Self::Absent, Self::$kind), fault)
                    })+
                    StoreKind::Other(kind) => {
                        (Self::Absent, Some(format!("it cannot be used: Glimpse has no driver of the kind {kind}")))
                    }
                }
            }
        }
    };
}

with_drivers! { declare_any_driver! {} }

macro_rules! match_driver {
    ({ $store:expr, $driver:ident, $call:expr, $absent:expr } $($kind:ident($_:ident)),+) => {
        match &$store.driver {
            $(AnyDriver::$kind($driver) => $call,)+
            AnyDriver::Absent => $absent,
        }
    };
}

/// Calls a method of the store's driver; evaluates to `$absent` if it has none.
macro_rules! call {
    ($store:expr, |$driver:ident| $call:expr, $absent:expr) => {
        with_drivers! { match_driver! { $store, $driver, $call, $absent } }
    };
}

impl Store {
    /// Opens a store. Also returns why it cannot be used, or why nothing can be added to it.
    fn open(config: &StoreConfig, named: bool, environment: &Environment<'_>) -> (Self, Option<String>) {
        let name = named.then_some(config.id.as_str());
        let (driver, fault) = AnyDriver::open(&config.kind, name, environment);
        let store = Self {
            id: config.id.clone(),
            description: config.description.clone(),
            weight: config.weight,
            kind: config.kind.name().to_owned(),
            driver,
        };
        (store, fault)
    }

    /// Whether clients can only read from the store.
    pub(crate) fn is_read_only(&self) -> bool {
        self.kind == "http"
    }

    /// See `Driver::key`.
    fn key<'u>(&self, url: &'u LocationUrl) -> Option<&'u str> {
        call!(self, |driver| driver.key(url), None)
    }

    /// See `Driver::properties`.
    pub(crate) fn properties(&self) -> Map<String, Value> {
        call!(self, |driver| driver.properties(), Map::new())
    }

    fn has_scheme(&self, scheme: &str) -> bool {
        match self.kind.as_str() {
            "file" => matches!(scheme, "file" | "filesystem"),
            "http" => matches!(scheme, "http" | "https"),
            "vmware" => scheme == "vsphere",
            kind => scheme == kind || scheme.strip_prefix(kind).is_some_and(|rest| rest.starts_with('+')),
        }
    }

    /// See `Driver::owns`.
    fn owns(&self, url: &LocationUrl) -> bool {
        call!(self, |driver| driver.owns(url), false)
    }

    /// See `Driver::put`.
    pub(crate) async fn put(&self, object: &Object, data: Chunks, size: u64) -> Result<Stored> {
        call!(self, |driver| driver.put(object, data, size).await, Err(Error::ReadOnly))
    }

    /// Begins to copy an object of another store without passing its bytes through this process. Returns `None` if that is not
    /// possible: both must be file stores, on file systems that support it.
    pub(crate) async fn begin_copy(&self, object: &Object, from: &Self, url: &LocationUrl) -> Result<Option<FileCopy>> {
        match (&self.driver, &from.driver) {
            (AnyDriver::File(to), AnyDriver::File(from)) => to.begin_copy(object, from, url).await,
            _ => Ok(None),
        }
    }

    /// See `Driver::hold`.
    pub(crate) async fn hold(&self, object: &Object) -> Result<Hold> {
        call!(self, |driver| driver.hold(object).await, Err(Error::NoStore))
    }

    /// See `Driver::place`.
    pub(crate) async fn place(&self, object: &Object, stored: &Stored, hold: Hold) -> Result<Hold> {
        call!(self, |driver| driver.place(object, stored, hold).await, Err(Error::NoStore))
    }

    /// See `Driver::get`.
    pub(crate) async fn get(&self, url: &LocationUrl, range: Option<Range<u64>>) -> Result<Blob> {
        call!(self, |driver| driver.get(url, range).await, Err(Error::NoStore))
    }

    /// See `Driver::size`.
    pub(crate) async fn size(&self, url: &LocationUrl) -> Result<u64> {
        call!(self, |driver| driver.size(url).await, Err(Error::NoStore))
    }

    /// See `Driver::delete`.
    pub(crate) async fn delete(&self, url: &LocationUrl) -> Result<()> {
        call!(self, |driver| driver.delete(url).await, Err(Error::NoStore))
    }

    /// See `Driver::unfinished`.
    pub(crate) async fn unfinished(&self, quiet: Duration) -> Result<Vec<Object>> {
        call!(self, |driver| driver.unfinished(quiet).await, Ok(Vec::new()))
    }

    /// See `Driver::discard`.
    pub(crate) async fn discard(&self, object: &Object, hold: Option<Hold>) -> Result<()> {
        call!(self, |driver| driver.discard(object, hold).await, Err(Error::NoStore))
    }

    /// See `Driver::probe`.
    pub(crate) async fn probe(&self, object: &Object) -> Result<()> {
        call!(self, |driver| driver.probe(object).await, Err(Error::NoStore))
    }

    /// See `Driver::discard_parts`.
    pub(crate) async fn discard_parts(&self, object: &Object) -> Result<()> {
        call!(self, |driver| driver.discard_parts(object).await, Err(Error::NoStore))
    }

    /// See `Driver::acts_for_callers`.
    pub(crate) fn acts_for_callers(&self) -> bool {
        call!(self, |driver| driver.acts_for_callers(), false)
    }

    /// See `Driver::share`.
    pub(crate) async fn share(&self, url: &LocationUrl, readers: &Readers) -> Result<()> {
        call!(self, |driver| driver.share(url, readers).await, Ok(()))
    }

    /// See `Driver::take_leftovers`.
    pub(crate) fn take_leftovers(&self, object: &Object) -> bool {
        call!(self, |driver| driver.take_leftovers(object), false)
    }
}

/// All configured stores.
pub(crate) struct Stores {
    /// Whether stores have names. If they do not, the API neither shows nor accepts store names.
    pub(crate) are_named: bool,
    stores: Vec<Arc<Store>>,
    default: Arc<Store>,
    staging: Arc<Store>,
}

/// A fault of a store.
pub(crate) struct StoreFault {
    /// Whether uploads that name no store go there.
    pub(crate) is_default: bool,
    /// The store and its fault.
    pub(crate) message: String,
}

fn is_default(config: &StoresConfig, store: &Store) -> bool {
    // Without names, the option holds one of the store's schemes.
    store.id == config.default || (!config.named && store.has_scheme(&config.default))
}

fn no_default(config: &StoresConfig) -> String {
    format!("Store for scheme {} not found", config.default)
}

impl Stores {
    /// Opens the stores. A store that cannot be used is logged and does not affect the others.
    ///
    /// # Errors
    /// If the default store is not configured.
    pub(crate) fn open(
        config: &StoresConfig,
        default_dir: &Path,
        staging_dir: &Path,
        filter: &Arc<EgressFilter>,
    ) -> Result<Self, String> {
        let environment = Environment { default_dir, creates_dirs: true, filter };
        let open = |config: &StoreConfig, named| {
            let (store, fault) = Store::open(config, named, &environment);
            if let Some(fault) = fault {
                tracing::warn!(store = store.id, "the store has a fault: {fault}");
            }
            Arc::new(store)
        };
        let stores: Vec<Arc<Store>> = config.stores.iter().map(|store| open(store, config.named)).collect();
        let default = stores.iter().find(|store| is_default(config, store)).map(Arc::clone);
        let default = default.ok_or_else(|| no_default(config))?;
        let staging = Arc::new(Store {
            id: STAGING.to_owned(),
            description: None,
            weight: 0,
            kind: "file".to_owned(),
            driver: AnyDriver::File(FileDriver::staging(&config.staging, staging_dir)),
        });
        Ok(Self { are_named: config.named, stores, default, staging })
    }

    /// Finds faults of the stores without creating or connecting anything.
    pub(crate) fn faults(config: &StoresConfig, default_dir: &Path, filter: &Arc<EgressFilter>) -> Vec<StoreFault> {
        let environment = Environment { default_dir, creates_dirs: false, filter };
        let mut has_default = false;
        let mut faults = Vec::new();
        for store in &config.stores {
            let (store, fault) = Store::open(store, config.named, &environment);
            let is_default = is_default(config, &store);
            has_default |= is_default;
            let read_only = || (is_default && store.is_read_only()).then(|| "clients can only read from it".to_owned());
            if let Some(fault) = fault.or_else(read_only) {
                faults.push(StoreFault { is_default, message: format!("the store {}: {fault}", store.id) });
            }
        }
        if !has_default {
            faults.push(StoreFault { is_default: true, message: no_default(config) });
        }
        faults
    }

    /// All stores, in the order of the configuration.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Store>> {
        self.stores.iter()
    }

    /// Whether a store is used with the tokens of callers.
    pub(crate) fn act_for_callers(&self) -> bool {
        self.stores.iter().any(|store| store.acts_for_callers())
    }

    /// The store for uploads that name no other.
    pub(crate) fn default(&self) -> Arc<Store> {
        Arc::clone(&self.default)
    }

    /// The store of staged data.
    pub(crate) fn staging(&self) -> Arc<Store> {
        Arc::clone(&self.staging)
    }

    /// The store with this name, including the one of staged data.
    pub(crate) fn for_upload(&self, id: &str) -> Option<Arc<Store>> {
        if id == STAGING { Some(self.staging()) } else { self.named(id) }
    }

    /// The stores of an upload, whose names are separated by commas. `None` if one of them is not configured here.
    pub(crate) fn all_for_upload(&self, ids: &str) -> Option<Vec<Arc<Store>>> {
        ids.split(',').map(|id| self.for_upload(id)).collect()
    }

    /// Removes data that is staged for an import of this image, with all its versions.
    pub(crate) async fn discard_staged(&self, image_id: &str) -> Result<()> {
        match &self.staging.driver {
            AnyDriver::File(driver) => driver.discard_staged(image_id, None).await,
            _ => Ok(()),
        }
    }

    /// Removes data that is staged for an import of this image, except the version that the import needs.
    pub(crate) async fn discard_other_versions(&self, image_id: &str, kept: Option<&str>) -> Result<()> {
        match &self.staging.driver {
            AnyDriver::File(driver) => driver.discard_staged(image_id, Some(driver.staged_path(image_id, kept)?)).await,
            _ => Ok(()),
        }
    }

    /// The path of an image's staged data, or of a version of it: what an import has made of it.
    pub(crate) fn staged_path(&self, image_id: &str, version: Option<&str>) -> Result<String> {
        match &self.staging.driver {
            AnyDriver::File(driver) => driver.staged_path(image_id, version),
            _ => Err(Error::NotFound),
        }
    }

    /// The location of an image's staged data, or of a version of it, in the store of staged data.
    pub(crate) fn staged_url(&self, image_id: &str, version: Option<&str>) -> Result<LocationUrl> {
        Ok(format!("file://{}", self.staged_path(image_id, version)?).into())
    }

    /// Whether an image has this version of its staged data on this node.
    pub(crate) async fn has_staged(&self, image_id: &str, version: Option<&str>) -> bool {
        let Ok(url) = self.staged_url(image_id, version) else { return false };
        self.staging.size(&url).await.is_ok()
    }

    /// Lists the images with staged data that nothing has written to for at least `quiet`.
    pub(crate) async fn staged(&self, quiet: Duration) -> Result<Vec<ImageId>> {
        match &self.staging.driver {
            AnyDriver::File(driver) => driver.staged(quiet).await,
            _ => Ok(Vec::new()),
        }
    }

    /// The store with this name.
    pub(crate) fn named(&self, id: &str) -> Option<Arc<Store>> {
        self.stores.iter().find(|store| store.id == id).map(Arc::clone)
    }

    /// The store of a location that a client supplies. Clients can only add URLs of web servers: a URL of another store could point
    /// to another image's data.
    ///
    /// # Errors
    /// `NoStore`.
    pub(crate) fn find_for_client(&self, url: &LocationUrl) -> Result<&Arc<Store>> {
        let mut found = self.stores.iter().filter(|store| matches!(store.driver, AnyDriver::Http(_)));
        // Glance accepts these schemes in lower case only.
        let is_web_url = ["http://", "https://"].iter().any(|scheme| url.expose().starts_with(scheme));
        found.find(|_| is_web_url).ok_or(Error::NoStore)
    }

    /// The store of a location that another service supplies, and the name of its object there. A service can add URLs of web
    /// servers, which have no such name, and of objects in the bucket of an S3 store. As in Glance, it cannot add paths of files.
    ///
    /// # Errors
    /// `NoStore`.
    pub(crate) fn find_for_service<'u>(&self, url: &'u LocationUrl) -> Result<(&Arc<Store>, Option<&'u str>)> {
        if let Ok(store) = self.find_for_client(url) {
            return Ok((store, None));
        }
        let mut found = self.stores.iter().filter_map(|store| Some((store, Some(store.key(url)?))));
        found.next().ok_or(Error::NoStore)
    }

    /// The store that a location is in.
    ///
    /// If the URL matches the store that the metadata names, it is that store; otherwise the first store that the URL matches.
    /// If the URL matches no store, only the name counts: another store with the same scheme would not have the data.
    ///
    /// # Errors
    /// `NoStore`.
    pub(crate) fn find(&self, url: &LocationUrl, metadata: &Map<String, Value>) -> Result<&Arc<Store>> {
        let scheme = location::scheme(url);
        let mut candidates = self.stores.iter().filter(|store| store.has_scheme(&scheme));
        if !self.are_named {
            return candidates.next().ok_or(Error::NoStore);
        }
        let named = metadata.get("store").and_then(Value::as_str);
        let named = candidates.clone().find(|store| Some(store.id.as_str()) == named);
        let owner = named.filter(|store| store.owns(url)).or_else(|| candidates.find(|store| store.owns(url)));
        let found = owner.or(named);
        found.ok_or(Error::NoStore)
    }
}
