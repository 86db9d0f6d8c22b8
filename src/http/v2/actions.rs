//! `/v2/images/{image_id}/actions/…`: deactivates and reactivates images.

use axum::{extract::State, http::StatusCode};

use crate::{
    app::SharedApp,
    context::Context,
    error::Result,
    http::extract::{ImagePath, NoBody},
    images::actions,
};

pub(super) async fn deactivate(
    State(app): State<SharedApp>,
    context: Context,
    ImagePath(image): ImagePath,
    _: NoBody,
) -> Result<StatusCode> {
    actions::deactivate(&app, &context, &image).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn reactivate(
    State(app): State<SharedApp>,
    context: Context,
    ImagePath(image): ImagePath,
    _: NoBody,
) -> Result<StatusCode> {
    actions::reactivate(&app, &context, &image).await?;
    Ok(StatusCode::NO_CONTENT)
}
