//! Listings have the same contents as a real Glance's on the same database, have the same order on every engine, and
//! are read from indexes.

use std::{collections::BTreeMap, fmt::Write as _};

use serde_json::Value;

use crate::support::{Answer, Client, Database, Engine, Glance, TestServer};

/// The id of the image with this letter.
fn id(letter: char) -> String {
    format!("{:08x}-0000-4000-8000-000000000000", u32::from(letter))
}

/// Images with every relevant combination of attributes: letter, name, owner, visibility, minute of creation, and more
/// columns with their values.
const IMAGES: [(char, &str, &str, &str, u32, &str); 22] = [
    (
        'a',
        "'alpha'",
        "'p1'",
        "private",
        1,
        "size = 10, min_ram = 512, min_disk = 1, disk_format = 'raw', container_format = 'bare'",
    ),
    (
        'b',
        "'Beta'",
        "'p1'",
        "shared",
        2,
        "size = 20, protected = TRUE, disk_format = 'qcow2', container_format = 'bare'",
    ),
    ('c', "'beta'", "'p1'", "public", 3, "size = 30, checksum = 'c1', status = 'queued'"),
    ('d', "'delta'", "'p1'", "community", 4, "size = 0, os_hash_algo = 'sha512', os_hash_value = 'h1'"),
    ('e', "'alpha'", "'p2'", "private", 5, "size = 10, virtual_size = 100"),
    ('f', "'fünf'", "'p2'", "shared", 6, "size = NULL, status = 'queued'"),
    ('g', "'a,b'", "'p2'", "public", 7, "size = 7, updated_at = '2021-01-01 00:00:00'"),
    ('h', "''", "'p2'", "community", 8, "size = 9, min_ram = 1024"),
    ('i', "NULL", "'p2'", "shared", 8, "size = 9, disk_format = 'raw'"),
    ('j', "'in:x'", "'p2'", "shared", 8, "status = 'deactivated'"),
    ('k', "'a\"b'", "'p3'", "shared", 9, "os_hidden = TRUE"),
    ('l', "'hidden'", "'p1'", "private", 10, "os_hidden = TRUE, size = 5"),
    ('m', "'hidden'", "'p3'", "public", 11, "os_hidden = TRUE"),
    ('n', "'nobody'", "NULL", "public", 12, "updated_at = NULL"),
    ('o', "'nobody'", "NULL", "private", 13, "size = 1"),
    ('p', "'nobody'", "NULL", "shared", 14, "size = 2"),
    ('q', "'gone'", "'p1'", "public", 15, "deleted = TRUE, deleted_at = '2020-02-01 00:00:00', status = 'deleted'"),
    ('r', "'killed'", "'p1'", "public", 16, "status = 'killed'"),
    ('s', "'same'", "'p3'", "shared", 17, "size = 4000000000"),
    ('t', "'same'", "'p3'", "private", 17, "size = 4000000000"),
    ('u', "'same'", "'p3'", "public", 17, "size = 4000000000"),
    ('v', "'x:y'", "'P1'", "private", 18, "size = 3"),
];

const TAGS: [(char, &str); 13] = [
    ('a', "x"),
    ('b', "x"),
    ('b', "y"),
    ('c', "x"),
    ('d', "X"),
    ('e', "x"),
    ('f', "x y"),
    ('g', "x"),
    ('g', "ü"),
    ('i', "x"),
    ('j', ""),
    ('k', "x"),
    ('q', "x"),
];

const PROPERTIES: [(char, &str, &str); 10] = [
    ('a', "os_distro", "debian"),
    ('b', "os_distro", "Debian"),
    ('c', "os_distro", "debian"),
    ('d', "tag2", "in:a,b"),
    ('e', "os_distro", "debian"),
    ('g', "os_distro", ""),
    ('g', "ключ", "значение"),
    ('i', "os_distro", "debian"),
    ('u', "a b", "c+d"),
    ('q', "os_distro", "debian"),
];

/// Image, member, status, and whether the row is present (and not marked as deleted).
const MEMBERS: [(char, &str, &str, bool); 12] = [
    ('b', "p2", "accepted", true),
    ('b', "p3", "pending", true),
    ('f', "p1", "accepted", true),
    ('i', "p1", "pending", true),
    ('j', "p1", "rejected", true),
    ('k', "p1", "accepted", true),
    ('s', "p1", "accepted", true),
    ('s', "p2", "accepted", false),
    ('f', "p2", "accepted", true),
    ('e', "p1", "accepted", true),
    ('p', "p1", "accepted", true),
    ('h', "p3", "accepted", true),
];

/// Starts a server whose database contains all of these images and members.
async fn server() -> TestServer {
    let s = TestServer::start().await;
    fill(&s.database).await;
    s
}

