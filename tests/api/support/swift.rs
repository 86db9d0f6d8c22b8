//! Swift's own API on the server of [`S3`], with TempAuth or with a Keystone.

use serde_json::{Value, json};

use super::{S3, keystone::Keystone};

/// A running Swift, with the container `images` in the account that Glimpse uses.
pub(crate) struct Swift {
    pub(crate) server: S3,
    /// `AUTH_…`
    account: String,
    login: Login,
}

enum Login {
    /// TempAuth, at `/auth/v1.0`.
    TempAuth,
    /// A Keystone, at this URL.
    Keystone(String),
}

impl Swift {
    /// Starts a Swift with TempAuth.
    pub(crate) async fn start() -> Self {
        Self { server: S3::start().await, account: "AUTH_test".to_owned(), login: Login::TempAuth }
    }

    /// Starts a Swift whose users are a Keystone's, and adds it to the catalog.
    pub(crate) async fn start_with(keystone: &Keystone) -> Self {
        let server = S3::start_with(Some(keystone)).await;
        keystone.add_service("object-store", &format!("{}/v1/AUTH_$(project_id)s", server.base())).await;
        let token = keystone.token("glance", "service").await;
        let account = format!("AUTH_{}", keystone.described(&token).await["project"]["id"].as_str().unwrap());
        let swift = Self { server, account, login: Login::Keystone(keystone.url()) };
        swift.request("PUT", "images", &[]).await;
        swift
    }

    /// The address of the login, through this server or a proxy in front of it.
    pub(crate) fn auth_address(&self, base: &str) -> String {
        match &self.login {
            Login::TempAuth => format!("{base}/auth/v1.0"),
            Login::Keystone(url) => url.clone(),
        }
    }

    /// The user and the key of Glimpse.
    pub(crate) fn user(&self) -> &'static str {
        match self.login {
            Login::TempAuth => "test:glance",
            Login::Keystone(_) => "service:glance",
        }
    }

    /// The options of a store on this server, or on a proxy in front of it. Objects from 2,048,000 bytes on have segments of
    /// 1,024,000 bytes.
    pub(crate) fn options(&self, base: &str) -> Vec<(&'static str, &'static str, String)> {
        let mut options: Vec<_> = [
            ("DEFAULT", "enabled_backends", "swift:swift"),
            ("glance_store", "default_backend", "swift"),
            ("swift", "swift_store_auth_address", &self.auth_address(base)),
            ("swift", "swift_store_user", self.user()),
            ("swift", "swift_store_key", "secret"),
            ("swift", "swift_store_container", "images"),
            ("swift", "swift_store_large_object_size", "2"),
            ("swift", "swift_store_large_object_chunk_size", "1"),
        ]
        .map(|(group, name, value)| (group, name, value.to_owned()))
        .into();
        match self.login {
            Login::TempAuth => options.push(("swift", "swift_store_auth_version", "1".to_owned())),
            Login::Keystone(_) if base != self.server.base() => {
                options.push(("swift", "swift_store_endpoint", format!("{base}/v1/{}", self.account)));
            }
            Login::Keystone(_) => {}
        }
        options
    }

    /// Sends a request to a path in the account without a login, and returns the headers and the body of the response.
    pub(crate) async fn request(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> (Value, String) {
        self.request_in(&self.account, method, path, headers).await
    }

    /// Like [`Swift::request`], in any account.
    pub(crate) async fn request_in(
        &self,
        account: &str,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
    ) -> (Value, String) {
        let url = format!("{}/account/{account}/{path}", self.server.base());
        let mut request = self.server.http.request(method.parse().unwrap(), url);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = request.send().await.unwrap();
        let status = response.status().as_u16();
        let mut found = json!({ "status": status });
        for (name, value) in response.headers() {
            found[name.as_str()] = value.to_str().unwrap().into();
        }
        (found, response.text().await.unwrap())
    }

    /// The names of the objects in a container of the account, including segments and markers.
    pub(crate) async fn names(&self, container: &str) -> Vec<String> {
        let (head, body) = self.request("GET", container, &[]).await;
        assert!([200, 204, 404].contains(&head["status"].as_i64().unwrap()), "{head}");
        if head["status"] == 404 { Vec::new() } else { body.lines().map(str::to_owned).collect() }
    }

    /// The names of the objects in the container `images`.
    pub(crate) async fn objects(&self) -> Vec<String> {
        self.names("images").await
    }

    /// Makes all tokens of TempAuth invalid.
    pub(crate) async fn forget_tokens(&self) {
        self.server.http.get(format!("{}/forget-tokens", self.server.base())).send().await.unwrap();
    }
}
