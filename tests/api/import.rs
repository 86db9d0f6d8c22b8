//! Image import: staging, methods, failures, and kills of the server.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::StreamExt as _;
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt as _, net::TcpStream};

use crate::{
    data::{bytes, files, id, status, upload, waiting_image, with_store},
    limits::Cloud,
    support::{Answer, Client, Persona, Question, ServerBuilder, TestServer, Twins, eventually},
};

/// Builds a server with one named store, and a folder for staged data.
pub(crate) fn with_staging(dir: &Path) -> ServerBuilder {
    with_store(dir).option("os_glance_staging_store", "filesystem_store_datadir", staging(dir).display())
}

pub(crate) fn staging(dir: &Path) -> PathBuf {
    dir.join("staging")
}

pub(crate) async fn stage(client: &Client, image: &str, data: impl Into<reqwest::Body>) -> Answer {
    let request = client.request("PUT", &format!("{image}/stage"));
    client.send(request.header("Content-Type", "application/octet-stream").body(data)).await
}

/// The files of staged data; none if there is no folder.
pub(crate) fn staged(dir: &Path) -> Vec<String> {
    if staging(dir).exists() { files(&staging(dir)) } else { Vec::new() }
}

/// Begins to stage data whose length is ten bytes more than what is sent now, and waits until the server stores it.
async fn begun_stage(base: &str, image: &str, dir: &Path) -> TcpStream {
    let mut stream = TcpStream::connect(base.trim_start_matches("http://")).await.unwrap();
    let head = format!(
        "PUT {image}/stage HTTP/1.1\r\nHost: x\r\nX-Auth-Token: user:p1:member,reader\r\n\
         Content-Type: application/octet-stream\r\nContent-Length: 13\r\n\r\nabc"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    eventually("a file is begun", || async { staged(dir).iter().any(|name| name.contains(id(image))).then_some(()) })
        .await;
    stream
}

pub(crate) async fn is_queued_again(client: &Client, image: &str) {
    eventually("it is queued again", || async { (status(client, image).await == "queued").then_some(()) }).await;
    assert_eq!(client.get(image).await.json()["size"], Value::Null);
}

#[tokio::test]
async fn staged_data_waits_for_an_import_and_is_removed_with_its_image() {
    let dir = tempfile::tempdir().unwrap();
    let s =
        with_staging(dir.path()).option("DEFAULT", "worker_self_reference_url", "http://127.0.0.1:9292").start().await;
    let member = s.member("p1");
    let mut kept = Vec::new();
    for length in [0, 1, 3_000_000] {
        // As in Glance, the formats can be set after staging.
        let image = member.create_image(&json!({})).await;
        stage(&member, &image, bytes(length)).await.expect(204);
        let shown = member.get(&image).await.expect(200).json();
        assert_eq!((&shown["status"], &shown["size"]), (&json!("uploading"), &json!(length)));
        assert_eq!((&shown["checksum"], &shown["os_hash_value"]), (&Value::Null, &Value::Null));
        assert_eq!(shown.get("os_glance_stage_host"), None, "it is internal");
        assert_eq!(fs::read(staging(dir.path()).join(id(&image))).unwrap(), bytes(length));
        kept.push(image);
    }
    let hosts = "SELECT COUNT(*) FROM image_properties WHERE name = 'os_glance_stage_host' AND \
        value = 'http://127.0.0.1:9292'";
    assert_eq!(s.database.count(hosts).await, 3);
    let again = stage(&member, &kept[0], "x").await.expect(409);
    again.says("Image status transition from uploading to uploading is not allowed");
    upload(&member, &kept[0], "x").await.expect(409);
    assert!(files(&dir.path().join("images")).is_empty());
    for image in kept {
        member.delete(&image).await.expect(204);
    }
    assert_eq!(staged(dir.path()), [""; 0]);
    assert_eq!(s.database.count("SELECT COUNT(*) FROM glimpse_uploads").await, 0);
}

#[tokio::test]
async fn data_is_staged_in_the_directory_of_node_staging_uri_if_stores_have_no_names() {
    let dir = tempfile::tempdir().unwrap();
    let uri = format!("file://{}/", staging(dir.path()).display());
    let s = TestServer::builder().option("DEFAULT", "node_staging_uri", uri).start().await;
    let member = s.member("p1");
    let image = waiting_image(&member).await;
    stage(&member, &image, "abc").await.expect(204);
    assert_eq!(staged(dir.path()), [id(&image)]);
}

#[tokio::test]
async fn staging_is_refused_before_data_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let s = with_staging(dir.path()).start().await;
    let member = s.member("p1");
    let image = waiting_image(&member).await;
    stage(&s.member("other"), &image, "abc").await.expect(404);
    stage(&s.reader("p1"), &image, "abc").await.expect(403);
    stage(&member, "/v2/images/4ca46bf1-5c61-48ff-b4f3-0ad4e5e3ba90", "abc").await.expect(404);
    let typed = member.request("PUT", &format!("{image}/stage")).header("Content-Type", "text/plain").body("abc");
    member.send(typed).await.expect(415);
    let public = s.admin().create_image(&json!({"visibility": "public"})).await;
    stage(&member, &public, "abc").await.expect(403);
    assert_eq!((status(&member, &image).await, staged(dir.path())), ("queued".to_owned(), vec![]));
    // The method comes before the image and the media type.
    let s = with_staging(dir.path()).option("DEFAULT", "enabled_import_methods", "[web-download]").start().await;
    let answer = s.member("p1").put("/v2/images/x/stage").await.expect(404);
    assert!(answer.text.contains("method is not available at this site."), "{}", answer.text);
}

#[tokio::test]
async fn staged_data_that_exceeds_a_limit_is_refused_and_removed() {
    let dir = tempfile::tempdir().unwrap();
    let limited = |name, limit| with_staging(dir.path()).option("DEFAULT", name, limit).start();
    for (option, message) in [("image_size_cap", "The incoming image is too large"), ("user_storage_quota", "quota")] {
        let s = limited(option, 1000).await;
        let member = s.member("p1");
        let image = waiting_image(&member).await;
        for announced in [true, false] {
            let chunks = futures_util::stream::iter([Ok::<_, std::io::Error>(bytes(600)), Ok(bytes(401))]);
            let body = if announced { bytes(1001).into() } else { reqwest::Body::wrap_stream(chunks) };
            let answer = stage(&member, &image, body).await.expect(413);
            assert!(answer.text.contains(message), "{}", answer.text);
            is_queued_again(&member, &image).await;
            assert_eq!(staged(dir.path()), [""; 0]);
        }
        stage(&member, &image, bytes(1000)).await.expect(204);
        member.delete(&image).await.expect(204);
    }
}

#[tokio::test]
async fn image_stage_total_limits_staged_data() {
    let cloud = Cloud::start().await;
    for (resource, limit) in
        [("image_stage_total", 1), ("image_count_total", 100), ("image_count_uploading", 10), ("image_size_total", 100)]
    {
        cloud.register(resource, limit).await;
    }
    let dir = tempfile::tempdir().unwrap();
    let s = cloud.configure(with_staging(dir.path())).start().await;
    let p1 = cloud.project("p1").await;
    let member = s.member(&p1);
    let (first, second) = (waiting_image(&member).await, waiting_image(&member).await);
    let answer = stage(&member, &first, bytes(2 << 20)).await.expect(413);
    assert!(answer.text.contains("image_stage_total is over limit of 1"), "{}", answer.text);
    stage(&member, &first, bytes(1 << 20)).await.expect(204);
    stage(&member, &second, bytes(1 << 20)).await.expect(413);
    // Data of unknown size is counted when it has arrived.
    let chunks = futures_util::stream::iter([Ok::<_, std::io::Error>(bytes(1 << 20))]);
    stage(&member, &second, reqwest::Body::wrap_stream(chunks)).await.expect(413);
    is_queued_again(&member, &second).await;
    assert_eq!(staged(dir.path()), [id(&first)]);
    member.delete(&first).await.expect(204);
    stage(&member, &second, bytes(1 << 20)).await.expect(204);
}

