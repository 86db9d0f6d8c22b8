//! Downloading an image's data.

use std::{ops::Range, sync::Arc};

use bytes::Bytes;
use futures_util::StreamExt as _;

use super::{placement, range::RangeRequest};
use crate::{
    access,
    app::App,
    cache::{self, Cache, Expected, Failure, Follower, Hit, Lead, Resume, Turn},
    context::Context,
    db::{self, Conn},
    egress,
    error::{Error, Result, with_causes},
    model::{Image, Location, LocationStatus, RequestedId, Status},
    policy::rule,
    store::{self},
    stream::ByteStream,
};

/// An image's data, ready to be sent to the client.
pub(crate) struct Download {
    /// The size of the complete data, if it is known.
    pub(crate) size: Option<u64>,
    /// The range that is sent, if the client requested one.
    pub(crate) range: Option<Range<u64>>,
    /// The MD5 of the complete data.
    pub(crate) checksum: Option<String>,
    /// The bytes.
    pub(crate) data: ByteStream,
}

/// Opens an image's data, in the cache of this node or in its stores. Returns `None` if the image has none. Two statements, one if
/// the data is cached or another download caches it; one more if the data cannot be read.
///
/// # Errors
/// `NotFound`, `Forbidden`, `NoSuchRange`, `Invalid`, `Unavailable` when the data cannot be read or does not have the image's size.
pub(crate) async fn download(
    app: &Arc<App>,
    context: &Context,
    id: &RequestedId,
    range: &RangeRequest,
    prefer: &[String],
) -> Result<Option<Download>> {
    let mut conn = app.db.acquire().await?;
    let image = access::find(app, &mut conn, context, id).await?;
    let image =
        image.filter(|image| image.status != Status::PendingDelete).ok_or_else(|| Error::image_not_found(id))?;
    if image.status == Status::Deactivated && !context.is_admin {
        let message = "The requested image has been deactivated. Image data download is forbidden.";
        return Err(Error::Forbidden(message.to_owned()));
    }
    access::authorise(app, context, &image, rule::DOWNLOAD_IMAGE)?;
    if !prefer.is_empty() {
        access::authorise(app, context, &image, rule::DOWNLOAD_FROM_STORE)?;
        check_preferred(app, prefer)?;
    }
    let image = image.image;
    // An image without a size has no data, so a range is ignored.
    let known = known_size(&image);
    let range = match known {
        Some(size) => range.resolve(size)?,
        None => None,
    };
    let cache = app.cache.as_ref().filter(|_| app.config.filters.cache && image.status == Status::Active);
    let request = Request { app: Arc::clone(app), context: context.clone(), image, prefer: prefer.to_vec() };
    let (size, data) = if let Some(cache) = cache {
        drop(conn);
        match request.cached(cache, range.as_ref()).await? {
            Some(found) => found,
            None => return Ok(None),
        }
    } else {
        match request.open(&mut conn, range.clone()).await? {
            Some(found) => found,
            None => return Ok(None),
        }
    };
    Ok(Some(Download { size: known.or(size), range, checksum: request.image.checksum, data }))
}

fn known_size(image: &Image) -> Option<u64> {
    image.size.and_then(|size| u64::try_from(size).ok())
}

/// The size of the complete data in bytes, if it is known, and the requested bytes.
type Found = (Option<u64>, ByteStream);

/// The data of a store that was opened to fill the cache.
enum Led {
    /// The fill has begun. The size of the data in bytes, if it is known.
    Filling(Option<u64>, Follower),
    /// The cache does not take it.
    Uncached(Found),
}

/// Fetches an image into the cache of this node, on behalf of no user. Succeeds if it is there. One statement, unless another download
/// caches it.
///
/// # Errors
/// `Unavailable` and others if it cannot be cached.
pub(crate) async fn fill_cache(app: &Arc<App>, cache: &Arc<Cache>, image: Image) -> Result<()> {
    let failed = |reason: &str| Error::Unavailable { service: "the image cache", source: reason.into() };
    let context = Context { identity: Arc::default(), is_admin: true };
    let request = Request { app: Arc::clone(app), context, image, prefer: Vec::new() };
    let id = &request.image.id;
    loop {
        if cache.has(id).await? {
            return Ok(());
        }
        let follower = match cache.join(&request.image) {
            Turn::Follow(follower) => follower,
            Turn::Apart => return Err(failed("other data of the image is being cached")),
            Turn::Lead(lead) if cache.has(id).await? => {
                drop(lead);
                return Ok(());
            }
            Turn::Lead(lead) => match request.lead(lead).await? {
                Some(Led::Filling(_, follower)) => follower,
                Some(Led::Uncached(_)) => {
                    return Err(failed("its directory cannot be written, or another process fetches the image"));
                }
                None => return Err(failed("the image has no data")),
            },
        };
        let ended = tokio::select! {
            ended = follower.ended() => ended,
            () = app.stopping.cancelled() => return Err(failed("the server stops")),
        };
        match ended {
            Ok(()) => return Ok(()),
            Err(Failure::Released) => {}
            Err(Failure::Uncached | Failure::Source) => {
                return Err(failed("the image was not cached, for a reason that was logged"));
            }
        }
    }
}

