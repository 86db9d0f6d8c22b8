//! The whole API as a table: every route, for every persona.

use serde_json::json;

use crate::support::{Client, TestServer};

/// The callers.
const PERSONAS: [&str; 5] = ["no token", "foreign project", "reader", "member", "admin"];

/// Every route of the API: method, path, and the status for each persona in order. `{image}` is a new shared image of
/// the member's project with the tag `t`, `{community}` is an image that other projects can see, and `{member_id}` is
/// the foreign project, with which the image is shared if the path contains it. `{namespace}` is a new private namespace of the
/// member's project, with one of everything. `tests/architecture.rs` compares this
/// table with the route table, so that no route is forgotten.
const ROUTES: &[(&str, &str, [u16; 5])] = &[
    ("GET", "/v2/images", [401, 200, 200, 200, 200]),
    ("POST", "/v2/images", [401, 201, 403, 201, 201]),
    ("GET", "/v2/images/{image}", [401, 404, 200, 200, 200]),
    ("GET", "/v2/images/{community}", [401, 200, 200, 200, 200]),
    ("PATCH", "/v2/images/{image}", [401, 404, 403, 200, 200]),
    ("PATCH", "/v2/images/{community}", [401, 403, 403, 200, 200]),
    ("DELETE", "/v2/images/{image}", [401, 404, 403, 204, 204]),
    ("DELETE", "/v2/images/{community}", [401, 403, 403, 204, 204]),
    ("POST", "/v2/images/{image}/actions/deactivate", [401, 404, 403, 204, 204]),
    ("POST", "/v2/images/{image}/actions/reactivate", [401, 404, 403, 204, 204]),
    ("GET", "/v2/images/{image}/members", [401, 404, 200, 200, 200]),
    ("GET", "/v2/images/{community}/members", [401, 403, 403, 403, 403]),
    ("POST", "/v2/images/{image}/members", [401, 404, 403, 200, 200]),
    ("POST", "/v2/images/{community}/members", [401, 403, 403, 403, 403]),
    ("GET", "/v2/images/{image}/members/{member_id}", [401, 200, 200, 200, 200]),
    ("PUT", "/v2/images/{image}/members/{member_id}", [401, 200, 403, 403, 200]),
    ("DELETE", "/v2/images/{image}/members/{member_id}", [401, 403, 403, 204, 204]),
    ("GET", "/v2/images/{image}/file", [401, 404, 403, 204, 204]),
    ("GET", "/v2/images/{community}/file", [401, 204, 403, 204, 204]),
    // Without a media type.
    ("PUT", "/v2/images/{image}/file", [401, 415, 415, 415, 415]),
    // Without a body.
    ("POST", "/v2/images/{image}/import", [401, 400, 400, 400, 400]),
    // Without a body.
    ("POST", "/v2/images/{image}/locations", [401, 400, 400, 400, 400]),
    ("GET", "/v2/images/{image}/locations", [401, 404, 403, 403, 200]),
    ("GET", "/v2/images/{community}/locations", [401, 403, 403, 403, 200]),
    ("PUT", "/v2/images/{image}/stage", [401, 415, 415, 415, 415]),
    ("PUT", "/v2/images/{image}/tags/{tag}", [401, 404, 403, 204, 204]),
    ("PUT", "/v2/images/{community}/tags/{tag}", [401, 403, 403, 204, 204]),
    ("DELETE", "/v2/images/{image}/tags/{tag}", [401, 404, 403, 204, 204]),
    ("DELETE", "/v2/images/{community}/tags/{tag}", [401, 403, 403, 204, 204]),
    ("GET", "/v2/images/{image}/tasks", [401, 404, 200, 200, 200]),
    ("GET", "/v2/images/{community}/tasks", [401, 200, 200, 200, 200]),
    ("GET", "/v2/tasks", [401, 403, 403, 403, 200]),
    ("POST", "/v2/tasks", [401, 403, 403, 403, 400]),
    ("GET", "/v2/tasks/{task_id}", [401, 403, 403, 403, 404]),
    // Tasks expire.
    ("DELETE", "/v2/tasks/{task_id}", [401, 403, 403, 403, 405]),
    ("GET", "/v2/info/import", [401, 200, 200, 200, 200]),
    ("GET", "/v2/info/usage", [401, 200, 200, 200, 200]),
    // No named stores are configured.
    ("GET", "/v2/info/stores", [401, 404, 404, 404, 404]),
    ("GET", "/v2/info/stores/detail", [401, 404, 404, 404, 404]),
    ("DELETE", "/v2/stores/{store_id}/{image}", [401, 404, 404, 404, 404]),
    // No cache is configured.
    ("GET", "/v2/cache", [401, 403, 403, 403, 404]),
    ("DELETE", "/v2/cache", [401, 403, 403, 403, 404]),
    ("PUT", "/v2/cache/{image}", [401, 404, 403, 403, 404]),
    ("DELETE", "/v2/cache/{image}", [401, 404, 403, 403, 404]),
    ("GET", "/v2/cache/nodes/{image}", [401, 403, 403, 403, 404]),
    ("POST", "/v2/cache/clean", [401, 403, 403, 403, 404]),
    ("POST", "/v2/cache/prune", [401, 403, 403, 403, 404]),
    ("GET", "/v2/schemas/image", [401, 200, 200, 200, 200]),
    ("GET", "/v2/schemas/images", [401, 200, 200, 200, 200]),
    ("GET", "/v2/schemas/member", [401, 200, 200, 200, 200]),
    ("GET", "/v2/schemas/members", [401, 200, 200, 200, 200]),
    ("GET", "/v2/schemas/task", [401, 200, 200, 200, 200]),
    ("GET", "/v2/schemas/tasks", [401, 200, 200, 200, 200]),
    ("GET", "/v2/metadefs/resource_types", [401, 200, 200, 200, 200]),
    ("GET", "/v2/metadefs/namespaces", [401, 200, 200, 200, 200]),
    ("POST", "/v2/metadefs/namespaces", [401, 403, 403, 403, 201]),
    ("GET", "/v2/metadefs/namespaces/{namespace}", [401, 404, 200, 200, 200]),
    ("PUT", "/v2/metadefs/namespaces/{namespace}", [401, 404, 403, 403, 200]),
    ("DELETE", "/v2/metadefs/namespaces/{namespace}", [401, 404, 403, 403, 204]),
    ("GET", "/v2/metadefs/namespaces/{namespace}/resource_types", [401, 404, 200, 200, 200]),
    ("POST", "/v2/metadefs/namespaces/{namespace}/resource_types", [401, 404, 403, 403, 201]),
    ("DELETE", "/v2/metadefs/namespaces/{namespace}/resource_types/{resource_type}", [401, 404, 403, 403, 204]),
    ("GET", "/v2/metadefs/namespaces/{namespace}/properties", [401, 404, 200, 200, 200]),
    ("POST", "/v2/metadefs/namespaces/{namespace}/properties", [401, 404, 403, 403, 201]),
    ("DELETE", "/v2/metadefs/namespaces/{namespace}/properties", [401, 404, 403, 403, 204]),
    ("GET", "/v2/metadefs/namespaces/{namespace}/properties/{property}", [401, 404, 200, 200, 200]),
    ("PUT", "/v2/metadefs/namespaces/{namespace}/properties/{property}", [401, 404, 403, 403, 200]),
    ("DELETE", "/v2/metadefs/namespaces/{namespace}/properties/{property}", [401, 404, 403, 403, 204]),
    ("GET", "/v2/metadefs/namespaces/{namespace}/objects", [401, 404, 200, 200, 200]),
    ("POST", "/v2/metadefs/namespaces/{namespace}/objects", [401, 404, 403, 403, 201]),
    ("DELETE", "/v2/metadefs/namespaces/{namespace}/objects", [401, 404, 403, 403, 204]),
    ("GET", "/v2/metadefs/namespaces/{namespace}/objects/{object}", [401, 404, 200, 200, 200]),
    ("PUT", "/v2/metadefs/namespaces/{namespace}/objects/{object}", [401, 404, 403, 403, 200]),
    ("DELETE", "/v2/metadefs/namespaces/{namespace}/objects/{object}", [401, 404, 403, 403, 204]),
    ("GET", "/v2/metadefs/namespaces/{namespace}/tags", [401, 404, 200, 200, 200]),
    ("POST", "/v2/metadefs/namespaces/{namespace}/tags", [401, 404, 403, 403, 201]),
    ("DELETE", "/v2/metadefs/namespaces/{namespace}/tags", [401, 404, 403, 403, 204]),
    ("GET", "/v2/metadefs/namespaces/{namespace}/tags/{metadef_tag}", [401, 404, 200, 200, 200]),
    ("POST", "/v2/metadefs/namespaces/{namespace}/tags/{metadef_tag}", [401, 404, 403, 403, 201]),
    ("PUT", "/v2/metadefs/namespaces/{namespace}/tags/{metadef_tag}", [401, 404, 403, 403, 200]),
    ("DELETE", "/v2/metadefs/namespaces/{namespace}/tags/{metadef_tag}", [401, 404, 403, 403, 204]),
    ("GET", "/v2/schemas/metadefs/namespace", [401, 200, 200, 200, 200]),
    ("GET", "/v2/schemas/metadefs/namespaces", [401, 200, 200, 200, 200]),
    ("GET", "/v2/schemas/metadefs/resource_type", [401, 200, 200, 200, 200]),
    ("GET", "/v2/schemas/metadefs/resource_types", [401, 200, 200, 200, 200]),
    ("GET", "/v2/schemas/metadefs/property", [401, 200, 200, 200, 200]),
    ("GET", "/v2/schemas/metadefs/properties", [401, 200, 200, 200, 200]),
    ("GET", "/v2/schemas/metadefs/object", [401, 200, 200, 200, 200]),
    ("GET", "/v2/schemas/metadefs/objects", [401, 200, 200, 200, 200]),
    ("GET", "/v2/schemas/metadefs/tag", [401, 200, 200, 200, 200]),
    ("GET", "/v2/schemas/metadefs/tags", [401, 200, 200, 200, 200]),
];

