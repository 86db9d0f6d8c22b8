//! `/v2/images/{image_id}/actions/…`: deactivates and reactivates images.

use axum::extract::State;

use crate::{
    app::SharedApp,
    context::Context,
    error::Result,
    http::{
        extract::{ImagePath, NoBody},
        no_content::NoContent,
    },
    images::actions,
};

pub(super) async fn deactivate(
    State(app): State<SharedApp>,
    context: Context,
    ImagePath(image): ImagePath,
    _: NoBody,
) -> Result<NoContent> {
    actions::deactivate(&app, &context, &image).await?;
    Ok(NoContent)
}

pub(super) async fn reactivate(
    State(app): State<SharedApp>,
    context: Context,
    ImagePath(image): ImagePath,
    _: NoBody,
) -> Result<NoContent> {
    actions::reactivate(&app, &context, &image).await?;
    Ok(NoContent)
}
