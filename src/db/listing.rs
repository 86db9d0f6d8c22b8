//! A page of a listing. One statement reads the ids of its images, and reads little more than the page, however many images exist.
//!
//! Images of one visibility, and optionally one owner and one name, are a range of one of Glimpse's own indexes, in the order
//! of their creation. The images that a caller can list are a few such ranges. The statement scans each range from its start
//! for at most a page, and merges the results: with a single condition of ORs, the engine would sort all listed images. Only
//! ids and sort keys are merged, because rows of images are wide, and engines copy what they merge.
//!
//! The images with a tag, and the images that are shared with a project, are lists without such an order. If a list has at most
//! [`FEW`] images, all of them are read and sorted. Otherwise, the ranges are scanned in order, and each image is checked. The
//! statement contains both plans as parts of a union. A subquery that tests for a row beyond `FEW` disables one of them at run
//! time, so the choice does not depend on the engine's statistics.

use sea_query::{
    Alias, Asterisk, Cond, Condition, Expr, ExprTrait, Order, Query, SelectStatement,
    extension::mysql::{IndexHintScope, MySqlSelectStatementExt as _},
};

use super::{
    Result, Session,
    images::COLUMNS,
    tables::{ImageMembers, Images, Indexes},
};
use crate::model::{
    Comparison, Direction, Image, ImageFilter, ImageId, MemberStatus, SortKey, Status, Term, Visibility,
    VisibilityFilter,
};

/// The maximum number of rows that are read and sorted instead of being scanned in order.
const FEW: u64 = 500;
/// The maximum number of tags in a filter whose images are tried as a short list.
const MAX_TAG_LISTS: usize = 3;
/// The maximum number of names in a filter that are scanned as ranges of their own.
const MAX_NAMES: usize = 4;

/// The caller of a listing.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Viewer<'v> {
    /// The caller's project.
    pub(crate) project: Option<&'v str>,
    /// Whether the caller is an admin, who can list every image.
    pub(crate) is_admin: bool,
}

/// The position, order and length of a page.
#[derive(Debug)]
pub(crate) struct Page<'p> {
    /// The sort keys. Together they are unique for each image.
    pub(crate) sort: &'p [(SortKey, Direction)],
    /// The image after which the page starts.
    pub(crate) after: Option<&'p Image>,
    /// The maximum number of images.
    pub(crate) limit: u64,
}

/// Reads the ids of a page's images in the page's order. One statement; none if the caller can list nothing.
pub(crate) async fn list(
    s: &mut impl Session,
    viewer: &Viewer<'_>,
    filter: &ImageFilter,
    page: &Page<'_>,
) -> Result<Vec<String>> {
    let listing = Listing { viewer, filter, page };
    let Some(statement) = listing.statement(s) else { return Ok(Vec::new()) };
    let rows: Vec<Row> = s.all(statement).await?;
    Ok(rows.into_iter().map(|row| row.id).collect())
}

#[derive(sqlx::FromRow)]
struct Row {
    id: String,
}

/// Reads the image after which a page starts. The caller must be allowed to see the image, but it need not match the listing's
/// filters. For an admin, it may be deleted. One statement.
pub(crate) async fn marker(s: &mut impl Session, viewer: &Viewer<'_>, id: &ImageId) -> Result<Option<Image>> {
    let mut query = Query::select();
    query.columns(COLUMNS).from(Images::Table).and_where(Expr::col(Images::Id).eq(id.as_str()));
    if !viewer.is_admin {
        query.and_where(Expr::col(Images::Deleted).not());
        query.cond_where(
            Cond::any()
                .add(Expr::col(Images::Owner).is_null())
                .add(Expr::col(Images::Visibility).eq(Visibility::Public))
                .add(Expr::col(Images::Visibility).eq(Visibility::Community))
                .add_option(viewer.project.map(|project| s.exactly(Images::Owner, project)))
                .add_option(viewer.project.map(|project| {
                    let member = Sharing { project, membership: None }.has_image(s);
                    Cond::all().add(Expr::col(Images::Visibility).eq(Visibility::Shared)).add(member)
                })),
        );
    }
    let row: Option<Image> = s.optional(query).await?;
    // MySQL's collation is case-insensitive, but ids that differ in case are different ids.
    Ok(row.filter(|row| row.id == *id))
}

