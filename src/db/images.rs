//! The `images` table.

use chrono::{NaiveDateTime, SubsecRound as _, TimeDelta};
use sea_query::{Expr, ExprTrait, IntoTableRef, NullOrdering, Order, Query, SelectStatement, UpdateStatement};

use super::{
    Result, Session, Tx,
    tables::{ImageLocations, ImageProperties, ImageTags, Images},
};
use crate::model::{DataFacts, Image, ImageId, Status};

pub(super) const COLUMNS: [Images; 18] = [
    Images::Id,
    Images::Name,
    Images::Size,
    Images::Status,
    Images::CreatedAt,
    Images::UpdatedAt,
    Images::DiskFormat,
    Images::ContainerFormat,
    Images::Checksum,
    Images::Owner,
    Images::MinDisk,
    Images::MinRam,
    Images::Protected,
    Images::VirtualSize,
    Images::Visibility,
    Images::OsHidden,
    Images::OsHashAlgo,
    Images::OsHashValue,
];

/// Those of these images that are not deleted, through the primary key.
pub(super) fn live(ids: &[&str]) -> SelectStatement {
    Query::select()
        .columns(COLUMNS)
        .from(Images::Table)
        .and_where(Expr::col(Images::Id).is_in(ids.iter().copied()))
        .and_where(super::is_live(Images::Deleted))
        .take()
}

/// Adds an image's row. `Error::Duplicate` when its id is taken, be it by a deleted image.
pub(crate) async fn insert(s: &mut impl Session, image: &Image) -> Result<()> {
    let values: [Expr; 18] = [
        image.id.as_str().into(),
        image.name.clone().into(),
        image.size.into(),
        image.status.into(),
        image.created_at.into(),
        image.updated_at.into(),
        image.disk_format.clone().into(),
        image.container_format.clone().into(),
        image.checksum.clone().into(),
        image.owner.clone().into(),
        image.min_disk.into(),
        image.min_ram.into(),
        image.protected.into(),
        image.virtual_size.into(),
        image.visibility.into(),
        image.os_hidden.into(),
        image.os_hash_algo.clone().into(),
        image.os_hash_value.clone().into(),
    ];
    let columns = COLUMNS.into_iter().chain([Images::Deleted]);
    let values = values.into_iter().chain([false.into()]);
    s.execute(Query::insert().into_table(Images::Table).columns(columns).values_panic(values).take()).await.map(drop)
}

/// Reads an image that is not deleted, by its primary key.
pub(crate) async fn get(s: &mut impl Session, id: &ImageId) -> Result<Option<Image>> {
    let row: Option<Image> = s.optional(live(&[id.as_str()])).await?;
    // MySQL's collation takes `A` for `a`; an id that differs is another id.
    Ok(row.filter(|row| row.id == *id))
}

/// As [`get`], and takes the image's lock until the transaction ends: a transaction that acts on what it reads of an image, or of
/// its tags, members and locations, calls this first. SQLite has one writer in any case; in a Galera cluster the row's lock holds in
/// one node alone, so the lock there is also a [row that is changed](super::image_locks). One statement; one more in a cluster.
pub(crate) async fn get_locked(tx: &mut Tx, id: &ImageId) -> Result<Option<Image>> {
    let row: Option<Image> = tx.optional(live(&[id.as_str()]).lock_exclusive().take()).await?;
    let row = row.filter(|row| row.id == *id);
    if row.is_some() && tx.is_clustered() {
        super::image_locks::take(tx, id.as_str()).await?;
    }
    Ok(row)
}

/// Writes what differs between an image as it was read and as it is to be; who calls holds the row's lock. One statement.
pub(crate) async fn update(tx: &mut Tx, before: &Image, after: &Image) -> Result<()> {
    let text = |text: &Option<String>| Expr::from(text.clone());
    let columns = [
        (Images::Name, before.name != after.name, text(&after.name)),
        (Images::DiskFormat, before.disk_format != after.disk_format, text(&after.disk_format)),
        (Images::ContainerFormat, before.container_format != after.container_format, text(&after.container_format)),
        (Images::Owner, before.owner != after.owner, text(&after.owner)),
        (Images::MinDisk, before.min_disk != after.min_disk, after.min_disk.into()),
        (Images::MinRam, before.min_ram != after.min_ram, after.min_ram.into()),
        (Images::Protected, before.protected != after.protected, after.protected.into()),
        (Images::Visibility, before.visibility != after.visibility, after.visibility.into()),
        (Images::OsHidden, before.os_hidden != after.os_hidden, after.os_hidden.into()),
        (Images::Status, before.status != after.status, after.status.into()),
        (Images::Size, before.size != after.size, after.size.into()),
        (Images::Checksum, before.checksum != after.checksum, text(&after.checksum)),
        (Images::OsHashAlgo, before.os_hash_algo != after.os_hash_algo, text(&after.os_hash_algo)),
        (Images::OsHashValue, before.os_hash_value != after.os_hash_value, text(&after.os_hash_value)),
        (Images::UpdatedAt, true, after.updated_at.into()),
    ];
    let changed = columns.into_iter().filter(|(_, differs, _)| *differs).map(|(column, _, value)| (column, value));
    let update = Query::update()
        .table(Images::Table)
        .values(changed)
        .and_where(Expr::col(Images::Id).eq(after.id.as_str()))
        .take();
    tx.execute(update).await.map(drop)
}

