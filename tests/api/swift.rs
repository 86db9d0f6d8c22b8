//! Images in containers of a real Swift, and failures of Swift, the network and Glimpse.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{
    data::{
        answered, begun_upload, bytes, chunked, download, head_of_upload, id, image_with, status, upload,
        waiting_image, with_short_heartbeat,
    },
    import::{ended, import, page, stage, staging, web, web_download},
    support::{Client, Database, Fault, FaultyProxy, Glance, Keystone, ServerBuilder, Swift, TestServer, eventually},
    tasks,
};

/// The size of a segment in these tests.
const SEGMENT: usize = 1_024_000;

/// Waits until the image is queued again and Swift has no data; then checks that an upload succeeds.
async fn nothing_is_left(client: &Client, image: &str, swift: &Swift) {
    eventually("the image is queued again, and nothing is left", || async {
        (status(client, image).await == "queued" && swift.objects().await.is_empty()).then_some(())
    })
    .await;
    upload(client, image, "whole").await.expect(204);
    assert_eq!(download(client, image).await, b"whole");
    client.delete(image).await.expect(204);
    assert_eq!(swift.objects().await, [""; 0]);
}

async fn segments_are_there(swift: &Swift, count: usize) {
    let segments = async || swift.objects().await.iter().filter(|name| !name.starts_with(".glimpse")).count();
    eventually("segments are there", || async { (segments().await >= count).then_some(()) }).await;
}

async fn location_of(database: &Database, image: &str) -> String {
    let sql =
        format!("SELECT value, value FROM image_locations WHERE status = 'active' AND image_id = '{}'", id(image));
    database.pairs(&sql).await.remove(0).0
}

async fn set_location(database: &Database, image: &str, url: &str) {
    let sql = format!("UPDATE image_locations SET value = '{url}' WHERE image_id = '{}'", id(image));
    assert_eq!(database.execute(&sql).await, 1);
}

async fn is_stored_and_removed(swift: &Swift, lengths: &[usize]) {
    let s = with_short_heartbeat()
        .options(&swift.options(&swift.server.base()))
        .option("DEFAULT", "show_image_direct_url", true)
        .option("DEFAULT", "show_multiple_locations", true)
        .environment("RUST_LOG", "trace")
        .start()
        .await;
    let member = s.member("p1");
    let data = bytes(2 * SEGMENT + 345_678);
    let mut images = Vec::new();
    for &length in lengths {
        for is_told in [true, false] {
            let image = waiting_image(&member).await;
            let body = if is_told { data[..length].to_vec().into() } else { chunked(&data[..length]) };
            upload(&member, &image, body).await.expect(204);
            let shown = member.get(&image).await.expect(200).json();
            assert_eq!((&shown["status"], &shown["size"]), (&json!("active"), &json!(length)));
            let address = swift.auth_address(&swift.server.base()).replace("http://", "");
            let url = |credentials: &str| format!("swift+http://{credentials}{address}/images/{}", id(&image));
            assert_eq!(shown["locations"], json!([{"url": url(""), "metadata": {"store": "swift"}}]));
            assert_eq!(shown["direct_url"], url(""));
            let user = swift.user().replace(':', "%3A");
            assert_eq!(location_of(&s.database, &image).await, url(&format!("{user}:secret@")));
            let (head, _) = swift.request("HEAD", &format!("images/{}", id(&image)), &[]).await;
            // As in Glance, an empty body means an unknown size.
            let is_large = !is_told || length == 0 || length >= 2 * SEGMENT;
            let manifest = if is_large { json!(format!("images/{}-", id(&image))) } else { Value::Null };
            assert_eq!(head["x-object-manifest"], manifest, "{length}, {is_told}");
            assert_eq!(head["content-length"], length.to_string());
            let segments =
                swift.objects().await.iter().filter(|name| name.starts_with(&format!("{}-", id(&image)))).count();
            assert_eq!(segments, if is_large { length.div_ceil(SEGMENT) } else { 0 });
            if length > 0 {
                assert!(download(&member, &image).await == data[..length], "{length}, {is_told}");
            }
            images.push(image);
        }
    }
    let last = images.last().unwrap();
    assert!(swift.objects().await.contains(&format!("{}-00003", id(last))));
    let whole = &images[images.len() - 4];
    for image in [last, whole] {
        let length = usize::try_from(member.get(image).await.json()["size"].as_u64().unwrap()).unwrap();
        for (range, part) in [
            ("bytes=0-0".to_owned(), 0..1),
            ("bytes=150000-250000".to_owned(), 150_000..250_001),
            (format!("bytes={}-", length - 150_000), length - 150_000..length),
            ("bytes=-100".to_owned(), length - 100..length),
        ] {
            let answer = member.request("GET", &format!("{image}/file")).header("Range", &range).send().await.unwrap();
            assert_eq!(answer.status(), 206);
            assert!(answer.bytes().await.unwrap() == data[part], "{range}");
        }
    }
    let detail = s.admin().get("/v2/info/stores/detail").await.expect(200).json();
    let properties =
        json!({"container": "images", "large_object_size": 2 * SEGMENT, "large_object_chunk_size": SEGMENT});
    assert_eq!(detail["stores"][0]["properties"], properties);
    for image in &images {
        member.delete(image).await.expect(204);
    }
    assert_eq!(swift.objects().await, [""; 0]);
    // The log does not contain secrets, even at the most verbose level.
    let log = s.log();
    for secret in ["secret", ":glance", "%3Aglance"] {
        assert!(!log.contains(secret), "{secret} is in the log");
    }
}

#[tokio::test]
async fn uploaded_data_is_downloaded_unchanged_and_removed() {
    let (keystone, swift) = (Keystone::start().await, Swift::start().await);
    let (whole, parts) = (300_000, 2 * SEGMENT + 345_678);
    is_stored_and_removed(&swift, &[0, 3, SEGMENT, 2 * SEGMENT - 1, 2 * SEGMENT, whole, parts]).await;
    is_stored_and_removed(&Swift::start_with(&keystone).await, &[3, whole, parts]).await;
}

