//! Tokens of a real Keystone, through its good days and its bad ones.

use std::{
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::json;

use crate::support::{Keystone, ServerBuilder, TestServer, eventually};

/// As deployers write it.
pub(crate) fn with(keystone: &Keystone) -> ServerBuilder {
    let options = [
        ("auth_type", "password"),
        ("username", "glance"),
        ("password", "secret"),
        ("user_domain_name", "Default"),
        ("project_name", "service"),
        ("project_domain_name", "Default"),
        ("www_authenticate_uri", "http://keystone.example/v3"),
        ("service_type", "image"),
    ];
    let builder = TestServer::builder()
        .without("glimpse", "auth")
        .option("DEFAULT", "bind_host", "127.0.0.1")
        .option("paste_deploy", "flavor", "keystone")
        .option("keystone_authtoken", "auth_url", keystone.url());
    options.into_iter().fold(builder, |builder, (name, value)| builder.option("keystone_authtoken", name, value))
}

#[tokio::test]
async fn tokens_say_who_asks() {
    let keystone = Keystone::start().await;
    let s = with(&keystone).start().await;
    let member = s.client(Some(&keystone.token("member1", "p1").await));
    let reader = s.client(Some(&keystone.token("reader1", "p1").await));
    let other = s.client(Some(&keystone.token("member2", "p2").await));
    let admin = s.client(Some(&keystone.token("admin", "admin").await));
    let image = member.create_image(&json!({"tags": ["a", "b"]})).await;
    assert_eq!(reader.tags(&image).await, ["a", "b"]);
    reader.delete(&format!("{image}/tags/a")).await.expect(403);
    other.delete(&format!("{image}/tags/a")).await.expect(404);
    member.delete(&format!("{image}/tags/a")).await.expect(204);
    admin.delete(&format!("{image}/tags/b")).await.expect(204);
    assert_eq!(member.get(&image).await.json()["owner"].as_str().unwrap().len(), 32);
    for nobody in [s.anonymous(), s.client(Some("nonsense")), s.client(Some(&"x".repeat(5000)))] {
        let answer = nobody.get(&image).await.expect(401);
        assert_eq!(answer.header("www-authenticate"), "Keystone uri=\"http://keystone.example/v3\"");
    }
    // Tokens that are for no project.
    for token in
        [keystone.system_token().await, keystone.domain_token().await, keystone.unscoped_token("member1").await]
    {
        let client = s.client(Some(&token));
        client.get("/v2/images").await.expect(403);
        client.post("/v2/images", &json!({})).await.expect(403);
    }
    let revoked = keystone.token("member1", "p1").await;
    keystone.revoke(&revoked).await;
    s.client(Some(&revoked)).get(&image).await.expect(401);
    for secret in ["secret", &revoked] {
        assert!(!s.log().contains(secret), "{secret}");
    }
}

#[tokio::test]
async fn however_many_requests_wait_a_token_is_validated_once() {
    let keystone = Keystone::start().await;
    let s = with(&keystone).start().await;
    let token = keystone.token("member1", "p1").await;
    let before = keystone.validations();
    let logins = keystone.logins();
    let client = s.client(Some(&token));
    let calls = (0..200).map(|_| {
        let client = client.clone();
        tokio::spawn(async move { client.get("/v2/images").await })
    });
    for call in calls.collect::<Vec<_>>() {
        call.await.unwrap().expect(200);
    }
    assert_eq!(keystone.validations() - before, 1);
    // That there is no such token is remembered too.
    for _ in 0..5 {
        s.client(Some("nonsense")).get("/v2/images").await.expect(401);
    }
    assert_eq!(keystone.validations() - before, 2);
    // Our own token was fetched once, and is used again.
    assert_eq!(keystone.logins() - logins, 1);
}

/// Without a memory, each request asks; our own token is still used again.
#[tokio::test]
async fn an_operator_may_have_nothing_remembered() {
    let keystone = Keystone::start().await;
    let s = with(&keystone).option("keystone_authtoken", "token_cache_time", -1).start().await;
    let client = s.client(Some(&keystone.token("member1", "p1").await));
    let (validations, logins) = (keystone.validations(), keystone.logins());
    for _ in 0..3 {
        client.get("/v2/images").await.expect(200);
    }
    assert_eq!(keystone.validations() - validations, 3);
    assert_eq!(keystone.logins() - logins, 1);
}

#[tokio::test]
async fn while_keystone_is_away_known_tokens_work_and_others_wait() {
    let mut keystone = Keystone::start().await;
    let s = with(&keystone).option("keystone_authtoken", "http_request_max_retries", 1).start().await;
    let (known, unknown) = (keystone.token("member1", "p1").await, keystone.token("member1", "p1").await);
    let (known, unknown) = (s.client(Some(&known)), s.client(Some(&unknown)));
    known.get("/v2/images").await.expect(200);
    keystone.kill().await;
    for _ in 0..2 {
        let start = Instant::now();
        let answer = unknown.get("/v2/images").await.expect(503);
        assert!(answer.header("retry-after").parse::<u32>().is_ok());
        assert!(!answer.text.contains("eystone"), "{}", answer.text);
        assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
        known.get("/v2/images").await.expect(200);
    }
    keystone.start_again().await;
    eventually("Keystone is back", || async { (unknown.get("/v2/images").await.status == 200).then_some(()) }).await;
}

#[tokio::test]
async fn a_keystone_that_says_nothing_is_waited_for_within_bounds() {
    let keystone = Keystone::start().await;
    let s = with(&keystone).option("glimpse", "request_timeout", 2).start().await;
    let token = keystone.token("member1", "p1").await;
    keystone.freeze().await;
    let start = Instant::now();
    s.client(Some(&token)).get("/v2/images").await.expect(503).header("retry-after");
    assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
    keystone.thaw().await;
    let client = s.client(Some(&token));
    eventually("Keystone is back", || async { (client.get("/v2/images").await.status == 200).then_some(()) }).await;
}

/// Nova may finish what its user began, though the user's token has ended meanwhile.
#[tokio::test]
async fn a_service_finishes_with_an_expired_token_what_its_user_began() {
    let keystone = Keystone::start_with(&[("token", "expiration", "10")]).await;
    let s = with(&keystone).start().await;
    let token = keystone.token("member1", "p1").await;
    let client = s.client(Some(&token));
    client.get("/v2/images").await.expect(200);
    // Remembered, but not past its end.
    eventually("the token ends", || async { (client.get("/v2/images").await.status == 401).then_some(()) }).await;
    let beside = |service: String| client.request("GET", "/v2/images").header("X-Service-Token", service);
    client.send(beside(keystone.token("glance", "service").await)).await.expect(200);
    client.send(beside(keystone.token("member2", "p2").await)).await.expect(401);
    client.send(beside("nonsense".to_owned())).await.expect(401);
}

#[tokio::test]
async fn an_application_credential_is_held_to_its_access_rules() {
    let keystone = Keystone::start().await;
    let s = with(&keystone).start().await;
    let own = keystone.token("member1", "p1").await;
    let client = keystone.client(Some(&own));
    let me = client.send(client.request("GET", "/auth/tokens").header("X-Subject-Token", &own)).await.expect(200);
    let user = me.json()["token"]["user"]["id"].as_str().unwrap().to_owned();
    let rules = json!([{"service": "image", "method": "GET", "path": "/v2/images"}]);
    let credential = json!({"application_credential": {"name": "c", "secret": "s3cret", "access_rules": rules}});
    let made = client.post(&format!("/users/{user}/application_credentials"), &credential).await.expect(201);
    let id = made.json()["application_credential"]["id"].clone();
    let method =
        json!({"methods": ["application_credential"], "application_credential": {"id": id, "secret": "s3cret"}});
    let restricted = s.client(Some(&keystone.issue(&json!({ "identity": method })).await));
    restricted.get("/v2/images").await.expect(200);
    restricted.post("/v2/images", &json!({})).await.expect(401);
    restricted.get("/v2/images/4ca46bf1-5c61-48ff-b4f3-0ad4e5e3ba90").await.expect(401);
}

#[tokio::test]
async fn a_wrong_password_of_ours_is_told_in_the_log_alone() {
    let keystone = Keystone::start().await;
    let s = with(&keystone).option("keystone_authtoken", "password", "wr0ng").start().await;
    let token = keystone.token("member1", "p1").await;
    let answer = s.client(Some(&token)).get("/v2/images").await.expect(503);
    assert!(!answer.text.contains("eystone"), "{}", answer.text);
    let log = s.log_of(&answer).await.concat();
    assert!(log.contains("Keystone refuses the user of [keystone_authtoken]"), "{log}");
    assert!(!s.log().contains("wr0ng"));
    // It is not tried again for every request: Keystone may lock a user out.
    let logins = keystone.logins();
    for _ in 0..3 {
        s.client(Some(&token)).get("/v2/images").await.expect(503);
    }
    assert_eq!(keystone.logins(), logins);
}

#[tokio::test]
async fn what_is_missing_for_keystone_is_told_at_start() {
    let s = TestServer::start().await;
    let output = s
        .command(&["serve"])
        .env("OS_GLIMPSE__AUTH", "keystone")
        .env("OS_KEYSTONE_AUTHTOKEN__AUTH_URL", "http://127.0.0.1:1")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(error.contains("[keystone_authtoken] username is missing"), "{error}");
}

/// TLS in front of a server on this machine, with a certificate that nobody but its folder's `cert.pem` vouches for.
struct Tls {
    dir: tempfile::TempDir,
    port: u16,
    process: std::process::Child,
}

impl Tls {
    async fn start(to: u16) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let line = "openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=localhost \
            -addext subjectAltName=DNS:localhost -addext basicConstraints=critical,CA:FALSE -keyout key.pem -out cert.pem";
        let made = Command::new("sh").args(["-c", line]).current_dir(dir.path()).output().unwrap();
        assert!(made.status.success(), "{made:?}");
        let script = "import socket, ssl, sys, threading\n\
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER); context.load_cert_chain('cert.pem', 'key.pem')\n\
            def pump(a, b):\n\
            \x20   while data := a.recv(65536): b.sendall(data)\n\
            \x20   b.close()\n\
            def serve(client):\n\
            \x20   try: client = context.wrap_socket(client, server_side=True)\n\
            \x20   except OSError: return\n\
            \x20   server = socket.create_connection(('127.0.0.1', int(sys.argv[2])))\n\
            \x20   threading.Thread(target=pump, args=(client, server), daemon=True).start()\n\
            \x20   pump(server, client)\n\
            listener = socket.create_server(('127.0.0.1', int(sys.argv[1])))\n\
            while True: threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()";
        let mut python = Command::new("python3");
        python.args(["-c", script, &port.to_string(), &to.to_string()]).current_dir(dir.path()).stderr(Stdio::null());
        let tls = Self { dir, port, process: python.spawn().unwrap() };
        eventually("TLS listens", || async { tokio::net::TcpStream::connect(("127.0.0.1", port)).await.ok() }).await;
        tls
    }

    fn url(&self) -> String {
        format!("https://localhost:{}/v3", self.port)
    }

    fn certificate(&self) -> String {
        self.dir.path().join("cert.pem").display().to_string()
    }
}

