//! Tasks that clients create themselves, by `POST /v2/tasks`.
//!
//! A task of the type `import` creates an image and imports its data from a web server, in a job like any other import. The other
//! types are those by which Glance works internally; as in Glance, such a task fails.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::{Input, Method, expiry, new_job, new_task, start_waiting, steps::INTERNAL};
use crate::{
    app::App,
    config::ImportPlugin,
    context::Context,
    db,
    egress::Strictness,
    error::{Error, Result},
    images::create::{self, Creation, NewImage},
    keystone::Caller,
    model::{Status, Task, check_described},
};

/// The fields that the input of an import has.
const IMPORT_FIELDS: [&str; 3] = ["import_from", "import_from_format", "image_properties"];
/// The fields that the input of a registration of a location has.
const LOCATION_FIELDS: [&str; 3] = ["image_id", "loc_url", "validation_data"];

/// The input of a task's creation.
pub(crate) struct NewTask {
    /// The type of the task: `import`, `api_image_import` or `location_import`.
    pub(crate) kind: String,
    /// The task's parameters.
    pub(crate) input: Map<String, Value>,
    /// The image that an import creates, or the reason why its properties are refused.
    pub(crate) image: Result<NewImage>,
}

/// Checks the URL of an import.
///
/// # Errors
/// `Invalid`
pub(crate) fn check_source(app: &App, url: Option<&Value>) -> Result<()> {
    let invalid = |message: String| Err(Error::Invalid(message));
    let url = match url {
        Some(Value::String(url)) if !url.is_empty() => url,
        None | Some(Value::Null | Value::String(_)) => {
            return invalid(format!("Invalid location: {}", url.and_then(Value::as_str).unwrap_or("None")));
        }
        Some(other) => return invalid(format!("Invalid location: {other}")),
    };
    if ["file:///", "filesystem:///"].iter().any(|scheme| url.starts_with(scheme)) {
        return invalid("File based imports are not allowed. Please use a non-local source of image data.".to_owned());
    }
    if !["http://", "https://"].iter().any(|scheme| url.starts_with(scheme)) {
        return invalid(
            "The given uri is not valid. Please specify a valid uri from the following list of supported uri ['http']"
                .to_owned(),
        );
    }
    let refused = |_| Error::Invalid(format!("URI for legacy import task does not pass filtering: {url}"));
    app.egress.check(url, Strictness::New).map(drop).map_err(refused)
}

/// Creates a task. An import begins afterwards; a task whose parameters are refused has failed already. At most nine statements.
///
/// # Errors
/// `Invalid` when the image's id is not one.
pub(crate) async fn create_task(
    app: &Arc<App>,
    context: &Context,
    new: NewTask,
    request_id: Option<&str>,
) -> Result<Task> {
    let image_id = match new.input.get("image_id") {
        None | Some(Value::Null) => None,
        Some(Value::String(id)) if id.is_ascii() && id.len() <= 36 => Some(id.clone()),
        Some(_) => return Err(Error::Invalid("'image_id' is not the id of an image.".to_owned())),
    };
    let NewTask { kind, input, image } = new;
    let url = input.get("import_from").and_then(Value::as_str).map(str::to_owned);
    let refusal = refusal(&kind, &input);
    let task = &new_task(app, context, &kind, image_id, request_id, &Value::Object(input))?;
    let creation = match refusal {
        Some(message) => Err(message),
        None => check_image(app, context, image).await?,
    };
    let needs_caller = app.stores.default().acts_for_callers();
    let job = match &creation {
        Err(_) => None,
        Ok(creation) => {
            let holder = needs_caller.then(|| app.process.id.clone());
            let conversion = app.config.taskflow_executor.conversion_format.map(|_| ImportPlugin::ImageConversion);
            let plugins = conversion.into_iter().collect();
            let (stores, must_succeed) = (vec![None], true);
            let parameters = Input { uri: url, stores, must_succeed, plugins, holder, ..Input::default() };
            Some((creation, new_job(context, Method::Legacy.name(), &creation.image().id, task, &parameters)?))
        }
    };
    let (job, message) = (job.as_ref(), creation.as_ref().err());
    if let (Some((_, job)), Some(caller)) = (job, Caller::current().filter(|_| needs_caller)) {
        app.process.keep_token(&job.id, caller.token().clone(), Some(caller));
    }
    let inserted = app
        .db
        .transaction(|mut tx| async move {
            db::tasks::insert(&mut tx, task).await?;
            if let Some((creation, job)) = job {
                creation.insert(&mut tx).await?;
                db::jobs::insert(&mut tx, job).await?;
            }
            if let Some(message) = message {
                db::tasks::fail(&mut tx, &task.id, message, app.now(), expiry(app)).await?;
            }
            Ok((tx, ()))
        })
        .await;
    if let (Err(_), Some((_, job))) = (&inserted, job) {
        app.process.forget_token(&job.id);
    }
    inserted?;
    if job.is_some() {
        start_waiting(app);
    }
    Ok(task.clone())
}

/// Checks the image that an import creates. Returns the message of the task if it is refused.
///
/// # Errors
/// `Unavailable`, `Internal`
async fn check_image(app: &App, context: &Context, image: Result<NewImage>) -> Result<Result<Creation, String>> {
    let checked = async {
        let creation = create::check(app, context, image?, Status::Saving).await?;
        check_described(creation.image())?;
        Ok(creation)
    };
    match checked.await {
        Ok(creation) => Ok(Ok(creation)),
        Err(error @ (Error::Unavailable { .. } | Error::Contended(_) | Error::Internal(_))) => Err(error),
        Err(error) => Ok(Err(error.to_string())),
    }
}

/// Returns the message of a task that fails whatever happens.
fn refusal(kind: &str, input: &Map<String, Value>) -> Option<String> {
    let missing = |fields: &[&str]| {
        let field = fields.iter().find(|field| !input.contains_key(**field))?;
        Some(format!("Input does not contain '{field}' field"))
    };
    match kind {
        "import" => missing(&IMPORT_FIELDS),
        _ if input.is_empty() => Some(format!("Input to {kind} task is empty.")),
        "api_image_import" if !input.contains_key("image_id") => Some("Missing required 'image_id' field".to_owned()),
        "location_import" => missing(&LOCATION_FIELDS).or_else(|| Some(INTERNAL.to_owned())),
        // No image has such a task's lock.
        _ => Some(INTERNAL.to_owned()),
    }
}
