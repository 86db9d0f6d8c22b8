//! The order of a listing, and the rows after a marker.

use sea_query::{Cond, Condition, Expr, ExprTrait, Order, SelectStatement};

use crate::model::Direction;

/// A sort key, and its value in the marker's row.
pub(super) struct Key {
    /// The key. It is never NULL, because engines differ in where they sort that.
    pub(super) expr: Expr,
    /// Its value in the marker's row.
    pub(super) marker: Option<Expr>,
}

/// Sorts by the keys, all in one direction, and starts after the marker if there is one.
pub(super) fn sort(query: &mut SelectStatement, keys: &[Key], direction: Direction) {
    let order = if direction == Direction::Asc { Order::Asc } else { Order::Desc };
    for key in keys {
        query.order_by_expr(key.expr.clone(), order.clone());
    }
    if let Some(condition) = after(keys, direction) {
        query.cond_where(condition);
    }
}

fn after(keys: &[Key], direction: Direction) -> Option<Condition> {
    let mut any = Cond::any();
    for (n, key) in keys.iter().enumerate() {
        let (expr, marker) = (key.expr.clone(), key.marker.clone()?);
        let beyond = if direction == Direction::Asc { expr.gt(marker) } else { expr.lt(marker) };
        let ties = keys[..n].iter().filter_map(|tie| Some(tie.expr.clone().eq(tie.marker.clone()?)));
        any = any.add(ties.fold(Cond::all(), |all, tie| all.add(tie)).add(beyond));
    }
    Some(any)
}
