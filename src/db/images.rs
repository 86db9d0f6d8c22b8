//! The `images` table, and the page of a listing.

use std::fmt;

use chrono::NaiveDateTime;
use sea_query::{Cond, Condition, Expr, ExprTrait, IntoTableRef, Order, Query, SelectStatement};

use super::{
    Result, Session, Tx,
    tables::{ImageLocations, ImageProperties, ImageTags, Images},
    text_enum::text_enum,
};

text_enum! {
    /// Who may see an image: a native enum in PostgreSQL and MySQL, text in SQLite.
    pub(crate) enum Visibility("image_visibility") {
        /// Only its owner.
        Private = "private",
        /// Everybody; listed for everybody.
        Public = "public",
        /// Its owner and its members.
        Shared = "shared",
        /// Everybody; listed for its owner only.
        Community = "community",
    }
}

text_enum! {
    /// Where an image is in its life.
    pub(crate) enum Status("") {
        /// The record is there, its data is not.
        Queued = "queued",
        /// Data is being uploaded.
        Saving = "saving",
        /// Data is being staged for an import.
        Uploading = "uploading",
        /// Staged data is being imported.
        Importing = "importing",
        /// The data is there.
        Active = "active",
        /// The data is there, but only an admin may read it.
        Deactivated = "deactivated",
        /// An upload went wrong, by an old Glance.
        Killed = "killed",
        /// Gone; its id is never given out again.
        Deleted = "deleted",
        /// Gone, with data that is still to be removed.
        PendingDelete = "pending_delete",
    }
}

/// An image's id, as the client wrote it. Only one that [`ImageId::is_uuid`] can name an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ImageId(String);

impl ImageId {
    /// Whether this has the form of an id: hexadecimal digits and hyphens, 8-4-4-4-12, in either case.
    pub(crate) fn is_uuid(&self) -> bool {
        is_uuid(&self.0)
    }

    /// The id's text.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<String> for ImageId {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Display for ImageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether the text is a UUID in the form that Glance's schema asks for.
pub(crate) fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

/// A row of `images` that is not deleted.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub(crate) struct Image {
    /// Its id.
    pub(crate) id: String,
    /// Its name; names need not be unique.
    pub(crate) name: Option<String>,
    /// Bytes of data, once there is data.
    pub(crate) size: Option<i64>,
    /// Where it is in its life.
    pub(crate) status: Status,
    /// When it was created, in UTC.
    pub(crate) created_at: NaiveDateTime,
    /// When it was changed last, in UTC.
    pub(crate) updated_at: Option<NaiveDateTime>,
    /// The data's disk format, one of the configured ones.
    pub(crate) disk_format: Option<String>,
    /// The data's container format, one of the configured ones.
    pub(crate) container_format: Option<String>,
    /// The data's MD5, in hexadecimal digits.
    pub(crate) checksum: Option<String>,
    /// The project that it belongs to.
    pub(crate) owner: Option<String>,
    /// GiB of disk that an instance needs at least.
    pub(crate) min_disk: i32,
    /// MiB of memory that an instance needs at least.
    pub(crate) min_ram: i32,
    /// Whether it refuses to be deleted.
    pub(crate) protected: bool,
    /// Bytes of the disk that the data describes.
    pub(crate) virtual_size: Option<i64>,
    /// Who may see it.
    pub(crate) visibility: Visibility,
    /// Whether default listings leave it out.
    pub(crate) os_hidden: bool,
    /// The name of the data's secure hash.
    pub(crate) os_hash_algo: Option<String>,
    /// The data's secure hash, in hexadecimal digits.
    pub(crate) os_hash_value: Option<String>,
}