/// The images of one visibility, and optionally of one owner.
#[derive(Debug, Clone, Copy)]
struct Range<'r> {
    visibility: Visibility,
    owner: Option<&'r str>,
}

/// The images that are shared with a project.
#[derive(Debug, Clone, Copy)]
struct Sharing<'s> {
    project: &'s str,
    membership: Option<MemberStatus>,
}

struct Listing<'l> {
    viewer: &'l Viewer<'l>,
    filter: &'l ImageFilter,
    page: &'l Page<'l>,
}

impl<'l> Listing<'l> {
    /// Builds the statement; `None` if the caller can list nothing.
    fn statement(&self, s: &impl Session) -> Option<SelectStatement> {
        let mut parts = if self.is_narrow() { self.single_part(s) } else { self.range_parts(s) };
        if parts.len() < 2 {
            return parts.pop();
        }
        // Some engines accept a part with its own ORDER BY only as a derived table. The first part is one on every engine.
        let parts = parts.into_iter().enumerate().map(|(n, part)| {
            if n > 0 && s.orders_parts() {
                return part;
            }
            Query::select().column(Asterisk).from_subquery(part, Alias::new(format!("part{n}"))).take()
        });
        let mut union = super::union_all(parts)?;
        self.order_and_limit_by_alias(&mut union);
        Some(union)
    }

    /// Whether a filter matches so few images that all of them can be read and sorted.
    fn is_narrow(&self) -> bool {
        self.filter.terms.iter().any(|term| match term {
            Term::Id(_) | Term::Checksum(_) | Term::OsHashValue(_) => true,
            Term::Name(names) => names.len() > MAX_NAMES,
            _ => false,
        })
    }

