//! `[task]`: records of work that continues after its request.

use super::group::group;

group! {
    /// `[task]`
    pub(crate) struct Task in "task" {
        /// The number of hours for which the record of a task is kept after its end.
        task_time_to_live: u32 = 48; was "DEFAULT" "task_time_to_live",
    }
}
