//! Image data: uploads, downloads and ranges, and what remains after failures.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::support::{Answer, Client, Database, Glance, ServerBuilder, TestServer, eventually, raw, raw_status};

/// Builds a server with one named store, in this folder.
pub(crate) fn with_store(dir: &Path) -> ServerBuilder {
    let images = dir.join("images");
    with_short_heartbeat()
        .option("DEFAULT", "enabled_backends", "fs:file")
        .option("glance_store", "default_backend", "fs")
        .option("fs", "filesystem_store_datadir", images.display())
}

/// Builds a server that soon rolls back interrupted uploads.
pub(crate) fn with_short_heartbeat() -> ServerBuilder {
    TestServer::builder().option("glimpse", "heartbeat", "0.3")
}

/// A body of unknown length.
pub(crate) fn chunked(data: &[u8]) -> reqwest::Body {
    let parts: Vec<_> = data.chunks(100_000).map(|part| Ok::<_, std::io::Error>(part.to_vec())).collect();
    reqwest::Body::wrap_stream(futures_util::stream::iter(parts))
}

/// Creates a queued image.
pub(crate) async fn waiting_image(client: &Client) -> String {
    client.create_image(&json!({"disk_format": "raw", "container_format": "bare"})).await
}

pub(crate) async fn upload(client: &Client, image: &str, data: impl Into<reqwest::Body>) -> Answer {
    let request = client.request("PUT", &format!("{image}/file"));
    client.send(request.header("Content-Type", "application/octet-stream").body(data)).await
}

/// Creates an image with this data.
pub(crate) async fn image_with(client: &Client, data: &[u8]) -> String {
    let image = waiting_image(client).await;
    upload(client, &image, data.to_vec()).await.expect(204);
    image
}

pub(crate) async fn download(client: &Client, image: &str) -> Vec<u8> {
    let response = client.request("GET", &format!("{image}/file")).send().await.unwrap();
    assert_eq!(response.status(), 200);
    response.bytes().await.unwrap().to_vec()
}

/// Pseudorandom bytes without repeated sequences.
pub(crate) fn bytes(length: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let next = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33).to_le_bytes()[0]
    });
    next.take(length).collect()
}

/// The names of the files in a folder.
pub(crate) fn files(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = entries.collect();
    names.sort();
    names
}

pub(crate) fn id(image: &str) -> &str {
    image.rsplit('/').next().unwrap()
}

pub(crate) async fn status(client: &Client, image: &str) -> String {
    client.get(image).await.expect(200).json()["status"].as_str().unwrap().to_owned()
}

/// Waits until the image is queued again and the store is empty; then checks that an upload succeeds.
async fn nothing_is_left(client: &Client, image: &str, dir: &Path) {
    eventually("the image is queued again, and nothing is left", || async {
        (status(client, image).await == "queued" && files(dir).is_empty()).then_some(())
    })
    .await;
    assert_eq!(client.get(image).await.expect(200).json()["size"], Value::Null);
    upload(client, image, "whole").await.expect(204);
    assert_eq!(download(client, image).await, b"whole");
}

