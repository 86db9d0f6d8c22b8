//! Properties that an import sets on its image.

use crate::{
    app::App,
    db::{self, Tx},
    error::Result,
    model::{ImageId, check_storable},
};

/// The prefix of the properties in which the service stores its own data.
const OWN: &str = "os_glance";
/// The maximum length of a property's name in characters, which is that of its column.
const MAX_NAME: usize = 255;
/// The maximum length of a property's value in bytes, which is that of its column on MySQL.
const MAX_VALUE: usize = 65_535;

/// Sets properties of the image. Names that the service has reserved, and names and values that cannot be stored, are left out. At
/// most four statements.
pub(super) async fn set(app: &App, tx: &mut Tx, image: &ImageId, properties: &[(String, String)]) -> Result<()> {
    let now = app.now();
    let is_settable = |(name, value): &&(String, String)| {
        let is_settable = !name.is_empty()
            && !name.starts_with(OWN)
            && name.chars().count() <= MAX_NAME
            && value.len() <= MAX_VALUE
            && check_storable("Property names", name).and_then(|()| check_storable("Param values", value)).is_ok();
        if !is_settable {
            tracing::warn!(
                image = image.as_str(),
                name,
                "an import does not set this property, it is reserved or invalid"
            );
        }
        is_settable
    };
    let existing = db::properties::list(tx, image).await?;
    let exists = |property: &(String, String)| existing.iter().any(|existing| existing.name == property.0);
    let (changed, new): (Vec<_>, Vec<_>) = properties.iter().filter(is_settable).cloned().partition(exists);
    if !changed.is_empty() {
        db::properties::update(tx, image, &changed, now).await?;
    }
    if !new.is_empty() {
        // Glance may have left rows that are marked as deleted.
        let names: Vec<&str> = new.iter().map(|(name, _)| name.as_str()).collect();
        db::properties::delete(tx, image, &names).await?;
        db::properties::insert(tx, image, &new, now).await?;
    }
    Ok(())
}
