//! The `swift` driver: an object in a container of OpenStack Swift, with the image's id as its name.
//!
//! Data of unknown size, and data from `swift_store_large_object_size` on, is a dynamic large object: segments with the names
//! `<image>-00001` and so on, in the same container, and a manifest with the image's id as its name. These names are Glance's.
//!
//! Data passes through without being kept in memory. Swift shows an object only when its request has ended, so an object without
//! segments is sent up to its last bytes, which follow when it is placed; the manifest of a large object is only written then. Small
//! objects are kept in memory until then, so that the request can be retried.
//!
//! The segments of two uploads of an image have the same names. Therefore an upload with segments has a marker, an empty object with
//! the ids of the image and of the upload in its name, and checks it before each segment. Whoever discards an upload removes its marker
//! first, and then also deletes the names that can be in flight: Swift orders requests by the time when they began, and so drops a
//! segment whose request began before.

mod account;
mod client;
mod error;
mod url;

use std::{
    collections::{HashMap, VecDeque},
    ops::Range,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use chrono::{DateTime, NaiveDateTime, TimeDelta, Utc};
use futures_util::{StreamExt as _, future::BoxFuture, stream};
use reqwest::{Response, StatusCode, header};
use serde_json::{Map, Value};

use self::{
    account::{Account, with_scheme},
    client::{Client, OpenPut, SwiftPath},
    error::SwiftError,
    url::{AccountUrl, SwiftUrl},
};
use super::{
    Blob, Driver, Environment, Error, Hold, Leftovers, Object, Readers, Result, Stored,
    object_server::{Body, OpenedObject, Source, check_range, content_length, http_client, read_object},
};
use crate::{
    config::{OptionValue as _, Secret, SwiftAccount, SwiftProof, SwiftStore},
    keystone::Caller,
    model::LocationUrl,
    stream::{BoxError, Chunks},
};

/// The server, as messages name it.
const SERVER: &str = "Swift";
/// The unit of the sizes in the options, in bytes. It is Glance's, and neither a megabyte nor a mebibyte.
const UNIT: u64 = 1000 * 1024;
/// The maximum size in bytes of an object that is kept in memory until it is placed.
const SMALL: u64 = 256 << 10;
/// The maximum number of segments of an upload whose requests have not ended: the one that is sent, and those that Swift still stores.
const MAX_IN_FLIGHT: usize = 2;
/// The number of deletions of segments that are in progress at the same time.
const CONCURRENT_DELETIONS: usize = 8;
/// The maximum number of accounts of old locations' credentials that are kept.
const MAX_OLD_ACCOUNTS: usize = 64;
/// The start of the names of markers. The ids of the image and of the upload follow.
const MARKER: &str = ".glimpse-upload.";

/// A store in an account of Swift.
pub(super) struct SwiftDriver {
    /// The store's name, if it has one. It is written into the location's metadata, as in Glance.
    name: Option<String>,
    options: Box<SwiftStore>,
    client: Client,
    http: reqwest::Client,
    /// The accounts of the configuration, and the one for uploads.
    accounts: Vec<(SwiftAccount, Arc<Account>)>,
    default: Option<usize>,
    /// The accounts of locations with credentials that the configuration does not have, by address, user and password.
    old_accounts: Mutex<HashMap<(String, String, String), Arc<Account>>>,
    /// Uploads whose segments, or whose object, may be there although the upload has failed.
    leftovers: Leftovers,
    /// The objects that were stored but not placed yet, with their paths, by the ids of their uploads.
    pending: Mutex<HashMap<String, (SwiftPath, Pending)>>,
}

/// An object that is not visible to readers yet.
enum Pending {
    /// An object in memory.
    Whole(Body),
    /// An object that Swift has, except for these last bytes.
    Open(OpenPut, Bytes),
    /// A large object whose segments are all there.
    Segments,
}

impl SwiftDriver {
    fn keep_pending(&self, object: &Object, path: SwiftPath, pending: Pending) {
        let mut all = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(object.upload_id.clone(), (path, pending));
    }

    fn take_pending(&self, object: &Object) -> Option<(SwiftPath, Pending)> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner).remove(&object.upload_id)
    }

    /// The name of an image's container: with a seed, it ends with so many digits of the image's id, and the dashes among them.
    fn container_of(&self, image_id: &str) -> String {
        let base = self.options.swift_store_container.trim_matches('/');
        let seed = usize::try_from(self.options.swift_store_multiple_containers_seed).unwrap_or_default();
        if seed == 0 {
            return base.to_owned();
        }
        let id = image_id.to_lowercase();
        let dashes = id.chars().take(seed).filter(|c| *c == '-').count();
        format!("{base}_{}", id.chars().take(seed + dashes).collect::<String>())
    }

    /// Where an image's object is, or will be.
    async fn path_of_image(&self, image_id: &str) -> Result<SwiftPath> {
        let object = image_id.to_owned();
        if self.options.swift_store_multi_tenant {
            let (account, _) = self.account_of_caller().await?;
            let container = format!("{}_{image_id}", self.options.swift_store_container.trim_matches('/'));
            return Ok(SwiftPath { account, container, object });
        }
        let (_, account) = &self.accounts[self.default.ok_or(Error::NoStore)?];
        Ok(SwiftPath { account: Arc::clone(account), container: self.container_of(image_id), object })
    }

    /// The account of the caller's project, and its URL.
    async fn account_of_caller(&self) -> Result<(Arc<Account>, String)> {
        let caller = Caller::current().ok_or(Error::NoStore)?;
        let url = match &self.options.swift_store_endpoint {
            Some(endpoint) => endpoint.clone(),
            None => {
                let interface = self.options.swift_store_endpoint_type.to_text();
                let interface = interface.trim_end_matches("URL");
                let region = self.options.swift_store_region.as_deref();
                let found = caller.endpoint(&self.options.swift_store_service_type, region, interface).await;
                found.ok_or_else(|| Error::Unavailable(SwiftError::NoEndpoint.into()))?
            }
        };
        Ok((Arc::new(Account::of_caller(caller.token().clone(), url.clone())), url))
    }

    async fn path_of_url(&self, url: &LocationUrl) -> Result<SwiftPath> {
        let SwiftUrl { account, container, object } = SwiftUrl::parse(url)?;
        let account = match account {
            AccountUrl::Reference(reference) => {
                let mut found = self.accounts.iter().filter(|(account, _)| account.reference == reference);
                let unknown = "Badly formed Swift URI. Credentials not found for account reference";
                Arc::clone(&found.next().ok_or(Error::BadLocation(unknown))?.1)
            }
            AccountUrl::Address(address, None) if self.options.swift_store_multi_tenant => {
                Arc::new(self.account_of_project(address).await?)
            }
            AccountUrl::Address(address, credentials) => self.account_at(&address, credentials)?,
        };
        Ok(SwiftPath { account, container, object })
    }

    /// The account of a project at this URL, which is used with the caller's token. Without a caller, when a deletion is resumed for
    /// example, it is used with the token of the configured account. No server gets a token unless it is one of Swift's.
    async fn account_of_project(&self, url: String) -> Result<Account> {
        let malformed = |_| Error::BadLocation("Badly formed Swift URI.");
        let server = reqwest::Url::parse(&url).map_err(malformed)?;
        let (account, is_swift) = match (Caller::current(), self.default) {
            (Some(caller), _) => {
                let is_swift = match &self.options.swift_store_endpoint {
                    Some(own) => Some(reqwest::Url::parse(own).is_ok_and(|own| own.origin() == server.origin())),
                    None => caller.has_server(&self.options.swift_store_service_type, &server).await,
                };
                let is_swift = is_swift.ok_or_else(|| Error::Unavailable(SwiftError::NoEndpoint.into()))?;
                (Account::of_caller(caller.token().clone(), url), is_swift)
            }
            (None, Some(default)) => {
                let own = &self.accounts[default].1;
                (own.at(url), own.has_server(&server).await.map_err(cannot_read)?)
            }
            (None, None) => return Err(Error::NoStore),
        };
        if is_swift {
            return Ok(account);
        }
        let host = server.host_str().unwrap_or_default();
        tracing::error!(host, port = server.port(), "a location is on a server that is not Swift's; it gets no token");
        Err(Error::BadLocation("The location is on a server that is not Swift's."))
    }

    /// The same path with tokens that are renewed while a long transfer runs. If no trust can be created, the caller's token is used, as
    /// in Glance.
    async fn with_trust(&self, path: SwiftPath) -> SwiftPath {
        let Some(default) = self.default.filter(|_| self.options.swift_store_use_trusts) else { return path };
        match path.account.with_trust(&self.accounts[default].1).await {
            Ok(Some(account)) => SwiftPath { account: Arc::new(account), ..path },
            Ok(None) => path,
            Err(error) => {
                tracing::warn!(%error, "cannot create a trust; the caller's token is used, and not renewed");
                path
            }
        }
    }

    /// The account at an address: one of the configuration, also if its password has changed since the location was written.
    /// Otherwise, the credentials of the location are used.
    fn account_at(&self, address: &str, credentials: Option<(Secret, Secret)>) -> Result<Arc<Account>> {
        let same = self.accounts.iter().filter(|(account, _)| {
            with_scheme(&account.auth_address).trim_end_matches('/') == address.trim_end_matches('/')
        });
        let Some((user, key)) = credentials else {
            let mut found = same.filter(|(account, _)| matches!(account.proof, SwiftProof::ApplicationCredential(..)));
            let missing = "Location is missing user:password or application credential information.";
            return found.next().map(|(_, account)| Arc::clone(account)).ok_or(Error::BadLocation(missing));
        };
        let mut known = same.filter(|(account, _)| match &account.proof {
            SwiftProof::Password(own, _) => *own == user,
            SwiftProof::ApplicationCredential(..) => false,
        });
        if let Some((_, account)) = known.next() {
            return Ok(Arc::clone(account));
        }
        let default = self.default.map(|at| &self.accounts[at].0).ok_or(Error::NoStore)?;
        let id = (address.to_owned(), user.expose().to_owned(), key.expose().to_owned());
        let mut old = self.old_accounts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(account) = old.get(&id) {
            return Ok(Arc::clone(account));
        }
        let account = SwiftAccount {
            auth_address: address.to_owned(),
            proof: SwiftProof::Password(user, key),
            ..default.clone()
        };
        let opened = Account::open(&account, &self.options, &self.http);
        let account = Arc::new(opened.map_err(|_| Error::BadLocation("Badly formed tenant:user in Swift URI"))?);
        if old.len() >= MAX_OLD_ACCOUNTS {
            old.clear();
        }
        old.insert(id, Arc::clone(&account));
        Ok(account)
    }

    /// Creates a missing container, if the configuration allows that. `error` is the error that shows that it is missing.
    async fn create_container(&self, path: &SwiftPath, error: SwiftError) -> Result<()> {
        if !self.options.swift_store_create_container_on_put {
            let container = &path.container;
            tracing::error!(
                container,
                "the container does not exist; set swift_store_create_container_on_put, or create it"
            );
            return Err(Error::Unavailable(error.into()));
        }
        self.client.create_container(path).await.map_err(cannot_write)
    }

    /// Checks that the container exists, and creates it if the configuration allows that. Also renews a token that was revoked.
    async fn ensure_container(&self, path: &SwiftPath) -> Result<()> {
        match self.client.check(&path.container()).await {
            Err(error) if error.is_not_found() => self.create_container(path, error).await,
            checked => checked.map_err(cannot_write),
        }
    }

    /// Sends an object whose size is known, up to its last bytes.
    async fn put_open(&self, path: &SwiftPath, source: &mut Source, size: u64) -> Result<Pending> {
        source.unless_cut(self.ensure_container(path)).await??;
        let mut put = self.client.open_put(path, Some(size)).await.map_err(cannot_write)?;
        let mut last = Bytes::new();
        while let Some(bytes) = source.next(u64::MAX).await? {
            let before = std::mem::replace(&mut last, bytes);
            if !before.is_empty() {
                source.unless_cut(put.write(before)).await?.map_err(cannot_write)?;
            }
        }
        Ok(Pending::Open(put, last))
    }

    /// Stores the segments of an object. `size` is 0 if it is unknown.
    async fn put_segments(&self, object: &Object, path: &SwiftPath, source: &mut Source, size: u64) -> Result<()> {
        source.unless_cut(self.ensure_container(path)).await??;
        // From now on, something may have to be removed.
        self.leftovers.note(object);
        if path.account.has_trust() {
            // What a failed upload leaves is removed with the same login: the caller's token may have expired by then.
            self.keep_pending(object, path.clone(), Pending::Segments);
        }
        source.unless_cut(self.remove_segments(path, 0)).await??;
        let marker = path.with_object(marker_of(object));
        source.unless_cut(self.client.put(&marker, Body::default())).await?.map_err(cannot_write)?;
        let segment_size = u64::from(self.options.swift_store_large_object_chunk_size) * UNIT;
        let mut stored: VecDeque<BoxFuture<'static, error::Result<()>>> = VecDeque::new();
        let mut unsent = size;
        for number in 1.. {
            let Some(first) = source.next(segment_size).await? else { break };
            if stored.len() >= MAX_IN_FLIGHT - 1
                && let Some(oldest) = stored.pop_front()
            {
                source.unless_cut(oldest).await?.map_err(cannot_write)?;
            }
            // Also renews a token that was revoked.
            source.unless_cut(self.client.check(&marker)).await?.map_err(|error| match error.is_not_found() {
                true => Error::Unavailable("another process has discarded the upload".into()),
                false => cannot_write(error),
            })?;
            let segment = path.with_object(segment_name(&path.object, number));
            let wanted = if size == 0 { segment_size } else { segment_size.min(unsent) };
            let sent = match self.buffer_dir() {
                Some(dir) => self.put_buffered(&segment, source, first, wanted, &dir).await?,
                None => {
                    let known = (size > 0).then_some(wanted);
                    let (sent, end) = self.put_segment(&segment, source, first, wanted, known).await?;
                    // Polled in a task, so that the request goes on while the next segment is sent.
                    let end = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(end));
                    stored.push_back(Box::pin(async move { end.await? }));
                    sent
                }
            };
            unsent = unsent.saturating_sub(sent);
        }
        for end in stored {
            source.unless_cut(end).await?.map_err(cannot_write)?;
        }
        Ok(())
    }

    /// Sends a segment of up to `wanted` bytes. Returns its size, and a future that waits until Swift has stored it.
    async fn put_segment(
        &self,
        path: &SwiftPath,
        source: &mut Source,
        first: Bytes,
        wanted: u64,
        known: Option<u64>,
    ) -> Result<(u64, impl Future<Output = error::Result<()>> + Send + use<>)> {
        let mut put = self.client.open_put(path, known).await.map_err(cannot_write)?;
        let mut sent = first.len() as u64;
        source.unless_cut(put.write(first)).await?.map_err(cannot_write)?;
        while sent < wanted
            && let Some(bytes) = source.next(wanted - sent).await?
        {
            sent += bytes.len() as u64;
            source.unless_cut(put.write(bytes)).await?.map_err(cannot_write)?;
        }
        let end = source.unless_cut(put.end()).await?.map_err(cannot_write)?;
        Ok((sent, end))
    }

    /// Writes a segment of up to `wanted` bytes to a file, and sends it from there. Returns its size.
    async fn put_buffered(
        &self,
        path: &SwiftPath,
        source: &mut Source,
        first: Bytes,
        wanted: u64,
        dir: &Path,
    ) -> Result<u64> {
        let failed = |error: std::io::Error| match error.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => Error::Full,
            _ => Error::Unavailable(error.into()),
        };
        let mut body = Body::in_file(dir).await.map_err(failed)?;
        let mut next = Some(first);
        while let Some(bytes) = next {
            body.push(bytes);
            body.flush().await.map_err(failed)?;
            next = if body.len() < wanted { source.next(wanted - body.len()).await? } else { None };
        }
        let len = body.len();
        source.unless_cut(self.client.put(path, body)).await?.map_err(cannot_write)?;
        Ok(len)
    }

    fn buffer_dir(&self) -> Option<PathBuf> {
        self.options.swift_upload_buffer_dir.clone().filter(|_| self.options.swift_buffer_on_upload)
    }

    /// Deletes the segments of an image's object, and `in_flight` names behind the last one of them.
    async fn remove_segments(&self, path: &SwiftPath, in_flight: u64) -> Result<()> {
        let listed = self.client.list(path, &format!("{}-", path.object)).await.map_err(cannot_write)?;
        let numbers = listed.iter().filter_map(|listed| segment_number(&listed.name, &path.object));
        let last = numbers.clone().max().unwrap_or_default();
        let names: Vec<String> =
            numbers.chain(last + 1..=last + in_flight).map(|number| segment_name(&path.object, number)).collect();
        self.delete_all(path, names).await
    }

    /// Deletes objects in a container, several at the same time.
    async fn delete_all(&self, container: &SwiftPath, names: Vec<String>) -> Result<()> {
        let deletions = names.into_iter().map(|name| {
            let path = container.with_object(name);
            async move { self.client.delete(&path).await }
        });
        let mut deletions = stream::iter(deletions).buffer_unordered(CONCURRENT_DELETIONS);
        let mut failed = None;
        while let Some(deleted) = deletions.next().await {
            if let Err(error) = deleted {
                failed = Some(error);
            }
        }
        failed.map_or(Ok(()), |error| Err(cannot_write(error)))
    }

    /// Deletes the markers of all uploads of an image.
    async fn remove_markers(&self, path: &SwiftPath) -> Result<()> {
        let prefix = format!("{MARKER}{}.", path.object);
        let listed = self.client.list(path, &prefix).await.map_err(cannot_write)?;
        self.delete_all(path, listed.into_iter().map(|listed| listed.name).collect()).await
    }

    /// Deletes the container of an image in the account of its project.
    async fn remove_container(&self, path: &SwiftPath) {
        if self.options.swift_store_multi_tenant
            && let Err(error) = self.client.delete(&path.container()).await
        {
            tracing::warn!(%error, container = path.container, "cannot delete the container of an image");
        }
    }

    /// Notes that Swift may have stored the object, unless Swift rejected it.
    fn note_leftover(&self, object: &Object, error: &Error) {
        if matches!(error, Error::Unavailable(_)) {
            self.leftovers.note(object);
        }
    }
}

