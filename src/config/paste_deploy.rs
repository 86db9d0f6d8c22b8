//! `[paste_deploy]`: the pipeline of filters in front of the API. `paste.rs` reads the file.

use super::group::group;

group! {
    /// `[paste_deploy]`
    pub(crate) struct PasteDeploy in "paste_deploy" {
        /// The name of the pipeline, without its prefix `glance-api-`.
        flavor: Option<String> = None,
        /// The paste file. Default: `glance-api-paste.ini` next to the configuration, else Glance's flavors by name.
        config_file: Option<String> = None,
    }
}
