//! An image's bytes on their way: gathered from what the network brings, bounded, and hashed beside their way into a store; read
//! ahead on their way out.
//!
//! A store pulls [`Chunks`]; [`feed`] fills them. Between the two, and before each digest, is a bounded queue, so that a
//! slow store slows the client down. A chunk's bytes are shared, not copied. Work that keeps a processor or a disk busy runs
//! on blocking threads in pieces that soon end by themselves: however many uploads and downloads there are, none waits for
//! another's end.

use std::{
    io,
    ops::ControlFlow,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use flume::SendTimeoutError;
use futures_util::{Stream, StreamExt as _};
use openssl::hash::{Hasher, MessageDigest};
use tokio::{
    sync::{oneshot, watch},
    task::{JoinError, JoinHandle, spawn_blocking},
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
/// Parts that are read before they are asked for, besides the one that is being read.
const READ_AHEAD: usize = 1;
/// How long a piece of work stays on its blocking thread with nothing to do. To give itself back and be called again costs several
/// times as much as to be woken; but threads are few, and who sends or takes slowly may not keep one.
const WAIT: Duration = Duration::from_millis(5);
/// How long a piece of work stays on its blocking thread at all, where it has always something to do.
const TURN: Duration = Duration::from_millis(100);

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
pub(crate) struct Chunks {
    chunks: flume::Receiver<Chunk>,
    ended: watch::Receiver<bool>,
}

impl Chunks {
    /// The next part; `None` at the good end.
    pub(crate) async fn next(&mut self) -> Result<Option<Chunk>, Cut> {
        match self.chunks.recv_async().await {
            Ok(chunk) => Ok(Some(chunk)),
            Err(_) => self.end().await.map(|()| None),
        }
    }

    /// Waits until no more parts are sent.
    ///
    /// # Errors
    /// [`Cut`], unless that was the good end.
    pub(crate) async fn end(&mut self) -> Result<(), Cut> {
        // Without a word, it was given up.
        self.ended.wait_for(|ended| *ended).await.map(|_| ()).map_err(|_| Cut)
    }

    /// Lets a worker take each part, on blocking threads. Returns it at the good end.
    ///
    /// # Errors
    /// Those of the worker, and [`Cut`].
    pub(crate) async fn work_off<W, E>(mut self, worker: W, take: fn(&mut W, &Chunk) -> Result<(), E>) -> Result<W, E>
    where
        W: Send + 'static,
        E: From<Cut> + From<JoinError> + Send + 'static,
    {
        let take = move |worker: &mut W, chunk: &Chunk| take(worker, chunk).map(ControlFlow::Continue);
        let worker = work_off(self.chunks.clone(), worker, take).await?;
        self.end().await?;
        Ok(worker)
    }
}

/// The feeding end of [`Chunks`].
pub(crate) struct Feed {
    chunks: flume::Sender<Chunk>,
    ended: watch::Sender<bool>,
}

/// A queue from [`feed`] to a store.
pub(crate) fn channel() -> (Feed, Chunks) {
    let (sender, receiver) = flume::bounded(STORE_QUEUE);
    let (end, ended) = watch::channel(false);
    (Feed { chunks: sender, ended: end }, Chunks { chunks: receiver, ended })
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
    /// Not as much came as was said, but so many bytes.
    NotAsSaid(u64),
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
    /// Bytes, where that was said. Below zero is what no data has.
    pub(crate) expected: Option<i64>,
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
    taps: Vec<flume::Sender<Chunk>>,
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
    pub(crate) async fn feed(self, limits: Limits, taps: Vec<flume::Sender<Chunk>>, to: Feed) -> Result<u64, Broken> {
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
    taps: Vec<flume::Sender<Chunk>>,
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
            if limits.expected.is_some_and(|expected| i128::from(came) > expected.into()) {
                return Err(Broken::MoreThanSaid(came));
            }
            gathered.push(frame);
        } else if limits.expected.is_some_and(|expected| i128::from(came) != expected.into()) {
            return Err(Broken::NotAsSaid(came));
        }
        if gathered.len >= GATHERED || (ended && gathered.len > 0) {
            let chunk = gathered.take();
            for tap in &taps {
                tap.send_async(chunk.clone()).await.map_err(|_| Broken::Unwanted)?;
            }
            to.chunks.send_async(chunk).await.map_err(|_| Broken::Refused)?;
        }
        if ended {
            // Not by the queue, which takes what waits for a place in it also where the one who waits is gone.
            to.ended.send(true).map_err(|_| Broken::Refused)?;
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

/// Lets a worker take chunk after chunk from a queue, on blocking threads, until there are no more, or it wants no more.
async fn work_off<W, E, T>(from: flume::Receiver<Chunk>, mut worker: W, take: T) -> Result<W, E>
where
    W: Send + 'static,
    E: From<JoinError> + Send + 'static,
    T: Fn(&mut W, &Chunk) -> Result<ControlFlow<()>, E> + Copy + Send + 'static,
{
    while let Ok(first) = from.recv_async().await {
        let from = from.clone();
        let piece = spawn_blocking(move || {
            let over = Instant::now() + TURN;
            let mut next = Some(first);
            while let Some(chunk) = next {
                if take(&mut worker, &chunk)?.is_break() {
                    return Ok((worker, ControlFlow::Break(())));
                }
                // Not to be kept while there is nothing to do.
                drop(chunk);
                next = if Instant::now() < over { from.recv_timeout(WAIT).ok() } else { None };
            }
            Ok::<_, E>((worker, ControlFlow::Continue(())))
        });
        let ended;
        (worker, ended) = piece.await??;
        if ended.is_break() {
            break;
        }
    }
    Ok(worker)
}

/// Lets who reads from a disk run ahead of who takes the parts, on blocking threads.
pub(crate) fn read_ahead<R>(mut reader: R) -> impl Stream<Item = io::Result<Bytes>> + Send
where
    R: Iterator<Item = io::Result<Bytes>> + Send + 'static,
{
    let (to, parts) = flume::bounded(READ_AHEAD);
    tokio::spawn(async move {
        loop {
            let theirs = to.clone();
            let piece = spawn_blocking(move || {
                let over = Instant::now() + TURN;
                while let Some(part) = reader.next() {
                    if Instant::now() >= over {
                        return Some((reader, part));
                    }
                    match theirs.send_timeout(part, WAIT) {
                        Ok(()) => {}
                        Err(SendTimeoutError::Timeout(part)) => return Some((reader, part)),
                        Err(SendTimeoutError::Disconnected(_)) => return None,
                    }
                }
                None
            });
            let part;
            (reader, part) = match piece.await {
                Ok(Some(more)) => more,
                Ok(None) => return,
                Err(error) => {
                    // Whoever takes the parts may be gone.
                    let _ = to.send_async(Err(io::Error::other(error))).await;
                    return;
                }
            };
            if to.send_async(part).await.is_err() {
                return;
            }
        }
    });
    parts.into_stream()
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
    to: flume::Sender<Chunk>,
    done: JoinHandle<Result<L, BoxError>>,
}

impl<L: Look> Tap<L> {
    /// Lets somebody look at what is sent to [`Tap::end`].
    pub(crate) fn start(looker: L) -> Self {
        let (to, from) = flume::bounded(QUEUE);
        let see = |looker: &mut L, chunk: &Chunk| {
            for frame in chunk.frames() {
                if looker.see(frame)?.is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
            Ok(ControlFlow::Continue(()))
        };
        Self { to, done: tokio::spawn(work_off(from, looker, see)) }
    }

    /// Where the data goes.
    pub(crate) fn end(&self) -> flume::Sender<Chunk> {
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

    fn limits(most: u64, expected: Option<i64>) -> Limits {
        Limits { patience: Duration::from_secs(60), most, expected }
    }

    async fn passed(frames: Vec<Result<Bytes, BoxError>>, limits: Limits) -> (Result<u64, Broken>, Vec<usize>, bool) {
        pass(stream(frames), limits).await
    }

    async fn pass(data: ByteStream, limits: Limits) -> (Result<u64, Broken>, Vec<usize>, bool) {
        let (to, mut chunks) = channel();
        let md5 = Tap::start(Digest::new(H::Md5).unwrap());
        let feeding = feed(data, limits, vec![md5.end()], to);
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
        md5.finish().await.unwrap();
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
            (limits(9, Some(7)), Broken::NotAsSaid(6)),
            (limits(9, Some(-1)), Broken::MoreThanSaid(3)),
        ] {
            assert_eq!(passed(frames(), limits).await, (Err(broken), vec![], false));
        }
    }

    #[tokio::test]
    async fn who_is_gone_says_nothing_of_the_end() {
        let (to, mut chunks) = channel();
        let frames = (0..=STORE_QUEUE).map(|_| Ok(Bytes::from_static(&[1; GATHERED]))).collect();
        let mut feeding = Box::pin(feed(stream(frames), limits(u64::MAX, None), vec![], to));
        assert!(futures_util::poll!(&mut feeding).is_pending());
        // What waits for a place gets it.
        assert!(matches!(chunks.next().await, Ok(Some(_))));
        drop(feeding);
        while let Ok(next) = chunks.next().await {
            assert!(next.is_some());
        }
        assert!(chunks.end().await.is_err());
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

    #[test]
    fn one_thread_is_enough_for_all() {
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.enable_time().max_blocking_threads(1).build().unwrap();
        let inside = runtime.enter();
        let endless = || futures_util::stream::repeat_with(|| Ok(Bytes::from_static(&[1; GATHERED])));
        let limits = || limits(u64::MAX, None);
        runtime.spawn(pass(Box::pin(endless()), limits()));
        runtime.spawn(pass(Box::pin(endless().take(1).chain(futures_util::stream::pending())), limits()));
        let read = || read_ahead(std::iter::repeat_with(|| Ok(Bytes::from_static(b"part"))));
        runtime.spawn(read().for_each(|_| async {}));
        let untaken = read();
        runtime.block_on(async {
            // Each of them has had the thread.
            tokio::time::sleep(TURN * 8).await;
            for _ in 0..3 {
                let passed = passed(vec![Ok(Bytes::from_static(b"data"))], limits());
                let passed = tokio::time::timeout(Duration::from_secs(10), passed).await;
                assert_eq!(passed, Ok((Ok(4), vec![4], true)));
            }
        });
        drop((untaken, inside));
        runtime.shutdown_background();
    }

    #[tokio::test]
    async fn what_is_read_ahead_comes_in_order_to_its_end() {
        let read =
            (0..9u8).map(|n| if n < 8 { Ok(Bytes::copy_from_slice(&[n])) } else { Err(io::Error::other("torn")) });
        let mut parts = read_ahead(read);
        for n in 0..8u8 {
            // Longer than a thread waits, now and then.
            tokio::time::sleep(if n % 3 == 0 { WAIT * 3 } else { Duration::ZERO }).await;
            assert_eq!(parts.next().await.unwrap().unwrap(), &[n][..]);
        }
        assert_eq!(parts.next().await.unwrap().unwrap_err().to_string(), "torn");
        assert!(parts.next().await.is_none());
    }

    /// Read off Python's hashlib.
    #[tokio::test]
    async fn digests_are_hashlibs() {
        let cases = [
            ("md5", "900150983cd24fb0d6963f7d28e17f72"),
            ("sha1", "a9993e364706816aba3e25717850c26c9cd0d89d"),
            ("sha224", "23097d223405d8228642a477bda255b32aadbce4bda0b3f7e36c9da7"),
            ("sha256", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
            (
                "sha384",
                "cb00753f45a35e8bb5a03d699ac65007272c32ab0eded1631a8b605a43ff5bed8086072ba1e7cc2358baeca134c825a7",
            ),
            (
                "sha512",
                "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f",
            ),
            ("sha512_224", "4634270f707b6a54daae7530460842e20e37ed265ceee9a43e8924aa"),
            ("sha512_256", "53048e2681941ef99b2e29b76b4c7dabe4c2d0c634fc6d46e0e2f13107e7af23"),
            ("sha3_224", "e642824c3f8cf24ad09234ee7d3c766fc9a3a5168d0c94ad73b46fdf"),
            ("sha3_256", "3a985da74fe225b2045c172d6bd390bd855f086e3e9d525b46bfe24511431532"),
            (
                "sha3_384",
                "ec01498288516fc926459f58e2c6ad8df9b473cb0fc08c2596da7cf0e49be4b298d88cea927ac7f539f1edf228376d25",
            ),
            (
                "sha3_512",
                "b751850b1a57168a5693cd924b6b096e08f621827444f70d884f5d0240d2712e10e116e9192af3c91a7ec57647e3934057340b4cf408d5a56592f8274eec53f0",
            ),
            (
                "blake2b",
                "ba80a53f981c4d0d6a2797b69f12f6e94c212f14685ac4b74b12bb6fdbffa2d17d87c5392aab792dc252d5de4533cc9518d38aa8dbf1925ab92386edd4009923",
            ),
            ("blake2s", "508c5e8c327c14e2e1a72ba34eeb452f37458b209ed63a294d999b4c86675982"),
            ("ripemd160", "8eb208f7e05d987a9b044a8e98c6b087f15a0bfc"),
            ("sm3", "66c7f0f462eeedd9d1f2d46bdc10e4e24167c4875cf2f7a2297da02b8f4ba8e0"),
        ];
        for (name, expected) in cases {
            let tap = Tap::start(Digest::new(algorithm(name).unwrap()).unwrap());
            let (to, mut chunks) = channel();
            let data = stream(vec![Ok(Bytes::from_static(b"abc"))]);
            let feeding = feed(data, limits(9, Some(3)), vec![tap.end()], to);
            let taking = async { while let Ok(Some(_)) = chunks.next().await {} };
            assert_eq!(tokio::join!(feeding, taking).0, Ok(3));
            assert_eq!(tap.finish().await.unwrap().hex().unwrap(), expected, "{name}");
        }
    }
}