impl Driver for SwiftDriver {
    type Options = SwiftStore;

    /// An invalid option is a fault of the store, so that the other stores work, as in Glance.
    fn open(name: Option<&str>, options: &SwiftStore, _: &Environment<'_>) -> (Option<Self>, Option<String>) {
        let unusable = |fault: String| (None, Some(format!("it cannot be used: {fault}")));
        let (accounts, mut faults) = match options.accounts() {
            Ok(found) => found,
            Err(fault) => return unusable(fault),
        };
        let http = match http_client(
            "swift_store_cacert",
            options.swift_store_cacert.as_deref(),
            options.swift_store_auth_insecure,
        ) {
            Ok(http) => http,
            Err(fault) => return unusable(fault),
        };
        if let Some(fault) = buffer_fault(options) {
            return unusable(fault);
        }
        let is_multi_tenant = options.swift_store_multi_tenant;
        if is_multi_tenant && options.swift_store_config_file.is_some() {
            return unusable("swift_store_multi_tenant and swift_store_config_file exclude each other".to_owned());
        }
        let mut opened = Vec::new();
        for account in accounts {
            match Account::open(&account, options, &http) {
                Ok(open) => opened.push((account, Arc::new(open))),
                Err(fault) => faults.push(format!("[{}] {fault}", account.reference)),
            }
        }
        let default = opened.iter().position(|(account, _)| account.reference == options.default_swift_reference);
        if default.is_none() && !is_multi_tenant {
            let missing = match options.swift_store_config_file {
                Some(_) => format!(
                    "default_swift_reference: swift_store_config_file has no account {}",
                    options.default_swift_reference
                ),
                None => "swift_store_auth_address, swift_store_user or swift_store_key is missing".to_owned(),
            };
            faults.push(missing);
        }
        let driver = Self {
            name: name.map(str::to_owned),
            options: Box::new(options.clone()),
            client: Client::new(http.clone()),
            http,
            accounts: opened,
            default,
            old_accounts: Mutex::default(),
            leftovers: Leftovers::default(),
            pending: Mutex::default(),
        };
        let fault = (!faults.is_empty()).then(|| match driver.default.is_some() || is_multi_tenant {
            false => format!("it cannot be used: {}", faults.join("; ")),
            true => faults.join("; "),
        });
        (Some(driver), fault)
    }

