//! Adds a location to a queued image whose data is in place already, and computes the hash of the data in the background.
//!
//! The job has up to three steps. *Add* adds the location, after the store has returned the size of the data. *Hash* reads the data,
//! if `do_secure_hash` is set. *Finish* ends the task. Without a claimed hash, the image becomes active with its location, and a hash
//! that cannot be computed does no harm. With one, the image is `importing` until its data has that hash; if it has another one, the
//! location is removed again, together with its data where the store supports that.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::StreamExt as _;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use url::Host;

use super::{
    download, expiry, free_lock, insert_job, new_job, new_task,
    steps::{self, INTERNAL, Progress, Steps, Stop, guard, next},
};
use crate::{
    access::{self, Subject},
    app::App,
    context::{Context, Identity},
    data::{
        hash::{self, Digests},
        removal,
    },
    db::{
        self,
        jobs::{self, Job},
    },
    egress::{self, Strictness},
    error::{Error, Result, with_causes},
    limits::over_quota,
    model::{
        HASH_HOST, IMPORT_TASK, Image, Location, LocationUrl, RequestedId, Status, check_described, check_storable,
    },
    policy::rule,
    python, store,
    stream::{self, ByteStream, Digest},
};

/// The kind of the jobs, and of their tasks.
pub(super) const KIND: &str = "location_import";
/// The maximum number of bytes of the URL: the input of the task must fit into MySQL's TEXT.
const MAX_URL_BYTES: usize = 16_384;
/// The pause before the data is read again.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// The steps of a job.
const ADD: usize = 0;
const HASH: usize = 1;
const FINISH: usize = 2;

/// The input of a request that adds a location.
#[derive(Debug)]
pub(crate) struct LocationRequest {
    url: LocationUrl,
    claim: Option<ClaimedHash>,
    /// As the client sent it, for the task.
    validation_data: Value,
}

/// The hash that the data has according to the client.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct ClaimedHash {
    algorithm: String,
    value: String,
}

/// The parameters of a job.
#[derive(Debug, Serialize, Deserialize)]
struct Input {
    url: String,
    claim: Option<ClaimedHash>,
    /// Whether the hash is computed. Otherwise the claimed one is believed.
    is_hashed: bool,
}

impl LocationRequest {
    /// Parses the body of a request.
    ///
    /// # Errors
    /// `Invalid`
    pub(crate) fn parse(app: &App, body: &Value) -> Result<Self> {
        app.schemas.check_location(body)?;
        let url = body["url"].as_str().unwrap_or_default();
        check_storable("Param values", url)?;
        if url.len() > MAX_URL_BYTES {
            let bytes = url.len();
            return Err(Error::Invalid(format!("The URL has {bytes} bytes, {MAX_URL_BYTES} are allowed.")));
        }
        let validation_data = body.get("validation_data").cloned().unwrap_or_else(|| json!({}));
        let text = |name: &str| validation_data.get(name).and_then(Value::as_str).map(str::to_owned);
        let claim = text("os_hash_algo").zip(text("os_hash_value"));
        let claim = claim.map(|(algorithm, value)| ClaimedHash { algorithm, value });
        Ok(Self { url: url.to_owned().into(), claim, validation_data })
    }

    /// Checks the request against the image and the caller, in Glance's order.
    fn check(&self, app: &App, context: &Context, image: &Subject) -> Result<()> {
        if image.status != Status::Queued {
            let status = image.status.as_str();
            return Err(Error::Conflict(format!("It's not allowed to add locations if image status is {status}.")));
        }
        access::authorise(app, context, image, rule::ADD_IMAGE_LOCATION)?;
        access::check_mutable(context, image)?;
        let is_on_web_server =
            self.url.expose().starts_with("http") && app.stores.iter().any(|store| store.kind == "http");
        if !is_on_web_server && !is_service(context) {
            return Err(Error::Forbidden("http store must be enabled to use location API by normal user.".to_owned()));
        }
        self.claim.as_ref().map_or(Ok(()), ClaimedHash::check)
    }

