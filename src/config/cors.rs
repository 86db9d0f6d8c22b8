//! `[cors]`: which web sites' pages may call the service.

use super::{group::group, value::word_list};

group! {
    /// `[cors]`
    pub(crate) struct Cors in "cors" {
        /// Web sites whose pages may call this service; `*` stands for all.
        allowed_origin: Vec<String> = Vec::new(),
        /// Whether they may send the user's credentials.
        allow_credentials: bool = true,
        /// Headers of a response that their pages see.
        expose_headers: Vec<String> =
            word_list("X-Image-Meta-Checksum X-Auth-Token X-Subject-Token X-Service-Token X-OpenStack-Request-ID"),
        /// Seconds that a browser may cache what is allowed; 0 leaves it to the browser.
        max_age: i64 = 3600,
        /// Methods that they may use.
        allow_methods: Vec<String> = word_list("GET PUT POST DELETE PATCH"),
        /// Headers that they may send, in addition to those that every page may.
        allow_headers: Vec<String> = word_list(
            "Content-MD5 X-Image-Meta-Checksum X-Storage-Token Accept-Encoding X-Auth-Token X-Identity-Status X-Roles \
             X-Service-Catalog X-User-Id X-Tenant-Id X-OpenStack-Request-ID",
        ),
    }
}
