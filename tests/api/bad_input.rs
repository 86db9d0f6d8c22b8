//! Invalid and hostile requests: each is answered with a 4xx that names the fault, never with a 500, and the server
//! never panics.

use proptest::{prelude::*, strategy::ValueTree as _, test_runner::TestRunner};
use serde_json::{Value, json};

use crate::support::{TestServer, raw, raw_status};

#[tokio::test]
async fn an_invalid_request_body_is_refused_with_a_reason() {
    let s = TestServer::start().await;
    let member = s.member("p1");
    let nested = |depth| format!("{{\"a\": {}{}}}", "[".repeat(depth), "]".repeat(depth));
    let (deep, deeper) = (nested(1 << 18), nested(1 << 19));
    let cases: [(&[u8], u16, &str); 22] = [
        (b"{", 400, "Malformed JSON in request body.<br /><br />"),
        (b"", 400, "Body expected in request."),
        (b"[]", 400, "Unexpected body type."),
        (b"5", 400, "Unexpected body type."),
        (b"\"x\"", 400, "Unexpected body type."),
        (b"{} x", 400, "Malformed JSON in request body."),
        (b"{\"name\": \"\xff\"}", 400, "Malformed JSON in request body."),
        (b"{\"name\": \"\\ud800\"}", 400, "Malformed JSON in request body."),
        (b"{\"name\": NaN}", 400, "Malformed JSON in request body."),
        (b"{\"name\": 1e999}", 400, "Malformed JSON in request body."),
        (b"{\"name\": 5}", 400, "5 is not of type"),
        (b"{\"foo\": {\"a\": 1}}", 400, "is not of type"),
        (b"{\"tags\": \"x\"}", 400, "is not of type"),
        (b"{\"tags\": [5]}", 400, "5 is not of type"),
        (b"{\"id\": \"zz\"}", 400, "does not match"),
        (b"{\"min_ram\": -1}", 400, "Cannot be a negative value"),
        (b"{\"min_ram\": 99999999999}", 400, "must not exceed 2147483647."),
        (b"{\"min_ram\": 1.5}", 400, "1.5 is not of type"),
        (b"{\"name\": \"\\u0000\"}", 400, "Name can&#x27;t contain NUL characters."),
        (b"{\"name\": \"\xf0\x9f\x98\x80\"}", 400, "Name can&#x27;t contain 4 byte unicode characters."),
        (deep.as_bytes(), 400, "Malformed JSON in request body.<br /><br />"),
        (deeper.as_bytes(), 413, "larger than 1048576 bytes"),
    ];
    for (body, status, says) in cases {
        let request = member.request("POST", "/v2/images").header("Accept", "text/html").body(body.to_vec());
        member.send(request).await.expect(status).says(says);
    }
    let long = json!({"a".repeat(256): "x"});
    member.post("/v2/images", &long).await.expect(400).says("should not be greater than 255 characters");
    let long = json!({"a": "x".repeat(65_536)});
    member.post("/v2/images", &long).await.expect(400).says("is too long");
    member.post("/v2/images", &json!({"name": "x".repeat(256)})).await.expect(400).says("is too long");
    // The error repeats only a part of the client's input, and its plain-text form without HTML tags is produced in
    // linear time.
    let tags = json!({"<a<".repeat(300_000): 5});
    let answer = member.send(member.request("POST", "/v2/images").header("Accept", "text/plain").json(&tags)).await;
    assert!(answer.expect(400).text.len() < 20_000);
    let zeros = json!({"tags": vec![0; 300_000]});
    member.post("/v2/images", &zeros).await.expect(400).says("0 is not of type");
    let huge = json!({"a": "x".repeat(2 << 20)});
    let answer = member.try_send(member.request("POST", "/v2/images").json(&huge)).await;
    // The server may close the connection before the client has written all of the body.
    assert!(answer.is_err() || answer.is_ok_and(|answer| answer.status == 413));
    assert_eq!(s.database.count("SELECT COUNT(*) FROM images").await, 0);
}

/// As in Python.
#[tokio::test]
async fn the_last_of_duplicate_json_keys_is_used() {
    let s = TestServer::start().await;
    let member = s.member("p1");
    let body = "{\"a\": \"1\", \"name\": \"x\", \"a\": \"2\", \"name\": \"y\"}";
    let request = member.request("POST", "/v2/images").header("Content-Type", "application/json").body(body);
    let image = member.send(request).await.expect(201).json();
    assert_eq!((&image["a"], &image["name"]), (&json!("2"), &json!("y")));
    let request = member.request("PATCH", image["self"].as_str().unwrap());
    let request = request.header("Content-Type", "application/openstack-images-v2.1-json-patch");
    let patch = "[{\"op\": \"remove\", \"path\": \"/a\", \"op\": \"replace\", \"value\": \"3\", \"value\": \"4\"}]";
    assert_eq!(member.send(request.body(patch)).await.expect(200).json()["a"], "4");
}