    /// Whether the URL names an account of this store, and a container of this store.
    fn owns(&self, url: &LocationUrl) -> bool {
        let Ok(SwiftUrl { account, container, .. }) = SwiftUrl::parse(url) else { return false };
        let base = self.options.swift_store_container.trim_matches('/');
        let is_ours = container == base || container.strip_prefix(base).is_some_and(|rest| rest.starts_with('_'));
        let has_account = match &account {
            AccountUrl::Reference(reference) => self.accounts.iter().any(|(own, _)| own.reference == *reference),
            AccountUrl::Address(_, None) if self.options.swift_store_multi_tenant => true,
            AccountUrl::Address(address, _) => self
                .accounts
                .iter()
                .any(|(own, _)| with_scheme(&own.auth_address).trim_end_matches('/') == address.trim_end_matches('/')),
        };
        is_ours && has_account
    }

    fn properties(&self) -> Map<String, Value> {
        let mut properties = Map::new();
        properties.insert("container".to_owned(), self.options.swift_store_container.clone().into());
        let bytes = |units: u32| Value::from(u64::from(units) * UNIT);
        properties.insert("large_object_size".to_owned(), bytes(self.options.swift_store_large_object_size));
        properties
            .insert("large_object_chunk_size".to_owned(), bytes(self.options.swift_store_large_object_chunk_size));
        properties
    }