    /// Checks the URL of a web server, and the addresses of its host. The URL is checked again whenever it is requested.
    async fn check_url(&self, app: &App, context: &Context) -> Result<()> {
        let text = self.url.expose();
        if let Some(message) = python::bracket_error(text) {
            return Err(Error::Invalid(message));
        }
        let scheme = text.split_once(':').map_or("", |(scheme, _)| scheme).to_ascii_lowercase();
        if !matches!(scheme.as_str(), "http" | "https") {
            return Ok(());
        }
        let refused = || Error::Invalid(format!("URI for add location does not pass filtering: {text}"));
        let url = app.egress.check(text, Strictness::New).map_err(|_| refused())?;
        if let Some(Host::Domain(name)) = url.host() {
            let lookup = app.egress.resolve(name, Strictness::New);
            let found = egress::on_behalf_of(context.project_id(), lookup).await;
            if found.map_or(true, |addresses| addresses.is_empty()) {
                return Err(refused());
            }
        }
        Ok(())
    }
}

impl ClaimedHash {
    fn check(&self) -> Result<()> {
        let Self { algorithm, value } = self;
        let found = python::hex_length(value)
            .ok_or_else(|| Error::Invalid(format!("os_hash_value ({value}) is not a valid hexadecimal value")))?;
        let known = stream::algorithm(algorithm).ok_or_else(|| Error::Internal("an unknown algorithm".into()))?;
        let wanted = Digest::new(known).and_then(Digest::hex).map_err(Error::Internal)?.len() / 2;
        if found == wanted {
            return Ok(());
        }
        Err(Error::Invalid(format!(
            "os_hash_value: ({value}) is not the correct size for ({algorithm}) (should be ({wanted}) bytes)"
        )))
    }
}

/// Whether another service sends the request, for itself or on behalf of a user.
fn is_service(context: &Context) -> bool {
    let identity = &context.identity;
    let roles = identity.roles.iter().chain(identity.service.iter().flat_map(|service| &service.roles));
    roles.into_iter().any(|role| role == "service")
}

/// Takes the image's lock, and adds a task and a job.
pub(super) async fn begin(
    app: &Arc<App>,
    context: &Context,
    id: &RequestedId,
    request: &LocationRequest,
    request_id: Option<&str>,
) -> Result<()> {
    let image = access::find(app, &mut app.db.acquire().await?, context, id).await?;
    request.check(app, context, &image.ok_or_else(|| Error::image_not_found(id))?)?;
    // Outside of the transaction, because name servers may be slow.
    request.check_url(app, context).await?;
    // Only the configured stores' own credentials are used.
    let url = request.url.redacted();
    let input = Input {
        url: url.clone().into_owned(),
        claim: request.claim.clone(),
        is_hashed: app.config.default.do_secure_hash,
    };
    app.db
        .transaction(|mut tx| {
            let (url, input) = (&url, &input);
            async move {
                let image = access::find_locked(app, &mut tx, context, id).await?;
                let image = image.ok_or_else(|| Error::image_not_found(id))?;
                request.check(app, context, &image)?;
                free_lock(app, &mut tx, &image).await?;
                let task_input =
                    json!({"image_id": image.id, "loc_url": url, "validation_data": request.validation_data});
                let task = new_task(app, context, KIND, Some(image.id.to_string()), request_id, &task_input)?;
                insert_job(&mut tx, &task, &new_job(context, KIND, &image.id, &task, input)?).await?;
                Ok((tx, ()))
            }
        })
        .await
}

/// Why the hash of the data was not computed.
enum Unread {
    /// The data does not exist.
    Missing,
    /// The data did not arrive completely.
    Interrupted(Error),
    /// The store returned another error, and no data.
    Refused(store::Error),
    Stop(Stop),
}

impl<E: Into<Stop>> From<E> for Unread {
    fn from(error: E) -> Self {
        Self::Stop(error.into())
    }
}

struct Addition<'j> {
    app: &'j Arc<App>,
    job: &'j Job,
    input: Input,
    url: LocationUrl,
    /// Acts for the project that has requested it.
    context: Context,
    /// The number of bytes that were read to compute the hash.
    read: Arc<AtomicU64>,
}

fn parse(job: &Job) -> Option<Input> {
    serde_json::from_str(&job.input).ok()
}

