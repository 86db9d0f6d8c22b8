//! Images in a bucket of a real S3 server, and failures of the server, the network and Glimpse.

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::{
    data::{
        answered, begun_upload, bytes, chunked, download, head_of_upload, id, image_with, status, upload,
        waiting_image, with_short_heartbeat,
    },
    support::{Client, Database, Fault, FaultyProxy, Glance, S3, TestServer, eventually},
};

const MIB: usize = 1 << 20;

/// Waits until the image is queued again and no data is left on the S3 server; then checks that an upload succeeds.
async fn nothing_is_left(client: &Client, image: &str, s3: &S3) {
    eventually("the image is queued again, and nothing is left", || async {
        let is_empty = s3.objects().await.is_empty() && s3.parts().await.is_empty();
        (status(client, image).await == "queued" && is_empty).then_some(())
    })
    .await;
    upload(client, image, "whole").await.expect(204);
    assert_eq!(download(client, image).await, b"whole");
    client.delete(image).await.expect(204);
}

#[tokio::test]
async fn uploaded_data_is_downloaded_unchanged_and_removed() {
    let s3 = S3::start().await;
    let s = with_short_heartbeat()
        .options(&s3.options(&s3.base()))
        .option("DEFAULT", "show_image_direct_url", true)
        .option("DEFAULT", "show_multiple_locations", true)
        .environment("RUST_LOG", "trace")
        .start()
        .await;
    let member = s.member("p1");
    let data = bytes(12 * MIB + 345);
    let mut images = Vec::new();
    for length in [0, 3, 5 * MIB, 10 * MIB, data.len()] {
        for is_told in [true, false] {
            let image = waiting_image(&member).await;
            let body = if is_told { data[..length].to_vec().into() } else { chunked(&data[..length]) };
            upload(&member, &image, body).await.expect(204);
            let shown = member.get(&image).await.expect(200).json();
            assert_eq!((&shown["status"], &shown["size"]), (&json!("active"), &json!(length)));
            let url = format!("s3://{}/images/{}", s3.base().trim_start_matches("http://"), id(&image));
            assert_eq!(shown["direct_url"], url);
            assert_eq!(shown["locations"], json!([{"url": url, "metadata": {"store": "s3"}}]));
            if length > 0 {
                assert!(download(&member, &image).await == data[..length], "{length}, {is_told}");
            }
            images.push(image);
        }
    }
    assert_eq!(s3.objects().await.len(), images.len());
    // Two images each of two parts and of three parts; an object of exactly one part's size is not a multipart upload.
    assert_eq!(s3.parts().await.len(), 2 * (1 + 2 + 3));
    let last = images.last().unwrap();
    for (range, part) in [
        ("bytes=0-0", 0..1),
        ("bytes=5242870-5242890", 5_242_870..5_242_891),
        ("bytes=-100", data.len() - 100..data.len()),
    ] {
        let answer = member.request("GET", &format!("{last}/file")).header("Range", range).send().await.unwrap();
        assert_eq!(answer.status(), 206);
        assert!(answer.bytes().await.unwrap() == data[part], "{range}");
    }
    let detail = s.admin().get("/v2/info/stores/detail").await.expect(200).json();
    let properties = json!({
        "s3_store_large_object_size": 5 * MIB, "s3_store_large_object_chunk_size": 5 * MIB, "s3_store_thread_pools": 3,
    });
    assert_eq!(detail["stores"][0]["properties"], properties);
    for image in &images {
        member.delete(image).await.expect(204);
    }
    assert_eq!((s3.objects().await, s3.parts().await), (vec![], vec![]));
    // The log does not contain secrets, even at the most verbose level.
    let log = s.log();
    assert!(!log.contains("test:glance") && !log.contains("secret"), "a key is in the log");
}

