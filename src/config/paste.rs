//! The pipeline of the paste file: the filters in front of the API, and the options that they set. Only filters that Glimpse has a
//! counterpart for have an effect.
//!
//! The file is interpreted as PasteDeploy does, and has the dialect of Python's `configparser`.

mod file;

use std::path::{Path, PathBuf};

use self::file::PasteFile;
use super::{
    ConfigError, catalogue, glimpse::Auth, ini, keystone_authtoken::KeystoneAuthtoken, paste_deploy::PasteDeploy,
};

/// A filter that Glimpse knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Filter {
    AuthToken,
    Context,
    UnauthenticatedContext,
    FakeAuth,
    Cors,
    ProxyHeaders,
    Healthcheck,
    /// Downloads go through the image cache.
    Cache,
    /// The old calls of the image cache.
    CacheManage,
    /// Responses are compressed.
    Gzip,
    /// Glimpse always does what this filter does.
    AlwaysThere,
    /// Glimpse does not do what this filter does.
    Missing,
}

/// The flavors of Glance's own paste file, which apply if there is no file.
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

/// The effect of a pipeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pipeline {
    /// How callers are authenticated, or why the pipeline does not determine it.
    pub(super) auth: Result<Auth, String>,
    /// Whether `[cors]` has an effect.
    pub(super) cors: bool,
    /// Whether `[oslo_middleware] enable_proxy_headers_parsing` has an effect.
    pub(super) proxy_headers: bool,
    /// Filters that do something only if they are there.
    pub(super) filters: Filters,
    /// The options that its filters set.
    pub(super) options: Vec<FilterOptions>,
    /// Warnings for the operator.
    pub(super) warnings: Vec<String>,
}

/// Filters that Glimpse applies only if they are in the pipeline.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Filters {
    /// Downloads go through the image cache.
    pub(crate) cache: bool,
    /// The old calls of the image cache, `/v2/cached_images` and `/v2/queued_images`, exist.
    pub(crate) cache_manage: bool,
    /// Responses are compressed if the client accepts gzip.
    pub(crate) gzip: bool,
}

/// The options in the section of a filter. They take precedence over those of the group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FilterOptions {
    /// The paste file.
    pub(super) path: PathBuf,
    /// The group of the options.
    pub(super) group: &'static str,
    pub(super) entries: Vec<ini::Entry>,
}

impl Default for Pipeline {
    /// The effect if there is no pipeline: all options have an effect.
    fn default() -> Self {
        Self {
            auth: Ok(Auth::Standalone),
            cors: true,
            proxy_headers: true,
            filters: Filters::default(),
            options: Vec::new(),
            warnings: Vec::new(),
        }
    }
}

/// Reads the pipeline that the options name; `None` if they name none.
///
/// # Errors
/// A paste file that cannot be read, or that has no such flavor.
pub(super) fn pipeline(paste: &PasteDeploy, config_dirs: &[PathBuf]) -> Result<Option<Pipeline>, ConfigError> {
    if paste.flavor.is_none() && paste.config_file.is_none() {
        // Glance would read the file and use a pipeline without authentication.
        let warning = paste_file(paste, config_dirs).map(|path| {
            let what = "is not read, because [paste_deploy] flavor is not set; callers are authenticated as users of this server";
            format!("{} {what}", path.display())
        });
        return Ok(warning.map(|warning| Pipeline { warnings: vec![warning], ..Pipeline::default() }));
    }
    let flavor = paste.flavor.as_deref().unwrap_or("default");
    let error = |message: String| ConfigError::Value {
        origin: paste.config_file.as_deref().unwrap_or("the paste file").to_owned(),
        group: "paste_deploy".to_owned(),
        name: "flavor",
        message,
    };
    let mut options = Vec::new();
    let filters = match paste_file(paste, config_dirs) {
        Some(path) => {
            let file = PasteFile::read(&path)?;
            let names = file.filters(flavor).ok_or_else(|| error(format!("there is no pipeline for {flavor:?}")))?;
            let filters: Vec<_> = names.into_iter().map(|name| (file.factory(&name).and_then(kind), name)).collect();
            options = filter_options(&path, &file, &filters);
            filters
        }
        None => {
            let known = FLAVORS.iter().find(|(name, _)| *name == flavor);
            let known = known
                .ok_or_else(|| error(format!("{flavor:?} is none of Glance's flavors, and there is no paste file")))?;
            known.1.split(' ').map(|name| (kind(name), name.to_owned())).collect()
        }
    };
    Ok(Some(Pipeline { options, ..evaluate(&filters) }))
}

