//! `glimpse serve`

use std::{process::ExitCode, sync::Arc};

use super::CommandResult;
use crate::{
    app::{self, App},
    config::{Auth, Config},
    log, server,
};

pub(super) fn run(config: Config) -> CommandResult {
    log::start(&config);
    if config.auth == Auth::Standalone {
        app::create_data_dir(&config)?;
        super::identity::create_first_users(&config)?;
    }
    // One TLS library for every connection that we open; without this, each would have to name it.
    rustls::crypto::ring::default_provider().install_default().map_err(|_| "TLS was set up twice")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let app = App::start(config).await?;
        server::run(Arc::new(app)).await?;
        Ok(ExitCode::SUCCESS)
    })
}