async fn fill(database: &Database) {
    let mut statements = Vec::new();
    for (letter, name, owner, visibility, minute, more) in IMAGES {
        let id = id(letter);
        let time = format!("'2020-01-01 00:{minute:02}:00.000000'");
        statements.push(format!(
            "INSERT INTO images (id, name, owner, visibility, created_at, updated_at, status, deleted, min_disk, min_ram, protected, \
             os_hidden) VALUES ('{id}', {name}, {owner}, '{visibility}', {time}, {time}, 'active', FALSE, 0, 0, FALSE, FALSE)"
        ));
        statements.push(format!("UPDATE images SET {more} WHERE id = '{id}'"));
    }
    let then = "'2020-01-01 00:00:00.000000'";
    for (letter, tag) in TAGS {
        statements.push(format!(
            "INSERT INTO image_tags (image_id, value, created_at, deleted) VALUES ('{}', '{tag}', {then}, FALSE)",
            id(letter)
        ));
    }
    // A row that a Glance marked as deleted.
    statements.push(format!(
        "INSERT INTO image_tags (image_id, value, created_at, deleted_at, deleted) VALUES ('{}', 'y', {then}, {then}, TRUE)",
        id('a')
    ));
    for (letter, name, value) in PROPERTIES {
        statements.push(format!(
            "INSERT INTO image_properties (image_id, name, value, created_at, deleted) VALUES ('{}', '{name}', '{value}', {then}, FALSE)",
            id(letter)
        ));
    }
    for (letter, member, status, is_there) in MEMBERS {
        let (deleted, deleted_at) = if is_there { ("FALSE", "NULL") } else { ("TRUE", then) };
        statements.push(format!(
            "INSERT INTO image_members (image_id, member, can_share, status, created_at, deleted, deleted_at) \
             VALUES ('{}', '{member}', FALSE, '{status}', {then}, {deleted}, {deleted_at})",
            id(letter)
        ));
    }
    for statement in statements {
        database.execute(&statement).await;
    }
}

/// The letters of the listed images, in order.
#[track_caller]
fn letters(body: &Value) -> String {
    let letter = |image: &Value| {
        let code = u32::from_str_radix(&image["id"].as_str().unwrap()[..8], 16).unwrap();
        char::from_u32(code).unwrap()
    };
    body["images"].as_array().unwrap().iter().map(letter).collect()
}

async fn listed(client: &Client, query: &str) -> String {
    letters(&client.get(&format!("/v2/images?{query}")).await.expect(200).json())
}

