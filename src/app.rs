//! The parts of a running server. They are built and joined here, once, at start.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use chrono::{DateTime, NaiveDateTime, SubsecRound as _, Utc};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::Instrument as _;

use crate::{
    auth::{
        Authenticator, Keystone,
        identity_file::{IdentityError, IdentityFile},
        standalone::Standalone,
    },
    cache::Cache,
    config::{Auth, Config, Database, DatabaseUrl, Target},
    db::{self, Db, migrate::Schema},
    egress::EgressFilter,
    error::{Error, Result},
    keystone::Caller,
    limits::Limits,
    policy::{
        Policy, PolicyError,
        protections::{Protections, ProtectionsError},
    },
    process::Process,
    schemas::{Schemas, SchemasError},
    store::{StoreFault, Stores},
};

/// The parts that all requests share.
pub(crate) struct App {
    /// The options.
    pub(crate) config: Config,
    /// The database that keeps the records.
    pub(crate) db: Db,
    /// Authenticates callers.
    pub(crate) authenticator: Authenticator,
    /// Authorises callers.
    pub(crate) policy: Policy,
    /// Enforces quotas.
    pub(crate) limits: Limits,
    /// Authorises access to custom properties.
    pub(crate) protections: Protections,
    /// Validate request bodies.
    pub(crate) schemas: Schemas,
    /// The stores that keep image data.
    pub(crate) stores: Stores,
    /// The image cache, if the configuration has one.
    pub(crate) cache: Option<Arc<Cache>>,
    /// This process.
    pub(crate) process: Process,
    /// Work that outlives its request.
    pub(crate) work: TaskTracker,
    /// Restricts the URLs of users to which this service connects.
    pub(crate) egress: Arc<EgressFilter>,
    /// Cancelled when the server begins to drain: jobs are handed over to other processes.
    pub(crate) stopping: CancellationToken,
    /// Returns the current time. A field, so that a test can replace it.
    clock: fn() -> DateTime<Utc>,
    draining: AtomicBool,
}

/// The shared parts, as handlers get them.
pub(crate) type SharedApp = Arc<App>;

