//! Property protections, compared with a real Glance that has the same file.

use std::{fs, process::Output};

use serde_json::{Value, json};

use crate::support::{Answer, Client, Glance, TestServer, program};

const SAMPLE: &str = include_str!("../../config/property-protections.conf");

/// Sections whose order matters, roles in another case, and names with brackets and alternatives.
const ROLES: &str = "
[DEFAULT]
delete = !

[^x_first]
create = Member
read = reader
update = admin

[x_]
create = admin,
    member
read: ADMIN
update = admin
delete = admin

[^[no]{2}$|^two$]
create = @
read = !
update = @

[(?i)^case]
create =
read = @
update = @

# Not this one, which Glance rules itself.
[os_glance_secret]
create = !
read = !
update = !
";

const POLICIES: &str = "
[^admins]
create = context_is_admin
read = context_is_admin
update = context_is_admin
delete = !

[^all]
create = @
read = @
update = context_is_admin
delete = !

[^none]
create = !
read = @
update = @
delete = @
";

async fn both(file: &str, format: &str) -> (TestServer, Glance) {
    let options = [
        ("DEFAULT", "property_protection_file", "protections.conf"),
        ("DEFAULT", "property_protection_rule_format", format),
    ];
    let mut builder = TestServer::builder().file("protections.conf", file);
    for (group, name, value) in options {
        builder = builder.option(group, name, value);
    }
    let s = builder.start().await;
    let glance = Glance::start_with(&s.database, &options, &[("protections.conf", file)]).await;
    (s, glance)
}

/// The custom properties of an image in a response.
fn properties(image: &Value) -> Vec<String> {
    let of_a_name = |name: &&String| NAMES.contains(&name.as_str());
    let mut names: Vec<String> = image.as_object().unwrap().keys().filter(of_a_name).cloned().collect();
    names.sort();
    names
}

const NAMES: [&str; 15] = [
    "x_first",
    "x_second",
    "a_x_b",
    "on",
    "two",
    "three",
    "CaseIs",
    "other",
    "admins_a",
    "all_a",
    "none_a",
    "x_billing_a",
    "x_operator_a",
    "x_origin",
    "x_origin_b",
];

fn with(names: &[&str]) -> Value {
    names.iter().map(|name| ((*name).to_owned(), json!("v"))).collect::<serde_json::Map<_, _>>().into()
}

async fn create(client: &Client, names: &[&str]) -> Answer {
    let request = client.request("POST", "/v2/images").header("Accept", "application/json").json(&with(names));
    client.send(request).await
}

async fn patch(client: &Client, image: &str, change: &Value) -> Answer {
    let request = client.request("PATCH", image).header("Accept", "application/json");
    let request = request.header("Content-Type", "application/openstack-images-v2.1-json-patch");
    client.send(request.body(change.to_string())).await
}

