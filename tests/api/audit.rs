//! Tests of the housekeeping audit: it finds images whose data is not where their locations say, reports them, and
//! repairs them where that is safe.

use std::{fs, path::Path};

use crate::{
    data::{bytes, download, files, id, image_with, status, upload, with_store},
    support::{ServerBuilder, TestServer, eventually},
};

async fn set_location(s: &TestServer, image: &str, deleted: bool) {
    let (deleted, status) = if deleted { ("1", "deleted") } else { ("0", "active") };
    let deleted = if s.database.truth() == "TRUE" { format!("'{deleted}'") } else { deleted.to_owned() };
    let set = format!("UPDATE image_locations SET deleted = {deleted}, status = '{status}'");
    s.database.execute(&format!("{set} WHERE image_id = '{}'", id(image))).await;
}

fn with_audits(builder: ServerBuilder) -> ServerBuilder {
    builder.without("glimpse", "heartbeat").option("glimpse", "heartbeat", "0.1")
}

/// Waits until the log has a line of this level that contains `what` and the image's id.
async fn is_reported(s: &TestServer, image: &str, level: &str, what: &str) {
    eventually("it is reported", || {
        let log = s.log();
        let is_it = |line: &str| line.contains(level) && line.contains(id(image)) && line.contains(what);
        std::future::ready(log.lines().any(is_it).then_some(()))
    })
    .await;
}

/// Waits until the log reports, in one line, that a store has no data of this number of images.
async fn is_unmounted(s: &TestServer, images: usize) {
    eventually("it is reported", || {
        let log = s.log();
        let lines: Vec<&str> = log.lines().filter(|line| line.contains("is it mounted?")).collect();
        assert!(lines.len() < 2, "{lines:?}");
        let is_it = lines.iter().any(|line| line.contains("ERROR") && line.contains(&format!("images={images}")));
        std::future::ready(is_it.then_some(()))
    })
    .await;
}

/// Returns a stopped server with three images, and the images.
async fn three_images(dir: &Path) -> (TestServer, [String; 3]) {
    let mut s = with_audits(with_store(dir)).start().await;
    let member = s.member("p1");
    let images = [
        image_with(&member, &bytes(1000)).await,
        image_with(&member, &bytes(2000)).await,
        image_with(&member, &bytes(3000)).await,
    ];
    s.kill();
    (s, images)
}

#[tokio::test]
async fn a_location_marked_as_deleted_is_restored_if_its_data_exists() {
    let dir = tempfile::tempdir().unwrap();
    let (mut s, [image, ..]) = three_images(dir.path()).await;
    set_location(&s, &image, true).await;
    s.start_again().await;
    is_reported(&s, &image, "WARN", "the location is restored").await;
    assert_eq!(download(&s.member("p1"), &image).await, bytes(1000));
}

/// Only the store reports the data as missing, and the store can be wrong.
#[tokio::test]
async fn an_active_image_with_missing_data_is_reported_and_nothing_is_changed() {
    let dir = tempfile::tempdir().unwrap();
    let (mut s, [image, other, _]) = three_images(dir.path()).await;
    let shown = s.database.pairs("SELECT id, os_hash_value FROM images ORDER BY id").await;
    fs::remove_file(dir.path().join("images").join(id(&image))).unwrap();
    s.start_again().await;
    is_reported(&s, &image, "ERROR", "the image's data is missing from a location").await;
    let member = s.member("p1");
    assert_eq!(status(&member, &image).await, "active");
    assert_eq!(s.database.pairs("SELECT id, os_hash_value FROM images ORDER BY id").await, shown);
    assert_eq!(download(&member, &other).await, bytes(2000));
}

/// Both the database and the store report the data as removed. The repair is undone if they were wrong.
#[tokio::test]
async fn an_active_image_whose_location_and_data_were_removed_is_killed_until_its_data_is_back() {
    let dir = tempfile::tempdir().unwrap();
    let (mut s, [image, other, _]) = three_images(dir.path()).await;
    set_location(&s, &image, true).await;
    let shown = s.database.pairs("SELECT id, os_hash_value FROM images ORDER BY id").await;
    let file = dir.path().join("images").join(id(&image));
    fs::remove_file(&file).unwrap();
    s.start_again().await;
    is_reported(&s, &image, "ERROR", "its status is \"killed\" now").await;
    let member = s.member("p1");
    assert_eq!(status(&member, &image).await, "killed");
    assert_eq!(s.database.pairs("SELECT id, os_hash_value FROM images ORDER BY id").await, shown);
    upload(&member, &image, "other data").await.expect(409);
    assert_eq!(download(&member, &other).await, bytes(2000));

    s.kill();
    fs::write(&file, bytes(1000)).unwrap();
    s.start_again().await;
    is_reported(&s, &image, "WARN", "the location is restored").await;
    let member = s.member("p1");
    assert_eq!(download(&member, &image).await, bytes(1000));
    member.delete(&image).await.expect(204);
}

#[tokio::test]
async fn a_killed_image_can_be_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let (mut s, [image, ..]) = three_images(dir.path()).await;
    set_location(&s, &image, true).await;
    fs::remove_file(dir.path().join("images").join(id(&image))).unwrap();
    s.start_again().await;
    is_reported(&s, &image, "ERROR", "its status is \"killed\" now").await;
    let member = s.member("p1");
    member.delete(&image).await.expect(204);
    member.get(&image).await.expect(404);
}

