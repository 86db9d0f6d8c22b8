//! Tests of the effects of options on a running server, and of the output of `glimpse config`.

use std::{fs, path::Path, process::Output};

use crate::support::{Answer, TestServer, eventually, program, raw, raw_status};

fn text(output: &Output) -> (String, String) {
    (String::from_utf8(output.stdout.clone()).unwrap(), String::from_utf8(output.stderr.clone()).unwrap())
}

/// Everything that a command prints.
fn text_of(output: &Output) -> String {
    let (out, err) = text(output);
    out + &err
}

#[test]
fn config_check_reports_every_problem_and_starts_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("glance-api.conf");
    let check = |content: &str| {
        fs::write(&file, content).unwrap();
        let mut command = program();
        command.arg("--config-file").arg(&file).args(["config", "check"]).current_dir(dir.path());
        command.env("OS_DATABASE__CONECTION", "x").env("OS_OTHER__X", "y");
        let output = command.output().unwrap();
        (output.status.code(), text(&output).0)
    };
    let (code, out) =
        check("[DEFAULT]\nbind_port = many\nscrub_time = 1\n[database]\nconection = x\nmax_retries = x\n");
    assert_eq!(code, Some(1));
    for line in [
        "glance-api.conf:2: [DEFAULT] bind_port: a whole number from 0 to 65535 is expected",
        "glance-api.conf:6: [database] max_retries: a whole number",
        "glance-api.conf:3: Glimpse does not act on [DEFAULT] scrub_time, which is an option of Glance",
        "glance-api.conf:5: there is no option [database] conection; was [database] connection meant?\nwarning: ",
        "OS_DATABASE__CONECTION: there is no option [database] conection",
        "The configuration cannot be used.",
    ] {
        assert!(out.contains(line), "{line} is not in {out}");
    }
    let (code, out) = check("[DEFAULT]\nscrub_time = 1\n");
    assert_eq!((code, out.lines().last()), (Some(0), Some("The configuration can be used.")));
    assert!(!dir.path().join("glimpse-data").exists());
}

#[test]
fn config_show_prints_the_source_of_each_value_and_no_secret() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.conf");
    fs::write(&file, "[database]\nconnection = mysql+pymysql://glance:s3cret@db/glance\n[DEFAULT]\nbind_port = 1\n")
        .unwrap();
    let mut command = program();
    command.arg("--config-file").arg(&file).args(["config", "show"]).env("OS_DEFAULT__BIND_HOST", "::1");
    let output = command.arg("--data-dir").arg("/d").output().unwrap();
    let (out, err) = text(&output);
    let place = file.display();
    for part in [
        format!("# {place}:4\nbind_port = 1\n"),
        "# OS_DEFAULT__BIND_HOST\nbind_host = ::1\n".to_owned(),
        "# default\ndebug = false\n".to_owned(),
        format!("# {place}:2\nconnection = mysql://***@db:3306/glance\n"),
        "# --data-dir or GLIMPSE_DATA_DIR\ndata_dir = /d\n".to_owned(),
    ] {
        assert!(out.contains(&part), "{part} is not in {out}");
    }
    assert!(!(out + &err).contains("s3cret"));
}

#[test]
fn each_group_with_a_login_knows_the_former_names_of_its_options() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.conf");
    for group in ["keystone_authtoken", "oslo_limit"] {
        let options = "auth_plugin = v3token\nuser-name = u\ntenant_id = i\ntenant-name = n\n";
        fs::write(&file, format!("[{group}]\n{options}")).unwrap();
        let run = |action| {
            let mut command = program();
            text_of(&command.arg("--config-file").arg(&file).args(["config", action]).output().unwrap())
        };
        let (shown, checked, path) = (run("show"), run("check"), file.display());
        let settings = ["auth_type = v3token", "username = u", "project_id = i", "project_name = n"];
        for (line, setting) in (2..).zip(settings) {
            let setting = format!("# {path}:{line}\n{setting}\n");
            assert!(shown.contains(&setting), "{setting} is not in {shown}");
        }
        assert!(!checked.contains("there is no option") && !checked.contains("does not act on"), "{checked}");
    }
}

