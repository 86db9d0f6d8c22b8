//! Invalid and hostile metadata definitions: texts over their length, values of the wrong type, references, patterns, and large
//! bodies. Each is refused with a 4xx that names the fault, or stored as by Glance, in bounded time and memory.

use serde_json::{Map, Value, json};

use crate::support::{Client, Persona, Question, TestServer, Twins};

const NAMESPACES: &str = "/v2/metadefs/namespaces";
const TABLES: [&str; 6] = ["namespaces", "objects", "properties", "tags", "namespace_resource_types", "resource_types"];

/// A namespace with one of everything.
fn small(name: &str) -> Value {
    json!({
        "namespace": name,
        "resource_type_associations": [{"name": "r"}],
        "properties": {"p": {"title": "t", "type": "string"}},
        "objects": [{"name": "o"}],
        "tags": [{"name": "t"}],
    })
}

/// An object with one more attribute.
fn with(mut object: Value, name: &str, value: impl Into<Value>) -> Value {
    object[name] = value.into();
    object
}

async fn rows(s: &TestServer) -> Vec<usize> {
    let mut rows = Vec::new();
    for table in TABLES {
        rows.push(s.database.pairs(&format!("SELECT 'a', 'b' FROM metadef_{table}")).await.len());
    }
    rows
}

