//! The revisions of Glance's schema, which its `alembic_version` records.
//!
//! A trunk of three revisions forks into two branches. Each release has an expansion and a contraction: a contraction needs the
//! previous contraction and the expansion of its own release. The table holds the heads: revisions of which no other one that was
//! applied depends. That is one row, or two between an expansion and its contraction.

use std::{fmt, time::Duration};

use sea_query::{Expr, ExprTrait as _, Query};
use sqlx::Executor as _;

use super::{Db, Error, Result, Session};

/// The table of the heads.
pub(super) const TABLE: &str = "alembic_version";

/// The revisions before the fork.
const TRUNK: [&str; 3] = ["liberty", "mitaka01", "mitaka02"];
/// The releases with an expansion and a contraction, and the numbers of both, oldest first.
const RELEASES: [(&str, &str); 13] = [
    ("ocata", "01"),
    ("pike", "01"),
    ("queens", "01"),
    ("rocky", "01"),
    ("rocky", "02"),
    ("train", "01"),
    ("ussuri", "01"),
    ("wallaby", "01"),
    ("xena", "01"),
    ("yoga", "01"),
    ("zed", "01"),
    ("2023_1", "01"),
    ("2024_1", "01"),
];
/// The last release whose contraction changes the schema.
const LAST_CONTRACTION: usize = 1;
/// The first release whose schema Glimpse knows: that of migration 1.
const WALLABY: usize = 7;
/// The newest release.
const NEWEST: usize = RELEASES.len() - 1;

/// The number of retries if another process changes the rows concurrently, and the pause before each.
const RETRIES: u32 = 10;
const PAUSE: Duration = Duration::from_millis(20);

/// alembic finds a revision by the beginning of its name, if that has at least so many characters.
const MIN_PREFIX: usize = 4;

/// A revision of Glance's schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Revision {
    /// A revision before the fork, by its position there.
    Trunk(usize),
    /// The expansion of a release, by the release's position.
    Expand(usize),
    /// The contraction of a release, by the release's position.
    Contract(usize),
}

/// The newest expansion.
pub(crate) const EXPAND_HEAD: Revision = Revision::Expand(NEWEST);
/// The newest contraction, which includes everything.
pub(crate) const CONTRACT_HEAD: Revision = Revision::Contract(NEWEST);

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (branch, position) = match self {
            Self::Trunk(position) => return f.write_str(TRUNK.get(*position).unwrap_or(&"")),
            Self::Expand(position) => ("expand", position),
            Self::Contract(position) => ("contract", position),
        };
        let (release, number) = RELEASES.get(*position).unwrap_or(&("", ""));
        write!(f, "{release}_{branch}{number}")
    }
}

impl Revision {
    fn all() -> impl Iterator<Item = Self> {
        let trunk = (0..TRUNK.len()).map(Self::Trunk);
        trunk.chain((0..RELEASES.len()).flat_map(|release| [Self::Expand(release), Self::Contract(release)]))
    }

    /// The revision of exactly this name.
    fn named(name: &str) -> Option<Self> {
        Self::all().find(|revision| revision.to_string() == name)
    }

    /// Finds a revision as alembic does: by its name, the beginning of its name, a branch, or `heads`. `None` stands for `base`, the
    /// state before the first revision.
    ///
    /// # Errors
    /// alembic's message, if there is no such revision, or several.
    pub(crate) fn find(text: &str) -> Result<Option<Self>> {
        let unknown = || Error::Schema(format!("Can't locate revision identified by '{text}'"));
        match text {
            "heads" | "contract@head" | "contract@heads" | "ocata01@head" | "ocata01@heads" => {
                return Ok(Some(CONTRACT_HEAD));
            }
            "expand@head" | "expand@heads" => return Ok(Some(EXPAND_HEAD)),
            "head" => {
                let message = "Multiple head revisions are present for given argument 'head'; please specify a specific \
                               target revision, '<branchname>@head' to narrow to a specific head, or 'heads' for all heads";
                return Err(Error::Schema(message.to_owned()));
            }
            "base" => return Ok(None),
            "expand" => return Ok(Some(Self::Expand(0))),
            "contract" | "ocata01" => return Ok(Some(Self::Contract(0))),
            _ => {}
        }
        if let Some(revision) = Self::named(text) {
            return Ok(Some(revision));
        }
        if text.len() < MIN_PREFIX {
            return Err(unknown());
        }
        let mut matching = Self::all().filter(|revision| revision.to_string().starts_with(text));
        match (matching.next(), matching.next()) {
            (Some(revision), None) => Ok(Some(revision)),
            _ => Err(unknown()),
        }
    }

