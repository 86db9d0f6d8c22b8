//! The paste file's pipeline, of which we take what it says of our own parts: which of them stand before the API.

use std::path::{Path, PathBuf};

use super::{ConfigError, glimpse::Auth, ini, paste_deploy::PasteDeploy, secret::Secret};

/// A filter of a pipeline that we know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Filter {
    AuthToken,
    Context,
    UnauthenticatedContext,
    FakeAuth,
    Cors,
    ProxyHeaders,
    /// What we do in any case.
    AlwaysThere,
    /// What we do not do yet.
    Missing,
}

/// How many parts of a paste file may refer to each other in a row.
const MAX_REFERENCES: usize = 8;

/// Glance's flavors, for who has no paste file.
const FLAVORS: [(&str, &str); 8] = [
    ("default", "cors http_proxy_to_wsgi unauthenticated-context"),
    ("caching", "cors http_proxy_to_wsgi unauthenticated-context cache"),
    ("cachemanagement", "cors http_proxy_to_wsgi unauthenticated-context cache cachemanage"),
    ("keystone", "cors http_proxy_to_wsgi authtoken context"),
    ("keystone+caching", "cors http_proxy_to_wsgi authtoken context cache"),
    ("keystone+cachemanagement", "cors http_proxy_to_wsgi authtoken context cache cachemanage"),
    ("trusted-auth", "cors http_proxy_to_wsgi context"),
    ("fakeauth", "cors http_proxy_to_wsgi fakeauth context"),
];

/// What a pipeline says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pipeline {
    /// How callers are found out; `Err` is why nobody may say.
    pub(super) auth: Result<Auth, String>,
    /// Whether `[cors]` counts.
    pub(super) cors: bool,
    /// Whether `[oslo_middleware] enable_proxy_headers_parsing` counts.
    pub(super) proxy_headers: bool,
    /// The file that the paste file's healthcheck is disabled by.
    pub(super) healthcheck_disable: Option<PathBuf>,
    /// The paste file, and what its authtoken filter says of `[keystone_authtoken]`; `None` without such a file or filter.
    pub(super) authtoken: Option<(PathBuf, Vec<ini::Entry>)>,
    /// What the operator should know about it.
    pub(super) warnings: Vec<String>,
}

impl Default for Pipeline {
    /// Where there is none: every option counts.
    fn default() -> Self {
        Self {
            auth: Ok(Auth::Standalone),
            cors: true,
            proxy_headers: true,
            healthcheck_disable: None,
            authtoken: None,
            warnings: Vec::new(),
        }
    }
}

/// Reads the pipeline that the options name; `None` where they name none.
///
/// # Errors
/// A paste file that cannot be read, or that has no such flavor.
pub(super) fn pipeline(options: &PasteDeploy, config_dirs: &[PathBuf]) -> Result<Option<Pipeline>, ConfigError> {
    if options.flavor.is_none() && options.config_file.is_none() {
        // Glance would read it, and let everybody in.
        let warning = paste_file(options, config_dirs).map(|path| {
            let what = "is not read: [paste_deploy] flavor is not set, so users of our own are asked for";
            format!("{} {what}", path.display())
        });
        return Ok(warning.map(|warning| Pipeline { warnings: vec![warning], ..Pipeline::default() }));
    }
    let flavor = options.flavor.as_deref().unwrap_or("default");
    let error = |message: String| ConfigError::Value {
        origin: options.config_file.as_deref().unwrap_or("the paste file").to_owned(),
        group: "paste_deploy".to_owned(),
        name: "flavor",
        message,
    };
    let (mut healthcheck_disable, mut authtoken) = (None, None);
    let filters = match paste_file(options, config_dirs) {
        Some(path) => {
            let mut file = PasteFile(super::parse_file(&path)?);
            file.fill_in(&path);
            let disable = |section| file.value(section, "disable_by_file_path");
            healthcheck_disable =
                disable("app:healthcheck").or_else(|| disable("filter:healthcheck")).map(PathBuf::from);
            let names = file.filters(flavor).ok_or_else(|| error(format!("there is no pipeline for {flavor:?}")))?;
            let filters: Vec<_> = names.into_iter().map(|name| (file.kind(&name), name)).collect();
            let found = filters.iter().find(|(kind, _)| *kind == Some(Filter::AuthToken));
            authtoken = found.map(|(_, name)| (path, file.local(name)));
            filters
        }
        None => {
            let known = FLAVORS.iter().find(|(name, _)| *name == flavor);
            let known =
                known.ok_or_else(|| error(format!("{flavor:?} is none of Glance's, and there is no paste file")))?;
            known.1.split(' ').map(|name| (kind(name), name.to_owned())).collect()
        }
    };
    Ok(Some(Pipeline { healthcheck_disable, authtoken, ..judge(&filters) }))
}