/// Every text with a limit: one character more, by each request that can contain it.
#[tokio::test]
async fn every_text_over_its_length_is_refused_by_its_name_wherever_it_is() {
    let s = TestServer::start().await;
    let admin = s.admin();
    admin.post(NAMESPACES, &small("n")).await.expect(201);
    let before = rows(&s).await;
    // In several bytes each, because the limits are in characters.
    let long = |n: usize| "é".repeat(n);
    let text = "x".repeat(65_536);
    let namespace = |name: &str, value: Value| with(json!({"namespace": "n"}), name, value);
    let nested = |name: &str, value: Value| with(json!({"namespace": "m"}), name, value);
    let property = json!({"name": "p", "title": "t", "type": "string"});
    let definition = json!({"title": "t", "type": "string"});
    let tag = long(81);
    let tag_path = format!("/n/tags/{tag}");
    let many_names: Vec<String> = (0..10_000).map(|n| format!("name {n}")).collect();
    let mut cases: Vec<(&str, &str, Value, String)> = Vec::new();
    for (name, limit) in [("namespace", 80), ("display_name", 80), ("description", 500), ("owner", 255)] {
        for (method, path) in [("POST", ""), ("PUT", "/n")] {
            let says = format!("in schema['properties']['{name}']");
            cases.push((method, path, namespace(name, json!(long(limit + 1))), says));
        }
    }
    for (name, what) in
        [("name", "A resource type's name"), ("prefix", "A prefix"), ("properties_target", "A properties_target")]
    {
        let association = with(json!({"name": "a"}), name, long(81));
        cases.push((
            "POST",
            "",
            nested("resource_type_associations", json!([association])),
            format!("{what} has more than"),
        ));
        cases.push(("POST", "/n/resource_types", association, format!("in schema['properties']['{name}']")));
    }
    cases.extend([
        ("POST", "", nested("tags", json!([{"name": tag}])), "A tag's name has more than 80 characters.".into()),
        (
            "POST",
            "/n/tags",
            json!({"tags": [{"name": "a"}, {"name": tag}]}),
            "A tag's name has more than 80 characters.".into(),
        ),
        ("POST", &tag_path, json!(null), "in schema['properties']['name']".into()),
        ("PUT", "/n/tags/t", json!({"name": tag}), "in schema['properties']['name']".into()),
    ]);
    for object in [
        (json!({"name": long(81)}), "name"),
        (json!({"name": "a", "description": text}), "An object's description has more than 65535 bytes."),
        (json!({"name": "a", "required": many_names}), "The list of an object's required properties has more than"),
        (
            json!({"name": "a", "properties": {"p": with(definition.clone(), "description", text.as_str())}}),
            "The JSON of an object's properties has more than 65535 bytes.",
        ),
        (
            json!({"name": "a", "properties": {&*text: definition}}),
            "The JSON of an object's properties has more than 65535 bytes.",
        ),
    ] {
        let (body, says) = object;
        let (nested_says, says) = match says {
            "name" => ("An object's name has more than 80 characters.", "in schema['properties']['name']"),
            says => (says, says),
        };
        cases.push(("POST", "", nested("objects", json!([body])), nested_says.into()));
        cases.push(("POST", "/n/objects", body.clone(), says.into()));
        cases.push(("PUT", "/n/objects/o", body, says.into()));
    }
    let too_much = "The JSON of a property has more than 65535 bytes.";
    for (name, value, says) in [
        ("name", json!(long(81)), "in schema['properties']['name']"),
        ("title", json!(text), too_much),
        ("description", json!(text), too_much),
        ("default", json!(text), too_much),
        ("pattern", json!(text), too_much),
        ("enum", json!(many_names), too_much),
        ("operators", json!(many_names), too_much),
        ("items", json!({"type": "string", "enum": many_names}), too_much),
    ] {
        let body = with(property.clone(), name, value);
        let says_of_nested = if name == "name" { "['additionalProperties']['properties']['name']" } else { says };
        cases.push(("POST", "", nested("properties", json!({"p": body})), says_of_nested.into()));
        cases.push(("POST", "/n/properties", body.clone(), says.into()));
        cases.push(("PUT", "/n/properties/p", body, says.into()));
    }
    cases.push((
        "POST",
        "",
        nested("properties", json!({long(81): definition})),
        "A property's name has more than".into(),
    ));
    for (method, path, body, says) in cases {
        let request = admin.request(method, &format!("{NAMESPACES}{path}")).header("Accept", "application/json");
        let answer = admin.send(if body.is_null() { request } else { request.json(&body) }).await;
        let answer = answer.expect(400).says(&says);
        assert!(answer.text.len() < 120_000, "{method} {path}: {} bytes", answer.text.len());
    }
    assert_eq!(rows(&s).await, before);

    // Each of them fits if it is one character shorter.
    let longest = json!({
        "namespace": long(80), "display_name": long(80), "description": long(500), "owner": long(255),
        "resource_type_associations": [{"name": long(80), "prefix": long(80), "properties_target": long(80)}],
        "properties": {long(80): definition},
        "objects": [{"name": long(80), "description": "x".repeat(65_535)}],
        "tags": [{"name": long(80)}],
    });
    admin.post(NAMESPACES, &longest).await.expect(201);
    let path = format!("{NAMESPACES}/{}", "%C3%A9".repeat(80));
    let stored = admin.get(&path).await.expect(200).json();
    for part in ["namespace", "display_name", "description", "owner"] {
        assert_eq!(stored[part], longest[part]);
    }
    assert_eq!(stored["objects"][0]["description"].as_str().unwrap().len(), 65_535);
    assert!(stored["properties"][long(80)].is_object() && stored["tags"][0]["name"] == long(80), "{stored}");
}

/// Sends one body.
async fn post(client: &Client, path: &str, body: &Value, append: bool) -> (u16, String) {
    let mut request = client.request("POST", &format!("{NAMESPACES}{path}")).header("Accept", "application/json");
    if append {
        request = request.header("X-Openstack-Append", "true");
    }
    let answer = client.send(request.json(body)).await;
    (answer.status.as_u16(), answer.text)
}

fn tags(from: usize, to: usize) -> Vec<Value> {
    (from..to).map(|n| json!({"name": format!("tag {n}")})).collect()
}

/// Lists in lists.
fn nested_lists(depth: usize) -> String {
    format!("{}{}", "[".repeat(depth), "]".repeat(depth))
}

