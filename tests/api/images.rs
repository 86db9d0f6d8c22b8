//! Tests of creating, showing, listing and deleting images.

use serde_json::{Value, json};

use crate::support::{Client, TestServer};

#[tokio::test]
async fn a_created_image_is_shown_with_all_given_attributes() {
    let s = TestServer::start().await;
    let member = s.member("p1");
    let body = json!({
        "id": "4ca46bf1-5c61-48ff-b4f3-0ad4e5e3ba90", "name": "né", "visibility": "private", "protected": true,
        "os_hidden": true, "min_ram": 512, "min_disk": 3, "disk_format": "qcow2", "container_format": "bare",
        "tags": ["b", "a", "b"], "zulu": "1", "os_distro": "debian",
    });
    let answer = member.post("/v2/images", &body).await.expect(201);
    let location = format!("{}/v2/images/4ca46bf1-5c61-48ff-b4f3-0ad4e5e3ba90", s.base);
    assert_eq!(answer.header("location"), location);
    assert_eq!(answer.header("content-type"), "application/json");
    let (created, shown) = (answer.json(), member.get("/v2/images/4ca46bf1-5c61-48ff-b4f3-0ad4e5e3ba90").await);
    assert_eq!(created, shown.expect(200).json());
    let mut expected = body;
    let time = created["created_at"].as_str().unwrap();
    let time = chrono::NaiveDateTime::parse_from_str(time, "%Y-%m-%dT%H:%M:%SZ").unwrap();
    let path = "/v2/images/4ca46bf1-5c61-48ff-b4f3-0ad4e5e3ba90";
    let made_up = json!({
        "tags": ["a", "b"], "status": "queued", "owner": "p1", "size": null, "virtual_size": null, "checksum": null,
        "os_hash_algo": null, "os_hash_value": null, "self": path, "file": format!("{path}/file"),
        "schema": "/v2/schemas/image",
        "created_at": time.format("%Y-%m-%dT%H:%M:%SZ").to_string(),
        "updated_at": time.format("%Y-%m-%dT%H:%M:%SZ").to_string(),
    });
    expected.as_object_mut().unwrap().extend(made_up.as_object().unwrap().clone());
    assert_eq!(created, expected);
}

/// Some clients depend on the exact text of the JSON: `", "`, `": "`, and custom properties first.
#[tokio::test]
async fn response_bodies_are_formatted_like_glances() {
    let s = TestServer::start().await;
    let answer = s.member("p1").post("/v2/images", &json!({"foo": "bär", "name": "n"})).await.expect(201);
    let start = "{\"foo\": \"bär\", \"name\": \"n\", \"disk_format\": null, \"container_format\": null, \"visibility\": \
                 \"shared\", \"size\": null, \"virtual_size\": null, \"status\": \"queued\", ";
    assert!(answer.text.starts_with(start), "{}", answer.text);
}

/// The names of an image's custom properties, in the order of the JSON text.
fn property_names(image: &Value) -> Vec<&str> {
    image.as_object().unwrap().keys().map(String::as_str).take_while(|name| *name != "name").collect()
}

#[tokio::test]
async fn custom_properties_keep_the_order_in_which_they_were_added() {
    let s = TestServer::start().await;
    let member = s.member("p1");
    let created = member.post("/v2/images", &json!({"zulu": "1", "alpha": "2", "name": "n", "mike": "3"})).await;
    let created = created.expect(201).json();
    assert_eq!(property_names(&created), ["zulu", "alpha", "mike"]);
    let image = created["self"].as_str().unwrap();
    let patch = async |operations: Value| {
        let request = member.request("PATCH", image).body(operations.to_string());
        let media_type = "application/openstack-images-v2.1-json-patch";
        member.send(request.header("Content-Type", media_type)).await.expect(200).json()
    };
    let shown = async || {
        let listed = member.get("/v2/images").await.expect(200).json();
        let shown = member.get(image).await.expect(200).json();
        assert_eq!(property_names(&listed["images"][0]), property_names(&shown));
        assert_eq!(listed["images"][0], shown);
        shown
    };
    assert_eq!(shown().await, created);
    // A changed property keeps its place, and a new one is the last.
    let operations = json!([
        {"op": "add", "path": "/yankee", "value": "4"},
        {"op": "replace", "path": "/zulu", "value": "5"},
        {"op": "add", "path": "/bravo", "value": "6"},
        {"op": "replace", "path": "/mike", "value": "it's %s"},
        {"op": "add", "path": "/yankee", "value": "7"},
    ]);
    let patched = patch(operations).await;
    assert_eq!(property_names(&patched), ["zulu", "alpha", "mike", "yankee", "bravo"]);
    assert_eq!([&patched["zulu"], &patched["mike"], &patched["yankee"]], ["5", "it's %s", "7"]);
    assert_eq!(property_names(&shown().await), ["zulu", "alpha", "mike", "yankee", "bravo"]);
    assert_eq!(shown().await, patched);
    // A property that is removed and added again is the last.
    patch(json!([{"op": "remove", "path": "/zulu"}])).await;
    let patched = patch(json!([{"op": "add", "path": "/zulu", "value": "8"}])).await;
    assert_eq!(property_names(&patched), ["alpha", "mike", "yankee", "bravo", "zulu"]);
    assert_eq!(property_names(&shown().await), property_names(&patched));
}