/// Sends the head of an upload of `length` bytes.
pub(crate) async fn head_of_upload(base: &str, image: &str, length: usize, more: &str) -> TcpStream {
    let mut stream = TcpStream::connect(base.trim_start_matches("http://")).await.unwrap();
    let head = format!(
        "PUT {image}/file HTTP/1.1\r\nHost: x\r\nX-Auth-Token: user:p1:member,reader\r\n\
         Content-Type: application/octet-stream\r\nContent-Length: {length}\r\n{more}\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream
}

/// Begins an upload whose length is ten bytes more than what is sent now.
pub(crate) async fn begun_upload(base: &str, image: &str, sent: &[u8]) -> TcpStream {
    let mut stream = head_of_upload(base, image, sent.len() + 10, "").await;
    stream.write_all(sent).await.unwrap();
    stream
}

/// Waits until the server has created an image's file.
async fn file_is_begun(dir: &Path) {
    eventually("a file is begun", || async { (!files(dir).is_empty()).then_some(()) }).await;
}

#[tokio::test]
async fn uploaded_data_is_downloaded_unchanged() {
    let dir = tempfile::tempdir().unwrap();
    let s = with_store(dir.path()).start().await;
    let member = s.member("p1");
    for length in [0, 1, 255 * 1024, 256 * 1024, 3_000_000] {
        let data = bytes(length);
        for is_told in [true, false] {
            let image = waiting_image(&member).await;
            member.get(&format!("{image}/file")).await.expect(204);
            let body = if is_told { data.clone().into() } else { chunked(&data) };
            upload(&member, &image, body).await.expect(204);
            let shown = member.get(&image).await.expect(200).json();
            assert_eq!((&shown["status"], &shown["size"]), (&json!("active"), &json!(length)));
            assert_eq!(shown["stores"], "fs");
            let file = dir.path().join("images").join(id(&image));
            for (tool, attribute) in [("md5sum", "checksum"), ("sha512sum", "os_hash_value")] {
                let output = Command::new(tool).arg(&file).output().unwrap();
                let digest = String::from_utf8(output.stdout).unwrap();
                assert_eq!(digest.split(' ').next(), shown[attribute].as_str(), "{tool}");
            }
            assert_eq!(shown["os_hash_algo"], "sha512");
            let response = member.request("GET", &format!("{image}/file")).send().await.unwrap();
            assert_eq!(response.headers()["content-type"], "application/octet-stream");
            assert_eq!(response.headers()["content-length"], length.to_string().as_str());
            assert_eq!(response.headers()["content-md5"], shown["checksum"].as_str().unwrap());
            assert!(response.bytes().await.unwrap() == data, "{length}");
            // Data can be uploaded only once.
            upload(&member, &image, "again").await.expect(409).says("from active to saving is not allowed");
        }
    }
}

/// Azure requires images in this form. Glance recognises them as raw only.
#[tokio::test]
async fn a_fixed_vhd_is_accepted_as_vhd_and_as_raw() {
    let s = TestServer::start().await;
    let member = s.member("p1");
    let mut disk = bytes(1 << 20);
    // With a boot sector, as on a bootable disk.
    disk[..512].fill(0);
    disk[446..462].copy_from_slice(&[0x80, 0, 33, 3, 0x83, 0, 0, 0, 0, 8, 0, 0, 0, 8, 0, 0]);
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    let mut footer = [0; 512];
    footer[..8].copy_from_slice(b"conectix");
    for at in [40, 48] {
        footer[at..at + 8].copy_from_slice(&(1_u64 << 20).to_be_bytes());
    }
    footer[60..64].copy_from_slice(&2_u32.to_be_bytes());
    let fixed = [&disk[..], &footer].concat();
    let queued =
        async |format: &str| member.create_image(&json!({"disk_format": format, "container_format": "bare"})).await;
    for (format, data, expected) in [
        ("vhd", &fixed, Ok(1 << 20)),
        ("raw", &fixed, Ok(fixed.len())),
        ("vhd", &disk, Err("does not match stream data gpt")),
        ("vhdx", &fixed, Err("does not match stream data gpt")),
    ] {
        let image = queued(format).await;
        let answer = upload(&member, &image, data.clone()).await;
        match expected {
            Ok(size) => {
                answer.expect(204);
                assert_eq!(member.get(&image).await.json()["virtual_size"], size);
                assert_eq!(download(&member, &image).await, *data);
            }
            Err(says) => drop(answer.expect(415).says(says)),
        }
    }
}

#[tokio::test]
async fn the_hash_algorithm_is_configurable() {
    let s = TestServer::builder().option("DEFAULT", "hashing_algorithm", "sha3_256").start().await;
    let image = image_with(&s.member("p1"), b"abc").await;
    let shown = s.member("p1").get(&image).await.expect(200).json();
    assert_eq!(shown["os_hash_algo"], "sha3_256");
    assert_eq!(shown["os_hash_value"], "3a985da74fe225b2045c172d6bd390bd855f086e3e9d525b46bfe24511431532");
    assert!(shown.get("stores").is_none(), "stores without names are nobody's business");
}

/// A Glimpse and a real Glance that receive the same requests and share one folder for image data.
struct Pair {
    ours: TestServer,
    theirs: Glance,
    images: PathBuf,
    _dir: tempfile::TempDir,
}

impl Pair {
    /// Both use one database, as after a migration from one program to the other.
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let database = Database::create(dir.path()).await;
        Glance::sync(&database).await;
        let theirs = Glance::start_with(&database, &[], &[]).await;
        Self::with_glance(theirs, database, &[], dir).await
    }

    /// Each has its own database: Glance answers 500 if another process writes to an SQLite file during its
    /// transaction.
    async fn start_apart(options: &[(&str, &str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (theirs, ours) = (dir.path().join("theirs"), dir.path().join("ours"));
        fs::create_dir(&theirs).unwrap();
        fs::create_dir(&ours).unwrap();
        let theirs = Database::create(&theirs).await;
        Glance::sync(&theirs).await;
        let theirs = Glance::start_with(&theirs, options, &[]).await;
        Self::with_glance(theirs, Database::create(&ours).await, options, dir).await
    }

    async fn with_glance(
        theirs: Glance,
        database: Database,
        options: &[(&str, &str, &str)],
        dir: tempfile::TempDir,
    ) -> Self {
        let images = theirs.folder().join("images");
        let builder = TestServer::builder()
            .database(database)
            .option("DEFAULT", "enabled_backends", "fs:file")
            .option("glance_store", "default_backend", "fs")
            .option("fs", "filesystem_store_datadir", images.display());
        let builder = options.iter().fold(builder, |builder, (group, name, value)| builder.option(group, name, value));
        Self { ours: builder.start().await, theirs, images, _dir: dir }
    }
}

#[tokio::test]
async fn glimpse_and_glance_read_data_written_by_each_other() {
    let pair = Pair::start().await;
    let (ours, theirs) = (pair.ours.member("p1"), pair.theirs.member("p1"));
    let data = bytes(700_000);
    let mut written = Vec::new();
    for (writer, reader) in [(&ours, &theirs), (&theirs, &ours)] {
        let image = image_with(writer, &data).await;
        assert!(download(reader, &image).await == data);
        let (left, right) = (writer.get(&image).await.json(), reader.get(&image).await.json());
        for attribute in ["size", "checksum", "os_hash_algo", "os_hash_value", "status", "stores"] {
            assert_eq!(left[attribute], right[attribute], "{attribute}");
        }
        let sql = format!("SELECT value, meta_data FROM image_locations WHERE image_id = '{}'", id(&image));
        let row = pair.ours.database.pairs(&sql).await.remove(0);
        let metadata: Value = serde_json::from_str(&row.1).unwrap();
        written.push((row.0.replace(id(&image), "ID"), metadata));
        // The program that deletes the image also deletes its data.
        reader.delete(&image).await.expect(204);
        assert!(!pair.images.join(id(&image)).exists());
        writer.get(&format!("{image}/file")).await.expect(404);
        let states = "SELECT status, status FROM image_locations WHERE deleted = ";
        let states = format!("{states}{} AND image_id = '{}'", pair.ours.database.truth(), id(&image));
        assert_eq!(pair.ours.database.pairs(&states).await[0].0, "deleted");
    }
    assert_eq!(written[0], written[1]);
}

/// A request: method, kind of image, headers and body.
type Request<'a> = (&'a str, &'a str, Vec<(&'a str, &'a str)>, &'a str);

#[tokio::test]
async fn requests_are_answered_as_in_glance() {
    let pair = Pair::start_apart(&[]).await;
    let (ours, theirs) = (pair.ours.member("p1"), pair.theirs.member("p1"));
    let data = "application/octet-stream";
    let part = |value: &'static str| vec![("Range", value)];
    let old = |value: &'static str| vec![("Content-Range", value)];
    let cases: Vec<Request<'_>> = vec![
        ("PUT", "waiting", vec![("Content-Type", "text/plain")], "x"),
        ("PUT", "waiting", vec![("Content-Type", data), ("X-OpenStack-Image-Size", "many")], "x"),
        ("PUT", "waiting", vec![("Content-Type", data), ("X-OpenStack-Image-Size", "3")], "abcdef"),
        ("PUT", "waiting", vec![("Content-Type", data), ("X-OpenStack-Image-Size", "9")], "abcdef"),
        ("PUT", "waiting", vec![("Content-Type", data), ("X-OpenStack-Image-Size", "-1")], "abcdef"),
        ("PUT", "waiting", vec![("Content-Type", data), ("X-OpenStack-Image-Size", "-1")], ""),
        ("PUT", "waiting", vec![("Content-Type", data), ("X-Image-Meta-Store", "nope")], "x"),
        ("PUT", "bare", vec![("Content-Type", data)], "x"),
        ("PUT", "half", vec![("Content-Type", data)], "x"),
        ("PUT", "full", vec![("Content-Type", data)], "x"),
        ("PUT", "4ca46bf1-5c61-48ff-b4f3-0ad4e5e3ba90", vec![("Content-Type", data)], "x"),
        ("PUT", "waiting", vec![("Content-Type", data), ("X-Image-Meta-Store", "fs")], "x"),
        ("HEAD", "full", vec![], ""),
        ("GET", "bare", vec![], ""),
        ("GET", "4ca46bf1-5c61-48ff-b4f3-0ad4e5e3ba90", vec![], ""),
        ("GET", "full", vec![], ""),
        ("GET", "full", part("bytes=0-0"), ""),
        ("GET", "full", part("bytes=2-3"), ""),
        ("GET", "full", part("bytes=5-"), ""),
        ("GET", "full", part("bytes=-3"), ""),
        ("GET", "full", part("bytes=-300"), ""),
        ("GET", "full", part("bytes=2-300"), ""),
        ("GET", "full", part("Bytes = 2 - 4"), ""),
        ("GET", "full", part("bytes=10-"), ""),
        ("GET", "full", part("bytes=4-2"), ""),
        ("GET", "full", part("nonsense"), ""),
        ("GET", "full", part("bytes=0-1,3-4"), ""),
        ("GET", "full", old("bytes 0-3/*"), ""),
        ("GET", "full", old("bytes 0-3/10"), ""),
        ("GET", "full", old("bytes 0-10/*"), ""),
        ("GET", "full", old("bytes 10-11/*"), ""),
        ("GET", "full", old("nonsense"), ""),
        ("GET", "full?prefer=fs", vec![], ""),
        ("GET", "full?prefer=nope", vec![], ""),
    ];
    for (method, which, headers, body) in cases {
        let mut answers = Vec::new();
        for client in [&ours, &theirs] {
            let (name, query) = which.split_once('?').map_or((which, String::new()), |(n, q)| (n, format!("?{q}")));
            let image = match name {
                "waiting" => waiting_image(client).await,
                "bare" => client.create_image(&json!({})).await,
                "half" => client.create_image(&json!({"disk_format": "raw"})).await,
                "full" => image_with(client, b"0123456789").await,
                id => format!("/v2/images/{id}"),
            };
            let request = client.request(method, &format!("{image}/file{query}"));
            let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
            let request = if method == "PUT" { request.body(body.to_owned()) } else { request };
            let answer = client.send(request.header("Accept", "text/plain")).await;
            let state = if name.len() == 36 { String::new() } else { status(client, &image).await };
            let kept = ["content-type", "content-length", "content-range", "content-md5"]
                .map(|name| answer.headers.get(name).map(|value| value.to_str().unwrap().to_owned()));
            // Glance's responses without a body sometimes have a content type.
            let kept = if answer.status == 204 { [None, None, None, None] } else { kept };
            answers.push((answer.status.as_u16(), answer.text.replace(id(&image), "ID"), kept, state));
        }
        let case = format!("{method} {which} {headers:?}");
        assert_eq!(answers[0].0, answers[1].0, "{case}: {answers:#?}");
        assert_eq!(answers[0].1.trim_end(), answers[1].1.trim_end(), "{case}");
        assert_eq!(answers[0].2[2..], answers[1].2[2..], "{case}");
        assert_eq!(answers[0].3, answers[1].3, "{case}");
    }
}

