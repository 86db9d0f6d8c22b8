//! The properties, tags and locations of any number of images, in one statement, optionally with the images themselves.
//!
//! The statement is a union of the selects that `properties`, `tags`, `locations` and `images` build, padded to the same columns.

use std::iter::once;

use sea_query::{Expr, SelectStatement};
use sqlx::{ColumnIndex, Database, Decode, FromRow, Type};

use super::{
    ROW_WEIGHT, Result, Session,
    images::{self},
    locations::{self},
    properties::{self, Property},
    tables::{ImageLocations as L, ImageProperties as P, ImageTags as T, Images},
    tags::{self, TagRow},
};
use crate::model::{Image, ImageId, Location, LocationStatus, LocationUrl};

/// The properties, tags and locations of images. They are sorted here, because the engines sort differently.
#[derive(Debug, Default)]
pub(crate) struct Details {
    /// The properties, in the order in which they were added.
    pub(crate) properties: Vec<Property>,
    /// The tags without duplicates, sorted by image and text.
    pub(crate) tags: Vec<TagRow>,
    /// The locations, sorted by id. Empty if they were not requested.
    pub(crate) locations: Vec<Location>,
}

/// The kinds of rows in the union.
mod kind {
    pub(super) const IMAGE: i32 = 0;
    pub(super) const PROPERTY: i32 = 1;
    pub(super) const TAG: i32 = 2;
    pub(super) const LOCATION: i32 = 3;
}

/// The columns of the union, in addition to those of an image if the union includes images.
const KIND: &str = "kind";
const IMAGE_ID: &str = "image_id";
const NUMBER: &str = "number";
const LABEL: &str = "label";
const CONTENT: &str = "content";
const LOCATION_STATUS: &str = "location_status";

enum Row {
    Image(Image),
    Property(Property),
    Tag(TagRow),
    /// A location, and the bytes of its texts.
    Location(Location, usize),
}

impl<'r, R> FromRow<'r, R> for Row
where
    R: sqlx::Row,
    Image: FromRow<'r, R>,
    &'static str: ColumnIndex<R>,
    i32: Column<'r, R::Database>,
    String: Column<'r, R::Database>,
    Option<String>: Column<'r, R::Database>,
    LocationUrl: Column<'r, R::Database>,
    LocationStatus: Column<'r, R::Database>,
{
    fn from_row(row: &'r R) -> Result<Self, sqlx::Error> {
        Ok(match row.try_get(KIND)? {
            kind::IMAGE => Self::Image(Image::from_row(row)?),
            kind::PROPERTY => Self::Property(Property {
                id: row.try_get(NUMBER)?,
                image_id: row.try_get(IMAGE_ID)?,
                name: row.try_get(LABEL)?,
                value: row.try_get(CONTENT)?,
            }),
            kind::TAG => Self::Tag(TagRow { image_id: row.try_get(IMAGE_ID)?, value: row.try_get(CONTENT)? }),
            _ => {
                let (url, metadata): (LocationUrl, Option<String>) = (row.try_get(CONTENT)?, row.try_get(LABEL)?);
                let weight = url.expose().len() + metadata.as_ref().map_or(0, String::len);
                let metadata = locations::parse_metadata(metadata.as_deref());
                let (image_id, status) = (row.try_get(IMAGE_ID)?, row.try_get(LOCATION_STATUS)?);
                Self::Location(Location { id: row.try_get(NUMBER)?, image_id, url, metadata, status }, weight)
            }
        })
    }
}

/// A type that can be decoded from a column.
trait Column<'r, DB: Database>: Decode<'r, DB> + Type<DB> {}

impl<'r, DB: Database, T: Decode<'r, DB> + Type<DB>> Column<'r, DB> for T {}

impl Row {
    fn weight(&self) -> usize {
        let text = match self {
            Self::Image(_) => 0,
            Self::Property(row) => row.name.len() + row.value.as_ref().map_or(0, String::len),
            Self::Tag(row) => row.value.len(),
            Self::Location(_, weight) => *weight,
        };
        ROW_WEIGHT + text
    }
}

/// Reads an image that is not deleted, with its details. One statement.
pub(crate) async fn with_image(
    s: &mut impl Session,
    id: &ImageId,
    with_locations: bool,
) -> Result<Option<(Image, Details)>> {
    let found = with_images(s, &[id.as_str()], with_locations, &mut { usize::MAX }).await?;
    let Some((mut images, details)) = found else { return Ok(None) };
    // MySQL's collation is case-insensitive, but ids that differ in case are different ids.
    Ok(images.pop().filter(|image| image.id == *id).map(|image| (image, details)))
}

