//! The service catalog, which comes with a token.

use serde::Deserialize;

/// The services of the cloud and their endpoints.
#[derive(Debug, Default, Deserialize)]
#[serde(transparent)]
pub(crate) struct Catalog(Vec<Service>);

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
    /// The URL of a service at this interface, in a region if one is given. The case of the region does not matter, as in Glance.
    pub(crate) fn find(&self, service_type: &str, region: Option<&str>, interface: &str) -> Option<&str> {
        let services = self.0.iter().filter(|service| service.kind == service_type);
        let mut fitting = services.flat_map(|service| &service.endpoints).filter(|endpoint| {
            let is_there =
                |region: &str| endpoint.region_id.as_ref().is_some_and(|name| name.eq_ignore_ascii_case(region));
            endpoint.interface.eq_ignore_ascii_case(interface) && region.is_none_or(is_there)
        });
        fitting.next().map(|endpoint| endpoint.url.as_str())
    }

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
