//! Tests of image members: permissions, visibility, and the same responses as Glance's.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::support::{Client, Engine, Glance, TestServer};

/// Creates a shared image of `p1`, and returns it with the path of its members.
async fn shared(s: &TestServer) -> (String, String) {
    let image = s.member("p1").create_image(&json!({"name": "n", "tags": ["t"]})).await;
    let members = format!("{image}/members");
    (image, members)
}

fn id(image: &str) -> &str {
    image.rsplit('/').next().unwrap()
}

async fn set(client: &Client, path: &str, status: &str) -> crate::support::Answer {
    client.send(client.request("PUT", path).json(&json!({ "status": status }))).await
}

/// The members that a client can see, with their status.
async fn listed(client: &Client, members: &str) -> Vec<(String, String)> {
    let body = client.get(members).await.expect(200).json();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    body["members"].as_array().unwrap().iter().map(|m| (text(&m["member_id"]), text(&m["status"]))).collect()
}

#[tokio::test]
async fn a_member_is_added_accepts_and_is_removed() {
    let s = TestServer::start().await;
    let (image, members) = shared(&s).await;
    let (owner, member) = (s.member("p1"), s.member("p2"));
    member.get(&image).await.expect(404);
    let added = owner.post(&members, &json!({"member": "p2"})).await.expect(200);
    assert_eq!(added.header("content-type"), "application/json");
    let time = added.json()["created_at"].as_str().unwrap().to_owned();
    let text = |status: &str, updated: &str| {
        format!(
            "{{\"member_id\": \"p2\", \"image_id\": \"{}\", \"status\": \"{status}\", \"created_at\": \"{time}\", \
             \"updated_at\": \"{updated}\", \"schema\": \"/v2/schemas/member\"}}",
            id(&image)
        )
    };
    assert_eq!(added.text, text("pending", &time));
    s.database.execute("UPDATE image_members SET updated_at = '2020-01-01 00:00:00'").await;
    let path = format!("{members}/p2");
    assert_eq!(member.get(&path).await.expect(200).text, text("pending", "2020-01-01T00:00:00Z"));
    let accepted = set(&member, &path, "accepted").await.expect(200);
    let updated = accepted.json()["updated_at"].as_str().unwrap().to_owned();
    assert!(updated.as_str() > "2026", "{updated}");
    assert_eq!(accepted.text, text("accepted", &updated));
    let list = format!("{{\"members\": [{}], \"schema\": \"/v2/schemas/members\"}}", text("accepted", &updated));
    assert_eq!(owner.get(&members).await.expect(200).text, list);
    assert_eq!(owner.delete(&path).await.expect(204).text, "");
    owner.delete(&path).await.expect(404);
    member.get(&image).await.expect(404);
    assert_eq!(owner.get(&members).await.text, "{\"members\": [], \"schema\": \"/v2/schemas/members\"}");
    assert_eq!(s.database.count("SELECT COUNT(*) FROM image_members").await, 0);
    // The member can be added again.
    owner.post(&members, &json!({"member": "p2"})).await.expect(200);
    assert_eq!(listed(&owner, &members).await, [("p2".to_owned(), "pending".to_owned())]);
}

/// A member of any status may see the image, and is not allowed to change it.
#[tokio::test]
async fn a_member_sees_the_image_and_cannot_change_it() {
    let s = TestServer::start().await;
    let (image, members) = shared(&s).await;
    let member = s.member("p2");
    s.member("p1").post(&members, &json!({"member": "p2"})).await.expect(200);
    for status in ["pending", "accepted", "rejected"] {
        set(&member, &format!("{members}/p2"), status).await.expect(200);
        for client in [&member, &s.reader("p2")] {
            assert_eq!(client.get(&image).await.expect(200).json()["name"], "n", "{status}");
        }
        s.member("p3").get(&image).await.expect(404);
        s.member("P2").get(&image).await.expect(404);
        member.put(&format!("{image}/tags/x")).await.expect(403).says("modify_image");
        member.delete(&format!("{image}/tags/t")).await.expect(403).says("modify_image");
        member.delete(&image).await.expect(403).says("delete_image");
        let patch = member.request("PATCH", &image).body("[{\"op\": \"add\", \"path\": \"/name\", \"value\": \"x\"}]");
        let patch = patch.header("Content-Type", "application/openstack-images-v2.1-json-patch");
        member.send(patch).await.expect(403).says("modify_image");
        s.member("p3").delete(&image).await.expect(404);
        s.member("p3").put(&format!("{image}/tags/x")).await.expect(404);
        // A visible image is a valid marker.
        member.get(&format!("/v2/images?marker={}", id(&image))).await.expect(200);
        s.member("p3").get(&format!("/v2/images?marker={}", id(&image))).await.expect(400);
    }
}