#[tokio::test]
async fn failed_s3_requests_are_retried() {
    let s3 = S3::start().await;
    let proxy = FaultyProxy::start(&s3).await;
    let s = with_short_heartbeat().options(&s3.options(&proxy.base)).start().await;
    let member = s.member("p1");
    let data = bytes(11 * MIB);
    for (method, fault) in [
        ("POST", Fault::SlowDown),
        ("POST", Fault::Lost),
        // The upload is created twice, and completed twice.
        ("POST", Fault::AnswerLost),
        ("PUT", Fault::SlowDown),
        ("PUT", Fault::Lost),
        ("PUT", Fault::AnswerLost),
    ] {
        proxy.fail(method, fault);
    }
    let image = image_with(&member, &data).await;
    assert_eq!(proxy.faults_left(), 0, "{:?}", proxy.passed());
    assert_eq!(s3.parts().await.len(), 3);
    let small = waiting_image(&member).await;
    proxy.fail("PUT", Fault::AnswerLost);
    upload(&member, &small, "small").await.expect(204);
    assert_eq!(download(&member, &small).await, b"small");

    // The response to the completion is lost, so the retry finds no upload any more.
    let joined = waiting_image(&member).await;
    let mut upload_of_joined = begun_upload(&s.base, &joined, &data[..data.len() - 10]).await;
    eventually("its parts are sent", || async { (s3.parts().await.len() >= 3 + 3).then_some(()) }).await;
    proxy.fail("POST", Fault::AnswerLost);
    upload_of_joined.write_all(&data[data.len() - 10..]).await.unwrap();
    eventually("it is active", || async { (status(&member, &joined).await == "active").then_some(()) }).await;
    assert!(download(&member, &joined).await == data);

    let before = proxy.passed().len();
    for fault in [Fault::SlowDown, Fault::Cut(3_000_000), Fault::Lost, Fault::Cut(1_000_000)] {
        proxy.fail("GET", fault);
    }
    assert!(download(&member, &image).await == data);
    let asked = proxy.passed().split_off(before);
    let end = data.len() - 1;
    let (first, second) = (format!("GET bytes=3000000-{end}"), format!("GET bytes=4000000-{end}"));
    assert_eq!(asked, ["GET", "GET", &first, &first, &second]);

    // A failure that persists is reported.
    for _ in 0..5 {
        proxy.fail("GET", Fault::SlowDown);
    }
    member.get(&format!("{image}/file")).await.expect(503);
    for _ in 0..5 {
        proxy.fail("PUT", Fault::Lost);
    }
    let refused = waiting_image(&member).await;
    upload(&member, &refused, "refused").await.expect(503);
    assert_eq!(status(&member, &refused).await, "queued");
    upload(&member, &refused, "taken").await.expect(204);
}

/// The memory for the parts of all uploads is limited, and an upload that waits for memory can be aborted.
#[tokio::test]
async fn an_upload_aborted_while_it_waits_for_memory_is_rolled_back_at_once() {
    let s3 = S3::start().await;
    let s = with_short_heartbeat().options(&s3.options(&s3.base())).start().await;
    let member = s.member("p1");
    let begun = async || {
        let image = waiting_image(&member).await;
        let stream = head_of_upload(&s.base, &image, 100_000_000, "").await;
        eventually("it is begun", || async { (status(&member, &image).await == "saving").then_some(()) }).await;
        (image, stream)
    };
    let mut taking = Vec::new();
    // 112 MiB are available for parts, and a part has five MiB here.
    for _ in 0..112 / 5 {
        taking.push(begun().await);
    }
    let (image, stream) = begun().await;
    drop(stream);
    eventually("it waits for data again", || async { (status(&member, &image).await == "queued").then_some(()) }).await;
    for (image, _stream) in &taking {
        assert_eq!(status(&member, image).await, "saving");
    }
    nothing_is_left(&member, &image, &s3).await;
}

/// The parts of slow clients occupy all memory.
#[tokio::test]
async fn slow_uploads_do_not_delay_others() {
    let s3 = S3::start().await;
    let s = with_short_heartbeat().options(&s3.options(&s3.base())).start().await;
    let member = s.member("p1");
    let mut slow = Vec::new();
    // 112 MiB are available for parts, and a part has five MiB here.
    for _ in 0..=112 / 5 {
        let image = waiting_image(&member).await;
        let mut stream = head_of_upload(&s.base, &image, 100_000_000, "").await;
        stream.write_all(b"slow").await.unwrap();
        slow.push(stream);
        eventually("it is begun", || async { (status(&member, &image).await == "saving").then_some(()) }).await;
    }
    let data = bytes(12 * MIB + 345);
    for length in [3, data.len()] {
        let image = waiting_image(&member).await;
        upload(&member, &image, chunked(&data[..length])).await.expect(204);
        assert!(download(&member, &image).await == data[..length]);
    }
}

/// The server accepts signatures for its own region only.
#[tokio::test]
async fn the_region_that_the_server_names_is_used() {
    let s3 = S3::start().await;
    let s = with_short_heartbeat()
        .options(&s3.options(&s3.base()))
        .option("s3", "s3_store_region_name", "eu-west-1")
        .start()
        .await;
    let member = s.member("p1");
    let image = waiting_image(&member).await;
    upload(&member, &image, "abc").await.expect(204);
    assert_eq!(download(&member, &image).await, b"abc");
    assert_eq!(s.log().matches("names another region").count(), 1, "{}", s.log());
}

