//! The options of a store in an S3 bucket.

use std::path::PathBuf;

use crate::config::{group::group, secret::Secret, value::choice};

group! {
    /// A store in an S3 bucket: options of `[glance_store]`, or of a group with the store's name.
    pub(crate) struct S3Store in "glance_store" {
        /// The host of the server, with `https://` in front of it for TLS.
        s3_store_host: Option<String> = None,
        /// The region that requests are signed for. Default: the one in the name of Amazon's host. If the server names another
        /// one as the bucket's, that one is used from then on.
        s3_store_region_name: Option<String> = None,
        /// The access key. If neither key is set, both are read from the file that `AWS_SHARED_CREDENTIALS_FILE` names, else from
        /// `~/.aws/credentials`.
        s3_store_access_key: Option<Secret> = None,
        /// The secret key.
        s3_store_secret_key: Option<Secret> = None,
        /// The bucket.
        s3_store_bucket: Option<String> = None,
        /// Whether a missing bucket is created.
        s3_store_create_bucket_on_put: bool = false,
        /// Whether URLs have the name of the bucket in the host or in the path.
        s3_store_bucket_url_format: BucketUrlFormat = BucketUrlFormat::Auto,
        /// The size in MiB from which on an object is uploaded in parts. An object that is larger than a part always is.
        s3_store_large_object_size: u32 = 100,
        /// The size of a part, in MiB.
        s3_store_large_object_chunk_size: u32 = 10 => 5..=5120,
        /// The maximum number of parts of an object that are sent concurrently.
        s3_store_thread_pools: u32 = 10 => 1..,
        /// A file of certificate authorities that the server's certificate can be signed by.
        s3_store_cacert: Option<PathBuf> = None,
        /// Whether the next two options have an effect.
        s3_store_enable_data_integrity_protection: bool = false,
        /// Whether a CRC-32 is sent with the data.
        s3_store_request_checksum_calculation: ChecksumUse = ChecksumUse::WhenRequired,
        /// Whether data that is read as a whole is compared with the server's CRC-32, if the server has one.
        s3_store_response_checksum_validation: ChecksumUse = ChecksumUse::WhenRequired,
    }
}

choice! {
    /// The position of the name of the bucket in URLs.
    pub(crate) enum BucketUrlFormat {
        /// In the host for Amazon's servers, else in the path.
        #[default]
        Auto = "auto",
        /// In the host.
        Virtual = "virtual",
        /// In the path.
        Path = "path",
    }
}

choice! {
    /// When checksums are used.
    pub(crate) enum ChecksumUse {
        /// For requests that S3 accepts only with one: Glimpse sends none of these.
        #[default]
        WhenRequired = "when_required",
        /// For all requests that can have one.
        WhenSupported = "when_supported",
    }
}
