//! One script of requests, sent to a real Glance and to Glimpse. Every part of the responses that a client can observe
//! must be the same.
//!
//! The script is generated: personas × images × operations, listings, and unusual requests. Each server has its own
//! database on the engine under test, and both go through the same states in the same order. Intended differences are
//! listed in [`DIFFERENT`], with reasons, and in docs/differences.md.

use serde_json::{Value, json};

use crate::support::{Persona, Question, Twins};

const ADMIN: Persona = Persona::Admin;
const OWNER: Persona = Persona::Member("p1");
const READER: Persona = Persona::Reader("p1");
const OTHER: Persona = Persona::Member("p2");
const PERSONAS: [Persona; 5] = [Persona::Anonymous, OTHER, READER, OWNER, ADMIN];

/// The id of the n-th image.
fn id(n: usize) -> String {
    format!("{n:08x}-5c61-48ff-b4f3-0ad4e5e3ba90")
}

fn path(n: usize) -> String {
    format!("/v2/images/{}", id(n))
}

/// Images with every property that a rule can check, and the personas that create them.
fn images() -> Vec<(Persona, Value)> {
    vec![
        (OWNER, json!({"name": "a", "visibility": "private"})),
        (OWNER, json!({"name": "b", "tags": ["x", "y"], "os_distro": "debian", "hw_disk_bus": "virtio"})),
        (OWNER, json!({"name": "c", "visibility": "community", "tags": ["x"]})),
        (ADMIN, json!({"name": "d", "visibility": "public", "owner": "p1", "protected": true})),
        (ADMIN, json!({"name": "e", "visibility": "public", "min_ram": 512, "min_disk": 3})),
        (OTHER, json!({"name": "f, \"g\"", "os_hidden": true, "disk_format": "qcow2", "container_format": "bare"})),
        (OTHER, json!({"name": "", "disk_format": "raw", "os_distro": "fedora"})),
        (OTHER, json!({"visibility": "community", "os_hidden": true, "tags": ["ü"]})),
        (OWNER, json!({"name": "né", "os_distro": "né", "protected": false})),
    ]
}

async fn create(twins: &Twins) -> usize {
    let images = images();
    for (n, (persona, body)) in images.iter().enumerate() {
        let mut body = body.clone();
        body["id"] = json!(id(n));
        assert_eq!(twins.same(&Question::new(*persona, "POST", "/v2/images").json(&body)).await, 201);
    }
    images.len()
}

#[tokio::test]
async fn every_caller_gets_glances_answers_for_images_visible_to_one_project() {
    check_every_operation_on(&[0, 1]).await;
}

#[tokio::test]
async fn every_caller_gets_glances_answers_for_images_visible_to_all() {
    check_every_operation_on(&[2, 3]).await;
}

async fn check_every_operation_on(images: &[usize]) {
    let twins = Twins::start().await;
    create(&twins).await;
    twins.both("UPDATE images SET status = 'active', size = 5 WHERE name IN ('b', 'd')").await;
    let patch = |name: &str, value: Value| json!([{"op": "replace", "path": format!("/{name}"), "value": value}]);
    for n in images {
        for persona in PERSONAS {
            let image = path(*n);
            let ask = |method, rest: &str| Question::new(persona, method, format!("{image}{rest}"));
            let script = [
                ask("GET", ""),
                ask("PUT", "/tags/new"),
                ask("PUT", "/tags/u%20x"),
                ask("DELETE", "/tags/new"),
                ask("DELETE", "/tags/never"),
                ask("PATCH", "").patch(&patch("name", json!("named"))),
                ask("PATCH", "").patch(&patch("os_hidden", json!(false))),
                ask("PATCH", "").patch(&patch("visibility", json!("public"))),
                ask("PATCH", "").patch(&patch("visibility", json!("community"))),
                ask("PATCH", "").patch(&patch("visibility", json!("private"))),
                ask("PATCH", "").patch(&patch("visibility", json!("shared"))),
                ask("PATCH", "").patch(&json!([{"op": "add", "path": "/new", "value": "1"}])),
                ask("PATCH", "").patch(&json!([{"op": "remove", "path": "/new"}])),
                ask("PATCH", "").patch(&json!([{"op": "remove", "path": "/os_distro"}])),
                ask("PATCH", "").patch(&json!([{"op": "add", "path": "/os_distro", "value": "debian"}])),
                ask("POST", "/actions/deactivate"),
                ask("POST", "/actions/reactivate"),
                ask("PATCH", "").patch(&patch("disk_format", json!("raw"))),
                ask("GET", "/members"),
                ask("POST", "/members").json(&json!({"member": "p3"})),
                ask("GET", "/members/p3"),
                ask("PUT", "/members/p3").json(&json!({"status": "accepted"})),
                ask("DELETE", "/members/p3"),
                ask("PATCH", "").patch(&patch("protected", json!(true))),
                ask("DELETE", ""),
                ask("PATCH", "").patch(&patch("protected", json!(false))),
                ask("GET", ""),
            ];
            for question in script {
                twins.same(&question).await;
            }
        }
    }
    // Deletions come last: first by callers that are not allowed to delete, then by those that are.
    for persona in PERSONAS {
        for n in images {
            twins.same(&Question::new(persona, "DELETE", path(*n))).await;
            twins.same(&Question::new(persona, "GET", path(*n))).await;
        }
        twins.same(&Question::new(persona, "GET", "/v2/images")).await;
    }
}