/// Query strings, in which `{a}` stands for the id of image a.
const QUERIES: &[&str] = &[
    "",
    "limit=1;visibility=public",
    "limit=2;;x",
    "limit=0",
    "limit=1",
    "limit=3",
    "limit=1000",
    "limit=1001",
    "limit=99999999999",
    "limit=%2B2",
    "limit=%202%20",
    "limit=1_0",
    "limit=",
    "limit=x",
    "limit=-1",
    "limit=1.5",
    "limit=999999999999999999999999999999999999999999",
    "visibility=all",
    "visibility=public",
    "visibility=private",
    "visibility=shared",
    "visibility=community",
    "visibility=",
    "visibility=nope",
    "visibility=PUBLIC",
    "visibility=public&visibility=public",
    "visibility=all&visibility=public",
    "visibility=public&visibility=private",
    "member_status=all",
    "member_status=accepted",
    "member_status=pending",
    "member_status=rejected",
    "member_status=",
    "member_status=nope",
    "member_status=all&visibility=shared",
    "member_status=pending&visibility=shared",
    "member_status=rejected&visibility=all",
    "member_status=pending&visibility=public",
    "member_status=all&os_hidden=true",
    "member_status=all&owner=p2",
    "member_status=all&tag=x",
    "member_status=all&name=alpha",
    "member_status=all&os_distro=debian",
    "member_status=all&limit=2",
    "member_status=Accepted",
    "owner=p1",
    "owner=p2",
    "owner=p3",
    "owner=P1",
    "owner=",
    "owner=nope",
    "owner=p1&visibility=private",
    "owner=p2&visibility=all",
    "owner=p2&visibility=community",
    "owner=p1&owner=p2",
    "owner=p2&member_status=pending",
    "owner=p3&visibility=shared",
    "name=alpha",
    "name=ALPHA",
    "name=beta",
    "name=Beta",
    "name=f%C3%BCnf",
    "name=funf",
    "name=",
    "name=eq:alpha",
    "name=eq:",
    "name=neq:alpha",
    "name=in:alpha,beta",
    "name=in:alpha,alpha",
    "name=in:alpha,alpha&tag=x",
    "name=in:%22a,b%22,alpha",
    "name=in:",
    "name=in:,",
    "name=in:,alpha",
    "name=in:alpha,",
    "name=in:alpha,,beta",
    "name=in:%22a",
    "name=in:a%22b%22",
    "name=in:%22a%22b",
    "name=in:%22a%5C%22b%22",
    "name=in:%22%22",
    "name=in:a,b,c,d,e,f,alpha",
    "name=a,b",
    "name=in:x",
    "name=eq:in:x",
    "name=x:y",
    "name=eq:x:y",
    "name=alpha&name=beta",
    "name=beta&name=alpha",
    "name=alpha%20",
    "name=%20alpha",
    "name=hidden&os_hidden=true",
    "name=same",
    "name=same&limit=2",
    "name=nobody",
    "name=killed",
    "name=gone",
    "name=2020-01-01T00:00:00Z",
    "name=a%22b&os_hidden=true",
    "status=active",
    "status=queued",
    "status=in:active,queued",
    "status=deleted",
    "status=killed",
    "status=nope",
    "status=",
    "status=ACTIVE",
    "status=deactivated&member_status=all",
    "status=eq:queued",
    "status=gt:queued",
    "container_format=bare",
    "container_format=in:bare,ovf",
    "container_format=",
    "disk_format=raw",
    "disk_format=in:raw,qcow2",
    "disk_format=eq:raw",
    "id={a}",
    "id={c}",
    "id={q}",
    "id={e}",
    "id=in:{a},{c},{e},{f}",
    "id=nope",
    "id=",
    "id=in:",
    "id=eq:{c}",
    "id={c}&id={g}",
    "id=lt:{c}",
    "checksum=c1",
    "checksum=",
    "checksum=C1",
    "checksum=c1&checksum=c2",
    "os_hash_value=h1",
    "os_hash_value=h1&visibility=all",
    "os_hash_algo=sha512",
    "os_hash_algo=sha512&visibility=all",
    "min_ram=512",
    "min_ram=0",
    "min_disk=1",
    "min_ram_min=1",
    "min_ram_max=512",
    "min_disk_max=0",
    "size=10",
    "size=0",
    "size_min=10",
    "size_max=10",
    "size_min=10&size_max=20",
    "size_min=x",
    "size_max=",
    "size_min=%2B10",
    "size_min=1_0",
    "size_min=-1",
    "size_min=4000000000",
    "virtual_size=100",
    "virtual_size_min=1",
    "size_min=10&size_min=30",
    "protected=true",
    "protected=false",
    "protected=True",
    "protected=",
    "protected=true&protected=false",
    "os_hidden=true",
    "os_hidden=True",
    "os_hidden=false",
    "os_hidden=",
    "os_hidden=nope",
    "os_hidden=true&visibility=all",
    "os_hidden=true&os_hidden=false",
    "tag=x",
    "tag=X",
    "tag=y",
    "tag=x&tag=y",
    "tag=x&tag=x",
    "tag=%20x%20",
    "tag=x%20y",
    "tag=%C3%BC",
    "tag=",
    "tag=nope",
    "tag=x&visibility=all",
    "tag=x&name=alpha",
    "tag=x&os_distro=debian",
    "tag=x&limit=2",
    "tag=x&visibility=private",
    "tag=x&sort=name:asc,id:asc&visibility=private",
    "os_distro=debian",
    "os_distro=Debian",
    "os_distro=",
    "os_distro=debian&os_distro=Debian",
    "tag2=in:a,b",
    "tag2=in:a,b&visibility=all",
    "%D0%BA%D0%BB%D1%8E%D1%87=%D0%B7%D0%BD%D0%B0%D1%87%D0%B5%D0%BD%D0%B8%D0%B5",
    "a%20b=c%2Bd",
    "a+b=c%2Bd",
    "a+b=c+d",
    "nope=x",
    "NAME=alpha",
    "is_public=true",
    "property-os_distro=debian",
    "os_distro",
    "os_distro=debian&limit=1",
    "created_at=2020-01-01T00:03:00Z",
    "created_at=eq:2020-01-01T00:03:00Z",
    "created_at=gt:2020-01-01T00:08:00Z",
    "created_at=gte:2020-01-01T00:08:00Z",
    "created_at=lt:2020-01-01T00:03:00Z",
    "created_at=lte:2020-01-01T00:03:00",
    "created_at=neq:2020-01-01T00:03:00Z",
    "created_at=lt:2020-01-01T01:03:00%2B01:00",
    "created_at=lt:2020-01-01",
    "created_at=gt:2020-01-01",
    "created_at=nope",
    "created_at=like:2020-01-01",
    "created_at=",
    "created_at=in:2020-01-01T00:03:00Z",
    "created_at=gt:2020-01-01%2000:08:00",
    "created_at=gt:20200101T000800Z",
    "created_at=gt:2020-01-01T00",
    "created_at=gt:2020-01",
    "created_at=gt:2020",
    "created_at=gt:202001",
    "created_at=gt:2020-1-1T0:1",
    "created_at=gt:2020-01-01T00:08:00,5%2B0000",
    "updated_at=gte:2021-01-01T00:00:00Z",
    "updated_at=lt:2020-01-01T00:03:00Z",
    "updated_at=nope:2020-01-01T00:03:00Z",
    "changes-since=2020-01-01",
    "created_at=gt:2020-01-01T00:02:00Z&created_at=lt:2020-01-01T00:03:00Z",
    "sort=created_at",
    "sort=created_at:asc",
    "sort=created_at:asc,id:desc",
    "sort=id",
    "sort=id:asc",
    "sort_key=id&sort_dir=asc",
    "sort_key=created_at",
    "sort_dir=asc",
    "sort_dir=desc",
    "sort_dir=up",
    "sort=id:up",
    "sort=nope",
    "sort=os_distro",
    "sort_key=nope",
    "sort_key=",
    "sort=",
    "sort=id:",
    "sort=id,",
    "sort=%20id%20:%20asc%20",
    "sort=id&sort_key=id",
    "sort=id&sort_dir=asc",
    "sort_key=status&sort_key=id&sort_dir=asc",
    "sort_key=status&sort_key=id&sort_dir=asc&sort_dir=desc",
    "sort_key=status&sort_dir=asc&sort_dir=desc",
    "sort=status:asc,created_at:desc",
    "sort=owner",
    "sort=updated_at:asc&updated_at=gt:2000-01-01",
    "sort=min_ram",
    "marker={c}",
    "marker={u}",
    "marker={a}",
    "marker={q}",
    "marker={e}",
    "marker={o}",
    "marker={n}",
    "marker={f}",
    "marker={i}",
    "marker={h}",
    "marker=",
    "marker=nope",
    "marker=4ca46bf1-5c61-48ff-b4f3-0ad4e5e3ba90",
    "marker={c}&limit=2",
    "marker={c}&name=beta",
    "marker={c}&name=nope",
    "marker={c}&visibility=private",
    "marker={l}",
    "marker={c}&sort=id:asc",
    "marker={c}&sort=status:asc",
    "marker={g}&sort_dir=asc",
    "marker={c}&tag=x",
    "marker={g}&tag=x&limit=1",
    "marker={u}&sort=created_at:asc,id:desc",
    "limit=2&name=~*%27()!",
    "limit=1&os_distro=debian&a=b%26c%3Dd",
    "limit=1&visibility=public&tag=x",
];

