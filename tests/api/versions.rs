//! Tests of version discovery, the ways to write a version, and the formats of errors.

use serde_json::{Value, json};

use crate::support::TestServer;

#[tokio::test]
async fn every_url_without_a_version_lists_the_versions() {
    let s = TestServer::start().await;
    let nobody = s.anonymous();
    for (path, status) in
        [("/", 300), ("/nope", 300), ("/v3/images", 300), ("/images", 300), ("/versions", 200), ("/versions/", 200)]
    {
        let answer = nobody.get(path).await.expect(status);
        assert_eq!(answer.header("content-type"), "application/json");
        answer.header("x-openstack-request-id");
        let versions = answer.json()["versions"].as_array().unwrap().clone();
        let ids: Vec<&str> = versions.iter().map(|version| version["id"].as_str().unwrap()).collect();
        // Clients choose their calls by this list, so it has no version whose calls are missing.
        let expected = ["v2.15", "v2.9", "v2.17", "v2.7", "v2.6", "v2.5", "v2.4", "v2.3", "v2.2", "v2.1", "v2.0"];
        assert_eq!(ids, expected);
        let current: Vec<&Value> = versions.iter().filter(|version| version["status"] == "CURRENT").collect();
        let links = json!([{"rel": "self", "href": format!("{}/v2/", s.base)}]);
        assert_eq!(current, [&json!({"id": "v2.17", "status": "CURRENT", "links": links})]);
    }
}

#[tokio::test]
async fn the_public_endpoint_is_in_the_links() {
    let s = TestServer::builder().option("DEFAULT", "public_endpoint", "https://images.example/x/").start().await;
    let body = s.anonymous().get("/").await.json();
    assert_eq!(body["versions"][0]["links"][0]["href"], "https://images.example/x/v2/");
}

#[tokio::test]
async fn a_host_header_cannot_inject_markup_into_links() {
    let s = TestServer::start().await;
    let nobody = s.anonymous();
    let request = nobody.request("GET", "/").header("Host", "evil.example/\"><script>");
    let answer = nobody.send(request).await;
    assert!(!answer.text.contains("script"), "{}", answer.text);
}

#[tokio::test]
async fn every_minor_version_is_served_as_v2() {
    let s = TestServer::start().await;
    let member = s.member("p1");
    let image = member.create_image(&json!({"tags": ["a"]})).await;
    for version in ["v2.0", "v2.6", "v2.9", "v2.15", "v2.17"] {
        member.get(&image.replace("v2", version)).await.expect(200);
        member.get(&format!("/{version}/images?name=nope")).await.expect(200).says("\"images\": []");
    }
    member.delete(&format!("{}/tags/a", image.replace("v2", "v2.3"))).await.expect(204);
    member.get(&image.replace("v2", "v2.99")).await.expect(300);
    let request = member.request("GET", "/images").header("Accept", "application/vnd.openstack.images-v2.3");
    member.send(request).await.expect(200);
    let request = member.request("GET", "/images").header("Accept", "application/vnd.openstack.images-v9");
    member.send(request).await.expect(300);
    for path in ["//v2/images", "/v2//images", "//v2.3//images", "/v2/schemas//image", "/healthcheck//", "//versions"] {
        member.get(path).await.expect(200);
    }
    let answer = s.anonymous().get("/v2").await.expect(401);
    answer.header("x-openstack-request-id");
    assert_eq!(member.get("/v2").await.expect(302).header("location"), format!("{}/v2/", s.base));
    member.get("/v2/").await.expect(404);
}

#[tokio::test]
async fn unknown_paths_and_methods_are_refused() {
    let s = TestServer::start().await;
    let member = s.member("p1");
    member.get("/v2/nope").await.expect(404).says("The resource could not be found.");
    s.anonymous().get("/v2/nope").await.expect(401);
    member.send(member.request("FOO", "/v2/nope")).await.expect(501).says("is not implemented for this server");
}

/// The exact bytes of the formats are compared in unit tests; this test checks which client gets which format.
#[tokio::test]
async fn errors_have_the_format_that_the_client_accepts() {
    let s = TestServer::start().await;
    let member = s.member("p1");
    let cases = [
        (Some("*/*"), "text/html; charset=UTF-8", "<html>\n <head>\n  <title>404 Not Found</title>"),
        (
            Some("application/json"),
            "application/json",
            "{\"message\": \"No image found with ID x<br /><br />\\n\\n\\n\", ",
        ),
        (Some(""), "text/plain; charset=UTF-8", "404 Not Found\n\nNo image found with ID x\n\n   "),
        (Some("text/plain"), "text/plain; charset=UTF-8", "404 Not Found\n\nNo image"),
    ];
    for (accept, content_type, start) in cases {
        let request = member.request("GET", "/v2/images/x");
        let request = accept.into_iter().fold(request, |request, accept| request.header("Accept", accept));
        let answer = member.send(request).await.expect(404);
        assert_eq!(answer.header("content-type"), content_type);
        assert!(answer.text.starts_with(start), "{accept:?}: {}", answer.text);
        assert_eq!(answer.header("content-length"), answer.text.len().to_string());
    }
    // The same applies to a 401, which is produced before routing.
    let nobody = s.anonymous();
    let answer = nobody.send(nobody.request("GET", "/v2/images").header("Accept", "application/json")).await;
    assert_eq!(answer.expect(401).json()["code"], "401 Unauthorized");
}
