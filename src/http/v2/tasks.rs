//! `/v2/tasks`, `/v2/tasks/{task_id}` and `/v2/images/{image_id}/tasks`: creates, shows and lists tasks.

use axum::{
    Extension,
    extract::{Request, State},
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use chrono::NaiveDateTime;
use serde_json::{Map, Value, json};

use super::images;
use crate::{
    app::{App, SharedApp},
    context::Context,
    error::{Error, Result},
    http::{
        error::ErrorResponse,
        extract::{ImagePath, JsonObject, NoBody, PathVariables, Query},
        json, links,
        middleware::request_id::RequestId,
    },
    import::{self, NewTask},
    model::{Direction, Task, TaskKey},
    python,
    tasks::{self, TaskQuery},
};

/// The states that a listing can be filtered by.
const STATUSES: [&str; 4] = ["pending", "processing", "success", "failure"];
/// The columns that a listing can be filtered by. As in Glance, others have no effect.
const FILTERS: [TaskKey; 7] = [
    TaskKey::Id,
    TaskKey::Kind,
    TaskKey::Status,
    TaskKey::Owner,
    TaskKey::ImageId,
    TaskKey::RequestId,
    TaskKey::UserId,
];

/// The parameters of a listing that are not filters.
const PARAMETERS: [&str; 4] = ["limit", "marker", "sort_key", "sort_dir"];

fn parse_json(text: Option<&str>) -> Value {
    text.and_then(|text| serde_json::from_str(text).ok()).unwrap_or(Value::Null)
}

/// A task in a listing, or completely.
fn body(task: &Task, is_complete: bool) -> Value {
    let mut body = Map::new();
    let mut add = |name: &str, value: Value| body.insert(name.to_owned(), value);
    add("id", json!(task.id));
    if is_complete {
        add("input", parse_json(task.input.as_deref()));
    }
    add("type", json!(task.kind));
    add("status", json!(task.status.as_str()));
    add("owner", json!(task.owner));
    if is_complete {
        add("message", json!(task.message.as_deref().unwrap_or_default()));
        add("result", parse_json(task.result.as_deref()));
    }
    add("created_at", json!(json::time(task.created_at)));
    add("updated_at", json!(json::time(task.updated_at.unwrap_or(task.created_at))));
    add("self", json!(format!("/v2/tasks/{}", task.id)));
    add("schema", json!("/v2/schemas/task"));
    if is_complete {
        for (name, value) in
            [("image_id", &task.image_id), ("request_id", &task.request_id), ("user_id", &task.user_id)]
        {
            if let Some(value) = value.as_deref().filter(|value| !value.is_empty()) {
                add(name, json!(value));
            }
        }
    }
    if let Some(time) = task.expires_at {
        add("expires_at", json!(json::time(time)));
    }
    Value::Object(body)
}

pub(super) async fn get(
    State(app): State<SharedApp>,
    context: Context,
    PathVariables([id]): PathVariables<1>,
    _: NoBody,
) -> Result<Response> {
    Ok(json::response(&body(&tasks::get(&app, &context, &id).await?, true)))
}

/// As in Glance, tasks cannot be deleted: they expire.
pub(super) async fn delete(State(app): State<SharedApp>, context: Context, _: NoBody) -> Result<Response> {
    tasks::authorise(&app, &context)?;
    let explanation = "This operation is currently not permitted on Glance Tasks. They are auto deleted after reaching the time \
        based on their expires_at property.";
    let mut response = ErrorResponse::bare(StatusCode::METHOD_NOT_ALLOWED, explanation).into_response();
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET"));
    Ok(response)
}

/// Creates a task. As in Glance, the response shows it as it was before it began.
pub(super) async fn create(
    State(app): State<SharedApp>,
    context: Context,
    Extension(RequestId(request_id)): Extension<RequestId>,
    request: Request,
) -> Result<Response, Response> {
    use axum::extract::FromRequest as _;
    tasks::authorise(&app, &context).map_err(Error::into_response)?;
    let (headers, uri) = (request.headers().clone(), request.uri().clone());
    let JsonObject(body) = JsonObject::from_request(request, &app).await?;
    let new = new_task(&app, body).map_err(Error::into_response)?;
    let task = import::create_task(&app, &context, new, Some(&request_id)).await.map_err(Error::into_response)?;
    let location = format!("{}/v2/tasks/{}", links::base(&app, &headers, &uri), task.id);
    let mut response = (StatusCode::CREATED, json::response(&self::body(&task, true))).into_response();
    if let Ok(location) = HeaderValue::from_str(&location) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}

/// Parses the body of a request that creates a task, in Glance's order.
fn new_task(app: &App, mut body: Map<String, Value>) -> Result<NewTask> {
    let missing = |name: &str| Error::Invalid(format!("Task '{name}' is required"));
    if let Some(name) = ["type", "input"].into_iter().find(|name| !body.contains_key(*name)) {
        return Err(missing(name));
    }
    app.schemas.check_task(&body)?;
    let kind = body["type"].as_str().unwrap_or_default().to_owned();
    let input = body.shift_remove("input");
    if kind == "import" {
        import::check_source(app, input.as_ref().and_then(|input| input.get("import_from")))?;
    }
    let Some(Value::Object(input)) = input else { return Err(missing("input")) };
    let image = match input.get("image_properties") {
        Some(Value::Object(properties)) if properties.contains_key("id") => {
            Err(Error::Forbidden("Attribute 'id' is read-only.".to_owned()))
        }
        Some(Value::Object(properties)) => images::new_image(app, properties.clone()),
        _ => Err(Error::Invalid("'image_properties' must be an object".to_owned())),
    };
    Ok(NewTask { kind, input, image })
}

pub(super) async fn list(State(app): State<SharedApp>, context: Context, Query(pairs): Query) -> Result<Response> {
    tasks::authorise(&app, &context)?;
    let (tasks, next) = tasks::list(&app, &context, &parse(&pairs)?).await?;
    let mut page = json!({
        "tasks": tasks.iter().map(|task| body(task, false)).collect::<Vec<_>>(),
        "first": links::page("/v2/tasks", &pairs, None),
        "schema": "/v2/schemas/tasks",
    });
    if let Some(marker) = &next {
        page["next"] = json!(links::page("/v2/tasks", &pairs, Some(marker)));
    }
    Ok(json::response(&page))
}

fn parse(pairs: &[(String, String)]) -> Result<TaskQuery> {
    let last = |name: &str| pairs.iter().rev().find(|(other, _)| other == name).map(|(_, value)| value.as_str());
    let invalid = |message: String| Err(Error::Invalid(message));
    let direction = match last("sort_dir").unwrap_or("desc") {
        "asc" => Direction::Asc,
        "desc" => Direction::Desc,
        other => return invalid(format!("Invalid sort direction: {other}")),
    };
    let known = |name: &str| TaskKey::ALL.into_iter().find(|(other, _)| *other == name).map(|(_, key)| key);
    let mut filters = Vec::new();
    for (name, value) in pairs.iter().filter(|(name, value)| !PARAMETERS.contains(&name.as_str()) && !value.is_empty())
    {
        match name.as_str() {
            "status" if !STATUSES.contains(&value.as_str()) => {
                return invalid(format!("Invalid status value: {value}"));
            }
            "type" if value != "import" => return invalid(format!("Invalid type value: {value}")),
            _ => {}
        }
        filters.extend(known(name).filter(|key| FILTERS.contains(key)).map(|key| (key, value.clone())));
    }
    let marker = last("marker").filter(|marker| !marker.is_empty());
    if marker.is_some_and(|marker| uuid::Uuid::try_parse(marker).is_err()) {
        return invalid("Invalid marker format".to_owned());
    }
    let limit = match last("limit").map(python::parse_int) {
        None => None,
        Some(None) => return invalid("limit param must be an integer".to_owned()),
        Some(Some(limit)) if limit < 0 => return invalid("limit param must be positive".to_owned()),
        Some(Some(limit)) => Some(u32::try_from(limit).unwrap_or(u32::MAX)),
    };
    let key = known(last("sort_key").unwrap_or("created_at"));
    let key = key.ok_or_else(|| Error::Invalid("Sort key supplied was not valid.".to_owned()))?;
    Ok(TaskQuery { limit, marker: marker.map(str::to_owned), key, direction, filters })
}

/// A time as Glance shows it in an image's tasks.
fn precise(time: NaiveDateTime) -> String {
    time.format("%Y-%m-%dT%H:%M:%S%.6f").to_string()
}

pub(super) async fn of_image(
    State(app): State<SharedApp>,
    context: Context,
    ImagePath(id): ImagePath,
    _: NoBody,
) -> Result<Response> {
    let tasks = tasks::of_image(&app, &context, &id).await?;
    let tasks = tasks.iter().map(|task| {
        json!({
            "id": task.id,
            "type": task.kind,
            "status": task.status.as_str(),
            "owner": task.owner,
            "expires_at": task.expires_at.map(precise),
            "created_at": precise(task.created_at),
            "updated_at": task.updated_at.map(precise),
            "deleted_at": null,
            "deleted": false,
            "image_id": task.image_id,
            "request_id": task.request_id,
            "user_id": task.user_id,
            "input": parse_json(task.input.as_deref()),
            "result": parse_json(task.result.as_deref()),
            "message": task.message.as_deref(),
        })
    });
    Ok(json::ascii_response(&json!({ "tasks": tasks.collect::<Vec<_>>() })))
}
