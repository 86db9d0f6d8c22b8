//! An image's bytes on their way: gathered from what the network brings, bounded, and hashed beside their way into a store.
//!
//! A store pulls [`Chunks`]; [`feed`] fills them. Between the two, and before each digest, is a bounded queue, so that a
//! slow store slows the client down. A chunk's bytes are shared, not copied. Work that keeps a processor or a disk busy runs
//! on blocking threads in pieces that end by themselves: however many uploads there are, none waits for another's end.

use std::{ops::ControlFlow, pin::Pin, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt as _};
use openssl::hash::{Hasher, MessageDigest};
use tokio::{
    sync::{mpsc, oneshot},
    task::{JoinHandle, spawn_blocking},
};

use crate::config::{HashAlgorithm, OptionValue as _};

/// Bytes that are gathered before they are handed on: a hop to another thread costs as much as hashing a few KiB.
const GATHERED: usize = 256 * 1024;
/// A frame below this is copied together with its neighbours: each of them would keep a whole read buffer.
const SMALL: usize = 8 * 1024;
/// Chunks that wait for a digest, at the most. Those who look at the data share them.
const QUEUE: usize = 2;
/// Chunks that wait for the store, at the most: an upload keeps little in memory while its store takes nothing.
const STORE_QUEUE: usize = 1;

/// Bytes from a client or from a store; an error ends them.
pub(crate) type ByteStream = Pin<Box<dyn Stream<Item = Result<Bytes, BoxError>> + Send>>;
pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A part of an image's data.
#[derive(Debug, Clone)]
pub(crate) struct Chunk {
    frames: Arc<[Bytes]>,
    /// Bytes in it.
    pub(crate) len: usize,
}

impl Chunk {
    /// Its bytes, in order.
    pub(crate) fn frames(&self) -> impl Iterator<Item = &[u8]> {
        self.frames.iter().map(|frame| &frame[..])
    }

    /// The same, to be kept without a copy.
    pub(crate) fn shared(&self) -> impl Iterator<Item = Bytes> {
        self.frames.iter().cloned()
    }
}

/// The data did not come to its end.
#[derive(Debug, thiserror::Error)]
#[error("the data ended too early")]
pub(crate) struct Cut;

/// An image's data as a store takes it.
pub(crate) struct Chunks(mpsc::Receiver<Chunk>);

impl Chunks {
    /// The next part; `None` at the good end.
    pub(crate) async fn next(&mut self) -> Result<Option<Chunk>, Cut> {
        // Whoever feeds says when it is the end; without a word, it was given up.
        match self.0.recv().await {
            Some(chunk) if chunk.len == 0 => Ok(None),
            Some(chunk) => Ok(Some(chunk)),
            None => Err(Cut),
        }
    }
}

/// The feeding end of [`Chunks`].
pub(crate) struct Feed(mpsc::Sender<Chunk>);

/// A queue from [`feed`] to a store.
pub(crate) fn channel() -> (Feed, Chunks) {
    let (sender, receiver) = mpsc::channel(STORE_QUEUE);
    (Feed(sender), Chunks(receiver))
}

/// Why the data did not come to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Broken {
    /// Whoever sends is gone.
    Lost,
    /// Whoever sends is silent for too long.
    Silent,
    /// More came than may, when so many bytes had come.
    TooMuch(u64),
    /// More came than was said, when so many bytes had come.
    MoreThanSaid(u64),
    /// Less came than was said: so many bytes.
    LessThanSaid(u64),
    /// The store takes no more; it knows why.
    Refused,
    /// One of those who look at it wants no more; it knows why.
    Unwanted,
}

/// What the data is held to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// How long each part of it may take.
    pub(crate) patience: Duration,
    /// Bytes at the most.
    pub(crate) most: u64,
    /// Bytes, where that was said.
    pub(crate) expected: Option<u64>,
}

/// Parts who has data from who wants it, in another task. The data is gathered where it comes from: to hand on frame by frame what
/// the network brings would wake a thread for each.
pub(crate) fn apart(data: ByteStream) -> (Supply, Demand) {
    let (order, orders) = oneshot::channel();
    (Supply { data, orders }, Demand(order))
}

/// The end of who has the data.
pub(crate) struct Supply {
    data: ByteStream,
    orders: oneshot::Receiver<Order>,
}

