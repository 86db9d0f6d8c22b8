//! The cost of requests: statements, counted in the server's log, and round trips, counted by a relay in front of the
//! database server.
//!
//! These are counts, so they are the same on every machine.

use serde_json::json;

use crate::{
    data::{image_with, waiting_image},
    support::{Answer, Client, Engine, TestServer},
};

/// The statements of a request except BEGIN and COMMIT, as `SELECT`, `UPDATE`, …
async fn statements(s: &TestServer, answer: &Answer) -> Vec<String> {
    let log = s.log_of(answer).await;
    let summary = |line: &String| {
        let kind = line.split("summary=\"").nth(1)?.split([' ', '"']).next()?;
        (!["BEGIN", "COMMIT"].contains(&kind)).then(|| kind.to_owned())
    };
    log.iter().filter_map(summary).collect()
}

/// Creates images with a property and two tags each.
async fn images(member: &Client, number: usize) -> Vec<String> {
    let mut images = Vec::new();
    for n in 0..number {
        images.push(member.create_image(&json!({"name": format!("i{n}"), "tags": ["a", "b"], "foo": "bar"})).await);
    }
    images
}

#[tokio::test]
async fn an_image_costs_one_statement() {
    for (section, option) in [("DEFAULT", "show_multiple_locations"), ("DEFAULT", "debug")] {
        let s = TestServer::builder().option(section, option, "true").logging_statements().start().await;
        let member = s.member("p1");
        let image = &images(&member, 1).await[0];
        member.get(image).await.expect(200);
        let answer = member.get(image).await.expect(200);
        assert_eq!(statements(&s, &answer).await, ["SELECT"], "{option}");
    }
}

/// The number of images on the page does not matter.
#[tokio::test]
async fn a_page_costs_two_statements() {
    let s = TestServer::builder().logging_statements().start().await;
    let member = s.member("p1");
    images(&member, 5).await;
    let page = member.get("/v2/images").await.expect(200).json();
    let marker = page["images"][0]["id"].as_str().unwrap();
    let with_marker = format!("/v2/images?limit=2&marker={marker}");
    // An embedded database has no round trips, so there the images are read in a statement separate from their
    // properties, tags and locations.
    let beside = usize::from(Engine::under_test() == Engine::Sqlite);
    let pages = [("/v2/images?limit=1", 2), ("/v2/images?limit=5", 2 + beside), (&*with_marker, 3 + beside)];
    for (path, expected) in pages {
        let answer = member.get(path).await.expect(200);
        assert_eq!(statements(&s, &answer).await, vec!["SELECT"; expected], "{path}");
    }
}

/// Three statements between BEGIN and COMMIT; the list of tags is not read.
#[tokio::test]
async fn removing_a_tag_costs_three_statements() {
    let s = TestServer::builder().logging_statements().start().await;
    let member = s.member("p1");
    let tags: Vec<String> = (0..100).map(|n| format!("t{n}")).collect();
    let image = member.create_image(&json!({ "tags": tags })).await;
    member.delete(&format!("{image}/tags/t4")).await.expect(204);
    let answer = member.delete(&format!("{image}/tags/t5")).await.expect(204);
    assert_eq!(statements(&s, &answer).await, ["SELECT", "UPDATE", "DELETE"]);
    let log = s.log_of(&answer).await.concat();
    assert!(log.matches("summary=").count() <= 5, "{log:#?}");
    assert!(!log.contains("rows_returned=100"), "{log:#?}");
}

/// A member needs one more statement to see an image; other callers do not.
#[tokio::test]
async fn showing_a_shared_image_to_a_member_costs_one_more_statement() {
    let s = TestServer::builder().logging_statements().start().await;
    let image = s.member("p1").create_image(&json!({"name": "n", "tags": ["t"]})).await;
    let members = format!("{image}/members");
    s.member("p1").post(&members, &json!({"member": "p2"})).await.expect(200);
    for (client, expected) in [(s.member("p1"), 1), (s.admin(), 1), (s.member("p2"), 2)] {
        client.get(&image).await.expect(200);
        let answer = client.get(&image).await.expect(200);
        assert_eq!(statements(&s, &answer).await.len(), expected);
    }
    let answer = s.member("p1").post(&members, &json!({"member": "p3"})).await.expect(200);
    assert!(statements(&s, &answer).await.len() <= 5);
}

