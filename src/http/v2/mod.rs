//! The route table of Image API v2, with one row per resource.

mod actions;
mod cache;
mod data;
mod images;
mod import;
mod info;
mod locations;
mod members;
mod metadefs;
mod schemas;
mod stores;
mod tags;
mod tasks;

use std::sync::Arc;

use axum::{
    Router,
    extract::Request,
    http::StatusCode,
    middleware::{from_fn, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::any,
};

use super::{error::ErrorResponse, middleware, resource::Resource, versions};
use crate::app::SharedApp;

pub(super) fn router(app: &SharedApp) -> Router<SharedApp> {
    let resources = [
        Resource::new("/v2/images").get(images::list).post(images::create),
        Resource::new("/v2/images/{image_id}").get(images::get).patch(images::update).delete(images::delete),
        Resource::new("/v2/images/{image_id}/actions/deactivate").post(actions::deactivate),
        Resource::new("/v2/images/{image_id}/actions/reactivate").post(actions::reactivate),
        Resource::new("/v2/images/{image_id}/file").get(data::download).put(data::upload),
        Resource::new("/v2/images/{image_id}/import").post(import::begin),
        Resource::new("/v2/images/{image_id}/locations").get(locations::list).post(locations::add),
        Resource::new("/v2/images/{image_id}/stage").put(data::stage),
        Resource::new("/v2/images/{image_id}/tasks").get(tasks::of_image),
        Resource::new("/v2/images/{image_id}/members").get(members::list).post(members::add),
        Resource::new("/v2/images/{image_id}/members/{member_id}")
            .get(members::get)
            .put(members::set_status)
            .delete(members::remove),
        Resource::new("/v2/images/{image_id}/tags/{tag}").put(tags::add).delete(tags::remove),
        Resource::new("/v2/tasks").get(tasks::list).post(tasks::create),
        Resource::new("/v2/tasks/{task_id}").get(tasks::get).delete(tasks::delete),
        Resource::new("/v2/info/import").get(import::methods),
        Resource::new("/v2/info/usage").get(info::usage),
        Resource::new("/v2/info/stores").get(stores::list),
        Resource::new("/v2/info/stores/detail").get(stores::detail),
        Resource::new("/v2/stores/{store_id}/{image_id}").delete(stores::remove_data),
        Resource::new("/v2/metadefs/resource_types").get(metadefs::resource_types::list),
        Resource::new("/v2/metadefs/namespaces").get(metadefs::namespaces::list).post(metadefs::namespaces::create),
        Resource::new("/v2/metadefs/namespaces/{namespace}")
            .get(metadefs::namespaces::get)
            .put(metadefs::namespaces::update)
            .delete(metadefs::namespaces::delete),
        Resource::new("/v2/metadefs/namespaces/{namespace}/resource_types")
            .get(metadefs::resource_types::list_associations)
            .post(metadefs::resource_types::associate),
        Resource::new("/v2/metadefs/namespaces/{namespace}/resource_types/{resource_type}")
            .delete(metadefs::resource_types::dissociate),
        Resource::new("/v2/metadefs/namespaces/{namespace}/properties")
            .get(metadefs::properties::list)
            .post(metadefs::properties::create)
            .delete(metadefs::namespaces::delete_properties),
        Resource::new("/v2/metadefs/namespaces/{namespace}/properties/{property}")
            .get(metadefs::properties::get)
            .put(metadefs::properties::update)
            .delete(metadefs::properties::delete),
        Resource::new("/v2/metadefs/namespaces/{namespace}/objects")
            .get(metadefs::objects::list)
            .post(metadefs::objects::create)
            .delete(metadefs::namespaces::delete_objects),
        Resource::new("/v2/metadefs/namespaces/{namespace}/objects/{object}")
            .get(metadefs::objects::get)
            .put(metadefs::objects::update)
            .delete(metadefs::objects::delete),
        Resource::new("/v2/metadefs/namespaces/{namespace}/tags")
            .get(metadefs::tags::list)
            .post(metadefs::tags::create_all)
            .delete(metadefs::namespaces::delete_tags),
        Resource::new("/v2/metadefs/namespaces/{namespace}/tags/{metadef_tag}")
            .get(metadefs::tags::get)
            .post(metadefs::tags::create)
            .put(metadefs::tags::rename)
            .delete(metadefs::tags::delete),
        Resource::new("/v2/cache").get(cache::state).delete(cache::clear),
        Resource::new("/v2/cache/{image_id}").put(cache::queue).delete(cache::remove),
        Resource::new("/v2/cache/nodes/{image_id}").get(cache::nodes),
        Resource::new("/v2/cache/clean").post(cache::clean),
        Resource::new("/v2/cache/prune").post(cache::prune),
        Resource::new("/v2/schemas/image").get(schemas::image),
        Resource::new("/v2/schemas/images").get(schemas::images),
        Resource::new("/v2/schemas/member").get(schemas::member),
        Resource::new("/v2/schemas/members").get(schemas::members),
        Resource::new("/v2/schemas/task").get(schemas::task),
        Resource::new("/v2/schemas/tasks").get(schemas::tasks),
        Resource::new("/v2/schemas/metadefs/namespace").get(schemas::metadefs::namespace),
        Resource::new("/v2/schemas/metadefs/namespaces").get(schemas::metadefs::namespaces),
        Resource::new("/v2/schemas/metadefs/resource_type").get(schemas::metadefs::resource_type),
        Resource::new("/v2/schemas/metadefs/resource_types").get(schemas::metadefs::resource_types),
        Resource::new("/v2/schemas/metadefs/property").get(schemas::metadefs::property),
        Resource::new("/v2/schemas/metadefs/properties").get(schemas::metadefs::properties),
        Resource::new("/v2/schemas/metadefs/object").get(schemas::metadefs::object),
        Resource::new("/v2/schemas/metadefs/objects").get(schemas::metadefs::objects),
        Resource::new("/v2/schemas/metadefs/tag").get(schemas::metadefs::tag),
        Resource::new("/v2/schemas/metadefs/tags").get(schemas::metadefs::tags),
    ];
    let routes = resources.into_iter().fold(Router::new(), |router, resource| resource.add_to(router));
    let routes = if app.config.filters.cache_manage { routes.merge(cache::manage_routes()) } else { routes };
    routes
        .route("/v2", any(versions::redirect))
        .route("/v2/", any(no_route))
        .route("/v2/{*rest}", any(no_route))
        // The innermost layer comes first.
        .layer(from_fn_with_state(Arc::clone(app), middleware::auth::require))
        .layer(from_fn_with_state(Arc::clone(app), middleware::limits::enforce_deadline))
        .layer(from_fn(middleware::not_modified::revalidate))
}

async fn no_route(request: Request) -> Response {
    match request.method().as_str() {
        "GET" | "HEAD" | "POST" | "PUT" | "DELETE" | "PATCH" => ErrorResponse::not_found().into_response(),
        _ => ErrorResponse::method(StatusCode::NOT_IMPLEMENTED, request.method().clone()).into_response(),
    }
}