/// The end of who wants the data.
pub(crate) struct Demand(oneshot::Sender<Order>);

struct Order {
    limits: Limits,
    taps: Vec<mpsc::Sender<Chunk>>,
    to: Feed,
    fed: oneshot::Sender<Result<u64, Broken>>,
}

impl Supply {
    /// Waits until the data is wanted, and sends it. Dropped before that, the data is lost.
    pub(crate) async fn send(self) {
        let Ok(Order { limits, taps, to, fed }) = self.orders.await else { return };
        // Who wanted it may not want it any more.
        let _ = fed.send(feed(self.data, limits, taps, to).await);
    }
}

impl Demand {
    /// [`feed`], by the other end.
    pub(crate) async fn feed(self, limits: Limits, taps: Vec<mpsc::Sender<Chunk>>, to: Feed) -> Result<u64, Broken> {
        let (fed, done) = oneshot::channel();
        // Where the other end is gone, so is the order.
        let _ = self.0.send(Order { limits, taps, to, fed });
        done.await.unwrap_or(Err(Broken::Lost))
    }
}

/// Sends the data into the store's queue and past those who look at it. Returns how many bytes there were.
pub(crate) async fn feed(
    mut data: ByteStream,
    limits: Limits,
    taps: Vec<mpsc::Sender<Chunk>>,
    to: Feed,
) -> Result<u64, Broken> {
    let mut came = 0;
    let mut gathered = Gathered::default();
    loop {
        let frame = match tokio::time::timeout(limits.patience, data.next()).await {
            Err(_) => return Err(Broken::Silent),
            Ok(Some(Err(error))) => {
                tracing::debug!(%error, "the data broke off");
                return Err(Broken::Lost);
            }
            Ok(frame) => frame.and_then(Result::ok),
        };
        let ended = frame.is_none();
        if let Some(frame) = frame {
            came += frame.len() as u64;
            if came > limits.most {
                return Err(Broken::TooMuch(came));
            }
            if limits.expected.is_some_and(|expected| came > expected) {
                return Err(Broken::MoreThanSaid(came));
            }
            gathered.push(frame);
        } else if limits.expected.is_some_and(|expected| came < expected) {
            return Err(Broken::LessThanSaid(came));
        }
        if gathered.len >= GATHERED || (ended && gathered.len > 0) {
            let chunk = gathered.take();
            for tap in &taps {
                tap.send(chunk.clone()).await.map_err(|_| Broken::Unwanted)?;
            }
            to.0.send(chunk).await.map_err(|_| Broken::Refused)?;
        }
        if ended {
            // An empty chunk is the end.
            to.0.send(gathered.take()).await.map_err(|_| Broken::Refused)?;
            return Ok(came);
        }
    }
}

/// Frames that are not a chunk yet.
#[derive(Default)]
struct Gathered {
    frames: Vec<Bytes>,
    small: BytesMut,
    len: usize,
}

impl Gathered {
    fn push(&mut self, frame: Bytes) {
        self.len += frame.len();
        if frame.len() < SMALL {
            self.small.extend_from_slice(&frame);
        } else {
            self.flush();
            self.frames.push(frame);
        }
    }

    fn flush(&mut self) {
        if !self.small.is_empty() {
            self.frames.push(self.small.split().freeze());
        }
    }

    fn take(&mut self) -> Chunk {
        self.flush();
        Chunk { frames: std::mem::take(&mut self.frames).into(), len: std::mem::take(&mut self.len) }
    }
}

/// Looks at data as it passes.
pub(crate) trait Look: Send + 'static {
    /// Sees the next bytes; `Break` is the end of all of the data's way.
    fn see(&mut self, bytes: &[u8]) -> Result<ControlFlow<()>, BoxError>;
}

/// The first one sees it first.
impl<A: Look, B: Look> Look for (A, B) {
    fn see(&mut self, bytes: &[u8]) -> Result<ControlFlow<()>, BoxError> {
        let first = self.0.see(bytes)?;
        if first.is_break() { Ok(first) } else { self.1.see(bytes) }
    }
}

/// Somebody who looks at all of the data, on threads beside the one that stores it.
pub(crate) struct Tap<L> {
    to: mpsc::Sender<Chunk>,
    done: JoinHandle<Result<L, BoxError>>,
}