/// An image with data costs one more statement, and two for each location.
#[tokio::test]
async fn deleting_an_image_costs_seven_statements() {
    let s = TestServer::builder().logging_statements().start().await;
    let member = s.member("p1");
    let (without, with) = (waiting_image(&member).await, image_with(&member, b"abc").await);
    let ending = ["UPDATE", "UPDATE", "UPDATE", "UPDATE", "DELETE"];
    for (image, beginning) in
        [(without, vec!["SELECT", "SELECT"]), (with, vec!["SELECT", "SELECT", "UPDATE", "SELECT", "UPDATE"])]
    {
        let answer = member.delete(&image).await.expect(204);
        assert_eq!(statements(&s, &answer).await, [beginning.as_slice(), &ending].concat());
    }
}

/// The number of namespaces on the page, and of properties in a namespace, does not matter.
#[tokio::test]
async fn metadata_definitions_cost_the_same_for_any_number_of_them() {
    let s = TestServer::builder().logging_statements().start().await;
    let admin = s.admin();
    let body = |name: String, number: usize| {
        let property = json!({"type": "string", "title": "t"});
        let properties: serde_json::Map<_, _> = (0..number).map(|n| (format!("p{n}"), property.clone())).collect();
        let objects: Vec<_> =
            (0..number).map(|n| json!({"name": format!("o{n}"), "properties": {"p": property}})).collect();
        let types: Vec<_> = (0..number).map(|n| json!({"name": format!("r{n}"), "prefix": "x"})).collect();
        json!({
            "namespace": name, "visibility": "public", "properties": properties, "objects": objects,
            "resource_type_associations": types, "tags": objects.iter().map(|o| json!({"name": o["name"]})).collect::<Vec<_>>(),
        })
    };
    let path = "/v2/metadefs/namespaces";
    for n in 0..100 {
        admin.post(path, &body(format!("small {n}"), 1)).await.expect(201);
    }
    let created = admin.post(path, &body("large".to_owned(), 200)).await.expect(201);
    let expected = [
        // The namespace, its resource types and associations, its objects, its tags, its properties.
        &["INSERT", "SELECT"][..],
        &["SELECT", "SELECT", "INSERT", "SELECT", "INSERT"],
        &["INSERT"],
        &["SELECT", "INSERT"],
        &["INSERT"],
    ]
    .concat();
    assert_eq!(statements(&s, &created).await, expected);
    for (path, expected) in [
        (format!("{path}?limit=1"), 2),
        (format!("{path}?limit=100"), 2),
        (format!("{path}?limit=100&marker=large&sort_key=namespace&sort_dir=asc"), 3),
        (format!("{path}/small%201"), 5),
        (format!("{path}/large"), 5),
        (format!("{path}/large/properties"), 2),
        (format!("{path}/large/objects"), 2),
        (format!("{path}/large/tags"), 2),
        (format!("{path}/large/tags/o5"), 2),
        (format!("{path}/large/resource_types"), 2),
        ("/v2/metadefs/resource_types".to_owned(), 1),
    ] {
        let answer = s.reader("p1").get(&path).await.expect(200);
        assert_eq!(statements(&s, &answer).await, vec!["SELECT"; expected], "{path}");
    }
    let answer = admin.delete(&format!("{path}/large")).await.expect(204);
    assert_eq!(statements(&s, &answer).await, ["SELECT", "DELETE", "DELETE", "DELETE", "DELETE", "DELETE"]);
}

