//! Imports whose server is killed, at system calls that `strace` chooses, and imports whose web server or disk fails.

use std::{fs, path::Path, process::Command, time::Duration};

use serde_json::{Value, json};

use crate::{
    data::{bytes, download, files, id, image_with, status, upload, waiting_image},
    import::{ended, import, is_empty, nothing_is_left, page, stage, web, web_download, with_stores},
    support::{Client, Dns, Engine, TestServer},
};

/// Where a server is killed: at the n-th of these system calls of a thread.
type Point = (&'static str, u32);

const RENAME: &str = "rename,renameat,renameat2";
const UNLINK: &str = "unlink,unlinkat";
const COPY: &str = "copy_file_range";
const SYNC: &str = "fsync,fdatasync";

/// The system call by which statements reach the database.
fn statement(s: &TestServer) -> &'static str {
    if s.database.engine == Engine::Sqlite { "pwrite64" } else { "sendto" }
}

/// Imports an image for each point. The server is killed there, or later if it does not get there, and starts again. Each import must
/// complete, with nothing left over.
async fn survives(method: &'static str, body: &Value, parallel: u32, points: &[Point], statements: &[u32]) {
    let dir = tempfile::tempdir().unwrap();
    let data = bytes(600_000);
    let (port, _) = web(vec![page(&data)]).await;
    let mut s =
        with_stores(dir.path(), port).option("image_import_opts", "max_parallel_stores", parallel).start().await;
    let statements: Vec<Point> = statements.iter().map(|n| (statement(&s), *n)).collect();
    let mut images = Vec::new();
    let mut kills = 0;
    for (calls, n) in points.iter().chain(&statements) {
        let admin = s.admin();
        let mut body = body.clone();
        let image = match method {
            "copy-image" => image_with(&admin, &data).await,
            _ => waiting_image(&admin).await,
        };
        match method {
            "web-download" => body["method"] = web_download(port)["method"].clone(),
            "glance-direct" => drop(stage(&admin, &image, data.clone()).await.expect(204)),
            _ => {}
        }
        let inject = format!("inject={calls}:signal=SIGKILL:when={n}");
        let strace = s.trace(&["-e", &format!("trace={calls}"), "-e", &inject], Path::new("/dev/null")).await;
        // The server may be killed before it answers.
        let request = admin.request("POST", &format!("{image}/import")).json(&body);
        let answer = admin.try_send(request).await;
        let killed = tokio::time::timeout(Duration::from_millis(1500), s.ended()).await.is_ok();
        kills += u32::from(killed);
        drop(strace);
        if !killed {
            s.kill();
        }
        s.start_again().await;
        let admin = s.admin();
        // A killed server may have accepted the import without answering.
        let tasks = admin.get(&format!("{image}/tasks")).await.expect(200).json();
        if tasks["tasks"].as_array().unwrap().is_empty() {
            assert!(answer.is_err(), "{calls} {n}: an accepted import is lost");
            import(&admin, &image, &body).await.expect(202);
        }
        let task = ended(&admin, &image).await;
        assert_eq!(task["status"], "success", "{calls} {n}: {task}\n{}", s.log());
        assert!(download(&admin, &image).await == data, "{calls} {n}");
        assert_eq!(admin.get(&image).await.json()["os_glance_importing_to_stores"], "");
        nothing_is_left(&s, dir.path()).await;
        images.push(image);
    }
    assert!(kills > 0, "no server was killed");
    let mut used = 0;
    for image in &images {
        used += s.admin().get(image).await.json()["stores"].as_str().unwrap().split(',').count() * data.len();
    }
    for store in ["images", "second"] {
        let mut names = files(&dir.path().join(store));
        // A lock file that a killed server has left is removed later.
        names.retain(|name| !name.starts_with(".glimpse-hold."));
        let mut expected: Vec<&str> = Vec::new();
        for image in &images {
            let stores = s.admin().get(image).await.json()["stores"].as_str().unwrap().to_owned();
            let name = if store == "images" { "fs" } else { store };
            if stores.split(',').any(|other| other == name) {
                expected.push(id(image));
            }
        }
        expected.sort_unstable();
        assert_eq!(names, expected, "{store}");
    }
    // The project's usage is that of these copies.
    s.kill();
    s.configure(&format!("[DEFAULT]\nuser_storage_quota = {}B\n", used + 1000));
    s.start_again().await;
    let admin = s.admin();
    upload(&admin, &waiting_image(&admin).await, bytes(1001)).await.expect(413);
    upload(&admin, &waiting_image(&admin).await, bytes(1000)).await.expect(204);
}