    async fn put(&self, object: &Object, data: Chunks, size: u64) -> Result<Stored> {
        let prefix = match (self.options.swift_store_multi_tenant, self.default) {
            (true, _) => url::prefix_at(&self.account_of_caller().await?.1),
            (false, Some(default)) => {
                url::prefix(&self.accounts[default].0, self.options.swift_store_config_file.is_some())
            }
            (false, None) => return Err(Error::ReadOnly),
        };
        let path = self.path_of_image(&object.image_id).await?;
        let url = format!("{prefix}{}/{}", path.container, path.object).into();
        let mut source = Source::new(data);
        let large = u64::from(self.options.swift_store_large_object_size) * UNIT;
        let is_large = size == 0 || size >= large;
        let path = if is_large { self.with_trust(path).await } else { path };
        let pending = if is_large {
            self.put_segments(object, &path, &mut source, size).await?;
            Pending::Segments
        } else if size > SMALL {
            self.put_open(&path, &mut source, size).await?
        } else {
            let mut body = Body::default();
            while let Some(bytes) = source.next(u64::MAX).await? {
                body.push(bytes);
            }
            Pending::Whole(body)
        };
        self.keep_pending(object, path, pending);
        let mut metadata = Map::new();
        if let Some(name) = &self.name {
            metadata.insert("store".to_owned(), name.clone().into());
        }
        Ok(Stored { url, metadata })
    }