/// A client that waits for `100 Continue` does not receive it if the upload is refused.
#[tokio::test]
async fn an_upload_is_refused_before_its_data_is_requested() {
    let s = TestServer::start().await;
    let full = image_with(&s.member("p1"), b"x").await;
    let empty = waiting_image(&s.member("p1")).await;
    for (image, kind, token, expected) in [
        (&full, "application/octet-stream", "user:p1:member,reader", 409),
        (&empty, "text/plain", "user:p1:member,reader", 415),
        (&empty, "application/octet-stream", "user:p1:reader", 403),
        (&empty, "application/octet-stream", "user:p2:member,reader", 404),
    ] {
        let head = format!(
            "PUT {image}/file HTTP/1.1\r\nHost: x\r\nX-Auth-Token: {token}\r\nContent-Type: {kind}\r\n\
             Content-Length: 1000000\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n"
        );
        let answer = raw(&s.base, head.as_bytes()).await;
        assert_eq!(raw_status(&answer), expected, "{answer}");
    }
    let expects = "Expect: 100-continue\r\nConnection: close\r\n";
    let mut stream = head_of_upload(&s.base, &empty, 4, expects).await;
    let mut asked = [0; 25];
    stream.read_exact(&mut asked).await.unwrap();
    assert_eq!(&asked, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"data").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert_eq!(raw_status(&answer), 204, "{answer}");
}

/// As when a browser sends the data directly for Horizon.
#[tokio::test]
async fn a_browser_uploads_from_another_origin() {
    let s = TestServer::builder().option("cors", "allowed_origin", "http://horizon.example").start().await;
    let member = s.member("p1");
    let image = waiting_image(&member).await;
    let from_page =
        |method: &str| member.request(method, &format!("{image}/file")).header("Origin", "http://horizon.example");
    let asks = from_page("OPTIONS")
        .header("Access-Control-Request-Method", "PUT")
        .header("Access-Control-Request-Headers", "content-type,x-auth-token");
    let answer = member.send(asks).await.expect(200);
    assert_eq!(answer.header("access-control-allow-methods"), "PUT");
    assert_eq!(answer.header("access-control-allow-headers"), "content-type,x-auth-token");
    let data = bytes(600_000);
    let sends = from_page("PUT").header("Content-Type", "application/octet-stream").body(data.clone());
    let answer = member.send(sends).await.expect(204);
    assert_eq!(answer.header("access-control-allow-origin"), "http://horizon.example");
    assert_eq!(download(&member, &image).await, data);
}

#[tokio::test]
async fn an_image_cannot_exceed_the_size_limit() {
    let dir = tempfile::tempdir().unwrap();
    let s = with_store(dir.path()).option("DEFAULT", "image_size_cap", 1000).start().await;
    let member = s.member("p1");
    let says = "The incoming image is too large: The provided image is too large.";
    let image = waiting_image(&member).await;
    upload(&member, &image, bytes(1001)).await.expect(413).says(says);
    // An upload without a length.
    let parts = [600, 600].map(|length| Ok::<_, std::io::Error>(bytes(length)));
    let body = reqwest::Body::wrap_stream(futures_util::stream::iter(parts));
    upload(&member, &image, body).await.expect(413).says(says);
    nothing_is_left(&member, &image, &dir.path().join("images")).await;
    let image = waiting_image(&member).await;
    upload(&member, &image, bytes(1000)).await.expect(204);
}

/// Each upload fits into the quota when it begins.
#[tokio::test]
async fn concurrent_uploads_cannot_exceed_the_storage_quota_together() {
    let dir = tempfile::tempdir().unwrap();
    let s = with_store(dir.path()).option("DEFAULT", "user_storage_quota", "3MB").start().await;
    let (member, data) = (s.member("p1"), bytes(1 << 20));
    let mut images = Vec::new();
    for _ in 0..12 {
        images.push(waiting_image(&member).await);
    }
    let uploads = images.iter().map(|image| {
        let (member, image, data) = (member.clone(), image.clone(), data.clone());
        tokio::spawn(async move { upload(&member, &image, data).await })
    });
    let mut stored = 0;
    for upload in uploads.collect::<Vec<_>>() {
        let answer = upload.await.unwrap();
        match answer.status.as_u16() {
            204 => stored += 1,
            413 => drop(answer.says("Image exceeds the storage quota: The size of the data")),
            other => panic!("{other}: {}", answer.text),
        }
    }
    assert_eq!(stored, 3);
    eventually("the others wait again", || async {
        let mut queued = 0;
        for image in &images {
            queued += usize::from(status(&member, image).await == "queued");
        }
        (queued == 9).then_some(())
    })
    .await;
    eventually("nothing of them is left", || async { (files(&dir.path().join("images")).len() == 3).then_some(()) })
        .await;
}

#[tokio::test]
async fn a_project_cannot_exceed_its_storage_quota() {
    let dir = tempfile::tempdir().unwrap();
    let s = with_store(dir.path()).option("DEFAULT", "user_storage_quota", "1000B").start().await;
    let member = s.member("p1");
    image_with(&member, &bytes(600)).await;
    let says = "Image exceeds the storage quota: The size of the data 600 will exceed the limit. 400 bytes remaining.";
    for chunked in [false, true] {
        let image = waiting_image(&member).await;
        let data = bytes(600);
        let whole = [data.clone()].map(Ok::<_, std::io::Error>);
        let body = if chunked { reqwest::Body::wrap_stream(futures_util::stream::iter(whole)) } else { data.into() };
        upload(&member, &image, body).await.expect(413).says(says);
        eventually("it waits again", || async { (status(&member, &image).await == "queued").then_some(()) }).await;
    }
    eventually("nothing is left", || async { (files(&dir.path().join("images")).len() == 1).then_some(()) }).await;
    image_with(&member, &bytes(400)).await;
    image_with(&s.member("p2"), &bytes(1000)).await;
}

#[tokio::test]
async fn an_upload_aborted_by_its_client_leaves_no_data() {
    let dir = tempfile::tempdir().unwrap();
    let images = dir.path().join("images");
    let s = with_store(dir.path()).start().await;
    let member = s.member("p1");
    for sent in [0, 100, 600_000] {
        let image = waiting_image(&member).await;
        let stream = begun_upload(&s.base, &image, &bytes(sent)).await;
        file_is_begun(&images).await;
        assert_eq!(status(&member, &image).await, "saving");
        // A partial upload cannot be downloaded.
        member.get(&format!("{image}/file")).await.expect(204);
        drop(stream);
        nothing_is_left(&member, &image, &images).await;
        member.delete(&image).await.expect(204);
    }
}

