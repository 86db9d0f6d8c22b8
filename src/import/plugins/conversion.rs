//! `image_conversion`: converts an image to another disk format, with `qemu-img`.
//!
//! The data is inspected before `qemu-img` opens it, because a hostile image can make it read other files of this machine.

use std::{
    fs::{self, File},
    io::{ErrorKind, Read as _},
    os::unix::fs::MetadataExt as _,
    path::Path,
};

use serde::Deserialize;

use super::{Bound, Change, Files, Progress, Unfinished, child, staging_failed};
use crate::{
    app::App,
    config::OutputFormat,
    error::{Error, Result},
    inspect::{Format, Inspector},
    model::Image,
};

const QEMU_IMG: &str = "qemu-img";
/// The limits of the call that describes an image. They are Glance's, except for the file.
const INFO: child::Limits = child::Limits { seconds: 2, memory: 1 << 30, file: 1 << 20 };
/// The size of the address space of a conversion in bytes.
const MEMORY: u64 = 2 << 30;
/// The size of a read in bytes.
const BUFFER: usize = 1024 * 1024;
/// The maximum length of `qemu-img`'s message that is shown to clients, in characters.
const MAX_MESSAGE: usize = 500;

/// Exit codes of `qemu-img check`.
const CHECK_CORRUPT: i32 = 2;
const CHECK_LEAKS: i32 = 3;
const CHECK_UNSUPPORTED: i32 = 63;

/// A conversion of the data of one image.
pub(super) struct Conversion {
    disk_format: String,
    to: OutputFormat,
    /// Safety checks that a partition table is allowed to fail.
    nonfatal: Vec<String>,
    vmdk_allowed_types: Vec<String>,
    seconds: u32,
    bound: Bound,
}

/// The part of `qemu-img`'s description of an image that matters.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Description {
    format: Option<String>,
    #[serde(default)]
    virtual_size: u64,
    backing_filename: Option<serde_json::Value>,
    #[serde(default)]
    format_specific: Specific,
}

#[derive(Debug, Default, Deserialize)]
struct Specific {
    #[serde(default)]
    data: SpecificData,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct SpecificData {
    data_file: Option<serde_json::Value>,
    create_type: Option<String>,
}

fn refused(message: &str) -> Error {
    Error::Invalid(message.to_owned())
}

impl Conversion {
    pub(super) fn new(app: &App, image: &Image, to: OutputFormat, bound: Bound) -> Self {
        let config = &app.config;
        Self {
            disk_format: image.disk_format.clone().unwrap_or_default(),
            to,
            nonfatal: config.image_format.gpt_safety_checks_nonfatal.clone(),
            vmdk_allowed_types: config.image_format.vmdk_allowed_types.clone(),
            seconds: config.glimpse.conversion_timeout,
            bound,
        }
    }

    /// Converts the data, unless it has the format already, or is an optical disc.
    ///
    /// # Errors
    /// `Invalid` for data that cannot be converted, `LimitExceeded`, `Unavailable`.
    pub(super) fn convert(&self, files: &Files, progress: &Progress) -> Result<Change> {
        let found = self.inspect(&files.source, progress)?;
        if found == Format::Iso {
            return if self.disk_format == found.as_str() {
                Ok(Change::default())
            } else {
                Err(refused("Image has disallowed configuration"))
            };
        }
        if found.as_str() != self.disk_format {
            return Err(refused("Image format mismatch"));
        }
        let virtual_size = self.describe(&files.source, progress)?;
        if self.disk_format == self.to.name() {
            return Ok(Change { virtual_size: Some(virtual_size), ..Change::default() });
        }
        if self.to == OutputFormat::Raw && virtual_size > self.bound.bytes() {
            return Err(self.bound.exceeded(virtual_size));
        }
        self.check_complete(&files.source, progress)?;
        let unfinished = Unfinished::new(&files.target);
        self.run_conversion(files, progress)?;
        if self.inspect(&files.target, progress)?.as_str() != self.to.name() {
            return Err(refused("Converted image in unexpected format"));
        }
        let target = File::open(&files.target).map_err(staging_failed)?;
        target.sync_all().map_err(staging_failed)?;
        let size = target.metadata().map_err(staging_failed)?.len();
        if size > self.bound.bytes() {
            return Err(self.bound.exceeded(size));
        }
        unfinished.keep();
        Ok(Change { size: Some(size), virtual_size: Some(virtual_size), disk_format: Some(self.to.name()) })
    }

