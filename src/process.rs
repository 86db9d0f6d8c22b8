//! The identity of this process among the processes on the same database.

use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, PoisonError},
};

use axum::http::HeaderValue;
use uuid::Uuid;

use crate::keystone::Caller;

/// This process, and the uploads and jobs that it is working on.
pub(crate) struct Process {
    /// A new id at every start.
    pub(crate) id: String,
    uploads: Mutex<HashSet<String>>,
    jobs: Mutex<HashSet<String>>,
    /// Jobs that this process cannot read.
    unreadable: Mutex<HashSet<String>>,
    /// The tokens of callers whose jobs need them.
    tokens: Mutex<HashMap<String, JobToken>>,
}

/// The token of the caller who has requested a job. It is kept in memory only.
struct JobToken {
    token: HeaderValue,
    /// The caller, for stores that are used with the caller's token.
    caller: Option<Caller>,
    /// Whether the job was seen in the database since.
    is_seen: bool,
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
            tokens: Mutex::default(),
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

    /// Frees the slot of a job, and forgets its token.
    pub(crate) fn end_job(&self, id: &str) {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
        self.forget_token(id);
    }

    /// Keeps the token of the caller who has requested a job, and the caller if stores need it.
    pub(crate) fn keep_token(&self, job: &str, token: HeaderValue, caller: Option<Caller>) {
        let kept = JobToken { token, caller, is_seen: false };
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner).insert(job.to_owned(), kept);
    }

    /// The token of the caller who has requested a job.
    pub(crate) fn token(&self, job: &str) -> Option<HeaderValue> {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner).get(job).map(|kept| kept.token.clone())
    }

    /// The caller who has requested a job, if stores need it.
    pub(crate) fn caller(&self, job: &str) -> Option<Caller> {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner).get(job)?.caller.clone()
    }

    /// Forgets the token of a job that needs it no more.
    pub(crate) fn forget_token(&self, job: &str) {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner).remove(job);
    }

    /// Forgets the tokens of jobs that have ended. A token can be kept before its job is read from the database.
    pub(crate) fn forget_tokens(&self, exists: impl Fn(&str) -> bool) {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner).retain(|job, kept| {
            let exists = exists(job);
            let was_seen = kept.is_seen;
            kept.is_seen |= exists;
            exists || !was_seen
        });
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
