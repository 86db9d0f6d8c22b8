//! `/v2/images` and `/v2/images/{image_id}`: creates, lists, shows, updates and deletes images.

mod body;
mod patch;
mod query;

use axum::{
    extract::State,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;

use self::body::ImageBody;
pub(super) use self::body::{LocationBody, new_image};
use crate::{
    app::SharedApp,
    context::Context,
    data::other_node::Incoming,
    error::Result,
    http::{
        extract::{ImagePath, JsonObject, JsonPatch, NoBody, Query},
        json, links,
        no_content::NoContent,
    },
    images::{self},
    import,
};

const IMPORT_METHODS: HeaderName = HeaderName::from_static("openstack-image-import-methods");
const STORE_IDS: HeaderName = HeaderName::from_static("openstack-image-store-ids");

pub(super) async fn create(
    State(app): State<SharedApp>,
    context: Context,
    uri: Uri,
    headers: HeaderMap,
    JsonObject(body): JsonObject,
) -> Result<Response> {
    let new = body::new_image(&app, body)?;
    let view = images::create(&app, &context, new).await?;
    let location = format!("{}/v2/images/{}", links::base(&app, &headers, &uri), view.image.id);
    let mut response = (StatusCode::CREATED, json::response(&ImageBody::new(&app, &view))).into_response();
    if let Ok(location) = HeaderValue::from_str(&location) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    let methods = import::methods(&app).join(",");
    if let (false, Ok(methods)) = (methods.is_empty(), HeaderValue::from_str(&methods)) {
        response.headers_mut().insert(IMPORT_METHODS, methods);
    }
    if app.stores.are_named {
        let ids: Vec<&str> = app.stores.iter().map(|store| store.id.as_str()).collect();
        if let Ok(ids) = HeaderValue::from_str(&ids.join(",")) {
            response.headers_mut().insert(STORE_IDS, ids);
        }
    }
    Ok(response)
}

pub(super) async fn get(
    State(app): State<SharedApp>,
    context: Context,
    ImagePath(id): ImagePath,
    _: NoBody,
) -> Result<Response> {
    let view = images::get(&app, &context, &id).await?;
    Ok(json::response(&ImageBody::new(&app, &view)))
}

pub(super) async fn update(
    State(app): State<SharedApp>,
    context: Context,
    ImagePath(id): ImagePath,
    JsonPatch(dialect, operations): JsonPatch,
) -> Result<Response> {
    let changes = patch::changes(&app, dialect, operations)?;
    let view = images::update(&app, &context, &id, &changes).await?;
    Ok(json::response(&ImageBody::new(&app, &view)))
}

#[derive(Serialize)]
struct PageBody<'p> {
    images: Vec<ImageBody<'p>>,
    first: String,
    schema: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

pub(super) async fn list(State(app): State<SharedApp>, context: Context, Query(pairs): Query) -> Result<Response> {
    let page = images::list(&app, &context, &query::parse(&pairs)?).await?;
    let next = page.next_marker.as_deref();
    Ok(json::response(&PageBody {
        images: page.images.iter().map(|view| ImageBody::new(&app, view)).collect(),
        first: links::page("/v2/images", &pairs, None),
        schema: "/v2/schemas/images",
        next: next.map(|marker| links::page("/v2/images", &pairs, Some(marker))),
    }))
}

pub(super) async fn delete(
    State(app): State<SharedApp>,
    context: Context,
    ImagePath(id): ImagePath,
    incoming: Incoming,
    _: NoBody,
) -> Result<NoContent> {
    images::delete(&app, &context, &id, &incoming).await?;
    Ok(NoContent)
}
