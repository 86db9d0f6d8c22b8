//! The HTTP interface: the router, and the order in which middleware sees a request.

mod accept;
mod error;
mod extract;
mod healthcheck;
mod json;
mod linger;
mod links;
mod middleware;
mod resource;
mod v2;
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

/// The whole interface, as one router.
pub(crate) fn router(app: SharedApp) -> Router {
    let routes = Router::new()
        .route("/healthcheck", any(healthcheck::show))
        .route("/healthcheck/", any(healthcheck::show))
        .route("/versions", any(versions::list))
        .route("/versions/", any(versions::list))
        .route("/versions/{*rest}", any(versions::list))
        .merge(v2::router(&app))
        .fallback(versions::choices)
        .with_state(Arc::clone(&app));
    // From the outside in.
    let stack = ServiceBuilder::new()
        // Errors get their body here, in the form that the client asks for.
        .layer(from_fn(error::render))
        // Every answer has a request id, and a line in the access log.
        .layer(from_fn_with_state(Arc::clone(&app), middleware::request_id::assign))
        // Browsers are told which pages may call.
        .layer(from_fn_with_state(Arc::clone(&app), middleware::cors::decorate))
        // What is too large to be looked at is not.
        .layer(from_fn_with_state(Arc::clone(&app), middleware::limits::refuse_large_head))
        // A fault of ours is a 500 with its request id, not a closed connection.
        .layer(CatchPanicLayer::custom(error::panicked))
        // Any of the version prefixes is a way to write /v2.
        .layer(MapRequestLayer::new(move |request: Request| versions::normalise(&app, request)));
    // The router is wrapped, not layered: the prefix must be settled before it looks for a route.
    Router::new().fallback_service(stack.service(routes))
}
