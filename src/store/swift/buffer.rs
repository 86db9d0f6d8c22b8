//! Files that keep a segment until Swift has stored it, so that it can be sent again (`swift_buffer_on_upload`).

use std::{
    fs::{File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::FileExt as _,
    path::Path,
    sync::Arc,
};

use bytes::Bytes;
use futures_util::Stream;
use tokio::task::spawn_blocking;

/// The size in bytes of the parts in which a file is read.
const PART: u64 = 256 << 10;

/// Creates a file without a name, which the system removes when it is closed.
///
/// # Errors
/// The directory cannot be written to.
pub(super) fn create(dir: &Path) -> io::Result<File> {
    let path = dir.join(format!(".glimpse-segment.{}", uuid::Uuid::new_v4()));
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
    std::fs::remove_file(&path)?;
    Ok(file)
}

/// Appends bytes to a file.
pub(super) async fn append(mut file: File, bytes: Bytes) -> io::Result<File> {
    let written = spawn_blocking(move || file.write_all(&bytes).map(|()| file)).await;
    written.map_err(io::Error::other)?
}

/// The first `len` bytes of a file.
pub(super) fn read(file: Arc<File>, len: u64) -> impl Stream<Item = io::Result<Bytes>> + Send {
    futures_util::stream::try_unfold(0, move |at: u64| {
        let file = Arc::clone(&file);
        async move {
            let wanted = usize::try_from((len - at).min(PART)).unwrap_or_default();
            if wanted == 0 {
                return Ok(None);
            }
            let part = spawn_blocking(move || {
                let mut part = vec![0; wanted];
                file.read_exact_at(&mut part, at).map(|()| Bytes::from(part))
            });
            let part = part.await.map_err(io::Error::other)??;
            let next = at + part.len() as u64;
            Ok(Some((part, next)))
        }
    })
}
