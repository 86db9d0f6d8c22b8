//! A real Keystone for one test, with the users that `tests/keystone` describes.

use std::{
    ffi::OsStr,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Client, database::free_port};

/// A running Keystone, which is killed at the end of the test.
pub(crate) struct Keystone {
    dir: TempDir,
    port: u16,
    running: bool,
}

impl Keystone {
    pub(crate) async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// Starts Keystone with additional options (group, name and value) in its configuration file.
    pub(crate) async fn start_with(options: &[(&str, &str, &str)]) -> Self {
        let dir = TempDir::with_prefix("glimpse-keystone-").unwrap();
        let mut keystone = Self { dir, port: free_port(), running: false };
        keystone.script("create", &[]).await;
        let config = keystone.folder().join("keystone.conf");
        let mut text = fs::read_to_string(&config).unwrap();
        for (group, name, value) in options {
            writeln!(text, "[{group}]\n{name} = {value}").unwrap();
        }
        fs::write(config, text).unwrap();
        // Another process may take the port in the meantime.
        for _ in 0..2 {
            let (folder, port) = (keystone.folder(), keystone.port.to_string());
            if try_script("keystone", &["start".as_ref(), folder.as_os_str(), port.as_ref()]).await {
                keystone.running = true;
                return keystone;
            }
            keystone.port = free_port();
        }
        keystone.start_again().await;
        keystone
    }

    pub(crate) async fn start_again(&mut self) {
        self.script("start", &[self.port.to_string().as_ref()]).await;
        self.running = true;
    }

    /// `kill -9`
    pub(crate) async fn kill(&mut self) {
        self.script("kill", &[]).await;
        self.running = false;
    }

    /// Suspends Keystone until it is thawed: its connections stay open, and nothing responds.
    pub(crate) async fn freeze(&self) {
        self.script("freeze", &[]).await;
    }

    pub(crate) async fn thaw(&self) {
        self.script("thaw", &[]).await;
    }

