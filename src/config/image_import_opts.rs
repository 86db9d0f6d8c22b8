//! `[image_import_opts]`: what an import does to the data between its source and the stores.

use serde::{Deserialize, Serialize};

use super::{
    group::group,
    value::{BoundedList, OptionValue},
};

group! {
    /// `[image_import_opts]`
    pub(crate) struct ImageImportOpts in "image_import_opts" {
        /// The maximum number of stores that an import copies its data to at the same time.
        max_parallel_stores: u32 = 1 => 1..,
        /// The plugins that an import runs on the staged data, in this order: `image_decompression`, `image_conversion`,
        /// `inject_image_metadata`, `no_op`.
        image_import_plugins: BoundedList<ImportPlugin> = BoundedList(Vec::new()),
    }
}

/// A plugin of imports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ImportPlugin {
    /// Does nothing.
    NoOp,
    /// Extracts the data from an archive of one file.
    ImageDecompression,
    /// Converts the data to `[image_conversion] output_format`.
    ImageConversion,
    /// Adds the properties of `[inject_metadata_properties] inject`.
    InjectImageMetadata,
}

impl ImportPlugin {
    const ALL: [Self; 4] = [Self::NoOp, Self::ImageDecompression, Self::ImageConversion, Self::InjectImageMetadata];

    /// The plugin's name in the configuration.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::NoOp => "no_op",
            Self::ImageDecompression => "image_decompression",
            Self::ImageConversion => "image_conversion",
            Self::InjectImageMetadata => "inject_image_metadata",
        }
    }
}

impl OptionValue for ImportPlugin {
    fn parse(text: &str) -> Result<Self, String> {
        let known = || Self::ALL.map(Self::name).join(", ");
        let found = Self::ALL.into_iter().find(|plugin| plugin.name() == text);
        found.ok_or_else(|| format!("there is no plugin '{text}'; the plugins are {}", known()))
    }

    fn to_text(&self) -> String {
        self.name().to_owned()
    }
}
