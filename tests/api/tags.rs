//! Tests of removing and adding tags.

use std::collections::BTreeSet;

use serde_json::json;

use crate::support::{Engine, TestServer, raw};

#[tokio::test]
async fn a_tag_is_removed() {
    let s = TestServer::start().await;
    let member = s.member("p1");
    let image = member.create_image(&json!({"name": "n", "tags": ["aaaa", "bbbb"]})).await;
    let answer = member.delete(&format!("{image}/tags/aaaa")).await.expect(204);
    assert_eq!(answer.text, "");
    assert_eq!(member.tags(&image).await, ["bbbb"]);
    // The row is deleted, not marked as deleted.
    assert_eq!(s.database.count("SELECT COUNT(*) FROM image_tags WHERE value = 'aaaa'").await, 0);
}

#[tokio::test]
async fn removing_a_tag_sets_updated_at() {
    let s = TestServer::start().await;
    let member = s.member("p1");
    let image = member.create_image(&json!({"tags": ["a"]})).await;
    s.database.execute("UPDATE images SET updated_at = '2020-01-01 00:00:00'").await;
    member.delete(&format!("{image}/tags/nope")).await.expect(404);
    assert_eq!(member.get(&image).await.json()["updated_at"], "2020-01-01T00:00:00Z");
    member.delete(&format!("{image}/tags/a")).await.expect(204);
    assert!(member.get(&image).await.json()["updated_at"].as_str().unwrap() > "2026");
}

#[tokio::test]
async fn a_tag_is_added_once() {
    let s = TestServer::start().await;
    let member = s.member("p1");
    let image = member.create_image(&json!({})).await;
    for _ in 0..2 {
        assert_eq!(member.put(&format!("{image}/tags/x")).await.expect(204).text, "");
    }
    assert_eq!(member.tags(&image).await, ["x"]);
    assert_eq!(s.database.count("SELECT COUNT(*) FROM image_tags").await, 1);
}

