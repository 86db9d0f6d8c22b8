//! `glimpse serve`

use std::{process::ExitCode, sync::Arc};

use super::CommandResult;
use crate::{
    app::{self, App},
    config::{Auth, Config},
    log, server,
};

pub(super) fn run(config: Config) -> CommandResult {
    log::start(&config)?;
    if config.glimpse.auth == Auth::Standalone {
        app::create_data_dir(&config)?;
        super::identity::create_first_users(&config)?;
    }
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    if let Some(workers) = config.default.workers {
        // None at all is Glance's way to write one.
        runtime.worker_threads(Ord::max(workers, 1) as usize);
    }
    let runtime = runtime.enable_all().build()?;
    runtime.block_on(async {
        let app = App::start(config).await?;
        server::run(Arc::new(app)).await?;
        Ok(ExitCode::SUCCESS)
    })
}