#[tokio::test]
async fn interrupted_staging_is_rolled_back() {
    let dir = tempfile::tempdir().unwrap();
    let mut s = with_staging(dir.path()).start().await;
    let member = s.member("p1");
    let image = waiting_image(&member).await;
    // The client disconnects.
    drop(begun_stage(&s.base, &image, dir.path()).await);
    is_queued_again(&member, &image).await;
    assert_eq!(staged(dir.path()), [""; 0]);
    // The image is deleted.
    let deleted = waiting_image(&member).await;
    let mut going_on = begun_stage(&s.base, &deleted, dir.path()).await;
    member.delete(&deleted).await.expect(204);
    going_on.write_all(b"0123456789").await.unwrap();
    eventually("nothing is left", || async { staged(dir.path()).is_empty().then_some(()) }).await;
    // The server is killed.
    let _stream = begun_stage(&s.base, &image, dir.path()).await;
    s.kill();
    s.start_again().await;
    let member = s.member("p1");
    is_queued_again(&member, &image).await;
    eventually("nothing is left", || async { staged(dir.path()).is_empty().then_some(()) }).await;
    stage(&member, &image, "abc").await.expect(204);
    assert_eq!(s.database.count("SELECT COUNT(*) FROM glimpse_uploads").await, 0);
}

#[tokio::test]
async fn staged_data_that_no_image_needs_is_removed_and_other_data_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let mut s = with_staging(dir.path()).option("glimpse", "heartbeat", "0.2").start().await;
    let member = s.member("p1");
    let (needed, living, queued) =
        (waiting_image(&member).await, waiting_image(&member).await, waiting_image(&member).await);
    stage(&member, &needed, "abc").await.expect(204);
    s.kill();
    let unknown = "4ca46bf1-5c61-48ff-b4f3-0ad4e5e3ba90";
    let (upload, version) = (format!(".glimpse-upload.{unknown}.x"), format!(".glimpse-import.{unknown}.x"));
    for name in [unknown, id(&queued), "other", &upload, &version] {
        fs::write(staging(dir.path()).join(name), "abc").unwrap();
    }
    // A living process begins before the other one starts, and is idle for longer than its housekeeping waits.
    let other = with_staging(dir.path()).database(s.database.clone()).start().await;
    let _stream = begun_stage(&other.base, &living, dir.path()).await;
    s.start_again().await;
    eventually("what is not needed is removed", || async {
        let left = staged(dir.path());
        (!left.iter().any(|name| name.contains(unknown) || name == id(&queued))).then_some(())
    })
    .await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let left = staged(dir.path());
    for name in [id(&needed), "other", id(&living)] {
        assert!(left.iter().any(|left| left.contains(name)), "{name}: {left:?}");
    }
}

/// Builds a server with two named stores, which fetches URLs of this machine at these ports.
pub(crate) fn with_stores(dir: &Path, port: u16) -> ServerBuilder {
    with_staging(dir)
        .option("DEFAULT", "enabled_backends", "fs:file,second:file")
        .option("second", "filesystem_store_datadir", dir.join("second").display())
        .option("import_filtering_opts", "allowed_hosts", "[127.0.0.1]")
        .option("import_filtering_opts", "allowed_ports", format!("[{port}]"))
}

/// What a web server sends to its first, second … connection; the last one repeats. It closes a connection after its answer, unless
/// the answer ends with `STALL`.
pub(crate) async fn web(answers: Vec<Vec<u8>>) -> (u16, std::sync::Arc<std::sync::Mutex<Vec<String>>>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let heads = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let heard = std::sync::Arc::clone(&heads);
    tokio::spawn(async move {
        for n in 0.. {
            let Ok((mut stream, _)) = listener.accept().await else { return };
            let answer = answers[n.min(answers.len() - 1)].clone();
            let heard = std::sync::Arc::clone(&heard);
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let Ok(byte) = tokio::io::AsyncReadExt::read_u8(&mut stream).await else { return };
                    head.push(byte);
                }
                heard.lock().unwrap().push(String::from_utf8(head).unwrap().to_ascii_lowercase());
                let stalls = answer.strip_suffix(b"STALL");
                let _ = stream.write_all(stalls.unwrap_or(&answer)).await;
                if stalls.is_some() {
                    tokio::time::sleep(Duration::from_secs(600)).await;
                }
            });
        }
    });
    (port, heads)
}

/// A complete answer.
pub(crate) fn page(data: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 200 OK\r\nETag: \"e\"\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", data.len());
    [head.as_bytes(), data].concat()
}

pub(crate) async fn import(client: &Client, image: &str, body: &Value) -> Answer {
    client.post(&format!("{image}/import"), body).await
}

pub(crate) fn web_download(port: u16) -> Value {
    json!({"method": {"name": "web-download", "uri": format!("http://127.0.0.1:{port}/x")}})
}

/// Waits until the last import of the image has ended, and returns its task.
pub(crate) async fn ended(client: &Client, image: &str) -> Value {
    eventually("the import has ended", || async {
        let tasks = client.get(&format!("{image}/tasks")).await.expect(200).json();
        let last = tasks["tasks"].as_array().unwrap().last().cloned()?;
        ["success", "failure"].contains(&last["status"].as_str()?).then_some(last)
    })
    .await
}

