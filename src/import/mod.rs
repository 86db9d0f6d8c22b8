//! Import of image data, and of locations whose data is in place already. A job in the database does the work, so that it survives
//! the death of its process: see ADR 19.

mod checksum;
mod download;
mod glance_download;
mod job;
mod legacy;
mod location;
mod plugins;
mod properties;
mod report;
mod runner;
mod steps;

use std::sync::Arc;

use chrono::TimeDelta;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use self::{
    checksum::Checksum,
    glance_download::{Named, Origin},
};
pub(crate) use self::{
    legacy::{NewTask, check_source, create_task},
    location::LocationRequest,
    report::JobLog,
    runner::{release_abandoned, start_waiting},
};
use crate::{
    access::{self, Subject},
    app::App,
    config::ImportPlugin,
    context::Context,
    data::{
        other_node::{self, Incoming},
        placement,
    },
    db::{self, Session, Tx, jobs::Job, locations::ascii_json, uploads::Upload},
    egress::Strictness,
    error::{Error, Result},
    keystone::Caller,
    limits::Resource,
    model::{FAILED_IMPORT, IMPORT_TASK, IMPORTING_TO, Image, ImageId, RequestedId, Status, Task, TaskStatus},
    policy::rule,
};

/// The time without progress after which an import loses its lock.
const LOCK_EXPIRY: TimeDelta = TimeDelta::minutes(60);

/// A method of import that Glimpse supports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Method {
    /// The client has staged the data.
    GlanceDirect,
    /// The data is on a web server.
    WebDownload,
    /// The image is in another region's image service.
    GlanceDownload,
    /// An active image's data is copied to further stores.
    CopyImage,
    /// A task of the type `import` creates an image with data from a web server. Clients cannot choose it as a method.
    Legacy,
}

impl Method {
    const ALL: [Self; 4] = [Self::GlanceDirect, Self::WebDownload, Self::CopyImage, Self::GlanceDownload];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::GlanceDirect => "glance-direct",
            Self::WebDownload => "web-download",
            Self::CopyImage => "copy-image",
            Self::GlanceDownload => "glance-download",
            Self::Legacy => "import",
        }
    }

    /// The method of a job.
    fn of_job(kind: &str) -> Option<Self> {
        Self::parse(kind).or_else(|| (kind == Self::Legacy.name()).then_some(Self::Legacy))
    }

    fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|method| method.name() == name)
    }
}

/// The names of the methods that are enabled and supported, in the order of the configuration.
pub(crate) fn methods(app: &App) -> Vec<&'static str> {
    let enabled = &app.config.default.enabled_import_methods.0;
    enabled.iter().filter_map(|name| Method::parse(name)).map(Method::name).collect()
}

/// Warns of enabled methods that Glimpse does not support, and does not offer.
pub(crate) fn warn_of_missing_methods(app: &App) {
    for method in app.config.default.enabled_import_methods.0.iter().filter(|name| Method::parse(name).is_none()) {
        tracing::warn!(
            method,
            "[DEFAULT] enabled_import_methods names a method that Glimpse does not support; it is not offered"
        );
    }
}

/// The input of an import.
#[derive(Debug)]
pub(crate) struct ImportRequest {
    method: Method,
    uri: Option<String>,
    /// What the downloaded data must match.
    checksum: Option<Checksum>,
    /// The stores that the client chose.
    stores: Option<Vec<String>>,
    all_stores: bool,
    must_succeed: bool,
    /// The body, for the task.
    body: Map<String, Value>,
}

impl ImportRequest {
    /// Parses the body of a request.
    ///
    /// # Errors
    /// `Invalid`
    pub(crate) fn parse(app: &App, body: Map<String, Value>) -> Result<Self> {
        let invalid = |message: &str| Error::Invalid(message.to_owned());
        let method = body.get("method").ok_or_else(|| invalid("Import request requires a 'method' field."))?;
        let name = method.get("name").ok_or_else(|| invalid("Import request requires a 'name' field."))?;
        let shown = name.as_str().map_or_else(|| name.to_string(), str::to_owned);
        let known = methods(app).into_iter().find(|known| name == known).and_then(Method::parse);
        let known = known.ok_or_else(|| Error::Invalid(format!("Unknown import method name '{shown}'.")))?;
        let flag = |name: &str, default| match body.get(name) {
            None => Ok(default),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(_) => Err(Error::Invalid(format!("'{name}' must be boolean value only"))),
        };
        let must_succeed = flag("all_stores_must_succeed", true)?;
        let all_stores = flag("all_stores", false)?;
        let stores = body.get("stores").map(|stores| {
            let names = stores.as_array().filter(|names| !names.is_empty());
            let names = names.and_then(|names| names.iter().map(|name| name.as_str().map(str::to_owned)).collect());
            names.ok_or_else(|| invalid("'stores' must be a list of the names of stores"))
        });
        let checksum = method.get("checksum").filter(|_| known == Method::WebDownload);
        Ok(Self {
            method: known,
            checksum: checksum.map(Checksum::parse).transpose()?,
            uri: method.get("uri").and_then(Value::as_str).map(str::to_owned),
            stores: stores.transpose()?,
            all_stores,
            must_succeed,
            body,
        })
    }
}