/// nextest ends a test that takes too long.
#[tokio::test]
async fn hostile_definitions_are_answered_in_bounded_time_and_memory() {
    let s = TestServer::start().await;
    let admin = s.admin();
    admin.post(NAMESPACES, &small("n")).await.expect(201);
    let property = json!({"name": "q", "title": "t", "type": "string"});
    let properties = |n: usize| -> Map<String, Value> {
        (0..n).map(|n| (format!("p{n}"), json!({"title": "t", "type": "string"}))).collect()
    };
    let objects = |n: usize| -> Vec<Value> { (0..n).map(|n| json!({"name": format!("o{n}")})).collect() };
    let types = |n: usize| -> Vec<Value> { (0..n).map(|n| json!({"name": format!("r{n}")})).collect() };
    let of = |depth: usize| serde_json::from_str::<Value>(&nested_lists(depth)).unwrap();
    let mut wide = json!({"title": "t", "type": "string"});
    for n in 0..20_000 {
        wide[format!("attribute {n}")] = json!(n);
    }
    let many: Vec<String> = (0..90_000).map(|n| format!("{n}")).collect();
    let twice: Vec<String> = (0..90_000).map(|n| format!("{}", n % 89_999)).collect();
    let repeated = [tags(0, 10_000), tags(0, 1)].concat();
    let before = s.peak_memory();
    for (name, path, body, append, status, says) in [
        // Lists.
        ("10,000 tags", "/n/tags", json!({"tags": tags(0, 10_000)}), false, 201, ""),
        ("10,000 more tags", "/n/tags", json!({"tags": tags(10_000, 20_000)}), true, 201, ""),
        (
            "a tag that exists among 10,000",
            "/n/tags",
            json!({"tags": tags(19_999, 30_000)}),
            true,
            409,
            "A metadata tag with name=tag 19999 already exists in namespace=n.",
        ),
        (
            "a tag twice among 10,000",
            "/n/tags",
            json!({ "tags": repeated }),
            false,
            409,
            "A metadata tag with name=tag 0 already exists in namespace=n.",
        ),
        ("a namespace with 10,000 tags", "", json!({"namespace": "t", "tags": tags(0, 10_000)}), false, 201, ""),
        ("10,000 properties", "", json!({"namespace": "p", "properties": properties(10_000)}), false, 201, ""),
        ("10,000 objects", "", json!({"namespace": "o", "objects": objects(10_000)}), false, 201, ""),
        (
            "10,000 resource types",
            "",
            json!({"namespace": "r", "resource_type_associations": types(10_000)}),
            false,
            201,
            "",
        ),
        // Enums, which are compared in linear time.
        (
            "a huge enum",
            "/n/properties",
            with(property.clone(), "enum", many.clone()),
            false,
            400,
            "more than 65535 bytes",
        ),
        (
            "a huge list of required names",
            "/n/objects",
            json!({"name": "q", "required": many}),
            false,
            400,
            "more than 65535 bytes",
        ),
        (
            "a huge list of required names with one twice",
            "/n/objects",
            json!({"name": "q", "required": twice}),
            false,
            400,
            "has non-unique elements",
        ),
        // Unknown attributes.
        (
            "20,000 unknown attributes",
            "",
            json!({"namespace": "w", "properties": {"p": wide}}),
            false,
            400,
            "unknown attribute",
        ),
        ("20,000 unknown attributes", "/n/properties", with(wide, "name", "p"), false, 400, "Additional properties"),
        // References, which nothing follows.
        (
            "a reference to itself",
            "/n/properties",
            with(property.clone(), "$ref", "#"),
            false,
            400,
            "Additional properties are not allowed ('$ref' was unexpected)",
        ),
        (
            "a reference to itself in an object",
            "/n/objects",
            json!({"name": "q", "properties": {"q": {"title": "t", "type": "string", "$ref": "#/properties/q"}}}),
            false,
            400,
            "'$ref'",
        ),
        (
            "definitions that refer to each other",
            "/n/properties",
            with(
                property.clone(),
                "definitions",
                json!({"a": {"$ref": "#/definitions/b"}, "b": {"$ref": "#/definitions/a"}}),
            ),
            false,
            400,
            "Additional properties are not allowed ('definitions' was unexpected)",
        ),
        (
            "items that refer to themselves",
            "/n/properties",
            with(property.clone(), "items", json!({"type": "string", "$ref": "#"})),
            false,
            400,
            "The property['items'] has an unknown attribute: '$ref'",
        ),
        (
            "a reference in place of items",
            "/n/properties",
            with(property.clone(), "items", json!({"$ref": "#"})),
            false,
            400,
            "The property['items'] has an unknown attribute: '$ref'",
        ),
        // Nesting.
        (
            "a deep default",
            "/n/properties",
            with(with(property.clone(), "name", "deep"), "default", of(120)),
            false,
            201,
            "",
        ),
        (
            "a deep enum",
            "/n/properties",
            with(property.clone(), "enum", json!([of(120)])),
            false,
            400,
            "['enum'] must be",
        ),
        (
            "a deep title",
            "/n/properties",
            with(property.clone(), "title", of(120)),
            false,
            400,
            "is not of type 'string'",
        ),
        ("deep items", "/n/properties", with(property, "items", of(120)), false, 400, "is not of type 'object'"),
    ] {
        let (answered, text) = post(&admin, path, &body, append).await;
        assert!(answered == status && text.contains(says), "{name}: {answered} {}", text.get(..500).unwrap_or(&text));
        assert!(status == 201 || text.len() < 120_000, "{name}: {} bytes", text.len());
    }
    let body = format!("{{\"namespace\": \"d\", \"properties\": {}}}", nested_lists(100_000));
    let request = admin.request("POST", NAMESPACES).header("Content-Type", "application/json").body(body);
    admin.send(request).await.expect(400).says("Malformed JSON in request body.");
    let grown = s.peak_memory().saturating_sub(before);
    assert!(grown < 200 << 20, "{} MiB", grown >> 20);
    let listed = admin.get(&format!("{NAMESPACES}/n/tags?limit=1")).await.expect(200).json();
    assert_eq!(listed["tags"].as_array().unwrap().len(), 1);
    // None of the namespaces that were refused exists.
    for name in ["w", "d"] {
        admin.get(&format!("{NAMESPACES}/{name}")).await.expect(404);
    }
    assert!(admin.get(&format!("{NAMESPACES}/n/properties/deep")).await.expect(200).json()["default"].is_null());
}