/// The directory is empty. So either the record of the location is right, or the store is not mounted.
#[tokio::test]
async fn a_removed_location_in_a_store_without_data_changes_no_status() {
    let dir = tempfile::tempdir().unwrap();
    let (mut s, images) = three_images(dir.path()).await;
    set_location(&s, &images[0], true).await;
    let (there, away) = (dir.path().join("images"), dir.path().join("away"));
    fs::rename(&there, &away).unwrap();
    fs::create_dir(&there).unwrap();
    s.start_again().await;
    is_unmounted(&s, 3).await;
    assert_eq!(status(&s.member("p1"), &images[0]).await, "active");
}

/// One file that was left where the store should be mounted is no evidence against the images that are missing there.
#[tokio::test]
async fn a_store_that_is_not_mounted_changes_no_image() {
    let dir = tempfile::tempdir().unwrap();
    let (mut s, images) = three_images(dir.path()).await;
    let (there, away) = (dir.path().join("images"), dir.path().join("away"));
    fs::rename(&there, &away).unwrap();
    fs::create_dir(&there).unwrap();
    fs::copy(away.join(id(&images[0])), there.join(id(&images[0]))).unwrap();
    s.start_again().await;
    for image in &images[1..] {
        is_reported(&s, image, "ERROR", "the image's data is missing from a location").await;
    }
    fs::remove_dir_all(&there).unwrap();
    fs::rename(&away, &there).unwrap();
    for (image, size) in images.iter().zip([1000, 2000, 3000]) {
        assert_eq!(status(&s.member("p1"), image).await, "active");
        assert_eq!(download(&s.member("p1"), image).await, bytes(size));
    }
}

#[tokio::test]
async fn a_store_that_has_lost_all_data_is_reported_and_its_images_stay_active() {
    let dir = tempfile::tempdir().unwrap();
    let (mut s, images) = three_images(dir.path()).await;
    let (there, away) = (dir.path().join("images"), dir.path().join("away"));
    fs::rename(&there, &away).unwrap();
    fs::create_dir(&there).unwrap();
    s.start_again().await;
    is_unmounted(&s, images.len()).await;
    for image in &images {
        assert_eq!(status(&s.member("p1"), image).await, "active");
    }
    fs::remove_dir_all(&there).unwrap();
    fs::rename(&away, &there).unwrap();
    assert_eq!(download(&s.member("p1"), &images[0]).await, bytes(1000));
}

#[tokio::test]
async fn data_of_an_unexpected_size_is_reported_and_nothing_is_changed() {
    let dir = tempfile::tempdir().unwrap();
    let (mut s, [image, ..]) = three_images(dir.path()).await;
    fs::write(dir.path().join("images").join(id(&image)), b"abc").unwrap();
    s.start_again().await;
    is_reported(&s, &image, "ERROR", "3 bytes are at location").await;
    assert_eq!(status(&s.member("p1"), &image).await, "active");
}

#[tokio::test]
async fn a_deactivated_image_with_missing_data_stays_deactivated() {
    let dir = tempfile::tempdir().unwrap();
    let (mut s, [image, ..]) = three_images(dir.path()).await;
    s.database.execute(&format!("UPDATE images SET status = 'deactivated' WHERE id = '{}'", id(&image))).await;
    fs::remove_file(dir.path().join("images").join(id(&image))).unwrap();
    s.start_again().await;
    is_reported(&s, &image, "ERROR", "the image's data is missing from a location").await;
    assert_eq!(status(&s.member("p1"), &image).await, "deactivated");
}

/// The store that lost it can be away; it is reported.
#[tokio::test]
async fn an_image_with_missing_data_in_one_store_keeps_its_other_locations() {
    let dir = tempfile::tempdir().unwrap();
    let folder = |name: &str| dir.path().join(name).display().to_string();
    let builder = TestServer::builder()
        .option("DEFAULT", "enabled_backends", "fast:file, slow:file")
        .option("glance_store", "default_backend", "fast")
        .option("fast", "filesystem_store_datadir", folder("fast"))
        .option("slow", "filesystem_store_datadir", folder("slow"));
    let mut s = with_audits(builder).start().await;
    let member = s.member("p1");
    let (image, _other) = (image_with(&member, &bytes(1000)).await, image_with(&member, &bytes(2000)).await);
    s.kill();
    let name = id(&image);
    fs::copy(dir.path().join("fast").join(name), dir.path().join("slow").join(name)).unwrap();
    let url = format!("file://{}/{name}", folder("slow"));
    let columns = "image_id, value, meta_data, status, created_at, deleted";
    let deleted = if s.database.truth() == "TRUE" { "FALSE" } else { "0" };
    let values = format!("'{name}', '{url}', '{{\"store\": \"slow\"}}', 'active', '2026-01-01 00:00:00', {deleted}");
    s.database.execute(&format!("INSERT INTO image_locations ({columns}) VALUES ({values})")).await;
    fs::remove_file(dir.path().join("fast").join(name)).unwrap();
    s.start_again().await;
    is_reported(&s, &image, "ERROR", "the image's data is missing from a location").await;
    let member = s.member("p1");
    assert_eq!(download(&member, &image).await, bytes(1000));
    let stores = member.get(&image).await.expect(200).json()["stores"].as_str().unwrap().to_owned();
    assert!(stores.contains("slow") && stores.contains("fast"), "{stores}");
    assert_eq!(files(&dir.path().join("slow")), [name]);
}