/// Waits until nothing of the images' imports is left but their data. A lock file that a killed server has left is removed later.
pub(crate) async fn nothing_is_left(s: &TestServer, dir: &Path) {
    let no = if s.database.truth() == "1" { "0" } else { "FALSE" };
    let locks = format!("image_properties WHERE name = 'os_glance_import_task' AND deleted = {no}");
    let mut seen = String::new();
    for _ in 0..600 {
        let mut left = staged(dir);
        left.retain(|name| !name.starts_with(".glimpse-hold."));
        for table in ["glimpse_jobs", "glimpse_uploads", "glimpse_leftovers", &locks] {
            if s.database.count(&format!("SELECT COUNT(*) FROM {table}")).await != 0 {
                left.push(table.to_owned());
            }
        }
        if left.is_empty() {
            return;
        }
        seen = left.join(", ");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{seen} is left\n{}", s.log());
}

/// Waits until a store has no data.
pub(crate) async fn is_empty(store: &Path) {
    let names = || files(store).into_iter().filter(|name| !name.starts_with(".glimpse-hold."));
    eventually("no data is left", || async { names().next().is_none().then_some(()) }).await;
}

#[tokio::test]
async fn staged_data_is_imported() {
    let dir = tempfile::tempdir().unwrap();
    let s = with_staging(dir.path()).start().await;
    let member = s.member("p1");
    let data = bytes(3_000_000);
    let image = waiting_image(&member).await;
    stage(&member, &image, data.clone()).await.expect(204);
    let answer = import(&member, &image, &json!({"method": {"name": "glance-direct"}})).await.expect(202);
    assert_eq!(answer.text, "");
    let task = ended(&member, &image).await;
    assert_eq!((&task["status"], &task["message"]), (&json!("success"), &json!("Copied 2 MiB")), "{task}");
    assert_eq!(task["result"], json!({"image_id": id(&image)}));
    assert_eq!(task["input"]["import_req"], json!({"method": {"name": "glance-direct"}}));
    assert!(task["request_id"].as_str().unwrap().starts_with("req-") && task["expires_at"].is_string());
    let shown = member.get(&image).await.expect(200).json();
    assert_eq!(
        (&shown["status"], &shown["stores"], &shown["size"]),
        (&json!("active"), &json!("fs"), &json!(3_000_000))
    );
    assert_eq!((&shown["os_glance_importing_to_stores"], &shown["os_glance_failed_import"]), (&json!(""), &json!("")));
    assert_eq!(crate::data::download(&member, &image).await, data);
    nothing_is_left(&s, dir.path()).await;
}

#[tokio::test]
async fn data_is_downloaded_from_a_web_server_into_several_stores() {
    let dir = tempfile::tempdir().unwrap();
    let data = bytes(2_000_000);
    let (port, _) = web(vec![page(&data)]).await;
    let s = with_stores(dir.path(), port).start().await;
    let member = s.member("p1");
    let image = waiting_image(&member).await;
    let mut body = web_download(port);
    body["all_stores"] = json!(true);
    import(&member, &image, &body).await.expect(202);
    assert_eq!(ended(&member, &image).await["status"], "success");
    assert_eq!(member.get(&image).await.json()["stores"], "fs,second");
    for store in ["images", "second"] {
        assert_eq!(fs::read(dir.path().join(store).join(id(&image))).unwrap(), data);
    }
    nothing_is_left(&s, dir.path()).await;
    let listed = member.get("/v2/info/import").await.expect(200);
    let expected = "{\"import-methods\": {\"description\": \"Import methods available.\", \"type\": \"array\", \"value\": \
        [\"glance-direct\", \"web-download\", \"copy-image\"]}}";
    assert_eq!(listed.text, expected);
    let created = member.post("/v2/images", &json!({})).await.expect(201);
    assert_eq!(created.header("openstack-image-import-methods"), "glance-direct,web-download,copy-image");
}

/// How a web server answers requests for parts of its data.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Parts {
    Sent,
    /// Only the first half of a part is sent, and the rest on request.
    Halved,
    /// The whole data is sent instead.
    Refused,
}

/// The requests that a web server has got.
#[derive(Default)]
struct Requests {
    /// The requested ranges; empty if none was.
    ranges: Mutex<Vec<String>>,
    open: AtomicUsize,
    /// The largest number of requests at the same time.
    most: AtomicUsize,
}

/// Starts a web server that announces ranges.
async fn web_in_parts(data: bytes::Bytes, parts: Parts) -> (u16, Arc<Requests>) {
    let requests = Arc::new(Requests::default());
    let heard = Arc::clone(&requests);
    let answer = move |headers: axum::http::HeaderMap| {
        let (data, heard) = (data.clone(), Arc::clone(&heard));
        async move {
            let range = headers.get("range").map(|range| range.to_str().unwrap().to_owned()).unwrap_or_default();
            heard.ranges.lock().unwrap().push(range.clone());
            heard.most.fetch_max(heard.open.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(20)).await;
            heard.open.fetch_sub(1, Ordering::SeqCst);
            let response = axum::http::Response::builder().header("ETag", "\"e\"").header("Accept-Ranges", "bytes");
            let range = range.strip_prefix("bytes=").and_then(|range| range.split_once('-'));
            let Some((first, last)) = range.filter(|_| parts != Parts::Refused) else {
                return response.body(axum::body::Body::from(data)).unwrap();
            };
            let (first, last) = (first.parse().unwrap(), last.parse().unwrap_or(data.len() - 1));
            let part = data.slice(first..=last);
            let response = response.status(206).header("Content-Length", part.len());
            let response = response.header("Content-Range", format!("bytes {first}-{last}/{}", data.len()));
            let sent = match parts == Parts::Halved && first % (1 << 20) == 0 {
                true => vec![Ok(part.slice(..part.len() / 2)), Err(std::io::Error::other("cut"))],
                false => vec![Ok(part)],
            };
            // Each piece is sent on its own.
            let sent = futures_util::stream::iter(sent).then(|piece| async {
                tokio::time::sleep(Duration::from_millis(10)).await;
                piece
            });
            response.body(axum::body::Body::from_stream(sent)).unwrap()
        }
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move { axum::serve(listener, axum::Router::new().fallback(answer)).await });
    (port, requests)
}

#[tokio::test]
async fn large_data_is_requested_in_parts_at_the_same_time_if_the_server_supports_it() {
    let data = bytes(17_000_000);
    for parts in [Parts::Sent, Parts::Halved, Parts::Refused] {
        let dir = tempfile::tempdir().unwrap();
        let (port, requests) = web_in_parts(data.clone().into(), parts).await;
        let s = with_stores(dir.path(), port).start().await;
        let member = s.member("p1");
        let image = waiting_image(&member).await;
        let mut body = web_download(port);
        let digest = openssl::sha::sha256(&data).map(|byte| format!("{byte:02x}")).concat();
        body["method"]["checksum"] = json!(format!("sha256:{digest}"));
        import(&member, &image, &body).await.expect(202);
        assert_eq!(ended(&member, &image).await["status"], "success", "{parts:?} {}", s.log());
        assert!(fs::read(dir.path().join("images").join(id(&image))).unwrap() == data, "{parts:?}");
        let ranges = requests.ranges.lock().unwrap().clone();
        let most = requests.most.load(Ordering::SeqCst);
        let asked = |range: &str| ranges.iter().any(|asked| asked == range);
        assert!(ranges[0].is_empty() && asked("bytes=0-1048575") && most <= 4, "{ranges:?}");
        match parts {
            Parts::Sent => assert!(asked("bytes=16777216-16999999") && most > 1 && ranges.len() == 18, "{ranges:?}"),
            Parts::Halved => assert!(asked("bytes=524288-1048575") && !asked("bytes=0-"), "{ranges:?}"),
            Parts::Refused => assert_eq!(ranges.last().unwrap(), "bytes=0-"),
        }
        nothing_is_left(&s, dir.path()).await;
    }
}

#[tokio::test]
async fn an_interrupted_download_is_resumed_or_begun_again() {
    let dir = tempfile::tempdir().unwrap();
    let truncated = b"HTTP/1.1 200 OK\r\nETag: \"e\"\r\nContent-Length: 6\r\n\r\nabc".to_vec();
    let rest = b"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 3-5/6\r\nContent-Length: 3\r\n\r\ndef".to_vec();
    let (port, heads) = web(vec![truncated.clone(), rest]).await;
    let s = with_stores(dir.path(), port).start().await;
    let member = s.member("p1");
    let image = waiting_image(&member).await;
    import(&member, &image, &web_download(port)).await.expect(202);
    assert_eq!(ended(&member, &image).await["status"], "success", "{}", s.log());
    assert_eq!(crate::data::download(&member, &image).await, b"abcdef");
    let resumed = heads.lock().unwrap()[1].clone();
    assert!(resumed.contains("range: bytes=3-") && resumed.contains("if-range: \"e\""), "{resumed}");
    assert_eq!(heads.lock().unwrap().len(), 2);
    // The second answer has other data.
    let (port, _) = web(vec![truncated, page(b"ABCDEF")]).await;
    let s = with_stores(dir.path(), port).start().await;
    let member = s.member("p1");
    let image = waiting_image(&member).await;
    import(&member, &image, &web_download(port)).await.expect(202);
    assert_eq!(ended(&member, &image).await["status"], "success", "{}", s.log());
    assert_eq!(crate::data::download(&member, &image).await, b"ABCDEF");
}

