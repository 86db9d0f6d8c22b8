//! `[image_format]`: the supported formats of images.

use super::{group::group, value::word_list};

group! {
    /// `[image_format]`
    pub(crate) struct ImageFormat in "image_format" {
        /// The supported container formats.
        container_formats: Vec<String> = word_list("ami ari aki bare ovf ova docker compressed"); was "DEFAULT" "container_formats",
        /// The supported disk formats.
        disk_formats: Vec<String> = word_list("ami ari aki vhd vhdx vmdk raw qcow2 vdi iso ploop"); was "DEFAULT" "disk_formats",
        /// Whether data whose format is not the image's disk format is refused.
        require_image_format_match: bool = true,
        /// The safety checks that a disk with a partition table is allowed to fail.
        gpt_safety_checks_nonfatal: Vec<String> = Vec::new(),
        /// The types of VMDK that the conversion of imported data accepts.
        vmdk_allowed_types: Vec<String> = word_list("streamOptimized monolithicSparse"),
    }
}
