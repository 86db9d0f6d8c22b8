//! `[healthcheck]`: the response to health checks of a load balancer.

use std::path::PathBuf;

use super::group::group;

group! {
    /// `[healthcheck]`
    pub(crate) struct Healthcheck in "healthcheck" {
        /// While this file exists, health checks get 503, so that a load balancer sends no requests here.
        disable_by_file_path: Option<PathBuf> = Some(PathBuf::from("/etc/glance/healthcheck_disable")),
    }
}