#[tokio::test]
async fn a_request_head_of_64_kibibytes_is_accepted_in_one_header_or_many() {
    let s = TestServer::start().await;
    for headers in [1, 8] {
        let request = |size: usize| {
            let start = "GET /healthcheck HTTP/1.1\r\nHost: x\r\nConnection: close\r\n";
            let lines = (1..headers).map(|n| format!("x-{n}: {}\r\n", "y".repeat(8000))).collect::<String>();
            let left = size - start.len() - lines.len() - "x-0: \r\n\r\n".len();
            format!("{start}{lines}x-0: {}\r\n\r\n", "y".repeat(left))
        };
        let fits = request(64 * 1024);
        assert_eq!(fits.len(), 64 * 1024);
        assert_eq!(raw_status(&raw(&s.base, fits.as_bytes()).await), 200);
        assert_eq!(raw_status(&raw(&s.base, request(64 * 1024 + 1).as_bytes()).await), 431);
    }
}

#[tokio::test]
async fn a_media_type_that_is_not_json_is_refused() {
    let s = TestServer::start().await;
    let member = s.member("p1");
    for (media_type, status) in [
        ("application/json", 201),
        ("application/json; charset=utf-8", 201),
        ("application/x-www-form-urlencoded", 201),
        ("text/plain", 415),
        ("application/xml", 415),
        ("nonsense", 415),
    ] {
        let request = member.request("POST", "/v2/images").header("Content-Type", media_type).body("{}");
        member.send(request).await.expect(status);
    }
}

#[tokio::test]
async fn query_strings_are_parsed_strictly() {
    let s = TestServer::start().await;
    let member = s.member("p1");
    for query in ["name=%ff", "%ff=x", "name=%00", "%00=x"] {
        member.get(&format!("/v2/images?{query}")).await.expect(400);
    }
    for query in ["tag=%F0%9F%98%80", "name=%F0%9F%98%80", "os_distro=%F0%9F%98%80", "%F0%9F%98%80=x"] {
        member.get(&format!("/v2/images?{query}")).await.expect(200).says("\"images\": []");
    }
    member.get("/v2/images?&&=&a&name=%").await.expect(200);
}

#[tokio::test]
async fn the_number_of_filters_in_a_listing_is_limited() {
    let s = TestServer::start().await;
    let member = s.member("p1");
    let most = "&min_ram=1".repeat(64);
    let tags: String = (0..12).map(|n| format!("&tag=t{n}")).collect();
    member.get(&format!("/v2/images?{tags}")).await.expect(200);
    member.get(&format!("/v2/images?{tags}&os_distro=x")).await.expect(400).says("12 tags and custom properties");
    member.get(&format!("/v2/images?{most}")).await.expect(200);
    member.get(&format!("/v2/images?{most}&tag=x")).await.expect(400).says("at most 64 query parameters");
    member.get(&format!("/v2/images?id=in:{}", ["x"; 256].join(","))).await.expect(200);
    member.get(&format!("/v2/images?id=in:{}", ["x"; 257].join(","))).await.expect(400).says("at most 256 values");
    for time in ["-9999-01-01", "%2B99999-01-01", "0001-01-01", "0000-00-00"] {
        member.get(&format!("/v2/images?created_at={time}")).await.expect(400).says("Use ISO 8601 DateTime notation.");
    }
}

#[tokio::test]
async fn an_owner_that_is_too_long_is_refused() {
    let s = TestServer::start().await;
    let long = s.member(&"p".repeat(256));
    long.post("/v2/images", &json!({})).await.expect(400).says("Owner is too long");
    s.member(&"p".repeat(255)).create_image(&json!({})).await;
}

#[tokio::test]
async fn an_unexpected_request_body_is_refused() {
    let s = TestServer::start().await;
    let member = s.member("p1");
    let image = member.create_image(&json!({"tags": ["a"]})).await;
    for (method, path) in [
        ("GET", image.clone()),
        ("DELETE", image.clone()),
        ("GET", "/v2/schemas/image".to_owned()),
        ("GET", "/v2/schemas/images".to_owned()),
    ] {
        let answer = member.send(member.request(method, &path).body("{}")).await;
        answer.expect(400).says("A body is not expected with this request.");
    }
    // A body that is announced is refused before it arrives.
    let announced = "Host: x\r\nX-Auth-Token: u:p1:member,reader\r\nContent-Length: 10\r\nConnection: close\r\n\r\n";
    for method in ["PUT", "DELETE"] {
        let answer = raw(&s.base, format!("{method} {image}/tags/a HTTP/1.1\r\n{announced}").as_bytes()).await;
        assert_eq!(raw_status(&answer), 400, "{answer}");
    }
    // An empty chunked body counts as no body.
    let head = format!("DELETE {image}/tags/a HTTP/1.1\r\nHost: x\r\nX-Auth-Token: u:p1:member,reader\r\n");
    let chunked = format!("{head}Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n");
    let answer = raw(&s.base, format!("{chunked}1\r\nx\r\n0\r\n\r\n").as_bytes()).await;
    assert_eq!(raw_status(&answer), 400, "{answer}");
    let answer = raw(&s.base, format!("{chunked}0\r\n\r\n").as_bytes()).await;
    assert_eq!(raw_status(&answer), 204, "{answer}");
}