/// Why a server cannot start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    /// The data directory cannot be created.
    #[error("data directory {path}: {source}")]
    DataDir {
        /// The directory's path.
        path: String,
        /// The system's error.
        source: io::Error,
    },
    /// The database cannot be opened, or its schema cannot be read.
    #[error("database {url}: {source}")]
    Database {
        /// The database's URL without its password.
        url: String,
        /// The database's error.
        source: db::Error,
    },
    /// The database's schema is not at this program's version.
    #[error("database {url}: {message}")]
    Schema {
        /// The database's URL without its password.
        url: String,
        /// What the operator has to do.
        message: String,
    },
    /// An option has a value that the part which it configures rejects.
    #[error("{0}")]
    Config(String),
    /// The identity file cannot be read.
    #[error("identity file {0}")]
    Identity(String),
    /// The policy cannot be read.
    #[error("{0}")]
    Policy(#[from] PolicyError),
    /// The property protections cannot be read.
    #[error("{0}")]
    Protections(#[from] ProtectionsError),
    /// The schemas cannot be built.
    #[error("{0}")]
    Schemas(#[from] SchemasError),
}

impl From<IdentityError> for StartError {
    fn from(error: IdentityError) -> Self {
        Self::Identity(error.to_string())
    }
}

impl App {
    /// Reads the files, opens the database, and joins the parts. Creates and migrates the schema of the embedded database; never
    /// changes the schema of another one.
    pub(crate) async fn start(config: Config) -> Result<Self, StartError> {
        for warning in &config.warnings {
            tracing::warn!("{warning}");
        }
        if !config.needless.is_empty() {
            let options = config.needless.len();
            tracing::info!(
                options,
                "some options have no effect by design; `glimpse config check --verbose` lists them"
            );
        }
        let protections = Protections::load(&config);
        let (policy, warnings) = Policy::load(&config, protections.as_ref().ok())?;
        for warning in &warnings {
            tracing::warn!("{warning}");
        }
        #[expect(clippy::disallowed_methods, reason = "the one place where the clock is chosen")]
        let clock = Utc::now;
        let authenticator = authenticator(&config, clock)?;
        let limits = Limits::new(&config, clock);
        if let Some(warning) = limits.warning() {
            tracing::warn!("{warning}");
        }
        let protections = protections?;
        let schemas = read_schemas(&config)?;
        for warning in protections.warnings(&policy) {
            tracing::warn!("{warning}");
        }
        let url = config.database_url();
        if config.database_is_embedded() {
            create_data_dir(&config)?;
        }
        if let Some(warning) = open_data_dir(&config) {
            tracing::warn!("{warning}");
        }
        let error = |source| StartError::Database { url: url.to_string(), source };
        let db = Db::open(&url, (&config.database).into()).await.map_err(error)?;
        if config.database_is_embedded() {
            db.sync().await.map_err(error)?;
        }
        let state = wait_for_schema(&db, &url, &config.database).await.map_err(error)?.state;
        if let Some(message) = state.advice() {
            return Err(StartError::Schema { url: url.to_string(), message });
        }
        tracing::info!(database = %url, "database is ready");
        let filter = Arc::new(EgressFilter::new(&config.import_filtering_opts));
        let stores = Stores::open(&config.stores, &config.image_dir(), &config.staging_dir(), &filter);
        let stores = stores.map_err(StartError::Config)?;
        let cache = Cache::open(&config, &db, clock).await.map_err(StartError::Config)?;
        Ok(Self {
            config,
            db,
            authenticator,
            policy,
            limits,
            protections,
            schemas,
            stores,
            cache,
            process: Process::new(),
            work: TaskTracker::new(),
            egress: filter,
            stopping: CancellationToken::new(),
            clock,
            draining: AtomicBool::new(false),
        })
    }

    /// The current time in UTC, in microseconds: every engine but MySQL stores exactly that.
    pub(crate) fn now(&self) -> NaiveDateTime {
        (self.clock)().naive_utc().trunc_subsecs(6)
    }

    /// Starts work that outlives its request: it runs to its end even if the client disconnects, and a server that stops waits for
    /// it.
    pub(crate) fn outlive<T, W>(&self, work: W) -> impl Future<Output = Result<T>> + use<T, W>
    where
        T: Send + 'static,
        W: Future<Output = Result<T>> + Send + 'static,
    {
        let ended = self.work.spawn(Caller::scope(Caller::current(), work).in_current_span());
        async { ended.await.map_err(|error| Error::Internal(error.into()))? }
    }

    /// Whether the server finishes the requests in progress and refuses new ones.
    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Makes the server refuse new requests from now on.
    pub(crate) fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
        self.stopping.cancel();
    }
}

/// Finds faults of the stores without opening them.
pub(crate) fn store_faults(config: &Config) -> Vec<StoreFault> {
    let filter = Arc::new(EgressFilter::new(&config.import_filtering_opts));
    Stores::faults(&config.stores, &config.image_dir(), &filter)
}

/// Builds the schemas, with the operator's own properties.
pub(crate) fn read_schemas(config: &Config) -> Result<Schemas, SchemasError> {
    Schemas::new(&config.image_format, config.custom_schema.as_deref())
}

/// Reads the schema's version, which is the first query. While the server does not answer, the query is retried as
/// `[database] max_retries` and `retry_interval` say: when a machine boots, a database server often starts later than its clients.
async fn wait_for_schema(db: &Db, url: &DatabaseUrl, options: &Database) -> db::Result<Schema> {
    let mut attempts: u64 = 1;
    loop {
        let give_up = match u64::try_from(options.max_retries) {
            Ok(max) => attempts >= max,
            // A negative number means no limit.
            Err(_) => false,
        };
        match db.schema().await {
            Err(db::Error::Unavailable(error)) if !give_up && !matches!(url.target, Target::Sqlite(_)) => {
                tracing::warn!(database = %url, %error, attempts, "the database does not answer; retrying");
                tokio::time::sleep(options.retry_interval).await;
                attempts += 1;
            }
            done => return done,
        }
    }
}

fn authenticator(config: &Config, clock: fn() -> DateTime<Utc>) -> Result<Authenticator, StartError> {
    Ok(match config.auth {
        Auth::Standalone => {
            let path = IdentityFile::path(&config.glimpse.data_dir);
            let standalone = Standalone::open(path, config.glimpse.token_lifetime, clock)?;
            Authenticator::Standalone(Arc::new(standalone))
        }
        Auth::Keystone => Authenticator::Keystone(Box::new(
            Keystone::new(&config.keystone_authtoken, clock).map_err(StartError::Config)?,
        )),
        Auth::Proxy => Authenticator::Proxy,
        Auth::Fake => Authenticator::Fake,
        Auth::None => Authenticator::None,
    })
}

/// Creates the data directory with access for its owner only.
pub(crate) fn create_data_dir(config: &Config) -> Result<(), StartError> {
    let path = &config.glimpse.data_dir;
    let created = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    created.map_err(|source| StartError::DataDir { path: path.display().to_string(), source })
}

/// A warning if other users of the machine can read the data directory: it contains the embedded database, its images and the
/// hashes of passwords.
pub(crate) fn open_data_dir(config: &Config) -> Option<String> {
    let is_used = config.database_is_embedded() || config.auth == Auth::Standalone;
    let path = is_used.then_some(&config.glimpse.data_dir)?;
    let mode = fs::metadata(path).ok()?.permissions().mode();
    (mode & 0o007 != 0).then(|| {
        let path = path.display();
        format!("other users of this machine have access to the data directory {path}: run `chmod o-rwx {path}`")
    })
}
