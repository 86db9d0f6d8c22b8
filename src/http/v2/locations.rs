//! `/v2/images/{image_id}/locations`: adds and lists the locations of images' data.

use axum::{
    Extension,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse as _, Response},
};

use super::images::LocationBody;
use crate::{
    app::SharedApp,
    context::Context,
    error::Result,
    http::{
        error::EMPTY_TYPE,
        extract::{ImagePath, Json, NoBody},
        json,
        middleware::request_id::RequestId,
    },
    images::locations,
    import::{self, LocationRequest},
};

pub(super) async fn add(
    State(app): State<SharedApp>,
    context: Context,
    ImagePath(id): ImagePath,
    Extension(RequestId(request_id)): Extension<RequestId>,
    Json(body): Json,
) -> Result<Response> {
    let request = LocationRequest::parse(&app, &body)?;
    import::add_location(&app, &context, &id, &request, Some(&request_id)).await?;
    Ok((StatusCode::ACCEPTED, [(header::CONTENT_TYPE, EMPTY_TYPE)]).into_response())
}

pub(super) async fn list(
    State(app): State<SharedApp>,
    context: Context,
    ImagePath(id): ImagePath,
    _: NoBody,
) -> Result<Response> {
    let locations = locations::list(&app, &context, &id).await?;
    Ok(json::ascii_response(&locations.iter().map(LocationBody::from).collect::<Vec<_>>()))
}
