//! Where a URL that a user gives may lead.
//!
//! Whoever can make this service ask a web server can try to reach what only this machine reaches: itself, its cloud's metadata,
//! a neighbour that trusts it. A URL is therefore read here first, as Glance reads it (`[import_filtering_opts]`), and the
//! addresses of its host are judged where the connection is made: what the name meant a moment before does not count. Every hop
//! of a redirection is a URL that a user gives.

use std::{
    fmt, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use futures_util::future::BoxFuture;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::sync::Semaphore;
use url::{Host, Url};

use crate::config::{HostAddress, ImportFilteringOpts, Port};

/// Names that are looked up at once. Each takes a thread of those that read and write files, until the system's resolver comes
/// back, and users choose whose name servers it waits for.
const MAX_LOOKUPS: usize = 8;
/// How long who asks waits for the addresses of a name.
const LOOKUP_PATIENCE: Duration = Duration::from_secs(10);

/// The URL, or an address that its host has, is none that a user may send us to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a user may not send this service there: {0}")]
pub(crate) struct Refused(&'static str);

impl Refused {
    /// Finds this among the causes of another error.
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

/// Which URLs are judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Strictness {
    /// One that a user gives now: every option counts, and a name is one of DNS, in full.
    New,
    /// One that we keep. It was taken by other options, maybe by another program's: its addresses count.
    Kept,
}

/// What `[import_filtering_opts]` says.
#[derive(Debug)]
pub(crate) struct Filter {
    options: ImportFilteringOpts,
    names: Names,
}

impl Filter {
    /// A filter by these options.
    pub(crate) fn new(options: &ImportFilteringOpts) -> Self {
        Self { options: options.clone(), names: Names::of_system() }
    }

    /// Reads a URL, and judges what can be seen of it without asking for its host's addresses.
    ///
    /// # Errors
    /// [`Refused`], also where it is none that everybody reads alike.
    pub(crate) fn check(&self, text: &str, strictness: Strictness) -> Result<Url, Refused> {
        let (url, port) = read(text).ok_or(Refused("its URL can be read in several ways, or in none"))?;
        if strictness == Strictness::New {
            self.check_parts(&url, port)?;
        }
        if let Some(address) = literal(&url) {
            self.check_address(&address.to_string(), address)?;
        }
        Ok(url)
    }

    /// Judges the scheme, the host and the port by the lists. Of two lists about the same, the one of what is allowed counts.
    fn check_parts(&self, url: &Url, port: Option<u16>) -> Result<(), Refused> {
        let options = &self.options;
        let scheme = |list: &[String]| list.iter().any(|scheme| scheme == url.scheme());
        if !in_force(&options.allowed_schemes.0, &options.disallowed_schemes.0, scheme) {
            return Err(Refused("its scheme is not allowed"));
        }
        let host = url.host_str().map(unbracketed).unwrap_or_default();
        let named = |list: &[HostAddress]| list.iter().any(|entry| is_same(entry.as_str(), host));
        if !in_force(&options.allowed_hosts.0, &options.disallowed_hosts.0, named) {
            return Err(Refused("its host is not allowed"));
        }
        // A port that is not named is not judged, as in Glance.
        let Some(port) = port else { return Ok(()) };
        let listed = |list: &[Port]| list.iter().any(|entry| entry.0 == port);
        if !in_force(&options.allowed_ports.0, &options.disallowed_ports.0, listed) {
            return Err(Refused("its port is not allowed"));
        }
        Ok(())
    }

    /// Judges an address of a host. A host that is allowed by name may have any.
    fn check_address(&self, host: &str, address: IpAddr) -> Result<(), Refused> {
        let options = &self.options;
        let allowed = &options.allowed_hosts.0;
        if allowed.iter().any(|entry| is_same(entry.as_str(), host)) {
            return Ok(());
        }
        let inner = embedded(address);
        if is_own(address) || is_own(inner) {
            return Err(Refused("its address is one of this machine or of its links"));
        }
        let is_listed =
            |entry: &HostAddress| entry.as_str().parse().is_ok_and(|entry: IpAddr| entry == address || entry == inner);
        if allowed.is_empty() && options.disallowed_hosts.0.iter().any(is_listed) {
            return Err(Refused("its address is not allowed"));
        }
        Ok(())
    }

    /// The addresses of a host that are allowed.
    ///
    /// # Errors
    /// [`Refused`] where it has others only, and what the resolver says where it has none.
    pub(crate) async fn resolve(
        &self,
        host: &str,
        strictness: Strictness,
    ) -> Result<Vec<SocketAddr>, Box<dyn std::error::Error + Send + Sync>> {
        // With a dot at its end it is neither a short name of this machine's domain nor an address in an odd spelling.
        let is_short = strictness == Strictness::New && !host.ends_with('.');
        let name = if is_short { format!("{host}.") } else { host.to_owned() };
        let found = match self.names.addresses(name).await {
            Ok(found) => found,
            Err(error) if is_short && error.kind() != io::ErrorKind::TimedOut => {
                let is_of_this_machine = self.names.addresses(host.to_owned()).await.is_ok();
                let refused = Refused("its host is known to this machine alone");
                return Err(if is_of_this_machine { refused.into() } else { error.into() });
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

    /// A resolver for a client that asks for such URLs: it connects to nothing else than what is allowed. `proxies` are hosts
    /// of the operator's, which are not judged.
    pub(crate) fn resolver(self: &Arc<Self>, strictness: Strictness, proxies: &[String]) -> Arc<Resolver> {
        Arc::new(Resolver { filter: Arc::clone(self), strictness, proxies: proxies.into() })
    }
}

/// A look-up of a name's addresses.
type Lookup = dyn Fn(String) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> + Send + Sync;

/// The addresses of names, of which a few are looked up at once.
struct Names {
    lookup: Box<Lookup>,
    turns: Arc<Semaphore>,
    patience: Duration,
}

impl Names {
    /// As this machine resolves them.
    fn of_system() -> Self {
        Self::new(LOOKUP_PATIENCE, |name| {
            Box::pin(async move { Ok(tokio::net::lookup_host((name, 0)).await?.collect()) })
        })
    }

    fn new(
        patience: Duration,
        lookup: impl Fn(String) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> + Send + Sync + 'static,
    ) -> Self {
        Self { lookup: Box::new(lookup), turns: Arc::new(Semaphore::new(MAX_LOOKUPS)), patience }
    }

    /// # Errors
    /// What the look-up says, or `TimedOut` where it, or the others before it, take too long.
    async fn addresses(&self, name: String) -> io::Result<Vec<SocketAddr>> {
        let found = async {
            let turn = Arc::clone(&self.turns).acquire_owned().await.map_err(io::Error::other)?;
            let lookup = (self.lookup)(name);
            // It goes on when nobody waits for it any more, and keeps its turn until its thread is free.
            let work = tokio::spawn(async move {
                let found = lookup.await;
                drop(turn);
                found
            });
            work.await?
        };
        let too_slow = |_| {
            let message = format!("its host's name was not resolved within {} s", self.patience.as_secs());
            Err(io::Error::new(io::ErrorKind::TimedOut, message))
        };
        tokio::time::timeout(self.patience, found).await.unwrap_or_else(too_slow)
    }
}

impl fmt::Debug for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Names").field("turns", &self.turns).field("patience", &self.patience).finish_non_exhaustive()
    }
}

/// See [`Filter::resolver`].
#[derive(Debug)]
pub(crate) struct Resolver {
    filter: Arc<Filter>,
    strictness: Strictness,
    proxies: Arc<[String]>,
}

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let (filter, strictness, proxies) = (Arc::clone(&self.filter), self.strictness, Arc::clone(&self.proxies));
        Box::pin(async move {
            let host = name.as_str();
            let addresses: Vec<SocketAddr> = match proxies.iter().any(|proxy| proxy.eq_ignore_ascii_case(host)) {
                true => filter.names.addresses(host.to_owned()).await?,
                false => filter.resolve(host, strictness).await?,
            };
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

/// Whether a thing passes two lists, of which the second counts where the first is empty.
fn in_force<T>(allowed: &[T], disallowed: &[T], is_in: impl Fn(&[T]) -> bool) -> bool {
    if allowed.is_empty() { !is_in(disallowed) } else { is_in(allowed) }
}

/// Reads a URL with the port that is written in it. `None` where not everybody would read the same host in it: browsers take
/// `0x7f.1` for an address, and `\` for the end of a host.
fn read(text: &str) -> Option<(Url, Option<u16>)> {
    let url = Url::parse(text).ok()?;
    let (scheme, rest) = text.split_once("://")?;
    if text.chars().any(|c| c.is_ascii_control()) || !scheme.eq_ignore_ascii_case(url.scheme()) {
        return None;
    }
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let (user, place) = authority.rsplit_once('@').unwrap_or(("", authority));
    if user.contains('@') || authority.contains(['\\', ' ']) {
        return None;
    }
    let (host, port) = match place.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, "")) => (host, ""),
        Some((host, port)) => (host, port.strip_prefix(':')?),
        None => place.split_once(':').unwrap_or((place, "")),
    };
    let port = match port {
        "" => None,
        digits if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            Some(digits.parse().ok().filter(|port| *port > 0)?)
        }
        _ => return None,
    };
    let alike = match url.host()? {
        // A name of another script is one in ASCII to who connects.
        Host::Domain(name) => !host.is_ascii() || host.eq_ignore_ascii_case(name),
        Host::Ipv4(address) => host.parse() == Ok(address),
        Host::Ipv6(address) => host.parse() == Ok(address),
    };
    alike.then_some((url, port))
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

/// Whether an option means this host.
fn is_same(entry: &str, host: &str) -> bool {
    match (entry.parse::<IpAddr>(), host.parse::<IpAddr>()) {
        (Ok(entry), Ok(host)) => entry == host,
        _ => entry.trim_end_matches('.').eq_ignore_ascii_case(host.trim_end_matches('.')),
    }
}

/// Whether a connection to this address ends on this machine or its links, or goes to many at once.
fn is_own(address: IpAddr) -> bool {
    address.is_loopback()
        || address.is_unspecified()
        || address.is_multicast()
        || match address {
            IpAddr::V4(address) => address.is_link_local() || address.is_broadcast() || address.octets()[0] == 0,
            IpAddr::V6(address) => address.is_unicast_link_local(),
        }
}

/// The IPv4 address that an IPv6 one stands for: mapped, compatible, translated (NAT64), or carried (6to4).
fn embedded(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else { return address };
    let pair = |high: u16, low: u16| Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)).into();
    match v6.segments() {
        _ if v6 == Ipv6Addr::LOCALHOST || v6 == Ipv6Addr::UNSPECIFIED => address,
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => pair(high, low),
        [0x2002, high, low, ..] => pair(high, low),
        _ => address,
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

    use super::{Filter, MAX_LOOKUPS, Names, Strictness, read};
    use crate::config::{Config, Source, Sources};

    fn filter(options: &str) -> Filter {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("test.conf");
        std::fs::write(&file, format!("[import_filtering_opts]\n{options}\n")).unwrap();
        let config = Config::load(&Sources { places: vec![Source::File(file)], ..Sources::default() }).unwrap();
        Filter::new(&config.import_filtering_opts)
    }

    fn passes(options: &str, url: &str) -> bool {
        filter(options).check(url, Strictness::New).is_ok()
    }

    #[test]
    fn lists_are_glances() {
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
        ] {
            for strictness in [Strictness::New, Strictness::Kept] {
                assert!(filter("").check(&format!("http://{host}/"), strictness).is_err(), "{host}");
            }
        }
        for host in ["10.1.2.3", "172.16.0.1", "[fd00::1]", "[2001:db8::1]", "[::ffff:10.0.0.1]"] {
            assert!(passes("", &format!("http://{host}/")), "{host}");
        }
        assert!(filter("").check("http://10.0.0.1:8080/", Strictness::Kept).is_ok());
    }

    #[test]
    fn a_url_is_one_that_everybody_reads_alike() {
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
            assert!(read(url).is_some(), "{url}");
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
            assert!(read(url).is_none(), "{url}");
        }
        assert_eq!(read("http://a:80/").map(|(_, port)| port), Some(Some(80)));
        assert_eq!(read("http://a:/").map(|(_, port)| port), Some(None));
    }

    /// A name server that a user runs may answer never: that holds few threads, however often it is asked.
    #[tokio::test]
    async fn few_names_are_looked_up_at_once() {
        let (begun, answers) = (Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(0)));
        let (counter, gate) = (Arc::clone(&begun), Arc::clone(&answers));
        let mut filter = filter("");
        filter.names = Names::new(Duration::from_millis(50), move |_| {
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
        // Those who asked are gone; the look-ups are not, and nobody else's begins.
        filter.resolve("late.example", Strictness::New).await.unwrap_err();
        assert_eq!(begun.load(Ordering::Relaxed), MAX_LOOKUPS);
        answers.add_permits(1);
        filter.names.patience = Duration::from_secs(60);
        assert_eq!(filter.resolve("late.example", Strictness::New).await.unwrap().len(), 1);
    }

    /// A name that this machine alone knows is refused; one that nobody could ask for is not taken for unknown.
    #[tokio::test]
    async fn a_short_name_is_asked_for_where_the_full_one_is_not_known() {
        let known = |name: &'static str| {
            let mut filter = filter("");
            filter.names = Names::new(Duration::from_secs(60), move |asked| {
                let found = Ok(vec!["192.0.2.1:0".parse().unwrap()]);
                let answer = if asked == name { found } else { Err(io::Error::other("not known")) };
                Box::pin(future::ready(answer))
            });
            filter
        };
        let error = known("neighbour").resolve("neighbour", Strictness::New).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "a user may not send this service there: its host is known to this machine alone"
        );
        assert_eq!(known("neighbour").resolve("neighbour", Strictness::Kept).await.unwrap().len(), 1);
        assert_eq!(known("a.example.").resolve("a.example", Strictness::New).await.unwrap().len(), 1);
        let error = known("a.example.").resolve("b.example", Strictness::New).await.unwrap_err();
        assert_eq!(error.to_string(), "not known");
    }
}