#[tokio::test]
async fn members_do_not_see_each_other() {
    let s = TestServer::start().await;
    let (_, members) = shared(&s).await;
    for project in ["p2", "p3", "p4"] {
        s.member("p1").post(&members, &json!({ "member": project })).await.expect(200);
    }
    for client in [s.member("p1"), s.reader("p1"), s.admin()] {
        let all: Vec<String> = listed(&client, &members).await.into_iter().map(|(member, _)| member).collect();
        assert_eq!(all, ["p2", "p3", "p4"]);
    }
    for project in ["p2", "p3"] {
        assert_eq!(listed(&s.member(project), &members).await, [(project.to_owned(), "pending".to_owned())]);
    }
    s.member("p2").get(&format!("{members}/p3")).await.expect(404).says("p3 not found in the member list");
    set(&s.member("p2"), &format!("{members}/p3"), "accepted").await.expect(404).says("p3 not found");
    s.member("p2").delete(&format!("{members}/p3")).await.expect(404).says("p3 not found");
    assert!(listed(&s.admin(), &members).await.iter().all(|(_, status)| status == "pending"));
}

#[tokio::test]
async fn only_shared_images_have_members() {
    let s = TestServer::start().await;
    for visibility in ["private", "community", "public"] {
        let image = s.admin().create_image(&json!({"visibility": visibility, "owner": "p1"})).await;
        let (members, id) = (format!("{image}/members"), id(&image));
        for client in [s.member("p1"), s.admin()] {
            let says = format!("Not allowed to create members for image {id}.");
            client.post(&members, &json!({"member": "p2"})).await.expect(403).says(&says);
            let says = format!("Not allowed to list members for image {id}: Only shared images have members.");
            client.get(&members).await.expect(403).says(&says);
            let path = format!("{members}/p2");
            client.get(&path).await.expect(404).says("Only shared images have members.");
            let says = format!("Not allowed to update members for image {id}.");
            set(&client, &path, "accepted").await.expect(403).says(&says);
            let says = format!("Not allowed to delete members for image {id}.");
            client.delete(&path).await.expect(403).says(&says);
        }
    }
    assert_eq!(s.database.count("SELECT COUNT(*) FROM image_members").await, 0);
}

/// Memberships of an image that has been made private have no effect while it is private.
#[tokio::test]
async fn a_private_image_is_hidden_from_its_members() {
    let s = TestServer::start().await;
    let (image, members) = shared(&s).await;
    s.member("p1").post(&members, &json!({"member": "p2"})).await.expect(200);
    s.database.execute("UPDATE images SET visibility = 'private'").await;
    s.member("p2").get(&image).await.expect(404);
    s.member("p2").delete(&format!("{members}/p2")).await.expect(404).says(&format!("Image {} not found.", id(&image)));
    s.database.execute("UPDATE images SET visibility = 'shared'").await;
    s.member("p2").get(&image).await.expect(200);
}

#[tokio::test]
async fn a_member_over_the_quota_is_refused() {
    let s = TestServer::builder().option("DEFAULT", "image_member_quota", 2).start().await;
    let owner = s.member("p1");
    let (image, members) = shared(&s).await;
    let (_, others) = shared(&s).await;
    owner.post(&others, &json!({"member": "p2"})).await.expect(200);
    for project in ["p2", "p3"] {
        owner.post(&members, &json!({ "member": project })).await.expect(200);
    }
    let says = format!(
        "Image member limit exceeded for image {}: The limit has been exceeded on the number of allowed image members \
         for this image. Attempted: 3, Maximum: 2:",
        id(&image)
    );
    // As in Glance, the quota is checked before whether the member exists.
    for project in ["p4", "p3"] {
        owner.post(&members, &json!({ "member": project })).await.expect(413).says(&says);
    }
    owner.delete(&format!("{members}/p2")).await.expect(204);
    owner.post(&members, &json!({"member": "p4"})).await.expect(200);
}