    /// The ranges that the caller can list.
    fn ranges(&self) -> Vec<Range<'l>> {
        let project = self.viewer.project;
        let wanted: &[Visibility] = match &self.filter.visibility {
            VisibilityFilter::Default | VisibilityFilter::All => {
                &[Visibility::Public, Visibility::Community, Visibility::Shared, Visibility::Private]
            }
            VisibilityFilter::Only(visibility) => std::slice::from_ref(visibility),
            VisibilityFilter::None => &[],
        };
        let range = |visibility: &Visibility| {
            let any_owner = match visibility {
                Visibility::Public => true,
                Visibility::Community => self.filter.visibility != VisibilityFilter::Default,
                Visibility::Shared | Visibility::Private => self.viewer.is_admin,
            };
            let requested = self.filter.owner.as_deref();
            let owner = match (any_owner, requested) {
                (true, owner) => owner,
                (false, None) => Some(project?),
                (false, Some(owner)) => Some(owner).filter(|owner| Some(*owner) == project)?.into(),
            };
            Some(Range { visibility: *visibility, owner })
        };
        wanted.iter().filter_map(range).collect()
    }

    /// The images that other projects share with the caller's project, if the listing includes them.
    fn sharing(&self) -> Option<Sharing<'l>> {
        let wanted = matches!(
            self.filter.visibility,
            VisibilityFilter::Default | VisibilityFilter::All | VisibilityFilter::Only(Visibility::Shared)
        );
        let project = self.viewer.project.filter(|_| wanted && !self.viewer.is_admin)?;
        Some(Sharing { project, membership: self.filter.membership })
    }

    /// Builds a single part, which reads and sorts all images that match the filters.
    fn single_part(&self, s: &impl Session) -> Vec<SelectStatement> {
        if self.ranges().is_empty() && self.sharing().is_none() {
            return Vec::new();
        }
        let mut query = self.ids(s);
        query.from(Images::Table);
        self.restrict(s, &mut query, &self.filter.terms);
        query.cond_where(self.is_visible(s));
        self.order_and_limit(s, &mut query);
        vec![query]
    }

    /// Builds a part for each range, which is scanned in order, and a part for each list of images that may be short.
    fn range_parts(&self, s: &impl Session) -> Vec<SelectStatement> {
        let ranges = self.ranges();
        if ranges.is_empty() && self.sharing().is_none() {
            return Vec::new();
        }
        let mut parts = Vec::new();
        // True if none of the lists so far is short.
        let mut otherwise = Cond::all();
        let tags = self.filter.terms.iter().filter_map(|term| match term {
            Term::Tag(tag) => Some(tag),
            _ => None,
        });
        for tag in tags.take(MAX_TAG_LISTS) {
            let list = super::tags::images_with(s, tag);
            parts.push(self.list_part(s, &list, &otherwise.clone().add(is_short(&list)), self.is_visible(s)));
            otherwise = otherwise.add(is_short(&list).not());
        }
        for range in ranges {
            parts.extend(self.scan_range(s, range, &otherwise, &Cond::all()));
        }
        if let Some(sharing) = self.sharing() {
            let list = sharing.images(s);
            // The project's own images are in its own ranges.
            let has_no_owner = Expr::col(Images::Owner).is_null();
            let of_others = Cond::any().add(has_no_owner).add(s.exactly(Images::Owner, sharing.project).not());
            let wanted = Cond::all()
                .add(Expr::col(Images::Visibility).eq(Visibility::Shared))
                .add(of_others.clone())
                .add_option(self.filter.owner.as_ref().map(|owner| s.exactly(Images::Owner, owner)));
            parts.push(self.list_part(s, &list, &otherwise.clone().add(is_short(&list)), wanted));
            let range = Range { visibility: Visibility::Shared, owner: self.filter.owner.as_deref() };
            let members = Cond::all().add(of_others).add(sharing.has_image(s));
            parts.extend(self.scan_range(s, range, &otherwise.add(is_short(&list).not()), &members));
        }
        parts
    }

    /// Builds the part that scans a range in order if `gate` is true; one part for each name if the filter has names.
    fn scan_range(
        &self,
        s: &impl Session,
        range: Range<'_>,
        gate: &Condition,
        condition: &Condition,
    ) -> Vec<SelectStatement> {
        let names = self.filter.terms.iter().find_map(|term| match term {
            Term::Name(names) => Some(names),
            _ => None,
        });
        let scan = |name: Option<&String>| {
            let mut query = self.ids(s);
            query.from(Images::Table);
            // With a filter on `updated_at`, another index may be faster, so the engine chooses.
            if !self.filter.terms.iter().any(|term| matches!(term, Term::UpdatedAt(..))) {
                let index = match (range.owner, name) {
                    (None, None) => Indexes::Listed,
                    (Some(_), None) => Indexes::Owned,
                    (None, Some(_)) => Indexes::Named,
                    (Some(_), Some(_)) => Indexes::OwnedNamed,
                };
                query.force_index(index, IndexHintScope::All);
            }
            query
                .cond_where(s.gated(gate, Expr::col(Images::Visibility), range.visibility.into()))
                .and_where(Expr::col(Images::Deleted).eq(false))
                .and_where(Expr::col(Images::OsHidden).eq(self.filter.os_hidden));
            for (column, text) in [(Images::Owner, range.owner), (Images::Name, name.map(String::as_str))] {
                if let Some(text) = text {
                    query.cond_where(s.exactly(column, text));
                }
            }
            let terms = self.filter.terms.iter().filter(|term| !matches!(term, Term::Name(_)));
            self.add_filters(s, &mut query, terms);
            query.cond_where(condition.clone());
            self.order_and_limit(s, &mut query);
            query
        };
        match names {
            None => vec![scan(None)],
            Some(names) => names.iter().map(|name| scan(Some(name))).collect(),
        }
    }

    /// Builds the part that reads the images of a short list, without duplicates, and sorts those that match the condition, if
    /// `gate` is true. Every engine reads the list first: the list has a LIMIT, and SQLite keeps the order of a CROSS JOIN.
    fn list_part(
        &self,
        s: &impl Session,
        list: &SelectStatement,
        gate: &Condition,
        condition: Condition,
    ) -> SelectStatement {
        let few = Alias::new("few");
        let mut query = self.ids(s);
        query.from_subquery(list.clone().limit(FEW).take(), few.clone()).cross_join(Images::Table);
        let (id, listed) = (Expr::col((Images::Table, Images::Id)), Expr::col((few, ImageMembers::ImageId)));
        query.cond_where(s.gated(gate, id, listed));
        self.restrict(s, &mut query, &self.filter.terms);
        // This LIMIT removes no row. It hides the order from PostgreSQL, which would otherwise scan all images in order and
        // look up each in the list.
        query.cond_where(condition).limit(FEW);
        let mut sorted = Query::select().distinct().column(Asterisk).from_subquery(query, Alias::new("found")).take();
        self.order_and_limit_by_alias(&mut sorted);
        sorted
    }

    /// Adds the conditions on deleted and hidden images, and the filters. The conditions are written so that no index lookup
    /// can use them: lookups by other columns are more selective.
    fn restrict(&self, s: &impl Session, query: &mut SelectStatement, terms: &[Term]) {
        let hidden = Expr::col(Images::OsHidden);
        query.and_where(Expr::col(Images::Deleted).not());
        query.and_where(if self.filter.os_hidden { hidden.ne(false) } else { hidden.not() });
        self.add_filters(s, query, terms);
    }

    /// Adds the filters, and the position of the page.
    fn add_filters<'t>(
        &self,
        s: &impl Session,
        query: &mut SelectStatement,
        terms: impl IntoIterator<Item = &'t Term>,
    ) {
        query.and_where(Expr::col(Images::Status).ne(Status::Killed));
        for term in terms {
            query.cond_where(term.condition(s));
        }
        if let Some(marker) = self.page.after {
            query.cond_where(is_after(s, marker, self.page.sort));
        }
    }

    /// Condition: the caller can list the image.
    fn is_visible(&self, s: &impl Session) -> Condition {
        let mut any = Cond::any();
        for range in self.ranges() {
            let owner = range.owner.map(|owner| s.exactly(Images::Owner, owner));
            any = any.add(Cond::all().add(Expr::col(Images::Visibility).eq(range.visibility)).add_option(owner));
        }
        if let Some(sharing) = self.sharing() {
            let owner = self.filter.owner.as_deref().map(|owner| s.exactly(Images::Owner, owner));
            let shared = Cond::all().add(Expr::col(Images::Visibility).eq(Visibility::Shared)).add_option(owner);
            any = any.add(shared.add(sharing.has_image(s)));
        }
        any
    }

    /// Selects the ids and the sort keys. The caller adds the tables.
    fn ids(&self, s: &impl Session) -> SelectStatement {
        let mut query = Query::select().column(Images::Id).take();
        for (n, (key, _)) in self.page.sort.iter().enumerate() {
            query.expr_as(key.expr(s), sort_key_alias(n));
        }
        query
    }

    /// Adds the page's order and limit, by the columns of `images`.
    fn order_and_limit(&self, s: &impl Session, query: &mut SelectStatement) {
        for (key, direction) in self.page.sort {
            query.order_by_expr(key.expr(s), direction.order());
        }
        query.limit(self.page.limit);
    }

    /// Adds the page's order and limit, by the aliases that [`Listing::ids`] selects.
    fn order_and_limit_by_alias(&self, query: &mut SelectStatement) {
        for (n, (_, direction)) in self.page.sort.iter().enumerate() {
            query.order_by(sort_key_alias(n), direction.order());
        }
        query.limit(self.page.limit);
    }
}

