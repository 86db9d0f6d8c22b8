//! `glimpse serve`

use std::{process::ExitCode, sync::Arc, time::Duration};

use super::CommandResult;
use crate::{
    app::{self, App},
    config::{Auth, Config, Sources},
    log, server,
};

/// Threads that serve requests, at the most: more only wait for each other.
const MAX_WORKERS: u32 = 1024;

/// How long, at the end, files that are being removed are waited for.
const LAST_FILES: Duration = Duration::from_secs(1);

pub(super) fn run(sources: Sources) -> CommandResult {
    let config = Config::load(&sources)?;
    log::start(&config)?;
    if config.auth == Auth::Standalone {
        app::create_data_dir(&config)?;
        super::identity::create_first_users(&config)?;
    }
    // One TLS library for every connection that we open; without this, each would have to name it.
    rustls::crypto::ring::default_provider().install_default().map_err(|_| "TLS was set up twice")?;
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    if let Some(workers) = config.default.workers {
        // None at all is Glance's way to write one.
        runtime.worker_threads(workers.clamp(1, MAX_WORKERS) as usize);
    }
    let runtime = runtime.enable_all().build()?;
    let done = runtime.block_on(async {
        let app = Arc::new(App::start(config).await?);
        let running = Arc::clone(&app);
        server::run(app, move || reload(&sources, &running)).await?;
        Ok(ExitCode::SUCCESS)
    });
    // A file system that does not answer would keep us for ever.
    runtime.shutdown_timeout(LAST_FILES);
    done
}

/// Reads the configuration and the policy again: the log's level changes at once, the files of policy and users are watched in
/// any case, and what needs a restart is told.
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
                tracing::info!("configuration was read again");
            } else {
                tracing::warn!("configuration was read again; changes of {} need a restart", groups.join(", "));
            }
        }
        Err(error) => tracing::error!(%error, "configuration cannot be read; everything stays as it is"),
    }
}