/// Serious findings come first, and scripts tell them apart by the exit code.
#[test]
fn config_check_inspects_the_stores_and_creates_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (config, file, images) = (dir.path().join("a.conf"), dir.path().join("file"), dir.path().join("images"));
    fs::write(&file, "").unwrap();
    let check = |text: String, arguments: &[&str]| {
        fs::write(&config, text).unwrap();
        let mut command = program();
        command.arg("--config-file").arg(&config).arg("--data-dir").arg(dir.path().join("data"));
        let output = command.args(["config", "check"]).args(arguments).output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let stores = |default: &str, dir: &Path| {
        format!(
            "[DEFAULT]\nenabled_backends = a:file, b:cinder, web:http\nscrub_time = 1\nscrub_tyme = 1\n\
             [glance_store]\ndefault_backend = {default}\n\
             [a]\nfilesystem_store_datadir = {}\n[oslo_concurrency]\nlock_path = /l\n",
            dir.display()
        )
    };
    let (code, out) = check(stores("a", &images), &[]);
    let lines: Vec<&str> = out.lines().skip(1).collect();
    assert_eq!(code, Some(0), "{out}");
    for (line, part) in lines.iter().zip([
        "warning: the store b: it cannot be used: Glimpse has no driver of the kind cinder",
        "a.conf:4: there is no option [DEFAULT] scrub_tyme; was [DEFAULT] scrub_time meant?",
        "a.conf:3: Glimpse does not act on [DEFAULT] scrub_time",
        "1 options have no effect by design; --verbose lists them",
        "The configuration can be used.",
    ]) {
        assert!(line.contains(part), "{part} is not in {line}");
    }
    let (_, out) = check(stores("a", &images), &["--verbose"]);
    assert!(out.contains("a.conf:10: Glimpse does not act on [oslo_concurrency] lock_path"), "{out}");
    for (default, images, fault) in [
        ("b", images.as_path(), "error: the store b: it cannot be used: Glimpse has no driver of the kind cinder"),
        ("web", &images, "error: the store web: clients can only read from it"),
        ("a", &file.join("images"), "is not a directory"),
    ] {
        let (code, out) = check(stores(default, images), &[]);
        assert_eq!(code, Some(4), "{out}");
        assert!(out.contains(fault) && out.ends_with("The default store cannot be used.\n"), "{fault} is not in {out}");
    }
    assert!(!images.exists() && !dir.path().join("data").exists());
}

/// A policy rule that only property protections refer to has an effect.
#[test]
fn config_check_knows_which_rules_property_protections_use() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
    let config = "[DEFAULT]\nproperty_protection_file = p.conf\nproperty_protection_rule_format = policies\n";
    write("a.conf", config);
    write("policy.yaml", "\"site_owner\": \"role:owner\"\n\"site_typo\": \"role:owner\"\n");
    write("p.conf", "[.*]\ncreate = site_owner\nread = site_owner\nupdate = site_owner\ndelete = site_missing\n");
    let mut command = program();
    let output =
        command.arg("--config-file").arg(dir.path().join("a.conf")).args(["config", "check"]).output().unwrap();
    let out = text(&output).0;
    let warnings: Vec<&str> = out.lines().filter(|line| line.starts_with("warning: ")).collect();
    assert!(warnings.iter().any(|line| line.contains("policy rule \"site_typo\" has no effect")), "{out}");
    assert!(warnings.iter().any(|line| line.contains("refers to the policy rule \"site_missing\"")), "{out}");
    assert_eq!(warnings.len(), 2, "{out}");
}