/// Moves the image to another status, if it still is in the one that was read and not deleted. One statement.
pub(crate) async fn set_status(s: &mut impl Session, image: &Image, to: Status, now: NaiveDateTime) -> Result<bool> {
    let update = Query::update()
        .table(Images::Table)
        .value(Images::Status, to)
        .value(Images::UpdatedAt, now)
        .and_where(Expr::col(Images::Id).eq(image.id.as_str()))
        .and_where(Expr::col(Images::Deleted).eq(false))
        .and_where(Expr::col(Images::Status).eq(image.status))
        .take();
    Ok(s.execute(update).await? == 1)
}

/// Sets an image to `pending_delete`, before its data is removed; the transaction holds the image's lock. Returns the image as it is
/// from then on, or `None` where its status is no longer the one that was read. One statement.
///
/// Its time of change is later than before by a second at least, which is how exactly MySQL keeps it: so of several deletions of one
/// image, only the one that began last can [take it back](set_status_of_unchanged).
pub(crate) async fn begin_deletion(tx: &mut Tx, image: &Image, now: NaiveDateTime) -> Result<Option<Image>> {
    let latest = image.updated_at.map_or(now, |before| Ord::max(before, now));
    let time = latest.trunc_subsecs(0) + TimeDelta::seconds(1);
    let begun = tx.execute(moving(&image.id, image.status, Status::PendingDelete, time)).await? == 1;
    Ok(begun.then(|| Image { status: Status::PendingDelete, updated_at: Some(time), ..image.clone() }))
}

/// As [`set_status`], if nobody has changed the image at all since it was read. One statement.
pub(crate) async fn set_status_of_unchanged(
    s: &mut impl Session,
    image: &Image,
    to: Status,
    now: NaiveDateTime,
) -> Result<bool> {
    let update =
        moving(&image.id, image.status, to, now).and_where(super::is_time(Images::UpdatedAt, image.updated_at)).take();
    Ok(s.execute(update).await? == 1)
}

/// Reads images whose deletion is under way, so many at the most, those first that were touched longest ago. One statement,
/// through `glimpse_images_pending_delete`.
pub(crate) async fn being_deleted(s: &mut impl Session, most: u64) -> Result<Vec<Image>> {
    let query = Query::select()
        .columns(COLUMNS)
        .from(Images::Table)
        .and_where(Expr::col(Images::Deleted).eq(false))
        .and_where(super::is_pending_delete(Images::Status))
        .order_by_with_nulls(Images::UpdatedAt, Order::Asc, NullOrdering::First)
        .limit(most)
        .take();
    s.all(query).await
}

/// Reads images that have data, in the order of their ids, after an id and so many at the most. One statement, through the primary
/// key.
pub(crate) async fn with_data(s: &mut impl Session, after: &str, most: u64) -> Result<Vec<Image>> {
    let query = Query::select()
        .columns(COLUMNS)
        .from(Images::Table)
        .and_where(Expr::col(Images::Id).gt(after))
        .and_where(super::is_live(Images::Deleted))
        .and_where(Expr::col(Images::Status).is_in([Status::Active, Status::Deactivated]))
        .order_by(Images::Id, Order::Asc)
        .limit(most)
        .take();
    s.all(query).await
}

/// Reads those of these images that are not deleted, in no order. One statement, through the primary key.
pub(crate) async fn all(s: &mut impl Session, ids: &[&str]) -> Result<Vec<Image>> {
    s.all(live(ids)).await
}

/// Sets when the image was changed last. `false` when it is deleted. One statement.
pub(crate) async fn touch(s: &mut impl Session, id: &str, now: NaiveDateTime) -> Result<bool> {
    let update = Query::update()
        .table(Images::Table)
        .value(Images::UpdatedAt, now)
        .and_where(Expr::col(Images::Id).eq(id))
        .and_where(Expr::col(Images::Deleted).eq(false))
        .take();
    Ok(s.execute(update).await? == 1)
}