    async fn place(&self, object: &Object, _: &Stored, hold: Hold) -> Result<Hold> {
        let Some((path, pending)) = self.take_pending(object) else { return Ok(hold) };
        let placed = match pending {
            Pending::Whole(body) => match self.client.put(&path, body.clone()).await {
                Err(error) if error.is_not_found() => {
                    self.create_container(&path, error).await?;
                    self.client.put(&path, body).await
                }
                put => put,
            },
            Pending::Open(mut put, last) => match put.write(last).await {
                Ok(()) => async { put.end().await?.await }.await,
                Err(error) => Err(error),
            },
            Pending::Segments => {
                let placed = self.client.put_manifest(&path, &format!("{}-", path.object)).await;
                if placed.is_ok() {
                    self.leftovers.take(object);
                    if let Err(error) = self.client.delete(&path.with_object(marker_of(object))).await {
                        tracing::warn!(%error, image = object.image_id, "cannot remove the marker of an upload now; will retry");
                    }
                }
                placed
            }
        };
        let placed = placed.map_err(|error| match error.status() {
            Some(StatusCode::CONFLICT) => Error::Duplicate(format!(
                "Unable to upload duplicate image data for image {}: Swift already has an image at this location",
                object.image_id
            )),
            _ => cannot_write(error),
        });
        placed.inspect_err(|error| self.note_leftover(object, error))?;
        Ok(hold)
    }

