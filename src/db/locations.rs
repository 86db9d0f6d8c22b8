//! The `image_locations` table: where an image's data is.

use std::fmt;

use chrono::NaiveDateTime;
use sea_query::{Expr, ExprTrait, Order, Query};
use serde::Serialize;
use serde_json::{Map, Value};

use super::{
    Result, Session,
    images::Status,
    tables::{ImageLocations, Images},
    text_enum::text_enum,
};

text_enum! {
    /// What is at a location.
    pub(crate) enum LocationStatus("") {
        /// The image's data.
        Active = "active",
        /// Nothing yet: a copy is waiting to be made.
        Pending = "pending",
        /// A part of the data: a copy is being made.
        Uploading = "uploading",
        /// Data that is still to be removed.
        PendingDelete = "pending_delete",
        /// Nothing any more.
        Deleted = "deleted",
    }
}

/// A location's URL. It may hold a store's credentials, so it is shown to clients that may see it and never logged.
#[derive(Clone, PartialEq, Eq, Serialize, sqlx::Type)]
#[serde(transparent)]
#[sqlx(transparent)]
pub(crate) struct LocationUrl(String);

impl From<String> for LocationUrl {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl LocationUrl {
    /// Its text, for the store that it is in.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for LocationUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = self.0.split("://").next().unwrap_or_default();
        write!(f, "{scheme}://…")
    }
}

/// A place where an image's data is.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Location {
    /// The row's number, by which an image's locations are in order.
    pub(crate) id: i32,
    /// The image whose data is there.
    pub(crate) image_id: String,
    /// Where.
    pub(crate) url: LocationUrl,
    /// What the store says of it: `store` names the store.
    pub(crate) metadata: Map<String, Value>,
    /// What is there.
    pub(crate) status: LocationStatus,
}

#[derive(sqlx::FromRow)]
struct Row {
    id: i32,
    image_id: String,
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
            // What a Glance of long ago left in another form says nothing.
            metadata: row.meta_data.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default(),
            status: row.status,
        }
    }
}

/// A location that is an image's no more, and whose data is still to be removed.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Removal {
    /// Which one.
    pub(crate) location: Location,
    /// When somebody set about it last.
    updated_at: Option<NaiveDateTime>,
}

/// Reads the locations of these images, in their order. One statement, through the index on `image_id`.
pub(crate) async fn of(s: &mut impl Session, image_ids: &[&str]) -> Result<Vec<Location>> {
    if image_ids.is_empty() {
        return Ok(Vec::new());
    }
    use ImageLocations as L;
    let query = Query::select()
        .columns([L::Id, L::ImageId, L::Value, L::MetaData, L::Status, L::UpdatedAt])
        .from(L::Table)
        .and_where(Expr::col(L::ImageId).is_in(image_ids.iter().copied()))
        .and_where(Expr::col(L::Deleted).eq(false))
        .order_by(L::Id, Order::Asc)
        .take();
    let rows: Vec<Row> = s.all(query).await?;
    Ok(rows.into_iter().map(Location::from).collect())
}

/// Adds a location of an image's data. One statement.
pub(crate) async fn insert(
    s: &mut impl Session,
    image_id: &str,
    url: &LocationUrl,
    metadata: &Map<String, Value>,
    now: NaiveDateTime,
) -> Result<()> {
    use ImageLocations as L;
    let metadata = serde_json::to_string(metadata).map_err(|error| super::Error::Statement(error.to_string()))?;
    let values: [Expr; 7] = [
        image_id.into(),
        url.expose().into(),
        metadata.into(),
        LocationStatus::Active.into(),
        now.into(),
        now.into(),
        false.into(),
    ];
    let columns = [L::ImageId, L::Value, L::MetaData, L::Status, L::CreatedAt, L::UpdatedAt, L::Deleted];
    s.execute(Query::insert().into_table(L::Table).columns(columns).values_panic(values).take()).await.map(drop)
}

