//! `[cors]`: the web sites whose pages browsers allow to call the service.

use super::{group::group, value::word_list};

group! {
    /// `[cors]`
    pub(crate) struct Cors in "cors" {
        /// Origins of web pages that are allowed to call this service; `*` allows all of them.
        allowed_origin: Vec<String> = Vec::new(),
        /// Whether requests from these pages can contain the user's credentials.
        allow_credentials: bool = true,
        /// Headers of a response that these pages can read.
        expose_headers: Vec<String> =
            word_list("X-Image-Meta-Checksum X-Auth-Token X-Subject-Token X-Service-Token X-OpenStack-Request-ID"),
        /// Seconds that a browser may cache the response to a preflight request; with 0, the browser decides.
        max_age: i64 = 3600,
        /// Methods that these pages are allowed to use.
        allow_methods: Vec<String> = word_list("GET PUT POST DELETE PATCH"),
        /// Headers that these pages are allowed to send, in addition to those that browsers allow to every page.
        allow_headers: Vec<String> = word_list(
            "Content-MD5 X-Image-Meta-Checksum X-Storage-Token Accept-Encoding X-Auth-Token X-Identity-Status X-Roles \
             X-Service-Catalog X-User-Id X-Tenant-Id X-OpenStack-Request-ID",
        ),
    }
}
