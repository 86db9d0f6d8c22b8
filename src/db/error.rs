//! The errors of database calls, by their meaning for the caller.

/// Why a database call failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// A row with the same unique key exists.
    #[error("row already exists")]
    Duplicate,
    /// The row cannot be deleted, because other rows refer to it.
    #[error("other rows belong to it: {0}")]
    Referred(#[source] sqlx::Error),
    /// A text has a character that its column's character set does not have.
    #[error("text cannot be stored: {0}")]
    Unstorable(#[source] sqlx::Error),
    /// The engine aborted the transaction because of a concurrent one. It may succeed if it is repeated.
    #[error("transaction conflict: {0}")]
    Conflict(#[source] sqlx::Error),
    /// The database does not respond, or cannot serve the call now.
    #[error("{0}")]
    Unavailable(#[source] sqlx::Error),
    /// The statement or its data is wrong.
    #[error("{0}")]
    Fault(#[source] sqlx::Error),
    /// The statement cannot be built.
    #[error("{0}")]
    Statement(String),
    /// The schema does not have the version that this program needs, and cannot be migrated to it.
    #[error("{0}")]
    Schema(String),
}

/// The result of a database call.
pub(crate) type Result<T, E = Error> = std::result::Result<T, E>;

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        let unavailable = matches!(
            error,
            sqlx::Error::Io(_)
                | sqlx::Error::Tls(_)
                | sqlx::Error::Protocol(_)
                | sqlx::Error::PoolTimedOut
                | sqlx::Error::PoolClosed
                | sqlx::Error::WorkerCrashed
        );
        if unavailable {
            return Self::Unavailable(error);
        }
        let Some(reply) = error.as_database_error() else {
            return Self::Fault(error);
        };
        if reply.is_unique_violation() {
            return Self::Duplicate;
        }
        if reply.is_foreign_key_violation() {
            return Self::Referred(error);
        }
        let code = reply.code().unwrap_or_default();
        if let Some(reply) = reply.try_downcast_ref::<sqlx::mysql::MySqlDatabaseError>() {
            return match reply.number() {
                // Deadlock, lock wait timeout, Galera's failed certification (which comes as a deadlock), and no such savepoint:
                // Galera has rolled back the transaction (see `TransactionControl::GALERA`).
                1213 | 1205 | 1305 => Self::Conflict(error),
                // Too many connections, access denied, no such database, shutdown in progress, connection killed, query
                // interrupted or timed out, read-only while failing over. Galera: a node that is not (1047), or is no longer
                // (1180), in its cluster. After 1180 it is unknown whether the transaction was committed, so it is not repeated.
                1040 | 1044 | 1045 | 1047 | 1049 | 1053 | 1180 | 1203 | 1290 | 1317 | 1792 | 1836 | 1927 | 1969
                | 3024 | 4031 => Self::Unavailable(error),
                // Incorrect string value.
                1366 => Self::Unstorable(error),
                _ => Self::Fault(error),
            };
        }
        if reply.try_downcast_ref::<sqlx::sqlite::SqliteError>().is_some() {
            // The low byte is the primary code: SQLITE_BUSY, SQLITE_LOCKED, SQLITE_FULL, SQLITE_IOERR, SQLITE_CANTOPEN.
            return match code.parse::<u32>().unwrap_or_default() & 0xff {
                5 | 6 | 10 | 13 | 14 => Self::Unavailable(error),
                _ => Self::Fault(error),
            };
        }
        match code.as_ref() {
            "40001" | "40P01" => Self::Conflict(error),
            // Read-only while failing over; access denied; no such database; timeout of a lock or a statement.
            "25006" | "28000" | "28P01" | "3D000" | "55P03" | "57014" => Self::Unavailable(error),
            // Classes 08 (connection), 53 (resources), 57P (shutdown).
            code if ["08", "53", "57P"].iter().any(|class| code.starts_with(class)) => Self::Unavailable(error),
            _ => Self::Fault(error),
        }
    }
}

impl From<Error> for crate::error::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::Unavailable(_) => Self::Unavailable { service: "the database", source: error.into() },
            Error::Conflict(_) => Self::Contended(error.into()),
            Error::Referred(_) => Self::Conflict(error.to_string()),
            // Glance's MySQL schema has three bytes per character. The sentence is Glance's.
            Error::Unstorable(_) => Self::Invalid("Param values can't contain 4 byte unicode.".to_owned()),
            Error::Duplicate | Error::Fault(_) | Error::Statement(_) | Error::Schema(_) => Self::Internal(error.into()),
        }
    }
}
