//! This process, as others on the same database know it.

use std::{
    collections::HashSet,
    sync::{Mutex, PoisonError},
};

use uuid::Uuid;

/// This process, and what it is busy with.
pub(crate) struct Process {
    /// Its id, new at every start.
    pub(crate) id: String,
    uploads: Mutex<HashSet<String>>,
}

/// While this lives, an upload is under way.
pub(crate) struct Busy<'p> {
    process: &'p Process,
    upload: String,
}

impl Process {
    pub(crate) fn new() -> Self {
        Self { id: Uuid::new_v4().to_string(), uploads: Mutex::default() }
    }

    pub(crate) fn is_busy_with(&self, upload_id: &str) -> Busy<'_> {
        self.uploads.lock().unwrap_or_else(PoisonError::into_inner).insert(upload_id.to_owned());
        Busy { process: self, upload: upload_id.to_owned() }
    }

    pub(crate) fn is_doing(&self, upload_id: &str) -> bool {
        self.uploads.lock().unwrap_or_else(PoisonError::into_inner).contains(upload_id)
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.process.uploads.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.upload);
    }
}
