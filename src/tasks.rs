//! Tasks: what clients see of work that continues after its request.

use crate::{
    access,
    app::App,
    context::Context,
    db::{self, tasks::TaskListing},
    error::{Error, Result},
    model::{Direction, RequestedId, Task, TaskKey},
    policy::{Target, rule},
};

/// The input of a listing.
#[derive(Debug)]
pub(crate) struct TaskQuery {
    /// The number of tasks per page, if the request has one.
    pub(crate) limit: Option<u32>,
    /// The task after which the page starts.
    pub(crate) marker: Option<String>,
    /// The sort key.
    pub(crate) key: TaskKey,
    /// The direction.
    pub(crate) direction: Direction,
    /// Columns and the values that they must have.
    pub(crate) filters: Vec<(TaskKey, String)>,
}

/// Checks that the caller is allowed to use the API of tasks.
///
/// # Errors
/// `Forbidden`
pub(crate) fn authorise(app: &App, context: &Context) -> Result<()> {
    if app.policy.allows(&context.identity, rule::TASKS_API_ACCESS, &Target::default()) {
        return Ok(());
    }
    Err(Error::policy_denied(rule::TASKS_API_ACCESS))
}

/// Whether the caller sees a task.
fn is_visible(context: &Context, task: &Task) -> bool {
    context.is_admin || context.project_id() == Some(&task.owner)
}

/// Returns a task. One statement.
///
/// # Errors
/// `Forbidden`, `NotFound`.
pub(crate) async fn get(app: &App, context: &Context, id: &str) -> Result<Task> {
    authorise(app, context)?;
    let task = db::tasks::get(&mut app.db.acquire().await?, id, app.now()).await?;
    let visible = task.filter(|task| is_visible(context, task));
    visible.ok_or_else(|| Error::NotFound(format!("Could not find task {id}")))
}

/// Lists tasks. Also returns the marker of the next page, if there may be one. One statement, one more with a marker.
///
/// # Errors
/// `Forbidden`, `Invalid` when the marker is not a task that the caller sees.
pub(crate) async fn list(app: &App, context: &Context, query: &TaskQuery) -> Result<(Vec<Task>, Option<String>)> {
    authorise(app, context)?;
    let limit = query.limit.unwrap_or(app.config.default.limit_param_default).min(app.config.default.api_limit_max);
    let now = app.now();
    let mut conn = app.db.acquire().await?;
    let marker = match &query.marker {
        None => None,
        Some(id) => {
            let task = db::tasks::get(&mut conn, id, now).await?.filter(|task| is_visible(context, task));
            let not_found = || Error::Invalid(format!("Task with the given id {id} was not found"));
            Some(task.ok_or_else(not_found)?)
        }
    };
    let listing = TaskListing {
        owner: if context.is_admin { None } else { Some(context.project_id().unwrap_or_default()) },
        filters: &query.filters,
        key: query.key,
        direction: query.direction,
        marker: marker.as_ref(),
        limit: limit.into(),
        now,
    };
    let tasks = if limit == 0 { Vec::new() } else { db::tasks::list(&mut conn, &listing).await? };
    let next = tasks.last().filter(|_| tasks.len() == limit as usize).map(|task| task.id.clone());
    Ok((tasks, next))
}

/// Returns the tasks of an image that the caller sees. Two statements, one more where another project shares the image.
///
/// # Errors
/// `NotFound`
pub(crate) async fn of_image(app: &App, context: &Context, id: &RequestedId) -> Result<Vec<Task>> {
    let mut conn = app.db.acquire().await?;
    let image = access::find(app, &mut conn, context, id).await?.ok_or_else(Error::resource_not_found)?;
    access::authorise(app, context, &image, rule::GET_IMAGE)?;
    let mut tasks = db::tasks::of_image(&mut conn, &image.id, app.now()).await?;
    tasks.retain(|task| is_visible(context, task));
    Ok(tasks)
}