/// The parameters of a job. A process does not run a job with parameters that it does not know.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Input {
    uri: Option<String>,
    /// What the downloaded data must match.
    #[serde(skip_serializing_if = "Option::is_none")]
    checksum: Option<Checksum>,
    /// The stores to copy to; a single `None` if stores have no names.
    stores: Vec<Option<String>>,
    must_succeed: bool,
    /// Whether one step copies the data to all stores.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    in_parallel: bool,
    /// The plugins that run on the staged data.
    #[serde(default)]
    plugins: Vec<ImportPlugin>,
    /// The version of the staged data that a plugin has made; `None` for the data as it was staged.
    #[serde(default)]
    staged: Option<String>,
    /// The image's formats before the import changed them.
    #[serde(default)]
    formats: Option<Formats>,
    /// The source of an import from another region.
    #[serde(default)]
    origin: Option<Origin>,
    /// The process that has the caller's token, if stores are used with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    holder: Option<String>,
}

/// An image's formats.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Formats {
    disk: Option<String>,
    container: Option<String>,
}

impl Formats {
    fn of(image: &Image) -> Self {
        Self { disk: image.disk_format.clone(), container: image.container_format.clone() }
    }

    fn apply(&self, image: &mut Image) {
        image.disk_format.clone_from(&self.disk);
        image.container_format.clone_from(&self.container);
    }
}

impl Input {
    fn named_stores(&self) -> Vec<&str> {
        self.stores.iter().filter_map(Option::as_deref).collect()
    }
}

/// Begins an import. It continues after the request, in this process or in another one. Twelve statements.
///
/// # Errors
/// `Invalid`, `NotFound`, `Forbidden`, `Conflict` when the image's status or another import does not allow it, `LimitExceeded`.
pub(crate) async fn begin(
    app: &Arc<App>,
    context: &Context,
    id: &RequestedId,
    request: &ImportRequest,
    incoming: &Incoming,
) -> Result<()> {
    app.limits.enforce(&app.db, context, Resource::SizeTotal, 0).await?;
    // The transaction reports an invalid source after what Glance checks first.
    let named = (request.method == Method::GlanceDownload).then(|| Named::parse(&request.body["method"])).transpose();
    let origin = match named {
        Ok(Some(named)) => Some(named.resolve(app, context, &incoming.credentials).await?),
        _ => None,
    };
    let new = &NewJob { id: Uuid::new_v4().to_string(), request, request_id: &incoming.request_id, origin };
    let caller = Caller::current();
    let may_need_token = request.method == Method::GlanceDownload || caller.is_some();
    if let Some(token) = incoming.credentials.token().filter(|_| may_need_token) {
        app.process.keep_token(&new.id, token, caller);
    }
    let begun = accept(app, context, id, new, incoming).await;
    if !matches!(begun, Ok(Begun::Here)) {
        app.process.forget_token(&new.id);
    }
    if let Begun::Elsewhere(host) = begun? {
        let path = format!("/v2/images/{id}/import");
        return other_node::forward(&host, incoming, axum::http::Method::POST, &path, Some(&request.body)).await;
    }
    start_waiting(app);
    Ok(())
}

/// A job that is about to be inserted.
struct NewJob<'r> {
    id: String,
    request: &'r ImportRequest,
    request_id: &'r str,
    origin: Option<Origin>,
}

/// Where an import runs.
enum Begun {
    /// There is a job, or nothing to do.
    Here,
    /// The node with this URL has the staged data.
    Elsewhere(String),
}