#[tokio::test]
async fn an_upload_from_a_silent_client_times_out() {
    let dir = tempfile::tempdir().unwrap();
    let s = with_store(dir.path()).option("glimpse", "client_timeout", "0.5").start().await;
    let image = waiting_image(&s.member("p1")).await;
    let mut stream = begun_upload(&s.base, &image, b"abc").await;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert_eq!(raw_status(&answer), 408, "{answer}");
    nothing_is_left(&s.member("p1"), &image, &dir.path().join("images")).await;
}

/// The request timeout does not apply to the transfer of data.
#[tokio::test]
async fn an_upload_may_take_longer_than_the_request_timeout() {
    let s = TestServer::builder().option("glimpse", "request_timeout", "0.5").start().await;
    let member = s.member("p1");
    let image = waiting_image(&member).await;
    let mut stream = begun_upload(&s.base, &image, b"abc").await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    stream.write_all(b"0123456789").await.unwrap();
    eventually("the upload is done", || async { (status(&member, &image).await == "active").then_some(()) }).await;
    assert_eq!(download(&member, &image).await, b"abc0123456789");
}

#[tokio::test]
async fn one_of_two_concurrent_uploads_succeeds() {
    let dir = tempfile::tempdir().unwrap();
    let s = with_store(dir.path()).start().await;
    let member = s.member("p1");
    for _ in 0..5 {
        let image = waiting_image(&member).await;
        let (one, two) = (bytes(400_000), vec![7; 400_000]);
        let answers = tokio::join!(upload(&member, &image, one.clone()), upload(&member, &image, two.clone()));
        let statuses = [answers.0.status.as_u16(), answers.1.status.as_u16()];
        let expected = if statuses[0] == 204 { one } else { two };
        assert!(statuses == [204, 409] || statuses == [409, 204], "{statuses:?}");
        assert!(download(&member, &image).await == expected);
    }
    assert_eq!(files(&dir.path().join("images")).len(), 5);
}

#[tokio::test]
async fn deleting_an_image_during_its_upload_leaves_no_data() {
    let dir = tempfile::tempdir().unwrap();
    let images = dir.path().join("images");
    let s = with_store(dir.path()).start().await;
    let member = s.member("p1");
    let image = waiting_image(&member).await;
    let mut stream = begun_upload(&s.base, &image, b"abc").await;
    file_is_begun(&images).await;
    member.delete(&image).await.expect(204);
    stream.write_all(b"0123456789").await.unwrap();
    assert_eq!(answered(&mut stream).await, "HTTP/1.1 410");
    eventually("nothing is left", || async { files(&images).is_empty().then_some(()) }).await;
    assert_eq!(s.database.count("SELECT COUNT(*) FROM glimpse_uploads").await, 0);
}

/// The answer's status, on a connection that stays open.
pub(crate) async fn answered(stream: &mut TcpStream) -> String {
    let mut start = vec![0; 12];
    stream.read_exact(&mut start).await.unwrap();
    String::from_utf8(start).unwrap()
}

/// An upload that another process has rolled back because it considered this one dead; its data arrives later.
#[tokio::test]
async fn a_late_upload_does_not_overwrite_a_newer_one() {
    let dir = tempfile::tempdir().unwrap();
    let images = dir.path().join("images");
    let s = with_store(dir.path()).option("glimpse", "heartbeat", "0.1").start().await;
    let member = s.member("p1");
    for with_a_later_one in [false, true] {
        let image = waiting_image(&member).await;
        let mut late = begun_upload(&s.base, &image, b"abc").await;
        eventually("it is begun", || async { (status(&member, &image).await == "saving").then_some(()) }).await;
        s.database.execute("UPDATE glimpse_uploads SET upload_id = 'taken'").await;
        eventually("it is undone", || async { (status(&member, &image).await == "queued").then_some(()) }).await;
        if with_a_later_one {
            // The data has the same length.
            upload(&member, &image, "0123456789abc").await.expect(204);
        }
        late.write_all(b"0123456789").await.unwrap();
        assert_eq!(answered(&mut late).await, "HTTP/1.1 410");
        let left: &[&str] = if with_a_later_one { &[id(&image)] } else { &[] };
        assert_eq!(files(&images), left);
        if with_a_later_one {
            assert_eq!(download(&member, &image).await, b"0123456789abc");
        }
    }
}

/// An operator changes the status of the image by hand during an upload, and a Glance uploads to it.
#[tokio::test]
async fn data_written_by_another_program_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let images = dir.path().join("images");
    let s = with_store(dir.path()).option("glimpse", "heartbeat", "0.1").start().await;
    let member = s.member("p1");
    for is_taken_for_dead in [false, true] {
        let image = waiting_image(&member).await;
        let mut late = begun_upload(&s.base, &image, b"abc").await;
        eventually("it is begun", || async { (status(&member, &image).await == "saving").then_some(()) }).await;
        s.database.execute(&format!("UPDATE images SET status = 'active' WHERE id = '{}'", id(&image))).await;
        fs::write(images.join(id(&image)), "theirs").unwrap();
        if is_taken_for_dead {
            s.database.execute("UPDATE glimpse_uploads SET upload_id = 'taken'").await;
            let left = "SELECT COUNT(*) FROM glimpse_uploads";
            eventually("it is undone", || async { (s.database.count(left).await == 0).then_some(()) }).await;
        }
        late.write_all(b"0123456789").await.unwrap();
        assert_eq!(answered(&mut late).await, "HTTP/1.1 410");
        assert_eq!(fs::read(images.join(id(&image))).unwrap(), b"theirs");
        fs::remove_file(images.join(id(&image))).unwrap();
        assert_eq!(files(&images), [""; 0]);
    }
}

/// The process that holds the lock of an image's file may stall for any time.
#[tokio::test]
async fn a_rollback_that_waits_for_one_image_does_not_delay_the_others() {
    use sqlx::Executor as _;
    let dir = tempfile::tempdir().unwrap();
    let images = dir.path().join("images");
    let mut s = with_store(dir.path())
        .option("glimpse", "heartbeat", "0.1")
        .option("glimpse", "request_timeout", "1")
        .environment("RUST_LOG", "info,glimpse=debug")
        .start()
        .await;
    let member = s.member("p1");
    let (held, free) = (waiting_image(&member).await, waiting_image(&member).await);
    let hold = fs::File::create(images.join(format!(".glimpse-hold.{}", id(&held)))).unwrap();
    hold.lock().unwrap();
    fs::write(images.join(id(&held)), "part").unwrap();
    for image in [&held, &free] {
        let id = id(image);
        s.database.execute(&format!("UPDATE images SET status = 'saving' WHERE id = '{id}'")).await;
        let columns = "image_id, upload_id, process_id, store";
        let values = format!("'{id}', 'of-{}', 'dead', 'fs'", &id[..8]);
        s.database.execute(&format!("INSERT INTO glimpse_uploads ({columns}) VALUES ({values})")).await;
    }
    eventually("one is undone", || async { (status(&member, &free).await == "queued").then_some(()) }).await;
    assert_eq!(status(&member, &held).await, "saving");
    // A task that waits for the database does not prevent the server from stopping.
    let mut other = s.database.connect().await;
    other.execute("BEGIN").await.unwrap();
    other.execute("UPDATE images SET min_ram = 1").await.unwrap();
    drop(hold);
    let tried = || s.log().matches("cannot be rolled back now").count();
    let before = tried();
    eventually("it is tried again", || async { (tried() > before + 1).then_some(()) }).await;
    // The reason is the same each time, so it is logged once.
    let told = s.log().lines().filter(|line| line.contains("WARN") && line.contains("takes too long")).count();
    assert_eq!(told, 1, "{}", s.log());
    // Waits until the pause after that attempt is over.
    tokio::time::sleep(Duration::from_millis(300)).await;
    s.terminate();
    eventually("it drains", || async { s.log().contains("draining").then_some(()) }).await;
    other.execute("ROLLBACK").await.unwrap();
    s.ended().await;
    assert!(!s.log().contains("the work still in progress is aborted"), "{}", s.log());
    s.start_again().await;
    nothing_is_left(&s.member("p1"), &held, &images).await;
}