    /// Without a caller, the data of an upload cannot be reached.
    async fn hold(&self, _: &Object) -> Result<Hold> {
        match self.options.swift_store_multi_tenant && Caller::current().is_none() {
            true => Err(Error::NoStore),
            false => Ok(Hold::none()),
        }
    }

    async fn get(&self, url: &LocationUrl, range: Option<Range<u64>>) -> Result<Blob> {
        let path = self.path_of_url(url).await?;
        let path = if self.options.swift_store_retry_get_count > 0 { self.with_trust(path).await } else { path };
        if range.as_ref().is_some_and(Range::is_empty) {
            let head = self.client.head(&path).await.map_err(cannot_read)?;
            return Ok(Blob { size: head.size, data: Box::pin(stream::empty()) });
        }
        let response = self.client.get(&path, range.as_ref()).await.map_err(cannot_read)?;
        let (size, range) = match range {
            None => (content_length(&response), content_length(&response).map(|size| 0..size)),
            Some(range) => (Some(check_range(SERVER, &response, &range)?), Some(range)),
        };
        let object = OpenedSwiftObject {
            client: self.client.clone(),
            path,
            etag: response.headers().get(header::ETAG).cloned(),
            size,
            retries_left: self.options.swift_store_retry_get_count,
        };
        Ok(Blob { size, data: read_object(object, response, range) })
    }