#[tokio::test]
async fn the_id_of_a_deleted_image_cannot_be_used_again() {
    let s = TestServer::start().await;
    let member = s.member("p1");
    let body = json!({"id": "4ca46bf1-5c61-48ff-b4f3-0ad4e5e3ba90"});
    let image = member.create_image(&body).await;
    let says = "Image ID 4ca46bf1-5c61-48ff-b4f3-0ad4e5e3ba90 already exists!";
    member.post("/v2/images", &body).await.expect(409).says(says);
    s.member("p2").post("/v2/images", &body).await.expect(409).says(says);
    member.delete(&image).await.expect(204);
    member.get(&image).await.expect(404);
    s.admin().get(&image).await.expect(404);
    member.post("/v2/images", &body).await.expect(409).says(says);
    assert_eq!(s.database.count("SELECT COUNT(*) FROM images WHERE status = 'deleted'").await, 1);
}

#[tokio::test]
async fn visibility_decides_whether_another_project_sees_an_image() {
    let s = TestServer::start().await;
    let (owner, other) = (s.member("p1"), s.member("p2"));
    let mut images = Vec::new();
    for (visibility, seen, listed) in
        [("private", 404, false), ("shared", 404, false), ("community", 200, false), ("public", 200, true)]
    {
        let client = if visibility == "public" { s.admin() } else { owner.clone() };
        let body = json!({"visibility": visibility, "owner": "p1", "name": visibility});
        images.push((client.create_image(&body).await, seen, listed));
    }
    let listed_for_other = names(&other, "/v2/images").await;
    for (image, seen, listed) in images {
        owner.get(&image).await.expect(200);
        s.admin().get(&image).await.expect(200);
        let name = owner.get(&image).await.json()["name"].as_str().unwrap().to_owned();
        other.get(&image).await.expect(seen);
        assert_eq!(listed_for_other.contains(&name), listed, "{name}");
    }
    assert_eq!(names(&owner, "/v2/images").await.len(), 4);
    assert_eq!(names(&s.admin(), "/v2/images").await.len(), 3);
    // On engines whose timestamps have whole seconds, the order is that of the ids.
    let mut all = names(&other, "/v2/images?visibility=all").await;
    all.sort_unstable();
    assert_eq!(all, ["community", "public"]);
    assert_eq!(names(&other, "/v2/images?visibility=community").await, ["community"]);
    // Projects whose names differ only in case are different.
    assert_eq!(names(&s.member("P1"), "/v2/images").await, ["public"]);
}

#[tokio::test]
async fn forbidden_attributes_are_refused_at_creation() {
    let s = TestServer::start().await;
    let member = s.member("p1");
    let cases = [
        (json!({"visibility": "public"}), 403, "You are not authorized to complete publicize_image action."),
        (json!({"owner": "p2"}), 403, "You are not permitted to create images owned by &#x27;p2&#x27;"),
        (json!({"status": "active"}), 403, "Attribute &#x27;status&#x27; is read-only."),
        (json!({"self": "x"}), 403, "Attribute &#x27;self&#x27; is read-only."),
        (json!({"deleted": "x"}), 403, "Attribute &#x27;deleted&#x27; is reserved."),
        (json!({"os_glance_x": "x"}), 403, "Attribute &#x27;os_glance_x&#x27; is reserved."),
        (json!({"locations": []}), 403, "Attribute &#x27;locations&#x27; is reserved."),
    ];
    for (body, status, says) in cases {
        let answer = member.send(member.request("POST", "/v2/images").json(&body).header("Accept", "*/*")).await;
        answer.expect(status).says(says);
    }
    s.reader("p1").post("/v2/images", &json!({})).await.expect(403).says("add_image");
    s.admin().post("/v2/images", &json!({"owner": "p2", "visibility": "public"})).await.expect(201);
}

