//! Restricts the URLs to which users can make this service connect, to prevent server-side request forgery (SSRF).
//!
//! A user who makes the service fetch a URL can try to reach what only this machine can reach: the machine itself, the cloud's
//! metadata service, or a neighbour that trusts it. Therefore each URL is first checked against `[import_filtering_opts]`, as in
//! Glance. The addresses of its host are checked when the connection is made, because an earlier lookup of the name could have
//! returned other ones (DNS rebinding). Each redirection is checked like a URL that a user provides.

use std::{
    collections::HashMap,
    fmt, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use futures_util::future::BoxFuture;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::sync::Semaphore;
use url::{Host, Url};

use crate::config::{HostAddress, ImportFilteringOpts, Port};

/// The maximum number of concurrent DNS lookups for URLs of each [`Strictness`]. Each blocks a thread of the pool that also reads
/// and writes files until the system's resolver returns, and users choose the name servers that it waits for.
const MAX_LOOKUPS: usize = 8;
/// The maximum number of concurrent DNS lookups on behalf of a project. Fewer than [`MAX_LOOKUPS`], so that name servers which do
/// not respond to one project's lookups do not block those of all others.
const MAX_LOOKUPS_OF_PROJECT: usize = 2;
/// How long a request waits for the addresses of a name.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(10);

tokio::task_local! {
    /// The project on whose behalf this task connects.
    static PROJECT: String;
}

/// Does work that connects on behalf of a project, whose lookups are limited.
pub(crate) async fn on_behalf_of<T>(project: Option<&str>, work: impl Future<Output = T>) -> T {
    match project {
        Some(project) => PROJECT.scope(project.to_owned(), work).await,
        None => work.await,
    }
}

/// Users are not allowed to make this service connect to the URL, or to any address of its host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this service does not connect there on behalf of users: {0}")]
pub(crate) struct Refused(&'static str);

impl Refused {
    /// Finds this error in the chain of causes of another one.
    pub(crate) fn cause_of(error: &(dyn std::error::Error + 'static)) -> Option<Self> {
        let mut next = Some(error);
        while let Some(error) = next {
            if let Some(refused) = error.downcast_ref::<Self>() {
                return Some(*refused);
            }
            next = error.source();
        }
        None
    }
}

/// How strictly a URL is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Strictness {
    /// A URL that a user provides now. All options apply, and a host name must be a fully qualified DNS name.
    New,
    /// A URL from the database. It was accepted under other options, or by Glance, so only the addresses of its host are checked.
    Kept,
}

/// Checks URLs and addresses against `[import_filtering_opts]`.
#[derive(Debug)]
pub(crate) struct EgressFilter {
    options: ImportFilteringOpts,
    names: NameResolver,
}

impl EgressFilter {
    /// Creates a filter with these options, which uses the system's resolver.
    pub(crate) fn new(options: &ImportFilteringOpts) -> Self {
        Self { options: options.clone(), names: NameResolver::system() }
    }

    /// Parses a URL and checks it, without resolving its host.
    ///
    /// # Errors
    /// [`Refused`], also if the URL is invalid or ambiguous.
    pub(crate) fn check(&self, text: &str, strictness: Strictness) -> Result<Url, Refused> {
        let (url, port) = parse_url(text).ok_or(Refused("its URL is invalid or ambiguous"))?;
        if strictness == Strictness::New {
            self.check_parts(&url, port)?;
        }
        if let Some(address) = literal(&url) {
            self.check_address(&address.to_string(), address)?;
        }
        Ok(url)
    }

    /// Checks the scheme, the host and the port against the lists. A list of allowed values takes precedence over the list of
    /// disallowed ones.
    fn check_parts(&self, url: &Url, port: Option<u16>) -> Result<(), Refused> {
        let options = &self.options;
        let scheme = |list: &[String]| list.iter().any(|scheme| scheme == url.scheme());
        if !passes_lists(&options.allowed_schemes.0, &options.disallowed_schemes.0, scheme) {
            return Err(Refused("its scheme is not allowed"));
        }
        let host = url.host_str().map(unbracketed).unwrap_or_default();
        let named = |list: &[HostAddress]| list.iter().any(|entry| is_same(entry.as_str(), host));
        if !passes_lists(&options.allowed_hosts.0, &options.disallowed_hosts.0, named) {
            return Err(Refused("its host is not allowed"));
        }
        // As in Glance, a port that the URL does not contain is not checked.
        let Some(port) = port else { return Ok(()) };
        let listed = |list: &[Port]| list.iter().any(|entry| entry.0 == port);
        if !passes_lists(&options.allowed_ports.0, &options.disallowed_ports.0, listed) {
            return Err(Refused("its port is not allowed"));
        }
        Ok(())
    }

    /// Checks an address of a host. A host that is allowed by name can have any address.
    fn check_address(&self, host: &str, address: IpAddr) -> Result<(), Refused> {
        let options = &self.options;
        let allowed = &options.allowed_hosts.0;
        if allowed.iter().any(|entry| is_same(entry.as_str(), host)) {
            return Ok(());
        }
        let mut addresses = embedded(address);
        addresses.push(address);
        if addresses.iter().any(|address| is_own(*address)) {
            return Err(Refused("its address is one of this machine or of its links"));
        }
        let is_listed =
            |entry: &HostAddress| entry.as_str().parse().is_ok_and(|entry: IpAddr| addresses.contains(&entry));
        if allowed.is_empty() && options.disallowed_hosts.0.iter().any(is_listed) {
            return Err(Refused("its address is not allowed"));
        }
        Ok(())
    }

    /// Resolves a host, and returns those of its addresses that are allowed.
    ///
    /// # Errors
    /// [`Refused`] if no address of the host is allowed, or the resolver's error if it has none.
    pub(crate) async fn resolve(
        &self,
        host: &str,
        strictness: Strictness,
    ) -> Result<Vec<SocketAddr>, Box<dyn std::error::Error + Send + Sync>> {
        // With a trailing dot, the resolver does not append this machine's search domain, and does not parse unusual spellings of
        // addresses.
        let is_short = strictness == Strictness::New && !host.ends_with('.');
        let name = if is_short { format!("{host}.") } else { host.to_owned() };
        let found = match self.names.addresses(name, strictness).await {
            Ok(found) => found,
            Err(error) if is_short && error.kind() != io::ErrorKind::TimedOut => {
                let is_local = self.names.addresses(host.to_owned(), strictness).await.is_ok();
                let refused = Refused("its host is not a fully qualified DNS name");
                return Err(if is_local { refused.into() } else { error.into() });
            }
            Err(error) => return Err(error.into()),
        };
        let mut refused = None;
        let mut allowed = Vec::new();
        for address in found {
            match self.check_address(host, address.ip()) {
                Ok(()) => allowed.push(address),
                Err(error) => refused = Some(error),
            }
        }
        match (refused, allowed.is_empty()) {
            (Some(refused), true) => Err(refused.into()),
            _ => Ok(allowed),
        }
    }

    /// A resolver for an HTTP client that fetches users' URLs. It returns only allowed addresses. `proxies` are hosts that the
    /// operator has configured; their addresses are not checked.
    pub(crate) fn resolver(self: &Arc<Self>, strictness: Strictness, proxies: &[String]) -> Arc<Resolver> {
        Arc::new(Resolver { filter: Arc::clone(self), strictness, proxies: proxies.into() })
    }
}

/// Looks up the addresses of a name.
type Lookup = dyn Fn(String) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> + Send + Sync;

/// Resolves names, with limits on concurrent lookups.
struct NameResolver {
    lookup: Box<Lookup>,
    /// The slots for the URLs that users provide now.
    new: Arc<Semaphore>,
    /// The slots for the URLs from the database: downloads do not wait for lookups of new names.
    kept: Arc<Semaphore>,
    /// The slots of the projects that have lookups in progress.
    projects: Mutex<HashMap<String, Weak<Semaphore>>>,
    timeout: Duration,
}

impl NameResolver {
    /// Uses the system's resolver.
    fn system() -> Self {
        Self::new(LOOKUP_TIMEOUT, |name| {
            Box::pin(async move { Ok(tokio::net::lookup_host((name, 0)).await?.collect()) })
        })
    }

    fn new(
        timeout: Duration,
        lookup: impl Fn(String) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> + Send + Sync + 'static,
    ) -> Self {
        let slots = || Arc::new(Semaphore::new(MAX_LOOKUPS));
        Self { lookup: Box::new(lookup), new: slots(), kept: slots(), projects: Mutex::default(), timeout }
    }

    /// The slots of the project on whose behalf this task connects, if there is one.
    fn project_slots(&self) -> Option<Arc<Semaphore>> {
        let project = PROJECT.try_with(String::clone).ok()?;
        let mut projects = self.projects.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slots) = projects.get(&project).and_then(Weak::upgrade) {
            return Some(slots);
        }
        projects.retain(|_, slots| slots.strong_count() > 0);
        let slots = Arc::new(Semaphore::new(MAX_LOOKUPS_OF_PROJECT));
        projects.insert(project, Arc::downgrade(&slots));
        Some(slots)
    }

    /// Looks up the addresses of a name.
    ///
    /// # Errors
    /// The error of the lookup, or `TimedOut` if the lookup or the wait for a free slot takes too long.
    async fn addresses(&self, name: String, strictness: Strictness) -> io::Result<Vec<SocketAddr>> {
        let slots = match strictness {
            Strictness::New => &self.new,
            Strictness::Kept => &self.kept,
        };
        let found = async {
            // A project that waits for one of its own slots occupies no other.
            let project_slot = match self.project_slots() {
                Some(slots) => Some(slots.acquire_owned().await.map_err(io::Error::other)?),
                None => None,
            };
            let slot = Arc::clone(slots).acquire_owned().await.map_err(io::Error::other)?;
            let lookup = (self.lookup)(name);
            // The lookup cannot be cancelled. It runs in its own task, so that it occupies its slot until its thread is free, even
            // if the request is cancelled.
            let work = tokio::spawn(async move {
                let found = lookup.await;
                drop((slot, project_slot));
                found
            });
            work.await?
        };
        let too_slow = |_| {
            let message = format!("its host's name was not resolved within {} s", self.timeout.as_secs());
            Err(io::Error::new(io::ErrorKind::TimedOut, message))
        };
        tokio::time::timeout(self.timeout, found).await.unwrap_or_else(too_slow)
    }
}

impl fmt::Debug for NameResolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NameResolver")
            .field("new", &self.new)
            .field("kept", &self.kept)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

/// See [`EgressFilter::resolver`].
#[derive(Debug)]
pub(crate) struct Resolver {
    filter: Arc<EgressFilter>,
    strictness: Strictness,
    proxies: Arc<[String]>,
}

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let (filter, strictness, proxies) = (Arc::clone(&self.filter), self.strictness, Arc::clone(&self.proxies));
        Box::pin(async move {
            let host = name.as_str();
            let addresses: Vec<SocketAddr> = match proxies.iter().any(|proxy| proxy.eq_ignore_ascii_case(host)) {
                true => filter.names.addresses(host.to_owned(), strictness).await?,
                false => filter.resolve(host, strictness).await?,
            };
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

/// Whether a value passes two lists. The list of disallowed values applies only if the list of allowed ones is empty.
fn passes_lists<T>(allowed: &[T], disallowed: &[T], is_in: impl Fn(&[T]) -> bool) -> bool {
    if allowed.is_empty() { !is_in(disallowed) } else { is_in(allowed) }
}

/// Parses a URL, and returns it with the port that it contains. `None` if the URL is invalid, or if parsers disagree on its host:
/// some take `0x7f.1` for an address, or `\` for the end of the host.
fn parse_url(text: &str) -> Option<(Url, Option<u16>)> {
    let url = Url::parse(text).ok()?;
    let (scheme, rest) = text.split_once("://")?;
    if text.chars().any(|c| c.is_ascii_control()) || !scheme.eq_ignore_ascii_case(url.scheme()) {
        return None;
    }
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let (user, host_and_port) = authority.rsplit_once('@').unwrap_or(("", authority));
    if user.contains('@') || authority.contains(['\\', ' ']) {
        return None;
    }
    let (host, port) = match host_and_port.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, "")) => (host, ""),
        Some((host, port)) => (host, port.strip_prefix(':')?),
        None => host_and_port.split_once(':').unwrap_or((host_and_port, "")),
    };
    let port = match port {
        "" => None,
        digits if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            Some(digits.parse().ok().filter(|port| *port > 0)?)
        }
        _ => return None,
    };
    let is_same_host = match url.host()? {
        // The resolver gets an internationalised name in its ASCII form.
        Host::Domain(name) => !host.is_ascii() || host.eq_ignore_ascii_case(name),
        Host::Ipv4(address) => host.parse() == Ok(address),
        Host::Ipv6(address) => host.parse() == Ok(address),
    };
    is_same_host.then_some((url, port))
}

