//! The caller on whose behalf a task works, for services that it uses with the caller's own token.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use reqwest::{Url, header::HeaderValue};
use tokio::sync::OnceCell;

use super::catalog::Catalog;

tokio::task_local! {
    static CALLER: Caller;
}

/// Reads the service catalog of a caller.
pub(crate) trait ReadCatalog: Send + Sync {
    /// The catalog; `None` if there is none, or if it cannot be read now.
    fn read(&self) -> BoxFuture<'_, Option<Catalog>>;
}

/// A caller: the token, and the catalog, which is read when it is first needed.
#[derive(Clone)]
pub(crate) struct Caller {
    token: HeaderValue,
    source: Arc<dyn ReadCatalog>,
    catalog: Arc<OnceCell<Catalog>>,
}

impl Caller {
    pub(crate) fn new(token: HeaderValue, source: Arc<dyn ReadCatalog>) -> Self {
        Self { token, source, catalog: Arc::default() }
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

    /// The catalog; `None` if there is none, or if it cannot be read now.
    async fn catalog(&self) -> Option<&Catalog> {
        self.catalog.get_or_try_init(async || self.source.read().await.ok_or(())).await.ok()
    }

    /// The URL of the service of this type in the caller's catalog, in a region if one is given, at an interface such as `public`;
    /// `None` if the catalog has none, or cannot be read now.
    pub(crate) async fn endpoint(&self, service_type: &str, region: Option<&str>, interface: &str) -> Option<String> {
        self.catalog().await?.find(service_type, region, interface).map(str::to_owned)
    }

    /// Whether a URL is on a server of this service, at any interface in any region of the caller's catalog; `None` if the catalog
    /// cannot be read now.
    pub(crate) async fn has_server(&self, service_type: &str, url: &Url) -> Option<bool> {
        Some(self.catalog().await?.has_server(service_type, url))
    }
}