/// A failure after all of the data has arrived removes the data as well.
#[tokio::test]
async fn an_upload_that_fails_after_its_last_byte_leaves_no_data() {
    use sqlx::Executor as _;
    let dir = tempfile::tempdir().unwrap();
    let images = dir.path().join("images");
    let s = with_store(dir.path()).option("glimpse", "request_timeout", "0.5").start().await;
    let member = s.member("p1");
    let raw = waiting_image(&member).await;
    let unfit = member.create_image(&json!({"disk_format": "qcow2", "container_format": "bare"})).await;
    let mut streams = [begun_upload(&s.base, &raw, b"abc").await, begun_upload(&s.base, &unfit, b"abc").await];
    eventually("both are begun", || async { (files(&images).len() == 2).then_some(()) }).await;
    let mut other = s.database.connect().await;
    other.execute("BEGIN").await.unwrap();
    other.execute("UPDATE images SET min_ram = 1").await.unwrap();
    for (stream, expected) in streams.iter_mut().zip(["HTTP/1.1 503", "HTTP/1.1 415"]) {
        stream.write_all(b"0123456789").await.unwrap();
        assert_eq!(answered(stream).await, expected);
    }
    // Refused data is removed at once, even while the database cannot be updated.
    assert!(files(&images).iter().all(|name| !name.contains(id(&unfit))), "{:?}", files(&images));
    other.execute("ROLLBACK").await.unwrap();
    for image in [&raw, &unfit] {
        eventually("it waits again", || async { (status(&member, image).await == "queued").then_some(()) }).await;
    }
    assert_eq!(files(&images), [""; 0]);
    nothing_is_left(&member, &raw, &images).await;
}

/// The process that holds the lock of the image's file may be suspended.
#[tokio::test]
async fn waiting_for_the_lock_of_an_image_file_times_out() {
    let dir = tempfile::tempdir().unwrap();
    let images = dir.path().join("images");
    let s = with_store(dir.path()).option("glimpse", "request_timeout", "0.5").start().await;
    let member = s.member("p1");
    let image = waiting_image(&member).await;
    let hold = images.join(format!(".glimpse-hold.{}", id(&image)));
    let held = fs::File::create(&hold).unwrap();
    held.lock().unwrap();
    upload(&member, &image, "data").await.expect(503);
    assert_eq!(files(&images), [hold.file_name().unwrap().to_str().unwrap()]);
    fs::remove_file(&hold).unwrap();
    nothing_is_left(&member, &image, &images).await;
}

/// `kill -9` at ten points of uploads and at three points of deletions. The next start completes or rolls back each of
/// them.
#[tokio::test]
async fn uploads_and_deletions_interrupted_by_a_kill_are_settled_at_the_next_start() {
    use sqlx::Executor as _;
    let dir = tempfile::tempdir().unwrap();
    let images = dir.path().join("images");
    let mut s = with_store(dir.path()).option("glimpse", "heartbeat", "0.1").start().await;
    let member = s.member("p1");
    // Images whose deletion is interrupted: before it is recorded, and before and after the data is removed.
    let deleted =
        [image_with(&member, b"abc").await, image_with(&member, b"abc").await, image_with(&member, b"abc").await];
    let mut streams = Vec::new();
    let mut queued = Vec::new();
    let mut begun = async |image: &str, data: &[u8]| streams.push(begun_upload(&s.base, image, data).await);
    // During the transfer of the data.
    for sent in [0, 1, 300_000, 2_000_000] {
        queued.push(waiting_image(&member).await);
        begun(&queued[queued.len() - 1], &bytes(sent)).await;
    }
    // After `100 Continue`, and before any data has arrived.
    queued.push(waiting_image(&member).await);
    let mut asked = head_of_upload(&s.base, &queued[queued.len() - 1], 10, "Expect: 100-continue\r\n").await;
    asked.read_exact(&mut [0; 25]).await.unwrap();
    // One upload that has not reserved its image yet, and two with all of their data: one is acceptable, the other is
    // not.
    let (taken, whole) = (waiting_image(&member).await, waiting_image(&member).await);
    let unfit = member.create_image(&json!({"disk_format": "qcow2", "container_format": "bare"})).await;
    // An upload with all of its data on the disk that waits for the lock of its file.
    let held = waiting_image(&member).await;
    let hold = fs::File::create(images.join(format!(".glimpse-hold.{}", id(&held)))).unwrap();
    hold.lock().unwrap();
    begun(&held, b"abc").await;
    begun(&whole, b"abc").await;
    begun(&unfit, b"abc").await;
    eventually("all are begun", || async { (files(&images).len() == 12).then_some(()) }).await;
    // The last upload has been answered.
    let active = image_with(&member, b"abc").await;
    let mut other = s.database.connect().await;
    other.execute("BEGIN").await.unwrap();
    other.execute("UPDATE images SET min_ram = 1").await.unwrap();
    let waiting = (member.clone(), taken.clone(), deleted[0].clone());
    tokio::spawn(async move {
        let request = waiting.0.request("PUT", &format!("{}/file", waiting.1));
        let request = request.header("Content-Type", "application/octet-stream").body("abc");
        let _ = tokio::join!(waiting.0.try_send(request), waiting.0.try_send(waiting.0.request("DELETE", &waiting.2)));
    });
    for stream in streams.iter_mut().rev().take(3) {
        stream.write_all(b"0123456789").await.unwrap();
    }
    // One file is in place and its transaction waits for the row; the other is removed, and its transaction waits as
    // well.
    eventually("it is in place", || async { images.join(id(&whole)).exists().then_some(()) }).await;
    let is_left = || files(&images).iter().any(|name| name.contains(id(&unfit)));
    eventually("the other is refused", || async { (!is_left()).then_some(()) }).await;
    s.kill();
    drop((other, hold));
    queued.extend([held, taken, whole, unfit]);
    fs::remove_file(images.join(id(&deleted[2]))).unwrap();
    for image in &deleted[1..] {
        s.database.execute(&format!("UPDATE images SET status = 'pending_delete' WHERE id = '{}'", id(image))).await;
    }
    s.start_again().await;
    let member = s.member("p1");
    for image in &queued {
        eventually("it waits again", || async { (status(&member, image).await == "queued").then_some(()) }).await;
    }
    for image in &deleted[1..] {
        eventually("it is gone", || async { (member.get(image).await.status == 404).then_some(()) }).await;
    }
    for image in [&active, &deleted[0]] {
        assert_eq!(download(&member, image).await, b"abc");
    }
    let mut kept = [id(&active).to_owned(), id(&deleted[0]).to_owned()];
    kept.sort();
    eventually("nothing else is left", || async { (files(&images) == kept).then_some(()) }).await;
    for image in &queued {
        let data: &[u8] = if image == queued.last().unwrap() { &disks()[0].1 } else { b"whole" };
        upload(&member, image, data.to_vec()).await.expect(204);
    }
    assert_eq!(s.database.count("SELECT COUNT(*) FROM glimpse_uploads").await, 0);
}