#[tokio::test]
async fn too_many_properties_are_refused() {
    let s = TestServer::builder().option("DEFAULT", "image_property_quota", 1).start().await;
    let member = s.member("p1");
    member.post("/v2/images", &json!({"a": "1"})).await.expect(201);
    let answer = member.post("/v2/images", &json!({"a": "1", "b": "2"})).await.expect(413);
    answer.says("The limit has been exceeded on the number of allowed image properties. Attempted: 2, Maximum: 1");
}

#[tokio::test]
async fn a_protected_image_is_not_deleted() {
    let s = TestServer::start().await;
    let member = s.member("p1");
    let image = member.create_image(&json!({"protected": true})).await;
    let id = image.rsplit('/').next().unwrap();
    let says = format!("Image {id} is protected and cannot be deleted.");
    member.delete(&image).await.expect(403).says(&says);
    s.admin().delete(&image).await.expect(403).says(&says);
    member.get(&image).await.expect(200);
}

#[tokio::test]
async fn deleting_an_image_deletes_its_tags_and_properties() {
    let s = TestServer::start().await;
    let member = s.member("p1");
    let image = member.create_image(&json!({"name": "n", "tags": ["a"], "foo": "bar"})).await;
    let other = member.create_image(&json!({"name": "n", "tags": ["a"], "foo": "bar"})).await;
    member.delete(&image).await.expect(204);
    member.delete(&image).await.expect(404).says("Failed to find image");
    for table in ["images", "image_tags", "image_properties"] {
        let marked = format!("SELECT COUNT(*) FROM {table} WHERE deleted_at IS NOT NULL");
        assert_eq!(s.database.count(&marked).await, 1, "{table}");
    }
    assert_eq!(member.get(&other).await.json()["foo"], "bar");
    assert_eq!(names(&member, "/v2/images").await.len(), 1);
}

/// Data in a store that only a Glance knows is left to Glance's scrubber, so it is not orphaned.
#[tokio::test]
async fn deleting_an_image_in_an_unknown_store_leaves_its_data_to_the_scrubber() {
    let s = TestServer::start().await;
    let member = s.member("p1");
    let image = member.create_image(&json!({})).await;
    let id = image.rsplit('/').next().unwrap();
    s.database.execute("UPDATE images SET status = 'active'").await;
    let columns = "image_id, value, created_at, deleted, status";
    let location = format!("'{id}', 'rbd://x', '2026-01-01 00:00:00', '0', 'active'");
    s.database.execute(&format!("INSERT INTO image_locations ({columns}) VALUES ({location})")).await;
    member.delete(&image).await.expect(204);
    let waiting = "SELECT COUNT(*) FROM image_locations WHERE status = 'pending_delete' AND deleted_at IS NOT NULL";
    assert_eq!(s.database.count(waiting).await, 1);
    assert_eq!(s.database.count("SELECT COUNT(*) FROM images WHERE status = 'pending_delete'").await, 1);
}

/// The other deletions are answered 404, not 409.
#[tokio::test]
async fn one_of_ten_concurrent_deletions_of_an_image_succeeds() {
    let s = TestServer::start().await;
    let member = s.member("p1");
    let image = member.create_image(&json!({"tags": ["a"]})).await;
    let calls = (0..10).map(|_| {
        let (member, image) = (member.clone(), image.clone());
        tokio::spawn(async move { member.delete(&image).await.status.as_u16() })
    });
    let mut statuses = Vec::new();
    for call in calls.collect::<Vec<_>>() {
        statuses.push(call.await.unwrap());
    }
    statuses.sort_unstable();
    assert_eq!(statuses, [204, 404, 404, 404, 404, 404, 404, 404, 404, 404]);
}

async fn names(client: &Client, path: &str) -> Vec<String> {
    let body = client.get(path).await.expect(200).json();
    body["images"].as_array().unwrap().iter().map(|image| image["name"].as_str().unwrap().to_owned()).collect()
}

/// Follows `next` to the last page.
async fn pages(client: &Client, first: &str) -> Vec<Vec<String>> {
    let mut pages = Vec::new();
    let mut path = first.to_owned();
    loop {
        let body = client.get(&path).await.expect(200).json();
        let images = body["images"].as_array().unwrap();
        pages.push(images.iter().map(|image| image["name"].as_str().unwrap().to_owned()).collect());
        match &body["next"] {
            Value::String(next) => path.clone_from(next),
            _ => return pages,
        }
    }
}