/// The options that the sections of the filters set, and that of the health check, which is an application.
fn filter_options(path: &Path, file: &PasteFile, filters: &[(Option<Filter>, String)]) -> Vec<FilterOptions> {
    let section = |wanted: Filter| {
        let found = filters.iter().find(|(kind, _)| *kind == Some(wanted));
        found.map(|(_, name)| ("filter", name.as_str()))
    };
    let healthcheck =
        if file.has("app", "healthcheck") { Some(("app", "healthcheck")) } else { section(Filter::Healthcheck) };
    [
        (KeystoneAuthtoken::NAME, section(Filter::AuthToken)),
        ("cors", section(Filter::Cors)),
        ("oslo_middleware", section(Filter::ProxyHeaders)),
        ("healthcheck", healthcheck),
    ]
    .into_iter()
    .filter_map(|(group, section)| {
        let (prefix, name) = section?;
        // An option in `[DEFAULT]` of the file is for all filters. It applies to this one only if its group has such an option.
        let is_own = |entry: &ini::Entry| {
            let is_ignored = IGNORED.contains(&(group, &entry.name))
                || (group != KeystoneAuthtoken::NAME && entry.name.starts_with(CONFIG));
            catalogue::options().any(|option| option.is_called(group, &entry.name))
                || (entry.group != "DEFAULT" && !is_ignored)
        };
        let entries = file.local(prefix, name).into_iter().filter(is_own).collect();
        Some(FilterOptions { path: path.to_owned(), group, entries })
    })
    .collect()
}

/// The prefix of options that name the configuration of a filter. Glimpse has only one configuration.
const CONFIG: &str = "oslo_config_";
/// Options in Glance's own paste file whose values are what Glimpse always does.
const IGNORED: [(&str, &str); 2] = [("healthcheck", "path"), ("healthcheck", "backends")];

/// The file that the option names, or Glance's paste file next to the configuration.
fn paste_file(options: &PasteDeploy, config_dirs: &[PathBuf]) -> Option<PathBuf> {
    if let Some(path) = &options.config_file {
        let path = Path::new(path);
        let found = config_dirs.iter().map(|dir| dir.join(path)).find(|path| path.exists());
        return Some(found.unwrap_or_else(|| path.to_owned()));
    }
    config_dirs.iter().map(|dir| dir.join("glance-api-paste.ini")).find(|path| path.exists())
}

/// Determines the effect of a pipeline from its filters, without their options.
fn evaluate(filters: &[(Option<Filter>, String)]) -> Pipeline {
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
        // One of the unknown filters may authenticate callers. Without it, the headers of any client would be trusted.
        Err(format!(
            "the pipeline has filters in front of context that Glimpse does not know ({}), and one of them may authenticate \
             callers: set [glimpse] auth",
            unknown.join(", ")
        ))
    } else {
        // In Glance, every request fails if no filter sets a context.
        let unknown =
            if unknown.is_empty() { String::new() } else { format!("; it does not know {}", unknown.join(", ")) };
        Err(format!(
            "the pipeline has no filter from which Glimpse knows how callers are authenticated{unknown}: set [glimpse] auth"
        ))
    };
    let warnings = filters.iter().filter_map(|(kind, name)| match kind {
        None => Some(format!("[paste_deploy]: Glimpse does not know the filter {name}, and leaves it out")),
        Some(Filter::Missing) => {
            Some(format!("[paste_deploy]: Glimpse has no counterpart for the filter {name}, and leaves it out"))
        }
        Some(_) => None,
    });
    Pipeline {
        auth,
        cors: has(Filter::Cors),
        proxy_headers: has(Filter::ProxyHeaders),
        filters: Filters { cache: has(Filter::Cache), cache_manage: has(Filter::CacheManage), gzip: has(Filter::Gzip) },
        options: Vec::new(),
        warnings: warnings.collect(),
    }
}