/// Another program replaces the keys while Glimpse runs.
#[tokio::test]
async fn the_keys_of_a_shared_credentials_file_are_used_and_read_again() {
    let s3 = S3::start().await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("credentials");
    let write_secret = |secret: &str| {
        let text = format!("[images]\naws_access_key_id = test:glance\naws_secret_access_key = {secret}\n");
        std::fs::write(&file, text).unwrap();
    };
    write_secret("old");
    let s = with_short_heartbeat()
        .options(&s3.options(&s3.base()))
        .without("s3", "s3_store_access_key")
        .without("s3", "s3_store_secret_key")
        .environment("AWS_SHARED_CREDENTIALS_FILE", file.to_str().unwrap())
        .environment("AWS_PROFILE", "images")
        .start()
        .await;
    let member = s.member("p1");
    let image = waiting_image(&member).await;
    upload(&member, &image, "abc").await.expect(503);
    write_secret("secret");
    upload(&member, &image, "abc").await.expect(204);
    assert_eq!(download(&member, &image).await, b"abc");
}

#[tokio::test]
async fn a_missing_profile_of_a_shared_credentials_file_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("credentials");
    std::fs::write(&file, "[default]\naws_access_key_id = s3cret\n").unwrap();
    let s = TestServer::builder()
        .option("DEFAULT", "enabled_backends", "s3:s3")
        .option("glance_store", "default_backend", "s3")
        .option("s3", "s3_store_host", "127.0.0.1")
        .option("s3", "s3_store_bucket", "images")
        .environment("AWS_SHARED_CREDENTIALS_FILE", file.to_str().unwrap())
        .start()
        .await;
    assert!(s.log().contains("[default] has no aws_secret_access_key"), "{}", s.log());
    assert!(!s.log().contains("s3cret"), "{}", s.log());
}

/// The server compares the checksums of what it receives.
#[tokio::test]
async fn checksums_are_sent_and_verified_as_configured() {
    let s3 = S3::start().await;
    let proxy = FaultyProxy::start(&s3).await;
    let s = with_short_heartbeat()
        .options(&s3.options(&proxy.base))
        .option("s3", "s3_store_enable_data_integrity_protection", true)
        .option("s3", "s3_store_request_checksum_calculation", "when_supported")
        .option("s3", "s3_store_response_checksum_validation", "when_supported")
        .start()
        .await;
    let member = s.member("p1");
    let (whole, parts) = (waiting_image(&member).await, waiting_image(&member).await);
    upload(&member, &whole, "123456789").await.expect(204);
    upload(&member, &parts, bytes(6 * MIB)).await.expect(204);
    let sent = proxy.passed().into_iter().filter(|request| request.ends_with("+crc32")).collect::<Vec<_>>();
    assert_eq!(sent, ["PUT  +crc32", "PUT partNumber +crc32", "PUT partNumber +crc32"]);
    assert!(download(&member, &parts).await == bytes(6 * MIB));
    proxy.fail("GET", Fault::Checksum(0xcbf4_3926));
    assert_eq!(download(&member, &whole).await, b"123456789");
    proxy.fail("GET", Fault::Checksum(1));
    let read = async { member.request("GET", &format!("{whole}/file")).send().await?.bytes().await };
    assert!(read.await.is_err());
    assert!(s.log().contains("does not have its checksum"), "{}", s.log());
}

