//! The bodies of requests, with the digests that are sent with them.

use std::io;

use bytes::Bytes;
use openssl::sha::{Sha256, sha256};

use super::{super::object_server::Body, signature};

/// The body of a request.
#[derive(Clone)]
pub(super) struct Payload {
    pub(super) body: Body,
    /// Its SHA-256, in hexadecimal digits.
    pub(super) sha256: String,
    /// Its CRC-32, if the server is to compare it.
    pub(super) crc32: Option<u32>,
}

impl Payload {
    pub(super) fn empty() -> Self {
        Self::from_text(String::new())
    }

    pub(super) fn from_text(text: String) -> Self {
        Self { sha256: signature::hex(&sha256(text.as_bytes())), body: text.into(), crc32: None }
    }
}

/// A payload that is collected and hashed incrementally.
pub(super) struct PayloadBuilder {
    body: Body,
    sha256: Sha256,
    crc32: Option<crc32fast::Hasher>,
}

impl PayloadBuilder {
    /// A payload without data so far. The CRC-32 is computed if `has_checksum` is set.
    pub(super) fn new(body: Body, has_checksum: bool) -> Self {
        Self { body, sha256: Sha256::new(), crc32: has_checksum.then(crc32fast::Hasher::new) }
    }

    /// Its length in bytes.
    pub(super) fn len(&self) -> u64 {
        self.body.len()
    }

    /// Adds data, which stays in memory at least until [`Self::flush`].
    pub(super) fn push(&mut self, frame: Bytes) {
        self.sha256.update(&frame);
        if let Some(crc32) = &mut self.crc32 {
            crc32.update(&frame);
        }
        self.body.push(frame);
    }

    /// See [`Body::flush`].
    pub(super) async fn flush(&mut self) -> io::Result<()> {
        self.body.flush().await
    }

    /// The collected payload.
    pub(super) fn finish(self) -> Payload {
        let sha256 = signature::hex(&self.sha256.finish());
        Payload { body: self.body, sha256, crc32: self.crc32.map(crc32fast::Hasher::finalize) }
    }
}