#[tokio::test]
async fn a_failed_import_leaves_the_image_queued_with_a_reason() {
    let dir = tempfile::tempdir().unwrap();
    let (port, _) = web(vec![b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_vec(), page(b"too long")]).await;
    let s = with_stores(dir.path(), port).option("DEFAULT", "image_size_cap", 5).start().await;
    let member = s.member("p1");
    let image = waiting_image(&member).await;
    for reason in ["The web server answers with 404 Not Found.", "The provided image is too large."] {
        import(&member, &image, &web_download(port)).await.expect(202);
        let task = ended(&member, &image).await;
        assert_eq!((&task["status"], &task["message"]), (&json!("failure"), &json!(reason)));
        let shown = member.get(&image).await.expect(200).json();
        assert_eq!((&shown["status"], &shown["os_glance_failed_import"]), (&json!("queued"), &json!("fs")));
        assert_eq!(shown["os_glance_importing_to_stores"], "");
        nothing_is_left(&s, dir.path()).await;
        // The order of tasks of one second is arbitrary on MySQL.
        s.database.execute("UPDATE tasks SET image_id = NULL").await;
    }
    // Data of another format is refused by the import, as for uploads.
    let image = member.create_image(&json!({"disk_format": "qcow2", "container_format": "bare"})).await;
    stage(&member, &image, "raw").await.expect(204);
    import(&member, &image, &json!({"method": {"name": "glance-direct"}})).await.expect(202);
    assert_eq!(ended(&member, &image).await["status"], "failure");
    let shown = member.get(&image).await.expect(200).json();
    assert_eq!((&shown["status"], &shown["size"]), (&json!("queued"), &Value::Null));
    nothing_is_left(&s, dir.path()).await;
}

#[tokio::test]
async fn a_store_that_fails_decides_as_all_stores_must_succeed_says() {
    let dir = tempfile::tempdir().unwrap();
    let (port, _) = web(vec![page(b"abc")]).await;
    // The second store's directory cannot be created.
    fs::write(dir.path().join("second"), "a file").unwrap();
    let s = with_stores(dir.path(), port).start().await;
    let member = s.member("p1");
    let image = waiting_image(&member).await;
    let mut body = web_download(port);
    body["stores"] = json!(["fs", "second"]);
    import(&member, &image, &body).await.expect(202);
    assert_eq!(ended(&member, &image).await["status"], "failure");
    let shown = member.get(&image).await.expect(200).json();
    assert_eq!((&shown["status"], &shown["os_glance_failed_import"]), (&json!("queued"), &json!("second")));
    assert_eq!(shown["checksum"], Value::Null);
    is_empty(&dir.path().join("images")).await;
    nothing_is_left(&s, dir.path()).await;
    s.database.execute("UPDATE tasks SET image_id = NULL").await;
    body["all_stores_must_succeed"] = json!(false);
    import(&member, &image, &body).await.expect(202);
    assert_eq!(ended(&member, &image).await["status"], "success");
    let shown = member.get(&image).await.expect(200).json();
    assert_eq!((&shown["status"], &shown["stores"]), (&json!("active"), &json!("fs")));
    assert_eq!(shown["os_glance_failed_import"], "second");
    nothing_is_left(&s, dir.path()).await;
}

#[tokio::test]
async fn an_active_image_is_copied_to_further_stores() {
    let dir = tempfile::tempdir().unwrap();
    // The kernel does not copy into such a store.
    let s = with_stores(dir.path(), 80).option("second", "filesystem_thin_provisioning", true).start().await;
    let (member, admin) = (s.member("p1"), s.admin());
    let data = bytes(1_000_000);
    let image = crate::data::image_with(&member, &data).await;
    let copy = |stores: Value| json!({"method": {"name": "copy-image"}, "stores": stores});
    import(&member, &image, &copy(json!(["second"]))).await.expect(403);
    import(&admin, &image, &copy(json!(["fs"]))).await.expect(400);
    import(&admin, &image, &copy(json!(["nope"]))).await.expect(409).says("Store for identifier nope not found");
    import(&admin, &image, &copy(json!(["second"]))).await.expect(202);
    assert_eq!(ended(&admin, &image).await["status"], "success");
    let shown = member.get(&image).await.expect(200).json();
    assert_eq!((&shown["status"], &shown["stores"]), (&json!("active"), &json!("fs,second")));
    assert_eq!(fs::read(dir.path().join("second").join(id(&image))).unwrap(), data);
    nothing_is_left(&s, dir.path()).await;
    // Every store has it.
    import(&admin, &image, &json!({"method": {"name": "copy-image"}, "all_stores": true})).await.expect(202);
    assert_eq!(s.database.count("SELECT COUNT(*) FROM tasks").await, 1);
    // Data that is not the image's is not copied.
    admin.delete(&format!("/v2/stores/second/{}", id(&image))).await.expect(204);
    fs::write(dir.path().join("images").join(id(&image)), vec![1; 1_000_000]).unwrap();
    s.database.execute("UPDATE tasks SET image_id = NULL").await;
    import(&admin, &image, &copy(json!(["second"]))).await.expect(202);
    let task = ended(&admin, &image).await;
    assert!(task["message"].as_str().unwrap().starts_with("The data's sha512 is"), "{task}");
    let shown = member.get(&image).await.expect(200).json();
    assert_eq!((&shown["status"], &shown["stores"]), (&json!("active"), &json!("fs")));
    assert_eq!(shown["os_glance_failed_import"], "second");
    nothing_is_left(&s, dir.path()).await;
}

#[tokio::test]
async fn requests_for_an_import_are_refused_with_glances_messages() {
    let dir = tempfile::tempdir().unwrap();
    let s = with_stores(dir.path(), 80).start().await;
    let member = s.member("p1");
    let image = waiting_image(&member).await;
    let direct = json!({"method": {"name": "glance-direct"}});
    let download = web_download(80);
    let with = |name: &str, value: Value| {
        let mut body = web_download(80);
        body[name] = value;
        body
    };
    for (body, status, message) in [
        (json!({}), 400, "Import request requires a"),
        (json!({"method": {}}), 400, "Import request requires a"),
        (json!({"method": {"name": "glance-download"}}), 400, "Unknown import method name"),
        (with("all_stores", json!("x")), 400, "must be boolean value only"),
        (with("stores", json!("fs")), 400, "must be a list of the names of stores"),
        (with("stores", json!(["nope"])), 409, "Store for identifier nope not found"),
        (direct.clone(), 409, "Image needs to be staged before"),
        (json!({"method": {"name": "copy-image"}}), 409, "Only images with status active"),
        (json!({"method": {"name": "web-download"}}), 400, "URI for web-download does not pass filtering: None"),
        (json!({"method": {"name": "web-download", "uri": "http://169.254.169.254/"}}), 400, "does not pass filtering"),
    ] {
        let answer = import(&member, &image, &body).await.expect(status);
        assert!(answer.text.contains(message), "{body}: {}", answer.text);
    }
    import(&s.member("other"), &image, &download).await.expect(404);
    import(&s.reader("p1"), &image, &download).await.expect(403);
    let bare = member.create_image(&json!({})).await;
    import(&member, &bare, &download).await.expect(409);
    let active = crate::data::image_with(&member, b"abc").await;
    let answer = import(&member, &active, &download).await.expect(409);
    answer.says("Image with status active cannot be target for import");
    assert_eq!(s.database.count("SELECT COUNT(*) FROM tasks").await, 0);
}