#[tokio::test]
async fn interrupted_uploads_leave_no_data() {
    let mut s3 = S3::start().await;
    let mut s = with_short_heartbeat().options(&s3.options(&s3.base())).start().await;
    let member = s.member("p1");
    let data = bytes(12 * MIB);
    let parts_are_there = async |s3: &S3| {
        eventually("parts are there", || async { (s3.parts().await.len() >= 3).then_some(()) }).await;
    };

    // The client disconnects.
    let image = waiting_image(&member).await;
    let stream = begun_upload(&s.base, &image, &data).await;
    parts_are_there(&s3).await;
    assert_eq!(s3.objects().await, [""; 0]);
    drop(stream);
    nothing_is_left(&member, &image, &s3).await;

    // The client sends more data than announced.
    let image = waiting_image(&member).await;
    let request = member.request("PUT", &format!("{image}/file")).header("Content-Type", "application/octet-stream");
    let sent = request.header("x-openstack-image-size", data.len() - 1).body(chunked(&data));
    member.send(sent).await.expect(400);
    nothing_is_left(&member, &image, &s3).await;

    // Glimpse is killed.
    let image = waiting_image(&member).await;
    let _stream = begun_upload(&s.base, &image, &data).await;
    parts_are_there(&s3).await;
    s.kill();
    s.start_again().await;
    let member = s.member("p1");
    nothing_is_left(&member, &image, &s3).await;

    // The image is deleted.
    let image = waiting_image(&member).await;
    let mut stream = begun_upload(&s.base, &image, &data).await;
    parts_are_there(&s3).await;
    member.delete(&image).await.expect(204);
    stream.write_all(&[1; 10]).await.unwrap();
    eventually("nothing is left", || async {
        (s3.objects().await.is_empty() && s3.parts().await.is_empty()).then_some(())
    })
    .await;

    // The S3 server is killed, and comes back only after the upload has been abandoned.
    let image = waiting_image(&member).await;
    let mut stream = begun_upload(&s.base, &image, &data).await;
    parts_are_there(&s3).await;
    s3.kill().await;
    stream.write_all(&[1; 10]).await.unwrap();
    eventually("it is given up", || async { s.log().contains("cannot abort a multipart upload now").then_some(()) })
        .await;
    s3.start_again().await;
    nothing_is_left(&member, &image, &s3).await;
}

/// Three images have parts on the S3 server when it goes away. Their uploads fail. Until it is back, one image stays queued, one
/// is deleted, and one is uploaded to another store. Glimpse is killed meanwhile.
#[tokio::test]
async fn an_upload_that_fails_because_its_store_is_unreachable_can_be_retried_immediately() {
    let mut s3 = S3::start().await;
    let dir = tempfile::tempdir().unwrap();
    let builder = with_short_heartbeat().options(&s3.options(&s3.base())).without("DEFAULT", "enabled_backends");
    let mut s = builder
        .option("DEFAULT", "enabled_backends", "s3:s3, fs:file")
        .option("fs", "filesystem_store_datadir", dir.path().display())
        .start()
        .await;
    let member = s.member("p1");
    let data = bytes(6 * MIB);
    let left = async |s: &TestServer, count| {
        let sql = "SELECT COUNT(*) FROM glimpse_leftovers";
        eventually("that many are left", || async { (s.database.count(sql).await == count).then_some(()) }).await;
    };
    let mut uploads = Vec::new();
    for _ in 0..3 {
        let image = waiting_image(&member).await;
        let stream = begun_upload(&s.base, &image, &data).await;
        uploads.push((image, stream));
    }
    eventually("parts are there", || async { (s3.parts().await.len() >= 2 * 3).then_some(()) }).await;
    s3.kill().await;
    for (_, stream) in &mut uploads {
        stream.write_all(&[1; 10]).await.unwrap();
    }
    for (image, stream) in &mut uploads {
        assert_eq!(answered(stream).await, "HTTP/1.1 503");
        assert_eq!(status(&member, image).await, "queued");
    }
    left(&s, 3).await;
    let [queued, deleted, elsewhere] = [0, 1, 2].map(|n| uploads[n].0.clone());
    // The S3 server is still away, and the image still accepts uploads.
    upload(&member, &queued, "abc").await.expect(503);
    assert_eq!(status(&member, &queued).await, "queued");
    member.delete(&deleted).await.expect(204);
    let request = member.request("PUT", &format!("{elsewhere}/file")).header("X-Image-Meta-Store", "fs");
    member.send(request.header("Content-Type", "application/octet-stream").body("abc")).await.expect(204);
    s.kill();
    s3.start_again().await;
    assert!(s3.parts().await.len() >= 2 * 3);
    s.start_again().await;
    let member = s.member("p1");
    // The leftovers of an image that now has its data in another store are removed with the image.
    left(&s, 1).await;
    assert_eq!(download(&member, &elsewhere).await, b"abc");
    member.delete(&elsewhere).await.expect(204);
    left(&s, 0).await;
    nothing_is_left(&member, &queued, &s3).await;
}

