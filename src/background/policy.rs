//! Reloads the policy's files when they change.

use std::sync::Arc;

use crate::{
    app::App,
    error::{Error, Result},
};

/// Reads the files that changed, on a thread that is allowed to block. `Policy::refresh` logs errors in the files.
pub(super) async fn reload(app: &Arc<App>) -> Result<()> {
    let app = Arc::clone(app);
    tokio::task::spawn_blocking(move || app.policy.refresh()).await.map_err(|error| Error::Internal(error.into()))
}
