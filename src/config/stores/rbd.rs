//! The options of a store in a pool of a Ceph cluster.

use std::path::PathBuf;

use crate::config::group::group;

group! {
    /// A store in a pool of a Ceph cluster: options of `[glance_store]`, or of a group with the store's name.
    pub(crate) struct RbdStore in "glance_store" {
        /// The pool.
        rbd_store_pool: String = "images".to_owned(),
        /// The Ceph user, without `client.`. Default: admin.
        rbd_store_user: Option<String> = None,
        /// Ceph's configuration file, which names the monitors and the user's keyring. Default: where Ceph looks for it.
        rbd_store_ceph_conf: Option<PathBuf> = None,
        /// The size of the objects that an image consists of, in MiB; a power of two, or the next smaller one is used.
        rbd_store_chunk_size: u32 = 8 => 1..=63,
        /// Whether blocks of zeros are not written.
        rbd_thin_provisioning: bool = false,
        /// The timeout of each operation of the cluster, in seconds. Below 1: what Ceph's configuration says, or else 30.
        rados_connect_timeout: i64 = -1,
    }
}