/// Checks a request for an import, and inserts its job.
async fn accept(
    app: &App,
    context: &Context,
    id: &RequestedId,
    new: &NewJob<'_>,
    incoming: &Incoming,
) -> Result<Begun> {
    let request = new.request;
    app.db
        .transaction(|mut tx| async move {
            let image = access::find_locked(app, &mut tx, context, id).await?;
            let image = image.ok_or_else(|| Error::image_not_found(id))?;
            check_status(request.method, &image)?;
            if request.method == Method::GlanceDownload {
                Named::parse(&request.body["method"])?;
            }
            if request.method == Method::CopyImage {
                access::authorise(app, context, &image, rule::COPY_IMAGE)?;
            } else {
                access::authorise(app, context, &image, rule::MODIFY_IMAGE)?;
                access::check_mutable(context, &image)?;
            }
            free_lock(app, &mut tx, &image).await?;
            let stores = stores(app, &mut tx, &image, request, incoming.store()).await?;
            if stores.is_empty() {
                // A copy to all stores, of which each has the data.
                return Ok((tx, Begun::Here));
            }
            if !request.must_succeed && !app.stores.are_named {
                return Err(Error::Invalid(
                    "All_stores_must_succeed can only be set with enabled_backends None".to_owned(),
                ));
            }
            if request.method == Method::GlanceDirect
                && let Some(host) = other_node::host_of_staged(app, &mut tx, &image.id).await?
            {
                return Ok((tx, Begun::Elsewhere(host)));
            }
            if request.method == Method::WebDownload {
                let uri = request.uri.as_deref().unwrap_or("None");
                let checked = app.egress.check(uri, Strictness::New);
                checked.map_err(|_| Error::Invalid(format!("URI for web-download does not pass filtering: {uri}")))?;
            }
            insert(app, &mut tx, context, &image, new, stores).await?;
            Ok((tx, Begun::Here))
        })
        .await
}

/// Adds the lock, the task and the job.
async fn insert(
    app: &App,
    tx: &mut Tx,
    context: &Context,
    image: &Subject,
    new: &NewJob<'_>,
    stores: Vec<Option<String>>,
) -> Result<()> {
    let request = new.request;
    let mut body = request.body.clone();
    if new.origin.is_some() {
        glance_download::complete(&mut body);
    }
    let task_input = json!({"image_id": image.id, "import_req": body, "backend": stores});
    let (kind, image_id) = ("api_image_import", Some(image.id.to_string()));
    let task = new_task(app, context, kind, image_id, Some(new.request_id), &task_input)?;
    let task = Task { id: new.id.clone(), ..task };
    let needs_caller = needs_caller(app, tx, request.method, &image.id, &stores).await?;
    let input = Input {
        uri: request.uri.clone(),
        holder: needs_caller.then(|| app.process.id.clone()),
        checksum: request.checksum.clone(),
        in_parallel: is_parallel(app, request.method, &stores),
        stores,
        must_succeed: request.must_succeed,
        plugins: plugins_for(app, context, request.method),
        staged: None,
        formats: None,
        origin: new.origin.clone(),
    };
    let job = new_job(context, request.method.name(), &image.id, &task, &input)?;
    insert_job(tx, &task, &job).await
}

/// Whether a job writes to a store, or reads from one, that is used with the caller's token.
async fn needs_caller(
    app: &App,
    tx: &mut Tx,
    method: Method,
    image_id: &ImageId,
    stores: &[Option<String>],
) -> Result<bool> {
    if !app.stores.act_for_callers() {
        return Ok(false);
    }
    let mut targets = stores.iter().filter_map(|name| match name {
        Some(name) => app.stores.named(name),
        None => Some(app.stores.default()),
    });
    if targets.any(|store| store.acts_for_callers()) {
        return Ok(true);
    }
    let locations = match method {
        Method::CopyImage => db::locations::list(tx, image_id).await?,
        _ => Vec::new(),
    };
    let mut sources = locations.iter().filter_map(|location| app.stores.find(&location.url, &location.metadata).ok());
    Ok(sources.any(|store| store.acts_for_callers()))
}

/// Adds a task and its job, which locks the image.
async fn insert_job(tx: &mut Tx, task: &Task, job: &Job) -> Result<()> {
    let lock = [(IMPORT_TASK.to_owned(), task.id.clone())];
    // Glance may have left rows that are marked as deleted.
    db::properties::delete(tx, &job.image_id, &[IMPORT_TASK]).await?;
    db::properties::insert(tx, &job.image_id, &lock, task.created_at).await?;
    db::tasks::insert(tx, task).await?;
    Ok(db::jobs::insert(tx, job).await?)
}

