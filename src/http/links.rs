//! URLs of this service, as clients reach it, and links between pages.

use std::sync::Once;

use axum::http::{HeaderMap, HeaderName, Uri, header};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::app::App;

const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const FORWARDED_PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");

/// The base URL of the service, without a trailing slash: `public_endpoint` if it is set, otherwise derived from the headers of a
/// trusted proxy and the request's host.
pub(super) fn base(app: &App, headers: &HeaderMap, uri: &Uri) -> String {
    if let Some(endpoint) = &app.config.default.public_endpoint {
        return endpoint.trim_end_matches('/').to_owned();
    }
    let host = header_text(headers, &header::HOST);
    let host = host.or_else(|| uri.authority().map(|authority| authority.as_str())).filter(|host| is_host(host));
    let proxy = app.config.oslo_middleware.enable_proxy_headers_parsing.then(|| Proxy::from_headers(headers));
    proxy.unwrap_or_default().base(host.unwrap_or("localhost"))
}

/// The characters that Python's `urlencode` escapes, except the space.
const QUERY: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b' ');

/// The link to a page of the same listing, relative to the service. Clients resolve it.
pub(super) fn page(path: &str, pairs: &[(String, String)], marker: Option<&str>) -> String {
    let pairs = pairs.iter().map(|(name, value)| (name.as_str(), value.as_str())).filter(|(name, _)| *name != "marker");
    let mut link = path.to_owned();
    for (n, (name, value)) in pairs.chain(marker.map(|marker| ("marker", marker))).enumerate() {
        link.push(if n == 0 { '?' } else { '&' });
        let encode = |text| utf8_percent_encode(text, QUERY).to_string().replace(' ', "+");
        link.push_str(&format!("{}={}", encode(name), encode(value)));
    }
    link
}

/// Warns once if a proxy sends headers that the configuration ignores. Links then lead past the proxy.
pub(super) fn warn_of_ignored_headers(app: &App, headers: &HeaderMap) {
    static WARNED: Once = Once::new();
    let used = app.config.oslo_middleware.enable_proxy_headers_parsing || app.config.default.public_endpoint.is_some();
    if !used && !WARNED.is_completed() {
        let names = [FORWARDED_PROTO, FORWARDED_HOST, FORWARDED_PORT, FORWARDED_PREFIX];
        // Clients that act for a user, such as Horizon, send a `Forwarded` that names only the user's address.
        let forwarded = header_text(headers, &header::FORWARDED).unwrap_or_default().to_ascii_lowercase();
        let forwarded = (forwarded.contains("proto=") || forwarded.contains("host=")).then_some(header::FORWARDED);
        let sent = names.into_iter().filter(|name| headers.contains_key(name));
        if let Some(name) = forwarded.into_iter().chain(sent).next() {
            WARNED.call_once(|| {
                tracing::warn!(
                    "a request has the header {name}, which is ignored: links may have the wrong scheme or host; set \
                     [oslo_middleware] enable_proxy_headers_parsing if a proxy sets the header, or [DEFAULT] public_endpoint"
                );
            });
        }
    }
}

/// The URL that a client requested from a proxy, as the proxy's headers report it. Values that are invalid in a URL are ignored.
#[derive(Debug, Default)]
struct Proxy<'a> {
    scheme: Option<&'a str>,
    host: Option<&'a str>,
    port: Option<&'a str>,
    prefix: Option<&'a str>,
}

