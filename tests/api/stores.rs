//! Tests of stores: their list, their configuration, and data in one of several stores.

use std::{fs, path::Path};

use serde_json::json;
use tokio::io::AsyncWriteExt as _;

use crate::{
    data::{answered, begun_upload, bytes, download, files, id, image_with, upload, waiting_image},
    support::{Database, Glance, ServerBuilder, TestServer, Web, eventually, mode},
};

/// Builds a server with two file stores and one store of web servers.
fn with_stores(dir: &Path) -> ServerBuilder {
    TestServer::builder()
        .option("DEFAULT", "enabled_backends", "fast:file, slow:file, web:http")
        .option("glance_store", "default_backend", "fast")
        .option("fast", "filesystem_store_datadir", dir.join("fast").display())
        .option("fast", "weight", 10)
        .option("slow", "filesystem_store_datadir", format!("{}/", dir.join("slow").display()))
        .option("slow", "store_description", "Large and slow")
}

#[tokio::test]
async fn stores_are_listed() {
    let dir = tempfile::tempdir().unwrap();
    let s = with_stores(dir.path()).start().await;
    let listed = json!([
        {"id": "fast", "default": "true"},
        {"id": "slow", "description": "Large and slow"},
        {"id": "web", "read-only": "true"},
    ]);
    assert_eq!(s.reader("p1").get("/v2/info/stores").await.expect(200).json(), json!({"stores": listed}));
    s.member("p1").get("/v2/info/stores/detail").await.expect(403).says("stores_info_detail");
    let detail = s.admin().get("/v2/info/stores/detail").await.expect(200).json();
    let properties = json!({
        "data_dir": dir.path().join("fast"), "chunk_size": 65536, "thin_provisioning": false,
    });
    let fast = json!({"id": "fast", "default": "true", "type": "file", "properties": properties, "weight": 10});
    assert_eq!(detail["stores"][0], fast);
    assert_eq!(
        detail["stores"][2],
        json!({
            "id": "web", "read-only": "true", "type": "http", "properties": {}, "weight": 0,
        })
    );
    let created = s.member("p1").post("/v2/images", &json!({})).await.expect(201);
    assert_eq!(created.header("openstack-image-store-ids"), "fast,slow,web");
    let versions = s.anonymous().get("/versions").await.json();
    let ids: Vec<&str> = versions["versions"].as_array().unwrap().iter().map(|v| v["id"].as_str().unwrap()).collect();
    assert_eq!(ids[..8], ["v2.15", "v2.13", "v2.12", "v2.11", "v2.10", "v2.9", "v2.8", "v2.17"]);
    for version in ["v2.13", "v2.11"] {
        s.member("p1").get(&format!("/{version}/images")).await.expect(200);
    }
}