/// Marks a location whose data is gone as deleted. One statement, through the primary key.
pub(crate) async fn delete(s: &mut impl Session, id: i32, now: NaiveDateTime) -> Result<()> {
    use ImageLocations as L;
    let update = Query::update()
        .table(L::Table)
        .value(L::Status, LocationStatus::Deleted)
        .value(L::Deleted, true)
        .value(L::DeletedAt, now)
        .value(L::UpdatedAt, now)
        .and_where(Expr::col(L::Id).eq(id))
        .take();
    s.execute(update).await.map(drop)
}

/// Takes a location from its image, before its data is removed. One statement, through the primary key.
pub(crate) async fn release(s: &mut impl Session, id: i32, now: NaiveDateTime) -> Result<()> {
    use ImageLocations as L;
    let update = Query::update()
        .table(L::Table)
        .value(L::Status, LocationStatus::PendingDelete)
        .value(L::Deleted, true)
        .value(L::DeletedAt, now)
        .value(L::UpdatedAt, now)
        .and_where(Expr::col(L::Id).eq(id))
        .take();
    s.execute(update).await.map(drop)
}

/// Gives a location back that was taken from its image, unless its removal was [resumed](resume). One statement, through the
/// primary key.
pub(crate) async fn restore(s: &mut impl Session, id: i32, now: NaiveDateTime) -> Result<bool> {
    use ImageLocations as L;
    let update = Query::update()
        .table(L::Table)
        .value(L::Status, LocationStatus::Active)
        .value(L::Deleted, false)
        .value(L::DeletedAt, None::<NaiveDateTime>)
        .value(L::UpdatedAt, now)
        .and_where(Expr::col(L::Id).eq(id))
        .and_where(Expr::col(L::Status).eq(LocationStatus::PendingDelete))
        .and_where(Expr::col(L::UpdatedAt).equals(L::DeletedAt))
        .take();
    Ok(s.execute(update).await? == 1)
}

/// Reads removals that are under way, so many at the most, but for those of images that wait for `glance-scrubber` as a whole. One
/// statement, through the index on `deleted`.
pub(crate) async fn being_removed(s: &mut impl Session, most: u64) -> Result<Vec<Removal>> {
    use ImageLocations as L;
    let columns = [L::Id, L::ImageId, L::Value, L::MetaData, L::Status, L::UpdatedAt].map(|column| (L::Table, column));
    let query = Query::select()
        .columns(columns)
        .from(L::Table)
        .inner_join(Images::Table, Expr::col((Images::Table, Images::Id)).equals((L::Table, L::ImageId)))
        .and_where(Expr::col((L::Table, L::Deleted)).eq(true))
        .and_where(Expr::col((L::Table, L::Status)).eq(LocationStatus::PendingDelete))
        .and_where(Expr::col((Images::Table, Images::Status)).ne(Status::PendingDelete))
        .limit(most)
        .take();
    let rows: Vec<Row> = s.all(query).await?;
    Ok(rows.into_iter().map(|row| Removal { updated_at: row.updated_at, location: row.into() }).collect())
}

/// Takes over a removal that was broken off: from then on, the location does not come back. `false` when somebody else did or
/// when it has ended. One statement, through the primary key.
pub(crate) async fn resume(s: &mut impl Session, removal: &Removal, now: NaiveDateTime) -> Result<bool> {
    use ImageLocations as L;
    let update = Query::update()
        .table(L::Table)
        .value(L::UpdatedAt, now)
        .and_where(Expr::col(L::Id).eq(removal.location.id))
        .and_where(Expr::col(L::Status).eq(LocationStatus::PendingDelete))
        .and_where(Expr::col(L::Deleted).eq(true))
        .and_where(Expr::col(L::UpdatedAt).eq(removal.updated_at))
        .take();
    Ok(s.execute(update).await? == 1)
}
