//! The steps of an import. Each step can be repeated: a process that resumes a job begins with the first step that is not completed.

mod metadata;
mod parallel;
mod plugin;

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use chrono::NaiveDateTime;
use futures_util::StreamExt as _;

use super::{
    Input, Method, change_list,
    checksum::Checksum,
    download, expiry,
    glance_download::token_is_lost,
    steps::{self, Progress, Steps, Stop, guard, next},
};
use crate::{
    app::App,
    context::{Context, Identity},
    data::{
        acls,
        ingest::{Facts, Ingested, Interrupted, Source, ingest, ingest_raw, inspect, store_error},
        placement, recovery, removal,
        transfer::Transfer,
    },
    db::{
        self, Tx,
        jobs::{self, Job},
        uploads,
    },
    error::{Error, Result, with_causes},
    keystone::Caller,
    limits::{Resource, StorageLeft, over_quota},
    model::{DataFacts, FAILED_IMPORT, IMPORT_TASK, IMPORTING_TO, Image, Location, LocationUrl, STAGE_HOST, Status},
    store::{self, Object, Store, Stored},
    stream::{self, ByteStream, Demand},
};

/// How often an interrupted download is begun again, and the pause before.
const RESTARTS: u32 = 3;
const RESTART_PAUSE: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Shows that the import has begun, and checks the quotas.
    Begin,
    /// Copies the metadata of another region's image.
    Metadata,
    /// Stages data from a web server.
    Download,
    /// Runs the plugin with this number on the staged data.
    Plugin(usize),
    /// Copies the data to the store with this number.
    Store(usize),
    /// Copies the data to all stores, several at a time.
    Stores,
    /// Removes the staged data and the lock.
    Finish,
}

/// Data to be copied.
struct Original {
    /// Its size in bytes, if it is known.
    size: Option<u64>,
    data: ByteStream,
    /// Its store and location, if it is in a store.
    location: Option<(Arc<Store>, LocationUrl)>,
}

struct Import<'j> {
    app: &'j Arc<App>,
    job: &'j Job,
    method: Method,
    input: Input,
    /// Acts for the project that has requested the import.
    context: Context,
    /// The number of bytes that the current step has moved.
    moved: Arc<AtomicU64>,
    /// The message of the task after a number of bytes.
    message: fn(u64) -> String,
}

fn plan(method: Method, input: &Input) -> Vec<Step> {
    let mut steps = vec![Step::Begin];
    match method {
        Method::GlanceDownload => steps.extend([Step::Metadata, Step::Download]),
        Method::WebDownload => steps.push(Step::Download),
        Method::Legacy if is_staged(method, input) => steps.push(Step::Download),
        Method::GlanceDirect | Method::CopyImage | Method::Legacy => {}
    }
    steps.extend((0..input.plugins.len()).map(Step::Plugin));
    match input.in_parallel {
        true => steps.push(Step::Stores),
        false => steps.extend((0..input.stores.len()).map(Step::Store)),
    }
    steps.push(Step::Finish);
    steps
}

/// Whether the stores get the data from the staging store. A task of the type `import` stages data only for a plugin.
fn is_staged(method: Method, input: &Input) -> bool {
    match method {
        Method::GlanceDirect | Method::WebDownload | Method::GlanceDownload => true,
        Method::Legacy => !input.plugins.is_empty(),
        Method::CopyImage => false,
    }
}

fn parse(job: &Job) -> Option<(Method, Input)> {
    Some((Method::of_job(&job.kind)?, serde_json::from_str(&job.input).ok()?))
}

/// Whether the job's parameters can be read.
pub(super) fn is_readable(job: &Job) -> bool {
    parse(job).is_some()
}

/// Whether the job needs its staged data no more.
pub(super) fn is_at_end(job: &Job) -> bool {
    let Some((method, input)) = parse(job) else { return true };
    usize::try_from(job.step).is_ok_and(|step| step + 1 >= plan(method, &input).len())
}