#[tokio::test]
async fn an_import_holds_its_lock_until_it_makes_no_progress() {
    let dir = tempfile::tempdir().unwrap();
    let (port, _) = web(vec![page(b"abc")]).await;
    let s = with_stores(dir.path(), port).start().await;
    let member = s.member("p1");
    let image = waiting_image(&member).await;
    let task = "10000000-0000-4000-8000-000000000000";
    let no = if s.database.truth() == "1" { "0" } else { "FALSE" };
    let now = chrono::DateTime::<chrono::Utc>::from(std::time::SystemTime::now()).naive_utc();
    let set = async |minutes: i64| {
        let time = (now - chrono::TimeDelta::minutes(minutes)).format("%Y-%m-%d %H:%M:%S.000000");
        s.database.execute("DELETE FROM task_info").await;
        s.database.execute("DELETE FROM tasks").await;
        let insert = format!(
            "INSERT INTO tasks (id, type, status, owner, created_at, updated_at, deleted) VALUES \
             ('{task}', 'api_image_import', 'processing', 'p1', '{time}', '{time}', {no})"
        );
        s.database.execute(&insert).await;
    };
    let lock = format!(
        "INSERT INTO image_properties (image_id, name, value, created_at, deleted) VALUES \
         ('{}', 'os_glance_import_task', '{task}', '2024-01-01 00:00:00', {no})",
        id(&image)
    );
    s.database.execute(&lock).await;
    set(55).await;
    import(&member, &image, &web_download(port)).await.expect(409).says("Image has active task");
    set(65).await;
    import(&member, &image, &web_download(port)).await.expect(202);
    assert_eq!(ended(&member, &image).await["status"], "success");
    let failed = format!("SELECT COUNT(*) FROM tasks WHERE id = '{task}' AND status = 'failure'");
    assert_eq!(s.database.count(&failed).await, 1);
}

#[tokio::test]
async fn a_server_that_stops_hands_its_imports_over() {
    let dir = tempfile::tempdir().unwrap();
    let stalled = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\naSTALL".to_vec();
    let (port, _) = web(vec![stalled, page(b"abc")]).await;
    let mut first = with_stores(dir.path(), port).start().await;
    let image = waiting_image(&first.member("p1")).await;
    import(&first.member("p1"), &image, &web_download(port)).await.expect(202);
    eventually("the download is begun", || async { (!staged(dir.path()).is_empty()).then_some(()) }).await;
    let second = with_stores(dir.path(), port).database(first.database.clone()).start().await;
    first.terminate();
    assert!(first.ended().await.success());
    let member = second.member("p1");
    assert_eq!(ended(&member, &image).await["status"], "success", "{}", second.log());
    assert_eq!(crate::data::download(&member, &image).await, b"abc");
    nothing_is_left(&second, dir.path()).await;
}

#[tokio::test]
async fn a_process_that_stalls_does_not_disturb_the_one_that_has_taken_over_its_import() {
    let dir = tempfile::tempdir().unwrap();
    let (port, release) = held_web(b"abcdef").await;
    let first = with_stores(dir.path(), port).start().await;
    let image = waiting_image(&first.member("p1")).await;
    import(&first.member("p1"), &image, &web_download(port)).await.expect(202);
    eventually("the download is begun", || async { (!staged(dir.path()).is_empty()).then_some(()) }).await;
    first.freeze();
    let second = with_stores(dir.path(), port).database(first.database.clone()).start().await;
    let resumed = || async { second.log().contains("the job runs in this process").then_some(()) };
    eventually("another process resumes it", resumed).await;
    first.thaw();
    eventually("the first one notices it", || async {
        first.log().contains("another process has the job").then_some(())
    })
    .await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    release.send(true).unwrap();
    let member = second.member("p1");
    assert_eq!(ended(&member, &image).await["status"], "success", "{}\n{}", first.log(), second.log());
    assert_eq!(crate::data::download(&member, &image).await, b"abcdef");
    nothing_is_left(&second, dir.path()).await;
}

/// Without a restart: the download would go on for minutes.
#[tokio::test]
async fn deleting_an_image_ends_its_import_within_a_heartbeat() {
    let dir = tempfile::tempdir().unwrap();
    let stalled = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\naSTALL".to_vec();
    let (port, _) = web(vec![stalled]).await;
    let s = with_stores(dir.path(), port).start().await;
    let member = s.member("p1");
    let image = waiting_image(&member).await;
    import(&member, &image, &web_download(port)).await.expect(202);
    eventually("the download is begun", || async { (!staged(dir.path()).is_empty()).then_some(()) }).await;
    member.delete(&image).await.expect(204);
    let deleted = std::time::Instant::now();
    let jobs = async || s.database.count("SELECT COUNT(*) FROM glimpse_jobs").await;
    eventually("the import is ended", || async { (jobs().await == 0).then_some(()) }).await;
    assert!(deleted.elapsed() < Duration::from_secs(5), "{:?}", deleted.elapsed());
    let failed = "SELECT COUNT(*) FROM task_info WHERE message = 'Image has been deleted, aborting import.'";
    assert_eq!(s.database.count(failed).await, 1);
    eventually("nothing is left", || async { staged(dir.path()).is_empty().then_some(()) }).await;
    nothing_is_left(&s, dir.path()).await;
}

/// A newer version has written it. Otherwise each heartbeat would claim it, fail, and log that.
#[tokio::test]
async fn an_import_that_cannot_be_read_waits_with_one_warning() {
    let dir = tempfile::tempdir().unwrap();
    let (port, _) = web(vec![page(b"abc")]).await;
    let s = with_stores(dir.path(), port).start().await;
    let member = s.member("p1");
    for (task, kind, input) in [
        ("10000000-0000-4000-8000-000000000000", "future-method", "{}"),
        (
            "20000000-0000-4000-8000-000000000000",
            "web-download",
            "{\"uri\": null, \"stores\": [\"fs\"], \"must_succeed\": true, \"new\": 1}",
        ),
    ] {
        let image = waiting_image(&member).await;
        let insert = format!(
            "INSERT INTO glimpse_jobs (id, kind, image_id, project_id, process_id, claim, input, step, done, created_at) \
             VALUES ('{task}', '{kind}', '{}', 'p1', '', 'x', '{input}', 0, 0, '2024-01-01 00:00:00')",
            id(&image)
        );
        s.database.execute(&insert).await;
    }
    // Others are not held up.
    let image = waiting_image(&member).await;
    import(&member, &image, &web_download(port)).await.expect(202);
    assert_eq!(ended(&member, &image).await["status"], "success");
    tokio::time::sleep(Duration::from_millis(1200)).await;
    let log = s.log();
    assert_eq!(log.matches("cannot run here; it waits for such a process").count(), 2, "{log}");
    assert_eq!(log.matches("imports are in progress").count(), 1, "{log}");
    let unclaimed = "SELECT COUNT(*) FROM glimpse_jobs WHERE process_id = '' AND claim = 'x'";
    assert_eq!(s.database.count(unclaimed).await, 2);
}

