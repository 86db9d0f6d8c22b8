//! Images in a pool of a real Ceph, also with a real Glance on the same pool, and failures of the cluster and of Glimpse.

use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;

use crate::{
    data::{
        answered, begun_upload, bytes, chunked, download, id, image_with, status, upload, waiting_image,
        with_short_heartbeat,
    },
    import::{ended, import},
    support::{Ceph, Client, Database, Glance, TestServer, eventually},
};

const MIB: usize = 1 << 20;

/// What `rbd info` shows of an image or snapshot, without its id and its times.
async fn info(ceph: &Ceph, image: &str) -> Value {
    let shown = ceph.tool("rbd", &["info", "--format", "json", image]).await;
    let mut shown: Value = serde_json::from_str(&shown).unwrap();
    for name in ["id", "name", "block_name_prefix", "create_timestamp", "access_timestamp", "modify_timestamp"] {
        shown.as_object_mut().unwrap().remove(name);
    }
    shown
}

/// Waits until the image is queued again and the pool is empty; then checks that an upload succeeds.
async fn nothing_is_left(client: &Client, image: &str, ceph: &Ceph) {
    eventually("the image is queued again, and nothing is left", || async {
        (status(client, image).await == "queued" && ceph.objects().await.is_empty()).then_some(())
    })
    .await;
    upload(client, image, "whole").await.expect(204);
    assert_eq!(download(client, image).await, b"whole");
    client.delete(image).await.expect(204);
}

/// Waits until an upload has written data.
async fn data_is_there(ceph: &Ceph) {
    eventually("there is data", || async {
        ceph.objects().await.iter().any(|name| name.starts_with("rbd_data")).then_some(())
    })
    .await;
}

#[tokio::test]
async fn uploaded_data_is_downloaded_unchanged_and_removed() {
    let ceph = Ceph::shared().await;
    let s = with_short_heartbeat()
        .options(&ceph.options())
        .option("rbd", "rbd_store_chunk_size", 4)
        .option("DEFAULT", "show_image_direct_url", true)
        .option("DEFAULT", "show_multiple_locations", true)
        .start()
        .await;
    let member = s.member("p1");
    let data = bytes(9 * MIB + 345);
    let mut images = Vec::new();
    for length in [0, 3, 4 * MIB, data.len()] {
        for is_told in [true, false] {
            let image = waiting_image(&member).await;
            let body = if is_told { data[..length].to_vec().into() } else { chunked(&data[..length]) };
            upload(&member, &image, body).await.expect(204);
            let shown = member.get(&image).await.expect(200).json();
            assert_eq!((&shown["status"], &shown["size"]), (&json!("active"), &json!(length)));
            let url = format!("rbd://{}/{}/{}/snap", ceph.fsid(), ceph.pool, id(&image));
            assert_eq!(shown["direct_url"], url);
            assert_eq!(shown["locations"], json!([{"url": url, "metadata": {"store": "rbd"}}]));
            if length > 0 {
                assert!(download(&member, &image).await == data[..length], "{length}, {is_told}");
            }
            let shown = info(&ceph, &format!("{}@snap", id(&image))).await;
            assert_eq!(
                (&shown["size"], &shown["order"], &shown["protected"]),
                (&json!(length), &json!(22), &json!("true"))
            );
            images.push(image);
        }
    }
    let mut names: Vec<_> = images.iter().map(|image| id(image).to_owned()).collect();
    names.sort();
    assert_eq!(ceph.images().await, names);
    let last = images.last().unwrap();
    for (range, part) in [
        ("bytes=0-0", 0..1),
        ("bytes=4194300-4194310", 4_194_300..4_194_311),
        ("bytes=-100", data.len() - 100..data.len()),
        ("bytes=1000000-8000000", 1_000_000..8_000_001),
    ] {
        let answer = member.request("GET", &format!("{last}/file")).header("Range", range).send().await.unwrap();
        assert_eq!(answer.status(), 206);
        assert!(answer.bytes().await.unwrap() == data[part], "{range}");
    }
    let detail = s.admin().get("/v2/info/stores/detail").await.expect(200).json();
    let properties = json!({"chunk_size": 4 * MIB, "pool": ceph.pool, "thin_provisioning": false, "fsid": ceph.fsid()});
    assert_eq!(detail["stores"][0]["properties"], properties);
    for image in &images {
        member.delete(image).await.expect(204);
    }
    assert_eq!(ceph.objects().await, [""; 0]);

    // An RBD image of that name is neither replaced nor removed.
    let image = waiting_image(&member).await;
    ceph.tool("rbd", &["create", "--size", "1M", id(&image)]).await;
    let answer = upload(&member, &image, "data").await.expect(409);
    assert!(answer.text.contains(&format!("RBD image {} already exists", id(&image))), "{}", answer.text);
    assert_eq!(ceph.images().await, [id(&image)]);
    ceph.tool("rbd", &["rm", id(&image)]).await;
    nothing_is_left(&member, &image, &ceph).await;
}