/// A download whose caller is allowed to have the data.
#[derive(Clone)]
struct Request {
    app: Arc<App>,
    context: Context,
    image: Image,
    /// The ids of the stores that the caller prefers.
    prefer: Vec<String>,
}

impl Request {
    /// Opens the data in the cache. If it is not there, joins or begins the fill that caches it; a range is read from the store.
    async fn cached(&self, cache: &Arc<Cache>, range: Option<&Range<u64>>) -> Result<Option<Found>> {
        let hit = |hit: Hit| {
            let size = hit.size;
            let data =
                hit.into_stream(range.cloned().unwrap_or(0..size), self.resume(range.map_or(size, |range| range.end)));
            Ok(Some((Some(size), data)))
        };
        loop {
            if let Some(found) = cache.find(&self.image).await {
                return hit(found);
            }
            if range.is_some() {
                break;
            }
            match cache.join(&self.image) {
                Turn::Apart => break,
                Turn::Follow(mut follower) => match follower.begun().await {
                    Ok(size) => return Ok(Some((size, self.follow(follower, size)))),
                    Err(Failure::Released) => {}
                    Err(Failure::Uncached | Failure::Source) => break,
                },
                Turn::Lead(lead) => {
                    // A fill may have ended since this download looked for its file.
                    if let Some(found) = cache.find(&self.image).await {
                        return hit(found);
                    }
                    return Ok(self.lead(lead).await?.map(|led| match led {
                        Led::Filling(size, follower) => (size, self.follow(follower, size)),
                        Led::Uncached(found) => found,
                    }));
                }
            }
        }
        let mut conn = self.app.db.acquire().await?;
        self.open(&mut conn, range.cloned()).await
    }

    /// Opens the data in a store, and begins the fill with it. Returns `None` if the image has no data.
    async fn lead(&self, lead: Lead) -> Result<Option<Led>> {
        let opened = async { self.open(&mut self.app.db.acquire().await?, None).await };
        let (size, data) = match opened.await {
            Ok(Some(found)) => found,
            other => {
                lead.fail();
                return other.map(|_| None);
            }
        };
        let expected = Expected { size, ..cache::expected(&self.image) };
        let timeout = self.app.config.glimpse.request_timeout;
        Ok(Some(match lead.begin(expected, data, timeout, &self.app.work, self.app.stopping.clone()).await {
            Ok(follower) => Led::Filling(size, follower),
            Err(data) => Led::Uncached((size, data)),
        }))
    }

    fn follow(&self, follower: Follower, size: Option<u64>) -> ByteStream {
        follower.into_stream(self.image.id.to_string(), self.resume(size.unwrap_or(u64::MAX)))
    }

    /// Goes on from the store, up to this position.
    fn resume(&self, end: u64) -> Resume {
        let request = self.clone();
        Box::new(move |at| {
            Box::pin(async move {
                let missing = || Error::image_not_found(&request.image.id);
                let open = async |range| {
                    let mut conn = request.app.db.acquire().await?;
                    request.open(&mut conn, range).await?.ok_or_else(missing)
                };
                // Some stores have no ranges, and for one the size must be known.
                if end != u64::MAX
                    && let Ok((_, data)) = open(Some(at..end)).await
                {
                    return Ok(data);
                }
                let (_, data) = open(None).await?;
                Ok(cut(data, at, end))
            })
        })
    }

    /// Opens the data in the first store that has it. One statement; one more if the data cannot be read.
    async fn open(&self, conn: &mut Conn, range: Option<Range<u64>>) -> Result<Option<Found>> {
        let Self { app, context, image, prefer } = self;
        let mut locations = db::locations::list(conn, &image.id).await?;
        let is_preferred = |location: &Location| {
            let store = location.metadata.get("store").and_then(|store| store.as_str());
            store.is_some_and(|id| prefer.iter().any(|p| p == id))
        };
        locations.retain(|location| location.status == LocationStatus::Active);
        let weight = |location: &Location| placement::weight_of(app, location);
        locations.sort_by_key(|location| (!is_preferred(location), std::cmp::Reverse(weight(location))));
        let mut failures = Vec::new();
        for location in &locations {
            let opening = open_location(app, location, known_size(image), range.clone());
            match egress::on_behalf_of(context.project_id(), opening).await {
                Ok(found) => {
                    failures.iter().for_each(Failed::log);
                    return Ok(Some(found));
                }
                Err(failure) => failures.push(failure),
            }
        }
        // If the image is deleted concurrently, its locations or data are missing rightly: that is not logged as an error.
        let had_data = !failures.is_empty() || matches!(image.status, Status::Active | Status::Deactivated);
        if had_data && self.is_deleted(conn).await? {
            return Err(Error::image_not_found(&image.id));
        }
        failures.iter().for_each(Failed::log);
        failures.pop().map_or(Ok(None), |failure| Err(failure.error))
    }

