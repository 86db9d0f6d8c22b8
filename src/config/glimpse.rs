//! `[glimpse]`: the options that Glance does not have.

use std::{path::PathBuf, time::Duration};

use super::{
    group::group,
    value::{ByteSize, choice},
};

group! {
    /// `[glimpse]`
    pub(crate) struct Glimpse in "glimpse" {
        /// How callers are authenticated. Default: as the paste pipeline says, else standalone.
        auth: Option<Auth> = None,
        /// Where the embedded database, the identity file and the key of its users' tokens are.
        data_dir: PathBuf = PathBuf::from("glimpse-data"),
        /// Seconds after which a token that a standalone server issued expires.
        token_lifetime: u32 = 3600 => 1..,
        /// Whether a tag with `=` is refused.
        forbid_equals_in_tags: bool = true,
        /// How the log is written.
        log_format: LogFormat = LogFormat::Text,
        /// Seconds that requests in progress are given to finish after SIGTERM.
        drain_timeout: Duration = Duration::from_secs(30),
        /// Seconds after which a request that has no response yet gets 503.
        request_timeout: Duration = Duration::from_secs(60),
        /// Seconds between two heartbeats, by which several processes on one database know of each other.
        heartbeat: Duration = Duration::from_secs(10),
        /// Seconds that a client is given to send a request's headers or the next part of its body, and to take the
        /// next part of a response.
        client_timeout: Duration = Duration::from_secs(30),
        /// Bytes of JSON bodies that are being received and of responses that are being sent, over 16 KiB each. Beyond it, requests
        /// are answered 503. 0 means no limit.
        body_memory: ByteSize = ByteSize(256 << 20),
        /// Seconds that a limit from Keystone is cached. With 0, concurrent requests share one query.
        limits_cache_time: Duration = Duration::ZERO,
        /// Seconds between two runs of the image cache's housekeeping, which removes stalled files, fetches queued images and prunes the
        /// cache. 0 means never.
        cache_interval: Duration = Duration::from_secs(300),
        /// Seconds that the conversion of an import's data is given, and the processor time that it is given.
        conversion_timeout: u32 = 4 * 3600 => 1..,
    }
}

choice! {
    /// How a caller is authenticated.
    pub(crate) enum Auth {
        /// By the users in the data directory's `identity.toml`.
        #[default]
        Standalone = "standalone",
        /// By Keystone.
        Keystone = "keystone",
        /// By headers that a trusted proxy sets. Any client that reaches the port can claim to be any user.
        Proxy = "proxy",
        /// By a token that names user, project and roles. For tests only.
        Fake = "fake",
        /// Callers are not authenticated, and every caller is an admin.
        None = "none",
    }
}

choice! {
    /// How the log is written.
    pub(crate) enum LogFormat {
        /// For people.
        #[default]
        Text = "text",
        /// One JSON object per line.
        Json = "json",
    }
}