#[tokio::test]
async fn zeros_are_not_written_with_thin_provisioning() {
    let ceph = Ceph::shared().await;
    let s = with_short_heartbeat().options(&ceph.options()).option("rbd", "rbd_thin_provisioning", true).start().await;
    let member = s.member("p1");
    let mut data = vec![0; 30 * MIB];
    data[9 * MIB..10 * MIB].copy_from_slice(&bytes(MIB));
    for body in [data.clone().into(), chunked(&data)] {
        let image = waiting_image(&member).await;
        upload(&member, &image, body).await.expect(204);
        assert!(download(&member, &image).await == data);
        let written = ceph.objects().await.iter().filter(|name| name.starts_with("rbd_data")).count();
        assert_eq!(written, 1);
        member.delete(&image).await.expect(204);
    }
    assert_eq!(ceph.objects().await, [""; 0]);
}

#[tokio::test]
async fn glance_and_glimpse_share_a_pool() {
    let ceph = Ceph::shared().await;
    let dir = tempfile::tempdir().unwrap();
    let database = Database::create(dir.path()).await;
    Glance::sync(&database).await;
    let options = ceph.options();
    let theirs: Vec<(&str, &str, &str)> =
        options.iter().map(|(group, name, value)| (*group, *name, value.as_str())).collect();
    let glance = Glance::start_with(&database, &theirs, &[]).await;
    let s = TestServer::builder().options(&options).database(database.clone()).start().await;
    let (ours, theirs) = (s.member("p1"), glance.member("p1"));
    for data in [bytes(3), bytes(17 * MIB)] {
        let (mut rows, mut layouts) = (Vec::new(), Vec::new());
        for (writer, reader) in [(&ours, &theirs), (&theirs, &ours)] {
            for is_told in [true, false] {
                let image = waiting_image(writer).await;
                let body = if is_told { data.clone().into() } else { chunked(&data) };
                upload(writer, &image, body).await.expect(204);
                for client in [&ours, &theirs] {
                    assert!(download(client, &image).await == data);
                    assert_eq!(client.get(&image).await.expect(200).json()["stores"], "rbd");
                }
                let part = ours.request("GET", &format!("{image}/file")).header("Range", "bytes=1-2").send().await;
                assert_eq!(part.unwrap().bytes().await.unwrap(), data[1..3]);
                let snapshot = format!("{}@snap", id(&image));
                layouts.push((info(&ceph, id(&image)).await, info(&ceph, &snapshot).await));
                let sql = format!("SELECT value, meta_data FROM image_locations WHERE image_id = '{}'", id(&image));
                let found = database.pairs(&sql).await.into_iter().map(|(url, told)| {
                    let told: Value = serde_json::from_str(&told).unwrap();
                    (url.replace(id(&image), "ID"), told)
                });
                rows.push(found.collect::<Vec<_>>());
                reader.delete(&image).await.expect(204);
            }
        }
        assert!(rows.iter().all(|row| *row == rows[0]), "{rows:?}");
        assert!(layouts.iter().all(|layout| *layout == layouts[0]), "{layouts:?}");
        assert_eq!(ceph.objects().await, [""; 0]);
    }
    let detail = async |client: Client| client.get("/v2/info/stores/detail").await.expect(200).json()["stores"].clone();
    let (left, right): (Value, Value) = tokio::join!(detail(s.admin()), detail(glance.admin()));
    assert_eq!(left, right);

    // Images with clones, as Nova makes them.
    for (format, code) in [("1", 409), ("2", 204)] {
        let mut answers = Vec::new();
        for client in [&ours, &theirs] {
            let image = image_with(client, &bytes(MIB)).await;
            let (name, clone) = (id(&image), format!("{}_disk", id(&image)));
            let snapshot = format!("{}/{name}@snap", ceph.pool);
            let target = format!("{}/{clone}", ceph.pool);
            ceph.tool("rbd", &["clone", "--rbd-default-clone-format", format, &snapshot, &target]).await;
            let answer = client.delete(&image).await.expect(code);
            let is_kept = ceph.images().await.iter().any(|other| other == name);
            assert_eq!(is_kept, code == 409);
            if code == 409 {
                assert!(download(client, &image).await == bytes(MIB));
            }
            let exported = dir.path().join("exported");
            ceph.tool("rbd", &["export", "--no-progress", &clone, exported.to_str().unwrap()]).await;
            assert!(std::fs::read(&exported).unwrap() == bytes(MIB));
            std::fs::remove_file(exported).unwrap();
            answers.push(answer.text.replace(name, "ID"));
            ceph.tool("rbd", &["rm", &clone]).await;
            if code == 409 {
                client.delete(&image).await.expect(204);
            } else {
                let trash = ceph.tool("rbd", &["trash", "ls"]).await;
                assert!(trash.contains(name), "{trash}");
                let trashed = trash.lines().find(|line| line.contains(name)).unwrap();
                ceph.tool("rbd", &["trash", "rm", trashed.split(' ').next().unwrap()]).await;
            }
        }
        assert_eq!(answers[0], answers[1]);
    }
    assert_eq!(ceph.objects().await, [""; 0]);
}

