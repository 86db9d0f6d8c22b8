//! The `tasks` and `task_info` tables, which are Glance's.

use chrono::{DateTime, NaiveDateTime};
use sea_query::{Cond, Condition, Expr, ExprTrait, Func, Order, Query, SelectStatement, UpdateStatement};

use super::{
    Result, Session, Tx,
    tables::{TaskInfo as I, Tasks as T},
};
use crate::model::{Direction, Task, TaskKey, TaskStatus};

/// What a listing selects.
pub(crate) struct TaskListing<'l> {
    /// The project whose tasks are listed; every project's if there is none.
    pub(crate) owner: Option<&'l str>,
    /// Columns and the values that they must have.
    pub(crate) filters: &'l [(TaskKey, String)],
    /// The sort key. Tasks with the same value are sorted by time and id.
    pub(crate) key: TaskKey,
    /// The direction of all keys.
    pub(crate) direction: Direction,
    /// The task after which the page starts.
    pub(crate) marker: Option<&'l Task>,
    /// The maximum number of tasks.
    pub(crate) limit: u64,
    /// The current time: tasks that have expired are left out.
    pub(crate) now: NaiveDateTime,
}

/// The condition that a task is neither deleted nor expired.
fn is_current(now: NaiveDateTime) -> Condition {
    let expires = || Expr::col((T::Table, T::ExpiresAt));
    Cond::all()
        .add(super::is_live((T::Table, T::Deleted)))
        .add(Cond::any().add(expires().is_null()).add(expires().gt(now)))
}

fn select(now: NaiveDateTime) -> SelectStatement {
    let columns = [
        T::Id,
        T::Type,
        T::Status,
        T::Owner,
        T::ExpiresAt,
        T::ImageId,
        T::RequestId,
        T::UserId,
        T::CreatedAt,
        T::UpdatedAt,
    ];
    Query::select()
        .columns(columns.map(|column| (T::Table, column)))
        .columns([I::Input, I::Result, I::Message].map(|column| (I::Table, column)))
        .from(T::Table)
        .left_join(I::Table, Expr::col((I::Table, I::TaskId)).equals((T::Table, T::Id)))
        .cond_where(is_current(now))
        .take()
}

/// Reads a task. One statement, through the primary key.
pub(crate) async fn get(s: &mut impl Session, id: &str, now: NaiveDateTime) -> Result<Option<Task>> {
    let query = select(now).and_where(Expr::col((T::Table, T::Id)).eq(id)).take();
    let task: Option<Task> = s.optional(query).await?;
    Ok(task.filter(|task| task.id == id))
}

/// Reads the tasks of an image, in the order of their creation. One statement, through the index on `image_id`.
pub(crate) async fn of_image(s: &mut impl Session, image_id: &str, now: NaiveDateTime) -> Result<Vec<Task>> {
    let query = select(now)
        .and_where(Expr::col((T::Table, T::ImageId)).eq(image_id))
        .order_by((T::Table, T::CreatedAt), Order::Asc)
        .order_by((T::Table, T::Id), Order::Asc)
        .take();
    s.all(query).await
}

/// Reads a page of tasks. One statement, through the index on `owner` if an owner is given.
pub(crate) async fn list(s: &mut impl Session, listing: &TaskListing<'_>) -> Result<Vec<Task>> {
    let mut query = select(listing.now);
    if let Some(owner) = listing.owner {
        query.cond_where(s.exactly((T::Table, T::Owner), owner));
    }
    for (key, value) in listing.filters {
        query.cond_where(s.exactly((T::Table, column(*key)), value));
    }
    let keys = [listing.key, TaskKey::CreatedAt, TaskKey::Id];
    if let Some(marker) = listing.marker {
        let mut after = Cond::any();
        let mut equal = Cond::all();
        for key in keys {
            let (here, there) = (sortable(s, key), value(marker, key));
            let is_after = match listing.direction {
                Direction::Asc => here.clone().gt(there.clone()),
                Direction::Desc => here.clone().lt(there.clone()),
            };
            after = after.add(equal.clone().add(is_after));
            equal = equal.add(here.eq(there));
        }
        query.cond_where(after);
    }
    for key in keys {
        let order = match listing.direction {
            Direction::Asc => Order::Asc,
            Direction::Desc => Order::Desc,
        };
        query.order_by_expr(sortable(s, key), order);
    }
    s.all(query.limit(listing.limit).take()).await
}

fn column(key: TaskKey) -> T {
    match key {
        TaskKey::Id => T::Id,
        TaskKey::Kind => T::Type,
        TaskKey::Status => T::Status,
        TaskKey::Owner => T::Owner,
        TaskKey::ImageId => T::ImageId,
        TaskKey::RequestId => T::RequestId,
        TaskKey::UserId => T::UserId,
        TaskKey::CreatedAt => T::CreatedAt,
        TaskKey::UpdatedAt => T::UpdatedAt,
        TaskKey::ExpiresAt => T::ExpiresAt,
    }
}

/// The value of a column for sorting: without a value, the empty string or the earliest time, so that engines agree.
fn sortable(s: &impl Session, key: TaskKey) -> Expr {
    let here = Expr::col((T::Table, column(key)));
    match key {
        TaskKey::CreatedAt => here,
        TaskKey::UpdatedAt | TaskKey::ExpiresAt => Func::coalesce([here, Expr::val(earliest())]).into(),
        _ => s.bytewise(Func::coalesce([here, Expr::val("")]).into()),
    }
}

