//! Imports from the image service of another region: a real Glance, and hostile servers.

use std::path::Path;

use serde_json::{Value, json};

use crate::{
    data::{bytes, download, id, upload},
    import::{ended, import, nothing_is_left, page, web, with_stores},
    import_nodes::glance_with,
    keystone,
    support::{Client, Database, Keystone, ServerBuilder, TestServer, eventually},
};

fn port_of(base: &str) -> u16 {
    base.rsplit(':').next().unwrap().parse().unwrap()
}

fn enabled(builder: ServerBuilder) -> ServerBuilder {
    builder.option("DEFAULT", "enabled_import_methods", "[glance-direct,web-download,copy-image,glance-download]")
}

fn request(region: &str, image: &str) -> Value {
    json!({"method": {"name": "glance-download", "glance_region": region, "glance_image_id": image}})
}

#[tokio::test]
async fn an_image_of_another_regions_glance_is_imported() {
    let dir = tempfile::tempdir().unwrap();
    let keystone = Keystone::start().await;
    let source = glance_with(&keystone, &Database::create(dir.path()).await).await;
    keystone.image_endpoint(&source.base()).await;
    let token = keystone.token("member1", "p1").await;
    let there = Client::new(&source.base(), Some(&token));
    let properties = json!({"disk_format": "raw", "container_format": "bare", "hw_disk_bus": "scsi", "os_type": "linux",
        "os_distro": "debian", "trait:x": "required", "other": "no"});
    let original = there.create_image(&properties).await;
    let data = bytes(1_500_000);
    upload(&there, &original, data.clone()).await.expect(204);
    let builder = keystone::with(&keystone);
    let stores = dir.path().join("images");
    let s = enabled(builder)
        .option("DEFAULT", "enabled_backends", "fs:file")
        .option("glance_store", "default_backend", "fs")
        .option("fs", "filesystem_store_datadir", stores.display())
        .option("os_glance_staging_store", "filesystem_store_datadir", dir.path().join("staging").display())
        .option("import_filtering_opts", "allowed_hosts", "[127.0.0.1]")
        .option("import_filtering_opts", "allowed_ports", format!("[{}]", port_of(&source.base())))
        .start()
        .await;
    let member = s.client(Some(&token));
    // The formats are those of the source, and so are the properties with the configured prefixes.
    let image = member.create_image(&json!({"disk_format": "qcow2", "container_format": "ovf", "os_type": "x"})).await;
    import(&member, &image, &request("regionone", id(&original))).await.expect(202);
    let task = imported(&s, &member, &image).await;
    assert_eq!(task["status"], "success", "{task}\n{}", s.log());
    let shown = member.get(&image).await.expect(200).json();
    for (name, value) in properties.as_object().unwrap() {
        let expected = if name == "other" { &Value::Null } else { value };
        assert_eq!(&shown[name], expected, "{name}");
    }
    assert_eq!(download(&member, &image).await, data);
    nothing_is_left(&s, dir.path()).await;
    assert!(!s.log().contains(&token));
    // Another region, and another image.
    for (region, other, reason) in [
        ("nowhere", id(&original), "public glance endpoint not found for region nowhere"),
        ("RegionOne", id(&image), "The web server answers with 404 Not Found."),
    ] {
        let image = member.create_image(&json!({"disk_format": "raw", "container_format": "bare"})).await;
        import(&member, &image, &request(region, other)).await.expect(202);
        let task = imported(&s, &member, &image).await;
        assert_eq!((&task["status"], &task["message"]), (&json!("failure"), &json!(reason)));
        assert_eq!(member.get(&image).await.json()["status"], "queued");
    }
    nothing_is_left(&s, dir.path()).await;
}

/// Waits for the end of an import. A member is not allowed to read tasks through Keystone's roles alone.
async fn imported(s: &TestServer, client: &Client, image: &str) -> Value {
    let answer = client.get(&format!("{image}/tasks")).await;
    assert_eq!(answer.status, 200, "{}\n{}", answer.text, s.log());
    ended(client, image).await
}

/// A server behind a trusted proxy, which sends the caller's catalog.
fn behind_proxy(dir: &Path, port: u16) -> ServerBuilder {
    enabled(with_stores(dir, port)).without("glimpse", "auth").option("glimpse", "auth", "proxy")
}