/// As oslo.middleware's filters take the options of their sections.
#[test]
fn options_in_sections_of_the_paste_file_take_precedence() {
    let dir = tempfile::tempdir().unwrap();
    let run = |command: &str, paste: &str| {
        fs::write(dir.path().join("glance-api-paste.ini"), paste).unwrap();
        let config = dir.path().join("glance-api.conf");
        let options = "[paste_deploy]\nflavor = x\n[cors]\nallowed_origin = http://group\nmax_age = 7\n";
        fs::write(&config, options).unwrap();
        let output = program().arg("--config-file").arg(config).args(["config", command]).output().unwrap();
        (output.status.code(), text(&output).0)
    };
    let paste = "[DEFAULT]\nhost = a.example\n\
        [pipeline: glance-api-x]\npipeline = cors proxy authtoken context rootapp\n\
        [filter:cors]\npaste.filter_factory = oslo_middleware.cors: filter_factory\noslo_config_project = glance\n\
        allowed_origin = http://%(host)s\nalow_headers = X\n\
        [filter:proxy]\npaste.filter_factory = oslo_middleware:HTTPProxyToWSGI.factory\n\
        enable_proxy_headers_parsing = true\n\
        [app: healthcheck]\npaste.app_factory = oslo_middleware:Healthcheck.app_factory\npath = /healthcheck\n\
        backends = disable_by_file\ndisable_by_file_path = %(here)s/away\n";
    let (_, shown) = run("show", paste);
    let away = dir.path().join("away");
    for part in [
        "glance-api-paste.ini:8\nallowed_origin = http://a.example\n".to_owned(),
        "glance-api.conf:5\nmax_age = 7\n".to_owned(),
        "glance-api-paste.ini:12\nenable_proxy_headers_parsing = true\n".to_owned(),
        format!("glance-api-paste.ini:17\ndisable_by_file_path = {}\n", away.display()),
    ] {
        assert!(shown.contains(&part), "{part} is not in {shown}");
    }
    let (code, checked) = run("check", paste);
    assert_eq!(code, Some(0), "{checked}");
    let warnings: Vec<_> = checked.lines().filter(|line| line.starts_with("warning: ")).collect();
    assert!(
        matches!(warnings[..], [one] if one.contains("glance-api-paste.ini:9: there is no option [cors] alow_headers"))
    );
    // Without a filter that authenticates callers, the server does not start with users of its own.
    let (code, checked) = run("check", &paste.replace("authtoken context ", ""));
    assert_eq!(code, Some(1));
    assert!(checked.contains("the pipeline has no filter from which Glimpse knows how callers are authenticated"));
}

#[test]
fn glances_own_files_are_read_by_default() {
    let dir = tempfile::tempdir().unwrap();
    let write = |path: &str, content: &str| {
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    };
    let show = |arguments: &[&str]| {
        let output = program()
            .env("OS_GLANCE_CONFIG_DIR", dir.path())
            .args(["config", "show"])
            .args(arguments)
            .output()
            .unwrap();
        text(&output).0
    };
    assert!(show(&[]).contains("# default\nbind_port = 9292\n"));
    write("glance-image-import.conf", "[DEFAULT]\nbind_port = 1\nbacklog = 1\n");
    assert!(show(&[]).contains("glance-image-import.conf:2\nbind_port = 1\n"));
    write("glance-api.conf", "[DEFAULT]\nbind_port = 2\n");
    assert!(show(&[]).contains("glance-api.conf:2\nbind_port = 2\n"));
    write("glance.conf.d/1.conf", "[DEFAULT]\nbind_port = 3\n");
    assert!(show(&[]).contains("1.conf:2\nbind_port = 3\n"));
    write("glance-api.conf.d/0.conf", "[DEFAULT]\nbind_port = 4\n");
    let shown = show(&[]);
    assert!(shown.contains("0.conf:2\nbind_port = 4\n") && shown.contains("backlog = 1\n"), "{shown}");
    let named = dir.path().join("glance-api.conf");
    assert!(show(&["--config-file", named.to_str().unwrap()]).contains("bind_port = 2\n"));
}