/// The parts of the failed upload are removed, and the data of the later one is kept.
#[tokio::test]
async fn a_cleanup_keeps_the_data_that_a_later_upload_has_stored() {
    let s3 = S3::start().await;
    let s = with_short_heartbeat().options(&s3.options(&s3.base())).start().await;
    let member = s.member("p1");
    let image = image_with(&member, b"abc").await;
    let columns = "image_id, upload_id, process_id, store";
    let left = format!("INSERT INTO glimpse_leftovers ({columns}) VALUES ('{}', 'u', 'dead', 's3')", id(&image));
    s.database.execute(&left).await;
    let sql = "SELECT COUNT(*) FROM glimpse_leftovers";
    eventually("it is removed", || async { (s.database.count(sql).await == 0).then_some(()) }).await;
    assert_eq!(download(&member, &image).await, b"abc");
}

/// An upload that arrives while a cleanup owns its image waits for the cleanup.
#[tokio::test]
async fn an_upload_waits_for_the_cleanup_of_its_image() {
    let s3 = S3::start().await;
    let proxy = FaultyProxy::start(&s3).await;
    let s = with_short_heartbeat().options(&s3.options(&proxy.base)).start().await;
    let member = s.member("p1");
    let image = waiting_image(&member).await;
    proxy.hold(Some("DELETE"));
    let columns = "image_id, upload_id, process_id, store";
    let left = format!("INSERT INTO glimpse_leftovers ({columns}) VALUES ('{}', 'u', 'dead', 's3')", id(&image));
    s.database.execute(&left).await;
    eventually("it is cleaned up", || async { (status(&member, &image).await == "saving").then_some(()) }).await;
    let (client, path) = (member.clone(), image.clone());
    let uploading = tokio::spawn(async move { upload(&client, &path, "abc").await });
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    assert!(!uploading.is_finished());
    proxy.hold(None);
    uploading.await.unwrap().expect(204);
    assert_eq!(download(&member, &image).await, b"abc");
}

/// An upload that another process has rolled back because it considered this one dead. Its data arrives later, and must
/// not replace the newer data.
#[tokio::test]
async fn a_late_upload_does_not_overwrite_a_newer_one() {
    let s3 = S3::start().await;
    let s = with_short_heartbeat().options(&s3.options(&s3.base())).start().await;
    let member = s.member("p1");
    for length in [3, 6 * MIB] {
        let image = waiting_image(&member).await;
        let mut late = begun_upload(&s.base, &image, &bytes(length)).await;
        eventually("it is begun", || async { (status(&member, &image).await == "saving").then_some(()) }).await;
        // Swift keeps a part that arrives while its upload is being aborted.
        let parts = if length > 5 * MIB { 2 } else { 0 };
        eventually("its parts are there", || async { (s3.parts().await.len() == parts).then_some(()) }).await;
        s.database.execute("UPDATE glimpse_uploads SET upload_id = 'taken'").await;
        eventually("it is undone", || async { (status(&member, &image).await == "queued").then_some(()) }).await;
        upload(&member, &image, "later").await.expect(204);
        late.write_all(b"0123456789").await.unwrap();
        let mut answer = vec![0; 12];
        late.read_exact(&mut answer).await.unwrap();
        // The upload's parts may have been removed before the last one is sent; the S3 server then refuses it.
        let is_refused = [&b"HTTP/1.1 410"[..], b"HTTP/1.1 503"].contains(&answer.as_slice());
        assert!(is_refused, "{}", String::from_utf8_lossy(&answer));
        assert_eq!(download(&member, &image).await, b"later");
        assert_eq!((s3.objects().await.len(), s3.parts().await), (1, vec![]));
        member.delete(&image).await.expect(204);
    }
}

