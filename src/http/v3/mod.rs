//! The part of the Identity API v3 that clients need to log in to a server that has its own users. Other servers do not have these
//! routes.

mod catalog;
mod domains;
mod error;
mod login;
mod projects;
mod tokens;
mod users;
mod version;

use std::{convert::Infallible, sync::Arc};

use axum::{
    Router,
    extract::FromRequestParts,
    http::request::Parts,
    middleware::from_fn_with_state,
    routing::{any, get, post},
};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use super::{extract::Query, links, middleware};
use crate::{
    app::SharedApp,
    auth::standalone::{DOMAIN_ID, DOMAIN_NAME, Filter, Standalone},
    error::Error,
};

/// What is percent-encoded in the segment of a path.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

pub(super) fn router(app: &SharedApp) -> Router<SharedApp> {
    // A GET route answers HEAD as well, as Keystone does.
    Router::new()
        .route("/v3/auth/tokens", get(tokens::show).delete(tokens::revoke))
        .route("/v3/auth/catalog", get(catalog::show))
        .route("/v3/auth/projects", get(projects::list_own))
        .route("/v3/auth/domains", get(domains::list_own))
        .route("/v3/auth/system", get(domains::list_systems))
        .route("/v3/projects", get(projects::list))
        .route("/v3/projects/{project_id}", get(projects::show))
        .route("/v3/users", get(users::list))
        .route("/v3/users/{user_id}", get(users::show))
        .route("/v3/users/{user_id}/projects", get(projects::list_of_user))
        .route("/v3/domains", get(domains::list))
        .route("/v3/domains/{domain_id}", get(domains::show))
        .route("/v3/regions", get(catalog::regions))
        .route("/v3/regions/{region_id}", get(catalog::region))
        // The innermost layer comes first.
        .route_layer(from_fn_with_state(Arc::clone(app), middleware::auth::require))
        // Routes without authentication.
        .route("/v3", get(version::show))
        .route("/v3/", get(version::show))
        .route("/v3/auth/tokens", post(tokens::issue))
        .route("/v3/{*rest}", any(error::no_route))
        .method_not_allowed_fallback(error::method_not_allowed)
        .layer(from_fn_with_state(Arc::clone(app), middleware::auth::refuse_while_draining))
        .layer(from_fn_with_state(Arc::clone(app), middleware::limits::enforce_deadline))
        .layer(from_fn_with_state(Arc::clone(app), error::render))
}

/// The users of this server.
struct Directory(Arc<Standalone>);

impl FromRequestParts<SharedApp> for Directory {
    type Rejection = Error;

    async fn from_request_parts(_: &mut Parts, app: &SharedApp) -> Result<Self, Error> {
        app.authenticator.standalone().cloned().map(Self).ok_or_else(Error::resource_not_found)
    }
}

/// The URLs of this service, as the client reaches it.
struct Urls {
    /// The base URL, without a trailing slash.
    base: String,
    /// The URL of the request.
    own: String,
}

impl FromRequestParts<SharedApp> for Urls {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, app: &SharedApp) -> Result<Self, Infallible> {
        let base = links::base(app, &parts.headers, &parts.uri);
        let own = format!("{base}{}", parts.uri.path_and_query().map_or("", |target| target.as_str()));
        Ok(Self { base, own })
    }
}

impl Urls {
    /// The URL of an object of the Identity API, such as `projects` and its id.
    fn identity(&self, collection: &str, id: &str) -> String {
        format!("{}/v3/{collection}/{}", self.base, utf8_percent_encode(id, SEGMENT))
    }

    /// A whole listing, which has one page.
    fn listing(&self, collection: &str, items: impl IntoIterator<Item = Value>) -> Value {
        json!({
            collection: Value::from_iter(items),
            "links": { "next": null, "self": self.own, "previous": null },
        })
    }
}

/// The filter of a listing. Other parameters are ignored.
fn filter(Query(pairs): Query) -> Filter {
    let find = |wanted: &str| pairs.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.clone());
    Filter { name: find("name"), domain_id: find("domain_id") }
}

/// The domain as a part of a user or a project.
fn domain() -> Value {
    json!({ "id": DOMAIN_ID, "name": DOMAIN_NAME })
}
