//! The options of a store in an S3 bucket.

use std::path::PathBuf;

use crate::config::{group::group, secret::Secret, value::choice};

group! {
    /// A store in an S3 bucket: options of `[glance_store]`, or of a group with the store's name.
    pub(crate) struct S3Store in "glance_store" {
        /// The server's host, with `https://` in front of it for TLS.
        s3_store_host: Option<String> = None,
        /// The region that requests are signed for. Default: the one in the name of Amazon's host.
        s3_store_region_name: Option<String> = None,
        /// The access key.
        s3_store_access_key: Option<Secret> = None,
        /// The secret key.
        s3_store_secret_key: Option<Secret> = None,
        /// The bucket.
        s3_store_bucket: Option<String> = None,
        /// Whether a missing bucket is created.
        s3_store_create_bucket_on_put: bool = false,
        /// Where in a URL the bucket's name is.
        s3_store_bucket_url_format: BucketUrlFormat = BucketUrlFormat::Auto,
        /// MiB from which on an object is stored in parts; an object that is larger than a part always is.
        s3_store_large_object_size: u32 = 100,
        /// MiB of a part.
        s3_store_large_object_chunk_size: u32 = 10 => 5..=5120,
        /// The maximum number of an object's parts that are sent at a time.
        s3_store_thread_pools: u32 = 10 => 1..,
        /// Authorities that may sign the server's certificate.
        s3_store_cacert: Option<PathBuf> = None,
    }
}

choice! {
    /// Where in the URL of an S3 object its bucket's name is.
    pub(crate) enum BucketUrlFormat {
        /// In the host's name where the server is Amazon's, else in the path.
        #[default]
        Auto = "auto",
        /// In the host's name.
        Virtual = "virtual",
        /// In the path.
        Path = "path",
    }
}
