//! The HTTP interface: the router, and the order of its middleware.

mod accept;
mod error;
mod extract;
mod healthcheck;
mod json;
mod linger;
mod links;
mod middleware;
mod no_content;
mod resource;
mod v2;
mod v3;
mod versions;

use std::sync::Arc;

use axum::{
    Router,
    extract::Request,
    middleware::{from_fn, from_fn_with_state},
    routing::any,
};
use tower::{ServiceBuilder, util::MapRequestLayer};
use tower_http::catch_panic::CatchPanicLayer;

use crate::app::SharedApp;

/// The router of the whole interface.
pub(crate) fn router(app: SharedApp) -> Router {
    let routes = Router::new()
        .route("/healthcheck", any(healthcheck::check))
        .route("/healthcheck/", any(healthcheck::check))
        .route("/versions", any(versions::list))
        .route("/versions/", any(versions::list))
        .route("/versions/{*rest}", any(versions::list))
        .merge(v2::router(&app));
    // Where Keystone has the users, clients ask Keystone.
    let routes = if app.authenticator.standalone().is_some() { routes.merge(v3::router(&app)) } else { routes };
    let routes = routes.fallback(versions::choices).with_state(Arc::clone(&app));
    let memory = middleware::memory::Memory::new(app.config.glimpse.body_memory.0);
    // The outermost layer comes first.
    let stack = ServiceBuilder::new()
        // Reads the rest of a body that the following layers reject, so that the client receives the response.
        .layer(from_fn_with_state(Arc::clone(&app), linger::read_rest))
        // Writes the access log.
        .layer(from_fn(middleware::access_log::write))
        // Compresses bodies, if the paste pipeline says so.
        .layer(from_fn_with_state(Arc::clone(&app), middleware::gzip::compress))
        // Renders the body of errors in the format that the client accepts.
        .layer(from_fn(error::render))
        // Gives each response a request id.
        .layer(from_fn_with_state(Arc::clone(&app), middleware::request_id::assign))
        // Adds the CORS headers.
        .layer(from_fn_with_state(Arc::clone(&app), middleware::cors::decorate))
        // Rejects oversized request heads before anything parses them.
        .layer(from_fn_with_state(Arc::clone(&app), middleware::limits::refuse_large_head))
        // Bounds the memory of bodies.
        .layer(from_fn_with_state(memory, middleware::memory::charge))
        // A panic, which is a bug in Glimpse, becomes a 500 with a request id, not a closed connection.
        .layer(CatchPanicLayer::custom(error::panicked))
        // Rewrites all version prefixes to /v2, and warns of a proxy whose headers are ignored.
        .layer(MapRequestLayer::new(move |request: Request| {
            links::warn_of_ignored_headers(&app, request.headers());
            versions::normalise(&app, request)
        }));
    // The layers wrap the router instead of being added to it, because the path must be rewritten before the router matches it.
    Router::new().fallback_service(stack.service(routes))
}