/// Nova and Cinder add the locations of their snapshots.
#[tokio::test]
async fn a_service_adds_an_rbd_snapshot_as_a_location() {
    let ceph = Ceph::shared().await;
    let other_pool = ceph.another_pool().await;
    let s =
        with_short_heartbeat().options(&ceph.options()).option("DEFAULT", "show_image_direct_url", true).start().await;
    let (member, service) = (s.member("p1"), s.client(Some("nova:p1:service,member,reader")));
    let theirs = image_with(&member, b"data of another image").await;
    ceph.tool("rbd", &["create", "--size", "2M", "volume 1"]).await;
    ceph.tool("rbd", &["snap", "create", "volume 1@snap"]).await;
    ceph.tool("rbd", &["create", "--size", "2M", "volume2"]).await;
    ceph.tool("rbd", &["snap", "create", "volume2@snap"]).await;
    ceph.tool("rbd", &["snap", "protect", "volume2@snap"]).await;
    let (fsid, pool) = (ceph.fsid(), &ceph.pool);
    let add = async |image: &str, url: &str| service.post(&format!("{image}/locations"), &json!({"url": url})).await;
    let image = waiting_image(&member).await;
    for url in [
        format!("rbd://{fsid}/{pool}/{}/snap", id(&theirs)),
        format!("rbd://{fsid}/{pool}/%{:x}{}/snap", id(&theirs).as_bytes()[0], &id(&theirs)[1..]),
        format!("rbd://{fsid}/{pool}/gone/snap"),
        format!("rbd://{fsid}/{pool}/volume2/gone"),
        format!("rbd://{fsid}/{other_pool}/volume2/snap"),
        format!("rbd://other/{pool}/volume2/snap"),
        format!("rbd://{fsid}/{pool}/volume2"),
        "rbd://volume2".to_owned(),
    ] {
        let image = waiting_image(&member).await;
        let answer = add(&image, &url).await;
        if answer.status == 202 {
            eventually("it is refused", || async { (status(&member, &image).await != "importing").then_some(()) })
                .await;
            assert_ne!(status(&member, &image).await, "active", "{url}");
        }
    }
    add(&image, &format!("rbd://{fsid}/{pool}/volume2/snap")).await.expect(202);
    eventually("it is active", || async { (status(&member, &image).await == "active").then_some(()) }).await;
    assert!(download(&member, &image).await == vec![0; 2 * MIB]);
    member.delete(&image).await.expect(204);
    let mut images = ceph.images().await;
    images.sort();
    let mut expected = [id(&theirs), "volume 1"];
    expected.sort_unstable();
    assert_eq!(images, expected);
}

