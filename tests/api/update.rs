//! Tests of changing images: `PATCH` in its two dialects, and the actions.

use serde_json::{Value, json};

use crate::support::{Answer, Client, Persona, Question, TestServer, Twins};

const V20: &str = "application/openstack-images-v2.0-json-patch";
const V21: &str = "application/openstack-images-v2.1-json-patch";

async fn patch(client: &Client, image: &str, operations: &Value) -> Answer {
    client.send(client.request("PATCH", image).header("Content-Type", V21).body(operations.to_string())).await
}

fn replace(name: &str, value: impl Into<Value>) -> Value {
    json!([{"op": "replace", "path": format!("/{name}"), "value": value.into()}])
}

#[tokio::test]
async fn a_patch_is_applied_completely_and_answered_with_the_image() {
    let s = TestServer::start().await;
    let member = s.member("p1");
    let image = member.create_image(&json!({"name": "a", "tags": ["x", "y"], "foo": "1", "bar": "2"})).await;
    let operations = json!([
        {"op": "replace", "path": "/name", "value": "né"},
        {"op": "replace", "path": "/tags", "value": ["y", "z", "z"]},
        {"op": "add", "path": "/foo", "value": "3"},
        {"op": "add", "path": "/a~1b", "value": ""},
        {"op": "remove", "path": "/bar"},
        {"op": "replace", "path": "/min_ram", "value": 7},
        {"op": "replace", "path": "/protected", "value": true},
        {"op": "replace", "path": "/visibility", "value": "private"},
        {"op": "replace", "path": "/disk_format", "value": "raw"},
    ]);
    let answer = patch(&member, &image, &operations).await.expect(200);
    assert_eq!(answer.header("content-type"), "application/json");
    let body = answer.json();
    assert_eq!(body, member.get(&image).await.json());
    let expected = json!({
        "name": "né", "tags": ["y", "z"], "foo": "3", "a/b": "", "min_ram": 7, "protected": true,
        "visibility": "private", "disk_format": "raw",
    });
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(&body[name], value, "{name}");
    }
    assert_eq!(body.get("bar"), None);
    assert_eq!(s.database.count("SELECT COUNT(*) FROM image_properties").await, 2);
    assert_eq!(s.database.count("SELECT COUNT(*) FROM image_tags").await, 2);
}

#[tokio::test]
async fn a_patch_with_an_error_changes_nothing() {
    let s = TestServer::start().await;
    let member = s.member("p1");
    let image = member.create_image(&json!({"name": "a", "tags": ["x"]})).await;
    let before = member.get(&image).await.json();
    let operations = json!([
        {"op": "replace", "path": "/name", "value": "b"},
        {"op": "add", "path": "/foo", "value": "b"},
        {"op": "replace", "path": "/tags", "value": []},
        {"op": "replace", "path": "/nope", "value": "b"},
    ]);
    patch(&member, &image, &operations).await.expect(409);
    assert_eq!(member.get(&image).await.json(), before);
}

/// A property that a Glance marked as deleted, or whose name differs only in case, does not prevent adding one.
#[tokio::test]
async fn a_deleted_property_can_be_added_again() {
    let s = TestServer::start().await;
    let member = s.member("p1");
    let image = member.create_image(&json!({"foo": "1", "bar": "2"})).await;
    s.database.execute("UPDATE image_properties SET deleted = '1' WHERE name = 'foo'").await;
    assert_eq!(member.get(&image).await.json().get("foo"), None);
    let add = json!([{"op": "add", "path": "/foo", "value": "3"}]);
    assert_eq!(patch(&member, &image, &add).await.expect(200).json()["foo"], "3");
    let swap = json!([{"op": "remove", "path": "/bar"}, {"op": "add", "path": "/Bar", "value": "4"}]);
    let body = patch(&member, &image, &swap).await.expect(200).json();
    assert_eq!((body.get("bar"), &body["Bar"]), (None, &json!("4")));
    assert_eq!(member.get(&image).await.json(), body);
}

/// The change of each writer is kept: no writer writes back values that it read earlier.
#[tokio::test]
async fn no_concurrent_update_of_an_image_is_lost() {
    let s = TestServer::start().await;
    let member = s.member("p1");
    let image = member.create_image(&json!({"name": "a"})).await;
    let calls: Vec<_> = (0..20)
        .map(|n| {
            let (member, image) = (member.clone(), image.clone());
            tokio::spawn(async move {
                let operations = json!([{"op": "add", "path": format!("/p{n}"), "value": n.to_string()}]);
                patch(&member, &image, &operations).await.expect(200);
                member.put(&format!("{image}/tags/t{n}")).await.expect(204);
            })
        })
        .collect();
    for call in calls {
        call.await.unwrap();
    }
    let body = member.get(&image).await.json();
    assert_eq!(body["tags"].as_array().unwrap().len(), 20);
    for n in 0..20 {
        assert_eq!(body[format!("p{n}")], n.to_string());
    }
}