    async fn delete(&self, url: &LocationUrl) -> Result<()> {
        let path = self.path_of_url(url).await?;
        let head = match self.client.head(&path).await {
            Ok(head) => Some(head),
            Err(error) if error.is_not_found() => None,
            Err(error) => return Err(cannot_delete(error)),
        };
        if head.as_ref().is_some_and(|head| head.is_static) {
            return self.client.delete_static(&path).await.map_err(cannot_delete);
        }
        // The manifest is deleted last: as long as it is there, the deletion can be resumed.
        if let Some((container, prefix)) = head.as_ref().and_then(|head| head.manifest.clone()) {
            let segments = SwiftPath { container, ..path.clone() };
            let listed = self.client.list(&segments, &prefix).await.map_err(cannot_delete)?;
            let names = listed.into_iter().map(|listed| listed.name).collect();
            self.delete_all(&segments, names).await.map_err(|error| match error {
                Error::WriteDenied => delete_denied(),
                error => error,
            })?;
        }
        if head.is_none() {
            return Err(Error::NotFound);
        }
        self.client.delete_existing(&path).await.map_err(cannot_delete)?;
        self.remove_container(&path).await;
        Ok(())
    }

    async fn size(&self, url: &LocationUrl) -> Result<u64> {
        let head = self.client.head(&self.path_of_url(url).await?).await.map_err(cannot_read)?;
        head.size.ok_or_else(|| Error::Unavailable("Swift does not report the size of an object".into()))
    }

    /// Lists the uploads with segments. With several containers, it lists none: those that a process has left are known from the
    /// database.
    async fn unfinished(&self, quiet: Duration) -> Result<Vec<Object>> {
        let has_several =
            self.options.swift_store_multi_tenant || self.options.swift_store_multiple_containers_seed > 0;
        if self.default.is_none() || has_several {
            return Ok(Vec::new());
        }
        let container = self.path_of_image("").await?;
        let quiet = TimeDelta::from_std(quiet).unwrap_or(TimeDelta::days(1));
        let before = DateTime::<Utc>::from(SystemTime::now()).naive_utc() - quiet;
        let listed = self.client.list(&container, MARKER).await.map_err(cannot_read)?;
        let unfinished = listed.into_iter().filter_map(|listed| {
            let changed = NaiveDateTime::parse_from_str(&listed.last_modified, "%Y-%m-%dT%H:%M:%S%.f").ok()?;
            let (image_id, upload_id) = listed.name.strip_prefix(MARKER)?.split_once('.')?;
            let object = Object { image_id: image_id.to_owned(), upload_id: upload_id.to_owned() };
            (changed < before).then_some(object)
        });
        Ok(unfinished.collect())
    }

    async fn discard(&self, object: &Object, hold: Option<Hold>) -> Result<()> {
        let pending = self.take_pending(object);
        let path = match &pending {
            Some((path, _)) => path.clone(),
            None => self.path_of_image(&object.image_id).await?,
        };
        // Without a hold, the segments can be those of the image's next upload.
        let Some(hold) = hold else {
            if matches!(pending, Some((_, Pending::Segments))) {
                self.leftovers.note(object);
                if path.account.has_trust() {
                    self.keep_pending(object, path.clone(), Pending::Segments);
                }
            }
            return self.client.delete(&path.with_object(marker_of(object))).await.map_err(cannot_write);
        };
        let discarded = async {
            self.remove_markers(&path).await?;
            self.client.delete(&path).await.map_err(cannot_write)?;
            self.remove_segments(&path, MAX_IN_FLIGHT as u64).await?;
            self.remove_container(&path).await;
            Ok(())
        };
        let discarded = discarded.await;
        hold.release().await;
        discarded
    }

    async fn probe(&self, object: &Object) -> Result<()> {
        match self.client.check(&self.path_of_image(&object.image_id).await?).await {
            Err(error) if error.is_not_found() => Ok(()),
            checked => checked.map_err(cannot_read),
        }
    }