/// Whether the data is copied to several stores at once. As in Glance, an active image is copied to one store after the other.
fn is_parallel(app: &App, method: Method, stores: &[Option<String>]) -> bool {
    let names: Vec<&str> = stores.iter().filter_map(Option::as_deref).collect();
    app.config.image_import_opts.max_parallel_stores > 1
        && names.len() > 1
        && !matches!(method, Method::CopyImage | Method::Legacy)
        && Upload::can_name(&names)
}

/// A task that has not begun.
fn new_task(
    app: &App,
    context: &Context,
    kind: &str,
    image_id: Option<String>,
    request_id: Option<&str>,
    input: &Value,
) -> Result<Task> {
    let now = app.now();
    Ok(Task {
        id: Uuid::new_v4().to_string(),
        kind: kind.to_owned(),
        status: TaskStatus::Pending,
        owner: context.project_id().unwrap_or_default().to_owned(),
        expires_at: None,
        image_id,
        request_id: request_id.map(|id| id.chars().take(64).collect()),
        user_id: context.identity.user_id.as_ref().map(|id| id.chars().take(64).collect()),
        created_at: now,
        updated_at: Some(now),
        input: Some(ascii_json(input)?),
        result: None,
        message: Some(String::new()),
    })
}

/// The job of a task. No process has claimed it.
fn new_job(context: &Context, kind: &str, image_id: &ImageId, task: &Task, input: &impl Serialize) -> Result<Job> {
    Ok(Job {
        id: task.id.clone(),
        kind: kind.to_owned(),
        image_id: image_id.clone(),
        project_id: context.project_id().map(str::to_owned),
        process_id: String::new(),
        claim: Uuid::new_v4().to_string(),
        input: ascii_json(input)?,
        step: 0,
        done: 0,
        created_at: task.created_at,
    })
}

/// Begins to add a location to a queued image whose data is in place already.
///
/// # Errors
/// `NotFound`, `Forbidden`, `Invalid`, `Conflict` when the image is not queued or another import has its lock.
pub(crate) async fn add_location(
    app: &Arc<App>,
    context: &Context,
    id: &RequestedId,
    request: &LocationRequest,
    request_id: Option<&str>,
) -> Result<()> {
    location::begin(app, context, id, request, request_id).await?;
    start_waiting(app);
    Ok(())
}

/// The plugins that run in this caller's import. As in Glance, none when an active image's data is copied.
fn plugins_for(app: &App, context: &Context, method: Method) -> Vec<ImportPlugin> {
    if method == Method::CopyImage {
        return Vec::new();
    }
    let ignored = &app.config.inject_metadata_properties.ignore_user_roles;
    let is_ignored = context.identity.roles.iter().any(|role| ignored.contains(role));
    let plugins = app.config.image_import_opts.image_import_plugins.0.iter().copied();
    plugins.filter(|plugin| *plugin != ImportPlugin::InjectImageMetadata || !is_ignored).collect()
}

/// Checks that the image accepts an import by this method, in Glance's order.
fn check_status(method: Method, image: &Subject) -> Result<()> {
    let conflict = |message: String| Err(Error::Conflict(message));
    let status = image.status;
    match method {
        Method::CopyImage if status != Status::Active => {
            return conflict("Only images with status active can be targeted for copying".to_owned());
        }
        Method::CopyImage => {}
        _ if status == Status::Active => {
            return conflict("Image with status active cannot be target for import".to_owned());
        }
        Method::WebDownload | Method::GlanceDownload if status != Status::Queued => {
            let name = method.name();
            return conflict(format!("Image needs to be in 'queued' state to use '{name}' method"));
        }
        Method::GlanceDirect if status != Status::Uploading => {
            return conflict("Image needs to be staged before 'glance-direct' method can be used".to_owned());
        }
        Method::WebDownload | Method::GlanceDirect | Method::GlanceDownload | Method::Legacy => {}
    }
    for (name, format) in [("container_format", &image.container_format), ("disk_format", &image.disk_format)] {
        if format.as_deref().unwrap_or_default().is_empty() {
            return conflict(format!("'{name}' needs to be set before import"));
        }
    }
    Ok(())
}