#[tokio::test]
async fn a_member_quota_of_zero_refuses_and_a_negative_one_is_unlimited() {
    let s = TestServer::builder().option("DEFAULT", "image_member_quota", 0).start().await;
    let (_, members) = shared(&s).await;
    s.admin().post(&members, &json!({"member": "p2"})).await.expect(413).says("Attempted: 1, Maximum: 0:");
    let s = TestServer::builder().option("DEFAULT", "image_member_quota", -1).start().await;
    let (_, members) = shared(&s).await;
    for n in 0..130 {
        s.member("p1").post(&members, &json!({ "member": format!("m{n}") })).await.expect(200);
    }
    assert_eq!(listed(&s.member("p1"), &members).await.len(), 130);
}

/// Sends all additions concurrently, and returns their statuses, sorted.
async fn add_at_once(owner: &Client, members: &str, projects: Vec<String>) -> Vec<u16> {
    let calls = projects.into_iter().map(|project| {
        let (owner, members) = (owner.clone(), members.to_owned());
        tokio::spawn(async move { owner.post(&members, &json!({ "member": project })).await.status.as_u16() })
    });
    let mut statuses = Vec::new();
    for call in calls.collect::<Vec<_>>() {
        statuses.push(call.await.unwrap());
    }
    statuses.sort_unstable();
    statuses
}

#[tokio::test]
async fn concurrent_additions_do_not_exceed_the_member_quota() {
    let s = TestServer::builder().option("DEFAULT", "image_member_quota", 5).start().await;
    let (_, members) = shared(&s).await;
    let statuses = add_at_once(&s.member("p1"), &members, (0..20).map(|n| format!("m{n}")).collect()).await;
    assert_eq!(statuses, [[200; 5].as_slice(), &[413; 15]].concat());
    assert_eq!(listed(&s.member("p1"), &members).await.len(), 5);
}

#[tokio::test]
async fn one_of_twenty_concurrent_additions_of_a_member_succeeds() {
    let s = TestServer::start().await;
    let (image, members) = shared(&s).await;
    let owner = s.member("p1");
    let statuses = add_at_once(&owner, &members, vec!["p2".to_owned(); 20]).await;
    assert_eq!(statuses, [[200].as_slice(), &[409; 19]].concat());
    let says = format!("Member p2 is duplicated for image {}", id(&image));
    owner.post(&members, &json!({"member": "p2"})).await.expect(409).says(&says);
    assert_eq!(s.database.count("SELECT COUNT(*) FROM image_members").await, 1);
}

#[tokio::test]
async fn one_of_twenty_concurrent_removals_of_a_member_succeeds() {
    let s = TestServer::start().await;
    let (_, members) = shared(&s).await;
    let owner = s.member("p1");
    for project in ["p2", "p3"] {
        owner.post(&members, &json!({ "member": project })).await.expect(200);
    }
    let calls = (0..20).map(|_| {
        let (owner, path) = (owner.clone(), format!("{members}/p2"));
        tokio::spawn(async move { owner.delete(&path).await.status.as_u16() })
    });
    let mut statuses = Vec::new();
    for call in calls.collect::<Vec<_>>() {
        statuses.push(call.await.unwrap());
    }
    statuses.sort_unstable();
    assert_eq!(statuses, [[204].as_slice(), &[404; 19]].concat());
    assert_eq!(listed(&owner, &members).await.len(), 1);
}

/// Requests that add, accept and remove members while the image is being deleted are answered, and leave no rows.
#[tokio::test]
async fn deleting_an_image_removes_members_added_concurrently() {
    let s = TestServer::start().await;
    let (owner, member) = (s.member("p1"), s.member("p2"));
    for _ in 0..5 {
        let (image, members) = shared(&s).await;
        owner.post(&members, &json!({"member": "p2"})).await.expect(200);
        let adds = (0..10).map(|n| {
            let (owner, members) = (owner.clone(), members.clone());
            tokio::spawn(
                async move { owner.post(&members, &json!({ "member": format!("m{n}") })).await.status.as_u16() },
            )
        });
        let mut calls = adds.collect::<Vec<_>>();
        for _ in 0..3 {
            let (member, path) = (member.clone(), format!("{members}/p2"));
            calls.push(tokio::spawn(async move { set(&member, &path, "accepted").await.status.as_u16() }));
        }
        owner.delete(&image).await.expect(204);
        for call in calls {
            let status = call.await.unwrap();
            assert!([200, 404].contains(&status), "{status}");
        }
        assert_eq!(s.database.count("SELECT COUNT(*) FROM image_members").await, 0);
    }
}