/// Locations in the forms that Glance has written since it stores images in Ceph.
#[tokio::test]
async fn old_and_escaped_locations_are_read() {
    let ceph = Ceph::shared().await;
    let s = with_short_heartbeat().options(&ceph.options()).start().await;
    let member = s.member("p1");
    let image = image_with(&member, b"data").await;
    ceph.tool("rbd", &["rename", id(&image), "an image é"]).await;
    let set = async |url: &str| {
        let sql = format!("UPDATE image_locations SET value = '{url}' WHERE image_id = '{}'", id(&image));
        s.database.execute(&sql).await;
    };
    let (fsid, pool) = (ceph.fsid(), &ceph.pool);
    set(&format!("rbd://{fsid}/{pool}/an%20image%20%C3%A9/snap")).await;
    assert_eq!(download(&member, &image).await, b"data");
    ceph.tool("rbd", &["rename", "an image é", "plain"]).await;
    set("rbd://plain").await;
    assert_eq!(download(&member, &image).await, b"data");
    for url in ["rbd://a/b", "rbd://", "rbd://a//b/c", "rbd://gone"] {
        set(url).await;
        member.get(&format!("{image}/file")).await.expect(503);
    }
    // As in Glance, the short form has no snapshot, so that the image has one too many.
    set("rbd://plain").await;
    member.delete(&image).await.expect(204);
    assert_eq!(ceph.images().await, [""; 0]);
    assert!(ceph.tool("rbd", &["trash", "ls"]).await.contains("plain"));
}