/// Whether the job's parameters can be read.
pub(super) fn is_readable(job: &Job) -> bool {
    parse(job).is_some()
}

/// Runs a job that this process has claimed to its end.
pub(super) async fn run(app: &Arc<App>, job: &Job) {
    let Some(input) = parse(job) else { return };
    let identity = Identity { project_id: job.project_id.clone(), ..Identity::default() };
    let context = Context { identity: identity.into(), is_admin: false };
    let url = LocationUrl::from(input.url.clone());
    let read = Arc::new(AtomicU64::default());
    let progress = Progress { moved: &read, message: |_| String::new() };
    let addition = Addition { app, job, input, url, context, read: Arc::clone(&read) };
    steps::run(app, job, progress, addition).await;
}

impl Steps for Addition<'_> {
    async fn execute(&mut self, step: usize) -> Result<Option<usize>, Stop> {
        match step {
            ADD => self.add().await?,
            HASH if self.input.is_hashed => self.hash().await?,
            HASH => {}
            FINISH => self.finish().await?,
            _ => return Ok(None),
        }
        Ok(Some(step + 1))
    }

    /// An image whose data does not have the claimed hash loses its location, and is queued again.
    async fn undo(&self, _message: &str, _failed: &[String]) -> Result<()> {
        let (app, job) = (&**self.app, self.job);
        let released = app.db.transaction(|mut tx| async move {
            let image = db::images::get_locked(&mut tx, &job.image_id).await?;
            if !jobs::remove(&mut tx, job).await? {
                return Ok((tx, Vec::new()));
            }
            let now = app.now();
            db::tasks::fail(&mut tx, &job.id, INTERNAL, now, expiry(app)).await?;
            let Some(image) = image else { return Ok((tx, Vec::new())) };
            db::properties::delete(&mut tx, &image.id, &[IMPORT_TASK, HASH_HOST]).await?;
            let mut released = Vec::new();
            let mut after = Image { updated_at: Some(now), ..image.clone() };
            match image.status {
                Status::Importing => {
                    released.extend(db::locations::list(&mut tx, &image.id).await?);
                    released.retain(|location| self.is_added(location));
                    after.status = Status::Queued;
                    (after.size, after.checksum) = (None, None);
                    (after.os_hash_algo, after.os_hash_value) = (None, None);
                }
                Status::Active | Status::Deactivated if self.input.is_hashed && image.os_hash_value.is_none() => {
                    after.os_hash_algo = None;
                }
                _ => return Ok((tx, released)),
            }
            for location in &released {
                db::locations::release(&mut tx, location.id, now).await?;
            }
            db::images::update(&mut tx, &image, &after).await?;
            Ok((tx, released))
        });
        removal::remove_undone(app, &released.await?).await;
        Ok(())
    }
}