    /// Whether a schema at `later` includes this revision.
    fn is_part_of(self, later: Self) -> bool {
        match (self, later) {
            (Self::Trunk(a), Self::Trunk(b))
            | (Self::Expand(a), Self::Expand(b) | Self::Contract(b))
            | (Self::Contract(a), Self::Contract(b)) => a <= b,
            (Self::Trunk(_), Self::Expand(_) | Self::Contract(_)) => true,
            (Self::Expand(_) | Self::Contract(_), _) => false,
        }
    }

    /// The last migration of Glimpse that creates tables of this revision, 1 or 2. `None` if it is older than all of them.
    pub(super) fn migration(self) -> Option<i64> {
        match self {
            Self::Expand(NEWEST) | Self::Contract(NEWEST) => Some(2),
            Self::Expand(release) | Self::Contract(release) if release >= WALLABY => Some(1),
            Self::Trunk(_) | Self::Expand(_) | Self::Contract(_) => None,
        }
    }
}

/// The rows of `alembic_version`, in the order in which the database returns them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Heads(Vec<String>);

/// Glance joins the revisions in this way.
impl fmt::Display for Heads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(", "))
    }
}

impl Heads {
    pub(super) fn new(rows: Vec<String>) -> Self {
        Self(rows)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The rows as texts.
    pub(crate) fn rows(&self) -> &[String] {
        &self.0
    }

    /// Whether one of the rows is this revision.
    pub(crate) fn contains(&self, revision: Revision) -> bool {
        self.0.contains(&revision.to_string())
    }

    /// The rows as revisions.
    ///
    /// # Errors
    /// alembic's message about the first row that is unknown.
    pub(crate) fn revisions(&self) -> Result<Vec<Revision>> {
        let revision = |row: &String| {
            Revision::named(row).ok_or_else(|| Error::Schema(format!("Can't locate revision identified by '{row}'")))
        };
        self.0.iter().map(revision).collect()
    }

    /// Whether a schema with these heads includes the revision.
    ///
    /// # Errors
    /// A row is unknown.
    pub(super) fn include(&self, revision: Revision) -> Result<bool> {
        Ok(self.revisions()?.into_iter().any(|head| revision.is_part_of(head)))
    }

    /// The last migration of Glimpse that need not run on a database at these heads. `None` if Glimpse does not know the schema,
    /// because a row is unknown or too old, or because contractions that change the schema are missing.
    pub(super) fn amounts_to(&self) -> Option<i64> {
        let heads = self.revisions().ok()?;
        let is_contracted = |head: &Revision| Revision::Contract(LAST_CONTRACTION).is_part_of(*head);
        if !heads.iter().any(is_contracted) || heads.iter().any(|head| matches!(head, Revision::Trunk(_))) {
            return None;
        }
        heads.into_iter().filter_map(Revision::migration).max()
    }

    /// The heads after an upgrade to a revision.
    fn upgraded(&self, target: Revision) -> Result<Self> {
        if self.include(target)? { Ok(self.clone()) } else { self.replaced(target, |head| head.is_part_of(target)) }
    }

    /// The heads after this revision is recorded without running anything. As in alembic, the heads of which the revision is a part
    /// are removed, too.
    fn stamped(&self, target: Option<Revision>) -> Result<Self> {
        match target {
            None => Ok(Self::default()),
            Some(target) => self.replaced(target, |head| head.is_part_of(target) || target.is_part_of(head)),
        }
    }

    fn replaced(&self, new: Revision, is_replaced: impl Fn(Revision) -> bool) -> Result<Self> {
        let kept = self.revisions()?.into_iter().filter(|head| !is_replaced(*head));
        Ok(Self(kept.chain([new]).map(|head| head.to_string()).collect()))
    }
}

#[derive(Debug, Clone, Copy, sea_query::Iden)]
enum AlembicVersion {
    Table,
    VersionNum,
}

/// Reads the heads. The table must exist.
pub(super) async fn heads(s: &mut impl Session) -> Result<Heads> {
    let rows = Query::select().column(AlembicVersion::VersionNum).from(AlembicVersion::Table).take();
    let rows: Vec<(String,)> = s.all(rows).await?;
    Ok(Heads::new(rows.into_iter().map(|(row,)| row).collect()))
}

/// Replaces the rows as alembic does: in place where it can, because Glance prints them in the order of the table.
async fn write(s: &mut impl Session, before: &Heads, after: &Heads) -> Result<()> {
    use AlembicVersion as A;
    let mut removed = before.0.iter().filter(|row| !after.0.contains(row));
    for row in after.0.iter().filter(|row| !before.0.contains(row)) {
        match removed.next() {
            Some(old) => {
                let update = Query::update()
                    .table(A::Table)
                    .value(A::VersionNum, row)
                    .and_where(Expr::col(A::VersionNum).eq(old))
                    .take();
                s.execute(update).await?;
            }
            None => {
                let insert =
                    Query::insert().into_table(A::Table).columns([A::VersionNum]).values_panic([row.into()]).take();
                s.execute(insert).await?;
            }
        }
    }
    for old in removed {
        let delete = Query::delete().from_table(A::Table).and_where(Expr::col(A::VersionNum).eq(old)).take();
        s.execute(delete).await?;
    }
    Ok(())
}

impl Db {
    /// Records that the schema includes a revision. Returns whether it was not recorded before. The table must exist.
    ///
    /// # Errors
    /// A row of the table is unknown.
    pub(super) async fn record(&self, revision: Revision) -> Result<bool> {
        self.change_heads(|heads| heads.upgraded(revision)).await
    }

