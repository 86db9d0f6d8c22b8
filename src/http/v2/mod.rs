//! The route table of Image API v2: a row a resource.

mod images;
mod schemas;
mod tags;

use std::sync::Arc;

use axum::{
    Router,
    extract::Request,
    http::StatusCode,
    middleware::from_fn_with_state,
    response::{IntoResponse, Response},
    routing::any,
};

use super::{SharedApp, error::Refusal, extract, middleware, resource::Resource, versions};

pub(super) fn router(app: &SharedApp) -> Router<SharedApp> {
    let resources = [
        Resource::new("/v2/images").get(images::list).post(images::create),
        Resource::new("/v2/images/{image_id}").get(images::show).delete(images::delete),
        Resource::new("/v2/images/{image_id}/tags/{tag}").put(tags::add).delete(tags::remove),
        Resource::new("/v2/schemas/image").get(schemas::image),
        Resource::new("/v2/schemas/images").get(schemas::images),
    ];
    resources
        .into_iter()
        .fold(Router::new(), |router, resource| resource.add_to(router))
        .route("/v2", any(versions::redirect))
        .route("/v2/", any(no_route))
        .route("/v2/{*rest}", any(no_route))
        .layer(from_fn_with_state(Arc::clone(app), middleware::auth::require))
}

async fn no_route(request: Request) -> Response {
    if extract::is_known(request.method()) {
        return Refusal::not_found().into_response();
    }
    Refusal::method(StatusCode::NOT_IMPLEMENTED, request.method().clone()).into_response()
}
