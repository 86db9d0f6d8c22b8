//! The schemas and the errors for images that do not match them, compared with a real Glance.

use std::fs;

use serde_json::{Value, json};

use crate::support::{Client, Glance, TestServer, program};

const SCHEMAS: [&str; 16] = [
    "image",
    "images",
    "member",
    "members",
    "task",
    "tasks",
    "metadefs/namespace",
    "metadefs/namespaces",
    "metadefs/resource_type",
    "metadefs/resource_types",
    "metadefs/property",
    "metadefs/properties",
    "metadefs/object",
    "metadefs/objects",
    "metadefs/tag",
    "metadefs/tags",
];

/// A file of custom properties with most of the possible keywords, in the form with `required`.
fn custom() -> String {
    json!({
        "properties": {
            "os_distro": {"type": "string", "description": "née 🐧", "enum": ["debian", "näh"], "is_base": true},
            "kernel_id": {"type": ["null", "string"], "pattern": "^[a-f]{3}$"},
            "level": {"anyOf": [{"type": "string", "maxLength": 2}, {"type": "string", "pattern": "^x"}, {"const": "y"}]},
            "one": {"oneOf": [{"minLength": 3}, {"type": "string", "pattern": "^a"}]},
            "all": {"allOf": [{"minLength": 3}, {"pattern": "(?!no)^..."}]},
            "not": {"not": {"enum": ["never"]}, "type": "string"},
            "empty": {"maxLength": 0},
            "whole": {"type": "integer", "minimum": 1, "exclusiveMaximum": 10, "multipleOf": 3},
            "list": {"type": "array", "minItems": 1, "maxItems": 3, "uniqueItems": true, "items": {"type": ["string", "number"]}},
            "object": {
                "type": "object",
                "properties": {"a": {"type": "string"}, "b": false},
                "patternProperties": {"^x_": {"type": "boolean"}},
                "additionalProperties": false,
                "required": ["a"],
                "dependentRequired": {"x_a": ["x_b"]},
                "minProperties": 1,
                "maxProperties": 3,
            },
        },
        "required": ["name", "os_distro"],
    })
    .to_string()
}

async fn both(options: &[(&str, &str, &str)], custom: Option<&str>) -> (TestServer, Glance) {
    let file = custom.map(|text| ("schema-image.json", text));
    let mut builder = TestServer::builder();
    for (group, name, value) in options {
        builder = builder.option(group, name, value);
    }
    if let Some((name, text)) = file {
        builder = builder.file(name, text);
    }
    let s = builder.start().await;
    let glance = Glance::start_with(&s.database, options, file.as_slice()).await;
    (s, glance)
}

async fn agree_on_schemas(ours: &Client, theirs: &Client) {
    for schema in SCHEMAS {
        let path = format!("/v2/schemas/{schema}");
        let (ours, theirs) = (ours.get(&path).await.expect(200), theirs.get(&path).await.expect(200));
        assert_eq!(ours.text, theirs.text, "{path}");
        assert_eq!(ours.header("content-type"), theirs.header("content-type"), "{path}");
    }
}

/// Sends each body to both servers, and compares the responses.
async fn agree_on_faults(ours: &Client, theirs: &Client, bodies: &[Value]) {
    for body in bodies {
        let send = async |client: &Client| {
            let request = client.request("POST", "/v2/images").header("Accept", "application/json").json(body);
            client.send(request).await
        };
        let (ours, theirs) = (send(ours).await, send(theirs).await);
        assert_eq!((theirs.status.as_u16(), &ours.text), (400, &theirs.text), "{body}");
        assert_eq!(ours.status, theirs.status, "{body}");
    }
}