    async fn discard_parts(&self, object: &Object) -> Result<()> {
        let path = self.path_of_image(&object.image_id).await?;
        self.remove_markers(&path).await?;
        match self.client.head(&path).await {
            // The segments belong to the image.
            Ok(head) if head.manifest.is_some() => Ok(()),
            Err(error) if !error.is_not_found() => Err(cannot_read(error)),
            _ => self.remove_segments(&path, MAX_IN_FLIGHT as u64).await,
        }
    }

    fn acts_for_callers(&self) -> bool {
        self.options.swift_store_multi_tenant
    }

    async fn share(&self, url: &LocationUrl, readers: &Readers) -> Result<()> {
        if !self.options.swift_store_multi_tenant {
            return Ok(());
        }
        let all =
            |projects: &[String]| projects.iter().map(|project| format!("{project}:*")).collect::<Vec<_>>().join(",");
        let read = match readers {
            Readers::Everyone => "*:*".to_owned(),
            Readers::Projects(projects) => all(projects),
        };
        let write = all(&self.options.swift_store_admin_tenants);
        self.client.set_acls(&self.path_of_url(url).await?, &read, &write).await.map_err(cannot_write)
    }

    fn take_leftovers(&self, object: &Object) -> bool {
        self.leftovers.take(object)
    }
}

/// What is wrong with the directory that buffers segments.
fn buffer_fault(options: &SwiftStore) -> Option<String> {
    if !options.swift_buffer_on_upload {
        return None;
    }
    let Some(dir) = &options.swift_upload_buffer_dir else {
        return Some("swift_upload_buffer_dir is missing, and swift_buffer_on_upload is set".to_owned());
    };
    tempfile::tempfile_in(dir).err().map(|error| format!("swift_upload_buffer_dir {}: {error}", dir.display()))
}

fn marker_of(object: &Object) -> String {
    format!("{MARKER}{}.{}", object.image_id, object.upload_id)
}

/// The name of a segment, counted from 1.
fn segment_name(object: &str, number: u64) -> String {
    format!("{object}-{number:05}")
}

/// The number in the name of an object's segment.
fn segment_number(name: &str, object: &str) -> Option<u64> {
    let number = name.strip_prefix(object)?.strip_prefix('-')?.parse().ok()?;
    (segment_name(object, number) == name).then_some(number)
}

/// An object that is read.
struct OpenedSwiftObject {
    client: Client,
    path: SwiftPath,
    etag: Option<header::HeaderValue>,
    /// The size of the whole object.
    size: Option<u64>,
    /// How often it can still be opened again.
    retries_left: u32,
}

impl OpenedObject for OpenedSwiftObject {
    const SERVER: &'static str = SERVER;

    fn name(&self) -> &str {
        &self.path.object
    }

    async fn may_reopen(&mut self) -> bool {
        let left = self.retries_left.checked_sub(1);
        self.retries_left = left.unwrap_or_default();
        left.is_some()
    }

    async fn reopen(&mut self, unread: &Range<u64>) -> Result<Response, BoxError> {
        let response = self.client.get(&self.path, Some(unread)).await?;
        let is_same = response.headers().get(header::ETAG) == self.etag.as_ref();
        if !is_same || Some(check_range(SERVER, &response, unread)?) != self.size {
            return Err("the object was replaced while it was read".into());
        }
        Ok(response)
    }
}

fn cannot_read(error: SwiftError) -> Error {
    if error.is_not_found() { Error::NotFound } else { Error::Unavailable(error.into()) }
}

fn cannot_write(error: SwiftError) -> Error {
    match error.status() {
        Some(StatusCode::INSUFFICIENT_STORAGE | StatusCode::PAYLOAD_TOO_LARGE) => Error::Full,
        _ if error.is_denied() => {
            tracing::error!(%error, "Swift denied the upload of an object");
            Error::WriteDenied
        }
        _ => Error::Unavailable(error.into()),
    }
}

fn delete_denied() -> Error {
    Error::DeleteDenied("You cannot delete the image's object in its Swift store".to_owned())
}

fn cannot_delete(error: SwiftError) -> Error {
    if error.is_denied() {
        tracing::error!(%error, "Swift denied the deletion of an object");
        return delete_denied();
    }
    cannot_read(error)
}
