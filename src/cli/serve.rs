//! `glimpse serve`: starts the API server, and reloads its configuration on SIGHUP.

use std::{process::ExitCode, sync::Arc, time::Duration};

use clap::Args;

use super::{CommandResult, identity, metadefs};
use crate::{
    app::{self, App},
    config::{Auth, Config, Sources},
    log,
    metadefs::files::Existing,
    server::{self, BoundSocket},
};

/// The maximum number of threads that serve requests. More threads would only wait for each other.
const MAX_WORKERS: u32 = 1024;

/// How long a shutdown waits for file operations that are still in progress.
const FILE_TIMEOUT: Duration = Duration::from_secs(1);

/// The options of `glimpse serve`.
#[derive(Debug, Default, Args)]
pub(super) struct Arguments {
    /// The port to listen on; overrides `[DEFAULT] bind_port` [default: 9292]
    #[arg(long)]
    port: Option<u16>,

    /// The address or host name to listen on; overrides `[DEFAULT] bind_host` [default: 127.0.0.1, with Keystone 0.0.0.0]
    #[arg(long, value_name = "ADDRESS")]
    bind: Option<String>,
}

impl Arguments {
    /// The options that they override.
    pub(super) fn overrides(self) -> Vec<(&'static str, &'static str, String)> {
        let options = [("bind_port", self.port.map(|port| port.to_string())), ("bind_host", self.bind)];
        options.into_iter().filter_map(|(name, value)| Some(("DEFAULT", name, value?))).collect()
    }
}

pub(super) fn run(sources: Sources) -> CommandResult {
    let config = Config::load(&sources)?;
    log::start(&config)?;
    super::install_tls()?;
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    if let Some(workers) = config.default.workers {
        // In Glance, `workers = 0` means one process.
        runtime.worker_threads(workers.clamp(1, MAX_WORKERS) as usize);
    }
    let runtime = runtime.enable_all().build()?;
    let done = runtime.block_on(async {
        // Secrets are shown once, so nothing that is likely to fail comes after them.
        let socket = BoundSocket::bind(&config).await?;
        let mut is_first = false;
        if config.auth == Auth::Standalone {
            app::create_data_dir(&config)?;
            is_first = identity::prepare_users(&config, socket.local_addr()?)?;
        }
        let app = Arc::new(App::start(config).await?);
        if is_first && let Err(error) = metadefs::load_built_in(&app.db, Existing::Skip).await {
            tracing::warn!(%error, "the metadata definitions that are part of Glimpse cannot be loaded; run `glimpse metadefs load` later");
        }
        let running = Arc::clone(&app);
        server::run(app, socket, move || reload(&sources, &running)).await?;
        Ok(ExitCode::SUCCESS)
    });
    // Without a timeout, a file system that does not respond would keep the process alive forever.
    runtime.shutdown_timeout(FILE_TIMEOUT);
    done
}

/// Reloads the policy and the configuration. The log level changes immediately. Groups whose changes need a restart are logged. The
/// policy files and the identity file are watched in any case.
fn reload(sources: &Sources, app: &App) {
    app.policy.reload();
    match Config::load(sources) {
        Ok(config) => {
            log::reload(&config);
            for warning in config.warnings.iter().filter(|warning| !app.config.warnings.contains(warning)) {
                tracing::warn!("{warning}");
            }
            let groups = config.groups_that_differ(&app.config);
            if groups.is_empty() {
                tracing::info!("configuration was reloaded");
            } else {
                tracing::warn!("configuration was reloaded; changes of {} need a restart", groups.join(", "));
            }
        }
        Err(error) => tracing::error!(%error, "configuration cannot be read; the previous one stays in force"),
    }
}
