//! Tests of authentication in standalone mode, behind a proxy, and without authentication.

use std::{
    fs::{self, File},
    path::Path,
    process::Command,
};

use serde_json::json;

use crate::support::{Client, Running, TestServer, eventually, mode, program};

/// Starts a standalone server as a new user does, in an empty folder, and returns it with what it printed on the
/// terminal.
async fn first_start(dir: &Path) -> (Running, String) {
    let mut command = program();
    command.current_dir(dir).env("OS_DEFAULT__BIND_PORT", "0");
    start(command, dir).await
}

async fn start(command: Command, dir: &Path) -> (Running, String) {
    let terminal = dir.join("terminal");
    let running = Running::start(command, Some(File::create(&terminal).unwrap())).await;
    (running, fs::read_to_string(terminal).unwrap())
}

fn secret(terminal: &str, user: &str) -> String {
    let at = terminal.find(&format!("OS_USERNAME={user} OS_PASSWORD=")).unwrap();
    let line = terminal[at..].lines().next().unwrap();
    line.rsplit('=').next().unwrap().to_owned()
}

/// `base64(user:password)`
fn token(user: &str, password: &str) -> String {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    STANDARD.encode(format!("{user}:{password}"))
}

fn basic(client: &Client, user: &str, password: &str) -> reqwest::RequestBuilder {
    client.request("GET", "/v2/images").basic_auth(user, Some(password))
}

#[tokio::test]
async fn the_first_start_creates_users_and_prints_their_secrets_once() {
    let dir = tempfile::tempdir().unwrap();
    let (server, terminal) = first_start(dir.path()).await;
    let base = &server.base;
    let data = dir.path().join("glimpse-data");
    let file = data.join("identity.toml");
    assert_eq!(mode(&file), 0o600);
    assert_eq!(mode(&data), 0o700);
    let stored = fs::read_to_string(&file).unwrap();
    for project in ["admin", "demo"] {
        let exports = format!(
            "unset ${{!OS_*}}\nexport OS_AUTH_TYPE=password OS_AUTH_URL={base}/v3 OS_PROJECT_NAME={project}\n\
             export OS_USER_DOMAIN_NAME=Default OS_PROJECT_DOMAIN_NAME=Default\n"
        );
        assert!(terminal.contains(&exports), "{terminal}");
    }
    let cloud = format!("  \"demo\":\n    auth_type: password\n    auth:\n      auth_url: \"{base}/v3\"\n");
    assert!(terminal.contains("\nclouds:\n  \"admin\":\n") && terminal.contains(&cloud), "{terminal}");
    let nobody = Client::new(base, None);
    for (user, project) in [("admin", "admin"), ("demo", "demo")] {
        let password = secret(&terminal, user);
        assert!(!stored.contains(&password) && !server.log().contains(&password));
        nobody.send(basic(&nobody, user, &password)).await.expect(200);
        // The same secret, as a token.
        let holder = Client::new(base, Some(&token(user, &password)));
        let image = holder.create_image(&json!({})).await;
        assert_eq!(holder.get(&image).await.json()["owner"], project);
        // Wrong credentials.
        nobody.send(basic(&nobody, user, "wrong")).await.expect(401);
        nobody.send(basic(&nobody, user, &stored)).await.expect(401);
        for wrong in [user.to_owned(), format!("{user}:{password}"), token(user, "wrong")] {
            Client::new(base, Some(&wrong)).get("/v2/images").await.expect(401);
        }
    }
    let admin = Client::new(base, Some(&token("admin", &secret(&terminal, "admin"))));
    assert_eq!(admin.get("/v2/images").await.json()["images"].as_array().unwrap().len(), 2);
    let challenge = nobody.get("/v2/images").await.expect(401);
    assert!(challenge.header("www-authenticate").starts_with("Basic realm="));
    assert!(challenge.text.contains("`glimpse identity list` lists them"), "{}", challenge.text);
    nobody.send(basic(&nobody, "nobody", "wrong")).await.expect(401);
    for value in ["Basic !!!", "Basic", "Bearer x", "basic Og=="] {
        nobody.send(nobody.request("GET", "/v2/images").header("Authorization", value)).await.expect(401);
    }
    drop(server);
    // The second start creates and prints nothing. This time, the environment sets the data directory.
    let mut command = program();
    command.env("GLIMPSE_DATA_DIR", &data).env("OS_DEFAULT__BIND_PORT", "0");
    let (server, again) = start(command, dir.path()).await;
    let base = &server.base;
    assert_eq!(again, "");
    let users = "the users are admin, demo; `glimpse identity passwd NAME` sets a new password";
    assert!(server.log().contains(users), "{}", server.log());
    assert_eq!(fs::read_to_string(&file).unwrap(), stored);
    let admin = Client::new(base, Some(&token("admin", &secret(&terminal, "admin"))));
    assert_eq!(admin.get("/v2/images").await.json()["images"].as_array().unwrap().len(), 2);
}

