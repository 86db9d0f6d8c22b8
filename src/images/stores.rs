//! The stores as clients see them, and the removal of an image's data from one of them.

use crate::{
    access,
    app::App,
    context::Context,
    data::{placement::name_of, removal},
    db::{self},
    error::{Error, Result},
    model::{RequestedId, Status},
    policy::{Target, rule},
    store::Store,
};

/// Checks that the stores have names. Without `enabled_backends` there are none to list.
///
/// # Errors
/// `NotFound`
pub(crate) fn check_named(app: &App) -> Result<()> {
    if app.stores.are_named {
        return Ok(());
    }
    Err(Error::NotFound("Multi backend is not supported at this site.".to_owned()))
}

/// Checks that the caller is allowed to see how stores are configured.
///
/// # Errors
/// `NotFound`, `Forbidden`
pub(crate) fn authorise_detail(app: &App, context: &Context) -> Result<()> {
    check_named(app)?;
    if app.policy.allows(&context.identity, rule::STORES_INFO_DETAIL, &Target::default()) {
        return Ok(());
    }
    Err(Error::policy_denied(rule::STORES_INFO_DETAIL))
}

/// Removes an image's data from one of several stores that have it. Six statements.
///
/// # Errors
/// `NotFound`, `Conflict` when there is no such store, when the image is not active or when another of its locations refers to the
/// same data, `Forbidden` also when no other store has the data.
pub(crate) async fn remove_data(app: &App, context: &Context, store: &str, id: &RequestedId) -> Result<()> {
    if !app.stores.are_named {
        return Err(Error::resource_not_found());
    }
    if app.stores.named(store).is_none() {
        return Err(Error::Conflict(format!("The selected store {store} is not available on this node.")));
    }
    let location = app
        .db
        .transaction(|mut tx| async move {
            let image = access::find_locked(app, &mut tx, context, id).await?;
            let image = image.ok_or_else(|| Error::stored_image_not_found(id))?;
            access::authorise(app, context, &image, rule::GET_IMAGE_LOCATION)?;
            access::authorise(app, context, &image, rule::DELETE_IMAGE_LOCATION)?;
            if image.status != Status::Active {
                let message = "It's not allowed to remove image data from store if image status is not 'active'";
                return Err(Error::Conflict(message.to_owned()));
            }
            let now = app.now();
            if !db::images::touch(&mut tx, &image.id, now).await? {
                return Err(Error::stored_image_not_found(id));
            }
            let locations = db::locations::list(&mut tx, &image.id).await?;
            if locations.len() == 1 {
                let message = "Cannot delete image data from the only store containing it. Consider deleting the image \
                     instead.";
                return Err(Error::Forbidden(message.to_owned()));
            }
            let location = locations.iter().find(|location| name_of(app, location) == Some(store));
            let location =
                location.ok_or_else(|| Error::NotFound(format!("Image {id} is not stored in store {store}.")))?.clone();
            let mut others = locations.iter().filter(|other| other.id != location.id);
            if others.any(|other| other.url.is_same_data(&location.url)) {
                let message = format!("The data in store {store} is also that of another location of image {id}.");
                return Err(Error::Conflict(message));
            }
            // From here on the location is not the image's. It stays recorded until its data is removed.
            db::locations::release(&mut tx, location.id, now).await?;
            Ok((tx, location))
        })
        .await?;
    removal::finish_removal(app, &location).await
}

/// Returns the stores in the order of the configuration.
pub(crate) fn all(app: &App) -> impl Iterator<Item = &Store> {
    app.stores.iter().map(|store| &**store)
}
