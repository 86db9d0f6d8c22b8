//! A page of a listing: the ids of its images, in one statement that reads little more than the page, whatever else there is.
//!
//! Images that share a visibility, and maybe an owner and a name, are a range of one of our indexes, in the order of their
//! creation. What somebody may list is a handful of such ranges. A page is read from the start of each of them and merged: one
//! condition with ORs would have the engine sort everything that is listed. Ids and what they are sorted by are all that is merged:
//! rows of images are wide, and engines copy what they merge.
//!
//! A tag, and the images that are shared with a project, have no such order. Of few of them, all are read and sorted. Where
//! they are more than [`FEW`], the ranges are walked in order and each image is looked at. The statement holds both ways,
//! and whether there is a row beyond `FEW` shuts one of them before it starts: what an engine's statistics say does not matter.

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

/// Rows that are read and sorted without a second thought.
const FEW: u64 = 500;
/// Tags of one filter that are tried as the one that few images have.
const MAX_STARTS: usize = 3;
/// Names of one filter that are ranges of their own.
const MAX_NAMES: usize = 4;

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

/// Reads the ids of a page's images, in its order. One statement.
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

/// Reads the image after which a page starts: one that the viewer may know of, be it in the listing or not. For an admin it may
/// be deleted. One statement.
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
    // MySQL's collation takes `A` for `a`; an id that differs is another id.
    Ok(row.filter(|row| row.id == *id))
}

/// Images of one visibility, and maybe of one owner.
#[derive(Debug, Clone, Copy)]
struct Range<'r> {
    visibility: Visibility,
    owner: Option<&'r str>,
}

