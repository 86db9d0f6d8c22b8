//! Tests of the Identity API that a standalone server has for its own users.

use std::{collections::BTreeMap, fmt::Write as _, fs, time::Duration};

use serde_json::{Value, json};

use crate::support::{Answer, Client, Keystone, ServerBuilder, TestServer, eventually, mode};

/// The users: name, project, role. The password of each is `pass for NAME`.
const USERS: [(&str, &str, &str); 4] = [
    ("admin", "admin", "admin"),
    ("member1", "p1", "member"),
    ("member2", "p2", "member"),
    ("auditor", "p1", "service"),
];

/// A standalone server with the users admin, member1 on p1, member2 on p2, and auditor on p1.
pub(crate) fn standalone() -> ServerBuilder {
    let mut file = String::new();
    for (name, project, role) in USERS {
        let hash = bcrypt::hash(password_of(name), 4).unwrap();
        write!(file, "[users.{name}]\nproject = '{project}'\nroles = ['{role}']\npassword_hash = '{hash}'\n").unwrap();
    }
    TestServer::builder().option("glimpse", "auth", "standalone").file("data/identity.toml", &file)
}

pub(crate) fn password_of(user: &str) -> String {
    format!("pass for {user}")
}

/// The `identity` object of a login with a password.
fn by_password(user: &str, password: &str) -> Value {
    let user = json!({"name": user, "password": password, "domain": {"id": "default"}});
    json!({"methods": ["password"], "password": {"user": user}})
}

/// The `identity` object of a login with a token.
fn by_token(token: &str) -> Value {
    json!({"methods": ["token"], "token": {"id": token}})
}

async fn log_in(s: &TestServer, auth: Value) -> Answer {
    s.anonymous().post("/v3/auth/tokens", &json!({ "auth": auth })).await
}

/// The token of an answer.
fn token(answer: Answer) -> String {
    answer.expect(201).header("x-subject-token").to_owned()
}

/// A token of a user for its project.
async fn token_of(s: &TestServer, user: &str) -> String {
    token(log_in(s, json!({"identity": by_password(user, &password_of(user))})).await)
}

async fn unscoped_token_of(s: &TestServer, user: &str) -> String {
    token(log_in(s, json!({"identity": by_password(user, &password_of(user)), "scope": "unscoped"})).await)
}

/// Asks about a token, as its holder does.
async fn describe(s: &TestServer, token: &str) -> Answer {
    let client = s.client(Some(token));
    client.send(client.request("GET", "/v3/auth/tokens").header("X-Subject-Token", token)).await
}

async fn revoke(s: &TestServer, caller: &str, token: &str) -> Answer {
    let client = s.client(Some(caller));
    client.send(client.request("DELETE", "/v3/auth/tokens").header("X-Subject-Token", token)).await
}