impl<L: Look> Tap<L> {
    /// Lets somebody look at what is sent to [`Tap::end`].
    pub(crate) fn start(mut looker: L) -> Self {
        let (to, mut from) = mpsc::channel::<Chunk>(QUEUE);
        let done = tokio::spawn(async move {
            while let Some(first) = from.recv().await {
                // As much as there is; never waiting for more, for then uploads could wait for each other's threads.
                let piece = spawn_blocking(move || {
                    let mut next = Some(first);
                    while let Some(chunk) = next {
                        for frame in chunk.frames() {
                            if looker.see(frame)?.is_break() {
                                return Ok((looker, None));
                            }
                        }
                        next = from.try_recv().ok();
                    }
                    Ok::<_, BoxError>((looker, Some(from)))
                });
                let more;
                (looker, more) = piece.await??;
                let Some(more) = more else { break };
                from = more;
            }
            Ok::<_, BoxError>(looker)
        });
        Self { to, done }
    }

    /// Where the data goes.
    pub(crate) fn end(&self) -> mpsc::Sender<Chunk> {
        self.to.clone()
    }

    /// Whoever looked, after all of the data, or after what made them end it.
    ///
    /// # Errors
    /// What they came upon.
    pub(crate) async fn finish(self) -> Result<L, BoxError> {
        drop(self.to);
        self.done.await?
    }
}

/// A digest of the data.
pub(crate) struct Digest(Hasher);

impl Digest {
    /// # Errors
    /// Where OpenSSL does not have it.
    pub(crate) fn new(algorithm: HashAlgorithm) -> Result<Self, BoxError> {
        let name = openssl_name(algorithm);
        let digest = MessageDigest::from_name(name).ok_or_else(|| format!("OpenSSL does not know {name}"))?;
        Ok(Self(Hasher::new(digest)?))
    }