/// Reads those of these images that are not deleted, in no particular order, with their details.
///
/// `budget` limits the memory of the rows: the function subtracts their weight. If the budget is exceeded, it returns `None`,
/// and the caller must close the connection, because the rest of the result is still unread. One statement; two for several
/// images on SQLite.
pub(crate) async fn with_images(
    s: &mut impl Session,
    ids: &[&str],
    with_locations: bool,
    budget: &mut usize,
) -> Result<Option<(Vec<Image>, Details)>> {
    if ids.is_empty() {
        return Ok(Some(Default::default()));
    }
    if ids.len() > 1 && !s.pays_for_round_trips() {
        // SQLite copies each value of a row, including the NULLs that pad a union, so two statements are faster there. The
        // images are read last: an image that is deleted in between is then missing, instead of being returned without its
        // details.
        let union = super::union_all(parts(ids, 0, with_locations)).unwrap_or_default();
        let Some(rows) = s.all_within(union, budget, Row::weight).await? else { return Ok(None) };
        let images = s.all(images::live(ids)).await?;
        return Ok(Some((images, sort_rows(rows).1)));
    }
    let mut images = images::live(ids);
    add_columns(&mut images, kind::IMAGE, [Expr::col(Images::Id), zero(), null(), null(), null()]);
    let parts = parts(ids, images::COLUMNS.len(), with_locations);
    let statement = super::union_all(once(images).chain(parts)).unwrap_or_default();
    Ok(s.all_within(statement, budget, Row::weight).await?.map(sort_rows))
}

/// Reads the details of an image. One statement.
pub(crate) async fn get(s: &mut impl Session, image_id: &str, with_locations: bool) -> Result<Details> {
    let statement = super::union_all(parts(&[image_id], 0, with_locations)).unwrap_or_default();
    Ok(sort_rows(s.all(statement).await?).1)
}

/// Builds the union's parts for properties, tags and locations. Each part starts with `padding` columns of NULL.
fn parts(image_ids: &[&str], padding: usize, with_locations: bool) -> impl Iterator<Item = SelectStatement> + use<> {
    let part = |kind, mut query: SelectStatement, columns: [Expr; 5]| {
        if padding > 0 {
            // One expression for all columns is cheaper to build, and a statement is built per request.
            query.expr(Expr::cust(vec!["NULL"; padding].join(", ")));
        }
        add_columns(&mut query, kind, columns);
        query
    };
    let property = [Expr::col(P::ImageId), Expr::col(P::Id), Expr::col(P::Name), Expr::col(P::Value), null()];
    let tag = [Expr::col(T::ImageId), zero(), null(), Expr::col(T::Value), null()];
    let location = [L::ImageId, L::Id, L::MetaData, L::Value, L::Status].map(Expr::col);
    [
        Some(part(kind::PROPERTY, properties::of_images(image_ids), property)),
        Some(part(kind::TAG, tags::of_images(image_ids), tag)),
        with_locations.then(|| part(kind::LOCATION, locations::of_images(image_ids), location)),
    ]
    .into_iter()
    .flatten()
}

fn add_columns(query: &mut SelectStatement, kind: i32, columns: [Expr; 5]) {
    query.expr_as(Expr::cust(kind.to_string()), KIND);
    for (column, name) in columns.into_iter().zip([IMAGE_ID, NUMBER, LABEL, CONTENT, LOCATION_STATUS]) {
        query.expr_as(column, name);
    }
}

/// A literal NULL. A bound value would have a type, but the column must get its type from the other parts of the union.
fn null() -> Expr {
    Expr::cust("NULL")
}

fn zero() -> Expr {
    Expr::cust("0")
}

/// Splits the rows by kind and sorts them: texts by bytes. The statement cannot do this, because each engine's collation has its
/// own order and equality.
fn sort_rows(rows: Vec<Row>) -> (Vec<Image>, Details) {
    let (mut images, mut all) = (Vec::new(), Details::default());
    for row in rows {
        match row {
            Row::Image(row) => images.push(row),
            Row::Property(row) => all.properties.push(row),
            Row::Tag(row) => all.tags.push(row),
            Row::Location(row, _) => all.locations.push(row),
        }
    }
    all.properties.sort_unstable_by_key(|property| property.id);
    all.tags.sort_unstable_by(|a, b| (&a.image_id, &a.value).cmp(&(&b.image_id, &b.value)));
    // A Glance on the same database may have added a tag twice.
    all.tags.dedup();
    all.locations.sort_unstable_by_key(|location| location.id);
    (images, all)
}