#[tokio::test]
async fn pages_follow_each_other_newest_first() {
    let s = TestServer::start().await;
    let member = s.member("p1");
    for n in 0..7 {
        member.create_image(&json!({"name": format!("i{n}")})).await;
    }
    // Some images have the same time, so their ids decide the order.
    s.database
        .execute("UPDATE images SET created_at = '2026-01-01 00:00:00.000000' WHERE name IN ('i2', 'i3', 'i4')")
        .await;
    s.database
        .execute("UPDATE images SET created_at = '2026-01-02 00:00:00.000000' WHERE name NOT IN ('i2', 'i3', 'i4')")
        .await;
    let all = names(&member, "/v2/images").await;
    assert_eq!(all.len(), 7);
    for limit in [1, 2, 3, 6, 7, 8] {
        let pages = pages(&member, &format!("/v2/images?limit={limit}")).await;
        assert_eq!(pages.concat(), all, "limit {limit}");
        // As in Glance, a full page has a link to the next one, even if that is empty.
        let (last, full) = pages.split_last().unwrap();
        assert!(full.iter().all(|page| page.len() == limit) && last.len() == 7 % limit, "{pages:?}");
    }
    assert!(all[4..].iter().all(|name| ["i2", "i3", "i4"].contains(&name.as_str())), "{all:?}");
}

#[tokio::test]
async fn page_links_keep_every_query_parameter() {
    let s = TestServer::start().await;
    let member = s.member("p1");
    for _ in 0..2 {
        member.create_image(&json!({"tags": ["a b", "ü"], "name": "n"})).await;
    }
    let body = member.get("/v2/images?limit=1&tag=a%20b&tag=%C3%BC").await.expect(200).json();
    assert_eq!(body["first"], "/v2/images?limit=1&tag=a+b&tag=%C3%BC");
    assert_eq!(body["schema"], "/v2/schemas/images");
    let id = body["images"][0]["id"].as_str().unwrap();
    assert_eq!(body["next"], format!("/v2/images?limit=1&tag=a+b&tag=%C3%BC&marker={id}"));
    let body = member.get(body["next"].as_str().unwrap()).await.expect(200).json();
    assert_eq!(body["images"].as_array().unwrap().len(), 1);
    let body = member.get(body["next"].as_str().unwrap()).await.expect(200).json();
    assert_eq!((&body["images"], body.get("next")), (&json!([]), None));
    assert_eq!(member.get("/v2/images").await.json()["first"], "/v2/images");
}

#[tokio::test]
async fn the_length_of_a_page_is_limited() {
    let s = TestServer::builder()
        .option("DEFAULT", "limit_param_default", 2)
        .option("DEFAULT", "api_limit_max", 3)
        .start()
        .await;
    let member = s.member("p1");
    for n in 0..4 {
        member.create_image(&json!({"name": format!("i{n}")})).await;
    }
    assert_eq!(names(&member, "/v2/images").await.len(), 2);
    assert_eq!(names(&member, "/v2/images?limit=100").await.len(), 3);
    assert_eq!(names(&member, "/v2/images?limit=0").await.len(), 0);
    member.get("/v2/images?limit=x").await.expect(400).says("limit param must be an integer");
    member.get("/v2/images?limit=-1").await.expect(400).says("limit param must be positive");
}

#[tokio::test]
async fn a_marker_that_is_invisible_to_the_caller_is_refused() {
    let s = TestServer::start().await;
    let hidden = s.member("p2").create_image(&json!({})).await;
    let hidden = hidden.rsplit('/').next().unwrap();
    let member = s.member("p1");
    for marker in ["nope", "4ca46bf1-5c61-48ff-b4f3-0ad4e5e3ba90", hidden] {
        let answer = member.get(&format!("/v2/images?marker={marker}")).await.expect(400);
        answer.says(&format!("No image found with ID {marker}"));
    }
}

