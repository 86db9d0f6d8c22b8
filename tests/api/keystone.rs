//! Tests with tokens of a real Keystone, while it works and while it fails.

use std::{
    io::BufRead as _,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::json;

use crate::support::{Keystone, Proxy, ServerBuilder, TestServer, eventually};

/// Builds a server with `[keystone_authtoken]` as operators write it.
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
async fn tokens_identify_the_caller() {
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
    // Tokens without a project scope.
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

/// The service user logs in with an application credential, as Red Hat's operator configures it, or with a token.
#[tokio::test]
async fn the_service_user_logs_in_with_each_method() {
    let keystone = Keystone::start().await;
    let service = keystone.token("glance", "service").await;
    let issued = keystone.application_credential(&service, None).await;
    let id = keystone.described(&issued).await["application_credential"]["id"].as_str().unwrap().to_owned();
    let member = keystone.token("member1", "p1").await;
    let (id, service) = (id.as_str(), service.as_str());
    for options in [
        // The options for a scope, here and in `with`, remain from a login with a password.
        [("auth_type", "v3applicationcredential"), ("application_credential_id", id), ("system_scope", "all")]
            .as_slice(),
        // The user is the one that `with` names.
        &[("auth_type", "v3applicationcredential"), ("application_credential_name", "c")],
        &[("auth_type", "v3token"), ("token", service)],
        &[("auth_type", "password"), ("system_scope", "all")],
    ] {
        let builder = with(&keystone).option("keystone_authtoken", "application_credential_secret", "s3cret");
        let mut builder = builder.without("keystone_authtoken", "auth_type");
        for (name, value) in options {
            builder = builder.option("keystone_authtoken", name, value);
        }
        if options[1].0 == "system_scope" {
            builder =
                builder.without("keystone_authtoken", "username").option("keystone_authtoken", "user-name", "admin");
        }
        let s = builder.start().await;
        s.client(Some(&member)).get("/v2/images").await.expect(200);
        let shown = s.command(&["config", "show"]).output().unwrap();
        let shown = String::from_utf8(shown.stdout).unwrap();
        assert!(!shown.contains("s3cret") && !shown.contains(service), "{shown}");
    }
}

#[tokio::test]
async fn an_incomplete_keystone_login_is_reported_at_start() {
    let keystone = Keystone::start().await;
    for (options, told) in [
        ([("auth_type", "v3kerberos"), ("token", "x")], "auth_type: \"v3kerberos\" is not supported"),
        ([("auth_type", "v3token"), ("system_scope", "all")], "[keystone_authtoken] token is missing"),
        (
            [("auth_type", "v3applicationcredential"), ("token", "x")],
            "[keystone_authtoken] application_credential_id is missing",
        ),
        (
            [("auth_type", "v3applicationcredential"), ("application_credential_id", "x")],
            "[keystone_authtoken] application_credential_secret is missing",
        ),
        ([("auth_type", "password"), ("system_scope", "some")], "system_scope: \"some\" is not supported"),
    ] {
        let mut command = crate::support::program();
        command.env("OS_GLIMPSE__AUTH", "keystone").env("OS_KEYSTONE_AUTHTOKEN__AUTH_URL", keystone.url());
        command.env("OS_KEYSTONE_AUTHTOKEN__USERNAME", "u").env("OS_KEYSTONE_AUTHTOKEN__PASSWORD", "p");
        for (name, value) in options {
            command.env(format!("OS_KEYSTONE_AUTHTOKEN__{}", name.to_uppercase()), value);
        }
        let output = command.args(["serve", "--port", "0", "--bind", "127.0.0.1"]).output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(1) && error.contains(told), "{told} is not in {error}");
    }
}

#[tokio::test]
async fn concurrent_requests_validate_a_token_once() {
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
    // Invalid tokens are cached as well.
    for _ in 0..5 {
        s.client(Some("nonsense")).get("/v2/images").await.expect(401);
    }
    assert_eq!(keystone.validations() - before, 2);
    // The service token was fetched once, and is reused.
    assert_eq!(keystone.logins() - logins, 1);
}

/// Without the cache, each request validates its token; the service token is still reused.
#[tokio::test]
async fn the_token_cache_can_be_disabled() {
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
async fn cached_tokens_work_while_keystone_is_down_and_others_get_503() {
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
async fn waiting_for_a_frozen_keystone_times_out() {
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

/// Nova is allowed to finish a request of its user even if the user's token has expired meanwhile.
#[tokio::test]
async fn a_service_token_makes_an_expired_user_token_acceptable() {
    let keystone = Keystone::start_with(&[("token", "expiration", "10")]).await;
    let s = with(&keystone).start().await;
    let token = keystone.token("member1", "p1").await;
    let client = s.client(Some(&token));
    client.get("/v2/images").await.expect(200);
    // The token is cached, but not beyond its expiry.
    eventually("the token ends", || async { (client.get("/v2/images").await.status == 401).then_some(()) }).await;
    let beside = |service: String| client.request("GET", "/v2/images").header("X-Service-Token", service);
    client.send(beside(keystone.token("glance", "service").await)).await.expect(200);
    client.send(beside(keystone.token("member2", "p2").await)).await.expect(401);
    client.send(beside("nonsense".to_owned())).await.expect(401);
}

/// A user is allowed to add data on web servers only, and a service on the user's behalf other data, too.
#[tokio::test]
async fn a_service_token_lets_a_member_add_a_location_in_any_store() {
    let keystone = Keystone::start().await;
    let s = with(&keystone).start().await;
    let member = s.client(Some(&keystone.token("member1", "p1").await));
    let image = member.create_image(&json!({"disk_format": "raw", "container_format": "bare"})).await;
    let add = || {
        let request = member.request("POST", &format!("{image}/locations"));
        request.json(&json!({"url": "rbd://cluster/pool/image/snapshot"}))
    };
    member.send(add()).await.expect(403).says("http store must be enabled to use location API by normal user.");
    let other = keystone.token("member2", "p2").await;
    // The token of another user is not that of a service.
    member.send(add().header("X-Service-Token", other)).await.expect(403);
    let service = keystone.token("glance", "service").await;
    member.send(add().header("X-Service-Token", &service)).await.expect(202);
    member.get(&format!("{image}/locations")).await.expect(403);
    s.client(Some(&service)).get(&format!("{image}/locations")).await.expect(200);
}

#[tokio::test]
async fn access_rules_of_an_application_credential_are_enforced() {
    let keystone = Keystone::start().await;
    let s = with(&keystone).start().await;
    let own = keystone.token("member1", "p1").await;
    let free = s.client(Some(&keystone.application_credential(&own, None).await));
    let image = free.create_image(&json!({"tags": ["a"]})).await;
    assert_eq!(s.client(Some(&own)).tags(&image).await, ["a"]);
    let rules = json!([{"service": "image", "method": "GET", "path": "/v2/images"}]);
    // Names of application credentials are unique per user, so another user is needed for another credential.
    let other = keystone.token("member2", "p2").await;
    let restricted = s.client(Some(&keystone.application_credential(&other, Some(&rules)).await));
    restricted.get("/v2/images").await.expect(200);
    restricted.post("/v2/images", &json!({})).await.expect(401);
    restricted.get("/v2/images/4ca46bf1-5c61-48ff-b4f3-0ad4e5e3ba90").await.expect(401);
}

#[tokio::test]
async fn a_trust_grants_its_project_and_roles() {
    let keystone = Keystone::start().await;
    let s = with(&keystone).start().await;
    let trustor = keystone.token("member1", "p1").await;
    let image = s.client(Some(&trustor)).create_image(&json!({"tags": ["a", "b"]})).await;
    let trustee = s.client(Some(&keystone.trust_token(&trustor, "member2", "member").await));
    assert_eq!(trustee.tags(&image).await, ["a", "b"]);
    trustee.delete(&format!("{image}/tags/a")).await.expect(204);
    let reads = s.client(Some(&keystone.trust_token(&trustor, "member2", "reader").await));
    assert_eq!(reads.tags(&image).await, ["b"]);
    reads.delete(&format!("{image}/tags/b")).await.expect(403);
    // Without the trust, the image belongs to another project.
    s.client(Some(&keystone.token("member2", "p2").await)).get(&image).await.expect(404);
}

/// The effect of an additional service token: `service_token_roles_required` and `delay_auth_decision`.
#[tokio::test]
async fn service_tokens_are_checked_as_configured() {
    let keystone = Keystone::start().await;
    let user = keystone.token("member1", "p1").await;
    let (service, other) = (keystone.token("glance", "service").await, keystone.token("member2", "p2").await);
    for (required, delayed, statuses) in [
        (true, true, [200, 200, 200]),
        (true, false, [200, 401, 401]),
        (false, true, [200, 200, 200]),
        (false, false, [200, 200, 401]),
    ] {
        let s = with(&keystone)
            .option("keystone_authtoken", "service_token_roles_required", required)
            .option("keystone_authtoken", "delay_auth_decision", delayed)
            .start()
            .await;
        let client = s.client(Some(&user));
        for (beside, status) in [service.as_str(), &other, "nonsense"].into_iter().zip(statuses) {
            let request = client.request("GET", "/v2/images").header("X-Service-Token", beside);
            let answer = client.send(request).await;
            assert_eq!(answer.status.as_u16(), status, "required {required}, delayed {delayed}: {beside:.8}");
        }
        // A valid service token does not authenticate a caller without a valid user token.
        s.client(Some("nonsense")).get("/v2/images").await.expect(401);
    }
}

#[tokio::test]
async fn a_revoked_token_is_refused_once_its_cache_entry_expires() {
    let keystone = Keystone::start().await;
    let (short, long) = (with(&keystone).option("keystone_authtoken", "token_cache_time", 1), with(&keystone));
    let (short, long) = (short.start().await, long.start().await);
    let token = keystone.token("member1", "p1").await;
    let client = short.client(Some(&token));
    client.get("/v2/images").await.expect(200);
    long.client(Some(&token)).get("/v2/images").await.expect(200);
    keystone.revoke(&token).await;
    eventually("it is refused", || async { (client.get("/v2/images").await.status == 401).then_some(()) }).await;
    long.client(Some(&token)).get("/v2/images").await.expect(200);
}

/// The catalog may contain several endpoints of Keystone.
#[tokio::test]
async fn tokens_are_validated_in_the_configured_region_and_interface() {
    let keystone = Keystone::start().await;
    let (internal, public) = (Proxy::start(&keystone.url()).await, Proxy::start(&keystone.url()).await);
    keystone.another_endpoint("RegionTwo", "internal", &internal.url).await;
    keystone.another_endpoint("RegionTwo", "public", &public.url).await;
    let token = keystone.token("member1", "p1").await;
    let asked = |proxy: &Proxy| proxy.passed().len();
    for (region, interface, asks) in [
        ("RegionOne", "internal", (0, 0)),
        ("RegionTwo", "internal", (1, 0)),
        ("RegionTwo", "public", (1, 1)),
        // If there is no such endpoint, the login URL is used.
        ("RegionThree", "internal", (1, 1)),
    ] {
        let s = with(&keystone)
            .option("keystone_authtoken", "region_name", region)
            .option("keystone_authtoken", "interface", interface)
            .start()
            .await;
        s.client(Some(&token)).get("/v2/images").await.expect(200);
        assert_eq!((asked(&internal), asked(&public)), asks, "{region} {interface}");
        assert_eq!(s.log().contains("has no identity endpoint"), region == "RegionThree");
    }
}

/// A server whose Keystone is behind a proxy, which is in the catalog under its own region.
async fn behind_a_proxy(keystone: &Keystone) -> (Proxy, ServerBuilder) {
    let proxy = Proxy::start(&keystone.url()).await;
    keystone.another_endpoint("Proxied", "internal", &proxy.url).await;
    let server = with(keystone).option("keystone_authtoken", "region_name", "Proxied");
    (proxy, server)
}

#[tokio::test]
async fn a_failed_keystone_request_is_retried_as_configured() {
    let keystone = Keystone::start().await;
    let (proxy, server) = behind_a_proxy(&keystone).await;
    let s = server.option("keystone_authtoken", "http_request_max_retries", 2).start().await;
    let (first, second) = (keystone.token("member1", "p1").await, keystone.token("member1", "p1").await);
    for _ in 0..2 {
        proxy.say_once(502, "away");
    }
    s.client(Some(&first)).get("/v2/images").await.expect(200);
    assert_eq!(proxy.passed().len(), 3);
    for _ in 0..3 {
        proxy.say_once(503, "away");
    }
    let answer = s.client(Some(&second)).get("/v2/images").await.expect(503);
    answer.header("retry-after");
    assert_eq!(proxy.passed().len(), 6);
    assert!(s.log_of(&answer).await.concat().contains("Keystone answered 503"), "{}", s.log());
    s.client(Some(&second)).get("/v2/images").await.expect(200);
}

#[tokio::test]
async fn the_service_token_is_replaced_when_keystone_refuses_it() {
    let keystone = Keystone::start().await;
    let (proxy, server) = behind_a_proxy(&keystone).await;
    let s = server.start().await;
    let (first, second) = (keystone.token("member1", "p1").await, keystone.token("reader1", "p1").await);
    s.client(Some(&first)).get("/v2/images").await.expect(200);
    let own = proxy.passed()[0].headers["x-auth-token"].to_str().unwrap().to_owned();
    keystone.revoke(&own).await;
    let logins = keystone.logins();
    s.client(Some(&second)).get("/v2/images").await.expect(200);
    assert_eq!(keystone.logins() - logins, 1);
    let asked = proxy.passed();
    let tokens: Vec<_> = asked.iter().map(|request| request.headers["x-auth-token"].to_str().unwrap()).collect();
    assert_eq!(tokens.len(), 3);
    assert!(tokens[1] == own && tokens[2] != own);
    assert!(asked.iter().all(|request| request.method == "GET" && request.path.starts_with("/v3/auth/tokens")));
    // A Keystone that refuses every service token is not retried forever.
    for _ in 0..2 {
        proxy.say_once(401, "no");
    }
    let third = keystone.token("member2", "p2").await;
    let answer = s.client(Some(&third)).get("/v2/images").await.expect(503);
    assert!(s.log_of(&answer).await.concat().contains("Keystone refuses the user"), "{}", s.log());
    assert_eq!(proxy.passed().len(), 5);
}

#[tokio::test]
async fn the_length_of_keystones_answers_is_limited() {
    let keystone = Keystone::start().await;
    let (proxy, server) = behind_a_proxy(&keystone).await;
    let s = server.start().await;
    let client = s.client(Some(&keystone.token("member1", "p1").await));
    for (said, told) in
        [(" ".repeat(5 * 1024 * 1024), "is longer than 4194304 bytes"), ("{}".to_owned(), "cannot be read")]
    {
        proxy.say_once(200, said);
        let answer = client.get("/v2/images").await.expect(503);
        answer.header("retry-after");
        assert!(!answer.text.contains("eystone"), "{}", answer.text);
        assert!(s.log_of(&answer).await.concat().contains(told), "{told}: {}", s.log());
    }
    client.get("/v2/images").await.expect(200);
}

/// As some operators write it: the paste file's filter has the options of the API, and `auth_section` names a section
/// with the login.
#[tokio::test]
async fn a_paste_file_and_auth_section_configure_the_keystone_login() {
    let keystone = Keystone::start().await;
    let dir = tempfile::tempdir().unwrap();
    let paste = dir.path().join("paste.ini");
    let text = "[pipeline:glance-api-keystone]\npipeline = authtoken context rootapp\n[filter:authtoken]\n\
        paste.filter_factory = keystonemiddleware.auth_token:filter_factory\nwww_authenticate_uri = http://from.paste/v3\n";
    std::fs::write(&paste, text).unwrap();
    let mut server = with(&keystone).option("paste_deploy", "config_file", paste.display()).option(
        "keystone_authtoken",
        "auth_section",
        "service_user",
    );
    for name in ["username", "password", "auth_url", "project_name"] {
        server = server.without("keystone_authtoken", name).option("keystone_authtoken", name, "wrong");
    }
    let right =
        [("username", "glance"), ("password", "secret"), ("auth_url", &keystone.url()), ("project_name", "service")];
    for (name, value) in right {
        server = server.option("service_user", name, value);
    }
    let s = server.start().await;
    let client = s.client(Some(&keystone.token("member1", "p1").await));
    client.get("/v2/images").await.expect(200);
    let challenge = s.anonymous().get("/v2/images").await.expect(401);
    assert_eq!(challenge.header("www-authenticate"), "Keystone uri=\"http://from.paste/v3\"");
    // The filter does not set `delay_auth_decision`, so it is false.
    client.send(client.request("GET", "/v2/images").header("X-Service-Token", "nonsense")).await.expect(401);
    assert!(s.log().contains("[keystone_authtoken] username has no effect: auth_section names [service_user] for it"));
}

#[tokio::test]
async fn a_wrong_service_password_is_reported_only_in_the_log() {
    let keystone = Keystone::start().await;
    let s = with(&keystone).option("keystone_authtoken", "password", "wr0ng").start().await;
    let token = keystone.token("member1", "p1").await;
    let answer = s.client(Some(&token)).get("/v2/images").await.expect(503);
    assert!(!answer.text.contains("eystone"), "{}", answer.text);
    let log = s.log_of(&answer).await.concat();
    assert!(log.contains("Keystone refuses the user of [keystone_authtoken]"), "{log}");
    assert!(!s.log().contains("wr0ng"));
    // The login is not retried for every request, because Keystone may lock the user out.
    let logins = keystone.logins();
    for _ in 0..3 {
        s.client(Some(&token)).get("/v2/images").await.expect(503);
    }
    assert_eq!(keystone.logins(), logins);
}

#[tokio::test]
async fn missing_keystone_options_are_reported_at_start() {
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

/// A TLS proxy in front of a server on this machine. Its certificate is trusted only through `cert.pem` in its folder.
struct Tls {
    dir: tempfile::TempDir,
    port: u16,
    process: std::process::Child,
}

impl Tls {
    fn start(to: u16) -> Self {
        let dir = tempfile::tempdir().unwrap();
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
            \x20   server = socket.create_connection(('127.0.0.1', int(sys.argv[1])))\n\
            \x20   threading.Thread(target=pump, args=(client, server), daemon=True).start()\n\
            \x20   pump(server, client)\n\
            listener = socket.create_server(('127.0.0.1', 0))\n\
            print(listener.getsockname()[1], flush=True)\n\
            while True: threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()";
        let mut python = Command::new("python3");
        python.args(["-c", script, &to.to_string()]).current_dir(dir.path()).stderr(Stdio::null());
        let mut process = python.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        std::io::BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Self { dir, port: line.trim().parse().unwrap(), process }
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
async fn keystones_certificate_is_verified_unless_insecure_is_set() {
    let keystone = Keystone::start().await;
    let port = keystone.url().trim_end_matches("/v3").rsplit(':').next().unwrap().parse().unwrap();
    let tls = Tls::start(port);
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