/// Passes the same files and folders, in every order, to oslo.config and to Glimpse.
#[test]
fn files_and_folders_are_read_in_the_same_order_as_oslo_config() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let files = ["default.conf", "default.conf.d/x.conf", "a.conf", "b.conf", "c.d/1.conf", "c.d/2.conf", "d.d/x.conf"];
    for (n, name) in files.into_iter().enumerate() {
        fs::create_dir_all(dir.path().join(name).parent().unwrap()).unwrap();
        // An option that only one file sets shows which files are read at all.
        fs::write(path(name), format!("[DEFAULT]\nbind_port = {n}\nlimit_param_default = {}\n", n + 1)).unwrap();
    }
    fs::write(path("default.conf"), "[DEFAULT]\nbind_port = 0\nbacklog = 7\n").unwrap();
    fs::write(path("default.conf.d/x.conf"), "[DEFAULT]\nbind_port = 1\nworkers = 7\n").unwrap();
    let names = [("default.conf", "glance-api.conf"), ("default.conf.d", "glance.conf.d")];
    fs::create_dir(path("etc")).unwrap();
    for (target, name) in names {
        std::os::unix::fs::symlink(path(target), Path::new(&path("etc")).join(name)).unwrap();
    }
    let (file, folder) =
        (|name: &str| ["--config-file".to_owned(), path(name)], |name: &str| ["--config-dir".to_owned(), path(name)]);
    let cases: Vec<Vec<[String; 2]>> = vec![
        vec![],
        vec![file("a.conf")],
        vec![folder("c.d")],
        vec![file("a.conf"), folder("c.d")],
        vec![folder("c.d"), file("a.conf")],
        vec![folder("d.d"), file("a.conf"), folder("c.d"), file("b.conf")],
        vec![file("b.conf"), file("a.conf")],
        vec![folder("d.d"), folder("c.d")],
    ];
    let python = "import sys\nfrom oslo_config import cfg\nconf = cfg.ConfigOpts()\n\
        names = ['bind_port', 'backlog', 'workers', 'limit_param_default']\n\
        conf.register_opts([cfg.IntOpt(name) for name in names])\n\
        conf(sys.argv[3:], project='x', default_config_files=[sys.argv[1]], default_config_dirs=[sys.argv[2]])\n\
        print([conf[name] for name in names])";
    for case in cases {
        let arguments: Vec<String> = case.into_iter().flatten().collect();
        let interpreter = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/test-services/bin/python");
        let theirs = std::process::Command::new(interpreter)
            .args(["-c", python, &path("default.conf"), &path("default.conf.d")])
            .args(&arguments)
            .output()
            .unwrap();
        let theirs = text(&theirs).0.trim().to_owned();
        let ours =
            program().env("OS_GLANCE_CONFIG_DIR", path("etc")).args(&arguments).args(["config", "show"]).output();
        let shown = text(&ours.unwrap()).0;
        let value = |name: &str, default: &str| {
            let line = shown.lines().find_map(|line| line.strip_prefix(&format!("{name} = "))).unwrap_or_default();
            if line == default || line.is_empty() { "None".to_owned() } else { line.to_owned() }
        };
        let defaults = [("bind_port", "9292"), ("backlog", "4096"), ("workers", ""), ("limit_param_default", "25")];
        let ours = format!("[{}]", defaults.map(|(name, default)| value(name, default)).join(", "));
        assert_eq!(ours, theirs, "{arguments:?}");
    }
}

#[test]
fn config_check_validates_the_bind_address_and_warns_of_open_ports() {
    let check = |options: &[(&str, &str)]| {
        let mut command = program();
        command.args(["config", "check"]).envs(options.iter().copied());
        let output = command.output().unwrap();
        (output.status.code(), text(&output).0)
    };
    for bad in ["300.1.1.1", "a b", "127.0.0.1:9292", "[::1]"] {
        let (code, out) = check(&[("OS_DEFAULT__BIND_HOST", bad)]);
        assert_eq!(code, Some(1), "{bad}");
        assert!(out.contains("[DEFAULT] bind_host: an address or the name of a host is expected"), "{out}");
    }
    let open = |host: &str| {
        let options = [("OS_PASTE_DEPLOY__FLAVOR", "trusted-auth"), ("OS_DEFAULT__BIND_HOST", host)];
        let (code, out) = check(&options);
        assert_eq!(code, Some(0), "{out}");
        out.contains("any client that reaches this port")
    };
    assert!(open("0.0.0.0") && open("::") && open("192.0.2.1") && open("api.example.org"));
    assert!(!open("127.0.0.2") && !open("::1") && !open("localhost"));
}