#[tokio::test]
async fn interrupted_uploads_leave_no_image() {
    let ceph = Ceph::shared().await;
    let mut s = with_short_heartbeat().options(&ceph.options()).start().await;
    let member = s.member("p1");
    let data = bytes(12 * MIB);

    // The client disconnects.
    let image = waiting_image(&member).await;
    let stream = begun_upload(&s.base, &image, &data).await;
    data_is_there(&ceph).await;
    assert!(!ceph.images().await.contains(&id(&image).to_owned()));
    drop(stream);
    nothing_is_left(&member, &image, &ceph).await;

    // The client sends more data than announced.
    let image = waiting_image(&member).await;
    let request = member.request("PUT", &format!("{image}/file")).header("Content-Type", "application/octet-stream");
    let sent = request.header("x-openstack-image-size", data.len() - 1).body(chunked(&data));
    member.send(sent).await.expect(400);
    nothing_is_left(&member, &image, &ceph).await;

    // The image is deleted.
    let image = waiting_image(&member).await;
    let mut stream = begun_upload(&s.base, &image, &data).await;
    data_is_there(&ceph).await;
    member.delete(&image).await.expect(204);
    stream.write_all(&[1; 10]).await.unwrap();
    eventually("nothing is left", || async { ceph.objects().await.is_empty().then_some(()) }).await;

    // Glimpse is killed, at ten points of an upload.
    for point in 0..10 {
        let image = waiting_image(&s.member("p1")).await;
        let sent = match point {
            // All data arrives, and the kill comes a little later each time.
            5.. => &data[..],
            point => &data[..point * data.len() / 5],
        };
        let mut stream = begun_upload(&s.base, &image, sent).await;
        if point >= 5 {
            data_is_there(&ceph).await;
            stream.write_all(&[1; 10]).await.unwrap();
            tokio::time::sleep(Duration::from_millis((point as u64 - 5) * 25)).await;
        } else if point > 0 {
            data_is_there(&ceph).await;
        }
        s.kill();
        s.start_again().await;
        let member = s.member("p1");
        let state = eventually("the image is active or queued", || async {
            let state = status(&member, &image).await;
            (state != "saving").then_some(state)
        })
        .await;
        if state == "active" {
            assert!(download(&member, &image).await.starts_with(&data));
            member.delete(&image).await.expect(204);
            eventually("nothing is left", || async { ceph.objects().await.is_empty().then_some(()) }).await;
        } else {
            // It can be uploaded to immediately, although the cluster still has the image of the killed process open.
            upload(&member, &image, "whole").await.expect(204);
            member.delete(&image).await.expect(204);
            eventually("nothing is left", || async { ceph.objects().await.is_empty().then_some(()) }).await;
        }
    }
}

#[tokio::test]
async fn the_memory_of_eight_uploads_is_bounded() {
    let ceph = Ceph::shared().await;
    let s = with_short_heartbeat().options(&ceph.options()).start().await;
    let member = s.member("p1");
    let part = bytes(MIB);
    let body = || {
        let parts: Vec<_> = (0..64).map(|_| Ok::<_, std::io::Error>(part.clone())).collect();
        reqwest::Body::wrap_stream(futures_util::stream::iter(parts))
    };
    let before = s.peak_memory();
    let uploads = (0..8).map(|_| async {
        let image = waiting_image(&member).await;
        upload(&member, &image, body()).await.expect(204);
        image
    });
    let images: Vec<String> = futures_util::future::join_all(uploads).await;
    let used = s.peak_memory() - before;
    assert!(used < 128 << 20, "{} MiB", used >> 20);
    for image in images {
        member.delete(&image).await.expect(204);
    }
}

#[tokio::test]
async fn a_user_without_permission_and_a_missing_pool_are_reported() {
    let ceph = Ceph::shared().await;
    let config = ceph.config().display().to_string();
    let mut options = ceph.options();
    options.retain(|(_, name, _)| *name != "enabled_backends");
    options.push(("DEFAULT", "enabled_backends", "rbd:rbd, denied:rbd, nopool:rbd, nouser:rbd".to_owned()));
    for (store, pool, user) in
        [("denied", ceph.pool.as_str(), "stranger"), ("nopool", "gone", "glance"), ("nouser", &ceph.pool, "nobody")]
    {
        for (name, value) in [("rbd_store_pool", pool), ("rbd_store_user", user), ("rbd_store_ceph_conf", &config)] {
            options.push((store, name, value.to_owned()));
        }
    }
    let s = with_short_heartbeat().options(&options).start().await;
    let member = s.member("p1");
    for (store, reason) in [
        ("denied", "Insufficient permissions on image storage media: Permission to write image storage media denied."),
        ("nopool", ""),
        ("nouser", ""),
    ] {
        let image = waiting_image(&member).await;
        let request =
            member.request("PUT", &format!("{image}/file")).header("Content-Type", "application/octet-stream");
        let answer = member.send(request.header("X-Image-Meta-Store", store).body("data")).await.expect(503);
        assert!(answer.text.contains(reason), "{}", answer.text);
        assert_eq!(status(&member, &image).await, "queued");
        upload(&member, &image, "data").await.expect(204);
        // Someone else may not remove it either.
        if store == "denied" {
            let sql = format!(
                "UPDATE image_locations SET meta_data = '{{\"store\": \"denied\"}}' WHERE image_id = '{}'",
                id(&image)
            );
            s.database.execute(&sql).await;
            member.delete(&image).await.expect(403);
            assert_eq!(status(&member, &image).await, "active");
            s.database.execute(&sql.replace("denied", "rbd")).await;
        }
        member.delete(&image).await.expect(204);
    }
    assert!(s.log().contains("there is no pool gone"), "{}", s.log());
    assert_eq!(ceph.objects().await, [""; 0]);
}