/// The process that has the caller's token, if the job still needs it.
pub(super) fn holder_of_token(job: &Job) -> Option<String> {
    let (method, input) = parse(job)?;
    if input.holder.is_some() {
        return input.holder.filter(|_| !is_at_end(job));
    }
    let download = plan(method, &input).iter().position(|step| *step == Step::Download)?;
    let is_needed = usize::try_from(job.step).is_ok_and(|step| step <= download);
    input.origin.filter(|origin| is_needed && origin.needs_token()).map(|origin| origin.holder)
}

/// The version of the staged data that the job needs. `None` for the data as it was staged.
pub(super) fn staged_version(job: &Job) -> Option<String> {
    parse(job)?.1.staged
}

/// Runs a job that this process has claimed to its end.
pub(super) async fn run(app: &Arc<App>, job: &Job) {
    let Some((method, input)) = parse(job) else { return };
    let identity = Identity { project_id: job.project_id.clone(), ..Identity::default() };
    let context = Context { identity: identity.into(), is_admin: false };
    // As in Glance, a task of the type `import` has no message.
    let message: fn(u64) -> String = match method {
        Method::Legacy => |_| String::new(),
        _ => |bytes| format!("Copied {} MiB", bytes >> 20),
    };
    let moved = Arc::new(AtomicU64::default());
    let progress = Progress { moved: &moved, message };
    let import = Import { app, job, method, input, context, moved: Arc::clone(&moved), message };
    steps::run(app, job, progress, import).await;
}

impl Steps for Import<'_> {
    async fn execute(&mut self, step: usize) -> Result<Option<usize>, Stop> {
        let plan = plan(self.method, &self.input);
        let Some(current) = plan.get(step).copied() else { return Ok(None) };
        self.check_caller(current)?;
        // A download that needs the caller's token cannot be repeated in another process.
        let is_repeatable = self.method != Method::GlanceDownload && current != Step::Finish;
        let download = plan.iter().position(|step| *step == Step::Download).filter(|_| is_repeatable);
        let beginning = self.find_beginning(step, download).await?;
        if beginning != step {
            return Ok(Some(beginning));
        }
        match current {
            Step::Begin => self.begin(step).await?,
            Step::Metadata => self.copy_metadata(step).await?,
            Step::Download => self.download(step).await?,
            Step::Plugin(number) => self.run_plugin(number, step).await?,
            Step::Store(number) => {
                let store = self.input.stores.get(number).and_then(Option::as_deref);
                let is_last = number + 1 == self.input.stores.len();
                let copied = match self.method {
                    Method::Legacy if !self.is_staged() => self.copy_from_web(store, is_last, step).await,
                    _ => self.copy(store, is_last, step).await,
                };
                match copied {
                    Err(Stop::Failed(error, _)) if self.input.must_succeed => {
                        return Err(Stop::Failed(error, store.map(str::to_owned).into_iter().collect()));
                    }
                    Err(Stop::Failed(error, _)) => {
                        tracing::warn!(error = with_causes(&error), store, "the import to a store has failed");
                        self.skip(store, step).await?;
                    }
                    done => done?,
                }
            }
            Step::Stores => self.copy_to_all(step).await?,
            Step::Finish => self.finish().await?,
        }
        Ok(Some(step + 1))
    }

    /// Removes the locations that it has added, their data and the staged data, and returns the image to `queued`.
    async fn undo(&self, message: &str, failed: &[String]) -> Result<()> {
        match self.clear().await {
            Err(Stop::Later(error) | Stop::Failed(error, _)) => return Err(error),
            Ok(()) | Err(Stop::Lost) => {}
        }
        let (app, job) = (&**self.app, self.job);
        let failed: &Vec<&str> = &failed.iter().map(String::as_str).collect();
        let released = app.db.transaction(|mut tx| async move {
            let image = db::images::get_locked(&mut tx, &job.image_id).await?;
            if !jobs::remove(&mut tx, job).await? {
                return Ok((tx, None));
            }
            let now = app.now();
            db::tasks::fail(&mut tx, &job.id, message, now, expiry(app)).await?;
            let mut released = Vec::new();
            if self.method == Method::Legacy {
                if let Some(image) = image.filter(|image| image.status == Status::Saving) {
                    delete_image(&mut tx, &image, now).await?;
                }
            } else if let Some(image) = &image {
                let stores = self.input.named_stores();
                let is_copied = |location: &Location| {
                    stores.is_empty() || placement::name_of(app, location).is_some_and(|name| stores.contains(&name))
                };
                // Data of an active image that a part of the stores has is kept: see `all_stores_must_succeed`.
                let is_undone = image.status == Status::Importing
                    || (self.method == Method::CopyImage && image.status == Status::Active);
                if is_undone {
                    let locations = db::locations::list(&mut tx, &image.id).await?;
                    released.extend(locations.into_iter().filter(is_copied));
                }
                for location in &released {
                    db::locations::release(&mut tx, location.id, now).await?;
                }
                if self.method != Method::CopyImage {
                    if let (Some(formats), Status::Importing) = (&self.input.formats, image.status) {
                        let mut before = image.clone();
                        formats.apply(&mut before);
                        db::images::set_imported(&mut tx, &before, now).await?;
                        self.restore_properties(&mut tx, &image.id).await?;
                    }
                    db::images::reset_import(&mut tx, &image.id, now).await?;
                }
                change_list(app, &mut tx, &image.id, IMPORTING_TO, &[], &stores).await?;
                change_list(app, &mut tx, &image.id, FAILED_IMPORT, failed, &[]).await?;
                db::properties::delete(&mut tx, &image.id, &[IMPORT_TASK]).await?;
            }
            Ok((tx, Some(released)))
        });
        let Some(released) = released.await? else { return Ok(()) };
        removal::remove_undone(app, &released).await;
        self.discard_staged().await;
        Ok(())
    }
}