/// logrotate moves the file away and sends SIGHUP. Warnings about changes of the configuration are logged as well.
#[tokio::test]
async fn sighup_reopens_the_log_file_and_logs_new_warnings() {
    let dir = tempfile::tempdir().unwrap();
    let (log, config) = (dir.path().join("a.log"), dir.path().join("a.conf"));
    // Whether or not a system log service is listening here, the log file receives the lines.
    let options =
        format!("[DEFAULT]\nbind_port = 0\nlog_file = {}\nuse_syslog = true\nuse_journal = true\n", log.display());
    fs::write(&config, &options).unwrap();
    let mut command = program();
    command.arg("--config-file").arg(&config).arg("--data-dir").arg(dir.path().join("data"));
    let mut process = command.stdout(std::process::Stdio::null()).spawn().unwrap();
    let logged = |part: &'static str| {
        let log = log.clone();
        async move { fs::read_to_string(&log).unwrap_or_default().contains(part).then_some(()) }
    };
    eventually("it listens", || logged("listens on")).await;
    let moved = dir.path().join("a.log.1");
    fs::rename(&log, &moved).unwrap();
    fs::write(&config, options + "scrub_time = 1\n").unwrap();
    let hup = std::process::Command::new("kill").args(["-HUP", &process.id().to_string()]).status().unwrap();
    assert!(hup.success());
    eventually("the new file has lines", || logged("Glimpse does not act on [DEFAULT] scrub_time")).await;
    eventually("it was read again", || logged("configuration was reloaded")).await;
    assert!(!fs::read_to_string(&moved).unwrap().contains("scrub_time"));
    process.kill().unwrap();
    process.wait().unwrap();
}

#[tokio::test]
async fn the_length_of_a_header_line_is_limited() {
    let s = TestServer::builder().option("DEFAULT", "max_header_line", 100).start().await;
    let get = |length: usize| s.anonymous().request("GET", "/healthcheck").header("x-a", "x".repeat(length));
    s.anonymous().send(get(100 - "x-a: \r\n".len())).await.expect(200);
    s.anonymous().send(get(101 - "x-a: \r\n".len())).await.expect(431).says("longer than 100 bytes");
}

#[tokio::test]
async fn the_healthcheck_is_disabled_by_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("disable");
    let s = TestServer::builder().option("healthcheck", "disable_by_file_path", file.display()).start().await;
    let head = || async { s.anonymous().send(s.anonymous().request("HEAD", "/healthcheck")).await };
    assert_eq!(s.anonymous().get("/healthcheck").await.expect(200).text, "OK");
    head().await.expect(204);
    fs::write(&file, "").unwrap();
    assert_eq!(s.anonymous().get("/healthcheck").await.expect(503).text, "DISABLED BY FILE");
    head().await.expect(503);
    fs::remove_file(&file).unwrap();
    s.anonymous().get("/healthcheck").await.expect(200);
}

#[tokio::test]
async fn links_follow_the_headers_of_a_trusted_proxy() {
    let head = "x-forwarded-proto: https\r\nx-forwarded-host: api.example.org\r\nx-forwarded-prefix: /image\r\n";
    let request =
        format!("GET /v2 HTTP/1.1\r\nHost: x:1\r\nX-Auth-Token: u:p:member\r\n{head}Connection: close\r\n\r\n");
    for (trusted, location) in [(false, "http://x:1/v2/"), (true, "https://api.example.org/image/v2/")] {
        let s = TestServer::builder().option("oslo_middleware", "enable_proxy_headers_parsing", trusted).start().await;
        let answer = raw(&s.base, request.as_bytes()).await;
        assert_eq!(raw_status(&answer), 302, "{answer}");
        assert!(answer.contains(&format!("location: {location}\r\n")), "{answer}");
    }
}