/// The file is found through the new store, and the image accepts another upload.
#[tokio::test]
async fn an_interrupted_upload_into_a_removed_store_is_rolled_back() {
    let dir = tempfile::tempdir().unwrap();
    let images = dir.path().join("images");
    let mut s = with_store(dir.path()).option("glimpse", "heartbeat", "0.1").start().await;
    let image = waiting_image(&s.member("p1")).await;
    let _stream = begun_upload(&s.base, &image, b"abc").await;
    file_is_begun(&images).await;
    s.kill();
    s.configure(&format!(
        "[DEFAULT]\nenabled_backends = new:file\n[glance_store]\ndefault_backend = new\n\
         [new]\nfilesystem_store_datadir = {}\n",
        images.display()
    ));
    s.start_again().await;
    nothing_is_left(&s.member("p1"), &image, &images).await;
    assert_eq!(s.log().matches("the store, which is not configured here").count(), 1, "{}", s.log());
}

/// Heartbeats continue even when the server only waits for a slow client.
#[tokio::test]
async fn heartbeats_continue_while_the_server_drains() {
    let dir = tempfile::tempdir().unwrap();
    let s = with_store(dir.path()).option("glimpse", "heartbeat", "0.1").start().await;
    let image = image_with(&s.member("p1"), &bytes(30_000_000)).await;
    let _slow = s.member("p1").request("GET", &format!("{image}/file")).send().await.unwrap();
    s.terminate();
    eventually("it drains", || async { s.log().contains("draining").then_some(()) }).await;
    let beat = async || s.database.count("SELECT beat FROM glimpse_processes").await >> 32;
    let before = beat().await;
    eventually("it goes on", || async { (beat().await > before + 4).then_some(()) }).await;
}

#[tokio::test]
async fn another_process_rolls_back_only_the_uploads_of_a_killed_one() {
    let dir = tempfile::tempdir().unwrap();
    let images = dir.path().join("images");
    let mut killed = with_store(dir.path()).start().await;
    let other = with_store(dir.path()).database(killed.database.clone()).start().await;
    let member = other.member("p1");
    let (dead, alive) = (waiting_image(&member).await, waiting_image(&member).await);
    // An upload by a Glance is left alone.
    let glances = waiting_image(&member).await;
    other.database.execute(&format!("UPDATE images SET status = 'saving' WHERE id = '{}'", id(&glances))).await;
    let _begun = begun_upload(&killed.base, &dead, b"abc").await;
    let mut going_on = begun_upload(&other.base, &alive, b"abc").await;
    eventually("both are begun", || async { (files(&images).len() == 2).then_some(()) }).await;
    killed.kill();
    eventually("it is undone", || async { (status(&member, &dead).await == "queued").then_some(()) }).await;
    assert_eq!(files(&images).len(), 1);
    assert_eq!(status(&member, &alive).await, "saving");
    assert_eq!(status(&member, &glances).await, "saving");
    going_on.write_all(b"0123456789").await.unwrap();
    eventually("the other goes on", || async { (status(&member, &alive).await == "active").then_some(()) }).await;
    // The record of the killed process is removed.
    eventually("it is forgotten", || async {
        (other.database.count("SELECT COUNT(*) FROM glimpse_processes").await == 1).then_some(())
    })
    .await;
}

#[tokio::test]
async fn leftover_upload_files_are_removed() {
    let dir = tempfile::tempdir().unwrap();
    let images = dir.path().join("images");
    fs::create_dir_all(&images).unwrap();
    fs::write(images.join(".glimpse-upload.4ca46bf1-5c61-48ff-b4f3-0ad4e5e3ba90.x"), "part").unwrap();
    fs::write(images.join("other"), "not ours").unwrap();
    let _s = with_store(dir.path()).start().await;
    eventually("it is removed", || async { (files(&images) == ["other"]).then_some(()) }).await;
}

/// The operating system limits the size of files, which fails like a full file system.
#[tokio::test]
async fn exceeding_a_file_size_limit_is_reported_and_keeps_no_data() {
    let dir = tempfile::tempdir().unwrap();
    let s = with_store(dir.path()).start().await;
    s.limit_files(2_000_000);
    let member = s.member("p1");
    let image = waiting_image(&member).await;
    let says = "Image storage media is full: There is not enough disk space on the image storage media.";
    upload(&member, &image, bytes(3_000_000)).await.expect(413).says(says);
    nothing_is_left(&member, &image, &dir.path().join("images")).await;
}

/// A small file system that is soon full. In addition to the test above, this tests the error of a real file system.
#[tokio::test]
async fn a_full_file_system_is_reported_and_keeps_no_data() {
    let dir = tempfile::tempdir().unwrap();
    let images = dir.path().join("images");
    fs::create_dir_all(&images).unwrap();
    let mount = Command::new("mount").args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"]).arg(&images).output().unwrap();
    if !mount.status.success() {
        // .config/nextest.toml makes nextest show this output.
        eprintln!("NOT TESTED: a full file system. {}", String::from_utf8_lossy(&mount.stderr));
        return;
    }
    let s = with_store(dir.path()).start().await;
    let member = s.member("p1");
    let image = waiting_image(&member).await;
    let says = "Image storage media is full: There is not enough disk space on the image storage media.";
    upload(&member, &image, bytes(3_000_000)).await.expect(413).says(says);
    nothing_is_left(&member, &image, &images).await;
    drop(s);
    assert!(Command::new("umount").arg(&images).status().unwrap().success());
}

#[tokio::test]
async fn truncated_and_missing_data_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let s = with_store(dir.path()).start().await;
    let member = s.member("p1");
    let data = bytes(30_000_000);
    let image = image_with(&member, &data).await;
    let file = dir.path().join("images").join(id(&image));
    // The file is truncated during the download, by more than the buffers between the file and the client can hold.
    let mut response = member.request("GET", &format!("{image}/file")).send().await.unwrap();
    let first = response.chunk().await.unwrap().unwrap();
    fs::OpenOptions::new().write(true).open(&file).unwrap().set_len(1_000_000).unwrap();
    let mut came = first.len();
    let end = loop {
        match response.chunk().await {
            Ok(Some(chunk)) => came += chunk.len(),
            end => break end,
        }
    };
    assert!(end.is_err() && came < data.len(), "{came} bytes came, and the end was good");
    for cut in [true, false] {
        if !cut {
            fs::remove_file(&file).unwrap();
        }
        let answer = member.get(&format!("{image}/file")).await.expect(503);
        assert!(!answer.text.contains(dir.path().to_str().unwrap()), "{}", answer.text);
    }
    // The image can still be deleted.
    member.delete(&image).await.expect(204);
}

#[tokio::test]
async fn only_an_admin_downloads_a_deactivated_image() {
    let s = TestServer::start().await;
    let image = image_with(&s.member("p1"), b"abc").await;
    s.database.execute("UPDATE images SET status = 'deactivated'").await;
    let says = "The requested image has been deactivated. Image data download is forbidden.";
    s.member("p1").get(&format!("{image}/file")).await.expect(403).says(says);
    assert_eq!(download(&s.admin(), &image).await, b"abc");
    s.member("p1").delete(&image).await.expect(204);
}

#[tokio::test]
async fn delayed_deletion_leaves_the_data_to_the_scrubber() {
    let dir = tempfile::tempdir().unwrap();
    let s = with_store(dir.path()).option("DEFAULT", "delayed_delete", true).start().await;
    let image = image_with(&s.member("p1"), b"abc").await;
    s.member("p1").delete(&image).await.expect(204);
    assert_eq!(files(&dir.path().join("images")), [id(&image)]);
    let states =
        s.database.pairs("SELECT i.status, l.status FROM images i JOIN image_locations l ON l.image_id = i.id");
    assert_eq!(states.await, [("pending_delete".to_owned(), "pending_delete".to_owned())]);
}