#[tokio::test]
async fn only_admins_change_the_owner() {
    let s = TestServer::start().await;
    let member = s.member("p1");
    let image = member.create_image(&json!({})).await;
    for op in ["replace", "add"] {
        let operations = json!([{"op": op, "path": "/owner", "value": "p2"}]);
        patch(&member, &image, &operations).await.expect(403).says("be updated by non admin.");
    }
    patch(&s.admin(), &image, &replace("owner", "p2")).await.expect(200);
    member.get(&image).await.expect(404);
    assert_eq!(s.member("p2").get(&image).await.expect(200).json()["owner"], "p2");
}

#[tokio::test]
async fn a_deactivated_image_can_be_reactivated() {
    let s = TestServer::start().await;
    let member = s.member("p1");
    let image = member.create_image(&json!({})).await;
    let (deactivate, reactivate) = (format!("{image}/actions/deactivate"), format!("{image}/actions/reactivate"));
    let post = |path: String| {
        let member = member.clone();
        async move { member.send(member.request("POST", &path)).await }
    };
    let says = "in status &#x27;queued&#x27;";
    post(deactivate.clone()).await.expect(403);
    let html = member.send(member.request("POST", &reactivate).header("Accept", "*/*")).await.expect(403);
    html.says("Not allowed to reactivate image").says(says);
    s.database.execute("UPDATE images SET status = 'active'").await;
    for _ in 0..2 {
        post(deactivate.clone()).await.expect(204);
        assert_eq!(member.get(&image).await.json()["status"], "deactivated");
    }
    for _ in 0..2 {
        post(reactivate.clone()).await.expect(204);
        assert_eq!(member.get(&image).await.json()["status"], "active");
    }
    // The format of an active image cannot be changed.
    let answer = patch(&member, &image, &replace("disk_format", "raw")).await.expect(403);
    answer.says("Attribute disk_format can be only replaced for a queued image.");
}