/// The reason why a response differs from Glance's on purpose, in the words of docs/differences.md.
fn intended_difference(engine: Engine, query: &str, ours: &Answer, theirs: &Answer) -> Option<&'static str> {
    if theirs.status == 500 {
        return Some("Glance's own failure");
    }
    if ours.status == 200 && theirs.status == 200 && letters(&ours.json()) == letters(&theirs.json()) {
        let names: Vec<&str> = query.split('&').filter_map(|pair| pair.split('=').next()).collect();
        if names.iter().any(|name| names.iter().filter(|other| *other == name).count() > 1) {
            return Some("links keep every parameter");
        }
    }
    if query.starts_with("marker=") && theirs.status == 403 {
        return Some("a marker that the caller may not see does not exist");
    }
    // On MySQL, Glance's queries treat P1 and p1 as equal: an image of the other project takes a position on the page,
    // and the policy removes it.
    if engine == Engine::MySql
        && ["limit=", "name=", "tag=", "owner=", "os_distro=", "checksum=", "NAME=", "status=", "tag2="]
            .iter()
            .any(|text| query.contains(text))
    {
        return Some("exact on MySQL too");
    }
    None
}

#[tokio::test]
async fn listings_match_glances() {
    let s = server().await;
    let glance = Glance::start_synced(&s.database).await;
    let clients = [
        ("admin", s.admin(), glance.admin()),
        ("p1", s.member("p1"), glance.member("p1")),
        ("p2", s.member("p2"), glance.member("p2")),
        ("reader of p3", s.reader("p3"), glance.reader("p3")),
    ];
    let mut differences = String::new();
    let mut excused = BTreeMap::<&str, u32>::new();
    let mut compared = 0;
    for template in QUERIES {
        let query = ('a'..='v')
            .fold((*template).to_owned(), |query, letter| query.replace(&format!("{{{letter}}}"), &id(letter)));
        for (who, ours, theirs) in &clients {
            let path = if query.is_empty() { "/v2/images".to_owned() } else { format!("/v2/images?{query}") };
            let (ours, theirs) = (ours.get(&path).await, theirs.get(&path).await);
            let (left, right) = (summary(&ours), summary(&theirs));
            compared += 1;
            if left == right {
                continue;
            }
            match intended_difference(s.database.engine, template, &ours, &theirs) {
                Some(reason) => *excused.entry(reason).or_default() += 1,
                None => writeln!(differences, "{template} as {who}:\n  Glimpse {left}\n  Glance  {right}").unwrap(),
            }
        }
    }
    assert!(differences.is_empty(), "of {compared}, with {excused:?}:\n{differences}");
}

