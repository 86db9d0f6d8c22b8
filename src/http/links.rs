//! Absolute URLs of this service, as the client reaches it.

use axum::http::{HeaderMap, HeaderName, Uri, header};

use crate::app::App;

const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const FORWARDED_PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");

/// Where the service is: the configured public endpoint, or where a trusted proxy or the request's host say. Without a slash
/// at its end.
pub(super) fn base(app: &App, headers: &HeaderMap, uri: &Uri) -> String {
    if let Some(endpoint) = &app.config.default.public_endpoint {
        return endpoint.trim_end_matches('/').to_owned();
    }
    let host = text(headers, &header::HOST);
    let host = host.or_else(|| uri.authority().map(|authority| authority.as_str())).filter(|host| is_host(host));
    let proxy = app.config.oslo_middleware.enable_proxy_headers_parsing.then(|| Proxy::of(headers));
    proxy.unwrap_or_default().base(host.unwrap_or("localhost"))
}

/// What a proxy says of the URL that it was asked for. What cannot be in a URL is as if it were not said.
#[derive(Debug, Default)]
struct Proxy<'a> {
    scheme: Option<&'a str>,
    host: Option<&'a str>,
    port: Option<&'a str>,
    prefix: Option<&'a str>,
}

impl<'a> Proxy<'a> {
    /// `Forwarded`, of which the first proxy counts, or the headers from before there was one.
    fn of(headers: &'a HeaderMap) -> Self {
        let prefix = text(headers, &FORWARDED_PREFIX).map(|prefix| prefix.trim_end_matches('/'));
        let said = match text(headers, &header::FORWARDED).filter(|forwarded| !forwarded.is_empty()) {
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
                scheme: text(headers, &FORWARDED_PROTO),
                host: text(headers, &FORWARDED_HOST),
                port: text(headers, &FORWARDED_PORT),
                prefix,
            },
        };
        Self {
            scheme: said.scheme.filter(|scheme| matches!(*scheme, "http" | "https")),
            host: said.host.filter(|host| is_host(host)),
            port: said.port.filter(|port| port.parse::<u16>().is_ok()),
            prefix: said.prefix.filter(|prefix| is_prefix(prefix)),
        }
    }

    /// The URL's start, without the port that its scheme has in any case.
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

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// Whether the text can stand in a URL as its host and port, and nothing else.
fn is_host(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_:[]".contains(&b))
}

/// Whether the text can stand in a URL as the start of its path.
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
        Proxy::of(&HeaderMap::from_iter(pairs)).base("inside:9292")
    }

    #[test]
    fn a_proxy_says_where_clients_are() {
        let cases: [(&[_], _); 11] = [
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
        ];
        for (headers, expected) in cases {
            assert_eq!(base(headers), expected, "{headers:?}");
        }
    }
}