/// Secrets are shown once, so they must not be shown by a start that fails.
#[tokio::test]
async fn a_first_start_on_a_port_in_use_shows_no_secret_and_names_the_option() {
    let dir = tempfile::tempdir().unwrap();
    let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = other.local_addr().unwrap().port().to_string();
    let serve = |arguments: &[&str]| {
        let output = program().current_dir(dir.path()).arg("serve").args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(output.stdout.is_empty());
        String::from_utf8(output.stderr).unwrap()
    };
    let error = serve(&["--port", &port]);
    let refusal = format!("cannot listen on 127.0.0.1:{port}: Address already in use");
    let advice = "choose another port with `glimpse serve --port`, or with [DEFAULT] bind_port";
    assert!(error.contains(&refusal) && error.contains(advice), "{error}");
    let error = serve(&["--bind", "no.such.host.invalid"]);
    assert!(error.contains("choose another address with `glimpse serve --bind`"), "{error}");
    assert!(!dir.path().join("glimpse-data").exists());
    drop(other);
    let mut command = program();
    command.current_dir(dir.path()).args(["serve", "--port", &port, "--bind", "127.0.0.1"]);
    let (server, terminal) = start(command, dir.path()).await;
    assert_eq!(server.base, format!("http://127.0.0.1:{port}"));
    assert!(terminal.contains("OS_USERNAME=demo"), "{terminal}");
}

#[tokio::test]
async fn a_changed_password_replaces_the_old_one_without_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let (server, terminal) = first_start(dir.path()).await;
    let base = &server.base;
    let old = Client::new(base, Some(&token("demo", &secret(&terminal, "demo"))));
    old.get("/v2/images").await.expect(200);
    let passwd = program().current_dir(dir.path()).args(["identity", "passwd", "demo"]).output();
    let new = secret(&String::from_utf8(passwd.unwrap().stdout).unwrap(), "demo");
    let new = Client::new(base, Some(&token("demo", &new)));
    eventually("the new password counts", || async { (new.get("/v2/images").await.status == 200).then_some(()) }).await;
    old.get("/v2/images").await.expect(401);
    // An unreadable file is reported, and changes nothing.
    let file = dir.path().join("glimpse-data/identity.toml");
    fs::write(&file, "[users.demo]\nproject = 'x'\n").unwrap();
    eventually("the broken file is noticed", || async {
        new.get("/v2/images").await.expect(200);
        server.log().contains("identity file was changed and cannot be read").then_some(())
    })
    .await;
    new.get("/v2/images").await.expect(200);
}

#[tokio::test]
async fn guessing_at_one_users_password_keeps_no_other_user_out() {
    let dir = tempfile::tempdir().unwrap();
    let (server, terminal) = first_start(dir.path()).await;
    let base = server.base.clone();
    let guess = |n: usize| {
        let base = base.clone();
        async move {
            Client::new(&base, Some(&token("admin", &format!("guess {n}")))).get("/v2/images").await.status.as_u16()
        }
    };
    let guesses: Vec<_> = (0..400).map(|n| tokio::spawn(guess(n))).collect();
    eventually("the guesses are being verified", || async {
        guesses.iter().any(tokio::task::JoinHandle::is_finished).then_some(())
    })
    .await;
    let demo = Client::new(&base, Some(&token("demo", &secret(&terminal, "demo"))));
    demo.get("/v2/images").await.expect(200);
    let mut answers = Vec::new();
    for guess in guesses {
        answers.push(guess.await.unwrap());
    }
    // The queue of guesses was full when the other user came.
    assert!(answers.iter().all(|status| [401, 503].contains(status)) && answers.contains(&503), "{answers:?}");
}

