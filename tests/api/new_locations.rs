//! The API of locations: which locations are added, the hash of their data, and kills of the server.

use std::{fs, path::Path, time::Duration};

use serde_json::{Value, json};

use crate::{
    data::{download, files, id, image_with, status, upload, waiting_image, with_store},
    import::{page, web},
    locations::{HASH, OWN_HOSTS, PAGES},
    support::{
        Answer, Client, Database, Glance, Persona, Question, S3, ServerBuilder, TestServer, Twins, Web, eventually,
    },
};

/// The MD5 and the SHA-256 of the pages' data.
const MD5: &str = "5d41402abc4b2a76b9719d911017c592";
const SHA256: &str = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
const STALLED: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nheSTALL";
const CUT: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe";
const BROKEN: &[u8] = b"HTTP/1.1 500 Broken\r\nContent-Length: 0\r\n\r\n";
const GONE: &[u8] = b"HTTP/1.1 404 Gone\r\nContent-Length: 0\r\n\r\n";

/// Builds a server with a file store and a store of web servers, which fetches URLs of this machine.
fn open(dir: &Path) -> ServerBuilder {
    with_store(dir)
        .without("DEFAULT", "enabled_backends")
        .option("DEFAULT", "enabled_backends", "fs:file,web:http")
        .option("import_filtering_opts", "allowed_hosts", "[127.0.0.1]")
        .option("import_filtering_opts", "allowed_ports", "[]")
}

fn claimed(url: &str, algorithm: &str, value: &str) -> Value {
    json!({"url": url, "validation_data": {"os_hash_algo": algorithm, "os_hash_value": value}})
}

async fn add(client: &Client, image: &str, body: &Value) -> Answer {
    client.post(&format!("{image}/locations"), body).await
}

/// The service, with a token of its own.
fn service(s: &TestServer) -> Client {
    s.client(Some("nova:p1:service,member,reader"))
}

/// Waits until the location is added, or cannot be, and returns the image.
async fn settled(client: &Client, image: &str) -> Value {
    eventually("the task has ended", || async {
        let shown = client.get(image).await.expect(200).json();
        shown.get("os_glance_import_task").is_none().then_some(shown)
    })
    .await
}

/// The status of the image, the size of its data, its hashes, and the status of its last task.
async fn outcome(client: &Client, image: &str) -> (Value, Value) {
    let shown = settled(client, image).await;
    let tasks = client.get(&format!("{image}/tasks")).await.expect(200).json();
    let task = tasks["tasks"].as_array().unwrap().last().unwrap().clone();
    let names = ["status", "size", "checksum", "os_hash_algo", "os_hash_value"];
    (names.iter().map(|name| shown[*name].clone()).collect(), task["status"].clone())
}

async fn locations(client: &Client, image: &str) -> Value {
    client.get(&format!("{image}/locations")).await.expect(200).json()
}

/// Checks that no job is left.
async fn nothing_is_left(s: &TestServer) {
    for table in ["glimpse_jobs", "glimpse_uploads"] {
        assert_eq!(s.database.count(&format!("SELECT COUNT(*) FROM {table}")).await, 0, "{table}");
    }
    let properties = "SELECT COUNT(*) FROM image_properties WHERE name LIKE 'os_glance_%' AND image_id IN \
        (SELECT id FROM images WHERE status <> 'deleted')";
    assert_eq!(s.database.count(properties).await, 0);
}

/// A Glimpse and a Glance, and the number of images that were created.
struct Pair {
    twins: Twins,
    images: usize,
}

impl Pair {
    /// Starts both servers with a store of web servers, which fetches URLs of this machine.
    async fn start(dir: &Path) -> Self {
        let options = [
            ("DEFAULT", "enabled_backends", "fs:file, web:http"),
            ("DEFAULT", "http_retries", "1"),
            ("import_filtering_opts", "allowed_hosts", "[127.0.0.1]"),
            ("import_filtering_opts", "allowed_ports", "[]"),
        ];
        let ours = TestServer::builder().option("glance_store", "default_backend", "fs");
        let ours = ours.option("fs", "filesystem_store_datadir", dir.display());
        Self { twins: Twins::start_alike(ours, &options, &[]).await, images: 0 }
    }

    async fn create(&mut self, more: Value) -> String {
        self.images += 1;
        let id = format!("{:08x}-5c61-48ff-b4f3-0ad4e5e3ba90", self.images);
        let mut body = json!({"id": id, "disk_format": "raw", "container_format": "bare"});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body.as_object_mut().unwrap().retain(|_, value| !value.is_null());
        self.twins.same(&Question::new(Persona::Member("p1"), "POST", "/v2/images").json(&body)).await;
        format!("/v2/images/{id}")
    }

