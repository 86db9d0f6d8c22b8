//! `[inject_metadata_properties]`: the plugin of imports that adds properties.

use super::{
    group::group,
    value::{Pairs, word_list},
};

group! {
    /// `[inject_metadata_properties]`
    pub(crate) struct InjectMetadataProperties in "inject_metadata_properties" {
        /// The roles of callers whose imports get no properties.
        ignore_user_roles: Vec<String> = word_list("admin"),
        /// The properties that the plugin `inject_image_metadata` adds to imported images: `name:value,name:value`.
        inject: Pairs = Pairs::default(),
    }
}