#[tokio::test]
async fn a_file_of_users_that_is_replaced_is_read_even_if_its_modification_time_is_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let (server, terminal) = first_start(dir.path()).await;
    let demo = Client::new(&server.base, Some(&token("demo", &secret(&terminal, "demo"))));
    demo.get("/v2/images").await.expect(200);
    let file = dir.path().join("glimpse-data/identity.toml");
    let modified = fs::metadata(&file).unwrap().modified().unwrap();
    let new = file.with_extension("restored");
    fs::write(&new, fs::read_to_string(&file).unwrap().replace("[users.demo]", "[users.demi]")).unwrap();
    File::options().write(true).open(&new).unwrap().set_modified(modified).unwrap();
    fs::rename(&new, &file).unwrap();
    eventually("the file is read", || async { (demo.get("/v2/images").await.status == 401).then_some(()) }).await;
}

/// Whatever the umask of the shell is.
#[tokio::test]
async fn other_users_of_the_machine_have_no_access_to_created_files() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("glimpse-data");
    fs::create_dir(&data).unwrap();
    fs::set_permissions(&data, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let mut command = Command::new("sh");
    command.args(["-c", "umask 0; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_glimpse"), "serve"]).current_dir(dir.path());
    command.env_clear().env("OS_DEFAULT__BIND_PORT", "0").env("OS_GLANCE_CONFIG_DIR", "/dev/null");
    let (server, terminal) = start(command, dir.path()).await;
    let warning = "other users of this machine have access to the data directory glimpse-data: run `chmod o-rwx";
    assert!(server.log().contains(warning), "{}", server.log());
    let demo = Client::new(&server.base, Some(&token("demo", &secret(&terminal, "demo"))));
    let image = demo.create_image(&json!({"disk_format": "raw", "container_format": "bare"})).await;
    let upload = demo.request("PUT", &format!("{image}/file")).header("content-type", "application/octet-stream");
    demo.send(upload.body("data")).await.expect(204);
    let stored = data.join("images").join(image.rsplit('/').next().unwrap());
    for (path, expected) in [
        (data.join("identity.toml"), 0o600),
        (data.join("glimpse.sqlite"), 0o640),
        (data.join("glimpse.sqlite-wal"), 0o640),
        (data.join("glimpse.sqlite-shm"), 0o640),
        (data.join("images"), 0o750),
        (stored, 0o640),
    ] {
        assert_eq!(mode(&path), expected, "{}", path.display());
    }
}

/// bcrypt takes tens of milliseconds of CPU time. The test compares the server's CPU time instead of elapsed time.
#[tokio::test]
async fn a_verified_credential_is_cached() {
    let dir = tempfile::tempdir().unwrap();
    let (server, terminal) = first_start(dir.path()).await;
    let (base, pid) = (&server.base, server.id());
    let cpu = || {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    };
    let demo = Client::new(base, Some(&token("demo", &secret(&terminal, "demo"))));
    demo.get("/v2/schemas/image").await.expect(200);
    let before = cpu();
    for n in 0..20 {
        Client::new(base, Some(&token("demo", &format!("wrong {n}")))).get("/v2/schemas/image").await.expect(401);
    }
    let unknown = cpu() - before;
    let before = cpu();
    for _ in 0..20 {
        demo.get("/v2/schemas/image").await.expect(200);
    }
    let known = cpu() - before;
    assert!(known * 4 < unknown, "20 known credentials cost {known} ticks, 20 unknown ones {unknown}");
}

