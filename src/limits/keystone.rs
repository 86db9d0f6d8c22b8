//! Keystone's unified limits: registered limits, which are the defaults of all projects, and limits of single projects.
//!
//! They belong to a service and a region, which are looked up by the service's endpoint. By default, Keystone is queried for every
//! request, as in Glance; concurrent requests share one query. `[glimpse] limits_cache_time` caches its response. If Keystone is
//! unreachable after that time, the request fails, because the old limit may have changed.

use std::{collections::HashMap, sync::Arc, time::Duration};

use axum::http::HeaderMap;
use chrono::{DateTime, Utc};
use moka::future::Cache;
use serde::{Deserialize, de::DeserializeOwned};

use crate::{
    config::OsloLimit,
    error::{Error, Result},
    keystone::{Client, KeystoneError},
};

/// How long the service and region are cached. They rarely change.
const SERVICE_CACHE_TIME: Duration = Duration::from_secs(300);
/// The maximum number of projects whose limits are cached.
const CACHED_PROJECTS: u64 = 10_000;
/// The enforcement model of Keystone that is supported: the limits of a project do not depend on other projects.
const MODEL: &str = "flat";

/// A client of Keystone that reads limits and caches them.
pub(super) struct Keystone {
    client: Client,
    options: OsloLimit,
    service_region: Cache<(), ServiceRegion>,
    registered: Cache<(), LimitsByResource>,
    projects: Cache<String, LimitsByResource>,
    clock: fn() -> DateTime<Utc>,
}

/// Limits by the name of the resource.
type LimitsByResource = Arc<HashMap<String, i64>>;

/// The service and the region that Glimpse's limits are registered for.
#[derive(Clone)]
struct ServiceRegion {
    service: String,
    region: Option<String>,
}

/// Why a query for a limit failed.
#[derive(Debug, thiserror::Error)]
enum QueryError {
    #[error(transparent)]
    Keystone(#[from] KeystoneError),
    /// Keystone's data does not fit the options.
    #[error("[oslo_limit] {0}")]
    Misconfigured(String),
}

impl From<Arc<QueryError>> for Error {
    fn from(error: Arc<QueryError>) -> Self {
        match &*error {
            QueryError::Keystone(error) => Self::Unavailable { service: "Keystone", source: error.to_string().into() },
            // As in Glance: 500, because only an operator can correct it.
            QueryError::Misconfigured(_) => Self::Internal(error.to_string().into()),
        }
    }
}

#[derive(Deserialize)]
struct ModelResponse {
    model: Named,
}

#[derive(Deserialize)]
struct Named {
    name: String,
}

#[derive(Deserialize)]
struct EndpointResponse {
    endpoint: Endpoint,
}

#[derive(Deserialize)]
struct EndpointList {
    endpoints: Vec<Endpoint>,
}

#[derive(Deserialize)]
struct Endpoint {
    service_id: String,
    region_id: Option<String>,
}

#[derive(Deserialize)]
struct ServiceList {
    services: Vec<Id>,
}

#[derive(Deserialize)]
struct RegionResponse {
    region: Id,
}

#[derive(Deserialize)]
struct Id {
    id: String,
}

#[derive(Deserialize)]
struct RegisteredLimits {
    registered_limits: Vec<RegisteredLimit>,
}

#[derive(Deserialize)]
struct RegisteredLimit {
    resource_name: String,
    default_limit: i64,
}

#[derive(Deserialize)]
struct ProjectLimits {
    limits: Vec<ProjectLimit>,
}

#[derive(Deserialize)]
struct ProjectLimit {
    resource_name: String,
    resource_limit: i64,
}

impl Keystone {
    pub(super) fn new(options: &OsloLimit, cache_time: Duration, clock: fn() -> DateTime<Utc>) -> Result<Self, String> {
        let named = [&options.endpoint_id, &options.endpoint_service_name, &options.endpoint_service_type];
        if named.iter().all(|option| option.is_none()) {
            return Err("[oslo_limit] endpoint_id is missing, or endpoint_service_name and endpoint_service_type: \
                        without them no limit can be found"
                .to_owned());
        }
        Ok(Self {
            client: Client::new(options)?,
            options: options.clone(),
            service_region: Cache::builder().max_capacity(1).time_to_live(SERVICE_CACHE_TIME).build(),
            registered: Cache::builder().max_capacity(1).time_to_live(cache_time).build(),
            projects: Cache::builder().max_capacity(CACHED_PROJECTS).time_to_live(cache_time).build(),
            clock,
        })
    }

    /// The limit of a project for a resource: the project's own limit, else the registered one, else 0. Without a project, the
    /// registered limit applies. Concurrent calls share one query.
    pub(super) async fn limit(&self, project: Option<&str>, resource: &str) -> Result<i64> {
        if let Some(project) = project {
            let own = self.projects.try_get_with_by_ref(project, self.query_project(project)).await?;
            if let Some(limit) = own.get(resource) {
                return Ok(*limit);
            }
        }
        let registered = self.registered.try_get_with((), self.query_registered()).await?;
        let limit = registered.get(resource).copied();
        if limit.is_none() {
            tracing::error!(
                resource,
                "no limit is registered with Keystone for our service; requests that need it are refused"
            );
        }
        Ok(limit.unwrap_or_default())
    }