fn personas(s: &TestServer) -> [Client; 5] {
    [s.anonymous(), s.member("foreign"), s.reader("home"), s.member("home"), s.admin()]
}

/// The path in a new namespace of the member's project.
async fn in_new_namespace(s: &TestServer, path: &str, method: &str) -> String {
    let all = json!({
        "namespace": format!("n{}", uuid::Uuid::new_v4()),
        "owner": "home",
        "resource_type_associations": [{"name": "r"}],
        "properties": {"p": {"type": "string", "title": "t"}},
        "objects": [{"name": "o"}],
        "tags": [{"name": "t"}],
    });
    let created = s.admin().post("/v2/metadefs/namespaces", &all).await.expect(201).json();
    let tag = if method == "POST" { "new" } else { "t" };
    let path = path.replace("{namespace}", created["namespace"].as_str().unwrap()).replace("{metadef_tag}", tag);
    path.replace("{resource_type}", "r").replace("{property}", "p").replace("{object}", "o")
}

#[tokio::test]
async fn every_route_has_its_status_for_every_persona() {
    let s = TestServer::start().await;
    let member = s.member("home");
    for (method, template, expected) in ROUTES {
        for ((persona, client), status) in PERSONAS.iter().zip(personas(&s)).zip(expected) {
            let visibility = if template.contains("{community}") { "community" } else { "shared" };
            let image = member.create_image(&json!({"visibility": visibility, "tags": ["t"]})).await;
            if template.contains("/actions/") {
                s.database.execute("UPDATE images SET status = 'active' WHERE status = 'queued'").await;
            }
            let id = image.rsplit('/').next().unwrap();
            if template.contains("{member_id}") {
                member.post(&format!("{image}/members"), &json!({"member": "foreign"})).await.expect(200);
            }
            let path = template.replace("{image}", id).replace("{community}", id).replace("{tag}", "t");
            let path = match template.contains("{namespace}") {
                true => in_new_namespace(&s, &path, method).await,
                false => path,
            };
            let request = client.request(method, &path.replace("{member_id}", "foreign"));
            let request = match (*method, template.rsplit('/').next().unwrap()) {
                ("POST", "images") => request.json(&json!({})),
                ("POST", "namespaces") => request.json(&json!({"namespace": "new"})),
                ("PUT", "{namespace}") => request.json(&json!({"namespace": "changed"})),
                ("POST", "resource_types") => request.json(&json!({"name": "new"})),
                ("POST", "objects") | ("PUT", "{object}" | "{metadef_tag}") => request.json(&json!({"name": "new"})),
                ("POST", "properties") | ("PUT", "{property}") => {
                    request.json(&json!({"name": "new", "type": "string", "title": "t"}))
                }
                ("POST", "tags") => request.json(&json!({"tags": [{"name": "new"}]})),
                ("POST", "members") => request.json(&json!({"member": "other"})),
                ("PUT", "{member_id}") => request.json(&json!({"status": "accepted"})),
                ("PATCH", _) => request
                    .header("Content-Type", "application/openstack-images-v2.1-json-patch")
                    .body("[{\"op\": \"add\", \"path\": \"/name\", \"value\": \"n\"}]"),
                _ => request,
            };
            let answer = client.send(request).await;
            assert_eq!(answer.status.as_u16(), *status, "{persona}: {method} {template}: {}", answer.text);
        }
    }
}