#[tokio::test]
async fn a_chunked_body_that_does_not_end_times_out_where_none_is_expected() {
    let s = TestServer::builder().option("glimpse", "client_timeout", "0.5").start().await;
    let image = s.member("p1").create_image(&json!({"tags": ["a"]})).await;
    for method in ["PUT", "DELETE"] {
        let head = format!("{method} {image}/tags/a HTTP/1.1\r\nHost: x\r\nX-Auth-Token: u:p1:member,reader\r\n");
        let answer = raw(&s.base, format!("{head}Transfer-Encoding: chunked\r\n\r\n").as_bytes()).await;
        assert_eq!(raw_status(&answer), 408, "{answer}");
    }
    assert!(!s.log().contains("ERROR"), "{}", s.log());
    assert_eq!(s.member("p1").tags(&image).await, ["a"]);
}

#[tokio::test]
async fn requests_that_are_not_http_are_refused() {
    let s = TestServer::start().await;
    let huge = format!("GET /v2/images HTTP/1.1\r\nHost: x\r\nX-Auth-Token: {}\r\n\r\n", "x".repeat(100_000));
    let many: String = (0..2000).map(|n| format!("X-{n}: y\r\n")).collect();
    let many = format!("GET /v2/images HTTP/1.1\r\nHost: x\r\n{many}\r\n");
    let long = format!("GET /v2/images/{} HTTP/1.1\r\nHost: x\r\n\r\n", "x".repeat(100_000));
    let cases: [(&[u8], &[u16]); 6] = [
        (huge.as_bytes(), &[431]),
        (many.as_bytes(), &[431]),
        (long.as_bytes(), &[414, 431]),
        (b"nonsense\r\n\r\n", &[400]),
        (b"GET /v2/images\xff HTTP/1.1\r\nHost: x\r\nX-Auth-Token: u:p:reader\r\n\r\n", &[400, 404]),
        (b"GET /v2/images HTTP/1.1\r\nHost: x\r\nX-Auth-Token: \xff\r\n\r\n", &[401]),
    ];
    for (bytes, statuses) in cases {
        let answer = raw(&s.base, bytes).await;
        assert!(statuses.contains(&raw_status(&answer)), "{statuses:?}: {answer}");
    }
    s.anonymous().get("/healthcheck").await.expect(200);
}

/// Sends tag paths that no client library produces, with several methods.
#[tokio::test]
async fn no_tag_path_causes_a_server_error() {
    let s = TestServer::start().await;
    let member = s.member("p1");
    let image = member.create_image(&json!({})).await;
    let byte = prop_oneof![any::<u8>().prop_map(|b| format!("%{b:02x}")), "[a-zA-Z0-9=/%.;:@&+,$~ -]"];
    let paths = prop::collection::vec(byte, 0..40).prop_map(|parts| parts.concat().replace(' ', "%20"));
    let mut runner = TestRunner::deterministic();
    for _ in 0..200 {
        let tag = paths.new_tree(&mut runner).unwrap().current();
        for method in ["PUT", "DELETE", "GET"] {
            let head =
                format!("{method} {image}/tags/{tag} HTTP/1.1\r\nHost: x\r\nX-Auth-Token: u:p1:member,reader\r\n");
            let answer = raw(&s.base, format!("{head}Connection: close\r\n\r\n").as_bytes()).await;
            assert!(raw_status(&answer) < 500, "{method} {tag:?}: {answer}");
        }
    }
    // Every tag that was added is listed and can be removed.
    for tag in member.tags(&image).await {
        let encoded: String = tag.bytes().map(|b| format!("%{b:02X}")).collect();
        member.delete(&format!("{image}/tags/{encoded}")).await.expect(204);
    }
    assert_eq!(member.tags(&image).await, [""; 0]);
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        "[a-z0-9 -]{0,40}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::hash_map(any::<String>(), inner, 0..4).prop_map(|map| map.into_iter().collect()),
        ]
    })
}

#[tokio::test]
async fn no_request_body_causes_a_server_error() {
    let s = TestServer::start().await;
    let member = s.member("p1");
    let name = prop_oneof![
        prop::sample::select(vec![
            "id",
            "name",
            "tags",
            "visibility",
            "protected",
            "os_hidden",
            "min_ram",
            "min_disk",
            "owner",
            "disk_format",
            "container_format",
            "status",
            "locations",
            "os_glance_x",
        ])
        .prop_map(str::to_owned),
        any::<String>(),
    ];
    let bodies = prop::collection::vec((name, any_json()), 0..5);
    let mut runner = TestRunner::deterministic();
    let mut created = 0;
    for _ in 0..300 {
        let body: Value = bodies.new_tree(&mut runner).unwrap().current().into_iter().collect();
        let answer = member.post("/v2/images", &body).await;
        assert!(answer.status.as_u16() < 500, "{body}: {}", answer.text);
        if answer.status == 201 {
            created += 1;
            let shown = member.get(&format!("/v2/images/{}", answer.json()["id"].as_str().unwrap())).await;
            assert_eq!(shown.expect(200).json(), answer.json());
        }
    }
    assert!(created > 10, "only {created} of the bodies were taken: this test tests little");
}