#[tokio::test]
async fn stores_are_listed_as_in_glance() {
    let dir = tempfile::tempdir().unwrap();
    let database = Database::create(dir.path()).await;
    let glance = Glance::start(&database).await;
    let images = glance.folder().join("images");
    let s = TestServer::builder()
        .database(database)
        .option("DEFAULT", "enabled_backends", "fs:file")
        .option("glance_store", "default_backend", "fs")
        .option("fs", "filesystem_store_datadir", images.display())
        .start()
        .await;
    for path in ["/v2/info/stores", "/v2/info/stores/detail"] {
        for (ours, theirs) in [(s.admin(), glance.admin()), (s.member("p1"), glance.member("p1"))] {
            let (ours, theirs) = (ours.get(path).await, theirs.get(path).await);
            assert_eq!((ours.status, &ours.text), (theirs.status, &theirs.text), "{path}");
        }
    }
    let image = image_with(&s.member("p1"), b"abc").await;
    for path in [image.replace("images", "stores/nope"), image.replace("images", "stores/fs")] {
        for (ours, theirs) in [(s.admin(), glance.admin()), (s.member("p1"), glance.member("p1"))] {
            let (ours, theirs) = (ours.delete(&path).await, theirs.delete(&path).await);
            assert_eq!((ours.status, &ours.text), (theirs.status, &theirs.text), "{path}");
        }
    }
    let ids = |client: crate::support::Client| async move {
        let answer = client.get("/versions").await;
        let versions = answer.json()["versions"].as_array().unwrap().clone();
        versions.iter().map(|version| version["id"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(ids(s.anonymous()).await, ids(glance.anonymous()).await);
}

#[tokio::test]
async fn a_client_chooses_a_store() {
    let dir = tempfile::tempdir().unwrap();
    let s = with_stores(dir.path()).start().await;
    let member = s.member("p1");
    let put = async |store: &str| {
        let image = waiting_image(&member).await;
        let request = member.request("PUT", &format!("{image}/file")).header("X-Image-Meta-Store", store);
        (member.send(request.header("Content-Type", "application/octet-stream").body("abc")).await, image)
    };
    let (answer, image) = put("slow").await;
    answer.expect(204);
    assert_eq!(member.get(&image).await.expect(200).json()["stores"], "slow");
    assert_eq!((files(&dir.path().join("slow")).len(), files(&dir.path().join("fast")).len()), (1, 0));
    // The folder was configured with a trailing slash.
    let url = s.database.pairs("SELECT value, value FROM image_locations").await.remove(0).0;
    assert_eq!(url, format!("file://{}/{}", dir.path().join("slow").display(), image.rsplit('/').next().unwrap()));
    put("nope").await.0.expect(400).says("Store for identifier nope not found");
    // Clients cannot choose the service's internal store.
    put("os_glance_staging_store").await.0.expect(400);
    let (answer, image) = put("web").await;
    answer.expect(410).says("Adding images to store is disabled");
    assert_eq!(member.get(&image).await.expect(200).json()["status"], "queued");
}

#[tokio::test]
async fn data_is_removed_from_one_of_several_stores() {
    let dir = tempfile::tempdir().unwrap();
    let s = with_stores(dir.path()).start().await;
    let image = image_with(&s.member("p1"), b"abc").await;
    let id = image.rsplit('/').next().unwrap();
    let copy = dir.path().join("slow").join(id);
    fs::write(&copy, "abc").unwrap();
    let in_store = |store: &str| format!("/v2/stores/{store}/{id}");
    s.admin().delete(&in_store("fast")).await.expect(403).says("the only store containing it");
    let columns = "image_id, value, meta_data, status, created_at, deleted";
    let values =
        format!("'{id}', 'file://{}', '{{\"store\": \"slow\"}}', 'active', '2026-01-01 00:00:00', '0'", copy.display());
    s.database.execute(&format!("INSERT INTO image_locations ({columns}) VALUES ({values})")).await;
    assert_eq!(s.member("p1").get(&image).await.expect(200).json()["stores"], "fast,slow");
    // If reading from the first store fails, the other is used.
    fs::rename(dir.path().join("fast").join(id), dir.path().join("away")).unwrap();
    assert_eq!(download(&s.member("p1"), &image).await, b"abc");
    fs::rename(dir.path().join("away"), dir.path().join("fast").join(id)).unwrap();
    s.member("p1").delete(&in_store("fast")).await.expect(403);
    s.admin().delete(&in_store("web")).await.expect(404).says("is not stored in store web");
    s.admin().delete(&in_store("nope")).await.expect(409).says("not available on this node");
    s.admin().delete(&in_store("fast")).await.expect(204);
    assert_eq!(files(&dir.path().join("fast")), [""; 0]);
    assert_eq!(s.member("p1").get(&image).await.expect(200).json()["stores"], "slow");
    assert_eq!(download(&s.member("p1"), &image).await, b"abc");
    s.member("p1").delete(&image).await.expect(204);
    assert!(!copy.exists());
}

/// The removal would destroy the data of the location that remains.
#[tokio::test]
async fn data_that_two_locations_of_an_image_refer_to_is_not_removed_from_its_store() {
    let dir = tempfile::tempdir().unwrap();
    let s = with_stores(dir.path()).start().await;
    let member = s.member("p1");
    let image = image_with(&member, b"abc").await;
    let columns = "image_id, value, meta_data, status, created_at, deleted";
    let again = format!(
        "INSERT INTO image_locations ({columns}) SELECT image_id, value, '{{}}', status, created_at, deleted \
         FROM image_locations WHERE image_id = '{}'",
        id(&image)
    );
    assert_eq!(s.database.execute(&again).await, 1);
    let path = format!("/v2/stores/fast/{}", id(&image));
    s.admin().delete(&path).await.expect(409).says("is also that of another location");
    assert_eq!(download(&member, &image).await, b"abc");
    assert_eq!(member.get(&image).await.expect(200).json()["stores"], "fast,fast");
    member.delete(&image).await.expect(204);
    assert_eq!(files(&dir.path().join("fast")), [""; 0]);
}

/// Such an error does not show that the file still exists, so the deletion can only be completed.
#[tokio::test]
async fn a_file_system_error_does_not_cancel_a_deletion() {
    let dir = tempfile::tempdir().unwrap();
    let s = with_stores(dir.path()).start().await;
    let member = s.member("p1");
    let image = image_with(&member, b"abc").await;
    let (store, away) = (dir.path().join("fast"), dir.path().join("away"));
    fs::rename(&store, &away).unwrap();
    // Nothing below a file can be accessed: ENOTDIR.
    fs::write(&store, "").unwrap();
    let answer = member.delete(&image).await.expect(503);
    assert!(!answer.header("Retry-After").is_empty());
    assert_eq!(member.get(&image).await.expect(200).json()["status"], "pending_delete");
    fs::remove_file(&store).unwrap();
    fs::rename(&away, &store).unwrap();
    member.delete(&image).await.expect(204);
    assert_eq!(files(&store), [""; 0]);
}

/// The file system goes away while an upload is in progress, and comes back only after Glimpse was killed.
#[tokio::test]
async fn an_upload_can_be_retried_immediately_after_its_file_system_disappeared() {
    let dir = tempfile::tempdir().unwrap();
    let mut s =
        with_stores(dir.path()).without("glimpse", "heartbeat").option("glimpse", "heartbeat", "0.3").start().await;
    let member = s.member("p1");
    let image = waiting_image(&member).await;
    let (store, away) = (dir.path().join("fast"), dir.path().join("away"));
    let mut stream = begun_upload(&s.base, &image, b"abc").await;
    eventually("it has begun", || async { (files(&store).len() == 1).then_some(()) }).await;
    fs::rename(&store, &away).unwrap();
    fs::write(&store, "").unwrap();
    stream.write_all(b"0123456789").await.unwrap();
    assert_eq!(answered(&mut stream).await, "HTTP/1.1 503");
    let state = async |s: &TestServer| {
        let left = s.database.count("SELECT COUNT(*) FROM glimpse_leftovers").await;
        (left, s.database.count("SELECT COUNT(*) FROM glimpse_uploads").await)
    };
    assert_eq!(member.get(&image).await.expect(200).json()["status"], "queued");
    assert_eq!(state(&s).await, (1, 0));
    upload(&member, &image, "abc").await.expect(503);
    assert_eq!(member.get(&image).await.expect(200).json()["status"], "queued");
    s.kill();
    fs::remove_file(&store).unwrap();
    fs::rename(&away, &store).unwrap();
    assert_eq!(files(&store).len(), 1);
    s.start_again().await;
    eventually("nothing is left", || async { (state(&s).await == (0, 0)).then_some(()) }).await;
    assert_eq!(files(&store), [""; 0]);
    upload(&s.member("p1"), &image, "abc").await.expect(204);
    assert_eq!(download(&s.member("p1"), &image).await, b"abc");
}

/// A removal that was interrupted before the data was removed is resumed, and a refused one leaves the location as it
/// was.
#[tokio::test]
async fn an_interrupted_removal_from_a_store_is_resumed() {
    let dir = tempfile::tempdir().unwrap();
    let mut s = with_stores(dir.path()).option("glimpse", "heartbeat", "0.1").start().await;
    let image = image_with(&s.member("p1"), b"abc").await;
    let id = image.rsplit('/').next().unwrap().to_owned();
    let copy = dir.path().join("slow").join(&id);
    // A folder cannot be unlinked.
    fs::create_dir(&copy).unwrap();
    let columns = "image_id, value, meta_data, status, created_at, deleted";
    let values =
        format!("'{id}', 'file://{}', '{{\"store\": \"slow\"}}', 'active', '2026-01-01 00:00:00', '0'", copy.display());
    s.database.execute(&format!("INSERT INTO image_locations ({columns}) VALUES ({values})")).await;
    s.admin().delete(&format!("/v2/stores/slow/{id}")).await.expect(403);
    assert_eq!(s.member("p1").get(&image).await.expect(200).json()["stores"], "fast,slow");
    fs::remove_dir(&copy).unwrap();
    fs::write(&copy, "abc").unwrap();
    s.kill();
    s.database
        .execute(&format!(
            "UPDATE image_locations SET status = 'pending_delete', deleted = {}, deleted_at = '2026-01-02 00:00:00.000000', \
             updated_at = '2026-01-02 00:00:00.000000' WHERE value LIKE '%slow%'",
            s.database.truth()
        ))
        .await;
    s.start_again().await;
    let gone = "SELECT COUNT(*) FROM image_locations WHERE status = 'deleted'";
    eventually("it is removed", || async { (s.database.count(gone).await == 1).then_some(()) }).await;
    assert!(!copy.exists());
    assert_eq!(s.member("p1").get(&image).await.expect(200).json()["stores"], "fast");
    assert_eq!(download(&s.member("p1"), &image).await, b"abc");
    // With delayed deletion, the data is left to the scrubber.
    fs::write(&copy, "abc").unwrap();
    s.database.execute(&format!("INSERT INTO image_locations ({columns}) VALUES ({values})")).await;
    s.kill();
    s.configure("[DEFAULT]\ndelayed_delete = true\n");
    s.start_again().await;
    s.admin().delete(&format!("/v2/stores/slow/{id}")).await.expect(204);
    assert_eq!(s.member("p1").get(&image).await.expect(200).json()["stores"], "fast");
    let left = "SELECT COUNT(*) FROM image_locations WHERE status = 'pending_delete'";
    assert!(copy.exists() && s.database.count(left).await == 1);
}

/// The data was removed, and a Glance has copied the image to the same location again.
#[tokio::test]
async fn a_resumed_removal_keeps_a_newer_copy() {
    let dir = tempfile::tempdir().unwrap();
    let mut s = with_stores(dir.path()).option("glimpse", "heartbeat", "0.1").start().await;
    let image = image_with(&s.member("p1"), b"abc").await;
    s.kill();
    let id = image.rsplit('/').next().unwrap();
    let columns = "image_id, value, meta_data, status, created_at, updated_at, deleted_at, deleted";
    let copies = format!(
        "INSERT INTO image_locations ({columns}) SELECT image_id, value, meta_data, 'pending_delete', \
         '2026-01-02 00:00:00.000000', '2026-01-02 00:00:00.000000', '2026-01-02 00:00:00.000000', {} \
         FROM image_locations WHERE image_id = '{id}'",
        s.database.truth()
    );
    s.database.execute(&copies).await;
    s.start_again().await;
    let gone = "SELECT COUNT(*) FROM image_locations WHERE status = 'deleted'";
    eventually("it ends", || async { (s.database.count(gone).await == 1).then_some(()) }).await;
    assert_eq!(download(&s.member("p1"), &image).await, b"abc");
}

/// The folder's name may contain any characters, and no file outside of it is read or removed.
#[tokio::test]
async fn a_file_store_reads_only_files_in_its_directory() {
    let dir = tempfile::tempdir().unwrap();
    let images = dir.path().join("my #1 images?");
    let s = TestServer::builder()
        .without("glance_store", "filesystem_store_datadir")
        .option("glance_store", "filesystem_store_datadir", images.display())
        .start()
        .await;
    let member = s.member("p1");
    let image = image_with(&member, b"abc").await;
    assert_eq!(download(&member, &image).await, b"abc");
    let (theirs, outside) = (image_with(&member, b"abc").await, dir.path().join("outside"));
    fs::write(&outside, "abc").unwrap();
    for url in [
        format!("file://{}", outside.display()),
        format!("file://{}/../outside", images.display()),
        format!("FILE://{}/{}", images.display(), image.rsplit('/').next().unwrap()),
    ] {
        let id = theirs.rsplit('/').next().unwrap();
        s.database.execute(&format!("UPDATE image_locations SET value = '{url}' WHERE image_id = '{id}'")).await;
        member.get(&format!("{theirs}/file")).await.expect(503);
    }
    s.database
        .execute(&format!(
            "UPDATE image_locations SET value = 'file://{}' WHERE image_id = '{}'",
            outside.display(),
            theirs.rsplit('/').next().unwrap()
        ))
        .await;
    for image in [&image, &theirs] {
        member.delete(image).await.expect(204);
    }
    assert_eq!(fs::read(&outside).unwrap(), b"abc");
    // The remaining file is the one that no location refers to any more.
    assert_eq!(files(&images), [theirs.rsplit('/').next().unwrap()]);
}

/// Opening a file times out, and the server still stops.
#[tokio::test]
async fn an_unresponsive_file_system_times_out() {
    let dir = tempfile::tempdir().unwrap();
    let mut s = TestServer::builder()
        .option("glance_store", "filesystem_store_datadir", dir.path().display())
        .option("glance_store", "filesystem_store_timeout", 1)
        .start()
        .await;
    let image = image_with(&s.member("p1"), b"abc").await;
    let file = dir.path().join(image.rsplit('/').next().unwrap());
    fs::remove_file(&file).unwrap();
    // Opening a FIFO blocks until there is a writer.
    assert!(std::process::Command::new("mkfifo").arg(&file).status().unwrap().success());
    let says = "Operation timed out after 1s. Check storage health and connectivity.";
    s.member("p1").get(&format!("{image}/file")).await.expect(503).says(says);
    s.terminate();
    assert!(s.ended().await.success());
}

#[tokio::test]
async fn a_store_can_have_several_directories() {
    let dir = tempfile::tempdir().unwrap();
    let folder = |name: &str| dir.path().join(name).display().to_string();
    let s = TestServer::builder()
        .without("glance_store", "filesystem_store_datadir")
        .option("DEFAULT", "enabled_backends", "fs:file")
        .option("glance_store", "default_backend", "fs")
        .option("fs", "filesystem_store_datadirs", format!("{}:1", folder("a")))
        .option("fs", "filesystem_store_datadirs", format!("{}:2", folder("b")))
        .option("backend_defaults", "filesystem_store_file_perm", 640)
        .start()
        .await;
    image_with(&s.member("p1"), b"abc").await;
    assert_eq!(files(&dir.path().join("a")), [""; 0]);
    let names = files(&dir.path().join("b"));
    assert_eq!(names.len(), 1);
    assert_eq!(mode(&dir.path().join("b").join(&names[0])), 0o640);
}

#[tokio::test]
async fn thin_provisioning_and_location_metadata_are_configurable() {
    use std::os::unix::fs::MetadataExt as _;
    let dir = tempfile::tempdir().unwrap();
    let images = dir.path().join("images");
    let told = dir.path().join("told.json");
    fs::write(
        &told,
        json!([{"id": "other", "mountpoint": "/nowhere"}, {"id": "here", "mountpoint": dir.path()}]).to_string(),
    )
    .unwrap();
    let s = TestServer::builder()
        .option("glance_store", "filesystem_store_datadir", images.display())
        .option("glance_store", "filesystem_thin_provisioning", true)
        .option("glance_store", "filesystem_store_metadata_file", told.display())
        .option("DEFAULT", "show_multiple_locations", true)
        .start()
        .await;
    let member = s.member("p1");
    let mut data = bytes(4_000_000);
    data[100_000..].fill(0);
    let image = image_with(&member, &data).await;
    assert!(download(&member, &image).await == data);
    let file = fs::metadata(images.join(image.rsplit('/').next().unwrap())).unwrap();
    assert_eq!(file.len(), 4_000_000);
    assert!(file.blocks() * 512 < 1_000_000, "{} blocks", file.blocks());
    let shown = member.get(&image).await.expect(200).json();
    assert_eq!(shown["locations"][0]["metadata"], json!({"id": "here", "mountpoint": dir.path()}));
}

#[tokio::test]
async fn an_unwritable_store_is_reported_and_does_not_stop_the_server() {
    let s = TestServer::builder().option("glance_store", "filesystem_store_datadir", "/dev/null/images").start().await;
    assert!(s.log().contains("nothing can be added to the store"));
    let image = waiting_image(&s.member("p1")).await;
    let says = "Error in store configuration. Adding images to store is disabled.";
    upload(&s.member("p1"), &image, "abc").await.expect(410).says(says);
    assert_eq!(s.member("p1").get(&image).await.expect(200).json()["status"], "queued");
}

/// Data on a web server, at a location that a client added.
#[tokio::test]
async fn data_on_a_web_server_is_read() {
    let web = Web::start(&[
        ("/moved", "302 Found\r\nLocation: /data\r\nContent-Length: 0\r\n\r\n"),
        ("/data", "200 OK\r\nContent-Length: 5\r\n\r\nhello"),
        ("/cut", "200 OK\r\nContent-Length: 5\r\n\r\nhel"),
        // Without a length.
        ("/open", "200 OK\r\n\r\nhello"),
        ("/open-long", "200 OK\r\n\r\nhello!"),
        ("/open-short", "200 OK\r\n\r\nhell"),
    ])
    .await;
    let address = format!("127.0.0.1:{}", web.port);
    let s = TestServer::builder().option("import_filtering_opts", "allowed_hosts", "[127.0.0.1]").start().await;
    let member = s.member("p1");
    let located = async |path: &str| {
        let image = waiting_image(&member).await;
        let id = image.rsplit('/').next().unwrap().to_owned();
        let columns = "image_id, value, meta_data, status, created_at, deleted";
        let values = format!("'{id}', 'http://u:s3cret@{address}{path}', '{{}}', 'active', '2026-01-01 00:00:00', '0'");
        s.database.execute(&format!("INSERT INTO image_locations ({columns}) VALUES ({values})")).await;
        s.database.execute(&format!("UPDATE images SET status = 'active', size = 5 WHERE id = '{id}'")).await;
        image
    };
    for path in ["/data", "/moved", "/open"] {
        assert_eq!(download(&member, &located(path).await).await, b"hello");
    }
    let image = located("/data").await;
    let part = member.request("GET", &format!("{image}/file")).header("Range", "bytes=1-2");
    member.send(part).await.expect(400).says("Getting images randomly from this store is not supported.");
    member.get(&format!("{}/file", located("/gone").await)).await.expect(503);
    for path in ["/cut", "/open-long", "/open-short"] {
        let request = member.request("GET", &format!("{}/file", located(path).await));
        let read = async { request.send().await?.bytes().await };
        assert!(read.await.is_err(), "{path}");
    }
    // No server listens there.
    let gone = located("/data").await;
    let nowhere = format!("http://127.0.0.1:1/u-{}", id(&gone));
    s.database
        .execute(&format!("UPDATE image_locations SET value = '{nowhere}' WHERE image_id = '{}'", id(&gone)))
        .await;
    let answer = member.get(&format!("{gone}/file")).await.expect(503);
    answer.says("Remote server where the image is present is unavailable.");
    assert!(s.log().contains("Connection refused"), "{}", s.log());
    // The size is unknown.
    let unsized_image = located("/open").await;
    s.database
        .execute(&format!("UPDATE images SET size = NULL WHERE id = '{}'", unsized_image.rsplit('/').next().unwrap()))
        .await;
    assert_eq!(download(&member, &unsized_image).await, b"hello");
    // Data on a web server is not removed.
    member.delete(&image).await.expect(204);
    assert!(!s.log().contains("s3cret"));
}

/// If several stores have the data, it is read from the one with the greatest weight, regardless of the order in which
/// it was added.
#[tokio::test]
async fn data_is_read_from_the_store_with_the_greatest_weight() {
    let dir = tempfile::tempdir().unwrap();
    let s = with_stores(dir.path()).start().await;
    let member = s.member("p1");
    let image = waiting_image(&member).await;
    let request = member.request("PUT", &format!("{image}/file")).header("X-Image-Meta-Store", "slow");
    member.send(request.header("Content-Type", "application/octet-stream").body("abc")).await.expect(204);
    let id = image.rsplit('/').next().unwrap();
    let copy = dir.path().join("fast").join(id);
    fs::write(&copy, "xyz").unwrap();
    let columns = "image_id, value, meta_data, status, created_at, deleted";
    let values =
        format!("'{id}', 'file://{}', '{{\"store\": \"fast\"}}', 'active', '2026-01-01 00:00:00', '0'", copy.display());
    s.database.execute(&format!("INSERT INTO image_locations ({columns}) VALUES ({values})")).await;
    assert_eq!(download(&member, &image).await, b"xyz");
    // The client's preference takes precedence over the weight.
    let preferred = s.admin().get(&format!("{image}/file?prefer=slow")).await.expect(200);
    assert_eq!(preferred.text, "abc");
}