#[tokio::test]
async fn schemas_and_validation_errors_are_glances() {
    let (s, glance) = both(&[], None).await;
    let (ours, theirs) = (s.member("p1"), glance.member("p1"));
    agree_on_schemas(&ours, &theirs).await;
    let location = |location: Value| json!({"locations": [{"url": "http://a", "metadata": {}}, location]});
    let hash = "0123456789".repeat(13);
    agree_on_faults(
        &ours,
        &theirs,
        &[
            json!({"name": 5}),
            json!({"name": 5, "min_ram": "a"}),
            json!({"min_ram": "a", "name": 5, "zoo": null}),
            json!({"name": []}),
            json!({"name": {}}),
            json!({"name": "x".repeat(256)}),
            json!({"name": "é ".repeat(128)}),
            json!({"name": format!("it's \"{}\"\n{}\r\n\tend", "y".repeat(200), "z ".repeat(50))}),
            json!({"name": format!("it's {}", "y".repeat(300))}),
            json!({"id": "zz"}),
            json!({"id": 7}),
            json!({"id": null}),
            json!({"id": "4ca46bf1-5c61-48ff-b4f3-0ad4e5e3ba9g"}),
            json!({"visibility": "x"}),
            json!({"visibility": 5}),
            json!({"visibility": null}),
            json!({"visibility": "it's"}),
            json!({"protected": "true"}),
            json!({"protected": 1}),
            json!({"os_hidden": null}),
            json!({"owner": false}),
            json!({"disk_format": "floppy"}),
            json!({"disk_format": 5}),
            json!({"container_format": true}),
            json!({"container_format": {"a": [1, 2.5, 1e22, -0.5, 1e-7, 123_456_789_012_345_680_u64, 1e15]}}),
            json!({"min_ram": 1.5}),
            json!({"min_ram": true}),
            json!({"min_ram": null}),
            json!({"min_disk": "1"}),
            json!({"min_disk": [[[]]]}),
            json!({"tags": "x"}),
            json!({"tags": {"a": 1}}),
            json!({"tags": [5]}),
            json!({"tags": ["a", 5, null]}),
            json!({"tags": ["a".repeat(256)]}),
            json!({"tags": [["a".repeat(100), "b".repeat(100)]]}),
            json!({"tags": [["one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen"]]}),
            json!({"tags": [5], "foo": 6}),
            json!({"foo": null}),
            json!({"foo": 1, "bar": 2, "zap": 3}),
            json!({"foo'bar": {}}),
            json!({"foo\"'\n": [1]}),
            json!({"foo": {"a": "b".repeat(80), "c": {"d": ["e f ".repeat(40), 7, null, true]}, "g": []}}),
            json!({"foo": [{"a": 1}, {"b": "x".repeat(70)}, [1, 2, 3], "y".repeat(75)]}),
            json!({"foo": (0..60).collect::<Vec<i32>>()}),
            json!({"a": ["é\u{a0}\u{ad}\u{301}\u{200b}\u{2028}\u{e000}\u{7f}\u{1b}\u{0}\\"]}),
            json!({"a": ["a\u{b}b\u{c}c\u{1c}d\u{85}e\u{2028}f".repeat(8)]}),
            json!({"status": "gone"}),
            json!({"checksum": "0".repeat(33)}),
            json!({"os_hash_value": hash}),
            json!({"size": "1"}),
            json!({"virtual_size": 0.5}),
            json!({"created_at": 0}),
            json!({"locations": "x"}),
            json!({"locations": ["x"]}),
            location(json!({})),
            location(json!({"url": "http://b"})),
            location(json!({"url": 5, "metadata": {}})),
            location(json!({"url": "x".repeat(256), "metadata": []})),
            location(json!({"url": "b", "metadata": {}, "validation_data": {}})),
            location(json!({"url": "b", "metadata": {}, "validation_data": {"z": 1, "checksum": "x", "a": 2}})),
            location(json!({"url": "b", "metadata": {}, "validation_data": {"os_hash_algo": "x", "os_hash_value": hash}})),
            location(json!({"url": "b", "metadata": {}, "validation_data": {"checksum": "x", "os_hash_algo": 1, "os_hash_value": "a"}})),
        ],
    )
    .await;
}