    /// Whether the image has been deleted, or is being deleted. One statement.
    async fn is_deleted(&self, conn: &mut Conn) -> Result<bool> {
        let image = access::find(&self.app, conn, &self.context, &self.image.id.to_string().into()).await?;
        Ok(image.is_none_or(|image| image.status == Status::PendingDelete))
    }
}

/// The reason why data cannot be read at a location.
struct Failed {
    location: i32,
    /// The complete reason, for the log.
    cause: String,
    error: Error,
}

impl Failed {
    fn log(&self) {
        tracing::error!(location = self.location, error = self.cause, "an image's data cannot be read at a location");
    }
}

/// Opens the data at a location. Also returns the size of the complete data, if it is known.
async fn open_location(
    app: &App,
    location: &Location,
    known: Option<u64>,
    range: Option<Range<u64>>,
) -> Result<Found, Failed> {
    let failure = |cause, error| Failed { location: location.id, cause, error };
    let blob = async { app.stores.find(&location.url, &location.metadata)?.get(&location.url, range).await };
    let blob = blob.await.map_err(|error| {
        let cause = with_causes(&error);
        let error = match error {
            store::Error::NoRange(_) => Error::Invalid(error.to_string()),
            store::Error::TimedOut(_) | store::Error::Unreachable(_) => Error::StoreUnavailable(error.to_string()),
            error => Error::store_failed(error),
        };
        failure(cause, error)
    })?;
    match (known, blob.size) {
        (Some(size), Some(found)) if size != found => {
            let cause = format!("the data has {found} bytes, and should have {size}");
            let error = Error::store_failed(cause.clone());
            Err(failure(cause, error))
        }
        (Some(size), None) => Ok((known, enforce_size(blob.data, size, location.id))),
        (size, found) => Ok((size.or(found), blob.data)),
    }
}

/// The bytes of a stream from `start` to `end`.
fn cut(data: ByteStream, start: u64, end: u64) -> ByteStream {
    let mut at = 0;
    Box::pin(data.map(move |part| {
        part.map(|mut part| {
            let (from, to) = (at, at + part.len() as u64);
            at = to;
            let inside = |position: u64| usize::try_from(position.clamp(from, to) - from).unwrap_or(part.len());
            let (first, last) = (inside(start), inside(end));
            part.truncate(last);
            part.split_off(first.min(last))
        })
    }))
}

/// Makes a stream of data end with an error if it is longer or shorter than `size`. Holds back the last chunk until the stream has
/// ended: a client that got `Content-Length` bytes takes the data for complete.
fn enforce_size(data: ByteStream, size: u64, location: i32) -> ByteStream {
    let state = (data.fuse(), size, None::<Bytes>);
    Box::pin(futures_util::stream::try_unfold(state, move |(mut data, mut left, mut kept)| async move {
        loop {
            let part = data.next().await.transpose()?;
            let wrong = match &part {
                Some(part) => part.len() as u64 > left,
                None => left > 0,
            };
            if wrong {
                let error = format!("the data is not the {size} bytes that it should be");
                tracing::error!(location, error, "a download is aborted");
                return Err(error.into());
            }
            let Some(part) = part else { return Ok(kept.take().map(|last| (last, (data, left, None)))) };
            left -= part.len() as u64;
            if let Some(before) = kept.replace(part) {
                return Ok(Some((before, (data, left, kept))));
            }
        }
    }))
}

fn check_preferred(app: &App, prefer: &[String]) -> Result<()> {
    if !app.stores.are_named {
        let message = "Store selection for download is not available when multiple backends are not enabled.";
        return Err(Error::Invalid(message.to_owned()));
    }
    match prefer.iter().find(|id| app.stores.named(id).is_none()) {
        None => Ok(()),
        Some(id) => Err(Error::Invalid(format!("Store '{id}' is not configured."))),
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{StreamExt as _, stream};

    use super::{Bytes, cut};

    #[tokio::test]
    async fn a_range_is_cut_out_of_a_stream_of_any_parts() {
        let data = b"0123456789";
        for part in 1..=10 {
            for (start, end) in [(0, 10), (0, u64::MAX), (3, 7), (9, 10), (10, u64::MAX), (4, 5)] {
                let parts: Vec<_> = data.chunks(part).map(|part| Ok(Bytes::copy_from_slice(part))).collect();
                let cut: Vec<_> = cut(Box::pin(stream::iter(parts)), start, end).collect().await;
                let found: Vec<u8> = cut.into_iter().flat_map(|part| part.unwrap()).collect();
                let expected = &data[start as usize..end.min(10) as usize];
                assert_eq!(found, expected, "{part}, {start}..{end}");
            }
        }
    }
}