#[tokio::test]
async fn members_get_glances_answers_for_shared_images() {
    let twins = Twins::start().await;
    create(&twins).await;
    let (shared, private) = (path(1), path(0));
    for image in [&shared, &private] {
        let body = json!({"member": "p2"});
        twins.same(&Question::new(OWNER, "POST", format!("{image}/members")).json(&body)).await;
    }
    for status in ["pending", "accepted", "rejected", "pending"] {
        let body = json!({"status": status});
        let member = format!("{shared}/members/p2");
        for persona in [OWNER, READER, Persona::Member("p3"), OTHER] {
            twins.same(&Question::new(persona, "PUT", &member).json(&body)).await;
        }
        for persona in [OTHER, Persona::Reader("p2"), OWNER, Persona::Member("p3"), ADMIN] {
            for query in ["", "?member_status=pending", "?member_status=all", "?visibility=shared", "?owner=p1"] {
                twins.same(&Question::new(persona, "GET", format!("/v2/images{query}"))).await;
            }
            let ask = |method, rest: &str| Question::new(persona, method, format!("{shared}{rest}"));
            let script = [
                ask("GET", ""),
                ask("GET", "/members"),
                ask("GET", "/members/p2"),
                ask("GET", "/members/p3"),
                ask("PUT", "/tags/mine"),
                ask("PATCH", "").patch(&json!([{"op": "add", "path": "/mine", "value": "1"}])),
                ask("DELETE", "/members/p9"),
            ];
            for question in script {
                twins.same(&question).await;
            }
        }
    }
}