impl Import<'_> {
    /// Checks that the caller is known if stores are used with the caller's token.
    fn check_caller(&self, current: Step) -> Result<(), Stop> {
        match self.input.holder.is_some() && current != Step::Finish && Caller::current().is_none() {
            true => Err(Stop::Failed(token_is_lost(), self.all_stores())),
            false => Ok(()),
        }
    }

    /// Sets the image to `importing`, and names the stores.
    async fn begin(&self, step: usize) -> Result<(), Stop> {
        let (app, job) = (&**self.app, self.job);
        let image = app.db.transaction(|mut tx| async move {
            let Some(image) = guard(&mut tx, self.job).await? else { return Ok((tx, None)) };
            let now = app.now();
            db::tasks::begin(&mut tx, &job.id, now).await?;
            if self.method == Method::Legacy {
                // Glance shows neither the stores nor the lock of such an import.
                return Ok((tx, Some(image)));
            }
            if self.method != Method::CopyImage && image.status != Status::Importing {
                db::images::set_status(&mut tx, &image, Status::Importing, now).await?;
            }
            let stores = self.input.named_stores();
            change_list(app, &mut tx, &image.id, IMPORTING_TO, &stores, &[]).await?;
            change_list(app, &mut tx, &image.id, FAILED_IMPORT, &[], &stores).await?;
            db::properties::delete(&mut tx, &image.id, &[STAGE_HOST]).await?;
            Ok((tx, Some(image)))
        });
        let image = image.await?.ok_or(Stop::Lost)?;
        let mebibytes = image.size.and_then(|size| u64::try_from(size).ok()).unwrap_or_default() >> 20;
        let resources = match self.method {
            Method::GlanceDirect => vec![(Resource::SizeTotal, mebibytes)],
            // The image counts as being imported already.
            Method::WebDownload | Method::CopyImage | Method::GlanceDownload => {
                vec![(Resource::StageTotal, 0), (Resource::CountUploading, 0)]
            }
            Method::Legacy => vec![(Resource::SizeTotal, 0), (Resource::CountUploading, 0)],
        };
        for (resource, delta) in resources {
            app.limits.enforce(&app.db, &self.context, resource, delta).await?;
        }
        self.advance(step).await
    }

    /// Records that the step is completed.
    async fn advance(&self, step: usize) -> Result<(), Stop> {
        let recorded = self.app.db.transaction(|mut tx| async move {
            let recorded = jobs::set_step(&mut tx, self.job, next(step)).await?;
            Ok((tx, recorded))
        });
        if recorded.await? { Ok(()) } else { Err(Stop::Lost) }
    }

    /// Rolls back the transfer of a process that has had the job before.
    async fn clear(&self) -> Result<(), Stop> {
        let (rows, is_current) = {
            let mut conn = self.app.db.acquire().await?;
            let rows = uploads::all(&mut conn).await?;
            // The check comes second: a process that has claimed the job since then has rolled back these rows, and begun others.
            (rows, jobs::is_current(&mut conn, self.job).await?)
        };
        if !is_current {
            return Err(Stop::Lost);
        }
        for row in rows.iter().filter(|row| row.image_id == self.job.image_id) {
            let stores: Vec<_> = row.store.split(',').filter_map(|store| self.app.stores.for_upload(store)).collect();
            recovery::roll_back(self.app, row, &stores).await?;
        }
        Ok(())
    }

    /// Begins a transfer into the store.
    async fn begin_transfer(&self, store: &Arc<Store>, id: &str) -> Result<(Transfer, Image), Stop> {
        self.clear().await?;
        let app = &**self.app;
        let begun = app.db.transaction(|mut tx| async move {
            let Some(image) = guard(&mut tx, self.job).await? else { return Ok((tx, None)) };
            let transfer = Transfer::for_job(self.app, &image.id, store, image.status, id);
            uploads::begin(&mut tx, &transfer.record).await?;
            Ok((tx, Some((transfer, image))))
        });
        begun.await?.ok_or(Stop::Lost)
    }

    /// Counts the bytes of a step from zero.
    fn begin_count(&self) {
        self.moved.store(0, Ordering::Relaxed);
    }

    /// Moves data by `ingest`, and counts its bytes.
    async fn move_data<T, F: Future<Output = Result<T>>>(
        &self,
        data: ByteStream,
        ingest: impl FnOnce(Demand) -> F,
    ) -> Result<T> {
        let counter = Arc::clone(&self.moved);
        let data = data.inspect(move |part| {
            counter.fetch_add(part.as_ref().map_or(0, |part| part.len() as u64), Ordering::Relaxed);
        });
        let (supply, demand) = stream::apart(Box::pin(data));
        let mut ingesting = pin!(ingest(demand));
        tokio::select! {
            ended = &mut ingesting => ended,
            () = supply.send() => ingesting.await,
        }
    }

    /// The names of all stores of the import, for a failure before any of them has got the data.
    fn all_stores(&self) -> Vec<String> {
        self.input.named_stores().into_iter().map(str::to_owned).collect()
    }

    /// Stages data from a web server.
    async fn download(&self, step: usize) -> Result<(), Stop> {
        let mut restarts = 0;
        loop {
            match self.try_download(step).await {
                Err(stop) if begins_again(&stop, &mut restarts).await => {}
                Err(Stop::Failed(error, _)) => return Err(Stop::Failed(error, self.all_stores())),
                Err(stop) => return Err(stop),
                Ok(()) => {
                    if self.input.holder.is_none() {
                        self.app.process.forget_token(&self.job.id);
                    }
                    return Ok(());
                }
            }
        }
    }

    /// Copies data from a web server into a store.
    async fn copy_from_web(&self, name: Option<&str>, is_last: bool, step: usize) -> Result<(), Stop> {
        let mut restarts = 0;
        loop {
            match self.copy(name, is_last, step).await {
                Err(stop) if begins_again(&stop, &mut restarts).await => {}
                done => return done,
            }
        }
    }

    /// Requests the data from its server. Also returns its size in bytes, if it is known.
    async fn open_source(&self) -> Result<(Option<u64>, ByteStream), Stop> {
        let (app, job) = (&**self.app, self.job);
        let (uri, token) = match self.method {
            Method::GlanceDownload => self.data_of_origin().map(|(uri, token)| (uri, Some(token)))?,
            _ => (self.input.uri.clone().unwrap_or_default(), None),
        };
        let source = download::Source { uri: &uri, project: job.project_id.as_deref(), token };
        let (size, data) = download::open(app, source).await?;
        let size = match self.input.origin.as_ref().and_then(|origin| origin.size) {
            Some(expected) if size.is_some_and(|size| size != expected) => {
                let (id, size) = (&job.id, size.unwrap_or_default());
                let message = format!(
                    "Task {id} failed because downloaded data size {size} is different from expected {expected}"
                );
                return Err(Error::Invalid(message).into());
            }
            expected => expected.or(size),
        };
        if size.is_some_and(|size| size > app.config.default.image_size_cap) {
            return Err(Error::LimitExceeded("The provided image is too large.".to_owned()).into());
        }
        Ok((size, data))
    }

    async fn try_download(&self, step: usize) -> Result<(), Stop> {
        let (app, job) = (&**self.app, self.job);
        let (size, data) = self.open_source().await?;
        let verification = self.input.checksum.as_ref().map(Checksum::start).transpose()?;
        let observers = verification.iter().map(|verification| verification.tap.end()).collect();
        let store = app.stores.staging();
        let id = uploads::Upload::new_job_id();
        // Until this is dropped, recovery does not take the transfer for an abandoned one.
        let _active = app.process.begin_upload(&id);
        let (transfer, _) = self.begin_transfer(&store, &id).await?;
        self.begin_count();
        let size = size.and_then(|size| i64::try_from(size).ok());
        let ingest = |data| async {
            let source = Source { data, size, left: StorageLeft::unbounded(), timeout: download::PATIENCE };
            let stored = ingest_raw(app, &transfer.object, &store, source, observers).await;
            stored.map_err(|interrupted| match interrupted {
                Interrupted::Because(error) => download_error(error),
                Interrupted::ByObserver => Error::Internal("the digest cannot be computed".into()),
            })
        };
        let stored = match self.move_data(data, ingest).await {
            Ok((stored, _)) => stored,
            Err(error) => return Err(abort(&transfer, error.into()).await),
        };
        if let Some(verification) = verification
            && let Err(error) = verification.finish().await
        {
            return Err(discard(&transfer, error.into()).await);
        }
        let hold = match transfer.place(&stored).await {
            Ok(hold) => hold,
            Err(error) => return Err(discard(&transfer, error.into()).await),
        };
        let record = &transfer.record;
        let completed = app.db.transaction(|mut tx| async move {
            let is_ours = guard(&mut tx, self.job).await?.is_some() && uploads::end(&mut tx, record).await?;
            if is_ours {
                jobs::set_step(&mut tx, job, next(step)).await?;
            }
            Ok((tx, is_ours))
        });
        let completed = completed.await;
        hold.release().await;
        if completed? { Ok(()) } else { Err(Stop::Lost) }
    }

    /// Opens the data to be copied.
    async fn open(&self, image: &Image) -> Result<Original, Stop> {
        let app = &**self.app;
        match self.method {
            Method::Legacy if !self.is_staged() => {
                let (size, data) = self.open_source().await?;
                return Ok(Original { size, data, location: None });
            }
            Method::GlanceDirect | Method::WebDownload | Method::GlanceDownload | Method::Legacy => {
                let (store, url) = (
                    app.stores.staging(),
                    app.stores.staged_url(&image.id, self.input.staged.as_deref()).map_err(Error::store_failed)?,
                );
                let staged = store.get(&url, None).await.map_err(|error| match error {
                    store::Error::NotFound => Error::Internal("the staged data is not on this node".into()),
                    error => Error::store_failed(error),
                })?;
                return Ok(Original { size: staged.size, data: staged.data, location: Some((store, url)) });
            }
            Method::CopyImage => {}
        }
        let mut locations = db::locations::list(&mut app.db.acquire().await?, &image.id).await?;
        // As in Glance, the default store comes first.
        let default = app.stores.default();
        locations.sort_by_key(|location| placement::name_of(app, location) != Some(&default.id));
        for location in locations {
            let opened = async {
                let store = app.stores.find(&location.url, &location.metadata)?;
                Ok::<_, store::Error>((Arc::clone(store), store.get(&location.url, None).await?))
            };
            match opened.await {
                Ok((store, blob)) => {
                    let location = Some((store, location.url));
                    return Ok(Original { size: blob.size, data: blob.data, location });
                }
                Err(error) => {
                    tracing::warn!(location = location.id, error = with_causes(&error), "a location cannot be read");
                }
            }
        }
        Err(Error::store_failed("no location of the image can be read").into())
    }

    /// Copies the data into a store, and counts its bytes.
    ///
    /// Between file stores on one file system, the kernel copies the data or lets both files share it. If the image's digests are known,
    /// the data is not read for them: that would take most of the time. Otherwise they are computed of the original, while it is copied.
    async fn receive(&self, image: &Image, object: &Object, store: &Arc<Store>) -> Result<Ingested, Stop> {
        let app = self.app;
        let Original { size, data, location } = self.open(image).await?;
        let is_download = location.is_none();
        let expected = image.size.and_then(|size| u64::try_from(size).ok());
        check_size(size, expected)?;
        let left = app.limits.storage_left(&app.db, &self.context, &image.id).await?;
        left.admits(size).map_err(over_quota)?;
        let copy = match &location {
            Some((from, url)) => store.begin_copy(object, from, url).await.map_err(store_error)?,
            None => None,
        };
        if copy.is_some() {
            tracing::debug!(store = store.id, "the kernel copies the data");
        }
        let size = size.and_then(|size| i64::try_from(size).ok());
        let source = |data| Source { data, size, left, timeout: download::PATIENCE };
        let known = facts_of(image).filter(|_| self.method == Method::CopyImage);
        match (copy, known) {
            (Some(copy), Some(facts)) => {
                check_size(Some(copy.size()), expected)?;
                let stored = copy.complete(&self.moved).await.map_err(store_error)?;
                Ok(Ingested { stored, facts: Facts::Known(facts) })
            }
            (Some(copy), None) => {
                let ingest = |data| async {
                    let copying = async { copy.complete(&AtomicU64::default()).await.map_err(store_error) };
                    let (stored, (size, observers)) = tokio::try_join!(copying, inspect(app, image, source(data)))?;
                    Ok(Ingested { stored, facts: Facts::Observed { size, observers } })
                };
                Ok(self.move_data(data, ingest).await?)
            }
            (None, _) => {
                let ingest = |data| async {
                    let ingested = ingest(app, image, object, store, source(data)).await;
                    if is_download { ingested.map_err(download_error) } else { ingested }
                };
                Ok(self.move_data(data, ingest).await?)
            }
        }
    }

    /// The store with this name.
    fn store(&self, name: &str) -> Result<Arc<Store>> {
        let missing = || Error::Internal(format!("the store {name} is not configured here").into());
        self.app.stores.named(name).ok_or_else(missing)
    }

    /// Copies the data into a store.
    async fn copy(&self, name: Option<&str>, is_last: bool, step: usize) -> Result<(), Stop> {
        let app = &**self.app;
        let store = name.map_or_else(|| Ok(app.stores.default()), |name| self.store(name))?;
        let id = uploads::Upload::new_job_id();
        // Until this is dropped, recovery does not take the transfer for an abandoned one.
        let _active = app.process.begin_upload(&id);
        let (transfer, image) = self.begin_transfer(&store, &id).await?;
        self.begin_count();
        let received = self.receive(&image, &transfer.object, &store).await;
        let Ingested { stored, facts } = match received {
            Ok(received) => received,
            Err(stop) => return Err(abort(&transfer, stop).await),
        };
        let facts = match facts.finish().await.and_then(|facts| check_same(&image, &facts).map(|()| facts)) {
            Ok(facts) => facts,
            Err(error) => return Err(discard(&transfer, error.into()).await),
        };
        let hold = match transfer.place(&stored).await {
            Ok(hold) => hold,
            Err(error) => return Err(discard(&transfer, error.into()).await),
        };
        let activates = self.method != Method::CopyImage && (is_last || !self.input.must_succeed);
        let published = self.publish(&transfer.record, name, &stored, &facts, activates, step).await;
        hold.release().await;
        match published {
            Ok(true) => {
                acls::apply_to_new(self.app, &self.job.image_id).await;
                Ok(())
            }
            // Another process rolls back the transfer.
            Ok(false) => Err(Stop::Lost),
            Err(error) => match Stop::from(error) {
                // The commit may have succeeded despite the error. Then the row no longer exists, and nothing is removed.
                Stop::Failed(error, failed) if !transfer.has_completed().await => Err(Stop::Failed(error, failed)),
                Stop::Failed(..) => Ok(()),
                stop => Err(stop),
            },
        }
    }

    /// Adds the location to the image. Returns `false` if this process has the job no more.
    async fn publish(
        &self,
        record: &uploads::Upload,
        name: Option<&str>,
        stored: &Stored,
        facts: &DataFacts,
        activates: bool,
        step: usize,
    ) -> Result<bool> {
        let (app, job) = (&**self.app, self.job);
        let admission = &app.limits.data_admission(&self.context, 0).await?;
        app.db
            .transaction(|mut tx| async move {
                let Some(image) = guard(&mut tx, self.job).await? else { return Ok((tx, false)) };
                if !uploads::end(&mut tx, record).await? {
                    return Ok((tx, false));
                }
                let now = app.now();
                let locations = db::locations::list(&mut tx, &image.id).await?;
                let copies = locations.len() as u64 + 1;
                let size = u64::try_from(facts.size).unwrap_or_default();
                admission.enforce(&mut tx, Some(&image.id), size.saturating_mul(copies)).await?;
                if self.method != Method::CopyImage {
                    // An admin may have deactivated the image since another store has activated it.
                    let is_inactive = matches!(image.status, Status::Importing | Status::Saving);
                    let to = if activates && is_inactive { Status::Active } else { image.status };
                    db::images::set_facts(&mut tx, &image, facts, to, now).await?;
                }
                db::locations::insert(&mut tx, &image.id, &[(&stored.url, &stored.metadata)], now).await?;
                let stores: Vec<&str> = name.into_iter().collect();
                if self.method != Method::Legacy {
                    change_list(app, &mut tx, &image.id, IMPORTING_TO, &[], &stores).await?;
                }
                db::tasks::set_message(&mut tx, &job.id, &(self.message)(size), now).await?;
                jobs::set_step(&mut tx, job, next(step)).await?;
                Ok((tx, true))
            })
            .await
    }

    /// Goes on without a store that has failed.
    async fn skip(&self, name: Option<&str>, step: usize) -> Result<(), Stop> {
        if let Some(name) = name {
            self.remove_from_lists(name).await?;
        }
        self.advance(step).await
    }

    /// Moves a store from the list of those that the image is imported to, to the list of those that have failed.
    async fn remove_from_lists(&self, name: &str) -> Result<(), Stop> {
        let app = &**self.app;
        let moved = app.db.transaction(|mut tx| async move {
            let Some(image) = guard(&mut tx, self.job).await? else { return Ok((tx, false)) };
            change_list(app, &mut tx, &image.id, FAILED_IMPORT, &[name], &[]).await?;
            change_list(app, &mut tx, &image.id, IMPORTING_TO, &[], &[name]).await?;
            Ok((tx, true))
        });
        if moved.await? { Ok(()) } else { Err(Stop::Lost) }
    }

    /// Removes the staged data, ends the task, and removes the lock.
    async fn finish(&self) -> Result<(), Stop> {
        let (app, job) = (&**self.app, self.job);
        let image = db::images::get(&mut app.db.acquire().await?, &job.image_id).await?.ok_or(Stop::Lost)?;
        if self.method != Method::CopyImage && !matches!(image.status, Status::Active | Status::Deactivated) {
            return Err(Error::Invalid("None of the uploads finished!".to_owned()).into());
        }
        self.discard_staged().await;
        let result = format!("{{\"image_id\": \"{}\"}}", job.image_id);
        let result = result.as_str();
        let finished = app.db.transaction(|mut tx| async move {
            let is_ours = guard(&mut tx, self.job).await?.is_some();
            if is_ours {
                db::tasks::succeed(&mut tx, &job.id, result, app.now(), expiry(app)).await?;
                db::properties::delete(&mut tx, &job.image_id, &[IMPORT_TASK]).await?;
                jobs::remove(&mut tx, job).await?;
            }
            Ok((tx, is_ours))
        });
        if finished.await? { Ok(()) } else { Err(Stop::Lost) }
    }

    /// See [`is_staged`].
    fn is_staged(&self) -> bool {
        is_staged(self.method, &self.input)
    }

    async fn discard_staged(&self) {
        if !self.is_staged() {
            return;
        }
        if let Err(error) = self.app.stores.discard_staged(&self.job.image_id).await {
            tracing::warn!(%error, "the staged data of an import cannot be removed now; housekeeping will retry");
        }
    }
}