const COLUMNS: [Images; 18] = [
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

fn select() -> SelectStatement {
    Query::select().columns(COLUMNS).from(Images::Table).and_where(Expr::col(Images::Deleted).eq(false)).take()
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
    if !id.is_uuid() {
        return Ok(None);
    }
    let row: Option<Image> = s.optional(select().and_where(Expr::col(Images::Id).eq(id.as_str())).take()).await?;
    // MySQL's collation takes `A` for `a`; an id that differs is another id.
    Ok(row.filter(|row| row.id == id.as_str()))
}

/// As [`get`], and takes the row's lock until the transaction ends; SQLite has one writer in any case.
pub(crate) async fn get_locked(tx: &mut Tx, id: &ImageId) -> Result<Option<Image>> {
    if !id.is_uuid() {
        return Ok(None);
    }
    let query = select().and_where(Expr::col(Images::Id).eq(id.as_str())).lock_exclusive().take();
    let row: Option<Image> = tx.optional(query).await?;
    Ok(row.filter(|row| row.id == id.as_str()))
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

/// Sets when the image was changed last, and takes its row's lock until the transaction ends: those who write an
/// image's tags wait for each other here. `false` when it was deleted meanwhile.
pub(crate) async fn touch(s: &mut impl Session, id: &str, now: NaiveDateTime) -> Result<bool> {
    let update = Query::update()
        .table(Images::Table)
        .value(Images::UpdatedAt, now)
        .and_where(Expr::col(Images::Id).eq(id))
        .and_where(Expr::col(Images::Deleted).eq(false))
        .take();
    Ok(s.execute(update).await? == 1)
}

/// Marks the image as deleted, if it still is as it was read: in that status, not protected, not deleted. The row
/// stays as the tombstone of its id.
pub(crate) async fn delete(s: &mut impl Session, image: &Image, to: Status, now: NaiveDateTime) -> Result<bool> {
    let update = Query::update()
        .table(Images::Table)
        .value(Images::Status, to)
        .value(Images::Deleted, true)
        .value(Images::DeletedAt, now)
        .value(Images::UpdatedAt, now)
        .and_where(Expr::col(Images::Id).eq(image.id.as_str()))
        .and_where(Expr::col(Images::Deleted).eq(false))
        .and_where(Expr::col(Images::Protected).eq(false))
        .and_where(Expr::col(Images::Status).eq(image.status))
        .take();
    Ok(s.execute(update).await? == 1)
}

/// Removes an image's members, and marks what else belongs to it as deleted: its properties, tags and locations. Four
/// statements.
pub(crate) async fn delete_children(s: &mut impl Session, image_id: &str, now: NaiveDateTime) -> Result<()> {
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
            .and_where(Expr::col(ImageTags::Deleted).eq(false))
            .take();
        s.execute(update).await?;
    }
    super::members::delete_all(s, image_id).await
}

/// Hands an image's data over to `glance-scrubber`, which removes what it finds in this state. `true` when there is
/// any. One statement.
pub(crate) async fn release_data(s: &mut impl Session, image_id: &str) -> Result<bool> {
    let update = Query::update()
        .table(ImageLocations::Table)
        .value(ImageLocations::Status, Status::PendingDelete)
        .and_where(Expr::col(ImageLocations::ImageId).eq(image_id))
        .and_where(Expr::col(ImageLocations::Deleted).eq(false))
        .take();
    Ok(s.execute(update).await? > 0)
}

/// What the images of a listing have in common.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Filter {
    /// Hidden images, or the others.
    pub(crate) os_hidden: bool,
    /// Community images of others too; without it, only where a term asks for them.
    pub(crate) all_visibilities: bool,
    /// What else; all of them hold.
    pub(crate) terms: Vec<Term>,
}

/// One condition of a listing. A list of texts holds where one of them is equal.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Term {
    Id(Vec<String>),
    Name(Vec<String>),
    Status(Vec<String>),
    ContainerFormat(Vec<String>),
    DiskFormat(Vec<String>),
    Owner(String),
    Checksum(String),
    OsHashAlgo(String),
    OsHashValue(String),
    Visibility(Visibility),
    Protected(bool),
    Size(Compare, i64),
    VirtualSize(i64),
    MinRam(i64),
    MinDisk(i64),
    CreatedAt(Compare, NaiveDateTime),
    UpdatedAt(Compare, NaiveDateTime),
    /// A custom property, by name and value.
    Property(String, String),
    /// A tag that the image has.
    Tag(String),
}

/// How a column compares to a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compare {
    Below,
    AtMost,
    Equal,
    Unequal,
    AtLeast,
    Above,
}

/// A column that a listing may be sorted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SortKey {
    Name,
    Status,
    ContainerFormat,
    DiskFormat,
    Size,
    Id,
    CreatedAt,
    UpdatedAt,
}

/// Which way a listing is sorted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    Asc,
    Desc,
}

/// Who lists.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Viewer<'v> {
    /// The project that they act for.
    pub(crate) project: Option<&'v str>,
    /// An admin sees every image.
    pub(crate) is_admin: bool,
}

/// A part of a listing.
#[derive(Debug)]
pub(crate) struct Page<'p> {
    /// The order: its keys tell any two images apart.
    pub(crate) sort: &'p [(SortKey, Direction)],
    /// The image after which the page starts.
    pub(crate) after: Option<&'p Image>,
    /// Rows at the most.
    pub(crate) limit: u64,
}

/// Reads a page. One statement.
pub(crate) async fn list(
    s: &mut impl Session,
    viewer: &Viewer<'_>,
    filter: &Filter,
    page: &Page<'_>,
) -> Result<Vec<Image>> {
    let mut query = select();
    query.and_where(Expr::col(Images::Status).ne(Status::Killed));
    query.and_where(Expr::col(Images::OsHidden).eq(filter.os_hidden));
    if !viewer.is_admin {
        query.cond_where(visible_to(s, viewer.project));
    }
    let asks_for_visibility = filter.terms.iter().any(|term| matches!(term, Term::Visibility(_)));
    if !filter.all_visibilities && !asks_for_visibility {
        query.cond_where(
            Cond::any()
                .add_option(viewer.project.map(|project| s.exactly(Images::Owner, project)))
                .add(Expr::col(Images::Visibility).ne(Visibility::Community)),
        );
    }
    for term in &filter.terms {
        query.cond_where(term.condition(s));
    }
    if let Some(marker) = page.after {
        query.cond_where(after(s, marker, page.sort));
    }
    for (key, direction) in page.sort {
        query.order_by_expr(key.expr(s), direction.order());
    }
    query.limit(page.limit);
    s.all(query).await
}

