//! The image cache: downloads from it and into it, its drivers, its API, and what remains after failures.

use std::{
    cell::Cell,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use futures_util::future::join_all;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
};

use crate::{
    clients::Shell,
    data::{bytes, download, id, image_with, upload, waiting_image, with_store},
    support::{Answer, Client, Database, FaultyProxy, Glance, S3, ServerBuilder, TestServer, Web, eventually},
};

const MIB: usize = 1 << 20;
const NODE: &str = "http://127.0.0.1:9292";

/// Adds a cache in `cache` in this folder.
fn with_cache(builder: ServerBuilder, dir: &Path) -> ServerBuilder {
    builder
        .option("paste_deploy", "flavor", "keystone+cachemanagement")
        .option("DEFAULT", "image_cache_dir", dir.join("cache").display())
        .option("DEFAULT", "worker_self_reference_url", NODE)
        .option("glimpse", "cache_interval", 0)
}

/// A server with a file store in `images`, and a cache.
fn builder(dir: &Path) -> ServerBuilder {
    with_cache(with_store(dir), dir)
}

/// A server with an S3 store behind a proxy, and a cache.
async fn on_s3(dir: &Path, s3: &S3) -> (FaultyProxy, ServerBuilder) {
    let proxy = FaultyProxy::start(s3).await;
    let builder = TestServer::builder().options(&s3.options(&proxy.base));
    (proxy, with_cache(builder, dir))
}

/// The ids of the queued images.
async fn queued(client: &Client) -> Vec<String> {
    let lists = client.get("/v2/cache").await.expect(200).json();
    serde_json::from_value(lists["queued_images"].clone()).unwrap()
}

/// A folder on a file system with user extended attributes, which `/tmp` may not have.
fn on_disk() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// The names in a folder of the cache, in order.
fn names(dir: &Path, folder: &str) -> Vec<String> {
    let entries = fs::read_dir(dir.join("cache").join(folder)).unwrap();
    let files = entries.map(Result::unwrap).filter(|entry| entry.file_type().unwrap().is_file());
    let mut names: Vec<String> = files.map(|entry| entry.file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn cached_file(dir: &Path, image: &str) -> PathBuf {
    dir.join("cache").join(id(image))
}

async fn is_cached(dir: &Path, image: &str) {
    eventually("the image is cached", || async { cached_file(dir, image).exists().then_some(()) }).await;
}

/// The records of the cache.
async fn records(s: &TestServer) -> Vec<Value> {
    s.admin().get("/v2/cache").await.expect(200).json()["cached_images"].as_array().unwrap().clone()
}

/// Waits until an image has this number of hits.
async fn has_hits(s: &TestServer, image: &str, hits: u64) {
    eventually("the hits are recorded", || async {
        let records = records(s).await;
        let found = records.iter().find(|record| record["image_id"] == id(image))?;
        (found["hits"] == hits).then_some(())
    })
    .await;
}

/// The headers of a response that do not differ from request to request.
fn headers(answer: &reqwest::Response) -> Vec<(String, String)> {
    let lasting =
        answer.headers().iter().filter(|(name, _)| !["date", "x-openstack-request-id"].contains(&name.as_str()));
    let mut headers: Vec<_> =
        lasting.map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned())).collect();
    headers.sort();
    headers
}

#[tokio::test]
async fn a_download_from_the_cache_has_the_same_headers_and_data() {
    let dir = tempfile::tempdir().unwrap();
    let s = builder(dir.path()).start().await;
    let member = s.member("p1");
    let data = bytes(3 * MIB + 5);
    let image = image_with(&member, &data).await;
    let file = || member.request("GET", &format!("{image}/file"));
    let cold = file().send().await.unwrap();
    let expected = headers(&cold);
    assert!(cold.bytes().await.unwrap() == data);
    is_cached(dir.path(), &image).await;
    // Nothing but the cache has the data now.
    fs::remove_file(dir.path().join("images").join(id(&image))).unwrap();
    let hit = file().send().await.unwrap();
    assert_eq!((hit.status().as_u16(), headers(&hit)), (200, expected));
    assert!(hit.bytes().await.unwrap() == data);
    for (range, part) in [("bytes=0-0", 0..1), ("bytes=100-3000000", 100..3_000_001), ("bytes=-5", 3 * MIB..data.len())]
    {
        let answer = file().header("Range", range).send().await.unwrap();
        assert_eq!(answer.status(), 206);
        let expected = format!("bytes {}-{}/{}", part.start, part.end - 1, data.len());
        assert_eq!(answer.headers()["content-range"], expected);
        assert!(answer.bytes().await.unwrap() == data[part], "{range}");
    }
    assert_eq!(file().header("Range", "bytes=9999999-").send().await.unwrap().status(), 416);
    has_hits(&s, &image, 4).await;
    assert_eq!(names(dir.path(), "incomplete"), [""; 0]);
}

#[tokio::test]
async fn a_range_of_an_image_that_is_not_cached_comes_from_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let s = builder(dir.path()).start().await;
    let member = s.member("p1");
    let image = image_with(&member, b"0123456789").await;
    let ranged = member.request("GET", &format!("{image}/file")).header("Range", "bytes=2-4");
    assert_eq!(member.send(ranged).await.expect(206).text, "234");
    assert_eq!(names(dir.path(), ""), [""; 0]);
}

#[tokio::test]
async fn who_may_not_download_gets_nothing_from_the_cache() {
    let dir = tempfile::tempdir().unwrap();
    let s = builder(dir.path()).start().await;
    let member = s.member("p1");
    let image = image_with(&member, b"secret").await;
    assert_eq!(download(&member, &image).await, b"secret");
    is_cached(dir.path(), &image).await;
    let file = format!("{image}/file");
    s.member("p2").get(&file).await.expect(404);
    s.reader("p1").get(&file).await.expect(403);
    s.anonymous().get(&file).await.expect(401);
    member.post(&format!("{image}/members"), &json!({"member": "p2"})).await.expect(200);
    assert_eq!(download(&s.member("p2"), &image).await, b"secret");
    member.delete(&format!("{image}/members/p2")).await.expect(204);
    s.member("p2").get(&file).await.expect(404);
    member.send(member.request("POST", &format!("{image}/actions/deactivate"))).await.expect(204);
    member.get(&file).await.expect(403);
    assert_eq!(s.admin().get(&file).await.expect(200).text, "secret");
    member.send(member.request("POST", &format!("{image}/actions/reactivate"))).await.expect(204);
    assert_eq!(records(&s).await[0]["hits"], 1);
    assert_eq!(download(&member, &image).await, b"secret");
    assert_eq!(records(&s).await[0]["hits"], 2);
}

/// The number of downloads that the store has seen.
fn gets(proxy: &FaultyProxy) -> usize {
    proxy.passed().iter().filter(|request| request.starts_with("GET")).count()
}

/// Data whose parts differ from each other, which is created faster than by `bytes`.
fn large(mib: usize) -> Vec<u8> {
    let mut part = bytes(MIB);
    let mut data = Vec::with_capacity(mib * MIB);
    for number in 0..mib {
        part[..8].copy_from_slice(&number.to_le_bytes());
        data.extend_from_slice(&part);
    }
    data
}

/// Downloads an image and compares it with its data. Leaves after the first `end` bytes. Returns the number of bytes.
async fn read(client: &Client, image: &str, data: &[u8], end: usize) -> usize {
    let mut response = client.request("GET", &format!("{image}/file")).send().await.unwrap();
    assert_eq!(response.status(), 200);
    let mut at = 0;
    while at < end
        && let Some(part) = response.chunk().await.unwrap()
    {
        assert!(part == data[at..at + part.len()], "wrong bytes at {at}");
        at += part.len();
    }
    at
}

