//! The plugins of imports that change staged data. Each reads one file and writes another one; the import's step publishes it.

mod child;
mod conversion;
mod decompression;
mod work;
mod zip;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use self::conversion::Conversion;
pub(super) use self::work::Progress;
use crate::{
    app::App,
    config::{ImportPlugin, OutputFormat},
    data::ingest::{store_error, too_large},
    error::{Error, Result},
    limits::{StorageLeft, over_quota},
    model::Image,
    store,
};

/// Staged data, and where the changed data is written.
#[derive(Debug, Clone)]
pub(super) struct Files {
    /// The staged data.
    pub(super) source: PathBuf,
    /// The changed data. If the plugin fails, or changes nothing, there is no such file afterwards.
    pub(super) target: PathBuf,
}

/// The maximum size of the data that a plugin writes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bound {
    /// `image_size_cap`, in bytes.
    pub(super) cap: u64,
    /// The rest of the project's storage quota.
    pub(super) left: StorageLeft,
}

impl Bound {
    /// The maximum size in bytes.
    fn bytes(self) -> u64 {
        self.left.bound().map_or(self.cap, |left| left.min(self.cap))
    }

    /// The error for data of at least `size` bytes, which exceeds the bound.
    fn exceeded(self, size: u64) -> Error {
        if size > self.cap {
            return too_large();
        }
        self.left.admits(Some(size)).map_or_else(over_quota, |()| too_large())
    }
}

/// What a plugin has done.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Change {
    /// The size in bytes of the changed data; `None` if the data is as it was.
    pub(super) size: Option<u64>,
    /// The size in bytes of the disk that the data describes, if the plugin has found it out.
    pub(super) virtual_size: Option<u64>,
    /// The disk format of the changed data. Its container format is `bare`.
    pub(super) disk_format: Option<&'static str>,
}

/// Runs a plugin that changes data; `to` is the format of converted data. If the future is dropped, the plugin stops soon, and removes what it has written.
///
/// # Errors
/// `Invalid` for data that the plugin cannot read, `LimitExceeded`, `Unavailable` if the staging store fails.
pub(super) async fn change_data(
    app: &Arc<App>,
    plugin: ImportPlugin,
    image: &Image,
    to: OutputFormat,
    files: Files,
    bound: Bound,
    progress: Arc<Progress>,
) -> Result<Change> {
    match plugin {
        // As in Glance, archives that are meant to be images are kept.
        ImportPlugin::ImageDecompression if image.container_format.as_deref() == Some("compressed") => {
            Ok(Change::default())
        }
        ImportPlugin::ImageDecompression => {
            work::on_own_thread(progress, move |progress| {
                let size = decompression::decompress(&files, bound, progress)?;
                Ok(Change { size, ..Change::default() })
            })
            .await
        }
        ImportPlugin::ImageConversion => {
            let conversion = Conversion::new(app, image, to, bound);
            work::on_own_thread(progress, move |progress| conversion.convert(&files, progress)).await
        }
        ImportPlugin::NoOp | ImportPlugin::InjectImageMetadata => Ok(Change::default()),
    }
}

/// Removes a file when it is dropped, unless it is kept.
struct Unfinished<'p> {
    path: &'p Path,
    is_kept: bool,
}

impl<'p> Unfinished<'p> {
    fn new(path: &'p Path) -> Self {
        Self { path, is_kept: false }
    }

    fn keep(mut self) {
        self.is_kept = true;
    }
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if self.is_kept {
            return;
        }
        match std::fs::remove_file(self.path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!(%error, "cannot remove what a plugin has written; the end of the import removes it");
            }
            _ => {}
        }
    }
}

/// The error of a file in the staging store.
fn staging_failed(error: std::io::Error) -> Error {
    match error.kind() {
        std::io::ErrorKind::StorageFull => store_error(store::Error::Full),
        _ => Error::store_failed(error),
    }
}