/// Checks that each persona may create and read the same properties on both servers, and returns the results.
async fn agree(file: &str, format: &str) -> Vec<(u16, String)> {
    let (s, glance) = both(file, format).await;
    // The existing properties were written before protections were configured.
    let before = TestServer::builder().database(s.database.clone()).start().await;
    let image = before.admin().post("/v2/images", &with(&NAMES)).await.expect(201).json();
    let image = format!("/v2/images/{}", image["id"].as_str().unwrap());
    let personas = [
        (s.admin(), glance.admin()),
        (s.member("admins"), glance.member("admins")),
        (s.reader("admins"), glance.reader("admins")),
    ];
    let mut outcomes = Vec::new();
    for (ours, theirs) in &personas {
        let (shown, expected) =
            (ours.get(&image).await.expect(200).json(), theirs.get(&image).await.expect(200).json());
        assert_eq!(properties(&shown), properties(&expected));
        let list = image.replace("images/", "images?id=");
        let (listed, other) = (ours.get(&list).await.expect(200).json(), theirs.get(&list).await.expect(200).json());
        assert_eq!(properties(&listed["images"][0]), properties(&other["images"][0]));
        assert_eq!(properties(&listed["images"][0]), properties(&shown));
        for name in NAMES {
            let (answer, expected) = (create(ours, &[name]).await, create(theirs, &[name]).await);
            assert_eq!(answer.status, expected.status, "{name}: {}", answer.text);
            if answer.status == 201 {
                assert_eq!(properties(&answer.json()), properties(&expected.json()), "{name}");
            } else {
                assert_eq!(answer.text, expected.text, "{name}");
            }
            outcomes.push((answer.status.as_u16(), properties(&shown).join(" ")));
        }
        // The error names the first refused property.
        let (answer, expected) = (create(ours, &NAMES).await, create(theirs, &NAMES).await);
        assert_eq!(answer.status, expected.status);
        assert!(answer.status == 201 || answer.text == expected.text, "{} {}", answer.text, expected.text);
        // Each server changes an image of its own.
        let created = async || before.admin().create_image(&with(&NAMES[..12])).await;
        let (left, right) = (created().await, created().await);
        for (name, op) in NAMES.iter().flat_map(|name| ["replace", "add", "remove"].map(|op| (name, op))) {
            let change = json!([{"op": op, "path": format!("/{name}"), "value": "w"}]);
            let (answer, expected) = (patch(ours, &left, &change).await, patch(theirs, &right, &change).await);
            if expected.status == 500 {
                // Glance fails if there is a hidden property of this name.
                continue;
            }
            assert_eq!(answer.status, expected.status, "{op} {name}: {} {}", answer.text, expected.text);
            if answer.status == 200 {
                assert_eq!(properties(&answer.json()), properties(&expected.json()), "{op} {name}");
            } else {
                assert_eq!(answer.text, expected.text, "{op} {name}");
            }
        }
        // Properties reserved by the service are not subject to the file.
        create(ours, &["os_glance_secret"]).await.expect(403).says("Attribute 'os_glance_secret' is reserved.");
    }
    outcomes
}

#[tokio::test]
async fn property_protections_are_enforced_by_role() {
    let outcomes = agree(ROLES, "roles").await;
    let reads: Vec<&str> = outcomes.iter().step_by(NAMES.len()).map(|(_, reads)| reads.as_str()).collect();
    let admins = "CaseIs a_x_b x_billing_a x_first x_operator_a x_origin x_origin_b x_second";
    assert_eq!(reads, [admins, "CaseIs x_first", "CaseIs x_first"]);
    assert!(outcomes.iter().any(|(status, _)| *status == 201) && outcomes.iter().any(|(status, _)| *status == 403));
}

#[tokio::test]
async fn property_protections_are_enforced_by_policy_rule() {
    let outcomes = agree(POLICIES, "policies").await;
    let reads: Vec<&str> = outcomes.iter().step_by(NAMES.len()).map(|(_, reads)| reads.as_str()).collect();
    assert_eq!(reads[0], "admins_a all_a none_a");
    assert!(outcomes.iter().any(|(status, _)| *status == 201) && outcomes.iter().any(|(status, _)| *status == 403));
}

#[tokio::test]
async fn the_sample_protections_file_has_the_described_effect() {
    let outcomes = agree(SAMPLE, "roles").await;
    let member = &outcomes[NAMES.len()..2 * NAMES.len()];
    let status = |name: &str| member[NAMES.iter().position(|known| *known == name).unwrap()].0;
    assert_eq!(
        (status("x_billing_a"), status("x_operator_a"), status("x_origin"), status("other")),
        (403, 403, 201, 201)
    );
    assert!(member[0].1.contains("x_billing_a") && !member[0].1.contains("x_operator_a"));
}

/// Glance silently discards such a property.
#[tokio::test]
async fn a_property_that_its_creator_may_not_read_is_stored() {
    let file = "[^secret]\ncreate = member\nread = admin\nupdate = admin\ndelete = admin\n";
    let builder = TestServer::builder().file("protections.conf", file);
    let s = builder.option("DEFAULT", "property_protection_file", "protections.conf").start().await;
    let created = create(&s.member("p1"), &["secret_a"]).await.expect(201).json();
    assert_eq!(created.get("secret_a"), None);
    let image = format!("/v2/images/{}", created["id"].as_str().unwrap());
    assert_eq!(s.member("p1").get(&image).await.expect(200).json().get("secret_a"), None);
    assert_eq!(s.admin().get(&image).await.expect(200).json()["secret_a"], json!("v"));
}