#[tokio::test]
async fn downloads_survive_kills_of_the_server() {
    let points = [(SYNC, 1), (SYNC, 2), (SYNC, 3), (RENAME, 1), (RENAME, 2), (UNLINK, 1), (UNLINK, 2), (COPY, 1)];
    survives("web-download", &json!({}), 1, &points, &[2, 5, 9, 14]).await;
}

#[tokio::test]
async fn imports_of_staged_data_to_several_stores_survive_kills_of_the_server() {
    let body = json!({"method": {"name": "glance-direct"}, "all_stores": true});
    let points = [(SYNC, 2), (RENAME, 1), (RENAME, 2), (UNLINK, 1), (UNLINK, 3), (COPY, 1), (COPY, 2)];
    survives("glance-direct", &body, 1, &points, &[3, 8, 16]).await;
}

#[tokio::test]
async fn imports_to_several_stores_at_once_survive_kills_of_the_server() {
    let points = [(SYNC, 1), (SYNC, 2), (SYNC, 4), (RENAME, 1), (RENAME, 2), (UNLINK, 1), (COPY, 1), (COPY, 2)];
    survives("web-download", &json!({"all_stores": true}), 2, &points, &[4, 10, 20]).await;
}

#[tokio::test]
async fn copies_survive_kills_of_the_server() {
    let body = json!({"method": {"name": "copy-image"}, "stores": ["second"]});
    let points = [(SYNC, 1), (SYNC, 2), (RENAME, 1), (UNLINK, 1), (COPY, 1)];
    survives("copy-image", &body, 1, &points, &[2, 6, 12]).await;
}

/// Imports from this web server fail with this message, and leave nothing.
async fn fails(s: &TestServer, dir: &Path, member: &Client, body: &Value, message: &str) {
    let image = waiting_image(member).await;
    import(member, &image, body).await.expect(202);
    let task = ended(member, &image).await;
    assert_eq!(task["status"], "failure", "{message}: {task}");
    assert!(task["message"].as_str().unwrap().contains(message), "{message}: {task}");
    let shown = member.get(&image).await.expect(200).json();
    let failed = (&shown["status"], &shown["size"], &shown["os_glance_importing_to_stores"]);
    assert_eq!(failed, (&json!("queued"), &Value::Null, &json!("")));
    nothing_is_left(s, dir).await;
    for store in ["images", "second"] {
        is_empty(&dir.join(store)).await;
    }
}

#[tokio::test]
async fn a_web_server_that_fails_or_lies_fails_the_import() {
    let answer = |text: &str| vec![text.as_bytes().to_vec()];
    let large = "x".repeat(2000);
    let cases = [
        (
            answer("HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n"),
            "The web server answers with 503 Service Unavailable.",
        ),
        (answer("HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n"), "The web server answers with 403 Forbidden."),
        (answer("nonsense\r\n\r\n"), "The web server cannot be reached."),
        (answer("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nabc"), "was interrupted"),
        (answer("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"), "was interrupted"),
        (answer("HTTP/1.1 200 OK\r\nContent-Length: 2000\r\n\r\n"), "The provided image is too large."),
        (answer(&format!("HTTP/1.1 200 OK\r\n\r\n{large}")), "The provided image is too large."),
        (answer("HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n"), "redirects nowhere"),
        (
            answer("HTTP/1.1 302 Found\r\nLocation: /x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"),
            "more than 10 times",
        ),
        // Nobody listens.
        (Vec::new(), "The web server cannot be reached."),
    ];
    // Most of them are begun again several times, with pauses.
    let failing = cases.map(async |(answers, message)| {
        let dir = tempfile::tempdir().unwrap();
        let port = match answers.is_empty() {
            true => std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port(),
            false => web(answers).await.0,
        };
        let s = with_stores(dir.path(), port).option("DEFAULT", "image_size_cap", 1000).start().await;
        fails(&s, dir.path(), &s.member("p1"), &web_download(port), message).await;
    });
    futures_util::future::join_all(failing).await;
}

/// Data beyond the announced length is not the image's.
#[tokio::test]
async fn a_slow_web_server_and_one_that_sends_more_than_it_announces_are_no_failure() {
    let dir = tempfile::tempdir().unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        for part in ["HTTP/1.1 200 OK\r\n", "Content-Length: 6\r\n\r\n", "a", "b", "c", "d", "e", "fgh"] {
            tokio::time::sleep(Duration::from_millis(300)).await;
            tokio::io::AsyncWriteExt::write_all(&mut stream, part.as_bytes()).await.unwrap();
        }
    });
    let s = with_stores(dir.path(), port).start().await;
    let member = s.member("p1");
    let image = waiting_image(&member).await;
    import(&member, &image, &web_download(port)).await.expect(202);
    assert_eq!(ended(&member, &image).await["status"], "success");
    assert_eq!(download(&member, &image).await, b"abcdef");
}

