//! The caller on whose behalf a task works, for services that it uses with the caller's own token.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use reqwest::header::HeaderValue;

tokio::task_local! {
    static CALLER: Caller;
}

/// Finds the URL of a service in the catalog of a caller.
pub(crate) trait FindEndpoint: Send + Sync {
    /// The URL of the service of this type, in a region if one is given, at an interface such as `public`; `None` if the catalog has none,
    /// or cannot be read now.
    fn find(&self, service_type: String, region: Option<String>, interface: String) -> BoxFuture<'_, Option<String>>;
}

/// A caller: the token, and the catalog.
#[derive(Clone)]
pub(crate) struct Caller {
    token: HeaderValue,
    catalog: Arc<dyn FindEndpoint>,
}

impl Caller {
    pub(crate) fn new(token: HeaderValue, catalog: Arc<dyn FindEndpoint>) -> Self {
        Self { token, catalog }
    }

    /// The caller on whose behalf this task works, if there is one.
    pub(crate) fn current() -> Option<Self> {
        CALLER.try_with(Clone::clone).ok()
    }

    /// Does work on behalf of a caller.
    pub(crate) async fn scope<T>(caller: Option<Self>, work: impl Future<Output = T>) -> T {
        match caller {
            Some(caller) => CALLER.scope(caller, work).await,
            None => work.await,
        }
    }

    /// The caller's token.
    pub(crate) fn token(&self) -> &HeaderValue {
        &self.token
    }

    /// The URL of a service in the caller's catalog.
    pub(crate) async fn endpoint(&self, service_type: &str, region: Option<&str>, interface: &str) -> Option<String> {
        self.catalog.find(service_type.to_owned(), region.map(str::to_owned), interface.to_owned()).await
    }
}