/// Glance removes properties that the caller cannot see.
#[tokio::test]
async fn an_update_keeps_properties_hidden_from_the_caller() {
    let file = "[^secret]\ncreate = admin\nread = admin\nupdate = admin\ndelete = admin\n[.*]\ncreate = @\nread = @\n\
        update = @\ndelete = @\n";
    let builder = TestServer::builder().file("protections.conf", file);
    let s = builder.option("DEFAULT", "property_protection_file", "protections.conf").start().await;
    let image = s.admin().create_image(&json!({"secret_a": "v", "owner": "p1"})).await;
    let change =
        json!([{"op": "add", "path": "/open", "value": "w"}, {"op": "replace", "path": "/name", "value": "n"}]);
    let changed = patch(&s.member("p1"), &image, &change).await.expect(200).json();
    assert_eq!((changed.get("secret_a"), &changed["open"]), (None, &json!("w")));
    let change = json!([{"op": "add", "path": "/secret_b", "value": "w"}]);
    patch(&s.member("p1"), &image, &change).await.expect(403).says("Attribute 'secret_b' is reserved.");
    let change = json!([{"op": "remove", "path": "/secret_a"}]);
    patch(&s.member("p1"), &image, &change).await.expect(409).says("Property secret_a does not exist.");
    assert_eq!(s.admin().get(&image).await.expect(200).json()["secret_a"], json!("v"));
}

/// In Glance, any caller can discover a hidden value by filtering.
#[tokio::test]
async fn a_hidden_property_cannot_be_a_filter() {
    let file = "[^secret]\ncreate = member\nread = admin\nupdate = admin\ndelete = admin\n";
    let builder = TestServer::builder().file("protections.conf", file);
    let s = builder.option("DEFAULT", "property_protection_file", "protections.conf").start().await;
    s.member("p1").post("/v2/images", &json!({"secret_a": "v"})).await.expect(201);
    let found = async |client: Client, query: &str| {
        let page = client.get(&format!("/v2/images?{query}")).await.expect(200).json();
        page["images"].as_array().unwrap().len()
    };
    assert_eq!(found(s.admin(), "secret_a=v&owner=p1").await, 1);
    assert_eq!(found(s.member("p1"), "owner=p1").await, 1);
    assert_eq!(found(s.member("p1"), "secret_a=v").await, 0);
    s.member("p1").get("/v2/images?secret_a=v&marker=x").await.expect(400);
}

/// Runs a command that must fail because of the file, and returns its output.
fn fails(command: &[&str], file: Option<&str>, format: &str) -> Output {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("glance-api.conf");
    let text =
        "[DEFAULT]\nbind_port = 0\nproperty_protection_file = protections.conf\nproperty_protection_rule_format = ";
    fs::write(&config, format!("{text}{format}\n[glimpse]\nauth = fake\n")).unwrap();
    if let Some(file) = file {
        fs::write(dir.path().join("protections.conf"), file).unwrap();
    }
    program().arg("--config-file").arg(&config).args(command).current_dir(dir.path()).output().unwrap()
}

#[tokio::test]
async fn an_unusable_protections_file_is_reported_at_start() {
    let whole = "read = @\nupdate = @\ndelete = @\n";
    for (file, format, says) in [
        (None, "roles", "property protections protections.conf: No such file".to_owned()),
        (Some("[a]\ncreate = @\n"), "roles", "protections.conf:1: [a] has no option read".to_owned()),
        (
            Some(&*format!("[a(]\ncreate = @\n{whole}")),
            "roles",
            "protections.conf:1: [a(] is not a valid pattern".to_owned(),
        ),
        (Some(&*format!("[a]\ncreate = b, c\n{whole}")), "policies", "[a] create: a single policy rule".to_owned()),
        (Some(""), "rules", "property_protection_rule_format: one of roles, policies is expected".to_owned()),
    ] {
        for command in [&["serve"][..], &["config", "check"]] {
            let output = fails(command, file, format);
            let said = [output.stdout, output.stderr].concat();
            let said = String::from_utf8_lossy(&said).into_owned();
            assert!(!output.status.success() && said.contains(&says), "{command:?}: {says}: {said}");
        }
    }
}

#[tokio::test]
async fn nothing_is_protected_without_a_file() {
    let s = TestServer::start().await;
    let image = s.member("p1").create_image(&with(&NAMES)).await;
    assert_eq!(properties(&s.reader("p1").get(&image).await.expect(200).json()).len(), NAMES.len());
}