/// The parts that must be the same: the status, and either the images, their order and the links, or the message.
fn summary(answer: &Answer) -> String {
    if answer.status != 200 {
        return format!("{} {}", answer.status, answer.text);
    }
    let body = answer.json();
    format!("200 {} {} {}", letters(&body), body["first"], body["next"])
}

/// On every engine, null values are sorted like the empty text and zero, and texts are sorted by code points.
#[tokio::test]
async fn images_are_sorted_the_same_way_on_every_engine() {
    let s = server().await;
    let admin = s.admin();
    let cases = [
        ("created_at:asc", "abcdefghijnopstuv"),
        ("name:asc", "hibgaecdfjnopstuv"),
        ("name:desc", "vutsponjfdceagbih"),
        ("size:asc", "dfjnopvghiaebcstu"),
        ("disk_format:asc", "cdefghjnopstuvbai"),
        ("updated_at:asc", "abcdefhijnopstuvg"),
        ("status:asc,name:asc,id:asc", "hibgaednopstuvjcf"),
        ("size:desc,id:asc", "stucbaehigvpodfjn"),
    ];
    for (sort, expected) in cases {
        assert_eq!(listed(&admin, &format!("visibility=all&sort={sort}")).await, expected, "{sort}");
    }
}

/// For any order and filter, consecutive pages make up the whole listing.
#[tokio::test]
async fn consecutive_pages_make_up_the_listing() {
    let s = server().await;
    let queries = [
        "visibility=all",
        "member_status=all",
        "tag=x",
        "name=same",
        "owner=p2",
        "name=in:alpha,beta,same",
        "os_distro=debian",
        "visibility=shared",
        "sort=name:asc",
        "sort=size:desc",
        "sort=disk_format:asc,name:desc",
        "sort=updated_at:asc",
        "sort=created_at:asc,id:desc",
        "sort=status:desc,size:asc",
        "sort_dir=asc",
        "id=in:00000061-0000-4000-8000-000000000000,\
         00000063-0000-4000-8000-000000000000,00000067-0000-4000-8000-000000000000",
    ];
    for client in [s.admin(), s.member("p1"), s.member("p2")] {
        for query in queries {
            let whole = listed(&client, &format!("{query}&limit=100")).await;
            for limit in [1, 2, 5] {
                let (mut path, mut seen) = (format!("/v2/images?{query}&limit={limit}"), String::new());
                loop {
                    let body = client.get(&path).await.expect(200).json();
                    seen += &letters(&body);
                    match body["next"].as_str() {
                        Some(next) => path = next.to_owned(),
                        None => break,
                    }
                }
                assert_eq!(seen, whole, "{query}, {limit} a page");
            }
        }
    }
}

#[tokio::test]
async fn a_caller_without_a_project_lists_public_images() {
    let s = TestServer::start().await;
    let owner = s.member("p1");
    for visibility in ["public", "community", "shared", "private"] {
        let client = if visibility == "public" { s.admin() } else { owner.clone() };
        client.create_image(&serde_json::json!({"name": visibility, "visibility": visibility})).await;
    }
    for token in ["user:none:reader", "user::reader"] {
        let nobody = s.client(Some(token));
        let names = async |query: &str| {
            let page = nobody.get(&format!("/v2/images{query}")).await.expect(200).json();
            page["images"].as_array().unwrap().iter().map(|image| image["name"].to_string()).collect::<Vec<_>>()
        };
        assert_eq!(names("").await, ["\"public\""]);
        assert_eq!(names("?visibility=community").await, ["\"community\""]);
        assert!(names("?visibility=shared").await.is_empty());
        assert!(names("?owner=p1").await.is_empty());
    }
    s.client(Some("user:none:nothing")).get("/v2/images").await.expect(403);
}

/// Images shared with a project are listed according to the status that the project has set.
#[tokio::test]
async fn shared_images_are_listed_by_member_status() {
    let s = server().await;
    let member = s.member("p1");
    let cases = [
        ("visibility=shared", "spfb"),
        ("visibility=shared&member_status=pending", "ib"),
        ("visibility=shared&member_status=rejected", "jb"),
        ("visibility=shared&member_status=all", "spjifb"),
        ("visibility=shared&owner=p2", "f"),
        ("visibility=shared&os_hidden=true", "k"),
        ("visibility=private", "a"),
        ("owner=p3", "us"),
    ];
    for (query, expected) in cases {
        assert_eq!(listed(&member, query).await, expected, "{query}");
    }
    // A membership that is marked as deleted, and a project without shared images.
    assert_eq!(listed(&s.member("p2"), "visibility=shared").await, "jifb");
    assert_eq!(listed(&s.member("p4"), "visibility=shared").await, "");
}