#[tokio::test]
async fn configured_formats_are_in_the_schemas() {
    let options = [
        ("image_format", "disk_formats", "raw,qcow2,ünïcode"),
        ("image_format", "container_formats", "bare"),
        ("DEFAULT", "show_multiple_locations", "true"),
        ("DEFAULT", "show_image_direct_url", "true"),
    ];
    let (s, glance) = both(&options, None).await;
    let (ours, theirs) = (s.member("p1"), glance.member("p1"));
    agree_on_schemas(&ours, &theirs).await;
    agree_on_faults(&ours, &theirs, &[json!({"disk_format": "vmdk"}), json!({"container_format": "ova"})]).await;
    ours.create_image(&json!({"disk_format": "ünïcode"})).await;
}

#[tokio::test]
async fn custom_properties_are_in_the_schema_and_checked() {
    let custom = custom();
    let (s, glance) = both(&[], Some(&custom)).await;
    let (ours, theirs) = (s.member("p1"), glance.member("p1"));
    agree_on_schemas(&ours, &theirs).await;
    let with = |name: &str, value: Value| json!({"name": "n", "os_distro": "debian", name: value});
    agree_on_faults(
        &ours,
        &theirs,
        &[
            json!({}),
            json!({"name": 5}),
            json!({"os_distro": 5}),
            json!({"name": "a", "description": "x y ".repeat(100)}),
            with("os_distro", json!("windows")),
            with("kernel_id", json!("abx")),
            with("kernel_id", json!(5)),
            with("level", json!("abc")),
            with("level", json!(5)),
            with("level", json!([1])),
            with("one", json!("abc")),
            with("one", json!("b")),
            with("all", json!("no")),
            with("all", json!("nono")),
            with("not", json!("never")),
            with("not", json!(1)),
            with("empty", json!("x")),
            with("whole", json!(0)),
            with("whole", json!(12)),
            with("whole", json!(4)),
            with("whole", json!(1.5)),
            with("list", json!([])),
            with("list", json!([1, 1.0])),
            with("list", json!(["a", "b", "c", "d"])),
            with("list", json!(["a", true])),
            with("object", json!({})),
            with("object", json!({"a": 1})),
            with("object", json!({"a": "1", "b": 1})),
            with("object", json!({"a": "1", "x_a": true})),
            with("object", json!({"a": "1", "x_b": 1})),
            with("object", json!({"a": "1", "c": 1, "d": 1})),
            with("object", json!({"a": "1", "x_c": true, "x_d": false, "x_e": true})),
        ],
    )
    .await;
    let body = json!({"name": "a", "os_distro": "näh", "level": "xyz", "all": "abc", "other": "o"});
    ours.create_image(&body).await;
    theirs.create_image(&body).await;
    // Values that the schema allows but the database cannot store.
    ours.post("/v2/images", &with("whole", json!(3))).await.expect(400).says("is not a string");
    let image = ours.create_image(&with("kernel_id", json!(null))).await;
    assert_eq!(ours.get(&image).await.json().get("kernel_id"), None);
}

#[tokio::test]
async fn the_flat_form_of_custom_properties_is_accepted() {
    let custom = json!({"os_distro": {"type": "string"}, "ramdisk_id": {"type": "string"}}).to_string();
    let (s, glance) = both(&[], Some(&custom)).await;
    agree_on_schemas(&s.member("p1"), &glance.member("p1")).await;
    agree_on_faults(&s.member("p1"), &glance.member("p1"), &[json!({"os_distro": 5})]).await;
}

#[tokio::test]
async fn an_unusable_custom_schema_is_reported_at_start() {
    for (text, says) in [
        ("{", "schema-image.json: invalid JSON"),
        ("[]", "schema-image.json: the file must contain an object"),
        ("{\"name\": {\"type\": \"string\"}}", "custom properties (name) conflict with base properties"),
        ("{\"a\": {\"type\": \"text\"}}", "schema['properties']['a']['type'] is not a type or a list of types"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("glance-api.conf");
        fs::write(&config, "[DEFAULT]\nbind_port = 0\n[glimpse]\nauth = fake\n").unwrap();
        fs::write(dir.path().join("schema-image.json"), text).unwrap();
        let mut command = program();
        command.arg("--config-file").arg(&config).arg("serve").arg("--data-dir").arg(dir.path().join("data"));
        let output = command.output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && error.contains(says), "{text}: {error}");
    }
}
