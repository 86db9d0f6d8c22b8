//! Image import: staging.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt as _, net::TcpStream};

use crate::{
    data::{bytes, files, id, status, upload, waiting_image, with_store},
    limits::Cloud,
    support::{Answer, Client, ServerBuilder, TestServer, eventually},
};

/// Builds a server with one named store, and a folder for staged data.
fn with_staging(dir: &Path) -> ServerBuilder {
    with_store(dir).option("os_glance_staging_store", "filesystem_store_datadir", staging(dir).display())
}

fn staging(dir: &Path) -> PathBuf {
    dir.join("staging")
}

async fn stage(client: &Client, image: &str, data: impl Into<reqwest::Body>) -> Answer {
    let request = client.request("PUT", &format!("{image}/stage"));
    client.send(request.header("Content-Type", "application/octet-stream").body(data)).await
}

/// The files of staged data; none if there is no folder.
fn staged(dir: &Path) -> Vec<String> {
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

async fn is_queued_again(client: &Client, image: &str) {
    eventually("it is queued again", || async { (status(client, image).await == "queued").then_some(()) }).await;
    assert_eq!(client.get(image).await.json()["size"], Value::Null);
}

#[tokio::test]
async fn staged_data_waits_for_an_import_and_is_removed_with_its_image() {
    let dir = tempfile::tempdir().unwrap();
    let s = with_staging(dir.path())
        .option("DEFAULT", "worker_self_reference_url", "http://node1.example:9292")
        .start()
        .await;
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
        value = 'http://node1.example:9292'";
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
    for name in [unknown, id(&queued), "other", &format!(".glimpse-upload.{unknown}.x")] {
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