/// A server that received SIGTERM finishes uploads in progress.
#[tokio::test]
async fn an_upload_in_progress_completes_while_the_server_drains() {
    let dir = tempfile::tempdir().unwrap();
    let mut s = with_store(dir.path()).start().await;
    let image = waiting_image(&s.member("p1")).await;
    let mut stream = begun_upload(&s.base, &image, b"abc").await;
    file_is_begun(&dir.path().join("images")).await;
    s.terminate();
    eventually("it drains", || async { (s.anonymous().get("/healthcheck").await.status == 503).then_some(()) }).await;
    stream.write_all(b"0123456789").await.unwrap();
    assert!(s.ended().await.success());
    s.start_again().await;
    assert_eq!(download(&s.member("p1"), &image).await, b"abc0123456789");
}

/// Small disk images by name, most of them `qemu-img`'s.
fn disks() -> Vec<(&'static str, Vec<u8>)> {
    let dir = tempfile::tempdir().unwrap();
    let made = |name: &'static str, arguments: &str| {
        let arguments = ["create", "-q", "-f"].into_iter().chain(arguments.split(' '));
        let made = Command::new("qemu-img").args(arguments).current_dir(dir.path()).status();
        assert!(made.is_ok_and(|status| status.success()), "qemu-img does not make {name}; run tests/install");
        (name, fs::read(dir.path().join(name)).unwrap())
    };
    let with_table = |partition: [u8; 16]| {
        let mut disk = vec![0; 100_000];
        disk[446..462].copy_from_slice(&partition);
        disk[510..512].copy_from_slice(b"\x55\xaa");
        disk
    };
    let protective = with_table([0, 0, 2, 0, 0xEE, 0xFF, 0xFF, 0xFF, 1, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF]);
    let disc = |mut disk: Vec<u8>| {
        let volume = &mut disk[32 * 1024..];
        volume[..7].copy_from_slice(b"\x01CD001\x01");
        volume[80..84].copy_from_slice(&40_u32.to_le_bytes());
        volume[128..130].copy_from_slice(&2048_u16.to_le_bytes());
        disk
    };
    vec![
        made("plain.qcow2", "qcow2 plain.qcow2 3M"),
        made("backed.qcow2", "qcow2 -b plain.qcow2 -F qcow2 backed.qcow2"),
        made("sparse.vmdk", "vmdk sparse.vmdk 1M"),
        // The descriptor is a text file.
        made("flat.vmdk", "vmdk -o subformat=monolithicFlat flat.vmdk 1M"),
        made("some.vdi", "vdi some.vdi 2M"),
        made("some.qed", "qed some.qed 2M"),
        ("raw", bytes(100_000)),
        ("nothing", vec![]),
        ("disc", disc(vec![0; 100_000])),
        ("hybrid", disc(protective.clone())),
        ("gpt", protective),
        ("strange", with_table([7, 0, 2, 0, 0xEE, 0xFF, 0xFF, 0xFF, 9, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF])),
    ]
}

/// Uploads every disk image with every claimed format. Each result must be the same as in Glance, and refused data must
/// not remain. Returns the status and the virtual size of each case.
async fn check_disk_images(options: &[(&str, &str, &str)]) -> BTreeMap<String, (u16, Value)> {
    let pair = Pair::start_apart(options).await;
    let (ours, theirs) = (pair.ours.member("p1"), pair.theirs.member("p1"));
    let mut outcomes = BTreeMap::new();
    for (name, data) in &disks() {
        for (claimed, container) in [
            ("raw", "bare"),
            ("qcow2", "bare"),
            ("vmdk", "bare"),
            ("vdi", "bare"),
            ("iso", "bare"),
            ("ami", "bare"),
            ("qcow2", "ovf"),
        ] {
            let mut answers = Vec::new();
            // All three formats of errors are used in turn.
            let accept = ["text/plain", "text/html", "application/json"][outcomes.len() % 3];
            for (client, is_ours) in [(&ours, true), (&theirs, false)] {
                let image = &client.create_image(&json!({"disk_format": claimed, "container_format": container})).await;
                let request = client.request("PUT", &format!("{image}/file")).header("Accept", accept);
                let request = request.header("Content-Type", "application/octet-stream");
                let answer = client.send(request.body(data.clone())).await;
                let shown = client.get(image).await.expect(200).json();
                let shown = ["status", "size", "virtual_size"].map(|attribute| shown[attribute].clone());
                let is_there = pair.images.join(id(image)).exists();
                assert!(!is_ours || is_there == (shown[0] == "active"), "{name} as {claimed}");
                // Glance lists several formats in any order.
                let text = answer.text.trim_end().replace("gpt,iso", "iso,gpt");
                answers.push((answer.status.as_u16(), text, shown));
            }
            assert_eq!(answers[0], answers[1], "{name} as {claimed} in {container}");
            let (status, _, [.., size]) = answers.remove(0);
            outcomes.insert(format!("{name} as {claimed} in {container}"), (status, size));
        }
    }
    outcomes
}

#[tokio::test]
async fn disk_images_are_checked_as_in_glance() {
    let outcomes = check_disk_images(&[]).await;
    for (case, status, size) in [
        ("plain.qcow2 as qcow2 in bare", 204, json!(3 << 20)),
        ("plain.qcow2 as raw in bare", 204, json!(disks()[0].1.len())),
        ("plain.qcow2 as vmdk in bare", 415, Value::Null),
        ("plain.qcow2 as qcow2 in ovf", 204, Value::Null),
        ("backed.qcow2 as qcow2 in bare", 415, Value::Null),
        ("backed.qcow2 as raw in bare", 415, Value::Null),
        ("backed.qcow2 as qcow2 in ovf", 204, Value::Null),
        ("sparse.vmdk as vmdk in bare", 204, json!(1 << 20)),
        ("flat.vmdk as vmdk in bare", 415, Value::Null),
        ("raw as raw in bare", 204, json!(100_000)),
        ("raw as qcow2 in bare", 415, Value::Null),
        ("raw as ami in bare", 204, Value::Null),
        ("nothing as raw in bare", 204, Value::Null),
        ("hybrid as iso in bare", 204, json!(40 * 2048)),
        ("hybrid as raw in bare", 415, Value::Null),
        ("gpt as raw in bare", 204, json!(100_000)),
        ("strange as raw in bare", 415, Value::Null),
        ("some.qed as raw in bare", 415, Value::Null),
    ] {
        assert_eq!(outcomes[case], (status, size), "{case}");
    }
}

#[tokio::test]
async fn checks_of_disk_images_are_relaxed_as_in_glance() {
    let outcomes = check_disk_images(&[
        ("image_format", "require_image_format_match", "false"),
        ("image_format", "gpt_safety_checks_nonfatal", "mbr"),
    ])
    .await;
    for (case, status, size) in [
        ("plain.qcow2 as qcow2 in bare", 204, json!(3 << 20)),
        ("plain.qcow2 as vmdk in bare", 204, Value::Null),
        ("backed.qcow2 as qcow2 in bare", 415, Value::Null),
        ("hybrid as raw in bare", 204, Value::Null),
        ("strange as raw in bare", 204, json!(100_000)),
    ] {
        assert_eq!(outcomes[case], (status, size), "{case}");
    }
}

/// Unsafe data is refused without waiting for the rest of it or storing it.
#[tokio::test]
async fn an_unsafe_upload_is_refused_before_its_data_ends() {
    let dir = tempfile::tempdir().unwrap();
    let s = with_store(dir.path()).start().await;
    let member = s.member("p1");
    let image = waiting_image(&member).await;
    let backed = disks().remove(1).1;
    let endless = futures_util::stream::iter([backed].into_iter().chain(std::iter::repeat(vec![0; 100_000])));
    let endless = reqwest::Body::wrap_stream(futures_util::StreamExt::map(endless, Ok::<_, std::io::Error>));
    upload(&member, &image, endless).await.expect(415).says("Image failed safety checks");
    nothing_is_left(&member, &image, &dir.path().join("images")).await;
}

