//! The `http` driver: read-only access to data on web servers.

use std::{fs, ops::Range, sync::Arc, time::Duration};

use futures_util::StreamExt as _;
use reqwest::{Method, Response, StatusCode, header, redirect};
use url::{Host, Url};

use super::{Blob, Driver, Environment, Error, Hold, Object, Result, Stored, location};
use crate::{
    config::HttpStore,
    egress::{EgressFilter, Refused, Strictness},
    model::LocationUrl,
    stream::Chunks,
};

/// The maximum number of redirects that are followed.
const MAX_REDIRECTS: usize = 5;
/// The timeout of connecting, and of each read.
const TIMEOUT: Duration = Duration::from_secs(30);

/// All web servers, as one store.
pub(super) struct HttpDriver {
    filter: Arc<EgressFilter>,
    proxies: Proxies,
    /// The HTTP client for locations that an API client adds.
    new: reqwest::Client,
    /// The HTTP client for locations that are recorded in the database.
    kept: reqwest::Client,
}

/// The schemes that use a proxy, and the hosts of the proxies.
#[derive(Default)]
struct Proxies {
    schemes: Vec<String>,
    hosts: Vec<String>,
}

impl HttpDriver {
    /// # Errors
    /// A description of the invalid option.
    fn new(options: &HttpStore, filter: &Arc<EgressFilter>) -> Result<Self, String> {
        let mut proxies = Proxies::default();
        for (scheme, proxy) in &options.http_proxy_information.0 {
            let url = Url::parse(&proxy_url(proxy)).ok();
            proxies.hosts.extend(url.and_then(|url| Some(url.host_str()?.to_owned())));
            proxies.schemes.push(scheme.clone());
        }
        let new = client(options, filter, Strictness::New, &proxies)?;
        let kept = client(options, filter, Strictness::Kept, &proxies)?;
        Ok(Self { filter: Arc::clone(filter), proxies, new, kept })
    }

    /// Sends a request and follows redirects. A redirect to another origin is checked as strictly as a new location, even if the
    /// first URL is recorded in the database: nothing has checked the new one yet.
    async fn request(&self, url: &LocationUrl, method: Method, mut strictness: Strictness) -> Result<Response> {
        let mut text = url.expose().to_owned();
        for _ in 0..MAX_REDIRECTS {
            let url = self.filter.check(&text, strictness)?;
            if !matches!(url.scheme(), "http" | "https") {
                return Err(Error::BadLocation(
                    "Location URI must start with one of the following schemas: https://, http://",
                ));
            }
            if let (true, Some(Host::Domain(host))) = (self.is_resolved_elsewhere(&url), url.host()) {
                self.filter.resolve(host, strictness).await.map_err(unreachable)?;
            }
            let client = match strictness {
                Strictness::New => &self.new,
                Strictness::Kept => &self.kept,
            };
            let sent = client.request(method.clone(), url.clone()).send().await;
            let response = sent.map_err(|error| unreachable(error.without_url().into()))?;
            match response.status() {
                StatusCode::MOVED_PERMANENTLY | StatusCode::FOUND => {
                    let to = response.headers().get(header::LOCATION).and_then(|to| to.to_str().ok());
                    let nowhere = Error::BadLocation("The HTTP URL attempted to redirect nowhere");
                    text = to.and_then(|to| redirect_target(&url, to)).ok_or(nowhere)?;
                    if !Url::parse(&text).is_ok_and(|to| to.origin() == url.origin()) {
                        strictness = Strictness::New;
                    }
                }
                StatusCode::NOT_FOUND => return Err(Error::NotFound),
                status if status.is_success() => return Ok(response),
                status => {
                    return Err(Error::Unavailable(format!("the web server of a location returned {status}").into()));
                }
            }
        }
        Err(Error::BadLocation("The HTTP URL exceeded 5 maximum redirects."))
    }

    /// Whether the HTTP client's resolver does not check the host's addresses: a proxy resolves the host, or the host is a proxy.
    fn is_resolved_elsewhere(&self, url: &Url) -> bool {
        let host = url.host_str().unwrap_or_default();
        let Proxies { schemes, hosts } = &self.proxies;
        schemes.iter().any(|scheme| scheme == url.scheme()) || hosts.iter().any(|proxy| proxy == host)
    }
}