/// Each image goes to a container that is named after it, which is created. Locations name the account by its reference.
#[tokio::test]
async fn accounts_have_references_and_containers_have_seeds() {
    let swift = Swift::start().await;
    let address = swift.auth_address(&swift.server.base());
    let accounts = format!(
        "[first]\nuser = test:stranger\nkey = secret\nauth_address = {address}\n\n[second]\nuser = 'test:glance'\nkey = secret\n\
         auth_address = {address}\nauth_version = 1\n"
    );
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("swift.conf");
    std::fs::write(&path, accounts).unwrap();
    // The options of a single store.
    let s = with_short_heartbeat()
        .option("glance_store", "stores", "file,swift")
        .option("glance_store", "default_store", "swift")
        .option("glance_store", "swift_store_config_file", path.display())
        .option("glance_store", "default_swift_reference", "second")
        .option("glance_store", "swift_store_container", "glance")
        .option("glance_store", "swift_store_auth_version", "1")
        .option("glance_store", "swift_store_multiple_containers_seed", 10)
        .option("glance_store", "swift_store_create_container_on_put", true)
        .option("glance_store", "swift_store_large_object_size", 2)
        .option("glance_store", "swift_store_large_object_chunk_size", 1)
        .option("DEFAULT", "show_image_direct_url", true)
        .start()
        .await;
    let member = s.member("p1");
    for length in [3, 300_000, 3 * SEGMENT] {
        let data = bytes(length);
        let image = image_with(&member, &data).await;
        // Dashes do not count.
        let container = format!("glance_{}", &id(&image)[..11]);
        let url = format!("swift+config://second/{container}/{}", id(&image));
        assert_eq!(location_of(&s.database, &image).await, url);
        assert_eq!(member.get(&image).await.json()["direct_url"], url);
        assert!(download(&member, &image).await == data);
        assert!(swift.names(&container).await.contains(&id(&image).to_owned()));
        // A reference of another account, which may not read the object.
        set_location(&s.database, &image, &url.replace("second", "first")).await;
        member.get(&format!("{image}/file")).await.expect(503);
        set_location(&s.database, &image, &url.replace("second", "third")).await;
        member.get(&format!("{image}/file")).await.expect(503);
        set_location(&s.database, &image, &url).await;
        member.delete(&image).await.expect(204);
        assert_eq!(swift.names(&container).await, [""; 0]);
    }
}

/// Glance has written users and keys into locations in several forms.
#[tokio::test]
async fn every_form_of_locations_is_read_and_shows_no_credentials() {
    let (keystone, swift) = (Keystone::start().await, Swift::start().await);
    let other = Swift::start_with(&keystone).await;
    let s = with_short_heartbeat()
        .options(&swift.options(&swift.server.base()))
        .option("DEFAULT", "show_image_direct_url", true)
        .option("DEFAULT", "enabled_backends", "other:swift, swift:swift")
        .option("other", "swift_store_auth_address", other.auth_address(""))
        .option("other", "swift_store_user", "service:glance")
        .option("other", "swift_store_key", "secret")
        .option("other", "swift_store_container", "images")
        .start()
        .await;
    let member = s.member("p1");
    let address = swift.auth_address(&swift.server.base()).replace("http://", "");
    let keystone_address = other.auth_address("").replace("http://", "");
    for (credentials, address, store) in [
        // The key has been changed since.
        ("test%3Aglance:old/s3cret", &address, "swift"),
        ("test:glance:s3cret", &address, "swift"),
        ("service%3Aglance:secret", &keystone_address, "other"),
        // A user that is not configured.
        ("admin:admin:secret", &keystone_address, "other"),
    ] {
        let image = waiting_image(&member).await;
        let sending =
            member.request("PUT", &format!("{image}/file")).header("Content-Type", "application/octet-stream");
        member.send(sending.header("X-Image-Meta-Store", store).body("abc")).await.expect(204);
        let shown = format!("swift+http://{address}/images/{}", id(&image));
        let old = format!("swift+http://{credentials}@{address}/images/{}", id(&image));
        let sql =
            format!("UPDATE image_locations SET value = '{old}', meta_data = '{{}}' WHERE image_id = '{}'", id(&image));
        assert_eq!(s.database.execute(&sql).await, 1);
        let view = member.get(&image).await.expect(200).json();
        assert_eq!((&view["direct_url"], &view["stores"]), (&json!(shown), &json!(store)));
        if credentials.starts_with("admin") {
            // Its account has no such object.
            member.get(&format!("{image}/file")).await.expect(503);
            continue;
        }
        assert_eq!(download(&member, &image).await, b"abc", "{credentials}");
        assert_eq!(location_of(&s.database, &image).await, old);
        member.delete(&image).await.expect(204);
    }
    assert_eq!(swift.objects().await, [""; 0]);
    assert!(!s.log().contains("s3cret") && !s.log().contains("secret@"), "{}", s.log());
}

