//! `[database]`: the database with the records.

use std::time::Duration;

use super::{database_url::DatabaseUrl, group::group};

group! {
    /// `[database]`
    pub(crate) struct Database in "database" {
        /// The URL of the database, as SQLAlchemy writes it.
        connection: Option<DatabaseUrl> = None,
        /// The number of connections to a server database that are kept open.
        max_pool_size: u32 = 5,
        /// The number of connections beyond `max_pool_size` under load; a negative number means no limit.
        max_overflow: i64 = 50,
        /// Seconds after which a connection is replaced; with a negative number, connections are never replaced.
        connection_recycle_time: i64 = 3600; was "database" "idle_timeout",
        /// The maximum number of attempts to reach the database at start; -1 means no limit.
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
