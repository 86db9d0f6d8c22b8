//! `/v2/images/{image_id}/tags/{tag}`: adds and removes tags.

use axum::{extract::State, http::StatusCode};

use crate::{
    app::SharedApp,
    context::Context,
    error::Result,
    http::extract::{NewTagPath, NoBody, TagPath},
    images::tags,
};

pub(super) async fn add(
    State(app): State<SharedApp>,
    context: Context,
    NewTagPath(image, tag): NewTagPath,
    _: NoBody,
) -> Result<StatusCode> {
    tags::add(&app, &context, &image, &tag).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn remove(
    State(app): State<SharedApp>,
    context: Context,
    TagPath(image, tag): TagPath,
    _: NoBody,
) -> Result<StatusCode> {
    tags::remove(&app, &context, &image, &tag).await?;
    Ok(StatusCode::NO_CONTENT)
}