/// An OSD and the monitor fail, one after the other.
#[tokio::test]
async fn a_cluster_that_fails_is_reported_in_time_and_leaves_nothing() {
    let ceph = Ceph::start().await;
    // An OSD needs some seconds until it responds again.
    let s = with_short_heartbeat().options(&ceph.options()).without("rbd", "rados_connect_timeout");
    let s = s.option("rbd", "rados_connect_timeout", 10).start().await;
    let member = s.member("p1");
    let data = bytes(20 * MIB);
    let kept = image_with(&member, &data).await;
    let begun = async || {
        let image = waiting_image(&member).await;
        let before = ceph.objects().await.len();
        let stream = begun_upload(&s.base, &image, &data).await;
        eventually("there is data", || async { (ceph.objects().await.len() > before + 2).then_some(()) }).await;
        (image, stream)
    };
    let only_kept = async || {
        eventually("nothing else is left", || async { (ceph.images().await == [id(&kept)]).then_some(()) }).await;
    };

    // A short interruption is not noticed.
    let (image, mut stream) = begun().await;
    ceph.kill("osd").await;
    let reading = tokio::spawn({
        let request = member.request("GET", &format!("{kept}/file"));
        async move { request.send().await.unwrap().bytes().await.unwrap() }
    });
    stream.write_all(&[1; 10]).await.unwrap();
    ceph.start_again().await;
    assert!(reading.await.unwrap() == data);
    assert!(answered(&mut stream).await.starts_with("HTTP/1.1 204"));
    member.delete(&image).await.expect(204);

    // The OSD does not respond.
    let (image, mut stream) = begun().await;
    ceph.freeze("osd").await;
    let start = Instant::now();
    stream.write_all(&[1; 10]).await.unwrap();
    let path = format!("{kept}/file");
    let (uploaded, downloaded) = tokio::join!(answered(&mut stream), member.get(&path));
    assert!(uploaded.starts_with("HTTP/1.1 503"), "{uploaded}");
    assert_ne!(downloaded.expect(503).header("retry-after"), "");
    assert_eq!(status(&member, &image).await, "queued");
    assert!(start.elapsed() < Duration::from_secs(40), "{:?}", start.elapsed());
    ceph.thaw("osd").await;
    // What is left does not keep the client from trying again.
    eventually("an upload succeeds", || async {
        (upload(&member, &image, data.clone()).await.status == 204).then_some(())
    })
    .await;
    assert!(download(&member, &image).await == data);
    member.delete(&image).await.expect(204);
    only_kept().await;

    // The monitor does not respond, which is needed for snapshots only.
    ceph.freeze("mon").await;
    let image = waiting_image(&member).await;
    upload(&member, &image, data.clone()).await.expect(503);
    assert!(download(&member, &kept).await == data);
    ceph.thaw("mon").await;
    eventually("an upload succeeds", || async {
        (upload(&member, &image, data.clone()).await.status == 204).then_some(())
    })
    .await;
    member.delete(&image).await.expect(204);
    only_kept().await;
}

