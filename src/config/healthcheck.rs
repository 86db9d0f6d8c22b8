//! `[healthcheck]`: what a load balancer is told.

use std::path::PathBuf;

use super::group::group;

group! {
    /// `[healthcheck]`
    pub(crate) struct Healthcheck in "healthcheck" {
        /// While this file exists, a load balancer is told to send nothing here.
        disable_by_file_path: Option<PathBuf> = Some(PathBuf::from("/etc/glance/healthcheck_disable")),
    }
}