#[tokio::test]
async fn member_ids_are_compared_exactly() {
    let s = TestServer::start().await;
    let owner = s.member("p1");
    let (image, members) = shared(&s).await;
    let longest = "é".repeat(255);
    let encoded_longest = "%C3%A9".repeat(255);
    let projects = [
        ("plain", "plain"),
        ("Plain", "Plain"),
        ("a%2Fb", "a/b"),
        ("a%20", "a "),
        ("a", "a"),
        ("%E6%A8%99%E7%AD%BE", "標签"),
        ("e%CC%81", "e\u{301}"),
        ("%C3%A9", "é"),
        ("50%25", "50%"),
        ("%27%3B--", "';--"),
        (encoded_longest.as_str(), longest.as_str()),
    ];
    for (path, project) in projects {
        let added = owner.post(&members, &json!({ "member": project })).await.expect(200).json();
        assert_eq!(added["member_id"], project);
        assert_eq!(owner.get(&format!("{members}/{path}")).await.expect(200).json()["member_id"], project);
        set(&s.admin(), &format!("{members}/{path}"), "rejected").await.expect(200);
    }
    let shown = listed(&owner, &members).await;
    assert_eq!(shown.len(), projects.len());
    let expected: BTreeSet<&str> = projects.iter().map(|(_, project)| *project).collect();
    assert_eq!(shown.iter().map(|(project, _)| project.as_str()).collect::<BTreeSet<_>>(), expected);
    for path in ["PLAIN", "A", "e", "%C3%89", "a%20%20"] {
        owner.get(&format!("{members}/{path}")).await.expect(404);
        owner.delete(&format!("{members}/{path}")).await.expect(404);
    }
    owner.delete(&format!("{members}/plain")).await.expect(204);
    assert_eq!(listed(&owner, &members).await.len(), projects.len() - 1);
    // All of them are removed within one second.
    owner.post(&members, &json!({"member": "plain"})).await.expect(200);
    owner.delete(&image).await.expect(204);
    assert_eq!(s.database.count("SELECT COUNT(*) FROM image_members").await, 0);
}

#[tokio::test]
async fn an_invalid_member_is_refused_with_a_reason() {
    let s = TestServer::start().await;
    let owner = s.member("p1");
    let (_, members) = shared(&s).await;
    let form = "Expected a member in the form: {&quot;member&quot;: &quot;image_id&quot;}";
    let cases = [
        (json!({"member": "x".repeat(256)}), "Member is too long, it has 255 characters at the most."),
        (json!({"member": "a\0b"}), "Member can&#x27;t contain NUL characters."),
        (json!({"member": 5}), form),
        (json!({"member": true}), form),
        (json!({"member": ["p2"]}), form),
        (json!({"member": {"p2": 1}}), form),
    ];
    for (body, says) in cases {
        owner.post(&members, &body).await.expect(400).says(says);
    }
    // There are no members with such names.
    for path in ["a%00b", "%F0%9F%98%80", &"x".repeat(256)] {
        owner.get(&format!("{members}/{path}")).await.expect(404).says("not found in the member list");
        set(&s.admin(), &format!("{members}/{path}"), "accepted").await.expect(404);
        owner.delete(&format!("{members}/{path}")).await.expect(404);
    }
    owner.get(&format!("{members}/%ff")).await.expect(400).says("not UTF-8");
    owner.post(&members, &json!({"member": "p2"})).await.expect(200);
    let malformed = owner.request("POST", &members).body("{");
    owner.send(malformed).await.expect(400).says("Malformed JSON in request body.");
    for method in ["GET", "DELETE"] {
        let answer = owner.send(owner.request(method, &format!("{members}/p2")).body("{}")).await;
        answer.expect(400).says("A body is not expected with this request.");
    }
    let answer = owner.send(owner.request("GET", &members).body("{}")).await;
    answer.expect(400).says("A body is not expected with this request.");
    owner.get(&format!("{members}/")).await.expect(404);
    assert_eq!(listed(&owner, &members).await.len(), 1);
}