/// One statement looks for the names, and one adds 500 tags.
#[tokio::test]
async fn ten_thousand_tags_cost_a_lookup_and_a_statement_per_500() {
    let s = TestServer::builder().logging_statements().start().await;
    let admin = s.admin();
    let tags = |from: usize| (from..from + 10_000).map(|n| json!({"name": format!("t{n}")})).collect::<Vec<_>>();
    let path = "/v2/metadefs/namespaces";
    let expected = |first: [&'static str; 2]| [&first[..], &["SELECT"], &["INSERT"; 20]].concat();
    let created = admin.post(path, &json!({"namespace": "n", "tags": tags(0)})).await.expect(201);
    assert_eq!(statements(&s, &created).await, expected(["INSERT", "SELECT"]));
    let path = format!("{path}/n/tags");
    let replaced = admin.post(&path, &json!({"tags": tags(5_000)})).await.expect(201);
    assert_eq!(statements(&s, &replaced).await, expected(["SELECT", "DELETE"]));
    let more = admin.request("POST", &path).header("X-Openstack-Append", "true").json(&json!({"tags": tags(15_000)}));
    let added = admin.send(more).await.expect(201);
    assert_eq!(statements(&s, &added).await, [["SELECT"; 2].as_slice(), &["INSERT"; 20]].concat());
    let listed = admin.get(&path).await.expect(200);
    assert_eq!(statements(&s, &listed).await, ["SELECT", "SELECT"]);
    assert_eq!(listed.json()["tags"].as_array().unwrap().len(), 20_000);
    let deleted = admin.delete(&path).await.expect(204);
    assert_eq!(statements(&s, &deleted).await, ["SELECT", "DELETE"]);
}

/// Tests on a database server: the profiles postgres and mysql run them.
mod on_a_server {
    use std::sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    };

    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpStream,
    };

    use super::*;
    use crate::support::Database;

    /// Relays both directions, and counts how often the server sends after the database has sent.
    async fn count(client: TcpStream, server: TcpStream, round_trips: Arc<AtomicUsize>) {
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
            (client.into_split(), server.into_split());
        let answered = Arc::new(AtomicBool::new(true));
        let heard = Arc::clone(&answered);
        let there = async move {
            let mut buffer = vec![0; 1 << 16];
            while let Ok(bytes @ 1..) = from_client.read(&mut buffer).await {
                if answered.swap(false, Ordering::SeqCst) {
                    round_trips.fetch_add(1, Ordering::SeqCst);
                }
                if to_server.write_all(&buffer[..bytes]).await.is_err() {
                    break;
                }
            }
        };
        let back = async move {
            let mut buffer = vec![0; 1 << 16];
            while let Ok(bytes @ 1..) = from_server.read(&mut buffer).await {
                heard.store(true, Ordering::SeqCst);
                if to_client.write_all(&buffer[..bytes]).await.is_err() {
                    break;
                }
            }
        };
        tokio::select! {
            () = there => {}
            () = back => {}
        }
    }

    /// Each statement is one round trip, and there are no others: no ping before a connection is used, and no ROLLBACK
    /// after a commit. A few more are allowed because a connection is checked every few seconds.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_request_costs_no_round_trips_beyond_its_statements() {
        const TIMES: usize = 20;
        const MARGIN: usize = 5;
        let dir = tempfile::tempdir().unwrap();
        let database = Database::create(dir.path()).await;
        let round_trips = Arc::new(AtomicUsize::new(0));
        let shared = Arc::clone(&round_trips);
        let pass = move |client, server| count(client, server, Arc::clone(&shared));
        let s = TestServer::builder().database(database.behind(pass).await).start().await;
        let member = s.member("p1");
        let image = &images(&member, 5).await[0];
        let tag = format!("{image}/tags/c");
        let page = "/v2/images?limit=3";
        let costs =
            [("GET", image.as_str(), 200, 1), ("GET", page, 200, 2), ("PUT", &tag, 204, 5), ("DELETE", &tag, 204, 5)];
        let mut spent = [0; 4];
        for round in 0..=TIMES {
            for ((method, path, status, _), spent) in costs.iter().zip(&mut spent) {
                let before = round_trips.load(Ordering::SeqCst);
                member.send(member.request(method, path)).await.expect(*status);
                // In the first round, statements are prepared.
                if round > 0 {
                    *spent += round_trips.load(Ordering::SeqCst) - before;
                }
            }
        }
        for ((method, path, _, cost), spent) in costs.iter().zip(spent) {
            let range = TIMES * cost..=TIMES * cost + MARGIN;
            assert!(range.contains(&spent), "{method} {path}: {spent} round trips for {TIMES} requests of {cost} each");
        }
    }
}