/// The file of the option, or Glance's own beside the configuration.
fn paste_file(options: &PasteDeploy, config_dirs: &[PathBuf]) -> Option<PathBuf> {
    if let Some(path) = &options.config_file {
        let path = Path::new(path);
        let beside = config_dirs.iter().map(|dir| dir.join(path)).find(|path| path.exists());
        return Some(beside.unwrap_or_else(|| path.to_owned()));
    }
    config_dirs.iter().map(|dir| dir.join("glance-api-paste.ini")).find(|path| path.exists())
}

fn judge(filters: &[(Option<Filter>, String)]) -> Pipeline {
    let has = |wanted: Filter| filters.iter().any(|(kind, _)| *kind == Some(wanted));
    let unknown: Vec<&str> = filters.iter().filter(|(kind, _)| kind.is_none()).map(|(_, name)| name.as_str()).collect();
    let auth = if has(Filter::AuthToken) {
        Ok(Auth::Keystone)
    } else if has(Filter::FakeAuth) {
        Ok(Auth::Fake)
    } else if has(Filter::UnauthenticatedContext) {
        Ok(Auth::None)
    } else if has(Filter::Context) && unknown.is_empty() {
        Ok(Auth::Proxy)
    } else if has(Filter::Context) {
        // One of them may be what authenticates; without it, whoever comes would be believed.
        Err(format!(
            "the pipeline has the filters {}, which Glimpse does not know, in front of context: say who a caller is found out \
             by with [glimpse] auth",
            unknown.join(", ")
        ))
    } else {
        // Without a context, Glance's API fails at every request; ours asks its own users.
        Ok(Auth::Standalone)
    };
    let warnings = filters.iter().filter_map(|(kind, name)| match kind {
        None => Some(format!("[paste_deploy]: Glimpse does not know the filter {name}, and leaves it out")),
        Some(Filter::Missing) => Some(format!("[paste_deploy]: Glimpse does not do what the filter {name} does yet")),
        Some(_) => None,
    });
    Pipeline {
        auth,
        cors: has(Filter::Cors),
        proxy_headers: has(Filter::ProxyHeaders),
        healthcheck_disable: None,
        authtoken: None,
        warnings: warnings.collect(),
    }
}

/// A paste file's entries.
struct PasteFile(Vec<ini::Entry>);

impl PasteFile {
    fn value(&self, section: &str, name: &str) -> Option<&str> {
        // The dialect of options takes a group's name in either case.
        let is_it = |entry: &&ini::Entry| entry.group.eq_ignore_ascii_case(section) && entry.name == name;
        let mut found = self.0.iter().filter(is_it);
        found.next_back().map(|entry| entry.value.expose())
    }

    /// The names of the filters that stand before the API in this flavor, in order.
    fn filters(&self, flavor: &str) -> Option<Vec<String>> {
        let mut part = if flavor == "default" { "glance-api".to_owned() } else { format!("glance-api-{flavor}") };
        let mut filters = Vec::new();
        for _ in 0..MAX_REFERENCES {
            let pipeline = self.value(&format!("pipeline:{part}"), "pipeline");
            let composite = format!("composite:{part}");
            let is_by_flavor = self
                .value(&composite, "paste.composite_factory")
                .is_some_and(|factory| factory.ends_with(":pipeline_factory"));
            let by_flavor = if is_by_flavor { self.value(&composite, flavor) } else { None };
            match (pipeline.or(by_flavor), self.value(&composite, "/")) {
                (Some(pipeline), _) => {
                    let mut names: Vec<String> = pipeline.split_whitespace().map(str::to_owned).collect();
                    part = names.pop()?;
                    filters.extend(names);
                }
                (None, Some(target)) => part = target.to_owned(),
                // The application at the end.
                (None, None) => break,
            }
        }
        (!filters.is_empty()).then_some(filters)
    }

    /// Puts in what paste's values may refer to: the file itself, and its folder.
    fn fill_in(&mut self, path: &Path) {
        let file = path.display().to_string();
        let here = path.parent().map(|dir| dir.display().to_string()).unwrap_or_default();
        for entry in &mut self.0 {
            let value = entry.value.expose().replace("%(here)s", &here).replace("%(__file__)s", &file);
            entry.value = Secret::new(value.replace("%%", "%"));
        }
    }