/// Changes of members do not change `updated_at` of the image.
#[tokio::test]
async fn changing_members_does_not_update_the_image() {
    let s = TestServer::start().await;
    let (image, members) = shared(&s).await;
    s.database.execute("UPDATE images SET updated_at = '2020-01-01 00:00:00'").await;
    s.member("p1").post(&members, &json!({"member": "p2"})).await.expect(200);
    set(&s.member("p2"), &format!("{members}/p2"), "accepted").await.expect(200);
    s.member("p1").delete(&format!("{members}/p2")).await.expect(204);
    assert_eq!(s.member("p1").get(&image).await.json()["updated_at"], "2020-01-01T00:00:00Z");
}

/// A row that Glance marked as deleted is not a member, and does not prevent adding one. A row that Glance revived
/// still has its time of deletion.
#[tokio::test]
async fn a_member_removed_by_glance_is_not_listed() {
    let s = TestServer::start().await;
    let (image, members) = shared(&s).await;
    let owner = s.member("p1");
    owner.post(&members, &json!({"member": "p2"})).await.expect(200);
    let deleted = if s.database.engine == Engine::Postgres { "TRUE" } else { "1" };
    s.database.execute(&format!("UPDATE image_members SET deleted = {deleted}, deleted_at = created_at")).await;
    s.member("p2").get(&image).await.expect(404);
    owner.get(&format!("{members}/p2")).await.expect(404);
    owner.delete(&format!("{members}/p2")).await.expect(404);
    assert_eq!(listed(&owner, &members).await, []);
    owner.post(&members, &json!({"member": "p2"})).await.expect(200);
    s.member("p2").get(&image).await.expect(200);
    owner.delete(&format!("{members}/p2")).await.expect(204);
    s.member("p2").get(&image).await.expect(404);
    owner.post(&members, &json!({"member": "p3"})).await.expect(200);
    s.database.execute("UPDATE image_members SET deleted_at = '2020-01-01 00:00:00' WHERE member = 'p3'").await;
    s.member("p3").get(&image).await.expect(200);
    owner.delete(&image).await.expect(204);
}

/// One of the two servers, for which clients with any identity can be created.
enum Side<'s> {
    Ours(&'s TestServer),
    Theirs(&'s Glance),
}

impl Side<'_> {
    fn client(&self, project: &str, roles: &str) -> Client {
        match self {
            Self::Ours(server) => server.client(Some(&format!("user:{project}:{roles}"))),
            Self::Theirs(glance) => glance.client("user", project, roles),
        }
    }
}

/// A response without the parts that depend on the image or the time.
fn comparable(answer: &crate::support::Answer, image: &str) -> (u16, String) {
    let mut text = answer.text.replace(id(image), "{image}");
    for name in ["created_at", "updated_at"] {
        let start = format!("\"{name}\": \"");
        let parts: Vec<String> = text
            .split(&start)
            .enumerate()
            // A time has twenty characters.
            .map(|(n, part)| if n == 0 { part.to_owned() } else { format!("{{time}}{}", &part[20..]) })
            .collect();
        text = parts.join(&start);
    }
    (answer.status.as_u16(), text)
}

/// The callers: project and roles.
const PERSONAS: [(&str, &str); 8] = [
    ("p1", "member,reader"),
    ("p1", "reader"),
    ("p1", "member"),
    ("p2", "member,reader"),
    ("p2", "reader"),
    ("p3", "member,reader"),
    ("p2", ""),
    ("admins", "admin,member,reader"),
];

/// The requests. `p2` is the member whose status varies, `p4` is always a member, and `p5` never.
const OPERATIONS: &[(&str, &str, &str)] = &[
    ("GET", "", ""),
    ("GET", "/members", ""),
    ("GET", "/members/p2", ""),
    ("GET", "/members/p4", ""),
    ("GET", "/members/p5", ""),
    ("POST", "/members", "{\"member\": \"p5\"}"),
    ("POST", "/members", "{\"member\": \"p2\"}"),
    ("PUT", "/members/p2", "{\"status\": \"accepted\"}"),
    ("PUT", "/members/p2", "{\"status\": \"pending\"}"),
    ("PUT", "/members/p2", "{\"status\": \"odd\"}"),
    ("PUT", "/members/p4", "{\"status\": \"rejected\"}"),
    ("PUT", "/members/p5", "{\"status\": \"accepted\"}"),
    ("DELETE", "/members/p5", ""),
    ("DELETE", "/members/p2", ""),
    ("PUT", "/tags/x", ""),
    ("DELETE", "/tags/nope", ""),
    ("DELETE", "", ""),
];