    /// `http://127.0.0.1:<port>/v3`, as `[keystone_authtoken] auth_url` and `OS_AUTH_URL` have it.
    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}/v3", self.port)
    }

    /// Sets the endpoint of the image service in the catalog.
    pub(crate) async fn image_endpoint(&self, url: &str) {
        self.script("image-endpoint", &[url.as_ref()]).await;
    }

    /// The environment variables of a command-line user.
    pub(crate) fn environment(&self, user: &str, project: &str) -> Vec<(&'static str, String)> {
        vec![
            ("OS_AUTH_URL", self.url()),
            ("OS_USERNAME", user.to_owned()),
            ("OS_PASSWORD", "secret".to_owned()),
            ("OS_USER_DOMAIN_ID", "default".to_owned()),
            ("OS_PROJECT_NAME", project.to_owned()),
            ("OS_PROJECT_DOMAIN_ID", "default".to_owned()),
            ("OS_IDENTITY_API_VERSION", "3".to_owned()),
        ]
    }

    /// A client of Keystone, with paths below `/v3`.
    pub(crate) fn client(&self, token: Option<&str>) -> Client {
        Client::new(&self.url(), token)
    }

    /// Adds another endpoint of Keystone itself to its catalog.
    pub(crate) async fn another_endpoint(&self, region: &str, interface: &str, url: &str) {
        let admin = self.client(Some(&self.token("admin", "admin").await));
        admin.post("/regions", &json!({"region": {"id": region}})).await;
        let services = admin.get("/services?type=identity").await.expect(200).json();
        let service = services["services"][0]["id"].clone();
        let endpoint = json!({"service_id": service, "interface": interface, "region_id": region, "url": url});
        admin.post("/endpoints", &json!({ "endpoint": endpoint })).await.expect(201);
    }

    /// Adds a service to the catalog, with the same URL at each interface.
    pub(crate) async fn add_service(&self, service_type: &str, url: &str) {
        let admin = self.client(Some(&self.token("admin", "admin").await));
        let service = json!({"service": {"type": service_type, "name": service_type}});
        let service = admin.post("/services", &service).await.expect(201).json()["service"]["id"].clone();
        for interface in ["public", "internal", "admin"] {
            let endpoint = json!({"service_id": service, "interface": interface, "region_id": "RegionOne", "url": url});
            admin.post("/endpoints", &json!({ "endpoint": endpoint })).await.expect(201);
        }
    }

    /// The id of a token's user.
    pub(crate) async fn user_of(&self, token: &str) -> String {
        self.described(token).await["user"]["id"].as_str().unwrap().to_owned()
    }

    /// The body of Keystone's response about a token, requested with the token itself.
    pub(crate) async fn described(&self, token: &str) -> Value {
        let client = self.client(Some(token));
        let answer = client.send(client.request("GET", "/auth/tokens").header("X-Subject-Token", token)).await;
        answer.expect(200).json()["token"].clone()
    }

    /// A token for a new application credential of the token's user, with optional access rules.
    pub(crate) async fn application_credential(&self, token: &str, rules: Option<&Value>) -> String {
        let user = self.user_of(token).await;
        let mut credential = json!({"name": "c", "secret": "s3cret"});
        if let Some(rules) = rules {
            credential["access_rules"] = rules.clone();
        }
        let path = format!("/users/{user}/application_credentials");
        let body = json!({ "application_credential": credential });
        let made = self.client(Some(token)).post(&path, &body).await.expect(201);
        let id = made.json()["application_credential"]["id"].clone();
        let method =
            json!({"methods": ["application_credential"], "application_credential": {"id": id, "secret": "s3cret"}});
        self.issue(&json!({ "identity": method })).await
    }

    /// A token of a trustee, for a trust with this role.
    pub(crate) async fn trust_token(&self, trustor: &str, trustee: &str, role: &str) -> String {
        let (trustor_id, trustee_id) =
            (self.user_of(trustor).await, self.user_of(&self.token(trustee, "p2").await).await);
        let project = self.described(trustor).await["project"]["id"].clone();
        let trust = json!({
            "trustor_user_id": trustor_id, "trustee_user_id": trustee_id, "project_id": project, "impersonation": false,
            "roles": [{"name": role}],
        });
        let made = self.client(Some(trustor)).post("/OS-TRUST/trusts", &json!({ "trust": trust })).await.expect(201);
        let id = made.json()["trust"]["id"].clone();
        self.issue(&json!({"identity": password(trustee), "scope": {"OS-TRUST:trust": {"id": id}}})).await
    }

    /// A token of a user on a project.
    pub(crate) async fn token(&self, user: &str, project: &str) -> String {
        self.issue(&json!({
            "identity": password(user),
            "scope": {"project": {"name": project, "domain": {"id": "default"}}},
        }))
        .await
    }

    /// An unscoped token. It is requested explicitly, because every user has a default project.
    pub(crate) async fn unscoped_token(&self, user: &str) -> String {
        self.issue(&json!({"identity": password(user), "scope": "unscoped"})).await
    }

    /// A token of admin on the whole system.
    pub(crate) async fn system_token(&self) -> String {
        self.issue(&json!({"identity": password("admin"), "scope": {"system": {"all": true}}})).await
    }

    /// A token of admin on the default domain.
    pub(crate) async fn domain_token(&self) -> String {
        self.issue(&json!({"identity": password("admin"), "scope": {"domain": {"id": "default"}}})).await
    }

    /// Issues a token for the `auth` object of a request.
    pub(crate) async fn issue(&self, auth: &Value) -> String {
        let answer = self.client(None).post("/auth/tokens", &json!({ "auth": auth })).await.expect(201);
        answer.header("x-subject-token").to_owned()
    }

    /// Revokes a token as its owner.
    pub(crate) async fn revoke(&self, token: &str) {
        let client = self.client(Some(token));
        client.send(client.request("DELETE", "/auth/tokens").header("X-Subject-Token", token)).await.expect(204);
    }

    /// The requests so far, one line each, such as `2026-01-31T12:00:00Z GET /v3/auth/tokens 200`.
    pub(crate) fn requests(&self) -> Vec<String> {
        let log = fs::read_to_string(self.folder().join("access.log")).unwrap();
        log.lines().map(str::to_owned).collect()
    }

    /// The number of token validations so far, including those whose responses have just been received.
    pub(crate) fn validations(&self) -> usize {
        self.requests().iter().filter(|line| line.contains(" GET /v3/auth/tokens")).count()
    }

    /// The number of tokens issued so far.
    pub(crate) fn logins(&self) -> usize {
        self.requests().iter().filter(|line| line.contains(" POST /v3/auth/tokens")).count()
    }

    fn folder(&self) -> PathBuf {
        self.dir.path().join("keystone")
    }

    async fn script(&self, command: &str, arguments: &[&OsStr]) {
        let folder = self.folder();
        let mut all = vec![command.as_ref(), folder.as_os_str()];
        all.extend(arguments);
        script("keystone", &all).await;
    }
}

fn password(user: &str) -> Value {
    json!({
        "methods": ["password"],
        "password": {"user": {"name": user, "password": "secret", "domain": {"id": "default"}}},
    })
}

/// Runs one of the scripts in `tests/`, and checks that it succeeds.
pub(super) async fn script(name: &str, arguments: &[&OsStr]) {
    assert!(try_script(name, arguments).await, "tests/{name} {arguments:?}");
}

/// Runs one of the scripts in `tests/`, and returns whether it succeeded.
pub(super) async fn try_script(name: &str, arguments: &[&OsStr]) -> bool {
    let mut command = self::command(name, arguments);
    // The test's other tasks run meanwhile.
    tokio::task::spawn_blocking(move || command.status().unwrap()).await.unwrap().success()
}

/// Runs a script that must succeed, and returns its output.
pub(super) async fn output(name: &str, arguments: &[&OsStr]) -> String {
    let output = try_output(name, arguments).await;
    assert!(output.status.success(), "tests/{name} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs a script that may fail, and returns its output and its exit code.
pub(super) async fn try_output(name: &str, arguments: &[&OsStr]) -> Output {
    let mut command = self::command(name, arguments);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

/// Runs a script at the end of a test, whether or not the test has failed.
pub(super) fn script_at_the_end(name: &str, arguments: &[&OsStr]) {
    let _ = command(name, arguments).status();
}

fn command(name: &str, arguments: &[&OsStr]) -> Command {
    let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(name));
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null());
    command
}

impl Drop for Keystone {
    fn drop(&mut self) {
        if self.running {
            script_at_the_end("keystone", &["kill".as_ref(), self.folder().as_os_str()]);
        }
        if std::thread::panicking() {
            let log = fs::read_to_string(self.folder().join("access.log")).unwrap_or_default();
            eprintln!("what Keystone was asked:\n{log}");
        }
    }
}
