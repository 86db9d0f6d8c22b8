//! Concurrent requests on one image. Each test holds one request, at a relay in front of the database or of the store, and
//! lets other requests proceed meanwhile.

/// Deletions that wait for a slow store, on every engine.
mod with_a_slow_store {
    use std::{fs, path::PathBuf};

    use serde_json::json;
    use tempfile::TempDir;
    use tokio::task::JoinHandle;

    use crate::{
        data::{download, id, image_with, status},
        support::{Answer, Client, Database, Fault, FaultyProxy, S3, TestServer, eventually},
    };

    /// Two servers on one database and one S3 server. Each reaches the S3 server through a proxy of its own.
    struct Rig {
        dir: TempDir,
        s3: S3,
        slow: TestServer,
        to_slow: FaultyProxy,
        other: TestServer,
        to_other: FaultyProxy,
    }

    impl Rig {
        async fn start() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let (s3, database) = (S3::start().await, Database::create(dir.path()).await);
            let server = async |proxy: &FaultyProxy| {
                let builder = TestServer::builder()
                    .option("fs", "filesystem_store_datadir", dir.path().join("fs").display())
                    .database(database.clone());
                let options = s3.options(&proxy.base).into_iter().filter(|(_, name, _)| *name != "enabled_backends");
                let builder = builder.option("DEFAULT", "enabled_backends", "s3:s3, fs:file");
                options.fold(builder, |builder, (group, name, value)| builder.option(group, name, value)).start().await
            };
            let (to_slow, to_other) = (FaultyProxy::start(&s3).await, FaultyProxy::start(&s3).await);
            let (slow, other) = (server(&to_slow).await, server(&to_other).await);
            Self { dir, s3, slow, to_slow, other, to_other }
        }

        fn member(&self) -> Client {
            self.other.member("p1")
        }

        /// Starts the deletion of an image, and returns when the S3 server is asked to delete the object.
        async fn begin_slow_deletion(&self, image: &str) -> JoinHandle<Answer> {
            let asked = || self.to_slow.passed().iter().filter(|passed| passed.starts_with("DELETE")).count();
            let before = asked();
            self.to_slow.hold(Some("DELETE"));
            let (client, path) = (self.slow.member("p1"), image.to_owned());
            let deletion = tokio::spawn(async move { client.delete(&path).await });
            eventually("the store is asked", || std::future::ready((asked() > before).then_some(()))).await;
            deletion
        }

        /// Adds a copy of an image's data in the other store.
        async fn copy(&self, image: &str, data: &[u8]) -> PathBuf {
            let copy = self.dir.path().join("fs").join(id(image));
            fs::write(&copy, data).unwrap();
            let columns = "image_id, value, meta_data, status, created_at, deleted";
            let values = format!(
                "'{}', 'file://{}', '{{\"store\": \"fs\"}}', 'active', '2026-01-01 00:00:00', '0'",
                id(image),
                copy.display()
            );
            self.other.database.execute(&format!("INSERT INTO image_locations ({columns}) VALUES ({values})")).await;
            copy
        }
    }

    async fn protect(client: &Client, image: &str) -> Answer {
        let changes = json!([{"op": "replace", "path": "/protected", "value": true}]);
        let request = client.request("PATCH", image).body(changes.to_string());
        client.send(request.header("Content-Type", "application/openstack-images-v2.1-json-patch")).await
    }

    /// The store refuses the first deletion late. Meanwhile a tag is put, and another deletion begins: it completes, or is
    /// refused as well, or does not happen.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_deletion_that_is_refused_late_leaves_the_image_complete_or_deleted() {
        let rig = Rig::start().await;
        for (second, protected) in [(Some(204), 404), (Some(403), 409), (None, 200)] {
            let member = rig.member();
            let image = image_with(&member, b"abc").await;
            let first = rig.begin_slow_deletion(&image).await;
            member.put(&format!("{image}/tags/t")).await.expect(404);
            if second == Some(403) {
                rig.to_other.fail("DELETE", Fault::Denied);
            }
            if let Some(expected) = second {
                member.delete(&image).await.expect(expected);
            }
            rig.to_slow.fail("DELETE", Fault::Denied);
            rig.to_slow.hold(None);
            first.await.unwrap().expect(403);
            protect(&member, &image).await.expect(protected);
            if protected == 200 {
                assert_eq!(download(&member, &image).await, b"abc");
                continue;
            }
            // Nothing restores an image that two deletions have been removing: the deletion can only be completed.
            if protected == 409 {
                assert_eq!(status(&member, &image).await, "pending_delete");
                member.delete(&image).await.expect(204);
            }
            member.get(&image).await.expect(404);
            assert!(!rig.s3.objects().await.contains(&id(&image).to_owned()));
        }
    }

    /// While the first store was slow, an operator restored the image, or another deletion began.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_deletion_that_no_longer_owns_its_image_removes_no_more_data() {
        let rig = Rig::start().await;
        let (member, database) = (rig.member(), &rig.other.database);
        let time = "updated_at = '2030-01-01 00:00:00.000000'";
        for (change, expected) in [(format!("status = 'active', {time}"), 409), (time.to_owned(), 503)] {
            let image = image_with(&member, b"abc").await;
            let copy = rig.copy(&image, b"abc").await;
            let deletion = rig.begin_slow_deletion(&image).await;
            assert_eq!(database.execute(&format!("UPDATE images SET {change} WHERE id = '{}'", id(&image))).await, 1);
            rig.to_slow.hold(None);
            let answer = deletion.await.unwrap().expect(expected);
            assert!(copy.exists());
            if expected == 409 {
                assert_eq!(download(&member, &image).await, b"abc");
            } else {
                answer.says("Another request is deleting image");
                assert_eq!(status(&member, &image).await, "pending_delete");
            }
            member.delete(&image).await.expect(204);
            assert!(!copy.exists());
        }
    }
}