#[tokio::test]
async fn listings_have_the_same_pages_as_glances() {
    let twins = Twins::start().await;
    let images = create(&twins).await;
    // Each image is a second newer than the previous one, so the resolution of the engine's clock does not matter.
    for n in 0..images {
        let time = format!("2026-01-01 00:00:{n:02}.000000");
        twins
            .both(&format!("UPDATE images SET created_at = '{time}', updated_at = '{time}' WHERE id = '{}'", id(n)))
            .await;
    }
    twins.both("UPDATE images SET status = 'active', size = 5 WHERE name IN ('b', 'd')").await;
    let deleted = json!({"id": id(100)});
    twins.same(&Question::new(OWNER, "POST", "/v2/images").json(&deleted)).await;
    twins.same(&Question::new(OWNER, "DELETE", path(100))).await;
    let queries = [
        "".to_owned(),
        "limit=2".to_owned(),
        "limit=0".to_owned(),
        "limit=1000000".to_owned(),
        "limit=99999999999999999999".to_owned(),
        "limit=-1".to_owned(),
        "limit=x".to_owned(),
        format!("marker={}", id(4)),
        format!("marker={}&limit=1", id(3)),
        format!("marker={}", id(100)),
        format!("marker={}", id(101)),
        "marker=".to_owned(),
        "marker=x".to_owned(),
        format!("marker={}&sort_dir=asc", id(2)),
        format!("marker={}&name=b", id(4)),
        "name=b".to_owned(),
        "name=".to_owned(),
        "name=b&name=c".to_owned(),
        "name=n%C3%A9".to_owned(),
        "name=in:b,c".to_owned(),
        "name=in:%22f,%20%5C%22g%5C%22%22".to_owned(),
        "name=in:%22b".to_owned(),
        "name=in:".to_owned(),
        "name=eq:b".to_owned(),
        "name=neq:b".to_owned(),
        "name=like:b".to_owned(),
        "status=active".to_owned(),
        "status=nope".to_owned(),
        "status=in:active,queued".to_owned(),
        "visibility=public".to_owned(),
        "visibility=private".to_owned(),
        "visibility=shared".to_owned(),
        "visibility=community".to_owned(),
        "visibility=all".to_owned(),
        "visibility=nope".to_owned(),
        "os_hidden=true".to_owned(),
        "os_hidden=TRUE".to_owned(),
        "os_hidden=x".to_owned(),
        "protected=true".to_owned(),
        "protected=false".to_owned(),
        "protected=True".to_owned(),
        "owner=p1".to_owned(),
        "owner=p2".to_owned(),
        "owner=".to_owned(),
        "tag=x".to_owned(),
        "tag=x&tag=y".to_owned(),
        "tag=nope".to_owned(),
        "tag=".to_owned(),
        "os_distro=debian".to_owned(),
        "os_distro=debian&hw_disk_bus=virtio".to_owned(),
        "nope=x".to_owned(),
        "min_ram=512".to_owned(),
        "min_disk=3".to_owned(),
        "size_min=5".to_owned(),
        "size_max=4".to_owned(),
        "size_min=-1".to_owned(),
        "size_min=x".to_owned(),
        "size=5".to_owned(),
        "disk_format=raw".to_owned(),
        "disk_format=in:raw,qcow2".to_owned(),
        "container_format=bare".to_owned(),
        format!("id={}", id(1)),
        format!("id=in:{},{}", id(1), id(2)),
        "created_at=gt:2026-01-01T00:00:02Z".to_owned(),
        "created_at=gte:2026-01-01T00:00:02Z".to_owned(),
        "created_at=lt:2026-01-01T00:00:02Z".to_owned(),
        "created_at=lte:2026-01-01T00:00:02Z".to_owned(),
        "created_at=eq:2026-01-01T00:00:02Z".to_owned(),
        "created_at=neq:2026-01-01T00:00:02Z".to_owned(),
        "updated_at=2026-01-01T00:00:02Z".to_owned(),
        "created_at=gt:x".to_owned(),
        "created_at=x".to_owned(),
        "created_at=foo:2026-01-01T00:00:02Z".to_owned(),
        "changes-since=2026-01-01T00:00:02Z".to_owned(),
        "member_status=nope".to_owned(),
        "member_status=all".to_owned(),
        "sort_key=id".to_owned(),
        "sort_key=id&sort_dir=asc".to_owned(),
        "sort_key=created_at&sort_key=id&sort_dir=asc&sort_dir=desc".to_owned(),
        "sort_key=status&sort_dir=asc&sort_dir=desc".to_owned(),
        "sort_key=nope".to_owned(),
        "sort_key=tags".to_owned(),
        "sort_dir=nope".to_owned(),
        "sort_dir=asc".to_owned(),
        "sort=id".to_owned(),
        "sort=id:asc,created_at".to_owned(),
        "sort=id:asc,created_at:desc&limit=1".to_owned(),
        "sort=id:nope".to_owned(),
        "sort=".to_owned(),
        "sort=id,".to_owned(),
        "sort=id&sort_key=id".to_owned(),
        "sort=status:asc,id:asc".to_owned(),
        "deleted=true".to_owned(),
        "is_public=true".to_owned(),
    ];
    for query in queries {
        for persona in [OTHER, ADMIN] {
            let question = Question::new(persona, "GET", format!("/v2/images?{query}"));
            // If a parameter is repeated, Glance's links keep only the last value.
            let mut names: Vec<&str> = query.split('&').filter_map(|pair| pair.split('=').next()).collect();
            let parameters = names.len();
            names.sort_unstable();
            names.dedup();
            let twice = names.len() < parameters;
            twins.same(&question.ignoring(if twice { &["first", "next"] } else { &[] })).await;
        }
    }
}

