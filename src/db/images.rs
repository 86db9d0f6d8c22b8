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

/// Selects those of these images that are not deleted, through the primary key.
pub(super) fn live(ids: &[&str]) -> SelectStatement {
    Query::select()
        .columns(COLUMNS)
        .from(Images::Table)
        .and_where(Expr::col(Images::Id).is_in(ids.iter().copied()))
        .and_where(super::is_live(Images::Deleted))
        .take()
}

/// Adds an image. Returns `Error::Duplicate` if an image has the id already, even a deleted one. One statement.
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

/// Reads an image that is not deleted. One statement, through the primary key.
pub(crate) async fn get(s: &mut impl Session, id: &ImageId) -> Result<Option<Image>> {
    let row: Option<Image> = s.optional(live(&[id.as_str()])).await?;
    // MySQL's collation is case-insensitive, but ids that differ in case are different ids.
    Ok(row.filter(|row| row.id == *id))
}

/// Like [`get`], and locks the image until the transaction ends.
///
/// A transaction that acts on what it reads of an image, or of its tags, members and locations, calls this first. On SQLite, no
/// lock is needed, because there is one writer at a time. In a Galera cluster, a row lock is local to one node, so the
/// transaction also [changes a row](super::image_locks). One statement; one more in a cluster.
pub(crate) async fn get_locked(tx: &mut Tx, id: &ImageId) -> Result<Option<Image>> {
    let row: Option<Image> = tx.optional(live(&[id.as_str()]).lock_exclusive().take()).await?;
    let row = row.filter(|row| row.id == *id);
    if row.is_some() && tx.is_clustered() {
        super::image_locks::take(tx, id.as_str()).await?;
    }
    Ok(row)
}

/// Whether there is a row of this id, also if its image is deleted. One statement, through the primary key.
pub(crate) async fn is_known(s: &mut impl Session, id: &str) -> Result<bool> {
    let query = Query::select().columns(COLUMNS).from(Images::Table).and_where(Expr::col(Images::Id).eq(id)).take();
    let row: Option<Image> = s.optional(query).await?;
    Ok(row.is_some())
}

