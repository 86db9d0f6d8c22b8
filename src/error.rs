//! Everything that can go wrong, with no HTTP in it.
//!
//! A variant is named by what it means for the caller. Its message is for the client; what only an operator may
//! read (a source error) travels beside it and goes to the log, never to the client. `http::error` turns a variant
//! into a status and a body.

/// Why a request was not done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The request is wrong; the message names the fault.
    #[error("{0}")]
    Invalid(String),
    /// Nobody, or nobody we know, asks.
    #[error("authentication failed")]
    Unauthenticated,
    /// The caller may know of the object, but may not do this to it.
    #[error("{0}")]
    Forbidden(String),
    /// As `Forbidden`; Glance gives this reason as the detail below its general sentence.
    #[error("{0}")]
    NotPermitted(String),
    /// The object does not exist, or the caller may not know that it does.
    #[error("{0}")]
    NotFound(String),
    /// Another object or another state stands in the way.
    #[error("{0}")]
    Conflict(String),
    /// As `Conflict`; Glance gives this reason as the detail below its general sentence.
    #[error("{0}")]
    PropertyConflict(String),
    /// A quota or a size limit is passed.
    #[error("{0}")]
    LimitExceeded(String),
    /// What was being worked on went away meanwhile.
    #[error("{0}")]
    Gone(String),
    /// An image's data is not what the image says, or dangerous.
    #[error("{0}")]
    UnfitData(String),
    /// There is no such part of the data.
    #[error("{0}")]
    NoSuchRange(String),
    /// The client sends nothing for too long.
    #[error("The client took too long to send the request body.")]
    SlowClient,
    /// A store cannot do it now; unlike `Unavailable`, it says why to the client.
    #[error("{0}")]
    StoreUnavailable(String),
    /// A service that we stand on does not answer now; the same request may succeed later.
    #[error("{service} is unavailable: {source}")]
    Unavailable {
        /// What is away, in an operator's words.
        service: &'static str,
        /// What it said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A fault of ours, or of the data that we keep.
    #[error("internal error: {0}")]
    Internal(Box<dyn std::error::Error + Send + Sync>),
}

impl Error {
    /// A rule of the policy said no.
    pub(crate) fn policy_denied(rule: &str) -> Self {
        Self::Forbidden(format!("You are not authorized to complete {rule} action."))
    }
}

/// An error with its causes: the outermost one of a client says only that sending failed.
pub(crate) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

/// The crate's result.
pub(crate) type Result<T, E = Error> = std::result::Result<T, E>;