fn sort_key_alias(n: usize) -> Alias {
    Alias::new(format!("key{n}"))
}

/// Condition: a list of images has at most [`FEW`] of them. Reads at most one row more than that.
fn is_short(list: &SelectStatement) -> Expr {
    let beyond = list.clone().clear_selects().expr(Expr::val(1)).limit(1).offset(FEW).take();
    Expr::SubQuery(None, Box::new(beyond.into())).is_null()
}

impl Sharing<'_> {
    /// Selects rows of members by all columns of the index `glimpse_image_members_shared` except the last one, the image's id.
    fn members(&self, s: &impl Session) -> SelectStatement {
        use ImageMembers as M;
        let statuses = match &self.membership {
            Some(membership) => std::slice::from_ref(membership),
            None => &[MemberStatus::Pending, MemberStatus::Accepted, MemberStatus::Rejected],
        };
        Query::select()
            .from(M::Table)
            .cond_where(s.exactly((M::Table, M::Member), self.project))
            .and_where(Expr::col((M::Table, M::Deleted)).eq(false))
            .and_where(Expr::col((M::Table, M::Status)).is_in(statuses.iter().copied()))
            .take()
    }

    /// Selects the ids of the shared images.
    fn images(&self, s: &impl Session) -> SelectStatement {
        self.members(s).column(ImageMembers::ImageId).take()
    }

    /// Condition of a listing: the image is shared with the project.
    fn has_image(&self, s: &impl Session) -> Expr {
        let image_id = Expr::col((ImageMembers::Table, ImageMembers::ImageId));
        let mut count = self.members(s);
        count.expr(Expr::col(Asterisk).count()).and_where(image_id.equals((Images::Table, Images::Id)));
        Expr::SubQuery(None, Box::new(count.into())).gt(0_i64)
    }
}

