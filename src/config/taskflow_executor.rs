//! `[taskflow_executor]`: imports that run at the same time, and tasks of the type `import`.

use super::{group::group, image_conversion::OutputFormat};

group! {
    /// `[taskflow_executor]`
    pub(crate) struct TaskflowExecutor in "taskflow_executor" {
        /// The maximum number of imports that run in this process at the same time.
        max_workers: u32 = 10 => 1..,
        /// The disk format to which a task of the type `import` converts its data; if unset, the data is stored as it is.
        conversion_format: Option<OutputFormat> = None,
    }
}
