//! The service catalog, which comes with a token.

use serde::Deserialize;

/// The services of the cloud and their endpoints.
#[derive(Debug, Default, Deserialize)]
#[serde(transparent)]
pub(super) struct Catalog(Vec<Service>);

#[derive(Debug, Deserialize)]
struct Service {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    endpoints: Vec<Endpoint>,
}

#[derive(Debug, Deserialize)]
struct Endpoint {
    interface: String,
    region_id: Option<String>,
    url: String,
}

impl Catalog {
    /// The URL of a service, at the first of these interfaces that it has. Without a region, the first region that fits.
    pub(super) fn endpoint(&self, service_type: &str, interfaces: &[String], region: Option<&str>) -> Option<&str> {
        let service = self.0.iter().find(|service| service.kind == service_type)?;
        interfaces.iter().find_map(|interface| {
            let fits = |endpoint: &&Endpoint| {
                endpoint.interface == *interface
                    && region.is_none_or(|region| endpoint.region_id.as_deref() == Some(region))
            };
            service.endpoints.iter().find(fits).map(|endpoint| endpoint.url.as_str())
        })
    }
}