#[tokio::test]
async fn an_ignored_forwarding_header_is_logged_once() {
    let s = TestServer::start().await;
    let warnings = || s.log().matches("enable_proxy_headers_parsing").count();
    asked(&s, "GET", "/v2/images", &[]).await.expect(200);
    assert_eq!(warnings(), 0);
    for name in ["X-Forwarded-Proto", "Forwarded", "X-Forwarded-Proto"] {
        let answer = asked(&s, "GET", "/v2/images", &[(name, "https")]).await.expect(200);
        s.log_of(&answer).await;
        assert_eq!(warnings(), 1, "{}", s.log());
    }
    let s = TestServer::builder().option("oslo_middleware", "enable_proxy_headers_parsing", true).start().await;
    let answer = asked(&s, "GET", "/versions", &[("X-Forwarded-Proto", "https,http")]).await.expect(200);
    assert!(answer.json()["versions"][0]["links"][0]["href"].as_str().unwrap().starts_with("https://127.0.0.1"));
    assert!(!s.log().contains("enable_proxy_headers_parsing"), "{}", s.log());
}

async fn asked(s: &TestServer, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
    let member = s.member("p1");
    let request =
        headers.iter().fold(member.request(method, path), |request, (name, value)| request.header(*name, *value));
    member.send(request).await
}

#[tokio::test]
async fn cross_origin_requests_are_allowed_from_configured_origins() {
    let s = TestServer::builder().option("cors", "allowed_origin", "http://a.example,http://b.example").start().await;
    let answer = asked(&s, "GET", "/v2/images", &[("Origin", "http://b.example")]).await.expect(200);
    assert_eq!(answer.header("access-control-allow-origin"), "http://b.example");
    assert_eq!(answer.header("access-control-allow-credentials"), "true");
    assert!(answer.headers.get_all("vary").iter().any(|value| value == "Origin"));
    assert!(answer.header("access-control-expose-headers").ends_with("X-Service-Token,X-OpenStack-Request-ID"));
    for origin in ["http://c.example", "http://a.example.evil", "null"] {
        let answer = asked(&s, "GET", "/v2/images", &[("Origin", origin)]).await.expect(200);
        assert!(!answer.headers.contains_key("access-control-allow-origin"), "{origin}");
    }
    // Error responses are visible to the page, too.
    let answer = asked(&s, "GET", "/v2/images/nope", &[("Origin", "http://a.example")]).await.expect(404);
    assert_eq!(answer.header("access-control-allow-origin"), "http://a.example");
}

#[tokio::test]
async fn preflight_requests_are_answered() {
    let s = TestServer::builder().option("cors", "allowed_origin", "*").start().await;
    let preflight = async |method: &str, headers: &str| {
        let asks = [
            ("Origin", "http://a.example"),
            ("Access-Control-Request-Method", method),
            ("Access-Control-Request-Headers", headers),
        ];
        let answer = asked(&s, "OPTIONS", "/v2/images", &asks).await.expect(200);
        assert_eq!(answer.text, "");
        answer
    };
    let answer = preflight("DELETE", "x-auth-token, Content-Type").await;
    assert_eq!(answer.header("access-control-allow-origin"), "*");
    assert_eq!(answer.header("access-control-allow-methods"), "DELETE");
    assert_eq!(answer.header("access-control-allow-headers"), "x-auth-token,Content-Type");
    assert_eq!(answer.header("access-control-max-age"), "3600");
    assert_eq!(answer.header("vary"), "Origin");
    for (method, headers) in [("TRACE", ""), ("DELETE", "x-other")] {
        let answer = preflight(method, headers).await;
        assert!(!answer.headers.contains_key("access-control-allow-origin"), "{method} {headers}");
    }
    asked(&s, "OPTIONS", "/v2/images/nope/tags/a", &[]).await.expect(200);
}