    /// Adds a location on both servers. If they accept it, compares the image and the task after the task has ended.
    async fn add(&self, persona: Persona, image: &str, body: &Value, ignored: &'static [&'static str]) -> u16 {
        let question = Question::new(persona, "POST", format!("{image}/locations")).json(body);
        let status = self.twins.same(&question).await;
        if status == 202 {
            let (ours, theirs) = (self.twins.ours.admin(), self.twins.theirs.admin());
            settled(&ours, image).await;
            settled(&theirs, image).await;
            self.twins.same(&Question::new(Persona::Admin, "GET", image).ignoring(ignored)).await;
            let task = async |client: &Client| {
                eventually("the task has ended", || async {
                    let tasks = client.get(&format!("{image}/tasks")).await.expect(200).json();
                    let task = tasks["tasks"].as_array().unwrap().last().unwrap().clone();
                    let has_ended = task["expires_at"].is_string();
                    let names = ["type", "status", "owner", "input", "message", "result", "image_id"];
                    has_ended.then(|| names.map(|name| task[name].clone()))
                })
                .await
            };
            assert_eq!(task(&ours).await, task(&theirs).await, "{body}");
        }
        status
    }
}

#[tokio::test]
async fn locations_are_refused_as_in_glance() {
    let web = Web::start(&PAGES).await;
    let dir = tempfile::tempdir().unwrap();
    let mut pair = Pair::start(dir.path()).await;
    let url = |path: &str| format!("{}{path}", web.base());
    let at = |path: &str| json!({"url": url(path)});
    let (member, helped, service) = (Persona::Member("p1"), Persona::ByService("p1"), Persona::Service("p1"));

    // Bodies that are refused.
    let image = pair.create(json!({})).await;
    let here = &url("/a");
    for body in [
        json!({}),
        json!([]),
        json!([{"url": here}]),
        json!({"url": null}),
        json!({"url": 1}),
        json!({"url": here, "validation_data": null}),
        json!({"url": here, "validation_data": []}),
        json!({"url": here, "validation_data": {"os_hash_algo": "sha512"}}),
        json!({"url": here, "validation_data": {"os_hash_value": "aa"}}),
        json!({"url": here, "validation_data": {"checksum": MD5}}),
        claimed(here, "sha384", "aa"),
        claimed(here, "sha512", &"a".repeat(129)),
        claimed(here, "sha512", "xyz"),
        claimed(here, "sha512", "abc"),
        claimed(here, "sha512", ""),
        claimed(here, "sha512", "aa"),
        claimed(here, "sha256", HASH),
        claimed(here, "md5", "5d 41"),
        // URLs that are refused.
        json!({"url": "http://169.254.169.254/a"}),
        json!({"url": here.replace("127.0.0.1", "localhost")}),
        json!({"url": here.replace("127.0.0.1", "127.1")}),
        json!({"url": here.replace("127.0.0.1", "2130706433")}),
        json!({"url": "http://"}),
        json!({"url": "https:///a"}),
        json!({"url": "http:a"}),
        json!({"url": here.replace("http:", "HTTP:")}),
        json!({"url": "file:///etc/passwd"}),
        json!({"url": "s3://127.0.0.1/images/a"}),
        json!({"url": ""}),
        json!({"url": "nope", "validation_data": {"os_hash_algo": "sha512", "os_hash_value": "aa"}}),
    ] {
        let status = pair.add(member, &image, &body, &[]).await;
        assert!((400..404).contains(&status), "{body}: {status}");
    }
    for url in ["http://[", "http://::1]/a", "http://[x]/a", "s3://[x/b/k", "s3://[1.2.3.4]/b/k", "x://[]:1/a"] {
        assert_eq!(pair.add(service, &image, &json!({"url": url}), &[]).await, 400, "{url}");
    }
    for text in ["", "{", "5", "\"x\"", "null"] {
        let question = Question::new(member, "POST", format!("{image}/locations"));
        pair.twins.same(&question.header("Content-Type", "application/json").text(text)).await;
    }
    let unknown = "/v2/images/4ca46bf1-5c61-48ff-b4f3-0ad4e5e3ba90";
    pair.add(member, unknown, &at("/a"), &[]).await;
    pair.add(member, unknown, &json!({}), &[]).await;
    pair.twins.same(&Question::new(member, "GET", &image)).await;

    // Locations that are accepted at first: the task fails.
    let fails = [
        (member, at("/gone")),
        (member, at("/broken")),
        (member, at("/empty")),
        (member, at("/unsized")),
        (member, at("/other")),
        (member, at("/inside")),
        (member, at("/round")),
        (member, json!({"url": "httpx://127.0.0.1/a"})),
        (service, json!({"url": "file:///etc/passwd"})),
        (service, json!({"url": "filesystem:///etc/passwd"})),
        (service, json!({"url": "swift+config://x/y/z"})),
        (helped, json!({"url": "rbd://a/b/c/d"})),
        (helped, json!({"url": "nope"})),
        (service, json!({"url": ""})),
        (member, json!({"url": "http"})),
        (service, json!({"url": "s3://[::1]/b/k"})),
        (service, json!({"url": here.replace("http:", "ftp:")})),
    ];
    let mut last = String::new();
    for (persona, body) in fails {
        let image = pair.create(json!({})).await;
        assert_eq!(pair.add(persona, &image, &body, &[]).await, 202, "{body}");
        assert_eq!(status(&pair.twins.ours.admin(), &image).await, "queued");
        last = image;
    }
    // Afterwards another location can be added.
    assert_eq!(pair.add(member, &last, &at("/a"), &[]).await, 202);
    // Glance keeps the location, and the size of its data.
    for body in [claimed(here, "sha512", &"ab".repeat(64)), claimed(here, "sha512", &HASH.to_uppercase())] {
        let image = pair.create(json!({})).await;
        pair.add(member, &image, &body, &["size"]).await;
    }
    for more in [json!({"disk_format": null}), json!({"disk_format": null, "container_format": null})] {
        for body in [at("/a"), claimed(here, "sha512", HASH)] {
            let image = pair.create(more.clone()).await;
            pair.add(member, &image, &body, &["size"]).await;
        }
    }
}