#[tokio::test]
async fn concurrent_first_starts_agree_on_the_users() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (dir.path().join("one"), dir.path().join("two"));
    let command = || {
        let mut command = program();
        command.arg("--data-dir").arg(dir.path().join("data")).env("OS_DEFAULT__BIND_PORT", "0");
        command
    };
    let (one, two) = tokio::join!(
        Running::start(command(), Some(File::create(&one).unwrap())),
        Running::start(command(), Some(File::create(&two).unwrap())),
    );
    let shown = ["one", "two"].map(|name| fs::read_to_string(dir.path().join(name)).unwrap()).concat();
    assert_eq!(shown.matches("OS_USERNAME=admin").count(), 1, "{shown}");
    for base in [&one.base, &two.base] {
        let admin = Client::new(base, Some(&token("admin", &secret(&shown, "admin"))));
        admin.create_image(&json!({})).await;
    }
}

#[tokio::test]
async fn a_trusted_proxy_identifies_the_caller() {
    // Only this machine can reach a loopback address.
    let s = TestServer::builder().option("glimpse", "auth", "proxy").start().await;
    assert!(!s.log().contains("[glimpse] auth = proxy"), "{}", s.log());
    let proxy = TestServer::builder().option("glimpse", "auth", "proxy");
    let s = proxy.option("DEFAULT", "bind_host", "0.0.0.0").start().await;
    assert!(s.log().contains("[glimpse] auth = proxy"), "{}", s.log());
    let nobody = s.anonymous();
    let with = |headers: &[(&str, &str)]| {
        headers
            .iter()
            .fold(nobody.request("POST", "/v2/images").json(&json!({})), |r, (name, value)| r.header(*name, *value))
    };
    nobody.send(with(&[("X-Project-Id", "p"), ("X-Roles", "member")])).await.expect(401);
    nobody.send(with(&[("X-Identity-Status", "Invalid"), ("X-Project-Id", "p")])).await.expect(401);
    let confirmed = ("X-Identity-Status", "Confirmed");
    for project in ["X-Project-Id", "X-Tenant-Id"] {
        let request = with(&[confirmed, ("X-User-Id", "u"), (project, "p"), ("X-Roles", "Member, reader")]);
        assert_eq!(nobody.send(request).await.expect(201).json()["owner"], "p");
    }
    nobody.send(with(&[confirmed, ("X-Project-Id", "p"), ("X-Roles", "reader")])).await.expect(403);
}

/// The proxy sets each header once; another one is from the client.
#[tokio::test]
async fn a_repeated_identity_header_is_refused() {
    let s = TestServer::builder().option("glimpse", "auth", "proxy").start().await;
    let nobody = s.anonymous();
    let headers = [
        ("X-Identity-Status", "Confirmed"),
        ("X-User-Id", "u"),
        ("X-Project-Id", "p"),
        ("X-Tenant-Id", "p"),
        ("X-Roles", "reader"),
        ("X-User-Domain-Id", "d"),
        ("X-Project-Domain-Id", "d"),
        ("X-Domain-Id", "d"),
        ("OpenStack-System-Scope", "all"),
        ("X-Is-Admin-Project", "true"),
        ("X-Service-Identity-Status", "Confirmed"),
        ("X-Service-User-Id", "s"),
        ("X-Service-Project-Id", "s"),
        ("X-Service-Roles", "service"),
        ("X-Service-User-Domain-Id", "d"),
        ("X-Service-Project-Domain-Id", "d"),
    ];
    let all = || headers.iter().fold(nobody.request("GET", "/v2/images"), |r, (name, value)| r.header(*name, *value));
    nobody.send(all()).await.expect(200);
    for (name, value) in headers {
        nobody.send(all().header(name, value)).await.expect(401);
        nobody.send(all().header(name, "admin")).await.expect(401);
    }
}

#[tokio::test]
async fn missing_authentication_is_logged_at_start() {
    let s = TestServer::builder().option("glimpse", "auth", "none").start().await;
    assert!(s.log().contains("every client that reaches this port is an admin"), "{}", s.log());
    let image = s.anonymous().create_image(&json!({"visibility": "public"})).await;
    s.anonymous().delete(&image).await.expect(204);
    let s = TestServer::start().await;
    assert!(s.log().contains("tokens are not verified"), "{}", s.log());
}
