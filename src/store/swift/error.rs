//! Errors of requests to Swift.

use reqwest::StatusCode;

use super::super::object_server::BodyError;
use crate::keystone::KeystoneError;

/// The error of a request. It can be logged, because it contains neither a URL nor text from the server.
#[derive(Debug, thiserror::Error)]
pub(super) enum SwiftError {
    /// Swift returned an error.
    #[error("Swift returned {0}")]
    Answer(StatusCode),
    /// TempAuth rejects the user.
    #[error("the login to Swift was refused with {0}")]
    LoginRefused(StatusCode),
    /// Keystone is unreachable, or rejects the user.
    #[error(transparent)]
    Keystone(#[from] KeystoneError),
    /// There is no URL of the account.
    #[error("the catalog has no endpoint of Swift with the configured type, interface and region")]
    NoEndpoint,
    /// The connection failed or was interrupted.
    #[error("the connection to Swift failed")]
    Connection(#[source] reqwest::Error),
    /// The response did not arrive in time.
    #[error("Swift does not respond in time")]
    TimedOut,
    /// The response is not a valid one.
    #[error("the response of Swift is invalid: {0}")]
    InvalidResponse(&'static str),
    /// The task that sends a request has failed.
    #[error("a request to Swift failed")]
    Task(#[from] tokio::task::JoinError),
}

impl SwiftError {
    pub(super) fn from_connection(error: reqwest::Error) -> Self {
        Self::Connection(error.without_url())
    }

    pub(super) fn status(&self) -> Option<StatusCode> {
        match self {
            Self::Answer(status) => Some(*status),
            _ => None,
        }
    }

    pub(super) fn is_not_found(&self) -> bool {
        self.status() == Some(StatusCode::NOT_FOUND)
    }

    /// Whether Swift or the login reject the user or the user's request.
    pub(super) fn is_denied(&self) -> bool {
        match self {
            Self::Answer(status) => matches!(*status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN),
            Self::LoginRefused(_) | Self::Keystone(KeystoneError::Refused(..)) => true,
            _ => false,
        }
    }

    /// Whether a retry of the request may succeed.
    pub(super) fn is_transient(&self) -> bool {
        match self {
            Self::Answer(status) => matches!(status.as_u16(), 408 | 429 | 498 | 499 | 500 | 502 | 503 | 504),
            Self::Connection(_) => true,
            _ => false,
        }
    }
}

impl From<BodyError> for SwiftError {
    fn from(error: BodyError) -> Self {
        match error {
            BodyError::Connection(error) => Self::from_connection(error),
            BodyError::TimedOut => Self::TimedOut,
            BodyError::TooLong => Self::InvalidResponse("it is too long"),
        }
    }
}

/// The result of a request.
pub(super) type Result<T, E = SwiftError> = std::result::Result<T, E>;
