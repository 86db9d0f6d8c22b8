//! The bodies of requests that can be repeated.

use std::{fs::File, io, os::unix::fs::FileExt as _, path::Path, sync::Arc};

use bytes::Bytes;
use tokio::task::spawn_blocking;

use crate::stream::{FileReader, read_ahead};

/// The body of a request. It is kept, in memory or in a file, so that the request can be repeated.
#[derive(Clone, Default)]
pub(in crate::store) struct Body {
    frames: Vec<Bytes>,
    /// The file that the frames are moved to. It has no name, so it does not outlive the process.
    file: Option<Arc<File>>,
    len: u64,
}

impl Body {
    /// A body in a new file in this directory.
    pub(in crate::store) async fn in_file(dir: &Path) -> io::Result<Self> {
        let dir = dir.to_owned();
        let file = spawn_blocking(move || tempfile::tempfile_in(dir)).await.map_err(io::Error::other)??;
        Ok(Self { file: Some(Arc::new(file)), ..Self::default() })
    }

    /// Its length in bytes.
    pub(in crate::store) fn len(&self) -> u64 {
        self.len
    }

    /// Adds data, which stays in memory at least until [`Self::flush`].
    pub(in crate::store) fn push(&mut self, frame: Bytes) {
        self.len += frame.len() as u64;
        self.frames.push(frame);
    }

    /// Moves the data to the file, if there is one.
    pub(in crate::store) async fn flush(&mut self) -> io::Result<()> {
        let Some(file) = self.file.clone() else { return Ok(()) };
        let frames = std::mem::take(&mut self.frames);
        let mut at = self.len - frames.iter().map(|frame| frame.len() as u64).sum::<u64>();
        let write = move || {
            for frame in frames {
                file.write_all_at(&frame, at)?;
                at += frame.len() as u64;
            }
            Ok(())
        };
        spawn_blocking(write).await.map_err(io::Error::other)?
    }

    /// The body of one attempt to send it. It was flushed before.
    pub(in crate::store) fn to_http(&self) -> reqwest::Body {
        match &self.file {
            Some(file) => reqwest::Body::wrap_stream(read_ahead(FileReader::new(Arc::clone(file), 0..self.len))),
            None => {
                let frames = self.frames.clone().into_iter().map(Ok::<_, std::convert::Infallible>);
                reqwest::Body::wrap_stream(futures_util::stream::iter(frames))
            }
        }
    }
}

impl From<String> for Body {
    fn from(text: String) -> Self {
        Self { len: text.len() as u64, frames: vec![text.into()], file: None }
    }
}
