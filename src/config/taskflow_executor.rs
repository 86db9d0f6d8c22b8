//! `[taskflow_executor]`: imports that run at the same time.

use super::group::group;

group! {
    /// `[taskflow_executor]`
    pub(crate) struct TaskflowExecutor in "taskflow_executor" {
        /// The maximum number of imports that run in this process at the same time.
        max_workers: u32 = 10 => 1..,
    }
}
