//! Tests of `ETag`, `If-None-Match` and the headers for caches.

use serde_json::json;

use crate::support::{Answer, Client, TestServer};

async fn get(client: &Client, path: &str, tags: &[&str]) -> Answer {
    let request = client.request("GET", path);
    client.send(tags.iter().fold(request, |request, tag| request.header("If-None-Match", *tag))).await
}

#[tokio::test]
async fn a_matching_etag_is_answered_304() {
    let s = TestServer::start().await;
    let member = s.member("p1");
    let image = member.create_image(&json!({"name": "a", "tags": ["t"]})).await;
    for path in [image.as_str(), "/v2/images", "/v2/images?name=a&limit=1", "/v2/schemas/image"] {
        let whole = member.get(path).await.expect(200);
        let tag = whole.header("etag").to_owned();
        assert!(tag.starts_with("W/\"") && tag.ends_with('"') && tag.len() == 36, "{tag}");
        // The tag stays the same until something changes.
        assert_eq!(member.get(path).await.header("etag"), tag);
        let strong = tag.trim_start_matches("W/");
        let several = format!("\"other\", W/\"a,b\", {tag}");
        for known in [&[tag.as_str()][..], &["*"], &[strong], &[&several], &["\"other\"", &tag]] {
            let answer = get(&member, path, known).await.expect(304);
            assert_eq!((answer.text.as_str(), answer.header("etag")), ("", tag.as_str()), "{path}: {known:?}");
            assert_eq!(answer.header("cache-control"), "private, no-cache");
            assert_eq!(answer.header("vary"), "X-Auth-Token");
            for header in ["content-type", "content-length"] {
                assert!(!answer.headers.contains_key(header), "{path}: {header}");
            }
            assert!(answer.headers.contains_key("x-openstack-request-id"));
        }
        for unknown in [&["\"other\""][..], &["nonsense"], &[""], &["W/\"\""]] {
            assert_eq!(get(&member, path, unknown).await.expect(200).text, whole.text, "{path}: {unknown:?}");
        }
    }
}

#[tokio::test]
async fn a_changed_resource_is_sent() {
    let s = TestServer::start().await;
    let member = s.member("p1");
    let image = member.create_image(&json!({})).await;
    for path in [image.as_str(), "/v2/images"] {
        // Changes twice within a second, which `updated_at` cannot distinguish.
        let tag = member.get(path).await.header("etag").to_owned();
        member.put(&format!("{image}/tags/a")).await.expect(204);
        let changed = get(&member, path, &[&tag]).await.expect(200).says("\"a\"").header("etag").to_owned();
        assert_ne!(changed, tag);
        member.delete(&format!("{image}/tags/a")).await.expect(204);
        get(&member, path, &[&changed]).await.expect(200);
    }
}

/// Knowing a tag grants no access.
#[tokio::test]
async fn an_etag_does_not_reveal_an_invisible_image() {
    let s = TestServer::start().await;
    let image = s.member("p1").create_image(&json!({"visibility": "private"})).await;
    let tag = s.member("p1").get(&image).await.header("etag").to_owned();
    for known in [tag.as_str(), "*"] {
        get(&s.member("p2"), &image, &[known]).await.expect(404);
        get(&s.anonymous(), &image, &[known]).await.expect(401);
    }
}

#[tokio::test]
async fn only_the_callers_cache_may_store_a_response_and_errors_have_no_etag() {
    let s = TestServer::builder().option("cors", "allowed_origin", "http://site").start().await;
    let member = s.member("p1");
    let image = member.create_image(&json!({})).await;
    for (path, client) in [
        (image.as_str(), &member),
        (image.as_str(), &s.member("p2")),
        (image.as_str(), &s.anonymous()),
        ("/v2/images?limit=x", &member),
        ("/v2/nothing", &member),
    ] {
        let answer = client.get(path).await;
        assert_eq!(answer.header("cache-control"), "private, no-cache", "{path}");
        assert_eq!(answer.headers.contains_key("etag"), answer.status == 200, "{path}");
    }
    let page = member.send(member.request("GET", &image).header("Origin", "http://site")).await.expect(200);
    let vary: Vec<&str> = page.headers.get_all("vary").iter().map(|value| value.to_str().unwrap()).collect();
    assert!(vary.contains(&"X-Auth-Token") && vary.contains(&"Origin"), "{vary:?}");
    // Responses to requests that change something have no tag.
    let created = member.post("/v2/images", &json!({})).await.expect(201);
    assert!(!created.headers.contains_key("etag") && !created.headers.contains_key("cache-control"));
}