#[tokio::test]
async fn a_tag_over_the_quota_is_refused() {
    let s = TestServer::builder().option("DEFAULT", "image_tag_quota", 2).start().await;
    let member = s.member("p1");
    let image = member.create_image(&json!({"tags": ["a", "b"]})).await;
    member.put(&format!("{image}/tags/c")).await.expect(413).says("Attempted: 3, Maximum: 2");
    // The status line is the same as Glance's, because clients show it.
    let head = format!("PUT {image}/tags/c HTTP/1.1\r\nHost: x\r\nX-Auth-Token: u:p1:member,reader\r\n");
    let answer = raw(&s.base, format!("{head}Connection: close\r\n\r\n").as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 413 Request Entity Too Large\r\n"), "{answer}");
    // Adding an existing tag does not increase the count.
    member.put(&format!("{image}/tags/a")).await.expect(204);
    member.delete(&format!("{image}/tags/a")).await.expect(204);
    member.put(&format!("{image}/tags/c")).await.expect(204);
    member.post("/v2/images", &json!({"tags": ["a", "b", "c"]})).await.expect(413);
}

#[tokio::test]
async fn tags_without_a_quota_are_unlimited() {
    let s = TestServer::builder().option("DEFAULT", "image_tag_quota", -1).start().await;
    let member = s.member("p1");
    // More tags than one statement on SQLite can insert.
    let tags: Vec<String> = (0..7000).map(|n| format!("t{n}")).collect();
    let image = member.create_image(&json!({ "tags": tags })).await;
    member.put(&format!("{image}/tags/one-more")).await.expect(204);
    assert_eq!(member.tags(&image).await.len(), 7001);
}

#[tokio::test]
async fn an_equals_sign_is_refused_plain_and_encoded() {
    let s = TestServer::start().await;
    let member = s.member("p1");
    let image = member.create_image(&json!({})).await;
    for tag in ["a=b", "a%3Db", "%3D", "a%3db"] {
        let path = format!("{image}/tags/{tag}");
        member.delete(&path).await.expect(400).says("must not contain");
        member.put(&path).await.expect(400).says("must not contain");
    }
    member.post("/v2/images", &json!({"tags": ["a=b"]})).await.expect(400).says("must not contain");
}

#[tokio::test]
async fn an_operator_may_allow_equals_signs() {
    let s = TestServer::builder().option("glimpse", "forbid_equals_in_tags", "false").start().await;
    let member = s.member("p1");
    let image = member.create_image(&json!({"tags": ["a=b"]})).await;
    member.delete(&format!("{image}/tags/a%3Db")).await.expect(204);
    member.put(&format!("{image}/tags/c=d")).await.expect(204);
    assert_eq!(member.tags(&image).await, ["c=d"]);
}

#[tokio::test]
async fn a_stored_tag_with_an_equals_sign_stays_readable() {
    let s = TestServer::start().await;
    let member = s.member("p1");
    let image = member.create_image(&json!({"tags": ["ab"]})).await;
    s.database.execute("UPDATE image_tags SET value = 'a=b'").await;
    assert_eq!(member.tags(&image).await, ["a=b"]);
}

#[tokio::test]
async fn an_invalid_tag_request_is_refused_with_a_reason() {
    let s = TestServer::start().await;
    let member = s.member("p1");
    let image = member.create_image(&json!({"tags": ["a"]})).await;
    let long = format!("{image}/tags/{}", "x".repeat(256));
    let answer = member.send(member.request("PUT", &long).header("Accept", "text/plain")).await.expect(400);
    let answer = answer.says("Provided object does not match schema 'image': 'xxx").says("xxx' is too long");
    answer.says("Failed validating 'maxLength' in schema['properties']['tags']['items']:");
    member.delete(&long).await.expect(404);
    let cases = [
        (format!("{image}/tags/a%00b"), "NUL"),
        (format!("{image}/tags/%ff"), "not UTF-8"),
        ("/v2/images/%ff/tags/a".to_owned(), "not UTF-8"),
    ];
    for (path, says) in &cases {
        member.delete(path).await.expect(400).says(says);
        member.put(path).await.expect(400).says(says);
    }
    let path = format!("{image}/tags/a");
    for method in ["PUT", "DELETE"] {
        let answer = member.send(member.request(method, &path).body("{}")).await;
        answer.expect(400).says("A body is not expected with this request.");
    }
    assert_eq!(member.tags(&image).await, ["a"]);
}

#[tokio::test]
async fn tag_requests_without_a_valid_token_are_answered_401() {
    let s = TestServer::start().await;
    let image = s.member("p1").create_image(&json!({"tags": ["a"]})).await;
    for path in [format!("{image}/tags/a"), format!("{image}/tags/a=b"), "/v2/images/nope/tags/a".to_owned()] {
        s.anonymous().delete(&path).await.expect(401);
        s.client(Some("nonsense")).delete(&path).await.expect(401);
    }
}

#[tokio::test]
async fn a_caller_that_may_see_but_not_change_an_image_is_refused() {
    let s = TestServer::start().await;
    let owner = s.member("p1");
    let shared = owner.create_image(&json!({"tags": ["a"]})).await;
    let community = owner.create_image(&json!({"visibility": "community", "tags": ["a"]})).await;
    let says = "You are not authorized to complete modify_image action.";
    s.reader("p1").delete(&format!("{shared}/tags/a")).await.expect(403).says(says);
    s.member("p2").delete(&format!("{community}/tags/a")).await.expect(403).says(says);
    s.member("p2").put(&format!("{community}/tags/b")).await.expect(403).says(says);
    assert_eq!(owner.tags(&community).await, ["a"]);
    s.admin().delete(&format!("{shared}/tags/a")).await.expect(204);
}

#[tokio::test]
async fn missing_tags_and_invisible_images_are_answered_404() {
    let s = TestServer::start().await;
    let owner = s.member("p1");
    let image = owner.create_image(&json!({"tags": ["a"]})).await;
    let id = image.rsplit('/').next().unwrap();
    s.member("p2").delete(&format!("{image}/tags/a")).await.expect(404).says(&format!("Image {id} not found."));
    let nobodys = "/v2/images/4ca46bf1-5c61-48ff-b4f3-0ad4e5e3ba90/tags/a";
    owner.delete(nobodys).await.expect(404).says("Image 4ca46bf1-5c61-48ff-b4f3-0ad4e5e3ba90 not found.");
    owner.delete("/v2/images/nope/tags/a").await.expect(404).says("Image nope not found.");
    owner.delete(&format!("{image}/tags/b")).await.expect(404).says("The resource could not be found.");
    owner.delete(&format!("{image}/tags/")).await.expect(404);
    owner.delete(&image).await.expect(204);
    owner.delete(&format!("{image}/tags/a")).await.expect(404).says("not found");
}

#[tokio::test]
async fn conditions_are_checked_in_a_fixed_order() {
    let s = TestServer::start().await;
    let owner = s.member("p1");
    let image = owner.create_image(&json!({"visibility": "community", "tags": ["a"]})).await;
    // 401 before 400
    s.anonymous().delete(&format!("{image}/tags/a=b")).await.expect(401);
    // 400 before 404 (image)
    owner.delete("/v2/images/nope/tags/a=b").await.expect(400);
    // 404 (image) before 403
    s.reader("p2").delete("/v2/images/nope/tags/a").await.expect(404);
    // 403 before 404 (tag)
    s.member("p2").delete(&format!("{image}/tags/nope")).await.expect(403);
}

#[tokio::test]
async fn tags_are_compared_exactly() {
    let s = TestServer::start().await;
    let member = s.member("p1");
    let image = member.create_image(&json!({})).await;
    let longest = "é".repeat(255);
    let encoded_longest = "%C3%A9".repeat(255);
    let tags = [
        ("plain", "plain"),
        ("Plain", "Plain"),
        ("a%2Fb", "a/b"),
        ("a%20b", "a b"),
        ("a%20", "a "),
        ("a", "a"),
        ("%E6%A8%99%E7%AD%BE", "標签"),
        ("e%CC%81", "e\u{301}"),
        ("%C3%A9", "é"),
        ("E", "E"),
        ("50%25", "50%"),
        ("a+b", "a+b"),
        ("%27%3B--", "';--"),
        ("..%2F..", "../.."),
        (encoded_longest.as_str(), longest.as_str()),
    ];
    for (path, _) in tags {
        member.put(&format!("{image}/tags/{path}")).await.expect(204);
    }
    let expected: BTreeSet<&str> = tags.iter().map(|(_, tag)| *tag).collect();
    let shown = member.tags(&image).await;
    assert_eq!(shown.iter().map(String::as_str).collect::<BTreeSet<_>>(), expected);
    assert_eq!(shown.len(), tags.len());
    for (path, _) in ["PLAIN", "A", "e", "%C3%89", "a%20%20"].map(|path| (path, ())) {
        member.delete(&format!("{image}/tags/{path}")).await.expect(404);
    }
    for (path, tag) in tags {
        member.delete(&format!("{image}/tags/{path}")).await.expect(204);
        assert!(!member.tags(&image).await.contains(&tag.to_owned()));
    }
    assert_eq!(s.database.count("SELECT COUNT(*) FROM image_tags").await, 0);
}

/// Glance's schema on MySQL has three bytes per character, unless the operator has converted it.
#[tokio::test]
async fn a_tag_with_an_emoji_can_be_put_found_and_removed_where_the_database_can_store_it() {
    let s = TestServer::start().await;
    let member = s.member("p1");
    let image = member.create_image(&json!({"tags": ["a"]})).await;
    let path = format!("{image}/tags/%F0%9F%98%80");
    member.delete(&path).await.expect(404);
    if s.database.engine == Engine::MySql {
        member.put(&path).await.expect(400).says("Param values can&#x27;t contain 4 byte unicode.");
        member.get("/v2/images?tag=%F0%9F%98%80").await.expect(200).says("\"images\": []");
        assert_eq!(member.tags(&image).await, ["a"]);
        let wide = "ALTER TABLE image_tags MODIFY value VARCHAR(255) CHARACTER SET utf8mb4 NOT NULL";
        s.database.execute(wide).await;
    }
    for _ in 0..2 {
        member.put(&path).await.expect(204);
    }
    assert_eq!(member.tags(&image).await, ["a", "😀"]);
    let found = member.get("/v2/images?tag=%F0%9F%98%80").await.expect(200).json();
    assert_eq!(found["images"].as_array().unwrap().len(), 1);
    member.get("/v2/images?tag=%F0%9F%98%81").await.expect(200).says("\"images\": []");
    member.delete(&format!("{image}/tags/%F0%9F%98%81")).await.expect(404);
    member.delete(&path).await.expect(204);
    assert_eq!(member.tags(&image).await, ["a"]);
    // In a body, Glance refuses it on every engine.
    let says = "Param values can't contain 4 byte unicode.";
    let json = |request: reqwest::RequestBuilder| request.header("Accept", "application/json");
    let create = json(member.request("POST", "/v2/images")).json(&json!({"tags": ["😀"]}));
    member.send(create).await.expect(400).says(says);
}

#[tokio::test]
async fn one_of_fifty_concurrent_removals_of_a_tag_succeeds() {
    let s = TestServer::start().await;
    let member = s.member("p1");
    let image = member.create_image(&json!({"tags": ["a", "b"]})).await;
    let path = format!("{image}/tags/a");
    let answers = (0..50).map(|_| {
        let (member, path) = (member.clone(), path.clone());
        tokio::spawn(async move { member.delete(&path).await.status.as_u16() })
    });
    let mut statuses = Vec::new();
    for answer in answers.collect::<Vec<_>>() {
        statuses.push(answer.await.unwrap());
    }
    statuses.sort_unstable();
    let expected: Vec<u16> = std::iter::once(204).chain(std::iter::repeat_n(404, 49)).collect();
    assert_eq!(statuses, expected);
    assert_eq!(member.tags(&image).await, ["b"]);
}

#[tokio::test]
async fn concurrent_changes_of_different_tags_all_succeed() {
    let s = TestServer::start().await;
    let member = s.member("p1");
    let image = member.create_image(&json!({"tags": ["keep"]})).await;
    for method in ["PUT", "DELETE"] {
        let calls = (0..40).map(|n| {
            let (member, path) = (member.clone(), format!("{image}/tags/t{n}"));
            tokio::spawn(async move { member.send(member.request(method, &path)).await })
        });
        for call in calls.collect::<Vec<_>>() {
            call.await.unwrap().expect(204);
        }
        let expected = if method == "PUT" { 41 } else { 1 };
        assert_eq!(member.tags(&image).await.len(), expected, "after 40 × {method}");
    }
}

#[tokio::test]
async fn forty_concurrent_additions_of_a_tag_succeed_and_store_one_row() {
    let s = TestServer::start().await;
    let member = s.member("p1");
    let image = member.create_image(&json!({})).await;
    let path = format!("{image}/tags/a");
    let calls = (0..40).map(|n| {
        let (member, path) = (member.clone(), path.clone());
        let method = if n % 4 == 3 { "DELETE" } else { "PUT" };
        tokio::spawn(async move { (method, member.send(member.request(method, &path)).await) })
    });
    for call in calls.collect::<Vec<_>>() {
        let (method, answer) = call.await.unwrap();
        let status = answer.status.as_u16();
        assert!(status == 204 || (method == "DELETE" && status == 404), "{method}: {status}");
        assert!(s.database.count("SELECT COUNT(*) FROM image_tags").await <= 1);
    }
    member.put(&path).await.expect(204);
    assert_eq!(s.database.count("SELECT COUNT(*) FROM image_tags").await, 1);
}

/// A row that Glance marked as deleted is not a tag, and does not prevent adding one.
#[tokio::test]
async fn a_tag_removed_by_glance_is_not_shown() {
    let s = TestServer::start().await;
    let member = s.member("p1");
    let image = member.create_image(&json!({"tags": ["a"]})).await;
    let deleted = if s.database.engine == Engine::Postgres { "TRUE" } else { "1" };
    s.database.execute(&format!("UPDATE image_tags SET deleted = {deleted}, deleted_at = created_at")).await;
    member.delete(&format!("{image}/tags/a")).await.expect(404);
    member.put(&format!("{image}/tags/a")).await.expect(204);
    assert_eq!(member.tags(&image).await, ["a"]);
    member.delete(&format!("{image}/tags/a")).await.expect(204);
    assert_eq!(s.database.count("SELECT COUNT(*) FROM image_tags").await, 1);
}

/// Tests on a database server: the profiles postgres and mysql run them.
mod on_a_server {
    use super::*;

    /// That the database aborts a transaction does not show anything about the image or the tag.
    #[tokio::test]
    async fn a_tag_whose_transaction_the_database_aborts_is_answered_503() {
        let s = TestServer::start().await;
        let member = s.member("p1");
        let image = member.create_image(&json!({"tags": ["a"]})).await;
        let triggers = if s.database.engine == Engine::Postgres {
            vec![
                "CREATE FUNCTION abort() RETURNS trigger LANGUAGE plpgsql AS \
                 $$ BEGIN RAISE EXCEPTION 'deadlock' USING ERRCODE = '40P01'; END $$",
                "CREATE TRIGGER aborts BEFORE UPDATE ON images FOR EACH ROW EXECUTE FUNCTION abort()",
            ]
        } else {
            vec![
                "CREATE TRIGGER aborts BEFORE UPDATE ON images FOR EACH ROW \
                 SIGNAL SQLSTATE '40001' SET MYSQL_ERRNO = 1213, MESSAGE_TEXT = 'deadlock'",
            ]
        };
        for trigger in triggers {
            s.database.execute(trigger).await;
        }
        for (method, tag) in [("DELETE", "a"), ("DELETE", "b"), ("PUT", "a"), ("PUT", "b")] {
            let answer = member.send(member.request(method, &format!("{image}/tags/{tag}"))).await.expect(503);
            assert!(!answer.header("Retry-After").is_empty(), "{method} {tag}");
        }
        assert_eq!(member.tags(&image).await, ["a"]);
    }
}
