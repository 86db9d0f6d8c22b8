//! A real Glance for one test, on a given database.

use std::{ffi::OsStr, fs, path::PathBuf, process::Output};

use tempfile::TempDir;

use super::{
    Client, Database,
    database::free_port,
    keystone::{script, script_at_the_end, try_output, try_script},
};

/// A running Glance, which is killed at the end of the test.
pub(crate) struct Glance {
    dir: TempDir,
    port: u16,
    database: Database,
    running: bool,
}

impl Glance {
    /// Syncs the database with Glance's own tool, and starts Glance on it.
    pub(crate) async fn start(database: &Database) -> Self {
        Self::sync(database).await;
        Self::start_synced(database).await
    }

    /// Starts Glance on a database that is already synced.
    pub(crate) async fn start_synced(database: &Database) -> Self {
        Self::start_with(database, &[], &[]).await
    }

    /// Starts Glance with additional options (group, name, value) and additional files (name, text) next to its
    /// configuration.
    pub(crate) async fn start_with(
        database: &Database,
        options: &[(&str, &str, &str)],
        files: &[(&str, &str)],
    ) -> Self {
        let dir = TempDir::with_prefix("glimpse-glance-").unwrap();
        let mut glance = Self { dir, port: free_port(), database: database.clone(), running: false };
        fs::create_dir(glance.folder()).unwrap();
        let more: String =
            options.iter().map(|(group, name, value)| format!("[{group}]\n{name} = {value}\n")).collect();
        for (name, text) in files.iter().chain([&("more.conf", more.as_str())]) {
            fs::write(glance.folder().join(name), text).unwrap();
        }
        // Another process may take the port in the meantime.
        for _ in 0..2 {
            if glance.try_start().await {
                return glance;
            }
            glance.port = free_port();
        }
        glance.start_again().await;
        glance
    }

    /// `glance-manage db_sync`
    pub(crate) async fn sync(database: &Database) {
        script("glance", &["sync".as_ref(), database.url.as_ref()]).await;
    }

    /// Upgrades an empty database to older heads of Glance's migrations, one after the other.
    pub(crate) async fn sync_to(database: &Database, heads: &[&str]) {
        let mut arguments: Vec<&OsStr> = vec!["sync-to".as_ref(), database.url.as_ref()];
        arguments.extend(heads.iter().map(OsStr::new));
        script("glance", &arguments).await;
    }

    /// Runs `glance-manage` with these arguments, and returns its output.
    pub(crate) async fn manage(database: &Database, arguments: &[&str]) -> String {
        let output = Self::try_manage(database, arguments).await;
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Runs `glance-manage` with these arguments, which may fail.
    pub(crate) async fn try_manage(database: &Database, arguments: &[&str]) -> Output {
        let mut all: Vec<&OsStr> = vec!["manage".as_ref(), database.url.as_ref()];
        all.extend(arguments.iter().map(OsStr::new));
        try_output("glance", &all).await
    }

    pub(crate) async fn start_again(&mut self) {
        assert!(self.try_start().await, "tests/glance start");
    }

    async fn try_start(&mut self) -> bool {
        let (folder, port) = (self.folder(), self.port.to_string());
        let arguments = ["start".as_ref(), folder.as_os_str(), self.database.url.as_ref(), port.as_ref()];
        self.running = try_script("glance", &arguments).await;
        self.running
    }

    /// `kill -9`
    pub(crate) async fn kill(&mut self) {
        script("glance", &["kill".as_ref(), self.folder().as_os_str()]).await;
        self.running = false;
    }

    /// Runs `glance-cache-<tool>` with its configuration.
    pub(crate) async fn cache_tool(&self, tool: &str) {
        script("glance", &["cache-tool".as_ref(), self.folder().as_os_str(), tool.as_ref()]).await;
    }

    /// `http://127.0.0.1:<port>`
    pub(crate) fn base(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// A client with roles, separated by commas, on a project. Glance trusts these headers.
    pub(crate) fn client(&self, user: &str, project: &str, roles: &str) -> Client {
        Client::new(&self.base(), None).with_headers(&[
            ("X-Identity-Status", "Confirmed"),
            ("X-User-Id", user),
            ("X-Project-Id", project),
            ("X-Roles", roles),
        ])
    }

    /// A client without an identity.
    pub(crate) fn anonymous(&self) -> Client {
        Client::new(&self.base(), None)
    }

    /// The same as `TestServer`'s.
    pub(crate) fn admin(&self) -> Client {
        self.client("root", "admins", "admin,member,reader")
    }

    /// The same as `TestServer`'s.
    pub(crate) fn member(&self, project: &str) -> Client {
        self.client("user", project, "member,reader")
    }

    /// The same as `TestServer`'s.
    pub(crate) fn reader(&self, project: &str) -> Client {
        self.client("user", project, "reader")
    }

    /// The folder of its files, with the image data in `images`.
    pub(crate) fn folder(&self) -> PathBuf {
        self.dir.path().join("glance")
    }
}

impl Drop for Glance {
    fn drop(&mut self) {
        if self.running {
            script_at_the_end("glance", &["kill".as_ref(), self.folder().as_os_str()]);
        }
        if std::thread::panicking() {
            let log = fs::read_to_string(self.folder().join("log")).unwrap_or_default();
            let end: Vec<&str> = log.lines().rev().take(40).collect();
            eprintln!("Glance's log, from its end:\n{}", end.join("\n"));
        }
    }
}