/// Each case is also sent to a real Glance: statuses and bodies must be the same.
#[tokio::test]
async fn patches_are_answered_as_in_glance() {
    let twins = Twins::start().await;
    let member = Persona::Member("p1");
    let mut images = 0;
    let create = json!({
        "name": "a", "tags": ["x", "y"], "foo": "1", "visibility": "shared", "disk_format": "raw",
    });
    let v21 = [
        json!([]),
        json!({}),
        json!("x"),
        json!([1]),
        json!([{}]),
        json!([{"op": "add"}]),
        json!([{"op": "add", "path": "/name"}]),
        json!([{"op": "move", "path": "/name", "value": "x"}]),
        json!([{"op": "replace", "path": "name", "value": "x"}]),
        json!([{"op": "replace", "path": "/name/x", "value": "x"}]),
        json!([{"op": "replace", "path": "/name//x", "value": "x"}]),
        json!([{"op": "replace", "path": "/name/", "value": "x"}]),
        json!([{"op": "replace", "path": "/na~me", "value": "x"}]),
        json!([{"op": "replace", "path": "//name", "value": "x"}]),
        json!([{"op": "replace", "path": "/ name ", "value": "x"}]),
        json!([{"op": "add", "path": "/a~1b~0c", "value": "x"}]),
        json!([{"op": "replace", "path": "/name", "value": null}]),
        json!([{"op": "replace", "path": "/name", "value": ""}]),
        json!([{"op": "replace", "path": "/foo", "value": "é"}]),
        json!([{"op": "replace", "path": "/bar", "value": "x"}]),
        json!([{"op": "remove", "path": "/foo"}]),
        json!([{"op": "remove", "path": "/bar"}]),
        json!([{"op": "remove", "path": "/name"}]),
        json!([{"op": "remove", "path": "/tags"}]),
        json!([{"op": "remove", "path": "/id"}]),
        json!([{"op": "remove", "path": "/status"}]),
        json!([{"op": "add", "path": "/status", "value": "active"}]),
        json!([{"op": "add", "path": "/id", "value": "x"}]),
        json!([{"op": "add", "path": "/size", "value": 1}]),
        json!([{"op": "add", "path": "/direct_url", "value": "x"}]),
        json!([{"op": "add", "path": "/location", "value": "x"}]),
        json!([{"op": "add", "path": "/deleted", "value": "x"}]),
        json!([{"op": "add", "path": "/os_glance_x", "value": "x"}]),
        json!([{"op": "remove", "path": "/os_glance_x"}]),
        json!([{"op": "add", "path": "/name", "value": "again"}]),
        json!([{"op": "add", "path": "/min_ram", "value": 5}, {"op": "add", "path": "/min_disk", "value": 6}]),
        json!([{"op": "add", "path": "/min_ram", "value": -5}]),
        json!([{"op": "add", "path": "/min_ram", "value": 2_147_483_648_u32}]),
        json!([{"op": "replace", "path": "/visibility", "value": "public"}]),
        json!([{"op": "replace", "path": "/visibility", "value": "community"}]),
        json!([{"op": "replace", "path": "/owner", "value": "p2"}]),
        json!([{"op": "replace", "path": "/tags", "value": ["b", "a"]}]),
        json!([{"op": "replace", "path": "/tags", "value": []}]),
        json!([{"op": "add", "path": "/tags/-", "value": "b"}]),
        json!([{"op": "add", "path": "/locations/-", "value": {"url": "http://x/", "metadata": {}}}]),
        json!([{"op": "replace", "path": "/locations", "value": []}]),
        json!([{"op": "replace", "path": "/locations", "value": [{"url": "http://x/", "metadata": {}}]}]),
        json!([{"op": "remove", "path": "/locations/0"}]),
        json!([{"op": "remove", "path": "/locations"}]),
        json!([{"op": "replace", "path": "/protected", "value": true}, {"op": "replace", "path": "/os_hidden", "value": true}]),
        json!([{"op": "replace", "path": "/container_format", "value": "bare"}]),
        json!([{"op": "replace", "path": "/name", "value": "x"}, {"op": "replace", "path": "/bar", "value": "x"}]),
        json!([{"op": "add", "path": "/bar", "value": "x"}, {"op": "replace", "path": "/bar", "value": "y"}]),
        json!([{"op": "add", "path": "/bar", "value": "x"}, {"op": "remove", "path": "/bar"}]),
    ];
    let v20 = [
        json!([{"add": "/bar", "value": "x"}]),
        json!([{"add": "/foo", "value": "x"}]),
        json!([{"add": "/name", "value": "x"}]),
        json!([{"replace": "/name", "value": "x"}]),
        json!([{"replace": "/foo", "value": "x"}]),
        json!([{"remove": "/foo"}]),
        json!([{"replace": "/foo"}]),
        json!([{"remove": "/foo", "add": "/foo"}]),
        json!([{"op": "add", "path": "/foo", "value": "x"}]),
    ];
    let cases = v21.iter().map(|body| (V21, body)).chain(v20.iter().map(|body| (V20, body)));
    for (media_type, operations) in cases {
        images += 1;
        let mut body = create.clone();
        body["id"] = json!(format!("{images:08x}-5c61-48ff-b4f3-0ad4e5e3ba90"));
        let path = format!("/v2/images/{}", body["id"].as_str().unwrap());
        twins.same(&Question::new(member, "POST", "/v2/images").json(&body)).await;
        let personas = [Persona::Anonymous, Persona::Member("p2"), Persona::Reader("p1"), member, Persona::Admin];
        for persona in personas {
            let question = Question::new(persona, "PATCH", &path).text(&operations.to_string());
            twins.same(&question.header("Content-Type", media_type)).await;
        }
        twins.same(&Question::new(Persona::Admin, "GET", &path)).await;
    }
    let path = "/v2/images/00000001-5c61-48ff-b4f3-0ad4e5e3ba90";
    for media_type in ["", "application/json", "application/openstack-images-v2.1-json-patch; charset=utf-8", "text/x"]
    {
        let question = Question::new(member, "PATCH", path).text("[]").header("Content-Type", media_type);
        twins.same(&question).await;
    }
    for body in ["", "{", "[]x"] {
        let (ours, theirs) =
            twins.ask(&Question::new(member, "PATCH", path).header("Content-Type", V21).text(body)).await;
        assert_eq!(ours.status, theirs.status, "{body}");
    }
    twins.same(&Question::new(member, "PATCH", "/v2/images/nope").patch(&json!([]))).await;
}

/// The whole patch is applied while the image's row is locked.
#[tokio::test]
async fn the_number_of_operations_in_a_patch_is_limited() {
    let s = TestServer::start().await;
    let member = s.member("p1");
    let image = member.create_image(&json!({})).await;
    let rename = |n: usize| json!({"op": "replace", "path": "/name", "value": n.to_string()});
    let answer = patch(&member, &image, &(0..1001).map(rename).collect()).await.expect(400);
    answer.says("A patch can have at most 1000 operations.");
    patch(&member, &image, &(0..1000).map(rename).collect()).await.expect(200);
    assert_eq!(member.get(&image).await.json()["name"], "999");
}

/// Protection could not be guaranteed, because the data may already be removed; and the time of its change belongs to its deletion.
#[tokio::test]
async fn an_image_that_is_being_deleted_cannot_be_changed() {
    let s = TestServer::start().await;
    let member = s.member("p1");
    let image = member.create_image(&json!({})).await;
    s.database.execute("UPDATE images SET status = 'pending_delete'").await;
    patch(&member, &image, &replace("protected", true)).await.expect(409).says("is being deleted");
    patch(&member, &image, &replace("name", "n")).await.expect(409).says("is being deleted");
    member.put(&format!("{image}/tags/t")).await.expect(404);
    member.delete(&image).await.expect(204);
}