#[tokio::test]
async fn a_full_file_system_fails_an_import_and_keeps_no_data() {
    let full = "There is not enough disk space on the image storage media.";
    for (folder, parallel, copies) in
        [("staging", 1, false), ("second", 1, false), ("second", 2, false), ("second", 1, true)]
    {
        let dir = tempfile::tempdir().unwrap();
        let mounted = dir.path().join(folder);
        fs::create_dir_all(&mounted).unwrap();
        let mount =
            Command::new("mount").args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"]).arg(&mounted).output().unwrap();
        if !mount.status.success() {
            // .config/nextest.toml makes nextest show this output.
            return eprintln!("NOT TESTED: a full file system. {}", String::from_utf8_lossy(&mount.stderr));
        }
        let data = bytes(3_000_000);
        let (port, _) = web(vec![page(&data)]).await;
        let s =
            with_stores(dir.path(), port).option("image_import_opts", "max_parallel_stores", parallel).start().await;
        let admin = s.admin();
        if copies {
            let image = image_with(&admin, &data).await;
            import(&admin, &image, &json!({"method": {"name": "copy-image"}, "stores": ["second"]})).await.expect(202);
            let task = ended(&admin, &image).await;
            assert!(task["message"].as_str().unwrap().contains(full), "{task}");
            let shown = admin.get(&image).await.json();
            assert_eq!((&shown["status"], &shown["stores"]), (&json!("active"), &json!("fs")));
            nothing_is_left(&s, dir.path()).await;
            is_empty(&mounted).await;
        } else {
            let mut body = web_download(port);
            body["all_stores"] = json!(true);
            fails(&s, dir.path(), &admin, &body, full).await;
        }
        drop(s);
        assert!(Command::new("umount").arg(&mounted).status().unwrap().success());
    }
}

/// The web server is asked for nothing, wherever a redirect points.
#[tokio::test]
async fn no_spelling_of_an_own_address_passes_the_filter() {
    let dir = tempfile::tempdir().unwrap();
    let (secret, asked) = web(vec![page(b"secret")]).await;
    let tricks = [
        "http://127.0.0.1:PORT/",
        "http://127.1:PORT/",
        "http://2130706433:PORT/",
        "http://0x7f.1:PORT/",
        "http://0x7f000001:PORT/",
        "http://0177.0.0.1:PORT/",
        "http://127.0.0.1.:PORT/",
        "http://0:PORT/",
        "http://0.0.0.0:PORT/",
        "http://[::1]:PORT/",
        "http://[::]:PORT/",
        "http://[::ffff:127.0.0.1]:PORT/",
        "http://[::ffff:7f00:1]:PORT/",
        "http://[64:ff9b::7f00:1]:PORT/",
        "http://[2002:7f00:1::]:PORT/",
        "http://localhost:PORT/",
        "http://a.example@127.0.0.1:PORT/",
        "http://127.0.0.1:PORT\\@a.example/",
        "http://a.example\\@127.0.0.1:PORT/",
        "http:\\\\127.0.0.1:PORT/",
        "http:/127.0.0.1:PORT/",
        "http://127.0.0.1:PORT#@a.example/",
        "http://127.0.0.1:PORT?@a.example/",
        "http://\u{ff11}27.0.0.1:PORT/",
        "http://169.254.169.254/latest/meta-data/",
        "http://[fe80::a9fe:a9fe]/",
        "http://255.255.255.255/",
        "ftp://127.0.0.1:PORT/",
        "gopher://127.0.0.1:PORT/",
        "file:///etc/passwd",
        "filesystem:///etc/passwd",
        "FILE:///etc/passwd",
        "data:,secret",
        " http://127.0.0.1:PORT/",
        "http://127.0.0.1\t:PORT/",
        "",
    ];
    let tricks = tricks.map(|trick| trick.replace("PORT", &secret.to_string()));
    let s = with_stores(dir.path(), secret)
        .option("import_filtering_opts", "allowed_hosts", "[]")
        .option("import_filtering_opts", "allowed_ports", "[]")
        .start()
        .await;
    let (member, admin) = (s.member("p1"), s.admin());
    let image = waiting_image(&member).await;
    let legacy = |url: &str| {
        let properties = json!({"disk_format": "raw", "container_format": "bare"});
        let input = json!({"import_from": url, "import_from_format": "raw", "image_properties": properties});
        json!({"type": "import", "input": input})
    };
    let mut accepted = 0;
    for trick in &tricks {
        let body = json!({"method": {"name": "web-download", "uri": trick}});
        let answer = import(&member, &image, &body).await;
        // A name is resolved only when it is connected to.
        if answer.status == 202 {
            assert!(trick.contains("localhost"), "{trick}");
            assert_eq!(ended(&member, &image).await["status"], "failure", "{trick}");
            accepted += 1;
        } else {
            assert_eq!(answer.status, 400, "{trick}");
        }
        let answer = admin.post("/v2/tasks", &legacy(trick)).await;
        if answer.status == 201 {
            assert!(trick.contains("localhost"), "{trick}");
            let task = format!("/v2/tasks/{}", answer.json()["id"].as_str().unwrap());
            crate::tasks::ended(&admin, &task).await;
        } else {
            assert_eq!(answer.status, 400, "{trick}");
        }
    }
    assert_eq!(accepted, 1);
    assert_eq!(status(&member, &image).await, "queued");
    // Redirects from an allowed host are checked like the URL itself.
    let redirects: Vec<Vec<u8>> = tricks
        .iter()
        .filter(|trick| trick.is_ascii() && !trick.contains(['\t']) && !trick.is_empty())
        .map(|trick| {
            format!("HTTP/1.1 302 Found\r\nConnection: close\r\nContent-Length: 0\r\nLocation: {trick}\r\n\r\n")
        })
        .map(String::into_bytes)
        .collect();
    let count = redirects.len();
    let (port, heads) = web(redirects).await;
    let s = with_stores(dir.path(), port).start().await;
    let member = s.member("p1");
    for _ in 0..count {
        let image = waiting_image(&member).await;
        import(&member, &image, &web_download(port)).await.expect(202);
        let task = ended(&member, &image).await;
        let message = task["message"].as_str().unwrap();
        assert!(message.contains("does not connect there") || message.contains("scheme"), "{task}");
    }
    assert_eq!(heads.lock().unwrap().len(), count);
    assert_eq!(asked.lock().unwrap().len(), 0, "the service has connected to this machine");
}

