//! `[database]`: where the records are.

use std::time::Duration;

use super::{database_url::DatabaseUrl, group::group};

group! {
    /// `[database]`
    pub(crate) struct Database in "database" {
        /// Where the database is, as an SQLAlchemy URL.
        connection: Option<DatabaseUrl> = None,
        /// Connections to a server database that are kept open.
        max_pool_size: u32 = 5,
        /// Connections beyond `max_pool_size` under load; a negative number sets no bound of its own.
        max_overflow: i64 = 50,
        /// Seconds after which a connection is replaced; with a negative number, it never is.
        connection_recycle_time: i64 = 3600; was "database" "idle_timeout",
        /// Attempts to reach the database at start, before the program gives up; -1 sets no bound.
        max_retries: i64 = 10,
        /// Seconds between two such attempts.
        retry_interval: Duration = Duration::from_secs(10),
        /// Seconds that a request waits for a free connection, and on SQLite for another program's lock once it has one.
        pool_timeout: Duration = Duration::from_secs(5),
        /// Galera's wsrep_sync_wait for each connection: with 1, a read waits until its node has applied what other nodes
        /// committed before. Default: the server's own setting.
        mysql_wsrep_sync_wait: Option<i64> = None => 0..=15,
    }
}
