//! `/v2/images/{image_id}/tags/{tag}`: adds and removes tags.

use axum::extract::State;

use crate::{
    app::SharedApp,
    context::Context,
    error::Result,
    http::{
        extract::{NewTagPath, NoBody, TagPath},
        no_content::NoContent,
    },
    images::tags,
};

pub(super) async fn add(
    State(app): State<SharedApp>,
    context: Context,
    NewTagPath(image, tag): NewTagPath,
    _: NoBody,
) -> Result<NoContent> {
    tags::add(&app, &context, &image, &tag).await?;
    Ok(NoContent)
}

pub(super) async fn remove(
    State(app): State<SharedApp>,
    context: Context,
    TagPath(image, tag): TagPath,
    _: NoBody,
) -> Result<NoContent> {
    tags::remove(&app, &context, &image, &tag).await?;
    Ok(NoContent)
}