#[tokio::test]
async fn an_upload_into_a_full_pool_is_reported_and_leaves_nothing() {
    let ceph = Ceph::shared().await;
    let s = with_short_heartbeat().options(&ceph.options()).start().await;
    let member = s.member("p1");
    let data = bytes(20 * MIB);
    let kept = image_with(&member, &data).await;
    ceph.tool("ceph", &["osd", "pool", "set-quota", &ceph.pool, "max_bytes", "1000000"]).await;
    eventually("it is full", || async {
        ceph.tool("ceph", &["health", "detail"]).await.contains("is full").then_some(())
    })
    .await;
    let image = waiting_image(&member).await;
    let answer = upload(&member, &image, data.clone()).await.expect(413);
    assert!(answer.text.contains("Image storage media is full"), "{}", answer.text);
    assert_eq!(status(&member, &image).await, "queued");
    ceph.tool("ceph", &["osd", "pool", "set-quota", &ceph.pool, "max_bytes", "0"]).await;
    eventually("an upload succeeds", || async { (upload(&member, &image, "whole").await.status == 204).then_some(()) })
        .await;
    assert_eq!(download(&member, &image).await, b"whole");
    member.delete(&kept).await.expect(204);
    eventually("nothing else is left", || async { (ceph.images().await == [id(&image)]).then_some(()) }).await;

    // A download that is dropped closes its image.
    let mut part = member.request("GET", &format!("{image}/file")).send().await.unwrap().bytes_stream();
    part.next().await.unwrap().unwrap();
    drop(part);
    member.delete(&image).await.expect(204);
    eventually("nothing is left", || async { ceph.objects().await.is_empty().then_some(()) }).await;
}

/// Two stores in different clusters: each has its own connection, and a location belongs to the cluster that it names.
#[tokio::test]
async fn stores_in_two_clusters_work_side_by_side() {
    let (ceph, other) = tokio::join!(Ceph::shared(), Ceph::start());
    let mut options = ceph.options();
    options.retain(|(_, name, _)| *name != "enabled_backends");
    options.push(("DEFAULT", "enabled_backends", "rbd:rbd, other:rbd".to_owned()));
    let of_other = other.options().into_iter().filter(|(group, ..)| *group == "rbd");
    options.extend(of_other.map(|(_, name, value)| ("other", name, value)));
    let s = with_short_heartbeat().options(&options).option("DEFAULT", "show_multiple_locations", true).start().await;
    let admin = s.admin();
    let data = bytes(5 * MIB + 7);
    let image = image_with(&admin, &data).await;
    assert_eq!((ceph.images().await, other.images().await), (vec![id(&image).to_owned()], vec![]));
    let copy = json!({"method": {"name": "copy-image"}, "stores": ["other"]});
    import(&admin, &image, &copy).await.expect(202);
    let task = ended(&admin, &image).await;
    assert_eq!(task["status"], "success", "{task}\n{}", s.log());
    let shown = admin.get(&image).await.expect(200).json();
    assert_eq!(shown["stores"], "rbd,other");
    for (at, ceph) in [(0, &ceph), (1, &other)] {
        let url = format!("rbd://{}/{}/{}/snap", ceph.fsid(), ceph.pool, id(&image));
        assert_eq!(shown["locations"][at]["url"], url);
        assert_eq!(ceph.images().await, [id(&image)]);
    }
    let detail = admin.get("/v2/info/stores/detail").await.expect(200).json();
    let fsids = [&detail["stores"][0]["properties"]["fsid"], &detail["stores"][1]["properties"]["fsid"]];
    assert_eq!(fsids, [&json!(ceph.fsid()), &json!(other.fsid())]);
    // Without the store's name, the id of the cluster decides.
    let sql = format!("UPDATE image_locations SET meta_data = '{{}}' WHERE image_id = '{}'", id(&image));
    assert_eq!(s.database.execute(&sql).await, 2);
    admin.delete(&format!("/v2/stores/rbd/{}", id(&image))).await.expect(204);
    assert_eq!((ceph.objects().await, other.images().await), (vec![], vec![id(&image).to_owned()]));
    assert!(download(&admin, &image).await == data);
    let here = image_with(&admin, &data).await;
    for image in [&here, &image] {
        admin.delete(image).await.expect(204);
    }
    assert_eq!(ceph.objects().await, [""; 0]);
    assert_eq!(other.objects().await, [""; 0]);
}