#[tokio::test]
async fn the_log_is_written_to_its_file() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = program();
    command.arg("--data-dir").arg(dir.path().join("data")).env("OS_DEFAULT__LOG_DIR", dir.path());
    command.env("OS_DEFAULT__BIND_PORT", "0").env("OS_DEFAULT__WORKERS", "0");
    let mut process = command.stdout(std::process::Stdio::null()).spawn().unwrap();
    let logged = || fs::read_to_string(dir.path().join("glimpse.log")).unwrap_or_default();
    eventually("the log is written", || std::future::ready(logged().contains("listens on").then_some(()))).await;
    process.kill().unwrap();
    process.wait().unwrap();
    let output = program().args(["db", "check"]).env("OS_DEFAULT__LOG_FILE", "/dev/null/x.log").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).1.contains("cannot write the log to /dev/null/x.log"), "{}", text(&output).1);
}

/// A file of Python's logging replaces the other options of the log.
#[tokio::test]
async fn the_level_and_the_handlers_of_a_python_logging_file_have_an_effect() {
    let dir = tempfile::tempdir().unwrap();
    let (log, python) = (dir.path().join("api.log"), dir.path().join("logging.conf"));
    let text = format!(
        "[loggers]\nkeys = root\n[handlers]\nkeys = file\n[logger_root]\nlevel = DEBUG\nhandlers = file\n\
         [handler_file]\nclass = logging.FileHandler\nargs = ('{}',)\n",
        log.display()
    );
    fs::write(&python, text).unwrap();
    let command = || {
        let mut command = program();
        command.arg("--data-dir").arg(dir.path().join("data")).env("OS_DEFAULT__LOG_CONFIG_APPEND", &python);
        command
    };
    let output = command().env("OS_DEFAULT__LOG_DIR", "/nonexistent").args(["db", "sync"]).output().unwrap();
    assert!(output.status.success(), "{}", text_of(&output));
    assert!(log.exists());
    let shown = command().args(["config", "show"]).output().unwrap();
    assert!(text_of(&shown).contains("# OS_DEFAULT__LOG_CONFIG_APPEND\nlog_config_append = "), "{}", text_of(&shown));
    fs::remove_file(&python).unwrap();
    let output = command().args(["db", "check"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text_of(&output).contains("logging.conf: No such file"), "{}", text_of(&output));
}

/// An unreachable database is retried as often and for as long as the options say.
#[tokio::test]
async fn an_unreachable_database_is_retried_at_start() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.conf");
    // No process listens on this port, and no other process can bind it.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let port = socket.local_addr().unwrap().port();
    let options = "max_retries = 3\nretry_interval = 0\npool_timeout = 0.1\n";
    fs::write(&file, format!("[database]\nconnection = postgresql://u:s3cret@127.0.0.1:{port}/g\n{options}")).unwrap();
    let output = program().arg("--config-file").arg(&file).arg("--data-dir").arg(dir.path()).output().unwrap();
    let (_, err) = text(&output);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(err.matches("the database does not answer; retrying").count(), 2, "{err}");
    assert!(err.contains("refused") && !err.contains("pool timed out"), "{err}");
    drop(socket);
    assert!(!err.contains("s3cret"), "{err}");
}

#[test]
fn the_sample_is_a_valid_configuration() {
    let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/glance-api.conf");
    let output = program().arg("--config-file").arg(&sample).args(["config", "check"]).output().unwrap();
    // The sample policy is in the same directory.
    let policy = sample.with_file_name("policy.yaml");
    let expected = format!("read: {}\nread: {}\nThe configuration can be used.\n", sample.display(), policy.display());
    assert_eq!((output.status.code(), text(&output).0), (Some(0), expected));
}