/// An admin may use a deleted image as a marker, because the image may be deleted during the admin's listing. Other
/// callers may not.
#[tokio::test]
async fn a_deleted_image_is_a_marker_for_admins_only() {
    let s = server().await;
    let query = format!("visibility=public&marker={}", id('q'));
    assert_eq!(listed(&s.admin(), &query).await, "ngc");
    s.member("p1").get(&format!("/v2/images?{query}")).await.expect(400).says("No image found with ID");
    // An image shared with the caller is a valid marker, regardless of its member status.
    assert_eq!(listed(&s.member("p1"), &format!("visibility=public&marker={}", id('j'))).await, "gc");
}

/// Each of these queries reads only the rows of its page.
const PAGES: [&str; 11] = [
    "",
    "tag=half",
    "tag=rare",
    "name=common",
    "name=n7",
    "owner=p1",
    "visibility=private",
    "visibility=all",
    "tag=half&tag=rare",
    "sort_dir=asc",
    "visibility=shared&member_status=all",
];

/// Inserts images; half of them have one tag, and three have another.
async fn add_images(database: &Database, count: u32) {
    let then = "'2020-01-01 00:00:00.000000'";
    let (mut images, mut tags, mut members) = (Vec::new(), Vec::new(), Vec::new());
    for n in 0..count {
        let id = format!("{n:08x}-0000-4000-8000-000000000001");
        let visibility = ["public", "community", "shared", "private", "private"][n as usize % 5];
        let owner = if n % 7 == 0 { "p1" } else { "p2" };
        let name = if n % 3 == 0 { "common".to_owned() } else { format!("n{n}") };
        // The order of creation differs from the order of the ids.
        let second = (n * 7) % count;
        let time = format!(
            "'2021-01-{:02} {:02}:{:02}:{:02}.000000'",
            1 + second / 86_400,
            second / 3_600 % 24,
            second / 60 % 60,
            second % 60
        );
        images.push(format!(
            "('{id}', '{name}', '{owner}', '{visibility}', {time}, {time}, 'active', FALSE, 0, 0, FALSE, FALSE)"
        ));
        if n % 2 == 0 {
            tags.push(format!("('{id}', 'half', {then}, FALSE)"));
        }
        if n % (count / 3) == 1 {
            tags.push(format!("('{id}', 'rare', {then}, FALSE)"));
        }
        if n % 5 == 2 && n < 100 {
            members.push(format!("('{id}', 'p1', FALSE, 'accepted', {then}, FALSE)"));
        }
    }
    let tables = [
        (
            "images (id, name, owner, visibility, created_at, updated_at, status, deleted, min_disk, min_ram, protected, os_hidden)",
            images,
        ),
        ("image_tags (image_id, value, created_at, deleted)", tags),
        ("image_members (image_id, member, can_share, status, created_at, deleted)", members),
    ];
    for (table, rows) in tables {
        for chunk in rows.chunks(500) {
            database.execute(&format!("INSERT INTO {table} VALUES {}", chunk.join(", "))).await;
        }
    }
}

/// The paths of these pages, each with and without a marker, for an admin and for a project.
async fn paths(s: &TestServer) -> Vec<(Client, String)> {
    let mut paths = Vec::new();
    for client in [s.admin(), s.member("p1")] {
        for query in PAGES {
            let first = client.get(&format!("/v2/images?{query}&limit=2")).await.expect(200).json();
            paths.push((client.clone(), format!("/v2/images?{query}")));
            if let Some(next) = first["next"].as_str() {
                paths.push((client.clone(), next.replace("limit=2&", "")));
            }
        }
    }
    paths
}

mod on_a_server {
    use super::*;
    use crate::support::eventually;

    /// The number of rows of `images` that the engine has read for the server. The engine reports it once the server's
    /// connections are closed.
    async fn rows_read(database: &Database) -> i64 {
        let (idle, count) = match database.engine {
            Engine::Postgres => (
                "SELECT COUNT(*) FROM pg_stat_activity WHERE datname = current_database() AND backend_type = 'client backend' \
                 AND pid <> pg_backend_pid()",
                "SELECT (seq_tup_read + idx_tup_fetch)::bigint FROM pg_stat_user_tables WHERE relname = 'images'",
            ),
            _ => (
                "SELECT COUNT(*) FROM information_schema.processlist WHERE db = DATABASE() AND id <> CONNECTION_ID()",
                "SELECT CAST(SUM(rows_read) AS SIGNED) FROM information_schema.table_statistics \
                 WHERE table_schema = DATABASE() AND table_name = 'images'",
            ),
        };
        eventually("the server's connections are gone", || async { (database.count(idle).await == 0).then_some(()) })
            .await;
        database.count(count).await
    }