/// Tests on a database server: the profiles postgres and mysql run them. SQLite has a single writer and does not need them.
mod on_a_server {
    use std::{
        fs,
        path::{Path, PathBuf},
        time::Duration,
    };

    use reqwest::RequestBuilder;
    use serde_json::{Value, json};
    use sqlx::{AnyConnection, Executor as _};
    use tempfile::TempDir;
    use tokio::{io::AsyncWriteExt as _, task::JoinHandle, time::timeout};

    use crate::{
        data::{answered, begun_upload, download, files, id, image_with, status, waiting_image, with_store},
        support::{Answer, Client, Database, Gate, Side, TestServer, eventually},
    };

    /// The time in which a request that is not blocked is expected to end.
    const A_MOMENT: Duration = Duration::from_secs(1);

    /// Two servers on one database and one store. The statements of the second server pass through a gate.
    struct Rig {
        dir: TempDir,
        direct: TestServer,
        gate: Gate,
        gated: TestServer,
    }

    impl Rig {
        async fn start() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let database = Database::create(dir.path()).await;
            let server = |database| {
                let quiet = with_store(dir.path()).without("glimpse", "heartbeat").option("glimpse", "heartbeat", 600);
                quiet.option("DEFAULT", "image_tag_quota", 2).database(database)
            };
            let direct = server(database.clone()).start().await;
            let (gate, behind) = Gate::before(&database).await;
            let gated = server(behind).start().await;
            Self { dir, direct, gate, gated }
        }

        fn images(&self) -> PathBuf {
            self.dir.path().join("images")
        }

        fn member(&self) -> Client {
            self.direct.member("p1")
        }