/// The same, at 100 KiB/s. `at` is the number of bytes so far.
async fn read_slowly(s: &TestServer, image: &str, data: &[u8], at: &Cell<usize>) {
    let mut stream = BufReader::new(TcpStream::connect(s.base.strip_prefix("http://").unwrap()).await.unwrap());
    let request = format!("GET {image}/file HTTP/1.1\r\nHost: x\r\nX-Auth-Token: user:p1:member,reader\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut line = String::new();
    while line != "\r\n" {
        line.clear();
        stream.read_line(&mut line).await.unwrap();
    }
    let mut part = [0; 10 * 1024];
    while at.get() < data.len() {
        let count = stream.read(&mut part).await.unwrap();
        assert!(count > 0 && part[..count] == data[at.get()..at.get() + count], "wrong bytes at {}", at.get());
        at.set(at.get() + count);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// `benches/data --stores cache-s3` does the same with a hundred clients.
#[tokio::test]
async fn concurrent_cold_downloads_read_the_store_once_whoever_leaves_or_is_slow() {
    let (dir, s3) = (tempfile::tempdir().unwrap(), S3::start().await);
    let (proxy, builder) = on_s3(dir.path(), &s3).await;
    let s = builder.start().await;
    let member = s.member("p1");
    let (all, leaving) = (16, 5);
    let data = large(256);
    let image = image_with(&member, &data).await;
    // The store has sent only a part when clients leave.
    proxy.stall_after(data.len() / 2);
    let leavers = join_all((0..leaving).map(|_| read(&member, &image, &data, data.len() / 4)));
    let others = join_all((leaving + 1..all).map(|_| read(&member, &image, &data, data.len())));
    let leave = async {
        leavers.await;
        assert_eq!((gets(&proxy), names(dir.path(), "incomplete").len()), (1, 1));
        proxy.stall_after(usize::MAX);
    };
    let read = Cell::new(0);
    tokio::select! {
        () = read_slowly(&s, &image, &data, &read) => panic!("the slow client was too fast"),
        ((), complete) = async { tokio::join!(leave, others) } => {
            assert!(complete.iter().all(|size| *size == data.len()), "{complete:?}");
        }
    }
    assert!(read.get() > 0);
    is_cached(dir.path(), &image).await;
    assert_eq!(gets(&proxy), 1);
    assert!(fs::read(cached_file(dir.path(), &image)).unwrap() == data);
    let peak = s.peak_memory() >> 20;
    assert!(peak < 96, "{peak} MiB");
}

#[tokio::test]
async fn a_fill_goes_on_when_all_clients_leave() {
    let (dir, s3) = (tempfile::tempdir().unwrap(), S3::start().await);
    let (proxy, builder) = on_s3(dir.path(), &s3).await;
    let s = builder.start().await;
    let member = s.member("p1");
    let data = bytes(4 * MIB);
    let image = image_with(&member, &data).await;
    proxy.stall_after(MIB);
    let mut response = member.request("GET", &format!("{image}/file")).send().await.unwrap();
    response.chunk().await.unwrap().unwrap();
    drop(response);
    proxy.stall_after(usize::MAX);
    is_cached(dir.path(), &image).await;
    assert!(fs::read(cached_file(dir.path(), &image)).unwrap() == data);
    assert_eq!(gets(&proxy), 1);
}

/// The download that begins a fill gets the store's data itself, and reads the file once it is too slow for that.
#[tokio::test]
async fn a_first_download_that_pauses_delays_nobody_and_gets_everything() {
    let dir = tempfile::tempdir().unwrap();
    let s = builder(dir.path()).start().await;
    let member = s.member("p1");
    let data = large(64);
    let image = image_with(&member, &data).await;
    let mut response = member.request("GET", &format!("{image}/file")).send().await.unwrap();
    let mut received = response.chunk().await.unwrap().unwrap().to_vec();
    is_cached(dir.path(), &image).await;
    assert!(received.len() < data.len());
    assert!(download(&member, &image).await == data);
    while let Some(part) = response.chunk().await.unwrap() {
        received.extend_from_slice(&part);
    }
    assert!(received == data);
}

#[tokio::test]
async fn data_that_is_not_what_it_should_be_is_not_cached() {
    let dir = tempfile::tempdir().unwrap();
    let s = builder(dir.path()).start().await;
    let member = s.member("p1");
    // One chunk, which the client has before the digest turns out wrong.
    let mut data = bytes(100_000);
    let image = image_with(&member, &data).await;
    data[50_000] ^= 1;
    fs::write(dir.path().join("images").join(id(&image)), &data).unwrap();
    for _ in 0..2 {
        // The client compares the hash, as it does without a cache.
        assert!(download(&member, &image).await == data);
        eventually("the file is among the invalid ones", || async {
            (names(dir.path(), "invalid") == [id(&image)] && names(dir.path(), "incomplete").is_empty()).then_some(())
        })
        .await;
        assert_eq!(names(dir.path(), ""), [""; 0]);
    }
    s.admin().post("/v2/cache/clean", &json!({})).await.expect(200);
    assert_eq!(names(dir.path(), "invalid"), [""; 0]);
}

#[tokio::test]
async fn a_download_that_is_in_progress_when_the_digest_turns_out_wrong_is_ended() {
    let dir = tempfile::tempdir().unwrap();
    let s = builder(dir.path()).start().await;
    let member = s.member("p1");
    let mut data = large(64);
    let image = image_with(&member, &data).await;
    data[MIB] ^= 1;
    fs::write(dir.path().join("images").join(id(&image)), &data).unwrap();
    let mut response = member.request("GET", &format!("{image}/file")).send().await.unwrap();
    response.chunk().await.unwrap().unwrap();
    let is_there = || async { (names(dir.path(), "invalid") == [id(&image)]).then_some(()) };
    eventually("the file is among the invalid ones", is_there).await;
    assert!(response.bytes().await.is_err(), "the client takes wrong data for complete");
}

#[tokio::test]
async fn the_md5_is_checked_if_an_image_has_no_other_hash() {
    let dir = tempfile::tempdir().unwrap();
    let s = builder(dir.path()).start().await;
    let admin = s.admin();
    let image = image_with(&admin, b"right").await;
    s.database.execute("UPDATE images SET os_hash_algo = NULL, os_hash_value = NULL").await;
    assert_eq!(download(&admin, &image).await, b"right");
    is_cached(dir.path(), &image).await;
    admin.delete(&format!("/v2/cache/{}", id(&image))).await.expect(204);
    fs::write(dir.path().join("images").join(id(&image)), "wrong").unwrap();
    assert_eq!(download(&admin, &image).await, b"wrong");
    let is_there = || async { (names(dir.path(), "invalid") == [id(&image)]).then_some(()) };
    eventually("it is among the invalid files", is_there).await;
    assert_eq!(names(dir.path(), ""), [""; 0]);
}

#[tokio::test]
async fn a_store_that_breaks_off_leaves_no_cached_file() {
    let (dir, s3) = (tempfile::tempdir().unwrap(), S3::start().await);
    let (proxy, builder) = on_s3(dir.path(), &s3).await;
    let mut s3 = s3;
    let s = builder.option("glimpse", "request_timeout", 2).start().await;
    let member = s.member("p1");
    let data = bytes(4 * MIB);
    let image = image_with(&member, &data).await;
    proxy.stall_after(MIB);
    let response = member.request("GET", &format!("{image}/file")).send().await.unwrap();
    s3.kill().await;
    assert!(response.bytes().await.is_err());
    eventually("it is among the invalid files", || async {
        (names(dir.path(), "invalid") == [id(&image)] && names(dir.path(), "incomplete").is_empty()).then_some(())
    })
    .await;
    assert_eq!(names(dir.path(), ""), [""; 0]);
    s3.start_again().await;
    proxy.stall_after(usize::MAX);
    assert!(download(&member, &image).await == data);
    is_cached(dir.path(), &image).await;
}

#[tokio::test]
async fn a_killed_fill_leaves_nothing_after_the_next_cleanup() {
    let (dir, s3) = (tempfile::tempdir().unwrap(), S3::start().await);
    let (proxy, builder) = on_s3(dir.path(), &s3).await;
    let mut s = builder.start().await;
    let data = bytes(4 * MIB);
    let image = image_with(&s.member("p1"), &data).await;
    let part = dir.path().join("cache/incomplete").join(format!("{}.glimpse", id(&image)));
    for tenth in 0..10 {
        let stop = data.len() / 10 * tenth;
        proxy.stall_after(stop.max(1));
        let member = s.member("p1");
        let request = member.request("GET", &format!("{image}/file"));
        let reading = tokio::spawn(async move { request.send().await.unwrap().bytes().await });
        let has_come = || async { fs::metadata(&part).is_ok_and(|file| file.len() >= stop as u64).then_some(()) };
        eventually("a part is written", has_come).await;
        s.kill();
        assert!(reading.await.unwrap().is_err());
        proxy.stall_after(usize::MAX);
        s.start_again().await;
        assert_eq!(names(dir.path(), ""), [""; 0]);
        if tenth % 2 == 0 {
            s.admin().post("/v2/cache/clean", &json!({})).await.expect(200);
            assert_eq!(names(dir.path(), "incomplete"), [""; 0]);
        } else {
            // What the dead process left does not prevent another fill.
            assert!(download(&s.member("p1"), &image).await == data);
            is_cached(dir.path(), &image).await;
            s.admin().delete("/v2/cache").await.expect(204);
        }
    }
    assert_eq!((names(dir.path(), "incomplete"), names(dir.path(), "invalid")), (vec![], vec![]));
}

/// The number of lines of the log with this text.
fn logged(s: &TestServer, text: &str) -> usize {
    s.log().lines().filter(|line| line.contains(text)).count()
}

const UNUSABLE: &str = "the image cache cannot be used";

/// A file system that is mounted on the folder of the cache until the end of the test.
struct Mounted(PathBuf);

/// Mounts one, if the system allows that.
fn mount(dir: &Path, arguments: &[&str]) -> Option<Mounted> {
    let cache = dir.join("cache");
    fs::create_dir_all(&cache).unwrap();
    let mount = Command::new("mount").args(arguments).arg(&cache).output().unwrap();
    if !mount.status.success() {
        // .config/nextest.toml makes nextest show this output.
        eprintln!("NOT TESTED: a file system. {}", String::from_utf8_lossy(&mount.stderr));
        return None;
    }
    Some(Mounted(cache))
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

/// A small file system that is soon full.
#[tokio::test]
async fn a_full_file_system_of_the_cache_does_not_disturb_downloads() {
    let dir = tempfile::tempdir().unwrap();
    let Some(_mounted) = mount(dir.path(), &["-t", "tmpfs", "-o", "size=1m", "tmpfs"]) else { return };
    let s = builder(dir.path()).start().await;
    let member = s.member("p1");
    let data = bytes(3 * MIB);
    let (large, small) = (image_with(&member, &data).await, image_with(&member, b"small").await);
    for _ in 0..3 {
        assert!(download(&member, &large).await == data);
    }
    assert_eq!((logged(&s, UNUSABLE), names(dir.path(), "incomplete")), (1, vec![]));
    assert_eq!(download(&member, &small).await, b"small");
    is_cached(dir.path(), &small).await;
}

/// A file system in memory has no extended attributes, and does not know how much space is left.
#[tokio::test]
async fn sqlite_replaces_xattr_on_a_file_system_without_attributes() {
    let dir = tempfile::tempdir().unwrap();
    let Some(_mounted) = mount(dir.path(), &["-t", "ramfs", "ramfs"]) else { return };
    let s = builder(dir.path()).option("DEFAULT", "image_cache_driver", "xattr").start().await;
    assert_eq!(logged(&s, "sqlite is used instead of xattr"), 1);
    let image = image_with(&s.admin(), b"data").await;
    for _ in 0..2 {
        assert_eq!(download(&s.admin(), &image).await, b"data");
        is_cached(dir.path(), &image).await;
    }
    has_hits(&s, &image, 1).await;
    assert!(dir.path().join("cache/cache.db").exists());
}

/// The file system has enough space at first. The limit of the size of files fails like a full file system.
#[tokio::test]
async fn downloads_whose_fill_fails_midway_go_on_from_the_store() {
    let (dir, s3) = (tempfile::tempdir().unwrap(), S3::start().await);
    let (proxy, builder) = on_s3(dir.path(), &s3).await;
    let s = builder.start().await;
    let member = s.member("p1");
    let data = bytes(6 * MIB);
    let image = image_with(&member, &data).await;
    s.limit_files(2_000_000);
    proxy.stall_after(MIB);
    let reading: Vec<_> = (0..3)
        .map(|_| {
            let (member, image) = (member.clone(), image.clone());
            tokio::spawn(async move { download(&member, &image).await })
        })
        .collect();
    eventually("the fill has begun", || async { (names(dir.path(), "incomplete").len() == 1).then_some(()) }).await;
    proxy.stall_after(usize::MAX);
    for read in reading {
        assert!(read.await.unwrap() == data);
    }
    eventually("nothing is left", || async { names(dir.path(), "incomplete").is_empty().then_some(()) }).await;
    assert_eq!((names(dir.path(), ""), names(dir.path(), "invalid")), (vec![], vec![]));
    assert_eq!(logged(&s, UNUSABLE), 1);
}

#[tokio::test]
async fn a_cached_file_that_was_changed_behind_our_back_is_not_trusted() {
    let dir = tempfile::tempdir().unwrap();
    let s = builder(dir.path()).start().await;
    let member = s.member("p1");
    let data = bytes(30_000_000);
    let image = image_with(&member, &data).await;
    let file = cached_file(dir.path(), &image);
    assert!(download(&member, &image).await == data);
    is_cached(dir.path(), &image).await;
    // Truncated before a download.
    fs::OpenOptions::new().write(true).open(&file).unwrap().set_len(1_000_000).unwrap();
    assert!(download(&member, &image).await == data);
    is_cached(dir.path(), &image).await;
    assert_eq!(fs::metadata(&file).unwrap().len(), 30_000_000);
    // Truncated during a download, by more than the buffers between the file and the client can hold.
    let mut response = member.request("GET", &format!("{image}/file")).send().await.unwrap();
    let mut came = response.chunk().await.unwrap().unwrap().to_vec();
    fs::OpenOptions::new().write(true).open(&file).unwrap().set_len(1_000_000).unwrap();
    came.extend_from_slice(&response.bytes().await.unwrap());
    assert!(came == data);
    // Deleted, and replaced by something that is not a file.
    fs::remove_file(&file).unwrap();
    assert!(download(&member, &image).await == data);
    is_cached(dir.path(), &image).await;
    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    for _ in 0..2 {
        assert!(download(&member, &image).await == data);
    }
    assert_eq!(logged(&s, UNUSABLE), 1);
}

#[tokio::test]
async fn an_image_that_gets_other_data_is_not_served_with_the_old() {
    let dir = tempfile::tempdir().unwrap();
    let s = builder(dir.path()).start().await;
    let admin = s.admin();
    let image = image_with(&admin, b"old data").await;
    assert_eq!(download(&admin, &image).await, b"old data");
    is_cached(dir.path(), &image).await;
    // What an import that fails, or another process, may do.
    s.database.execute("UPDATE images SET status = 'queued', size = NULL, checksum = NULL, os_hash_value = NULL").await;
    s.database.execute("DELETE FROM image_locations").await;
    admin.get(&format!("{image}/file")).await.expect(204);
    upload(&admin, &image, "new data").await.expect(204);
    assert_eq!(download(&admin, &image).await, b"new data");
    is_cached(dir.path(), &image).await;
    assert_eq!(fs::read(cached_file(dir.path(), &image)).unwrap(), b"new data");
}

#[tokio::test]
async fn a_fill_of_other_data_is_not_followed() {
    let (dir, s3) = (tempfile::tempdir().unwrap(), S3::start().await);
    let (proxy, builder) = on_s3(dir.path(), &s3).await;
    let s = builder.option("DEFAULT", "show_image_direct_url", true).start().await;
    let admin = s.admin();
    let (old, new) = (bytes(4 * MIB), bytes(MIB / 2));
    let (image, other) = (image_with(&admin, &old).await, image_with(&admin, &new).await);
    proxy.stall_after(MIB);
    let mut following = admin.request("GET", &format!("{image}/file")).send().await.unwrap();
    following.chunk().await.unwrap().unwrap();
    let shown = admin.get(&other).await.expect(200).json();
    let text = |name: &str| shown[name].as_str().unwrap().to_owned();
    let (id, size) = (id(&image), new.len());
    let (checksum, hash, url) = (text("checksum"), text("os_hash_value"), text("direct_url"));
    let facts = format!("size = {size}, checksum = '{checksum}', os_hash_value = '{hash}'");
    s.database.execute(&format!("UPDATE images SET {facts} WHERE id = '{id}'")).await;
    s.database.execute(&format!("UPDATE image_locations SET value = '{url}' WHERE image_id = '{id}'")).await;
    assert!(download(&admin, &image).await == new);
    proxy.stall_after(usize::MAX);
    while following.chunk().await.unwrap().is_some() {}
}

#[tokio::test]
async fn a_file_that_is_truncated_while_it_is_filled_harms_no_download() {
    let (dir, s3) = (tempfile::tempdir().unwrap(), S3::start().await);
    let (proxy, builder) = on_s3(dir.path(), &s3).await;
    let s = builder.start().await;
    let admin = s.admin();
    let data = bytes(6 * MIB);
    let image = image_with(&admin, &data).await;
    proxy.stall_after(3 * MIB);
    let read = || async { download(&admin, &image).await == data };
    let truncate = async {
        let file = dir.path().join("cache/incomplete").join(format!("{}.glimpse", id(&image)));
        let is_written = || async { fs::metadata(&file).is_ok_and(|file| file.len() > 2 * MIB as u64).then_some(()) };
        eventually("a part is written", is_written).await;
        fs::OpenOptions::new().write(true).open(&file).unwrap().set_len(0).unwrap();
        proxy.stall_after(usize::MAX);
    };
    assert_eq!(tokio::join!(read(), read(), truncate), (true, true, ()));
    eventually("nothing is left", || async { names(dir.path(), "incomplete").is_empty().then_some(()) }).await;
    assert_eq!((names(dir.path(), ""), names(dir.path(), "invalid")), (vec![], vec![]));
    assert!(download(&admin, &image).await == data);
    is_cached(dir.path(), &image).await;
}

/// Its data has no hash, or gets one later, and not always a size. The driver of web servers has no ranges.
#[tokio::test]
async fn an_image_on_a_web_server_is_cached_and_its_download_survives_a_full_disk() {
    let data: String = (0..500_000).map(|number| format!("{number:06}")).collect();
    let page: &'static str = Box::leak(format!("200 OK\r\nContent-Length: {}\r\n\r\n{data}", data.len()).into());
    let small = "200 OK\r\nContent-Length: 5\r\n\r\nsmall";
    let web =
        Web::start(&[("/small", small), ("/unsized", "200 OK\r\nContent-Length: 7\r\n\r\nunsized"), ("/large", page)])
            .await;
    let dir = tempfile::tempdir().unwrap();
    let s = with_cache(TestServer::builder(), dir.path())
        .option("DEFAULT", "show_multiple_locations", true)
        .option("import_filtering_opts", "allowed_hosts", "[127.0.0.1]")
        .option("import_filtering_opts", "allowed_ports", "[]")
        .start()
        .await;
    let admin = s.admin();
    let on_web = async |path: &str| {
        let image = waiting_image(&admin).await;
        let location = json!({"url": format!("{}{path}", web.base()), "metadata": {}});
        let patch = json!([{"op": "add", "path": "/locations/-", "value": location}]).to_string();
        let request = admin.request("PATCH", &image).body(patch);
        let request = request.header("Content-Type", "application/openstack-images-v2.1-json-patch");
        admin.send(request).await.expect(200);
        image
    };
    let gets = |path: &str| web.requests().iter().filter(|request| **request == format!("GET {path}")).count();
    let (small, large) = (on_web("/small").await, on_web("/large").await);
    for _ in 0..3 {
        assert_eq!(download(&admin, &small).await, b"small");
        is_cached(dir.path(), &small).await;
    }
    assert_eq!(gets("/small"), 1);
    // As the task does that hashes the data of a location.
    let hash =
        "os_hash_algo = 'sha256', os_hash_value = '81db8ebbbbc69c6c6ad4a6aa92b76e0c08af547da236b9e2c9dbe1d8285a8130'";
    s.database.execute(&format!("UPDATE images SET {hash} WHERE id = '{}'", id(&small))).await;
    assert_eq!((download(&admin, &small).await, gets("/small")), (b"small".to_vec(), 1));
    let without_size = on_web("/unsized").await;
    s.database.execute(&format!("UPDATE images SET size = NULL WHERE id = '{}'", id(&without_size))).await;
    for _ in 0..3 {
        assert_eq!(download(&admin, &without_size).await, b"unsized");
        is_cached(dir.path(), &without_size).await;
    }
    assert_eq!(gets("/unsized"), 1);
    s.limit_files(1_000_000);
    assert!(download(&admin, &large).await == data.as_bytes());
    // The fill has read it, and the download that went on.
    assert_eq!(gets("/large"), 2);
    assert_eq!((names(dir.path(), "").len(), names(dir.path(), "incomplete")), (2, vec![]));
}

#[tokio::test]
async fn two_processes_share_a_directory() {
    let (dir, s3) = (tempfile::tempdir().unwrap(), S3::start().await);
    let (proxy, builder) = on_s3(dir.path(), &s3).await;
    let one = builder.start().await;
    let builder = TestServer::builder().options(&s3.options(&proxy.base));
    let two = with_cache(builder, dir.path()).database(one.database.clone()).start().await;
    let data = bytes(4 * MIB);
    let image = image_with(&one.member("p1"), &data).await;
    // Two real processes at the same time.
    proxy.stall_after(MIB);
    let reading: Vec<_> = [&one, &two, &one, &two]
        .map(|s| {
            let (member, image) = (s.member("p1"), image.clone());
            tokio::spawn(async move { download(&member, &image).await })
        })
        .into();
    eventually("a fill has begun", || async { (names(dir.path(), "incomplete").len() == 1).then_some(()) }).await;
    // The cleanup of one process leaves the file of the other one alone.
    for s in [&one, &two] {
        s.admin().post("/v2/cache/clean", &json!({})).await.expect(200);
    }
    assert_eq!(names(dir.path(), "incomplete").len(), 1);
    proxy.stall_after(usize::MAX);
    for read in reading {
        assert!(read.await.unwrap() == data);
    }
    is_cached(dir.path(), &image).await;
    assert!(fs::read(cached_file(dir.path(), &image)).unwrap() == data);
    let before = gets(&proxy);
    for s in [&one, &two] {
        assert!(download(&s.member("p1"), &image).await == data);
    }
    assert_eq!(gets(&proxy), before);
}

#[tokio::test]
async fn a_file_that_another_process_fills_is_left_alone_until_that_process_ends() {
    let dir = tempfile::tempdir().unwrap();
    let s = builder(dir.path()).start().await;
    let member = s.member("p1");
    let image = image_with(&member, b"data").await;
    let path = dir.path().join("cache/incomplete").join(format!("{}.glimpse", id(&image)));
    fs::write(&path, "part").unwrap();
    let other = fs::File::open(&path).unwrap();
    other.lock().unwrap();
    assert_eq!(download(&member, &image).await, b"data");
    s.admin().post("/v2/cache/clean", &json!({})).await.expect(200);
    assert_eq!((fs::read(&path).unwrap(), names(dir.path(), "")), (b"part".to_vec(), vec![]));
    drop(other);
    assert_eq!(download(&member, &image).await, b"data");
    is_cached(dir.path(), &image).await;
    assert_eq!(names(dir.path(), "incomplete"), [""; 0]);
}

#[tokio::test]
async fn deleting_an_image_removes_it_from_the_cache_also_while_it_is_filled() {
    let (dir, s3) = (tempfile::tempdir().unwrap(), S3::start().await);
    let (proxy, builder) = on_s3(dir.path(), &s3).await;
    let s = builder.start().await;
    let member = s.member("p1");
    let image = image_with(&member, b"data").await;
    assert_eq!(download(&member, &image).await, b"data");
    is_cached(dir.path(), &image).await;
    member.delete(&image).await.expect(204);
    assert_eq!(names(dir.path(), ""), [""; 0]);
    member.get(&format!("{image}/file")).await.expect(404);
    let data = bytes(2 * MIB);
    let image = image_with(&member, &data).await;
    proxy.stall_after(MIB);
    let response = member.request("GET", &format!("{image}/file")).send().await.unwrap();
    member.delete(&image).await.expect(204);
    proxy.stall_after(usize::MAX);
    assert!(response.bytes().await.unwrap() == data);
    eventually("nothing is left", || async { names(dir.path(), "incomplete").is_empty().then_some(()) }).await;
    assert_eq!((names(dir.path(), ""), records(&s).await.len()), (vec![], 0));
}

#[tokio::test]
async fn every_driver_records_images_and_counts_hits_that_survive_a_kill() {
    for driver in ["centralized_db", "SQLite", "xattr"] {
        let dir = on_disk();
        let mut s = builder(dir.path()).option("DEFAULT", "image_cache_driver", driver).start().await;
        let image = image_with(&s.member("p1"), b"data").await;
        let other = image_with(&s.member("p1"), b"others").await;
        for _ in 0..4 {
            assert_eq!(download(&s.member("p1"), &image).await, b"data");
            is_cached(dir.path(), &image).await;
        }
        assert_eq!(download(&s.member("p1"), &other).await, b"others");
        is_cached(dir.path(), &other).await;
        tokio::time::sleep(Duration::from_millis(1100)).await;
        s.kill();
        s.start_again().await;
        let mut found = records(&s).await;
        found.sort_by_key(|record| record["size"].as_i64());
        let facts = |record: &Value| (record["image_id"].clone(), record["size"].clone(), record["hits"].clone());
        let expected = [(json!(id(&image)), json!(4), json!(3)), (json!(id(&other)), json!(6), json!(0))];
        assert_eq!(found.iter().map(facts).collect::<Vec<_>>(), expected, "{driver}");
        let members: Vec<&String> = found[0].as_object().unwrap().keys().collect();
        let expected: &[&str] = match driver {
            "centralized_db" => &["id", "image_id", "last_accessed", "last_modified", "size", "hits", "checksum"],
            "SQLite" => &["image_id", "hits", "last_accessed", "last_modified", "size"],
            _ => &["image_id", "last_modified", "last_accessed", "size", "hits"],
        };
        assert_eq!(members, expected);
        assert!(found[0]["last_accessed"].as_f64().unwrap() >= found[0]["last_modified"].as_f64().unwrap());
        // The records follow the files when another driver is configured.
        s.admin().delete(&format!("/v2/cache/{}", id(&image))).await.expect(204);
        assert_eq!(records(&s).await.len(), 1);
        // Only images, and the file of the driver, are in the directory: Glance takes anything else for an image.
        let mut expected = vec![id(&other).to_owned()];
        expected.extend((driver == "SQLite").then(|| "cache.db".to_owned()));
        expected.sort();
        assert_eq!(names(dir.path(), ""), expected, "{driver}");
    }
}

#[tokio::test]
async fn downloads_from_the_cache_are_counted_without_a_write_for_each() {
    let dir = tempfile::tempdir().unwrap();
    let s = builder(dir.path()).logging_statements().start().await;
    let member = s.member("p1");
    let image = image_with(&member, b"data").await;
    download(&member, &image).await;
    is_cached(dir.path(), &image).await;
    let start = std::time::Instant::now();
    for _ in 0..100 {
        download(&member, &image).await;
    }
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!(records(&s).await[0]["hits"], 100);
    let periods = usize::try_from(start.elapsed().as_millis() / 500).unwrap() + 1;
    let writes = logged(&s, r#"summary="UPDATE \"cached_images\""#);
    assert!((1..=periods).contains(&writes), "{writes} writes in {periods} periods");
}

#[tokio::test]
async fn the_cache_needs_the_nodes_url_for_records_in_the_database() {
    let dir = tempfile::tempdir().unwrap();
    let s = builder(dir.path()).option("DEFAULT", "image_cache_driver", "sqlite").start().await;
    s.configure("[DEFAULT]\nimage_cache_driver = centralized_db\nworker_self_reference_url =\n");
    let output = s.command(&["serve"]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && text.contains("'worker_self_reference_url' needs to be set"), "{text}");
}

#[tokio::test]
async fn records_of_the_sqlite_driver_move_to_the_database() {
    let dir = tempfile::tempdir().unwrap();
    let mut s = builder(dir.path()).option("DEFAULT", "image_cache_driver", "sqlite").start().await;
    let image = image_with(&s.member("p1"), b"data").await;
    for _ in 0..3 {
        download(&s.member("p1"), &image).await;
        is_cached(dir.path(), &image).await;
    }
    let before = records(&s).await;
    s.kill();
    s.configure("[DEFAULT]\nimage_cache_driver = centralized_db\n");
    s.start_again().await;
    let after = records(&s).await;
    for member in ["image_id", "size", "hits"] {
        assert_eq!(before[0][member], after[0][member]);
    }
    let apart = before[0]["last_modified"].as_f64().unwrap() - after[0]["last_modified"].as_f64().unwrap();
    assert!(apart.abs() <= 1.0, "{apart}");
    // They are not in the file any more.
    s.kill();
    s.configure("[DEFAULT]\nimage_cache_driver = sqlite\n");
    s.start_again().await;
    assert_eq!(records(&s).await, [Value::Null; 0]);
    // A cleanup finds the file without a record.
    s.admin().post("/v2/cache/clean", &json!({})).await.expect(200);
    assert_eq!(records(&s).await[0]["image_id"], id(&image));
}

/// The text of a response, with what differs from image to image replaced.
fn plain(answer: &Answer, image: &str) -> (u16, String) {
    (answer.status.as_u16(), answer.text.replace(id(image), "IMAGE"))
}

#[tokio::test]
async fn the_api_of_the_cache_answers_like_glances() {
    let dir = tempfile::tempdir().unwrap();
    let s = builder(dir.path()).start().await;
    let (admin, member) = (s.admin().with_headers(&[("Accept", "application/json")]), s.member("p1"));
    let image = image_with(&admin, b"data").await;
    let queued = waiting_image(&admin).await;
    assert_eq!(admin.get("/v2/cache").await.expect(200).text, r#"{"cached_images": [], "queued_images": []}"#);
    assert_eq!(admin.get("/v2/cached_images").await.expect(200).text, r#"{"cached_images": []}"#);
    let answer = admin.put(&format!("/v2/cache/{}", id(&image))).await.expect(202);
    assert_eq!((answer.text.as_str(), answer.header("content-type")), ("", "text/html; charset=UTF-8"));
    is_cached(dir.path(), &image).await;
    eventually("it is recorded", || async { (records(&s).await.len() == 1).then_some(()) }).await;
    let record = &records(&s).await[0];
    assert_eq!((&record["size"], &record["hits"], &record["checksum"]), (&json!(4), &json!(0), &Value::Null));
    for (method, path, status, text) in [
        ("GET", "/v2/cache/nodes/IMAGE", 200, r#"["http://127.0.0.1:9292"]"#),
        ("PUT", "/v2/queued_images/IMAGE", 200, "null"),
        ("GET", "/v2/queued_images", 200, r#"{"queued_images": []}"#),
        ("DELETE", "/v2/queued_images/IMAGE", 200, "null"),
        ("DELETE", "/v2/queued_images", 200, r#"{"num_deleted": 0}"#),
        ("POST", "/v2/cache/clean", 200, ""),
        ("POST", "/v2/cache/prune", 200, r#"{"total_files_pruned": 0, "total_bytes_pruned": 0}"#),
        ("DELETE", "/v2/cached_images/none", 200, "null"),
        ("DELETE", "/v2/cached_images", 200, r#"{"num_deleted": 1}"#),
        ("GET", "/v2/cache/nodes/IMAGE", 200, "[]"),
        ("DELETE", "/v2/cache/IMAGE", 204, ""),
        ("DELETE", "/v2/cache", 204, ""),
    ] {
        let answer = admin.send(admin.request(method, &path.replace("IMAGE", id(&image)))).await;
        assert_eq!(plain(&answer, &image), (status, text.to_owned()), "{method} {path}");
    }
    let missing = "Image 4ca46bf1-5c61-48ff-b4f3-0ad4e5e3ba90 not found.";
    for method in ["PUT", "DELETE"] {
        let path = "/v2/cache/4ca46bf1-5c61-48ff-b4f3-0ad4e5e3ba90";
        admin.send(admin.request(method, path)).await.expect(404).says(missing);
    }
    admin.get("/v2/cache/nodes/4ca46bf1-5c61-48ff-b4f3-0ad4e5e3ba90").await.expect(404).says(missing);
    let says = "Only images with status active can be targeted for queueing";
    admin.put(&format!("/v2/cache/{}", id(&queued))).await.expect(400).says(says);
    let strange = admin.request("DELETE", "/v2/cache").header("x-image-cache-clear-target", "foo");
    let says = "If provided 'x-image-cache-clear-target' must be 'cache', 'queue' or empty string.";
    admin.send(strange).await.expect(400).says(says);
    admin.get(&format!("/v2/cached_images/{}", id(&image))).await.expect(404);
    admin.post("/v2/cached_images", &json!({})).await.expect(404);
    for (method, path, rule) in [
        ("GET", "/v2/cache", "cache_list"),
        ("DELETE", "/v2/cache", "cache_delete"),
        ("POST", "/v2/cache/clean", "cache_clean"),
        ("POST", "/v2/cache/prune", "cache_prune"),
        ("GET", "/v2/cache/nodes/x", "list_cached_nodes"),
        ("GET", "/v2/cached_images", "manage_image_cache"),
        ("DELETE", "/v2/queued_images", "manage_image_cache"),
    ] {
        let says = format!("You are not authorized to complete {rule} action.");
        member.send(member.request(method, path)).await.expect(403).says(&says);
    }
}

#[tokio::test]
async fn what_concerns_an_image_in_the_cache_has_a_policy_for_the_image() {
    let dir = tempfile::tempdir().unwrap();
    let s = builder(dir.path()).start().await;
    let member = s.member("p1");
    let image = image_with(&member, b"data").await;
    for (method, rule) in [("PUT", "cache_image"), ("DELETE", "cache_delete")] {
        let path = format!("/v2/cache/{}", id(&image));
        let says = format!("You are not authorized to complete {rule} action.");
        member.send(member.request(method, &path)).await.expect(403).says(&says);
        // Another project does not see the image.
        s.member("p2").send(s.member("p2").request(method, &path)).await.expect(404);
    }
    assert_eq!((names(dir.path(), ""), names(dir.path(), "queue")), (vec![], vec![]));
}

#[tokio::test]
async fn nodes_that_share_a_database_have_records_of_their_own() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let one = builder(dirs[0].path()).start().await;
    let two = with_cache(with_store(dirs[0].path()), dirs[1].path())
        .without("DEFAULT", "worker_self_reference_url")
        .option("DEFAULT", "worker_self_reference_url", "http://127.0.0.1:9393")
        .database(one.database.clone())
        .start()
        .await;
    let (image, other) = (image_with(&one.admin(), b"data").await, image_with(&one.admin(), b"other").await);
    let nodes = async |s: &TestServer, image: &str| {
        let listed = s.admin().get(&format!("/v2/cache/nodes/{image}")).await.expect(200).json();
        let mut nodes: Vec<String> = serde_json::from_value(listed).unwrap();
        nodes.sort();
        nodes
    };
    let caches = [(&one, &dirs[0]), (&two, &dirs[1])];
    for (s, dir) in caches {
        download(&s.admin(), &image).await;
        is_cached(dir.path(), &image).await;
        eventually("it is recorded", || async { (records(s).await.len() == 1).then_some(()) }).await;
    }
    for s in [&one, &two] {
        assert_eq!(nodes(s, id(&image)).await, [NODE, "http://127.0.0.1:9393"]);
        assert_eq!(nodes(s, id(&other)).await, [""; 0]);
        s.admin().get("/v2/cache/nodes/not-a-uuid").await.expect(404).says("Image not-a-uuid not found.");
    }
    one.admin().delete(&format!("/v2/cache/{}", id(&image))).await.expect(204);
    assert_eq!(nodes(&one, id(&image)).await, ["http://127.0.0.1:9393"]);
    assert_eq!((records(&one).await.len(), records(&two).await.len()), (0, 1));
}

#[tokio::test]
async fn what_is_queued_of_a_deleted_image_can_be_removed() {
    let dir = tempfile::tempdir().unwrap();
    let s = builder(dir.path()).start().await;
    let admin = s.admin();
    let image = image_with(&admin, b"data").await;
    let path = format!("/v2/cache/{}", id(&image));
    admin.put(&format!("/v2/queued_images/{}", id(&image))).await.expect(200);
    admin.delete(&image).await.expect(204);
    assert_eq!(queued(&admin).await, [id(&image)]);
    admin.delete(&path).await.expect(204);
    assert_eq!(queued(&admin).await, [""; 0]);
    admin.delete(&path).await.expect(404);
    for method in ["PUT", "DELETE"] {
        admin.send(admin.request(method, "/v2/cache/not-a-uuid")).await.expect(404);
    }
}

#[tokio::test]
async fn the_api_says_what_the_configuration_does_not_have() {
    let dir = tempfile::tempdir().unwrap();
    let s = builder(dir.path()).without("DEFAULT", "image_cache_dir").start().await;
    assert!(s.log().contains("image_cache_dir is not set"));
    let admin = s.admin();
    let image = image_with(&admin, b"data").await;
    assert_eq!(download(&admin, &image).await, b"data");
    for (method, path) in [
        ("GET", "/v2/cache"),
        ("DELETE", "/v2/cache"),
        ("PUT", "/v2/cache/IMAGE"),
        ("DELETE", "/v2/cache/IMAGE"),
        ("GET", "/v2/cache/nodes/IMAGE"),
        ("POST", "/v2/cache/clean"),
        ("POST", "/v2/cache/prune"),
        ("GET", "/v2/cached_images"),
        ("PUT", "/v2/queued_images/IMAGE"),
    ] {
        let answer = admin.send(admin.request(method, &path.replace("IMAGE", id(&image)))).await.expect(404);
        answer.says("Caching via API is not supported at this site.");
    }
    // Without the filter, nothing is cached, and the older API is not there.
    let s = builder(dir.path()).without("paste_deploy", "flavor").option("paste_deploy", "flavor", "keystone");
    let s = s.start().await;
    let image = image_with(&s.admin(), b"data").await;
    assert_eq!(download(&s.admin(), &image).await, b"data");
    assert_eq!(records(&s).await, [Value::Null; 0]);
    assert_eq!(names(dir.path(), ""), [""; 0]);
    s.admin().get("/v2/cached_images").await.expect(404);
    // The records of other drivers are this node's alone.
    let s = builder(dir.path()).option("DEFAULT", "image_cache_driver", "sqlite").start().await;
    let image = image_with(&s.admin(), b"data").await;
    let nodes = format!("/v2/cache/nodes/{}", id(&image));
    s.admin().get(&nodes).await.expect(409).says("Centralized caching is not enabled");
}

#[tokio::test]
async fn clearing_can_be_limited_to_the_cache_or_the_queue() {
    let dir = tempfile::tempdir().unwrap();
    let s = builder(dir.path()).start().await;
    let admin = s.admin();
    for (target, cached, queued) in [("Queue", 1, 0), ("cache", 0, 1), ("", 0, 0)] {
        let (image, other) = (image_with(&admin, b"data").await, image_with(&admin, b"data").await);
        download(&admin, &image).await;
        is_cached(dir.path(), &image).await;
        admin.put(&format!("/v2/queued_images/{}", id(&other))).await.expect(200);
        let clear = admin.request("DELETE", "/v2/cache").header("x-image-cache-clear-target", target);
        admin.send(clear).await.expect(204);
        let state = admin.get("/v2/cache").await.expect(200).json();
        let lengths = ["cached_images", "queued_images"].map(|list| state[list].as_array().unwrap().len());
        assert_eq!(lengths, [cached, queued], "{target}");
        admin.delete("/v2/cache").await.expect(204);
    }
}

#[tokio::test]
async fn versions_of_the_cache_are_listed_if_there_is_one() {
    let dir = tempfile::tempdir().unwrap();
    let s = builder(dir.path()).start().await;
    let listed = s.anonymous().get("/versions").await.expect(200).json();
    let ids: Vec<&str> =
        listed["versions"].as_array().unwrap().iter().map(|version| version["id"].as_str().unwrap()).collect();
    assert_eq!(ids[..6], ["v2.18", "v2.17", "v2.16", "v2.15", "v2.14", "v2.13"]);
    assert_eq!(listed["versions"][0]["status"], "CURRENT");
    s.admin().get("/v2.18/images").await.expect(200);
    let without = TestServer::start().await;
    without.admin().get("/v2.18/images").await.expect(300);
}

#[tokio::test]
async fn pruning_removes_what_was_not_used_for_the_longest_time() {
    for driver in ["centralized_db", "sqlite", "xattr"] {
        let dir = on_disk();
        let s = builder(dir.path())
            .option("DEFAULT", "image_cache_driver", driver)
            .option("DEFAULT", "image_cache_max_size", 250)
            .start()
            .await;
        let admin = s.admin();
        let mut images = Vec::new();
        for _ in 0..3 {
            let image = image_with(&admin, &bytes(100)).await;
            download(&admin, &image).await;
            is_cached(dir.path(), &image).await;
            // Times have a resolution of a second.
            tokio::time::sleep(Duration::from_millis(1100)).await;
            images.push(image);
        }
        download(&admin, &images[0]).await;
        let pruned = admin.post("/v2/cache/prune", &json!({})).await.expect(200);
        assert_eq!(pruned.text, r#"{"total_files_pruned": 1, "total_bytes_pruned": 100}"#, "{driver}");
        assert!(!cached_file(dir.path(), &images[1]).exists(), "{driver}");
        assert_eq!(records(&s).await.len(), 2);
    }
}

#[tokio::test]
async fn housekeeping_fetches_queued_images_and_removes_what_is_deleted_stalled_or_too_much() {
    let dir = tempfile::tempdir().unwrap();
    let s = builder(dir.path())
        .option("DEFAULT", "image_cache_max_size", 10)
        .option("DEFAULT", "image_cache_stall_time", 1000)
        .without("glimpse", "cache_interval")
        .option("glimpse", "cache_interval", "0.2")
        .start()
        .await;
    let admin = s.admin();
    let image = image_with(&admin, b"data").await;
    admin.put(&format!("/v2/queued_images/{}", id(&image))).await.expect(200);
    is_cached(dir.path(), &image).await;
    eventually("it is not queued any more", || async { names(dir.path(), "queue").is_empty().then_some(()) }).await;
    // A Glance fills the first of these files.
    let incomplete = dir.path().join("cache/incomplete");
    let ids = ["4ca46bf1-5c61-48ff-b4f3-0ad4e5e3ba90", "4ca46bf1-5c61-48ff-b4f3-0ad4e5e3ba91"];
    for name in ids {
        fs::write(incomplete.join(name), "part").unwrap();
    }
    let old = std::time::SystemTime::now() - Duration::from_secs(2000);
    fs::File::options().write(true).open(incomplete.join(ids[1])).unwrap().set_modified(old).unwrap();
    fs::write(dir.path().join("cache/invalid").join(ids[0]), "wrong").unwrap();
    // The first one was deleted through another node.
    fs::write(dir.path().join("cache").join(ids[0]), "gone").unwrap();
    let large = image_with(&admin, b"more than ten bytes").await;
    download(&admin, &large).await;
    eventually("the cache is tidy", || async {
        let is_tidy = names(dir.path(), "invalid").is_empty()
            && names(dir.path(), "incomplete") == ids[..1]
            && !cached_file(dir.path(), &large).exists()
            && !dir.path().join("cache").join(ids[0]).exists();
        is_tidy.then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_filter_gzip_compresses_responses_for_clients_that_accept_it() {
    let dir = tempfile::tempdir().unwrap();
    let paste = "[pipeline:glance-api-gzip]\npipeline = gzip unauthenticated-context rootapp\n[filter:gzip]\npaste.filter_factory = \
        glance.api.middleware.gzip:GzipMiddleware.factory\n";
    let s = with_store(dir.path())
        .file("glance-api-paste.ini", paste)
        .option("paste_deploy", "flavor", "gzip")
        .start()
        .await;
    let member = s.member("p1");
    let data = [bytes(MIB), vec![0; MIB]].concat();
    let image = image_with(&member, &data).await;
    let inflate = |bytes: &[u8]| {
        let mut plain = Vec::new();
        std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(bytes), &mut plain).unwrap();
        plain
    };
    let plain = member.get(&format!("{image}?x")).await.expect(200);
    assert!(plain.headers.get("content-encoding").is_none());
    let get = async |path: &str, accept: &str| {
        member.request("GET", path).header("Accept-Encoding", accept).send().await.unwrap()
    };
    let shown = get(&image, "deflate, gzip;q=0.5").await;
    assert_eq!(shown.headers()["content-encoding"], "gzip");
    let length: usize = shown.headers()["content-length"].to_str().unwrap().parse().unwrap();
    let body = shown.bytes().await.unwrap();
    assert_eq!((body.len(), inflate(&body)), (length, plain.text.into_bytes()));
    let sent = get(&format!("{image}/file"), "gzip").await;
    assert!(sent.headers().get("content-length").is_none() && sent.headers().contains_key("content-md5"));
    let body = sent.bytes().await.unwrap();
    assert!(body.len() < data.len() * 2 / 3 && inflate(&body) == data);
    assert!(download(&member, &image).await == data);
    let missing = get("/v2/images/none", "gzip").await;
    assert_eq!((missing.status().as_u16(), missing.headers()["content-encoding"].to_str().unwrap()), (404, "gzip"));
}

/// Runs the program, under another name if one is given.
fn run(s: &TestServer, dir: &Path, name: Option<&str>, arguments: &[&str]) -> Output {
    let mut command = s.command(arguments);
    if let Some(name) = name {
        let link = dir.join(name);
        if !link.exists() {
            std::os::unix::fs::symlink(command.get_program(), &link).unwrap();
        }
        let mut linked = Command::new(link);
        linked.env_clear().env("OS_GLANCE_CONFIG_DIR", "/dev/null").args(command.get_args());
        command = linked;
    }
    command.output().unwrap()
}

#[tokio::test]
async fn the_command_line_lists_fills_and_empties_the_cache() {
    let dir = tempfile::tempdir().unwrap();
    let s = builder(dir.path()).option("DEFAULT", "image_cache_max_size", 3).start().await;
    let admin = s.admin();
    let (image, other) = (image_with(&admin, b"data").await, image_with(&admin, b"more data").await);
    let done = |name: Option<&str>, arguments: &[&str]| {
        let output = run(&s, dir.path(), name, arguments);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
        text(&output.stdout)
    };
    done(None, &["cache", "queue", id(&image), id(&other)]);
    let listed = done(None, &["cache", "list"]);
    let mut lines: Vec<&str> = listed.lines().collect();
    lines.sort_unstable();
    let mut expected = [&image, &other].map(|image| format!("{}  queued", id(image)));
    expected.sort();
    assert_eq!(lines, expected);
    assert_eq!(done(Some("glance-cache-prefetcher"), &[]), "2 of 2 queued images are cached\n");
    let listed = done(None, &["cache", "list"]);
    assert!(listed.contains(&format!("{}  cached  9 bytes  0 hits  20", id(&other))), "{listed}");
    assert_eq!(done(Some("glance-cache-pruner"), &[]), "2 images of 13 bytes removed\n");
    fs::write(dir.path().join("cache/invalid").join(id(&image)), "wrong").unwrap();
    done(Some("glance-cache-cleaner"), &[]);
    assert_eq!(names(dir.path(), "invalid"), [""; 0]);
    done(None, &["cache", "queue", id(&image)]);
    done(None, &["cache", "prefetch"]);
    assert_eq!(done(None, &["cache", "clear", "--queue"]), "0 queued images removed\n");
    done(None, &["cache", "delete", id(&image)]);
    assert_eq!(done(None, &["cache", "clear"]), "0 cached images removed\n0 queued images removed\n");
    let failed = run(&s, dir.path(), None, &["cache", "queue", "../../etc/passwd"]);
    assert!(!failed.status.success());
}

#[test]
fn the_tools_of_the_cache_read_a_file_of_their_own() {
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().join("cache");
    let options = format!("[DEFAULT]\nimage_cache_dir = {}\nimage_cache_driver = sqlite\n", cache.display());
    fs::write(dir.path().join("glance-cache.conf"), options).unwrap();
    fs::create_dir_all(cache.join("invalid")).unwrap();
    fs::write(cache.join("invalid/x"), "wrong").unwrap();
    let link = dir.path().join("glance-cache-cleaner");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_glimpse"), &link).unwrap();
    let mut command = Command::new(link);
    command.env_clear().env("OS_GLANCE_CONFIG_DIR", dir.path()).arg("--data-dir").arg(dir.path());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(!cache.join("invalid/x").exists() && cache.join("cache.db").exists());
}

/// A Glance with a cache in this folder. It requires no token, because `glance-cache-manage` gets none of those that tests use.
async fn glance_with_cache(database: &Database, dir: &Path, driver: &str) -> Glance {
    let pipeline = "[composite:glance-api-open-cache]\npaste.composite_factory = glance.api:root_app_factory\n/: open-cache\n\
        /healthcheck: healthcheck\n[pipeline:open-cache]\npipeline = cors http_proxy_to_wsgi versionnegotiation \
        unauthenticated-context cache cachemanage rootapp\n";
    let home = Path::new(env!("CARGO_MANIFEST_DIR"));
    let own = fs::read_to_string(home.join("target/test-services/etc/glance/glance-api-paste.ini")).unwrap();
    fs::write(dir.join("paste-cache.ini"), own + pipeline).unwrap();
    let (paste, cache, images) = (dir.join("paste-cache.ini"), dir.join("cache"), dir.join("images"));
    let rules = [
        "add_image",
        "get_image",
        "upload_image",
        "download_image",
        "cache_image",
        "cache_list",
        "cache_delete",
        "manage_image_cache",
    ];
    let policy = dir.join("everybody.yaml");
    fs::write(&policy, rules.map(|rule| format!("{rule}: '@'\n")).concat()).unwrap();
    let options = [
        ("DEFAULT", "image_cache_dir", cache.to_str().unwrap()),
        ("DEFAULT", "image_cache_driver", driver),
        ("DEFAULT", "image_cache_max_size", "20"),
        ("DEFAULT", "image_cache_sqlite_db", "records.db"),
        ("DEFAULT", "worker_self_reference_url", NODE),
        ("oslo_policy", "policy_file", policy.to_str().unwrap()),
        ("paste_deploy", "flavor", "open-cache"),
        ("paste_deploy", "config_file", paste.to_str().unwrap()),
        ("fs", "filesystem_store_datadir", images.to_str().unwrap()),
    ];
    Glance::start_with(database, &options, &[]).await
}

/// The records of a Glance or a Glimpse, without times, in the order of their images.
async fn facts(client: &Client) -> Vec<(String, i64, i64)> {
    let listed = client.get("/v2/cache").await.expect(200).json();
    let fact = |record: &Value| {
        let text = record["image_id"].as_str().unwrap().to_owned();
        (text, record["size"].as_i64().unwrap(), record["hits"].as_i64().unwrap())
    };
    let mut facts: Vec<_> = listed["cached_images"].as_array().unwrap().iter().map(fact).collect();
    facts.sort();
    facts
}

/// Puts a wrong file into the cache, and one without progress for more than a day.
fn leave_behind(dir: &Path, invalid: &str, stalled: &str) {
    fs::write(dir.join("cache/invalid").join(invalid), "wrong").unwrap();
    let stalled = fs::File::create(dir.join("cache/incomplete").join(stalled)).unwrap();
    stalled.set_modified(std::time::SystemTime::now() - Duration::from_secs(90_000)).unwrap();
}

fn has_nothing_left(dir: &Path) -> bool {
    names(dir, "invalid").is_empty() && names(dir, "incomplete").is_empty()
}

#[tokio::test]
async fn glance_and_glimpse_use_the_caches_that_the_other_one_has_filled() {
    join_all(["centralized_db", "sqlite", "xattr"].map(use_each_others_cache)).await;
}

async fn use_each_others_cache(driver: &str) {
    let dir = on_disk();
    let dir = dir.path();
    let images = dir.join("images");
    fs::create_dir_all(&images).unwrap();
    let builder = builder(dir).option("DEFAULT", "image_cache_max_size", 20);
    let builder = builder.option("DEFAULT", "image_cache_sqlite_db", "records.db");
    let mut s = builder.option("DEFAULT", "image_cache_driver", driver).start().await;
    let ours = image_with(&s.admin(), b"cached by Glimpse").await;
    let [ours_queued, theirs_queued] = [waiting_image(&s.admin()).await, waiting_image(&s.admin()).await];
    s.admin().put(&format!("/v2/queued_images/{}", id(&ours_queued))).await.expect(200);
    for _ in 0..3 {
        download(&s.admin(), &ours).await;
        is_cached(dir, &ours).await;
    }
    has_hits(&s, &ours, 2).await;
    s.kill();
    let mut glance = glance_with_cache(&s.database, dir, driver).await;
    let admin = glance.admin();
    assert_eq!(facts(&admin).await, [(id(&ours).to_owned(), 17, 2)], "{driver}");
    assert_eq!(dir.join("cache/records.db").exists(), driver == "sqlite");
    assert_eq!(queued(&admin).await, [id(&ours_queued)], "{driver}");
    for arguments in
        [&["list-cached"][..], &["list-queued"], &["delete-queued-image", id(&ours_queued)], &["list-queued"]]
    {
        let [ours, theirs] =
            [manage_tool(dir), glances_manage_tool()].map(|tool| manage(&tool, &glance.base(), "any", arguments));
        assert_eq!(ours, theirs, "{driver}: {arguments:?}");
    }
    assert_eq!(queued(&admin).await, [""; 0], "{driver}");
    let queue = manage(&manage_tool(dir), &glance.base(), "any", &["queue-image", id(&ours_queued)]);
    assert_eq!((queue.0, queued(&admin).await), (Some(0), vec![id(&ours_queued).to_owned()]), "{driver}");
    admin.delete(&format!("/v2/queued_images/{}", id(&ours_queued))).await.expect(200);
    admin.put(&format!("/v2/queued_images/{}", id(&theirs_queued))).await.expect(200);
    // Without the store's file, only the cache has the data.
    fs::remove_file(images.join(id(&ours))).unwrap();
    assert_eq!(download(&admin, &ours).await, b"cached by Glimpse");
    // Times have a resolution of a second.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let theirs = image_with(&admin, b"by Glance").await;
    for _ in 0..2 {
        download(&admin, &theirs).await;
    }
    let expected = facts(&admin).await;
    assert_eq!(expected.iter().map(|fact| fact.2).sum::<i64>(), 4, "{driver}");
    glance.kill().await;
    fs::remove_file(images.join(id(&theirs))).unwrap();
    s.start_again().await;
    assert_eq!(facts(&s.admin()).await, expected, "{driver}");
    assert_eq!(queued(&s.admin()).await, [id(&theirs_queued)], "{driver}");
    // Glimpse's tools on what Glance has left.
    leave_behind(dir, id(&ours), id(&ours));
    assert!(run(&s, dir, Some("glance-cache-cleaner"), &[]).status.success() && has_nothing_left(dir), "{driver}");
    let pruned = run(&s, dir, Some("glance-cache-pruner"), &[]);
    assert_eq!(String::from_utf8_lossy(&pruned.stdout), "1 images of 17 bytes removed\n", "{driver}");
    assert_eq!(facts(&s.admin()).await, [(id(&theirs).to_owned(), 9, 1)], "{driver}");
    assert_eq!(download(&s.admin(), &theirs).await, b"by Glance");
    has_hits(&s, &theirs, 2).await;
    tokio::time::sleep(Duration::from_millis(1100)).await;
    fs::write(images.join(id(&ours)), "cached by Glimpse").unwrap();
    assert_eq!(download(&s.admin(), &ours).await, b"cached by Glimpse");
    eventually("it is recorded", || async { (records(&s).await.len() == 2).then_some(()) }).await;
    // Glance's tools on what Glimpse has left.
    leave_behind(dir, id(&ours), &format!("{}.glimpse", id(&ours)));
    glance.cache_tool("cleaner").await;
    assert!(has_nothing_left(dir), "{driver}");
    glance.cache_tool("pruner").await;
    assert!(!cached_file(dir, &theirs).exists(), "{driver}");
    assert_eq!(facts(&s.admin()).await, [(id(&ours).to_owned(), 17, 0)], "{driver}");
}

/// Glance's driver `xattr` keeps the number of hits as decimal digits in the attribute `user.hits`.
#[tokio::test]
async fn the_attributes_of_files_are_glances() {
    let dir = on_disk();
    let s = builder(dir.path()).option("DEFAULT", "image_cache_driver", "xattr").start().await;
    let image = image_with(&s.admin(), b"data").await;
    let file = cached_file(dir.path(), &image);
    let python = |code: &str| {
        let output = Command::new("python3").args(["-c", code]).arg(&file).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    python("import os, sys; open(sys.argv[1], 'w').write('data'); os.setxattr(sys.argv[1], 'user.hits', b'5')");
    fs::remove_file(dir.path().join("images").join(id(&image))).unwrap();
    assert_eq!(facts(&s.admin()).await, [(id(&image).to_owned(), 4, 5)]);
    assert_eq!(download(&s.admin(), &image).await, b"data");
    assert_eq!(facts(&s.admin()).await, [(id(&image).to_owned(), 4, 6)]);
    assert_eq!(python("import os, sys; print(os.getxattr(sys.argv[1], 'user.hits'))"), "b'6'\n");
}

#[tokio::test]
async fn openstack_and_glance_manage_the_cache() {
    let dir = tempfile::tempdir().unwrap();
    // glance-client escapes the characters of the tokens of other tests.
    let s = builder(dir.path()).without("glimpse", "auth").option("glimpse", "auth", "none").start().await;
    let image = image_with(&s.admin(), b"data").await;
    let token = "any".to_owned();
    let variables = [
        ("OS_AUTH_TYPE", "admin_token".to_owned()),
        ("OS_ENDPOINT", format!("{}/v2", s.base)),
        ("OS_TOKEN", token.clone()),
        ("GLANCE", format!("env -u OS_AUTH_TYPE glance --os-image-url {} --os-auth-token {token}", s.base)),
        ("ID", id(&image).to_owned()),
    ];
    let shell = Shell::with(s, variables);
    let listed =
        || serde_json::from_str::<Value>(&shell.run("openstack cached image list -f json 2>/dev/null")).unwrap();
    shell.run("openstack cached image queue $ID");
    is_cached(dir.path(), &image).await;
    eventually("it is listed", || async { (listed()[0]["State"] == "cached").then_some(()) }).await;
    assert_eq!((listed()[0]["ID"].clone(), listed()[0]["Size"].clone()), (json!(id(&image)), json!(4)));
    assert!(shell.run("$GLANCE cache-list").contains(id(&image)));
    assert!(shell.run("$GLANCE cache-nodes-list $ID").contains(NODE));
    shell.run("openstack cached image delete $ID");
    assert_eq!(listed(), json!([]));
    shell.run("$GLANCE cache-queue $ID");
    is_cached(dir.path(), &image).await;
    shell.run("$GLANCE cache-clean && $GLANCE cache-prune");
    shell.run("$GLANCE cache-delete $ID");
    assert!(!cached_file(dir.path(), &image).exists());
    shell.run("$GLANCE cache-queue $ID");
    is_cached(dir.path(), &image).await;
    shell.run("openstack cached image clear --cache");
    assert!(!cached_file(dir.path(), &image).exists());
    shell.run("openstack cached image clear && $GLANCE cache-clear");
}

/// A link named `glance-cache-manage`.
fn manage_tool(dir: &Path) -> PathBuf {
    let link = dir.join("glance-cache-manage");
    if !link.exists() {
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_glimpse"), &link).unwrap();
    }
    link
}

fn glances_manage_tool() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/test-services/bin/glance-cache-manage")
}

/// Runs one of them for the server at this URL. Returns its exit code, and what it prints.
fn manage(tool: &Path, base: &str, token: &str, arguments: &[&str]) -> (Option<i32>, String) {
    let port = base.rsplit(':').next().unwrap();
    let mut command = Command::new(tool);
    command.env_clear().args(["--host", "127.0.0.1", "--port", port, "--os-auth-token", token, "-f"]).args(arguments);
    let output = command.output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
}

#[tokio::test]
async fn glance_cache_manage_prints_what_glances_does() {
    let dir = tempfile::tempdir().unwrap();
    let s = builder(dir.path()).start().await;
    let admin = s.admin();
    let (image, other) = (image_with(&admin, b"data").await, image_with(&admin, b"other").await);
    for _ in 0..2 {
        download(&admin, &image).await;
        is_cached(dir.path(), &image).await;
    }
    has_hits(&s, &image, 1).await;
    let (link, real) = (manage_tool(dir.path()), glances_manage_tool());
    let run = |program: &Path, token: &str, arguments: &[&str]| manage(program, &s.base, token, arguments);
    let token = "root:admins:admin,member,reader";
    for (token, arguments) in [
        (token, &["list-cached"][..]),
        (token, &["list-queued"]),
        (token, &["queue-image", id(&other)]),
        (token, &["list-queued"]),
        (token, &["delete-queued-image", "x"]),
        ("user:p1:member", &["list-cached"]),
    ] {
        assert_eq!(run(&link, token, arguments), run(&real, token, arguments), "{arguments:?}");
    }
    let said = |count: &str| (Some(0), format!("Deleted {count}\n"));
    assert_eq!(run(&link, token, &["-v", "delete-all-queued-images"]), said("1 queued images"));
    assert_eq!(
        run(&link, token, &["-v", "delete-cached-image", id(&image)]),
        said(&format!("cached image {}", id(&image)))
    );
    assert_eq!(run(&link, token, &["delete-all-cached-images"]), (Some(0), String::new()));
}