/// Writes the columns that differ between `before`, the image as it was read, and `after`. The transaction holds the image's
/// lock. One statement.
pub(crate) async fn update(tx: &mut Tx, before: &Image, after: &Image) -> Result<()> {
    let to_expr = |text: &Option<String>| Expr::from(text.clone());
    let columns = [
        (Images::Name, before.name != after.name, to_expr(&after.name)),
        (Images::DiskFormat, before.disk_format != after.disk_format, to_expr(&after.disk_format)),
        (Images::ContainerFormat, before.container_format != after.container_format, to_expr(&after.container_format)),
        (Images::Owner, before.owner != after.owner, to_expr(&after.owner)),
        (Images::MinDisk, before.min_disk != after.min_disk, after.min_disk.into()),
        (Images::MinRam, before.min_ram != after.min_ram, after.min_ram.into()),
        (Images::Protected, before.protected != after.protected, after.protected.into()),
        (Images::Visibility, before.visibility != after.visibility, after.visibility.into()),
        (Images::OsHidden, before.os_hidden != after.os_hidden, after.os_hidden.into()),
        (Images::Status, before.status != after.status, after.status.into()),
        (Images::Size, before.size != after.size, after.size.into()),
        (Images::Checksum, before.checksum != after.checksum, to_expr(&after.checksum)),
        (Images::OsHashAlgo, before.os_hash_algo != after.os_hash_algo, to_expr(&after.os_hash_algo)),
        (Images::OsHashValue, before.os_hash_value != after.os_hash_value, to_expr(&after.os_hash_value)),
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

/// Changes the image's status, if it is not deleted and still has the status that was read. Returns whether it did. One statement.
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

/// Sets an image to `pending_delete`, before its data is removed. The transaction holds the image's lock. Returns the changed
/// image, or `None` if its status is no longer the one that was read. One statement.
///
/// This moves `updated_at` forward by at least one second, the resolution of MySQL. So if an image is deleted several times,
/// only the last deletion can [revert itself](set_status_of_unchanged).
pub(crate) async fn begin_deletion(tx: &mut Tx, image: &Image, now: NaiveDateTime) -> Result<Option<Image>> {
    let latest = image.updated_at.map_or(now, |before| Ord::max(before, now));
    let time = latest.trunc_subsecs(0) + TimeDelta::seconds(1);
    let begun = tx.execute(transition(&image.id, image.status, Status::PendingDelete, time)).await? == 1;
    Ok(begun.then(|| Image { status: Status::PendingDelete, updated_at: Some(time), ..image.clone() }))
}

/// Whether the deletion that [`begin_deletion`] returned this image for still owns the image: no other one has begun since, and the
/// image was neither deleted nor restored. One statement.
pub(crate) async fn is_deletion_current(s: &mut impl Session, begun: &Image) -> Result<bool> {
    let now = get(s, &begun.id).await?;
    Ok(now.is_some_and(|now| (now.status, now.updated_at) == (Status::PendingDelete, begun.updated_at)))
}

/// Like [`set_status`], but only if the image has not been changed at all since it was read. One statement.
pub(crate) async fn set_status_of_unchanged(
    s: &mut impl Session,
    image: &Image,
    to: Status,
    now: NaiveDateTime,
) -> Result<bool> {
    let update = transition(&image.id, image.status, to, now)
        .and_where(super::is_time(Images::UpdatedAt, image.updated_at))
        .take();
    Ok(s.execute(update).await? == 1)
}

/// Reads at most `most` images whose deletion is in progress, least recently changed first. One statement, through
/// `glimpse_images_pending_delete`.
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

/// Reads at most `most` images that had data when they became active, and whose ids come after `after`, in the order of their ids.
/// One statement, through the primary key.
pub(crate) async fn with_data(s: &mut impl Session, after: &str, most: u64) -> Result<Vec<Image>> {
    let query = Query::select()
        .columns(COLUMNS)
        .from(Images::Table)
        .and_where(Expr::col(Images::Id).gt(after))
        .and_where(super::is_live(Images::Deleted))
        .and_where(
            Expr::col(Images::Status)
                .is_in([Status::Active, Status::Deactivated])
                // An old Glance's killed images never had all of their data, nor a hash.
                .or(Expr::col(Images::Status).eq(Status::Killed).and(Expr::col(Images::OsHashValue).is_not_null())),
        )
        .order_by(Images::Id, Order::Asc)
        .limit(most)
        .take();
    s.all(query).await
}

/// Reads those of these images that are not deleted, in no particular order. One statement, through the primary key.
pub(crate) async fn all(s: &mut impl Session, ids: &[&str]) -> Result<Vec<Image>> {
    s.all(live(ids)).await
}

/// Sets the time of the image's last change. Returns `false` if the image is deleted, or is being deleted: then the time is the
/// token of its [deletion](begin_deletion), and nothing else writes it. One statement.
pub(crate) async fn touch(s: &mut impl Session, id: &str, now: NaiveDateTime) -> Result<bool> {
    let update = Query::update()
        .table(Images::Table)
        .value(Images::UpdatedAt, now)
        .and_where(Expr::col(Images::Id).eq(id))
        .and_where(Expr::col(Images::Deleted).eq(false))
        .and_where(Expr::col(Images::Status).ne(Status::PendingDelete))
        .take();
    Ok(s.execute(update).await? == 1)
}

/// Builds the statement that moves an image from one status to another. It changes no row if the image has left the first status.
fn transition(id: &str, from: Status, to: Status, now: NaiveDateTime) -> UpdateStatement {
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

/// Makes an image in the status `saving` active. Returns `false` if it is no longer in that status. One statement.
pub(crate) async fn activate(s: &mut impl Session, id: &str, facts: &DataFacts, now: NaiveDateTime) -> Result<bool> {
    let update = with_facts(transition(id, Status::Saving, Status::Active, now), facts);
    Ok(s.execute(update).await? == 1)
}

/// Records the size of an image's staged data. Returns `false` if the image is no longer in the status `uploading`. One statement.
pub(crate) async fn set_staged(s: &mut impl Session, id: &str, size: i64, now: NaiveDateTime) -> Result<bool> {
    let update = transition(id, Status::Uploading, Status::Uploading, now).value(Images::Size, size).take();
    Ok(s.execute(update).await? == 1)
}

/// Records the facts of an image's data, which an import has copied to a store, and changes the image's status to `to`. The
/// transaction holds the image's lock. One statement.
pub(crate) async fn set_facts(
    tx: &mut Tx,
    image: &Image,
    facts: &DataFacts,
    to: Status,
    now: NaiveDateTime,
) -> Result<()> {
    tx.execute(with_facts(transition(&image.id, image.status, to, now), facts)).await.map(drop)
}

/// Writes the size, the virtual size and the formats of an image that is being imported. One statement.
pub(crate) async fn set_imported(tx: &mut Tx, image: &Image, now: NaiveDateTime) -> Result<()> {
    let update = transition(&image.id, image.status, image.status, now)
        .value(Images::Size, image.size)
        .value(Images::VirtualSize, image.virtual_size)
        .value(Images::DiskFormat, image.disk_format.as_deref())
        .value(Images::ContainerFormat, image.container_format.as_deref())
        .take();
    tx.execute(update).await.map(drop)
}

/// Returns an image to `queued` after its import failed, without the facts of its data. One statement.
pub(crate) async fn reset_import(tx: &mut Tx, id: &str, now: NaiveDateTime) -> Result<()> {
    let update = transition(id, Status::Importing, Status::Queued, now)
        .value(Images::Size, None::<i64>)
        .value(Images::VirtualSize, None::<i64>)
        .value(Images::Checksum, None::<String>)
        .value(Images::OsHashAlgo, None::<String>)
        .value(Images::OsHashValue, None::<String>)
        .take();
    tx.execute(update).await.map(drop)
}

fn with_facts(mut update: UpdateStatement, facts: &DataFacts) -> UpdateStatement {
    update
        .value(Images::Size, facts.size)
        .value(Images::VirtualSize, facts.virtual_size)
        .value(Images::Checksum, facts.checksum.as_str())
        .value(Images::OsHashAlgo, facts.os_hash_algo.as_str())
        .value(Images::OsHashValue, facts.os_hash_value.as_str())
        .take()
}

/// Returns an image to `queued` after its upload, staging or import failed. Returns `false` if it is no longer in the status `from`.
/// One statement.
pub(crate) async fn requeue(s: &mut impl Session, id: &str, from: Status, now: NaiveDateTime) -> Result<bool> {
    let update = transition(id, from, Status::Queued, now)
        .value(Images::Size, None::<i64>)
        .value(Images::VirtualSize, None::<i64>)
        .take();
    Ok(s.execute(update).await? == 1)
}

/// Marks the image as deleted, if it still has the status that was read, and is neither deleted nor protected. Protection does
/// not stop a deletion that had [begun](begin_deletion) before. The row stays as a tombstone, so that its id is never reused.
/// One statement.
pub(crate) async fn delete(tx: &mut Tx, image: &Image, to: Status, now: NaiveDateTime) -> Result<bool> {
    let mut update = transition(&image.id, image.status, to, now);
    update.value(Images::Deleted, true).value(Images::DeletedAt, now);
    if image.status != Status::PendingDelete {
        update.and_where(Expr::col(Images::Protected).eq(false));
    }
    Ok(tx.execute(update).await? == 1)
}

/// Removes a deleted image's members, and marks its properties, tags and locations as deleted. Four statements; one more in a
/// cluster, which removes the row of its lock.
pub(crate) async fn delete_children(tx: &mut Tx, image_id: &str, now: NaiveDateTime) -> Result<()> {
    let children = [
        ImageProperties::Table.into_table_ref(),
        ImageTags::Table.into_table_ref(),
        ImageLocations::Table.into_table_ref(),
    ];
    for table in children {
        // These columns have the same names in all three tables.
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

/// Hands an image's data over to `glance-scrubber`, which removes the data of all locations in the status `pending_delete`. Returns
/// `true` if the image has any. One statement.
pub(crate) async fn release_data(s: &mut impl Session, image_id: &str) -> Result<bool> {
    let update = Query::update()
        .table(ImageLocations::Table)
        .value(ImageLocations::Status, Status::PendingDelete)
        .and_where(Expr::col(ImageLocations::ImageId).eq(image_id))
        .and_where(super::is_live(ImageLocations::Deleted))
        .take();
    Ok(s.execute(update).await? > 0)
}