impl Drop for Tls {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[tokio::test]
async fn keystones_certificate_is_checked_unless_the_operator_says_otherwise() {
    let keystone = Keystone::start().await;
    let port = keystone.url().trim_end_matches("/v3").rsplit(':').next().unwrap().parse().unwrap();
    let tls = Tls::start(port).await;
    let token = keystone.token("member1", "p1").await;
    let over_tls = || {
        with(&keystone)
            .without("keystone_authtoken", "auth_url")
            .option("keystone_authtoken", "auth_url", tls.url())
            .option("keystone_authtoken", "http_request_max_retries", 0)
    };
    let cases = [
        (over_tls(), 503),
        (over_tls().option("keystone_authtoken", "cafile", tls.certificate()), 200),
        (over_tls().option("keystone_authtoken", "insecure", "true"), 200),
    ];
    for (server, status) in cases {
        let s = server.start().await;
        s.client(Some(&token)).get("/v2/images").await.expect(status);
    }
    let s = TestServer::start().await;
    let wrong = s
        .command(&["serve"])
        .env("OS_GLIMPSE__AUTH", "keystone")
        .envs(["AUTH_URL", "USERNAME", "PASSWORD"].map(|name| (format!("OS_KEYSTONE_AUTHTOKEN__{name}"), "http://x")))
        .env("OS_KEYSTONE_AUTHTOKEN__CAFILE", tls.dir.path().join("missing.pem"))
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&wrong.stderr).into_owned();
    assert!(error.contains("[keystone_authtoken] cafile") && error.contains("No such file"), "{error}");
}