    /// What a filter is given, the one that counts last: what is under the one that it uses, what is under its own name, and what
    /// the file gives to all, which paste lets nobody override but with `set`.
    fn local(&self, name: &str) -> Vec<ini::Entry> {
        let mut sections = vec![format!("filter:{name}")];
        while let Some(section) = sections.last()
            && let Some(used) = self.value(section, "use").filter(|used| !used.contains([':', '#']))
            && sections.len() < MAX_REFERENCES
        {
            sections.push(format!("filter:{used}"));
        }
        sections.insert(0, "DEFAULT".to_owned());
        let is_pastes = |name: &str| name.starts_with("paste.") || ["use", "configkey", "log_name"].contains(&name);
        let of = |section: &String| {
            let entries = self.0.iter().filter(|entry| entry.group.eq_ignore_ascii_case(section));
            entries.filter(|entry| !is_pastes(&entry.name)).cloned().collect::<Vec<_>>()
        };
        let (set, given): (Vec<_>, Vec<_>) =
            sections.iter().rev().flat_map(of).partition(|entry| entry.name.starts_with("set "));
        let set =
            set.into_iter().map(|entry| ini::Entry { name: entry.name["set ".len()..].trim().to_owned(), ..entry });
        given.into_iter().chain(set).collect()
    }

    /// What a filter is, by what makes it; by its name where the file does not say.
    fn kind(&self, name: &str) -> Option<Filter> {
        let mut name = name;
        for _ in 0..MAX_REFERENCES {
            let section = format!("filter:{name}");
            if let Some(factory) = self.value(&section, "paste.filter_factory") {
                return kind(factory);
            }
            match self.value(&section, "use") {
                Some(other)
                    if self.0.iter().any(|entry| entry.group.eq_ignore_ascii_case(&format!("filter:{other}"))) =>
                {
                    name = other;
                }
                Some(package) => return kind(package),
                None => return kind(name),
            }
        }
        None
    }
}

