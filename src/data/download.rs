//! Downloading an image's data.

use std::ops::Range;

use bytes::Bytes;
use futures_util::StreamExt as _;

use super::{placement, range::RangeRequest};
use crate::{
    access,
    app::App,
    context::Context,
    db::{self},
    egress,
    error::{Error, Result, with_causes},
    model::{Location, LocationStatus, RequestedId, Status},
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

/// Opens an image's data. Returns `None` if the image has none. Two statements; one more if the data cannot be read.
///
/// # Errors
/// `NotFound`, `Forbidden`, `NoSuchRange`, `Invalid`, `Unavailable` when the data cannot be read or does not have the image's size.
pub(crate) async fn download(
    app: &App,
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
    let mut locations = db::locations::list(&mut conn, &image.id).await?;
    drop(conn);
    // An image without a size has no data, so a range is ignored.
    let known = image.size.and_then(|size| u64::try_from(size).ok());
    let range = match known {
        Some(size) => range.resolve(size)?,
        None => None,
    };
    let is_preferred = |location: &Location| {
        location.metadata.get("store").and_then(|store| store.as_str()).is_some_and(|id| prefer.iter().any(|p| p == id))
    };
    locations.retain(|location| location.status == LocationStatus::Active);
    let weight = |location: &Location| placement::weight_of(app, location);
    locations.sort_by_key(|location| (!is_preferred(location), std::cmp::Reverse(weight(location))));
    let mut failures = Vec::new();
    for location in &locations {
        let opening = open_location(app, location, known, range.clone());
        match egress::on_behalf_of(context.project_id(), opening).await {
            Ok((size, data)) => {
                failures.iter().for_each(Failure::log);
                return Ok(Some(Download { size, range, checksum: image.image.checksum, data }));
            }
            Err(failure) => failures.push(failure),
        }
    }
    // If the image is deleted concurrently, its locations or data are missing rightly: that is not logged as an error.
    let had_data = !failures.is_empty() || matches!(image.status, Status::Active | Status::Deactivated);
    if had_data && is_deleted(app, context, id).await? {
        return Err(Error::image_not_found(id));
    }
    failures.iter().for_each(Failure::log);
    failures.pop().map_or(Ok(None), |failure| Err(failure.error))
}

/// The reason why data cannot be read at a location.
struct Failure {
    location: i32,
    /// The complete reason, for the log.
    cause: String,
    error: Error,
}

impl Failure {
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
) -> Result<(Option<u64>, ByteStream), Failure> {
    let failure = |cause, error| Failure { location: location.id, cause, error };
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

/// Whether the image has been deleted, or is being deleted. One statement.
async fn is_deleted(app: &App, context: &Context, id: &RequestedId) -> Result<bool> {
    let mut conn = app.db.acquire().await?;
    let image = access::find(app, &mut conn, context, id).await?;
    Ok(image.is_none_or(|image| image.status == Status::PendingDelete))
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