fn identity(s: &TestServer, arguments: &[&str]) {
    let mut command = s.command(&["--data-dir"]);
    let done = command.arg(s.data_dir()).arg("identity").args(arguments).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

#[tokio::test]
async fn a_password_gives_a_token_that_image_calls_accept() {
    let s = standalone().start().await;
    let answer = log_in(&s, json!({"identity": by_password("member1", "pass for member1")})).await.expect(201);
    assert_eq!((answer.header("vary"), answer.header("cache-control")), ("X-Auth-Token", "no-store"));
    let body = answer.json()["token"].clone();
    let domain = json!({"id": "default", "name": "Default"});
    assert_eq!(body["project"], json!({"domain": domain, "id": "p1", "name": "p1"}));
    assert_eq!((&body["user"]["id"], &body["user"]["domain"]), (&json!("member1"), &domain));
    assert_eq!(body["roles"], json!([{"id": "member", "name": "member"}, {"id": "reader", "name": "reader"}]));
    let seconds = |name: &str| chrono::DateTime::parse_from_rfc3339(body[name].as_str().unwrap()).unwrap().timestamp();
    assert_eq!(seconds("expires_at") - seconds("issued_at"), 3600);
    let urls: Vec<_> =
        body["catalog"].as_array().unwrap().iter().map(|service| &service["endpoints"][0]["url"]).collect();
    assert_eq!(urls, [&json!(format!("{}/v3", s.base)), &json!(s.base)]);
    let token = token(answer);
    let member = s.client(Some(&token));
    let image = member.create_image(&json!({"visibility": "private"})).await;
    assert_eq!(member.get(&image).await.expect(200).json()["owner"], "p1");
    s.client(Some(&token_of(&s, "member2").await)).get(&image).await.expect(404);
    s.client(Some(&token_of(&s, "admin").await)).get(&image).await.expect(200);
    // A user has one project, and may name it in each of Keystone's ways.
    for scope in [
        json!({"project": {"id": "p1"}}),
        json!({"project": {"name": "p1", "domain": {"id": "default"}}}),
        json!({"project": {"name": "p1", "domain": {"name": "Default"}}}),
        json!(null),
    ] {
        for user in [json!({"id": "member1"}), json!({"name": "member1", "domain": {"name": "default"}})] {
            let mut identity = json!({"methods": ["password"], "password": {"user": user}});
            identity["password"]["user"]["password"] = "pass for member1".into();
            let answer = log_in(&s, json!({"identity": identity, "scope": scope})).await.expect(201);
            assert_eq!(answer.json()["token"]["project"]["id"], "p1");
        }
    }
    // HTTP Basic and static tokens still work.
    let basic = s.anonymous().request("GET", &image).basic_auth("member1", Some("pass for member1"));
    s.anonymous().send(basic).await.expect(200);
}

/// A question to both servers: the caller, the method, the path, and the body.
struct Question(&'static str, &'static str, &'static str, Value);

/// What both servers must have in common: all of an error, and of a success the names of the members and the types of the values.
fn comparable(answer: &Answer, base: &str) -> Value {
    let text = |name: &str| answer.headers.get(name).map(|value| value.to_str().unwrap().replace(base, "BASE"));
    let body: Value = serde_json::from_str(&answer.text).unwrap_or(json!(answer.text));
    let body = if answer.status.is_success() { shape(&body) } else { body };
    json!({
        "status": answer.status.as_u16(),
        "type": text("content-type"),
        "vary": text("vary"),
        "challenge": text("www-authenticate"),
        "token": text("x-subject-token").is_some(),
        "body": body,
    })
}

/// The shape of a value: of a list, that of its first element.
fn shape(value: &Value) -> Value {
    match value {
        Value::Object(object) => object.iter().map(|(name, value)| (name.clone(), shape(value))).collect(),
        Value::Array(list) => list.iter().take(1).map(shape).collect(),
        Value::String(_) => json!("text"),
        Value::Number(_) => json!("number"),
        other => other.clone(),
    }
}

#[tokio::test]
async fn answers_are_those_of_a_keystone() {
    let keystone = Keystone::start().await;
    let s = standalone().start().await;
    let keystone_base = keystone.url().trim_end_matches("/v3").to_owned();
    let password = |user: &str, password: &str| by_password(user, password);
    let domain = json!({"id": "default"});
    let get = |caller, path| Question(caller, "GET", path, Value::Null);
    let post = |auth: Value| Question("", "POST", "/v3/auth/tokens", json!({ "auth": auth }));
    let with_scope = |scope: Value| post(json!({"identity": password("member1", "PASSWORD"), "scope": scope}));
    let mut questions = vec![
        get("", "/v3"),
        get("", "/v3/"),
        get("", "/v3/auth/tokens"),
        get("", "/v3/users/member1"),
        get("wrong", "/v3/auth/projects"),
        Question("", "PUT", "/v3/auth/tokens", Value::Null),
        Question("", "POST", "/v3/auth/tokens", json!({})),
        Question("", "POST", "/v3/auth/tokens", json!([])),
        post(json!({"identity": password("member1", "PASSWORD")})),
        post(json!({"identity": password("member1", "wrong")})),
        post(json!({"identity": password("nobody", "wrong")})),
        post(json!({"identity": password("", "")})),
        post(json!({"identity": {"methods": []}})),
        post(json!({"identity": {"methods": ["token"]}})),
        post(
            json!({"identity": {"methods": ["token", "password"], "password": {"user": {"id": "x", "password": "x"}}}}),
        ),
        post(
            json!({"identity": {"methods": ["password"], "password": {"user": {"name": "member1", "password": "PASSWORD"}}}}),
        ),
        post(json!({"identity": by_token("TOKEN")})),
        post(json!({"identity": by_token("TOKEN"), "scope": "unscoped"})),
        post(json!({"identity": by_token("UNSCOPED"), "scope": {"project": {"name": "p1", "domain": domain}}})),
        with_scope(json!("unscoped")),
        with_scope(json!({})),
        with_scope(json!({"project": {"name": "p1"}})),
        with_scope(json!({"project": {"name": "p1", "domain": domain}})),
        with_scope(json!({"project": {"name": "p2", "domain": domain}})),
        with_scope(json!({"project": {"name": "nosuch", "domain": domain}})),
        with_scope(json!({"project": {"id": "nosuch"}})),
        with_scope(json!({"domain": domain})),
        with_scope(json!({"system": {"all": true}})),
        Question("member1", "DELETE", "/v3/auth/tokens", Value::Null),
        Question("member1", "GET", "/v3/auth/tokens", json!("TOKEN")),
        Question("member1", "GET", "/v3/auth/tokens?nocatalog", json!("TOKEN")),
        Question("member1", "HEAD", "/v3/auth/tokens", json!("TOKEN")),
        Question("member1", "GET", "/v3/auth/tokens", Value::Null),
        Question("member2", "GET", "/v3/auth/tokens", json!("TOKEN")),
        Question("admin", "GET", "/v3/auth/tokens", json!("TOKEN")),
        Question("member2", "DELETE", "/v3/auth/tokens", json!("TOKEN")),
        Question("unscoped", "GET", "/v3/auth/tokens", json!("UNSCOPED")),
    ];
    for (callers, paths) in [
        (
            &["member1", "admin"][..],
            &[
                "/v3/auth/projects",
                "/v3/auth/catalog",
                "/v3/users?name=member1",
                "/v3/users?name=nosuch",
                "/v3/users/nosuch",
                "/v3/projects?name=p1",
                "/v3/projects/nosuch",
                "/v3/domains",
                "/v3/domains/nosuch",
            ][..],
        ),
        (
            &["member1", "member2", "admin", "unscoped"],
            &["/v3/users/USER", "/v3/users/USER/projects", "/v3/projects/PROJECT"],
        ),
        (&["unscoped"], &["/v3/auth/projects", "/v3/auth/catalog"]),
        (&["member1"], &["/v3/domains/default", "/v3/regions", "/v3/regions/RegionOne"]),
    ] {
        questions.extend(callers.iter().flat_map(|caller| paths.iter().map(|path| get(*caller, *path))));
    }
    questions.push(get("member1", "/v3/auth/domains"));
    questions.push(get("member1", "/v3/auth/system"));
    // The last question ends the token.
    questions.push(Question("member1", "DELETE", "/v3/auth/tokens", json!("TOKEN")));
    questions.push(get("member1", "/v3/auth/projects"));

    // What the placeholders stand for.
    let mut ours = BTreeMap::from([("PASSWORD", "pass for member1".to_owned()), ("", s.base.clone())]);
    let mut theirs = BTreeMap::from([("PASSWORD", "secret".to_owned()), ("", keystone_base.clone())]);
    for user in ["member1", "member2", "admin"] {
        ours.insert(user, token_of(&s, user).await);
        let project = USERS.iter().find(|(name, ..)| *name == user).unwrap().1;
        theirs.insert(user, keystone.token(user, project).await);
    }
    ours.insert("unscoped", unscoped_token_of(&s, "member1").await);
    theirs.insert("unscoped", keystone.unscoped_token("member1").await);
    for side in [&mut ours, &mut theirs] {
        side.insert("wrong", "wrong".to_owned());
        let (token, unscoped) = (side["member1"].clone(), side["unscoped"].clone());
        let client = Client::new(&side[""], Some(&token));
        let described = client.request("GET", "/v3/auth/tokens").header("X-Subject-Token", &token);
        let described = client.send(described).await.expect(200).json();
        side.insert("USER", described["token"]["user"]["id"].as_str().unwrap().to_owned());
        side.insert("PROJECT", described["token"]["project"]["id"].as_str().unwrap().to_owned());
        side.insert("TOKEN", token);
        side.insert("UNSCOPED", unscoped);
    }
    let mut differences = Vec::new();
    for Question(caller, method, path, body) in &questions {
        let mut answers = Vec::new();
        for side in [&ours, &theirs] {
            let fill = |text: &str| {
                let names = ["USER", "PROJECT", "UNSCOPED", "TOKEN", "PASSWORD"];
                names.iter().fold(text.to_owned(), |text, name| text.replace(name, &side[name]))
            };
            let client = Client::new(&side[""], Some(side[caller].as_str()).filter(|_| !caller.is_empty()));
            let request = client.request(method, &fill(path));
            let request = match body {
                Value::Null => request,
                Value::String(subject) => request.header("X-Subject-Token", fill(subject)),
                body => request.header("Content-Type", "application/json").body(fill(&body.to_string())),
            };
            let answer = client.send(request).await;
            let mut comparable = comparable(&answer, &side[""]);
            if *method == "HEAD" {
                comparable["length"] = answer.headers.contains_key("content-length").into();
            }
            answers.push(comparable);
        }
        if answers[0] != answers[1] {
            differences.push(format!("{caller}: {method} {path} {body}\n  {}\n  {}", answers[0], answers[1]));
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

/// The callers: none, another user, the user, a user that services have, and an admin.
const CALLERS: [&str; 5] = ["", "member2", "member1", "auditor", "admin"];

#[tokio::test]
async fn callers_see_themselves_and_admins_see_all() {
    let s = standalone().start().await;
    let subject = token_of(&s, "member1").await;
    let mut clients = Vec::new();
    for caller in CALLERS {
        clients.push(match caller {
            "" => s.anonymous(),
            user => s.client(Some(&token_of(&s, user).await)),
        });
    }
    for (path, expected) in [
        ("/v3", [200, 200, 200, 200, 200]),
        ("/v3/auth/tokens", [401, 403, 200, 200, 200]),
        ("/v3/auth/catalog", [401, 200, 200, 200, 200]),
        ("/v3/auth/projects", [401, 200, 200, 200, 200]),
        ("/v3/auth/domains", [401, 200, 200, 200, 200]),
        ("/v3/auth/system", [401, 200, 200, 200, 200]),
        ("/v3/users", [401, 403, 403, 403, 200]),
        ("/v3/users/member1", [401, 403, 200, 403, 200]),
        ("/v3/users/nosuch", [401, 403, 403, 403, 404]),
        ("/v3/users/member1/projects", [401, 403, 200, 403, 200]),
        ("/v3/projects", [401, 403, 403, 403, 200]),
        // The auditor is in this project too.
        ("/v3/projects/p1", [401, 403, 200, 200, 200]),
        ("/v3/projects/nosuch", [401, 403, 403, 403, 404]),
        ("/v3/domains", [401, 403, 403, 403, 200]),
        ("/v3/domains/default", [401, 200, 200, 200, 200]),
        ("/v3/regions", [401, 200, 200, 200, 200]),
        ("/v3/regions/RegionOne", [401, 200, 200, 200, 200]),
        ("/v3/regions/nosuch", [401, 404, 404, 404, 404]),
        ("/v3/groups", [404, 404, 404, 404, 404]),
        ("/v3/auth/tokens/x", [404, 404, 404, 404, 404]),
    ] {
        for ((caller, client), status) in CALLERS.iter().zip(&clients).zip(expected) {
            let request = client.request("GET", path).header("X-Subject-Token", &subject);
            let answer = client.send(request).await;
            assert_eq!(answer.status.as_u16(), status, "{caller}: {path}: {}", answer.text);
            if !answer.status.is_success() {
                assert_eq!(answer.json()["error"]["code"], status, "{}", answer.text);
            }
        }
    }
    let admin = clients.last().unwrap();
    let names = |body: Value, kind: &str| -> Vec<String> {
        body[kind].as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(admin.get("/v3/projects").await.json(), "projects"), ["admin", "p1", "p2"]);
    assert_eq!(names(admin.get("/v3/projects?name=p%32").await.json(), "projects"), ["p2"]);
    assert_eq!(names(admin.get("/v3/users?domain_id=x").await.json(), "users"), [""; 0]);
    assert_eq!(names(admin.get("/v3/domains?name=Default").await.json(), "domains"), ["Default"]);
    assert_eq!(names(admin.get("/v3/domains?name=x").await.json(), "domains"), [""; 0]);
    // A service may validate a token, but not revoke it.
    let auditor = token_of(&s, "auditor").await;
    revoke(&s, &auditor, &subject).await.expect(403);
    revoke(&s, &token_of(&s, "member2").await, &subject).await.expect(403);
    revoke(&s, &token_of(&s, "admin").await, &subject).await.expect(204);
    s.client(Some(&subject)).get("/v3/auth/projects").await.expect(401);
}

#[tokio::test]
async fn an_unscoped_token_gives_no_access_to_images() {
    let s = standalone().start().await;
    for user in ["member1", "admin"] {
        let unscoped = unscoped_token_of(&s, user).await;
        let client = s.client(Some(&unscoped));
        client.get("/v2/images").await.expect(403);
        client.post("/v2/images", &json!({})).await.expect(403);
        client.get("/v3/users").await.expect(403);
        let body = client.get("/v3/auth/projects").await.expect(200).json();
        let project = body["projects"][0]["id"].clone();
        let auth = json!({"identity": by_token(&unscoped), "scope": {"project": {"id": project}}});
        s.client(Some(&token(log_in(&s, auth).await))).get("/v2/images").await.expect(200);
    }
}

#[tokio::test]
async fn a_derived_token_expires_with_the_first_one() {
    let s = standalone().option("glimpse", "token_lifetime", 3).start().await;
    let first = token_of(&s, "member1").await;
    let expires = describe(&s, &first).await.expect(200).json()["token"]["expires_at"].clone();
    // Each token is derived from the one before it.
    let mut tokens = vec![first];
    for _ in 0..100 {
        let answer = log_in(&s, json!({"identity": by_token(tokens.last().unwrap())})).await;
        if answer.status != 201 {
            let _ = answer.expect(404).says("Failed to validate token");
            break;
        }
        let body = answer.json()["token"].clone();
        assert_eq!((&body["expires_at"], &body["methods"]), (&expires, &json!(["token", "password"])));
        assert_eq!(body["audit_ids"].as_array().unwrap().len(), 2);
        tokens.push(token(answer));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(tokens.len() > 2, "{tokens:?}");
    for token in &tokens {
        s.client(Some(token)).get("/v2/images").await.expect(401);
        describe(&s, token).await.expect(401);
    }
    token_of(&s, "member1").await;
}

#[tokio::test]
async fn a_token_stays_invalid_when_the_change_that_ended_it_is_undone() {
    let s = standalone().start().await;
    let token = token_of(&s, "member1").await;
    for role in ["reader", "member"] {
        identity(&s, &["set", "member1", "--role", role]);
        // Another token shows that the server has read the change.
        eventually("the role counts", || async {
            let other = token_of(&s, "member1").await;
            let description = describe(&s, &other).await.json();
            // The token ends if the change is read after the login.
            let roles = description["token"]["roles"].as_array()?;
            (roles.iter().any(|one| one["name"] == "member") == (role == "member")).then_some(())
        })
        .await;
        s.client(Some(&token)).get("/v2/images").await.expect(401);
    }
}

/// A restart keeps the tokens, because their key is a file.
#[tokio::test]
async fn tokens_are_valid_after_a_restart_until_the_user_changes() {
    let mut s = standalone().start().await;
    let key = s.data_dir().join("token.key");
    assert_eq!(mode(&key), 0o600);
    assert!(!s.log().contains(fs::read_to_string(&key).unwrap().trim()));
    let token = token_of(&s, "member1").await;
    s.kill();
    s.start_again().await;
    s.client(Some(&token)).get("/v2/images").await.expect(200);
    let other = token_of(&s, "member2").await;
    let mut token = token;
    for change in [
        &["passwd", "member1"][..],
        &["set", "member1", "--role", "reader"],
        &["set", "member1", "--project", "p3"],
        &["remove", "member1"],
    ] {
        s.client(Some(&token)).get("/v2/images").await.expect(200);
        identity(&s, change);
        eventually("the token ends", || async {
            (s.client(Some(&token)).get("/v2/images").await.status == 401).then_some(())
        })
        .await;
        describe(&s, &token).await.expect(401);
        log_in(&s, json!({"identity": by_token(&token)})).await.expect(404);
        if change[0] != "remove" {
            if change[0] == "passwd" {
                // A known password, for the next token.
                set_password(&s, "member1");
            }
            token = eventually("the new password counts", || async {
                let auth = json!({"identity": by_password("member1", &password_of("member1"))});
                let answer = log_in(&s, auth).await;
                (answer.status == 201).then(|| self::token(answer))
            })
            .await;
        }
    }
    // Nobody else's token has ended.
    s.client(Some(&other)).get("/v2/images").await.expect(200);
    // Without the key, tokens end.
    s.kill();
    fs::remove_file(&key).unwrap();
    s.start_again().await;
    s.client(Some(&other)).get("/v2/images").await.expect(401);
    token_of(&s, "member2").await;
}

/// Gives a user the password that the other functions use.
fn set_password(s: &TestServer, user: &str) {
    let mut command = s.command(&["--data-dir"]);
    command.arg(s.data_dir()).args(["identity", "passwd", user, "--password-stdin"]);
    let password = s.data_dir().join("password");
    fs::write(&password, password_of(user)).unwrap();
    let done = command.stdin(fs::File::open(&password).unwrap()).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

#[tokio::test]
async fn a_revoked_token_is_refused_and_the_users_other_tokens_are_not() {
    let s = standalone().start().await;
    let (one, two) = (token_of(&s, "member1").await, token_of(&s, "member1").await);
    let derived = token(log_in(&s, json!({"identity": by_token(&one)})).await);
    revoke(&s, &two, &one).await.expect(204);
    s.client(Some(&one)).get("/v2/images").await.expect(401);
    log_in(&s, json!({"identity": by_token(&one)})).await.expect(404);
    revoke(&s, &two, &one).await.expect(404);
    for valid in [&two, &derived] {
        s.client(Some(valid)).get("/v2/images").await.expect(200);
    }
    revoke(&s, &two, &two).await.expect(204);
    s.client(Some(&two)).get("/v2/images").await.expect(401);
}

#[tokio::test]
async fn no_other_text_is_accepted_as_a_token() {
    use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
    let s = standalone().start().await;
    let other = standalone().start().await;
    let (token, admin) = (token_of(&s, "member1").await, token_of(&s, "admin").await);
    let parts: Vec<&str> = token.split('.').collect();
    let claims = String::from_utf8(BASE64.decode(parts[1]).unwrap()).unwrap();
    let with_claims = |claims: &str| format!("{}.{}.{}", parts[0], BASE64.encode(claims), parts[2]);
    assert_eq!(with_claims(&claims), token);
    let mut wrong = vec![
        with_claims(&claims.replace("member1", "admin")),
        with_claims(&claims.replace("p1", "p2")),
        with_claims(&claims.replace("\"expires\":1", "\"expires\":9")),
        with_claims(&claims.replace("{", "{ ")),
        // The claims of one token and the MAC of another.
        format!("{}.{}", admin.rsplit_once('.').unwrap().0, parts[2]),
        format!("{}.{}", parts[0], parts[1]),
        format!("{}.{}.", parts[0], parts[1]),
        format!("{token}."),
        format!("{token}="),
        format!(".{token}"),
        format!("{}.{}.{}", parts[0], parts[2], parts[1]),
        token.replace("glimpse1", "glimpse2"),
        token.to_uppercase(),
        "glimpse1..".to_owned(),
        "glimpse1.e30.e30".to_owned(),
        ".".to_owned(),
        format!("glimpse1.{}.{}", "A".repeat(20_000), parts[2]),
        format!("glimpse1.{}.{}", BASE64.encode("[".repeat(1400)), parts[2]),
        // A token of a server with the same users and another key.
        token_of(&other, "member1").await,
    ];
    wrong.extend((0..token.len()).step_by(17).map(|at| format!("{}{}", &token[..at], &token[at + 1..])));
    for text in wrong {
        s.client(Some(&text)).get("/v2/images").await.expect(401);
        s.client(Some(&text)).get("/v3/auth/projects").await.expect(401);
        if text.len() < 10_000 {
            log_in(&s, json!({"identity": by_token(&text)})).await.expect(404);
        }
        let client = s.client(Some(&token));
        client.send(client.request("GET", "/v3/auth/tokens").header("X-Subject-Token", &text)).await.expect(404);
    }
    s.client(Some(&token)).get("/v2/images").await.expect(200);
    // Two proofs must be of one user.
    let mut both = by_password("member1", "pass for member1");
    both["methods"] = json!(["password", "token", "password"]);
    both["token"] = json!({ "id": admin });
    log_in(&s, json!({ "identity": both })).await.expect(401);
    both["token"] = json!({ "id": token });
    let answer = log_in(&s, json!({ "identity": both })).await.expect(201);
    assert_eq!(answer.json()["token"]["methods"], json!(["token", "password"]));
    // A wrong password is not made good by a valid token.
    both["password"]["user"]["password"] = "wrong".into();
    log_in(&s, json!({ "identity": both })).await.expect(401);
}

#[tokio::test]
async fn malformed_logins_are_refused() {
    let s = standalone().start().await;
    let post = |content_type: &'static str, body: String| {
        let client = s.anonymous();
        async move {
            client.send(client.request("POST", "/v3/auth/tokens").header("Content-Type", content_type).body(body)).await
        }
    };
    let json = "application/json";
    for (body, part) in [
        (String::new(), "auth in request body"),
        ("{".to_owned(), "valid JSON in request body"),
        ("7".to_owned(), "valid JSON in request body"),
        (format!("{{\"auth\": {}{}}}", "[".repeat(6000), "]".repeat(6000)), "valid JSON in request body"),
        ("{\"auth\": 1}".to_owned(), "auth in request body"),
        ("{\"auth\": {\"identity\": []}}".to_owned(), "identity in auth"),
        ("{\"auth\": {\"identity\": {\"methods\": \"password\"}}}".to_owned(), "methods in identity"),
        ("{\"auth\": {\"identity\": {\"methods\": [1]}}}".to_owned(), "strings in methods"),
    ] {
        let answer = post(json, body).await.expect(400);
        assert!(answer.text.contains(&format!("Expecting to find {part}.")), "{}", answer.text);
        assert_eq!(answer.json()["error"]["title"], "Bad Request");
    }
    let user =
        |user: Value| json!({"auth": {"identity": {"methods": ["password"], "password": {"user": user}}}}).to_string();
    for (body, part) in [
        (user(json!("member1")), "user in password"),
        (user(json!({"id": "member1"})), "password in user"),
        (user(json!({"id": "member1", "password": null})), "password in user"),
        (user(json!({"id": ["member1"], "password": "x"})), "id in user"),
        (user(json!({"password": "x"})), "id or name in user"),
        (user(json!({"id": "", "name": "", "password": "x"})), "id or name in user"),
        (user(json!({"name": "member1", "password": "x", "domain": {}})), "id or name in domain"),
        (user(json!({"name": 1, "password": "x", "domain": {"id": "default"}})), "name in user"),
    ] {
        let _ = post(json, body).await.expect(400).says(&format!("Expecting to find {part}."));
    }
    let whole = user(json!({"id": "member1", "password": "pass for member1"}));
    let _ = post("text/plain", whole.clone()).await.expect(400).says("application/json in Content-Type header");
    post("application/json; charset=utf-8", whole).await.expect(201);
    // A body that is too large is not read to its end, and not parsed.
    let _ = post(json, user(json!({"id": "member1", "password": "x".repeat(20_000)}))).await.expect(413);
    // What bcrypt cannot read is not a password.
    for password in ["x".repeat(10_000), "\0".to_owned(), "pass for member1\0".to_owned(), "ü".repeat(40)] {
        post(json, user(json!({"id": "member1", "password": password}))).await.expect(401);
    }
    for name in [":", "member1:pass", "MEMBER1", "member1 ", "\u{0}", "../member1"] {
        post(json, user(json!({"id": name, "password": "pass for member1"}))).await.expect(401);
    }
    let other = json!({"auth": {"identity": {"methods": ["application_credential"], "application_credential": {}}}});
    let answer = post(json, other.to_string()).await.expect(401).says("with an unsupported method.");
    assert_eq!(answer.json()["error"]["identity"]["methods"], json!(["password", "token"]));
    let scope =
        |scope: Value| json!({"auth": {"identity": by_password("member1", "pass for member1"), "scope": scope}});
    for wrong in [json!(1), json!("scoped"), json!([]), json!({"project": "p1"}), json!({"project": {}, "domain": {}})]
    {
        post(json, scope(wrong).to_string()).await.expect(400);
    }
    post(json, scope(json!({"OS-TRUST:trust": {"id": "x"}})).to_string()).await.expect(401);
    log_in(&s, json!({"identity": by_password("member1", "pass for member1")})).await.expect(201);
}

#[tokio::test]
async fn no_password_and_no_token_is_logged() {
    let s = standalone().environment("RUST_LOG", "trace").start().await;
    let token = token_of(&s, "member1").await;
    describe(&s, &token).await.expect(200);
    s.client(Some(&token)).get("/v2/images").await.expect(200);
    log_in(&s, json!({"identity": by_password("member2", "secret-guess")})).await.expect(401);
    log_in(&s, json!({"identity": {"methods": ["password"], "password": {"user": "secret-text"}}})).await.expect(400);
    log_in(&s, json!({"identity": by_token("glimpse1.secret-token")})).await.expect(404);
    let answer = revoke(&s, &token, &token).await.expect(204);
    s.log_of(&answer).await;
    let log = s.log();
    assert!(log.contains("token was revoked"), "{log}");
    for secret in
        [token.as_str(), token.rsplit('.').next().unwrap(), "pass for", "secret-guess", "secret-text", "secret-token"]
    {
        assert!(!log.contains(secret), "{secret} is in the log");
    }
}

#[tokio::test]
async fn the_catalog_has_the_urls_that_clients_use() {
    let urls = |answer: Answer| {
        let body = answer.expect(201).json();
        let urls = |n: usize| body["token"]["catalog"][n]["endpoints"].as_array().unwrap().clone();
        let mut urls: Vec<String> =
            urls(0).iter().chain(&urls(1)).map(|endpoint| endpoint["url"].as_str().unwrap().to_owned()).collect();
        urls.dedup();
        urls
    };
    let login = json!({"auth": {"identity": by_password("member1", "pass for member1")}});
    let s = standalone().option("oslo_middleware", "enable_proxy_headers_parsing", true).start().await;
    let proxied =
        s.anonymous().with_headers(&[("X-Forwarded-Proto", "https"), ("X-Forwarded-Host", "images.example.org")]);
    let answer = proxied.post("/v3/auth/tokens", &login).await;
    assert_eq!(urls(answer), ["https://images.example.org/v3", "https://images.example.org"]);
    let version = proxied.get("/v3").await.expect(200).json();
    assert_eq!(version["version"]["links"][0]["href"], "https://images.example.org/v3/");
    let _ = proxied.get("/v3/auth/projects").await.expect(401);
    let challenge = proxied.get("/v3/auth/projects").await;
    assert_eq!(challenge.header("www-authenticate"), "Keystone uri=\"https://images.example.org/v3\"");
    let s = standalone().option("DEFAULT", "public_endpoint", "https://example.org/image/").start().await;
    let answer = s.anonymous().post("/v3/auth/tokens", &login).await;
    assert_eq!(urls(answer), ["https://example.org/image/v3", "https://example.org/image"]);
}

/// A service that asks a Keystone about its callers' tokens can ask a standalone server.
#[tokio::test]
async fn another_service_validates_tokens_at_a_standalone_server() {
    let s = standalone().start().await;
    let url = format!("{}/v3", s.base);
    let password = password_of("auditor");
    let options = [
        ("auth_url", url.as_str()),
        ("auth_type", "password"),
        ("username", "auditor"),
        ("password", &password),
        ("user_domain_name", "Default"),
        ("project_name", "p1"),
        ("project_domain_name", "Default"),
    ];
    let builder =
        TestServer::builder().option("glimpse", "auth", "keystone").option("DEFAULT", "bind_host", "127.0.0.1");
    let builder =
        options.into_iter().fold(builder, |builder, (name, value)| builder.option("keystone_authtoken", name, value));
    let other = builder.start().await;
    let token = token_of(&s, "member2").await;
    let image = other.client(Some(&token)).create_image(&json!({})).await;
    assert_eq!(other.client(Some(&token)).get(&image).await.expect(200).json()["owner"], "p2");
    other.client(Some("glimpse1.x.y")).get("/v2/images").await.expect(401);
    let revoked = token_of(&s, "member2").await;
    revoke(&s, &revoked, &revoked).await.expect(204);
    other.client(Some(&revoked)).get("/v2/images").await.expect(401);
}

/// There, clients ask Keystone.
#[tokio::test]
async fn a_server_without_users_of_its_own_has_no_identity_api() {
    for auth in ["fake", "proxy", "none"] {
        let s = TestServer::builder().option("glimpse", "auth", auth).start().await;
        let glance = s.anonymous().get("/nosuch").await;
        for path in ["/v3", "/v3/auth/tokens"] {
            assert_eq!(s.anonymous().get(path).await.expect(300).text, glance.text);
        }
    }
}
