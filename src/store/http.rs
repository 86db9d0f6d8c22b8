//! The driver `http`: data on other people's web servers, to be read.

use std::{fs, ops::Range, time::Duration};

use futures_util::StreamExt as _;
use reqwest::{Method, Response, StatusCode, header, redirect};
use url::Url;

use super::{Blob, Driver, Error, Hold, Object, Result, Stored};
use crate::{config::HttpStore, db::locations::LocationUrl, stream::Chunks};

/// Redirections that are followed.
const MAX_REDIRECTS: usize = 5;
/// How long a connection may take, and how long a server may say nothing.
const PATIENCE: Duration = Duration::from_secs(30);

/// Web servers, as one store.
pub(super) struct HttpDriver {
    client: reqwest::Client,
}

impl HttpDriver {
    /// # Errors
    /// What is wrong with its options.
    pub(super) fn open(options: &HttpStore) -> Result<Self, String> {
        let mut client = reqwest::Client::builder()
            .redirect(redirect::Policy::none())
            .no_proxy()
            // A server may close a connection that was idle just when the next request is sent; data takes longer than a
            // connection.
            .pool_max_idle_per_host(0)
            .connect_timeout(PATIENCE)
            .read_timeout(PATIENCE);
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
            let proxy = if proxy.contains("://") { proxy.clone() } else { format!("http://{proxy}") };
            let proxy = match scheme.as_str() {
                "http" => reqwest::Proxy::http(proxy),
                "https" => reqwest::Proxy::https(proxy),
                _ => return Err("http_proxy_information: http or https is wanted".to_owned()),
            };
            client = client.proxy(proxy.map_err(|_| "http_proxy_information: a proxy is no URL".to_owned())?);
        }
        Ok(Self { client: client.build().map_err(|error| error.to_string())? })
    }

    /// Asks for the data, wherever the server sends us.
    async fn ask(&self, url: &LocationUrl, method: Method) -> Result<Response> {
        let mut url = Url::parse(url.expose()).map_err(|_| Error::BadLocation("The Store URI was malformed"))?;
        for _ in 0..MAX_REDIRECTS {
            if !matches!(url.scheme(), "http" | "https") {
                return Err(Error::BadLocation(
                    "Location URI must start with one of the following schemas: https://, http://",
                ));
            }
            let sent = self.client.request(method.clone(), url.clone()).send().await;
            let response = sent.map_err(|error| Error::Unavailable(error.without_url().into()))?;
            match response.status() {
                StatusCode::MOVED_PERMANENTLY | StatusCode::FOUND => {
                    let to = response.headers().get(header::LOCATION).and_then(|to| to.to_str().ok());
                    let to = to.and_then(|to| url.join(to).ok());
                    url = to.ok_or(Error::BadLocation("The HTTP URL attempted to redirect nowhere"))?;
                }
                StatusCode::NOT_FOUND => return Err(Error::NotFound),
                status if status.is_success() => return Ok(response),
                status => {
                    return Err(Error::Unavailable(format!("the web server of a location answers {status}").into()));
                }
            }
        }
        Err(Error::BadLocation("The HTTP URL exceeded 5 maximum redirects."))
    }
}

fn length(response: &Response) -> Option<u64> {
    response.headers().get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

impl Driver for HttpDriver {
    async fn put(&self, _: &Object, _: Chunks, _: u64) -> Result<Stored> {
        Err(Error::ReadOnly)
    }

    async fn get(&self, url: &LocationUrl, range: Option<Range<u64>>) -> Result<Blob> {
        if let Some(range) = range {
            return Err(Error::NoRange(range));
        }
        let response = self.ask(url, Method::GET).await?;
        let size = length(&response);
        let data = response.bytes_stream().map(|part| part.map_err(|error| error.without_url().into()));
        Ok(Blob { size, data: Box::pin(data) })
    }

    async fn delete(&self, _: &LocationUrl) -> Result<()> {
        Err(Error::NoDelete)
    }

    async fn size(&self, url: &LocationUrl) -> Result<u64> {
        let response = self.ask(url, Method::HEAD).await?;
        Ok(length(&response).unwrap_or_default())
    }

    async fn unfinished(&self, _: Duration) -> Result<Vec<Object>> {
        Ok(Vec::new())
    }

    async fn discard(&self, _: &Object, _: Option<Hold>) -> Result<()> {
        Ok(())
    }
}