/// Checks that no other import has the image's lock. An import without progress for too long loses it.
async fn free_lock(app: &App, tx: &mut Tx, image: &Subject) -> Result<()> {
    let Some(holder) = property(tx, &image.id, IMPORT_TASK).await? else { return Ok(()) };
    let now = app.now();
    let task = db::tasks::get(tx, &holder, now).await?;
    if let Some(task) = &task {
        let waits = if task.status == TaskStatus::Pending { 2 } else { 1 };
        if now - task.updated_at.unwrap_or(task.created_at) < LOCK_EXPIRY * waits {
            return Err(Error::Conflict("Image has active task".to_owned()));
        }
        db::tasks::fail(tx, &holder, "Expired lock preempted", now, expiry(app)).await?;
        let input: Value = serde_json::from_str(task.input.as_deref().unwrap_or_default()).unwrap_or_default();
        let stores: Vec<&str> = input["backend"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        for name in [IMPORTING_TO, FAILED_IMPORT] {
            change_list(app, tx, &image.id, name, &[], &stores).await?;
        }
    }
    tracing::warn!(image = image.id.as_str(), task = holder, "an import without progress has lost its lock");
    db::jobs::cancel(tx, &holder).await?;
    db::properties::delete(tx, &image.id, &[IMPORT_TASK]).await?;
    Ok(())
}

/// Returns the stores to import to; a single `None` if stores have no names.
async fn stores(
    app: &App,
    tx: &mut Tx,
    image: &Subject,
    request: &ImportRequest,
    header_store: Option<&str>,
) -> Result<Vec<Option<String>>> {
    if !app.stores.are_named {
        if request.method == Method::CopyImage {
            return Err(Error::Invalid("Images can be copied only if stores have names.".to_owned()));
        }
        return Ok(vec![None]);
    }
    let invalid = |message: &str| Err(Error::Invalid(message.to_owned()));
    let mut stores: Vec<String> = match (&request.stores, header_store) {
        (Some(_), _) | (_, Some(_)) if request.all_stores => {
            return invalid("All_stores parameter can't be used with x-image-meta-store header or stores parameter");
        }
        (Some(_), Some(_)) => {
            return invalid("Stores parameter and x-image-meta-store header can't be both specified");
        }
        (Some(stores), None) => stores.clone(),
        (None, Some(store)) => vec![store.to_owned()],
        (None, None) if request.all_stores => {
            app.stores.iter().filter(|store| !store.is_read_only()).map(|store| store.id.clone()).collect()
        }
        (None, None) => vec![app.stores.default().id.clone()],
    };
    if let Some(unknown) = stores.iter().find(|store| app.stores.named(store).is_none()) {
        return Err(Error::Conflict(format!("Store for identifier {unknown} not found")));
    }
    let mut seen = std::collections::HashSet::new();
    stores.retain(|store| seen.insert(store.clone()));
    if request.method == Method::CopyImage {
        let locations = db::locations::list(tx, &image.id).await?;
        let present =
            |store: &String| locations.iter().any(|location| placement::name_of(app, location) == Some(store));
        if request.all_stores {
            stores.retain(|store| !present(store));
        } else if let Some(store) = stores.iter().find(|store| present(store)) {
            return Err(Error::Invalid(format!("Image is already present at store '{store}'")));
        }
    }
    Ok(stores.into_iter().map(Some).collect())
}

/// The value of one of the image's properties. One statement.
async fn property(s: &mut impl Session, image_id: &str, name: &str) -> Result<Option<String>> {
    let properties = db::properties::list(s, image_id).await?;
    Ok(properties.into_iter().find(|property| property.name == name).map(|property| property.value.unwrap_or_default()))
}

/// Adds stores to, and removes stores from, a property that is a sorted list of stores. As in Glance, an empty list is kept. At most
/// three statements.
async fn change_list(app: &App, tx: &mut Tx, image_id: &str, name: &str, add: &[&str], remove: &[&str]) -> Result<()> {
    let before = property(tx, image_id, name).await?;
    let mut stores: Vec<&str> = before.as_deref().unwrap_or_default().split(',').chain(add.iter().copied()).collect();
    stores.retain(|store| !store.is_empty() && !remove.contains(store));
    stores.sort_unstable();
    stores.dedup();
    let after = [(name.to_owned(), stores.join(","))];
    match &before {
        Some(before) if *before == after[0].1 => {}
        Some(_) => db::properties::update(tx, image_id, &after, app.now()).await?,
        None => {
            // Glance may have left a row that is marked as deleted.
            db::properties::delete(tx, image_id, &[name]).await?;
            db::properties::insert(tx, image_id, &after, app.now()).await?;
        }
    }
    Ok(())
}

/// When the record of a task that ends now expires.
fn expiry(app: &App) -> chrono::NaiveDateTime {
    let hours = TimeDelta::try_hours(app.config.task.task_time_to_live.into()).unwrap_or_default();
    app.now().checked_add_signed(hours).unwrap_or_else(|| app.now())
}
