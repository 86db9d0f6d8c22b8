//! The service catalog, which comes with a token.

use reqwest::Url;
use serde::Deserialize;
use serde_json::{Map, Value};

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

/// A service in the form of Identity v2, which a proxy sends. Its endpoints have members such as `publicURL`.
#[derive(Deserialize)]
struct OldService {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    endpoints: Vec<Map<String, Value>>,
}

impl Catalog {
    /// Parses a catalog in the form of Identity v2; `None` if it is invalid.
    pub(crate) fn parse_v2(text: &str) -> Option<Self> {
        let services: Vec<OldService> = serde_json::from_str(text).ok()?;
        let endpoints = |endpoint: Map<String, Value>| {
            let region_id = endpoint.get("region").and_then(Value::as_str).map(str::to_owned);
            endpoint.into_iter().filter_map(move |(name, url)| {
                let interface = name.strip_suffix("URL")?.to_owned();
                Some(Endpoint { interface, region_id: region_id.clone(), url: url.as_str()?.to_owned() })
            })
        };
        let services = services.into_iter().map(|service| Service {
            kind: service.kind,
            endpoints: service.endpoints.into_iter().flat_map(endpoints).collect(),
        });
        Some(Self(services.collect()))
    }

    /// Whether a URL is on a server of a service: an endpoint at any interface in any region has its scheme, host and port.
    pub(crate) fn has_server(&self, service_type: &str, url: &Url) -> bool {
        let services = self.0.iter().filter(|service| service.kind == service_type);
        let mut endpoints = services.flat_map(|service| &service.endpoints);
        endpoints.any(|endpoint| Url::parse(&endpoint.url).is_ok_and(|own| own.origin() == url.origin()))
    }

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_known_by_its_scheme_host_and_port() {
        let text = r#"[
            {"type": "object-store", "endpoints": [
                {"region": "R", "publicURL": "https://localhost/v1/AUTH_x", "internalURL": "http://127.0.0.1:8080/v1"},
                {"region": "S", "id": "i", "publicURL": "not a URL"}
            ]},
            {"type": "image", "endpoints": [{"region": "R", "publicURL": "http://127.0.0.1"}]}
        ]"#;
        let catalog = Catalog::parse_v2(text).unwrap();
        assert_eq!(catalog.find("object-store", Some("r"), "public"), Some("https://localhost/v1/AUTH_x"));
        assert_eq!(catalog.find("object-store", None, "admin"), None);
        for (url, is_known) in [
            ("https://localhost:443/v1/AUTH_y/c/o", true),
            ("http://127.0.0.1:8080/", true),
            ("http://localhost/v1/AUTH_x", false),
            ("https://localhost:8080/v1/AUTH_x", false),
            ("https://127.0.0.1/v1/AUTH_x", false),
            ("http://127.0.0.1/v1", false),
        ] {
            assert_eq!(catalog.has_server("object-store", &url.parse().unwrap()), is_known, "{url}");
        }
    }
}