#[tokio::test]
async fn unusual_create_requests_are_answered_alike() {
    let twins = Twins::start().await;
    let bodies = [
        json!({}),
        json!({"name": null}),
        json!({"name": 5}),
        json!({"name": "x".repeat(256)}),
        json!({"name": "x".repeat(255)}),
        json!({"name": "🦀"}),
        json!({"id": "x"}),
        json!({"id": id(0)}),
        json!({"id": id(0)}),
        json!({"visibility": "x"}),
        json!({"visibility": "public"}),
        json!({"visibility": "community"}),
        json!({"owner": "p2"}),
        json!({"owner": null}),
        json!({"tags": ["a", "a"]}),
        json!({"tags": "a"}),
        json!({"tags": ["x".repeat(256)]}),
        json!({"min_ram": -1}),
        json!({"min_ram": "1"}),
        json!({"min_disk": 2_147_483_648_u32}),
        json!({"disk_format": "nope"}),
        json!({"disk_format": null, "container_format": null}),
        json!({"disk_format": "raw", "container_format": "bare"}),
        json!({"protected": "true"}),
        json!({"os_hidden": true}),
        json!({"status": "active"}),
        json!({"size": 5}),
        json!({"created_at": "2026-01-01T00:00:00Z"}),
        json!({"self": "x"}),
        json!({"file": "x"}),
        json!({"schema": "x"}),
        json!({"direct_url": "x"}),
        json!({"stores": "x"}),
        json!({"location": "x"}),
        json!({"deleted": "x"}),
        json!({"deleted_at": "x"}),
        json!({"os_glance_x": "x"}),
        json!({"foo": 5}),
        json!({"foo": ""}),
        json!({"foo": "ü", "bar": "b"}),
        json!({"x".repeat(256): "v"}),
        json!({"foo": {"a": 1}}),
        json!({"kernel_id": id(1), "ramdisk_id": null}),
        json!({"kernel_id": "x"}),
        json!({"architecture": "x86_64", "os_version": "12"}),
    ];
    for body in &bodies {
        for persona in [Persona::Anonymous, OWNER, ADMIN] {
            // Generated ids are random and cannot be compared, so a body without an id gets one.
            let mut body = body.clone();
            let number = 1000 + twins.request_count();
            let object = body.as_object_mut().unwrap();
            object.entry("id").or_insert(json!(id(number)));
            twins.same(&Question::new(persona, "POST", "/v2/images").json(&body)).await;
        }
    }
    for body in [json!({}), json!({"name": 5}), json!({"owner": "p2"}), json!({"visibility": "public"})] {
        twins.same(&Question::new(READER, "POST", "/v2/images").json(&body)).await;
    }
    for accept in ["*/*", "text/html", "text/plain", "application/json", "application/xml", ""] {
        for (method, path) in [("GET", "/v2/images/nope"), ("GET", "/v2/nope"), ("DELETE", "/v2/images")] {
            twins.same(&Question::new(OWNER, method, path).header("Accept", accept)).await;
        }
    }
}

/// Requests with intended differences: Glimpse's status, Glance's status, and the reason.
#[tokio::test]
async fn intended_differences_from_glance_have_the_listed_statuses() {
    let twins = Twins::start().await;
    create(&twins).await;
    let add_owner = json!([{"op": "add", "path": "/owner", "value": "p1"}]);
    let different = [
        (Question::new(OWNER, "PUT", format!("{}/tags/a=b", path(1))), 400, 204, "= in a tag is refused by default"),
        (Question::new(OWNER, "POST", "/v2/images").json(&json!([])), 400, 500, "an array is no image"),
        (Question::new(OWNER, "PATCH", path(1)).patch(&add_owner), 403, 200, "owners are changed by admins only"),
        (
            Question::new(OWNER, "GET", format!("/v2/images?marker={}", id(6))),
            400,
            403,
            "that an image exists is not told to who may not see it",
        ),
    ];
    for (question, ours, theirs, reason) in different {
        let (left, right) = twins.ask(&question).await;
        assert_eq!((left.status, right.status), (ours, theirs), "{question:?}: {reason}");
    }
}