/// The name passes the filter, and its address is checked when the service connects.
#[tokio::test]
async fn a_name_of_this_machine_is_not_connected_to() {
    const NAME: &str = "web.example.org";
    let dns = match Dns::start(NAME) {
        Ok(dns) => dns,
        // .config/nextest.toml makes nextest show this output.
        Err(error) => return eprintln!("NOT TESTED: a name of this machine. {error}"),
    };
    let dir = tempfile::tempdir().unwrap();
    let resolver = dir.path().join("resolv.conf");
    fs::write(&resolver, format!("nameserver {}\n", dns.address)).unwrap();
    let (port, heads) = web(vec![page(b"secret")]).await;
    let mut s = with_stores(dir.path(), port).option("import_filtering_opts", "allowed_hosts", "[]").start().await;
    if let Err(error) = s.start_again_with(&resolver, "/etc/resolv.conf").await {
        return eprintln!("NOT TESTED: a name of this machine. {error}");
    }
    let admin = s.admin();
    let url = format!("http://{NAME}:{port}/x");
    let says = "this service does not connect there on behalf of users";
    fails(&s, dir.path(), &admin, &json!({"method": {"name": "web-download", "uri": url}}), says).await;
    let properties = json!({"disk_format": "raw", "container_format": "bare"});
    let input = json!({"import_from": url, "import_from_format": "raw", "image_properties": properties});
    let task = admin.post("/v2/tasks", &json!({"type": "import", "input": input})).await.expect(201).json();
    let task = crate::tasks::ended(&admin, task["self"].as_str().unwrap()).await;
    assert!(task["status"] == "failure" && task["message"].as_str().unwrap().contains(says), "{task}");
    assert_eq!(heads.lock().unwrap().len(), 0);
    // The server can connect, if it is allowed to.
    let mut s = with_stores(dir.path(), port)
        .option("import_filtering_opts", "allowed_hosts", format!("[{NAME}]"))
        .start()
        .await;
    s.start_again_with(&resolver, "/etc/resolv.conf").await.unwrap();
    let admin = s.admin();
    let image = waiting_image(&admin).await;
    import(&admin, &image, &json!({"method": {"name": "web-download", "uri": url}})).await.expect(202);
    assert_eq!(ended(&admin, &image).await["status"], "success");
    assert_eq!(heads.lock().unwrap().len(), 1);
}