fn member(s: &TestServer, endpoint: &str) -> Client {
    let catalog = json!([
        {"type": "identity", "endpoints": [{"region": "R", "publicURL": "http://127.0.0.1:1"}]},
        {"type": "image", "endpoints": [
            {"region": "Q", "publicURL": "http://127.0.0.1:1"},
            {"region": "R", "publicURL": endpoint, "internalURL": format!("{endpoint}/internal")},
        ]},
    ]);
    s.client(Some("s3cret-token")).with_headers(&[
        ("X-Identity-Status", "Confirmed"),
        ("X-User-Id", "u"),
        ("X-Project-Id", "p1"),
        ("X-Roles", "member,reader"),
        ("X-Service-Catalog", &catalog.to_string()),
    ])
}

const SOURCE: &str = "4ca46bf1-5c61-48ff-b4f3-0ad4e5e3ba90";

fn metadata(size: usize) -> Value {
    json!({"status": "active", "disk_format": "raw", "container_format": "bare", "size": size, "hw_a": "1", "os_type": "new"})
}

fn redirect(to: &str) -> Vec<u8> {
    format!("HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").into_bytes()
}

#[tokio::test]
async fn a_hostile_source_fails_the_import_and_the_image_is_as_before() {
    let dir = tempfile::tempdir().unwrap();
    let json = |value: &Value| page(value.to_string().as_bytes());
    let with = |name: &str, value: Value| {
        let mut image = metadata(3);
        image[name] = value;
        json(&image)
    };
    let chunked =
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n4\r\nabcd\r\n0\r\n\r\n".to_vec();
    for (answers, reason) in [
        (vec![redirect("http://169.254.169.254/")], "does not connect there on behalf of users"),
        (vec![json(&metadata(3)), redirect("http://[::1]:1/")], "does not connect there on behalf of users"),
        (vec![redirect("file:///etc/passwd")], "does not connect there on behalf of users"),
        (vec![page(b"<html>")], "The source does not answer with an image."),
        (vec![with("status", json!("queued"))], "Source image status should be active instead of queued"),
        (vec![with("size", Value::Null)], "Size attribute of remote image"),
        (vec![with("disk_format", json!(["raw"]))], "The source image has no valid disk_format."),
        (vec![json(&metadata(3)), page(b"abcd")], "downloaded data size 4 is different from expected 3"),
        (vec![json(&metadata(3)), chunked], "interrupted"),
        (vec![page(&vec![b' '; 2_000_000])], "The web server's answer is too long."),
        (vec![with("disk_format", json!("qcow2")), page(b"abc")], "does not match stream data"),
        (vec![with("container_format", json!("bare\0"))], "The source image has no valid container_format."),
    ] {
        let (port, heads) = web(answers).await;
        let s = behind_proxy(dir.path(), port).start().await;
        let member = member(&s, &format!("http://127.0.0.1:{port}"));
        let created = json!({"disk_format": "vmdk", "container_format": "bare", "os_type": "old"});
        let image = member.create_image(&created).await;
        import(&member, &image, &request("r", SOURCE)).await.expect(202);
        let task = ended(&member, &image).await;
        assert_eq!(task["status"], "failure", "{task}");
        assert!(task["message"].as_str().unwrap().contains(reason), "{reason}: {task}");
        let shown = member.get(&image).await.expect(200).json();
        assert_eq!(
            (&shown["status"], &shown["disk_format"], &shown["os_type"]),
            (&json!("queued"), &json!("vmdk"), &json!("old"))
        );
        assert_eq!((shown.get("hw_a"), &shown["os_glance_failed_import"]), (None, &json!("fs")));
        nothing_is_left(&s, dir.path()).await;
        let head = heads.lock().unwrap()[0].clone();
        assert!(
            head.starts_with(&format!("get /v2/images/{SOURCE} ")) && head.contains("x-auth-token: s3cret-token"),
            "{head}"
        );
    }
}