/// A pattern is a text that clients use. The server never searches with it.
#[tokio::test]
async fn patterns_are_stored_as_they_are_and_never_searched_for() {
    let s = TestServer::start().await;
    let admin = s.admin();
    let text = "a".repeat(5_000);
    for (n, pattern) in
        ["^(a+)+$", "(a|a)*b", "(?=(a+)+$)b", "^(([a-z])+.)+[A-Z]([a-z])+$", "((((a{9}){9}){9}){9}){9}", "(", "[", "\\"]
            .iter()
            .enumerate()
    {
        let property = json!({"name": "p", "title": text, "type": "string", "pattern": pattern, "default": text});
        let body = json!({
            "namespace": format!("n{n}"), "properties": {"p": property}, "objects": [{"name": "o", "properties": {"p": property}}],
        });
        admin.post(NAMESPACES, &body).await.expect(201);
        let path = format!("{NAMESPACES}/n{n}");
        let changed = admin.request("PUT", &format!("{path}/properties/p")).json(&property);
        admin.send(changed).await.expect(200);
        let shown = admin.get(&path).await.expect(200).json();
        let object = &shown["objects"][0]["properties"]["p"];
        assert_eq!((&shown["properties"]["p"]["pattern"], &object["pattern"]), (&json!(pattern), &json!(pattern)));
    }
}

/// Tests on SQLite: types are checked before anything is stored, and the same on each engine.
mod on_sqlite {
    use super::*;

    fn ask(method: &'static str, path: &str) -> Question {
        Question::new(Persona::Admin, method, format!("/v2/metadefs/namespaces{path}")).verbatim()
    }

