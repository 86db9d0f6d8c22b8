//! Authenticates callers before any handler runs. While the server drains, refuses all requests with 503.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};

use futures_util::future::BoxFuture;

use crate::{
    app::SharedApp,
    auth::{Credentials, RequestHead},
    context::Context,
    error::{Error, with_causes},
    http::error,
    keystone::{Caller, Catalog, ReadCatalog},
};

/// The catalog of a caller, which is read when a store needs it.
struct CallersCatalog {
    app: SharedApp,
    credentials: Credentials,
}

impl ReadCatalog for CallersCatalog {
    fn read(&self) -> BoxFuture<'_, Option<Catalog>> {
        Box::pin(async move {
            let catalog = self.app.authenticator.catalog(&self.credentials).await;
            catalog.unwrap_or_else(|error| {
                tracing::error!(error = with_causes(&error), "cannot read the catalog of a caller");
                None
            })
        })
    }
}

/// Refuses requests to routes without authentication while the server drains.
pub(in crate::http) async fn refuse_while_draining(
    State(app): State<SharedApp>,
    request: Request,
    next: Next,
) -> Response {
    if app.is_draining() { error::draining() } else { next.run(request).await }
}

/// Requires a caller, and stores it in the request.
pub(in crate::http) async fn require(State(app): State<SharedApp>, mut request: Request, next: Next) -> Response {
    if app.is_draining() {
        return error::draining();
    }
    let head = RequestHead { headers: request.headers(), method: request.method(), path: request.uri().path() };
    let identity = match app.authenticator.authenticate(&head).await {
        Ok(identity) => identity,
        Err(Error::Unauthenticated) => {
            return error::unauthenticated(app.authenticator.challenge(), app.authenticator.hint());
        }
        Err(error) => return error.into_response(),
    };
    // A changed policy file applies to the next request.
    app.policy.refresh();
    let span = tracing::Span::current();
    span.record("user", identity.user_id.as_deref());
    span.record("project", identity.project_id.as_deref());
    let is_admin = app.policy.is_admin(&identity);
    request.extensions_mut().insert(Context { identity: Arc::new(identity), is_admin });
    let caller = app.stores.act_for_callers().then(|| Credentials::of(request.headers())).and_then(|credentials| {
        let token = credentials.token()?;
        Some(Caller::new(token, Arc::new(CallersCatalog { app: Arc::clone(&app), credentials })))
    });
    Caller::scope(caller, next.run(request)).await
}