impl Addition<'_> {
    /// Adds the location to the image.
    async fn add(&self) -> Result<(), Stop> {
        let (app, job, url) = (&**self.app, self.job, &self.url);
        let begun = app.db.transaction(|mut tx| async move {
            let image = guard(&mut tx, self.job).await?;
            if image.is_some() {
                db::tasks::begin(&mut tx, &job.id, app.now()).await?;
            }
            Ok((tx, image.is_some()))
        });
        if !begun.await? {
            return Err(Stop::Lost);
        }
        let (size, metadata) = self.probe().await?;
        let added = app.db.transaction(|mut tx| {
            let metadata = &metadata;
            async move {
                app.limits.lock_storage(&mut tx, &self.context).await?;
                let Some(image) = guard(&mut tx, self.job).await? else { return Ok((tx, false)) };
                if image.status != Status::Queued {
                    return Err(Error::image_changed(&image.id));
                }
                check_described(&image)?;
                let locations = db::locations::list(&mut tx, &image.id).await?;
                let quota = app.config.default.image_location_quota();
                if quota.is_some_and(|quota| locations.len() >= quota as usize) {
                    return Err(Error::LimitExceeded("The image has too many locations.".to_owned()));
                }
                if locations.iter().any(|location| location.url.is_same_data(url)) {
                    return Err(Error::Invalid("The location already exists.".to_owned()));
                }
                let left = app.limits.storage_left_in(&mut tx, &self.context, None).await?;
                left.admits(u64::try_from(size).ok()).map_err(over_quota)?;
                let now = app.now();
                db::locations::insert(&mut tx, &image.id, &[(url, metadata)], now).await?;
                let mut after = Image { updated_at: Some(now), ..image.clone() };
                after.size = image.size.filter(|size| *size > 0).or(Some(size));
                after.status = match &self.input.claim {
                    Some(_) if self.input.is_hashed => Status::Importing,
                    _ => Status::Active,
                };
                if let Some(claim) = &self.input.claim {
                    after.os_hash_algo = Some(claim.algorithm.clone());
                    after.os_hash_value = (!self.input.is_hashed).then(|| claim.value.clone());
                } else if self.input.is_hashed {
                    after.os_hash_algo = Some(stream::name(app.config.default.hashing_algorithm));
                }
                db::images::update(&mut tx, &image, &after).await?;
                jobs::set_step(&mut tx, job, next(ADD)).await?;
                Ok((tx, true))
            }
        });
        if added.await? { Ok(()) } else { Err(Stop::Lost) }
    }

    /// Asks the store for the size of the data in bytes. Also returns the metadata of the location.
    async fn probe(&self) -> Result<(i64, Map<String, Value>), Stop> {
        let app = &**self.app;
        let invalid = || Error::Invalid("Invalid location".to_owned());
        let (store, key) = app.stores.find_for_service(&self.url).map_err(|_| invalid())?;
        if let Some(key) = key.filter(|key| *key != self.job.image_id.as_str())
            && db::images::is_known(&mut app.db.acquire().await?, key).await?
        {
            // Both programs name an object after its image.
            return Err(Error::Invalid("The location is that of another image.".to_owned()).into());
        }
        let size = egress::on_behalf_of(self.job.project_id.as_deref(), store.size(&self.url)).await;
        let size = size.map_err(|error| {
            let error = with_causes(&error);
            tracing::warn!(error, "the store returns no size for a location");
            invalid()
        })?;
        let size = i64::try_from(size).ok().filter(|size| *size > 0).ok_or_else(invalid)?;
        let mut metadata = Map::new();
        if app.stores.are_named {
            metadata.insert("store".to_owned(), json!(store.id));
        }
        Ok((size, metadata))
    }

    /// Computes the hash of the data, and compares it with the claimed one.
    async fn hash(&self) -> Result<(), Stop> {
        let app = &**self.app;
        let image = self.begin_hash().await?;
        if image.os_hash_value.is_some() {
            return self.end_hash(None).await;
        }
        let retries = usize::try_from(app.config.default.http_retries).unwrap_or_default();
        let mut attempt = 0;
        let unread = loop {
            let unread = match self.try_hash(&image).await {
                Ok(digests) => return self.end_hash(Some(&digests)).await,
                Err(Unread::Stop(stop)) => return Err(stop),
                Err(unread) => unread,
            };
            let error = match &unread {
                Unread::Missing | Unread::Stop(_) => "no data is there".to_owned(),
                Unread::Interrupted(error) => with_causes(error),
                Unread::Refused(error) => with_causes(error),
            };
            tracing::warn!(error, attempt, "the data cannot be read to compute its hash");
            if attempt >= retries {
                break unread;
            }
            attempt += 1;
            tokio::time::sleep(RETRY_PAUSE).await;
        };
        match unread {
            Unread::Stop(stop) => Err(stop),
            Unread::Refused(error) => Err(Stop::Failed(Error::store_failed(error), Vec::new())),
            // An active image stays active, without the value of its hash.
            _ if self.input.claim.is_none() => self.end_hash(None).await,
            Unread::Interrupted(error) => Err(Stop::Failed(error, Vec::new())),
            Unread::Missing => Err(Stop::Failed(Error::store_failed(store::Error::NotFound), Vec::new())),
        }
    }

    /// Records which node computes the hash. Only with a URL of its own: a Glance that took it for itself would fail to delete the
    /// image, because the job is not in one of its processes.
    async fn begin_hash(&self) -> Result<Image, Stop> {
        let app = &**self.app;
        let begun = app.db.transaction(|mut tx| async move {
            let image = guard(&mut tx, self.job).await?;
            if let Some(image) = &image {
                db::properties::delete(&mut tx, &image.id, &[HASH_HOST]).await?;
                if let Some(host) = app.config.default.worker_self_reference_url.as_deref() {
                    let property = [(HASH_HOST.to_owned(), host.to_owned())];
                    db::properties::insert(&mut tx, &image.id, &property, app.now()).await?;
                }
            }
            Ok((tx, image))
        });
        begun.await?.ok_or(Stop::Lost)
    }

    async fn try_hash(&self, image: &Image) -> Result<Digests, Unread> {
        let app = &**self.app;
        let locations = db::locations::list(&mut app.db.acquire().await?, &image.id).await?;
        let location = locations.iter().find(|location| self.is_added(location)).ok_or(Unread::Missing)?;
        let opening = async { app.stores.find(&location.url, &location.metadata)?.get(&location.url, None).await };
        let blob =
            egress::on_behalf_of(self.job.project_id.as_deref(), opening).await.map_err(|error| match error {
                store::Error::NotFound => Unread::Missing,
                error => Unread::Refused(error),
            })?;
        let algorithm = image.os_hash_algo.as_deref().and_then(stream::algorithm);
        let algorithm = algorithm.unwrap_or(app.config.default.hashing_algorithm);
        self.read.store(0, Ordering::Relaxed);
        let counter = Arc::clone(&self.read);
        let data: ByteStream = Box::pin(blob.data.inspect(move |part| {
            counter.fetch_add(part.as_ref().map_or(0, |part| part.len() as u64), Ordering::Relaxed);
        }));
        hash::compute(data, image.size, algorithm, download::PATIENCE).await.map_err(Unread::Interrupted)
    }

    /// Records the digests, if there are any, and makes an image active whose data has the claimed hash.
    async fn end_hash(&self, digests: Option<&Digests>) -> Result<(), Stop> {
        let (app, job) = (&**self.app, self.job);
        let ended = app.db.transaction(|mut tx| async move {
            let Some(image) = guard(&mut tx, self.job).await? else { return Ok((tx, false)) };
            let mut after = Image { updated_at: Some(app.now()), ..image.clone() };
            if let Some(digests) = digests {
                after.checksum = Some(digests.checksum.clone());
                after.os_hash_value = Some(digests.hash.clone());
            }
            if let Some(claim) = &self.input.claim {
                let actual = after.os_hash_value.as_deref().unwrap_or("None");
                if claim.value != actual {
                    let value = &claim.value;
                    let message = format!("os_hash_value: ({value}) not matched with actual os_hash_value: ({actual})");
                    return Err(Error::Invalid(message));
                }
                if image.status == Status::Importing {
                    after.status = Status::Active;
                }
            }
            db::images::update(&mut tx, &image, &after).await?;
            db::properties::delete(&mut tx, &image.id, &[HASH_HOST]).await?;
            jobs::set_step(&mut tx, job, next(HASH)).await?;
            Ok((tx, true))
        });
        if ended.await? { Ok(()) } else { Err(Stop::Lost) }
    }

    /// Ends the task, and removes the lock.
    async fn finish(&self) -> Result<(), Stop> {
        let (app, job) = (&**self.app, self.job);
        let result = format!("{{\"image_id\": \"{}\"}}", job.image_id);
        let result = result.as_str();
        let finished = app.db.transaction(|mut tx| async move {
            let is_ours = guard(&mut tx, self.job).await?.is_some();
            if is_ours {
                db::tasks::succeed(&mut tx, &job.id, result, app.now(), expiry(app)).await?;
                db::properties::delete(&mut tx, &job.image_id, &[IMPORT_TASK, HASH_HOST]).await?;
                jobs::remove(&mut tx, job).await?;
            }
            Ok((tx, is_ours))
        });
        if finished.await? { Ok(()) } else { Err(Stop::Lost) }
    }

    fn is_added(&self, location: &Location) -> bool {
        location.url.is_same_data(&self.url)
    }
}