#[tokio::test]
async fn the_digest_that_the_client_expects_is_verified() {
    let dir = tempfile::tempdir().unwrap();
    let (port, _) = web(vec![page(b"abc")]).await;
    let s = with_stores(dir.path(), port).start().await;
    let member = s.member("p1");
    let sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    let with = |checksum: Value| {
        let mut body = web_download(port);
        body["method"]["checksum"] = checksum;
        body
    };
    let image = waiting_image(&member).await;
    for malformed in [
        json!(5),
        json!(null),
        json!(""),
        json!("sha256"),
        json!("sha256:"),
        json!(format!("sha512:{sha256}")),
        json!(format!("sha255:{sha256}")),
        json!(format!("sha256:{}g", &sha256[1..])),
        json!(format!("sha256:{sha256} ")),
    ] {
        let answer = import(&member, &image, &with(malformed.clone())).await.expect(400);
        assert!(answer.text.contains("must be an algorithm and a digest"), "{malformed}: {}", answer.text);
    }
    let wrong = sha256.replace("ba", "ab");
    import(&member, &image, &with(json!(format!("sha256:{wrong}")))).await.expect(202);
    let task = ended(&member, &image).await;
    let message = format!("The sha256 of the downloaded data is {sha256}, expected {wrong}.");
    assert_eq!((&task["status"], &task["message"]), (&json!("failure"), &json!(message)));
    let shown = member.get(&image).await.expect(200).json();
    assert_eq!((&shown["status"], &shown["os_glance_failed_import"]), (&json!("queued"), &json!("fs")));
    nothing_is_left(&s, dir.path()).await;
    assert_eq!(files(&dir.path().join("images")), [""; 0]);
    for right in [format!("sha256:{}", sha256.to_ascii_uppercase()), "md5:900150983cd24fb0d6963f7d28e17f72".to_owned()]
    {
        let image = waiting_image(&member).await;
        import(&member, &image, &with(json!(right))).await.expect(202);
        assert_eq!(ended(&member, &image).await["status"], "success");
        assert_eq!(crate::data::download(&member, &image).await, b"abc");
    }
}

/// Holds the path of an image in a file store, so that no import can place data there.
fn hold(dir: &Path, store: &str, image: &str) -> fs::File {
    let path = dir.join(store).join(format!(".glimpse-hold.{}", id(image)));
    let file = fs::OpenOptions::new().create(true).truncate(false).write(true).open(path).unwrap();
    file.lock().unwrap();
    file
}

/// The first store is slow: the second one does not wait for it.
#[tokio::test]
async fn several_stores_receive_the_data_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let data = bytes(3_000_000);
    let (port, _) = web(vec![page(&data)]).await;
    let mut s = with_stores(dir.path(), port).option("image_import_opts", "max_parallel_stores", 2).start().await;
    let member = s.member("p1");
    let mut body = web_download(port);
    body["stores"] = json!(["fs", "second"]);
    let one_is_there = async |member: &Client, image: &str| {
        eventually("the second store has the data", || async {
            let shown = member.get(image).await.expect(200).json();
            (shown["stores"] == "second").then_some(shown)
        })
        .await
    };
    // All must succeed: the image is not active before the last one has the data.
    let image = waiting_image(&member).await;
    let held = hold(dir.path(), "images", &image);
    import(&member, &image, &body).await.expect(202);
    let shown = one_is_there(&member, &image).await;
    assert_eq!((&shown["status"], &shown["os_glance_importing_to_stores"]), (&json!("importing"), &json!("fs")));
    drop(held);
    assert_eq!(ended(&member, &image).await["status"], "success");
    let shown = member.get(&image).await.expect(200).json();
    assert_eq!((&shown["status"], &shown["os_glance_importing_to_stores"]), (&json!("active"), &json!("")));
    // The first success activates the image.
    body["all_stores_must_succeed"] = json!(false);
    let image = waiting_image(&member).await;
    let held = hold(dir.path(), "images", &image);
    import(&member, &image, &body).await.expect(202);
    let shown = one_is_there(&member, &image).await;
    assert_eq!((&shown["status"], &shown["size"]), (&json!("active"), &json!(3_000_000)));
    assert_eq!(crate::data::download(&member, &image).await, data);
    // The server is killed meanwhile, and resumes with the other store.
    s.kill();
    drop(held);
    s.start_again().await;
    let member = s.member("p1");
    assert_eq!(ended(&member, &image).await["status"], "success", "{}", s.log());
    let stores = member.get(&image).await.expect(200).json()["stores"].clone();
    assert!(["second,fs", "fs,second"].contains(&stores.as_str().unwrap()), "{stores}");
    for store in ["images", "second"] {
        assert_eq!(fs::read(dir.path().join(store).join(id(&image))).unwrap(), data);
        assert!(files(&dir.path().join(store)).iter().all(|name| !name.contains("upload")));
    }
    nothing_is_left(&s, dir.path()).await;
}

#[tokio::test]
async fn a_store_that_fails_among_several_at_once_decides_as_all_stores_must_succeed_says() {
    let dir = tempfile::tempdir().unwrap();
    let (port, _) = web(vec![page(&bytes(3_000_000))]).await;
    fs::write(dir.path().join("second"), "a file").unwrap();
    let s = with_stores(dir.path(), port).option("image_import_opts", "max_parallel_stores", 8).start().await;
    let member = s.member("p1");
    let image = waiting_image(&member).await;
    let mut body = web_download(port);
    body["stores"] = json!(["fs", "second"]);
    import(&member, &image, &body).await.expect(202);
    assert_eq!(ended(&member, &image).await["status"], "failure");
    let shown = member.get(&image).await.expect(200).json();
    assert_eq!((&shown["status"], &shown["os_glance_failed_import"]), (&json!("queued"), &json!("second")));
    assert_eq!((&shown["checksum"], shown.get("stores")), (&Value::Null, None));
    is_empty(&dir.path().join("images")).await;
    nothing_is_left(&s, dir.path()).await;
    s.database.execute("UPDATE tasks SET image_id = NULL").await;
    body["all_stores_must_succeed"] = json!(false);
    import(&member, &image, &body).await.expect(202);
    assert_eq!(ended(&member, &image).await["status"], "success", "{}", s.log());
    let shown = member.get(&image).await.expect(200).json();
    assert_eq!((&shown["status"], &shown["stores"]), (&json!("active"), &json!("fs")));
    assert_eq!(
        (&shown["os_glance_failed_import"], &shown["os_glance_importing_to_stores"]),
        (&json!("second"), &json!(""))
    );
    nothing_is_left(&s, dir.path()).await;
}

#[tokio::test]
async fn the_kernel_copies_data_between_file_stores() {
    let dir = tempfile::tempdir().unwrap();
    for (thin, copies) in [("false", 1), ("true", 0)] {
        let mut s = with_stores(dir.path(), 80)
            .option("DEFAULT", "debug", "true")
            .option("second", "filesystem_thin_provisioning", thin)
            .option("second", "filesystem_store_file_perm", 640)
            .start()
            .await;
        let admin = s.admin();
        for length in [0, 1, 40_000_000] {
            let image = crate::data::image_with(&admin, &bytes(length)).await;
            import(&admin, &image, &json!({"method": {"name": "copy-image"}, "stores": ["second"]})).await.expect(202);
            assert_eq!(ended(&admin, &image).await["status"], "success", "{}", s.log());
            let copy = dir.path().join("second").join(id(&image));
            assert!(fs::read(&copy).unwrap() == bytes(length), "{length}");
            let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(copy).unwrap().permissions());
            assert_eq!(mode & 0o777, 0o640);
        }
        let logged = s.log().matches("the kernel copies the data").count();
        assert_eq!(logged, copies * 3, "{}", s.log());
        s.kill();
    }
}