/// A marker's value of [`sortable`].
fn value(task: &Task, key: TaskKey) -> Expr {
    let text = |text: &Option<String>| Expr::val(text.clone().unwrap_or_default());
    match key {
        TaskKey::Id => Expr::val(task.id.clone()),
        TaskKey::Kind => Expr::val(task.kind.clone()),
        TaskKey::Status => Expr::val(task.status.as_str()),
        TaskKey::Owner => Expr::val(task.owner.clone()),
        TaskKey::ImageId => text(&task.image_id),
        TaskKey::RequestId => text(&task.request_id),
        TaskKey::UserId => text(&task.user_id),
        TaskKey::CreatedAt => Expr::val(task.created_at),
        TaskKey::UpdatedAt => Expr::val(task.updated_at.unwrap_or_else(earliest)),
        TaskKey::ExpiresAt => Expr::val(task.expires_at.unwrap_or_else(earliest)),
    }
}

fn earliest() -> NaiveDateTime {
    DateTime::UNIX_EPOCH.naive_utc()
}

/// Marks tasks as deleted that have expired. Returns their number. One statement.
pub(crate) async fn expire(tx: &mut Tx, now: NaiveDateTime) -> Result<u64> {
    let update = Query::update()
        .table(T::Table)
        .value(T::Deleted, true)
        .value(T::DeletedAt, now)
        .and_where(super::is_live(T::Deleted))
        .and_where(Expr::col(T::ExpiresAt).lte(now))
        .take();
    tx.execute(update).await
}

/// Adds a task. Two statements.
pub(crate) async fn insert(tx: &mut Tx, task: &Task) -> Result<()> {
    let columns = [
        T::Id,
        T::Type,
        T::Status,
        T::Owner,
        T::ExpiresAt,
        T::ImageId,
        T::RequestId,
        T::UserId,
        T::CreatedAt,
        T::UpdatedAt,
        T::Deleted,
    ];
    let values: [Expr; 11] = [
        task.id.as_str().into(),
        task.kind.as_str().into(),
        task.status.into(),
        task.owner.as_str().into(),
        task.expires_at.into(),
        task.image_id.clone().into(),
        task.request_id.clone().into(),
        task.user_id.clone().into(),
        task.created_at.into(),
        task.updated_at.into(),
        false.into(),
    ];
    tx.execute(Query::insert().into_table(T::Table).columns(columns).values_panic(values).take()).await?;
    let values: [Expr; 4] =
        [task.id.as_str().into(), task.input.clone().into(), task.result.clone().into(), task.message.clone().into()];
    let columns = [I::TaskId, I::Input, I::Result, I::Message];
    tx.execute(Query::insert().into_table(I::Table).columns(columns).values_panic(values).take()).await.map(drop)
}

/// Moves a task from `pending` to `processing`. One statement.
pub(crate) async fn begin(tx: &mut Tx, id: &str, now: NaiveDateTime) -> Result<()> {
    let update = transition(id, &[TaskStatus::Pending], TaskStatus::Processing, now);
    tx.execute(update).await.map(drop)
}

/// Records the progress of a task. Two statements.
pub(crate) async fn set_message(tx: &mut Tx, id: &str, message: &str, now: NaiveDateTime) -> Result<()> {
    tx.execute(transition(id, &[TaskStatus::Processing], TaskStatus::Processing, now)).await?;
    tx.execute(info(id).value(I::Message, message).take()).await.map(drop)
}

/// Ends a task that succeeded, with its result as JSON. Two statements.
pub(crate) async fn succeed(
    tx: &mut Tx,
    id: &str,
    result: &str,
    now: NaiveDateTime,
    expiry: NaiveDateTime,
) -> Result<()> {
    let update = transition(id, &[TaskStatus::Processing], TaskStatus::Success, now).value(T::ExpiresAt, expiry).take();
    tx.execute(update).await?;
    tx.execute(info(id).value(I::Result, result).take()).await.map(drop)
}

/// Ends a task that failed, unless it has ended. At most two statements.
pub(crate) async fn fail(
    tx: &mut Tx,
    id: &str,
    message: &str,
    now: NaiveDateTime,
    expiry: NaiveDateTime,
) -> Result<()> {
    let from = [TaskStatus::Pending, TaskStatus::Processing];
    let update = transition(id, &from, TaskStatus::Failure, now).value(T::ExpiresAt, expiry).take();
    if tx.execute(update).await? == 1 {
        tx.execute(info(id).value(I::Message, message).take()).await?;
    }
    Ok(())
}

fn transition(id: &str, from: &[TaskStatus], to: TaskStatus, now: NaiveDateTime) -> UpdateStatement {
    Query::update()
        .table(T::Table)
        .value(T::Status, to)
        .value(T::UpdatedAt, now)
        .and_where(Expr::col(T::Id).eq(id))
        .and_where(Expr::col(T::Status).is_in(from.iter().copied()))
        .take()
}

fn info(id: &str) -> UpdateStatement {
    Query::update().table(I::Table).and_where(Expr::col(I::TaskId).eq(id)).take()
}