#[tokio::test]
async fn failed_swift_requests_are_retried_and_downloads_are_resumed() {
    let swift = Swift::start().await;
    let proxy = FaultyProxy::start(&swift.server).await;
    let resumes = ("swift", "swift_store_retry_get_count", "2".to_owned());
    let mut options = swift.options(&proxy.base);
    options.push(resumes);
    let s = with_short_heartbeat().options(&options).start().await;
    let member = s.member("p1");
    let data = bytes(3 * SEGMENT + 5);
    // A marker, segments and a manifest.
    for fault in [Fault::SlowDown, Fault::Lost, Fault::AnswerLost] {
        proxy.fail("PUT", fault);
    }
    let image = image_with(&member, &data).await;
    assert_eq!(proxy.faults_left(), 0, "{:?}", proxy.passed());
    let small = waiting_image(&member).await;
    for fault in [Fault::Lost, Fault::AnswerLost, Fault::Unauthorized] {
        proxy.fail("PUT", fault);
    }
    upload(&member, &small, "small").await.expect(204);
    assert_eq!(download(&member, &small).await, b"small");

    let before = proxy.passed().len();
    for fault in [Fault::SlowDown, Fault::Cut(1_500_000), Fault::Lost, Fault::Cut(500_000)] {
        proxy.fail("GET", fault);
    }
    assert!(download(&member, &image).await == data);
    let asked = proxy.passed().split_off(before);
    let end = data.len() - 1;
    let (first, second) = (format!("GET bytes=1500000-{end}"), format!("GET bytes=2000000-{end}"));
    assert_eq!(asked, ["GET", "GET", &first, &first, &second]);
    // The third cut is one too many.
    for _ in 0..3 {
        proxy.fail("GET", Fault::Cut(1_000));
    }
    let answer = member.request("GET", &format!("{image}/file")).send().await.unwrap();
    assert!(answer.bytes().await.is_err());
    assert_eq!(proxy.faults_left(), 0);

    // A failure that persists is reported.
    for _ in 0..5 {
        proxy.fail("GET", Fault::SlowDown);
    }
    member.get(&format!("{image}/file")).await.expect(503);
    // The bytes of a segment, and of an object that is not small, are not kept: the client has to send them again.
    let refused = waiting_image(&member).await;
    proxy.fail("PUT", Fault::Lost);
    upload(&member, &refused, bytes(SEGMENT)).await.expect(503);
    assert_eq!(status(&member, &refused).await, "queued");
    // The token can be revoked between the request that has tried it and the one with the bytes.
    for fault in [Fault::Lost, Fault::Unauthorized] {
        let mut stream = upload_in_its_second_segment(&s, &refused, &data, &swift).await;
        proxy.fail("PUT", fault);
        stream.write_all(&data[SEGMENT * 3 / 2..]).await.unwrap();
        assert_eq!(answered(&mut stream).await, "HTTP/1.1 503");
        assert_eq!(status(&member, &refused).await, "queued");
        assert!(!swift.objects().await.iter().any(|name| name.contains(id(&refused))));
    }
    upload(&member, &refused, data.clone()).await.expect(204);
    assert!(download(&member, &refused).await == data);
}

/// Sends one and a half segments of an upload, and waits until the first of them is there.
async fn upload_in_its_second_segment(s: &TestServer, image: &str, data: &[u8], swift: &Swift) -> TcpStream {
    let mut stream = head_of_upload(&s.base, image, data.len(), "").await;
    stream.write_all(&data[..SEGMENT * 3 / 2]).await.unwrap();
    let first = format!("{}-00001", id(image));
    eventually("a segment is there", || async { swift.objects().await.contains(&first).then_some(()) }).await;
    stream
}

/// Swift rejects a token that has expired or was revoked, in the middle of an upload and of a download.
#[tokio::test]
async fn a_rejected_token_is_renewed() {
    let swift = Swift::start().await;
    let s = with_short_heartbeat().options(&swift.options(&swift.server.base())).start().await;
    let member = s.member("p1");
    let data = bytes(4 * SEGMENT);
    let image = image_with(&member, b"abc").await;
    swift.forget_tokens().await;
    assert_eq!(download(&member, &image).await, b"abc");
    swift.forget_tokens().await;
    member.delete(&image).await.expect(204);
    for length in [3, 500_000, data.len()] {
        swift.forget_tokens().await;
        let image = image_with(&member, &data[..length]).await;
        assert!(download(&member, &image).await == data[..length]);
        member.delete(&image).await.expect(204);
    }
    let image = waiting_image(&member).await;
    // The bytes of a segment cannot be sent again: between two segments, the token is renewed.
    let mut stream = head_of_upload(&s.base, &image, data.len(), "").await;
    stream.write_all(&data[..2 * SEGMENT]).await.unwrap();
    segments_are_there(&swift, 1).await;
    // By then, Swift has accepted the token for the second one.
    tokio::time::sleep(Duration::from_millis(500)).await;
    swift.forget_tokens().await;
    stream.write_all(&data[2 * SEGMENT..]).await.unwrap();
    assert_eq!(answered(&mut stream).await, "HTTP/1.1 204");
    assert!(download(&member, &image).await == data);

    let keystone = Keystone::start().await;
    let swift = Swift::start_with(&keystone).await;
    // Tokens are replaced when half of their lifetime is over.
    let soon = ("swift", "swift_store_expire_soon_interval", "100000".to_owned());
    let mut options = swift.options(&swift.server.base());
    options.push(soon);
    let s = with_short_heartbeat().options(&options).start().await;
    let member = s.member("p1");
    let logins = keystone.logins();
    let image = image_with(&member, &data).await;
    assert!(download(&member, &image).await == data);
    // Another login is Swift's own.
    assert!(keystone.logins() <= logins + 2, "{}", keystone.logins() - logins);
}

#[tokio::test]
async fn interrupted_uploads_leave_no_data() {
    let mut swift = Swift::start().await;
    let mut s = with_short_heartbeat().options(&swift.options(&swift.server.base())).start().await;
    let member = s.member("p1");
    for length in [4 * SEGMENT, SEGMENT] {
        let data = bytes(length);
        let is_large = length > SEGMENT;
        let begun = async |s: &TestServer, swift: &Swift, image: &str| {
            let stream = begun_upload(&s.base, image, &data).await;
            match is_large {
                true => segments_are_there(swift, 2).await,
                false => tokio::time::sleep(std::time::Duration::from_millis(200)).await,
            }
            assert!(!swift.objects().await.contains(&id(image).to_owned()));
            stream
        };
        // The client disconnects.
        let image = waiting_image(&member).await;
        drop(begun(&s, &swift, &image).await);
        nothing_is_left(&member, &image, &swift).await;

        // The client sends more data, or less, than announced.
        for announced in [data.len() - 1, data.len() + 1] {
            let image = waiting_image(&member).await;
            let request =
                member.request("PUT", &format!("{image}/file")).header("Content-Type", "application/octet-stream");
            let sent = request.header("x-openstack-image-size", announced).body(chunked(&data));
            member.send(sent).await.expect(400);
            nothing_is_left(&member, &image, &swift).await;
        }

        // The image is deleted.
        let image = waiting_image(&member).await;
        let mut stream = begun(&s, &swift, &image).await;
        member.delete(&image).await.expect(204);
        stream.write_all(&[1; 10]).await.unwrap();
        eventually("nothing is left", || async { swift.objects().await.is_empty().then_some(()) }).await;
    }
    let data = bytes(4 * SEGMENT);

    // Glimpse is killed.
    let image = waiting_image(&member).await;
    let _stream = begun_upload(&s.base, &image, &data).await;
    segments_are_there(&swift, 2).await;
    s.kill();
    s.start_again().await;
    let member = s.member("p1");
    nothing_is_left(&member, &image, &swift).await;

    // Swift is killed, and comes back only after the upload has failed.
    let image = waiting_image(&member).await;
    let mut stream = begun_upload(&s.base, &image, &data).await;
    segments_are_there(&swift, 2).await;
    swift.server.kill().await;
    stream.write_all(&[1; 10]).await.unwrap();
    assert_eq!(answered(&mut stream).await, "HTTP/1.1 503");
    assert_eq!(status(&member, &image).await, "queued");
    upload(&member, &image, "abc").await.expect(503);
    swift.server.start_again().await;
    nothing_is_left(&member, &image, &swift).await;
}

