//! `[glance_store]`: the list of stores. `stores/` has the options of each kind of store.

use super::{group::group, value::word_list};

group! {
    /// `[glance_store]`
    pub(crate) struct GlanceStore in "glance_store" {
        /// The name of the default store, if `enabled_backends` names stores.
        default_backend: Option<String> = None,
        /// The kinds of stores, if `enabled_backends` is not set.
        stores: Vec<String> = word_list("file http"),
        /// The kind of the default store, if `enabled_backends` is not set.
        default_store: String = "file".to_owned(),
    }
}