    #[tokio::test]
    async fn a_page_reads_only_its_own_rows_of_five_thousand() {
        let mut s = TestServer::start().await;
        if s.database.engine == Engine::MySql {
            s.database.execute("SET GLOBAL userstat = 1").await;
        }
        add_images(&s.database, 5000).await;
        let analyze = match s.database.engine {
            Engine::Postgres => "ANALYZE",
            _ => "ANALYZE TABLE images, image_tags, image_members",
        };
        s.database.execute(analyze).await;
        let paths = paths(&s).await;
        s.terminate();
        s.ended().await;
        let mut before = rows_read(&s.database).await;
        for (client, path) in paths {
            // The port changes at each start.
            s.start_again().await;
            client.at(&s.base).get(&path).await.expect(200);
            s.terminate();
            s.ended().await;
            let now = rows_read(&s.database).await;
            assert!(now - before <= 500, "{path} reads {} rows of 5000", now - before);
            before = now;
        }
    }
}

mod on_sqlite {
    use sqlx::{AnyConnection, AssertSqlSafe, Row as _};

    use super::*;

    /// The plan of every statement of a request, without indentation.
    async fn plans(s: &TestServer, answer: &Answer) -> Vec<(String, Vec<String>)> {
        let mut connection = s.database.connect().await;
        let mut plans = Vec::new();
        for statement in statements(s.log_of(answer).await.iter().map(String::as_str)) {
            let plan = plan(&mut connection, &statement).await;
            plans.push((statement, plan));
        }
        plans
    }

    /// The statements in lines of a log, except BEGIN and COMMIT, which are logged without text.
    fn statements<'l>(lines: impl Iterator<Item = &'l str>) -> impl Iterator<Item = String> {
        lines.filter_map(|line| {
            let (_, rest) = line.split_once("db.statement=\"")?;
            let text = rest.replace("\\\"", "\u{1}");
            let text = text.split('"').next()?.replace('\u{1}', "\"").replace("\\n", " ");
            (!text.is_empty()).then_some(text)
        })
    }

    async fn plan(connection: &mut AnyConnection, statement: &str) -> Vec<String> {
        let explain = AssertSqlSafe(format!("EXPLAIN QUERY PLAN {statement}"));
        let rows = sqlx::query(explain).fetch_all(connection).await.unwrap();
        rows.iter().map(|row| row.get::<String, _>(3)).collect()
    }

    /// Statements must find only the rows of one image. An index on `deleted` is of no use, because nearly every row is
    /// not deleted.
    #[tokio::test]
    async fn rows_of_an_image_are_found_by_its_id() {
        let s = TestServer::builder()
            .logging_statements()
            .option("DEFAULT", "show_multiple_locations", "true")
            .option("DEFAULT", "user_storage_quota", "1GB")
            .start()
            .await;
        let (member, other, admin) = (s.member("p1"), s.member("p2"), s.admin());
        let new = serde_json::json!({
            "name": "n", "tags": ["a", "b"], "p": "v", "disk_format": "raw", "container_format": "bare",
        });
        let created = member.post("/v2/images", &new).await.expect(201);
        let image = format!("/v2/images/{}", created.json()["id"].as_str().unwrap());
        let path = |rest: &str| format!("{image}{rest}");
        let change = serde_json::json!([
            {"op": "replace", "path": "/p", "value": "w"}, {"op": "add", "path": "/q", "value": "v"},
            {"op": "replace", "path": "/tags", "value": ["b", "c"]}, {"op": "replace", "path": "/name", "value": "m"},
        ]);
        let patch = |change: &Value| {
            member
                .request("PATCH", &image)
                .header("content-type", "application/openstack-images-v2.1-json-patch")
                .body(change.to_string())
        };
        let data = |method| member.request(method, &path("/file")).header("content-type", "application/octet-stream");
        let (shared, accepted) = (serde_json::json!({"member": "p2"}), serde_json::json!({"status": "accepted"}));
        let mut answers = vec![created];
        answers.push(member.get(&image).await.expect(200));
        answers.push(member.send(member.request("PUT", &path("/tags/t"))).await.expect(204));
        answers.push(member.delete(&path("/tags/t")).await.expect(204));
        answers.push(member.send(patch(&change)).await.expect(200));
        answers.push(member.post(&path("/members"), &shared).await.expect(200));
        answers.push(other.send(other.request("PUT", &path("/members/p2")).json(&accepted)).await.expect(200));
        answers.push(other.get(&path("/members")).await.expect(200));
        answers.push(other.get(&image).await.expect(200));
        answers.push(member.delete(&path("/members/p2")).await.expect(204));
        answers.push(member.send(data("PUT").body("abc")).await.expect(204));
        answers.push(member.send(data("GET")).await.expect(200));
        answers.push(admin.send(admin.request("POST", &path("/actions/deactivate"))).await.expect(204));
        answers.push(admin.send(admin.request("POST", &path("/actions/reactivate"))).await.expect(204));
        answers.push(member.delete(&image).await.expect(204));
        for answer in &answers {
            let plans = plans(&s, answer).await;
            assert!(!plans.is_empty(), "nothing of it is in the log: {answer:?}");
            for (statement, plan) in plans {
                let is_narrow = |step: &String| !step.starts_with("SCAN image") && !step.contains("_deleted (");
                assert!(plan.iter().all(is_narrow), "{statement}: {plan:#?}");
            }
        }
    }

    /// These statements search the whole table from time to time.
    #[tokio::test]
    async fn interrupted_deletions_are_found_through_dedicated_indexes() {
        let s = TestServer::builder()
            .logging_statements()
            .without("glimpse", "heartbeat")
            .option("glimpse", "heartbeat", "0.1")
            .start()
            .await;
        let statements = crate::support::eventually("both are looked for", || {
            let log = s.log();
            let found: Vec<String> = statements(log.lines()).filter(|text| text.contains("pending_delete")).collect();
            std::future::ready((found.len() >= 2).then_some(found))
        })
        .await;
        let mut connection = s.database.connect().await;
        for (statement, index) in
            statements.iter().zip(["glimpse_images_pending_delete", "glimpse_image_locations_pending_delete"])
        {
            let plan = plan(&mut connection, statement).await;
            assert!(plan[0].contains(&format!("INDEX {index} (status=? AND deleted=?)")), "{statement}: {plan:#?}");
        }
    }

    /// SQLite reports how it reads rows, not how many. It has no statistics here, as on most installations.
    #[tokio::test]
    async fn a_page_is_read_from_indexes_in_index_order() {
        let s = TestServer::builder().logging_statements().start().await;
        add_images(&s.database, 200).await;
        for (client, path) in paths(&s).await {
            let answer = client.get(&path).await.expect(200);
            let plans = plans(&s, &answer).await;
            assert!(!plans.is_empty(), "{path}: nothing of it is in the log");
            for (statement, plan) in plans {
                let mut in_order = false;
                for step in &plan {
                    let fault = step.starts_with("SCAN image");
                    // One part of the plan is complete.
                    if step.starts_with("SCAN part") {
                        in_order = false;
                    }
                    if step.starts_with("SEARCH images ") {
                        in_order = step.contains("glimpse_images_");
                        assert!(
                            in_order || step.contains("sqlite_autoindex_images_1"),
                            "{path}: {statement}: {plan:#?}"
                        );
                    }
                    let sorts = step.starts_with("USE TEMP B-TREE FOR ORDER BY") && in_order;
                    assert!(!fault && !sorts, "{path}: {statement}: {plan:#?}");
                }
            }
        }
    }
}