/// Whether a download begins again, because its data did not arrive completely, or because the server was unavailable. Then waits.
async fn begins_again(stop: &Stop, restarts: &mut u32) -> bool {
    let Stop::Failed(error @ (Error::StoreUnavailable(_) | Error::SlowClient), _) = stop else { return false };
    if *restarts >= RESTARTS {
        return false;
    }
    *restarts += 1;
    tracing::warn!(%error, restarts, "a download is begun again");
    tokio::time::sleep(RESTART_PAUSE * *restarts).await;
    true
}

/// Deletes the image that a failed task of the type `import` has created. It may be protected.
async fn delete_image(tx: &mut Tx, image: &Image, now: NaiveDateTime) -> Result<()> {
    if let Some(begun) = db::images::begin_deletion(tx, image, now).await? {
        db::images::delete(tx, &begun, Status::Deleted, now).await?;
        db::images::delete_children(tx, &begun.id, now).await?;
    }
    Ok(())
}

/// Turns the failure of a download into the import's error. The only reason why its source is invalid is that it ended early.
fn download_error(error: Error) -> Error {
    match error {
        Error::Invalid(_) => Error::StoreUnavailable("The download of the image's data was interrupted.".to_owned()),
        error => error,
    }
}

/// The facts of the image's data, if it has data and its digests are known.
fn facts_of(image: &Image) -> Option<DataFacts> {
    Some(DataFacts {
        size: image.size?,
        virtual_size: image.virtual_size,
        checksum: image.checksum.clone()?,
        os_hash_algo: image.os_hash_algo.clone()?,
        os_hash_value: image.os_hash_value.clone()?,
    })
}

