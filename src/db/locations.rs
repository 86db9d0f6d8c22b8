//! The `image_locations` table: the locations of images' data.

use chrono::NaiveDateTime;
use sea_query::{Expr, ExprTrait, NullOrdering, Order, Query, SelectStatement, UpdateStatement};
use serde_json::{Map, Value};

use super::{
    Result, Session, Tx,
    tables::{ImageLocations, Images},
};
use crate::model::{ImageId, Location, LocationStatus, LocationUrl, Status};

#[derive(sqlx::FromRow)]
struct Row {
    id: i32,
    image_id: ImageId,
    value: LocationUrl,
    meta_data: Option<String>,
    status: LocationStatus,
    updated_at: Option<NaiveDateTime>,
}

impl From<Row> for Location {
    fn from(row: Row) -> Self {
        Self {
            id: row.id,
            image_id: row.image_id,
            url: row.value,
            metadata: parse_metadata(row.meta_data.as_deref()),
            status: row.status,
        }
    }
}

/// A location that was detached from its image, and whose data still has to be removed.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Removal {
    /// The location.
    pub(crate) location: Location,
    /// When its removal was last started or resumed.
    updated_at: Option<NaiveDateTime>,
}

/// Reads the locations of an image in order of their ids. One statement, through the index on `image_id`.
pub(crate) async fn list(s: &mut impl Session, image_id: &str) -> Result<Vec<Location>> {
    use ImageLocations as L;
    let query = of_images(&[image_id])
        .columns([L::Id, L::ImageId, L::Value, L::MetaData, L::Status, L::UpdatedAt])
        .order_by(L::Id, Order::Asc)
        .take();
    let rows: Vec<Row> = s.all(query).await?;
    Ok(rows.into_iter().map(Location::from).collect())
}

/// Reads the locations of these images, including those with the status `Deleted`, whose data was removed. In order of their
/// ids. One statement, through the index on `image_id`; none if there are no images.
pub(crate) async fn with_deleted(s: &mut impl Session, image_ids: &[&str]) -> Result<Vec<Location>> {
    use ImageLocations as L;
    if image_ids.is_empty() {
        return Ok(Vec::new());
    }
    let query = Query::select()
        .columns([L::Id, L::ImageId, L::Value, L::MetaData, L::Status, L::UpdatedAt])
        .from(L::Table)
        .and_where(Expr::col(L::ImageId).is_in(image_ids.iter().copied()))
        .and_where(super::is_live(L::Deleted).or(Expr::col(L::Status).eq(LocationStatus::Deleted)))
        .order_by(L::Id, Order::Asc)
        .take();
    let rows: Vec<Row> = s.all(query).await?;
    Ok(rows.into_iter().map(Location::from).collect())
}

/// Selects the locations of these images, through the index on `image_id`.
pub(super) fn of_images(image_ids: &[&str]) -> SelectStatement {
    use ImageLocations as L;
    Query::select()
        .from(L::Table)
        .and_where(Expr::col(L::ImageId).is_in(image_ids.iter().copied()))
        .and_where(super::is_live(L::Deleted))
        .take()
}

/// Parses a location's metadata. Returns none if the column is not JSON: very old releases of Glance used another format.
pub(super) fn parse_metadata(text: Option<&str>) -> Map<String, Value> {
    text.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
}

/// Formats a location's metadata for the database: JSON in ASCII, which every engine can store.
///
/// # Errors
/// `Statement`, if it cannot be formatted as JSON.
pub(crate) fn metadata_text(metadata: &Map<String, Value>) -> Result<String> {
    ascii_json(metadata)
}

/// Formats a value as JSON in ASCII.
///
/// # Errors
/// As [`metadata_text`].
pub(crate) fn ascii_json(value: &impl serde::Serialize) -> Result<String> {
    let text = serde_json::to_string(value).map_err(|error| super::Error::Statement(error.to_string()))?;
    // Characters outside of ASCII occur only in JSON strings, where they can be escaped.
    let mut ascii = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            c if c.is_ascii() => ascii.push(c),
            c => ascii.extend(c.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}"))),
        }
    }
    Ok(ascii)
}

/// Adds locations to an image, in this order. One statement per [`super::ROWS_PER_INSERT`] locations.
pub(crate) async fn insert(
    s: &mut impl Session,
    image_id: &str,
    locations: &[(&LocationUrl, &Map<String, Value>)],
    now: NaiveDateTime,
) -> Result<()> {
    use ImageLocations as L;
    for locations in locations.chunks(super::ROWS_PER_INSERT) {
        let mut insert = Query::insert();
        let columns = [L::ImageId, L::Value, L::MetaData, L::Status, L::CreatedAt, L::UpdatedAt, L::Deleted];
        insert.into_table(L::Table).columns(columns);
        for (url, metadata) in locations {
            let values: [Expr; 7] = [
                image_id.into(),
                url.expose().into(),
                metadata_text(metadata)?.into(),
                LocationStatus::Active.into(),
                now.into(),
                now.into(),
                false.into(),
            ];
            insert.values_panic(values);
        }
        s.execute(insert).await?;
    }
    Ok(())
}