/// The digests of such data are known: it is not read for them. Its size is compared.
#[tokio::test]
async fn data_that_the_kernel_copies_is_not_read() {
    let dir = tempfile::tempdir().unwrap();
    for parallel in [1, 2] {
        let s = with_stores(dir.path(), 80).option("image_import_opts", "max_parallel_stores", parallel).start().await;
        let admin = s.admin();
        let image = crate::data::image_with(&admin, &bytes(40_000_000)).await;
        let before = admin.get(&image).await.expect(200).json();
        let original = dir.path().join("images").join(id(&image));
        let copy = json!({"method": {"name": "copy-image"}, "all_stores": true});
        let damaged = vec![1; 40_000_000];
        fs::write(&original, &damaged[1..]).unwrap();
        import(&admin, &image, &copy).await.expect(202);
        let task = ended(&admin, &image).await;
        assert_eq!(
            (&task["status"], &task["message"]),
            (&json!("failure"), &json!("Image size mismatch. Expected 40000000 but got 39999999"))
        );
        fs::write(&original, &damaged).unwrap();
        s.database.execute("UPDATE tasks SET image_id = NULL").await;
        import(&admin, &image, &copy).await.expect(202);
        assert_eq!(ended(&admin, &image).await["status"], "success", "{}", s.log());
        let shown = admin.get(&image).await.expect(200).json();
        assert_eq!(shown["stores"], "fs,second");
        for fact in ["size", "virtual_size", "checksum", "os_hash_algo", "os_hash_value"] {
            assert_eq!(shown[fact], before[fact], "{fact}");
        }
        nothing_is_left(&s, dir.path()).await;
    }
}

#[tokio::test]
async fn eight_imports_at_once_take_little_memory() {
    let dir = tempfile::tempdir().unwrap();
    let data = bytes(24_000_000);
    let (port, _) = web(vec![page(&data)]).await;
    let s = with_stores(dir.path(), port).option("image_import_opts", "max_parallel_stores", 2).start().await;
    let admin = s.admin();
    let mut images = Vec::new();
    for _ in 0..8 {
        images.push(waiting_image(&admin).await);
    }
    let mut body = web_download(port);
    body["all_stores"] = json!(true);
    for image in &images {
        import(&admin, image, &body).await.expect(202);
    }
    for image in &images {
        assert_eq!(ended(&admin, image).await["status"], "success");
    }
    let peak = s.peak_memory() >> 20;
    assert!(peak < 96, "{peak} MiB");
}

#[tokio::test]
async fn an_import_needs_no_token_once_it_is_accepted() {
    let keystone = crate::support::Keystone::start().await;
    let dir = tempfile::tempdir().unwrap();
    let (port, _) = web(vec![b"HTTP/1.1 503 Later\r\nContent-Length: 0\r\n\r\n".to_vec(), page(b"abc")]).await;
    let mut server = crate::keystone::with(&keystone)
        .option("import_filtering_opts", "allowed_hosts", "[127.0.0.1]")
        .option("import_filtering_opts", "allowed_ports", format!("[{port}]"))
        .option("glimpse", "heartbeat", "0.3")
        .option("os_glance_staging_store", "filesystem_store_datadir", staging(dir.path()).display())
        .start()
        .await;
    let token = keystone.token("member1", "p1").await;
    let member = server.client(Some(&token));
    let image = waiting_image(&member).await;
    import(&member, &image, &web_download(port)).await.expect(202);
    keystone.revoke(&token).await;
    server.kill();
    server.start_again().await;
    server.client(Some(&token)).get(&image).await.expect(401);
    let member = server.client(Some(&keystone.token("member1", "p1").await));
    assert_eq!(ended(&member, &image).await["status"], "success");
    assert_eq!(crate::data::download(&member, &image).await, b"abc");
}

#[tokio::test]
async fn the_storage_quota_counts_each_copy_of_an_import() {
    let dir = tempfile::tempdir().unwrap();
    let (port, _) = web(vec![page(&bytes(600))]).await;
    for parallel in [1, 2] {
        let s = with_stores(dir.path(), port)
            .option("DEFAULT", "user_storage_quota", "1000B")
            .option("image_import_opts", "max_parallel_stores", parallel)
            .start()
            .await;
        let member = s.member("p1");
        let image = waiting_image(&member).await;
        let mut body = web_download(port);
        body["all_stores"] = json!(true);
        import(&member, &image, &body).await.expect(202);
        let task = ended(&member, &image).await;
        assert_eq!(task["status"], "failure");
        assert!(task["message"].as_str().unwrap().contains("quota"), "{task}");
        assert_eq!(status(&member, &image).await, "queued");
        nothing_is_left(&s, dir.path()).await;
        for store in ["images", "second"] {
            is_empty(&dir.path().join(store)).await;
        }
        s.database.execute("UPDATE tasks SET image_id = NULL").await;
        import(&member, &image, &web_download(port)).await.expect(202);
        assert_eq!(ended(&member, &image).await["status"], "success");
        upload(&member, &waiting_image(&member).await, bytes(401)).await.expect(413);
        let last = waiting_image(&member).await;
        upload(&member, &last, bytes(400)).await.expect(204);
        for image in [image, last] {
            member.delete(&image).await.expect(204);
        }
    }
}

/// Sends the first byte of this data, and the rest once the sender says so.
async fn held_web(data: &'static [u8]) -> (u16, tokio::sync::watch::Sender<bool>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (release, released) = tokio::sync::watch::channel(false);
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut released = released.clone();
            tokio::spawn(async move {
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    request.push(tokio::io::AsyncReadExt::read_u8(&mut stream).await.unwrap());
                }
                let head = format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", data.len());
                stream.write_all(head.as_bytes()).await.unwrap();
                stream.write_all(&data[..1]).await.unwrap();
                released.wait_for(|released| *released).await.unwrap();
                let _ = stream.write_all(&data[1..]).await;
            });
        }
    });
    (port, release)
}

const IMAGE: &str = "4ca46bf1-5c61-48ff-b4f3-0ad4e5e3ba90";
/// What differs between two imports of the same data.
const OF_ONE_IMPORT: &[&str] = &["os_glance_import_task"];

fn ask(method: &'static str, path: impl Into<String>) -> Question {
    Question::new(Persona::Member("p1"), method, path).ignoring(OF_ONE_IMPORT)
}

/// Waits until both servers answer alike, with this text.
async fn both_say(twins: &Twins, question: &Question, text: &str) {
    eventually(text, || async {
        let (ours, theirs) = twins.ask(question).await;
        (ours.body.contains(text) && theirs.body.contains(text)).then_some(())
    })
    .await;
    twins.same(question).await;
}

async fn both_are_unlocked(twins: &Twins, image: &str) {
    let shown = Question::new(Persona::Member("p1"), "GET", image);
    eventually("the import has ended", || async {
        let (ours, theirs) = twins.ask(&shown).await;
        (!ours.body.contains("os_glance_import_task") && !theirs.body.contains("os_glance_import_task")).then_some(())
    })
    .await;
}