/// At ten points of an upload, which are further apart than what Glimpse does in the meantime.
#[tokio::test]
async fn an_upload_that_is_killed_at_any_point_leaves_no_data() {
    let swift = Swift::start().await;
    let proxy = FaultyProxy::start(&swift.server).await;
    let mut s = with_short_heartbeat().options(&swift.options(&proxy.base)).start().await;
    // Requests: the login, the container, the old segments, the marker, two for each segment, and the manifest.
    let data = bytes(12 * SEGMENT);
    let sent = |s: &TestServer, image: String| {
        let member = s.member("p1");
        let data = data.clone();
        tokio::spawn(async move {
            let request =
                member.request("PUT", &format!("{image}/file")).header("Content-Type", "application/octet-stream");
            let _ = request.body(data).send().await;
        })
    };
    for point in [0, 1, 2, 3, 4, 5, 8, 12, 16, 20] {
        let image = waiting_image(&s.member("p1")).await;
        let before = proxy.passed().len();
        let sending = sent(&s, image.clone());
        eventually("the point is reached", || async { (proxy.passed().len() > before + point).then_some(()) }).await;
        s.kill();
        let _ = sending.await;
        s.start_again().await;
        nothing_is_left(&s.member("p1"), &image, &swift).await;
    }
}

/// An upload that another process has rolled back because it considered this one dead. Its data arrives later, and must not replace
/// the newer data.
#[tokio::test]
async fn a_late_upload_does_not_overwrite_a_newer_one() {
    let swift = Swift::start().await;
    let s = with_short_heartbeat().options(&swift.options(&swift.server.base())).start().await;
    let member = s.member("p1");
    for length in [3, 500_000, 4 * SEGMENT] {
        for newer in [bytes(5), bytes(2 * SEGMENT + 7)] {
            let image = waiting_image(&member).await;
            let mut late = begun_upload(&s.base, &image, &bytes(length)).await;
            eventually("it is begun", || async { (status(&member, &image).await == "saving").then_some(()) }).await;
            if length > 2 * SEGMENT {
                segments_are_there(&swift, 3).await;
            }
            s.database.execute("UPDATE glimpse_uploads SET upload_id = 'taken'").await;
            eventually("it is undone", || async { (status(&member, &image).await == "queued").then_some(()) }).await;
            upload(&member, &image, newer.clone()).await.expect(204);
            late.write_all(b"0123456789").await.unwrap();
            let mut answer = vec![0; 12];
            late.read_exact(&mut answer).await.unwrap();
            let is_refused = [&b"HTTP/1.1 410"[..], b"HTTP/1.1 503"].contains(&answer.as_slice());
            assert!(is_refused, "{}", String::from_utf8_lossy(&answer));
            assert!(download(&member, &image).await == newer);
            assert_eq!(swift.objects().await.len(), if newer.len() > SEGMENT { 4 } else { 1 });
            member.delete(&image).await.expect(204);
            assert_eq!(swift.objects().await, [""; 0]);
        }
    }
}

#[tokio::test]
async fn an_unavailable_or_refusing_store_is_reported() {
    let mut swift = Swift::start().await;
    let option = |name: &'static str, value: &str| ("swift", name, value.to_owned());
    let at = |more: &[(&'static str, &'static str, String)]| {
        let store = with_short_heartbeat().options(&swift.options(&swift.server.base()));
        store.options(more)
    };
    let stranger = at(&[option("swift_store_user", "test:stranger")]).start().await;
    let liar = at(&[option("swift_store_key", "s3cret")]).start().await;
    for s in [&stranger, &liar] {
        for data in [bytes(3), bytes(400_000), bytes(3 * SEGMENT)] {
            let image = waiting_image(&s.member("p1")).await;
            let says =
                "Insufficient permissions on image storage media: Permission to write image storage media denied.";
            upload(&s.member("p1"), &image, data).await.expect(503).says(says);
            assert_eq!(status(&s.member("p1"), &image).await, "queued");
        }
        assert!(!s.log().contains("s3cret") && !s.log().contains("test:"), "{}", s.log());
    }
    let nowhere = at(&[option("swift_store_container", "nowhere")]).start().await;
    for data in [bytes(3), bytes(400_000), bytes(3 * SEGMENT)] {
        let image = waiting_image(&nowhere.member("p1")).await;
        upload(&nowhere.member("p1"), &image, data).await.expect(503);
    }
    assert!(nowhere.log().contains("set swift_store_create_container_on_put"), "{}", nowhere.log());

    // The container is full.
    swift.request("POST", "images", &[("X-Container-Meta-Quota-Bytes", "1500000")]).await;
    let s = at(&[]).start().await;
    let member = s.member("p1");
    for data in [bytes(SEGMENT + 500_000), bytes(3 * SEGMENT)] {
        let image = waiting_image(&member).await;
        upload(&member, &image, data).await.expect(413);
        nothing_is_left(&member, &image, &swift).await;
    }
    swift.request("POST", "images", &[("X-Container-Meta-Quota-Bytes", "")]).await;

    let images = [image_with(&member, b"abc").await, image_with(&member, b"abc").await, waiting_image(&member).await];
    // The object has been removed by another program: it cannot be read, and deleting the image succeeds.
    let gone = image_with(&member, &bytes(3 * SEGMENT)).await;
    swift.request("DELETE", &format!("images/{}-00002", id(&gone)), &[]).await;
    assert_eq!(member.get(&format!("{gone}/file")).await.status, 503);
    member.delete(&gone).await.expect(204);
    let gone = image_with(&member, b"abc").await;
    swift.request("DELETE", &format!("images/{}", id(&gone)), &[]).await;
    member.get(&format!("{gone}/file")).await.expect(503);
    member.delete(&gone).await.expect(204);
    swift.server.kill().await;
    let file = format!("{}/file", images[0]);
    let (read, deleted, sent) =
        tokio::join!(member.get(&file), member.delete(&images[1]), upload(&member, &images[2], "abc"));
    for answer in [read, deleted, sent] {
        answer.expect(503);
    }
    // Whether Swift has removed the object is unknown, so the deletion stays recorded and is resumed.
    assert_eq!(status(&member, &images[1]).await, "pending_delete");
    assert_eq!(status(&member, &images[2]).await, "queued");
    swift.server.start_again().await;
    assert_eq!(download(&member, &images[0]).await, b"abc");
    upload(&member, &images[2], "abc").await.expect(204);
    assert_eq!(swift.objects().await.len(), 3);
    assert!(!s.log().contains("secret") && !s.log().contains("test:glance"));
}

