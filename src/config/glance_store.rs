//! `[glance_store]`: which stores there are. `stores/` has the options of each kind of store.

use super::{group::group, value::word_list};

group! {
    /// `[glance_store]`
    pub(crate) struct GlanceStore in "glance_store" {
        /// The name of the store that uploads go to, where `enabled_backends` names stores.
        default_backend: Option<String> = None,
        /// The kinds of stores there are, where `enabled_backends` names none.
        stores: Vec<String> = word_list("file http"),
        /// The kind of store that uploads go to then.
        default_store: String = "file".to_owned(),
    }
}