    /// Sends a request to both servers. Returns whether both have accepted it.
    async fn check(twins: &Twins, question: &Question) -> bool {
        let (ours, theirs) = twins.ask(question).await;
        if theirs.status == 500 {
            assert_eq!(ours.status, 400, "{question:?}: {ours:?}");
            assert!(ours.body.contains("must") || ours.body.contains("attribute"), "{question:?}: {ours:?}");
        } else {
            assert_eq!(ours, theirs, "{question:?}");
        }
        theirs.status < 300
    }

    /// Each attribute at each place has each type of JSON in turn.
    #[tokio::test]
    async fn values_of_every_type_at_every_place_get_glances_answers() {
        let twins = Twins::start().await;
        twins.same(&ask("POST", "").json(&small("n"))).await;
        let values = [json!(null), json!(true), json!(1.5), json!("a"), json!(["a"]), json!({"a": 1})];
        let definition = json!({"name": "p", "title": "t", "type": "array"});
        let attributes = [
            "name",
            "type",
            "title",
            "description",
            "operators",
            "default",
            "readonly",
            "minimum",
            "maximum",
            "enum",
            "pattern",
            "minLength",
            "maxLength",
            "confidential",
            "items",
            "uniqueItems",
            "minItems",
            "maxItems",
            "additionalItems",
            "required",
        ];
        let mut accepted = 0;
        for value in &values {
            for name in attributes {
                let property = with(definition.clone(), name, value.clone());
                if check(&twins, &ask("PUT", "/n/properties/p").json(&property)).await {
                    twins.same(&ask("GET", "/n/properties/p")).await;
                    accepted += 1;
                }
                // Glance fails on some of these, and stores others, in a change of an object.
                let object = json!({"name": "made", "properties": {"x": property}});
                if check(&twins, &ask("POST", "/n/objects").json(&object)).await {
                    twins.same(&ask("GET", "/n/objects/made")).await;
                    twins.same(&ask("DELETE", "/n/objects/made")).await;
                }
            }
            for name in ["type", "enum"] {
                let property = with(definition.clone(), "items", with(json!({"type": "string"}), name, value.clone()));
                if check(&twins, &ask("PUT", "/n/properties/p").json(&property)).await {
                    twins.same(&ask("GET", "/n/properties/p")).await;
                }
            }
            for name in ["name", "description", "required", "properties"] {
                let object = with(json!({"name": "o"}), name, value.clone());
                if check(&twins, &ask("PUT", "/n/objects/o").json(&object)).await {
                    twins.same(&ask("GET", "/n/objects/o")).await;
                    twins.same(&ask("PUT", "/n/objects/a").json(&json!({"name": "o"}))).await;
                }
            }
            for name in ["name", "prefix", "properties_target"] {
                let association = with(json!({"name": "made"}), name, value.clone());
                if check(&twins, &ask("POST", "/n/resource_types").json(&association)).await {
                    twins.same(&ask("GET", "/n/resource_types")).await;
                    for name in ["made", "a"] {
                        twins.same(&ask("DELETE", &format!("/n/resource_types/{name}"))).await;
                    }
                }
            }
            check(&twins, &ask("PUT", "/n/tags/t").json(&json!({"name": value}))).await;
            twins.same(&ask("PUT", "/n/tags/a").json(&json!({"name": "t"}))).await;
            for body in [json!({"tags": value}), json!({"tags": [value]}), json!({"tags": [{"name": value}]})] {
                check(&twins, &ask("POST", "/n/tags").header("X-Openstack-Append", "true").json(&body)).await;
            }
            for tag in ["a", "t"] {
                twins.same(&ask("DELETE", &format!("/n/tags/{tag}"))).await;
            }
            twins.same(&ask("POST", "/n/tags/t")).await;
            for (name, place) in [
                ("display_name", None),
                ("description", None),
                ("visibility", None),
                ("protected", None),
                ("owner", None),
                ("namespace", None),
                ("objects", None),
                ("properties", None),
                ("tags", None),
                ("resource_type_associations", None),
                ("name", Some("objects")),
                ("description", Some("objects")),
                ("required", Some("objects")),
                ("properties", Some("objects")),
                ("name", Some("tags")),
                ("name", Some("resource_type_associations")),
                ("prefix", Some("resource_type_associations")),
                ("properties_target", Some("resource_type_associations")),
            ] {
                let body = match place {
                    None => with(json!({"namespace": "made"}), name, value.clone()),
                    Some(list) => with(
                        json!({"namespace": "made"}),
                        list,
                        json!([with(json!({"name": "x"}), name, value.clone())]),
                    ),
                };
                if check(&twins, &ask("POST", "").json(&body)).await {
                    let path = format!("/{}", body["namespace"].as_str().unwrap());
                    twins.same(&ask("GET", &path)).await;
                    twins.same(&ask("PUT", &path).json(&json!({"namespace": "made", "protected": false}))).await;
                    twins.same(&ask("DELETE", "/made")).await;
                }
                if place.is_none() && name != "namespace" {
                    check(&twins, &ask("PUT", "/n").json(&with(json!({"namespace": "n"}), name, value.clone()))).await;
                    twins.same(&ask("GET", "/n")).await;
                }
            }
        }
        assert!(accepted > 5, "{accepted}");
        assert!(twins.request_count() > 500, "only {} requests", twins.request_count());
    }