/// Checks that the data has the image's size, if both are known.
fn check_size(size: Option<u64>, expected: Option<u64>) -> Result<()> {
    match (size, expected) {
        (Some(size), Some(expected)) if size != expected => {
            Err(Error::Invalid(format!("Image size mismatch. Expected {expected} but got {size}")))
        }
        _ => Ok(()),
    }
}

/// Checks that the data is that of the image, if the image has data already.
fn check_same(image: &Image, facts: &DataFacts) -> Result<()> {
    let before = (image.os_hash_algo.as_deref(), image.os_hash_value.as_deref());
    match before {
        (Some(algorithm), Some(value)) if algorithm == facts.os_hash_algo && value != facts.os_hash_value => {
            Err(Error::Invalid(format!("The data's {algorithm} is {}, expected {value}.", facts.os_hash_value)))
        }
        _ => Ok(()),
    }
}

/// Ends a transfer whose data did not arrive. If another process has the job, that one rolls back the transfer.
async fn abort(transfer: &Transfer, stop: Stop) -> Stop {
    match stop {
        Stop::Failed(error, failed) => match transfer.abort(error).await {
            Ok(error) => Stop::Failed(error, failed),
            Err(error) => error.into(),
        },
        stop => stop,
    }
}

/// Like [`abort`], for data that is in the store.
async fn discard(transfer: &Transfer, stop: Stop) -> Stop {
    match stop {
        Stop::Failed(error, failed) => match transfer.discard_and_abort(error).await {
            Ok(error) => Stop::Failed(error, failed),
            Err(error) => error.into(),
        },
        stop => stop,
    }
}