/// What a filter is, by its factory, whole, or by the name that Glance's own file gives it. Nothing else is taken for one:
/// a filter that merely sounds like another must not decide who comes in.
fn kind(text: &str) -> Option<Filter> {
    Some(match text {
        "glance.api.middleware.context:UnauthenticatedContextMiddleware.factory" | "unauthenticated-context" => {
            Filter::UnauthenticatedContext
        }
        "glance.tests.utils:FakeAuthMiddleware.factory" | "fakeauth" => Filter::FakeAuth,
        "keystonemiddleware.auth_token:filter_factory" | "egg:keystonemiddleware#auth_token" | "authtoken" => {
            Filter::AuthToken
        }
        "glance.api.middleware.context:ContextMiddleware.factory" | "context" => Filter::Context,
        "oslo_middleware.cors:filter_factory" | "egg:oslo.middleware#cors" | "cors" => Filter::Cors,
        "oslo_middleware:HTTPProxyToWSGI.factory"
        | "oslo_middleware.http_proxy_to_wsgi:HTTPProxyToWSGI.factory"
        | "egg:oslo.middleware#http_proxy_to_wsgi"
        | "http_proxy_to_wsgi" => Filter::ProxyHeaders,
        "glance.api.middleware.version_negotiation:VersionNegotiationFilter.factory" | "versionnegotiation" => {
            Filter::AlwaysThere
        }
        "oslo_middleware:Healthcheck.factory" | "egg:oslo.middleware#healthcheck" | "healthcheck" => {
            Filter::AlwaysThere
        }
        "oslo_middleware:RequestId.factory" | "oslo_middleware.request_id:RequestId.factory" | "request_id" => {
            Filter::AlwaysThere
        }
        "oslo_middleware:RequestBodySizeLimiter.factory" | "egg:oslo.middleware#sizelimit" | "sizelimit" => {
            Filter::AlwaysThere
        }
        "glance.api.middleware.gzip:GzipMiddleware.factory" | "gzip" => Filter::Missing,
        "glance.api.middleware.cache:CacheFilter.factory" | "cache" => Filter::Missing,
        "glance.api.middleware.cache_manage:CacheManageFilter.factory" | "cachemanage" => Filter::Missing,
        "osprofiler.web:WsgiMiddleware.factory" | "osprofiler" => Filter::Missing,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::{Auth, PasteDeploy, Pipeline, pipeline};

    fn read(flavor: Option<&str>, paste: Option<&str>) -> Result<Option<Pipeline>, String> {
        let dir = tempfile::tempdir().unwrap();
        if let Some(text) = paste {
            fs::write(dir.path().join("glance-api-paste.ini"), text).unwrap();
        }
        let options = PasteDeploy { flavor: flavor.map(str::to_owned), config_file: None };
        pipeline(&options, &[dir.path().to_owned()]).map_err(|error| error.to_string())
    }

    #[test]
    fn glances_flavors_by_name() {
        let auth = |flavor| read(Some(flavor), None).unwrap().unwrap().auth.unwrap();
        assert_eq!(auth("keystone"), Auth::Keystone);
        assert_eq!(auth("keystone+cachemanagement"), Auth::Keystone);
        assert_eq!(auth("caching"), Auth::None);
        assert_eq!(auth("trusted-auth"), Auth::Proxy);
        assert!(read(Some("nope"), None).unwrap_err().contains("none of Glance's"));
        assert_eq!(read(None, None), Ok(None));
    }

    /// As Glance 33 ships it.
    const COMPOSITES: &str = "
[composite:glance-api-keystone]
paste.composite_factory = glance.api:root_app_factory
/: api
/healthcheck: healthcheck

[composite:api]
paste.composite_factory = glance.api:pipeline_factory
default = cors unauthenticated-context rootapp
keystone = cors http_proxy_to_wsgi versionnegotiation osprofiler authtoken context audit rootapp

[composite:rootapp]
paste.composite_factory = glance.api:root_app_factory
/: apiversions
/v2: apiv2app

[app:healthcheck]
disable_by_file_path = /run/away

[filter:authtoken]
paste.filter_factory = keystonemiddleware.auth_token:filter_factory

[filter:audit]
paste.filter_factory = keystonemiddleware.audit:filter_factory
";

    #[test]
    fn a_composite_by_flavor() {
        let found = read(Some("keystone"), Some(COMPOSITES)).unwrap().unwrap();
        assert_eq!(found.auth, Ok(Auth::Keystone));
        assert!(found.cors && found.proxy_headers);
        assert_eq!(found.healthcheck_disable.as_deref(), Some(Path::new("/run/away")));
        assert_eq!(found.warnings.len(), 2, "{:?}", found.warnings);
        assert!(found.warnings[0].contains("osprofiler") && found.warnings[1].contains("audit"));
        assert!(read(Some("nope"), Some(COMPOSITES)).unwrap_err().contains("no pipeline for \"nope\""));
    }

    /// As Glance before 30 shipped it, and deployers wrote it.
    #[test]
    fn a_pipeline_with_names_of_its_own() {
        let paste = "
[pipeline:glance-api-site]
pipeline = who context rootapp
[filter:who]
paste.filter_factory = keystonemiddleware.auth_token:filter_factory
[app:rootapp]
paste.app_factory = x:y
";
        assert_eq!(read(Some("site"), Some(paste)).unwrap().unwrap().auth, Ok(Auth::Keystone));
        let found = read(Some("site"), Some(paste)).unwrap().unwrap();
        assert!(!found.cors && !found.proxy_headers);
        let trusted = paste.replace("who context", "cors context");
        assert!(read(Some("site"), Some(&trusted)).unwrap().unwrap().cors);
        assert_eq!(read(Some("site"), Some(&trusted)).unwrap().unwrap().auth, Ok(Auth::Proxy));
    }

    #[test]
    fn a_filter_that_sounds_like_another_is_not_taken_for_it() {
        let paste = "
[pipeline:glance-api-site]
pipeline = block cors-context authtoken context rootapp
[filter:block]
paste.filter_factory = site.block_unauthenticated:factory
[filter:cors-context]
paste.filter_factory = site.context:factory
";
        let found = read(Some("site"), Some(paste)).unwrap().unwrap();
        assert_eq!((found.auth, found.cors), (Ok(Auth::Keystone), false));
        assert_eq!(found.warnings.len(), 2, "{:?}", found.warnings);
        let alone = read(Some("site"), Some(&paste.replace("authtoken context ", ""))).unwrap().unwrap();
        assert_eq!(alone.auth, Ok(Auth::Standalone));
        // In front of a context, one of them may be what authenticates.
        let open = read(Some("site"), Some(&paste.replace("authtoken ", ""))).unwrap().unwrap();
        assert!(open.auth.unwrap_err().contains("block, cors-context"));
    }

    #[test]
    fn names_are_found_as_they_are_written() {
        let paste = "[pipeline:glance-api-My-Site]\npipeline = authtoken context rootapp\n";
        assert_eq!(read(Some("My-Site"), Some(paste)).unwrap().unwrap().auth, Ok(Auth::Keystone));
        let paste = "[pipeline:glance-api-x]\npipeline = KeystoneAuth context rootapp\n[filter:KeystoneAuth]\nuse = base\n\
            [filter:base]\npaste.filter_factory = keystonemiddleware.auth_token:filter_factory\n";
        assert_eq!(read(Some("x"), Some(paste)).unwrap().unwrap().auth, Ok(Auth::Keystone));
        let paste = "[composite:glance-api-my-site]\n/: api\n[composite:api]\n\
            paste.composite_factory = glance.api:pipeline_factory\nmy-site = authtoken context rootapp\n";
        assert_eq!(read(Some("my-site"), Some(paste)).unwrap().unwrap().auth, Ok(Auth::Keystone));
    }

    #[test]
    fn a_circle_ends() {
        let paste = "[composite:glance-api-a]\n/: glance-api-a\n";
        assert!(read(Some("a"), Some(paste)).is_err());
    }
}
