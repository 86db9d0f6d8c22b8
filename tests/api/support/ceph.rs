//! A real Ceph: one that all tests share, each with a pool of its own, or one for a single test that injects faults.

use std::{
    ffi::OsStr,
    fs::File,
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;
use uuid::Uuid;

use super::keystone::{output, script, script_at_the_end};

/// A pool of a running Ceph.
pub(crate) struct Ceph {
    folder: PathBuf,
    /// While the lock on this file is held, the shared Ceph does not end.
    shared: Option<File>,
    /// The folder of a Ceph that is not shared, which is killed at the end of the test.
    _own: Option<TempDir>,
    pub(crate) pool: String,
}

impl Ceph {
    /// A new pool of the shared Ceph.
    pub(crate) async fn shared() -> Self {
        let users = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/test-ceph.users");
        let users = File::options().create(true).append(true).open(users).unwrap();
        users.lock_shared().unwrap();
        let folder = output("ceph", &["shared".as_ref()]).await.trim().into();
        Self { folder, shared: Some(users), _own: None, pool: String::new() }.with_pool().await
    }

    /// A Ceph of its own, whose data survives a kill of its OSD.
    pub(crate) async fn start() -> Self {
        let dir = TempDir::with_prefix("glimpse-ceph-").unwrap();
        let folder = dir.path().join("ceph");
        let ceph = Self { folder, shared: None, _own: Some(dir), pool: String::new() };
        ceph.script("create", &["bluestore", "4"]).await;
        ceph.start_again().await;
        ceph.script("user", &["glance"]).await;
        ceph.with_pool().await
    }

    async fn with_pool(mut self) -> Self {
        self.pool = self.another_pool().await;
        self
    }

    /// Creates another pool, and returns its name.
    pub(crate) async fn another_pool(&self) -> String {
        let pool = format!("images-{}", Uuid::new_v4().simple());
        self.script("pool", &[&pool]).await;
        pool
    }

    async fn script(&self, command: &str, arguments: &[&str]) {
        let mut all: Vec<&OsStr> = vec![command.as_ref(), self.folder.as_os_str()];
        all.extend(arguments.iter().map(OsStr::new));
        script("ceph", &all).await;
    }

    /// Starts the daemons that do not run.
    pub(crate) async fn start_again(&self) {
        self.script("start", &[]).await;
    }

    /// `kill -9` of a daemon: `mon`, `mgr` or `osd`.
    pub(crate) async fn kill(&self, daemon: &str) {
        self.script("kill", &[daemon]).await;
    }

    pub(crate) async fn freeze(&self, daemon: &str) {
        self.script("freeze", &[daemon]).await;
    }

    pub(crate) async fn thaw(&self, daemon: &str) {
        self.script("thaw", &[daemon]).await;
    }

    /// The path of its configuration.
    pub(crate) fn config(&self) -> PathBuf {
        self.folder.join("ceph.conf")
    }

    /// The id of the cluster.
    pub(crate) fn fsid(&self) -> String {
        std::fs::read_to_string(self.folder.join("fsid")).unwrap().trim().to_owned()
    }

    /// Runs `rbd` or `ceph` as the user admin, on this pool. It must succeed. Returns its output.
    pub(crate) async fn tool(&self, program: &str, arguments: &[&str]) -> String {
        let mut command = Command::new("timeout");
        command.args(["60", program, "--conf"]).arg(self.config());
        if program == "rbd" {
            command.args(["--pool", &self.pool]);
        }
        command.args(arguments);
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// The names of the images in the pool.
    pub(crate) async fn images(&self) -> Vec<String> {
        self.tool("rbd", &["ls"]).await.lines().map(str::to_owned).collect()
    }

    /// The names of all objects of the pool that belong to images.
    pub(crate) async fn objects(&self) -> Vec<String> {
        let arguments = ["--conf", self.config().to_str().unwrap(), "--pool", &self.pool, "ls"].map(str::to_owned);
        let output = tokio::task::spawn_blocking(|| Command::new("rados").args(arguments).output().unwrap());
        let listed = String::from_utf8(output.await.unwrap().stdout).unwrap();
        let is_of_image = |name: &&str| !["rbd_directory", "rbd_info", "rbd_trash", "rbd_children"].contains(name);
        listed.lines().filter(is_of_image).map(str::to_owned).collect()
    }

    /// The options of a store in the pool, with Glance's user.
    pub(crate) fn options(&self) -> Vec<(&'static str, &'static str, String)> {
        let config = self.config().display().to_string();
        let options = [
            ("DEFAULT", "enabled_backends", "rbd:rbd"),
            ("glance_store", "default_backend", "rbd"),
            ("rbd", "rbd_store_pool", &self.pool),
            ("rbd", "rbd_store_user", "glance"),
            ("rbd", "rbd_store_ceph_conf", &config),
            ("rbd", "rados_connect_timeout", "4"),
        ];
        options.map(|(group, name, value)| (group, name, value.to_owned())).into()
    }
}

impl Drop for Ceph {
    fn drop(&mut self) {
        match &self.shared {
            Some(_) => {
                let mut command = Command::new("timeout");
                command.args(["20", "ceph", "--conf"]).arg(self.config());
                command.args(["osd", "pool", "rm", &self.pool, &self.pool, "--yes-i-really-really-mean-it"]);
                let _ = command.output();
            }
            None => script_at_the_end("ceph", &["kill".as_ref(), self.folder.as_os_str()]),
        }
    }
}