#[tokio::test]
async fn a_listing_is_filtered_and_sorted() {
    let s = TestServer::start().await;
    let member = s.member("p1");
    let images = [
        json!({"name": "a", "disk_format": "raw", "tags": ["x", "y"], "os_distro": "debian", "protected": true}),
        json!({"name": "B", "disk_format": "qcow2", "tags": ["x"], "os_distro": "Debian"}),
        json!({"name": "c, d", "os_hidden": true, "min_ram": 5}),
    ];
    for image in &images {
        member.create_image(image).await;
    }
    s.database.execute("UPDATE images SET size = 10 WHERE name = 'a'").await;
    let cases = [
        ("name=a", "a"),
        ("name=A", ""),
        ("name=in:a,B&sort=name:asc", "B a"),
        ("name=in:%22a%22,B&sort=name", "a B"),
        ("tag=x&sort_key=name&sort_dir=desc", "a B"),
        ("tag=x&tag=y", "a"),
        ("tag=X", ""),
        ("os_distro=debian", "a"),
        ("disk_format=qcow2", "B"),
        ("protected=true", "a"),
        ("os_hidden=true", "c, d"),
        ("os_hidden=true&min_ram=5", "c, d"),
        ("status=queued&sort=name:asc", "B a"),
        ("status=active", ""),
        ("owner=p1&sort=name:asc", "B a"),
        ("owner=p2", ""),
        ("size_min=1", "a"),
        ("size_max=9", ""),
        ("created_at=lt:2020-01-01T00:00:00Z", ""),
        ("created_at=gt:2020-01-01T00:00:00Z&sort=size:asc,name:asc", "B a"),
        ("updated_at=gte:2020-01-01&sort=disk_format:desc", "a B"),
        ("visibility=shared&sort=id&name=B", "B"),
    ];
    for (query, expected) in cases {
        assert_eq!(names(&member, &format!("/v2/images?{query}")).await.join(" "), expected, "{query}");
    }
    let refused = [
        ("sort_key=nope", "Invalid sort key: nope."),
        ("sort_dir=up", "Invalid sort direction: up"),
        ("sort=name&sort_key=id", "Old and new sorting syntax cannot be combined"),
        ("visibility=nope", "Invalid visibility value: nope"),
        ("protected=maybe", "filter. Valid values are"),
        ("size_min=x", "Unable to filter on a range with a non-numeric value."),
        ("created_at=yesterday", "Use ISO 8601 DateTime notation."),
        ("name=like:x", "Unable to filter by unknown operator"),
        ("name=in:%22a", "The quote is not closed."),
        ("changes-since=2020-01-01", "no longer available on v2"),
    ];
    for (query, says) in refused {
        member.get(&format!("/v2/images?{query}")).await.expect(400).says(says);
    }
}

#[tokio::test]
async fn schemas_describe_an_image() {
    let s = TestServer::builder().option("image_format", "disk_formats", "raw,foo").start().await;
    let member = s.member("p1");
    let schema = member.get("/v2/schemas/image").await.expect(200).json();
    assert_eq!(schema["properties"]["disk_format"]["enum"], json!([null, "raw", "foo"]));
    assert_eq!(schema["additionalProperties"], json!({"type": "string"}));
    let keys: Vec<&String> = schema["properties"].as_object().unwrap().keys().collect();
    assert_eq!(keys[..4], ["id", "name", "status", "visibility"]);
    let page = member.get("/v2/schemas/images").await.expect(200).json();
    assert_eq!(page["properties"]["images"]["items"], schema);
    member.post("/v2/images", &json!({"disk_format": "foo"})).await.expect(201);
    member.post("/v2/images", &json!({"disk_format": "qcow2"})).await.expect(400).says("is not one of [None, ");
}

/// Locations are shown only if the configuration says so.
#[tokio::test]
async fn locations_are_shown_if_configured() {
    let shown = TestServer::builder()
        .option("DEFAULT", "show_image_direct_url", true)
        .option("DEFAULT", "show_multiple_locations", true)
        .start()
        .await;
    let hidden = TestServer::builder().database(shown.database.clone()).start().await;
    let member = shown.member("p1");
    let (image, other) = (member.create_image(&json!({})).await, member.create_image(&json!({})).await);
    assert_eq!(member.get(&other).await.json()["locations"], json!([]));
    let id = image.rsplit('/').next().unwrap();
    for (url, metadata, deleted) in
        [("file:///b", "'{\"store\": \"fast\"}'", 0), ("file:///gone", "NULL", 1), ("file:///a", "NULL", 0)]
    {
        let columns = "image_id, value, meta_data, created_at, deleted, status";
        let values = format!("'{id}', '{url}', {metadata}, '2026-01-01 00:00:00', '{deleted}', 'active'");
        shown.database.execute(&format!("INSERT INTO image_locations ({columns}) VALUES ({values})")).await;
    }
    let expected = json!([
        {"url": "file:///b", "metadata": {"store": "fast"}},
        {"url": "file:///a", "metadata": {}},
    ]);
    let body = member.get(&image).await.expect(200).json();
    assert_eq!((&body["locations"], &body["direct_url"]), (&expected, &json!("file:///b")));
    let listed = member.get("/v2/images").await.expect(200).json();
    let listed: Vec<&Value> = listed["images"].as_array().unwrap().iter().filter(|image| image["id"] == id).collect();
    assert_eq!(listed[0]["locations"], expected);
    let body = hidden.member("p1").get(&image).await.expect(200).json();
    assert_eq!((body.get("locations"), body.get("direct_url")), (None, None));
}