        /// Sends a request through the gate, and waits until its statement is held.
        async fn held(&self, side: Side, text: &'static str, method: &str, path: &str) -> JoinHandle<Answer> {
            let (client, method, path) = (self.gated.member("p1"), method.to_owned(), path.to_owned());
            self.gate.arm(side, text);
            let request = tokio::spawn(async move { client.send(client.request(&method, &path)).await });
            self.gate.holds().await;
            request
        }
    }

    /// Gives a request a moment to proceed, opens the gate, and returns the response.
    async fn meanwhile(rig: &Rig, request: RequestBuilder) -> Answer {
        let client = rig.member();
        let mut request = Box::pin(client.send(request));
        let answer = timeout(A_MOMENT, &mut request).await;
        rig.gate.open();
        match answer {
            Ok(answer) => answer,
            Err(_) => request.await,
        }
    }

    fn protection(client: &Client, image: &str) -> RequestBuilder {
        patch(client, image, &json!([{"op": "replace", "path": "/protected", "value": true}]))
    }

    fn patch(client: &Client, image: &str, changes: &Value) -> RequestBuilder {
        let request = client.request("PATCH", image).body(changes.to_string());
        request.header("Content-Type", "application/openstack-images-v2.1-json-patch")
    }

    /// Checks that the image is either active with its data, or deleted without any data left.
    async fn is_whole_or_gone(member: &Client, image: &str, dir: &Path, data: &[u8]) {
        match member.get(image).await.status.as_u16() {
            200 => {
                assert_eq!(status(member, image).await, "active");
                assert_eq!(download(member, image).await, data);
            }
            404 => eventually("no data is left", || async { files(dir).is_empty().then_some(()) }).await,
            other => panic!("{other}"),
        }
    }

    const LOCATIONS: &str = "FROM image_locations";

    /// The deletion reads the image before its upload ends, and its locations afterwards. The image is protected before
    /// the deletion ends.
    #[tokio::test(flavor = "multi_thread")]
    async fn deleting_an_image_at_the_end_of_its_upload_keeps_the_data_if_the_image_stays() {
        let rig = Rig::start().await;
        let image = waiting_image(&rig.member()).await;
        let mut stream = begun_upload(&rig.direct.base, &image, b"abc").await;
        eventually("the upload has begun", || async { (files(&rig.images()).len() == 1).then_some(()) }).await;
        let deletion = rig.held(Side::Statement, LOCATIONS, "DELETE", &image).await;
        stream.write_all(b"0123456789").await.unwrap();
        let mut end = Box::pin(answered(&mut stream));
        let uploaded = timeout(A_MOMENT, &mut end).await;
        rig.gate.arm(Side::Statement, "UPDATE image_locations");
        rig.gate.holds().await;
        let protected = meanwhile(&rig, protection(&rig.member(), &image)).await;
        let uploaded = match uploaded {
            Ok(answer) => answer,
            Err(_) => end.await,
        };
        assert!(["HTTP/1.1 204", "HTTP/1.1 410"].contains(&uploaded.as_str()), "{uploaded}");
        let (deleted, protected) = (deletion.await.unwrap(), protected.status.as_u16());
        assert!(
            [(204, 404), (204, 409), (403, 200)].contains(&(deleted.status.as_u16(), protected)),
            "{deleted:?}, {protected}"
        );
        is_whole_or_gone(&rig.member(), &image, &rig.images(), b"abc0123456789").await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn deleting_an_image_while_it_is_deactivated_succeeds() {
        let rig = Rig::start().await;
        let image = image_with(&rig.member(), b"abc").await;
        let deletion = rig.held(Side::Statement, LOCATIONS, "DELETE", &image).await;
        let deactivated = meanwhile(&rig, rig.member().request("POST", &format!("{image}/actions/deactivate"))).await;
        assert!([204, 403, 404].contains(&deactivated.status.as_u16()), "{deactivated:?}");
        deletion.await.unwrap().expect(204);
        is_whole_or_gone(&rig.member(), &image, &rig.images(), b"abc").await;
    }

    /// One deletion has read the image while the other one is removing its data.
    #[tokio::test(flavor = "multi_thread")]
    async fn two_concurrent_deletions_of_an_image_do_not_conflict() {
        let rig = Rig::start().await;
        let image = image_with(&rig.member(), b"abc").await;
        let first = rig.held(Side::Statement, LOCATIONS, "DELETE", &image).await;
        let other = nobody_changes_locations(&rig).await;
        let (client, path) = (rig.member(), image.clone());
        let second = tokio::spawn(async move { client.delete(&path).await });
        tokio::time::sleep(A_MOMENT).await;
        rig.gate.open();
        tokio::time::sleep(A_MOMENT).await;
        drop(other);
        let mut statuses = [first.await.unwrap().status.as_u16(), second.await.unwrap().status.as_u16()];
        statuses.sort_unstable();
        assert_eq!(statuses, [204, 404]);
        is_whole_or_gone(&rig.member(), &image, &rig.images(), b"abc").await;
    }

    /// Starts a transaction that locks the rows of all locations.
    async fn nobody_changes_locations(rig: &Rig) -> AnyConnection {
        let mut other = rig.direct.database.connect().await;
        other.execute("BEGIN").await.unwrap();
        other.execute("UPDATE image_locations SET meta_data = '{}'").await.unwrap();
        other
    }

    /// The image's locations are deleted before they are read, or its data is removed before it is opened.
    #[tokio::test(flavor = "multi_thread")]
    async fn downloading_an_image_that_is_deleted_concurrently_is_answered_404() {
        for side in [Side::Statement, Side::Answer] {
            let rig = Rig::start().await;
            let image = image_with(&rig.member(), b"abc").await;
            let download = rig.held(side, LOCATIONS, "GET", &format!("{image}/file")).await;
            rig.member().delete(&image).await.expect(204);
            rig.gate.open();
            let answer = download.await.unwrap().expect(404).says("No image found with ID");
            let log = rig.gated.log_of(&answer).await.concat();
            assert!(!log.contains("ERROR"), "{log}");
        }
    }

    /// The store refuses the first deletion. That deletion is about to make the image active again when the second one
    /// removes the data.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_failed_deletion_does_not_undo_a_concurrent_one() {
        let rig = Rig::start().await;
        let image = image_with(&rig.member(), b"abc").await;
        let (file, aside) = (rig.images().join(id(&image)), rig.dir.path().join("aside"));
        fs::rename(&file, &aside).unwrap();
        // A folder cannot be unlinked.
        fs::create_dir(&file).unwrap();
        let first = rig.held(Side::Statement, "AND updated_at = ", "DELETE", &image).await;
        fs::remove_dir(&file).unwrap();
        fs::rename(&aside, &file).unwrap();
        // The second deletion cannot complete, either.
        let other = nobody_changes_locations(&rig).await;
        let (client, path) = (rig.member(), image.clone());
        let second = tokio::spawn(async move { client.delete(&path).await });
        eventually("the second one removes the data", || async { files(&rig.images()).is_empty().then_some(()) }).await;
        rig.gate.open();
        first.await.unwrap().expect(403);
        assert_eq!(status(&rig.member(), &image).await, "pending_delete");
        drop(other);
        second.await.unwrap().expect(204);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_owner_of_an_image_cannot_change_while_its_owner_adds_a_tag() {
        let rig = Rig::start().await;
        let image = rig.member().create_image(&json!({})).await;
        let tag = rig.held(Side::Statement, "UPDATE images", "PUT", &format!("{image}/tags/a")).await;
        let admin = rig.direct.admin();
        let another = json!([{"op": "replace", "path": "/owner", "value": "p2"}]);
        let mut patched = Box::pin(admin.send(patch(&admin, &image, &another)));
        assert!(timeout(A_MOMENT, &mut patched).await.is_err(), "the image's lock is not held");
        rig.gate.open();
        patched.await.expect(200);
        tag.await.unwrap().expect(204);
    }

    /// Adding a tag concurrently changes `updated_at`, by which a deletion detects that another one has begun.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_refused_deletion_restores_the_image_despite_concurrent_changes() {
        let rig = Rig::start().await;
        let image = image_with(&rig.member(), b"abc").await;
        let (file, aside) = (rig.images().join(id(&image)), rig.dir.path().join("aside"));
        fs::rename(&file, &aside).unwrap();
        fs::create_dir(&file).unwrap();
        let refused = rig.held(Side::Statement, "AND updated_at = ", "DELETE", &image).await;
        rig.member().put(&format!("{image}/tags/t")).await.expect(404);
        rig.member().send(protection(&rig.member(), &image)).await.expect(409);
        rig.gate.open();
        refused.await.unwrap().expect(403);
        fs::remove_dir(&file).unwrap();
        fs::rename(&aside, &file).unwrap();
        is_whole_or_gone(&rig.member(), &image, &rig.images(), b"abc").await;
        rig.member().get(&image).await.expect(200);
    }

    /// A Glance on the same database takes no lock.
    #[tokio::test(flavor = "multi_thread")]
    async fn the_tag_quota_is_counted_before_a_tag_is_refused() {
        let rig = Rig::start().await;
        let image = rig.member().create_image(&json!({"tags": ["a"]})).await;
        let tag = format!("{image}/tags/a");
        let adding = rig.held(Side::Statement, "SELECT image_id, value FROM image_tags", "PUT", &tag).await;
        rig.direct.database.execute(&format!("DELETE FROM image_tags WHERE image_id = '{}'", id(&image))).await;
        rig.gate.open();
        adding.await.unwrap().expect(204);
        assert_eq!(rig.member().tags(&image).await, ["a"]);
    }
}
