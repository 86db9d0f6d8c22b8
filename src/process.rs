//! The identity of this process among the processes on the same database.

use std::{
    collections::HashSet,
    sync::{Mutex, PoisonError},
};

use uuid::Uuid;

/// This process, and the uploads and jobs that it is working on.
pub(crate) struct Process {
    /// A new id at every start.
    pub(crate) id: String,
    uploads: Mutex<HashSet<String>>,
    jobs: Mutex<HashSet<String>>,
    /// Jobs that this process cannot read.
    unreadable: Mutex<HashSet<String>>,
}

/// Marks an upload as in progress in this process until it is dropped.
pub(crate) struct ActiveUpload<'p> {
    process: &'p Process,
    upload: String,
}

impl Process {
    pub(crate) fn new() -> Self {
        Self {
            id: Uuid::new_v4().to_string(),
            uploads: Mutex::default(),
            jobs: Mutex::default(),
            unreadable: Mutex::default(),
        }
    }

    /// Marks the upload as in progress, so that recovery does not take it for an abandoned one.
    pub(crate) fn begin_upload(&self, upload_id: &str) -> ActiveUpload<'_> {
        self.uploads.lock().unwrap_or_else(PoisonError::into_inner).insert(upload_id.to_owned());
        ActiveUpload { process: self, upload: upload_id.to_owned() }
    }

    /// Occupies a slot for a job, of which there are `slots`. Returns `false` if there is none, or if the job runs already.
    pub(crate) fn begin_job(&self, id: &str, slots: usize) -> bool {
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        jobs.len() < slots && jobs.insert(id.to_owned())
    }

    /// Frees the slot of a job.
    pub(crate) fn end_job(&self, id: &str) {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
    }

    pub(crate) fn is_running(&self, job: &str) -> bool {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner).contains(job)
    }

    /// Records that this process cannot read the job. Returns `false` if that is recorded already.
    pub(crate) fn note_unreadable(&self, job: &str) -> bool {
        self.unreadable.lock().unwrap_or_else(PoisonError::into_inner).insert(job.to_owned())
    }

    pub(crate) fn is_uploading(&self, upload_id: &str) -> bool {
        self.uploads.lock().unwrap_or_else(PoisonError::into_inner).contains(upload_id)
    }
}

impl Drop for ActiveUpload<'_> {
    fn drop(&mut self) {
        self.process.uploads.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.upload);
    }
}
