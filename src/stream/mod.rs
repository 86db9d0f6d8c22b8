//! Moves an image's bytes between a client and a store, and computes digests on the way.
//!
//! In an upload, [`feed`] reads the request body, gathers its frames into [`Chunk`]s, enforces the [`Limits`], and sends each chunk
//! to the store's queue and to the observers: a store pulls [`Chunks`], and an observer ([`Observer`]) such as a [`Digest`] runs
//! behind a [`Tap`]. [`apart`] splits the body into a half that reads it and a half that requests chunks of it, for two tasks. In a
//! download, [`read_ahead`] reads from a disk with a [`FileReader`]. The image cache reads a store in [`PromptChunks`].
//!
//! All queues are bounded, so a slow store or a slow digest slows the client down. Chunks share their bytes; nothing is copied
//! per consumer. Work that occupies a processor or a disk runs on blocking threads, in turns of limited length, so that a few
//! threads serve any number of uploads and downloads.

mod blocking;
mod buffers;
mod chunk;
mod demand;
mod digest;
mod feed;
mod file;
#[cfg(test)]
mod fixture;
mod prompt;
mod queue;
mod spare;
mod tap;

use std::pin::Pin;

use bytes::Bytes;
use futures_util::Stream;

#[cfg(test)]
pub(crate) use self::feed::feed;
pub(crate) use self::{
    blocking::read_ahead,
    chunk::Chunk,
    demand::{Demand, apart},
    digest::{Digest, algorithm, hex_length, name},
    feed::{Incomplete, Limits},
    file::{FileReader, READ_SIZE},
    prompt::PromptChunks,
    queue::{Chunks, Cut, channel},
    spare::in_spare_time,
    tap::{Observer, Tap},
};

/// Bytes from a client or from a store. An error is the last item.
pub(crate) type ByteStream = Pin<Box<dyn Stream<Item = Result<Bytes, BoxError>> + Send>>;
pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;