/// Most clients read only after they have sent everything.
#[tokio::test]
async fn a_client_that_sends_everything_before_reading_receives_the_refusal() {
    let s = TestServer::start().await;
    let member = s.member("p1");
    let image = member.create_image(&json!({"disk_format": "qcow2", "container_format": "bare"})).await;
    let mut stream = TcpStream::connect(s.base.trim_start_matches("http://")).await.unwrap();
    let head = format!(
        "PUT {image}/file HTTP/1.1\r\nHost: x\r\nX-Auth-Token: user:p1:member,reader\r\nConnection: close\r\n\
         Content-Type: application/octet-stream\r\nContent-Length: 100000000\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    for _ in 0..100 {
        stream.write_all(&vec![1; 1_000_000]).await.unwrap();
    }
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert_eq!(raw_status(&answer), 415, "{answer}");
    assert!(answer.contains("Image disk_format qcow2 does not match stream data raw"), "{answer}");
}

/// Regardless of the order, an image that is protected keeps its data.
#[tokio::test]
async fn an_image_protected_during_its_deletion_is_not_deleted() {
    use sqlx::Executor as _;
    let dir = tempfile::tempdir().unwrap();
    let s = with_store(dir.path()).start().await;
    let member = s.member("p1");
    let image = image_with(&member, b"abc").await;
    let mut other = s.database.connect().await;
    other.execute("BEGIN").await.unwrap();
    other.execute("UPDATE images SET protected = (1 = 1)").await.unwrap();
    let (deleting, path) = (member.clone(), image.clone());
    let deleting = tokio::spawn(async move { deleting.delete(&path).await });
    // Gives the deletion time to read the unprotected image, if the engine allows that.
    tokio::time::sleep(Duration::from_millis(500)).await;
    other.execute("COMMIT").await.unwrap();
    let answer = deleting.await.unwrap();
    assert!([403, 409].contains(&answer.status.as_u16()), "{}", answer.text);
    assert_eq!(status(&member, &image).await, "active");
    assert_eq!(download(&member, &image).await, b"abc");
}

/// The image was protected after its deletion had begun, by a Glance or by hand; its data may already be removed.
#[tokio::test]
async fn an_interrupted_deletion_is_completed_even_if_the_image_is_protected() {
    let dir = tempfile::tempdir().unwrap();
    let mut s = with_store(dir.path()).option("glimpse", "heartbeat", "0.1").start().await;
    let image = image_with(&s.member("p1"), b"abc").await;
    s.kill();
    let begun = format!("UPDATE images SET status = 'pending_delete' WHERE id = '{}'", id(&image));
    s.database.execute(&begun).await;
    s.database.execute(&format!("UPDATE images SET protected = {}", s.database.truth())).await;
    s.start_again().await;
    let member = s.member("p1");
    eventually("it is gone", || async { (member.get(&image).await.status == 404).then_some(()) }).await;
    assert_eq!(files(&dir.path().join("images")), [""; 0]);
}

/// Failed deletions are retried after those that were attempted least recently. The order is stored in the database, so
/// another process uses it as well.
#[tokio::test]
async fn deletions_that_cannot_complete_do_not_delay_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let images = dir.path().join("images");
    let mut s = with_store(dir.path()).option("glimpse", "heartbeat", "0.1").start().await;
    s.kill();
    // A folder cannot be unlinked.
    fs::create_dir(images.join("stuck")).unwrap();
    let (mut rows, mut locations) = (Vec::new(), Vec::new());
    let mut add = |id: &str, file: &str, day: u32| {
        let times = format!("'2026-01-01 00:00:00.000000', '2026-01-{day:02} 00:00:00.000000'");
        rows.push(format!("('{id}', 'pending_delete', {times}, '0', 0, 0, 'private', 'p1')"));
        let url = format!("file://{}", images.join(file).display());
        locations.push(format!("('{id}', '{url}', '{{}}', 'active', '2026-01-01 00:00:00', '0')"));
    };
    for n in 0..1000 {
        add(&format!("4ca46bf1-5c61-48ff-b4f3-{n:012}"), "stuck", 1);
    }
    let last = "4ca46bf1-5c61-48ff-b4f3-0ad4e5e3ba90";
    add(last, last, 2);
    let columns = "id, status, created_at, updated_at, deleted, min_disk, min_ram, visibility, owner";
    let of_locations = "image_id, value, meta_data, status, created_at, deleted";
    let statements = [
        format!("INSERT INTO images ({columns}) VALUES {}", rows.join(", ")),
        format!("INSERT INTO image_locations ({of_locations}) VALUES {}", locations.join(", ")),
    ];
    s.database.execute_all(&statements).await;
    fs::write(images.join(last), "abc").unwrap();
    for round in ["all that it takes at a time are tried", "the last one is tried"] {
        s.start_again().await;
        let tried = || s.log().matches("a deletion was interrupted, and cannot be resumed now").count();
        eventually(round, || async { (tried() >= 999).then_some(()) }).await;
        if images.join(last).exists() {
            eventually(round, || async { (tried() == 1000).then_some(()) }).await;
            s.kill();
        }
    }
    eventually("it is gone", || async {
        (s.member("p1").get(&format!("/v2/images/{last}")).await.status == 404).then_some(())
    })
    .await;
    assert!(!images.join(last).exists());
}

/// A slow call to the file system, such as on a busy file server, times out, and may still take effect later.
#[tokio::test]
async fn a_deletion_that_times_out_is_resumed() {
    let dir = tempfile::tempdir().unwrap();
    let (images, slow) = (dir.path().join("images"), dir.path().join("slow"));
    // While a file of this name exists, calls to `unlink` block.
    let library = dir.path().join("slow.so");
    let source = format!(
        "#include <fcntl.h>\n#include <sys/syscall.h>\n#include <unistd.h>\n\
         int unlink(const char *path) {{\n\
             while (access(\"{}\", F_OK) == 0) usleep(10000);\n\
             return syscall(SYS_unlinkat, AT_FDCWD, path, 0);\n\
         }}\n",
        slow.display()
    );
    fs::write(dir.path().join("slow.c"), source).unwrap();
    let mut compile = Command::new("cc");
    compile.args(["-shared", "-fPIC", "-o"]).arg(&library).arg(dir.path().join("slow.c"));
    assert!(compile.status().unwrap().success());
    let mut s = with_store(dir.path())
        .option("glimpse", "heartbeat", "0.1")
        .option("fs", "filesystem_store_timeout", 1)
        .environment("LD_PRELOAD", library.to_str().unwrap())
        .start()
        .await;
    let member = s.member("p1");
    let deleted = [image_with(&member, b"abc").await, image_with(&member, b"abc").await];
    fs::write(&slow, "").unwrap();
    for image in &deleted {
        member.delete(image).await.expect(503).says("Operation timed out after 1s");
        // Whether the data will be removed is unknown.
        assert_eq!(status(&member, image).await, "pending_delete");
    }
    // Simulates that one of the calls took effect.
    s.kill();
    fs::remove_file(images.join(id(&deleted[0]))).unwrap();
    fs::remove_file(&slow).unwrap();
    s.start_again().await;
    let member = s.member("p1");
    for image in &deleted {
        eventually("it is gone", || async { (member.get(image).await.status == 404).then_some(()) }).await;
    }
    assert_eq!(files(&images), [""; 0]);
}