/// The requests, the image during the import and after it, and what a failed import leaves.
#[tokio::test]
async fn imports_are_answered_as_in_glance() {
    let dir = tempfile::tempdir().unwrap();
    let (port, release) = held_web(b"abcdef").await;
    let (missing, _) = web(vec![b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_vec()]).await;
    let ports = format!("[{port}, {missing}]");
    let options = [
        ("import_filtering_opts", "allowed_hosts", "[127.0.0.1]"),
        ("import_filtering_opts", "allowed_ports", ports.as_str()),
        ("oslo_policy", "policy_file", "policy.yaml"),
    ];
    let policy = [("policy.yaml", "tasks_api_access: \"@\"\n")];
    let twins = Twins::start_alike(with_staging(dir.path()), &options, &policy).await;
    let path = format!("/v2/images/{IMAGE}");
    let import = |body: &Value| ask("POST", format!("{path}/import")).json(body);
    twins.same(&ask("GET", "/v2/info/import").ignoring(&["import-methods"])).await;
    // Without an image, and without formats.
    twins.same(&import(&web_download(port))).await;
    twins.same(&ask("POST", "/v2/images").json(&json!({"id": IMAGE}))).await;
    twins.same(&import(&web_download(port))).await;
    let format = json!([{"op": "replace", "path": "/container_format", "value": "bare"}]);
    twins.same(&ask("PATCH", &path).patch(&format)).await;
    twins.same(&import(&web_download(port))).await;
    let format = json!([{"op": "replace", "path": "/disk_format", "value": "raw"}]);
    twins.same(&ask("PATCH", &path).patch(&format)).await;
    let with = |name: &str, value: Value| {
        let mut body = web_download(port);
        body[name] = value;
        body
    };
    for body in [
        json!({}),
        json!({"method": {}}),
        json!({"method": {"name": "nope"}}),
        json!({"method": {"name": "glance-direct"}}),
        json!({"method": {"name": "copy-image"}}),
        json!({"method": {"name": "web-download"}}),
        json!({"method": {"name": "web-download", "uri": "http://169.254.169.254/"}}),
        json!({"method": {"name": "web-download", "uri": "ftp://127.0.0.1/"}}),
        json!({"method": {"name": "web-download", "uri": format!("http://127.1:{port}/")}}),
        with("stores", json!(["nope"])),
        with("all_stores", json!("x")),
        with("all_stores_must_succeed", json!(1)),
    ] {
        twins.same(&import(&body)).await;
    }
    let mut both = with("stores", json!(["fs"]));
    both["all_stores"] = json!(true);
    twins.same(&import(&both)).await;
    for persona in [Persona::Member("p2"), Persona::Reader("p1"), Persona::Anonymous] {
        twins.same(&Question::new(persona, "POST", format!("{path}/import")).json(&web_download(port))).await;
    }
    // A download fails.
    twins.same(&import(&web_download(missing))).await;
    both_say(&twins, &ask("GET", &path), "\"os_glance_failed_import\":\"fs\"").await;
    both_are_unlocked(&twins, &path).await;
    // A download is in progress.
    twins.same(&import(&web_download(port))).await;
    both_say(&twins, &ask("GET", &path), "\"status\":\"importing\"").await;
    both_say(&twins, &ask("GET", &path), "\"os_glance_importing_to_stores\":\"fs\"").await;
    twins.same(&import(&web_download(port))).await;
    twins.same(&import(&json!({"method": {"name": "glance-direct"}}))).await;
    for (method, rest) in [("PUT", "/file"), ("PUT", "/stage")] {
        let question =
            ask(method, format!("{path}{rest}")).header("Content-Type", "application/octet-stream").text("x");
        twins.same(&question).await;
    }
    release.send(true).unwrap();
    both_say(&twins, &ask("GET", &path), "\"status\":\"active\"").await;
    both_say(&twins, &ask("GET", &path), "\"os_glance_importing_to_stores\":\"\"").await;
    both_are_unlocked(&twins, &path).await;
    twins.same(&import(&web_download(port))).await;
    twins.same(&import(&json!({"method": {"name": "copy-image"}, "stores": ["fs"]}))).await;
    let copy = json!({"method": {"name": "copy-image"}, "stores": ["fs"]});
    twins.same(&Question::new(Persona::Admin, "POST", format!("{path}/import")).json(&copy)).await;
    let copy = json!({"method": {"name": "copy-image"}, "all_stores": true});
    twins.same(&Question::new(Persona::Admin, "POST", format!("{path}/import")).json(&copy)).await;
    // Staged data.
    let other = "/v2/images/5ca46bf1-5c61-48ff-b4f3-0ad4e5e3ba90";
    let new = json!({"id": id(other), "disk_format": "raw", "container_format": "bare"});
    twins.same(&ask("POST", "/v2/images").json(&new)).await;
    let question = ask("PUT", format!("{other}/stage")).header("Content-Type", "application/octet-stream").text("abc");
    twins.same(&question).await;
    twins.same(&ask("GET", other)).await;
    twins.same(&ask("POST", format!("{other}/import")).json(&json!({"method": {"name": "glance-direct"}}))).await;
    both_say(&twins, &ask("GET", other), "\"status\":\"active\"").await;
    // The tasks of clients.
    let from = format!("http://127.0.0.1:{port}/x");
    for body in [
        json!({}),
        json!({"type": "import"}),
        json!({"type": "nope", "input": {}}),
        json!({"type": "import", "input": 5}),
        json!({"type": "import", "input": {}}),
        json!({"type": "import", "input": {"import_from": ""}}),
        json!({"type": "import", "input": {"import_from": "file:///etc/passwd"}}),
        json!({"type": "import", "input": {"import_from": "filesystem:///etc/passwd"}}),
        json!({"type": "import", "input": {"import_from": "ftp://a.example/"}}),
        json!({"type": "import", "input": {"import_from": "HTTP://127.0.0.1/"}}),
        json!({"type": "import", "input": {"import_from": "http://169.254.169.254/"}}),
        json!({"type": "import", "input": {"import_from": format!("http://2130706433:{port}/")}}),
        json!({"type": "import", "input": {"import_from": from}}),
        json!({"type": "import", "input": {"import_from": from, "import_from_format": "raw"}}),
        json!({"type": "api_image_import", "input": {}}),
        json!({"type": "api_image_import", "input": {"x": "y"}}),
        json!({"type": "api_image_import", "input": {"image_id": IMAGE}}),
        json!({"type": "location_import", "input": {}}),
        json!({"type": "location_import", "input": {"image_id": IMAGE}}),
    ] {
        let question =
            ask("POST", "/v2/tasks").json(&body).ignoring(&["id", "self", "request_id"]).ignoring_header("location");
        if twins.same(&question).await != 201 {
            continue;
        }
        // One task at a time, and not by requests: Glance writes when it lists tasks, and does not run one that finds SQLite's file locked.
        let newest = "SELECT type, status FROM tasks ORDER BY created_at DESC LIMIT 1";
        eventually("both have failed", || async {
            let (ours, theirs) = twins.pairs(newest).await;
            (ours == theirs && ours[0].1 == "failure").then_some(())
        })
        .await;
    }
    // The messages, in the order of the tasks.
    let messages = "SELECT t.type, i.message FROM tasks t JOIN task_info i ON i.task_id = t.id WHERE t.image_id IS NULL \
        OR t.type <> 'api_image_import' ORDER BY t.created_at, t.type, i.message";
    let (ours, theirs) = twins.pairs(messages).await;
    assert_eq!(ours, theirs);
}