    /// Records a revision without running anything. The table must exist.
    ///
    /// # Errors
    /// A row of the table is unknown.
    pub(super) async fn stamp(&self, revision: Option<Revision>) -> Result<bool> {
        self.change_heads(|heads| heads.stamped(revision)).await
    }

    /// Creates the table, as alembic does.
    pub(super) async fn create_heads(&self) -> Result<()> {
        let sql = "CREATE TABLE IF NOT EXISTS alembic_version \
                   (version_num VARCHAR(32) NOT NULL, CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num))";
        match self {
            Self::Sqlite { write, .. } => write.acquire().await?.connection()?.execute(sql).await.map(drop)?,
            Self::Postgres(pool) => pool.acquire().await?.connection()?.execute(sql).await.map(drop)?,
            Self::MySql(pool) => pool.acquire().await?.connection()?.execute(sql).await.map(drop)?,
        }
        Ok(())
    }

    async fn change_heads(&self, change: impl Fn(&Heads) -> Result<Heads>) -> Result<bool> {
        let mut retries = RETRIES;
        loop {
            match self.try_to_change_heads(&change).await {
                // Another process changes the rows concurrently, or has inserted the same one.
                Err(Error::Duplicate | Error::Conflict(_)) if retries > 0 => {
                    retries -= 1;
                    tokio::time::sleep(PAUSE).await;
                }
                done => return done,
            }
        }
    }

    async fn try_to_change_heads(&self, change: impl Fn(&Heads) -> Result<Heads>) -> Result<bool> {
        let mut tx = self.begin().await?;
        let before = heads(&mut tx).await?;
        let after = change(&before)?;
        write(&mut tx, &before, &after).await?;
        tx.commit().await?;
        Ok(before != after)
    }
}

#[cfg(test)]
mod tests {
    use super::{Heads, Revision};