/// Large images are returned in shorter pages, and none is left out.
#[tokio::test]
async fn the_size_of_a_page_in_bytes_is_limited() {
    let s = TestServer::start().await;
    let member = s.member("p1");
    let mut expected = Vec::new();
    // Each image has 6 MB, except one that is larger than a page.
    for (second, rows) in [96, 96, 272, 96, 1, 1].into_iter().enumerate() {
        let image = member.create_image(&serde_json::json!({})).await;
        let id = image.rsplit('/').next().unwrap().to_owned();
        // MySQL stores times in whole seconds, so ids would decide within one second.
        let created = format!("UPDATE images SET created_at = '2026-01-01 00:00:0{second}.000000' WHERE id = '{id}'");
        s.database.execute(&created).await;
        for part in (0..rows).collect::<Vec<_>>().chunks(68) {
            let value = "v".repeat(65_000);
            let row = |n: &i32| format!("('{id}', 'p{n}', '{value}', '2026-01-01 00:00:00', '0')");
            let rows = part.iter().map(row).collect::<Vec<_>>().join(", ");
            let columns = "image_id, name, value, created_at, deleted";
            s.database.execute(&format!("INSERT INTO image_properties ({columns}) VALUES {rows}")).await;
        }
        expected.insert(0, id);
    }
    let mut path = "/v2/images?limit=6".to_owned();
    let (mut pages, mut listed) = (0, Vec::new());
    loop {
        let page = member.get(&path).await.expect(200).json();
        let images = page["images"].as_array().unwrap();
        assert!(!images.is_empty() && images.len() < 6);
        for image in images {
            let properties = image.as_object().unwrap().keys().filter(|name| name.starts_with('p'));
            // `protected` also starts with `p`, but is not a custom property.
            assert!([1, 96, 272].contains(&(properties.count() - 1)));
            listed.push(image["id"].as_str().unwrap().to_owned());
        }
        pages += 1;
        match page["next"].as_str() {
            Some(next) => path = next.to_owned(),
            None => break,
        }
    }
    assert_eq!(listed, expected);
    assert_eq!(pages, 3);
}