#[tokio::test]
async fn locations_are_added_and_listed_as_in_glance() {
    let web = Web::start(&PAGES).await;
    let dir = tempfile::tempdir().unwrap();
    let mut pair = Pair::start(dir.path()).await;
    let url = |path: &str| format!("{}{path}", web.base());
    let at = |path: &str| json!({"url": url(path)});
    let (member, helped, service) = (Persona::Member("p1"), Persona::ByService("p1"), Persona::Service("p1"));
    let here = &url("/a");
    for (persona, body) in [
        (member, at("/a")),
        (service, at("/a")),
        (helped, at("/a")),
        (Persona::Admin, at("/a")),
        (member, at("/moved")),
        (member, json!({"url": here, "validation_data": {}, "more": [1]})),
        (member, claimed(here, "sha512", HASH)),
        (member, claimed(here, "sha256", SHA256)),
        (member, claimed(here, "md5", MD5)),
        (member, claimed(here, "sha1", "aaf4c61ddcc5e8a2dabede0f3b482cd9aea9434d")),
    ] {
        let image = pair.create(json!({})).await;
        assert_eq!(pair.add(persona, &image, &body, &[]).await, 202, "{body}");
        assert_eq!(pair.add(persona, &image, &body, &[]).await, 409, "{body}");
        for persona in [Persona::Admin, service, member, helped] {
            pair.twins.same(&Question::new(persona, "GET", format!("{image}/locations"))).await;
        }
    }

    // Callers.
    let (stranger, reader) = (Persona::Member("p2"), Persona::Reader("p1"));
    for visibility in ["shared", "community"] {
        for persona in [Persona::Anonymous, stranger, reader, member, helped, service, Persona::Admin] {
            let image = pair.create(json!({"visibility": visibility})).await;
            let list = Question::new(persona, "GET", format!("{image}/locations"));
            pair.twins.same(&list).await;
            pair.add(persona, &image, &at("/a"), &[]).await;
            pair.twins.same(&list).await;
        }
    }
    let image = pair.create(json!({})).await;
    pair.add(member, &image, &at("/a"), &[]).await;
    pair.twins.same(&Question::new(member, "POST", format!("{image}/actions/deactivate"))).await;
    for persona in [member, service, Persona::Admin] {
        pair.twins.same(&Question::new(persona, "GET", format!("{image}/locations"))).await;
        pair.add(persona, &image, &at("/a"), &[]).await;
    }
}