/// The cluster blocks a client, for example when an operator evicts it. The next call connects as another client.
#[tokio::test]
async fn a_blocked_client_connects_again() {
    let ceph = Ceph::shared().await;
    let s = with_short_heartbeat().options(&ceph.options()).start().await;
    let member = s.member("p1");
    let data = bytes(12 * MIB);
    let kept = image_with(&member, &data).await;
    let image = waiting_image(&member).await;
    let mut stream = begun_upload(&s.base, &image, &data).await;
    let written = || async {
        let names = ceph.images().await;
        let name = names.iter().find(|name| name.starts_with(".glimpse-upload."))?;
        let shown = ceph.tool("rbd", &["status", "--format", "json", name]).await;
        let shown: Value = serde_json::from_str(&shown).unwrap();
        Some(shown["watchers"].as_array()?.first()?["address"].as_str()?.to_owned())
    };
    let client = eventually("the upload has its image open", written).await;
    ceph.tool("ceph", &["osd", "blocklist", "add", &client]).await;
    stream.write_all(&[1; 10]).await.unwrap();
    assert_eq!(answered(&mut stream).await, "HTTP/1.1 503");
    assert_eq!(status(&member, &image).await, "queued");
    eventually("an upload succeeds", || async {
        (upload(&member, &image, data.clone()).await.status == 204).then_some(())
    })
    .await;
    assert!(download(&member, &kept).await == data && download(&member, &image).await == data);
    for image in [&kept, &image] {
        member.delete(image).await.expect(204);
    }
    eventually("nothing is left", || async { ceph.objects().await.is_empty().then_some(()) }).await;
    ceph.tool("ceph", &["osd", "blocklist", "rm", &client]).await;
}

#[tokio::test]
async fn missing_libraries_are_one_clear_error_and_other_stores_work() {
    let dir = tempfile::tempdir().unwrap();
    let mut s = with_short_heartbeat()
        .option("DEFAULT", "enabled_backends", "fs:file, rbd:rbd")
        .option("glance_store", "default_backend", "fs")
        .option("fs", "filesystem_store_datadir", dir.path().join("images").display())
        .start()
        .await;
    s.kill();
    let loaded = std::process::Command::new("/sbin/ldconfig").arg("-p").output().unwrap();
    let loaded = String::from_utf8(loaded.stdout).unwrap();
    let library = loaded.lines().find(|line| line.trim_start().starts_with("librados.so.2 ")).unwrap();
    let library = library.split(" => ").last().unwrap();
    let empty = dir.path().join("empty");
    std::fs::write(&empty, "").unwrap();
    if let Err(error) = s.start_again_with(&empty, library).await {
        eprintln!("NOT TESTED: missing libraries of Ceph. {error}");
        return;
    }
    let says = "the store has a fault: it cannot be used: Ceph's libraries librados2 and librbd1 are needed";
    let log = s.log();
    assert_eq!(log.matches(says).count(), 1, "{log}");
    assert!(log.contains("librados.so.2"), "{log}");
    let member = s.member("p1");
    let image = waiting_image(&member).await;
    let sending = member.request("PUT", &format!("{image}/file")).header("Content-Type", "application/octet-stream");
    let answer = member.send(sending.header("X-Image-Meta-Store", "rbd").body("abc")).await.expect(410);
    answer.says("Error in store configuration. Adding images to store is disabled.");
    upload(&member, &image, "abc").await.expect(204);
    assert_eq!(download(&member, &image).await, b"abc");
}