fn literal(url: &Url) -> Option<IpAddr> {
    match url.host()? {
        Host::Domain(_) => None,
        Host::Ipv4(address) => Some(address.into()),
        Host::Ipv6(address) => Some(address.into()),
    }
}

fn unbracketed(host: &str) -> &str {
    host.trim_start_matches('[').trim_end_matches(']')
}

/// Whether an entry of a list denotes this host.
fn is_same(entry: &str, host: &str) -> bool {
    match (entry.parse::<IpAddr>(), host.parse::<IpAddr>()) {
        (Ok(entry), Ok(host)) => entry == host,
        _ => entry.trim_end_matches('.').eq_ignore_ascii_case(host.trim_end_matches('.')),
    }
}

/// Whether the address is one of this machine (loopback, unspecified), of its links (link-local, broadcast), or multicast.
fn is_own(address: IpAddr) -> bool {
    address.is_loopback()
        || address.is_unspecified()
        || address.is_multicast()
        || match address {
            IpAddr::V4(address) => address.is_link_local() || address.is_broadcast() || address.octets()[0] == 0,
            IpAddr::V6(address) => address.is_unicast_link_local(),
        }
}

/// The IPv4 addresses that an IPv6 address embeds, or can embed: IPv4-mapped, IPv4-compatible, SIIT, NAT64, 6to4, Teredo and
/// ISATAP.
fn embedded(address: IpAddr) -> Vec<IpAddr> {
    let IpAddr::V6(v6) = address else { return Vec::new() };
    let pair = |high: u16, low: u16| Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)).into();
    match v6.segments() {
        _ if v6 == Ipv6Addr::LOCALHOST || v6 == Ipv6Addr::UNSPECIFIED => Vec::new(),
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low] | [0, 0, 0, 0, 0xffff, 0, high, low] => vec![pair(high, low)],
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => vec![pair(high, low)],
        [0x64, 0xff9b, 1, _, _, _, high, low] => {
            let o = v6.octets();
            // A translator's prefix in this range is longer than 47 bits, and its length decides where the address is (RFC 6052).
            // In all places but the right one, the octets are usually zero.
            let places = [[o[6], o[7], o[9], o[10]], [o[7], o[9], o[10], o[11]], [o[9], o[10], o[11], o[12]]];
            let likely = places.into_iter().filter(|place| place[0] != 0).map(|place| IpAddr::V4(place.into()));
            likely.chain([pair(high, low)]).collect()
        }
        [0x2002, high, low, ..] => vec![pair(high, low)],
        // The server, and the client, whose bits are inverted.
        [0x2001, 0, server_high, server_low, _, _, high, low] => vec![pair(server_high, server_low), pair(!high, !low)],
        [_, _, _, _, 0 | 0x200, 0x5efe, high, low] => vec![pair(high, low)],
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future, io,
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering},
        },
        time::Duration,
    };

    use tokio::sync::Semaphore;

    use super::{EgressFilter, MAX_LOOKUPS, MAX_LOOKUPS_OF_PROJECT, NameResolver, Strictness, on_behalf_of, parse_url};
    use crate::config::{Config, Source, Sources};

    fn filter(options: &str) -> EgressFilter {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("test.conf");
        std::fs::write(&file, format!("[import_filtering_opts]\n{options}\n")).unwrap();
        let config = Config::load(&Sources { files: vec![Source::File(file)], ..Sources::default() }).unwrap();
        EgressFilter::new(&config.import_filtering_opts)
    }

    fn passes(options: &str, url: &str) -> bool {
        filter(options).check(url, Strictness::New).is_ok()
    }

    #[test]
    fn lists_are_applied_as_in_glance() {
        for (options, url, passed) in [
            ("", "http://a.example/", true),
            ("", "https://a.example/", true),
            ("", "ftp://a.example/", false),
            ("", "http://a.example:80/", true),
            ("", "http://a.example:443/", true),
            ("", "http://a.example:8080/", false),
            ("", "http://10.0.0.1/", true),
            ("", "http://192.168.0.1/", true),
            ("allowed_ports = [8080]", "http://a.example/", true),
            ("allowed_ports = [8080]", "http://a.example:80/", false),
            ("allowed_ports = []", "http://a.example:1/", true),
            ("allowed_ports = []\ndisallowed_ports = [22]", "http://a.example:22/", false),
            ("allowed_ports = [22]\ndisallowed_ports = [22]", "http://a.example:22/", true),
            ("allowed_schemes = []\ndisallowed_schemes = [http]", "http://a.example/", false),
            ("allowed_schemes = []\ndisallowed_schemes = [http]", "https://a.example/", true),
            ("allowed_schemes = []", "ftp://a.example/", true),
            ("allowed_hosts = [a.example]", "http://a.example/", true),
            ("allowed_hosts = [a.example]", "http://A.Example./", true),
            ("allowed_hosts = [a.example]", "http://b.example/", false),
            ("allowed_hosts = [a.example]", "http://a.example@b.example/", false),
            ("allowed_hosts = [a.example]\ndisallowed_hosts = [a.example]", "http://a.example/", true),
            ("disallowed_hosts = [a.example]", "http://a.example/", false),
            ("disallowed_hosts = [a.example]", "http://A.EXAMPLE./", false),
            ("disallowed_hosts = [a.example]", "http://b.example/", true),
            ("disallowed_hosts = [10.0.0.1]", "http://10.0.0.1/", false),
            ("disallowed_hosts = [10.0.0.1]", "http://[::ffff:10.0.0.1]/", false),
            ("disallowed_hosts = [fd00::1]", "http://[fd00:0::1]/", false),
            ("allowed_hosts = [127.0.0.1]", "http://127.0.0.1/", true),
            ("allowed_hosts = [127.0.0.1]", "http://127.0.0.2/", false),
            ("allowed_hosts = [169.254.169.254]", "http://169.254.169.254/", true),
        ] {
            assert_eq!(passes(options, url), passed, "{options} {url}");
        }
    }

    #[test]
    fn this_machine_and_its_links_are_refused() {
        for host in [
            "127.0.0.1",
            "127.255.255.254",
            "169.254.169.254",
            "0.0.0.0",
            "0.1.2.3",
            "255.255.255.255",
            "224.0.0.1",
            "[::1]",
            "[::]",
            "[fe80::1]",
            "[ff02::1]",
            "[::ffff:127.0.0.1]",
            "[::ffff:169.254.169.254]",
            "[::ffff:a9fe:a9fe]",
            "[64:ff9b::a9fe:a9fe]",
            "[2002:a9fe:a9fe::]",
            "[::169.254.169.254]",
            "[::ffff:0:169.254.169.254]",
            "[64:ff9b:1::169.254.169.254]",
            "[64:ff9b:1:a9fe:a9:fe00::]",
            "[64:ff9b:1:a9:fe:a9fe::]",
            "[64:ff9b:1:0:a9:fea9:fe00:0]",
            "[2001:0:7f00:1::f5ff:fffe]",
            "[2001:0:c000:201::5601:5601]",
            "[2001:db8::5efe:169.254.169.254]",
            "[fd00::200:5efe:127.0.0.1]",
        ] {
            for strictness in [Strictness::New, Strictness::Kept] {
                assert!(filter("").check(&format!("http://{host}/"), strictness).is_err(), "{host}");
            }
        }
        for host in ["10.1.2.3", "172.16.0.1", "[fd00::1]", "[2001:db8::1]", "[::ffff:10.0.0.1]", "[64:ff9b:1::a00:1]"]
        {
            assert!(passes("", &format!("http://{host}/")), "{host}");
        }
        assert!(filter("").check("http://10.0.0.1:8080/", Strictness::Kept).is_ok());
    }

    #[test]
    fn ambiguous_urls_are_refused() {
        for url in [
            "http://a/",
            "http://a",
            "http://a?x",
            "http://a:80#x",
            "http://u:p@a/",
            "http://[::1]:80/",
            "HTTP://A/",
            "http://é.example/",
        ] {
            assert!(parse_url(url).is_some(), "{url}");
        }
        for url in [
            "",
            "a",
            "//a/",
            "http:a",
            "http:/a/",
            "http:///",
            "http://",
            "http:\\\\a/",
            "http://a\\b/",
            "http://a\\@b/",
            "http://a@b@c/",
            " http://a/",
            "http://a\n/",
            "http://a\t.b/",
            "http://127.1/",
            "http://2130706433/",
            "http://0x7f.0.0.1/",
            "http://0177.0.0.1/",
            "http://127.0.0.1./",
            "http://%61/",
            "http://１２７.0.0.1/",
            "http://a:b/",
            "http://a:0/",
            "http://a:65536/",
            "http://a:80:80/",
            "http://[::1/",
            "http://[::1]x/",
            "http://[::1%25lo]/",
            "http://a b/",
            "http:\\/\\/a/",
        ] {
            assert!(parse_url(url).is_none(), "{url}");
        }
        assert_eq!(parse_url("http://a:80/").map(|(_, port)| port), Some(Some(80)));
        assert_eq!(parse_url("http://a:/").map(|(_, port)| port), Some(None));
    }

    /// A name server under a user's control may never respond. It must not block many threads, however often it is queried.
    #[tokio::test]
    async fn concurrent_lookups_are_limited() {
        let (begun, answers) = (Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(0)));
        let (counter, gate) = (Arc::clone(&begun), Arc::clone(&answers));
        let mut filter = filter("");
        filter.names = NameResolver::new(Duration::from_millis(50), move |_| {
            counter.fetch_add(1, Ordering::Relaxed);
            let gate = Arc::clone(&gate);
            Box::pin(async move {
                drop(gate.acquire().await);
                Ok(vec!["192.0.2.1:0".parse().unwrap()])
            })
        });
        let asked = (0..MAX_LOOKUPS * 3).map(|n| {
            let (filter, host) = (&filter, format!("{n}.example"));
            async move { filter.resolve(&host, Strictness::New).await }
        });
        for answer in futures_util::future::join_all(asked).await {
            let error = answer.unwrap_err().to_string();
            assert!(error.contains("its host's name was not resolved within"), "{error}");
        }
        assert_eq!(begun.swap(0, Ordering::Relaxed), MAX_LOOKUPS);
        // Lookups for downloads have slots of their own, of which a project can occupy only a few.
        for _ in 0..MAX_LOOKUPS {
            let lookup = filter.resolve("silent.example", Strictness::Kept);
            on_behalf_of(Some("p1"), lookup).await.unwrap_err();
        }
        assert_eq!(begun.load(Ordering::Relaxed), MAX_LOOKUPS_OF_PROJECT);
        on_behalf_of(Some("p2"), filter.resolve("other.example", Strictness::Kept)).await.unwrap_err();
        assert_eq!(begun.load(Ordering::Relaxed), MAX_LOOKUPS_OF_PROJECT + 1);
        begun.store(MAX_LOOKUPS, Ordering::Relaxed);
        // The requests have timed out. Their lookups still occupy all slots, so no other lookup begins.
        filter.resolve("late.example", Strictness::New).await.unwrap_err();
        assert_eq!(begun.load(Ordering::Relaxed), MAX_LOOKUPS);
        answers.add_permits(1);
        filter.names.timeout = Duration::from_secs(60);
        assert_eq!(filter.resolve("late.example", Strictness::New).await.unwrap().len(), 1);
    }

    /// A name that only this machine can resolve is refused. If a name cannot be resolved at all, that is the error.
    #[tokio::test]
    async fn names_that_only_this_machine_resolves_are_refused() {
        let known = |name: &'static str| {
            let mut filter = filter("");
            filter.names = NameResolver::new(Duration::from_secs(60), move |asked| {
                let found = Ok(vec!["192.0.2.1:0".parse().unwrap()]);
                let answer = if asked == name { found } else { Err(io::Error::other("not known")) };
                Box::pin(future::ready(answer))
            });
            filter
        };
        let error = known("neighbour").resolve("neighbour", Strictness::New).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "this service does not connect there on behalf of users: its host is not a fully qualified DNS name"
        );
        assert_eq!(known("neighbour").resolve("neighbour", Strictness::Kept).await.unwrap().len(), 1);
        assert_eq!(known("a.example.").resolve("a.example", Strictness::New).await.unwrap().len(), 1);
        let error = known("a.example.").resolve("b.example", Strictness::New).await.unwrap_err();
        assert_eq!(error.to_string(), "not known");
    }
}