#[tokio::test]
async fn the_callers_token_goes_to_the_source_only_and_not_into_the_database() {
    let dir = tempfile::tempdir().unwrap();
    let (elsewhere, there) = web(vec![page(b"abc")]).await;
    let (port, here) =
        web(vec![page(metadata(3).to_string().as_bytes()), redirect(&format!("http://127.0.0.1:{elsewhere}/x"))]).await;
    let s = behind_proxy(dir.path(), port)
        .option("import_filtering_opts", "allowed_ports", format!("[{port},{elsewhere}]"))
        .start()
        .await;
    let member = member(&s, &format!("http://127.0.0.1:{port}"));
    let image = member.create_image(&json!({"disk_format": "raw", "container_format": "bare"})).await;
    let mut body = request("R", SOURCE);
    body["method"]["glance_service_interface"] = json!("internal");
    import(&member, &image, &body).await.expect(202);
    let task = ended(&member, &image).await;
    assert_eq!(task["status"], "success", "{task}\n{}", s.log());
    assert_eq!(download(&member, &image).await, b"abc");
    assert!(
        here.lock().unwrap().iter().all(|head| head.contains("s3cret-token") && head.contains("get /internal/v2/"))
    );
    assert!(!there.lock().unwrap()[0].contains("s3cret-token"), "{there:?}");
    assert!(!task.to_string().contains("s3cret") && !s.log().contains("s3cret"));
}

#[tokio::test]
async fn an_import_whose_process_is_killed_before_the_data_is_here_fails_and_tells_why() {
    let dir = tempfile::tempdir().unwrap();
    let stalled = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\naSTALL".to_vec();
    let (port, _) = web(vec![page(metadata(3).to_string().as_bytes()), stalled]).await;
    let mut s = behind_proxy(dir.path(), port).start().await;
    let (created, endpoint) =
        (json!({"disk_format": "vmdk", "container_format": "bare"}), format!("http://127.0.0.1:{port}"));
    let image = member(&s, &endpoint).create_image(&created).await;
    import(&member(&s, &endpoint), &image, &request("R", SOURCE)).await.expect(202);
    let jobs = "SELECT COUNT(*) FROM glimpse_jobs WHERE step = 2";
    eventually("the download is begun", || async { (s.database.count(jobs).await == 1).then_some(()) }).await;
    let secrets = "SELECT COUNT(*) FROM glimpse_jobs WHERE input LIKE '%s3cret%'";
    assert_eq!(s.database.count(secrets).await, 0);
    s.kill();
    s.start_again().await;
    let member = member(&s, &endpoint);
    let task = ended(&member, &image).await;
    assert_eq!(task["status"], "failure", "{task}");
    assert!(task["message"].as_str().unwrap().contains("Import the image again."), "{task}");
    let shown = member.get(&image).await.expect(200).json();
    assert_eq!((&shown["status"], &shown["disk_format"], shown.get("hw_a")), (&json!("queued"), &json!("vmdk"), None));
    nothing_is_left(&s, dir.path()).await;
}

#[tokio::test]
async fn the_source_of_an_import_must_be_complete() {
    let dir = tempfile::tempdir().unwrap();
    let s = behind_proxy(dir.path(), 80).start().await;
    let member = member(&s, "http://127.0.0.1:80");
    let image = member.create_image(&json!({"disk_format": "raw", "container_format": "bare"})).await;
    for (method, message) in [
        (json!({}), "needs to be set for glance-download import method"),
        (json!({"glance_region": "R"}), "needs to be set for glance-download import method"),
        (json!({"glance_region": "R", "glance_image_id": "x"}), "Remote image id does not look like a UUID: x"),
    ] {
        let mut body = json!({ "method": method });
        body["method"]["name"] = json!("glance-download");
        let answer = import(&member, &image, &body).await.expect(400);
        assert!(answer.text.contains(message), "{}", answer.text);
    }
    assert_eq!(s.database.count("SELECT COUNT(*) FROM tasks").await, 0);
}

#[tokio::test]
async fn properties_that_are_protected_from_the_caller_are_not_imported() {
    let dir = tempfile::tempdir().unwrap();
    let (port, _) = web(vec![page(metadata(3).to_string().as_bytes())]).await;
    let protections = "[^hw_.*]\ncreate = admin\nread = member\nupdate = admin\ndelete = admin\n\
        [.*]\ncreate = member\nread = member\nupdate = member\ndelete = member\n";
    let file = dir.path().join("protections.conf");
    std::fs::write(&file, protections).unwrap();
    let builder = behind_proxy(dir.path(), port).option("DEFAULT", "property_protection_file", file.display());
    let s = builder.start().await;
    let member = member(&s, &format!("http://127.0.0.1:{port}"));
    let image = member.create_image(&json!({"disk_format": "raw", "container_format": "bare"})).await;
    import(&member, &image, &request("R", SOURCE)).await.expect(202);
    let task = ended(&member, &image).await;
    assert_eq!(task["message"], "Attribute 'hw_a' is reserved.", "{task}");
    assert_eq!(member.get(&image).await.json()["status"], "queued");
}
