//! The bodies of requests, which are kept until the server has them, so that a request can be repeated.

use std::{fs::File, io, os::unix::fs::FileExt as _, sync::Arc};

use bytes::Bytes;
use openssl::sha::{Sha256, sha256};
use tokio::task::spawn_blocking;

use super::signature;
use crate::stream::read_ahead;

/// How much of a buffer file is read at a time, in bytes.
const READ_SIZE: u64 = 256 << 10;

/// The body of a request.
#[derive(Clone)]
pub(super) struct Payload {
    data: Data,
    len: u64,
    sha256: String,
    crc32: u32,
}

#[derive(Clone)]
enum Data {
    Memory(Vec<Bytes>),
    /// A file without a name, so that it does not outlive the process.
    File(Arc<File>),
}

impl Payload {
    pub(super) fn empty() -> Self {
        Self::from_text(String::new())
    }

    pub(super) fn from_text(text: String) -> Self {
        let (sha256, crc32) = (signature::hex(&sha256(text.as_bytes())), crc32fast::hash(text.as_bytes()));
        Self { len: text.len() as u64, data: Data::Memory(vec![text.into()]), sha256, crc32 }
    }

    /// Its length in bytes.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Its SHA-256, in hexadecimal digits.
    pub(super) fn sha256(&self) -> &str {
        &self.sha256
    }

    /// Its CRC-32.
    pub(super) fn crc32(&self) -> u32 {
        self.crc32
    }

    /// The body of one attempt to send it.
    pub(super) fn to_body(&self) -> io::Result<reqwest::Body> {
        match &self.data {
            Data::Memory(frames) => {
                let frames = frames.clone().into_iter().map(Ok::<_, std::convert::Infallible>);
                Ok(reqwest::Body::wrap_stream(futures_util::stream::iter(frames)))
            }
            Data::File(file) => {
                let (file, len, mut at) = (Arc::clone(file), self.len, 0);
                let pieces = std::iter::from_fn(move || {
                    let mut piece = vec![0; usize::try_from(READ_SIZE.min(len - at)).ok().filter(|piece| *piece > 0)?];
                    let read = file.read_exact_at(&mut piece, at);
                    at += piece.len() as u64;
                    Some(read.map(|()| Bytes::from(piece)))
                });
                Ok(reqwest::Body::wrap_stream(read_ahead(pieces)))
            }
        }
    }
}

/// A payload that is collected and hashed incrementally.
pub(super) struct PayloadBuilder {
    frames: Vec<Bytes>,
    /// The file that the frames are moved to, if they are not kept in memory.
    file: Option<Arc<File>>,
    len: u64,
    sha256: Sha256,
    crc32: crc32fast::Hasher,
}

impl PayloadBuilder {
    /// A payload in memory.
    pub(super) fn in_memory() -> Self {
        Self { frames: Vec::new(), file: None, len: 0, sha256: Sha256::new(), crc32: crc32fast::Hasher::new() }
    }

    /// A payload in a file in the folder of temporary files.
    pub(super) async fn in_file() -> io::Result<Self> {
        let file = spawn_blocking(tempfile::tempfile).await.map_err(io::Error::other)??;
        Ok(Self { file: Some(Arc::new(file)), ..Self::in_memory() })
    }

    /// Its length in bytes.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Adds data, which stays in memory at least until [`Self::flush`].
    pub(super) fn push(&mut self, frame: Bytes) {
        self.sha256.update(&frame);
        self.crc32.update(&frame);
        self.len += frame.len() as u64;
        self.frames.push(frame);
    }

    /// Moves the data to the file, if there is one.
    pub(super) async fn flush(&mut self) -> io::Result<()> {
        let Some(file) = &self.file else { return Ok(()) };
        let (file, frames) = (Arc::clone(file), std::mem::take(&mut self.frames));
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

    /// The collected payload. Flushed before, if it is in a file.
    pub(super) fn finish(self) -> Payload {
        let data = match self.file {
            Some(file) => Data::File(file),
            None => Data::Memory(self.frames),
        };
        let sha256 = signature::hex(&self.sha256.finish());
        Payload { data, len: self.len, sha256, crc32: self.crc32.finalize() }
    }
}