/// Finds the kind of a filter by its complete factory, or by its name in Glance's own file. A filter with a merely similar name is
/// unknown: it must not decide how callers are authenticated.
fn kind(factory: impl AsRef<str>) -> Option<Filter> {
    Some(match factory.as_ref() {
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
            Filter::Healthcheck
        }
        "oslo_middleware:RequestId.factory" | "oslo_middleware.request_id:RequestId.factory" | "request_id" => {
            Filter::AlwaysThere
        }
        "oslo_middleware:RequestBodySizeLimiter.factory" | "egg:oslo.middleware#sizelimit" | "sizelimit" => {
            Filter::AlwaysThere
        }
        "glance.api.middleware.gzip:GzipMiddleware.factory" | "gzip" => Filter::Gzip,
        "glance.api.middleware.cache:CacheFilter.factory" | "cache" => Filter::Cache,
        "glance.api.middleware.cache_manage:CacheManageFilter.factory" | "cachemanage" => Filter::CacheManage,
        "osprofiler.web:WsgiMiddleware.factory" | "osprofiler" => Filter::Missing,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{Auth, Filters, PasteDeploy, Pipeline, pipeline};

    fn read(flavor: Option<&str>, paste: Option<&str>) -> Result<Option<Pipeline>, String> {
        let dir = tempfile::tempdir().unwrap();
        if let Some(text) = paste {
            fs::write(dir.path().join("glance-api-paste.ini"), text).unwrap();
        }
        let options = PasteDeploy { flavor: flavor.map(str::to_owned), config_file: None };
        pipeline(&options, &[dir.path().to_owned()]).map_err(|error| error.to_string())
    }

    #[test]
    fn glances_flavors_are_known_without_a_paste_file() {
        let auth = |flavor| read(Some(flavor), None).unwrap().unwrap().auth.unwrap();
        assert_eq!(auth("keystone"), Auth::Keystone);
        assert_eq!(auth("keystone+cachemanagement"), Auth::Keystone);
        assert_eq!(auth("caching"), Auth::None);
        assert_eq!(auth("trusted-auth"), Auth::Proxy);
        let filters = |flavor| read(Some(flavor), None).unwrap().unwrap().filters;
        assert_eq!(filters("keystone"), Filters::default());
        assert_eq!(filters("keystone+caching"), Filters { cache: true, ..Filters::default() });
        assert_eq!(filters("cachemanagement"), Filters { cache: true, cache_manage: true, gzip: false });
        assert!(read(Some("nope"), None).unwrap_err().contains("none of Glance's"));
        assert_eq!(read(None, None), Ok(None));
    }

    /// From the paste file of Glance 33.
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
    fn the_pipeline_of_a_composite_is_chosen_by_flavor() {
        let found = read(Some("keystone"), Some(COMPOSITES)).unwrap().unwrap();
        assert_eq!(found.auth, Ok(Auth::Keystone));
        assert!(found.cors && found.proxy_headers);
        let healthcheck = found.options.iter().find(|options| options.group == "healthcheck").unwrap();
        assert_eq!(healthcheck.entries[0].name, "disable_by_file_path");
        assert_eq!(healthcheck.entries[0].value.expose(), "/run/away");
        assert_eq!(found.warnings.len(), 2, "{:?}", found.warnings);
        assert!(found.warnings[0].contains("osprofiler") && found.warnings[1].contains("audit"));
        assert!(read(Some("nope"), Some(COMPOSITES)).unwrap_err().contains("no pipeline for \"nope\""));
    }

    /// In the form of Glance's paste file before release 30.
    #[test]
    fn filters_with_other_names_are_recognised_by_their_factories() {
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
    fn a_filter_with_a_similar_name_is_unknown() {
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
        assert!(alone.auth.unwrap_err().contains("it does not know block, cors-context: set [glimpse] auth"));
        // One of the filters in front of a context may authenticate callers.
        let open = read(Some("site"), Some(&paste.replace("authtoken ", ""))).unwrap().unwrap();
        assert!(open.auth.unwrap_err().contains("block, cors-context"));
    }

    #[test]
    fn names_are_case_sensitive() {
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
    fn a_pipeline_without_authentication_is_an_error() {
        let paste = "[pipeline:glance-api-x]\npipeline = cors versionnegotiation rootapp\n";
        let found = read(Some("x"), Some(paste)).unwrap().unwrap();
        assert!(found.auth.unwrap_err().contains("set [glimpse] auth"));
    }

    #[test]
    fn spaces_around_colons_and_names_are_ignored() {
        let paste = "[pipeline: glance-api-x ]\n  pipeline = a\n# between\n\n   b\n    rootapp\n\
            [filter: a] ; mine\npaste.filter_factory = keystonemiddleware.auth_token :filter_factory\n\
            [filter:\tb]\npaste.filter_factory=glance.api.middleware.context:   ContextMiddleware.factory\n";
        let found = read(Some("x"), Some(paste)).unwrap().unwrap();
        assert_eq!((found.auth, found.warnings), (Ok(Auth::Keystone), vec![]));
        let context = paste.replace("= a\n", "=\n");
        assert_eq!(read(Some("x"), Some(&context)).unwrap().unwrap().auth, Ok(Auth::Proxy));
    }

    #[test]
    fn sections_that_refer_to_each_other_in_a_circle_are_an_error() {
        let paste = "[composite:glance-api-a]\n/: glance-api-a\n";
        assert!(read(Some("a"), Some(paste)).is_err());
    }
}