fn moving(id: &str, from: Status, to: Status, now: NaiveDateTime) -> UpdateStatement {
    let mut update = Query::update();
    update
        .table(Images::Table)
        .value(Images::Status, to)
        .value(Images::UpdatedAt, now)
        .and_where(Expr::col(Images::Id).eq(id))
        .and_where(Expr::col(Images::Status).eq(from))
        .and_where(Expr::col(Images::Deleted).eq(false));
    update
}

/// Makes an image active whose data was being saved. `false` when that is not so any more.
pub(crate) async fn activate(s: &mut impl Session, id: &str, facts: &DataFacts, now: NaiveDateTime) -> Result<bool> {
    let update = moving(id, Status::Saving, Status::Active, now)
        .value(Images::Size, facts.size)
        .value(Images::VirtualSize, facts.virtual_size)
        .value(Images::Checksum, facts.checksum.as_str())
        .value(Images::OsHashAlgo, facts.os_hash_algo.as_str())
        .value(Images::OsHashValue, facts.os_hash_value.as_str())
        .take();
    Ok(s.execute(update).await? == 1)
}

/// Lets an image wait for data again whose upload did not come to its end. `false` when it is gone.
pub(crate) async fn requeue(s: &mut impl Session, id: &str, now: NaiveDateTime) -> Result<bool> {
    let update = moving(id, Status::Saving, Status::Queued, now)
        .value(Images::Size, None::<i64>)
        .value(Images::VirtualSize, None::<i64>)
        .take();
    Ok(s.execute(update).await? == 1)
}

/// Lets an image wait for data again whose data is gone; the transaction holds the image's lock. One statement.
pub(crate) async fn lose_data(tx: &mut Tx, id: &str, now: NaiveDateTime) -> Result<()> {
    let update = moving(id, Status::Active, Status::Queued, now)
        .value(Images::Size, None::<i64>)
        .value(Images::VirtualSize, None::<i64>)
        .value(Images::Checksum, None::<String>)
        .value(Images::OsHashAlgo, None::<String>)
        .value(Images::OsHashValue, None::<String>)
        .take();
    tx.execute(update).await.map(drop)
}

/// Marks the image as deleted, if it still is as it was read: in that status, not deleted, and not protected, unless its deletion had
/// [begun](begin_deletion) before. The row stays as the tombstone of its id. One statement.
pub(crate) async fn delete(tx: &mut Tx, image: &Image, to: Status, now: NaiveDateTime) -> Result<bool> {
    let mut update = moving(&image.id, image.status, to, now);
    update.value(Images::Deleted, true).value(Images::DeletedAt, now);
    if image.status != Status::PendingDelete {
        update.and_where(Expr::col(Images::Protected).eq(false));
    }
    Ok(tx.execute(update).await? == 1)
}

/// Removes a deleted image's members, and marks its properties, tags and locations as deleted. Four statements; one more in a
/// cluster, for the row of its lock.
pub(crate) async fn delete_children(tx: &mut Tx, image_id: &str, now: NaiveDateTime) -> Result<()> {
    let children = [
        ImageProperties::Table.into_table_ref(),
        ImageTags::Table.into_table_ref(),
        ImageLocations::Table.into_table_ref(),
    ];
    for table in children {
        // The tables name these columns alike.
        let update = Query::update()
            .table(table)
            .value(ImageTags::Deleted, true)
            .value(ImageTags::DeletedAt, now)
            .value(ImageTags::UpdatedAt, now)
            .and_where(Expr::col(ImageTags::ImageId).eq(image_id))
            .and_where(super::is_live(ImageTags::Deleted))
            .take();
        tx.execute(update).await?;
    }
    if tx.is_clustered() {
        super::image_locks::remove(tx, image_id).await?;
    }
    super::members::delete_all(tx, image_id).await
}

/// Hands an image's data over to `glance-scrubber`, which removes what it finds in this state. `true` when there is
/// any. One statement.
pub(crate) async fn release_data(s: &mut impl Session, image_id: &str) -> Result<bool> {
    let update = Query::update()
        .table(ImageLocations::Table)
        .value(ImageLocations::Status, Status::PendingDelete)
        .and_where(Expr::col(ImageLocations::ImageId).eq(image_id))
        .and_where(super::is_live(ImageLocations::Deleted))
        .take();
    Ok(s.execute(update).await? > 0)
}