/// What is shared with a project.
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
    /// `None` where nothing can be listed.
    fn statement(&self, s: &impl Session) -> Option<SelectStatement> {
        let mut parts = if self.is_narrow() { self.all_at_once(s) } else { self.in_parts(s) };
        if parts.len() < 2 {
            return parts.pop();
        }
        // Where a part of a union has an order of its own, it is a table of it; the first one on every engine.
        let parts = parts.into_iter().enumerate().map(|(n, part)| {
            if n > 0 && s.orders_parts() {
                return part;
            }
            Query::select().column(Asterisk).from_subquery(part, Alias::new(format!("part{n}"))).take()
        });
        let mut union = super::union_all(parts)?;
        self.cut_by_name(&mut union);
        Some(union)
    }

    /// Whether a term names so few images that they may be read and sorted.
    fn is_narrow(&self) -> bool {
        self.filter.terms.iter().any(|term| match term {
            Term::Id(_) | Term::Checksum(_) | Term::OsHashValue(_) => true,
            Term::Name(names) => names.len() > MAX_NAMES,
            _ => false,
        })
    }

    /// The ranges that the viewer may list.
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
            let of_everybody = match visibility {
                Visibility::Public => true,
                Visibility::Community => self.filter.visibility != VisibilityFilter::Default,
                Visibility::Shared | Visibility::Private => self.viewer.is_admin,
            };
            let asked_for = self.filter.owner.as_deref();
            let owner = match (of_everybody, asked_for) {
                (true, owner) => owner,
                (false, None) => Some(project?),
                (false, Some(owner)) => Some(owner).filter(|owner| Some(*owner) == project)?.into(),
            };
            Some(Range { visibility: *visibility, owner })
        };
        wanted.iter().filter_map(range).collect()
    }

    /// What is shared with the viewer's project by others.
    fn sharing(&self) -> Option<Sharing<'l>> {
        let wanted = matches!(
            self.filter.visibility,
            VisibilityFilter::Default | VisibilityFilter::All | VisibilityFilter::Only(Visibility::Shared)
        );
        let project = self.viewer.project.filter(|_| wanted && !self.viewer.is_admin)?;
        Some(Sharing { project, membership: self.filter.membership })
    }

    /// One part, which reads and sorts everything that the terms leave.
    fn all_at_once(&self, s: &impl Session) -> Vec<SelectStatement> {
        if self.ranges().is_empty() && self.sharing().is_none() {
            return Vec::new();
        }
        let mut query = self.ids(s);
        query.from(Images::Table);
        self.restrict(s, &mut query, &self.filter.terms);
        query.cond_where(self.visible(s));
        self.cut(s, &mut query);
        vec![query]
    }

    /// A part for each range, each in order, and for each list of images that may be short.
    fn in_parts(&self, s: &impl Session) -> Vec<SelectStatement> {
        let ranges = self.ranges();
        if ranges.is_empty() && self.sharing().is_none() {
            return Vec::new();
        }
        let mut parts = Vec::new();
        // Holds where none of the lists so far was short.
        let mut otherwise = Cond::all();
        let tags = self.filter.terms.iter().filter_map(|term| match term {
            Term::Tag(tag) => Some(tag),
            _ => None,
        });
        for tag in tags.take(MAX_STARTS) {
            let list = super::tags::images_with(s, tag);
            parts.push(self.those_of(s, &list, &otherwise.clone().add(is_short(&list)), self.visible(s)));
            otherwise = otherwise.add(is_short(&list).not());
        }
        for range in ranges {
            parts.extend(self.walks(s, range, &otherwise, &Cond::all()));
        }
        if let Some(sharing) = self.sharing() {
            let list = sharing.images(s);
            // Those that the project has itself are in its own ranges.
            let has_none = Expr::col(Images::Owner).is_null();
            let of_others = Cond::any().add(has_none).add(s.exactly(Images::Owner, sharing.project).not());
            let wanted = Cond::all()
                .add(Expr::col(Images::Visibility).eq(Visibility::Shared))
                .add(of_others.clone())
                .add_option(self.filter.owner.as_ref().map(|owner| s.exactly(Images::Owner, owner)));
            parts.push(self.those_of(s, &list, &otherwise.clone().add(is_short(&list)), wanted));
            let range = Range { visibility: Visibility::Shared, owner: self.filter.owner.as_deref() };
            let members = Cond::all().add(of_others).add(sharing.has_image(s));
            parts.extend(self.walks(s, range, &otherwise.add(is_short(&list).not()), &members));
        }
        parts
    }

    /// Reads a range in order, if `gate` holds; one part for each name, where the filter has names.
    fn walks(
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
        let walk = |name: Option<&String>| {
            let mut query = self.ids(s);
            query.from(Images::Table);
            // One that was changed lately may be found faster by that.
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
            self.narrow(s, &mut query, terms);
            query.cond_where(condition.clone());
            self.cut(s, &mut query);
            query
        };
        match names {
            None => vec![walk(None)],
            Some(names) => names.iter().map(|name| walk(Some(name))).collect(),
        }
    }

    /// Reads those images of a short list for which the condition holds, each once, and sorts them, if `gate` holds. The list
    /// comes first on every engine: it is bounded, and SQLite keeps the order of a CROSS JOIN.
    fn those_of(
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
        // A bound that is none: PostgreSQL would walk all images in order, looking for each in the list, if it saw the order.
        query.cond_where(condition).limit(FEW);
        let mut sorted = Query::select().distinct().column(Asterisk).from_subquery(query, Alias::new("found")).take();
        self.cut_by_name(&mut sorted);
        sorted
    }

    /// What is neither deleted nor filtered out. Not in the form that an index is looked up by: others are better.
    fn restrict(&self, s: &impl Session, query: &mut SelectStatement, terms: &[Term]) {
        let hidden = Expr::col(Images::OsHidden);
        query.and_where(Expr::col(Images::Deleted).not());
        query.and_where(if self.filter.os_hidden { hidden.ne(false) } else { hidden.not() });
        self.narrow(s, query, terms);
    }

    fn narrow<'t>(&self, s: &impl Session, query: &mut SelectStatement, terms: impl IntoIterator<Item = &'t Term>) {
        query.and_where(Expr::col(Images::Status).ne(Status::Killed));
        for term in terms {
            query.cond_where(term.condition(s));
        }
        if let Some(marker) = self.page.after {
            query.cond_where(after(s, marker, self.page.sort));
        }
    }

    /// What the viewer may list, as one condition.
    fn visible(&self, s: &impl Session) -> Condition {
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

    /// Ids, and what they are sorted by, of no table yet.
    fn ids(&self, s: &impl Session) -> SelectStatement {
        let mut query = Query::select().column(Images::Id).take();
        for (n, (key, _)) in self.page.sort.iter().enumerate() {
            query.expr_as(key.expr(s), name_of_key(n));
        }
        query
    }

    /// The page's order and length, by the columns of a table.
    fn cut(&self, s: &impl Session, query: &mut SelectStatement) {
        for (key, direction) in self.page.sort {
            query.order_by_expr(key.expr(s), direction.order());
        }
        query.limit(self.page.limit);
    }

    /// The page's order and length, by the columns of [`Listing::ids`].
    fn cut_by_name(&self, query: &mut SelectStatement) {
        for (n, (_, direction)) in self.page.sort.iter().enumerate() {
            query.order_by(name_of_key(n), direction.order());
        }
        query.limit(self.page.limit);
    }
}

fn name_of_key(n: usize) -> Alias {
    Alias::new(format!("key{n}"))
}

/// Whether a list of images has [`FEW`] of them at the most. Reads one more than that at the most.
fn is_short(list: &SelectStatement) -> Expr {
    let beyond = list.clone().clear_selects().expr(Expr::val(1)).limit(1).offset(FEW).take();
    Expr::SubQuery(None, Box::new(beyond.into())).is_null()
}

impl Sharing<'_> {
    /// Rows of members, by every column of the index `glimpse_image_members_shared` but the last one, which is the image's id.
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

    /// The ids of the images.
    fn images(&self, s: &impl Session) -> SelectStatement {
        self.members(s).column(ImageMembers::ImageId).take()
    }

    /// Condition of a listing: the image is among them.
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

/// Rows strictly after the marker: `(a, b) > (x, y)`, or `a >= x AND (a > x OR (a = x AND b < y) OR …)`, of which the first bound
/// is what an index is looked up by.
fn after(s: &impl Session, marker: &Image, sort: &[(SortKey, Direction)]) -> Condition {
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