impl<'a> Proxy<'a> {
    /// Reads the first element of `Forwarded`, or the older `X-Forwarded-…` headers if there is none.
    fn from_headers(headers: &'a HeaderMap) -> Self {
        let prefix = header_text(headers, &FORWARDED_PREFIX).map(|prefix| prefix.trim_end_matches('/'));
        let reported = match header_text(headers, &header::FORWARDED).filter(|forwarded| !forwarded.is_empty()) {
            Some(forwarded) => {
                let first = forwarded.split(',').next().unwrap_or_default();
                let pairs = || first.split(';').filter_map(|pair| pair.split_once('='));
                let value = |wanted: &str| {
                    let pair = pairs().find(|(name, _)| name.trim().eq_ignore_ascii_case(wanted));
                    pair.map(|(_, value)| value.trim().trim_matches('"'))
                };
                Self { scheme: value("proto"), host: value("host"), port: None, prefix }
            }
            None => Self {
                scheme: first_element(headers, &FORWARDED_PROTO),
                host: first_element(headers, &FORWARDED_HOST),
                port: first_element(headers, &FORWARDED_PORT),
                prefix,
            },
        };
        Self {
            scheme: reported.scheme.filter(|scheme| matches!(*scheme, "http" | "https")),
            host: reported.host.filter(|host| is_host(host)),
            port: reported.port.filter(|port| port.parse::<u16>().is_ok()),
            prefix: reported.prefix.filter(|prefix| is_prefix(prefix)),
        }
    }

    /// The base URL, without the port if it is the default one of the scheme.
    fn base(&self, host: &str) -> String {
        let scheme = self.scheme.unwrap_or("http");
        let host = self.host.unwrap_or(host);
        let (name, port) = match host.rsplit_once(':').filter(|(_, port)| !port.contains(']')) {
            Some((name, port)) => (name, Some(port)),
            None => (host, self.port),
        };
        let port = port.filter(|port| !matches!((scheme, *port), ("http", "80") | ("https", "443")));
        let port = port.map(|port| format!(":{port}")).unwrap_or_default();
        format!("{scheme}://{name}{port}{}", self.prefix.unwrap_or_default())
    }
}

/// The first element of a list, which the proxy that is nearest to the client has added.
fn first_element<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    header_text(headers, name)?.split(',').next().map(str::trim)
}

/// The value of a header, if it is present and text.
fn header_text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// Whether the text contains only characters that are valid in the host and port of a URL.
fn is_host(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_:[]".contains(&b))
}

/// Whether the text contains only characters that are valid in the path of a URL.
fn is_prefix(text: &str) -> bool {
    text.starts_with('/') && text.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_~/%+".contains(&b))
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderMap, HeaderName, HeaderValue};

    use super::Proxy;

    fn base(headers: &[(&'static str, &'static str)]) -> String {
        let pairs =
            headers.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        Proxy::from_headers(&HeaderMap::from_iter(pairs)).base("inside:9292")
    }

    #[test]
    fn the_base_url_is_derived_from_the_headers_of_a_proxy() {
        let cases: [(&[_], _); 13] = [
            (&[], "http://inside:9292"),
            (&[("x-forwarded-proto", "https")], "https://inside:9292"),
            (&[("x-forwarded-proto", "https"), ("x-forwarded-host", "api.example.org")], "https://api.example.org"),
            (&[("x-forwarded-host", "a:8080"), ("x-forwarded-port", "81")], "http://a:8080"),
            (&[("x-forwarded-host", "a"), ("x-forwarded-port", "81")], "http://a:81"),
            (&[("x-forwarded-host", "a:443"), ("x-forwarded-proto", "https")], "https://a"),
            (&[("x-forwarded-host", "[::1]"), ("x-forwarded-prefix", "/image/")], "http://[::1]/image"),
            (&[("forwarded", "For=x;Proto=https;host=\"a:1\", proto=http;host=b")], "https://a:1"),
            (&[("forwarded", "for=x"), ("x-forwarded-host", "a")], "http://inside:9292"),
            (
                &[("x-forwarded-proto", "javascript"), ("x-forwarded-host", "a/b"), ("x-forwarded-prefix", "x")],
                "http://inside:9292",
            ),
            (&[("x-forwarded-port", "80")], "http://inside:9292"),
            (&[("x-forwarded-proto", "https,http")], "https://inside:9292"),
            (
                &[("x-forwarded-proto", "https, http"), ("x-forwarded-host", "a, b"), ("x-forwarded-port", "444, 80")],
                "https://a:444",
            ),
        ];
        for (headers, expected) in cases {
            assert_eq!(base(headers), expected, "{headers:?}");
        }
    }
}
