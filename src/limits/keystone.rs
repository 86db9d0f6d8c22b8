//! The limits that Keystone keeps: registered ones, which hold for every project, and those of single projects.
//!
//! They belong to a service and a region, which are looked up by the service's endpoint. By default, Keystone is queried for every
//! request, as in Glance; concurrent requests share one query. `[glimpse] limits_cache_time` caches its response. If Keystone is
//! unreachable after that time, no limit is known: an old limit may be a wrong one.

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

/// How long it is remembered where limits are looked up, which hardly ever changes.
const PLACE_REMEMBERED: Duration = Duration::from_secs(300);
/// Projects whose limits are remembered.
const PROJECTS: u64 = 10_000;
/// The one way in which Keystone may compare limits with usage: each project for itself.
const MODEL: &str = "flat";

/// Keystone, and what is known of its limits.
pub(super) struct Keystone {
    client: Client,
    options: OsloLimit,
    place: Cache<(), Place>,
    registered: Cache<(), Numbers>,
    projects: Cache<String, Numbers>,
    clock: fn() -> DateTime<Utc>,
}

/// Limits by resource.
type Numbers = Arc<HashMap<String, i64>>;

/// What our limits are of.
#[derive(Clone)]
struct Place {
    service: String,
    region: Option<String>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
enum NoAnswer {
    #[error(transparent)]
    Keystone(#[from] KeystoneError),
    /// It answers, but not what these options need.
    #[error("[oslo_limit] {0}")]
    Setup(String),
}

impl From<Arc<NoAnswer>> for Error {
    fn from(error: Arc<NoAnswer>) -> Self {
        match &*error {
            NoAnswer::Keystone(away) => Self::Unavailable { service: "Keystone", source: away.to_string().into() },
            // As in Glance: an operator must mend it.
            NoAnswer::Setup(_) => Self::Internal(error.to_string().into()),
        }
    }
}

#[derive(Deserialize)]
struct Model {
    model: Named,
}

#[derive(Deserialize)]
struct Named {
    name: String,
}

#[derive(Deserialize)]
struct OneEndpoint {
    endpoint: Endpoint,
}

#[derive(Deserialize)]
struct Endpoints {
    endpoints: Vec<Endpoint>,
}

#[derive(Deserialize)]
struct Endpoint {
    service_id: String,
    region_id: Option<String>,
}

#[derive(Deserialize)]
struct Services {
    services: Vec<Id>,
}

#[derive(Deserialize)]
struct OneRegion {
    region: Id,
}

#[derive(Deserialize)]
struct Id {
    id: String,
}

#[derive(Deserialize)]
struct Registered {
    registered_limits: Vec<RegisteredLimit>,
}

#[derive(Deserialize)]
struct RegisteredLimit {
    resource_name: String,
    default_limit: i64,
}

#[derive(Deserialize)]
struct OfProject {
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
            place: Cache::builder().max_capacity(1).time_to_live(PLACE_REMEMBERED).build(),
            registered: Cache::builder().max_capacity(1).time_to_live(cache_time).build(),
            projects: Cache::builder().max_capacity(PROJECTS).time_to_live(cache_time).build(),
            clock,
        })
    }

    /// How much a project may have of a resource: its own limit, else the registered one, else nothing at all. Who acts for no
    /// project is held to the registered one. However many requests ask at once, Keystone is asked once.
    pub(super) async fn limit(&self, project: Option<&str>, resource: &str) -> Result<i64> {
        if let Some(project) = project {
            let own = self.projects.try_get_with_by_ref(project, self.ask_of_project(project)).await?;
            if let Some(limit) = own.get(resource) {
                return Ok(*limit);
            }
        }
        let registered = self.registered.try_get_with((), self.ask_registered()).await?;
        let limit = registered.get(resource).copied();
        if limit.is_none() {
            tracing::error!(resource, "no limit is registered with Keystone for our service: nothing is allowed");
        }
        Ok(limit.unwrap_or_default())
    }

    async fn ask_of_project(&self, project: &str) -> Result<Numbers, NoAnswer> {
        let place = self.place().await?;
        let query = [("project_id", project)];
        let answer: OfProject = self.get("/limits", &[&place.query()[..], &query].concat()).await?;
        Ok(numbers(answer.limits.into_iter().map(|limit| (limit.resource_name, limit.resource_limit))))
    }

    async fn ask_registered(&self) -> Result<Numbers, NoAnswer> {
        let place = self.place().await?;
        let answer: Registered = self.get("/registered_limits", &place.query()).await?;
        Ok(numbers(answer.registered_limits.into_iter().map(|limit| (limit.resource_name, limit.default_limit))))
    }

    async fn place(&self) -> Result<Place, NoAnswer> {
        let known = self.place.try_get_with((), self.ask_place()).await;
        known.map_err(|error| match &*error {
            NoAnswer::Keystone(away) => NoAnswer::Keystone(away.clone()),
            NoAnswer::Setup(message) => NoAnswer::Setup(message.clone()),
        })
    }

    /// Finds our endpoint, as the options name it, once Keystone compares limits in a way that we know.
    async fn ask_place(&self) -> Result<Place, NoAnswer> {
        let model: Model = self.get("/limits/model", &[]).await?;
        if model.model.name != MODEL {
            let message = format!("Keystone's enforcement model {} is not supported; {MODEL} is", model.model.name);
            return Err(NoAnswer::Setup(message));
        }
        let endpoint = match &self.options.endpoint_id {
            Some(id) => {
                let found: Option<OneEndpoint> = self.find("/endpoints/", id).await?;
                found.ok_or_else(|| NoAnswer::Setup(format!("endpoint_id: Keystone knows no endpoint {id}")))?.endpoint
            }
            None => self.find_endpoint().await?,
        };
        Ok(Place { service: endpoint.service_id, region: endpoint.region_id })
    }

    async fn find_endpoint(&self) -> Result<Endpoint, NoAnswer> {
        let options = &self.options;
        let mut query = Vec::new();
        query.extend(options.endpoint_service_type.as_deref().map(|kind| ("type", kind)));
        query.extend(options.endpoint_service_name.as_deref().map(|name| ("name", name)));
        let services: Services = self.get("/services", &query).await?;
        let service = only(services.services, "endpoint_service_name and endpoint_service_type", "services")?;
        let mut query = vec![("service_id", service.id.as_str()), ("interface", options.endpoint_interface.as_str())];
        let region = match &options.endpoint_region_name {
            None => None,
            Some(name) => {
                let found: Option<OneRegion> = self.find("/regions/", name).await?;
                let unknown = || NoAnswer::Setup(format!("endpoint_region_name: Keystone knows no region {name}"));
                Some(found.ok_or_else(unknown)?.region.id)
            }
        };
        query.extend(region.as_deref().map(|id| ("region_id", id)));
        let endpoints: Endpoints = self.get("/endpoints", &query).await?;
        only(endpoints.endpoints, "endpoint_region_name and endpoint_interface", "endpoints of our service")
    }

    /// What there must be, as long as it is Keystone that answers.
    async fn get<T: DeserializeOwned>(&self, path: &str, query: &[(&str, &str)]) -> Result<T, NoAnswer> {
        let found = self.client.get(path, query, &HeaderMap::new(), (self.clock)()).await?;
        found.ok_or_else(|| KeystoneError::Http(format!("Keystone has no {path}")).into())
    }

    /// What there may be by this id, which is what an operator wrote.
    async fn find<T: DeserializeOwned>(&self, folder: &str, id: &str) -> Result<Option<T>, NoAnswer> {
        let id = percent_encoding::utf8_percent_encode(id, percent_encoding::NON_ALPHANUMERIC);
        Ok(self.client.get(&format!("{folder}{id}"), &[], &HeaderMap::new(), (self.clock)()).await?)
    }
}

impl Place {
    fn query(&self) -> Vec<(&str, &str)> {
        let region = self.region.as_deref().map(|region| ("region_id", region));
        [("service_id", self.service.as_str())].into_iter().chain(region).collect()
    }
}

/// The one that fits.
fn only<T>(mut found: Vec<T>, options: &str, what: &str) -> Result<T, NoAnswer> {
    match (found.pop(), found.len()) {
        (Some(one), 0) => Ok(one),
        (None, _) => Err(NoAnswer::Setup(format!("{options}: Keystone knows no such {what}"))),
        (_, more) => Err(NoAnswer::Setup(format!("{options}: {} {what} fit, where one must", more + 1))),
    }
}

/// The first limit of a resource counts, where no region keeps others apart.
fn numbers(limits: impl Iterator<Item = (String, i64)>) -> Numbers {
    let mut numbers = HashMap::new();
    for (resource, limit) in limits {
        numbers.entry(resource).or_insert(limit);
    }
    Arc::new(numbers)
}