#[tokio::test]
async fn an_unavailable_or_refusing_store_is_reported() {
    let mut s3 = S3::start().await;
    let key = |name: &'static str, key: &str| ("s3", name, key.to_owned());
    let at = |more: &[(&'static str, &'static str, String)]| {
        let store = with_short_heartbeat().options(&s3.options(&s3.base()));
        store.options(more)
    };
    let stranger = at(&[key("s3_store_access_key", "test:stranger")]).start().await;
    let liar = at(&[key("s3_store_secret_key", "s3cret")]).start().await;
    for s in [&stranger, &liar] {
        let image = waiting_image(&s.member("p1")).await;
        let says = "Insufficient permissions on image storage media: Permission to write image storage media denied.";
        upload(&s.member("p1"), &image, "abc").await.expect(503).says(says);
        assert_eq!(status(&s.member("p1"), &image).await, "queued");
        assert!(s.log().contains(" 403 ") && !s.log().contains("s3cret") && !s.log().contains("test:"), "{}", s.log());
    }

    let nowhere = at(&[key("s3_store_bucket", "nowhere")]).start().await;
    let image = waiting_image(&nowhere.member("p1")).await;
    upload(&nowhere.member("p1"), &image, "abc").await.expect(503);
    assert!(nowhere.log().contains("set s3_store_create_bucket_on_put"), "{}", nowhere.log());
    let maker = at(&[key("s3_store_bucket", "nowhere"), key("s3_store_create_bucket_on_put", "true")]).start().await;
    for data in [bytes(3), bytes(6 * MIB)] {
        let image = image_with(&maker.member("p1"), &data).await;
        assert!(download(&maker.member("p1"), &image).await == data);
    }

    let s = at(&[]).start().await;
    let member = s.member("p1");
    let images = [image_with(&member, b"abc").await, image_with(&member, b"abc").await, waiting_image(&member).await];
    // The object has been removed by another program: it cannot be read, and deleting the image succeeds.
    let gone = image_with(&member, b"abc").await;
    s.database
        .execute(&format!(
            "UPDATE image_locations SET value = 's3://u:s3cret@h/images/gone' WHERE image_id = '{}'",
            id(&gone)
        ))
        .await;
    member.get(&format!("{gone}/file")).await.expect(503);
    member.delete(&gone).await.expect(204);
    // URLs with access keys, as old versions of Glance wrote them, work as well.
    s.database
        .execute(&format!(
            "UPDATE image_locations SET value = 's3://u:s3cret@h/images/{0}' WHERE image_id = '{0}'",
            id(&images[0])
        ))
        .await;
    assert_eq!(download(&member, &images[0]).await, b"abc");
    s3.kill().await;
    let file = format!("{}/file", images[0]);
    let (read, deleted, sent) =
        tokio::join!(member.get(&file), member.delete(&images[1]), upload(&member, &images[2], "abc"));
    for answer in [read, deleted, sent] {
        answer.expect(503);
    }
    // Whether the S3 server has removed the object is unknown, so the deletion stays recorded and is resumed.
    assert_eq!(status(&member, &images[1]).await, "pending_delete");
    // Whether the S3 server has this image's data is unknown as well. That is recorded, and the client can retry.
    assert_eq!(status(&member, &images[2]).await, "queued");
    s3.start_again().await;
    assert_eq!(download(&member, &images[0]).await, b"abc");
    upload(&member, &images[2], "abc").await.expect(204);
    assert!(!s.log().contains("s3cret") && !s.log().contains("test:glance"));

    // The bucket is part of the host name, which only the proxy can resolve; and the store is configured with the
    // options for a single store.
    let proxy = FaultyProxy::start(&s3).await;
    let mut single = TestServer::builder().environment("http_proxy", &proxy.base);
    for (group, name, value) in s3.options("http://s3.test") {
        if group == "s3" {
            single = single.option("glance_store", name, value);
        }
    }
    let single = single
        .option("glance_store", "stores", "file,s3")
        .option("glance_store", "default_store", "s3")
        .option("glance_store", "s3_store_bucket_url_format", "virtual")
        .start()
        .await;
    let image = image_with(&single.member("p1"), &bytes(6 * MIB)).await;
    assert!(download(&single.member("p1"), &image).await == bytes(6 * MIB));
    assert!(s3.objects().await.contains(&id(&image).to_owned()));
    assert!(!proxy.passed().is_empty());
}

/// Deletions that failed while the S3 server was down are resumed when it is back, several concurrently.
#[tokio::test]
async fn deletions_are_resumed_once_the_s3_server_is_back() {
    let mut s3 = S3::start().await;
    let proxy = FaultyProxy::start(&s3).await;
    let builder = with_short_heartbeat().without("glimpse", "heartbeat").option("glimpse", "heartbeat", "0.1");
    let mut s = builder.options(&s3.options(&proxy.base)).start().await;
    let member = s.member("p1");
    let mut images = Vec::new();
    for _ in 0..10 {
        images.push(image_with(&member, b"abc").await);
    }
    s3.kill().await;
    member.delete(&images[0]).await.expect(503);
    assert_eq!(status(&member, &images[0]).await, "pending_delete");
    // While the server is down, the deletions are retried in vain.
    s.kill();
    s.database.execute("UPDATE images SET status = 'pending_delete'").await;
    s.start_again().await;
    let tried = || s.log().matches("a deletion was interrupted, and cannot be resumed now").count();
    eventually("all are tried", || async { (tried() == 10).then_some(()) }).await;
    s.kill();
    s3.start_again().await;
    assert_eq!(s3.objects().await.len(), 10);
    let before = proxy.passed().len();
    proxy.hold(Some("HEAD"));
    s.start_again().await;
    eventually("several begin", || async { (proxy.passed().len() == before + 8).then_some(()) }).await;
    proxy.hold(None);
    let member = s.member("p1");
    for image in &images {
        eventually("it is gone", || async { (member.get(image).await.status == 404).then_some(()) }).await;
    }
    assert_eq!(s3.objects().await, [""; 0]);
}