    async fn query_project(&self, project: &str) -> Result<LimitsByResource, QueryError> {
        let service_region = self.service_region().await?;
        let query = [("project_id", project)];
        let answer: ProjectLimits = self.get("/limits", &[&service_region.query()[..], &query].concat()).await?;
        Ok(by_resource(answer.limits.into_iter().map(|limit| (limit.resource_name, limit.resource_limit))))
    }

    async fn query_registered(&self) -> Result<LimitsByResource, QueryError> {
        let service_region = self.service_region().await?;
        let answer: RegisteredLimits = self.get("/registered_limits", &service_region.query()).await?;
        Ok(by_resource(answer.registered_limits.into_iter().map(|limit| (limit.resource_name, limit.default_limit))))
    }

    async fn service_region(&self) -> Result<ServiceRegion, QueryError> {
        let known = self.service_region.try_get_with((), self.find_service_region()).await;
        known.map_err(|error| match &*error {
            QueryError::Keystone(error) => QueryError::Keystone(error.clone()),
            QueryError::Misconfigured(message) => QueryError::Misconfigured(message.clone()),
        })
    }

    /// Finds Glimpse's endpoint by the options, after a check that the enforcement model is supported.
    async fn find_service_region(&self) -> Result<ServiceRegion, QueryError> {
        let model: ModelResponse = self.get("/limits/model", &[]).await?;
        if model.model.name != MODEL {
            let message = format!("Keystone's enforcement model {} is not supported; {MODEL} is", model.model.name);
            return Err(QueryError::Misconfigured(message));
        }
        let endpoint = match &self.options.endpoint_id {
            Some(id) => {
                let found: Option<EndpointResponse> = self.find("/endpoints/", id).await?;
                found
                    .ok_or_else(|| QueryError::Misconfigured(format!("endpoint_id: Keystone knows no endpoint {id}")))?
                    .endpoint
            }
            None => self.find_endpoint().await?,
        };
        Ok(ServiceRegion { service: endpoint.service_id, region: endpoint.region_id })
    }

    async fn find_endpoint(&self) -> Result<Endpoint, QueryError> {
        let options = &self.options;
        let mut query = Vec::new();
        query.extend(options.endpoint_service_type.as_deref().map(|kind| ("type", kind)));
        query.extend(options.endpoint_service_name.as_deref().map(|name| ("name", name)));
        let services: ServiceList = self.get("/services", &query).await?;
        let service = only(services.services, "endpoint_service_name and endpoint_service_type", "services")?;
        let mut query = vec![("service_id", service.id.as_str()), ("interface", options.endpoint_interface.as_str())];
        let region = match &options.endpoint_region_name {
            None => None,
            Some(name) => {
                let found: Option<RegionResponse> = self.find("/regions/", name).await?;
                let unknown =
                    || QueryError::Misconfigured(format!("endpoint_region_name: Keystone knows no region {name}"));
                Some(found.ok_or_else(unknown)?.region.id)
            }
        };
        query.extend(region.as_deref().map(|id| ("region_id", id)));
        let endpoints: EndpointList = self.get("/endpoints", &query).await?;
        only(endpoints.endpoints, "endpoint_region_name and endpoint_interface", "endpoints of the service")
    }

    /// Reads a resource that every Keystone has.
    async fn get<T: DeserializeOwned>(&self, path: &str, query: &[(&str, &str)]) -> Result<T, QueryError> {
        let found = self.client.get(path, query, &HeaderMap::new(), (self.clock)()).await?;
        found.ok_or_else(|| KeystoneError::Http(format!("Keystone has no {path}")).into())
    }

    /// Reads the resource with an id from the options; `None` if there is none.
    async fn find<T: DeserializeOwned>(&self, folder: &str, id: &str) -> Result<Option<T>, QueryError> {
        let id = percent_encoding::utf8_percent_encode(id, percent_encoding::NON_ALPHANUMERIC);
        Ok(self.client.get(&format!("{folder}{id}"), &[], &HeaderMap::new(), (self.clock)()).await?)
    }
}

impl ServiceRegion {
    fn query(&self) -> Vec<(&str, &str)> {
        let region = self.region.as_deref().map(|region| ("region_id", region));
        [("service_id", self.service.as_str())].into_iter().chain(region).collect()
    }
}

/// The only element of the list.
fn only<T>(mut found: Vec<T>, options: &str, what: &str) -> Result<T, QueryError> {
    match (found.pop(), found.len()) {
        (Some(one), 0) => Ok(one),
        (None, _) => Err(QueryError::Misconfigured(format!("{options}: Keystone knows no such {what}"))),
        (_, more) => {
            Err(QueryError::Misconfigured(format!("{options}: {} {what} match, but exactly one must", more + 1)))
        }
    }
}

/// The limits by resource. Without a region, a resource can have several limits; the first one applies.
fn by_resource(limits: impl Iterator<Item = (String, i64)>) -> LimitsByResource {
    let mut by_resource = HashMap::new();
    for (resource, limit) in limits {
        by_resource.entry(resource).or_insert(limit);
    }
    Arc::new(by_resource)
}