/// The URL that a redirect leads to. An absolute URL is returned verbatim, because the filter also checks its spelling.
fn redirect_target(from: &Url, to: &str) -> Option<String> {
    let is_absolute = Url::parse(to).is_ok();
    if is_absolute { Some(to.to_owned()) } else { from.join(to).ok().map(String::from) }
}

fn unreachable(error: Box<dyn std::error::Error + Send + Sync>) -> Error {
    Refused::cause_of(&*error).map_or_else(|| Error::Unreachable(error), Error::Refused)
}

fn proxy_url(proxy: &str) -> String {
    if proxy.contains("://") { proxy.to_owned() } else { format!("http://{proxy}") }
}

/// Builds an HTTP client that connects only to addresses that the filter allows.
fn client(
    options: &HttpStore,
    filter: &Arc<EgressFilter>,
    strictness: Strictness,
    proxies: &Proxies,
) -> Result<reqwest::Client, String> {
    let mut client = reqwest::Client::builder()
        .dns_resolver(filter.resolver(strictness, &proxies.hosts))
        .redirect(redirect::Policy::none())
        .no_proxy()
        // No connection is reused: a server can close an idle one just when the next request is sent, and connecting is cheap
        // compared to a download.
        .pool_max_idle_per_host(0)
        .connect_timeout(TIMEOUT)
        .read_timeout(TIMEOUT);
    match &options.https_ca_certificates_file {
        Some(file) => {
            let pem = fs::read(file).map_err(|error| format!("{}: {error}", file.display()))?;
            let certificates = reqwest::Certificate::from_pem_bundle(&pem).map_err(|error| error.to_string())?;
            client = client.tls_certs_only(certificates);
        }
        None if options.https_insecure => client = client.tls_danger_accept_invalid_certs(true),
        None => {}
    }
    for (scheme, proxy) in &options.http_proxy_information.0 {
        let proxy = proxy_url(proxy);
        let proxy = match scheme.as_str() {
            "http" => reqwest::Proxy::http(proxy),
            "https" => reqwest::Proxy::https(proxy),
            _ => return Err("http_proxy_information: the scheme must be http or https".to_owned()),
        };
        client = client
            .proxy(proxy.map_err(|_| "http_proxy_information: the address of a proxy is not a valid URL".to_owned())?);
    }
    client.build().map_err(|error| error.to_string())
}

fn content_length(response: &Response) -> Option<u64> {
    response.headers().get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

impl Driver for HttpDriver {
    type Options = HttpStore;

    fn open(_: Option<&str>, options: &HttpStore, environment: &Environment<'_>) -> (Option<Self>, Option<String>) {
        match Self::new(options, environment.filter) {
            Ok(driver) => (Some(driver), None),
            Err(fault) => (None, Some(format!("it cannot be used: {fault}"))),
        }
    }

    fn owns(&self, url: &LocationUrl) -> bool {
        matches!(location::scheme(url).as_str(), "http" | "https")
    }

    async fn put(&self, _: &Object, _: Chunks, _: u64) -> Result<Stored> {
        Err(Error::ReadOnly)
    }

    async fn get(&self, url: &LocationUrl, range: Option<Range<u64>>) -> Result<Blob> {
        if let Some(range) = range {
            return Err(Error::NoRange(range));
        }
        let response = self.request(url, Method::GET, Strictness::Kept).await?;
        let size = content_length(&response);
        let data = response.bytes_stream().map(|part| part.map_err(|error| error.without_url().into()));
        Ok(Blob { size, data: Box::pin(data) })
    }

    async fn delete(&self, _: &LocationUrl) -> Result<()> {
        Err(Error::NoDelete)
    }

    async fn size(&self, url: &LocationUrl) -> Result<u64> {
        let response = self.request(url, Method::HEAD, Strictness::New).await?;
        Ok(content_length(&response).unwrap_or_default())
    }

    async fn unfinished(&self, _: Duration) -> Result<Vec<Object>> {
        Ok(Vec::new())
    }

    async fn discard(&self, _: &Object, _: Option<Hold>) -> Result<()> {
        Ok(())
    }
}