/// Public and community images, and the project's own. Shared ones of others come with members.
fn visible_to(s: &impl Session, project: Option<&str>) -> Condition {
    Cond::any()
        .add(Expr::col(Images::Visibility).eq(Visibility::Public))
        .add(Expr::col(Images::Visibility).eq(Visibility::Community))
        .add_option(project.map(|project| s.exactly(Images::Owner, project)))
}

impl Term {
    fn condition(&self, s: &impl Session) -> Condition {
        let any = |column: Images, texts: &[String]| {
            texts.iter().fold(Cond::any(), |any, text| any.add(s.exactly(column, text)))
        };
        match self {
            Self::Id(texts) => any(Images::Id, texts),
            Self::Name(texts) => any(Images::Name, texts),
            Self::Status(texts) => any(Images::Status, texts),
            Self::ContainerFormat(texts) => any(Images::ContainerFormat, texts),
            Self::DiskFormat(texts) => any(Images::DiskFormat, texts),
            Self::Owner(text) => s.exactly(Images::Owner, text),
            Self::Checksum(text) => s.exactly(Images::Checksum, text),
            Self::OsHashAlgo(text) => s.exactly(Images::OsHashAlgo, text),
            Self::OsHashValue(text) => s.exactly(Images::OsHashValue, text),
            Self::Visibility(visibility) => Cond::all().add(Expr::col(Images::Visibility).eq(*visibility)),
            Self::Protected(protected) => Cond::all().add(Expr::col(Images::Protected).eq(*protected)),
            Self::Size(compare, bytes) => compare.condition(Images::Size, *bytes),
            Self::VirtualSize(bytes) => Compare::Equal.condition(Images::VirtualSize, *bytes),
            Self::MinRam(mebibytes) => Compare::Equal.condition(Images::MinRam, *mebibytes),
            Self::MinDisk(gibibytes) => Compare::Equal.condition(Images::MinDisk, *gibibytes),
            Self::CreatedAt(compare, time) => compare.condition(Images::CreatedAt, *time),
            Self::UpdatedAt(compare, time) => compare.condition(Images::UpdatedAt, *time),
            Self::Property(name, value) => Cond::all().add(super::properties::exists(s, name, value)),
            Self::Tag(tag) => Cond::all().add(super::tags::exists(s, tag)),
        }
    }
}

impl Compare {
    fn condition(self, column: Images, value: impl Into<Expr>) -> Condition {
        let column = Expr::col(column);
        let value = value.into();
        Cond::all().add(match self {
            Self::Below => column.lt(value),
            Self::AtMost => column.lte(value),
            Self::Equal => column.eq(value),
            Self::Unequal => column.ne(value),
            Self::AtLeast => column.gte(value),
            Self::Above => column.gt(value),
        })
    }
}

impl Direction {
    fn order(self) -> Order {
        match self {
            Self::Asc => Order::Asc,
            Self::Desc => Order::Desc,
        }
    }
}

impl SortKey {
    /// What the key sorts by. A column that may be NULL falls back to a value, so that every engine puts it in the same
    /// place; the others stay bare, so that their index serves.
    fn expr(self, s: &impl Session) -> Expr {
        match self {
            Self::Name => s.bytewise(Expr::col(Images::Name).if_null("")),
            Self::Status => Expr::col(Images::Status),
            Self::ContainerFormat => Expr::col(Images::ContainerFormat).if_null(""),
            Self::DiskFormat => Expr::col(Images::DiskFormat).if_null(""),
            Self::Size => Expr::col(Images::Size).if_null(0_i64),
            Self::Id => Expr::col(Images::Id),
            Self::CreatedAt => Expr::col(Images::CreatedAt),
            Self::UpdatedAt => Expr::col(Images::UpdatedAt).if_null(Expr::col(Images::CreatedAt)),
        }
    }

    /// What an image has there.
    fn value(self, image: &Image) -> Expr {
        let text = |text: &Option<String>| text.clone().unwrap_or_default().into();
        match self {
            Self::Name => text(&image.name),
            Self::Status => image.status.into(),
            Self::ContainerFormat => text(&image.container_format),
            Self::DiskFormat => text(&image.disk_format),
            Self::Size => image.size.unwrap_or_default().into(),
            Self::Id => image.id.as_str().into(),
            Self::CreatedAt => image.created_at.into(),
            Self::UpdatedAt => image.updated_at.unwrap_or(image.created_at).into(),
        }
    }
}

/// Rows strictly after the marker: `a > x OR (a = x AND b > y) OR …`.
fn after(s: &impl Session, marker: &Image, sort: &[(SortKey, Direction)]) -> Condition {
    (0..sort.len()).fold(Cond::any(), |any, n| {
        let (key, direction) = sort[n];
        let tie = sort[..n].iter().fold(Cond::all(), |all, (key, _)| all.add(key.expr(s).eq(key.value(marker))));
        let (left, right) = (key.expr(s), key.value(marker));
        any.add(tie.add(match direction {
            Direction::Asc => left.gt(right),
            Direction::Desc => left.lt(right),
        }))
    })
}