/// Each segment is kept in a file, so that it can be sent again.
#[tokio::test]
async fn a_buffered_segment_is_sent_again() {
    let swift = Swift::start().await;
    let proxy = FaultyProxy::start(&swift.server).await;
    let dir = tempfile::tempdir().unwrap();
    let mut options = swift.options(&proxy.base);
    options.push(("swift", "swift_buffer_on_upload", "true".to_owned()));
    options.push(("swift", "swift_upload_buffer_dir", dir.path().display().to_string()));
    let s = with_short_heartbeat().options(&options).start().await;
    let member = s.member("p1");
    let data = bytes(3 * SEGMENT + 5);
    let image = waiting_image(&member).await;
    let mut stream = upload_in_its_second_segment(&s, &image, &data, &swift).await;
    for fault in [Fault::SlowDown, Fault::Lost, Fault::AnswerLost, Fault::Unauthorized] {
        proxy.fail("PUT", fault);
    }
    stream.write_all(&data[SEGMENT * 3 / 2..]).await.unwrap();
    assert_eq!(answered(&mut stream).await, "HTTP/1.1 204");
    assert_eq!(proxy.faults_left(), 0);
    assert!(download(&member, &image).await == data);
    let image = waiting_image(&member).await;
    upload(&member, &image, chunked(&data)).await.expect(204);
    assert!(download(&member, &image).await == data);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn a_misconfigured_store_is_reported() {
    let store = || {
        TestServer::builder()
            .option("DEFAULT", "enabled_backends", "swift:swift")
            .option("glance_store", "default_backend", "swift")
            .option("swift", "swift_store_user", "p:u")
            .option("swift", "swift_store_key", "s3cret")
    };
    let nowhere = "http://127.0.0.1:1/v3";
    for (options, fault) in [
        (vec![], "swift_store_auth_address, swift_store_user or swift_store_key is missing"),
        (
            vec![("swift_store_auth_address", nowhere), ("swift_store_user", "u")],
            "swift_store_user: project:user is expected",
        ),
        (vec![("swift_store_config_file", "/nowhere")], "swift_store_config_file"),
        (
            vec![("swift_store_auth_address", nowhere), ("swift_buffer_on_upload", "true")],
            "swift_upload_buffer_dir is missing",
        ),
    ] {
        let s = options
            .iter()
            .fold(store(), |store, (name, value)| store.without("swift", name).option("swift", name, value));
        let s = s.start().await;
        assert!(s.log().contains(fault), "{}", s.log());
        let image = waiting_image(&s.member("p1")).await;
        let says = "Error in store configuration. Adding images to store is disabled.";
        upload(&s.member("p1"), &image, "abc").await.expect(410).says(says);
        assert!(!s.log().contains("s3cret"));
    }
    let s = store().start().await;
    for (name, value, says) in [
        ("swift_store_auth_version", "2", "Keystone has no version 2 any more"),
        ("swift_store_large_object_size", "0", "at least 1"),
        ("swift_store_multiple_containers_seed", "33", "32"),
        ("swift_store_endpoint_type", "public", "publicURL"),
    ] {
        s.configure(&format!("[swift]\n{name} = {value}\n"));
        let checked = s.command(&["config", "check"]).output().unwrap();
        let said = String::from_utf8_lossy(&checked.stderr).into_owned() + &String::from_utf8_lossy(&checked.stdout);
        assert!(
            !checked.status.success() && said.contains(&format!("[swift] {name}")) && said.contains(says),
            "{said}"
        );
        assert!(!said.contains("s3cret"), "{said}");
        s.configure(&format!("[swift]\n{name} = \n"));
    }
}

/// Each program reads and removes data written by the other, and writes the same locations and the same objects.
#[tokio::test]
async fn glance_and_glimpse_share_a_container() {
    let keystone = Keystone::start().await;
    let swift = Swift::start_with(&keystone).await;
    let dir = tempfile::tempdir().unwrap();
    let database = Database::create(dir.path()).await;
    Glance::sync(&database).await;
    let options = swift.options(&swift.server.base());
    let theirs: Vec<(&str, &str, &str)> =
        options.iter().map(|(group, name, value)| (*group, *name, value.as_str())).collect();
    let glance = Glance::start_with(&database, &theirs, &[]).await;
    let s = TestServer::builder().options(&options).database(database.clone()).start().await;
    let (ours, theirs) = (s.member("p1"), glance.member("p1"));
    for (data, is_told) in [
        (bytes(3), true),
        (bytes(SEGMENT + 5), true),
        (bytes(3 * SEGMENT), true),
        (bytes(5), false),
        (bytes(2 * SEGMENT + 5), false),
    ] {
        let mut rows = Vec::new();
        for (writer, reader) in [(&ours, &theirs), (&theirs, &ours)] {
            let image = waiting_image(writer).await;
            let body = if is_told { data.clone().into() } else { chunked(&data) };
            upload(writer, &image, body).await.expect(204);
            for client in [&ours, &theirs] {
                assert!(download(client, &image).await == data);
                let shown = client.get(&image).await.expect(200).json();
                assert_eq!(shown["stores"], "swift");
            }
            // Glance ignores the range.
            let ranged = ours.request("GET", &format!("{image}/file")).header("Range", "bytes=1-2");
            assert!(ranged.send().await.unwrap().bytes().await.unwrap() == data[1..3]);
            let sql = format!("SELECT value, meta_data FROM image_locations WHERE image_id = '{}'", id(&image));
            let found = database.pairs(&sql).await.into_iter().map(|(url, told)| {
                let told: Value = serde_json::from_str(&told).unwrap();
                json!([url.replace(id(&image), "ID"), told])
            });
            let mut row: Vec<Value> = found.collect();
            for name in swift.objects().await {
                let (mut head, _) = swift.request("HEAD", &format!("images/{name}"), &[]).await;
                for own in ["date", "last-modified", "x-timestamp", "x-trans-id", "x-openstack-request-id"] {
                    head.as_object_mut().unwrap().shift_remove(own);
                }
                row.push(serde_json::from_str(&json!([name, head]).to_string().replace(id(&image), "ID")).unwrap());
            }
            rows.push(row);
            reader.delete(&image).await.expect(204);
            assert_eq!(swift.objects().await, [""; 0]);
        }
        assert_eq!(rows[0], rows[1]);
    }
    let detail = async |client: Client| client.get("/v2/info/stores/detail").await.expect(200).json()["stores"].clone();
    let (left, right): (Value, Value) = tokio::join!(detail(s.admin()), detail(glance.admin()));
    assert_eq!(left, right);
}

/// Builds a server whose store keeps data in the accounts of projects.
fn multi_tenant(keystone: &Keystone) -> ServerBuilder {
    crate::keystone::with(keystone)
        .option("DEFAULT", "enabled_backends", "swift:swift")
        .option("DEFAULT", "show_image_direct_url", true)
        .option("glance_store", "default_backend", "swift")
        .option("glimpse", "heartbeat", "0.3")
        .option("swift", "swift_store_multi_tenant", true)
        .option("swift", "swift_store_create_container_on_put", true)
        .option("swift", "swift_store_admin_tenants", "one, two")
        .option("swift", "swift_store_large_object_size", 2)
        .option("swift", "swift_store_large_object_chunk_size", 1)
}

/// The account of a token's project.
async fn account_of(keystone: &Keystone, token: &str) -> String {
    format!("AUTH_{}", keystone.described(token).await["project"]["id"].as_str().unwrap())
}

/// Each image has a container of its own, in the account of its project. Its access control lists follow members and visibility.
#[tokio::test]
async fn data_is_in_the_accounts_of_projects_and_readable_for_members() {
    let keystone = Keystone::start().await;
    let swift = Swift::start_with(&keystone).await;
    let s = multi_tenant(&keystone).start().await;
    let (token, others) = (keystone.token("member1", "p1").await, keystone.token("member2", "p2").await);
    let (account, other_account) = (account_of(&keystone, &token).await, account_of(&keystone, &others).await);
    let other_project = other_account.strip_prefix("AUTH_").unwrap();
    let (member, other) = (s.client(Some(&token)), s.client(Some(&others)));
    for length in [400_000, 3 * SEGMENT] {
        let data = bytes(length);
        let image = image_with(&member, &data).await;
        let container = format!("glance_{}", id(&image));
        let lists = async || {
            let (head, _) = swift.request_in(&account, "HEAD", &container, &[]).await;
            (head["x-container-read"].clone(), head["x-container-write"].clone())
        };
        let url = format!("swift+http://{}/v1/{account}/{container}/{}", &swift.server.base()[7..], id(&image));
        assert_eq!(location_of(&s.database, &image).await, url);
        assert_eq!(member.get(&image).await.json()["direct_url"], url);
        assert!(download(&member, &image).await == data);
        assert_eq!(lists().await, (Value::Null, json!("one:*,two:*")));
        other.get(&format!("{image}/file")).await.expect(404);
        member.post(&format!("{image}/members"), &json!({"member": other_project})).await.expect(200);
        assert_eq!(lists().await.0, format!("{other_project}:*"));
        assert!(download(&other, &image).await == data);
        member.delete(&format!("{image}/members/{other_project}")).await.expect(204);
        assert_eq!(lists().await.0, Value::Null);
        let changes = json!([{"op": "replace", "path": "/visibility", "value": "community"}]).to_string();
        let request = member.request("PATCH", &image).body(changes);
        let request = request.header("Content-Type", "application/openstack-images-v2.1-json-patch");
        member.send(request).await.expect(200);
        assert_eq!(lists().await.0, "*:*");
        assert!(download(&other, &image).await == data);
        member.delete(&image).await.expect(204);
        assert_eq!(swift.request_in(&account, "HEAD", &container, &[]).await.0["status"], 404);

        // The client sends less data than announced.
        let image = waiting_image(&member).await;
        let request =
            member.request("PUT", &format!("{image}/file")).header("Content-Type", "application/octet-stream");
        let request = request.header("x-openstack-image-size", data.len() + 1).body(chunked(&data));
        member.send(request).await.expect(400);
        let (listed, containers) = swift.request_in(&account, "GET", "", &[]).await;
        assert_eq!((&listed["status"], containers.as_str()), (&json!(204), ""));
        assert_eq!(status(&member, &image).await, "queued");
    }
    assert!(!s.log().contains(&token) && !s.log().contains(&others));
}

/// Imports run after their request, with the caller's token. Another process does not have it: there, the import fails.
#[tokio::test]
async fn imports_into_the_accounts_of_projects_use_the_callers_token() {
    let keystone = Keystone::start().await;
    let swift = Swift::start_with(&keystone).await;
    let dir = tempfile::tempdir().unwrap();
    let data = bytes(3 * SEGMENT);
    let half = page(&data)[..SEGMENT].to_vec();
    let (port, requests) = web(vec![page(&data), page(&data), [half, b"STALL".to_vec()].concat()]).await;
    let mut s = multi_tenant(&keystone)
        .option("DEFAULT", "enabled_backends", "swift:swift, fs:file")
        .option("DEFAULT", "enabled_import_methods", "[glance-direct,web-download,copy-image]")
        .option("fs", "filesystem_store_datadir", dir.path().join("images").display())
        .option("os_glance_staging_store", "filesystem_store_datadir", staging(dir.path()).display())
        .option("import_filtering_opts", "allowed_hosts", "[127.0.0.1]")
        .option("import_filtering_opts", "allowed_ports", format!("[{port}]"))
        .option("image_import_opts", "max_parallel_stores", 2)
        .start()
        .await;
    let (token, others) = (keystone.token("member1", "p1").await, keystone.token("member2", "p2").await);
    let admin_token = keystone.token("admin", "admin").await;
    let (account, other) = (account_of(&keystone, &token).await, account_of(&keystone, &others).await);
    let member = s.client(Some(&token));
    let succeeds = async |client: &Client, image: &str, body: Value, stores: &[&str]| {
        import(client, image, &body).await.expect(202);
        let task = ended(client, image).await;
        assert_eq!(task["status"], "success", "{task}\n{}", s.log());
        let shown = client.get(image).await.json();
        let mut found: Vec<&str> = shown["stores"].as_str().unwrap().split(',').collect();
        found.sort_unstable();
        assert_eq!(found, stores);
        assert!(download(client, image).await == data);
    };
    let direct = |stores: &[&str]| json!({"method": {"name": "glance-direct"}, "stores": stores});
    let images = [waiting_image(&member).await, waiting_image(&member).await, waiting_image(&member).await];
    let shared = json!({"member": other.strip_prefix("AUTH_").unwrap()});
    member.post(&format!("{}/members", images[0]), &shared).await.expect(200);
    stage(&member, &images[0], data.clone()).await.expect(204);
    succeeds(&member, &images[0], direct(&["swift"]), &["swift"]).await;
    let container = format!("glance_{}", id(&images[0]));
    let (head, _) = swift.request_in(&account, "HEAD", &container, &[]).await;
    assert_eq!(head["x-container-read"], format!("{}:*", shared["member"].as_str().unwrap()));
    assert_eq!(head["x-container-write"], "one:*,two:*");
    assert!(download(&s.client(Some(&others)), &images[0]).await == data);
    stage(&member, &images[1], data.clone()).await.expect(204);
    succeeds(&member, &images[1], direct(&["swift", "fs"]), &["fs", "swift"]).await;
    succeeds(&member, &images[2], web_download(port), &["swift"]).await;
    for image in &images {
        member.delete(image).await.expect(204);
    }
    let admin = s.client(Some(&admin_token));
    for (from, to) in [("swift", "fs"), ("fs", "swift")] {
        let image = waiting_image(&admin).await;
        let sending = admin.request("PUT", &format!("{image}/file")).header("Content-Type", "application/octet-stream");
        admin.send(sending.header("X-Image-Meta-Store", from).body(data.clone())).await.expect(204);
        let copy = json!({"method": {"name": "copy-image"}, "stores": [to]});
        succeeds(&admin, &image, copy, &["fs", "swift"]).await;
        admin.delete(&image).await.expect(204);
    }
    let new = tasks::import_task(port, &json!({"disk_format": "raw", "container_format": "bare"}));
    let task = admin.post("/v2/tasks", &new).await.expect(201).json();
    let task = tasks::ended(&admin, task["self"].as_str().unwrap()).await;
    assert_eq!(task["status"], "success", "{task}\n{}", s.log());
    let image = format!("/v2/images/{}", task["result"]["image_id"].as_str().unwrap());
    assert!(download(&admin, &image).await == data);
    admin.delete(&image).await.expect(204);

    let image = waiting_image(&member).await;
    import(&member, &image, &web_download(port)).await.expect(202);
    eventually("the download is begun", || async { (requests.lock().unwrap().len() > 2).then_some(()) }).await;
    let jobs = s.database.pairs("SELECT input, input FROM glimpse_jobs").await;
    assert!(jobs.len() == 1 && !jobs[0].0.contains(&token), "{jobs:?}");
    s.kill();
    s.start_again().await;
    let member = s.client(Some(&token));
    let task = ended(&member, &image).await;
    let says = "The process that had the caller's token has ended before the data was copied. Import the image again.";
    assert_eq!((&task["status"], &task["message"]), (&json!("failure"), &json!(says)));
    let shown = member.get(&image).await.expect(200).json();
    assert_eq!((&shown["status"], &shown["os_glance_failed_import"]), (&json!("queued"), &json!("swift")));
    crate::import::nothing_is_left(&s, dir.path()).await;
    for account in [&account, &account_of(&keystone, &admin_token).await] {
        assert_eq!(swift.request_in(account, "GET", "", &[]).await.1, "");
    }
    for token in [&token, &others, &admin_token] {
        assert!(!s.log().contains(token));
    }
}

/// A location in the database can name any server. Such a server gets neither the caller's token nor Glimpse's own.
#[tokio::test]
async fn a_server_that_is_not_swifts_gets_no_token() {
    let keystone = Keystone::start().await;
    let swift = Swift::start_with(&keystone).await;
    let stranger = FaultyProxy::start(&swift.server).await;
    let mut s = multi_tenant(&keystone)
        .option("swift", "swift_store_auth_address", keystone.url())
        .option("swift", "swift_store_user", "service:glance")
        .option("swift", "swift_store_key", "secret")
        .start()
        .await;
    let token = keystone.token("member1", "p1").await;
    let member = s.client(Some(&token));
    let (image, other) = (image_with(&member, b"abc").await, image_with(&member, b"abc").await);
    for image in [&image, &other] {
        assert_eq!(download(&member, image).await, b"abc");
        let elsewhere = location_of(&s.database, image).await.replace(&swift.server.base()[7..], &stranger.base[7..]);
        set_location(&s.database, image, &elsewhere).await;
    }
    member.get(&format!("{image}/file")).await.expect(503);
    let ranged = member.request("GET", &format!("{image}/file")).header("Range", "bytes=1-2");
    member.send(ranged).await.expect(503);
    // Its access control lists cannot be changed either.
    member.post(&format!("{image}/members"), &json!({"member": "p9"})).await;
    member.delete(&image).await.expect(204);
    // A deletion is resumed without its caller.
    let sql = format!("UPDATE images SET status = 'pending_delete' WHERE id = '{}'", id(&other));
    assert_eq!(s.database.execute(&sql).await, 1);
    s.kill();
    s.start_again().await;
    let member = s.client(Some(&token));
    eventually("the deletion is resumed", || async { (member.get(&other).await.status == 404).then_some(()) }).await;
    let deleted = format!("SELECT COUNT(*) FROM images WHERE status = 'deleted' AND id = '{}'", id(&other));
    eventually("it is complete", || async { (s.database.count(&deleted).await == 1).then_some(()) }).await;
    assert_eq!(stranger.passed(), [""; 0]);
    assert!(s.log().contains("it gets no token"), "{}", s.log());
}

/// For long transfers the caller delegates roles to Glimpse's user, which can renew its tokens then.
#[tokio::test]
async fn a_trust_renews_the_token_of_a_long_transfer_and_is_deleted_at_its_end() {
    let keystone = Keystone::start().await;
    let swift = Swift::start_with(&keystone).await;
    let proxy = FaultyProxy::start(&swift.server).await;
    let token = keystone.token("member1", "p1").await;
    let account = account_of(&keystone, &token).await;
    let with_login = |login: &[(&str, &str)]| {
        let server = multi_tenant(&keystone)
            .option("swift", "swift_store_auth_address", keystone.url())
            .option("swift", "swift_store_endpoint", format!("{}/v1/{account}", proxy.base))
            .option("swift", "swift_store_retry_get_count", 2);
        login.iter().fold(server, |server, (name, value)| server.option("swift", name, value))
    };
    let user = [("swift_store_user", "service:glance"), ("swift_store_key", "secret")];
    let created = || keystone.requests().iter().filter(|line| line.contains(" POST /v3/OS-TRUST/trusts 201")).count();
    let left = async || {
        let admin = keystone.client(Some(&keystone.token("admin", "admin").await));
        admin.get("/OS-TRUST/trusts").await.expect(200).json()["trusts"].as_array().unwrap().len()
    };
    let no_trust_is_left =
        async || eventually("no trust is left", || async { (left().await == 0).then_some(()) }).await;
    let data = bytes(4 * SEGMENT);

    let s = with_login(&user).start().await;
    let member = s.client(Some(&token));
    // A small object needs none.
    let small = image_with(&member, b"abc").await;
    assert_eq!((created(), left().await), (0, 0), "{:?}", keystone.requests());
    let image = waiting_image(&member).await;
    let (parts, received) = tokio::sync::mpsc::channel(1);
    let body = futures_util::stream::unfold(received, |mut received| async move {
        received.recv().await.map(|part| (Ok::<Vec<u8>, std::io::Error>(part), received))
    });
    let sending = async {
        parts.send(data[..2 * SEGMENT].to_vec()).await.unwrap();
        let first = format!("{}-00001", id(&image));
        let container = format!("glance_{}", id(&image));
        let is_there = async || swift.request_in(&account, "GET", &container, &[]).await.1.contains(&first);
        eventually("a segment is there", || async { is_there().await.then_some(()) }).await;
        // The caller's token has expired, and so has the one that is used.
        keystone.revoke(&token).await;
        proxy.fail("HEAD", Fault::Unauthorized);
        // The access control list cannot be set, because that needs the caller's token.
        proxy.fail("POST", Fault::Denied);
        parts.send(data[2 * SEGMENT..].to_vec()).await.unwrap();
        drop(parts);
    };
    let (uploaded, ()) = tokio::join!(upload(&member, &image, reqwest::Body::wrap_stream(body)), sending);
    uploaded.expect(204);
    assert_eq!((proxy.faults_left(), created()), (0, 1));
    assert!(s.log().contains("cannot set the readers"), "{}", s.log());
    no_trust_is_left().await;
    let token = keystone.token("member1", "p1").await;
    let member = s.client(Some(&token));
    for fault in [Fault::Unauthorized, Fault::Cut(1_500_000), Fault::Unauthorized] {
        proxy.fail("GET", fault);
    }
    assert!(download(&member, &image).await == data);
    assert_eq!((proxy.faults_left(), created()), (0, 2));
    no_trust_is_left().await;
    // The client disconnects.
    let interrupted = waiting_image(&member).await;
    let request = member.request("PUT", &format!("{interrupted}/file"));
    let request = request.header("Content-Type", "application/octet-stream");
    let request = request.header("x-openstack-image-size", data.len() + 1).body(chunked(&data));
    member.send(request).await.expect(400);
    assert_eq!(created(), 3);
    no_trust_is_left().await;
    for image in [small, image, interrupted] {
        member.delete(&image).await.expect(204);
    }
    assert_eq!(swift.request_in(&account, "GET", "", &[]).await.1, "");

    // Without a trust, the caller's token is used, and an upload fails when it is rejected.
    let service = keystone.token("glance", "service").await;
    let issued = keystone.application_credential(&service, None).await;
    let credential = keystone.described(&issued).await["application_credential"]["id"].as_str().unwrap().to_owned();
    let credential = [
        ("swift_store_application_credential_id", credential.as_str()),
        ("swift_store_application_credential_secret", "s3cret"),
    ];
    let without = [user[0], user[1], ("swift_store_use_trusts", "false")];
    let of_application = keystone.application_credential(&token, None).await;
    for (login, token) in [(&credential[..], &token), (&without, &token), (&user, &of_application)] {
        let s = with_login(login).start().await;
        let member = s.client(Some(token));
        let image = waiting_image(&member).await;
        for _ in 0..2 {
            proxy.fail("HEAD", Fault::Unauthorized);
        }
        upload(&member, &image, data.clone()).await.expect(503);
        upload(&member, &image, data.clone()).await.expect(204);
        assert!(download(&member, &image).await == data);
        member.delete(&image).await.expect(204);
        let log = s.log();
        let is_refused = log.contains("cannot create a trust; the caller's token is used");
        assert_eq!((created(), is_refused), (3, *token == of_application), "{log}");
        assert!(!log.contains(token) && !log.contains("s3cret"));
    }
}