/// Restores the state of the image before each operation.
async fn restore(server: &TestServer, image: &str, (visibility, owner, status): Case) {
    let id = id(image);
    let alive = "deleted = '0', deleted_at = NULL, status = 'queued'";
    let mut statements = vec![
        format!("UPDATE images SET {alive}, owner = {owner}, visibility = '{visibility}' WHERE id = '{id}'"),
        format!("DELETE FROM image_members WHERE image_id = '{id}'"),
        format!("DELETE FROM image_tags WHERE image_id = '{id}'"),
    ];
    for (member, status) in [("p2", status), ("p4", "accepted")] {
        if !status.is_empty() {
            let values = format!("'{id}', '{member}', '0', '2026-01-01 00:00:00', '0', '{status}'");
            let columns = "image_id, member, can_share, created_at, deleted, status";
            statements.push(format!("INSERT INTO image_members ({columns}) VALUES ({values})"));
        }
    }
    server.database.execute_all(&statements).await;
}

/// An image's visibility, its owner as an SQL literal, and the status of `p2`, or an empty string if `p2` is not a
/// member.
type Case = (&'static str, &'static str, &'static str);

/// Sends every operation on these images to both servers, as each of these personas (indexes into the list above).
async fn compare(cases: &[Case], personas: &[usize]) {
    let s = TestServer::start().await;
    let glance = Glance::start_synced(&s.database).await;
    let sides = [Side::Ours(&s), Side::Theirs(&glance)];
    let image = s.member("p1").create_image(&json!({})).await;
    let mut different = Vec::new();
    for case in cases {
        restore(&s, &image, *case).await;
        for (project, roles) in personas.iter().map(|place| PERSONAS[*place]) {
            for (method, path, body) in OPERATIONS {
                let mut answers = Vec::new();
                for side in &sides {
                    let client = side.client(project, roles);
                    let request = client.request(method, &format!("{image}{path}"));
                    let request = if body.is_empty() { request } else { request.body(*body) };
                    let answer = client.send(request.header("Accept", "application/json")).await;
                    let (status, mut text) = comparable(&answer, &image);
                    // Responses that show an image are compared in other tests.
                    if (*method, *path, status) == ("GET", "", 200) {
                        text.clear();
                    }
                    let mut left = BTreeSet::new();
                    if *method != "GET" && status < 300 {
                        let rows = "SELECT member, status FROM image_members WHERE NOT deleted";
                        left.extend(s.database.pairs(rows).await);
                        restore(&s, &image, *case).await;
                    }
                    answers.push((status, text, left));
                }
                if answers[0] != answers[1] {
                    let what = format!("{case:?} {project} {roles}: {method} {path} {body}");
                    different.push(format!("{what}\n  ours:   {:?}\n  Glance: {:?}", answers[0], answers[1]));
                }
            }
        }
    }
    assert!(different.is_empty(), "{}", different.join("\n"));
}

#[tokio::test]
async fn every_caller_is_answered_as_in_glance_about_a_shared_image() {
    compare(&[("shared", "'p1'", "pending")], &[0, 1, 2, 3, 4, 5, 6, 7]).await;
}

#[tokio::test]
async fn members_of_every_status_are_answered_as_in_glance() {
    compare(&[("shared", "'p1'", ""), ("shared", "'p1'", "accepted"), ("shared", "'p1'", "rejected")], &[0, 3, 7])
        .await;
}

#[tokio::test]
async fn every_caller_is_answered_as_in_glance_about_an_image_that_cannot_be_shared() {
    let cases = [("private", "'p1'", "accepted"), ("community", "'p1'", "accepted"), ("public", "'p1'", "accepted")];
    compare(&cases, &[0, 3, 7]).await;
}

#[tokio::test]
async fn every_caller_is_answered_as_in_glance_about_a_shared_image_without_owner() {
    compare(&[("shared", "NULL", ""), ("shared", "NULL", "pending")], &[3, 5, 7]).await;
}

#[tokio::test]
async fn unusual_bodies_are_refused_as_in_glance() {
    let s = TestServer::start().await;
    let glance = Glance::start_synced(&s.database).await;
    let image = s.member("p1").create_image(&json!({})).await;
    s.member("p1").post(&format!("{image}/members"), &json!({"member": "p2"})).await.expect(200);
    let requests: &[(&str, &str, &[&str])] = &[
        (
            "POST",
            "/members",
            &[
                "",
                "[]",
                "[\"p3\"]",
                "{}",
                "5",
                "null",
                "\"p3\"",
                "{\"members\": \"p3\"}",
                "{\"member\": \"\"}",
                "{\"member\": null}",
                "{\"member\": false}",
                "{\"member\": 0}",
                "{\"member\": 0.0}",
                "{\"member\": []}",
                "{\"member\": {}}",
                "{\"member\": \"p2\"}",
                "{\"member\": \"\u{1f600}\"}",
            ],
        ),
        (
            "PUT",
            "/members/p2",
            &[
                "",
                "[]",
                "[\"accepted\"]",
                "{}",
                "5",
                "null",
                "\"accepted\"",
                "{\"state\": \"accepted\"}",
                "{\"status\": \"\"}",
                "{\"status\": null}",
                "{\"status\": 5}",
                "{\"status\": [\"accepted\"]}",
                "{\"status\": {}}",
                "{\"status\": \"Accepted\"}",
                "{\"status\": \"accepted \"}",
                "{\"status\": \"accepted\", \"member\": \"p9\", \"x\": 1}",
            ],
        ),
    ];
    for (method, path, bodies) in requests {
        for body in *bodies {
            let mut answers = Vec::new();
            for side in [Side::Ours(&s), Side::Theirs(&glance)] {
                let client = side.client("admins", "admin,member,reader");
                let request = client.request(method, &format!("{image}{path}")).body(*body);
                answers.push(comparable(&client.send(request).await, &image));
            }
            assert_eq!(answers[0], answers[1], "{method} {path} {body}");
        }
    }
    assert_eq!(s.database.count("SELECT COUNT(*) FROM image_members").await, 1);
}

/// Glimpse and Glance on one database.
#[tokio::test]
async fn glimpse_and_glance_show_members_added_by_each_other() {
    let s = TestServer::start().await;
    let glance = Glance::start_synced(&s.database).await;
    let (ours, theirs) = (Side::Ours(&s), Side::Theirs(&glance));
    let removed = format!("DELETE FROM image_members WHERE deleted = {}", s.database.truth());
    for (writer, reader) in [(&ours, &theirs), (&theirs, &ours)] {
        let roles = "member,reader";
        let image = writer.client("p1", roles).create_image(&json!({})).await;
        let members = format!("{image}/members");
        // Each program repeatedly removes and adds the members that the other one added.
        for _ in 0..2 {
            for (one, other) in [(writer, reader), (reader, writer)] {
                one.client("p1", roles).post(&members, &json!({"member": "p2"})).await.expect(200);
                other.client("p1", roles).post(&members, &json!({"member": "p2"})).await.expect(409);
                set(&other.client("p2", roles), &format!("{members}/p2"), "accepted").await.expect(200);
                let (left, right) = (one.client("p2", roles), other.client("p2", roles));
                assert_eq!(left.get(&members).await.expect(200).text, right.get(&members).await.expect(200).text);
                other.client("p1", roles).delete(&format!("{members}/p2")).await.expect(204);
                one.client("p2", roles).get(&image).await.expect(404);
                // On MariaDB, Glance answers 500 if it removes the same member twice within one second.
                s.database.execute(&removed).await;
            }
        }
        reader.client("p1", roles).post(&members, &json!({"member": "p2"})).await.expect(200);
        writer.client("p1", roles).delete(&image).await.expect(204);
    }
}

/// The old default rules allow every caller, but the check that the caller owns the image still applies.
#[tokio::test]
async fn only_the_owner_manages_members_under_the_old_policy_defaults() {
    let s = TestServer::builder().option("oslo_policy", "enforce_new_defaults", false).start().await;
    let (owner, member, other) = (s.member("p1"), s.member("p2"), s.member("p3"));
    let image = owner.create_image(&json!({})).await;
    let members = format!("{image}/members");
    owner.post(&members, &json!({"member": "p2"})).await.expect(200);
    member.post(&members, &json!({"member": "p3"})).await.expect(403).says("Not allowed to create members");
    other.post(&members, &json!({"member": "p3"})).await.expect(404);
    let p2 = format!("{members}/p2");
    let accept = |client: &Client| client.request("PUT", &p2).json(&json!({"status": "accepted"}));
    owner.send(accept(&owner)).await.expect(403).says("Not allowed to update members");
    member.send(accept(&member)).await.expect(200);
    member.delete(&p2).await.expect(403).says("Not allowed to delete members");
    owner.delete(&p2).await.expect(204);
}