    fn heads(rows: &[&str]) -> Heads {
        Heads::new(rows.iter().map(|row| (*row).to_owned()).collect())
    }

    #[test]
    fn the_revisions_of_glance_map_to_the_last_migration_that_need_not_run() {
        for (rows, migration) in [
            (&["2024_1_contract01"][..], Some(2)),
            (&["2024_1_expand01", "2023_1_contract01"], Some(2)),
            (&["zed_contract01"], Some(1)),
            (&["wallaby_expand01", "ussuri_contract01"], Some(1)),
            (&["pike_contract01", "zed_expand01"], Some(1)),
            (&["ussuri_contract01"], None),
            // The contractions of Ocata and Pike change the schema.
            (&["2024_1_expand01"], None),
            (&["ocata_contract01", "2024_1_expand01"], None),
            (&["2099_1_expand01"], None),
            (&["2024_1_contract01", "liberty"], None),
            (&[], None),
        ] {
            assert_eq!(heads(rows).amounts_to(), migration, "{rows:?}");
        }
    }

    #[test]
    fn revisions_are_found_by_their_name_its_beginning_and_their_branch() {
        for (text, found) in [
            ("heads", Some("2024_1_contract01")),
            ("expand@head", Some("2024_1_expand01")),
            ("ocata01", Some("ocata_contract01")),
            ("rocky_expand02", Some("rocky_expand02")),
            ("mitaka02", Some("mitaka02")),
            ("zed_e", Some("zed_expand01")),
            ("2024_1_c", Some("2024_1_contract01")),
            ("base", None),
        ] {
            assert_eq!(Revision::find(text).unwrap().map(|revision| revision.to_string()).as_deref(), found, "{text}");
        }
        for text in ["head", "2024", "zed", "nosuch", "", "+1", "zed_expand01:2024_1_expand01"] {
            assert!(Revision::find(text).is_err(), "{text}");
        }
    }

    /// The expected rows are those of alembic.
    #[test]
    fn upgrades_and_stamps_change_the_heads_as_alembic_does() {
        let rows = |heads: Heads| heads.rows().join(" ");
        for (before, target, upgraded, stamped) in [
            (&[][..], "2024_1_expand01", "2024_1_expand01", "2024_1_expand01"),
            (
                &["zed_contract01"],
                "2024_1_expand01",
                "zed_contract01 2024_1_expand01",
                "zed_contract01 2024_1_expand01",
            ),
            (&["zed_contract01"], "heads", "2024_1_contract01", "2024_1_contract01"),
            (&["zed_contract01"], "liberty", "zed_contract01", "liberty"),
            (&["zed_contract01", "2024_1_expand01"], "2024_1_contract01", "2024_1_contract01", "2024_1_contract01"),
            (
                &["zed_contract01", "2024_1_expand01"],
                "yoga_contract01",
                "zed_contract01 2024_1_expand01",
                "2024_1_expand01 yoga_contract01",
            ),
            (
                &["train_contract01"],
                "yoga_expand01",
                "train_contract01 yoga_expand01",
                "train_contract01 yoga_expand01",
            ),
            (&["2024_1_contract01"], "2024_1_expand01", "2024_1_contract01", "2024_1_expand01"),
            (&["mitaka02"], "2024_1_expand01", "2024_1_expand01", "2024_1_expand01"),
        ] {
            let before = heads(before);
            let target = Revision::find(target).unwrap().unwrap();
            assert_eq!(rows(before.upgraded(target).unwrap()), upgraded, "{before} to {target}");
            assert_eq!(rows(before.stamped(Some(target)).unwrap()), stamped, "{before} to {target}");
        }
        assert!(heads(&["2099_1_contract01"]).upgraded(Revision::Trunk(0)).is_err());
    }
}