    /// In hexadecimal digits.
    ///
    /// # Errors
    /// Where OpenSSL fails.
    pub(crate) fn hex(mut self) -> Result<String, BoxError> {
        Ok(self.0.finish()?.iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

impl Look for Digest {
    fn see(&mut self, bytes: &[u8]) -> Result<ControlFlow<()>, BoxError> {
        self.0.update(bytes)?;
        Ok(ControlFlow::Continue(()))
    }
}

fn openssl_name(algorithm: HashAlgorithm) -> &'static str {
    use HashAlgorithm as H;
    match algorithm {
        H::Md5 => "MD5",
        H::Sha1 => "SHA1",
        H::Sha224 => "SHA224",
        H::Sha256 => "SHA256",
        H::Sha384 => "SHA384",
        H::Sha512 => "SHA512",
        H::Sha512_224 => "SHA512-224",
        H::Sha512_256 => "SHA512-256",
        H::Sha3_224 => "SHA3-224",
        H::Sha3_256 => "SHA3-256",
        H::Sha3_384 => "SHA3-384",
        H::Sha3_512 => "SHA3-512",
        H::Blake2b => "BLAKE2b512",
        H::Blake2s => "BLAKE2s256",
        H::Ripemd160 => "RIPEMD160",
        H::Sm3 => "SM3",
    }
}

/// An algorithm's name, as Glance writes it.
pub(crate) fn name(algorithm: HashAlgorithm) -> String {
    algorithm.show()
}

/// The algorithm of this name, where it is one of ours.
pub(crate) fn algorithm(name: &str) -> Option<HashAlgorithm> {
    HashAlgorithm::parse(name).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::HashAlgorithm as H;

    fn stream(frames: Vec<Result<Bytes, BoxError>>) -> ByteStream {
        Box::pin(futures_util::stream::iter(frames))
    }

    fn limits(most: u64, expected: Option<u64>) -> Limits {
        Limits { patience: Duration::from_secs(5), most, expected }
    }

    async fn passed(frames: Vec<Result<Bytes, BoxError>>, limits: Limits) -> (Result<u64, Broken>, Vec<usize>, bool) {
        let (to, mut chunks) = channel();
        let md5 = Tap::start(Digest::new(H::Md5).unwrap());
        let feeding = feed(stream(frames), limits, vec![md5.end()], to);
        let taking = async {
            let mut sizes = Vec::new();
            loop {
                match chunks.next().await {
                    Ok(Some(chunk)) => sizes.push(chunk.len),
                    end => return (sizes, end.is_ok()),
                }
            }
        };
        let (fed, (sizes, good)) = tokio::join!(feeding, taking);
        (fed, sizes, good)
    }

    #[tokio::test]
    async fn frames_are_gathered_and_the_end_is_told() {
        let frames = (0..1000).map(|_| Ok(Bytes::from_static(&[1; 1000]))).collect();
        let (fed, sizes, good) = passed(frames, limits(1_000_000, None)).await;
        assert_eq!((fed, good), (Ok(1_000_000), true));
        assert!(sizes.len() == 4 && sizes[..3].iter().all(|size| *size >= GATHERED), "{sizes:?}");
        assert_eq!(passed(vec![], limits(0, None)).await, (Ok(0), vec![], true));
    }

    #[tokio::test]
    async fn what_breaks_off_has_no_good_end() {
        let broken = || vec![Ok(Bytes::from_static(b"abc")), Err("gone".into())];
        assert_eq!(passed(broken(), limits(9, None)).await, (Err(Broken::Lost), vec![], false));
        let frames = || vec![Ok(Bytes::from_static(b"abc")), Ok(Bytes::from_static(b"def"))];
        for (limits, broken) in [
            (limits(5, None), Broken::TooMuch(6)),
            (limits(9, Some(5)), Broken::MoreThanSaid(6)),
            (limits(9, Some(7)), Broken::LessThanSaid(6)),
        ] {
            assert_eq!(passed(frames(), limits).await, (Err(broken), vec![], false));
        }
    }

    /// Wants nothing.
    struct Sated;

    impl Look for Sated {
        fn see(&mut self, _: &[u8]) -> Result<ControlFlow<()>, BoxError> {
            Ok(ControlFlow::Break(()))
        }
    }

    #[tokio::test]
    async fn who_looks_can_end_it() {
        let sated = Tap::start(Sated);
        let (to, mut chunks) = channel();
        let endless = futures_util::stream::repeat_with(|| Ok(Bytes::from_static(&[1; GATHERED])));
        let feeding = feed(Box::pin(endless), limits(u64::MAX, None), vec![sated.end()], to);
        let taking = async { while let Ok(Some(_)) = chunks.next().await {} };
        assert_eq!(tokio::join!(feeding, taking).0, Err(Broken::Unwanted));
        sated.finish().await.unwrap();
    }

    /// Read off Python's hashlib.
    #[tokio::test]
    async fn digests_are_hashlibs() {
        let cases = [
            (H::Md5, "900150983cd24fb0d6963f7d28e17f72"),
            (H::Sha1, "a9993e364706816aba3e25717850c26c9cd0d89d"),
            (H::Sha256, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
            (H::Sha512_256, "53048e2681941ef99b2e29b76b4c7dabe4c2d0c634fc6d46e0e2f13107e7af23"),
            (H::Sha3_256, "3a985da74fe225b2045c172d6bd390bd855f086e3e9d525b46bfe24511431532"),
            (H::Blake2s, "508c5e8c327c14e2e1a72ba34eeb452f37458b209ed63a294d999b4c86675982"),
            (H::Ripemd160, "8eb208f7e05d987a9b044a8e98c6b087f15a0bfc"),
            (H::Sm3, "66c7f0f462eeedd9d1f2d46bdc10e4e24167c4875cf2f7a2297da02b8f4ba8e0"),
        ];
        for (algorithm, expected) in cases {
            let tap = Tap::start(Digest::new(algorithm).unwrap());
            let (to, mut chunks) = channel();
            let data = stream(vec![Ok(Bytes::from_static(b"abc"))]);
            let feeding = feed(data, limits(9, Some(3)), vec![tap.end()], to);
            let taking = async { while let Ok(Some(_)) = chunks.next().await {} };
            assert_eq!(tokio::join!(feeding, taking).0, Ok(3));
            assert_eq!(tap.finish().await.unwrap().hex().unwrap(), expected, "{algorithm:?}");
        }
    }

    #[test]
    fn openssl_has_every_algorithm() {
        let all = "md5 sha1 sha224 sha256 sha384 sha512 sha512_224 sha512_256 sha3_224 sha3_256 sha3_384 sha3_512 blake2b \
             blake2s ripemd160 sm3";
        for name in all.split(' ') {
            assert!(MessageDigest::from_name(openssl_name(algorithm(name).unwrap())).is_some(), "{name}");
        }
    }
}