#[tokio::test]
async fn data_on_a_web_server_becomes_the_data_of_an_image() {
    let web = Web::start(&PAGES).await;
    let dir = tempfile::tempdir().unwrap();
    let s = open(dir.path()).start().await;
    let member = s.member("p1");
    let image = waiting_image(&member).await;
    let url = format!("{}/a", web.base());
    let answer = add(&member, &image, &json!({"url": url})).await.expect(202);
    assert_eq!((answer.text.as_str(), answer.header("content-type")), ("", "text/html; charset=UTF-8"));
    assert_eq!(outcome(&member, &image).await, (json!(["active", 5, MD5, "sha512", HASH]), json!("success")));
    assert_eq!(member.get(&image).await.json()["stores"], "web");
    assert_eq!(locations(&s.admin(), &image).await, json!([{"url": url, "metadata": {"store": "web"}}]));
    assert_eq!(download(&member, &image).await, b"hello");
    assert_eq!(web.requests(), ["HEAD /a", "GET /a", "GET /a"]);
    nothing_is_left(&s).await;
    member.delete(&image).await.expect(204);
    add(&member, &image, &json!({"url": url})).await.expect(404);
}

#[tokio::test]
async fn the_claimed_hash_is_believed_if_none_is_computed() {
    let web = Web::start(&PAGES).await;
    let dir = tempfile::tempdir().unwrap();
    let s = open(dir.path()).option("DEFAULT", "do_secure_hash", false).start().await;
    let member = s.member("p1");
    let (url, wrong) = (format!("{}/a", web.base()), "ab".repeat(32));
    for (body, algorithm, value) in [
        (json!({"url": url}), Value::Null, Value::Null),
        (claimed(&url, "sha256", &wrong), json!("sha256"), json!(wrong)),
    ] {
        let image = waiting_image(&member).await;
        add(&member, &image, &body).await.expect(202);
        let expected = json!(["active", 5, null, algorithm, value]);
        assert_eq!(outcome(&member, &image).await, (expected, json!("success")));
    }
    assert_eq!(web.requests(), ["HEAD /a", "HEAD /a"]);
}