    /// Returns the format of a file, if it is safe to open. A disk with a partition table is raw.
    fn inspect(&self, path: &Path, progress: &Progress) -> Result<Format> {
        let mut file = File::open(path).map_err(staging_failed)?;
        let (mut inspector, mut buffer) = (Inspector::new(), vec![0; BUFFER]);
        loop {
            match file.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => drop(inspector.feed(&buffer[..read])),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(staging_failed(error)),
            }
            progress.reached(progress.bytes())?;
        }
        let inspection = inspector.finish();
        let found = match inspection.found.as_slice() {
            [found] => found,
            [disc, table] if (disc.format, table.format) == (Format::Iso, Format::Gpt) => disc,
            _ => return Err(refused("Image format detection failed")),
        };
        if !found.complete {
            return Err(refused("Image format detection failed"));
        }
        let is_excused = |check: &str| found.format == Format::Gpt && self.nonfatal.iter().any(|name| name == check);
        if let Some(failure) = found.failures.iter().find(|failure| !is_excused(failure.check.as_str())) {
            let (format, reason) = (found.format.as_str(), failure.reason);
            tracing::warn!(format, reason, "the image's data is not converted, because it is unsafe");
            return Err(refused("Image has disallowed configuration"));
        }
        Ok(if found.format == Format::Gpt { Format::Raw } else { found.format })
    }

    /// Checks the data once more as `qemu-img` understands it, and returns its virtual size in bytes.
    fn describe(&self, path: &Path, progress: &Progress) -> Result<u64> {
        let format = qemu_name(&self.disk_format);
        let path = text(path)?;
        let arguments = ["info", "-f", format, "--output=json", path];
        let ended = child::run(QEMU_IMG, &arguments, INFO, || progress.reached(progress.bytes()))?;
        let described = ended.succeeded() && ended.stderr.is_empty();
        let description: Description = match described {
            true => serde_json::from_slice(&ended.stdout).map_err(|error| Error::Internal(error.into()))?,
            false => return Err(self.failed(&ended, &[path])),
        };
        if description.format.as_deref() != Some(format) {
            return Err(refused("Image metadata disagrees about format"));
        }
        if description.backing_filename.is_some() {
            return Err(refused("QCOW images with backing files are not allowed"));
        }
        let specific = description.format_specific.data;
        if specific.data_file.is_some() {
            return Err(refused("QCOW images with data-file set are not allowed"));
        }
        if format == Format::Vmdk.as_str() {
            let create_type = specific.create_type.ok_or_else(|| refused("Unable to determine VMDK create-type"))?;
            if self.vmdk_allowed_types.is_empty() {
                return Err(refused("Image is a VMDK, but no VMDK createType is specified"));
            }
            if !self.vmdk_allowed_types.contains(&create_type) {
                return Err(refused("Invalid VMDK create-type specified"));
            }
        }
        Ok(description.virtual_size)
    }

    /// Checks that the file has all the data that its tables refer to. A conversion would replace what is missing by zeros.
    fn check_complete(&self, path: &Path, progress: &Progress) -> Result<()> {
        let path = text(path)?;
        let arguments = ["check", "-f", qemu_name(&self.disk_format), "--output=json", path];
        let limits = child::Limits { seconds: self.seconds, memory: MEMORY, ..INFO };
        let ended = child::run(QEMU_IMG, &arguments, limits, || progress.reached(progress.bytes()))?;
        match ended.code() {
            // There are unused clusters; or the format has no tables to check.
            Some(0 | CHECK_LEAKS | CHECK_UNSUPPORTED) => Ok(()),
            Some(CHECK_CORRUPT) => {
                tracing::warn!("the image's data is not converted, because qemu-img finds it corrupt");
                Err(refused("The image's data is damaged or incomplete."))
            }
            _ => Err(self.failed(&ended, &[path])),
        }
    }

    fn run_conversion(&self, files: &Files, progress: &Progress) -> Result<()> {
        let (source, target) = (text(&files.source)?, text(&files.target)?);
        let arguments = ["convert", "-f", qemu_name(&self.disk_format), "-O", self.to.name(), source, target];
        let limits = child::Limits { seconds: self.seconds, memory: MEMORY, file: self.bound.bytes() };
        let ended = child::run(QEMU_IMG, &arguments, limits, || {
            let written = fs::metadata(&files.target).map_or(0, |metadata| metadata.blocks().saturating_mul(512));
            progress.reached(written)
        })?;
        if ended.wrote_too_much() {
            return Err(self.bound.exceeded(self.bound.bytes().saturating_add(1)));
        }
        if ended.succeeded() && ended.stderr.is_empty() { Ok(()) } else { Err(self.failed(&ended, &[source, target])) }
    }

    /// The error of a call that failed. Its message does not contain the paths of this machine.
    fn failed(&self, ended: &child::Ended, paths: &[&str]) -> Error {
        if ended.took_too_long() {
            return child::too_slow(QEMU_IMG);
        }
        tracing::warn!(message = ended.stderr, "qemu-img failed");
        let mut message = ended.stderr.clone();
        // A path can begin with another one.
        for path in paths.iter().rev() {
            message = message.replace(path, "the image");
        }
        let message: String = message.chars().take(MAX_MESSAGE).collect();
        Error::Invalid(format!("The image's data cannot be converted from {}: {message}", self.disk_format))
    }
}

/// The name that `qemu-img` gives a disk format.
fn qemu_name(disk_format: &str) -> &str {
    if disk_format == Format::Vhd.as_str() { "vpc" } else { disk_format }
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().ok_or_else(|| Error::Internal("the path of staged data is not UTF-8".into()))
}