/// Detaches locations from their image. `status` is `Deleted` if their data has been removed, or `PendingDelete` if it still
/// has to be. One statement, through the primary key; none if there are no locations.
pub(crate) async fn mark(s: &mut impl Session, ids: &[i32], status: LocationStatus, now: NaiveDateTime) -> Result<()> {
    if ids.is_empty() {
        return Ok(());
    }
    use ImageLocations as L;
    let update = Query::update()
        .table(L::Table)
        .value(L::Status, status)
        .value(L::Deleted, true)
        .value(L::DeletedAt, now)
        .value(L::UpdatedAt, now)
        .and_where(Expr::col(L::Id).is_in(ids.iter().copied()))
        .take();
    s.execute(update).await.map(drop)
}

/// Detaches a location whose data has been removed. One statement, through the primary key.
pub(crate) async fn delete(s: &mut impl Session, id: i32, now: NaiveDateTime) -> Result<()> {
    mark(s, &[id], LocationStatus::Deleted, now).await
}

/// Detaches a location from its image, before its data is removed. One statement, through the primary key.
pub(crate) async fn release(s: &mut impl Session, id: i32, now: NaiveDateTime) -> Result<()> {
    mark(s, &[id], LocationStatus::PendingDelete, now).await
}

/// Reattaches a location that was [released](release), unless its removal was [resumed](resume). The transaction holds the
/// image's lock. One statement, through the primary key.
pub(crate) async fn restore(tx: &mut Tx, id: i32, now: NaiveDateTime) -> Result<()> {
    use ImageLocations as L;
    let update =
        reattach(id, LocationStatus::PendingDelete, now).and_where(Expr::col(L::UpdatedAt).equals(L::DeletedAt)).take();
    tx.execute(update).await.map(drop)
}

/// Reattaches a location that was marked as deleted although its data exists. The transaction holds the image's lock. One
/// statement, through the primary key.
pub(crate) async fn undelete(tx: &mut Tx, id: i32, now: NaiveDateTime) -> Result<()> {
    tx.execute(reattach(id, LocationStatus::Deleted, now)).await.map(drop)
}

/// Builds the statement that makes a detached location with the status `from` active again.
fn reattach(id: i32, from: LocationStatus, now: NaiveDateTime) -> UpdateStatement {
    use ImageLocations as L;
    Query::update()
        .table(L::Table)
        .value(L::Status, LocationStatus::Active)
        .value(L::Deleted, false)
        .value(L::DeletedAt, None::<NaiveDateTime>)
        .value(L::UpdatedAt, now)
        .and_where(Expr::col(L::Id).eq(id))
        .and_where(Expr::col(L::Status).eq(from))
        .take()
}

/// Reads at most `most` removals in progress, least recently changed first. Locations of images in the status `pending_delete`
/// are left out, because `glance-scrubber` or the image's own deletion removes their data. One statement, through
/// `glimpse_image_locations_pending_delete`.
pub(crate) async fn being_removed(s: &mut impl Session, most: u64) -> Result<Vec<Removal>> {
    use ImageLocations as L;
    let columns = [L::Id, L::ImageId, L::Value, L::MetaData, L::Status, L::UpdatedAt].map(|column| (L::Table, column));
    let query = Query::select()
        .columns(columns)
        .from(L::Table)
        .inner_join(Images::Table, Expr::col((Images::Table, Images::Id)).equals((L::Table, L::ImageId)))
        .and_where(Expr::col((L::Table, L::Deleted)).eq(true))
        .and_where(super::is_pending_delete((L::Table, L::Status)))
        .and_where(Expr::col((Images::Table, Images::Status)).ne(Status::PendingDelete))
        .order_by_with_nulls((L::Table, L::UpdatedAt), Order::Asc, NullOrdering::First)
        .limit(most)
        .take();
    let rows: Vec<Row> = s.all(query).await?;
    Ok(rows.into_iter().map(|row| Removal { updated_at: row.updated_at, location: row.into() }).collect())
}

/// Takes over an interrupted removal. Afterwards, [`restore`] cannot reattach the location. Returns `false` if another process
/// has taken it over, or if it has ended. One statement, through the primary key.
pub(crate) async fn resume(s: &mut impl Session, removal: &Removal, now: NaiveDateTime) -> Result<bool> {
    use ImageLocations as L;
    let update = Query::update()
        .table(L::Table)
        .value(L::UpdatedAt, now)
        .and_where(Expr::col(L::Id).eq(removal.location.id))
        .and_where(Expr::col(L::Status).eq(LocationStatus::PendingDelete))
        .and_where(Expr::col(L::Deleted).eq(true))
        .and_where(super::is_time(L::UpdatedAt, removal.updated_at))
        .take();
    Ok(s.execute(update).await? == 1)
}