#[tokio::test]
async fn an_unsupported_method_is_answered_with_the_supported_ones() {
    let s = TestServer::start().await;
    let mut paths: Vec<&str> =
        ROUTES.iter().map(|(_, path, _)| *path).filter(|path| !path.contains("community")).collect();
    paths.dedup();
    for path in paths {
        let known: Vec<&str> =
            ROUTES.iter().filter(|(_, other, _)| *other == path).map(|(method, ..)| *method).collect();
        let url = path.replace("{image}", "4ca46bf1-5c61-48ff-b4f3-0ad4e5e3ba90").replace("{tag}", "t");
        let url = url.replace("{member_id}", "p2");
        for method in ["GET", "POST", "PUT", "DELETE", "PATCH", "FOO"] {
            if !known.contains(&method) {
                let member = s.member("p1");
                let answer = member.send(member.request(method, &url).header("Accept", "text/plain")).await.expect(405);
                let answer = answer.says(&format!("The method {method} is not allowed for this resource."));
                let mut allowed: Vec<&str> = answer.header("allow").split(", ").collect();
                allowed.sort_unstable();
                let mut known = known.clone();
                known.sort_unstable();
                assert_eq!(allowed, known, "{path}");
            }
        }
    }
}

/// Glance's API has no routes for HEAD.
#[tokio::test]
async fn head_requests_are_refused() {
    let s = TestServer::start().await;
    let member = s.member("p1");
    member.send(member.request("HEAD", "/v2/images")).await.expect(405);
}