    /// What is unusual and accepted.
    #[tokio::test]
    async fn unusual_definitions_are_stored_as_by_glance() {
        let twins = Twins::start().await;
        let definition = json!({"name": "p", "title": "t", "type": "string"});
        let lists = |depth: usize| serde_json::from_str::<Value>(&nested_lists(depth)).unwrap();
        let values: Vec<String> = (0..1_500).map(|n| format!("value {n}")).collect();
        for (n, more) in [
            json!({"pattern": "^(a+)+$", "default": "a".repeat(60)}),
            json!({"pattern": "(?P<x>["}),
            json!({"enum": values}),
            json!({"enum": []}),
            json!({"operators": values}),
            json!({"default": lists(100)}),
            json!({"default": {"$ref": "#"}}),
            json!({"minLength": 9, "maxLength": 1, "minItems": 5, "maxItems": 0}),
            json!({"minimum": i64::MAX, "maximum": i64::MIN}),
            json!({"title": "", "description": ""}),
            json!({"enum": ["", " ", "\t", "\"", "\\", "é", "\u{2028}"]}),
        ]
        .into_iter()
        .enumerate()
        {
            let mut property = definition.clone();
            property.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            let long = "k".repeat(300);
            let body = json!({
                "namespace": format!("n{n}"), "properties": {"p": property},
                "objects": [{"name": "o", "properties": {&*long: property, "": property}, "required": ["", long]}],
            });
            for question in [
                ask("POST", "").json(&body),
                ask("GET", &format!("/n{n}")),
                ask("GET", &format!("/n{n}/properties/p")),
                ask("GET", &format!("/n{n}/objects/o")),
                ask("PUT", &format!("/n{n}/properties/p")).json(&property),
                ask("GET", &format!("/n{n}/properties")),
            ] {
                let status = twins.same(&question).await;
                assert!(status < 300, "{question:?}: {status}");
            }
        }
        // Python's parser has a limit, too.
        for (depth, by_glance) in [(120, 201), (200, 201), (100_000, 500)] {
            let body = format!(
                "{{\"namespace\": \"deep {depth}\", \"properties\": {{\"p\": {{\"title\": \"t\", \"type\": \"array\", \"default\": {}}}}}}}",
                nested_lists(depth)
            );
            let (ours, theirs) =
                twins.ask(&ask("POST", "").header("Content-Type", "application/json").text(&body)).await;
            assert_eq!((ours.status, theirs.status), (if depth < 128 { 201 } else { 400 }, by_glance), "{depth}");
        }
    }
}