impl Term {
    fn condition(&self, s: &impl Session) -> Condition {
        let any = |column: Images, texts: &[String]| match texts {
            [] => Cond::all().add(Expr::val(1).eq(0)),
            texts => texts.iter().fold(Cond::any(), |any, text| any.add(s.exactly(column, text))),
        };
        match self {
            Self::Id(texts) => any(Images::Id, texts),
            Self::Name(texts) => any(Images::Name, texts),
            Self::Status(texts) => any(Images::Status, texts),
            Self::ContainerFormat(texts) => any(Images::ContainerFormat, texts),
            Self::DiskFormat(texts) => any(Images::DiskFormat, texts),
            Self::Checksum(text) => s.exactly(Images::Checksum, text),
            Self::OsHashAlgo(text) => s.exactly(Images::OsHashAlgo, text),
            Self::OsHashValue(text) => s.exactly(Images::OsHashValue, text),
            Self::Protected(protected) => Cond::all().add(Expr::col(Images::Protected).eq(*protected)),
            Self::Size(compare, bytes) => compare.condition(Images::Size, *bytes),
            Self::VirtualSize(compare, bytes) => compare.condition(Images::VirtualSize, *bytes),
            Self::MinRam(compare, mebibytes) => compare.condition(Images::MinRam, *mebibytes),
            Self::MinDisk(compare, gibibytes) => compare.condition(Images::MinDisk, *gibibytes),
            Self::CreatedAt(compare, time) => compare.condition(Images::CreatedAt, *time),
            Self::UpdatedAt(compare, time) => compare.condition(Images::UpdatedAt, *time),
            Self::Property(name, value) => Cond::all().add(super::properties::has(s, name, value)),
            Self::Tag(tag) => Cond::all().add(super::tags::has(s, tag)),
        }
    }
}

impl Comparison {
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
    /// The expression that the key sorts by. A nullable column gets a default, so that every engine sorts NULL in the same way.
    /// Other columns are used directly, so that their index can be used.
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

    /// An image's value of the key.
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

/// Condition: the row comes strictly after the marker. It is `(a, b) > (x, y)`, or `a >= x AND (a > x OR (a = x AND b < y) OR
/// …)`, whose first term allows an index lookup.
fn is_after(s: &impl Session, marker: &Image, sort: &[(SortKey, Direction)]) -> Condition {
    let compare = |left: Expr, right: Expr, direction: Direction| match direction {
        Direction::Asc => left.gt(right),
        Direction::Desc => left.lt(right),
    };
    let first = sort.first().map(|(_, direction)| *direction).unwrap_or(Direction::Desc);
    if s.seeks_rows() && sort.iter().all(|(_, direction)| *direction == first) {
        let keys = Expr::tuple(sort.iter().map(|(key, _)| key.expr(s)));
        return Cond::all().add(compare(keys, Expr::tuple(sort.iter().map(|(key, _)| key.value(marker))), first));
    }
    let bound = sort.first().map(|(key, direction)| match direction {
        Direction::Asc => key.expr(s).gte(key.value(marker)),
        Direction::Desc => key.expr(s).lte(key.value(marker)),
    });
    let beyond = (0..sort.len()).fold(Cond::any(), |any, n| {
        let (key, direction) = sort[n];
        let tie = sort[..n].iter().fold(Cond::all(), |all, (key, _)| all.add(key.expr(s).eq(key.value(marker))));
        any.add(tie.add(compare(key.expr(s), key.value(marker), direction)))
    });
    Cond::all().add_option(bound).add(beyond)
}
