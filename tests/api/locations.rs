//! Changes of locations by clients: which URLs they may add, and the effect on the image.

use std::{
    fs,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{
    data::{download, files, image_with, upload, waiting_image},
    support::{Answer, Client, Dns, Engine, Persona, Question, ServerBuilder, TestServer, Twins, Web, eventually},
};

const V21: &str = "application/openstack-images-v2.1-json-patch";
pub(crate) const HASH: &str = "9b71d224bd62f3785d96d46ad3ea3d73319bfbc2890caadae2dff72519673ca72323c3d99ba5c11d7c7acc6e14b8c5da0c46\
    63475c2e5c3adef46f73bcdec043";

/// The pages of a web server. `HOST` stands for its address.
pub(crate) const PAGES: [(&str, &str); 12] = [
    ("/a", "200 OK\r\nContent-Length: 5\r\n\r\nhello"),
    ("/b", "200 OK\r\nContent-Length: 5\r\n\r\nhello"),
    ("/c", "200 OK\r\nContent-Length: 5\r\n\r\nhello"),
    ("/empty", "200 OK\r\nContent-Length: 0\r\n\r\n"),
    ("/unsized", "200 OK\r\n\r\nhello"),
    ("/moved", "302 Found\r\nLocation: http://HOST/a\r\nContent-Length: 0\r\n\r\n"),
    ("/aside", "302 Found\r\nLocation: /a\r\nContent-Length: 0\r\n\r\n"),
    ("/inside", "302 Found\r\nLocation: http://169.254.169.254/a\r\nContent-Length: 0\r\n\r\n"),
    ("/spelled", "302 Found\r\nLocation: http://0x7f.1/a\r\nContent-Length: 0\r\n\r\n"),
    ("/round", "301 Moved\r\nLocation: http://HOST/round\r\nContent-Length: 0\r\n\r\n"),
    ("/other", "307 Moved\r\nLocation: http://HOST/a\r\nContent-Length: 0\r\n\r\n"),
    ("/broken", "500 Broken\r\nContent-Length: 0\r\n\r\n"),
];

/// Hosts that are this machine, and hosts that some programs take for it.
pub(crate) const OWN_HOSTS: [&str; 24] = [
    "127.0.0.1",
    "127.1",
    "127.0.0.1.",
    "2130706433",
    "0x7f000001",
    "0x7f.1",
    "0177.0.0.1",
    "017700000001",
    "localhost",
    "LOCALHOST",
    "localhost.",
    "[::1]",
    "[::ffff:127.0.0.1]",
    "[::127.0.0.1]",
    "[64:ff9b::7f00:1]",
    "[::]",
    "0.0.0.0",
    "0",
    "u:p@127.0.0.1",
    "a.example\\@127.0.0.1",
    "１２７.0.0.1",
    "127%2e0.0.1",
    "127.0.0.1%00",
    "127。0。0。1",
];

/// Options that allow users to add URLs of web servers on this machine.
const OPEN: [(&str, &str, &str); 4] = [
    ("DEFAULT", "show_multiple_locations", "true"),
    ("DEFAULT", "show_image_direct_url", "true"),
    ("import_filtering_opts", "allowed_hosts", "[127.0.0.1]"),
    ("import_filtering_opts", "allowed_ports", "[]"),
];

fn open() -> ServerBuilder {
    OPEN.into_iter().fold(TestServer::builder(), |server, (group, name, value)| server.option(group, name, value))
}

async fn patch(client: &Client, image: &str, operations: &Value) -> Answer {
    client.send(client.request("PATCH", image).header("Content-Type", V21).body(operations.to_string())).await
}

fn location(url: &str) -> Value {
    json!({"url": url, "metadata": {}})
}

fn add(at: &str, location: &Value) -> Value {
    json!([{"op": "add", "path": format!("/locations/{at}"), "value": location}])
}

fn remove(at: &str) -> Value {
    json!([{"op": "remove", "path": format!("/locations/{at}")}])
}

fn replace(locations: &Value) -> Value {
    json!([{"op": "replace", "path": "/locations", "value": locations}])
}

/// Each row is a sequence of patches of one image.
#[tokio::test]
async fn locations_are_changed_as_in_glance() {
    if Engine::under_test() == Engine::Postgres {
        // Glance returns locations in no defined order on this engine.
        return;
    }
    let web = Web::start(&PAGES).await;
    let policy = "delete_image_location: 'role:member'\nget_image_location: '!'\n\
        set_image_location: 'role:member and not project_id:p3'\n";
    let dir = tempfile::tempdir().unwrap();
    let ours = TestServer::builder().option("glance_store", "default_backend", "fs").option(
        "fs",
        "filesystem_store_datadir",
        dir.path().display(),
    );
    let mut options = OPEN.to_vec();
    options.extend([
        ("DEFAULT", "enabled_backends", "fs:file, web:http"),
        ("DEFAULT", "image_location_quota", "3"),
        ("DEFAULT", "user_storage_quota", "40"),
    ]);
    let twins = Twins::start_alike(ours, &options, &[("policy.yaml", policy)]).await;
    let url = |path: &str| format!("{}{path}", web.base());
    let on = |path: &str| location(&url(path));
    let claiming = |path: &str, claims: Value| {
        let mut location = on(path);
        location["validation_data"] = claims;
        location
    };
    let full = json!({"checksum": "5d41402abc4b2a76b9719d911017c592", "os_hash_algo": "sha512", "os_hash_value": HASH});
    let with = |name: &str, value: &str| {
        let mut claims = full.clone();
        claims[name] = json!(value);
        claims
    };
    let tagged = |path: &str, metadata: Value| json!({"url": url(path), "metadata": metadata});
    let formats = json!([{"op": "replace", "path": "/disk_format", "value": "raw"}]);
    let lives: Vec<Vec<Value>> = vec![
        vec![add("-", &on("/a")), add("-", &on("/b")), add("0", &on("/c")), add("-", &on("/moved"))],
        vec![add("-", &on("/a")), add("-", &on("/a")), add("1", &tagged("/a", json!({"store": "fs"})))],
        vec![add("7", &on("/a")), add("x", &on("/b")), add("-1", &on("/b")), add("", &on("/b")), add("01", &on("/b"))],
        vec![add("-", &on("/a")), remove("0"), remove("-"), add("-", &on("/b")), remove("2"), remove("x"), remove("-")],
        vec![add("-", &on("/a")), add("-", &on("/b")), remove("0"), remove("0"), add("-", &on("/a"))],
        vec![remove("0")],
        vec![replace(&json!([on("/a"), on("/b")])), replace(&json!([on("/a")])), replace(&json!([]))],
        vec![replace(&json!([on("/a"), on("/a")])), replace(&json!([on("/a"), on("/b"), on("/c"), on("/moved")]))],
        vec![
            replace(&json!([on("/a"), on("/b")])),
            replace(&json!([tagged("/b", json!({"k": "v"})), tagged("/a", json!({"k": ["v", {"w": "é"}]}))])),
            add("-", &tagged("/b", json!({"k": "v", "store": "web"}))),
        ],
        vec![
            replace(&json!([on("/gone")])),
            replace(&json!([on("/broken")])),
            replace(&json!([on("/a"), on("/gone")])),
        ],
        vec![add("-", &on("/gone")), add("-", &on("/broken")), add("-", &on("/empty")), add("-", &on("/unsized"))],
        vec![add("-", &on("/moved")), add("-", &on("/gone")), add("-", &on("/broken")), add("-", &on("/empty"))],
        vec![add("-", &on("/other")), add("-", &on("/a")), add("-", &on("/other"))],
        vec![
            add("-", &location("http://127.0.0.1:1/a")),
            add("-", &on("/a")),
            add("-", &location("http://127.0.0.1:1/a")),
            add("-", &location(&url("/a").replace("127.0.0.1", "localhost"))),
            add("-", &location(&url("/a").replace("127.0.0.1", "2130706433"))),
            add("-", &location(&url("/a").replace("127.0.0.1", "127.1"))),
            add("-", &location(&url("/a").replace("127.0.0.1", "[::ffff:127.0.0.1]"))),
            add("-", &location(&url("/a").replace("127.0.0.1", "127.0.0.1@169.254.169.254"))),
            add("-", &location("file:///etc/passwd")),
            add("-", &location("filesystem:///etc/passwd")),
            add("-", &location("swift+config://x/y/z")),
            add("-", &location("ftp://127.0.0.1/a")),
            add("-", &location("nope")),
            add("-", &location("")),
            add("-", &location("http://")),
            add("-", &location(&url("/a").replace("http:", "HTTP:"))),
            add("-", &location(&url("/a").replace("http://", "http://u:p@"))),
        ],
        vec![add("-", &location("file:///etc/passwd")), replace(&json!([location("file:///etc/passwd")]))],
        vec![add("-", &json!({"url": url("/a")})), add("-", &json!([])), replace(&json!({})), replace(&json!("x"))],
        vec![add("-", &json!({"url": 1, "metadata": {}})), add("-", &json!({"url": "a".repeat(256), "metadata": {}}))],
        vec![
            add("-", &claiming("/a", with("checksum", "zz41402abc4b2a76b9719d911017c592"))),
            add("-", &claiming("/a", with("checksum", "5d41402abc4b2a76 9719d911017c592"))),
            add("-", &claiming("/a", with("checksum", "5d"))),
            add("-", &claiming("/a", with("os_hash_algo", "sha256"))),
            add("-", &claiming("/a", with("os_hash_value", "abc"))),
            add("-", &claiming("/a", with("os_hash_value", "abcd"))),
            add("-", &claiming("/a", with("nope", "abcd"))),
            add("-", &claiming("/a", json!({"os_hash_value": HASH}))),
            replace(&json!([claiming("/a", full.clone()), claiming("/b", with("os_hash_value", "ab"))])),
            add("-", &claiming("/a", full.clone())),
            add("-", &claiming("/b", full.clone())),
            add("-", &claiming("/c", with("checksum", "00000000000000000000000000000000"))),
        ],
        vec![add("-", &on("/a")), add("-", &claiming("/b", full.clone())), add("-", &claiming("/b", json!({})))],
        // Operations are applied in order, and either all or none take effect.
        vec![
            json!([add("-", &on("/a"))[0], {"op": "replace", "path": "/disk_format", "value": "qcow2"}]),
            json!([{"op": "replace", "path": "/name", "value": "x"}, add("-", &on("/gone"))[0]]),
            json!([add("-", &on("/a"))[0], add("-", &on("/b"))[0], remove("0")[0]]),
        ],
        // Five bytes each, so the second image's locations fill the quota.
        vec![
            replace(&json!([on("/a"), on("/b"), on("/c")])),
            replace(&json!([tagged("/a", json!({})), tagged("/b", json!({})), tagged("/c", json!({"k": "v"}))])),
        ],
    ];
    let member = Persona::Member("p1");
    let mut images = 0;
    let mut create = async |more: Value| {
        images += 1;
        let mut body = json!({"id": format!("{images:08x}-5c61-48ff-b4f3-0ad4e5e3ba90")});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        twins.same(&Question::new(member, "POST", "/v2/images").json(&body)).await;
        format!("/v2/images/{}", body["id"].as_str().unwrap())
    };
    for (n, life) in lives.iter().enumerate() {
        let image = create(json!({"disk_format": "raw", "container_format": "bare"})).await;
        for operations in life {
            // Glance's response also contains the other keys that the client sent with a location.
            twins.same(&Question::new(member, "PATCH", &image).patch(operations).ignoring(&["locations"])).await;
        }
        twins.same(&Question::new(member, "GET", &image)).await;
        if n % 5 == 0 {
            twins.same(&Question::new(member, "DELETE", &image)).await;
        }
        // This is faster than deleting the other images, and also frees the quota for the next one.
        twins.both("UPDATE images SET deleted = true, status = 'deleted'").await;
    }
    // A queued image needs its formats before a location can be added.
    let image = create(json!({"container_format": "bare"})).await;
    for operations in [add("-", &on("/a")), formats, add("-", &on("/a"))] {
        twins.same(&Question::new(member, "PATCH", &image).patch(&operations)).await;
    }
    let image = create(json!({})).await;
    for operations in [add("-", &on("/a")), replace(&json!([on("/a")]))] {
        twins.same(&Question::new(member, "PATCH", &image).patch(&operations)).await;
    }
    // In the response to a patch, locations are in the requested order; later they are in the order in which they were
    // added.
    let image = create(json!({"disk_format": "raw", "container_format": "bare", "visibility": "community"})).await;
    for operations in [add("-", &on("/a")), add("0", &on("/b"))] {
        twins.same(&Question::new(member, "PATCH", &image).patch(&operations)).await;
    }
    for persona in [member, Persona::Admin, Persona::Reader("p1"), Persona::Member("p3"), Persona::Reader("p2")] {
        twins.same(&Question::new(persona, "GET", &image)).await;
        for operations in [add("-", &on("/c")), remove("0"), replace(&json!([on("/a")])), replace(&json!([]))] {
            twins.same(&Question::new(persona, "PATCH", &image).patch(&operations).ignoring(&["locations"])).await;
        }
    }
    // The owner of a deactivated image does not see its locations.
    twins.same(&Question::new(member, "POST", format!("{image}/actions/deactivate"))).await;
    for persona in [member, Persona::Admin] {
        twins.same(&Question::new(persona, "GET", &image)).await;
        for operations in [add("-", &on("/c")), remove("0"), replace(&json!([on("/a")]))] {
            twins.same(&Question::new(persona, "PATCH", &image).patch(&operations)).await;
        }
        twins.same(&Question::new(persona, "GET", "/v2/images")).await;
    }
}

#[tokio::test]
async fn the_data_of_an_image_may_be_on_a_web_server_or_in_a_store() {
    let web = Web::start(&PAGES).await;
    let dir = tempfile::tempdir().unwrap();
    let s = open().option("glance_store", "filesystem_store_datadir", dir.path().display()).start().await;
    let member = s.member("p1");
    let there = location(&format!("{}/a", web.base()));
    let image = waiting_image(&member).await;
    let added = patch(&member, &image, &add("-", &there)).await.expect(200).json();
    assert_eq!(added, member.get(&image).await.json());
    assert_eq!((&added["status"], &added["size"]), (&json!("active"), &json!(5)));
    assert_eq!((&added["locations"], &added["direct_url"]), (&json!([there]), &there["url"]));
    assert_eq!(download(&member, &image).await, b"hello");
    upload(&member, &image, "hello").await.expect(409);
    // The data of a removed location is removed as well, even if other operations of the patch change something else.
    let image = image_with(&s.admin(), b"hello").await;
    assert_eq!(files(dir.path()).len(), 1);
    let mut both = add("0", &there).as_array().unwrap().clone();
    both.extend(remove("1").as_array().unwrap().clone());
    both.push(json!({"op": "add", "path": "/name", "value": "x"}));
    let moved = patch(&s.admin(), &image, &json!(both)).await.expect(200).json();
    assert_eq!((&moved["locations"], &moved["name"]), (&json!([there]), &json!("x")));
    assert_eq!(files(dir.path()), [""; 0]);
    assert_eq!(download(&s.admin(), &image).await, b"hello");
    s.admin().delete(&image).await.expect(204);
    assert_eq!(s.database.count("SELECT COUNT(*) FROM image_locations WHERE NOT deleted").await, 1);
}

/// A client may give any store name: the data is read and removed where the URL points.
#[tokio::test]
async fn a_store_name_given_by_a_client_is_ignored() {
    let dir = tempfile::tempdir().unwrap();
    let s = open()
        .option("DEFAULT", "enabled_backends", "one:file, other:file")
        .option("glance_store", "default_backend", "one")
        .option("one", "filesystem_store_datadir", dir.path().join("one").display())
        .option("other", "filesystem_store_datadir", dir.path().join("other").display())
        .start()
        .await;
    let member = s.member("p1");
    let image = image_with(&member, b"hello").await;
    let mut known = member.get(&image).await.json()["locations"].clone();
    for store in ["other", "nope"] {
        known[0]["metadata"] = json!({"store": store, "k": "v"});
        let said = patch(&member, &image, &replace(&known)).await.expect(200).json();
        assert_eq!(said["locations"][0]["metadata"], json!({"store": "one", "k": "v"}));
        assert_eq!(said["stores"], "one");
    }
    // As in an older database.
    s.database.execute("UPDATE image_locations SET meta_data = '{\"store\": \"other\"}'").await;
    assert_eq!(download(&member, &image).await, b"hello");
    member.delete(&image).await.expect(204);
    assert_eq!(files(&dir.path().join("one")), [""; 0]);
}

#[tokio::test]
async fn a_location_left_to_the_scrubber_is_marked_pending_delete() {
    let web = Web::start(&PAGES).await;
    let dir = tempfile::tempdir().unwrap();
    let server = open().option("DEFAULT", "delayed_delete", true);
    let s = server.option("glance_store", "filesystem_store_datadir", dir.path().display()).start().await;
    let image = image_with(&s.admin(), b"hello").await;
    patch(&s.admin(), &image, &add("-", &location(&format!("{}/a", web.base())))).await.expect(200);
    patch(&s.admin(), &image, &remove("0")).await.expect(200);
    assert_eq!(files(dir.path()).len(), 1);
    let pending = "SELECT COUNT(*) FROM image_locations WHERE status = 'pending_delete' AND deleted";
    assert_eq!(s.database.count(pending).await, 1);
}

/// If the store refuses to remove the data, the location stays, and the other changes take effect.
#[tokio::test]
async fn a_location_whose_data_cannot_be_removed_stays() {
    let web = Web::start(&PAGES).await;
    let dir = tempfile::tempdir().unwrap();
    let s = open().option("glance_store", "filesystem_store_datadir", dir.path().display()).start().await;
    let image = image_with(&s.admin(), b"hello").await;
    patch(&s.admin(), &image, &add("-", &location(&format!("{}/a", web.base())))).await.expect(200);
    // A folder cannot be unlinked.
    let file = dir.path().join(image.rsplit('/').next().unwrap());
    std::fs::remove_file(&file).unwrap();
    std::fs::create_dir(&file).unwrap();
    let answer = patch(&s.admin(), &image, &remove("0")).await;
    assert!(answer.status.as_u16() == 403 || answer.status.as_u16() == 503, "{}", answer.text);
    let shown = s.admin().get(&image).await.expect(200).json();
    assert_eq!(shown["locations"].as_array().unwrap().len(), 2);
    if Engine::under_test() != Engine::Sqlite {
        return;
    }
    // If the image is deleted concurrently, its removal stays recorded.
    let deletes = "CREATE TRIGGER deletes AFTER UPDATE OF status ON image_locations WHEN NEW.status = 'pending_delete' \
        BEGIN UPDATE images SET deleted = 1, status = 'deleted' WHERE id = NEW.image_id; END";
    s.database.execute(deletes).await;
    let answer = patch(&s.admin(), &image, &remove("0")).await;
    assert!(answer.status.as_u16() == 403 || answer.status.as_u16() == 503, "{}", answer.text);
    let noted = "SELECT COUNT(*) FROM image_locations WHERE status = 'pending_delete' AND deleted";
    assert_eq!(s.database.count(noted).await, 1);
}

#[tokio::test]
async fn concurrent_location_changes_see_each_other() {
    let web = Web::start(&PAGES).await;
    let s = open().start().await;
    let image = waiting_image(&s.admin()).await;
    let there = add("-", &location(&format!("{}/a", web.base())));
    let (admin, image) = (s.admin(), image.as_str());
    let statuses = async |operations: &Value| {
        let once = || async { patch(&admin, image, operations).await.status.as_u16() };
        let (a, b, c, d) = tokio::join!(once(), once(), once(), once());
        let mut statuses = [a, b, c, d];
        statuses.sort_unstable();
        statuses
    };
    assert_eq!(statuses(&there).await, [200, 400, 400, 400]);
    for path in ["/b", "/c"] {
        patch(&admin, image, &add("-", &location(&format!("{}{path}", web.base())))).await.expect(200);
    }
    assert_eq!(statuses(&remove("-")).await, [200, 200, 403, 403]);
    assert_eq!(admin.get(image).await.json()["locations"].as_array().unwrap().len(), 1);
}

/// A request by a caller that is not allowed to add a location never reaches the web server.
#[tokio::test]
async fn a_location_that_will_be_refused_triggers_no_outbound_request() {
    let web = Web::start(&PAGES).await;
    let there = add("-", &location(&format!("{}/a", web.base())));
    let policy = "set_image_location: ''\n";
    let s = open().file("policy.yaml", policy).option("DEFAULT", "image_location_quota", 0).start().await;
    let public = json!({"disk_format": "raw", "container_format": "bare", "visibility": "public"});
    let image = s.admin().create_image(&public).await;
    patch(&s.member("p2"), &image, &there).await.expect(403).says("You do not own this image");
    patch(&s.admin(), &image, &there).await.expect(413).says("allowed image locations. Attempted: 1, Maximum: 0");
    let mut faulty = json!([{"op": "remove", "path": "/nope"}]).as_array().unwrap().clone();
    faulty.extend(there.as_array().unwrap().clone());
    patch(&s.admin(), &image, &json!(faulty)).await.expect(409);
    patch(&s.member("p2"), "/v2/images/00000000-0000-0000-0000-000000000000", &there).await.expect(404);
    assert_eq!(web.requests(), [""; 0]);
    // By default, locations are invisible and cannot be changed.
    let s = TestServer::start().await;
    let image = waiting_image(&s.admin()).await;
    let says = "not allowed to add locations if locations are invisible.";
    patch(&s.admin(), &image, &there).await.expect(403).says(says);
    assert_eq!(web.requests(), [""; 0]);
}

/// Without an option, URLs of this machine are refused, in any spelling and also as the target of a redirect.
#[tokio::test]
async fn only_allowed_urls_are_accepted_as_locations() {
    let web = Web::start(&PAGES).await;
    let closed = TestServer::builder().option("DEFAULT", "show_multiple_locations", true).option(
        "import_filtering_opts",
        "allowed_ports",
        "[]",
    );
    let s = closed.start().await;
    let admin = s.admin();
    let image = waiting_image(&admin).await;
    for host in OWN_HOSTS {
        let there = location(&format!("http://{host}:{}/a", web.port));
        patch(&admin, &image, &add("-", &there)).await.expect(400);
    }
    assert_eq!(web.requests(), [""; 0]);
    assert!(!s.log().contains("u:p@"));
    let s = open().start().await;
    let (admin, base) = (s.admin(), web.base());
    let image = waiting_image(&admin).await;
    for path in ["/inside", "/spelled", "/round"] {
        patch(&admin, &image, &add("-", &location(&format!("{base}{path}")))).await.expect(400);
    }
    patch(&admin, &image, &add("-", &location(&format!("{base}/aside")))).await.expect(200);
    assert_eq!(web.requests().iter().filter(|request| *request == "HEAD /round").count(), 5);
    // The log contains the reason why there is no response.
    let silent = patch(&admin, &image, &add("-", &location("http://127.0.0.1:1/a"))).await.expect(400);
    let told = s.log_of(&silent).await;
    assert!(told.iter().any(|line| line.contains("Connection refused")), "{told:?}");
    let refused = s.log().matches("a location is refused").count();
    assert_eq!(refused, 2, "{}", s.log());
}

/// URLs of users are checked before they are sent to a proxy, and only the configured proxy is used.
#[tokio::test]
async fn only_the_configured_proxy_is_used() {
    let web = Web::start(&PAGES).await;
    let proxy = Web::start(&[("http://127.0.0.1:1/a", "200 OK\r\nContent-Length: 5\r\n\r\nhello")]).await;
    let by_proxy = open().option("glance_store", "http_proxy_information", format!("http:127.0.0.1:{}", proxy.port));
    let s = by_proxy.start().await;
    let image = waiting_image(&s.admin()).await;
    // The host's addresses belong to this machine, and the option allows another host.
    patch(&s.admin(), &image, &add("-", &location("http://localhost:1/a"))).await.expect(400);
    assert_eq!(proxy.requests(), [""; 0]);
    patch(&s.admin(), &image, &add("-", &location("http://127.0.0.1:1/a"))).await.expect(200);
    assert_eq!(download(&s.admin(), &image).await, b"hello");
    assert_eq!(proxy.requests(), ["HEAD http://127.0.0.1:1/a", "GET http://127.0.0.1:1/a"]);
    let s = open().environment("http_proxy", &proxy.base()).start().await;
    let image = waiting_image(&s.admin()).await;
    patch(&s.admin(), &image, &add("-", &location(&format!("{}/a", web.base())))).await.expect(200);
    assert_eq!(download(&s.admin(), &image).await, b"hello");
    assert_eq!((web.requests().len(), proxy.requests().len()), (2, 2));
}

/// A location that was added earlier or by other means is read only if its addresses are not those of this machine: a
/// name may have pointed to another machine when it was added.
#[tokio::test]
async fn a_stored_location_is_read_only_from_allowed_addresses() {
    let other = Web::start(&PAGES).await;
    let elsewhere = format!("302 Found\r\nLocation: {}/a\r\nContent-Length: 0\r\n\r\n", other.base());
    let web = Web::start(&[PAGES.as_slice(), &[("/elsewhere", elsewhere.leak())]].concat()).await;
    let id = "00000000-0000-4000-8000-000000000001";
    let create = json!({"id": id, "disk_format": "raw", "container_format": "bare"});
    let at = async |s: &TestServer, url: &str| {
        s.database.execute(&format!("UPDATE image_locations SET value = '{url}'")).await;
        s.admin().get(&format!("/v2/images/{id}/file")).await
    };
    let by_name = format!("http://localhost:{}/a", web.port);
    for (allowed, status) in [("[localhost, 127.0.0.1]", 200), ("[]", 503)] {
        let s = TestServer::builder().option("import_filtering_opts", "allowed_hosts", allowed).start().await;
        s.admin().create_image(&create).await;
        s.database.execute("UPDATE images SET status = 'active', size = 5").await;
        let columns = "image_id, value, meta_data, status, created_at, deleted";
        let values = format!("'{id}', 'x', '{{}}', 'active', '2026-01-01 00:00:00', '0'");
        s.database.execute(&format!("INSERT INTO image_locations ({columns}) VALUES ({values})")).await;
        let before = web.requests().len();
        for url in [&by_name, &format!("{}/a", web.base())] {
            at(&s, url).await.expect(status);
        }
        let asked = web.requests().len() - before;
        assert_eq!(asked, if status == 200 { 2 } else { 0 });
        // A redirect to this machine's link-local addresses is not allowed by any option here.
        at(&s, &format!("{}/inside", web.base())).await.expect(503);
        if status == 200 {
            // The location's own server may redirect, but not to a port that users are not allowed to name.
            at(&s, &format!("{}/moved", web.base())).await.expect(200);
            at(&s, &format!("{}/elsewhere", web.base())).await.expect(503);
            assert_eq!(other.requests(), [""; 0]);
        }
    }
}

/// The name servers of some names never answer. Their projects occupy few lookups, and lookups for downloads do not wait for those of
/// new locations.
#[tokio::test]
async fn silent_name_servers_do_not_stop_the_downloads_of_other_projects() {
    const WEB: &str = "web.example.org";
    let web = Web::start(&PAGES).await;
    let dns = match Dns::start(WEB) {
        Ok(dns) => dns,
        // .config/nextest.toml makes nextest show this output.
        Err(error) => return eprintln!("NOT TESTED: silent name servers. {error}"),
    };
    let dir = tempfile::tempdir().unwrap();
    let resolver = dir.path().join("resolv.conf");
    fs::write(&resolver, format!("nameserver {}\noptions timeout:30 attempts:1\n", dns.address)).unwrap();
    let new = |project: usize, n: usize| format!("new-{project}-{n}.example.org");
    let mut allowed: Vec<_> = (0..5).flat_map(|project| (0..3).map(move |n| new(project, n))).collect();
    allowed.push(WEB.to_owned());
    let mut s =
        open().option("import_filtering_opts", "allowed_hosts", format!("[{}]", allowed.join(", "))).start().await;
    if let Err(error) = s.start_again_with(&resolver, "/etc/resolv.conf").await {
        return eprintln!("NOT TESTED: silent name servers. {error}");
    }
    let mut stored = Vec::new();
    for n in 0..12 {
        stored.push((s.member("kept"), format!("http://kept-{n}.example.org/a")));
    }
    stored.push((s.member("other"), format!("http://{WEB}:{}/a", web.port)));
    let mut images = Vec::new();
    for (member, url) in stored {
        let image = waiting_image(&member).await;
        let id = image.rsplit('/').next().unwrap().to_owned();
        let columns = "image_id, value, meta_data, status, created_at, deleted";
        let values = format!("'{id}', '{url}', '{{}}', 'active', '2026-01-01 00:00:00', '0'");
        s.database.execute(&format!("UPDATE images SET status = 'active', size = 5 WHERE id = '{id}'")).await;
        s.database.execute(&format!("INSERT INTO image_locations ({columns}) VALUES ({values})")).await;
        images.push((member, image));
    }
    let (other, image) = images.pop().unwrap();
    let downloads: Vec<_> = images
        .into_iter()
        .map(|(member, image)| tokio::spawn(async move { member.get(&format!("{image}/file")).await }))
        .collect();
    let mut additions = tokio::task::JoinSet::new();
    for (project, n) in (0..5).flat_map(|project| (0..3).map(move |n| (project, n))) {
        let member = s.member(&format!("p{project}"));
        let (image, there) =
            (waiting_image(&member).await, add("-", &location(&format!("http://{}/a", new(project, n)))));
        additions.spawn(async move { patch(&member, &image, &there).await });
    }
    // Eight lookups for new locations, and two for downloads of one project.
    eventually("the lookups are in progress", || async {
        (dns.unanswered("kept") >= 2 && dns.unanswered("new") >= 8).then_some(())
    })
    .await;
    let begun = Instant::now();
    assert_eq!(download(&other, &image).await, b"hello");
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert_eq!((dns.unanswered("kept"), dns.unanswered("new")), (2, 8));
    for download in downloads {
        download.await.unwrap().expect(503);
    }
}