/// The S3 server refuses a removal late. If another process has resumed the removal meanwhile, the location is not
/// restored.
#[tokio::test]
async fn a_location_whose_removal_another_process_resumed_is_not_restored() {
    let s3 = S3::start().await;
    let proxy = FaultyProxy::start(&s3).await;
    let dir = tempfile::tempdir().unwrap();
    let mut options = s3.options(&proxy.base);
    options.push(("DEFAULT", "enabled_backends", "s3:s3, fs:file".to_owned()));
    let s = with_short_heartbeat()
        .options(&options)
        .option("fs", "filesystem_store_datadir", dir.path().display())
        .start()
        .await;
    let member = s.member("p1");
    for goes_on in [false, true] {
        let image = image_with(&member, b"abc").await;
        let copy = dir.path().join(id(&image));
        std::fs::write(&copy, "abc").unwrap();
        let columns = "image_id, value, meta_data, status, created_at, deleted";
        let values = format!(
            "'{}', 'file://{}', '{{\"store\": \"fs\"}}', 'active', '2026-01-01 00:00:00', '0'",
            id(&image),
            copy.display()
        );
        s.database.execute(&format!("INSERT INTO image_locations ({columns}) VALUES ({values})")).await;
        proxy.hold(Some("DELETE"));
        proxy.fail("DELETE", Fault::Denied);
        let removals = || proxy.passed().iter().filter(|passed| passed.starts_with("DELETE")).count();
        let before = removals();
        let (admin, path) = (s.admin(), format!("/v2/stores/s3/{}", id(&image)));
        let removing = tokio::spawn(async move { admin.delete(&path).await });
        eventually("the server is asked", || async { (removals() > before).then_some(()) }).await;
        if goes_on {
            let update =
                "UPDATE image_locations SET updated_at = '2026-01-02 00:00:00.000000' WHERE status = 'pending_delete'";
            assert_eq!(s.database.execute(update).await, 1);
        }
        proxy.hold(None);
        removing.await.unwrap().expect(403);
        let stores = if goes_on { "fs" } else { "s3,fs" };
        assert_eq!(member.get(&image).await.expect(200).json()["stores"], stores);
        assert_eq!(download(&member, &image).await, b"abc");
    }
}

/// Releases of Glance before 2026 wrote a store's keys into the locations' URLs.
#[tokio::test]
async fn the_keys_in_old_locations_are_not_shown_and_do_not_hide_the_data() {
    let s3 = S3::start().await;
    let builder = with_short_heartbeat()
        .options(&s3.options(&s3.base()))
        .option("DEFAULT", "show_image_direct_url", true)
        .option("DEFAULT", "show_multiple_locations", true)
        .option("DEFAULT", "enabled_backends", "other:s3, s3:s3")
        .option("other", "s3_store_host", "http://127.0.0.1:1")
        .option("other", "s3_store_access_key", "a")
        .option("other", "s3_store_secret_key", "b")
        .option("other", "s3_store_bucket", "images");
    let s = builder.start().await;
    let (member, host) = (s.member("p1"), s3.base().replace("http://", ""));
    for (scheme, keys) in [("s3", "KEY:s3cret"), ("s3", "KEY:s3/c+r%2Fet"), ("s3+http", "KEY:s3/c@ret")] {
        let image = image_with(&member, b"abc").await;
        let (old, shown) = [format!("{keys}@"), String::new()]
            .map(|keys| format!("{scheme}://{keys}{host}/images/{}", id(&image)))
            .into();
        let update =
            format!("UPDATE image_locations SET value = '{old}', meta_data = '{{}}' WHERE image_id = '{}'", id(&image));
        assert_eq!(s.database.execute(&update).await, 1);
        let view = member.get(&image).await.expect(200).json();
        assert_eq!((&view["direct_url"], &view["locations"][0]["url"]), (&json!(shown), &json!(shown)));
        assert_eq!(view["stores"], "s3");
        assert_eq!(download(&member, &image).await, b"abc");
        // A client that changes the metadata sends the URL that it was shown.
        let locations = json!([{"url": shown, "metadata": {"a": "b"}}]);
        let changes = json!([{"op": "replace", "path": "/locations", "value": locations}]);
        let request = member.request("PATCH", &image).body(changes.to_string());
        let request = request.header("Content-Type", "application/openstack-images-v2.1-json-patch");
        let view = member.send(request).await.expect(200).json();
        assert_eq!(view["locations"], json!([{"url": shown, "metadata": {"a": "b", "store": "s3"}}]));
        assert_eq!(download(&member, &image).await, b"abc");
        let live =
            format!("SELECT value, value FROM image_locations WHERE status = 'active' AND image_id = '{}'", id(&image));
        assert_eq!(s.database.pairs(&live).await, [(old.clone(), old)]);
        member.delete(&image).await.expect(204);
        assert_eq!(s3.objects().await, [""; 0]);
    }
    assert!(!s.log().contains("ret@"), "{}", s.log());
}

