//! `/v2/images/{image_id}/file` and `/v2/images/{image_id}/stage`: uploads, downloads and stages image data.

use axum::{
    body::Body,
    extract::{FromRequest as _, Request, State},
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Response},
};

use crate::{
    app::SharedApp,
    context::Context,
    data::{self, download::Download},
    error::{Error, Result},
    http::{
        extract::{ImageData, ImagePath, NoBody, Query, RequestedRange},
        no_content::NoContent,
    },
};

const CONTENT_MD5: HeaderName = HeaderName::from_static("content-md5");

pub(super) async fn upload(
    State(app): State<SharedApp>,
    context: Context,
    ImagePath(id): ImagePath,
    ImageData(new): ImageData,
) -> Result<NoContent> {
    data::upload(&app, &context, &id, new).await?;
    Ok(NoContent)
}

pub(super) async fn stage(
    State(app): State<SharedApp>,
    context: Context,
    ImagePath(id): ImagePath,
    request: Request,
) -> Result<NoContent, Response> {
    // As in Glance, this comes before the check of the media type.
    data::stage::check_available(&app).map_err(Error::into_response)?;
    let ImageData(new) = ImageData::from_request(request, &app).await?;
    data::stage::stage(&app, &context, &id, new).await.map_err(Error::into_response)?;
    Ok(NoContent)
}

pub(super) async fn download(
    State(app): State<SharedApp>,
    context: Context,
    ImagePath(id): ImagePath,
    Query(pairs): Query,
    RequestedRange(range): RequestedRange,
    _: NoBody,
) -> Result<Response> {
    let prefer = pairs.iter().rev().find(|(name, _)| name == "prefer").map_or("", |(_, value)| value);
    let prefer: Vec<String> = prefer.split(',').map(str::trim).filter(|id| !id.is_empty()).map(str::to_owned).collect();
    let download = data::download(&app, &context, &id, &range, &prefer).await?;
    Ok(download.map_or_else(|| StatusCode::NO_CONTENT.into_response(), download_response))
}

fn download_response(download: Download) -> Response {
    let Download { size, range, checksum, data } = download;
    let mut response = Response::new(Body::from_stream(data));
    let headers = response.headers_mut();
    // Clients compare the value as a whole, so it has no parameters.
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    // If the size is unknown, the response is chunked.
    if let Some(length) = range.as_ref().map(|range| range.end - range.start).or(size) {
        headers.insert(header::CONTENT_LENGTH, length.into());
    }
    if let Some(checksum) = checksum.and_then(|checksum| HeaderValue::from_str(&checksum).ok()) {
        headers.insert(CONTENT_MD5, checksum);
    }
    if let (Some(range), Some(size)) = (range, size) {
        let part = format!("bytes {}-{}/{size}", range.start, range.end - 1);
        if let Ok(part) = HeaderValue::from_str(&part) {
            headers.insert(header::CONTENT_RANGE, part);
        }
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    }
    response
}
