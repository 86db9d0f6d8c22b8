//! `[image_format]`: the formats that an image may have.

use super::{group::group, value::word_list};

group! {
    /// `[image_format]`
    pub(crate) struct ImageFormat in "image_format" {
        /// Container formats that an image may have.
        container_formats: Vec<String> = word_list("ami ari aki bare ovf ova docker compressed"); was "DEFAULT" "container_formats",
        /// Disk formats that an image may have.
        disk_formats: Vec<String> = word_list("ami ari aki vhd vhdx vmdk raw qcow2 vdi iso ploop"); was "DEFAULT" "disk_formats",
        /// Whether data whose format is not the image's disk format is refused.
        require_image_format_match: bool = true,
        /// Safety checks that a disk with a partition table may fail.
        gpt_safety_checks_nonfatal: Vec<String> = Vec::new(),
    }
}