#[tokio::test]
async fn data_with_another_hash_than_the_claimed_one_is_not_the_images() {
    let web = Web::start(&PAGES).await;
    let dir = tempfile::tempdir().unwrap();
    let s = open(dir.path()).start().await;
    let member = s.member("p1");
    let image = waiting_image(&member).await;
    let url = format!("{}/a", web.base());
    add(&member, &image, &claimed(&url, "sha256", &"ab".repeat(32))).await.expect(202);
    assert_eq!(
        outcome(&member, &image).await,
        (json!(["queued", null, null, null, null]), json!("failure")),
        "{}",
        s.log()
    );
    assert_eq!(locations(&s.admin(), &image).await, json!([]));
    nothing_is_left(&s).await;
    // The image can still get its data. Times have no fractions of seconds on MySQL, so the other task is hidden.
    s.database.execute("UPDATE tasks SET image_id = NULL").await;
    add(&member, &image, &claimed(&url, "sha256", SHA256)).await.expect(202);
    assert_eq!(outcome(&member, &image).await, (json!(["active", 5, MD5, "sha256", SHA256]), json!("success")));
    assert_eq!(locations(&s.admin(), &image).await.as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn the_data_is_read_again_if_it_does_not_arrive() {
    let dir = tempfile::tempdir().unwrap();
    let hello = page(b"hello");
    let hashed = json!(["active", 5, MD5, "sha512", HASH]);
    let unhashed = |algorithm: Value| json!(["active", 5, null, algorithm, null]);
    for (answers, is_claimed, expected, task) in [
        (vec![hello.clone(), CUT.to_vec(), hello.clone()], false, hashed.clone(), "success"),
        (vec![hello.clone(), BROKEN.to_vec(), hello.clone()], false, hashed.clone(), "success"),
        (vec![hello.clone(), CUT.to_vec(), hello.clone()], true, hashed, "success"),
        // An active image stays active. As in Glance, the reason decides on the task.
        (vec![hello.clone(), CUT.to_vec()], false, unhashed(json!("sha512")), "success"),
        (vec![hello.clone(), GONE.to_vec()], false, unhashed(json!("sha512")), "success"),
        (vec![hello.clone(), page(b"other data")], false, unhashed(json!("sha512")), "success"),
        (vec![hello.clone(), BROKEN.to_vec()], false, unhashed(Value::Null), "failure"),
        (vec![hello.clone(), CUT.to_vec()], true, json!(["queued", null, null, null, null]), "failure"),
        (vec![hello.clone(), GONE.to_vec()], true, json!(["queued", null, null, null, null]), "failure"),
    ] {
        let (port, heard) = web(answers).await;
        let s = open(dir.path()).option("DEFAULT", "http_retries", 1).start().await;
        let member = s.member("p1");
        let image = waiting_image(&member).await;
        let url = format!("http://127.0.0.1:{port}/x");
        let body = if is_claimed { claimed(&url, "sha512", HASH) } else { json!({"url": url}) };
        add(&member, &image, &body).await.expect(202);
        assert_eq!(outcome(&member, &image).await, (expected, json!(task)), "{}", s.log());
        assert_eq!(heard.lock().unwrap().len(), 3);
        nothing_is_left(&s).await;
    }
}

/// URLs of this machine are refused, in any spelling, and also as the target of a redirect, for users and for services.
#[tokio::test]
async fn only_allowed_urls_are_requested() {
    let web = Web::start(&PAGES).await;
    let dir = tempfile::tempdir().unwrap();
    let closed = open(dir.path()).without("import_filtering_opts", "allowed_hosts");
    let s = closed.start().await;
    let image = waiting_image(&s.member("p1")).await;
    for host in OWN_HOSTS {
        let url = format!("http://{host}:{}/a", web.port);
        for client in [s.member("p1"), service(&s), s.admin()] {
            let answer = add(&client, &image, &json!({"url": url})).await.expect(400);
            assert!(answer.text.contains("URI for add location does not pass filtering: http://"), "{}", answer.text);
        }
    }
    assert_eq!(web.requests(), [""; 0]);
    assert!(!s.log().contains("u:p@"));
    assert_eq!(s.database.count("SELECT COUNT(*) FROM tasks").await, 0);
    let s = open(dir.path()).start().await;
    let member = s.member("p1");
    for path in ["/inside", "/spelled", "/round"] {
        let image = waiting_image(&member).await;
        add(&member, &image, &json!({"url": format!("{}{path}", web.base())})).await.expect(202);
        let expected = (json!(["queued", null, null, null, null]), json!("failure"));
        assert_eq!(outcome(&member, &image).await, expected);
    }
    // The options of the filter apply to the other parts of the URL.
    let only = open(dir.path())
        .without("import_filtering_opts", "allowed_ports")
        .option("import_filtering_opts", "allowed_ports", "[80]")
        .start()
        .await;
    let image = waiting_image(&only.member("p1")).await;
    let url = format!("{}/a", web.base());
    add(&only.member("p1"), &image, &json!({"url": url})).await.expect(400);
}

/// A request that is refused triggers no outbound connection.
#[tokio::test]
async fn a_refused_request_reaches_no_web_server() {
    let web = Web::start(&PAGES).await;
    let dir = tempfile::tempdir().unwrap();
    let s = open(dir.path()).start().await;
    let (member, body) = (s.member("p1"), json!({"url": format!("{}/a", web.base())}));
    let image = waiting_image(&member).await;
    add(&s.reader("p1"), &image, &body).await.expect(403);
    add(&s.member("p2"), &image, &body).await.expect(404);
    let community = json!({"disk_format": "raw", "container_format": "bare", "visibility": "community"});
    let public = member.create_image(&community).await;
    let stranger = s.client(Some("nova:p2:service"));
    add(&stranger, &public, &body).await.expect(403).says("You do not own this image");
    let active = image_with(&member, b"abc").await;
    add(&member, &active, &body).await.expect(409);
    let without = with_store(dir.path()).start().await;
    let image = waiting_image(&without.member("p1")).await;
    add(&without.member("p1"), &image, &body).await.expect(403).says("http store must be enabled");
    let long = json!({"url": format!("{}/{}", web.base(), "a".repeat(20_000))});
    add(&member, &image, &long).await.expect(400);
    add(&member, &image, &json!({"url": format!("{}/\u{1f600}", web.base())})).await.expect(400);
    assert_eq!(web.requests(), [""; 0]);
    nothing_is_left(&s).await;
}

#[tokio::test]
async fn a_location_that_exceeds_a_quota_is_not_added() {
    let web = Web::start(&PAGES).await;
    let dir = tempfile::tempdir().unwrap();
    for (option, value) in [("user_storage_quota", 4), ("image_location_quota", 0)] {
        let s = open(dir.path()).option("DEFAULT", option, value).start().await;
        let member = s.member("p1");
        let image = waiting_image(&member).await;
        add(&member, &image, &json!({"url": format!("{}/a", web.base())})).await.expect(202);
        let expected = (json!(["queued", null, null, null, null]), json!("failure"));
        assert_eq!(outcome(&member, &image).await, expected);
        assert_eq!(locations(&s.admin(), &image).await, json!([]));
    }
}

/// A file in a store's directory, or elsewhere, is never read through a location that a client adds.
#[tokio::test]
async fn no_caller_can_add_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let s = open(dir.path()).start().await;
    let secret = image_with(&s.member("p2"), b"secret").await;
    let images = dir.path().join("images");
    fs::write(dir.path().join("other"), "other").unwrap();
    for client in [service(&s), s.member("p1").with_headers(&[("X-Service-Token", "nova:services:service")])] {
        for path in [images.join(id(&secret)), images.join("../other"), "/etc/passwd".into()] {
            for scheme in ["file", "filesystem", "FILE", "s3"] {
                let image = waiting_image(&client).await;
                add(&client, &image, &json!({"url": format!("{scheme}://{}", path.display())})).await.expect(202);
                let expected = (json!(["queued", null, null, null, null]), json!("failure"));
                assert_eq!(outcome(&client, &image).await, expected, "{scheme} {path:?}");
            }
        }
    }
    assert_eq!(download(&s.member("p2"), &secret).await, b"secret");
}

#[tokio::test]
async fn a_service_adds_an_object_of_a_bucket() {
    let s3 = S3::start().await;
    s3.make_bucket("other").await;
    let s = TestServer::builder().options(&s3.options(&s3.base())).start().await;
    let (client, member) = (service(&s), s.member("p1"));
    let host = s3.base().trim_start_matches("http://").to_owned();
    let url = |rest: &str| format!("s3://{host}/{rest}");
    // Objects that are not named after an image.
    let mut objects = Vec::new();
    for _ in 0..2 {
        let image = image_with(&s.member("p2"), b"hello").await;
        for table in ["image_locations", "image_properties", "image_tags"] {
            s.database.execute(&format!("DELETE FROM {table} WHERE image_id = '{}'", id(&image))).await;
        }
        s.database.execute(&format!("DELETE FROM images WHERE id = '{}'", id(&image))).await;
        objects.push(id(&image).to_owned());
    }
    let theirs = image_with(&s.member("p2"), b"secret").await;
    let deleted = image_with(&s.member("p2"), b"hello").await;
    s.member("p2").delete(&deleted).await.expect(204);
    for refused in [
        url(&format!("images/{}", id(&theirs))),
        url(&format!("images//{}", id(&theirs))),
        url(&format!("images/{}?a=b", id(&theirs))),
        url(&format!("images/{}/", id(&theirs))),
        url(&format!("images/other/{}", objects[0])),
        url(&format!("other/images/{}", id(&theirs))),
        url(&format!("other/{}", objects[0])),
        url(&format!("images/{}", id(&deleted))),
        url("images/nope"),
        url("images/"),
        format!("s3://KEY:SECRET@{host}/images/{}", id(&theirs)),
        format!("s3+http://{host}/images/{}", id(&theirs)),
        format!("s3://127.0.0.1:1/images/{}", objects[0]),
    ] {
        let image = waiting_image(&client).await;
        add(&client, &image, &json!({"url": refused})).await.expect(202);
        let expected = (json!(["queued", null, null, null, null]), json!("failure"));
        assert_eq!(outcome(&client, &image).await, expected, "{refused}");
    }
    let image = waiting_image(&member).await;
    let object = url(&format!("images/{}", objects[0]));
    add(&member, &image, &json!({"url": object})).await.expect(403);
    // The credentials in a URL are not stored.
    let with_credentials = object.replace("s3://", "s3://KEY:SECRET@");
    add(&client, &image, &json!({"url": with_credentials})).await.expect(202);
    assert_eq!(outcome(&member, &image).await, (json!(["active", 5, MD5, "sha512", HASH]), json!("success")));
    assert_eq!(locations(&client, &image).await, json!([{"url": object, "metadata": {"store": "s3"}}]));
    for column in ["image_locations WHERE value", "task_info WHERE input"] {
        assert_eq!(s.database.count(&format!("SELECT COUNT(*) FROM {column} LIKE '%SECRET%'")).await, 0);
    }
    assert_eq!(download(&member, &image).await, b"hello");
    member.delete(&image).await.expect(204);
    // As in Glance, data with another hash than the claimed one is removed.
    let image = waiting_image(&member).await;
    let wrong = claimed(&url(&format!("images/{}", objects[1])), "sha256", &"ab".repeat(32));
    add(&client, &image, &wrong).await.expect(202);
    assert_eq!(outcome(&member, &image).await, (json!(["queued", null, null, null, null]), json!("failure")));
    eventually("the data is removed", || async { (s3.objects().await == [id(&theirs)]).then_some(()) }).await;
    upload(&member, &image, "whole").await.expect(204);
    assert_eq!(download(&s.member("p2"), &theirs).await, b"secret");
}

/// Waits until the data is being read, to compute its hash.
async fn is_hashing(heard: &std::sync::Mutex<Vec<String>>) {
    eventually("the data is read", || async {
        heard.lock().unwrap().last().is_some_and(|head| head.starts_with("get")).then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_hash_is_computed_although_the_server_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    for (body, meanwhile) in [(json!({}), "active"), (claimed("", "sha512", HASH), "importing")] {
        let (port, heard) = web(vec![page(b"hello"), STALLED.to_vec(), STALLED.to_vec(), page(b"hello")]).await;
        let url = "http://127.0.0.1:9292";
        let mut s = open(dir.path()).option("DEFAULT", "worker_self_reference_url", url).start().await;
        let member = s.member("p1");
        let image = waiting_image(&member).await;
        let mut body = body;
        body["url"] = json!(format!("http://127.0.0.1:{port}/x"));
        add(&member, &image, &body).await.expect(202);
        is_hashing(&heard).await;
        let shown = member.get(&image).await.expect(200).json();
        let names = ["status", "size", "checksum", "os_hash_algo", "os_hash_value"];
        let values: Value = names.iter().map(|name| shown[*name].clone()).collect();
        assert_eq!(values, json!([meanwhile, 5, null, "sha512", null]));
        assert!(shown["os_glance_import_task"].is_string() && shown.get("os_glance_hash_op_host").is_none());
        let host =
            format!("SELECT COUNT(*) FROM image_properties WHERE name = 'os_glance_hash_op_host' AND value = '{url}'");
        assert_eq!(s.database.count(&host).await, 1);
        add(&member, &image, &body).await.expect(409);
        // Another process resumes the job of a killed one, and one that stops hands it over.
        s.kill();
        let mut other = open(dir.path()).database(s.database.clone()).start().await;
        eventually("the data is read again", || async { (heard.lock().unwrap().len() == 3).then_some(()) }).await;
        other.terminate();
        assert!(other.ended().await.success());
        s.start_again().await;
        let member = s.member("p1");
        let expected = (json!(["active", 5, MD5, "sha512", HASH]), json!("success"));
        assert_eq!(outcome(&member, &image).await, expected, "{}", s.log());
        nothing_is_left(&s).await;
    }
}

#[tokio::test]
async fn locations_survive_kills_of_the_server_at_any_point() {
    let dir = tempfile::tempdir().unwrap();
    let web = Web::start(&PAGES).await;
    let url = format!("{}/a", web.base());
    let mut s = open(dir.path()).start().await;
    let mut images = Vec::new();
    for pause in [0, 2, 5, 10, 20, 40] {
        let member = s.member("p1");
        for n in 0..3 {
            let image = waiting_image(&member).await;
            let value = if n == 1 { HASH.to_owned() } else { "ab".repeat(64) };
            let body = if n == 0 { json!({"url": url}) } else { claimed(&url, "sha512", &value) };
            add(&member, &image, &body).await.expect(202);
            images.push((image, n < 2));
        }
        tokio::time::sleep(Duration::from_millis(pause)).await;
        s.kill();
        s.start_again().await;
    }
    let member = s.member("p1");
    for (image, is_right) in &images {
        let expected = match is_right {
            true => (json!(["active", 5, MD5, "sha512", HASH]), json!("success")),
            false => (json!(["queued", null, null, null, null]), json!("failure")),
        };
        assert_eq!(outcome(&member, image).await, expected, "{}", s.log());
        let count = locations(&s.admin(), image).await.as_array().unwrap().len();
        assert_eq!(count, usize::from(*is_right));
    }
    nothing_is_left(&s).await;
}

#[tokio::test]
async fn deleting_an_image_ends_the_computation_of_its_hash() {
    let dir = tempfile::tempdir().unwrap();
    for body in [json!({}), claimed("", "sha512", HASH)] {
        let (port, heard) = web(vec![page(b"hello"), STALLED.to_vec()]).await;
        let s = open(dir.path()).start().await;
        let member = s.member("p1");
        let image = waiting_image(&member).await;
        let mut body = body;
        body["url"] = json!(format!("http://127.0.0.1:{port}/x"));
        add(&member, &image, &body).await.expect(202);
        is_hashing(&heard).await;
        member.delete(&image).await.expect(204);
        member.get(&image).await.expect(404);
        let jobs = async || s.database.count("SELECT COUNT(*) FROM glimpse_jobs").await;
        eventually("the job is ended", || async { (jobs().await == 0).then_some(()) }).await;
        assert_eq!(s.database.count("SELECT COUNT(*) FROM tasks WHERE status = 'failure'").await, 1);
        assert_eq!(heard.lock().unwrap().len(), 2);
    }
}

/// Glance finds an SQLite file locked that Glimpse writes to.
mod on_a_server {
    use super::*;

    /// A Glance and a Glimpse share the database. Each deletes an image whose hash the other one computes.
    #[tokio::test]
    async fn the_computation_of_a_hash_ends_when_the_other_program_deletes_the_image() {
        let dir = tempfile::tempdir().unwrap();
        let database = Database::create(dir.path()).await;
        Glance::sync(&database).await;
        let options = [
            ("DEFAULT", "enabled_backends", "fs:file, web:http"),
            ("DEFAULT", "public_endpoint", "http://127.0.0.1:9292"),
            ("import_filtering_opts", "allowed_hosts", "[127.0.0.1]"),
            ("import_filtering_opts", "allowed_ports", "[]"),
        ];
        let glance = Glance::start_with(&database, &options, &[]).await;
        let public = open(dir.path()).option("DEFAULT", "public_endpoint", "http://127.0.0.1:9292");
        let s = public.database(database).start().await;
        let (ours, theirs) = (s.member("p1"), glance.member("p1"));
        let web = Web::start(&[("/stalled", "200 OK\r\nContent-Length: 5\r\n\r\nheSTALL")]).await;
        for (n, (adding, deleting)) in [(&ours, &theirs), (&theirs, &ours)].into_iter().enumerate() {
            let image = waiting_image(adding).await;
            add(adding, &image, &json!({"url": format!("{}/stalled", web.base())})).await.expect(202);
            eventually("the data is read", || async {
                let reads = web.requests().iter().filter(|request| *request == "GET /stalled").count();
                (reads == n + 1).then_some(())
            })
            .await;
            assert_eq!(deleting.get(&image).await.expect(200).json()["status"], "active");
            deleting.delete(&image).await.expect(204);
            adding.get(&image).await.expect(404);
        }
        let jobs = async || s.database.count("SELECT COUNT(*) FROM glimpse_jobs").await;
        eventually("the job is ended", || async { (jobs().await == 0).then_some(()) }).await;
    }
}

/// With one slot, the second job waits for the first one.
#[tokio::test]
async fn the_log_shows_jobs_that_wait_and_jobs_that_run() {
    let dir = tempfile::tempdir().unwrap();
    let (stalled, _) = web(vec![page(b"hello"), STALLED.to_vec()]).await;
    let (quick, _) = web(vec![page(b"hello")]).await;
    let slots = open(dir.path()).option("taskflow_executor", "max_workers", 1);
    let s = slots.environment("RUST_LOG", "glimpse=debug").start().await;
    let member = s.member("p1");
    let (first, second) = (waiting_image(&member).await, waiting_image(&member).await);
    for (image, port) in [(&first, stalled), (&second, quick)] {
        add(&member, image, &json!({"url": format!("http://127.0.0.1:{port}/x")})).await.expect(202);
        // The older job is the first one.
        eventually("it is begun", || async { (status(&member, &first).await == "active").then_some(()) }).await;
    }
    eventually("the log shows both", || async {
        let log = s.log();
        let shows = |image: &str, text: &str| log.lines().any(|line| line.contains(id(image)) && line.contains(text));
        let waits = shows(&second, "a job waits for a slot");
        (waits && shows(&first, "a job is in progress") && shows(&second, "a job waits")).then_some(())
    })
    .await;
    assert_eq!(status(&member, &second).await, "queued");
    assert_eq!(s.log().matches("a job waits for a slot").count(), 1);
    member.delete(&first).await.expect(204);
    assert_eq!(outcome(&member, &second).await.1, json!("success"));
}

#[tokio::test]
async fn of_concurrent_requests_one_adds_its_location() {
    let web = Web::start(&PAGES).await;
    let dir = tempfile::tempdir().unwrap();
    let s = open(dir.path()).start().await;
    let member = s.member("p1");
    for _ in 0..5 {
        let image = waiting_image(&member).await;
        let once = |path: &str| {
            let (member, image, url) = (&member, &image, format!("{}{path}", web.base()));
            async move { add(member, image, &json!({"url": url})).await.status.as_u16() }
        };
        let (a, b, c, d) = tokio::join!(once("/a"), once("/b"), once("/c"), once("/a"));
        let mut statuses = [a, b, c, d];
        statuses.sort_unstable();
        assert_eq!(statuses, [202, 409, 409, 409]);
        assert_eq!(outcome(&member, &image).await.0[0], "active");
        assert_eq!(locations(&s.admin(), &image).await.as_array().unwrap().len(), 1);
    }
    assert_eq!(files(&dir.path().join("images")), [""; 0]);
}
