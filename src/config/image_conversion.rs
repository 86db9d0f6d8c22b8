//! `[image_conversion]`: the plugin of imports that converts data.

use super::{group::group, value::choice};

group! {
    /// `[image_conversion]`
    pub(crate) struct ImageConversion in "image_conversion" {
        /// The disk format to which the plugin `image_conversion` converts imported data.
        output_format: OutputFormat = OutputFormat::Raw,
    }
}

choice! {
    /// A disk format that data is converted to.
    pub(crate) enum OutputFormat {
        /// A plain disk.
        #[default]
        Raw = "raw",
        /// QEMU's format.
        Qcow2 = "qcow2",
        /// VMware's format.
        Vmdk = "vmdk",
    }
}

impl OutputFormat {
    /// The format's name in `disk_format`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
            Self::Vmdk => "vmdk",
        }
    }
}
