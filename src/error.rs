//! The errors of the services, without any HTTP in them.
//!
//! A variant is named after its meaning for the caller. Its message is for the client. A source error is for the operator alone: it
//! goes to the log, and never to the client. `http::error` turns a variant into a status and a body.

use std::fmt::Display;

type Source = Box<dyn std::error::Error + Send + Sync>;

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The request is invalid; the message says what is wrong with it.
    #[error("{0}")]
    Invalid(String),
    /// The request has no credentials, or credentials that are not valid.
    #[error("authentication failed")]
    Unauthenticated,
    /// The caller may see the object, but is not allowed to do this to it.
    #[error("{0}")]
    Forbidden(String),
    /// As `Forbidden`; Glance gives this reason as the detail below its general sentence.
    #[error("{0}")]
    NotPermitted(String),
    /// The object does not exist, or the caller is not allowed to know that it does.
    #[error("{0}")]
    NotFound(String),
    /// The request conflicts with another object or with the object's state.
    #[error("{0}")]
    Conflict(String),
    /// As `Conflict`; Glance gives this reason as the detail below its general sentence.
    #[error("{0}")]
    PropertyConflict(String),
    /// The request would exceed a quota or a size limit.
    #[error("{0}")]
    LimitExceeded(String),
    /// The object was removed while the request was in progress.
    #[error("{0}")]
    Gone(String),
    /// The image's data is dangerous, or its format is not the one that the image declares.
    #[error("{0}")]
    UnfitData(String),
    /// The data has no such range.
    #[error("{0}")]
    NoSuchRange(String),
    /// The client sent nothing until the timeout.
    #[error("The client took too long to send the request body.")]
    SlowClient,
    /// Another node of this service has answered the request with an error, or cannot be reached.
    #[error("{message}")]
    OtherNode {
        /// The status of its answer.
        status: u16,
        /// The explanation in its answer.
        message: String,
    },
    /// A store cannot serve the request now. Unlike with `Unavailable`, the client gets the reason.
    #[error("{0}")]
    StoreUnavailable(String),
    /// The database aborted a transaction in favour of another one, at each attempt; the same request may succeed now.
    #[error("the database is contended: {0}")]
    Contended(Source),
    /// A service that Glimpse depends on does not respond; the same request may succeed later.
    #[error("{service} is unavailable: {source}")]
    Unavailable {
        /// The service's name, as an operator calls it.
        service: &'static str,
        /// The service's error.
        source: Source,
    },
    /// A bug in Glimpse, or corrupt stored data.
    #[error("internal error: {0}")]
    Internal(Source),
}

/// Constructors for the sentences that several operations share. The sentences are Glance's, byte for byte, unless noted.
impl Error {
    /// A policy rule denies the request.
    pub(crate) fn policy_denied(rule: &str) -> Self {
        Self::Forbidden(format!("You are not authorized to complete {rule} action."))
    }

    /// An object that the caller is not allowed to see. The sentence does not say what kind of object it is.
    pub(crate) fn resource_not_found() -> Self {
        Self::NotFound(RESOURCE_NOT_FOUND.to_owned())
    }

    /// An image that does not exist, or that the caller is not allowed to see.
    pub(crate) fn image_not_found(id: impl Display) -> Self {
        Self::NotFound(image_not_found(id))
    }

    /// As [`Self::image_not_found`], for a listing's marker: Glance answers 400.
    pub(crate) fn marker_not_found(id: impl Display) -> Self {
        Self::Invalid(image_not_found(id))
    }

    /// As [`Self::image_not_found`], for requests that address a member or a tag of the image.
    pub(crate) fn parent_image_not_found(id: impl Display) -> Self {
        Self::NotFound(format!("Image {id} not found."))
    }

    /// As [`Self::image_not_found`], for requests that address the image's data in one store.
    pub(crate) fn stored_image_not_found(id: impl Display) -> Self {
        Self::NotFound(format!("Failed to find image {id}"))
    }

    /// As [`Self::image_not_found`], for a deletion.
    pub(crate) fn deleted_image_not_found(id: impl Display) -> Self {
        Self::NotFound(format!("Failed to find image {id} to delete"))
    }

    /// Another request changed the image concurrently. The sentence is ours.
    pub(crate) fn image_changed(id: impl Display) -> Self {
        Self::Conflict(format!("Image {id} was changed by another request; try again."))
    }

    /// Another request has taken over the deletion of the image, and has not completed it yet. The sentence is ours.
    pub(crate) fn deletion_in_progress(id: impl Display) -> Self {
        Self::StoreUnavailable(format!("Another request is deleting image {id}; try again later."))
    }

    /// A deletion that the image's status does not allow.
    pub(crate) fn invalid_transition(from: &str, to: &str) -> Self {
        Self::Invalid(forbidden_transition(from, to))
    }

    /// An upload that the image's status does not allow.
    pub(crate) fn conflicting_transition(from: &str, to: &str) -> Self {
        Self::Conflict(forbidden_transition(from, to))
    }

    /// A store that failed for a reason that only the operator is allowed to read.
    pub(crate) fn store_failed(source: impl Into<Source>) -> Self {
        Self::Unavailable { service: "the image's store", source: source.into() }
    }
}

/// What clients read about an object that they are not allowed to see, and about a path that does not exist.
pub(crate) const RESOURCE_NOT_FOUND: &str = "The resource could not be found.";

fn image_not_found(id: impl Display) -> String {
    format!("No image found with ID {id}")
}

fn forbidden_transition(from: &str, to: &str) -> String {
    format!("Image status transition from {from} to {to} is not allowed")
}

/// An error's text with those of its causes. An HTTP client's outermost error says only that sending failed.
pub(crate) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

/// The result of the crate's fallible functions.
pub(crate) type Result<T, E = Error> = std::result::Result<T, E>;