#[tokio::test]
async fn a_misconfigured_store_is_reported() {
    let store = || {
        TestServer::builder()
            .option("DEFAULT", "enabled_backends", "s3:s3")
            .option("glance_store", "default_backend", "s3")
            .option("s3", "s3_store_access_key", "test:glance")
            .option("s3", "s3_store_secret_key", "s3cret")
            .option("s3", "s3_store_bucket", "images")
    };
    let s = store().start().await;
    assert!(s.log().contains("s3_store_host is missing"), "{}", s.log());
    let image = waiting_image(&s.member("p1")).await;
    let says = "Error in store configuration. Adding images to store is disabled.";
    upload(&s.member("p1"), &image, "abc").await.expect(410).says(says);
    for (name, value) in [
        ("s3_store_large_object_chunk_size", "4"),
        ("s3_store_thread_pools", "0"),
        ("s3_store_bucket_url_format", "somewhere"),
        ("s3_store_create_bucket_on_put", "perhaps"),
    ] {
        s.configure(&format!("[s3]\n{name} = {value}\n"));
        let checked = s.command(&["config", "check"]).output().unwrap();
        let said = String::from_utf8_lossy(&checked.stderr).into_owned() + &String::from_utf8_lossy(&checked.stdout);
        assert!(!checked.status.success() && said.contains(&format!("[s3] {name}")), "{said}");
        assert!(!said.contains("s3cret"), "{said}");
        s.configure(&format!("[s3]\n{name} = \n"));
    }
}

/// Each program reads and removes data written by the other, and writes the same locations.
#[tokio::test]
async fn glance_and_glimpse_share_a_bucket() {
    let s3 = S3::start().await;
    let dir = tempfile::tempdir().unwrap();
    let database = Database::create(dir.path()).await;
    Glance::sync(&database).await;
    let options = s3.options(&s3.base());
    let theirs: Vec<(&str, &str, &str)> =
        options.iter().map(|(group, name, value)| (*group, *name, value.as_str())).collect();
    let glance = Glance::start_with(&database, &theirs, &[]).await;
    let s = TestServer::builder().options(&options).database(database.clone()).start().await;
    let (ours, theirs) = (s.member("p1"), glance.member("p1"));
    for data in [bytes(3), bytes(11 * MIB)] {
        let mut rows = Vec::new();
        for (writer, reader) in [(&ours, &theirs), (&theirs, &ours)] {
            let image = image_with(writer, &data).await;
            for client in [&ours, &theirs] {
                assert!(download(client, &image).await == data);
                let shown = client.get(&image).await.expect(200).json();
                assert_eq!(shown["stores"], "s3");
            }
            let sql = format!("SELECT value, meta_data FROM image_locations WHERE image_id = '{}'", id(&image));
            let found = database.pairs(&sql).await.into_iter().map(|(url, told)| {
                let told: Value = serde_json::from_str(&told).unwrap();
                (url.replace(id(&image), "ID"), told)
            });
            rows.push(found.collect::<Vec<_>>());
            reader.delete(&image).await.expect(204);
        }
        assert_eq!(rows[0], rows[1]);
        assert_eq!((s3.objects().await, s3.parts().await), (vec![], vec![]));
    }
    let detail = async |client: Client| client.get("/v2/info/stores/detail").await.expect(200).json()["stores"].clone();
    let (left, right): (Value, Value) = tokio::join!(detail(s.admin()), detail(glance.admin()));
    assert_eq!(left, right);
}
