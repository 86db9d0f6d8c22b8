//! Computes the digests of data that is in a store already.

use std::time::Duration;

use crate::{
    config::HashAlgorithm,
    error::{Error, Result},
    stream::{self, ByteStream, Digest, Incomplete, Limits, Tap},
};

/// The digests of an image's data, in hexadecimal digits.
#[derive(Debug)]
pub(crate) struct Digests {
    /// Its MD5.
    pub(crate) checksum: String,
    /// Its secure hash.
    pub(crate) hash: String,
}

/// Computes the digests of data. Each digest has a thread of its own.
///
/// # Errors
/// `StoreUnavailable` if the data cannot be read to its end, or has another size than this one, in bytes.
pub(crate) async fn compute(
    data: ByteStream,
    size: Option<i64>,
    algorithm: HashAlgorithm,
    timeout: Duration,
) -> Result<Digests> {
    let start = |algorithm| Digest::new(algorithm).map(Tap::start).map_err(Error::Internal);
    let (md5, secure) = (start(HashAlgorithm::Md5)?, start(algorithm)?);
    let (supply, demand) = stream::apart(data);
    let (to, mut chunks) = stream::channel();
    let limits = Limits { timeout, max_size: u64::MAX, expected: size };
    // There is no store that reads the chunks.
    let drain = async { while let Ok(Some(_)) = chunks.next().await {} };
    let (fed, ..) = tokio::join!(demand.feed(limits, vec![md5.end(), secure.end()], to), supply.send(), drain);
    match fed {
        Ok(_) => {}
        Err(Incomplete::ObserverClosed) => return Err(Error::Internal("a digest failed".into())),
        Err(incomplete) => return Err(Error::StoreUnavailable(format!("The data cannot be read: {incomplete:?}."))),
    }
    let (md5, secure) = (md5.finish().await.map_err(Error::Internal)?, secure.finish().await.map_err(Error::Internal)?);
    Ok(Digests { checksum: md5.hex().map_err(Error::Internal)?, hash: secure.hex().map_err(Error::Internal)? })
}
