//! Several nodes with staging folders of their own: requests about staged data go to the node that has it.

use std::path::Path;

use serde_json::json;

use crate::{
    data::{bytes, download, id, waiting_image, with_store},
    import::{ended, import, nothing_is_left, stage, staged},
    keystone,
    support::{Client, Database, Glance, Keystone, ServerBuilder, TestServer, eventually},
};

/// A node with the store in `dir`, and with staged data in `own`.
fn node(dir: &Path, own: &Path, url: &str) -> ServerBuilder {
    with_store(dir).option("os_glance_staging_store", "filesystem_store_datadir", own.join("staging").display()).option(
        "DEFAULT",
        "worker_self_reference_url",
        url,
    )
}

/// Two nodes on one database. The first one is known as `http://first.invalid` until [`has_staged_at`].
struct Nodes {
    dir: tempfile::TempDir,
    first_dir: tempfile::TempDir,
    first: TestServer,
    second: TestServer,
}

async fn nodes() -> Nodes {
    let (dir, first_dir, second_dir) =
        (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let first = node(dir.path(), first_dir.path(), "http://first.invalid").start().await;
    let second =
        node(dir.path(), second_dir.path(), "http://second.invalid").database(first.database.clone()).start().await;
    Nodes { dir, first_dir, first, second }
}

/// Sets the URL of the node that has staged data.
async fn has_staged_at(database: &Database, base: &str) {
    let update = format!("UPDATE image_properties SET value = '{base}' WHERE name = 'os_glance_stage_host'");
    database.execute(&update).await;
}

const DIRECT: &str = "glance-direct";

#[tokio::test]
async fn staged_data_is_imported_and_deleted_through_the_node_that_has_it() {
    let nodes = nodes().await;
    let (here, there) = (nodes.first.member("p1"), nodes.second.member("p1"));
    let image = waiting_image(&here).await;
    let data = bytes(100_000);
    stage(&here, &image, data.clone()).await.expect(204);
    has_staged_at(&nodes.first.database, &nodes.first.base).await;
    let request = there.request("POST", &format!("{image}/import")).header("X-Image-Meta-Store", "fs");
    let answer = there.send(request.json(&json!({"method": {"name": DIRECT}}))).await.expect(202);
    let task = ended(&there, &image).await;
    assert_eq!(task["status"], "success", "{task}");
    // Both nodes use the same id for the request.
    assert_eq!(task["request_id"], answer.header("x-openstack-request-id"));
    assert!(nodes.first.log().contains("the job runs in this process"));
    assert_eq!(download(&there, &image).await, data);
    nothing_is_left(&nodes.first, nodes.first_dir.path()).await;
    let image = waiting_image(&here).await;
    stage(&here, &image, data.clone()).await.expect(204);
    has_staged_at(&nodes.first.database, &nodes.first.base).await;
    nodes.second.reader("p1").delete(&image).await.expect(403);
    nodes.second.member("other").delete(&image).await.expect(404);
    there.delete(&image).await.expect(204);
    assert_eq!(staged(nodes.first_dir.path()), [""; 0]);
    there.get(&image).await.expect(404);
    drop(nodes.dir);
}

#[tokio::test]
async fn the_answer_of_the_other_node_is_the_clients() {
    let nodes = nodes().await;
    let (here, there) = (nodes.first.member("p1"), nodes.second.member("p1"));
    let image = waiting_image(&here).await;
    stage(&here, &image, "abc").await.expect(204);
    has_staged_at(&nodes.first.database, &nodes.first.base).await;
    // The image is protected, which Glance leaves to the other node.
    let patch = json!([{"op": "replace", "path": "/protected", "value": true}]);
    let patched = there.request("PATCH", &image).header("Content-Type", "application/openstack-images-v2.1-json-patch");
    there.send(patched.body(patch.to_string())).await.expect(200);
    there.delete(&image).await.expect(403).says(&format!("Image {} is protected and cannot be deleted.", id(&image)));
    assert_eq!(staged(nodes.first_dir.path()), [id(&image)]);
}

#[tokio::test]
async fn a_node_that_cannot_be_reached_is_reported() {
    let mut nodes = nodes().await;
    let (here, there) = (nodes.first.member("p1"), nodes.second.member("p1"));
    let image = waiting_image(&here).await;
    stage(&here, &image, "abc").await.expect(204);
    has_staged_at(&nodes.first.database, &nodes.first.base).await;
    nodes.first.kill();
    let direct = json!({"method": {"name": DIRECT}});
    import(&there, &image, &direct).await.expect(504).says("Stage host is unavailable");
    // A node that is known by another URL than its own would send requests to itself without end.
    has_staged_at(&nodes.second.database, &nodes.second.base).await;
    import(&there, &image, &direct).await.expect(502).says("Stage host is unavailable");
    let jobs = "SELECT COUNT(*) FROM glimpse_jobs";
    assert_eq!(nodes.second.database.count(jobs).await, 0);
    // The image is deleted nevertheless, and the node's housekeeping removes the data when it is back.
    there.delete(&image).await.expect(204);
    there.get(&image).await.expect(404);
    nodes.first.start_again().await;
    eventually("the staged data is removed", || async { staged(nodes.first_dir.path()).is_empty().then_some(()) })
        .await;
}

#[tokio::test]
async fn nodes_with_a_common_staging_folder_send_nothing_on() {
    let dir = tempfile::tempdir().unwrap();
    let first = node(dir.path(), dir.path(), "http://first.invalid").start().await;
    let second = node(dir.path(), dir.path(), "http://second.invalid").database(first.database.clone()).start().await;
    let (here, there) = (first.member("p1"), second.member("p1"));
    let image = waiting_image(&here).await;
    stage(&here, &image, "abc").await.expect(204);
    import(&there, &image, &json!({"method": {"name": DIRECT}})).await.expect(202);
    assert_eq!(ended(&there, &image).await["status"], "success", "{}", second.log());
    let image = waiting_image(&here).await;
    stage(&here, &image, "abc").await.expect(204);
    there.delete(&image).await.expect(204);
    nothing_is_left(&second, dir.path()).await;
}

/// A Glance that asks Keystone for its callers.
pub(crate) async fn glance_with(keystone: &Keystone, database: &Database) -> Glance {
    Glance::sync(database).await;
    let url = keystone.url();
    let options = [
        ("paste_deploy", "flavor", "keystone"),
        ("keystone_authtoken", "auth_url", url.as_str()),
        ("keystone_authtoken", "auth_type", "password"),
        ("keystone_authtoken", "username", "glance"),
        ("keystone_authtoken", "password", "secret"),
        ("keystone_authtoken", "user_domain_name", "Default"),
        ("keystone_authtoken", "project_name", "service"),
        ("keystone_authtoken", "project_domain_name", "Default"),
    ];
    Glance::start_with(database, &options, &[]).await
}

#[tokio::test]
async fn a_glance_has_the_staged_data_or_asks_for_it() {
    let (dir, images) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let keystone = Keystone::start().await;
    let database = Database::create(dir.path()).await;
    let mut glance = glance_with(&keystone, &database).await;
    glance.kill().await;
    let base = glance.base();
    let more = glance.folder().join("more.conf");
    let text = std::fs::read_to_string(&more).unwrap();
    let own = format!("[DEFAULT]\nworker_self_reference_url = {base}\n[keystone_authtoken]\nregion_name = RegionOne\n");
    std::fs::write(&more, text + &own).unwrap();
    glance.start_again().await;
    let ours = keystone::with(&keystone)
        .option("DEFAULT", "enabled_backends", "fs:file")
        .option("glance_store", "default_backend", "fs")
        .option("fs", "filesystem_store_datadir", glance.folder().join("images").display())
        .option("os_glance_staging_store", "filesystem_store_datadir", images.path().join("staging").display())
        .option("DEFAULT", "worker_self_reference_url", "http://ours.invalid")
        .database(database.clone())
        .start()
        .await;
    let token = keystone.token("member1", "p1").await;
    let (theirs, member) = (Client::new(&base, Some(&token)), ours.client(Some(&token)));
    let direct = json!({"method": {"name": DIRECT}});
    // Staged by Glance, imported and deleted through Glimpse.
    let image = waiting_image(&theirs).await;
    stage(&theirs, &image, "abc").await.expect(204);
    import(&member, &image, &direct).await.expect(202);
    assert_eq!(ended(&member, &image).await["status"], "success", "{}", ours.log());
    assert_eq!(download(&member, &image).await, b"abc");
    let image = waiting_image(&theirs).await;
    stage(&theirs, &image, "abc").await.expect(204);
    member.delete(&image).await.expect(204);
    assert!(!glance.folder().join("staging").join(id(&image)).exists());
    // Staged by Glimpse, imported through Glance.
    let image = waiting_image(&member).await;
    stage(&member, &image, "abc").await.expect(204);
    // Glance fails if the other node does not answer, and if it refuses.
    has_staged_at(&database, "http://127.0.0.1:1").await;
    import(&theirs, &image, &direct).await.expect(500);
    has_staged_at(&database, &ours.base).await;
    import(&theirs, &image, &direct).await.expect(202);
    assert_eq!(ended(&member, &image).await["status"], "success", "{}", ours.log());
    assert_eq!(download(&theirs, &image).await, b"abc");
}
